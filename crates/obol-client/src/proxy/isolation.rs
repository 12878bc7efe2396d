//! Which streams may share a circuit.

use arti_client::StreamPrefs;
use arti_client::isolation::IsolationHelper;

/// What an application said about itself. Streams share a circuit only where all of it is the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum StreamIsolation {
    /// Nothing: all such streams may share.
    None,
    /// A SOCKS 4 user name.
    Socks4(Vec<u8>),
    /// A SOCKS 5 user name and password.
    Socks5(Vec<u8>, Vec<u8>),
    /// The isolating headers of an HTTP request.
    Http(Vec<u8>),
}

impl StreamIsolation {
    /// Arti's preferences for such a stream.
    pub(crate) fn prefs(&self) -> StreamPrefs {
        let mut prefs = StreamPrefs::new();
        prefs.set_isolation(self.clone());
        prefs
    }
}

impl IsolationHelper for StreamIsolation {
    fn compatible_same_type(&self, other: &Self) -> bool {
        self == other
    }

    fn join_same_type(&self, other: &Self) -> Option<Self> {
        (self == other).then(|| self.clone())
    }

    fn enables_long_lived_circuits(&self) -> bool {
        false
    }
}
