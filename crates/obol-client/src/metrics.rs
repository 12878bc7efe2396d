//! Every metric of a client, in one table ([`TABLE`]). They are counted where its interface follows events, so they are there with the interface alone.

use obol_gateway::metrics_table;

const CLASS: (&str, &[&str]) = ("class", &["paid", "unpaid"]);

metrics_table! {
    Streams "obol_client_streams_total" Counter [] "Streams that were opened for applications.";
    Tunnels "obol_client_tunnels" Gauge [CLASS] "Tunnels open now that carry streams, by whether anything was paid on them.";
    TunnelsOpened "obol_client_tunnels_opened_total" Counter [] "Tunnels that came to carry a stream.";
    TunnelsGivenUp "obol_client_tunnels_given_up_total" Counter [] "Tunnels given up with the streams on them, because a hop broke its word.";
    CellBytes "obol_client_cell_bytes_total" Counter [CLASS]
        "Bytes of cells on tunnels, 514 each, as relays meter them; by whether anything was paid on the tunnel by then.";
    Requests "obol_client_payment_requests_total" Counter [] "Payment requests that came from last paid hops.";
    Payments "obol_client_payments_total" Counter [] "Payments that all their hops have.";
    Refusals "obol_client_payments_refused_total" Counter [] "Payments that a hop could not or would not pass on; some of them succeed later.";
    Withheld "obol_client_payments_withheld_total" Counter [] "Steps that were withheld to see whether paying helps.";
    BytesBought "obol_client_bytes_bought_total" Counter [] "Bytes of service at every hop for which payments went out.";
    StroopsSpent "obol_client_stroops_spent_total" Counter [] "What payments that went out cost in all, stroops.";
    EscrowsOpened "obol_client_escrows_opened_total" Counter [] "Escrows to guards that the ledger has.";
    EscrowsFailed "obol_client_escrows_failed_total" Counter [] "Times that no escrow could be opened, for a new reason.";
    EscrowsEnded "obol_client_escrows_ended_total" Counter [("how", &["settled", "refunded"])]
        "Escrows that ended on the ledger: by a claim; whole, after their time.";
    StroopsSettled "obol_client_stroops_settled_total" Counter [] "What guards received from ended escrows, stroops.";
    Balance "obol_client_wallet_stroops" Gauge [] "What the wallet's own account held when it was looked at last, stroops of the asset.";
}

/// A client's metrics.
pub(crate) type Metrics = obol_gateway::metrics::Metrics<Metric>;

#[cfg(test)]
mod tests {
    use super::*;
    use obol_gateway::metrics::{as_markdown, check};

    #[test]
    fn the_table_is_a_good_one() {
        check(TABLE, "obol_client_").expect("a good table");
    }

    #[test]
    fn the_documents_table_is_this_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
        let written = std::fs::read_to_string(path).expect("docs/metrics.md is there");
        let (before, rest) = written
            .split_once("<!-- client -->\n")
            .expect("a place for the client's table");
        let (table, after) = rest.split_once("<!-- end -->").expect("an end of the client's table");
        if std::env::var_os("OBOL_WRITE_DOCS").is_some() {
            let new = format!("{before}<!-- client -->\n{}<!-- end -->{after}", as_markdown(TABLE));
            std::fs::write(path, new).expect("written");
        } else {
            assert_eq!(table, as_markdown(TABLE), "write it anew with OBOL_WRITE_DOCS=1");
        }
    }
}
