//! A paying client and hops that stall, lie or talk out of turn: real relays whose payment messages a script answers.
//!
//! What a client loses by such a hop is its tunnel at most: it says so, and its next stream goes through.

#![allow(clippy::unwrap_used)]

mod network;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use network::{PATIENCE, REQUEST, description, keys, policy};
use obol_cell::{
    Asset, DeclineCode, Declined, EscrowRules, ForwardPpm, PricePer64KiB, Quote, Step, Stroops, Tariff, ToNode,
    ToOrigin,
};
use obol_client::config::{Amount, AssetName, Ledger, Paths, Payments, Span};
use obol_client::{Client, ClientConfig, ClientHandle, Event, Pay, Refusal, RetireReason};
use obol_onion::engine::{EngineConfig, PaymentEvent};
use obol_relay::descriptor;
use obol_relay::directory::{Directory, Occasion};
use obol_relay::keys::OnionLifetime;
use obol_relay::relay::{Relay, RelayHandle, RelayParts, payment_channel};
use obol_relay::streams::ExitConfig;
use obol_stellar::Network as Money;
use obol_testnet::authority::{Authority, AuthorityConfig, Role};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::broadcast;

/// What a relay answers to a 52: so many 51.
type Script = Box<dyn Fn(&[u8]) -> Vec<Vec<u8>> + Send>;

struct Actor {
    handle: RelayHandle,
    directory: Directory,
    script: Arc<Mutex<Script>>,
    _files: tempfile::TempDir,
}

impl Actor {
    async fn start(nickname: &str, exit: bool, authority: &Authority) -> Actor {
        let (keys, files) = keys().await;
        let directory = Directory::start(vec![authority.entry()]);
        let (sink, mut events) = payment_channel();
        let handle = Relay::start(RelayParts {
            keys: Arc::clone(&keys),
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            advertised: vec![],
            engine: EngineConfig {
                allow_private_addresses: true,
                ..EngineConfig::default()
            },
            exit: ExitConfig {
                policy: policy(exit),
                reject_private: false,
                ..ExitConfig::closed()
            },
            directory: Some(directory.cache()),
            net: Some(directory.view()),
            payments: Some(sink),
        })
        .await
        .unwrap();
        let script: Arc<Mutex<Script>> = Arc::new(Mutex::new(Box::new(|_| Vec::new())));
        let (engine, played) = (handle.engine(), Arc::clone(&script));
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                if let PaymentEvent::Message { circuit, body, .. } = event {
                    let answers = played.lock().unwrap()(&body);
                    for answer in answers {
                        engine.answer(circuit, &answer);
                    }
                }
            }
        });
        let about = description(nickname, handle.addresses()[0], policy(exit));
        let make = move |occasion: Occasion| descriptor::build(&keys, OnionLifetime::default(), &about, occasion.now);
        directory.publish_with(Arc::new(make)).await.unwrap();
        Actor {
            handle,
            directory,
            script,
            _files: files,
        }
    }
}

struct Stage {
    authority: Authority,
    actors: Vec<Actor>,
    origin: SocketAddr,
}

const PAGE: &[u8] = &[0x55; 200_000];
const PASSPHRASE: &str = "hostile hops";

impl Stage {
    async fn set() -> Stage {
        let authority = Authority::start(AuthorityConfig::default()).await.unwrap();
        let mut actors = Vec::new();
        for role in [Role::Guard, Role::Middle, Role::Exit] {
            let nickname = format!("actor{}", actors.len());
            authority.assign(&nickname, role);
            actors.push(Actor::start(&nickname, role == Role::Exit, &authority).await);
        }
        authority.publish_now().await.unwrap();
        for actor in &actors {
            actor.directory.refresh().await.unwrap();
        }
        Stage {
            authority,
            actors,
            origin: network::origin(PAGE).await,
        }
    }

    /// All hops play this.
    fn play(&self, script: impl Fn(&[u8]) -> Vec<Vec<u8>> + Clone + Send + 'static) {
        for actor in &self.actors {
            *actor.script.lock().unwrap() = Box::new(script.clone());
        }
    }

    /// A paying client that knows nothing of earlier ones.
    async fn client(&self) -> Audience {
        let state = tempfile::tempdir().unwrap();
        let mut config = ClientConfig::new(state.path());
        config.tor = toml::from_str(&self.authority.arti_network().toml()).unwrap();
        config.payments = Some(Payments {
            pay: Pay::Always,
            max_price_per_64_kib: 100,
            max_tunnel_price_per_64_kib: None,
            paths: Paths::Any,
            budget: None,
            budget_per_tunnel: None,
            budget_per_day: None,
            budget_per_month: None,
            deposit: Amount::units(1),
            max_locked: None,
            life: Span::hours(24),
            escrow_per_place: true,
            random_delay: Span::seconds(0),
            journal: PathBuf::from("payments.sqlite"),
            keep_days: None,
            wallet: PathBuf::from("wallet.seed"),
            ledger: Ledger {
                network_passphrase: PASSPHRASE.to_owned(),
                asset: AssetName {
                    code: "OBOL".to_owned(),
                    issuer: ISSUER,
                },
                // Nobody is there: no money ever moves on this stage.
                urls: vec!["http://127.0.0.1:9".to_owned()],
                kind: Default::default(),
                requests_per_minute: None,
                poll: Span::seconds(5),
                highest_fee: 1_000_000,
                two_witnesses_above: None,
                allow_revocable_asset: false,
            },
        });
        let started = tokio::time::timeout(PATIENCE, Client::start(config)).await;
        let client = started.expect("in time").unwrap();
        let events = client.events();
        Audience {
            client,
            events,
            origin: self.origin,
            _state: state,
        }
    }
}

struct Audience {
    client: ClientHandle,
    events: broadcast::Receiver<Event>,
    origin: SocketAddr,
    _state: tempfile::TempDir,
}

impl Audience {
    /// A stream by SOCKS 4 with this user name.
    async fn stream(&self, user: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.client.socks_addr()).await.unwrap();
        let mut request = vec![4, 1];
        request.extend_from_slice(&self.origin.port().to_be_bytes());
        request.extend_from_slice(&[127, 0, 0, 1]);
        request.extend_from_slice(user.as_bytes());
        request.push(0);
        stream.write_all(&request).await.unwrap();
        let mut answer = [0; 8];
        tokio::time::timeout(PATIENCE, stream.read_exact(&mut answer))
            .await
            .expect("in time")
            .unwrap();
        assert_eq!(answer[1], 0x5a, "refused");
        stream
    }

    /// The page, through a tunnel of this user.
    async fn fetch(&self, user: &str) {
        let mut stream = self.stream(user).await;
        stream.write_all(REQUEST).await.unwrap();
        let mut page = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut page))
            .await
            .expect("in time")
            .unwrap();
        assert!(page.ends_with(PAGE));
    }

    /// The first event that `wanted` finds something in.
    async fn until<T>(&mut self, wanted: impl Fn(&Event) -> Option<T>) -> T {
        loop {
            let event = tokio::time::timeout(PATIENCE, self.events.recv())
                .await
                .expect("in time")
                .unwrap();
            if let Some(found) = wanted(&event) {
                return found;
            }
        }
    }
}

const ISSUER: [u8; 32] = [8; 32];

/// A good quote at this price, in this money.
fn quote(price: u64, passphrase: &str) -> Vec<u8> {
    let mut code = [0; 12];
    code[..4].copy_from_slice(b"OBOL");
    let stroops = |n| Stroops::new(n).unwrap();
    let tariff = Tariff {
        price: PricePer64KiB::new(price).unwrap(),
        forward_ppm: ForwardPpm::new(1_000).unwrap(),
        forward_ceiling: PricePer64KiB::new(price).unwrap().at_least_times(20),
        max_step: Step::from_bytes(16 << 20).unwrap(),
        network: Money::new(passphrase).id(),
        asset: Asset { code, issuer: ISSUER },
        rules: EscrowRules {
            min_deposit: stroops(1_000),
            min_life: 3_600,
            max_life: 604_800,
            margin: 600,
        },
    };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    ToOrigin::Quote(Quote {
        tariff,
        next: true,
        credit: 256 << 10,
        valid_until: (now + Duration::from_secs(86_400)).as_secs(),
    })
    .encode()
}

fn quotes_wanted(body: &[u8]) -> bool {
    matches!(ToNode::decode(body), Ok(ToNode::QuoteQuery))
}

fn refused(event: &Event) -> Option<(u8, Refusal)> {
    match event {
        Event::NotPaid { hop, why, .. } => Some((*hop, *why)),
        _ => None,
    }
}

fn given_up(event: &Event) -> Option<RetireReason> {
    match event {
        Event::TunnelGivenUp { why, .. } => Some(*why),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hops_that_ask_too_much_or_for_other_money_or_decline_are_not_paid_and_serve_on() {
    let stage = Stage::set().await;
    let decline = ToOrigin::Declined(Declined {
        code: DeclineCode::NotNow,
    })
    .encode();
    for (answer, expected) in [
        (quote(200, PASSPHRASE), Refusal::TooDear { price_per_64_kib: 200 }),
        (quote(10, "another network"), Refusal::OtherMoney),
        (decline, Refusal::Declined),
    ] {
        stage.play(move |body| {
            assert!(quotes_wanted(body), "something else than a quote was asked for");
            vec![answer.clone()]
        });
        let mut audience = stage.client().await;
        audience.fetch("a").await;
        assert_eq!(audience.until(refused).await, (1, expected));
        audience.fetch("a").await;
        let figures = audience.client.figures();
        assert!(figures.tunnels.iter().all(|tunnel| tunnel.spent == 0));
        audience.client.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hop_that_answers_nonsense_costs_the_tunnel_and_nothing_else() {
    let stage = Stage::set().await;
    let complete = ToOrigin::Complete {
        n: 1,
        metered: 0,
        paid: 0,
        credit: 0,
    }
    .encode();
    for nonsense in [vec![], vec![0xff; 488], complete] {
        stage.play(move |_| vec![nonsense.clone()]);
        let mut audience = stage.client().await;
        let _held = audience.stream("a").await;
        assert_eq!(audience.until(given_up).await, RetireReason::ProtocolError { hop: 1 });
        // From now on they behave.
        stage.play(|_| vec![quote(200, PASSPHRASE)]);
        audience.fetch("b").await;
        audience.client.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hop_that_answers_twice_loses_the_circuit_and_the_next_one_works() {
    let stage = Stage::set().await;
    stage.play(|_| vec![quote(10, PASSPHRASE); 3]);
    let mut audience = stage.client().await;
    let _held = audience.stream("a").await;
    audience
        .until(|event| matches!(event, Event::TunnelClosed { .. }).then_some(()))
        .await;
    stage.play(|_| vec![quote(10, PASSPHRASE)]);
    audience.fetch("b").await;
    audience.client.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hop_that_never_answers_is_given_up_in_its_time() {
    let stage = Stage::set().await;
    stage.play(|_| Vec::new());
    let mut audience = stage.client().await;
    // While data flows there is no hurry: the page comes.
    audience.fetch("a").await;
    let mut held = audience.stream("a").await;
    assert_eq!(audience.until(given_up).await, RetireReason::Silent);
    let mut rest = Vec::new();
    // The stream ends, one way or the other.
    let _ = tokio::time::timeout(PATIENCE, held.read_to_end(&mut rest))
        .await
        .expect("in time");
    stage.play(|_| vec![quote(200, PASSPHRASE)]);
    audience.fetch("a").await;
    audience.client.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_vanishes_takes_its_tunnels_with_it_and_the_client_says_so() {
    let stage = Stage::set().await;
    stage.play(|_| vec![quote(200, PASSPHRASE)]);
    let mut audience = stage.client().await;
    let _held = audience.stream("a").await;
    stage.actors[1].handle.clone().shutdown().await;
    audience
        .until(|event| matches!(event, Event::TunnelClosed { .. }).then_some(()))
        .await;
    let figures = audience.client.figures();
    assert!(figures.tunnels.iter().any(|tunnel| !tunnel.open && tunnel.streams == 1));
    audience.client.shutdown().await;
}
