//! A paying client on a whole network: relays with their payments, ledger, wallet, all of it real.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use arti_client::TorClient;
use arti_client::config::TorClientConfigBuilder;
use obol_client::{Client, ClientHandle, Event, Pay, Refusal, SettleError, TunnelFigures};
use obol_testnet::authority::Role;
use obol_testnet::download::download;
use obol_testnet::network::{Network, NetworkOptions};
use obol_testnet::origin::{Origin, OriginFile};
use obol_testnet::state::RelayState;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tor_rtcompat::PreferredRuntime;

/// Far more than anything here takes: a hang becomes a failure.
const PATIENCE: Duration = Duration::from_secs(180);
/// Ledgers until an escrow's account may be merged.
const LEDGERS_TO_MERGE: u32 = 70;
const LENGTH: u64 = 3 << 20;

struct World {
    network: Network,
    origin: Origin,
    file: OriginFile,
    _directory: tempfile::TempDir,
}

impl World {
    async fn new() -> World {
        World::with(|_, _| {}).await
    }

    /// `adapt`: told the origin's port.
    async fn with(adapt: impl FnOnce(&mut NetworkOptions, u16)) -> World {
        let directory = tempfile::tempdir().unwrap();
        let file = OriginFile::generate(&directory.path().join("file"), LENGTH, 7)
            .await
            .unwrap();
        let origin = Origin::start(file.clone()).await.unwrap();
        let mut options = NetworkOptions::new(directory.path().join("network"));
        adapt(&mut options, origin.address().port());
        let starting = Network::start(options, |_| {});
        let network = tokio::time::timeout(PATIENCE, starting)
            .await
            .expect("in time")
            .unwrap();
        let world = World {
            network,
            origin,
            file,
            _directory: directory,
        };
        world.relays_have_opened().await;
        world
    }

    /// Every relay has an escrow to every other.
    async fn relays_have_opened(&self) {
        let others = self.network.relays.len() - 1;
        let all = async {
            for relay in &self.network.relays {
                loop {
                    let state = RelayState::of(&relay.control).await.unwrap();
                    let open = state
                        .escrows
                        .iter()
                        .filter(|e| e.direction == "out" && e.state == "open");
                    if open.count() >= others {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        };
        tokio::time::timeout(PATIENCE, all).await.expect("in time");
    }

    async fn fetch(&self, client: &ClientHandle, user: &str) {
        let fetching = download(client.socks_addr(), user, self.origin.address(), "/file", |_| {});
        let done = tokio::time::timeout(PATIENCE, fetching)
            .await
            .expect("in time")
            .unwrap();
        assert_eq!((done.bytes, done.sha256), (LENGTH, self.file.sha256));
    }

    /// Settles, with the ledger wound on until accounts may be merged.
    async fn settle(&self, client: &ClientHandle) {
        let merging = async {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                self.network.ledger.advance(0, LEDGERS_TO_MERGE).unwrap();
            }
        };
        tokio::select! {
            closed = client.close_escrows(PATIENCE) => closed.unwrap(),
            () = merging => {}
        }
    }

    /// What an account holds of the asset by the ledger's own books, in stroops.
    fn holding(&self, account: &str) -> i64 {
        let audit = self.network.ledger.audit().unwrap();
        assert!(audit.assets.values().all(|asset| asset.difference == 0), "{audit:?}");
        let balances = audit.accounts.get(account).expect("the account is on the ledger");
        balances.assets.values().sum()
    }
}

fn busiest(client: &ClientHandle) -> TunnelFigures {
    let tunnels = client.figures().tunnels.into_iter();
    tunnels.max_by_key(|tunnel| tunnel.payload_received).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_is_paid_at_every_hop_and_settles_to_the_stroop_over_a_restart() {
    let world = World::new().await;
    let directory = world.network.options.directory.join("client");
    let config = world.network.client_config(&directory, Some(Pay::Always)).unwrap();
    let client = Client::start(config.clone()).await.unwrap();
    let account = client.wallet_account().unwrap().to_owned();
    let before = world.holding(&account);
    client.ready_to_pay(PATIENCE).await.unwrap();

    world.fetch(&client, "a").await;
    let tunnel = busiest(&client);
    assert_eq!(tunnel.paid_hops, 3, "{tunnel:?}");
    assert!(tunnel.payments > 1 && tunnel.first_payment_ms.is_some(), "{tunnel:?}");
    let units = i64::try_from(tunnel.bought / 65_536).unwrap();
    for hop in &tunnel.hops {
        assert!(
            hop.paid > 0 && hop.paid <= units * hop.price_per_64_kib.unwrap(),
            "{hop:?}"
        );
    }
    let own: i64 = tunnel.hops.iter().map(|hop| hop.paid).sum();
    assert!(tunnel.spent >= own, "fees come on top: {tunnel:?}");

    // Dead, and back: the books are those of before, and money goes on from there.
    client.shutdown().await;
    let client = Client::start(config).await.unwrap();
    let [escrow] = &client.figures().escrows[..] else {
        panic!()
    };
    assert!(
        escrow.claim > 0 && escrow.signed >= own && escrow.state == "open",
        "{escrow:?}"
    );
    client.ready_to_pay(PATIENCE).await.unwrap();
    world.fetch(&client, "b").await;
    assert!(busiest(&client).payments > 0);
    let signed = client.figures().escrows[0].signed;
    assert!(signed > escrow.signed);

    // Tunnels keep buying until nobody uses them; from here on nothing more is signed.
    client.set_pay(Pay::Never);
    world.settle(&client).await;
    let [escrow] = &client.figures().escrows[..] else {
        panic!()
    };
    assert_eq!(escrow.settled, Some(escrow.signed), "{escrow:?}");
    assert_eq!(world.holding(&account), before - escrow.signed);
    client.shutdown().await;
    world.network.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_that_is_not_used_any_more_is_asked_to_settle_too() {
    let world = World::with(|options, _| options.consensus_interval = Duration::from_secs(20)).await;
    let [first, second] = [0, 1].map(|relay: usize| world.network.relays[relay].fingerprint.clone());
    let directory = world.network.options.directory.join("client");
    let config = world.network.client_config(&directory, Some(Pay::Always)).unwrap();
    let client = Client::start(config.clone()).await.unwrap();
    client.ready_to_pay(PATIENCE).await.unwrap();
    world.fetch(&client, "a").await;
    assert_eq!(busiest(&client).hops[0].fingerprint, first);

    // Guard and middle change their places.
    for (relay, role) in world.network.relays.iter().zip([Role::Middle, Role::Guard]) {
        world.network.authority.assign(&relay.nickname, role);
    }
    let changed = async {
        let (mut client, mut config, mut turn) = (client, config, 0);
        while busiest(&client).hops[0].fingerprint != second {
            client.shutdown().await;
            // In a new place with its journal and its keys: it asks the relays again for a consensus, until they have the new one, and has no guard.
            let next = directory.with_extension(turn.to_string());
            std::fs::create_dir(&next).unwrap();
            for file in std::fs::read_dir(&config.state_directory).unwrap().map(Result::unwrap) {
                if file.file_type().unwrap().is_file() {
                    std::fs::rename(file.path(), next.join(file.file_name())).unwrap();
                }
            }
            config.state_directory = next;
            turn += 1;
            client = Client::start(config.clone()).await.unwrap();
            client.ready_to_pay(PATIENCE).await.unwrap();
            world.fetch(&client, "b").await;
        }
        client
    };
    let client = tokio::time::timeout(PATIENCE, changed).await.expect("in time");

    client.set_pay(Pay::Never);
    world.settle(&client).await;
    let escrows = client.figures().escrows;
    assert_eq!(escrows.len(), 2, "{escrows:?}");
    for escrow in escrows {
        assert!(escrow.signed > 0 && escrow.settled == Some(escrow.signed), "{escrow:?}");
    }
    client.shutdown().await;
    world.network.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_that_is_spent_is_said_and_everything_goes_on_unpaid() {
    let world = World::new().await;
    let directory = world.network.options.directory.join("thrifty");
    let mut config = world.network.client_config(&directory, Some(Pay::Always)).unwrap();
    let budget = 1_000;
    config.payments.as_mut().unwrap().budget = Some(obol_client::config::Amount(budget));
    let client = Client::start(config).await.unwrap();
    let mut events = client.events();
    client.ready_to_pay(PATIENCE).await.unwrap();
    world.fetch(&client, "a").await;
    let said = async {
        loop {
            if let Event::NotPaid {
                why: Refusal::BudgetSpent,
                ..
            } = events.recv().await.unwrap()
            {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, said).await.expect("in time");
    let spent: i64 = client.figures().tunnels.iter().map(|tunnel| tunnel.spent).sum();
    assert!(spent > 0 && spent <= budget, "{spent} stroops were spent");
    client.shutdown().await;
    world.network.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_asks_the_ledger_through_exits_alone_though_it_could_reach_it_itself() {
    let only = |options: &mut NetworkOptions, origin| options.exit_policy = vec![format!("accept *:{origin}")];
    let world = World::with(only).await;
    let directory = world.network.options.directory.join("client");
    let config = world.network.client_config(&directory, Some(Pay::Always)).unwrap();
    let client = Client::start(config).await.unwrap();
    let mut events = client.events();
    // The ledger answers on this machine, to relays as to anybody.
    for relay in &world.network.relays {
        assert!(!RelayState::of(&relay.control).await.unwrap().escrows.is_empty());
    }
    world.fetch(&client, "a").await;
    let failed = async {
        loop {
            match events.recv().await.unwrap() {
                Event::EscrowFailed { .. } => return,
                Event::EscrowOpening { .. } | Event::Wallet { .. } => panic!("the ledger was reached past Tor"),
                _ => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, failed).await.expect("in time");
    world.fetch(&client, "b").await;
    assert!(client.figures().escrows.is_empty());
    client.shutdown().await;
    world.network.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_pays_is_served_and_has_no_escrow() {
    let world = World::new().await;
    let client = world.network.client("free", None).await.unwrap();
    world.fetch(&client, "a").await;
    assert!(matches!(
        client.close_escrows(PATIENCE).await,
        Err(SettleError::NoWallet)
    ));
    assert!(client.figures().escrows.is_empty());
    let tunnel = busiest(&client);
    assert_eq!((tunnel.spent, tunnel.payments, tunnel.setup_cells), (0, 0, 0));
    client.shutdown().await;
    world.network.stop().await;
}

/// Any Arti there is, with nothing of ours in it: what it is told is the `arti.toml` that a user would give it.
#[tokio::test(flavor = "multi_thread")]
async fn a_stock_arti_client_is_served_in_the_unpaid_class_by_relays_that_are_paid() {
    let world = World::new().await;
    let files = world.network.options.directory.join("stock");
    let builder: TorClientConfigBuilder = toml::from_str(&world.network.arti_toml(&files)).unwrap();
    let builder = TorClient::with_runtime(PreferredRuntime::current().unwrap()).config(builder.build().unwrap());
    let fetching = async {
        let client = builder.create_bootstrapped().await.unwrap();
        let address = world.origin.address();
        let mut stream = client
            .connect((address.ip().to_string(), address.port()))
            .await
            .unwrap();
        stream.write_all(b"GET /file HTTP/1.0\r\n\r\n").await.unwrap();
        stream.flush().await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        answer
    };
    let answer = tokio::time::timeout(PATIENCE, fetching).await.expect("in time");
    let head = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
    assert_eq!(answer.len() - head, LENGTH as usize);
    assert_eq!(<[u8; 32]>::from(Sha256::digest(&answer[head..])), world.file.sha256);
    let mut unpaid = 0;
    for relay in &world.network.relays {
        let state = RelayState::of(&relay.control).await.unwrap();
        assert_eq!((state.totals.payments, state.totals.earned_stroops), (0, 0));
        unpaid += state.class_bytes.unpaid;
    }
    // But for what every circuit is given to begin with, 256 KiB at most.
    assert!(
        unpaid >= 3 * (LENGTH - (256 << 10)),
        "three hops carried {unpaid} bytes unpaid"
    );
    world.network.stop().await;
}
