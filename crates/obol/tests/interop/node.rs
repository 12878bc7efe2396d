//! An Obol relay as its operator runs it: `obol relay --config node.toml`, a process of its own.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail, ensure};
use obol_relay::keys::Keys;
use obol_testnet::control::Control;
use obol_testnet::ctor::{AuthorityFiles, free_port};
use obol_testnet::state::RelayState;
use serde::Deserialize;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;

use crate::money::Money;

/// Its first start makes RSA keys.
const START: Duration = Duration::from_secs(120);
/// A relay that is asked to end finishes what is in flight, but not for long.
const END: Duration = Duration::from_secs(90);

/// What a relay says about itself in `running.json`.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
struct Running {
    pid: u32,
    or: SocketAddr,
    gateway: SocketAddr,
    fingerprint: String,
    ed25519: String,
}

/// One relay.
pub struct Node {
    /// Its name.
    pub nickname: &'static str,
    /// RSA identity, 40 upper-case hexadecimal digits.
    pub fingerprint: String,
    /// RSA identity.
    pub rsa: [u8; 20],
    /// Ed25519 identity.
    pub ed: [u8; 32],
    /// Where it takes links.
    pub or: SocketAddr,
    /// Its price, stroops per 64 KiB.
    pub price: i64,
    /// Its files.
    pub directory: PathBuf,
    process: Mutex<Option<(Child, Control)>>,
}

impl Node {
    /// A relay that has keys, and does not run yet. Its own identity is needed before: authorities vote flags by it.
    pub async fn prepare(root: &Path, nickname: &'static str, price: i64) -> anyhow::Result<Node> {
        let directory = root.join(nickname);
        std::fs::create_dir_all(directory.join("data"))?;
        let path = directory.join("data/keys");
        let keys = tokio::task::spawn_blocking(move || Keys::open(&path, SystemTime::now())).await??;
        Ok(Node {
            nickname,
            fingerprint: hex::encode_upper(keys.fingerprint()),
            rsa: keys.fingerprint(),
            ed: keys.ed25519(),
            or: SocketAddr::from(([127, 0, 0, 1], free_port()?)),
            price,
            directory,
            process: Mutex::new(None),
        })
    }

    /// Where its keys and its journal are.
    pub fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// Writes its `node.toml`.
    pub fn configure(&self, policy: &[String], authorities: &[AuthorityFiles], money: &Money) -> anyhow::Result<()> {
        let authorities: String = authorities
            .iter()
            .map(|authority| {
                format!(
                    "[[directory.authorities]]\nname = \"{}\"\naddress = \"{}\"\nv3_identity = \"{}\"\n",
                    authority.nickname,
                    authority.directory_address,
                    hex::encode_upper(authority.v3_identity)
                )
            })
            .collect();
        let text = format!(
            "nickname = \"{nickname}\"\nshutdown_wait = \"2s\"\ndata_directory = \"data\"\n\
             [or]\nlisten = \"{or}\"\nallow_private_addresses = true\n\
             [exit]\npolicy = {policy:?}\nreject_private = false\n\
             [directory]\npublish = true\n{authorities}\
             [payments]\nprice_per_64_kib = {price}\n{money}\
             [payments.escrows]\nclose_delay = \"0s\"\n\
             [payments.peers]\nlimit = 64\ndeposit = \"40\"\nrandom_delay = \"0s\"\nbatch_period = \"0s\"\n\
             [gateway]\nlisten = \"127.0.0.1:0\"\n",
            nickname = self.nickname,
            or = self.or,
            price = self.price,
            money = money.section(),
        );
        Ok(std::fs::write(self.directory.join("node.toml"), text)?)
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// What it wrote to standard error, of all its runs.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Starts it, and waits until it takes links.
    pub async fn start(&self) -> anyhow::Result<()> {
        let mut process = self.process.lock().await;
        ensure!(process.is_none(), "{} runs already", self.nickname);
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let mut child = Command::new(env!("CARGO_BIN_EXE_obol"))
            .args(["--log", "info", "relay", "--end-with-input", "--config"])
            .arg(self.directory.join("node.toml"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        let pid = child.id().context("it has a process")?;
        let path = self.data().join("running.json");
        let began = Instant::now();
        let running: Running = loop {
            if let Ok(text) = std::fs::read_to_string(&path) {
                let running: Running = serde_json::from_str(&text)?;
                if running.pid == pid {
                    break running;
                }
            }
            if let Some(status) = child.try_wait()? {
                bail!(
                    "{} ended before it was ready ({status}):\n{}",
                    self.nickname,
                    self.log()
                );
            }
            ensure!(
                began.elapsed() < START,
                "{} does not start:\n{}",
                self.nickname,
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        ensure!(
            (running.or, &running.fingerprint, &running.ed25519) == (self.or, &self.fingerprint, &hex::encode(self.ed)),
            "{} is not who it was: {running:?}",
            self.nickname
        );
        let control = Control::new(running.gateway, &self.data().join("gateway.token"))?;
        *process = Some((child, control));
        Ok(())
    }

    /// Its gateway.
    pub async fn control(&self) -> anyhow::Result<Control> {
        let process = self.process.lock().await;
        let (_, control) = process
            .as_ref()
            .with_context(|| format!("{} does not run", self.nickname))?;
        Ok(control.clone())
    }

    /// Its account of itself.
    pub async fn state(&self) -> anyhow::Result<RelayState> {
        Ok(RelayState::of(&self.control().await?).await?)
    }

    /// A metric, all labels together.
    pub async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        Ok(self.control().await?.metric(name).await?)
    }

    /// Sends a signal to its process.
    pub async fn signal(&self, name: &str) -> anyhow::Result<()> {
        let process = self.process.lock().await;
        let (child, _) = process
            .as_ref()
            .with_context(|| format!("{} does not run", self.nickname))?;
        let pid = child.id().context("it has ended")?.to_string();
        let status = Command::new("kill").args([&format!("-{name}"), &pid]).status().await?;
        ensure!(status.success(), "kill -{name} {pid} failed");
        Ok(())
    }

    /// SIGTERM, as a service manager sends it: it must end by itself, in time, and say that all went well.
    pub async fn terminate(&self) -> anyhow::Result<()> {
        self.signal("TERM").await?;
        let mut process = self.process.lock().await;
        let (mut child, _) = process.take().context("it runs")?;
        // Waiting would close it, which asks for more hurry than SIGTERM does.
        let _leash = child.stdin.take();
        let status = tokio::time::timeout(END, child.wait())
            .await
            .with_context(|| format!("{} does not end", self.nickname))??;
        ensure!(
            status.success(),
            "{} ended with {status}:\n{}",
            self.nickname,
            self.log()
        );
        Ok(())
    }

    /// Ends it, whatever it takes.
    pub async fn stop(&self) {
        let Some((mut child, _)) = self.process.lock().await.take() else {
            return;
        };
        // Its standard input is our leash.
        drop(child.stdin.take());
        if tokio::time::timeout(Duration::from_secs(20), child.wait())
            .await
            .is_err()
        {
            let _ = child.kill().await;
        }
    }
}
