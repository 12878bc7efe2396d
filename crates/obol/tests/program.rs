//! The program as a user meets it: what it says to a mistake, and that it leaves nothing behind.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

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
