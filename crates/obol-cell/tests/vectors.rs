//! The files in `docs/protocol/vectors` that this crate owns, held against the code in both directions: every body decodes to the
//! fields beside it, the fields encode to the body, every kind of message has a vector, and what must be refused is, for the
//! reason that is given. `OBOL_WRITE_VECTORS=1` writes them anew (docs/protocol/vectors.md).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "vectors/fields.rs"]
mod fields;
#[path = "vectors/samples.rs"]
mod samples;

use fields::{Message, reason};
use obol_cell::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const COMMANDS: [u8; 3] = [CMD_TO_NODE, CMD_TO_ORIGIN, CMD_LINK];

fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../docs/protocol/vectors")
        .join(file)
}

/// The file; written first from what the code says, if that was asked for.
fn vectors(file: &str, current: impl Fn() -> Value) -> Value {
    if std::env::var_os("OBOL_WRITE_VECTORS").is_some() {
        let text = serde_json::to_string_pretty(&current()).unwrap() + "\n";
        fs::write(path(file), text).unwrap();
    }
    serde_json::from_str(&fs::read_to_string(path(file)).unwrap()).unwrap()
}

fn text<'a>(entry: &'a Value, field: &str) -> &'a str {
    entry[field].as_str().unwrap()
}

fn command(entry: &Value) -> u8 {
    u8::try_from(entry["command"].as_u64().unwrap()).unwrap()
}

fn body(entry: &Value) -> Vec<u8> {
    hex::decode(text(entry, "body")).unwrap()
}

fn messages() -> Value {
    let valid = samples::messages();
    let valid: Vec<Value> = valid
        .into_iter()
        .map(|(name, message)| {
            let body = message.encode();
            json!({
                "name": name,
                "command": message.command(),
                "kind": body[1],
                "message": message.name(),
                "length": body.len(),
                "fields": message.fields(),
                "body": hex::encode(body),
            })
        })
        .collect();
    json!({
        "about": "One entry or more for each kind of message: its body, and the fields that it says. Signatures here are patterns, not real ones.",
        "owner": "obol-cell tests/vectors.rs",
        "messages": valid,
    })
}

fn refused() -> Value {
    let bodies: Vec<Value> = samples::refused()
        .into_iter()
        .map(|(name, command, body)| {
            let error = Message::decode(command, &body).expect_err(&name);
            json!({"name": name, "command": command, "body": hex::encode(body), "reason": reason(&error)})
        })
        .collect();
    json!({
        "about": "Bodies that are no messages: on 51 and 52 the circuit is destroyed, on 200 the link is closed.",
        "owner": "obol-cell tests/vectors.rs",
        "bodies": bodies,
    })
}

/// A relay cell's 509 bytes before they are encrypted, digest and padding zero: command, recognized, stream, digest, length, data.
fn relay_cell(command: u8, body: &[u8]) -> Vec<u8> {
    let mut cell = vec![command, 0, 0, 0, 0, 0, 0, 0, 0];
    cell.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    cell.extend(body);
    assert!(cell.len() <= 509, "a message is one cell");
    cell.resize(509, 0);
    cell
}

/// A variable-length cell on a link of protocol 4 or 5: circuit id, command, length, body.
fn link_cell(body: &[u8]) -> Vec<u8> {
    let mut cell = vec![0, 0, 0, 0, CMD_LINK];
    cell.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    cell.extend(body);
    cell
}

fn framing() -> Value {
    let all = samples::messages();
    let longest = |command: u8| {
        let of = all.iter().filter(|(_, m)| m.command() == command);
        of.max_by_key(|(_, m)| m.encode().len()).unwrap()
    };
    let shortest = |command: u8| {
        let of = all.iter().filter(|(_, m)| m.command() == command);
        of.min_by_key(|(_, m)| m.encode().len()).unwrap()
    };
    let cells: Vec<Value> = COMMANDS
        .into_iter()
        .flat_map(|command| [shortest(command), longest(command)])
        .map(|(name, message)| {
            let (command, body) = (message.command(), message.encode());
            let cell = if command == CMD_LINK {
                link_cell(&body)
            } else {
                relay_cell(command, &body)
            };
            json!({
                "name": name,
                "command": command,
                "body": hex::encode(&body),
                "cells": 1,
                "cell": hex::encode(cell),
            })
        })
        .collect();
    json!({
        "about": "Bodies in cells, each whole in one: the shortest and the longest of each command. 51 and 52: the 509 bytes of a relay cell before encryption, with digest and padding zero. 200: a whole variable-length cell.",
        "owner": "obol-cell tests/vectors.rs",
        "longest_body": {"51": MAX_CELL_BODY, "52": MAX_CELL_BODY, "200": MAX_LINK_BODY},
        "cells": cells,
    })
}

fn units() -> Value {
    let ladder: Vec<String> = (0..=PricePer64KiB::MAX_RUNG)
        .map(|rung| PricePer64KiB::from_rung(rung).unwrap().stroops().to_string())
        .collect();
    let steps: Vec<String> = (0..=Step::MAX_POWER)
        .map(|power| Step::from_power(power).unwrap().bytes().to_string())
        .collect();
    let costs: Vec<Value> = [(0, 0), (6, 8), (7, 3), (8, 20), (36, 20), (36, 12)]
        .into_iter()
        .map(|(rung, power)| {
            let (price, step) = (
                PricePer64KiB::from_rung(rung).unwrap(),
                Step::from_power(power).unwrap(),
            );
            json!({"rung": rung, "power": power, "cost": price.cost(step).map(|c| c.to_string())})
        })
        .collect();
    let fees: Vec<Value> = [
        (0, 999_999),
        (1_000, 1),
        (1_000, 1_000),
        (1_000, 1_001),
        (10_000, 12_345),
        (10_000, i64::MAX),
    ]
    .into_iter()
    .map(|(ppm, forwarded)| {
        let fee = ForwardPpm::new(ppm).unwrap().fee_on(Stroops::new(forwarded).unwrap());
        json!({"ppm": ppm, "forwarded": forwarded.to_string(), "fee": fee.to_string()})
    })
    .collect();
    json!({
        "about": "The ladder of prices (stroops for 64 KiB, by rung), the steps (bytes, by power), costs of steps (null: more than an amount can be), fees on all that was forwarded.",
        "owner": "obol-cell tests/vectors.rs",
        "ladder": ladder,
        "steps": steps,
        "costs": costs,
        "fees": fees,
    })
}

fn ownership() -> Value {
    let asks = [
        ("books", OwnerAsks::Books),
        ("close", OwnerAsks::Close { final_k: 0x0102_0304 }),
    ];
    let signed: Vec<Value> = asks
        .into_iter()
        .map(|(name, asks)| {
            let o = Ownership {
                network: NetworkId(samples::id(0x10)),
                payee: PeerId(samples::id(0x30)),
                escrow: EscrowId(samples::id(0x50)),
                asks,
            };
            let final_k = match asks {
                OwnerAsks::Books => 0,
                OwnerAsks::Close { final_k } => final_k,
            };
            json!({
                "asks": name,
                "network": hex::encode(o.network.0),
                "payee": hex::encode(o.payee.0),
                "escrow": hex::encode(o.escrow.0),
                "final_k": final_k,
                "signed": hex::encode(o.message()),
            })
        })
        .collect();
    json!({
        "about": "What the owner of an escrow signs when it asks. Signatures by real keys: escrow.json.",
        "owner": "obol-cell tests/vectors.rs",
        "messages": signed,
    })
}

#[test]
fn every_body_decodes_to_its_fields_and_its_fields_encode_to_it() {
    let file = vectors("messages.json", messages);
    for entry in file["messages"].as_array().unwrap() {
        let (name, command, body) = (text(entry, "name"), command(entry), body(entry));
        let decoded = Message::decode(command, &body).expect(name);
        assert_eq!(decoded.fields(), entry["fields"], "{name}");
        assert_eq!(decoded.name(), text(entry, "message"), "{name}");
        let built = Message::from_fields(command, text(entry, "message"), &entry["fields"]);
        assert_eq!(hex::encode(built.encode()), text(entry, "body"), "{name}");
        assert_eq!(entry["kind"], json!(body[1]), "{name}");
        assert_eq!(entry["length"], json!(body.len()), "{name}");
    }
}

#[test]
fn every_kind_of_message_has_a_vector_and_no_vector_is_missing_or_stale() {
    let file = vectors("messages.json", messages);
    let entries = file["messages"].as_array().unwrap();
    let with_vector: BTreeSet<(u8, u8)> = entries.iter().map(|e| (command(e), body(e)[1])).collect();
    // A kind that is not defined is refused as such, whatever follows.
    let defined = |command: u8, kind: u8| Message::decode(command, &[VERSION, kind]) != Err(DecodeError::Kind(kind));
    let all: BTreeSet<(u8, u8)> = COMMANDS
        .into_iter()
        .flat_map(|command| (0..=u8::MAX).map(move |kind| (command, kind)))
        .filter(|(command, kind)| defined(*command, *kind))
        .collect();
    assert_eq!(all.len(), 7 + 9 + 13);
    assert_eq!(with_vector, all);
    assert_eq!(file, messages(), "messages.json is not what the code writes");
}

#[test]
fn what_must_be_refused_is_refused_for_its_reason() {
    let file = vectors("refused.json", refused);
    let mut reasons = BTreeSet::new();
    for entry in file["bodies"].as_array().unwrap() {
        let name = text(entry, "name");
        let error = Message::decode(command(entry), &body(entry)).expect_err(name);
        assert_eq!(reason(&error), text(entry, "reason"), "{name}");
        reasons.insert(text(entry, "reason").to_owned());
    }
    let expected = [
        "amount",
        "below-layout",
        "above-layout",
        "fee",
        "kind",
        "price",
        "step",
        "version",
        "undefined: count of allocations",
        "undefined: decline code",
        "undefined: escrow state",
        "undefined: low-water mark",
        "undefined: next",
        "undefined: opening terms",
        "undefined: payment flags",
        "undefined: payment number",
        "undefined: refusal code",
    ];
    assert_eq!(reasons, expected.map(str::to_owned).into());
    assert_eq!(file, refused(), "refused.json is not what the code writes");
}

#[test]
fn every_message_fits_whole_into_one_cell() {
    let file = vectors("framing.json", framing);
    for entry in file["cells"].as_array().unwrap() {
        let name = text(entry, "name");
        let cell = hex::decode(text(entry, "cell")).unwrap();
        let (command, body) = (command(entry), body(entry));
        let header = if command == CMD_LINK { 7 } else { 11 };
        let length = usize::from(u16::from_be_bytes([cell[header - 2], cell[header - 1]]));
        assert_eq!(cell[header..header + length], body, "{name}");
        let (at, least) = if command == CMD_LINK {
            (4, header + length)
        } else {
            (0, 509)
        };
        assert_eq!((cell[at], cell.len()), (command, least), "{name}");
        assert!(Message::decode(command, &body).is_ok(), "{name}");
    }
    assert_eq!(file, framing(), "framing.json is not what the code writes");
    let longest = samples::messages().iter().map(|(_, m)| m.encode().len()).max().unwrap();
    assert_eq!(longest, MAX_LINK_BODY, "the longest message there is has a vector");
}

#[test]
fn prices_steps_and_fees_are_those_of_the_file() {
    let file = vectors("units.json", units);
    let numbers = |field: &str| -> Vec<u64> {
        let all = file[field].as_array().unwrap().iter();
        all.map(|n| n.as_str().unwrap().parse().unwrap()).collect()
    };
    for (rung, stroops) in numbers("ladder").into_iter().enumerate() {
        assert_eq!(usize::from(PricePer64KiB::new(stroops).unwrap().rung()), rung);
    }
    for (power, bytes) in numbers("steps").into_iter().enumerate() {
        assert_eq!(usize::from(Step::from_bytes(bytes).unwrap().power()), power);
    }
    assert_eq!(file, units(), "units.json is not what the code writes");
}

#[test]
fn what_an_owner_signs_is_that_of_the_file() {
    let file = vectors("ownership.json", ownership);
    for entry in file["messages"].as_array().unwrap() {
        let final_k = u32::try_from(entry["final_k"].as_u64().unwrap()).unwrap();
        let asks = match text(entry, "asks") {
            "books" => OwnerAsks::Books,
            _ => OwnerAsks::Close { final_k },
        };
        let ownership = Ownership {
            network: NetworkId(fields::bytes(&entry["network"])),
            payee: PeerId(fields::bytes(&entry["payee"])),
            escrow: EscrowId(fields::bytes(&entry["escrow"])),
            asks,
        };
        assert_eq!(hex::encode(ownership.message()), text(entry, "signed"));
    }
    assert_eq!(file, ownership(), "ownership.json is not what the code writes");
}

/// The tables of `messages.md` name every kind, with its number and every length that it has.
#[test]
fn the_specification_names_every_kind_with_its_lengths() {
    let page = fs::read_to_string(path("../messages.md")).unwrap();
    let sections: Vec<(u8, &str)> = page
        .split("\n## ")
        .filter_map(|section| Some((section.split_once(':')?.0.parse().ok()?, section)))
        .collect();
    assert_eq!(sections.iter().map(|(c, _)| *c).collect::<Vec<_>>(), COMMANDS);
    let mut rows = 0;
    for (command, section) in sections {
        let messages = samples::messages();
        let of: Vec<&Message> = messages
            .iter()
            .map(|(_, m)| m)
            .filter(|m| m.command() == command)
            .collect();
        for line in section.lines() {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let Some(name) = cells.get(1).and_then(|c| c.strip_prefix('`')?.strip_suffix('`')) else {
                continue;
            };
            rows += 1;
            let numbers: Vec<usize> = cells[cells.len() - 1]
                .split(|c: char| !c.is_ascii_digit() && c != ',')
                .filter_map(|n| n.trim_end_matches(',').replace(',', "").parse().ok())
                .collect();
            let is_range = cells[cells.len() - 1].contains(" to ");
            let own: Vec<&&Message> = of.iter().filter(|m| m.name() == name).collect();
            assert!(!own.is_empty(), "{name} is no message of {command}");
            for message in own {
                let body = message.encode();
                assert_eq!(cells[0], body[1].to_string(), "{name}");
                let within = is_range && (numbers[0]..=numbers[1]).contains(&body.len());
                assert!(
                    within || numbers.contains(&body.len()),
                    "{name}: {} bytes, not {numbers:?}",
                    body.len()
                );
            }
        }
    }
    assert_eq!(rows, 7 + 9 + 13);
}
