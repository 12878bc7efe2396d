//! The server over loopback, with a small client.

#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use common::served::{Answer, Events, Served, address, exchange};
use common::{bump, bytes, key, op, op_of, options, pay, raw, signed, transaction, trust};
use ed25519_dalek::SigningKey;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use obol_ledger::{Closing, LedgerConfig, server};
use serde_json::Value;
use stellar_xdr::Asset;

#[tokio::test]
async fn every_answer_has_the_headers_that_sdks_read() {
    let served = Served::on_demand().await;
    let root = served.get("/").await;
    assert_eq!(root.headers["content-type"], "application/hal+json; charset=utf-8");
    assert_eq!(root.headers["latest-ledger"], "1");
    assert_eq!(root.headers["access-control-allow-origin"], "*");
    assert!(root.headers["date"].to_str().unwrap().ends_with(" GMT"));
    assert_eq!(root.json()["network_passphrase"], served.ledger.passphrase());
    let preflight = [
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "x-client-name"),
    ];
    let options = served.send("OPTIONS", "/transactions", &preflight, "").await;
    assert_eq!(options.status, 204);
    assert_eq!(options.headers["access-control-allow-headers"], "x-client-name");
}

#[tokio::test]
async fn bad_input_is_a_problem_and_names_the_field() {
    let served = Served::on_demand().await;
    let missing = address(&key(99));
    for path in [
        "/nowhere",
        "/ledgers/99",
        &format!("/transactions/{}", "ab".repeat(32)),
        &format!("/accounts/{missing}"),
        &format!("/accounts/{missing}/payments"),
        "/operations/5",
        "/claimable_balances/00",
    ] {
        served.get(path).await.problem(404, "not_found");
    }
    for (path, field) in [
        ("/accounts/GARBAGE", "account_id"),
        ("/accounts", "filters"),
        ("/accounts?asset=OBOL", "asset"),
        ("/accounts?asset=%FF%FE", "query"),
        ("/accounts?signer=x", "signer"),
        ("/ledgers/minus", "ledger_id"),
        ("/ledgers?limit=0", "limit"),
        ("/ledgers?limit=201", "limit"),
        ("/ledgers?order=sideways", "order"),
        ("/ledgers?cursor=-1", "cursor"),
        ("/transactions?cursor=99999999999999999999999", "cursor"),
        ("/transactions?include_failed=perhaps", "include_failed"),
        ("/operations?join=everything", "join"),
        ("/operations/0", "id"),
        ("/effects?cursor=a-b", "cursor"),
        ("/effects?cursor=--", "cursor"),
        ("/transactions/zz", "tx_id"),
        ("/friendbot?addr=nobody", "addr"),
        ("/claimable_balances?cursor=x", "cursor"),
    ] {
        let answer = served.get(path).await;
        // What is not UTF-8 in a query is replaced, and then is no asset either.
        let problem = answer.problem(400, "bad_request");
        let named = &problem["extras"]["invalid_field"];
        assert!(
            named == field || (field == "query" && named == "asset"),
            "{path}: {problem}"
        );
    }
    served
        .send("DELETE", "/transactions", &[], "")
        .await
        .problem(405, "method_not_allowed");
    served
        .send("POST", "/transactions", &[("content-type", "application/json")], "{}")
        .await
        .problem(415, "unsupported_media_type");
    let form = [("content-type", "application/x-www-form-urlencoded; charset=UTF-8")];
    served
        .send("POST", "/transactions", &form, "nothing=1")
        .await
        .problem(400, "bad_request");
    served
        .send("POST", "/transactions", &form, "tx=!!!")
        .await
        .problem(400, "transaction_malformed");
    served
        .send("POST", "/transactions_async", &form, "tx=AAAA")
        .await
        .problem(400, "transaction_malformed");
    // A claimed length of four gigabytes in a few bytes.
    let huge = BASE64.encode([0, 0, 0, 2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    served
        .send(
            "POST",
            "/transactions",
            &form,
            format!("tx={}", huge.replace('/', "%2F")),
        )
        .await
        .problem(400, "transaction_malformed");
    let long = served
        .send("POST", "/transactions", &form, format!("tx={}", "A".repeat(1 << 20)))
        .await;
    assert!(long.status.is_client_error(), "{}", long.status);
    for body in [
        "",
        "[]",
        "{\"seconds\":-1}",
        "{\"seconds\":18446744073709551615}",
        "{\"ledgers\":4000000000}",
        "{\"years\":1}",
    ] {
        served
            .send("POST", "/obol/advance", &[], body)
            .await
            .problem(400, "bad_request");
    }
}

#[tokio::test]
async fn the_clock_is_wound_only_where_that_is_allowed() {
    let closed = Served::start(LedgerConfig {
        closing: Closing::Manual,
        ..LedgerConfig::default()
    })
    .await;
    closed
        .send("POST", "/obol/advance", &[], "{\"seconds\":1}")
        .await
        .problem(403, "forbidden");
    let open = Served::on_demand().await;
    let before = open.ledger.latest();
    let answer = open
        .send("POST", "/obol/advance", &[], "{\"seconds\":86400,\"ledgers\":60}")
        .await
        .json();
    assert_eq!(answer["sequence"], before.sequence + 60);
    assert!(answer["close_time"].as_u64().unwrap() >= before.close_time + 86_400);
    let ledger = open.get("/ledgers?order=desc&limit=1").await.json();
    assert_eq!(ledger["_embedded"]["records"][0]["closed_at"], answer["closed_at"]);
}

#[tokio::test]
async fn a_submission_is_answered_from_the_ledger_and_again_when_repeated() {
    let served = Served::on_demand().await;
    let (alice, bob) = (key(1), key(2));
    served.fund(&alice).await;
    served.fund(&bob).await;
    let envelope = served.payment(&alice, &bob, 12_345);
    let first = served.form("/transactions", &envelope).await;
    assert_eq!(first.status, 200, "{}", first.text);
    let body = first.json();
    assert_eq!(
        (&body["successful"], &body["fee_charged"]),
        (&Value::from(true), &Value::from("100"))
    );
    assert_eq!(body["source_account"], address(&alice));
    assert_eq!(
        served.form("/transactions", &envelope).await.json()["hash"],
        body["hash"]
    );
    let again = served.form("/transactions_async", &envelope).await;
    assert_eq!(
        (again.status.as_u16(), &again.json()["tx_status"]),
        (409, &Value::from("DUPLICATE"))
    );
    let payments = served
        .get(&format!("/accounts/{}/payments?order=desc&limit=1", address(&bob)))
        .await
        .json();
    let payment = &payments["_embedded"]["records"][0];
    assert_eq!(
        (&payment["amount"], &payment["to"]),
        (&Value::from("0.0012345"), &Value::from(address(&bob)))
    );
    assert_eq!(payment["transaction_hash"], body["hash"]);
}

#[tokio::test]
async fn refusals_and_failures_carry_their_codes() {
    let served = Served::on_demand().await;
    let (alice, bob) = (key(1), key(2));
    served.fund(&alice).await;
    let network = served.ledger.network_id();
    let sequence = served.ledger.account(&raw(&alice)).unwrap().seq_num.0;
    let codes = |answer: Answer| answer.problem(400, "transaction_failed")["extras"]["result_codes"].clone();

    let tx = transaction(&alice, sequence + 9, 100, vec![op(pay(&bob, Asset::Native, 1))]);
    let answer = served
        .form("/transactions", &bytes(signed(tx.clone(), network, &[&alice])))
        .await;
    assert_eq!(codes(answer), serde_json::json!({ "transaction": "tx_bad_seq" }));

    let answer = served
        .form(
            "/transactions",
            &bump(signed(tx, network, &[&alice]), &alice, 200, network),
        )
        .await;
    assert_eq!(
        codes(answer),
        serde_json::json!({ "transaction": "tx_fee_bump_inner_failed", "inner_transaction": "tx_bad_seq" })
    );

    let tx = transaction(
        &alice,
        sequence + 1,
        200,
        vec![op(options(|_| {})), op(pay(&bob, Asset::Native, 1))],
    );
    let failed = served
        .form("/transactions", &bytes(signed(tx, network, &[&alice])))
        .await;
    let hash = failed.json()["extras"]["hash"].as_str().unwrap().to_owned();
    assert_eq!(
        codes(failed),
        serde_json::json!({ "transaction": "tx_failed", "operations": ["op_success", "op_no_destination"] })
    );
    // It is in the ledger, not in the lists.
    assert_eq!(
        served.get(&format!("/transactions/{hash}")).await.json()["successful"],
        false
    );
    let list = |query: &'static str| served.get(query);
    assert!(!list("/transactions?limit=200").await.text.contains(&hash));
    assert!(
        list("/transactions?limit=200&include_failed=true")
            .await
            .text
            .contains(&hash)
    );
    assert_eq!(served.get("/health").await.status, 200);
}

#[tokio::test]
async fn what_no_ledger_takes_in_time_is_unknown() {
    let config = LedgerConfig {
        closing: Closing::Manual,
        submission_timeout: Duration::from_millis(50),
        ..LedgerConfig::default()
    };
    let served = Served::start(config).await;
    let (alice, bob) = (key(1), key(2));
    served.ledger.fund(raw(&alice), served.ledger.now()).unwrap();
    served.ledger.fund(raw(&bob), served.ledger.now()).unwrap();
    served.ledger.close(served.ledger.now()).unwrap();
    let envelope = served.payment(&alice, &bob, 1);
    let unknown = served
        .form("/transactions", &envelope)
        .await
        .problem(504, "transaction_submission_timeout");
    let hash = unknown["extras"]["hash"].as_str().unwrap().to_owned();
    served
        .get(&format!("/transactions/{hash}"))
        .await
        .problem(404, "not_found");
    // Another one of the same account has to wait.
    let other = served.payment(&alice, &bob, 2);
    let later = served.form("/transactions_async", &other).await;
    assert_eq!(
        (later.status.as_u16(), &later.json()["tx_status"]),
        (503, &Value::from("TRY_AGAIN_LATER"))
    );
    served.ledger.close(served.ledger.now()).unwrap();
    assert_eq!(
        served.get(&format!("/transactions/{hash}")).await.json()["successful"],
        true
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_submit_at_once_and_every_stroop_is_accounted_for() {
    let served = Arc::new(
        Served::start(LedgerConfig {
            closing: Closing::Every(Duration::from_millis(100)),
            ..LedgerConfig::default()
        })
        .await,
    );
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..40 {
        let served = Arc::clone(&served);
        tasks.spawn(async move {
            let (me, next) = (key(100 + number), key(100 + (number + 1) % 40));
            served.fund(&me).await;
            // The neighbour may come into being a little later.
            while served.ledger.account(&raw(&next)).is_none() {
                tokio::task::yield_now().await;
            }
            for _ in 0..3 {
                let answer = served.form("/transactions", &served.payment(&me, &next, 1000)).await;
                assert_eq!(answer.status, 200, "{}", answer.text);
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let audit = served.get("/obol/audit").await.json();
    assert_eq!(audit["stroops_created_or_lost"], 0);
    assert_eq!(audit["native"]["fee_pool"], 40 * 100 + 120 * 100);
    assert_eq!(audit["accounts"].as_object().unwrap().len(), 41);
}

#[tokio::test]
async fn the_audit_adds_up_what_no_single_balance_could_hold() {
    let served = Served::on_demand().await;
    let (issuer, alice, bob) = (key(1), key(2), key(3));
    for key in [&issuer, &alice, &bob] {
        served.fund(key).await;
    }
    let obol = common::asset(&issuer);
    let all = |from: &SigningKey, to: &SigningKey| op_of(from, pay(to, obol.clone(), i64::MAX));
    let operations = vec![
        op_of(&alice, trust(&issuer, i64::MAX)),
        op_of(&bob, trust(&issuer, i64::MAX)),
        all(&issuer, &alice),
        all(&issuer, &bob),
        all(&bob, &issuer),
        all(&issuer, &bob),
    ];
    let sequence = served.ledger.account(&raw(&issuer)).unwrap().seq_num.0 + 1;
    let tx = transaction(&issuer, sequence, 600, operations);
    let envelope = bytes(signed(tx, served.ledger.network_id(), &[&issuer, &alice, &bob]));
    let answer = served.form("/transactions", &envelope).await;
    assert_eq!(answer.status, 200, "{}", answer.text);

    let audit = served.get("/obol/audit").await;
    let max = i128::from(i64::MAX);
    for (name, sum) in [
        ("issued", 3 * max),
        ("returned", max),
        ("trust_lines", 2 * max),
        ("difference", 0),
    ] {
        assert!(
            audit.text.contains(&format!("\"{name}\":{sum}")),
            "{name}: {}",
            audit.text
        );
    }
    assert_eq!(audit.json()["stroops_created_or_lost"], 0);
}

#[tokio::test]
async fn pages_lead_to_their_neighbours() {
    let served = Served::on_demand().await;
    for number in 1..=5 {
        served.fund(&key(number)).await;
    }
    let path = |href: &Value| {
        href["href"]
            .as_str()
            .unwrap()
            .strip_prefix(&served.server.url())
            .unwrap()
            .to_owned()
    };
    let (mut seen, mut next) = (Vec::new(), "/transactions?limit=2".to_owned());
    loop {
        let page = served.get(&next).await.json();
        let records = page["_embedded"]["records"].as_array().unwrap().clone();
        if records.is_empty() {
            break;
        }
        seen.extend(records.iter().map(|r| r["paging_token"].as_str().unwrap().to_owned()));
        next = path(&page["_links"]["next"]);
    }
    assert_eq!(seen.len(), 5);
    assert!(seen.is_sorted_by_key(|token| token.parse::<i64>().unwrap()));
    let last = served.get("/transactions?limit=2&order=desc").await.json();
    let before = served.get(&path(&last["_links"]["next"])).await.json();
    assert_eq!(before["_embedded"]["records"][0]["paging_token"], seen[2]);
    let back = served.get(&path(&before["_links"]["prev"])).await.json();
    let back: Vec<_> = back["_embedded"]["records"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["paging_token"].clone())
        .collect();
    assert_eq!(
        back,
        [seen[3].clone(), seen[4].clone()],
        "a step back, in the other order"
    );
    let effects = served.get("/effects?limit=4").await.json();
    let tokens: Vec<_> = effects["_embedded"]["records"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["paging_token"].as_str().unwrap().to_owned())
        .collect();
    let rest = served.get(&path(&effects["_links"]["next"])).await.json();
    assert_eq!(
        (tokens.len(), rest["_embedded"]["records"][0]["type"].as_str().unwrap()),
        (4, "account_debited")
    );
    let mirrored = served
        .get(&format!("/effects?limit=200&order=desc&cursor={}", tokens[3]))
        .await
        .json();
    let mirrored: Vec<_> = mirrored["_embedded"]["records"]
        .as_array()
        .unwrap()
        .iter()
        .rev()
        .map(|r| r["paging_token"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(mirrored, tokens[..3]);
}

#[tokio::test]
async fn a_stream_greets_sends_what_comes_and_says_farewell() {
    let served = Served::on_demand().await;
    let request = Request::builder()
        .uri("/ledgers?cursor=now&limit=2")
        .header("host", "x")
        .header("accept", "text/event-stream")
        .body(Full::new(Bytes::new()))
        .unwrap();
    let mut response = exchange(served.server.addr(), request).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
    let mut text = String::new();
    while !text.contains("hello") {
        text += std::str::from_utf8(&response.frame().await.unwrap().unwrap().into_data().unwrap()).unwrap();
    }
    assert_eq!(text, "retry: 1000\nevent: open\ndata: \"hello\"\n\n");
    served.fund(&key(1)).await;
    served.fund(&key(2)).await;
    // Far longer than it takes: a lost event must fail the test, not stop it.
    while let Some(frame) = tokio::time::timeout(Duration::from_secs(60), response.frame())
        .await
        .unwrap()
    {
        text += std::str::from_utf8(&frame.unwrap().into_data().unwrap()).unwrap();
    }
    let ids: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
    assert_eq!(ids, [(2_i64 << 32).to_string(), (3_i64 << 32).to_string()]);
    assert!(
        text.ends_with("retry: 10\nevent: close\ndata: \"byebye\"\n\n"),
        "{text}"
    );
}

#[tokio::test]
async fn a_shutdown_ends_streams_and_frees_the_port() {
    let served = Served::on_demand().await;
    let addr = served.server.addr();
    let request = Request::builder()
        .uri("/ledgers")
        .header("host", "x")
        .header("accept", "text/event-stream")
        .body(Full::new(Bytes::new()))
        .unwrap();
    let response = exchange(addr, request).await;
    served.server.shutdown().await;
    let body = response.into_body().collect().await;
    assert!(body.is_ok_and(|body| body.to_bytes().ends_with(b"\"byebye\"\n\n")));
    let again = server::serve(Arc::clone(&served.ledger), addr).await.unwrap();
    assert_eq!(again.addr(), addr);
    let taken = server::serve(Arc::clone(&served.ledger), addr).await;
    assert_eq!(taken.unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
}

#[tokio::test]
async fn a_stream_of_effects_goes_on_where_it_was_left() {
    let served = Served::on_demand().await;
    let (alice, bob) = (key(1), key(2));
    served.fund(&alice).await;
    served.fund(&bob).await;
    let path = format!("/accounts/{}/effects?limit=2", address(&bob));
    let mut events = Events::open(&served, &path, None).await;
    let (first, created) = events.next().await.unwrap();
    assert_eq!(
        (&created["type"], &created["paging_token"]),
        (&Value::from("account_created"), &Value::from(first))
    );
    let (second, _) = events.next().await.unwrap();
    assert!(events.next().await.is_none(), "two were asked for");
    // Two payments while nobody listens, one while somebody does: each comes once.
    for amount in [1, 2] {
        assert_eq!(
            served
                .form("/transactions", &served.payment(&alice, &bob, amount))
                .await
                .status,
            200
        );
    }
    let mut events = Events::open(&served, &path.replace("=2", "=4"), Some(&second)).await;
    let mut amounts = Vec::new();
    for _ in 0..2 {
        amounts.push(events.next().await.unwrap().1["amount"].clone());
    }
    assert_eq!(
        served
            .form("/transactions", &served.payment(&alice, &bob, 3))
            .await
            .status,
        200
    );
    amounts.push(events.next().await.unwrap().1["amount"].clone());
    assert_eq!(amounts, ["0.0000001", "0.0000002", "0.0000003"]);
    // From now on: nothing of the past.
    let mut events = Events::open(&served, &format!("{path}&cursor=now"), None).await;
    assert_eq!(
        served
            .form("/transactions", &served.payment(&alice, &bob, 4))
            .await
            .status,
        200
    );
    assert_eq!(events.next().await.unwrap().1["amount"], "0.0000004");
}

#[tokio::test]
async fn the_history_of_a_claimable_balance_outlives_it() {
    use stellar_xdr::*;
    let served = Served::on_demand().await;
    let (alice, bob) = (key(1), key(2));
    served.fund(&alice).await;
    served.fund(&bob).await;
    let claimants = vec![Claimant::ClaimantTypeV0(ClaimantV0 {
        destination: common::id(&bob),
        predicate: ClaimPredicate::Unconditional,
    })];
    let create = OperationBody::CreateClaimableBalance(CreateClaimableBalanceOp {
        asset: Asset::Native,
        amount: 5,
        claimants: claimants.try_into().unwrap(),
    });
    let submit = async |source: &SigningKey, body: OperationBody| {
        let sequence = served.ledger.account(&raw(source)).unwrap().seq_num.0 + 1;
        let tx = transaction(source, sequence, 100, vec![op(body)]);
        let answer = served
            .form(
                "/transactions",
                &bytes(signed(tx, served.ledger.network_id(), &[source])),
            )
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    };
    submit(&alice, create).await;
    let list = format!("/claimable_balances?claimant={}", address(&bob));
    let id = served.get(&list).await.json()["_embedded"]["records"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let balance_id = ClaimableBalanceId::from_xdr(hex::decode(&id).unwrap(), Limits::none()).unwrap();
    submit(
        &bob,
        OperationBody::ClaimClaimableBalance(ClaimClaimableBalanceOp { balance_id }),
    )
    .await;
    served
        .get(&format!("/claimable_balances/{id}"))
        .await
        .problem(404, "not_found");
    let operations = served.get(&format!("/claimable_balances/{id}/operations")).await.json();
    let kinds: Vec<&serde_json::Value> = operations["_embedded"]["records"]
        .as_array()
        .unwrap()
        .iter()
        .map(|o| &o["type"])
        .collect();
    assert_eq!(kinds, ["create_claimable_balance", "claim_claimable_balance"]);
    let transactions = served
        .get(&format!("/claimable_balances/{id}/transactions?limit=1"))
        .await
        .json();
    assert_eq!(transactions["_embedded"]["records"].as_array().unwrap().len(), 1);
    let other = format!("/claimable_balances/00000000{}/operations", "ab".repeat(32));
    served.get(&other).await.problem(404, "not_found");
    served
        .get("/claimable_balances/xyz/operations")
        .await
        .problem(400, "bad_request");
}
