//! `obol doctor`: what is wrong with a relay or a client, and how to mend it.
//!
//! It looks from outside, changes nothing and may be run beside the program: files and ports here, the program's own word by its local
//! interface if it runs, the ledger by the program's own way if it does not.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use clap::Args;
use obol_client::ClientConfig;
use obol_relay::config::Config;
use obol_stellar::amount::amount_text;
use obol_stellar::key::account_text;
use obol_stellar::wallet::{self, Balances};
use serde::Serialize;
use serde_json::Value;

use crate::ask;
use crate::demo::show::Show;
use crate::wallet::source::{Open, Source};

/// How far this machine's clock may be from the ledger's (docs/adr/0043), seconds.
const CLOCK: u64 = 300;
/// Lumens that an account should have to spend, stroops: a hundred transactions.
const LUMENS: i64 = 100_000;

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// The configuration of a relay or a client (node.toml, client.toml).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// How it stands with one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Good,
    /// It works without, but not as it should.
    Warning,
    /// It does not work.
    Wrong,
    /// It could not be looked at.
    Unknown,
}

/// What was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    what: &'static str,
    verdict: Verdict,
    /// What was seen.
    seen: String,
    /// How to mend it.
    mend: Option<String>,
}

/// All of it.
#[derive(Debug, Default)]
struct Report(Vec<Finding>);

impl Report {
    fn good(&mut self, what: &'static str, seen: impl Into<String>) {
        self.add(what, Verdict::Good, seen, None::<String>);
    }

    fn add(&mut self, what: &'static str, verdict: Verdict, seen: impl Into<String>, mend: Option<impl Into<String>>) {
        self.0.push(Finding {
            what,
            verdict,
            seen: seen.into(),
            mend: mend.map(Into::into),
        });
    }

    fn warn(&mut self, what: &'static str, seen: impl Into<String>, mend: impl Into<String>) {
        self.add(what, Verdict::Warning, seen, Some(mend));
    }

    fn wrong(&mut self, what: &'static str, seen: impl Into<String>, mend: impl Into<String>) {
        self.add(what, Verdict::Wrong, seen, Some(mend));
    }
}

/// A running program's local interface.
struct Running {
    address: SocketAddr,
    token: String,
}

impl Running {
    fn get(&self, path: &str) -> anyhow::Result<Value> {
        let text = ask::page(self.address, path, Some(&self.token), Duration::from_secs(60))?;
        serde_json::from_str(&text).with_context(|| format!("{path} answers no JSON"))
    }
}

pub(crate) async fn run(args: DoctorArgs) -> anyhow::Result<ExitCode> {
    let mut report = Report::default();
    let source = Source::load(&args.config)?;
    report.good("configuration", format!("{} can be used", args.config.display()));
    let running = match &source {
        Source::Relay(config) => relay_here(&mut report, config),
        Source::Client(config) => client_here(&mut report, config),
    };
    let show = Show::new(args.json);
    let wait = show.wait("looking");
    match running {
        Some(running) => by_its_word(&mut report, &running),
        None => by_the_ledger(&mut report, source).await,
    }
    wait.finish_and_clear();
    let wrong = report
        .0
        .iter()
        .filter(|finding| finding.verdict == Verdict::Wrong)
        .count();
    if args.json {
        println!(
            "{}",
            serde_json::to_string_pretty(&serde_json::json!({ "wrong": wrong, "findings": report.0 }))?
        );
    } else {
        for finding in &report.0 {
            let mark = match finding.verdict {
                Verdict::Good => "good   ",
                Verdict::Warning => "warning",
                Verdict::Wrong => "WRONG  ",
                Verdict::Unknown => "unknown",
            };
            println!("{mark}  {:<14} {}", finding.what, finding.seen);
            if let Some(mend) = &finding.mend {
                println!("{:>25}{mend}", "");
            }
        }
        match wrong {
            0 => println!("nothing is wrong"),
            1 => println!("1 thing is wrong"),
            n => println!("{n} things are wrong"),
        }
    }
    Ok(if wrong == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

// ---- here

fn relay_here(report: &mut Report, config: &Config) -> Option<Running> {
    private(report, &config.data_directory, true);
    if let Some(payments) = &config.payments {
        let accounts = &payments.accounts;
        for file in accounts.payees.iter().chain([&accounts.capital, &accounts.trust]) {
            private(report, &config.path(file), false);
        }
    }
    let running = fs::read_to_string(config.path(Path::new(obol_relay::run::RUNNING))).ok();
    let running: Option<Value> = running.and_then(|text| serde_json::from_str(&text).ok());
    if running.is_none() {
        match TcpListener::bind(config.or.listen) {
            Ok(_) => report.good("port", format!("{} is free", config.or.listen)),
            Err(error) => report.wrong(
                "port",
                format!("{} cannot be bound: {error}", config.or.listen),
                "end the program that listens there, or change or.listen (ports below 1024 need CAP_NET_BIND_SERVICE)",
            ),
        }
    }
    let gateway = running
        .as_ref()
        .and_then(|running| running["gateway"].as_str()?.parse().ok());
    let listen: Option<SocketAddr> = gateway.or(config.gateway.listen);
    reached(
        report,
        running.is_some(),
        listen,
        &config.path(&config.gateway.token),
        "obol relay",
    )
}

fn client_here(report: &mut Report, config: &ClientConfig) -> Option<Running> {
    private(report, &config.state_directory, true);
    if let Some(payments) = &config.payments {
        private(report, &config.path(&payments.wallet), false);
    }
    let taken = match TcpListener::bind(config.socks.listen) {
        Ok(_) => false,
        Err(error) => error.kind() == std::io::ErrorKind::AddrInUse,
    };
    if !taken {
        report.good("port", format!("{} is free", config.socks.listen));
    }
    reached(
        report,
        taken,
        config.gateway.listen,
        &config.path(&config.gateway.token),
        "obol client",
    )
}

/// Whether the program runs, and can be asked.
fn reached(
    report: &mut Report,
    seems_to: bool,
    listen: Option<SocketAddr>,
    token: &Path,
    program: &str,
) -> Option<Running> {
    let Some(address) = listen else {
        if seems_to {
            report.warn(
                "running",
                format!("{program} seems to run, and has no local interface to be asked by"),
                "set gateway.listen = \"127.0.0.1:PORT\"; what follows needs the program stopped",
            );
        }
        return None;
    };
    let token = fs::read_to_string(token).map(|text| text.trim().to_owned());
    let running = token.ok().map(|token| Running { address, token })?;
    match running.get("/api/v1/status") {
        Ok(_) => {
            report.good("running", format!("{program} answers at {address}"));
            Some(running)
        }
        Err(error) if seems_to => {
            report.wrong(
                "running",
                format!("{program} seems to run, and does not answer at {address}: {error:#}"),
                "look into its log; if it does not run, delete running.json",
            );
            None
        }
        Err(_) => {
            report.add(
                "running",
                Verdict::Good,
                format!("{program} does not run"),
                None::<String>,
            );
            None
        }
    }
}

/// Whether nobody else can read it.
fn private(report: &mut Report, path: &Path, is_directory: bool) {
    let what = if is_directory { "directory" } else { "key file" };
    match fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            report.good(
                what,
                format!("{} is not there yet; it is made at the first start", path.display()),
            );
        }
        Err(error) => report.wrong(
            what,
            format!("{} cannot be looked at: {error}", path.display()),
            "run this as the user who runs the program",
        ),
        #[cfg(unix)]
        Ok(metadata) if std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o077 != 0 => {
            let bits = if is_directory { "700" } else { "600" };
            report.wrong(
                what,
                format!("{} can be read by others", path.display()),
                format!("chmod {bits} {}", path.display()),
            );
        }
        Ok(_) => report.good(what, format!("{} is its owner's alone", path.display())),
    }
}

// ---- by the program's own word

fn by_its_word(report: &mut Report, running: &Running) {
    let status = match running.get("/api/v1/status") {
        Ok(status) => status,
        Err(error) => return report.add("state", Verdict::Unknown, format!("{error:#}"), None::<String>),
    };
    let (state, explanation) = (
        status["state"].as_str().unwrap_or_default(),
        status["explanation"].as_str().unwrap_or_default().to_owned(),
    );
    match state {
        "stopped" => report.wrong("state", explanation, "make room or mend the disk, then start it again"),
        "out_of_funds" => report.warn(
            "state",
            explanation,
            "obol wallet fund --config FILE shows where to send money",
        ),
        _ => report.good("state", explanation),
    }
    let tor = &status["tor"];
    let now = unix_now();
    match tor["consensus_valid_after"].as_u64() {
        Some(since) if now.saturating_sub(since) < 3 * 3_600 => report.good("consensus", "a fresh one is here"),
        Some(since) => report.wrong(
            "consensus",
            format!("the newest is {} hours old", now.saturating_sub(since) / 3_600),
            "see whether the authorities can be reached from here, and whether this machine's clock is right",
        ),
        None if status["role"] == "relay" => report.wrong(
            "consensus",
            "there is none",
            "see whether the authorities of directory.authorities can be reached from here",
        ),
        None => {}
    }
    match tor["listed"].as_bool() {
        Some(true) => report.good("listing", "the relay is in the consensus"),
        Some(false) => report.warn(
            "listing",
            "the relay is not in the consensus",
            "a new relay is listed after an hour or two; else look at what the authorities say below, and at directory.publish",
        ),
        None => {}
    }
    if tor["reachable"].as_bool() == Some(false) {
        report.wrong(
            "reachability",
            "the relay's own test did not reach its port",
            "see that or.advertise is a public address and that its port is forwarded to or.listen",
        );
    }
    for authority in tor["authorities"].as_array().into_iter().flatten() {
        if let Some(problem) = authority["problem"].as_str() {
            let name = authority["name"].as_str().unwrap_or("an authority");
            report.warn(
                "authority",
                format!("{name} did not take the descriptor: {problem}"),
                "it is tried again",
            );
        }
    }
    if status["asset"].is_null() {
        return report.good("payments", "the program is configured without");
    }
    let ledger = &status["ledger"];
    match (ledger["reachable"].as_bool(), ledger["close_time"].as_u64()) {
        (Some(true), _) => report.good("ledger", "it answers"),
        (_, Some(_)) => report.wrong(
            "ledger",
            "it has not answered for minutes",
            "see payments.ledger.urls and the network",
        ),
        _ if status["role"] == "relay" => report.wrong(
            "ledger",
            "it has not answered yet",
            "see payments.ledger.urls and the network",
        ),
        _ => {}
    }
    if let Some(close_time) = ledger["close_time"].as_u64().filter(|_| ledger["reachable"] == true) {
        clock(report, close_time);
    }
    match running.get("/api/v1/balances") {
        Err(error) => report.add("funds", Verdict::Unknown, format!("{error:#}"), None::<String>),
        Ok(balances) if balances["read_at"].is_null() => {
            report.add(
                "funds",
                Verdict::Unknown,
                "the ledger could not be asked",
                None::<String>,
            );
        }
        Ok(balances) => {
            for account in balances["accounts"].as_array().into_iter().flatten() {
                let name = format!(
                    "{} {}",
                    account["purpose"].as_str().unwrap_or_default(),
                    account["account"].as_str().unwrap_or_default()
                );
                let lumens = account["lumens"].as_i64();
                if account["purpose"] == "trust" && lumens.is_none() {
                    report.good(
                        "funds",
                        format!("{name} is not on the ledger: it needs nothing as long as no relay owes another"),
                    );
                    continue;
                }
                funds(report, &name, lumens, account["asset"].as_i64());
            }
        }
    }
    let limits = running.get("/api/v1/limits").unwrap_or_default();
    for limit in limits["records"].as_array().into_iter().flatten() {
        if limit["alarm"] == true {
            let name = limit["limit"].as_str().unwrap_or_default();
            report.warn(
                "limit",
                format!("{name} is nearly used up"),
                "raise it, or wait until escrows are settled",
            );
        }
    }
}

// ---- by the ledger

async fn by_the_ledger(report: &mut Report, source: Source) {
    if source.ledger().is_err() {
        return report.good("payments", "the program is configured without");
    }
    let Open { purse, payees, .. } = match source.open().await {
        Ok(open) => open,
        Err(error) => {
            return report.wrong(
                "money",
                format!("{error:#}"),
                "before the first start there is no journal: start it once; else it runs, and is asked better by gateway.listen",
            );
        }
    };
    let rail = purse.settler.rail();
    match rail.check_network().await {
        Ok(()) => report.good("ledger", "it answers, and is the configured network"),
        Err(error) => {
            return report.wrong(
                "ledger",
                error.to_string(),
                "see payments.ledger.urls, network_passphrase and the network",
            );
        }
    }
    match rail.latest_ledger().await {
        Ok(head) => clock(report, head.close_time),
        Err(error) => report.add("clock", Verdict::Unknown, error.to_string(), None::<String>),
    }
    let asset = purse.asset;
    for key in std::iter::once(&purse.account).chain(&payees) {
        let name = account_text(&key.account());
        match wallet::balances(rail.as_ref(), key.account()).await {
            Err(error) => report.add("funds", Verdict::Unknown, error.to_string(), None::<String>),
            Ok(found) => {
                let line = |found: &Balances| {
                    found
                        .assets
                        .iter()
                        .find(|line| line.asset == asset)
                        .map(|line| line.balance.get())
                };
                let lumens = found.as_ref().map(|found| found.spendable_lumens.get());
                funds(report, &name, lumens, found.as_ref().and_then(line));
            }
        }
    }
}

fn funds(report: &mut Report, account: &str, lumens: Option<i64>, asset: Option<i64>) {
    let text = |stroops: i64| obol_cell::Stroops::new(stroops).map_or_else(|_| stroops.to_string(), amount_text);
    match (lumens, asset) {
        (None, _) => report.wrong(
            "funds",
            format!("{account} is not on the ledger"),
            "obol wallet fund --config FILE --lumens shows how to send it lumens",
        ),
        (Some(lumens), _) if lumens < LUMENS => report.wrong(
            "funds",
            format!("{account} has {} XLM to spend", text(lumens)),
            "send it lumens: fees and reserves are paid in them",
        ),
        (Some(_), None) => report.warn(
            "trust line",
            format!("{account} has none to the asset"),
            "it is added when the program runs; or now: obol wallet trust --config FILE",
        ),
        (Some(lumens), Some(asset)) => {
            report.good(
                "funds",
                format!("{account} has {} of the asset and {} XLM", text(asset), text(lumens)),
            );
        }
    }
}

fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Against the newest ledger's close time, which is a few seconds old.
fn clock(report: &mut Report, close_time: u64) {
    let apart = unix_now().abs_diff(close_time);
    match apart <= CLOCK {
        true => report.good("clock", format!("{apart} s from the newest ledger's")),
        false => report.wrong(
            "clock",
            format!("it is {apart} s from the newest ledger's"),
            "set this machine's clock (NTP): payments put up with five minutes",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_key_file_that_others_can_read_is_wrong_and_says_how_to_mend_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("wallet.seed");
        fs::write(&path, "S").unwrap();
        for (mode, verdict) in [(0o600, Verdict::Good), (0o640, Verdict::Wrong), (0o604, Verdict::Wrong)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let mut report = Report::default();
            private(&mut report, &path, false);
            assert_eq!(report.0[0].verdict, verdict, "{mode:o}");
            assert_eq!(report.0[0].mend.is_some(), verdict == Verdict::Wrong);
        }
    }

    #[test]
    fn too_few_lumens_no_line_and_a_clock_that_is_off_are_found() {
        let verdict = |look: &dyn Fn(&mut Report)| {
            let mut report = Report::default();
            look(&mut report);
            report.0[0].verdict
        };
        assert_eq!(verdict(&|r| funds(r, "G", None, None)), Verdict::Wrong);
        assert_eq!(verdict(&|r| funds(r, "G", Some(LUMENS - 1), Some(5))), Verdict::Wrong);
        assert_eq!(verdict(&|r| funds(r, "G", Some(LUMENS), None)), Verdict::Warning);
        assert_eq!(verdict(&|r| funds(r, "G", Some(LUMENS), Some(0))), Verdict::Good);
        assert_eq!(verdict(&|r| clock(r, unix_now())), Verdict::Good);
        assert_eq!(verdict(&|r| clock(r, unix_now() - CLOCK - 60)), Verdict::Wrong);
    }
}
