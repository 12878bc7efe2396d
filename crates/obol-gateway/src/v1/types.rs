//! What the interface's answers look like. Amounts are stroops (10⁻⁷ of a unit; of lumens, too), times unix seconds, sizes bytes.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::whole::{whole, whole_or_none};

/// Which program this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// A relay.
    Relay,
    /// A client.
    Client,
}

/// How it stands with payments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It has only just begun.
    Starting,
    /// Nobody pays: a client is served in the unpaid class, a relay serves that class alone.
    Unpaid,
    /// A client's circuits live of what relays give before the first payment.
    InitialCredit,
    /// Circuits are paid for.
    Paying,
    /// There is nothing to pay with.
    OutOfFunds,
    /// Payments have stopped because something failed.
    Stopped,
    /// A relay has carried all that it may in this period.
    Hibernating,
}

/// How the program is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Status {
    /// Which program.
    pub role: Role,
    /// Its version.
    pub version: String,
    /// When it started.
    pub started_at: u64,
    /// When this was said.
    pub now: u64,
    /// How it stands with payments.
    pub state: Standing,
    /// The same in a sentence.
    pub explanation: String,
    /// A relay's name.
    pub nickname: Option<String>,
    /// A relay's RSA identity: 40 hexadecimal digits.
    pub fingerprint: Option<String>,
    /// What is paid in.
    pub asset: Option<AssetName>,
    /// The ledger's network.
    pub network_passphrase: Option<String>,
    /// The account that a person funds.
    pub account: Option<String>,
    /// The ledger as it was last seen.
    pub ledger: Option<Ledger>,
    /// The Tor network as it was last seen.
    pub tor: Tor,
    /// Bytes of cells carried since the start; a client's are on its tunnels.
    pub carried: ByClass,
    /// Circuits now; a client's tunnels.
    pub circuits: ByClass,
    /// Links to other relays and clients now; a client's to its guards.
    pub links: u64,
}

/// An asset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct AssetName {
    /// Its code.
    pub code: String,
    /// Who issues it, `G...`.
    pub issuer: String,
}

/// The ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct Ledger {
    /// Whether it answered when it was last asked.
    pub reachable: bool,
    /// The newest one's number.
    pub sequence: u32,
    /// When that closed.
    pub close_time: u64,
}

/// The Tor network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, ToSchema)]
pub struct Tor {
    /// Whether its directory is there.
    pub bootstrapped: bool,
    /// The newest consensus's.
    pub consensus_valid_after: Option<u64>,
    /// Whether a relay is in that consensus.
    pub listed: Option<bool>,
    /// Whether a relay's own test of its port went well.
    pub reachable: Option<bool>,
    /// A relay's authorities.
    pub authorities: Vec<Authority>,
}

/// A directory authority, as a relay knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Authority {
    /// Its name.
    pub name: String,
    /// Whether it took the newest descriptor.
    pub has_our_descriptor: bool,
    /// Why not, in its words or ours.
    pub problem: Option<String>,
}

/// Two classes of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, ToSchema)]
pub struct ByClass {
    /// With credit.
    pub paid: u64,
    /// Without.
    pub unpaid: u64,
}

/// What there is, what is locked and what is owed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, ToSchema)]
pub struct Balances {
    /// When the accounts were read on the ledger; `null`: they could not be.
    pub read_at: Option<u64>,
    /// What they hold of the asset together.
    pub asset: Option<i64>,
    /// What they hold of lumens together, in stroops of lumens.
    pub lumens: Option<i64>,
    /// In own escrows, and not signed away.
    pub locked: i64,
    /// Signed away on own escrows, and not settled.
    pub signed: i64,
    /// Others' claims that are held and not settled.
    pub unsettled: i64,
    /// Owed to this relay by others' statements, and not paid.
    pub owed_to_us: i64,
    /// Owed by this relay's statements, and not paid.
    pub owed: i64,
    /// Account by account.
    pub accounts: Vec<Account>,
}

/// What an account is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// A client's: a person funds it, escrows are paid from it by way of one-time accounts.
    Wallet,
    /// A relay's: escrows pay to it.
    Payee,
    /// A relay's: escrows to other relays are funded from it.
    Payer,
    /// A relay's: pays and is paid what is owed instead of locked.
    Trust,
    /// Opens a few escrows, and is not used again.
    OneTime,
}

/// An account on the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Account {
    /// What it is for.
    pub purpose: Purpose,
    /// `G...`.
    pub account: String,
    /// What it holds of the asset; `null`: no trust line, no account, or not read.
    pub asset: Option<i64>,
    /// What it holds of lumens; `null`: no account, or not read.
    pub lumens: Option<i64>,
}

/// Who pays by an escrow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Somebody pays this relay.
    In,
    /// This program pays.
    Out,
}

/// Where an escrow stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EscrowState {
    /// It is agreed upon, and not on the ledger yet.
    Opening,
    /// In use.
    Open,
    /// Nothing new is signed or taken on it.
    Closing,
    /// Its newest claim is on the way to the ledger.
    Flushing,
    /// It ended, and paid this relay.
    Settled,
    /// It ended, and paid its payee.
    Ended,
    /// It ended, and paid its payee nothing.
    Refunded,
    /// It was never opened.
    Abandoned,
}

/// An escrow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Escrow {
    /// Its account, `G...`.
    pub escrow: String,
    /// Who pays by it.
    pub direction: Direction,
    /// The relay at its other end, by its Ed25519 identity in hexadecimal; `null`: a client.
    pub peer: Option<String>,
    /// What was put in.
    pub deposit: i64,
    /// What the newest claim leaves of that.
    pub balance: i64,
    /// The newest claim.
    pub cumulative: i64,
    /// The newest claim's number.
    pub k: u64,
    /// What of the newest claim is assigned to circuits.
    pub allocated: i64,
    /// Where it stands.
    pub state: EscrowState,
    /// What its end paid the payee.
    pub settled: Option<i64>,
    /// After this it goes back to the payer.
    pub expiry: u64,
    /// When it was opened, where that is remembered.
    pub opened_at: Option<u64>,
}

/// Where a claim stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClaimState {
    /// A payer's, in this relay's journal.
    Held,
    /// This program's, given to a payee.
    Signed,
    /// On its way to the ledger.
    Flushing,
    /// The ledger has decided.
    Settled,
}

/// The newest claim of an escrow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Claim {
    /// The escrow, `G...`.
    pub escrow: String,
    /// Who pays by it.
    pub direction: Direction,
    /// The claim's number.
    pub k: u64,
    /// What it pays in all.
    pub cumulative: i64,
    /// Where it stands.
    pub state: ClaimState,
}

/// What became of a payment request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RequestOutcome {
    /// Nothing yet.
    Waiting,
    /// It was paid.
    Paid,
    /// It was not paid, or not by all hops.
    Refused,
    /// It is not paid on purpose, to see whether paying helps.
    Withheld,
}

/// A payment request: a hop's credit runs low.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PaymentRequest {
    /// Counts from 1 in each run.
    pub id: u64,
    /// When it was sent (relay) or received (client).
    pub at: u64,
    /// The circuit's number in this run; a client's tunnel.
    pub circuit: u64,
    /// Bytes that the hop had carried on it.
    pub metered: u64,
    /// What became of it.
    pub outcome: RequestOutcome,
    /// The payment's number on its circuit.
    pub payment: Option<u16>,
}

/// What became of a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PaymentOutcome {
    /// Under way.
    Waiting,
    /// Credited: at this relay, or at all paid hops of a client's tunnel.
    Complete,
    /// Refused by a hop.
    Refused,
}

/// A payment for a step of traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Payment {
    /// Counts from 1 in each run.
    pub id: u64,
    /// When it was credited (relay) or sent (client).
    pub at: u64,
    /// The circuit's number in this run; a client's tunnel.
    pub circuit: u64,
    /// Its number on the circuit.
    pub n: u16,
    /// Bytes bought at each hop.
    pub bytes: u64,
    /// All of it: what came in here, what went out of the wallet.
    pub total: i64,
    /// A relay's own part.
    pub earned: Option<i64>,
    /// What a relay passed on.
    pub forwarded: Option<i64>,
    /// What each paid hop gets for its own bytes, the guard first; of a client's payments.
    pub amounts: Option<Vec<i64>>,
    /// From sending it to its completion; of a client's payments.
    pub millis: Option<u64>,
    /// What became of it.
    pub outcome: PaymentOutcome,
    /// Why it was refused, as on the wire.
    pub code: Option<String>,
}

/// What came together in a span of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, ToSchema)]
pub struct Bin {
    /// When the span begins.
    pub start: u64,
    /// Bytes carried with credit.
    pub carried_paid: u64,
    /// Bytes carried without.
    pub carried_unpaid: u64,
    /// Payment requests.
    pub requests: u64,
    /// Payments that were completed.
    pub payments: u64,
    /// Payments that were refused.
    pub refusals: u64,
    /// A relay's own part of payments.
    pub earned: i64,
    /// What a relay passed on.
    pub forwarded: i64,
    /// Signed away to others.
    pub signed: i64,
    /// Paid to this program by the ledger.
    pub settled_in: i64,
    /// Paid to others by the ledger.
    pub settled_out: i64,
    /// What others owed this program at the end of the span, claims that are not settled included; `null`: not looked at in it.
    pub owed: Option<i64>,
}

/// Bins of equal length, without gaps, the oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Bins {
    /// How long each is, seconds.
    pub bin: u64,
    /// They.
    pub bins: Vec<Bin>,
}

/// A neighbour with whom there is money.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, ToSchema)]
pub struct Peer {
    /// Its Ed25519 identity in hexadecimal.
    pub peer: String,
    /// Its name, if the directory has it.
    pub nickname: Option<String>,
    /// Links to it now.
    pub links: u64,
    /// Bytes that circuits from it carried here, or a guard for this client, in this run.
    pub carried: u64,
    /// Earned here for what it passed on.
    pub earned: i64,
    /// Signed away to it.
    pub signed: i64,
    /// Paid by it on the ledger.
    pub settled_in: i64,
    /// Paid to it on the ledger.
    pub settled_out: i64,
    /// Owed to this relay by its statements, and not paid.
    pub owed_to_us: i64,
    /// Owed to it, and not paid.
    pub owed: i64,
    /// The escrow by which it pays now, `G...`.
    pub escrow_in: Option<String>,
    /// The escrow by which it is paid now, `G...`.
    pub escrow_out: Option<String>,
    /// What a client's experience with it is.
    pub score: Option<Score>,
}

/// What a client's experience with a relay is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, ToSchema)]
pub struct Score {
    /// Bytes that were bought of it.
    pub bought: u64,
    /// Bytes that it carried.
    pub carried: u64,
    /// Events in which circuits over it broke.
    pub failures: u64,
    /// Whether it is not paid any more for that.
    pub shunned: bool,
}

/// A circuit of a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct Circuit {
    /// Its number in this run.
    pub circuit: u64,
    /// Whether it has credit.
    pub class: Class,
    /// Whether it came from a client, or from a relay.
    pub from_client: bool,
    /// Payments credited.
    pub payments: u64,
    /// Bytes bought.
    pub bought: u64,
    /// Bytes of credit left.
    pub credit: u64,
    /// Bytes carried.
    pub metered: u64,
    /// Assigned to it.
    pub paid: i64,
    /// Of that, earned here.
    pub earned: i64,
    /// Of that, passed on.
    pub forwarded: i64,
    /// Whether it is still open.
    pub open: bool,
}

/// A class of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// With credit.
    Paid,
    /// Without.
    Unpaid,
}

/// A tunnel of a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Tunnel {
    /// Its number in this run.
    pub tunnel: u64,
    /// Whether it still exists.
    pub open: bool,
    /// Streams that it carried.
    pub streams: u64,
    /// Payload written.
    pub sent: u64,
    /// Payload read.
    pub received: u64,
    /// What left the wallet for it.
    pub spent: i64,
    /// Bytes bought at every paid hop.
    pub bought: u64,
    /// Payments completed.
    pub payments: u64,
    /// Payment requests.
    pub requests: u64,
    /// Payments refused.
    pub refused: u64,
    /// How many hops are paid, from the guard.
    pub paid_hops: u8,
    /// From the first stream's request to the first credit at the last paid hop.
    pub first_payment_ms: Option<u64>,
    /// Whether it belongs to an onion service that is hosted here.
    pub hosted: bool,
    /// What is known of the hops behind a rendezvous point, for people.
    pub far_side: Option<String>,
    /// The hops, guard first.
    pub hops: Vec<Hop>,
}

/// A hop of a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Hop {
    /// The relay's RSA identity in hexadecimal; empty for a virtual hop.
    pub fingerprint: String,
    /// Its name, if the directory has it.
    pub nickname: Option<String>,
    /// Whether it can be paid.
    pub paid_hop: bool,
    /// Why it is not paid, for people.
    pub unpaid: Option<String>,
    /// Its price.
    pub price_per_64_kib: Option<i64>,
    /// Bytes that it says it carried.
    pub metered: Option<u64>,
    /// What it got for its own bytes.
    pub paid: i64,
}

/// What a relay asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct Tariff {
    /// Its price for own bytes.
    pub price_per_64_kib: u64,
    /// Its fee on what it passes on, in millionths.
    pub forward_ppm: u32,
    /// The most that it passes on for 64 KiB.
    pub forward_ceiling: u64,
    /// The largest step it sells.
    pub max_step: u64,
    /// What a circuit gets before it pays.
    pub initial_credit: u64,
    /// The least deposit of an escrow.
    pub min_deposit: i64,
    /// The shortest life of an escrow, seconds.
    pub min_life: u64,
    /// The longest life of an escrow, seconds.
    pub max_life: u64,
    /// How long before its end an escrow is flushed, seconds.
    pub margin: u64,
}

/// What a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Stroops of the asset.
    Stroops,
    /// Stroops of lumens.
    Lumens,
    /// Escrows in a minute.
    PerMinute,
    /// Openings of escrows.
    Openings,
}

/// How much of a limit is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Limit {
    /// Its name, as in the configuration.
    pub limit: String,
    /// How much is used; of the one that uses most, where it holds for each.
    pub used: i64,
    /// How much there is.
    pub of: i64,
    /// What is counted.
    pub unit: Unit,
    /// Whether it is nearly used up.
    pub alarm: bool,
}

/// What a client may sign away. `null`: without a limit of this kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BudgetsWanted {
    /// For one tunnel.
    #[serde(default, deserialize_with = "whole_or_none")]
    #[schema(minimum = 0)]
    pub circuit: Option<i64>,
    /// On one day, UTC.
    #[serde(default, deserialize_with = "whole_or_none")]
    #[schema(minimum = 0)]
    pub day: Option<i64>,
    /// In one month, UTC.
    #[serde(default, deserialize_with = "whole_or_none")]
    #[schema(minimum = 0)]
    pub month: Option<i64>,
    /// In all.
    #[serde(default, deserialize_with = "whole_or_none")]
    #[schema(minimum = 0)]
    pub total: Option<i64>,
}

/// What a client may sign away, and what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, ToSchema)]
pub struct Budgets {
    /// For one tunnel.
    pub circuit: Option<i64>,
    /// On one day, UTC.
    pub day: Option<i64>,
    /// In one month, UTC.
    pub month: Option<i64>,
    /// In all.
    pub total: Option<i64>,
    /// Signed away today.
    pub spent_day: i64,
    /// Signed away this month.
    pub spent_month: i64,
    /// Signed away in all.
    pub spent_total: i64,
}

/// When a client pays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Pay {
    /// Every step.
    Always,
    /// Where that makes a difference.
    WhenItHelps,
    /// No step.
    Never,
}

/// Which tunnels a client's streams go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Paths {
    /// The first that Arti gives.
    Any,
    /// One whose hops can all be paid, if a few tries find one.
    Prefer,
    /// Only such a one.
    Only,
}

/// What a client pays at most, and for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Ceilings {
    /// The most that one hop may ask for 64 KiB.
    #[serde(deserialize_with = "whole")]
    #[schema(minimum = 1, maximum = 9223372036854775807_i64)]
    pub price_per_64_kib: u64,
    /// The most that a tunnel may cost for 64 KiB, fees included; `null`: three times the price of a hop, and 1 %.
    #[serde(default, deserialize_with = "whole_or_none")]
    #[schema(minimum = 1, maximum = 9223372036854775807_i64)]
    pub tunnel_price_per_64_kib: Option<u64>,
    /// When to pay.
    pub pay: Pay,
    /// Which tunnels to take.
    pub paths: Paths,
}

/// What to settle.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FlushWanted {
    /// The escrow, `G...`; `null` or absent: all.
    pub escrow: Option<String>,
}

/// What is being settled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Flushing {
    /// The escrows, `G...`.
    pub flushing: Vec<String>,
}
