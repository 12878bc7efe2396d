//! The onion services: one of C Tor, one of Arti, both in front of the origin.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use arti_client::config::onion_service::OnionServiceConfigBuilder;
use futures::StreamExt as _;
use obol_testnet::authority::ArtiNetwork;
use obol_testnet::ctor::{CTor, Torrc};
use safelog::DisplayRedacted as _;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tor_cell::relaycell::msg::Connected;
use tor_hsservice::{RunningOnionService, handle_rend_requests};

use crate::arti::Arti;

/// How long a service may take until its descriptor is in the directories.
pub const PUBLISH: Duration = Duration::from_secs(300);

/// Whose service it is.
#[derive(Clone, Copy)]
pub enum Host {
    CTor,
    Arti,
}

/// A running service.
pub enum Service {
    CTor(CTorService),
    Arti(ArtiService),
}

impl Service {
    /// `....onion`.
    pub fn name(&self) -> &str {
        match self {
            Service::CTor(service) => &service.name,
            Service::Arti(service) => &service.name,
        }
    }
}

/// A C Tor process with an onion service.
pub struct CTorService {
    /// `....onion`.
    pub name: String,
    _tor: CTor,
}

impl CTorService {
    /// Starts it, and waits until it has told the directories of itself.
    pub async fn start(directory: &Path, torrc: Torrc, origin: SocketAddr) -> anyhow::Result<CTorService> {
        let files = directory.join("service");
        let torrc = torrc
            .set("SocksPort", 0)
            .set("HiddenServiceDir", files.display())
            .set("HiddenServicePort", format_args!("80 {origin}"));
        let tor = CTor::start(directory, &torrc)?;
        let mut control = tor.control().await?;
        control.tell("SETEVENTS HS_DESC").await?;
        let uploaded = async {
            loop {
                // No event for a minute is no end yet.
                if control.event().await.is_ok_and(|event| event.contains(" UPLOADED ")) {
                    return;
                }
            }
        };
        let done = tokio::time::timeout(PUBLISH, uploaded).await;
        done.with_context(|| format!("the C Tor service uploads no descriptor:\n{}", tor.tail()))?;
        let name = std::fs::read_to_string(files.join("hostname"))?;
        Ok(CTorService {
            name: name.trim().to_owned(),
            _tor: tor,
        })
    }
}

/// An Arti client with an onion service.
pub struct ArtiService {
    /// `....onion`.
    pub name: String,
    running: std::sync::Arc<RunningOnionService>,
    _arti: Arti,
    task: JoinHandle<()>,
}

impl Drop for ArtiService {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ArtiService {
    /// Starts it. That it has told the directories of itself is for them to say: without shared random values it never calls itself reachable,
    /// since it knows no second period of time to publish for.
    pub async fn start(directory: &Path, network: &ArtiNetwork, origin: SocketAddr) -> anyhow::Result<ArtiService> {
        let arti = Arti::start(directory, network).await?;
        let config = OnionServiceConfigBuilder::default()
            .nickname("interop".parse()?)
            .build()?;
        let launched = arti.client.launch_onion_service(config)?;
        let (running, requests) = launched.context("the service is enabled")?;
        let task = tokio::spawn(async move {
            let mut requests = Box::pin(handle_rend_requests(requests));
            while let Some(request) = requests.next().await {
                tokio::spawn(async move {
                    let mut from = request.accept(Connected::new_empty()).await?;
                    let mut to = TcpStream::connect(origin).await?;
                    tokio::io::copy_bidirectional(&mut from, &mut to).await?;
                    anyhow::Ok(())
                });
            }
        });
        let name = running.onion_address().context("a service has a name")?;
        Ok(ArtiService {
            name: name.display_unredacted().to_string(),
            running,
            _arti: arti,
            task,
        })
    }

    /// What it thinks of itself.
    pub fn status(&self) -> String {
        format!("{:?}", self.running.status())
    }
}
