//! Stellar RPC over loopback: the fields, their types and the errors are the official server's.

#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

mod common;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use common::served::Served;
use common::{asset, bump, bytes, id, key, op, pay, raw, signed, transaction, trust};
use obol_ledger::core::state::{account_key, trust_line_key};
use obol_ledger::{Closing, LedgerConfig};
use serde_json::{Value, json};
use stellar_xdr::{
    Asset, LedgerCloseMeta, LedgerEntryData, LedgerHeader, LedgerHeaderHistoryEntry, Limits, ReadXdr,
    TransactionResult, TransactionResultResult, WriteXdr,
};

async fn raw_call(served: &Served, body: String) -> Value {
    let answer = served
        .send("POST", "/rpc", &[("content-type", "application/json")], body)
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(answer.headers["access-control-allow-origin"], "*");
    answer.json()
}

async fn call(served: &Served, method: &str, params: Value) -> Value {
    let body = json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": params });
    let mut answer = raw_call(served, body.to_string()).await;
    assert_eq!(
        (&answer["jsonrpc"], &answer["id"]),
        (&json!("2.0"), &json!(7)),
        "{answer}"
    );
    assert!(answer.get("error").is_none(), "{answer}");
    answer["result"].take()
}

async fn fault(served: &Served, method: &str, params: Value) -> (i64, String) {
    let body = json!({ "jsonrpc": "2.0", "id": "x", "method": method, "params": params });
    let answer = raw_call(served, body.to_string()).await;
    assert_eq!(answer["id"], "x", "{answer}");
    assert!(answer.get("result").is_none(), "{answer}");
    let error = &answer["error"];
    (
        error["code"].as_i64().unwrap(),
        error["message"].as_str().unwrap().to_owned(),
    )
}

fn xdr<T: ReadXdr>(value: &Value) -> T {
    T::from_xdr_base64(value.as_str().unwrap(), Limits::none()).unwrap()
}

#[tokio::test]
async fn what_the_network_is_has_the_official_fields() {
    let served = Served::on_demand().await;
    let health = call(&served, "getHealth", Value::Null).await;
    assert_eq!(
        (&health["status"], &health["oldestLedger"]),
        (&json!("healthy"), &json!(1))
    );
    assert!(health["latestLedgerCloseTime"].is_u64() && health["ledgerRetentionWindow"].is_u64());
    let network = call(&served, "getNetwork", json!({})).await;
    assert_eq!(network["passphrase"], served.ledger.passphrase());
    assert_eq!(network["friendbotUrl"], format!("{}/friendbot", served.server.url()));
    assert_eq!(served.server.rpc_url(), format!("{}/rpc", served.server.url()));
    let version = call(&served, "getVersionInfo", Value::Null).await;
    assert_eq!(version["protocolVersion"], network["protocolVersion"]);
    let latest = call(&served, "getLatestLedger", Value::Null).await;
    let header: LedgerHeader = xdr(&latest["headerXdr"]);
    assert_eq!(latest["sequence"], header.ledger_seq);
    assert_eq!(latest["closeTime"], header.scp_value.close_time.0.to_string());
    assert_eq!(latest["id"], hex::encode(served.ledger.latest().hash));
    let _: LedgerCloseMeta = xdr(&latest["metadataXdr"]);
    let fees = call(&served, "getFeeStats", Value::Null).await;
    assert_eq!(fees["inclusionFee"]["transactionCount"], "0");
    served.fund(&key(1)).await;
    let fees = call(&served, "getFeeStats", Value::Null).await;
    assert_eq!(
        (&fees["inclusionFee"]["p99"], &fees["sorobanInclusionFee"]["p99"]),
        (&json!("100"), &json!("0"))
    );
    assert_eq!(
        (&fees["inclusionFee"]["ledgerCount"], &fees["latestLedger"]),
        (&json!(5), &json!(2))
    );
}

#[tokio::test]
async fn entries_are_read_by_their_keys_and_missing_ones_left_out() {
    let served = Served::on_demand().await;
    let (alice, issuer, stranger) = (key(1), key(2), key(3));
    served.fund(&alice).await;
    served.fund(&issuer).await;
    let sequence = served.ledger.account(&raw(&alice)).unwrap().seq_num.0 + 1;
    let tx = transaction(&alice, sequence, 100, vec![op(trust(&issuer, 5))]);
    let envelope = bytes(signed(tx, served.ledger.network_id(), &[&alice]));
    assert_eq!(served.form("/transactions", &envelope).await.status, 200);
    let keys = [
        account_key(&id(&alice)),
        account_key(&id(&stranger)),
        trust_line_key(&id(&alice), &asset(&issuer)),
    ]
    .map(|key| key.to_xdr_base64(Limits::none()).unwrap());
    let found = call(
        &served,
        "getLedgerEntries",
        json!({ "keys": keys, "xdrFormat": "base64" }),
    )
    .await;
    let entries = found["entries"].as_array().unwrap();
    assert_eq!((entries.len(), &found["latestLedger"]), (2, &json!(4)), "{found}");
    assert_eq!(
        (&entries[0]["key"], &entries[1]["key"]),
        (&json!(keys[0]), &json!(keys[2]))
    );
    assert_eq!(entries[1]["lastModifiedLedgerSeq"], 4);
    match (xdr(&entries[0]["xdr"]), xdr(&entries[1]["xdr"])) {
        (LedgerEntryData::Account(account), LedgerEntryData::Trustline(line)) => {
            assert_eq!((account.seq_num.0, line.limit), (sequence, 5));
        }
        other => panic!("{other:?}"),
    }
    let none = call(&served, "getLedgerEntries", json!({ "keys": [keys[1]] })).await;
    assert_eq!(none["entries"], json!([]));

    let many: Vec<&String> = std::iter::repeat_n(&keys[0], 201).collect();
    for (params, says) in [
        (json!({ "keys": many }), "201"),
        (json!({ "keys": ["AAAA"] }), "key 0"),
        (json!({ "keys": ["!"] }), "key 0"),
        (json!({}), "keys"),
        (json!({ "keys": keys, "xdrFormat": "json" }), "base64"),
    ] {
        let (code, message) = fault(&served, "getLedgerEntries", params).await;
        assert_eq!(code, -32602);
        assert!(message.contains(says), "{message}");
    }
}

#[tokio::test]
async fn a_transaction_is_sent_found_and_listed() {
    let served = Served::on_demand().await;
    let (alice, bob) = (key(1), key(2));
    served.fund(&alice).await;
    served.fund(&bob).await;
    let envelope = served.payment(&alice, &bob, 5);
    let sent = call(
        &served,
        "sendTransaction",
        json!({ "transaction": BASE64.encode(&envelope) }),
    )
    .await;
    assert_eq!(sent["status"], "PENDING", "{sent}");
    assert!(sent["latestLedgerCloseTime"].is_string() && sent["latestLedger"].is_u64());
    let mut ledgers = served.ledger.watch();
    let found = loop {
        let found = call(&served, "getTransaction", json!({ "hash": sent["hash"] })).await;
        if found["status"] != "NOT_FOUND" {
            break found;
        }
        ledgers.changed().await.unwrap();
    };
    assert_eq!(
        (
            &found["status"],
            &found["txHash"],
            &found["applicationOrder"],
            &found["feeBump"]
        ),
        (&json!("SUCCESS"), &sent["hash"], &json!(1), &json!(false))
    );
    assert_eq!(found["envelopeXdr"], BASE64.encode(&envelope));
    assert!(found["createdAt"].is_string() && found["oldestLedgerCloseTime"].is_string());
    let result: TransactionResult = xdr(&found["resultXdr"]);
    assert!(common::succeeded(&result.result));

    // Once more: it used its sequence number.
    let again = call(
        &served,
        "sendTransaction",
        json!({ "transaction": BASE64.encode(&envelope) }),
    )
    .await;
    assert_eq!((&again["status"], &again["hash"]), (&json!("ERROR"), &sent["hash"]));
    let result: TransactionResult = xdr(&again["errorResultXdr"]);
    assert_eq!(result.result, TransactionResultResult::TxBadSeq);

    let nothing = call(&served, "getTransaction", json!({ "hash": "ab".repeat(32) })).await;
    assert_eq!(
        (&nothing["status"], &nothing["createdAt"]),
        (&json!("NOT_FOUND"), &json!("0"))
    );
    for hash in ["", "abc", &"zz".repeat(32)] {
        assert_eq!(
            fault(&served, "getTransaction", json!({ "hash": hash })).await.0,
            -32602
        );
    }
    for text in ["", "AAAA", "!"] {
        let (code, message) = fault(&served, "sendTransaction", json!({ "transaction": text })).await;
        assert_eq!((code, message.as_str()), (-32602, "invalid_xdr"));
    }

    // Pages: three transactions, one a ledger, from ledger 2 on.
    let page = |params: Value| call(&served, "getTransactions", params);
    let first = page(json!({ "startLedger": 1, "pagination": { "limit": 2 } })).await;
    let rest = page(json!({ "pagination": { "cursor": first["cursor"], "limit": 2 } })).await;
    let hashes: Vec<&Value> = [&first, &rest]
        .iter()
        .flat_map(|page| page["transactions"].as_array().unwrap())
        .map(|one| &one["txHash"])
        .collect();
    assert_eq!((hashes.len(), hashes[2]), (3, &sent["hash"]));
    assert!(first["transactions"][0]["createdAt"].is_u64() && first["latestLedgerCloseTimestamp"].is_u64());
    let end = page(json!({ "pagination": { "cursor": rest["cursor"] } })).await;
    assert_eq!((&end["transactions"], &end["cursor"]), (&json!([]), &rest["cursor"]));
    for params in [
        json!({}),
        json!({ "startLedger": 0 }),
        json!({ "startLedger": 99 }),
        json!({ "startLedger": 1, "pagination": { "cursor": "5" } }),
        json!({ "startLedger": 1, "pagination": { "limit": 201 } }),
        json!({ "pagination": { "cursor": "-5" } }),
        json!({ "pagination": { "cursor": "five" } }),
        json!({ "startLedger": "one" }),
    ] {
        for method in ["getTransactions", "getLedgers"] {
            assert_eq!(
                fault(&served, method, params.clone()).await.0,
                -32602,
                "{method} {params}"
            );
        }
    }
}

/// What pays relies on this: "not there as of ledger n" must never be said of what is in ledger n.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_is_missing_in_the_ledger_that_the_answer_names() {
    let served = Served::start(LedgerConfig {
        closing: Closing::Every(Duration::from_millis(10)),
        ..LedgerConfig::default()
    })
    .await;
    let (alice, bob) = (key(1), key(2));
    served.fund(&alice).await;
    served.fund(&bob).await;
    for number in 1..=60 {
        let envelope = served.payment(&alice, &bob, number);
        let hash = hex::encode(served.ledger.hash_of(&envelope).unwrap());
        let sent = call(
            &served,
            "sendTransaction",
            json!({ "transaction": BASE64.encode(&envelope) }),
        )
        .await;
        assert_eq!(sent["status"], "PENDING", "{sent}");
        let mut absent = 0;
        loop {
            let rpc = call(&served, "getTransaction", json!({ "hash": hash })).await;
            let latest = rpc["latestLedger"].as_u64().unwrap();
            if rpc["status"] == "NOT_FOUND" {
                absent = absent.max(latest);
            } else {
                assert!(rpc["ledger"].as_u64().unwrap() <= latest, "{rpc}");
            }
            let horizon = served.get(&format!("/transactions/{hash}")).await;
            let latest = horizon.headers["latest-ledger"].to_str().unwrap().parse().unwrap();
            if horizon.status == 200 {
                let ledger = horizon.json()["ledger"].as_u64().unwrap();
                assert!(
                    ledger > absent,
                    "in ledger {ledger}, and said to be absent as of {absent}"
                );
                break;
            }
            absent = absent.max(latest);
        }
    }
}

#[tokio::test]
async fn a_second_transaction_of_a_source_waits_and_a_fee_bump_is_found_under_both_hashes() {
    let served = Served::start(LedgerConfig {
        closing: Closing::Manual,
        ..LedgerConfig::default()
    })
    .await;
    let (alice, bob) = (key(1), key(2));
    for one in [&alice, &bob] {
        served.ledger.fund(raw(one), served.ledger.now()).unwrap();
    }
    served.ledger.close(served.ledger.now()).unwrap();
    let send = |envelope: Vec<u8>| {
        call(
            &served,
            "sendTransaction",
            json!({ "transaction": BASE64.encode(envelope) }),
        )
    };
    let first = served.payment(&alice, &bob, 1);
    assert_eq!(send(first.clone()).await["status"], "PENDING");
    assert_eq!(send(first).await["status"], "DUPLICATE");
    assert_eq!(send(served.payment(&alice, &bob, 2)).await["status"], "TRY_AGAIN_LATER");
    let sequence = served.ledger.account(&raw(&bob)).unwrap().seq_num.0 + 1;
    let network = served.ledger.network_id();
    let inner = transaction(&bob, sequence, 0, vec![op(pay(&alice, Asset::Native, 1))]);
    let inner_hash = hex::encode(inner.hash(network).unwrap());
    let bumped = bump(signed(inner, network, &[&bob]), &alice, 200, network);
    let sent = send(bumped).await;
    assert_eq!(sent["status"], "PENDING", "{sent}");
    served.ledger.close(served.ledger.now()).unwrap();
    for hash in [sent["hash"].as_str().unwrap(), &inner_hash] {
        let found = call(&served, "getTransaction", json!({ "hash": hash })).await;
        assert_eq!((&found["status"], &found["feeBump"]), (&json!("SUCCESS"), &json!(true)));
        assert_eq!(found["txHash"], sent["hash"]);
    }
}

#[tokio::test]
async fn ledgers_are_handed_out_whole_and_their_sets_hash_to_what_the_header_says() {
    use sha2::{Digest, Sha256};
    // Two operations fit: the third transaction waits, and the fee of those two rises.
    let served = Served::start(LedgerConfig {
        closing: Closing::Manual,
        max_tx_set_ops: 2,
        ..LedgerConfig::default()
    })
    .await;
    let people: Vec<_> = (1..=3).map(key).collect();
    for one in &people {
        served.ledger.fund(raw(one), served.ledger.now()).unwrap();
        served.ledger.close(served.ledger.now()).unwrap();
    }
    for (one, fee) in people.iter().zip([500, 200, 300]) {
        let sequence = served.ledger.account(&raw(one)).unwrap().seq_num.0 + 1;
        let tx = transaction(one, sequence, fee, vec![op(pay(one, Asset::Native, 1))]);
        let envelope = bytes(signed(tx, served.ledger.network_id(), &[one]));
        let sent = call(
            &served,
            "sendTransaction",
            json!({ "transaction": BASE64.encode(envelope) }),
        )
        .await;
        assert_eq!(sent["status"], "PENDING");
    }
    served.ledger.close(served.ledger.now()).unwrap();
    served.ledger.close(served.ledger.now()).unwrap();
    let first = call(
        &served,
        "getLedgers",
        json!({ "startLedger": 2, "pagination": { "limit": 3 } }),
    )
    .await;
    assert_eq!(first["cursor"], "4");
    let rest = call(
        &served,
        "getLedgers",
        json!({ "pagination": { "cursor": first["cursor"] } }),
    )
    .await;
    let mut counts = Vec::new();
    for ledger in [&first, &rest]
        .iter()
        .flat_map(|page| page["ledgers"].as_array().unwrap())
    {
        assert!(ledger["ledgerCloseTime"].is_string());
        let header: LedgerHeaderHistoryEntry = xdr(&ledger["headerXdr"]);
        assert_eq!(ledger["hash"], hex::encode(header.hash.0));
        let LedgerCloseMeta::V2(meta) = xdr(&ledger["metadataXdr"]) else {
            panic!("since protocol 23")
        };
        assert_eq!(meta.ledger_header, header);
        let set = meta.tx_set.to_xdr(Limits::none()).unwrap();
        assert_eq!(
            header.header.scp_value.tx_set_hash.0,
            *Sha256::digest(set),
            "{}",
            ledger["sequence"]
        );
        counts.push(meta.tx_processing.len());
    }
    assert_eq!(counts, [1, 1, 1, 2, 1]);
    let end = call(
        &served,
        "getLedgers",
        json!({ "pagination": { "cursor": rest["cursor"] } }),
    )
    .await;
    assert_eq!((&end["ledgers"], &end["cursor"]), (&json!([]), &json!("6")));
}

#[tokio::test]
async fn what_is_no_call_is_answered_as_json_rpc_wants_it() {
    let served = Served::on_demand().await;
    for method in ["simulateTransaction", "getEvents"] {
        let (code, message) = fault(&served, method, json!({})).await;
        assert_eq!(code, -32601);
        assert!(message.contains("not supported"), "{message}");
    }
    assert_eq!(fault(&served, "getEverything", json!({})).await.0, -32601);
    assert_eq!(fault(&served, "getHealth", json!([])).await.0, -32602);
    for (body, code) in [
        ("{", -32700),
        ("", -32700),
        ("5", -32600),
        ("[]", -32600),
        ("{}", -32600),
        (r#"{"jsonrpc":"1.0","id":1,"method":"getHealth"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":{},"method":"getHealth"}"#, -32600),
    ] {
        let answer = raw_call(&served, body.to_owned()).await;
        assert_eq!(answer["error"]["code"], code, "{body}: {answer}");
    }
    let deep = "[".repeat(10_000);
    assert_eq!(raw_call(&served, deep).await["error"]["code"], -32700);
    // A batch; the second is a notification and gets no answer.
    let batch = r#"[{"jsonrpc":"2.0","id":1,"method":"getHealth"},{"jsonrpc":"2.0","method":"getHealth"},{"jsonrpc":"2.0","id":2,"method":"x"}]"#;
    let answers = raw_call(&served, batch.to_owned()).await;
    let ids: Vec<&Value> = answers.as_array().unwrap().iter().map(|a| &a["id"]).collect();
    assert_eq!(ids, [&json!(1), &json!(2)]);
    let told = served
        .send("POST", "/rpc", &[], r#"{"jsonrpc":"2.0","method":"getHealth"}"#)
        .await;
    assert_eq!((told.status.as_u16(), told.text.as_str()), (204, ""));
    served.get("/rpc").await.problem(405, "method_not_allowed");
}
