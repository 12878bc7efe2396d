//! The stock Arti client, in this process; its circuits are built by hand where a path is to be pinned.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arti_client::TorClient;
use arti_client::config::TorClientConfigBuilder;
use obol_testnet::authority::ArtiNetwork;
use tor_chanmgr::ChannelUsage;
use tor_linkspec::{ChannelMethod, CircTarget as _, HasAddrs as _, HasRelayIds as _, OwnedCircTarget};
use tor_llcrypto::pk::rsa::RsaIdentity;
use tor_netdir::{NetDir, Relay, Timeliness};
use tor_proto::ClientTunnel;
use tor_proto::client::circuit::TimeoutEstimator;
use tor_rtcompat::PreferredRuntime;

const BOOTSTRAP: Duration = Duration::from_secs(180);

/// Circuits may take long on a busy machine.
struct Patient;

impl TimeoutEstimator for Patient {
    fn circuit_build_timeout(&self, _: usize) -> Duration {
        Duration::from_secs(60)
    }
}

/// A client that has the directory.
pub struct Arti {
    /// The client.
    pub client: Arc<TorClient<PreferredRuntime>>,
}

impl Arti {
    /// Starts one.
    pub async fn start(directory: &Path, network: &ArtiNetwork) -> anyhow::Result<Arti> {
        let text = network.toml_with_storage(&directory.join("state"), &directory.join("cache"));
        let config: TorClientConfigBuilder = toml::from_str(&text)?;
        let builder = TorClient::with_runtime(PreferredRuntime::current()?).config(config.build()?);
        let starting = tokio::time::timeout(BOOTSTRAP, builder.create_bootstrapped());
        let client = starting.await.context("the Arti client does not bootstrap")??;
        Ok(Arti { client })
    }

    /// Its directory.
    pub fn netdir(&self) -> anyhow::Result<Arc<NetDir>> {
        Ok(self.client.dirmgr()?.netdir(Timeliness::Unchecked)?)
    }

    /// A circuit through just these relays (RSA fingerprints).
    pub async fn circuit(&self, path: &[String]) -> anyhow::Result<Arc<ClientTunnel>> {
        self.build(path, false).await
    }

    /// The same without CGO at every hop but the first: its cell format has no room for commands that it does not know.
    pub async fn circuit_in_the_old_format(&self, path: &[String]) -> anyhow::Result<Arc<ClientTunnel>> {
        self.build(path, true).await
    }

    async fn build(&self, path: &[String], old: bool) -> anyhow::Result<Arc<ClientTunnel>> {
        let netdir = self.netdir()?;
        let relays = path
            .iter()
            .map(|relay| by_rsa(&netdir, relay))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let parameters = || tor_circmgr::build::exit_circparams_from_netparams(netdir.params());
        let first = relays.first().context("a path has relays")?;
        let chanmgr = self.client.chanmgr()?;
        let (channel, _) = chanmgr.get_or_launch(first, ChannelUsage::UserTraffic).await?;
        let (pending, reactor) = channel.new_tunnel(Arc::new(Patient)).await?;
        tokio::spawn(reactor.run());
        let tunnel = pending.create_firsthop(first, parameters()?).await?;
        for relay in &relays[1..] {
            let circuit = tunnel.as_single_circ()?;
            let extending = match old {
                false => circuit.extend(relay, parameters()?).await,
                true => circuit.extend(&in_the_old_format(relay)?, parameters()?).await,
            };
            extending.with_context(|| {
                format!(
                    "extending to {}",
                    relay.rsa_identity().map_or_else(String::new, |id| id.to_string())
                )
            })?;
        }
        Ok(Arc::new(tunnel))
    }
}

/// A relay as it would be without CGO.
fn in_the_old_format(relay: &Relay<'_>) -> anyhow::Result<OwnedCircTarget> {
    let mut target = OwnedCircTarget::builder();
    let addresses: Vec<SocketAddr> = relay.addrs().collect();
    let rsa = relay.rsa_identity().context("a relay has an RSA identity")?;
    target
        .chan_target()
        .ed_identity(*relay.ed_identity().context("a relay has an Ed25519 identity")?)
        .rsa_identity(*rsa)
        .addrs(addresses.clone())
        .method(ChannelMethod::Direct(addresses));
    Ok(target
        .ntor_onion_key(*relay.ntor_onion_key())
        .protocols("FlowCtrl=1-2 Link=4-5 LinkAuth=3 Relay=2-4".parse()?)
        .build()?)
}

/// The relay with this RSA fingerprint.
pub fn by_rsa<'a>(netdir: &'a NetDir, fingerprint: &str) -> anyhow::Result<Relay<'a>> {
    let rsa = RsaIdentity::from_hex(fingerprint).context("a fingerprint has 40 digits")?;
    let relay = netdir.by_id(&rsa);
    relay.with_context(|| format!("the Arti client does not know the relay {fingerprint}"))
}
