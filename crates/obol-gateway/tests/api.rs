//! `/api/v1` over real connections: the door, pages, events, and services paid for on the embedded ledger.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use obol_cell::{Asset, Stroops};
use obol_gateway::v1::types::{
    Balances, Bin, Budgets, BudgetsWanted, ByClass, Direction, Escrow, EscrowState, Limit, Payment, PaymentOutcome,
    Peer, Role, Standing, Status, Tor,
};
use obol_gateway::{Backend, BoxFuture, Gateway, History, Options, Records, Refused, Subject, Wallet};
use obol_ledger::{Closing, Ledger, LedgerConfig};
use obol_stellar::outbox::Outbox;
use obol_stellar::rail::horizon::{Horizon, Timeouts};
use obol_stellar::settle::Policy;
use obol_stellar::{Keypair, MemoryOutbox, Network, Rail, Settler, Tcp};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

// ---- a program to show

struct Program {
    escrows: Vec<Escrow>,
    budgets: Mutex<Option<Budgets>>,
    wallet: Option<Wallet>,
    history: Arc<History>,
}

fn escrow(n: u64, direction: Direction, state: EscrowState) -> Escrow {
    Escrow {
        escrow: format!("G{n:055}"),
        direction,
        peer: None,
        deposit: 1_000,
        balance: 900,
        cumulative: 100,
        k: n,
        allocated: 90,
        state,
        settled: None,
        expiry: 1_800_000_000 + n / 2,
        opened_at: None,
    }
}

impl Subject for Program {
    fn role(&self) -> Role {
        Role::Relay
    }
    fn status(&self) -> Status {
        Status {
            role: Role::Relay,
            version: "0".to_owned(),
            started_at: 1,
            now: 2,
            state: Standing::Paying,
            explanation: "Circuits are paid for.".to_owned(),
            nickname: Some("guard".to_owned()),
            fingerprint: None,
            asset: None,
            network_passphrase: None,
            account: None,
            ledger: None,
            tor: Tor::default(),
            carried: ByClass { paid: 10, unpaid: 5 },
            circuits: ByClass::default(),
            links: 1,
        }
    }
    fn balances(&self) -> BoxFuture<Balances> {
        Box::pin(async { Balances::default() })
    }
    fn escrows(&self) -> Vec<Escrow> {
        self.escrows.clone()
    }
    fn peers(&self) -> Vec<Peer> {
        Vec::new()
    }
    fn limits(&self) -> Vec<Limit> {
        Vec::new()
    }
    fn budgets(&self) -> Option<Budgets> {
        *self.budgets.lock().unwrap()
    }
    fn set_budgets(&self, wanted: BudgetsWanted) -> Result<(), Refused> {
        let mut budgets = self.budgets.lock().unwrap();
        let before = budgets.unwrap_or_default();
        *budgets = Some(Budgets {
            circuit: wanted.circuit,
            day: wanted.day,
            month: wanted.month,
            total: wanted.total,
            ..before
        });
        Ok(())
    }
    fn flush(&self, escrow: Option<String>) -> BoxFuture<Result<Vec<String>, Refused>> {
        let all: Vec<String> = self.escrows.iter().map(|known| known.escrow.clone()).collect();
        Box::pin(async move {
            match escrow {
                None => Ok(all),
                Some(one) if all.contains(&one) => Ok(vec![one]),
                Some(_) => Err(Refused::Unknown("no such escrow".to_owned())),
            }
        })
    }
    fn wallet(&self) -> Option<Wallet> {
        self.wallet.clone()
    }
    fn history(&self) -> Arc<History> {
        Arc::clone(&self.history)
    }
}

struct Shown {
    gateway: Gateway,
    program: Arc<Program>,
    token: String,
}

async fn show(directory: &Path, wallet: Option<Wallet>) -> Shown {
    let records = Arc::new(Records::open(&directory.join("records.sqlite")).unwrap());
    let states = [EscrowState::Open, EscrowState::Settled];
    let escrows = (1..=7).map(|n| {
        let direction = if n % 3 == 0 { Direction::Out } else { Direction::In };
        escrow(n, direction, states[n as usize % 2])
    });
    let program = Arc::new(Program {
        escrows: escrows.collect(),
        budgets: Mutex::new(None),
        wallet,
        history: Arc::new(History::new(records, 30)),
    });
    let options = Options {
        listen: "127.0.0.1:0".parse().unwrap(),
        allow_remote: false,
        token: directory.join("token"),
    };
    let backend = Backend {
        metrics: Arc::new(String::new),
        state: Arc::new(|| json!({})),
        control: None,
        subject: Some(Arc::clone(&program) as Arc<dyn Subject>),
    };
    let gateway = Gateway::start(options, backend).await.unwrap();
    let token = std::fs::read_to_string(directory.join("token")).unwrap();
    Shown {
        gateway,
        program,
        token: token.trim().to_owned(),
    }
}

/// An answer's status, head and body.
struct Said {
    status: u16,
    head: String,
    body: Value,
}

async fn say(address: SocketAddr, request: String) -> Said {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    Said {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        head: head.to_ascii_lowercase(),
        body: serde_json::from_str(body).unwrap_or(Value::Null),
    }
}

impl Shown {
    fn head(&self, method: &str, path: &str) -> String {
        let address = self.gateway.address();
        format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\nConnection: close\r\n",
            self.token
        )
    }

    async fn get(&self, path: &str) -> Said {
        say(self.gateway.address(), self.head("GET", path) + "\r\n").await
    }

    async fn send(&self, method: &str, path: &str, key: Option<&str>, body: &Value) -> Said {
        let body = body.to_string();
        let key = key.map(|key| format!("Idempotency-Key: {key}\r\n")).unwrap_or_default();
        let head = self.head(method, path);
        let request = format!(
            "{head}{key}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        say(self.gateway.address(), request).await
    }

    /// Waits until a record is as it should be.
    async fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let said = self.get(path).await;
            if wanted(&said.body) {
                return said.body;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

// ---- the door

#[tokio::test]
async fn every_path_of_the_document_needs_the_token_and_errors_are_problem_documents() {
    let directory = tempfile::tempdir().unwrap();
    let shown = show(directory.path(), None).await;
    let address = shown.gateway.address();
    let open = say(
        address,
        format!("GET /api/v1/openapi.json HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"),
    )
    .await;
    assert_eq!(open.status, 200, "the document is for everybody");
    let paths = open.body["paths"].as_object().unwrap();
    assert!(paths.len() > 15);
    for (path, methods) in paths {
        for method in methods.as_object().unwrap().keys() {
            let path = path.replace("{escrow}", "GX").replace("{id}", "inv-1");
            let request = format!(
                "{} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n",
                method.to_uppercase()
            );
            let said = say(address, request).await;
            assert_eq!(said.status, 401, "{method} {path}");
            assert!(said.head.contains("application/problem+json"), "{}", said.head);
            assert_eq!(said.body["type"], "/problems/unauthorized");
        }
    }
    for (path, status) in [
        ("/api/v1/nothing", 404),
        ("/api/v1/escrows?limit=0", 400),
        ("/api/v1/escrows?limit=x", 400),
        ("/api/v1/escrows?state=lost", 400),
        ("/api/v1/escrows/GX", 404),
        ("/api/v1/history?bin=7", 422),
        ("/api/v1/history?bin=60&from=0&to=9000000", 422),
        ("/api/v1/payments?cursor=x", 422),
        ("/api/v1/tunnels", 404),
        ("/api/v1/invoices", 404),
        ("/api/v1/budgets", 404),
    ] {
        let said = shown.get(path).await;
        assert_eq!(
            (said.status, said.body["status"].as_u64()),
            (status, Some(u64::from(status))),
            "{path}"
        );
        assert!(said.body["detail"].as_str().is_some_and(|detail| !detail.is_empty()));
    }
    assert_eq!(
        say(address, shown.head("DELETE", "/api/v1/status") + "\r\n")
            .await
            .status,
        405
    );
    let by_name = format!(
        "GET /api/v1/status HTTP/1.1\r\nHost: example.org\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\r\n",
        shown.token
    );
    assert_eq!(say(address, by_name).await.status, 403);
}

#[tokio::test]
async fn escrows_come_page_by_page_by_direction_and_state() {
    let directory = tempfile::tempdir().unwrap();
    let shown = show(directory.path(), None).await;
    let mut path = "/api/v1/escrows?limit=3&order=asc".to_owned();
    let mut numbers = Vec::new();
    loop {
        let page = shown.get(&path).await.body;
        numbers.extend(
            page["records"]
                .as_array()
                .unwrap()
                .iter()
                .map(|escrow| escrow["k"].as_u64().unwrap()),
        );
        match page["next"].as_str() {
            Some(next) => path = format!("/api/v1/escrows?limit=3&order=asc&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6, 7]);
    let some = shown.get("/api/v1/escrows?direction=out&state=settled").await.body;
    assert_eq!(some["records"].as_array().unwrap().len(), 1);
    let claims = shown.get("/api/v1/claims?direction=in&limit=200").await.body;
    let states = claims["records"]
        .as_array()
        .unwrap()
        .iter()
        .map(|claim| claim["state"].as_str().unwrap());
    assert_eq!(states.filter(|state| *state == "held").count(), 2);
    let one = shown
        .get(&format!("/api/v1/escrows/{}", shown.program.escrows[0].escrow))
        .await;
    assert_eq!(one.body["k"], 1);
}

#[tokio::test]
async fn settings_are_set_whole_and_nonsense_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let shown = show(directory.path(), None).await;
    *shown.program.budgets.lock().unwrap() = Some(Budgets {
        spent_day: 7,
        ..Budgets::default()
    });
    let set = shown
        .send("PUT", "/api/v1/budgets", None, &json!({ "day": 500, "month": null }))
        .await;
    assert_eq!(
        (set.status, &set.body["day"], &set.body["spent_day"]),
        (200, &json!(500), &json!(7))
    );
    for wrong in [
        json!({ "day": -1 }),
        json!({ "week": 3 }),
        json!({ "day": "much" }),
        json!([]),
    ] {
        assert_eq!(
            shown.send("PUT", "/api/v1/budgets", None, &wrong).await.status,
            400,
            "{wrong}"
        );
    }
    assert_eq!(shown.get("/api/v1/budgets").await.body["day"], 500);
    let flush = shown.send("POST", "/api/v1/flush", None, &json!({})).await;
    assert_eq!(
        (flush.status, flush.body["flushing"].as_array().unwrap().len()),
        (202, 7)
    );
    assert_eq!(
        shown
            .send("POST", "/api/v1/flush", None, &json!({ "escrow": "GX" }))
            .await
            .status,
        404
    );
}

// ---- events

#[tokio::test]
async fn a_reader_that_comes_back_gets_what_it_missed() {
    let directory = tempfile::tempdir().unwrap();
    let shown = show(directory.path(), None).await;
    let payment = |n| Payment {
        id: 0,
        at: 0,
        circuit: 3,
        n,
        bytes: 65_536,
        total: 30,
        earned: Some(10),
        forwarded: Some(20),
        amounts: None,
        millis: None,
        outcome: PaymentOutcome::Complete,
        code: None,
    };
    let read = async |after: Option<u64>, count: usize| {
        let mut stream = TcpStream::connect(shown.gateway.address()).await.unwrap();
        let after = after.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
        let request = format!("{}{after}\r\n", shown.head("GET", "/api/v1/events"));
        stream.write_all(request.as_bytes()).await.unwrap();
        let (mut lines, mut seen) = (BufReader::new(stream).lines(), Vec::new());
        let (mut name, mut id) = (String::new(), None);
        if after.is_empty() {
            // The first status says that it listens.
            while lines.next_line().await.unwrap().unwrap() != "event: status" {}
            shown.program.history.paying(payment(1));
            shown.program.history.paying(payment(2));
        }
        while seen.len() < count {
            let line = lines.next_line().await.unwrap().unwrap();
            if let Some(text) = line.strip_prefix("event: ") {
                name = text.to_owned();
            } else if let Some(text) = line.strip_prefix("id: ") {
                id = text.parse::<u64>().ok();
            } else if let Some(data) = line.strip_prefix("data: ").filter(|_| name == "payment") {
                let data: Value = serde_json::from_str(data).unwrap();
                seen.push((id.unwrap(), data["n"].as_u64().unwrap()));
            }
        }
        seen
    };
    assert_eq!(read(None, 2).await, [(1, 1), (2, 2)]);
    shown.program.history.paying(payment(3));
    assert_eq!(read(Some(1), 2).await, [(2, 2), (3, 3)]);
    let all = shown.get("/api/v1/payments?order=asc").await.body;
    assert_eq!(all["records"].as_array().unwrap().len(), 3);
    shown.program.history.add(
        Some("aa"),
        &Bin {
            earned: 9,
            ..Bin::default()
        },
    );
    let sum = |body: &Value| {
        body["bins"]
            .as_array()
            .unwrap()
            .iter()
            .map(|bin| bin["earned"].as_i64().unwrap())
            .sum::<i64>()
    };
    for query in ["bin=60", "bin=3600", "bin=86400", "peer=aa"] {
        assert_eq!(
            sum(&shown.get(&format!("/api/v1/history?{query}")).await.body),
            9,
            "{query}"
        );
    }
    assert_eq!(sum(&shown.get("/api/v1/history?peer=bb").await.body), 0);
}

// ---- services

struct Town {
    ledger: Arc<Ledger>,
    _server: obol_ledger::server::ServerHandle,
    rail: Arc<dyn Rail>,
    network: Network,
    asset: Asset,
}

impl Town {
    /// A ledger with an asset of which account 2 has a million and account 3 a line to it.
    async fn new() -> Town {
        let config = LedgerConfig {
            closing: Closing::OnDemand,
            submission_timeout: Duration::from_millis(200),
            ..LedgerConfig::default()
        };
        let ledger = Arc::new(Ledger::open(config).unwrap());
        let server = obol_ledger::server::serve(Arc::clone(&ledger), "127.0.0.1:0".parse().unwrap())
            .await
            .unwrap();
        let network = Network::new(ledger.passphrase());
        let horizon = Horizon::new(&server.url(), network.clone(), Arc::new(Tcp), Timeouts::default()).unwrap();
        let rail: Arc<dyn Rail> = Arc::new(horizon);
        let asset = obol_stellar::asset::asset("OBOL", key(1).account()).unwrap();
        let town = Town {
            ledger,
            _server: server,
            rail,
            network,
            asset,
        };
        for n in 1..=3 {
            town.rail.friendbot(key(n).account()).await.unwrap();
        }
        let wealth = Stroops::new(1_000_000).unwrap();
        let issuer = town.wallet(1).settler;
        issuer.create_asset(&key(1), &key(2), asset, wealth).await.unwrap();
        issuer.trust(&key(3), asset).await.unwrap();
        town
    }

    fn wallet(&self, n: u8) -> Wallet {
        let policy = Policy {
            poll: Duration::from_millis(5),
            patience: Duration::from_millis(500),
            ..Policy::default()
        };
        let outbox: Arc<dyn Outbox> = Arc::new(MemoryOutbox::new());
        Wallet {
            settler: Settler::new(Arc::clone(&self.rail), outbox, self.network.clone(), policy),
            account: key(n),
            asset: self.asset,
        }
    }

    async fn has(&self, n: u8) -> i64 {
        let state = self.rail.account(key(n).account()).await.unwrap().unwrap();
        state.line(&self.asset).unwrap().holding.balance.get()
    }
}

fn key(n: u8) -> Keypair {
    Keypair::from_seed(&[n; 32])
}

#[tokio::test]
async fn an_invoice_is_paid_by_another_wallet_once_and_validated_on_the_ledger() {
    let town = Town::new().await;
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let payee = show(here.path(), Some(town.wallet(3))).await;
    let payer = show(there.path(), Some(town.wallet(2))).await;

    let wanted = json!({ "amount": 12_345, "message": "A month of hosting" });
    let invoice = payee.send("POST", "/api/v1/invoices", Some("month-1"), &wanted).await;
    assert_eq!(invoice.status, 201, "{}", invoice.body);
    let again = payee
        .send("POST", "/api/v1/invoices", Some("month-1"), &wanted)
        .await
        .body;
    assert_eq!(again, invoice.body, "the same key is the same invoice");
    let other = payee
        .send("POST", "/api/v1/invoices", Some("month-1"), &json!({ "amount": 5 }))
        .await;
    assert_eq!(other.status, 422);
    let (id, uri) = (
        invoice.body["id"].as_str().unwrap(),
        invoice.body["uri"].as_str().unwrap(),
    );
    assert!(uri.starts_with("web+stellar:pay?") && invoice.body["qr_svg"].as_str().unwrap().starts_with("<svg"));
    let check = format!("/api/v1/invoices/{id}/check");
    assert_eq!(payee.send("POST", &check, None, &json!({})).await.body["state"], "open");

    // Twice at once, and once more later: one payment.
    let request = json!({ "uri": uri });
    let pay = || payer.send("POST", "/api/v1/transfers", Some("hosting"), &request);
    let (one, two) = tokio::join!(pay(), pay());
    assert_eq!((one.status, two.status), (202, 202), "{} {}", one.body, two.body);
    assert_eq!(one.body["id"], two.body["id"]);
    let path = format!("/api/v1/transfers/{}", one.body["id"].as_str().unwrap());
    let sent = payer.until(&path, |transfer| transfer["state"] == "confirmed").await;
    assert_eq!(pay().await.body["transaction"], sent["transaction"]);
    assert_eq!(town.has(3).await, 12_345);

    let paid = payee.send("POST", &check, None, &json!({})).await.body;
    assert_eq!(
        (&paid["state"], &paid["received"]),
        (&json!("paid"), &json!(12_345)),
        "{paid}"
    );
    assert_eq!(paid["transactions"], json!([sent["transaction"]]));
    let named = payee
        .send("POST", &check, None, &json!({ "transaction": sent["transaction"] }))
        .await
        .body;
    assert_eq!(named["received"], 12_345, "it counts once");
    let next = payee
        .send("POST", "/api/v1/invoices", None, &json!({ "amount": 1 }))
        .await
        .body;
    let of_next = format!("/api/v1/invoices/{}/check", next["id"].as_str().unwrap());
    let claimed = payee
        .send("POST", &of_next, None, &json!({ "transaction": sent["transaction"] }))
        .await
        .body;
    assert_eq!(claimed["state"], "open", "another invoice's payment pays none but that");
}

#[tokio::test]
async fn what_cannot_be_paid_is_refused_or_fails_in_words_and_moves_nothing() {
    let town = Town::new().await;
    let directory = tempfile::tempdir().unwrap();
    let payer = show(directory.path(), Some(town.wallet(2))).await;
    let nobody = obol_stellar::key::account_text(&key(9).account());
    let foreign = "web+stellar:pay?destination=GDRXE2BQUC3AZNPVFSCEZ76NJ3WWL25FYFK6RGZGIEKWE4SOOHSUJUJ6&amount=1";
    for (status, wrong) in [
        (422, json!({ "uri": "https://example.org" })),
        (422, json!({ "uri": foreign })),
        (422, json!({ "destination": "G", "amount": 5 })),
        (400, json!({ "destination": nobody, "amount": 0 })),
        (400, json!({ "destination": nobody, "amount": 5.5 })),
        (
            422,
            json!({ "destination": nobody, "amount": 5, "memo": "x".repeat(29) }),
        ),
        (400, json!({})),
    ] {
        let said = payer.send("POST", "/api/v1/transfers", None, &wrong).await;
        assert_eq!(said.status, status, "{wrong}: {}", said.body);
    }
    let body = json!({ "destination": nobody, "amount": 5 });
    let asked = payer.send("POST", "/api/v1/transfers", Some("one"), &body).await.body;
    let path = format!("/api/v1/transfers/{}", asked["id"].as_str().unwrap());
    let failed = payer.until(&path, |transfer| transfer["state"] != "pending").await;
    assert_eq!(failed["state"], "failed");
    assert!(
        failed["detail"].as_str().unwrap().contains("not on the ledger"),
        "{failed}"
    );
    assert_eq!(town.has(2).await, 1_000_000);
    assert_eq!(
        payer.get("/api/v1/transfers").await.body["records"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn a_transfer_that_was_recorded_before_a_restart_is_made_after_it() {
    let town = Town::new().await;
    let directory = tempfile::tempdir().unwrap();
    // Recorded, and the program died.
    {
        let records = Records::open(&directory.path().join("records.sqlite")).unwrap();
        drop(records);
        let db = rusqlite::Connection::open(directory.path().join("records.sqlite")).unwrap();
        let to = obol_stellar::key::account_text(&key(3).account());
        let body = json!({ "destination": to, "amount": 77, "memo": "none" }).to_string();
        db.execute(
            "INSERT INTO transfers (key, asked, reference, created_at, body) VALUES ('k', 'a', ?1, 5, ?2)",
            rusqlite::params![[7u8; 32], body],
        )
        .unwrap();
    }
    let payer = show(directory.path(), Some(town.wallet(2))).await;
    payer
        .until("/api/v1/transfers/tra-1", |transfer| transfer["state"] == "confirmed")
        .await;
    assert_eq!(town.has(3).await, 77);
    let ledgers = town.ledger.latest().sequence;
    payer.gateway.stop().await;
    let again = show(directory.path(), Some(town.wallet(2))).await;
    assert_eq!(again.get("/api/v1/transfers/tra-1").await.body["state"], "confirmed");
    assert_eq!(town.ledger.latest().sequence, ledgers, "and not again");
}
