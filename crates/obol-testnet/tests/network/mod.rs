//! A small network for these tests: an authority and relays of ours, unpaid, in this process.

// Each test binary uses a part of it, and nothing here runs outside of tests.
#![allow(dead_code, clippy::unwrap_used)]

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arti_client::TorClient;
use arti_client::config::TorClientConfigBuilder;
use obol_onion::engine::EngineConfig;
use obol_relay::config::Config;
use obol_relay::descriptor::{self, Description};
use obol_relay::directory::{self, Directory, Occasion};
use obol_relay::keys::{Keys, OnionLifetime};
use obol_relay::relay::{Relay, RelayHandle, RelayParts};
use obol_relay::streams::ExitConfig;
use obol_testnet::authority::{Authority, AuthorityConfig, Role};
use obol_testnet::ctor::free_port;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tor_netdoc::types::policy::{AddrPolicy, RuleKind};
use tor_rtcompat::PreferredRuntime;

/// Far more than anything here takes: a hang becomes a failure.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// A relay and what keeps it in the directory.
pub struct Node {
    pub handle: RelayHandle,
    pub keys: Arc<Keys>,
    pub directory: Directory,
    files: tempfile::TempDir,
}

/// All of it.
pub struct Network {
    pub authority: Authority,
    pub nodes: Vec<Node>,
}

/// A relay's account of itself.
pub fn description(nickname: &str, address: SocketAddr, policy: AddrPolicy) -> Description {
    let SocketAddr::V4(address) = address else {
        panic!("an IPv4 address is wanted")
    };
    Description {
        nickname: nickname.to_owned(),
        platform: "Obol 0.1.0 on a test".to_owned(),
        contact: String::new(),
        address: SocketAddrV4::new(*address.ip(), address.port()),
        ipv6: None,
        bandwidth_rate: 10_000_000,
        bandwidth_burst: 20_000_000,
        bandwidth_observed: 10_000_000,
        uptime: Duration::from_secs(1),
        hibernating: false,
        tap: true,
        policy,
        ipv6_exit: false,
        protocols: descriptor::PROTOCOLS,
        family: Vec::new(),
        family_keys: Vec::new(),
        history: None,
    }
}

/// Everything is allowed, or nothing.
pub fn policy(exit: bool) -> AddrPolicy {
    let mut policy = AddrPolicy::new();
    if exit {
        policy.push(RuleKind::Accept, "127.0.0.0/8:*".parse().unwrap());
    }
    policy.push(
        if exit { RuleKind::Accept } else { RuleKind::Reject },
        "*:*".parse().unwrap(),
    );
    policy
}

/// New keys in a directory of their own.
pub async fn keys() -> (Arc<Keys>, tempfile::TempDir) {
    let files = tempfile::tempdir().unwrap();
    let path = files.path().join("keys");
    let open = move || Keys::open(&path, SystemTime::now()).unwrap();
    (tokio::task::spawn_blocking(open).await.unwrap(), files)
}

impl Node {
    /// Starts a relay that knows this authority, and publishes it there.
    pub async fn start(nickname: &str, exit: bool, authority: &Authority) -> Node {
        Node::start_at(nickname, exit, authority.entry()).await
    }

    /// The same with an authority that may be anybody's.
    pub async fn start_at(nickname: &str, exit: bool, authority: directory::Authority) -> Node {
        Node::listening(nickname, exit, authority, false).await
    }

    /// The same, on IPv6 as well.
    pub async fn start_on_both(nickname: &str, exit: bool, authority: directory::Authority) -> Node {
        Node::listening(nickname, exit, authority, true).await
    }

    async fn listening(nickname: &str, exit: bool, authority: directory::Authority, ipv6: bool) -> Node {
        let ipv4 = SocketAddr::from(([127, 0, 0, 1], 0));
        let ipv6 = ipv6.then(|| SocketAddr::from((Ipv6Addr::LOCALHOST, 0)));
        let (keys, files) = keys().await;
        let directory = Directory::start(vec![authority]);
        let handle = Relay::start(RelayParts {
            keys: Arc::clone(&keys),
            listen: [Some(ipv4), ipv6].into_iter().flatten().collect(),
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
            payments: None,
        })
        .await
        .unwrap();
        let mut about = description(nickname, handle.addresses()[0], policy(exit));
        about.ipv6 = handle.addresses().iter().find_map(|address| match address {
            SocketAddr::V6(address) => Some(*address),
            SocketAddr::V4(_) => None,
        });
        let owned = Arc::clone(&keys);
        let make = move |occasion: Occasion| descriptor::build(&owned, OnionLifetime::default(), &about, occasion.now);
        directory.publish_with(Arc::new(make)).await.unwrap();
        Node {
            handle,
            keys,
            directory,
            files,
        }
    }
}

impl Network {
    /// A guard, a middle and an exit, and beyond three more of each in turn; every relay has the consensus.
    pub async fn start(relays: usize) -> Network {
        let roles = [Role::Guard, Role::Middle, Role::Exit];
        let roles: Vec<Role> = roles.iter().cycle().take(relays).copied().collect();
        Network::with(&roles).await
    }

    /// Relays with just these roles, called `relay0` and so on.
    pub async fn with(roles: &[Role]) -> Network {
        Network::under(AuthorityConfig::default(), roles).await
    }

    /// The same with an authority that is told something else.
    pub async fn under(config: AuthorityConfig, roles: &[Role]) -> Network {
        let authority = Authority::start(config).await.unwrap();
        let mut nodes = Vec::new();
        for (n, role) in roles.iter().enumerate() {
            let nickname = format!("relay{n}");
            authority.assign(&nickname, *role);
            nodes.push(Node::start(&nickname, *role == Role::Exit, &authority).await);
        }
        let network = Network { authority, nodes };
        network.publish().await;
        network
    }

    /// A new consensus, which all our relays have.
    pub async fn publish(&self) {
        self.authority.publish_now().await.unwrap();
        for node in &self.nodes {
            node.directory.refresh().await.unwrap();
        }
    }

    /// A stock Arti client of the network that has bootstrapped, and the directory with its files.
    pub async fn arti(&self) -> (Arc<TorClient<PreferredRuntime>>, tempfile::TempDir) {
        let files = tempfile::tempdir().unwrap();
        let text = self
            .authority
            .arti_network()
            .toml_with_storage(&files.path().join("state"), &files.path().join("cache"));
        let builder: TorClientConfigBuilder = toml::from_str(&text).unwrap();
        let config = builder.build().unwrap();
        let builder = TorClient::with_runtime(PreferredRuntime::current().unwrap()).config(config);
        let starting = tokio::time::timeout(PATIENCE, builder.create_bootstrapped());
        (starting.await.expect("bootstrapping takes too long").unwrap(), files)
    }
}

/// The configuration of a whole relay in this authority's network.
pub fn config(entry: &directory::Authority, files: &tempfile::TempDir) -> Config {
    let text = format!(
        "nickname = \"whole\"\ndata_directory = \"data\"\n[or]\nlisten = \"127.0.0.1:{}\"\n\
         allow_private_addresses = true\n[[directory.authorities]]\nname = \"authority\"\naddress = \"{}\"\n\
         v3_identity = \"{}\"\n",
        free_port().unwrap(),
        entry.address,
        hex::encode(entry.v3_identity)
    );
    Config::parse(&text, &files.path().join("node.toml")).unwrap()
}

/// Waits until something holds.
pub async fn until(mut holds: impl FnMut() -> bool) {
    let looking = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.unwrap();
}

/// A page fetched through an Arti client.
pub async fn fetch(client: &TorClient<PreferredRuntime>, address: SocketAddr) -> Vec<u8> {
    let fetching = async {
        let mut stream = client
            .connect((address.ip().to_string(), address.port()))
            .await
            .unwrap();
        stream.write_all(REQUEST).await.unwrap();
        stream.flush().await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        answer
    };
    tokio::time::timeout(PATIENCE, fetching)
        .await
        .expect("the page takes too long")
}

/// A web server that answers every request with this page.
pub async fn origin(page: &'static [u8]) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut piece = [0_u8; 1024];
                    match stream.read(&mut piece).await {
                        Ok(n) if n > 0 => request.extend_from_slice(&piece[..n]),
                        _ => return,
                    }
                }
                let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", page.len());
                let _ = stream.write_all(head.as_bytes()).await;
                let _ = stream.write_all(page).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    address
}

/// The words that open such a page.
pub const REQUEST: &[u8] = b"GET / HTTP/1.0\r\n\r\n";
