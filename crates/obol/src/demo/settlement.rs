//! The end: escrows are closed, flushed, swept, merged; those that nobody used expire and are refunded; the ledger is audited.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context;
use obol_stellar::key::account_text;
use obol_testnet::network::Network;
use obol_testnet::state::{Escrow, RelayState};
use serde_json::json;

use super::Stage;
use super::report::Report;
use super::show::{Show, units};

/// How long any step of the settlement may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Ledgers from an escrow's opening until its account may be merged, and some more.
const LEDGERS_TO_MERGE: u32 = 70;
/// The life of an escrow between relays, and an hour.
const PAST_EXPIRY: u64 = 7 * 86_400 + 3_600;

/// All relays' states, by fingerprint.
pub(crate) async fn states(network: &Network) -> anyhow::Result<Vec<(String, RelayState)>> {
    let mut states = Vec::with_capacity(network.relays.len());
    for relay in &network.relays {
        states.push((relay.fingerprint.clone(), RelayState::of(&relay.control).await?));
    }
    Ok(states)
}

async fn wait_until(
    network: &Network,
    what: &'static str,
    holds: impl Fn(&[(String, RelayState)]) -> bool,
) -> anyhow::Result<Vec<(String, RelayState)>> {
    let began = Instant::now();
    loop {
        let states = states(network).await?;
        if holds(&states) {
            return Ok(states);
        }
        anyhow::ensure!(
            began.elapsed() < PATIENCE,
            "{what} did not happen within {} s",
            PATIENCE.as_secs()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn outgoing(state: &RelayState) -> impl Iterator<Item = &Escrow> {
    state.escrows.iter().filter(|e| e.direction == "out")
}

fn incoming(state: &RelayState) -> impl Iterator<Item = &Escrow> {
    state.escrows.iter().filter(|e| e.direction == "in")
}

/// Every relay has an escrow to every other, opened ahead of need.
pub(crate) async fn wait_for_relay_escrows(network: &Network) -> anyhow::Result<()> {
    let others = network.relays.len() - 1;
    wait_until(network, "opening the escrows between the relays", |states| {
        states
            .iter()
            .all(|(_, s)| outgoing(s).filter(|e| e.state == "open").count() >= others)
    })
    .await?;
    Ok(())
}

pub(crate) async fn run(stage: &Stage, show: &Show, report: &mut Report) -> anyhow::Result<()> {
    show.part("Close, flush, sweep");
    let network = &stage.network;
    let wait = show.wait("the guard flushes the client's escrow");
    stage.payer.set_pay(obol_client::Pay::Never);
    let settling = async {
        wait_until(network, "the guard's flush", |states| {
            let of_clients = |s: &RelayState| {
                incoming(s)
                    .filter(|e| e.k > 0 && is_client(e, states))
                    .all(|e| e.settled_stroops.is_some())
            };
            states.iter().all(|(_, s)| of_clients(s))
        })
        .await?;
        wait.set_message("relays flush each other's escrows");
        for relay in &network.relays {
            relay.control.tell("close-escrows", json!({})).await?;
        }
        let settled = wait_until(network, "the relays' flushes", |states| {
            states.iter().all(|(_, s)| {
                s.escrows
                    .iter()
                    .filter(|e| e.k > 0)
                    .all(|e| e.settled_stroops.is_some())
            })
        })
        .await?;
        wait.set_message("payers sweep and merge");
        network
            .ledger
            .advance(5, LEDGERS_TO_MERGE)
            .context("winding the ledger on")?;
        anyhow::Ok(settled)
    };
    let (closed, settled) = tokio::join!(stage.payer.close_escrows(PATIENCE), settling);
    let settled = settled?;
    closed?;
    wait.finish_and_clear();

    let mut exact = true;
    let mut flushed = 0;
    for (fingerprint, state) in &settled {
        let sum = |escrows: Vec<&Escrow>| {
            let claims: i64 = escrows.iter().map(|e| e.cumulative).sum();
            let paid: i64 = escrows.iter().filter_map(|e| e.settled_stroops).sum();
            (claims, paid)
        };
        let used_in: Vec<&Escrow> = incoming(state).filter(|e| e.k > 0).collect();
        flushed += used_in.len();
        exact &= state
            .escrows
            .iter()
            .filter(|e| e.k > 0)
            .all(|e| e.settled_stroops == Some(e.cumulative));
        let (claims_in, paid_in) = sum(used_in);
        let (claims_out, paid_out) = sum(outgoing(state).filter(|e| e.k > 0).collect());
        if let Some(hop) = report.hops.iter_mut().find(|h| h.fingerprint == *fingerprint) {
            hop.settled_stroops = paid_in - paid_out;
            hop.last_claims_stroops = claims_in - claims_out;
        }
        show.line(&format!(
            "{}: {} received, {} paid on",
            fingerprint.get(..8).unwrap_or(fingerprint),
            units(paid_in),
            units(paid_out)
        ));
    }
    report.escrows_flushed = flushed;
    report.check(
        "what settled is the last claim, to the stroop",
        exact && flushed > 0,
        format!("{flushed} escrows"),
    );
    let covered = report.hops.iter().all(|h| h.settled_stroops >= h.paid_stroops);
    report.check("no relay got less on the ledger than it booked", covered, "hop by hop");

    show.part("The ledger's clock goes forward a week: escrows that nobody used are refunded");
    let wait = show.wait("refunds");
    let unused: usize = settled
        .iter()
        .map(|(_, s)| outgoing(s).filter(|e| e.k == 0).count())
        .sum();
    network
        .ledger
        .advance(PAST_EXPIRY, 1)
        .context("winding the ledger's clock")?;
    let refunded = |states: &[(String, RelayState)]| -> Vec<Escrow> {
        states
            .iter()
            .flat_map(|(_, s)| outgoing(s))
            .filter(|e| e.k == 0 && e.state == "refunded")
            .cloned()
            .collect()
    };
    let after = wait_until(network, "the refunds", |states| refunded(states).len() >= unused).await?;
    let refunds = refunded(&after);
    wait.finish_and_clear();
    report.escrows_refunded = refunds.len();
    show.line(&format!(
        "{} escrows, {} each",
        refunds.len(),
        units(refunds.first().map_or(0, |e| e.deposit))
    ));
    report.check(
        "expired escrows came back",
        !refunds.is_empty() && refunds.len() >= unused,
        format!("{} of {unused}", refunds.len()),
    );

    audit(stage, report)?;
    books(stage, report).await
}

/// Whether an incoming escrow is a client's: no relay lists it among those that it pays by.
fn is_client(escrow: &Escrow, states: &[(String, RelayState)]) -> bool {
    !states
        .iter()
        .any(|(_, s)| outgoing(s).any(|e| e.escrow == escrow.escrow))
}

/// Adds everything up, from ledger entries alone.
fn audit(stage: &Stage, report: &mut Report) -> anyhow::Result<()> {
    let network = &stage.network;
    let audit = network.ledger.audit().context("auditing the ledger")?;
    let asset = obol_stellar::asset::asset_text(&network.economy.asset);
    let issuer = account_text(&obol_cell::AccountId(network.economy.asset.issuer));
    let mut balances: BTreeMap<String, i64> = BTreeMap::new();
    let mut sum = 0i64;
    for (account, held) in &audit.accounts {
        let amount = held.assets.get(&asset).copied().unwrap_or(0);
        sum = sum.checked_add(amount).context("more stroops than can be")?;
        if amount != 0 && *account != issuer {
            balances.insert(account.clone(), amount);
        }
    }
    report.balances = balances;
    let difference = sum - network.economy.issued.get();
    report.stroops_created_or_lost = difference.abs() + audit.created_or_lost().abs();
    report.ledger_transactions = count_transactions(&network.ledger).context("counting transactions")?;
    report.check(
        "every stroop is accounted for",
        report.stroops_created_or_lost == 0,
        format!(
            "{} of {} held by {} accounts",
            units(sum),
            units(network.economy.issued.get()),
            report.balances.len()
        ),
    );
    Ok(())
}

/// Proves the books of everybody: each relay's journal and the client's.
async fn books(stage: &Stage, report: &mut Report) -> anyhow::Result<()> {
    let mut wrong = Vec::new();
    for relay in &stage.network.relays {
        let verdict = relay.control.tell("audit", json!({})).await?;
        if verdict["ok"] != true {
            wrong.push(format!("{}: {}", relay.nickname, verdict["error"]));
        }
    }
    match stage.payer.audit().await {
        Some(Ok(())) => {}
        Some(Err(error)) => wrong.push(format!("client: {error}")),
        None => wrong.push("client: no journal".to_owned()),
    }
    let proven = format!("{} journals", stage.network.relays.len() + 1);
    report.check(
        "everybody's books are proven",
        wrong.is_empty(),
        if wrong.is_empty() { proven } else { wrong.join("; ") },
    );
    Ok(())
}

/// All transactions that ever were in a ledger, failed ones too.
fn count_transactions(ledger: &obol_ledger::Ledger) -> Result<usize, obol_ledger::StoreError> {
    let every = obol_ledger::Filter {
        account: None,
        range: None,
        failed: true,
        payments: false,
    };
    let (mut cursor, mut count) = (0, 0);
    loop {
        let page = ledger.transactions(
            obol_ledger::Page {
                cursor,
                descending: false,
                limit: 200,
            },
            &every,
        )?;
        let Some(last) = page.last() else { return Ok(count) };
        cursor = last.id;
        count += page.len();
    }
}
