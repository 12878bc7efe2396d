//! The C Tor client: pinned to paths over its control port.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use obol_testnet::ctor::{CTor, TorControl, Torrc, free_port};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, MutexGuard};
use tokio_socks::tcp::Socks5Stream;

/// A C Tor client may take this long until it has the directory.
const BOOTSTRAP: Duration = Duration::from_secs(180);

/// A running client.
pub struct TorClient {
    /// Its process.
    pub tor: Mutex<CTor>,
    /// Its proxy.
    pub socks: SocketAddr,
    control: Mutex<TorControl>,
}

impl TorClient {
    /// Starts one; `torrc` has all that it is told but its port.
    pub async fn start(directory: &Path, torrc: Torrc) -> anyhow::Result<TorClient> {
        let port = free_port()?;
        let mut tor = CTor::start(directory, &torrc.client(port))?;
        tor.says(&["Bootstrapped 100%"], BOOTSTRAP).await?;
        let control = tor.control().await?;
        Ok(TorClient {
            tor: Mutex::new(tor),
            socks: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            control: Mutex::new(control),
        })
    }

    /// Its control port.
    pub async fn control(&self) -> MutexGuard<'_, TorControl> {
        self.control.lock().await
    }

    /// Waits until it has the microdescriptors of all of these relays (RSA fingerprints), so that paths can name them.
    pub async fn knows(&self, relays: &[&str]) -> anyhow::Result<()> {
        let mut control = self.control.lock().await;
        for relay in relays {
            let key = format!("md/id/{relay}");
            let looking = async {
                while control.info(&key).await.map_or(true, |lines| lines.is_empty()) {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            };
            let found = tokio::time::timeout(BOOTSTRAP, looking).await;
            found.with_context(|| format!("the C Tor client gets no microdescriptor of {relay}"))?;
        }
        Ok(())
    }

    /// From now on streams are attached by hand.
    pub async fn take_over_streams(&self) -> anyhow::Result<()> {
        Ok(self.control.lock().await.take_over_streams().await?)
    }

    /// A stream to `target` on a new circuit through just these relays.
    pub async fn pinned(&self, path: &[String], target: SocketAddr) -> anyhow::Result<TcpStream> {
        let mut control = self.control.lock().await;
        let circuit = control.build(path).await?;
        let wanted = target.to_string();
        let (stream, attached) = tokio::join!(
            Socks5Stream::connect(self.socks, target),
            control.attach(&circuit, |to| to == wanted)
        );
        attached?;
        Ok(stream.context("the stream was refused")?.into_inner())
    }

    /// What an exit says that does not allow a stream to `target`: the event of the stream's end.
    pub async fn refused(&self, path: &[String], target: SocketAddr) -> anyhow::Result<String> {
        let mut control = self.control.lock().await;
        let circuit = control.build(path).await?;
        let wanted = target.to_string();
        // It waits for another circuit to try, which it never gets; then the connection is dropped.
        let asking = Socks5Stream::connect(self.socks, target);
        let telling = async {
            let stream = control.attach(&circuit, |to| to == wanted).await?;
            Ok::<_, anyhow::Error>(control.stream_event(&stream, "REASON=").await?)
        };
        tokio::select! {
            stream = asking => match stream {
                Ok(_) => bail!("the exit connected to {target}"),
                Err(error) => bail!("the proxy gave up before the exit had answered: {error}"),
            },
            event = telling => event,
        }
    }

    /// Asks the last relay of this path, by SOCKS's extension, for the address of a name or the name of an address: `command` and the address
    /// as SOCKS writes it, type first. The answer in the same form.
    async fn look_up(&self, path: &[String], command: u8, question: &[u8]) -> anyhow::Result<Vec<u8>> {
        let mut control = self.control.lock().await;
        let circuit = control.build(path).await?;
        let asking = async {
            let mut socks = TcpStream::connect(self.socks).await?;
            socks.write_all(&[5, 1, 0]).await?;
            let mut choice = [0; 2];
            socks.read_exact(&mut choice).await?;
            ensure!(choice == [5, 0], "the proxy wants credentials");
            socks.write_all(&[&[5, command, 0], question, &[0, 0]].concat()).await?;
            let mut head = [0; 3];
            socks.read_exact(&mut head).await?;
            ensure!(head[1] == 0, "the look-up failed: SOCKS says {}", head[1]);
            let mut answer = Vec::new();
            socks.read_to_end(&mut answer).await?;
            Ok(answer)
        };
        let (answer, attached) = tokio::join!(asking, control.attach(&circuit, |_| true));
        attached?;
        answer
    }

    /// The address of a name, as the last relay of this path finds it.
    pub async fn resolve(&self, path: &[String], name: &str) -> anyhow::Result<Ipv4Addr> {
        let question = [&[3, u8::try_from(name.len())?], name.as_bytes()].concat();
        let answer = self.look_up(path, 0xf0, &question).await?;
        match answer[..] {
            [1, a, b, c, d, ..] => Ok(Ipv4Addr::new(a, b, c, d)),
            _ => bail!("the answer is no IPv4 address: {answer:?}"),
        }
    }

    /// The name of an address, as the last relay of this path finds it.
    pub async fn resolve_ptr(&self, path: &[String], address: Ipv4Addr) -> anyhow::Result<String> {
        let question = [&[1], &address.octets()[..]].concat();
        let answer = self.look_up(path, 0xf1, &question).await?;
        match &answer[..] {
            [3, length, rest @ ..] => {
                let name = rest.get(..usize::from(*length)).context("the name is cut off")?;
                Ok(String::from_utf8(name.to_owned())?)
            }
            _ => bail!("the answer is no name: {answer:?}"),
        }
    }
}
