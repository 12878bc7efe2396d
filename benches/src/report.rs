//! Figures as people and programs read them.

use serde::Serialize;
use serde_json::{Value, json};

use crate::chain::Position;
use crate::relay::{Outcome, Who};

/// Minimum, median and maximum.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The least.
    pub min: f64,
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
    /// The most.
    pub max: f64,
}

impl Spread {
    /// Of some figures; `None` of none.
    pub fn of(figures: &[f64]) -> Option<Spread> {
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            0 => (sorted[middle - 1] + sorted[middle]) / 2.0,
            _ => sorted[middle],
        };
        Some(Spread { min, median, max })
    }
}

/// The value below which a share of the figures lies; `None` of none.
pub fn percentile(figures: &[f64], share: f64) -> Option<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    sorted.get((last as f64 * share).round() as usize).copied()
}

/// The machine, as far as figures depend on it.
pub fn machine() -> Value {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("unknown", |(_, model)| model.trim());
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    json!({
        "cpu": model,
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "kernel": kernel.trim(),
    })
}

/// The ratios that a run gives, by name.
const RATIOS: [(&str, Who, Who); 4] = [
    ("ours_to_ctor", Who::Ours, Who::CTor),
    ("ours_to_floor", Who::Ours, Who::Floor),
    ("paid_to_unpaid", Who::Ours, Who::Unpaid),
    ("small_steps_to_unpaid", Who::SmallSteps, Who::Paced),
];

fn key(who: Who) -> Value {
    serde_json::to_value(who).unwrap_or_default()
}

fn spread(figures: &[f64]) -> Option<Value> {
    let spread = Spread::of(figures)?;
    let mut value = serde_json::to_value(spread).ok()?;
    value.as_object_mut()?.insert("runs".to_owned(), json!(figures));
    Some(value)
}

/// All of `obol bench relay` for programs.
pub fn relay_json(outcome: &Outcome, size: u64, circuits: usize) -> Value {
    let positions = Position::ALL.map(|position| {
        let cpu: serde_json::Map<String, Value> = Who::ALL
            .into_iter()
            .filter_map(|who| Some((key(who).as_str()?.to_owned(), spread(&outcome.cpu(who, position))?)))
            .collect();
        let ratios: serde_json::Map<String, Value> = RATIOS
            .into_iter()
            .filter_map(|(name, who, to)| Some((name.to_owned(), spread(&outcome.ratios(who, to, position))?)))
            .collect();
        json!({
            "position": position.name(),
            "cpu_s_per_gb": cpu,
            "ratios": ratios,
            "floor_share_of_raw_ciphers": outcome.floor_share(position),
        })
    });
    let carried: serde_json::Map<String, Value> = Who::ALL
        .into_iter()
        .filter_map(|who| {
            let all = outcome.carried(who);
            let of = |figure: fn(&crate::lane::Carried) -> f64| spread(&all.iter().map(figure).collect::<Vec<_>>());
            let figures = json!({
                "bytes_per_second": of(|c| c.bytes_per_second)?,
                "payments": of(|c| c.payments as f64)?,
                "payment_bytes_to_payload": of(|c| c.payment_bytes as f64 / c.payload as f64)?,
                "unpaid_share": of(|c| c.unpaid_share)?,
            });
            Some((key(who).as_str()?.to_owned(), figures))
        })
        .collect();
    let raw = outcome.raw;
    json!({
        "machine": machine(),
        "tor": outcome.tor,
        "left_out": outcome.left_out.iter().map(|(who, why)| json!({ "who": who, "why": why })).collect::<Vec<_>>(),
        "payload_bytes": size,
        "circuits": circuits,
        "positions": positions,
        "downloads": carried,
        "raw_ciphers_s_per_gb": { "open": raw.open, "seal": raw.seal, "ctr": raw.ctr, "sha1": raw.sha1 },
    })
}

/// All of `obol bench relay` for people.
pub fn relay_text(outcome: &Outcome) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    let figures = |figures: &[f64]| match Spread::of(figures) {
        Some(Spread { min, median, max }) => format!("{median:6.3} ({min:.3}-{max:.3})"),
        None => "-".to_owned(),
    };
    let mut row = |name: &str, cells: [String; 3]| {
        let [guard, middle, exit] = cells;
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<22}{guard:>24}{middle:>24}{exit:>24}");
    };
    row("CPU seconds per GB", Position::ALL.map(|p| p.name().to_owned()));
    for who in Who::ALL {
        if !outcome.cpu(who, Position::Guard).is_empty() {
            row(who.name(), Position::ALL.map(|p| figures(&outcome.cpu(who, p))));
        }
    }
    for (name, who, to) in RATIOS {
        if !outcome.ratios(who, to, Position::Guard).is_empty() {
            let name = name.replace('_', " ");
            row(&name, Position::ALL.map(|p| figures(&outcome.ratios(who, to, p))));
        }
    }
    let share = |p| {
        outcome
            .floor_share(p)
            .map_or("-".to_owned(), |share| format!("{:.0} %", share * 100.0))
    };
    row("floor: ciphers' share", Position::ALL.map(share));
    for who in Who::ALL {
        let carried = outcome.carried(who);
        let speeds: Vec<f64> = carried.iter().map(|c| c.bytes_per_second / 1e6).collect();
        if let Some(speed) = Spread::of(&speeds) {
            let _ = write!(text, "{:<22}{:8.1} MB/s", who.name(), speed.median);
            if carried.iter().any(|c| c.payments > 0) {
                let bytes = carried.iter().map(|c| c.payment_bytes as f64 / c.payload as f64);
                let unpaid = carried.iter().map(|c| c.unpaid_share);
                let _ = write!(
                    text,
                    ", {} payments, {:.4} % of the bytes; {:.2} % carried unpaid",
                    carried.iter().map(|c| c.payments).sum::<u64>(),
                    Spread::of(&bytes.collect::<Vec<_>>()).map_or(0.0, |s| s.median) * 100.0,
                    Spread::of(&unpaid.collect::<Vec<_>>()).map_or(0.0, |s| s.median) * 100.0,
                );
            }
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_is_between_the_two_in_the_middle() {
        let spread = Spread::of(&[4.0, 1.0, 2.0, 3.0]).unwrap();
        assert_eq!((spread.min, spread.median, spread.max), (1.0, 2.5, 4.0));
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn percentiles_are_figures_that_were_measured() {
        let figures: Vec<f64> = (0..=100).map(f64::from).collect();
        assert_eq!(percentile(&figures, 0.5), Some(50.0));
        assert_eq!(percentile(&figures, 0.99), Some(99.0));
        assert_eq!(percentile(&[], 0.5), None);
    }
}
