//! A paying client among our relays and unmodified ones: what it prefers, what it pays, and what it leaves alone.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use obol_client::{Client, ClientHandle, Event, Paths, Pay, Refusal, TunnelFigures};
use obol_testnet::authority::Role;
use obol_testnet::ctor::available;
use obol_testnet::download::{DownloadError, download};
use obol_testnet::network::{Network, NetworkOptions};
use obol_testnet::origin::{Origin, OriginFile};
use obol_testnet::state::RelayState;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::TryRecvError;

/// Far more than anything here takes: a hang becomes a failure.
const PATIENCE: Duration = Duration::from_secs(180);
const LENGTH: u64 = 3 << 20;
/// Tunnels that are tried until one is over the relay that is wanted; each has it with a chance of one third.
const TRIES: usize = 60;

/// Our guard, two middles of ours and C Tor's, our exit.
struct World {
    network: Network,
    /// C Tor's fingerprint, as figures write it.
    stranger: String,
    origin: Origin,
    file: OriginFile,
    _directory: tempfile::TempDir,
}

/// What was told meanwhile. Of more than the client keeps for us the oldest are lost, and no reason to stop.
fn heard(events: &mut Receiver<Event>) -> impl Iterator<Item = Event> {
    std::iter::from_fn(|| {
        loop {
            match events.try_recv() {
                Ok(event) => return Some(event),
                Err(TryRecvError::Lagged(_)) => {}
                Err(TryRecvError::Empty | TryRecvError::Closed) => return None,
            }
        }
    })
}

impl World {
    async fn new() -> World {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .try_init();
        let directory = tempfile::tempdir().unwrap();
        let file = OriginFile::generate(&directory.path().join("file"), LENGTH, 7)
            .await
            .unwrap();
        let origin = Origin::start(file.clone()).await.unwrap();
        let mut options = NetworkOptions::new(directory.path().join("network"));
        options.relays = 4;
        options.strangers = vec![("stranger".to_owned(), Role::Middle)];
        let starting = Network::start(options, |_| {});
        let network = tokio::time::timeout(PATIENCE, starting)
            .await
            .expect("in time")
            .unwrap();
        let (rsa, _) = network.strangers[0].identity().unwrap();
        let world = World {
            network,
            stranger: hex::encode_upper(rsa),
            origin,
            file,
            _directory: directory,
        };
        world.relays_have_opened().await;
        world
    }

    /// Every relay of ours has an escrow to every other.
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

    /// A client that is ready to pay, with these paths and at most this price for a hop.
    async fn client(&self, name: &str, paths: Paths, highest: u64) -> ClientHandle {
        let directory = self.network.options.directory.join(name);
        let mut config = self.network.client_config(&directory, Some(Pay::Always)).unwrap();
        let payments = config.payments.as_mut().unwrap();
        payments.paths = paths;
        payments.max_price_per_64_kib = highest;
        let client = Client::start(config).await.unwrap();
        client.ready_to_pay(PATIENCE).await.unwrap();
        client
    }

    async fn fetch(&self, client: &ClientHandle, user: &str, what: &str) -> Result<u64, DownloadError> {
        let fetching = download(client.socks_addr(), user, self.origin.address(), what, |_| {});
        let done = tokio::time::timeout(PATIENCE, fetching).await.expect("in time")?;
        if what == "/file" {
            assert_eq!((done.bytes, done.sha256), (LENGTH, self.file.sha256));
        }
        Ok(done.bytes)
    }

    /// What C Tor's relay has warned of. Its warnings of clocks and of networks without bandwidth are not about us.
    fn said_about_payment_messages(&self) -> Option<String> {
        self.network.strangers[0].line_with(&["nknown relay command"])
    }
}

fn tunnels(client: &ClientHandle) -> Vec<TunnelFigures> {
    client.figures().tunnels
}

/// The figures of one tunnel, once they are there: a stream may be open a moment before.
async fn tunnel(client: &ClientHandle, number: u64) -> TunnelFigures {
    let looking = async {
        loop {
            let found = tunnels(client).into_iter().find(|figures| figures.tunnel == number);
            match found {
                Some(found) => return found,
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.expect("in time")
}

fn over(tunnel: &TunnelFigures, fingerprint: &str) -> bool {
    tunnel.hops.iter().any(|hop| hop.fingerprint == fingerprint)
}

/// Opens streams of ever new people until one is on a tunnel over C Tor's relay; who that was.
async fn somebody_over_the_stranger(world: &World, client: &ClientHandle) -> (String, u64) {
    for n in 0..TRIES {
        let user = format!("user {n}");
        let mut events = client.events();
        world.fetch(client, &user, "/hello").await.unwrap();
        let tunnel = heard(&mut events).find_map(|event| match event {
            Event::Stream { tunnel, .. } => Some(tunnel),
            _ => None,
        });
        let number = tunnel.unwrap();
        if over(&self::tunnel(client, number).await, &world.stranger) {
            return (user, number);
        }
    }
    panic!("{TRIES} tunnels, and none over {}", world.stranger);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_c_tor_middle_the_guard_alone_is_paid_and_strangers_get_no_payment_message() {
    if !available() {
        return;
    }
    let world = World::new().await;
    let client = world.client("any", Paths::Any, 100).await;
    let (user, number) = somebody_over_the_stranger(&world, &client).await;
    world.fetch(&client, &user, "/file").await.unwrap();
    let figures = tunnel(&client, number).await;
    let [guard, middle, exit] = &figures.hops[..] else {
        panic!("{figures:?}")
    };
    assert_eq!(figures.paid_hops, 1, "{figures:?}");
    assert!(figures.payments > 1 && figures.bought >= 2 * LENGTH / 3, "{figures:?}");
    assert_eq!((guard.unpaid, guard.paid_hop), (None, true));
    // Nothing but the guard's own price was spent, so nothing was sent on.
    let units = i64::try_from(figures.bought / 65_536).unwrap();
    let price = guard.price_per_64_kib.unwrap();
    assert!(guard.paid > 0 && figures.spent == units * price, "{figures:?}");
    assert_eq!((middle.unpaid, middle.paid), (Some(Refusal::NotPaidHop), 0));
    // It could be paid, but not across the gap, and it is not even asked.
    assert_eq!((exit.unpaid, exit.paid), (Some(Refusal::ChainEnds), 0));
    assert_eq!((exit.paid_hop, exit.price_per_64_kib), (true, None));
    // By its own account the guard earned it, and passed nothing on for this circuit.
    let state = RelayState::of(&world.network.guard().control).await.unwrap();
    let carried = state.busiest().unwrap();
    assert!(
        carried.earned_stroops > 0 && carried.forwarded_stroops == 0,
        "{carried:?}"
    );
    let exit = RelayState::of(&world.network.relays[3].control).await.unwrap();
    let theirs = exit.busiest().unwrap();
    assert!(theirs.metered > LENGTH && theirs.earned_stroops == 0, "{theirs:?}");
    assert_eq!(world.said_about_payment_messages(), None);
    client.shutdown().await;
    world.network.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tunnels_that_can_be_paid_whole_are_preferred_and_what_falls_short_is_taken_or_refused_and_said() {
    if !available() {
        return;
    }
    let world = World::new().await;

    // Thirty people: without a preference ten of them would be on C Tor's middle.
    let client = world.client("prefer", Paths::Prefer, 100).await;
    let mut events = client.events();
    for n in 0..30 {
        world.fetch(&client, &format!("user {n}"), "/hello").await.unwrap();
    }
    let (mut whole, mut searched) = (0, 0);
    let mut looked = false;
    for event in heard(&mut events) {
        match event {
            Event::Searched { tries, taken, .. } => {
                assert!(tries > 1 && taken);
                looked = true;
            }
            Event::Stream {
                payable: 3,
                hops: 3,
                why: None,
                ..
            } => {
                whole += 1;
                searched += u32::from(std::mem::take(&mut looked));
            }
            // Eight tries may all be over C Tor's middle: once in some thousand times.
            Event::Stream { payable, why, .. } => {
                assert_eq!((payable, why), (1, Some(Refusal::NotPaidHop)));
                assert!(std::mem::take(&mut looked), "nothing better was looked for");
            }
            _ => {}
        }
    }
    assert!(
        whole >= 27 && searched > 0,
        "{whole} of 30 are whole, {searched} of them were looked for"
    );
    // Streams of one application stay together: no search for each.
    let before = tunnels(&client).len();
    for _ in 0..5 {
        world.fetch(&client, "user 0", "/hello").await.unwrap();
    }
    assert!(tunnels(&client).len() <= before + 1);

    // While nobody is paid the first tunnel will do: not one of twelve people has another looked for.
    client.set_pay(Pay::Never);
    let mut events = client.events();
    for n in 30..42 {
        world.fetch(&client, &format!("user {n}"), "/hello").await.unwrap();
    }
    let looked = heard(&mut events).find(|event| matches!(event, Event::Searched { .. }));
    assert_eq!(looked, None);
    client.shutdown().await;

    // That the exit asks too much is learned on the first tunnels. From then on no tunnel is whole, and the best is taken.
    let thrifty = world.client("thrifty", Paths::Prefer, 20).await;
    let mut events = thrifty.events();
    let dear = Refusal::TooDear { price_per_64_kib: 50 };
    let learning = async {
        for n in 0.. {
            world.fetch(&thrifty, &format!("user {n}"), "/file").await.unwrap();
            let stream = heard(&mut events).filter_map(|event| match event {
                Event::Stream { payable, hops, why, .. } => Some((payable, hops, why)),
                _ => None,
            });
            match stream.last() {
                Some((3, 3, None)) => {}
                stream => return stream,
            }
        }
        None
    };
    let stream = tokio::time::timeout(PATIENCE, learning).await.expect("in time");
    assert_eq!(stream, Some((2, 3, Some(dear))));
    let last = tunnels(&thrifty).pop().unwrap();
    assert_eq!((last.paid_hops, last.hops[2].unpaid), (2, Some(dear)), "{last:?}");
    assert!(last.hops[1].paid > 0 && last.hops[2].paid == 0, "{last:?}");
    thrifty.shutdown().await;

    // Who wants nothing less than whole tunnels is refused, once the exit's price is known.
    let strict = world.client("strict", Paths::Only, 20).await;
    let mut events = strict.events();
    let asking = async {
        loop {
            if let Err(DownloadError::Proxy { error, .. }) = world.fetch(&strict, "user", "/hello").await {
                return error;
            }
        }
    };
    let error = tokio::time::timeout(PATIENCE, asking).await.expect("in time");
    let not_allowed = matches!(error, tokio_socks::Error::ConnectionNotAllowedByRuleset);
    assert!(not_allowed, "{error}");
    let said: Vec<Event> = heard(&mut events).collect();
    // Of all that were looked at the best had two paid hops, or one, where each was over C Tor's middle.
    let short = |event: &Event| {
        matches!(
            event,
            Event::Searched {
                taken: false,
                payable: 1 | 2,
                ..
            }
        )
    };
    assert!(said.iter().any(short), "{said:#?}");
    strict.shutdown().await;
    assert_eq!(world.said_about_payment_messages(), None);
    world.network.stop().await;
}
