//! Every metric of a relay, in one table ([`TABLE`]), in Prometheus' text format.
//!
//! The data plane counts with plain additions on its own; its counters are copied when somebody reads
//! ([`Metrics::render`]). Payments are rare and count here directly. No label names a session, a circuit or a peer: such
//! labels would grow without bound, and tell who was where.

use std::sync::{Mutex, PoisonError};

use obol_onion::engine::Counters;
use prometheus::{Encoder as _, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};

/// How a metric behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only rises; from 0 at the process's start.
    Counter,
    /// What is now.
    Gauge,
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Which.
    pub metric: Metric,
    /// Its name, without a prefix to be added.
    pub name: &'static str,
    /// What it counts, in which unit.
    pub help: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// Its labels and the values that each can have.
    pub labels: &'static [(&'static str, &'static [&'static str])],
}

const CLASS: (&str, &[&str]) = ("class", &["paid", "unpaid"]);
const DIRECTION: (&str, &[&str]) = ("direction", &["to_client", "from_client"]);
const SIDE: (&str, &[&str]) = ("side", &["payee", "payer"]);
/// Why payments are refused, as in payment-protocol.md.
pub const REFUSALS: &[&str] = &["no_funds", "over_limit", "failed", "closing"];
/// What is limited (settlement.md, M6); as in the configuration, where it is set there.
pub const LIMITS: &[&str] = &[
    "unsettled",
    "unsettled_of_payer",
    "locked",
    "locked_with_peer",
    "new_escrows",
    "payee_lumens",
    "payer_lumens",
    "owed_to_us",
    "owed",
    "owed_to_peer",
];

macro_rules! table {
    ($($metric:ident $name:literal $kind:ident [$($label:expr),*] $help:literal;)*) => {
        /// Names a metric of the [`TABLE`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Metric {
            $(#[doc = $help] $metric,)*
        }

        /// All metrics.
        pub const TABLE: &[Row] = &[
            $(Row {
                metric: Metric::$metric,
                name: $name,
                help: $help,
                kind: Kind::$kind,
                labels: &[$($label),*],
            },)*
        ];
    };
}

table! {
    CellBytes "obol_cell_bytes_total" Counter [CLASS, DIRECTION]
        "Bytes of relay cells sent on, 514 each: what the relay meters.";
    PaymentCells "obol_payment_cells_total" Counter [DIRECTION]
        "Payment messages to and from this hop; free.";
    LinkMessageBytes "obol_payment_link_bytes_total" Counter []
        "Payment messages sent to neighbour relays, with their headers, bytes.";
    PaddingCells "obol_padding_cells_total" Counter [] "PADDING cells sent into the silence of links; not metered.";
    Links "obol_links" Gauge [] "Links to clients and relays now.";
    LinksRefused "obol_links_refused_total" Counter [("why", &["handshakes", "concurrent", "rate"])]
        "Connections closed at the door, by what their address had too many of: handshakes, client links, new links.";
    LinkHandshakes "obol_link_handshakes" Gauge [] "Handshakes of accepted connections under way now.";
    LinkHandshakesCut "obol_link_handshakes_cut_total" Counter []
        "Handshakes of accepted connections that gave way to others' because all places were taken.";
    Circuits "obol_circuits" Gauge [CLASS] "Circuits now.";
    QueuedCells "obol_queued_cells" Gauge [CLASS] "Cells' worth of memory that queues and streams hold now.";
    CircuitsOpened "obol_circuits_opened_total" Counter [] "Circuits whose handshake with this relay succeeded.";
    CircuitsControlled "obol_circuits_congestion_control_total" Counter []
        "Circuits that were opened with congestion control.";
    StreamsPaused "obol_streams_paused_total" Counter [("by", &["relay", "client"])]
        "Streams that were paused (XOFF): by us, because the target did not take data; by clients.";
    HandshakesFailed "obol_handshakes_failed_total" Counter [] "Circuit handshakes that failed.";
    HandshakesLate "obol_handshakes_late_total" Counter []
        "Circuit handshakes that were not computed because they had waited for too long.";
    HandshakesPending "obol_handshakes_pending" Gauge [] "Circuit handshakes that wait for their result now.";
    CreatesRefused "obol_creates_refused_total" Counter [] "Circuits refused for lack of room.";
    Defended "obol_defended_total" Counter [("against", &["circuits", "streams"])]
        "Circuits and streams refused because their client asks for too many.";
    ClientsMarked "obol_clients_marked_total" Counter []
        "Client addresses from which no circuits are taken for a while, because there were too many.";
    Services "obol_services" Gauge [] "Circuits on which onion services hear of clients now.";
    Introductions "obol_introductions_total" Counter [("outcome", &["delivered", "refused"])]
        "Clients that wanted a service to be told of them.";
    Rendezvous "obol_rendezvous_total" Counter [("outcome", &["joined", "refused"])]
        "Clients that were joined with a service; that may not wait for one, without a relay in between.";
    ExtendsFailed "obol_extends_failed_total" Counter [] "Next hops that could not be reached.";
    Streams "obol_streams_opened_total" Counter [] "Exit, directory and lookup streams begun.";
    StreamsOpen "obol_streams" Gauge [] "Exit, directory and lookup streams now.";
    StreamsRefused "obol_streams_refused_total" Counter []
        "Streams refused because there were too many, of one circuit, of one neighbour or in all.";
    KilledForMemory "obol_circuits_killed_memory_total" Counter [CLASS]
        "Circuits killed because their class held too much memory.";
    KilledForQueue "obol_circuits_killed_queue_total" Counter [] "Circuits killed because too many of their cells waited.";
    ProtocolErrors "obol_circuit_protocol_errors_total" Counter [] "Circuits ended for an error of the other side.";
    MessagesDropped "obol_messages_dropped_total" Counter [] "Relay messages dropped: unknown, or for no stream.";
    DirectoryBytes "obol_directory_bytes_total" Counter [] "Bytes of directory answers.";
    DirectoryRefused "obol_directory_refused_total" Counter []
        "Directory requests refused because their client's address had had its share.";
    PaymentsStopped "obol_payments_stopped" Gauge []
        "1 once the journal has failed: every payment is refused until the relay is started again.";
    Payments "obol_payments_total" Counter [("from", &["client", "relay"])] "Payments credited here.";
    Refusals "obol_payments_refused_total" Counter [("code", REFUSALS)] "Payments refused here.";
    BytesBought "obol_bytes_bought_total" Counter [] "Bytes of service that credited payments bought.";
    InitialCredit "obol_initial_credit_bytes_total" Counter [] "Bytes given to circuits before they paid.";
    StroopsIn "obol_stroops_claimed_total" Counter [] "By how much payers' claims on us rose, stroops.";
    StroopsEarned "obol_stroops_earned_total" Counter [] "Own part of credited payments, forwarding fees included, stroops.";
    StroopsForwarded "obol_stroops_forwarded_total" Counter [] "Part of credited payments for the next hop, stroops.";
    StroopsOut "obol_stroops_paid_on_total" Counter [] "Signed to next hops, stroops.";
    StroopsHeld "obol_stroops_held_total" Counter [] "Money that stayed here although nothing was bought for it, stroops.";
    StroopsSettled "obol_stroops_settled_total" Counter [SIDE] "What ended escrows paid on the ledger, stroops.";
    Escrows "obol_escrows" Gauge [SIDE] "Escrows in use now.";
    EscrowsSettled "obol_escrows_settled_total" Counter [SIDE] "Escrows that ended on the ledger.";
    BadSignatures "obol_bad_signatures_total" Counter [] "Claims whose signature was wrong.";
    PaymentProtocolErrors "obol_payment_protocol_errors_total" Counter []
        "Circuits destroyed and links closed for payment messages that make no sense, or too many of them.";
    LedgerTransactions "obol_ledger_transactions_total" Counter
        [("kind", &["open", "flush", "refund", "sweep", "merge", "fund", "owed"]), ("outcome", &["applied", "failed"])]
        "Transactions that reached a final state on the ledger.";
    LedgerErrors "obol_ledger_errors_total" Counter [] "Questions to the ledger without a usable answer.";
    LedgerSequence "obol_ledger_sequence" Gauge [] "Number of the newest closed ledger that was seen.";
    LedgerCloseTime "obol_ledger_close_time_seconds" Gauge [] "When that ledger closed, unix time.";
    Facts "obol_journal_facts_total" Counter [] "Facts made durable.";
    Peers "obol_paid_peers" Gauge [("escrow", &["open", "none"])]
        "Relays in the consensus that take payments: with, and without, an escrow from us.";
    LimitAlarms "obol_limit_alarms" Gauge [("limit", LIMITS)]
        "Alarms now: payers, relays or accounts of which 80 % of this limit were used, and not less than 70 % since.";
    LimitUsed "obol_limit_used" Gauge [("limit", LIMITS)]
        "How much of this limit was used when its newest alarm began or ended: stroops, new escrows a minute, or openings.";
    Limit "obol_limit" Gauge [("limit", LIMITS)] "This limit then, in the same unit.";
    StroopsOwed "obol_stroops_owed_to_us_total" Counter [] "By how much what trusted relays owe us rose, stroops.";
    StroopsOwedSettled "obol_stroops_owed_settled_total" Counter []
        "What the ledger has shown trusted relays to have paid of what they owe us, stroops.";
}

/// One registered metric.
enum Family {
    Counter(IntCounterVec),
    Gauge(IntGaugeVec),
}

/// A relay's metrics.
pub struct Metrics {
    registry: Registry,
    families: Vec<Family>,
    /// Held while the engine's counters are copied and written out: two readers at once would mix theirs.
    reading: Mutex<()>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

impl Metrics {
    /// All metrics of the table, each label value at zero.
    pub fn new() -> Metrics {
        let registry = Registry::new();
        let mut families = Vec::with_capacity(TABLE.len());
        for row in TABLE {
            let options = Opts::new(row.name, row.help);
            let names: Vec<&str> = row.labels.iter().map(|(name, _)| *name).collect();
            let valid = "the table's names are valid and different, which a test checks";
            let family = match row.kind {
                Kind::Counter => {
                    let family = IntCounterVec::new(options, &names).expect(valid);
                    registry.register(Box::new(family.clone())).expect(valid);
                    Family::Counter(family)
                }
                Kind::Gauge => {
                    let family = IntGaugeVec::new(options, &names).expect(valid);
                    registry.register(Box::new(family.clone())).expect(valid);
                    Family::Gauge(family)
                }
            };
            // A series that appears with its first event hides that event from rate().
            for values in combinations(row.labels) {
                match &family {
                    Family::Counter(family) => drop(family.with_label_values(&values)),
                    Family::Gauge(family) => drop(family.with_label_values(&values)),
                }
            }
            families.push(family);
        }
        Metrics {
            registry,
            families,
            reading: Mutex::new(()),
        }
    }

    /// Adds to a counter. `values`: of its labels, in the table's order.
    pub fn add(&self, metric: Metric, values: &[&str], by: u64) {
        if let Family::Counter(family) = &self.families[metric as usize]
            && let Ok(counter) = family.get_metric_with_label_values(values)
        {
            counter.inc_by(by);
        }
    }

    /// Sets a gauge; or a counter that somebody else keeps, to its total.
    pub fn set(&self, metric: Metric, values: &[&str], to: u64) {
        match &self.families[metric as usize] {
            Family::Counter(family) => {
                if let Ok(counter) = family.get_metric_with_label_values(values) {
                    counter.reset();
                    counter.inc_by(to);
                }
            }
            Family::Gauge(family) => {
                if let Ok(gauge) = family.get_metric_with_label_values(values) {
                    gauge.set(i64::try_from(to).unwrap_or(i64::MAX));
                }
            }
        }
    }

    /// What a counter or gauge is at.
    pub fn get(&self, metric: Metric, values: &[&str]) -> u64 {
        match &self.families[metric as usize] {
            Family::Counter(family) => family.get_metric_with_label_values(values).map_or(0, |c| c.get()),
            Family::Gauge(family) => family
                .get_metric_with_label_values(values)
                .map_or(0, |g| u64::try_from(g.get()).unwrap_or(0)),
        }
    }

    /// Everything as text, with the data plane's counters as they are now.
    pub fn render(&self, engine: Option<&Counters>) -> String {
        let _reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counters) = engine {
            self.copy(counters);
        }
        let mut text = Vec::new();
        if let Err(e) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!("the metrics cannot be written: {e}");
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    fn copy(&self, c: &Counters) {
        for (class, class_name) in CLASS.1.iter().enumerate() {
            for (direction, direction_name) in DIRECTION.1.iter().enumerate() {
                let bytes = c.cells[class][direction].saturating_mul(obol_onion::engine::CELL_LEN as u64);
                self.set(Metric::CellBytes, &[class_name, direction_name], bytes);
            }
            self.set(Metric::Circuits, &[class_name], c.circuits[class]);
            self.set(Metric::QueuedCells, &[class_name], c.held[class]);
            self.set(Metric::KilledForMemory, &[class_name], c.killed_memory[class]);
        }
        for (direction, direction_name) in DIRECTION.1.iter().enumerate() {
            self.set(Metric::PaymentCells, &[direction_name], c.payment_cells[direction]);
        }
        self.set(Metric::PaddingCells, &[], c.padding_sent);
        self.set(Metric::Links, &[], c.links);
        self.set(Metric::CircuitsOpened, &[], c.circuits_opened);
        self.set(Metric::CircuitsControlled, &[], c.circuits_controlled);
        self.set(Metric::StreamsPaused, &["relay"], c.xoffs_sent);
        self.set(Metric::StreamsPaused, &["client"], c.xoffs_received);
        self.set(Metric::HandshakesFailed, &[], c.handshakes_failed);
        self.set(Metric::HandshakesLate, &[], c.handshakes_late);
        self.set(Metric::HandshakesPending, &[], c.handshakes_pending);
        self.set(Metric::CreatesRefused, &[], c.creates_refused);
        self.set(Metric::Defended, &["circuits"], c.creates_defended);
        self.set(Metric::Defended, &["streams"], c.streams_defended);
        self.set(Metric::ClientsMarked, &[], c.clients_marked);
        self.set(Metric::Services, &[], c.services);
        self.set(Metric::Introductions, &["delivered"], c.introductions);
        self.set(Metric::Introductions, &["refused"], c.introductions_refused);
        self.set(Metric::Rendezvous, &["joined"], c.rendezvous_joined);
        self.set(Metric::Rendezvous, &["refused"], c.rendezvous_refused);
        self.set(Metric::ExtendsFailed, &[], c.extends_failed);
        self.set(Metric::Streams, &[], c.streams_opened);
        self.set(Metric::StreamsOpen, &[], c.streams);
        self.set(Metric::StreamsRefused, &[], c.streams_refused);
        self.set(Metric::KilledForQueue, &[], c.killed_queue);
        self.set(Metric::ProtocolErrors, &[], c.protocol_errors);
        self.set(Metric::MessagesDropped, &[], c.messages_dropped);
    }
}

/// Every combination of the labels' values.
fn combinations(labels: &[(&'static str, &'static [&'static str])]) -> Vec<Vec<&'static str>> {
    let mut all = vec![Vec::new()];
    for (_, values) in labels {
        all = all
            .into_iter()
            .flat_map(|chosen| {
                values
                    .iter()
                    .map(move |value| chosen.iter().copied().chain([*value]).collect())
            })
            .collect();
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::core::Collector as _;
    use std::collections::BTreeSet;

    #[test]
    fn the_table_makes_one_valid_registry_in_its_own_order() {
        let metrics = Metrics::new();
        assert_eq!(metrics.families.len(), TABLE.len());
        for (place, row) in TABLE.iter().enumerate() {
            assert_eq!(row.metric as usize, place);
            assert!(row.name.starts_with("obol_") && row.help.ends_with('.'), "{}", row.name);
            assert_eq!(row.name.ends_with("_total"), row.kind == Kind::Counter, "{}", row.name);
            let described = match &metrics.families[place] {
                Family::Counter(family) => family.desc()[0].fq_name.clone(),
                Family::Gauge(family) => family.desc()[0].fq_name.clone(),
            };
            assert_eq!(described, row.name);
        }
        let names: BTreeSet<&str> = TABLE.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), TABLE.len());
    }

    #[test]
    fn no_label_names_a_session_or_a_peer() {
        for row in TABLE {
            for (label, values) in row.labels {
                assert!(values.len() <= 10, "{}: {label} is bounded", row.name);
            }
        }
    }

    #[test]
    fn every_series_is_there_from_the_start_and_the_engines_counters_are_copied() {
        let metrics = Metrics::new();
        let text = metrics.render(None);
        for row in TABLE {
            assert!(text.contains(&format!("# HELP {} ", row.name)), "{}", row.name);
        }
        assert!(
            text.contains("obol_payments_refused_total{code=\"closing\"} 0"),
            "{text}"
        );
        let counters = Counters {
            cells: [[3, 4], [5, 6]],
            links: 7,
            ..Counters::default()
        };
        for _ in 0..2 {
            let text = metrics.render(Some(&counters));
            assert!(
                text.contains("obol_cell_bytes_total{class=\"unpaid\",direction=\"to_client\"} 2570"),
                "{text}"
            );
            assert!(text.contains("obol_links 7"), "{text}");
        }
    }

    #[test]
    fn counting_with_a_wrong_label_counts_nothing_and_breaks_nothing() {
        let metrics = Metrics::new();
        metrics.add(Metric::Payments, &[], 1);
        metrics.add(Metric::Payments, &["client"], 2);
        assert_eq!(metrics.get(Metric::Payments, &["client"]), 2);
        metrics.set(Metric::Escrows, &["payee"], 3);
        assert_eq!(metrics.get(Metric::Escrows, &["payee"]), 3);
    }
}
