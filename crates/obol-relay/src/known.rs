//! Who counts as a relay: an identity that was proved is worth something only if the consensus has it.

use obol_onion::engine::Peer;

use crate::directory::{RelayInfo, Snapshot};

/// Whether a relay of this consensus has both identities: the owner of one of them could prove it together with any number
/// of others of the other kind. While its Ed25519 identity has not come yet (it is in its microdescriptor), the RSA
/// one has to do.
pub(crate) fn is_known(snapshot: &Snapshot, peer: &Peer) -> bool {
    let fits = |relay: &RelayInfo| relay.ed.is_none_or(|ed| ed == peer.ed);
    snapshot.by_rsa(&peer.rsa).is_some_and(|relay| fits(&relay))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn both_identities_have_to_be_one_relays() {
        let relay = |rsa, ed: Option<u8>| RelayInfo {
            rsa: [rsa; 20],
            ed: ed.map(|ed| [ed; 32]),
            ..RelayInfo::default()
        };
        let relays = [relay(1, Some(1)), relay(2, Some(2)), relay(3, None)];
        let snapshot = Snapshot::new(None, HashMap::new(), relays);
        let known = |rsa, ed| {
            let peer = Peer {
                rsa: [rsa; 20],
                ed: [ed; 32],
            };
            is_known(&snapshot, &peer)
        };
        assert!(known(1, 1) && known(2, 2));
        assert!(!known(1, 9), "an Ed25519 identity made up for a known RSA one");
        assert!(!known(9, 1), "and the other way round");
        assert!(!known(1, 2), "of two relays");
        assert!(known(3, 9), "whose microdescriptor has not come");
        assert!(!known(9, 9));
    }
}
