//! Whole relays, as `obol relay` runs them, in a network: what changes while they run.

#![allow(clippy::unwrap_used)]

mod network;

use std::net::SocketAddr;
use std::path::Path;

use network::{Network, config, until};
use obol_relay::reach::Reachability;
use obol_relay::run;
use obol_testnet::ctor::free_port;

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_told_another_address_finds_out_anew_whether_it_is_reached() {
    let network = Network::start(3).await;
    let files = tempfile::tempdir().unwrap();
    let listening = config(&network.authority.entry(), &files);
    let advertising = |address| {
        let mut config = listening.clone();
        config.or.advertise = Some(address);
        config
    };
    let nowhere = SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()));
    let relay = run(advertising(nowhere)).await.unwrap();
    until(|| matches!(relay.reachability(), Reachability::Unreachable(_))).await;

    let changed = relay.reload(advertising(relay.addresses()[0])).unwrap();
    assert_eq!(changed, ["or.advertise"]);
    until(|| relay.reachability() == Reachability::Reachable).await;
    // What does not concern the address does not make it unknown.
    let mut other = advertising(relay.addresses()[0]);
    other.contact = "me".to_owned();
    relay.reload(other).unwrap();
    assert_eq!(relay.reachability(), Reachability::Reachable);
    relay.reload(advertising(nowhere)).unwrap();
    assert_ne!(relay.reachability(), Reachability::Reachable);
    relay.shutdown().await;
}

/// A family's secret key, in a file as C Tor writes it.
fn family_key(path: &Path) {
    let keypair = tor_llcrypto::pk::ed25519::Keypair::from_bytes(&[0x31; 32]);
    let secret = tor_llcrypto::pk::ed25519::ExpandedKeypair::from(&keypair).to_secret_key_bytes();
    std::fs::write(path, [&b"== ed25519v1-secret: fmly-id ==\0"[..], &secret].concat()).unwrap();
    #[cfg(unix)]
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_shows_what_the_consensus_wants_and_publishes_when_that_changes() {
    let network = Network::start(1).await;
    let files = tempfile::tempdir().unwrap();
    let mut config = config(&network.authority.entry(), &files);
    config.family.members = vec!["AB".repeat(20).parse().unwrap()];
    config.family.keys = vec![files.path().join("ours.secret_family_key")];
    family_key(&config.family.keys[0]);
    let relay = run(config).await.unwrap();
    tokio::time::timeout(network::PATIENCE, network.authority.wait_for(2))
        .await
        .unwrap();
    let wait_for = async |tap: i32, list: i32| {
        network.authority.set_param("publish-dummy-tap-key", tap);
        network.authority.set_param("publish-family-list", list);
        network.publish().await;
        relay.directory().refresh().await.unwrap();
        let shown = |text: &str| {
            let has = |line: &str| text.lines().any(|l| l.split(' ').next() == Some(line));
            assert!(has("family-cert") && has("ntor-onion-key"), "{text}");
            assert_eq!(has("onion-key"), has("onion-key-crosscert"), "{text}");
            (has("onion-key"), has("family"))
        };
        until(|| shown(&network.authority.descriptor(&relay.rsa()).unwrap()) == (tap != 0, list != 0)).await;
    };
    wait_for(1, 1).await;
    wait_for(0, 1).await;
    wait_for(0, 0).await;
    // Others read a relay that has no TAP key as they read any.
    network.publish().await;
    let view = network.nodes[0].directory.view();
    let seen = view.by_ed(&relay.ed()).unwrap();
    assert!(seen.ntor.is_some());
    wait_for(1, 1).await;
    relay.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_nobody_uses_measures_by_cells_of_its_own_what_it_carries_and_sends_no_more_than_that() {
    const CELL: u64 = 514;
    let network = Network::start(3).await;
    let files = tempfile::tempdir().unwrap();
    let config = config(&network.authority.entry(), &files);
    let relay = run(config).await.unwrap();
    let carried = || relay.engine().counters().cells.iter().flatten().sum::<u64>() * CELL;
    // 15 MiB, up to a cell of each of four circuits.
    let whole = (15 << 20) - 4 * CELL;
    until(|| carried() >= whole).await;
    let circuits = || relay.engine().counters().circuits.iter().sum::<u64>();
    until(|| circuits() == 0).await;
    // Each of the others had its part of it.
    for node in &network.nodes {
        let passed_on: u64 = node.handle.engine().counters().cells.iter().flatten().sum();
        assert!(passed_on * CELL >= (4 << 20), "{passed_on} cells");
    }
    // The claim of a relay that has not measured is gone: what is published is what was seen.
    let claim = || {
        let text = network.authority.descriptor(&relay.rsa())?;
        let line = text.lines().find_map(|line| line.strip_prefix("bandwidth "))?;
        line.split(' ').nth(2)?.parse::<u64>().ok()
    };
    assert!(claim().is_some_and(|observed| observed >= 51_200), "{:?}", claim());
    relay.shutdown().await;
    let seen = std::fs::read_to_string(files.path().join("data/traffic.toml")).unwrap();
    let seen: toml::Table = toml::from_str(&seen).unwrap();
    let open = seen["open"].as_table().unwrap();
    assert!(open["fastest"].as_integer().unwrap() >= 51_200, "{seen}");
    let bytes = u64::try_from(open["bytes"].as_integer().unwrap()).unwrap();
    assert!((whole..whole + (1 << 20)).contains(&bytes), "{bytes}");
}
