//! A new configuration for a running relay: all of it, or nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::{RunningRelay, advertised, authorities, cell_memory, client_share, exit_config, unpaid_share};
use crate::config::{Config, ConfigError, Size};
use crate::payments::SettingsError;

/// What can change while a relay runs: these keys, and all keys of these sections. Everything else needs a restart.
const CHANGEABLE: &[&str] = &[
    "nickname",
    "contact",
    "log",
    "shutdown_wait",
    "or.advertise",
    "or.ipv6_advertise",
    "family.members",
    "exit",
    "bandwidth",
    "accounting",
    "memory",
    "defence",
    "directory.authorities",
    "payments.price_per_64_kib",
    "payments.forward_ppm",
    "payments.forward_ceiling",
    "payments.largest_step",
    "payments.escrows",
    "payments.peers",
    "payments.limits",
    "payments.owing",
    "payments.trust",
];

/// What of it the descriptor does not show.
const HIDDEN: &[&str] = &["log", "shutdown_wait", "memory", "defence", "accounting", "payments"];

/// Why a relay goes on with the configuration that it has.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The new one cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The new one has settings of payments that cannot be used.
    #[error(transparent)]
    Payments(#[from] SettingsError),
    /// The new one differs in what cannot change while the relay runs.
    #[error("{} cannot change while the relay runs: restart it, or change back", keys.join(", "))]
    Fixed {
        /// The keys.
        keys: Vec<String>,
    },
}

impl RunningRelay {
    /// Goes on with this configuration, without touching links, circuits or payments under way: new ones are made by it. A
    /// change that the descriptor shows is published. Returns the keys that changed. Needs a tokio runtime.
    ///
    /// # Errors
    /// See [`ReloadError`]; then everything stays as it was.
    pub fn reload(&self, new: Config) -> Result<Vec<String>, ReloadError> {
        new.check()?;
        let old = self.config();
        let changed = differences(&old, &new);
        let fixed: Vec<String> = changed.iter().filter(|key| !is_in(key, CHANGEABLE)).cloned().collect();
        if !fixed.is_empty() {
            return Err(ReloadError::Fixed { keys: fixed });
        }
        let exit = exit_config(&new)?;
        if let (Some(payments), Some(of_payments)) = (&self.payments, &new.payments) {
            payments.reconfigure(of_payments, &new.bandwidth)?;
        }
        if let Some(announcement) = &self.announcement {
            announcement.describe(&new)?;
        }
        // From here on nothing can fail.
        let elsewhere = self.relay.set_advertised(advertised(&new));
        if let (Some(self_test), Some(announcement)) = (&self.self_test, &self.announcement) {
            self_test.go_on_with(announcement.subject(), elsewhere);
        }
        self.relay.set_exit(exit);
        self.relay.set_overrides(new.defence.overrides());
        self.cache.set_share(client_share(&new));
        self.cache.set_onion_memory(new.memory.onion_descriptors.bytes());
        let engine = self.engine();
        let (bandwidth, before) = (&new.bandwidth, &old.bandwidth);
        // What somebody has set over the local interface stays, unless the file says something new.
        if bandwidth.burst != before.burst {
            engine.set_burst(bandwidth.burst.map_or(0, Size::bytes));
        }
        if bandwidth.rate != before.rate {
            engine.set_rate(bandwidth.rate.map(Size::bytes));
        }
        if (bandwidth.unpaid, bandwidth.unpaid_cap) != (before.unpaid, before.unpaid_cap) {
            engine.set_unpaid(unpaid_share(bandwidth.unpaid, bandwidth.unpaid_cap));
        }
        if new.memory != old.memory {
            engine.set_cell_memory(cell_memory(&new));
        }
        let trusted = (new.directory.authorities != old.directory.authorities).then(|| authorities(&new));
        let publishes = new.directory.publish;
        self.settings.send_replace(Arc::new(new));
        let shown = publishes && changed.iter().any(|key| !is_in(key, HIDDEN));
        if trusted.is_some() || shown {
            let directory = Arc::clone(&self.directory);
            let publishing = async move {
                let published = match trusted {
                    Some(trusted) => directory.set_authorities(trusted).await,
                    None => directory.publish().await,
                };
                if let Err(error) = published {
                    tracing::debug!(%error, "the descriptor of the new configuration was not taken yet");
                }
            };
            // Goes on by itself; what it would tell is logged.
            drop(tokio::spawn(publishing));
        }
        Ok(changed)
    }
}

/// Whether a key is one of these, or in one of these sections.
fn is_in(key: &str, list: &[&str]) -> bool {
    list.iter().any(|entry| {
        key.strip_prefix(entry)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

/// The keys whose values differ; lists are one value.
fn differences(old: &Config, new: &Config) -> Vec<String> {
    fn walk(path: &str, old: &Value, new: &Value, found: &mut BTreeSet<String>) {
        match (old, new) {
            (Value::Object(old), Value::Object(new)) => {
                let value = |map: &Map<String, Value>, key: &String| map.get(key).cloned().unwrap_or_default();
                for key in old.keys().chain(new.keys()) {
                    walk(&below(path, key), &value(old, key), &value(new, key), found);
                }
            }
            (old, new) if old != new => {
                found.insert(path.to_owned());
            }
            _ => {}
        }
    }
    // Every value of a configuration can be written.
    let [old, new] = [old, new].map(|config| serde_json::to_value(config).unwrap_or_default());
    let mut found = BTreeSet::new();
    walk("", &old, &new, &mut found);
    found.into_iter().collect()
}

/// The name of a key in a section.
fn below(path: &str, key: &str) -> String {
    match path {
        "" => key.to_owned(),
        _ => format!("{path}.{key}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// What needs a restart: changing it would make another relay, other money, or other sockets.
    const FIXED: &[&str] = &[
        "data_directory",
        "or.listen",
        "or.ipv6_listen",
        "family.keys",
        "or.allow_private_addresses",
        "directory.publish",
        "payments.journal",
        "payments.journal_limit",
        "payments.keep_days",
        "payments.ledger",
        "payments.accounts",
        "gateway",
    ];

    fn config(text: &str) -> Config {
        Config::parse(text, Path::new("node.toml")).unwrap()
    }

    fn example() -> String {
        include_str!("../../../../node.toml").replace("#advertise", "advertise")
    }

    #[test]
    fn every_key_can_change_or_is_known_to_need_a_restart() {
        fn leaves(path: &str, value: &Value, all: &mut Vec<String>) {
            match value {
                Value::Object(map) => map
                    .iter()
                    .for_each(|(key, value)| leaves(&below(path, key), value, all)),
                _ => all.push(path.to_owned()),
            }
        }
        let mut all = Vec::new();
        leaves("", &serde_json::to_value(config(&example())).unwrap(), &mut all);
        assert!(all.len() > 50, "{all:?}");
        for key in &all {
            assert!(
                is_in(key, CHANGEABLE) != is_in(key, FIXED),
                "{key} belongs into CHANGEABLE, and is then applied in reload(), or into FIXED"
            );
        }
        for entry in CHANGEABLE.iter().chain(FIXED) {
            assert!(all.iter().any(|key| is_in(key, &[entry])), "there is no {entry}");
        }
    }

    #[test]
    fn differences_are_told_by_their_keys() {
        let old = config(&example());
        assert!(differences(&old, &old).is_empty());
        let text = example()
            .replace("price_per_64_kib = 100", "price_per_64_kib = 200")
            .replace("policy = [\"reject *:*\"]", "policy = [\"accept *:443\"]")
            .replace("#rate = ", "rate = ");
        assert_eq!(
            differences(&old, &config(&text)),
            ["bandwidth.rate", "exit.policy", "payments.price_per_64_kib"]
        );
        let mut unpaid = old.clone();
        unpaid.payments = None;
        assert_eq!(differences(&old, &unpaid), ["payments"]);
        assert!(!is_in("payments", CHANGEABLE) && is_in("payments", &["payments"]));
        assert!(!is_in("orbit", &["or"]));
    }
}
