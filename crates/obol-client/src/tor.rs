//! The stock Arti client underneath: its configuration and its start.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arti_client::{BootstrapBehavior, TorClient, TorClientConfig};
use obol_stellar::settings::Span;
use serde::Deserialize;
use tor_config::load::resolve_return_results;
use tor_config::sources::MustRead;
use tor_config::{ConfigurationSource, ConfigurationSources};

use toml::Value;
use tor_llcrypto::pk::ed25519::Ed25519Identity;

use crate::error::StartError;
use crate::runtime::{LinkMeters, MeteredRuntime, metered};

/// Makes Arti's configuration out of our `tor` section, with all files below `state_directory`.
fn configuration(section: &toml::Table, state_directory: &Path) -> Result<TorClientConfig, StartError> {
    let wrong = |reason: String| StartError::TorConfig { reason };
    // Literal: a path of ours is not to be searched for variables.
    let below = |name: &str| -> Result<Value, StartError> {
        let path = state_directory.join(name);
        let text = path
            .to_str()
            .ok_or_else(|| wrong(format!("{} is not UTF-8", path.display())))?;
        Ok(table([("literal", text.into())]))
    };
    let mut whole = section.clone();
    let storage = table([("cache_dir", below("tor-cache")?), ("state_dir", below("tor-state")?)]);
    whole.insert("storage".to_owned(), storage);
    let text = toml::to_string(&whole).map_err(|error| wrong(error.to_string()))?;
    let mut sources = ConfigurationSources::new_empty();
    sources.push_source(ConfigurationSource::from_verbatim(text), MustRead::MustRead);
    let tree = sources.load().map_err(|error| wrong(error.to_string()))?;
    let resolved = resolve_return_results::<TorClientConfig>(&tree, &Default::default())
        .map_err(|error| wrong(error.to_string()))?;
    if let Some(unknown) = resolved.unrecognized.first() {
        return Err(wrong(format!("`{unknown}` is not a key of Arti's configuration")));
    }
    Ok(resolved.value)
}

/// How long an exit may take, by `stream_timeouts` of Arti's configuration. Arti shows nobody the values that it holds, so for streams that it does
/// not open itself they are read where it reads them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct StreamTimeouts {
    connect_timeout: Span,
    resolve_timeout: Span,
    resolve_ptr_timeout: Span,
}

impl Default for StreamTimeouts {
    /// Arti's own.
    fn default() -> StreamTimeouts {
        StreamTimeouts {
            connect_timeout: Span::seconds(10),
            resolve_timeout: Span::seconds(10),
            resolve_ptr_timeout: Span::seconds(10),
        }
    }
}

impl StreamTimeouts {
    /// Of the `tor` section, which Arti has accepted.
    pub(crate) fn of(section: &toml::Table) -> Result<StreamTimeouts, StartError> {
        match section.get("stream_timeouts") {
            Some(timeouts) => timeouts.clone().try_into().map_err(|error| StartError::TorConfig {
                reason: format!("stream_timeouts: {error}"),
            }),
            None => Ok(StreamTimeouts::default()),
        }
    }

    /// For opening a stream.
    pub(crate) fn connect(self) -> Duration {
        self.connect_timeout.0
    }

    /// For the address of a name.
    pub(crate) fn resolve(self) -> Duration {
        self.resolve_timeout.0
    }

    /// For the name of an address.
    pub(crate) fn resolve_ptr(self) -> Duration {
        self.resolve_ptr_timeout.0
    }
}

/// Makes the client, not yet bootstrapped.
pub(crate) async fn client(
    section: &toml::Table,
    state_directory: &Path,
    meters: LinkMeters,
) -> Result<Arc<TorClient<MeteredRuntime>>, StartError> {
    let config = configuration(section, state_directory)?;
    // An application may have chosen a provider already; then that one is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let broken = |reason: String| StartError::Tor { reason };
    let runtime = metered(meters).map_err(|error| broken(error.to_string()))?;
    TorClient::with_runtime(runtime)
        .config(config)
        .bootstrap_behavior(BootstrapBehavior::OnDemand)
        .create_unbootstrapped_async()
        .await
        .map_err(|error| broken(tor_error_text(&error)))
}

/// An error with all of its causes, on one line.
pub(crate) fn tor_error_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

/// A directory authority of a private network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// Fingerprint of its v3 identity key.
    pub v3_identity: [u8; 20],
    /// Its directory port.
    pub directory: std::net::SocketAddr,
}

/// A relay of a private network to get the first directory from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fallback {
    /// Its RSA identity.
    pub rsa_identity: [u8; 20],
    /// Its Ed25519 identity.
    pub ed_identity: [u8; 32],
    /// Where it accepts links.
    pub or_ports: Vec<std::net::SocketAddr>,
}

/// The `tor` section for a private network, such as one on this machine: its authorities and fallbacks, relays on one subnet, and streams
/// to local addresses.
pub fn private_network(authorities: &[Authority], fallbacks: &[Fallback]) -> toml::Table {
    let text = |address: &std::net::SocketAddr| Value::from(address.to_string());
    let identities: Vec<Value> = authorities
        .iter()
        .map(|a| hex::encode_upper(a.v3_identity).into())
        .collect();
    let places: Vec<Value> = authorities
        .iter()
        .map(|a| Value::Array(vec![text(&a.directory)]))
        .collect();
    let caches: Vec<Value> = fallbacks
        .iter()
        .map(|fallback| {
            table([
                ("rsa_identity", hex::encode_upper(fallback.rsa_identity).into()),
                (
                    "ed_identity",
                    Ed25519Identity::from(fallback.ed_identity).to_string().into(),
                ),
                ("orports", Value::Array(fallback.or_ports.iter().map(text).collect())),
            ])
        })
        .collect();
    let authorities = table([
        ("v3idents", identities.into()),
        ("uploads", places.clone().into()),
        ("downloads", places.clone().into()),
        ("votes", places.into()),
    ]);
    let network = table([("fallback_caches", caches.into()), ("authorities", authorities)]);
    // Wider prefixes than there are: no two relays are kept apart for their addresses.
    let rules = table([
        ("ipv4_subnet_family_prefix", 33.into()),
        ("ipv6_subnet_family_prefix", 129.into()),
    ]);
    let filter = table([
        ("allow_local_addrs", true.into()),
        ("allow_resolving_local_addrs", true.into()),
    ]);
    [
        ("tor_network", network),
        ("address_filter", filter),
        ("path_rules", rules),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}

fn table<const N: usize>(entries: [(&str, Value); N]) -> Value {
    Value::Table(
        entries
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arti_accepts_the_section_of_a_private_network() {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority {
            v3_identity: [1; 20],
            directory: "127.0.0.1:7000".parse().unwrap(),
        };
        let fallback = Fallback {
            rsa_identity: [2; 20],
            ed_identity: [3; 32],
            or_ports: vec!["127.0.0.1:9001".parse().unwrap()],
        };
        let section = private_network(&[authority], &[fallback]);
        assert!(configuration(&section, directory.path()).is_ok());
        assert!(configuration(&toml::Table::new(), directory.path()).is_ok());
    }

    #[test]
    fn stream_timeouts_are_read_as_arti_reads_them_and_are_its_own_where_none_are_set() {
        let directory = tempfile::tempdir().unwrap();
        let read = |text: &str| {
            let section: toml::Table = toml::from_str(text).unwrap();
            configuration(&section, directory.path()).unwrap();
            let timeouts = StreamTimeouts::of(&section).unwrap();
            [timeouts.connect(), timeouts.resolve(), timeouts.resolve_ptr()].map(|span| span.as_millis())
        };
        // What Arti says of its own, in the words in which it shows what it holds.
        let arti = format!("{:?}", configuration(&toml::Table::new(), directory.path()).unwrap());
        for name in ["connect_timeout", "resolve_timeout", "resolve_ptr_timeout"] {
            assert!(arti.contains(&format!("{name}: 10s")), "{arti}");
        }
        assert_eq!(read(""), [10_000; 3]);
        assert_eq!(
            read("[stream_timeouts]\nconnect_timeout = \"1 minute 500ms\""),
            [60_500, 10_000, 10_000]
        );
        assert_eq!(
            read("[stream_timeouts]\nresolve_timeout = \"3 sec\"\nresolve_ptr_timeout = \"4s\""),
            [10_000, 3_000, 4_000]
        );
    }

    #[test]
    fn a_key_that_arti_does_not_know_is_an_error_that_names_it() {
        let section: toml::Table = toml::from_str("[path_rules]\nipv5_subnet = 3").unwrap();
        let error = configuration(&section, Path::new("/nowhere")).unwrap_err().to_string();
        assert!(error.contains("path_rules.ipv5_subnet"), "{error}");
    }
}
