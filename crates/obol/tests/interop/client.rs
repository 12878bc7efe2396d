//! The Obol client: the proxy that pays, in this process, so that its figures can be read.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, bail};
use obol_client::{Client, ClientConfig, ClientHandle, Event, Refusal, TunnelFigures};
use obol_testnet::authority::ArtiNetwork;
use tokio::net::TcpStream;
use tokio::sync::broadcast::error::RecvError;
use tokio_socks::tcp::Socks5Stream;

use crate::money::Money;
use crate::transfer;

const BOOTSTRAP: Duration = Duration::from_secs(180);
/// Paths that are looked at until one is as it is wanted.
const PATHS: usize = 200;
/// Events that are remembered.
const TOLD: usize = 60;

/// A running client that always pays.
pub struct Payer {
    /// Its handle.
    pub client: ClientHandle,
    told: Arc<Mutex<VecDeque<String>>>,
}

impl Payer {
    /// Starts one; its wallet's key is in `directory`.
    pub async fn start(directory: &Path, network: &ArtiNetwork, money: &Money) -> anyhow::Result<Payer> {
        let text = format!(
            "state_directory = \"{}\"\n[socks]\nlisten = \"127.0.0.1:0\"\n\
             [payments]\npay = \"always\"\nmax_price_per_64_kib = 100\ndeposit = \"50\"\nlife = \"24h\"\nrandom_delay = \"0s\"\n{}",
            directory.display(),
            money.section(),
        );
        let mut config = ClientConfig::parse(&text)?;
        config.tor = toml::from_str(&network.toml())?;
        let starting = tokio::time::timeout(BOOTSTRAP, Client::start(config));
        let client = starting.await.context("the Obol client does not bootstrap")??;
        let told = Arc::new(Mutex::new(VecDeque::new()));
        let (sink, mut events) = (Arc::clone(&told), client.events());
        tokio::spawn(async move {
            loop {
                match events.recv().await {
                    // Of each tunnel there is too much to tell.
                    Ok(
                        Event::Searched { .. }
                        | Event::Stream { .. }
                        | Event::TunnelOpened { .. }
                        | Event::TunnelClosed { .. }
                        | Event::Quoted { .. }
                        | Event::Chain { .. }
                        | Event::NotPaid {
                            why: Refusal::NotPaidHop | Refusal::ChainEnds,
                            ..
                        }
                        | Event::Requested { .. }
                        | Event::Paying { .. }
                        | Event::Paid { .. },
                    ) => {}
                    Ok(event) => {
                        let text = format!("{:?} {event:?}", std::time::SystemTime::now());
                        let mut told = sink.lock().unwrap();
                        told.push_back(text);
                        if told.len() > TOLD {
                            told.pop_front();
                        }
                    }
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                }
            }
        });
        Ok(Payer { client, told })
    }

    /// Its escrows and what it told last, for whoever wonders why something was not paid.
    pub fn money(&self) -> String {
        let told: Vec<String> = self.told.lock().unwrap().iter().cloned().collect();
        format!("{:#?}\n{}", self.client.figures().escrows, told.join("\n"))
    }

    /// A stream whose tunnel is that of all streams with this user name.
    pub async fn connect(&self, user: &str, target: SocketAddr) -> anyhow::Result<TcpStream> {
        let connecting = Socks5Stream::connect_with_password(self.client.socks_addr(), target, user, "x");
        Ok(connecting.await?.into_inner())
    }

    /// The tunnels that carried something, the newest last.
    pub fn tunnels(&self) -> Vec<TunnelFigures> {
        self.client.figures().tunnels
    }

    /// The user name of a tunnel through relays that `wanted` likes (RSA fingerprints, guard first), and the tunnel's number. The client chooses its
    /// paths itself; it is asked for new ones until one is right.
    pub async fn find(
        &self,
        what: &str,
        origin: SocketAddr,
        wanted: impl Fn(&[&str]) -> bool,
    ) -> anyhow::Result<(String, u64)> {
        let mut seen = Vec::new();
        for attempt in 0..PATHS {
            let user = format!("{what} {attempt}");
            let before: Vec<u64> = self.tunnels().iter().map(|tunnel| tunnel.tunnel).collect();
            transfer::page(self.connect(&user, origin).await?, "/hello").await?;
            let Some(new) = self
                .tunnels()
                .into_iter()
                .find(|tunnel| !before.contains(&tunnel.tunnel))
            else {
                continue;
            };
            let path: Vec<&str> = new.hops.iter().map(|hop| hop.fingerprint.as_str()).collect();
            if wanted(&path) {
                return Ok((user, new.tunnel));
            }
            seen.push(path.join(" "));
        }
        bail!("the client never chose {what}; it chose\n{}", seen.join("\n"))
    }

    /// What is known of a tunnel.
    pub fn tunnel(&self, number: u64) -> anyhow::Result<TunnelFigures> {
        let found = self.tunnels().into_iter().find(|tunnel| tunnel.tunnel == number);
        found.with_context(|| format!("tunnel {number} is not known"))
    }
}
