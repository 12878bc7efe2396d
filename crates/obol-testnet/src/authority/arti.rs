//! What a stock Arti client must be told to use a network on one machine.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use obol_relay::directory::Authority;

/// A relay to start from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryRelay {
    /// SHA-1 of its RSA identity key.
    pub rsa: [u8; 20],
    /// Its Ed25519 identity.
    pub ed: [u8; 32],
    /// Its OR port.
    pub address: SocketAddr,
}

/// A network: whom to believe, and whom to ask first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtiNetwork {
    /// The authorities.
    pub authorities: Vec<Authority>,
    /// Relays to fetch the first consensus from.
    pub fallbacks: Vec<EntryRelay>,
}

impl ArtiNetwork {
    /// Arti's configuration for this network in TOML, with the keys of `arti.toml`, but without a place for its files.
    ///
    /// Local addresses are allowed as targets, and relays of one subnet in one path: everything here is at 127.0.0.1.
    pub fn toml(&self) -> String {
        let ids: Vec<String> = self
            .authorities
            .iter()
            .map(|a| format!("\"{}\"", hex::encode_upper(a.v3_identity)))
            .collect();
        let addresses: Vec<String> = self
            .authorities
            .iter()
            .map(|a| format!("[\"{}\"]", a.address))
            .collect();
        let (ids, addresses) = (ids.join(", "), addresses.join(", "));
        let fallbacks: Vec<String> = self
            .fallbacks
            .iter()
            .map(|relay| {
                let rsa = hex::encode_upper(relay.rsa);
                let ed = STANDARD_NO_PAD.encode(relay.ed);
                let address = relay.address;
                format!("  {{ rsa_identity = \"{rsa}\", ed_identity = \"{ed}\", orports = [\"{address}\"] }},\n")
            })
            .collect();
        let fallbacks = fallbacks.concat();
        format!(
            r#"[tor_network]
authorities = {{ v3idents = [{ids}], uploads = [{addresses}], downloads = [{addresses}], votes = [{addresses}] }}
fallback_caches = [
{fallbacks}]

[address_filter]
allow_local_addrs = true

[path_rules]
ipv4_subnet_family_prefix = 33
ipv6_subnet_family_prefix = 129
"#
        )
    }

    /// The same with directories for Arti's state and cache, whose permissions it is told not to question: temporary
    /// directories lie below one that all may write.
    pub fn toml_with_storage(&self, state: &Path, cache: &Path) -> String {
        let mut text = self.toml();
        let quoted = |path: &Path| toml::Value::String(path.to_string_lossy().into_owned());
        let _ = write!(
            text,
            "\n[storage]\nstate_dir = {}\ncache_dir = {}\n\n[storage.permissions]\ndangerously_trust_everyone = true\n",
            quoted(state),
            quoted(cache),
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arti_accepts_the_configuration() {
        let network = ArtiNetwork {
            authorities: vec![Authority {
                name: "a".to_owned(),
                address: SocketAddr::from(([127, 0, 0, 1], 7000)),
                v3_identity: [0xab; 20],
            }],
            fallbacks: vec![EntryRelay {
                rsa: [1; 20],
                ed: [2; 32],
                address: SocketAddr::from(([127, 0, 0, 1], 9001)),
            }],
        };
        let text = network.toml_with_storage(Path::new("/tmp/a \"state\""), Path::new("/tmp/cache"));
        let builder: arti_client::config::TorClientConfigBuilder = toml::from_str(&text).unwrap();
        builder.build().unwrap();
    }
}
