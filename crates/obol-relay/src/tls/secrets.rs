//! The secrets from which the keys of one TLS 1.3 connection come: rustls tells them while it does the handshake, so that
//! [`records`](super::records) can go on after it.

use std::sync::{Mutex, PoisonError};

use rustls::KeyLog;
use rustls::crypto::tls13::OkmBlock;

/// Of one connection: `client_application_traffic_secret_0` and the server's (RFC 8446, section 7.1).
#[derive(Default)]
pub struct TrafficSecrets(Mutex<[Option<OkmBlock>; 2]>);

/// Where a label's secret belongs.
fn place(label: &str) -> Option<usize> {
    match label {
        "CLIENT_TRAFFIC_SECRET_0" => Some(0),
        "SERVER_TRAFFIC_SECRET_0" => Some(1),
        _ => None,
    }
}

impl TrafficSecrets {
    /// The client's and the server's, if both are known. They are not kept.
    pub(crate) fn take(&self) -> Option<(OkmBlock, OkmBlock)> {
        let [client, server] = core::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        client.zip(server)
    }
}

impl KeyLog for TrafficSecrets {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        if let Some(place) = place(label)
            && secret.len() <= OkmBlock::MAX_LEN
        {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)[place] = Some(OkmBlock::new(secret));
        }
    }

    fn will_log(&self, label: &str) -> bool {
        place(label).is_some()
    }
}

impl std::fmt::Debug for TrafficSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TrafficSecrets(..)")
    }
}
