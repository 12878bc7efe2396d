//! The local interface of a relay and of a client that pay and are paid, as others use it: the dashboard in a real browser, and every call of `/api/v1`
//! against its own document. Run with `cargo test --release -p obol --test interface`.
//!
//! It needs Node 20 or later, Chromium (the dashboard's tests say which) and Schemathesis (`pip install -r .ci/requirements.txt`). What is missing is
//! skipped, and said; with `CI` set it is a failure. `OBOL_DASHBOARD_SHOTS=DIRECTORY` photographs every view.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use obol_client::{Client, ClientHandle, Pay};
use obol_testnet::download::download;
use obol_testnet::network::{Network, NetworkOptions};
use obol_testnet::origin::{Origin, OriginFile};
use obol_testnet::state::RelayState;
use tokio::process::Command;
use tokio::runtime::Runtime;

/// Far more than anything here takes: a hang becomes a failure.
const PATIENCE: Duration = Duration::from_secs(600);
const LENGTH: u64 = 8 << 20;

/// A network in which a client has paid for a download, and goes on.
struct World {
    network: Network,
    client: ClientHandle,
    token: String,
    directory: tempfile::TempDir,
    _origin: Origin,
}

/// Whose interface.
#[derive(Clone, Copy)]
enum Whose {
    Relay,
    Client,
}

impl Whose {
    fn role(self) -> &'static str {
        match self {
            Whose::Relay => "relay",
            Whose::Client => "client",
        }
    }
}

impl World {
    async fn start() -> anyhow::Result<World> {
        let directory = tempfile::tempdir()?;
        let file = OriginFile::generate(&directory.path().join("file"), LENGTH, 7).await?;
        let digest = file.sha256;
        let origin = Origin::start(file).await?;
        let network = Network::start(NetworkOptions::new(directory.path().join("network")), |_| {}).await?;
        tokio::time::timeout(PATIENCE, relays_have_opened(&network))
            .await
            .context("the relays have no escrows to each other")??;
        let place = directory.path().join("client");
        let mut config = network.client_config(&place, Some(Pay::Always))?;
        config.gateway.listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        if let Some(payments) = &mut config.payments {
            payments.budget_per_day = Some(serde_json::from_str("\"0.02\"")?);
            payments.budget_per_month = Some(serde_json::from_str("\"0.5\"")?);
        }
        let client = Client::start(config).await?;
        client.ready_to_pay(PATIENCE).await?;
        // Charts and lists have something to show, on a tunnel that is still there.
        for turn in 0..3 {
            let user = format!("reader {turn}");
            let done = download(client.socks_addr(), &user, origin.address(), "/file", |_| {}).await?;
            ensure!(done.sha256 == digest, "the download is not what was served");
        }
        let token = std::fs::read_to_string(place.join("gateway.token"))?;
        let figures = client.figures();
        ensure!(
            figures.tunnels.iter().any(|tunnel| tunnel.payments > 0),
            "nothing was paid: {figures:?}"
        );
        Ok(World {
            network,
            client,
            token: token.trim().to_owned(),
            directory,
            _origin: origin,
        })
    }

    /// Where an interface is, and its token.
    fn interface(&self, whose: Whose) -> anyhow::Result<(SocketAddr, String)> {
        match whose {
            Whose::Relay => {
                let guard = self.network.relays.first().context("there is a guard")?;
                let token = std::fs::read_to_string(guard.directory.join("gateway.token"))?;
                Ok((guard.control.address(), token.trim().to_owned()))
            }
            Whose::Client => {
                let address = self.client.gateway_addr().context("the client has an interface")?;
                Ok((address, self.token.clone()))
            }
        }
    }
}

/// Every relay has an escrow to every other.
async fn relays_have_opened(network: &Network) -> anyhow::Result<()> {
    for relay in &network.relays {
        let open = async || -> anyhow::Result<usize> {
            let state = RelayState::of(&relay.control).await?;
            let ours = state
                .escrows
                .iter()
                .filter(|e| e.direction == "out" && e.state == "open");
            Ok(ours.count())
        };
        while open().await? < network.relays.len() - 1 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// What a program that is not installed costs: nothing on a user's machine, the trial in CI.
fn missing(program: &str, install: &str) -> anyhow::Result<()> {
    ensure!(
        std::env::var("CI").as_deref() != Ok("true"),
        "{program} is missing: {install}"
    );
    eprintln!("skipped: {program} is missing; {install}");
    Ok(())
}

/// Runs a program to its end; what it said is the error.
async fn passes(mut command: Command, program: &str, install: &str) -> anyhow::Result<()> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = match tokio::time::timeout(PATIENCE, command.output()).await {
        Err(_) => bail!("{program} took longer than {} s", PATIENCE.as_secs()),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => return missing(program, install),
        Ok(output) => output?,
    };
    ensure!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// The dashboard's own tests, in the browser, on what this network shows.
async fn dashboard(world: &World, whose: Whose) -> anyhow::Result<()> {
    let browsers = ["chromium-headless-shell", "chromium", "google-chrome"];
    let named = std::env::var("OBOL_CHROMIUM").ok();
    let candidates = named.iter().map(String::as_str).chain(browsers);
    let mut found = false;
    for browser in candidates {
        let mut version = Command::new(browser);
        version.arg("--version").stdin(Stdio::null());
        found |= version.output().await.is_ok_and(|output| output.status.success());
    }
    if !found {
        return missing(
            "Chromium",
            "apt-get install chromium-headless-shell, or name one in OBOL_CHROMIUM",
        );
    }
    let (address, token) = world.interface(whose)?;
    let mut node = Command::new("node");
    node.arg("--test")
        .arg(repository().join("crates/obol-gateway/dashboard/tests/browser.test.mjs"))
        .env("OBOL_DASHBOARD_URL", format!("http://{address}"))
        .env("OBOL_DASHBOARD_TOKEN", token)
        .env("OBOL_DASHBOARD_ROLE", whose.role());
    passes(node, "Node", "install Node 20 or later").await
}

/// Whatever Schemathesis thinks of, the interface answers as its document says.
async fn document(world: &World, whose: Whose) -> anyhow::Result<()> {
    let (address, token) = world.interface(whose)?;
    // In a file: arguments are everybody's to read.
    let config = world
        .directory
        .path()
        .join(format!("{}.schemathesis.toml", whose.role()));
    std::fs::write(
        &config,
        // 422: of the form that the document asks for, but impossible, as a span of time that ends before it begins.
        format!(
            "[headers]\nAuthorization = \"Bearer {token}\"\n[generation]\nmax-examples = 20\n\
             [checks.positive_data_acceptance]\n\
             expected-statuses = [\"2xx\", \"401\", \"403\", \"404\", \"409\", \"422\", \"502\"]\n"
        ),
    )?;
    let mut st = Command::new("st");
    st.current_dir(world.directory.path())
        .arg("--config-file")
        .arg(&config)
        .arg("run")
        .arg(format!("http://{address}/api/v1/openapi.json"))
        .args([
            "--checks",
            "all",
            "--phases",
            "examples,coverage,fuzzing",
            "--seed",
            "7",
        ])
        .args(["--generation-database", "none", "--no-color"]);
    passes(st, "Schemathesis", "pip install -r .ci/requirements.txt").await
}

struct Suite {
    runtime: Runtime,
    world: OnceLock<Result<World, String>>,
}

impl Suite {
    fn run(&self, trial: impl AsyncFnOnce(&World) -> anyhow::Result<()>) -> Result<(), Failed> {
        let world = self.world.get_or_init(|| {
            let starting = self.runtime.block_on(World::start());
            starting.map_err(|error| format!("the network does not come up: {error:#}"))
        });
        let world = world.as_ref().map_err(Failed::from)?;
        let outcome = self.runtime.block_on(trial(world));
        outcome.map_err(|error| format!("{error:#}").into())
    }
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .try_init();
    arguments.test_threads = Some(1);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let suite = Arc::new(Suite {
        runtime,
        world: OnceLock::new(),
    });
    let trial = |name: &str, run: fn(&Suite) -> Result<(), Failed>| {
        let suite = Arc::clone(&suite);
        Trial::test(name, move || run(&suite))
    };
    let trials = vec![
        trial("the_relays_dashboard_shows_its_figures_in_a_browser", |suite| {
            suite.run(async |world| dashboard(world, Whose::Relay).await)
        }),
        trial("the_clients_dashboard_shows_its_figures_in_a_browser", |suite| {
            suite.run(async |world| dashboard(world, Whose::Client).await)
        }),
        trial("the_relays_interface_keeps_to_its_openapi_document", |suite| {
            suite.run(async |world| document(world, Whose::Relay).await)
        }),
        trial("the_clients_interface_keeps_to_its_openapi_document", |suite| {
            suite.run(async |world| document(world, Whose::Client).await)
        }),
    ];
    let conclusion = libtest_mimic::run(&arguments, trials);
    let suite = Arc::into_inner(suite).expect("all trials have ended");
    if let Some(Ok(world)) = suite.world.into_inner() {
        suite.runtime.block_on(async {
            world.client.shutdown().await;
            world.network.stop().await;
        });
    }
    suite.runtime.shutdown_timeout(Duration::from_secs(10));
    conclusion.exit_code()
}
