//! The program as a user meets it: what it says to a mistake, and that it leaves nothing behind.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

#[cfg(target_os = "linux")]
use obol_testnet::hostile::Witness;

fn obol(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_obol"))
        .args(arguments)
        .output()
        .unwrap()
}

/// Runs it, expects a failure, and gives what it said.
fn refused(arguments: &[&str]) -> String {
    let output = obol(arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{arguments:?} was not refused");
    assert!(
        !said.contains("panicked") && !said.contains("stack backtrace"),
        "{arguments:?}: {said}"
    );
    said
}

#[test]
fn a_file_that_is_not_there_is_named_before_anything_starts() {
    let said = refused(&["demo", "--file", "no/such/file"]);
    assert!(said.contains("no/such/file") && said.contains("--file"), "{said}");
}

#[test]
fn a_directory_or_an_empty_file_is_not_a_download() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    assert!(refused(&["demo", "--file", path]).contains("is not a file"));
    let empty = directory.path().join("empty");
    std::fs::write(&empty, "").unwrap();
    assert!(refused(&["demo", "--file", empty.to_str().unwrap()]).contains("is empty"));
}

#[test]
fn a_directory_with_something_in_it_is_not_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("mine"), "precious").unwrap();
    let said = refused(&["demo", "--keep", directory.path().to_str().unwrap()]);
    assert!(said.contains("not empty") && said.contains("--keep"), "{said}");
}

#[test]
fn garbage_flags_get_the_usage_and_exit_code_2() {
    for arguments in [
        &["demo", "--relays", "2"][..],
        &["demo", "--size", "many"],
        &["demo", "--no-such-flag"],
        &["nonsense"],
    ] {
        let output = obol(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_taken_port_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = refused(&["ledger", "--listen", &address]);
    assert!(said.contains(&address) && said.contains("--listen"), "{said}");
}

#[test]
fn a_recording_is_replayed_and_the_exit_code_tells_whether_all_agree() {
    let oracle = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../obol-ledger/tests/data/stellar-core-classic.json"
    );
    let plain = obol(&["ledger", "replay", oracle]);
    let said = String::from_utf8_lossy(&plain.stdout).into_owned();
    assert!(plain.status.success() && said.ends_with("275 of 275 agree\n"), "{said}");
    let json = obol(&["ledger", "replay", oracle, "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&report["agree"], &report["total"]), (&275.into(), &275.into()));

    // One answer changed: named, and no success.
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("changed.json");
    let text = std::fs::read_to_string(oracle).unwrap();
    std::fs::write(&file, text.replacen("\"PENDING\"", "\"ERROR\"", 1)).unwrap();
    let changed = obol(&["ledger", "replay", file.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&changed.stdout).into_owned();
    assert_eq!(changed.status.code(), Some(1), "{said}");
    assert!(
        said.contains("submission 0 (") && said.ends_with("274 of 275 agree\n"),
        "{said}"
    );

    let missing = directory.path().join("missing.json");
    assert!(refused(&["ledger", "replay", missing.to_str().unwrap()]).contains("missing.json"));
    std::fs::write(&file, "{}").unwrap();
    assert!(refused(&["ledger", "replay", file.to_str().unwrap()]).contains("network_passphrase"));
}

#[test]
fn a_wrong_configuration_is_refused_with_the_key() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("node.toml");
    let example = obol(&["config", "example"]);
    // Its own address is what nobody can know beforehand: without it the check says so.
    let text = String::from_utf8(example.stdout).unwrap();
    std::fs::write(&file, &text).unwrap();
    assert!(refused(&["config", "check", file.to_str().unwrap()]).contains("or.advertise"));
    let text = text.replace("#advertise =", "advertise =");
    std::fs::write(&file, &text).unwrap();
    let checked = obol(&["config", "check", file.to_str().unwrap()]);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    std::fs::write(&file, text.replace("nickname =", "nickmane =")).unwrap();
    for command in [&["config", "check"][..], &["relay", "--config"]] {
        let arguments = [command, &[file.to_str().unwrap()]].concat();
        assert!(refused(&arguments).contains("nickmane"), "{arguments:?}");
    }
}

/// Ends the child also when the test fails.
struct Leash(Child);

impl Drop for Leash {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(300), "{what} did not happen");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Whether a process with this id exists (and is not just waiting to be buried).
#[cfg(target_os = "linux")]
fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
}

#[cfg(target_os = "linux")]
#[test]
fn an_interrupted_demonstration_leaves_no_process_and_no_file() {
    let place = tempfile::tempdir().unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_obol"))
        .args(["demo", "--processes", "--json"])
        .env("TMPDIR", place.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut child = Leash(child);
    let relays = |place: &Path| -> Vec<u32> {
        let networks = std::fs::read_dir(place).unwrap().flatten().map(|e| e.path());
        let running = networks.flat_map(|n| (0..3).map(move |i| n.join(format!("relay{i}/running.json"))));
        running.filter_map(|f| pid(&std::fs::read_to_string(f).ok()?)).collect()
    };
    wait_until("the start of three relays", || relays(place.path()).len() == 3);
    let pids = relays(place.path());
    let interrupt = Command::new("kill")
        .args(["-INT", &child.0.id().to_string()])
        .status()
        .unwrap();
    assert!(interrupt.success());
    let status = child.0.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    wait_until("the end of the relays", || pids.iter().all(|pid| !lives(*pid)));
    assert_eq!(
        std::fs::read_dir(place.path()).unwrap().count(),
        0,
        "temporary files are left"
    );
}

/// The `pid` of a `running.json`.
#[cfg(target_os = "linux")]
fn pid(json: &str) -> Option<u32> {
    let value: serde_json::Value = serde_json::from_str(json).ok()?;
    value.get("pid")?.as_u64().and_then(|pid| u32::try_from(pid).ok())
}

#[test]
fn a_relay_that_cannot_start_says_why_once_and_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let refused_with = |name: &str, listen: &str, data: &str| {
        let path = directory.path().join(name);
        let text = format!(
            "nickname = \"runner\"\ndata_directory = \"{data}\"\n[or]\nlisten = \"{listen}\"\n\
             [[directory.authorities]]\nname = \"nobody\"\naddress = \"127.0.0.1:1\"\n\
             v3_identity = \"0000000000000000000000000000000000000000\"\n"
        );
        std::fs::write(&path, text).unwrap();
        refused(&["relay", "--config", path.to_str().unwrap()])
    };
    let said = refused_with("taken.toml", &address, "data");
    assert!(
        said.contains(&address) && said.contains("choose another in or.listen"),
        "{said}"
    );
    assert_eq!(said.matches("in use").count(), 1, "{said}");

    std::fs::write(directory.path().join("file"), "").unwrap();
    let said = refused_with("file.toml", "127.0.0.1:0", "file");
    assert!(
        said.contains("data_directory") && said.matches("exists").count() == 1,
        "{said}"
    );

    let key = directory.path().join("data/keys/identity-ed25519.toml");
    std::fs::write(&key, "garbage").unwrap();
    let said = refused_with("garbage.toml", "127.0.0.1:0", "data");
    assert!(
        said.contains("identity-ed25519.toml") && said.contains("backup"),
        "{said}"
    );
    assert!(!said.contains("garbage"), "it may be half a secret: {said}");

    let said = refused(&["relay", "--config", "no/such.toml"]);
    assert!(
        said.contains("no/such.toml") && said.matches("No such file").count() == 1,
        "{said}"
    );
}

/// A relay without payments, in a process of its own, with its gateway; nobody publishes it.
#[cfg(unix)]
struct Relay {
    child: Leash,
    place: tempfile::TempDir,
}

#[cfg(unix)]
impl Relay {
    fn start() -> Relay {
        Relay::start_with(|_| {})
    }

    fn start_with(prepare: impl FnOnce(&mut Command)) -> Relay {
        Relay::start_from(&Relay::text(""), prepare)
    }

    fn start_from(text: &str, prepare: impl FnOnce(&mut Command)) -> Relay {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("node.toml"), text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_obol"));
        command
            .args(["relay", "--config"])
            .arg(place.path().join("node.toml"))
            .env_remove("OBOL_LOG")
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(place.path().join("log")).unwrap());
        prepare(&mut command);
        let child = Leash(command.spawn().unwrap());
        let mut relay = Relay { child, place };
        let running = relay.place.path().join("data/running.json");
        wait_until("the relay's start", || {
            assert!(relay.child.0.try_wait().unwrap().is_none(), "{}", relay.log());
            running.exists()
        });
        relay
    }

    /// A configuration with `more` lines on top.
    fn text(more: &str) -> String {
        format!(
            "{more}\nnickname = \"program\"\nlog = \"info\"\nshutdown_wait = \"10min\"\ndata_directory = \"data\"\n\
             [or]\nlisten = \"127.0.0.1:0\"\nallow_private_addresses = true\n[directory]\npublish = false\n\
             [[directory.authorities]]\nname = \"nobody\"\naddress = \"127.0.0.1:1\"\n\
             v3_identity = \"0000000000000000000000000000000000000000\"\n"
        )
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.place.path().join("log")).unwrap()
    }

    fn signal(&self, name: &str) {
        let pid = self.child.0.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status().unwrap();
        assert!(sent.success());
    }

    /// Writes another configuration, has it read, and waits for this in the log.
    fn reload(&self, text: &str, said: &str) {
        std::fs::write(self.place.path().join("node.toml"), text).unwrap();
        self.signal("HUP");
        wait_until(said, || self.log().contains(said));
    }
}

#[cfg(unix)]
#[test]
fn a_relay_that_is_asked_to_end_does_so_and_clears_up() {
    for signal in ["TERM", "INT"] {
        let mut relay = Relay::start();
        relay.signal(signal);
        assert_eq!(relay.child.0.wait().unwrap().code(), Some(0), "{}", relay.log());
        assert!(!relay.place.path().join("data/running.json").exists());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_relay_that_waits_for_a_circuit_ends_at_once_when_it_is_asked_again() {
    // It has something to serve to whoever has a circuit, though nobody takes its descriptor.
    let text = Relay::text("").replace("publish = false", "publish = true");
    let mut relay = Relay::start_from(&text, |_| {});
    let running = std::fs::read(relay.place.path().join("data/running.json")).unwrap();
    let running: serde_json::Value = serde_json::from_slice(&running).unwrap();
    let address = running["or"].as_str().unwrap().parse().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut witness = None;
    wait_until("a circuit", || {
        witness = runtime.block_on(Witness::new(address)).ok();
        witness.is_some()
    });
    relay.signal("TERM");
    wait_until("the end's beginning", || relay.log().contains("asked to end"));
    // Ten minutes are what it was told to wait; the circuit goes on meanwhile.
    runtime.block_on(witness.as_mut().unwrap().testify()).unwrap();
    assert!(relay.child.0.try_wait().unwrap().is_none());
    relay.signal("TERM");
    assert_eq!(relay.child.0.wait().unwrap().code(), Some(3), "{}", relay.log());
    assert!(!relay.place.path().join("data/running.json").exists());
}

#[cfg(unix)]
#[test]
fn a_new_configuration_is_used_as_a_whole_or_not_at_all() {
    let mut relay = Relay::start();
    relay.reload(&Relay::text("contact = \"me\""), "changed: contact");
    relay.reload(
        &Relay::text("contact = \"me\"").replace("\"data\"", "\"elsewhere\""),
        "data_directory cannot change",
    );
    relay.reload(&Relay::text("contakt = \"me\""), "contakt");
    relay.reload(
        &Relay::text("contact = \"me\"\n").replace("\"info\"", "\"\\u0001=\""),
        "log is",
    );
    // None of these has ended it.
    relay.reload(
        &Relay::text("contact = \"me\"\nshutdown_wait = \"1s\"").replace("shutdown_wait = \"10min\"\n", ""),
        "changed: shutdown_wait",
    );
    relay.reload(
        &Relay::text("contact = \"me\"").replace("\"info\"", "\"warn\""),
        "changed: log, shutdown_wait",
    );
    relay.signal("TERM");
    assert_eq!(relay.child.0.wait().unwrap().code(), Some(0));
    assert!(
        !relay.log().contains("asked to end"),
        "that is information, not a warning"
    );
}

#[cfg(target_os = "linux")]
#[test]
fn systemd_is_told_when_the_relay_is_ready_reloads_lives_and_stops() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(300))).unwrap();
    let heard = |wanted: &str| {
        let mut buffer = [0; 4096];
        loop {
            let len = socket.recv(&mut buffer).expect(wanted);
            let text = String::from_utf8_lossy(&buffer[..len]).into_owned();
            if text.lines().any(|line| line == wanted) {
                return text;
            }
        }
    };
    let mut relay = Relay::start_with(|command| {
        // The process itself is who is watched.
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "1000000");
    });
    assert!(heard("READY=1").contains("STATUS=program: 0 links"));
    heard("WATCHDOG=1");
    relay.signal("HUP");
    assert!(heard("RELOADING=1").contains("MONOTONIC_USEC="));
    heard("READY=1");
    relay.signal("TERM");
    heard("STOPPING=1");
    assert_eq!(relay.child.0.wait().unwrap().code(), Some(0));
}

#[test]
fn a_relay_without_a_configuration_is_told_where_to_get_one() {
    let output = obol(&["relay"]);
    assert_eq!(output.status.code(), Some(2));
    let nowhere = refused(&["relay", "--config", "no/such/file"]);
    for said in [String::from_utf8_lossy(&output.stderr).into_owned(), nowhere] {
        assert!(said.contains("obol config example"), "{said}");
    }
}
