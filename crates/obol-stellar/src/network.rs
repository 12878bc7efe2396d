//! Which Stellar network: its passphrase, and the id that every signature commits to.

use obol_cell::NetworkId;
use sha2::{Digest as _, Sha256};

/// A Stellar network. Two networks with one passphrase are one network: signatures of one are valid on the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    passphrase: String,
    id: NetworkId,
}

impl Network {
    /// The network of this passphrase.
    pub fn new(passphrase: impl Into<String>) -> Network {
        let passphrase = passphrase.into();
        let id = NetworkId(Sha256::digest(passphrase.as_bytes()).into());
        Network { passphrase, id }
    }

    /// The public network.
    pub fn public() -> Network {
        Network::new("Public Global Stellar Network ; September 2015")
    }

    /// The test network of the Stellar Development Foundation.
    pub fn testnet() -> Network {
        Network::new("Test SDF Network ; September 2015")
    }

    /// The passphrase.
    pub fn passphrase(&self) -> &str {
        &self.passphrase
    }

    /// SHA-256 of the passphrase.
    pub fn id(&self) -> NetworkId {
        self.id
    }
}
