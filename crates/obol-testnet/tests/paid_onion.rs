//! Onion services and money: each side pays the hops of the circuit that it built, and neither speaks of money to the other.

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::time::Duration;

use obol_client::{Client, ClientHandle, Event, FarSide, Paths, Pay, Refusal, Service, ServicePort, TunnelFigures};
use obol_testnet::ctor::{CTor, Torrc, available};
use obol_testnet::network::{Network, NetworkOptions};
use obol_testnet::origin::{Origin, OriginFile};
use obol_testnet::state::RelayState;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_socks::tcp::Socks5Stream;

/// Far more than anything here takes: a hang becomes a failure.
const PATIENCE: Duration = Duration::from_secs(240);
const LENGTH: u64 = 3 << 20;

struct World {
    network: Network,
    origin: Origin,
    file: OriginFile,
    _directory: tempfile::TempDir,
}

impl World {
    async fn new() -> World {
        World::with(|_| {}).await
    }

    /// Eight relays of ours: introduction, rendezvous and directory points are to differ from each other.
    async fn with(change: impl FnOnce(&mut NetworkOptions)) -> World {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .try_init();
        let directory = tempfile::tempdir().unwrap();
        let file = OriginFile::generate(&directory.path().join("file"), LENGTH, 7)
            .await
            .unwrap();
        let origin = Origin::start(file.clone()).await.unwrap();
        let mut options = NetworkOptions::new(directory.path().join("network"));
        options.relays = 8;
        options.wallets = 2;
        // C Tor has a service's period last for 24 votes of a test network, arti for what the consensus says.
        options.consensus = vec![("hsdir_interval".to_owned(), 240)];
        change(&mut options);
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

    /// A client that is ready to pay for all, with these services.
    async fn client(&self, name: &str, paths: Paths, services: Vec<Service>) -> ClientHandle {
        self.client_that_pays(Pay::Always, name, paths, services).await
    }

    async fn client_that_pays(&self, pay: Pay, name: &str, paths: Paths, services: Vec<Service>) -> ClientHandle {
        let directory = self.network.options.directory.join(name);
        let mut config = self.network.client_config(&directory, Some(pay)).unwrap();
        config.payments.as_mut().unwrap().paths = paths;
        config.services = services;
        let client = Client::start(config).await.unwrap();
        client.ready_to_pay(PATIENCE).await.unwrap();
        client
    }

    /// Fetches the file from an onion service. Its descriptor may not be everywhere yet.
    async fn fetch(&self, client: &ClientHandle, onion: &str) {
        let proxy = client.socks_addr();
        let connecting = async {
            loop {
                let target = (onion, 80);
                if let Ok(stream) = Socks5Stream::connect_with_password(proxy, target, "user", "obol").await {
                    return stream;
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        };
        let stream = tokio::time::timeout(PATIENCE, connecting).await;
        let mut stream = stream.expect("the service is not reached");
        let fetching = async {
            stream.write_all(b"GET /file HTTP/1.0\r\n\r\n").await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            answer
        };
        let answer = tokio::time::timeout(PATIENCE, fetching).await.expect("in time");
        let head = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
        assert_eq!(answer.len() - head, LENGTH as usize);
        assert_eq!(<[u8; 32]>::from(Sha256::digest(&answer[head..])), self.file.sha256);
    }
}

/// The tunnel that carried most.
fn busiest(client: &ClientHandle) -> TunnelFigures {
    let tunnels = client.figures().tunnels.into_iter();
    tunnels
        .max_by_key(|tunnel| tunnel.payload_received + tunnel.payload_sent)
        .unwrap()
}

/// A client paid for its whole half, the rendezvous point included, and never for the virtual hop.
fn has_paid_its_half(tunnel: &TunnelFigures) {
    let (last, relays) = tunnel.hops.split_last().unwrap();
    assert!(relays.len() >= 3, "{tunnel:?}");
    assert_eq!((last.fingerprint.as_str(), last.paid, last.metered), ("", 0, None));
    assert_eq!(usize::from(tunnel.paid_hops), relays.len(), "{tunnel:?}");
    assert!(
        relays.iter().all(|hop| hop.unpaid.is_none() && hop.paid > 0),
        "{tunnel:?}"
    );
    assert!(tunnel.bought >= 2 * LENGTH / 3 && tunnel.refused == 0, "{tunnel:?}");
    assert!(tunnel.far_side.is_some() && !tunnel.hosted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_and_the_service_that_it_reaches_each_pay_their_own_half() {
    let world = World::new().await;
    let port = ServicePort {
        port: 80,
        to: world.origin.address(),
    };
    let service = Service {
        nickname: "web".to_owned(),
        ports: vec![port],
        introduction_points: 3,
    };
    let host = world.client("host", Paths::Prefer, vec![service.clone()]).await;
    let onion = host.figures().services[0].address.clone();
    assert!(onion.len() == 62 && onion.ends_with(".onion"), "{onion}");
    let client = world.client("client", Paths::Only, Vec::new()).await;
    let mut events = client.events();
    world.fetch(&client, &onion).await;

    has_paid_its_half(&busiest(&client));
    let told = std::iter::from_fn(|| events.try_recv().ok());
    let mut told = told.filter(|event| {
        matches!(
            event,
            Event::FarSide {
                known: FarSide::NotKnown,
                ..
            }
        )
    });
    assert!(told.next().is_some(), "nothing was said of the far side");

    // The service's own half, before the rendezvous point, which counts on the client's circuit.
    let tunnel = busiest(&host);
    assert!(tunnel.hosted && tunnel.far_side.is_some(), "{tunnel:?}");
    assert!(tunnel.payload_sent >= LENGTH && tunnel.payments > 0, "{tunnel:?}");
    let (rendezvous, own) = tunnel.hops[..tunnel.hops.len() - 1].split_last().unwrap();
    assert_eq!(rendezvous.unpaid, Some(Refusal::RendezvousPoint));
    assert_eq!(
        (rendezvous.paid, rendezvous.price_per_64_kib),
        (0, None),
        "it is not even asked"
    );
    assert_eq!(usize::from(tunnel.paid_hops), own.len(), "{tunnel:?}");
    assert!(own.iter().all(|hop| hop.unpaid.is_none() && hop.paid > 0), "{tunnel:?}");

    // A service that starts again has its key still, and with it its address.
    client.shutdown().await;
    host.shutdown().await;
    let host = world.client("host", Paths::Prefer, vec![service]).await;
    assert_eq!(host.figures().services[0].address, onion);
    host.shutdown().await;
    world.network.stop().await;
}

/// C Tor's service in front of `server`, and its address. `more`: further lines of its configuration.
async fn service(world: &World, server: SocketAddr, more: &str) -> (CTor, String) {
    let files = world.network.options.directory.join("ctor-service");
    let guard = world.network.guard();
    let rsa = hex::decode(&guard.fingerprint).unwrap().try_into().unwrap();
    let torrc = Torrc::new()
        .lines(&world.network.authority.torrc_line())
        .fallback(guard.or, rsa)
        .set("SocksPort", 0)
        .set("HiddenServiceDir", files.join("service").display())
        .set("HiddenServicePort", format_args!("80 {server}"))
        .lines(more);
    let mut tor = CTor::start(&files, &torrc).unwrap();
    tor.says(&["Bootstrapped 100%"], PATIENCE).await.unwrap();
    let name = std::fs::read_to_string(files.join("service/hostname")).unwrap();
    (tor, name.trim().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_c_tor_service_is_reached_and_the_clients_half_is_paid_without_its_noticing() {
    if !available() {
        return;
    }
    let world = World::new().await;
    let (tor, onion) = service(&world, world.origin.address(), "").await;
    let client = world.client("client", Paths::Prefer, Vec::new()).await;
    world.fetch(&client, &onion).await;
    has_paid_its_half(&busiest(&client));
    // A payment message that went to the virtual hop would have come to the service.
    assert_eq!(tor.line_with(&["nknown relay command"]), None);
    assert_eq!(tor.line_with(&["[warn]", "rotocol"]), None);
    client.shutdown().await;
    world.network.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_pays_where_it_helps_is_told_that_a_slow_unpaid_far_side_is_what_limits() {
    if !available() {
        return;
    }
    // Small steps: one in sixteen is withheld, so there have to be many.
    let world = World::with(|options| options.largest_step = 64 << 10).await;
    // C Tor pays nobody. Its half is slow whatever is paid on the other: it sends no faster than that. Without the second line it would
    // not count what goes to this machine, and without the last it would send once in 100 ms.
    let slow = "BandwidthRate 384 KBytes\nBandwidthBurst 384 KBytes\nCountPrivateBandwidth 1\nTokenBucketRefillInterval 10 msec";
    let (_tor, onion) = service(&world, world.origin.address(), slow).await;
    let client = world
        .client_that_pays(Pay::WhenItHelps, "client", Paths::Prefer, Vec::new())
        .await;
    let mut events = client.events();
    let fetching = async {
        loop {
            world.fetch(&client, &onion).await;
        }
    };
    let told = async {
        let mut withheld = Vec::new();
        loop {
            match events.recv().await.unwrap() {
                Event::Withheld { tunnel } => withheld.push(tunnel),
                Event::FarSide {
                    tunnel,
                    known: FarSide::Slower,
                } => {
                    assert!(withheld.contains(&tunnel), "nothing was withheld on {tunnel}");
                    return tunnel;
                }
                _ => {}
            }
        }
    };
    let tunnel = tokio::select! {
        () = fetching => unreachable!("it goes on until it is told"),
        told = tokio::time::timeout(PATIENCE, told) => told.expect("in time"),
    };
    let figures = client.figures().tunnels;
    let figures = figures.iter().find(|figures| figures.tunnel == tunnel).unwrap();
    assert_eq!(figures.far_side, Some(FarSide::Slower));
    // It had paid its half until then, and goes on where it pays for less.
    assert!(figures.payments >= 4 && figures.refused == 0, "{figures:?}");
    client.shutdown().await;
    world.network.stop().await;
}
