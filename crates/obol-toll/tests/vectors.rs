//! `docs/protocol/vectors/steps.json`, held against the code: what a payment costs along a chain, how steps grow and what a hop sells,
//! when the next step is due, what a client believes, which numbers of claims are taken. `OBOL_WRITE_VECTORS=1` writes it anew
//! (docs/protocol/vectors.md).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use obol_cell::{ForwardPpm, PricePer64KiB, Step, Stroops, UNIT};
use obol_toll::amounts::{Forwarded, Growth, Part, ceiling, low_water};
use obol_toll::payer::meter::{CELL, Meter, cells_of};
use obol_toll::series::{BadK, Series};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/protocol/vectors/steps.json")
}

/// The file; written first from what the code says, if that was asked for.
fn file() -> Value {
    if std::env::var_os("OBOL_WRITE_VECTORS").is_some() {
        let text = serde_json::to_string_pretty(&current()).unwrap() + "\n";
        fs::write(path(), text).unwrap();
    }
    serde_json::from_str(&fs::read_to_string(path()).unwrap()).unwrap()
}

fn n(number: impl std::fmt::Display) -> Value {
    json!(number.to_string())
}

fn number(v: &Value) -> u64 {
    v.as_str().unwrap().parse().unwrap()
}

fn list<'a>(v: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    v[field].as_array().unwrap().iter()
}

fn step(v: &Value) -> Step {
    Step::from_bytes(number(v)).unwrap()
}

fn price(v: &Value) -> PricePer64KiB {
    PricePer64KiB::new(number(v)).unwrap()
}

// ---- chains ----

/// The parts of payments of these steps over these hops, one payment after the other.
fn chain(hops: &Value, steps: &[Value]) -> Value {
    let hops: Vec<(PricePer64KiB, ForwardPpm)> = hops
        .as_array()
        .unwrap()
        .iter()
        .map(|h| {
            let ppm = u32::try_from(h["forward_ppm"].as_u64().unwrap()).unwrap();
            (price(&h["price"]), ForwardPpm::new(ppm).unwrap())
        })
        .collect();
    let mut so_far = vec![Forwarded::default(); hops.len()];
    let payments = steps.iter().map(|bytes| {
        let mut forward = Stroops::ZERO;
        let mut parts: Vec<Part> = Vec::new();
        for ((price, ppm), so_far) in hops.iter().zip(&mut so_far).rev() {
            let part = so_far.part(*price, *ppm, step(bytes), forward).unwrap();
            forward = part.total().unwrap();
            so_far.book(&part);
            parts.push(part);
        }
        let parts = parts.iter().rev();
        let parts: Vec<Value> = parts
            .map(|p| {
                json!({
                    "cost": n(p.cost),
                    "forward": n(p.forward),
                    "fee": n(p.fee),
                    "arrives": n(p.total().unwrap()),
                })
            })
            .collect();
        json!({"step": bytes, "parts": parts})
    });
    payments.collect()
}

fn chains() -> Value {
    let hop = |price: u32, ppm: u32| json!({"price": n(price), "forward_ppm": ppm});
    let cases = [
        (json!([hop(100, 0)]), vec![1, 1, 2]),
        (json!([hop(100, 1_000), hop(100, 1_000), hop(100, 0)]), vec![1, 1, 2, 4]),
        (
            json!([hop(1, 10_000), hop(50, 10_000), hop(2_000, 10_000)]),
            vec![1, 1, 8, 256],
        ),
        (
            json!([hop(5, 0), hop(2, 1_000), hop(1, 10_000), hop(1, 1_000)]),
            vec![1, 1, 1],
        ),
    ];
    cases
        .into_iter()
        .map(|(hops, units)| {
            let steps: Vec<Value> = units.into_iter().map(|u: u64| n(u * UNIT)).collect();
            let payments = chain(&hops, &steps);
            json!({"hops": hops, "payments": payments})
        })
        .collect()
}

// ---- growth, and what is sold ----

fn growth(v: &Value) -> Growth {
    Growth {
        count: u32::try_from(v["sold_before"].as_u64().unwrap()).unwrap(),
        last: (!v["last"].is_null()).then(|| step(&v["last"])),
    }
}

fn permitted(v: &Value) -> Value {
    n(growth(v).next(number(&v["carried"]), step(&v["largest"])).bytes())
}

fn sells(v: &Value) -> bool {
    let (metered, unused) = (number(&v["metered"]), number(&v["unused"]));
    let wanted = step(&v["step"]);
    let most = ceiling(price(&v["forward_ceiling"]), wanted);
    let forward = Stroops::try_from(number(&v["forward"])).unwrap();
    growth(v).allows(wanted, metered, unused, step(&v["largest"])) && forward <= most
}

fn growths() -> Value {
    let u = UNIT;
    let cases: [(u32, Option<u64>, u64, u64); 9] = [
        (0, None, 1 << 40, 256),
        (1, Some(1), 1 << 40, 256),
        (2, Some(1), 0, 256),
        (2, Some(1), 2 * u - 1, 256),
        (2, Some(1), 2 * u, 256),
        (9, Some(16), 3 * u, 256),
        (9, Some(16), 100 * u, 256),
        (9, Some(16), 1 << 40, 256),
        (9, Some(16), 1 << 40, 4),
    ];
    cases
        .into_iter()
        .map(|(count, last, carried, largest)| {
            let mut v = json!({
                "sold_before": count,
                "last": last.map(|l| n(l * u)),
                "carried": n(carried),
                "largest": n(largest * u),
            });
            v["permitted"] = permitted(&v);
            v
        })
        .collect()
}

fn sales() -> Value {
    let u = UNIT;
    let window = 1_000 * CELL;
    // Sold before, last, metered, unused, step, forward; largest 256 units, ceiling 200.
    let cases: [(u32, Option<u64>, u64, u64, u64, u64); 14] = [
        (0, None, 0, 0, 1, 0),
        (0, None, 1 << 40, 0, 2, 0),
        (0, None, 0, 0, 1, 200),
        (0, None, 0, 0, 1, 201),
        (2, Some(1), u, 0, 2, 400),
        (2, Some(1), u / 2, 0, 2, 400),
        (2, Some(1), 7 * u, 0, 8, 0),
        (2, Some(1), 6 * u, 0, 8, 0),
        (2, Some(1), 0, u + window, 1, 0),
        (2, Some(1), 0, u + window + 1, 1, 0),
        (90, Some(1), 90 * u, u + window + 560 * CELL, 1, 0),
        (90, Some(1), 90 * u, u + window + 560 * CELL + 1, 1, 0),
        (90, Some(256), 1 << 40, 0, 256, 0),
        (90, Some(256), 1 << 40, 0, 512, 0),
    ];
    cases
        .into_iter()
        .map(|(count, last, metered, unused, step, forward)| {
            let mut v = json!({
                "sold_before": count,
                "last": last.map(|l| n(l * u)),
                "metered": n(metered),
                "unused": n(unused),
                "step": n(step * u),
                "largest": n(256 * u),
                "forward": n(forward),
                "forward_ceiling": n(200),
            });
            v["sold"] = json!(sells(&v));
            v
        })
        .collect()
}

fn marks() -> Value {
    let cases = [
        (1, 0, 50),
        (16, 400_000, 1_000),
        (16, 100_000_000, 1_000),
        (256, 1_000_000, 500),
    ];
    cases
        .into_iter()
        .map(|(units, rate, took_ms): (u64, u64, u64)| {
            let mut v = json!({"step": n(units * UNIT), "rate": n(rate), "payment_ms": n(took_ms)});
            v["low"] = mark(&v);
            v
        })
        .collect()
}

fn mark(v: &Value) -> Value {
    n(low_water(
        step(&v["step"]),
        number(&v["rate"]),
        number(&v["payment_ms"]),
    ))
}

// ---- the client's meter ----

fn meters() -> Value {
    let cases: [(&[u64], u32); 4] = [
        (&[], 0),
        (&[1, 498, 499, 0], 1),
        (&[498_000], 4),
        (&[49_800_000, 49_800_000], 100),
    ];
    cases
        .into_iter()
        .map(|(lengths, bought)| {
            let lengths: Vec<Value> = lengths.iter().map(n).collect();
            let mut v = json!({"lengths": lengths, "steps_bought": bought});
            (v["floor"], v["believable"]) = metered(&v);
            v
        })
        .collect()
}

fn metered(v: &Value) -> (Value, Value) {
    let mut meter = Meter::default();
    for length in list(v, "lengths") {
        meter.add(cells_of(number(length)));
    }
    let growth = Growth {
        count: u32::try_from(v["steps_bought"].as_u64().unwrap()).unwrap(),
        last: None,
    };
    (n(meter.floor()), n(meter.believable() + growth.payment_bytes()))
}

// ---- numbers of claims ----

fn taken(ks: &[Value]) -> Vec<Value> {
    let mut series = Series::default();
    ks.iter()
        .map(|k| {
            let k = u32::try_from(k.as_u64().unwrap()).unwrap();
            let what = match series.check(k) {
                Ok(()) => "taken",
                Err(BadK::Seen) => "seen",
                Err(BadK::OutOfRange) => "out-of-range",
            };
            series.mark(if what == "taken" { k } else { series.newest() });
            json!(what)
        })
        .collect()
}

fn numbers() -> Value {
    let cases: [&[u32]; 3] = [
        &[0, 1, 1, 3, 2, 2, 4],
        &[1_025, 1_024, 1, 2_048, 1_025, 1_024, 3_073, 3_072, 2_049, 2_048],
        &[i32::MAX as u32 + 1, u32::MAX, 1],
    ];
    cases
        .into_iter()
        .map(|ks| {
            let ks: Vec<Value> = ks.iter().map(|k| json!(k)).collect();
            let outcomes = taken(&ks);
            json!({"k": ks, "outcomes": outcomes})
        })
        .collect()
}

fn current() -> Value {
    json!({
        "about": "What a payment costs at each hop (guard first), step after step on one circuit; how steps grow and what a hop sells; when the next step is due; what a client's meter shows and believes; which numbers of claims are taken, one after the other.",
        "owner": "obol-toll tests/vectors.rs",
        "chains": chains(),
        "growth": growths(),
        "sales": sales(),
        "low_water": marks(),
        "meters": meters(),
        "claim_numbers": numbers(),
    })
}

#[test]
fn sums_steps_and_numbers_of_the_file_are_what_its_inputs_give() {
    let file = file();
    for v in list(&file, "chains") {
        let steps: Vec<Value> = list(v, "payments").map(|p| p["step"].clone()).collect();
        assert_eq!(chain(&v["hops"], &steps), v["payments"]);
    }
    for v in list(&file, "growth") {
        assert_eq!(permitted(v), v["permitted"], "{v}");
    }
    for v in list(&file, "sales") {
        assert_eq!(json!(sells(v)), v["sold"], "{v}");
    }
    for v in list(&file, "low_water") {
        assert_eq!(mark(v), v["low"], "{v}");
    }
    for v in list(&file, "meters") {
        let (floor, believable) = metered(v);
        assert_eq!((&floor, &believable), (&v["floor"], &v["believable"]), "{v}");
    }
    for v in list(&file, "claim_numbers") {
        assert_eq!(
            taken(v["k"].as_array().unwrap()),
            *v["outcomes"].as_array().unwrap(),
            "{v}"
        );
    }
}

#[test]
fn the_file_shows_both_what_is_sold_and_what_is_not_and_is_what_the_code_writes() {
    let file = file();
    let sold = list(&file, "sales").filter(|v| v["sold"] == true).count();
    assert_eq!((sold, file["sales"].as_array().unwrap().len()), (7, 14));
    assert_eq!(file, current(), "steps.json is not what the code writes");
}
