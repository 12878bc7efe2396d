//! Every metric of a relay, in one table ([`TABLE`]), in Prometheus' text format.
//!
//! The data plane counts with plain additions on its own; its counters are copied when somebody reads
//! ([`Metrics::render`]). Payments are rare and count here directly. No label names a session, a circuit or a peer: such
//! labels would grow without bound, and tell who was where.

use obol_gateway::metrics_table as table;
use obol_onion::engine::Counters;

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
    ConsensusValidAfter "obol_consensus_valid_after_seconds" Gauge []
        "From when the newest consensus that the relay has is valid, unix time; 0 before the first.";
    Hibernating "obol_hibernating" Gauge [] "1 while the relay takes no new circuits because its allowance of bytes is used up.";
    StroopsOwed "obol_stroops_owed_to_us_total" Counter [] "By how much what trusted relays owe us rose, stroops.";
    StroopsOwedSettled "obol_stroops_owed_settled_total" Counter []
        "What the ledger has shown trusted relays to have paid of what they owe us, stroops.";
}

/// A relay's metrics.
pub type Metrics = obol_gateway::metrics::Metrics<Metric>;

/// All metrics of the table, each label value at zero.
pub fn metrics() -> Metrics {
    Metrics::new(TABLE)
}

/// Takes over the data plane's counters.
pub fn copy(metrics: &Metrics, c: &Counters) {
    for (class, class_name) in CLASS.1.iter().enumerate() {
        for (direction, direction_name) in DIRECTION.1.iter().enumerate() {
            let bytes = c.cells[class][direction].saturating_mul(obol_onion::engine::CELL_LEN as u64);
            metrics.set(Metric::CellBytes, &[class_name, direction_name], bytes);
        }
        metrics.set(Metric::Circuits, &[class_name], c.circuits[class]);
        metrics.set(Metric::QueuedCells, &[class_name], c.held[class]);
        metrics.set(Metric::KilledForMemory, &[class_name], c.killed_memory[class]);
    }
    for (direction, direction_name) in DIRECTION.1.iter().enumerate() {
        metrics.set(Metric::PaymentCells, &[direction_name], c.payment_cells[direction]);
    }
    metrics.set(Metric::PaddingCells, &[], c.padding_sent);
    metrics.set(Metric::Links, &[], c.links);
    metrics.set(Metric::CircuitsOpened, &[], c.circuits_opened);
    metrics.set(Metric::CircuitsControlled, &[], c.circuits_controlled);
    metrics.set(Metric::StreamsPaused, &["relay"], c.xoffs_sent);
    metrics.set(Metric::StreamsPaused, &["client"], c.xoffs_received);
    metrics.set(Metric::HandshakesFailed, &[], c.handshakes_failed);
    metrics.set(Metric::HandshakesLate, &[], c.handshakes_late);
    metrics.set(Metric::HandshakesPending, &[], c.handshakes_pending);
    metrics.set(Metric::CreatesRefused, &[], c.creates_refused);
    metrics.set(Metric::Defended, &["circuits"], c.creates_defended);
    metrics.set(Metric::Defended, &["streams"], c.streams_defended);
    metrics.set(Metric::ClientsMarked, &[], c.clients_marked);
    metrics.set(Metric::Services, &[], c.services);
    metrics.set(Metric::Introductions, &["delivered"], c.introductions);
    metrics.set(Metric::Introductions, &["refused"], c.introductions_refused);
    metrics.set(Metric::Rendezvous, &["joined"], c.rendezvous_joined);
    metrics.set(Metric::Rendezvous, &["refused"], c.rendezvous_refused);
    metrics.set(Metric::ExtendsFailed, &[], c.extends_failed);
    metrics.set(Metric::Streams, &[], c.streams_opened);
    metrics.set(Metric::StreamsOpen, &[], c.streams);
    metrics.set(Metric::StreamsRefused, &[], c.streams_refused);
    metrics.set(Metric::KilledForQueue, &[], c.killed_queue);
    metrics.set(Metric::ProtocolErrors, &[], c.protocol_errors);
    metrics.set(Metric::MessagesDropped, &[], c.messages_dropped);
}

#[cfg(test)]
mod tests {
    use super::*;
    use obol_gateway::metrics::{as_markdown, check};

    #[test]
    fn the_table_is_a_good_one() {
        check(TABLE, "obol_").expect("a good table");
    }

    #[test]
    fn the_engines_counters_are_copied() {
        let metrics = metrics();
        let counters = Counters {
            cells: [[3, 4], [5, 6]],
            links: 7,
            ..Counters::default()
        };
        let text = metrics.render(|metrics| copy(metrics, &counters));
        assert!(
            text.contains("obol_cell_bytes_total{class=\"unpaid\",direction=\"to_client\"} 2570"),
            "{text}"
        );
        assert!(text.contains("obol_links 7"), "{text}");
    }

    #[test]
    fn the_documents_table_is_this_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
        let written = std::fs::read_to_string(path).expect("docs/metrics.md is there");
        let (before, rest) = written
            .split_once("<!-- relay -->\n")
            .expect("a place for the relay's table");
        let (table, after) = rest.split_once("<!-- end -->").expect("an end of the relay's table");
        if std::env::var_os("OBOL_WRITE_DOCS").is_some() {
            let new = format!("{before}<!-- relay -->\n{}<!-- end -->{after}", as_markdown(TABLE));
            std::fs::write(path, new).expect("written");
        } else {
            assert_eq!(table, as_markdown(TABLE), "write it anew with OBOL_WRITE_DOCS=1");
        }
    }
}
