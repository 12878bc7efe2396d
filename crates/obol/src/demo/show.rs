//! What a person sees while the demonstration runs: bars and lines on a terminal, lines elsewhere, nothing with `--json`.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use obol_client::{ClientHandle, Event};
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinHandle;

#[derive(Debug, Clone)]
pub(crate) enum Show {
    Nothing,
    Lines,
    Terminal,
}

impl Show {
    pub(crate) fn new(json: bool) -> Self {
        if json {
            Show::Nothing
        } else if std::io::stdout().is_terminal() {
            Show::Terminal
        } else {
            Show::Lines
        }
    }

    /// A heading.
    pub(crate) fn part(&self, text: &str) {
        match self {
            Show::Nothing => {}
            Show::Lines => println!("\n{text}"),
            Show::Terminal => println!("\n\x1b[1m{text}\x1b[0m"),
        }
    }

    pub(crate) fn line(&self, text: &str) {
        if !matches!(self, Show::Nothing) {
            println!("  {text}");
        }
    }

    /// A bar over `bytes`; hidden where there is no terminal.
    pub(crate) fn bar(&self, bytes: u64) -> ProgressBar {
        let bar = if matches!(self, Show::Terminal) {
            ProgressBar::new(bytes)
        } else {
            ProgressBar::hidden()
        };
        let style = ProgressStyle::with_template("  {bar:32} {bytes}/{total_bytes} {binary_bytes_per_sec} {msg}");
        if let Ok(style) = style {
            bar.set_style(style);
        }
        bar
    }

    /// A spinner while something is waited for.
    pub(crate) fn wait(&self, text: &str) -> ProgressBar {
        let bar = if matches!(self, Show::Terminal) {
            ProgressBar::new_spinner()
        } else {
            ProgressBar::hidden()
        };
        bar.set_message(text.to_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
        bar
    }

    /// Tells what the client does, as it happens, above `bar`.
    pub(crate) fn follow(&self, client: &ClientHandle, bar: &ProgressBar) -> JoinHandle<()> {
        let (mut events, show, bar) = (client.events(), self.clone(), bar.clone());
        tokio::spawn(async move {
            loop {
                let event = match events.recv().await {
                    Ok(event) => event,
                    Err(RecvError::Lagged(_)) => continue,
                    Err(RecvError::Closed) => return,
                };
                if let Some(text) = describe(&event) {
                    match show {
                        Show::Nothing => {}
                        Show::Lines => println!("  {text}"),
                        Show::Terminal => bar.println(format!("  {text}")),
                    }
                }
            }
        })
    }
}

fn describe(event: &Event) -> Option<String> {
    Some(match event {
        Event::EscrowOpening { guard, deposit } => {
            format!("escrow of {} to guard {} ...", units(*deposit), short(guard))
        }
        Event::EscrowOpened { escrow, .. } => format!("escrow {} is on the ledger", short(escrow)),
        Event::EscrowFailed { reason, .. } => format!("escrow failed: {reason}"),
        Event::EscrowSettled { paid, returned, .. } => {
            format!(
                "settled: {} to the guard, {} back to the wallet",
                units(*paid),
                units(*returned)
            )
        }
        Event::EscrowRefunded { returned, .. } => format!("refunded: {}", units(*returned)),
        Event::Quoted {
            hop,
            price_per_64_kib,
            initial_credit,
            ..
        } => {
            format!(
                "hop {hop} quotes {price_per_64_kib} stroops/64 KiB; initial credit {}",
                bytes(*initial_credit)
            )
        }
        Event::Chain { paid_hops, .. } => format!("{paid_hops} hops will be paid"),
        Event::NotPaid { hop, why, .. } => format!("hop {hop} is not paid: {why}"),
        Event::Requested { metered, .. } => format!("request: {} used", bytes(*metered)),
        Event::Paying {
            payment, step, total, ..
        } => {
            format!("payment {payment}: {} at every hop for {total} stroops", bytes(*step))
        }
        Event::PaymentRefused { payment, hop, code, .. } => {
            format!("payment {payment} was refused by hop {hop}: {code}")
        }
        Event::Warning { text } => text.clone(),
        _ => return None,
    })
}

/// An amount in units of the asset.
pub(crate) fn units(stroops: i64) -> String {
    let sign = if stroops < 0 { "-" } else { "" };
    let stroops = stroops.unsigned_abs();
    format!("{sign}{}.{:07}", stroops / 10_000_000, stroops % 10_000_000)
}

/// A number of bytes, short.
pub(crate) fn bytes(n: u64) -> String {
    match n {
        0..1024 => format!("{n} B"),
        1024..1_048_576 => format!("{} KiB", n >> 10),
        _ => format!("{:.1} MiB", n as f64 / 1_048_576.0),
    }
}

fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}
