//! `docs/protocol/vectors/dialogue.json`: what a relay with the real keys answers, message by message, as hop 1 of a client and as hop 2 behind
//! another relay. The test says what stands in the file to a relay's state machine and compares what comes back, byte for byte.
//! `OBOL_WRITE_VECTORS=1` writes the file anew (docs/protocol/vectors.md).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod payer;
mod plays;
mod scene;

use obol_cell::*;
use obol_toll::PayerKeys as _;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use plays::*;
use scene::*;

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/protocol/vectors/dialogue.json")
}

/// The file; written first from what the code says, if that was asked for.
fn file() -> Value {
    if std::env::var_os("OBOL_WRITE_VECTORS").is_some() {
        let text = serde_json::to_string_pretty(&current()).unwrap() + "\n";
        fs::write(path(), text).unwrap();
    }
    serde_json::from_str(&fs::read_to_string(path()).unwrap()).unwrap()
}

fn dialogue(about: &str, hop: u64, goes_on: bool, entries: &[Value]) -> Value {
    json!({
        "about": about,
        "hop": hop,
        "goes_on": goes_on,
        "entries": play(hop, goes_on, entries),
    })
}

fn current() -> Value {
    let t = tariff();
    json!({
        "about": "What a relay answers, message by message: as hop 1 of a client and as hop 2 behind another relay (`metered` is its meter when the message comes). Link 1 goes towards the client, link 2 to the next hop. Command 0 is something else that happens. `granted` is credit in bytes, `ends` what it closes, `flush` the claim that it publishes. The journal is durable at once, and the ledger shows each escrow as agreed.",
        "owner": "obol-stellar tests/dialogue",
        "relay": {
            "identity": hex::encode(RELAY.0),
            "escrow_secret": hex::encode([0x23; 32]),
            "payee_account": hex::encode(payee_account().0),
            "network": hex::encode(t.network.0),
            "asset": {"code": "OBOL", "issuer": hex::encode(t.asset.issuer)},
            "initial_credit": "262144",
            "balance_of_escrows": BALANCE.to_string(),
            "ledger": LEDGER,
            "start_ms": START_MS.to_string(),
            "circuit_id_on_link_1": ID_ON_LINK,
            "circuit_id_on_link_2": ID_ON_NEXT,
            "before": hex::encode(BEFORE.0),
            "next": hex::encode(NEXT.0),
            "before_settles_from": hex::encode(debtor().settles_from().unwrap().0.0),
        },
        "dialogues": [
            dialogue("hop 1 of a client, and the last paid hop", 1, false, &as_hop_1()),
            dialogue("hop 2 behind another relay, and the last paid hop", 2, false, &as_hop_2()),
            dialogue("hop 1, which opens an escrow to hop 2 and passes money on", 1, true, &passing_on()),
            dialogue("hop 2, which passes refusals on", 2, true, &refusals_passed_on()),
            dialogue("hop 2, to which the relay before owes", 2, true, &owed()),
        ],
    })
}

#[test]
fn a_relay_answers_every_message_of_the_file_as_the_file_says() {
    let file = file();
    for dialogue in file["dialogues"].as_array().unwrap() {
        let entries = dialogue["entries"].as_array().unwrap();
        let (hop, goes_on) = (dialogue["hop"].as_u64().unwrap(), dialogue["goes_on"] == true);
        let played = play(hop, goes_on, entries);
        for (is, said) in played.iter().zip(entries) {
            assert_eq!(
                is["outcome"], said["outcome"],
                "{}: {}",
                dialogue["about"], said["note"]
            );
        }
        assert_eq!(played.len(), entries.len());
    }
    assert_eq!(file, current(), "dialogue.json is not what the code writes");
}

/// The outcomes in words, so that the file cannot be right only because it was written.
#[test]
fn the_dialogues_show_what_their_notes_say() {
    let file = file();
    let outcomes = |which: usize| -> Vec<(Vec<String>, String)> {
        let entries = file["dialogues"][which - 1]["entries"].as_array().unwrap();
        entries.iter().map(|e| in_words(&e["outcome"])).collect()
    };
    let words = |which| -> Vec<String> {
        let all = outcomes(which).into_iter();
        all.map(|(replies, rest)| format!("{} {rest}", replies.join(" ")).trim().to_owned())
            .collect()
    };
    assert_eq!(
        words(1),
        [
            "Quote(next false)",
            "Declined(OtherMoney)",
            "Declined(OutsideRules)",
            "EscrowAccepted",
            "Balance(Unknown 0)",
            "Balance(Open 0)",
            "Complete(1) +65536",
            "Complete(1)",
            "Refused(2 0 Failed)",
            "Refused(3 0 OverLimit)",
            "Complete(3) +65536",
            "Refused(2 0 Failed)",
            "",
            "Nothing(1)",
            "PaymentRequest(2)",
            "",
            "Nothing(3)",
            "",
            "Complete(4) +131072",
            "Refused(5 0 NoFunds)",
            "Refused(6 0 Failed)",
            "Refused(7 0 Failed)",
            "Closing flush 4",
            "Refused(8 0 Closing)",
            "Complete(9) +65536",
            "Balance(Closing 200)",
            "ends circuit",
            "",
        ]
    );
    assert_eq!(
        words(2),
        [
            "",
            "LegDeclined(OtherMoney)",
            "LegAccepted",
            "LegBalance(Open 0)",
            "",
            "Complete(1) +65536",
            "",
            "",
            "Complete(2) +65536",
            "",
            "Refused(3 1 NoFunds)",
            "",
            "Refused(4 0 Failed)",
            "Complete(4) +65536",
            "",
            "Refused(5 0 Failed)",
            "",
            "+131072",
            "LegBalance(Open 0)",
            "",
            "LegBalance(Closing 399) LegBalance(Closing 399) flush 7",
            "LegBalance(Closing 399)",
            "LegBalance(Closing 399)",
            "ends link",
        ]
    );
    assert_eq!(
        words(3),
        [
            "Quote(next false)",
            "",
            "LegOffer",
            "",
            "LegQuery",
            "",
            "LegQuery",
            "",
            "Quote(next true)",
            "Balance(Open 0)",
            "LegPay(1 200, 7 1 200) +65536",
            "LegRefused(7 2 1 OverLimit)",
            "+1376256",
            "LegRefused(7 3 1 Failed)",
            "LegPay(2 400, 7 3 200) +65536",
            "LegPay(3 400)",
            "Quote(next false)",
        ]
    );
    assert_eq!(
        words(4),
        [
            "",
            "",
            "",
            "LegRefused(7 1 2 OverLimit)",
            "",
            "LegRefused(7 1 1 Failed)",
            "ends link",
        ]
    );
    assert_eq!(
        words(5),
        [
            "",
            "LegTrusted(1000, 0 0 0 0)",
            "",
            "",
            "Complete(1) +65536",
            "LegTrusted(1000, 1 100 0 0)",
            "LegTrusted(1000, 1 100 0 0)",
            "LegTrusted(1000, 1 100 0 0)",
            "",
            "Complete(2) +65536",
            "LegTrusted(1000, 2 300 100 0)",
            "",
            "LegSettled(200)",
            "LegSettled(200)",
            "",
            "",
            "LegRefused(7 3 1 NoFunds)",
            "+131072",
        ]
    );
}

fn in_words(outcome: &Value) -> (Vec<String>, String) {
    let replies = outcome["replies"].as_array().unwrap().iter().map(|reply| {
        let body = hex::decode(reply["body"].as_str().unwrap()).unwrap();
        if reply["command"] == CMD_LINK {
            return match LinkMessage::decode(&body).unwrap() {
                LinkMessage::LegAccepted(_) => "LegAccepted".to_owned(),
                LinkMessage::LegBalance(b) => format!("LegBalance({:?} {})", b.state, b.unallocated),
                LinkMessage::LegTrusted(b) => {
                    let (limit, books) = (b.max_unsettled, (b.k, b.cumulative, b.unallocated, b.settled));
                    format!("LegTrusted({limit}, {} {} {} {})", books.0, books.1, books.2, books.3)
                }
                LinkMessage::LegSettled { total, .. } => format!("LegSettled({total})"),
                LinkMessage::LegDeclined { code, .. } => format!("LegDeclined({code:?})"),
                LinkMessage::LegOffer(_) => "LegOffer".to_owned(),
                LinkMessage::LegQuery { .. } => "LegQuery".to_owned(),
                LinkMessage::LegPay(p) => {
                    let all = p.allocations.iter();
                    let all: String = all.map(|a| format!(", {} {} {}", a.circuit, a.n, a.amount)).collect();
                    format!("LegPay({} {}{all})", p.k, p.cumulative)
                }
                LinkMessage::LegRefused {
                    circuit,
                    n,
                    distance,
                    code,
                } => {
                    format!("LegRefused({circuit} {n} {distance} {code:?})")
                }
                other => format!("{other:?}"),
            };
        }
        match ToOrigin::decode(&body).unwrap() {
            ToOrigin::Quote(q) => format!("Quote(next {})", q.next),
            ToOrigin::EscrowAccepted(_) => "EscrowAccepted".to_owned(),
            ToOrigin::Balance(b) => format!("Balance({:?} {})", b.state, b.unallocated),
            ToOrigin::PaymentRequest { id, .. } => format!("PaymentRequest({id})"),
            ToOrigin::Nothing { id } => format!("Nothing({id})"),
            ToOrigin::Complete { n, .. } => format!("Complete({n})"),
            ToOrigin::Refused { n, distance, code } => format!("Refused({n} {distance} {code:?})"),
            ToOrigin::Closing { .. } => "Closing".to_owned(),
            ToOrigin::Declined(d) => format!("Declined({:?})", d.code),
        }
    });
    let mut rest = Vec::new();
    if outcome["granted"] != "0" {
        rest.push(format!("+{}", outcome["granted"].as_str().unwrap()));
    }
    if let Some(ends) = outcome["ends"].as_str() {
        rest.push(format!("ends {ends}"));
    }
    if let Some(k) = outcome["flush"]["k"].as_u64() {
        rest.push(format!("flush {k}"));
    }
    (replies.collect(), rest.join(" "))
}

/// Commands and kinds that are said or answered somewhere.
fn kinds(file: &Value) -> BTreeSet<(u64, u8)> {
    let entries = file["dialogues"].as_array().unwrap().iter();
    let entries = entries.flat_map(|d| d["entries"].as_array().unwrap());
    let messages = entries.flat_map(|e| std::iter::once(e).chain(e["outcome"]["replies"].as_array().unwrap()));
    let of = messages.filter_map(|m| {
        let body = hex::decode(m["body"].as_str()?).unwrap();
        Some((m["command"].as_u64()?, *body.get(1)?))
    });
    of.collect()
}

#[test]
fn every_kind_of_message_is_in_a_dialogue() {
    let known = |command: u8, kind: u8| {
        let body = [VERSION, kind];
        let error = match command {
            CMD_TO_NODE => ToNode::decode(&body).err(),
            CMD_TO_ORIGIN => ToOrigin::decode(&body).err(),
            _ => LinkMessage::decode(&body).err(),
        };
        error != Some(DecodeError::Kind(kind))
    };
    let all: BTreeSet<(u64, u8)> = [CMD_TO_NODE, CMD_TO_ORIGIN, CMD_LINK]
        .into_iter()
        .flat_map(|command| (0..=u8::MAX).map(move |kind| (command, kind)))
        .filter(|(command, kind)| known(*command, *kind))
        .map(|(command, kind)| (command.into(), kind))
        .collect();
    assert_eq!(kinds(&file()), all);
}
