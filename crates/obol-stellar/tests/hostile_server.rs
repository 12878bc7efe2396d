//! A ledger server that answers with anything: a rail gives an error, never panics, and never reads on without end.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use obol_stellar::rail::connect::ByteStream;
use obol_stellar::rail::horizon::{Horizon, Timeouts};
use obol_stellar::rail::rpc::Rpc;
use obol_stellar::rail::{BadReply, FriendbotError, RailError, SubmitError, Unreachable};
use obol_stellar::tx::{Op, SignedTx, Tx, TxHash, Validity};
use obol_stellar::{Connect, Keypair, Network, Rail as _, Tcp};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Answers every connection's first request with these bytes, then closes it.
async fn server(answer: Vec<u8>) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut request = vec![0; 64 * 1024];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(&answer).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    address
}

fn http(status: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn rail_with(address: &str, connector: Arc<dyn Connect>, timeouts: Timeouts) -> Horizon {
    Horizon::new(address, Network::testnet(), connector, timeouts).unwrap()
}

async fn rail(answer: Vec<u8>) -> Horizon {
    let address = server(answer).await;
    rail_with(&format!("http://{address}"), Arc::new(Tcp), Timeouts::default())
}

fn transaction() -> SignedTx {
    let key = Keypair::from_seed(&[1; 32]);
    let pay = Op::PayLumens {
        to: Keypair::from_seed(&[2; 32]).account(),
        amount: obol_cell::Stroops::new(1).unwrap(),
    };
    Tx::new(key.account(), 1, 100, Validity::default(), [(None, pay)])
        .unwrap()
        .sign(Network::testnet().id(), &[&key])
        .unwrap()
}

#[tokio::test]
async fn an_answer_without_end_is_cut_off() {
    let long = "x".repeat(2 * 1024 * 1024);
    let rail = rail(http("200 OK", &format!("{{\"network_passphrase\":\"{long}\"}}"))).await;
    assert_eq!(rail.check_network().await, Err(RailError::BadReply(BadReply::TooLong)));
    let head = format!("HTTP/1.1 200 OK\r\nx: {long}\r\n\r\n");
    let rail = self::rail(head.into_bytes()).await;
    assert!(rail.latest_ledger().await.is_err());
}

#[tokio::test]
async fn a_server_that_says_nothing_is_left_after_the_time_out() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let soon = Timeouts {
        connect: Duration::from_millis(500),
        ask: Duration::from_millis(50),
        submit: Duration::from_millis(50),
    };
    let rail = rail_with(&address, Arc::new(Tcp), soon);
    let timed_out = RailError::Unreachable(Unreachable::TimedOut);
    assert_eq!(rail.latest_ledger().await, Err(timed_out.clone()));
    let submitted = rail.submit(&transaction()).await;
    assert_eq!(submitted, Err(SubmitError::Unknown { cause: timed_out }));
}

#[tokio::test]
async fn whether_a_submission_may_have_arrived_is_told_apart() {
    let unused = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let nobody = rail_with(&format!("http://{unused}"), Arc::new(Tcp), Timeouts::default());
    let refused = nobody.submit(&transaction()).await;
    assert!(
        matches!(
            &refused,
            Err(SubmitError::NotSent(RailError::Unreachable(Unreachable::Connect(_))))
        ),
        "{refused:?}"
    );
    for answer in [
        Vec::new(),
        b"HTTP/1.1 2".to_vec(),
        b"what?".to_vec(),
        http("504 Gateway Timeout", "{}"),
        http("200 OK", "{}"),
        http("400 Bad Request", "<html>"),
        http("302 Found", ""),
    ] {
        let shown = String::from_utf8_lossy(&answer).into_owned();
        let submitted = rail(answer).await.submit(&transaction()).await;
        assert!(
            matches!(&submitted, Err(SubmitError::Unknown { .. })),
            "{shown}: {submitted:?}"
        );
    }
    // A success for another transaction is none for this.
    let record = format!(
        r#"{{"hash":"{}","ledger":5,"successful":true,"fee_charged":"100"}}"#,
        TxHash([7; 32])
    );
    let submitted = rail(http("200 OK", &record)).await.submit(&transaction()).await;
    assert!(matches!(submitted, Err(SubmitError::Unknown { .. })));
}

#[tokio::test]
async fn a_rejection_has_the_ledgers_codes_and_nothing_else() {
    let problem = r#"{"status":400,"extras":{"result_codes":{"transaction":"tx_fee_bump_inner_failed",
        "inner_transaction":"tx_failed","operations":["op_success","op_NO <script>"]}}}"#;
    let submitted = rail(http("400 Bad Request", problem))
        .await
        .submit(&transaction())
        .await;
    let Err(SubmitError::Rejected { codes }) = submitted else {
        panic!("{submitted:?}")
    };
    assert!(codes.is("tx_failed") && codes.is("tx_fee_bump_inner_failed"));
    assert_eq!(codes.to_string(), "tx_fee_bump_inner_failed / tx_failed op_success ?");
}

#[tokio::test]
async fn busy_absent_and_refused_are_told_apart() {
    let busy = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 17\r\ncontent-length: 0\r\n\r\n".to_vec();
    assert_eq!(
        rail(busy).await.latest_ledger().await,
        Err(RailError::Busy { retry_after: Some(17) })
    );
    let down = rail(http("503 Service Unavailable", "")).await;
    assert_eq!(down.latest_ledger().await, Err(RailError::Busy { retry_after: None }));
    let broken = rail(http("500 Internal Server Error", "")).await;
    assert_eq!(broken.latest_ledger().await, Err(RailError::Refused { status: 500 }));
    let absent = rail(http("404 Not Found", "{}")).await;
    assert_eq!(absent.transaction(TxHash([1; 32])).await, Ok(None));
    assert_eq!(absent.latest_ledger().await, Err(RailError::Refused { status: 404 }));
    let account = Keypair::from_seed(&[1; 32]).account();
    assert_eq!(absent.account(account).await, Ok(None));
    assert_eq!(absent.friendbot(account).await, Err(FriendbotError::None));
}

#[tokio::test]
async fn an_https_server_without_a_certificate_of_the_web_is_not_talked_to() {
    let address = server(http("200 OK", "{}")).await;
    let rail = rail_with(&format!("https://{address}"), Arc::new(Tcp), Timeouts::default());
    assert_eq!(
        rail.check_network().await,
        Err(RailError::Unreachable(Unreachable::Tls))
    );
}

/// Dials one address, whatever is asked for, and remembers what was.
struct Elsewhere {
    address: SocketAddr,
    asked: Mutex<Vec<(String, u16)>>,
}

#[async_trait]
impl Connect for Elsewhere {
    async fn connect(&self, host: &str, port: u16) -> io::Result<Box<dyn ByteStream>> {
        self.asked.lock().unwrap().push((host.to_owned(), port));
        Ok(Box::new(tokio::net::TcpStream::connect(self.address).await?))
    }
}

#[tokio::test]
async fn every_connection_goes_through_the_connector_with_the_name_unresolved() {
    let passphrase = Network::testnet().passphrase().to_owned();
    let address = server(http("200 OK", &format!(r#"{{"network_passphrase":"{passphrase}"}}"#))).await;
    let elsewhere = Arc::new(Elsewhere {
        address,
        asked: Mutex::default(),
    });
    for (url, host, port) in [
        ("http://ledger.example", "ledger.example", 80),
        ("http://ledger.example:8000/path/", "ledger.example", 8000),
        ("http://[2001:db8::1]:81", "2001:db8::1", 81),
        ("http://abcdefghij.onion", "abcdefghij.onion", 80),
    ] {
        let rail = rail_with(url, Arc::clone(&elsewhere) as Arc<dyn Connect>, Timeouts::default());
        rail.check_network().await.unwrap();
        assert_eq!(elsewhere.asked.lock().unwrap().pop(), Some((host.to_owned(), port)));
    }
}

#[test]
fn what_is_not_the_url_of_a_server_is_refused() {
    for url in [
        "",
        "horizon.stellar.org",
        "ftp://horizon.stellar.org",
        "http://",
        "http://user:password@horizon.stellar.org",
        "http://horizon.stellar.org/?a=b",
        "http://horizon.stellar.org:99999",
        "http:///accounts",
        "http://a b",
    ] {
        let rail = Horizon::new(url, Network::testnet(), Arc::new(Tcp), Timeouts::default());
        assert!(rail.is_err(), "{url}");
    }
}

/// An account as Horizon gives it, with a field replaced.
fn account(field: &str, value: &str) -> String {
    let address = obol_stellar::key::account_text(&Keypair::from_seed(&[1; 32]).account());
    let mut fields: Vec<(&str, String)> = vec![
        ("account_id", format!("\"{address}\"")),
        ("sequence", "\"5\"".into()),
        ("subentry_count", "1".into()),
        (
            "thresholds",
            r#"{"low_threshold":0,"med_threshold":0,"high_threshold":0}"#.into(),
        ),
        (
            "flags",
            r#"{"auth_required":false,"auth_revocable":false,"auth_immutable":false,"auth_clawback_enabled":false}"#
                .into(),
        ),
        (
            "balances",
            format!(
                r#"[{{"balance":"1.0000000","limit":"5.0000000","asset_type":"credit_alphanum4","asset_code":"OBOL",
                "asset_issuer":"{address}","is_authorized":true}},{{"balance":"2.0000000","asset_type":"native"}}]"#
            ),
        ),
        (
            "signers",
            format!(r#"[{{"weight":1,"key":"{address}","type":"ed25519_public_key"}}]"#),
        ),
    ];
    for (name, text) in &mut fields {
        if *name == field {
            *text = value.to_owned();
        }
    }
    let fields: Vec<String> = fields.iter().map(|(name, text)| format!("\"{name}\":{text}")).collect();
    format!("{{{}}}", fields.join(","))
}

#[tokio::test]
async fn an_account_with_a_wrong_field_is_no_account() {
    let id = Keypair::from_seed(&[1; 32]).account();
    let good = rail(http("200 OK", &account("", "")))
        .await
        .account(id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((good.sequence, good.lines.len(), good.signers.len()), (5, 1, 1));
    for (field, value) in [
        ("account_id", "\"G\""),
        ("account_id", "null"),
        ("sequence", "5"),
        ("sequence", "\"9223372036854775808\""),
        ("subentry_count", "-1"),
        (
            "thresholds",
            r#"{"low_threshold":256,"med_threshold":0,"high_threshold":0}"#,
        ),
        ("flags", "{}"),
        ("balances", "[]"),
        ("balances", r#"[{"balance":"-1","asset_type":"native"}]"#),
        (
            "balances",
            r#"[{"balance":"922337203685.4775808","asset_type":"native"}]"#,
        ),
        (
            "balances",
            r#"[{"balance":"1","asset_type":"native"},{"balance":"1","asset_type":"new"}]"#,
        ),
        (
            "balances",
            r#"[{"balance":"1","asset_type":"native"},{"balance":"1","asset_type":"credit_alphanum4"}]"#,
        ),
        ("signers", r#"[{"weight":1,"key":"X","type":"ed25519_public_key"}]"#),
    ] {
        let answer = rail(http("200 OK", &account(field, value))).await.account(id).await;
        assert!(
            matches!(answer, Err(RailError::BadReply(_))),
            "{field} {value}: {answer:?}"
        );
    }
    // Another account than the one asked for.
    let other = Keypair::from_seed(&[2; 32]).account();
    let answer = rail(http("200 OK", &account("", ""))).await.account(other).await;
    assert_eq!(answer, Err(RailError::BadReply(BadReply::Field("account_id"))));
}

/// A Stellar RPC server that answers every call with this.
async fn rpc(answer: &str) -> Rpc {
    let address = server(http("200 OK", answer)).await;
    let url = format!("http://{address}");
    Rpc::new(&url, Network::testnet(), Arc::new(Tcp), Timeouts::default()).unwrap()
}

#[tokio::test]
async fn an_rpc_server_is_taken_at_no_word_that_is_not_its_answer() {
    let id = Keypair::from_seed(&[1; 32]).account();
    let no_method = rpc(r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"method not found"}}"#).await;
    let error = RailError::Rpc { code: -32601 };
    assert_eq!(no_method.latest_ledger().await, Err(error.clone()));
    assert_eq!(no_method.account(id).await, Err(error.clone()));
    assert_eq!(no_method.fee_stats().await, Err(error.clone()));
    assert_eq!(
        no_method.submit(&transaction()).await,
        Err(SubmitError::Unknown { cause: error })
    );
    let other = rpc(r#"{"jsonrpc":"2.0","id":1,"result":{"passphrase":"another\u001b[2J"}}"#).await;
    let served = "another\\u{1b}[2J".to_owned();
    assert_eq!(other.check_network().await, Err(RailError::OtherNetwork { served }));
    let nothing = rpc(r#"{"jsonrpc":"2.0","id":1,"result":null}"#).await;
    assert_eq!(
        nothing.fee_stats().await,
        Err(RailError::BadReply(BadReply::Field("result")))
    );
    // What another transaction hashes to is not what was asked for.
    let envelope = {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(transaction().to_bytes().unwrap())
    };
    let found = |envelope: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"result":{{"status":"SUCCESS","latestLedger":9,"latestLedgerCloseTime":"90",
            "oldestLedger":2,"oldestLedgerCloseTime":20,"ledger":8,"envelopeXdr":"{envelope}",
            "resultXdr":"AAAAAAAAAGQAAAAAAAAAAQAAAAAAAAABAAAAAAAAAAA="}}}}"#
        )
    };
    let lying = rpc(&found(&envelope)).await;
    assert_eq!(
        lying.transaction(TxHash([7; 32])).await,
        Err(RailError::BadReply(BadReply::Field("envelopeXdr")))
    );
    let record = lying.transaction(transaction().hash()).await.unwrap().unwrap();
    assert_eq!(
        (record.ledger, record.successful, record.fee_charged.get()),
        (8, true, 100)
    );
    let broken = rpc(&found("AAAA")).await;
    assert!(broken.transaction(TxHash([7; 32])).await.is_err());
    // A submission that the server calls by another name.
    let renamed = r#"{"jsonrpc":"2.0","id":1,"result":{"status":"PENDING","hash":"00","latestLedger":9}}"#;
    let submitted = rpc(renamed).await.submit(&transaction()).await;
    assert!(matches!(submitted, Err(SubmitError::Unknown { .. })), "{submitted:?}");
    let entries = r#"{"jsonrpc":"2.0","id":1,"result":{"entries":[{"key":"AAAA","xdr":"AAAA"}],"latestLedger":9}}"#;
    assert_eq!(
        rpc(entries).await.account(id).await,
        Err(RailError::BadReply(BadReply::Field("entries.xdr")))
    );
    let empty = r#"{"jsonrpc":"2.0","id":1,"result":{"entries":null,"latestLedger":9}}"#;
    assert_eq!(rpc(empty).await.account(id).await, Ok(None));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_answer_makes_a_rail_panic(answer in proptest::collection::vec(any::<u8>(), 0..300), json in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let answer = if json { http("200 OK", &String::from_utf8_lossy(&answer)) } else { answer };
            let id = Keypair::from_seed(&[1; 32]).account();
            let rpc = Rpc::new(
                &format!("http://{}", server(answer.clone()).await),
                Network::testnet(),
                Arc::new(Tcp),
                Timeouts::default(),
            )
            .unwrap();
            let _ = rpc.account(id).await;
            let _ = rpc.latest_ledger().await;
            let _ = rpc.fee_stats().await;
            let _ = rpc.submit(&transaction()).await;
            let rail = rail(answer).await;
            let _ = rail.account(id).await;
            let _ = rail.latest_ledger().await;
            let _ = rail.fee_stats().await;
            let _ = rail.submit(&transaction()).await;
            let _ = rail.friendbot(id).await;
        });
    }
}
