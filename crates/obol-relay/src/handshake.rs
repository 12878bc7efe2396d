//! Opening a link: TCP, TLS, and the link handshake of [`obol_onion::link`] over it.

use crate::keys::Keys;
use crate::tls;
use crate::tls::secrets::TrafficSecrets;
pub use crate::tls::socket::Socket;
use obol_onion::link::{
    self, EXPORTER_LABEL, Expected, Facts, Handshake, LinkError, PeerIdentity, Role, Step, Version,
};
use rand::RngExt as _;
use rustls::{ClientConfig, ServerConfig};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

/// A link's connection.
pub type LinkStream = TlsStream<Socket>;

/// What a relay says of itself when it opens a link, and how long it waits.
#[derive(Clone, Debug)]
pub struct Local {
    /// The addresses in our descriptor, IPv4 first.
    pub advertised: Vec<IpAddr>,
    /// How long each stage may take.
    pub timeouts: Timeouts,
}

/// How long each stage of opening a link may take, however slowly the peer's bytes come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// The TCP connection, if it is us who connect.
    pub tcp: Duration,
    /// TLS.
    pub tls: Duration,
    /// The link handshake inside of it, up to NETINFO.
    pub link: Duration,
}

impl Default for Timeouts {
    /// Half a minute for all; C Tor's clients wait a minute.
    fn default() -> Self {
        Timeouts {
            tcp: Duration::from_secs(10),
            tls: Duration::from_secs(10),
            link: Duration::from_secs(10),
        }
    }
}

/// An open link.
#[derive(Debug)]
pub struct Established {
    /// Where its cells come from, after [`leftover`](Self::leftover), and where they go.
    pub stream: LinkStream,
    /// The version of the link protocol.
    pub version: Version,
    /// Which end we are.
    pub role: Role,
    /// Who the peer proved to be; `None`: a client.
    pub peer: Option<PeerIdentity>,
    /// The peer's address and port, as our socket has them.
    pub remote: SocketAddr,
    /// The addresses that the peer says are its own.
    pub peer_addresses: Vec<IpAddr>,
    /// Our address, as the peer sees it.
    pub observed: Option<IpAddr>,
    /// The peer says that the address of this connection is its own: others' circuits may extend over this link.
    pub canonical: bool,
    /// The peer sees us at an address that we advertise.
    pub canonical_to_peer: bool,
    /// Seconds by which the peer's clock is ahead of ours.
    pub clock_skew: Option<i64>,
    /// The first cells, already read.
    pub leftover: Vec<u8>,
}

/// There is no link. To a client that asked for it: [`LinkFailed::is_wrong_identity`] tells which reason to give.
#[derive(Debug, thiserror::Error)]
pub enum LinkFailed {
    /// The peer cannot be reached.
    #[error("cannot connect: {0}")]
    Unreachable(#[source] io::Error),
    /// TLS failed, or the connection was lost.
    #[error("the connection failed: {0}")]
    Connection(#[source] io::Error),
    /// The peer closed the connection before the link was open.
    #[error("the peer closed the connection during the handshake")]
    Closed,
    /// It took too long.
    #[error("the handshake took too long")]
    TimedOut,
    /// The peer broke the protocol or is not who it should be.
    #[error(transparent)]
    Refused(#[from] LinkError),
}

impl LinkFailed {
    /// Whether the peer is another relay than was meant: a circuit that asked for it is destroyed with OR_IDENTITY instead
    /// of CONNECTFAILED.
    pub fn is_wrong_identity(&self) -> bool {
        matches!(self, Self::Refused(LinkError::WrongIdentity))
    }
}

/// Opens the link that a peer asks for on a connection that was just accepted.
///
/// # Errors
/// [`LinkFailed`]: the connection is closed.
pub async fn accept(tcp: TcpStream, keys: &Keys, local: &Local) -> Result<Established, LinkFailed> {
    let remote = prepare(&tcp)?;
    // One snapshot: the certificates must vouch for this very TLS certificate.
    let current = keys.current();
    let secrets = Arc::new(TrafficSecrets::default());
    let mut config = ServerConfig::clone(current.tls());
    config.key_log = Arc::<TrafficSecrets>::clone(&secrets);
    let accepting = TlsAcceptor::from(Arc::new(config)).accept(Socket::new(tcp, secrets));
    let tls = limit(local.timeouts.tls, async {
        accepting.await.map_err(LinkFailed::Connection)
    })
    .await?;
    let handshake = Handshake::respond(Arc::clone(current.credentials()), facts(remote, local));
    limit(local.timeouts.link, run(tls.into(), remote, handshake, Vec::new())).await
}

/// Opens a link to the relay at `address`, authenticated with `keys`.
///
/// # Errors
/// [`LinkFailed`]; the connection, if there was one, is closed.
pub async fn connect(
    address: SocketAddr,
    expected: Expected,
    keys: &Keys,
    local: &Local,
) -> Result<Established, LinkFailed> {
    initiate(address, expected, Some(keys), local).await
}

/// Opens a link to the relay at `address` as a client does, without saying who we are.
///
/// # Errors
/// [`LinkFailed`]; the connection, if there was one, is closed.
pub async fn connect_as_client(
    address: SocketAddr,
    expected: Expected,
    local: &Local,
) -> Result<Established, LinkFailed> {
    initiate(address, expected, None, local).await
}

async fn initiate(
    address: SocketAddr,
    expected: Expected,
    keys: Option<&Keys>,
    local: &Local,
) -> Result<Established, LinkFailed> {
    let timeouts = local.timeouts;
    let tcp = limit(timeouts.tcp, async {
        TcpStream::connect(address).await.map_err(LinkFailed::Unreachable)
    })
    .await?;
    let remote = prepare(&tcp)?;
    let secrets = Arc::new(TrafficSecrets::default());
    let mut config = ClientConfig::clone(&tls::client_config());
    config.key_log = Arc::<TrafficSecrets>::clone(&secrets);
    let connecting = TlsConnector::from(Arc::new(config)).connect(tls::random_server_name(), Socket::new(tcp, secrets));
    let tls = limit(timeouts.tls, async { connecting.await.map_err(LinkFailed::Connection) }).await?;
    let certificate = tls
        .get_ref()
        .1
        .peer_certificates()
        .and_then(<[_]>::first)
        .map(|certificate| certificate.to_vec())
        .ok_or_else(|| LinkFailed::Connection(io::ErrorKind::InvalidData.into()))?;
    let ours = keys.map(|keys| Arc::clone(keys.current().credentials()));
    let (handshake, send) = Handshake::initiate(ours, expected, &certificate, facts(remote, local), now());
    limit(timeouts.link, run(tls.into(), remote, handshake, send)).await
}

async fn limit<T>(time: Duration, work: impl Future<Output = Result<T, LinkFailed>>) -> Result<T, LinkFailed> {
    tokio::time::timeout(time, work)
        .await
        .unwrap_or(Err(LinkFailed::TimedOut))
}

/// What every socket gets before TLS: cells must not wait for acknowledgements of earlier ones.
fn prepare(tcp: &TcpStream) -> Result<SocketAddr, LinkFailed> {
    tcp.set_nodelay(true).map_err(LinkFailed::Connection)?;
    tcp.peer_addr().map_err(LinkFailed::Connection)
}

fn facts(remote: SocketAddr, local: &Local) -> Facts {
    Facts {
        remote: remote.ip().to_canonical(),
        advertised: local.advertised.clone(),
        random: rand::rng().random(),
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// The session's secret for a context.
fn export(stream: &LinkStream, context: &[u8; 32]) -> Option<[u8; 32]> {
    let secret = match stream {
        TlsStream::Client(stream) => {
            let (_, session) = stream.get_ref();
            session.export_keying_material([0; 32], EXPORTER_LABEL, Some(context))
        }
        TlsStream::Server(stream) => {
            let (_, session) = stream.get_ref();
            session.export_keying_material([0; 32], EXPORTER_LABEL, Some(context))
        }
    };
    secret.ok()
}

/// The link handshake over TLS.
async fn run(
    mut stream: LinkStream,
    remote: SocketAddr,
    mut handshake: Handshake,
    first: Vec<u8>,
) -> Result<Established, LinkFailed> {
    async fn send(stream: &mut LinkStream, bytes: &[u8]) -> Result<(), LinkFailed> {
        if bytes.is_empty() {
            return Ok(());
        }
        stream.write_all(bytes).await.map_err(LinkFailed::Connection)?;
        stream.flush().await.map_err(LinkFailed::Connection)
    }

    send(&mut stream, &first).await?;
    let mut buffer = vec![0; 8 << 10];
    let established: link::Established = loop {
        let len = stream.read(&mut buffer).await.map_err(LinkFailed::Connection)?;
        if len == 0 {
            return Err(LinkFailed::Closed);
        }
        match handshake.receive(&buffer[..len], now(), |context| export(&stream, context))? {
            Step::More {
                handshake: next,
                send: bytes,
            } => {
                handshake = next;
                send(&mut stream, &bytes).await?;
            }
            Step::Done { link, send: bytes } => {
                send(&mut stream, &bytes).await?;
                break *link;
            }
        }
    };
    Ok(Established {
        stream,
        version: established.version,
        role: established.role,
        peer: established.peer,
        remote,
        peer_addresses: established.peer_addresses,
        observed: established.observed,
        canonical: established.canonical,
        canonical_to_peer: established.canonical_to_peer,
        clock_skew: established.clock_skew,
        leftover: established.leftover,
    })
}
