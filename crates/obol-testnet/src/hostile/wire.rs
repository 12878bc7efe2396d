//! A link and circuits that send what they are told to, well formed or not.

use std::collections::VecDeque;
use std::net::SocketAddr;

use obol_cell::{ToNode, ToOrigin};
use obol_onion::crypto::tor1::{BODY_LEN, ClientLayers};
use obol_onion::handshake::fast;
use obol_onion::link::Expected;
use obol_relay::handshake::{self, LinkStream, Local, Timeouts};
use obol_relay::keys::Keys;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use super::{Cost, Failure, Target, failure};

/// Commands of cells (tor-spec, "Cell packet format").
pub(super) mod cell {
    pub(crate) const PADDING: u8 = 0;
    pub(crate) const CREATE: u8 = 1;
    pub(crate) const CREATED: u8 = 2;
    pub(crate) const RELAY: u8 = 3;
    pub(crate) const DESTROY: u8 = 4;
    pub(crate) const CREATE_FAST: u8 = 5;
    pub(crate) const CREATED_FAST: u8 = 6;
    pub(crate) const VERSIONS: u8 = 7;
    pub(crate) const NETINFO: u8 = 8;
    pub(crate) const RELAY_EARLY: u8 = 9;
    pub(crate) const CREATE2: u8 = 10;
    pub(crate) const CREATED2: u8 = 11;
    pub(crate) const PADDING_NEGOTIATE: u8 = 12;
    pub(crate) const VPADDING: u8 = 128;
    pub(crate) const CERTS: u8 = 129;
    pub(crate) const AUTH_CHALLENGE: u8 = 130;
    pub(crate) const AUTHENTICATE: u8 = 131;
    pub(crate) const AUTHORIZE: u8 = 132;
    pub(crate) const LINK_PAYMENT: u8 = 200;
}

/// Commands of relay messages (tor-spec, "Relay cells"), and the payment messages of docs/adr/0004.
pub(super) mod relay {
    pub(crate) const BEGIN: u8 = 1;
    pub(crate) const DATA: u8 = 2;
    pub(crate) const END: u8 = 3;
    pub(crate) const CONNECTED: u8 = 4;
    pub(crate) const SENDME: u8 = 5;
    pub(crate) const EXTEND: u8 = 6;
    pub(crate) const EXTENDED: u8 = 7;
    pub(crate) const TRUNCATE: u8 = 8;
    pub(crate) const TRUNCATED: u8 = 9;
    pub(crate) const DROP: u8 = 10;
    pub(crate) const RESOLVE: u8 = 11;
    pub(crate) const RESOLVED: u8 = 12;
    pub(crate) const BEGIN_DIR: u8 = 13;
    pub(crate) const EXTEND2: u8 = 14;
    pub(crate) const EXTENDED2: u8 = 15;
    pub(crate) const CONFLUX_LINK: u8 = 19;
    pub(crate) const ESTABLISH_INTRO: u8 = 32;
    pub(crate) const ESTABLISH_RENDEZVOUS: u8 = 33;
    pub(crate) const INTRODUCE1: u8 = 34;
    pub(crate) const INTRODUCE2: u8 = 35;
    pub(crate) const RENDEZVOUS1: u8 = 36;
    pub(crate) const RENDEZVOUS2: u8 = 37;
    pub(crate) const INTRO_ESTABLISHED: u8 = 38;
    pub(crate) const PADDING_NEGOTIATE: u8 = 41;
    pub(crate) const XOFF: u8 = 43;
    pub(crate) const XON: u8 = 44;
    pub(crate) const TO_ORIGIN: u8 = 51;
    pub(crate) const TO_NODE: u8 = 52;
}

/// Most bytes of a relay message.
pub(super) const DATA_MAX: usize = BODY_LEN - 11;

/// A TLS connection to a relay, whoever that is.
pub(super) async fn tls(relay: SocketAddr) -> Result<TlsStream<TcpStream>, Failure> {
    tls_on(TcpStream::connect(relay).await?).await
}

async fn tls_on(tcp: TcpStream) -> Result<TlsStream<TcpStream>, Failure> {
    tcp.set_nodelay(true)?;
    let connector = tokio_rustls::TlsConnector::from(obol_relay::tls::client_config());
    Ok(connector.connect(obol_relay::tls::random_server_name(), tcp).await?)
}

/// A cell of fixed length; what does not fit is cut off.
pub(super) fn fixed(circuit: u32, command: u8, body: &[u8]) -> Vec<u8> {
    let mut cell = circuit.to_be_bytes().to_vec();
    cell.push(command);
    cell.extend_from_slice(body);
    cell.resize(5 + BODY_LEN, 0);
    cell
}

/// A cell of variable length.
pub(super) fn variable(circuit: u32, command: u8, body: &[u8]) -> Vec<u8> {
    let mut cell = circuit.to_be_bytes().to_vec();
    cell.push(command);
    cell.extend_from_slice(&u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes());
    cell.extend_from_slice(body);
    cell
}

/// A VERSIONS cell, which has a short circuit id.
pub(super) fn versions(body: &[u8]) -> Vec<u8> {
    let mut cell = vec![0, 0, cell::VERSIONS];
    cell.extend_from_slice(&u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes());
    cell.extend_from_slice(body);
    cell
}

/// A good one: link protocols 4 and 5.
pub(super) const VERSIONS: &[u8] = &[0, 4, 0, 5];

/// A client's NETINFO: no time, the relay at 127.0.0.1, no address of ours.
pub(super) fn netinfo() -> Vec<u8> {
    fixed(0, cell::NETINFO, &[0, 0, 0, 0, 4, 4, 127, 0, 0, 1, 0])
}

/// One cell that came.
pub(super) struct Came {
    pub(super) circuit: u32,
    pub(super) command: u8,
    pub(super) body: Vec<u8>,
}

/// A link.
pub(super) struct Link {
    /// A client's, or a relay's.
    tls: Either<TlsStream<TcpStream>, LinkStream>,
    buffer: Vec<u8>,
    /// Cells that came while another was waited for.
    aside: VecDeque<Came>,
    next: u32,
}

impl Link {
    /// TLS, and as much of the handshake as the relay's side of it: our NETINFO is still to be sent.
    pub(super) async fn half_open(relay: SocketAddr) -> Result<Self, Failure> {
        Link::half_open_on(tls(relay).await?).await
    }

    /// An open link of a client at another address, where there is one.
    pub(super) async fn of_another(relay: SocketAddr) -> Result<Self, Failure> {
        let tcp = match relay.ip().is_loopback() && relay.is_ipv4() && cfg!(target_os = "linux") {
            true => {
                let socket = TcpSocket::new_v4()?;
                socket.bind(SocketAddr::from(([127, 0, 0, 77], 0)))?;
                socket.connect(relay).await?
            }
            false => TcpStream::connect(relay).await?,
        };
        let mut link = Link::half_open_on(tls_on(tcp).await?).await?;
        link.send(&netinfo()).await?;
        Ok(link)
    }

    async fn half_open_on(tls: TlsStream<TcpStream>) -> Result<Self, Failure> {
        let mut link = Link {
            tls: Either::Left(tls),
            buffer: Vec::new(),
            aside: VecDeque::new(),
            next: 0x8000_0100,
        };
        link.send(&versions(VERSIONS)).await?;
        let mut head = [0; 5];
        link.tls.read_exact(&mut head).await?;
        let mut body = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
        link.tls.read_exact(&mut body).await?;
        link.expect(cell::NETINFO).await?;
        Ok(link)
    }

    /// An open link, as a client's, or of somebody with an identity.
    pub(super) async fn open(target: impl Into<Target>) -> Result<Self, Failure> {
        let Target { relay, keys } = target.into();
        if let Some(keys) = keys {
            return Link::with_identity(relay, &keys).await;
        }
        let mut link = Link::half_open(relay).await?;
        link.send(&netinfo()).await?;
        Ok(link)
    }

    async fn with_identity(relay: SocketAddr, keys: &Keys) -> Result<Self, Failure> {
        let local = Local {
            advertised: vec![[127, 0, 0, 1].into()],
            timeouts: Timeouts::default(),
        };
        let open = handshake::connect(relay, Expected::default(), keys, &local)
            .await
            .map_err(|error| Failure::Other(error.to_string()))?;
        Ok(Link {
            tls: Either::Right(open.stream),
            buffer: open.leftover,
            aside: VecDeque::new(),
            next: 0x8000_0100,
        })
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.tls.write_all(bytes).await?;
        self.tls.flush().await?;
        Ok(())
    }

    /// The connection under TLS, of a client's link.
    pub(super) fn into_tcp(self) -> Result<TcpStream, Failure> {
        match self.tls {
            Either::Left(tls) => Ok(tls.into_inner().0),
            Either::Right(_) => failure("this link is a relay's"),
        }
    }

    /// The next cell; `None`: the relay has closed the link.
    pub(super) async fn next(&mut self) -> Option<Came> {
        match self.aside.pop_front() {
            Some(came) => Some(came),
            None => self.read().await,
        }
    }

    async fn read(&mut self) -> Option<Came> {
        loop {
            if let Some(&command) = self.buffer.get(4) {
                let (head, len) = match obol_onion::link::is_variable(command) {
                    true => match self.buffer.get(5..7) {
                        Some(len) => (7, usize::from(u16::from_be_bytes([len[0], len[1]]))),
                        None => (7, 0),
                    },
                    false => (5, BODY_LEN),
                };
                if self.buffer.len() >= head + len {
                    let body = self.buffer[head..head + len].to_vec();
                    let circuit = self.buffer.first_chunk().map_or(0, |id| u32::from_be_bytes(*id));
                    self.buffer.drain(..head + len);
                    return Some(Came { circuit, command, body });
                }
            }
            let mut bytes = [0; 8192];
            let read = self.tls.read(&mut bytes).await.ok().filter(|len| *len > 0)?;
            self.buffer.extend_from_slice(&bytes[..read]);
        }
    }

    /// Waits for a cell of this command, and takes no notice of others.
    pub(super) async fn expect(&mut self, command: u8) -> Result<Came, Failure> {
        loop {
            match self.next().await {
                Some(came) if came.command == command => return Ok(came),
                Some(_) => {}
                None => return failure(format!("the link was closed before a cell {command} came")),
            }
        }
    }

    /// A circuit id that was not used yet.
    pub(super) fn fresh(&mut self) -> u32 {
        self.next += 1;
        self.next - 1
    }

    /// A new circuit, by CREATE_FAST.
    pub(super) async fn circuit(&mut self) -> Result<Circuit, Failure> {
        let id = self.fresh();
        self.circuit_with(id).await
    }

    /// The same with this id. Cells of other circuits are put aside.
    pub(super) async fn circuit_with(&mut self, id: u32) -> Result<Circuit, Failure> {
        let (client, request) = fast::Client::start(rand::random());
        self.send(&fixed(id, cell::CREATE_FAST, &request)).await?;
        let mut aside = VecDeque::new();
        loop {
            let Some(came) = self.next().await else {
                return failure("the link was closed");
            };
            match (came.circuit == id, came.command) {
                (true, cell::CREATED_FAST) => {
                    let keys = client
                        .finish(came.body.get(..fast::REPLY_LEN).unwrap_or_default())
                        .map_err(|error| Failure::Other(error.to_string()))?;
                    let mut layers = ClientLayers::new();
                    layers.push(&keys);
                    aside.append(&mut self.aside);
                    self.aside = aside;
                    return Ok(Circuit { id, layers, arrived: 0 });
                }
                (true, cell::DESTROY) => return failure("a circuit was refused"),
                _ => aside.push_back(came),
            }
        }
    }

    /// Waits until the relay closes the link.
    pub(super) async fn is_closed(&mut self) -> Result<(), Failure> {
        while self.next().await.is_some() {}
        Ok(())
    }

    /// Waits until the relay destroys this circuit, or says so of a circuit that never was.
    pub(super) async fn is_destroyed(&mut self, circuit: u32) -> Result<(), Failure> {
        loop {
            match self.next().await {
                Some(came) if came.circuit == circuit && came.command == cell::DESTROY => return Ok(()),
                Some(_) => {}
                None => return failure("the link was closed, where a circuit was to be destroyed"),
            }
        }
    }

    /// Checks that the relay still makes circuits on this link, and that it has not destroyed `circuit`.
    pub(super) async fn lives(&mut self, circuit: Option<u32>) -> Result<(), Failure> {
        self.circuit().await?;
        let destroyed = |came: &Came| Some(came.circuit) == circuit && came.command == cell::DESTROY;
        match self.aside.iter().any(destroyed) {
            true => failure("a circuit was destroyed, where nothing was to happen"),
            false => Ok(()),
        }
    }

    /// Checks that what was sent cost what it should.
    pub(super) async fn check(&mut self, cost: Cost, circuit: u32) -> Result<(), Failure> {
        match cost {
            Cost::Link => self.is_closed().await,
            Cost::Circuit => {
                self.is_destroyed(circuit).await?;
                self.lives(None).await
            }
            Cost::Nothing => self.lives(Some(circuit)).await,
        }
    }
}

/// A circuit of one hop.
pub(super) struct Circuit {
    pub(super) id: u32,
    layers: ClientLayers,
    /// DATA cells that came.
    arrived: u32,
}

/// A relay message as a clear body, with the length that it has.
pub(super) fn message(command: u8, stream: u16, data: &[u8]) -> [u8; BODY_LEN] {
    let data = &data[..data.len().min(DATA_MAX)];
    let mut body = [0; BODY_LEN];
    body[0] = command;
    body[3..5].copy_from_slice(&stream.to_be_bytes());
    body[9..11].copy_from_slice(&u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
    body[11..11 + data.len()].copy_from_slice(data);
    body
}

impl Circuit {
    /// The cell with this clear body in it.
    pub(super) fn cell(&mut self, command: u8, mut body: [u8; BODY_LEN]) -> Vec<u8> {
        // There is a first hop.
        let _ = self.layers.originate(0, &mut body);
        fixed(self.id, command, &body)
    }

    /// The cell with this message in it.
    pub(super) fn message(&mut self, command: u8, stream: u16, data: &[u8]) -> Vec<u8> {
        self.cell(cell::RELAY, message(command, stream, data))
    }

    /// The next message to us: command, stream, data. An error if the circuit or the link is gone.
    pub(super) async fn next(&mut self, link: &mut Link) -> Result<(u8, u16, Vec<u8>), Failure> {
        loop {
            let Some(came) = link.next().await else {
                return failure("the link was closed, where the circuit was to go on");
            };
            match (came.circuit == self.id, came.command) {
                (true, cell::DESTROY) => {
                    let reason = came.body.first().copied().unwrap_or_default();
                    return failure(format!(
                        "the circuit was destroyed (reason {reason}), where it was to go on"
                    ));
                }
                (true, cell::RELAY) => {
                    let Ok(mut body) = <[u8; BODY_LEN]>::try_from(came.body) else {
                        return failure("a cell of a wrong length");
                    };
                    let Some((_, tag)) = self.layers.open(&mut body) else {
                        return failure("a cell that is not for us");
                    };
                    self.arrived += u32::from(body[0] == relay::DATA);
                    // What every client owes for each hundred (tor-spec, "Flow control").
                    if body[0] == relay::DATA && self.arrived.is_multiple_of(100) {
                        let confirm = [&[1, 0, 20][..], tag.as_bytes()].concat();
                        let cell = self.message(relay::SENDME, 0, &confirm);
                        link.send(&cell).await?;
                    }
                    let len = usize::from(u16::from_be_bytes([body[9], body[10]])).min(DATA_MAX);
                    let stream = u16::from_be_bytes([body[3], body[4]]);
                    return Ok((body[0], stream, body[11..11 + len].to_vec()));
                }
                _ => {}
            }
        }
    }

    /// A payment message to the relay.
    pub(super) fn pay(&mut self, message: &ToNode) -> Vec<u8> {
        self.message(relay::TO_NODE, 0, &message.encode())
    }

    /// The relay's next answer to one.
    pub(super) async fn answer(&mut self, link: &mut Link) -> Result<ToOrigin, Failure> {
        loop {
            if let (relay::TO_ORIGIN, 0, data) = self.next(link).await? {
                return ToOrigin::decode(&data).map_err(|error| Failure::Other(error.to_string()));
            }
        }
    }

    /// The relay's own descriptor, with the HTTP head before it.
    pub(super) async fn fetch(&mut self, link: &mut Link, stream: u16) -> Result<Vec<u8>, Failure> {
        let request = b"GET /tor/server/authority HTTP/1.0\r\n\r\n";
        let begin = self.message(relay::BEGIN_DIR, stream, b"");
        link.send(&begin).await?;
        let ask = self.message(relay::DATA, stream, request);
        link.send(&ask).await?;
        let mut answer = Vec::new();
        loop {
            match self.next(link).await? {
                (relay::DATA, on, data) if on == stream => answer.extend_from_slice(&data),
                (relay::END, on, _) if on == stream => return Ok(answer),
                _ => {}
            }
        }
    }
}
