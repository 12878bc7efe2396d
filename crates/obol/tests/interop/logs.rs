//! What C Tor's logs say of us.

use std::path::Path;

/// Warnings that a C Tor of this network writes whoever its peers are, each with its reason. All protocol warnings are switched on
/// (`ProtocolWarnings`); none of them is in this list.
const EXPLAINED: &[(&str, &str)] = &[
    ("TestingTorNetwork is set", "a test network"),
    ("You have used DirAuthority", "a test network"),
    ("V3AuthVotingInterval is very low", "a test network"),
    (
        "Your log may contain sensitive information",
        "SafeLogging is off, to see who is meant",
    ),
    ("You are running Tor as root", "the machine's own matter"),
    ("is giving Tor only an IP address", "the origin has no name"),
    ("Cannot open fingerprint file", "an authority's first start"),
    ("sr-state", "an authority's first start"),
    (
        "while fetching consensus directory",
        "there is none before the first vote",
    ),
    (
        "our cutoff for received votes is",
        "authorities among themselves, on a busy machine",
    ),
    ("Rejected vote from", "authorities among themselves, on a busy machine"),
    (
        "enough votes to generate a consensus",
        "authorities among themselves, on a busy machine",
    ),
    (
        "response after uploading vote",
        "authorities among themselves, on a busy machine",
    ),
    (
        "to calculate balanced bandwidth-weights",
        "two authorities alone measure nothing (three measurements are wanted): relays' own words for their bandwidth need not balance",
    ),
    ("Bw Weights error", "the same: it follows the line above"),
    (
        "while fetching \"/tor/status-vote/next/",
        "authorities among themselves",
    ),
    ("Not enough info to publish pending", "authorities among themselves"),
    ("Failed to post consensus", "an authority that is lost for a while"),
    (
        "is not from a recognized authority. Discarding commit",
        "shared random values are off",
    ),
    (
        "We just marked ourself as down",
        "an authority's clock of its own reachability",
    ),
    (
        "Client asked me to extend back to the previous hop",
        "a C Tor client's third vanguard may be its guard, if there are but eight relays (its own control port shows such circuits fail at ours, too)",
    ),
    (
        "Failed to choose an exit server",
        "the C Tor exit wants another exit with conflux for circuits of its own; there is none",
    ),
    (
        "Could not find a node that matches the configured _HSLayer2Nodes set",
        "a C Tor keeps circuits for onion services at hand, over four relays of the eight. One trial changes the keys of three at the same time: \
         until it has their new descriptors, guard and target may be all that it knows",
    ),
];

/// What follows a warning of the list, and says no more than that there was one.
const ECHO: &str = "connection_edge_process_relay_cell (away from origin) failed";

/// Every warning and error of a C Tor's log that is not explained.
pub fn warnings(log: &str) -> Vec<String> {
    let (mut all, mut explained) = (Vec::new(), false);
    for line in log.lines() {
        if line.contains("[warn]") || line.contains("[err]") {
            let known = EXPLAINED.iter().any(|(words, _)| line.contains(words));
            explained = known || (explained && line.contains(ECHO));
            if !explained {
                all.push(line.to_owned());
            }
        }
    }
    all
}

/// The last lines of a file, under its name.
pub fn tail(path: &Path, lines: usize) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    format!(
        "--- {}\n{}\n",
        path.display(),
        all[all.len().saturating_sub(lines)..].join("\n")
    )
}
