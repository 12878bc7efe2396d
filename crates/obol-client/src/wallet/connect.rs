//! The ledger's servers are reached through Tor only, on circuits of their own that are never paid.

use std::io;
use std::sync::Arc;

use arti_client::{IntoTorAddr as _, TorClient};
use async_trait::async_trait;
use obol_stellar::Connect;
use obol_stellar::rail::connect::ByteStream;

use crate::runtime::MeteredRuntime;
use crate::tor::tor_error_text;

/// Dials through Tor, isolated from everything else that this client does. Its streams are not known to the payer.
pub(crate) struct ThroughTor {
    tor: Arc<TorClient<MeteredRuntime>>,
}

impl ThroughTor {
    pub(crate) fn new(tor: &TorClient<MeteredRuntime>) -> ThroughTor {
        ThroughTor {
            tor: tor.isolated_client(),
        }
    }
}

#[async_trait]
impl Connect for ThroughTor {
    async fn connect(&self, host: &str, port: u16) -> io::Result<Box<dyn ByteStream>> {
        let target = (host, port)
            .into_tor_addr()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        match self.tor.connect(target).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(io::Error::other(tor_error_text(&error))),
        }
    }
}
