//! `obol health`: does it answer? For health checks in images that have no shell, and for scripts.
//!
//! Exit code 0 if it does, 1 if it does not or cannot be asked. It says nothing about money: a relay whose journal has failed goes on
//! unpaid, and a restart does not empty a full disk; alerts are for that (docker/prometheus/alerts.yml).

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::Args;

use crate::ask::{connect, found};

#[derive(Debug, Args)]
pub(crate) struct HealthArgs {
    /// The configuration of the relay or client that should be running: its `gateway.listen` or `socks.listen` is asked.
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "ledger",
        conflicts_with = "ledger"
    )]
    config: Option<PathBuf>,
    /// The address of the embedded ledger that should be running.
    #[arg(long, value_name = "ADDRESS")]
    ledger: Option<SocketAddr>,
    /// How many seconds it has for its answer.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=300))]
    patience: u64,
}

/// What is asked, and where.
#[derive(Debug, PartialEq, Eq)]
enum Question {
    /// A page that must be there.
    Page(SocketAddr, &'static str),
    /// A SOCKS 5 greeting.
    Socks(SocketAddr),
}

pub(crate) fn run(args: &HealthArgs) -> anyhow::Result<ExitCode> {
    let question = match (&args.config, args.ledger) {
        (Some(file), _) => of_config(file)?,
        (None, Some(address)) => Question::Page(address, "/health"),
        (None, None) => bail!("name a relay or a client with --config, or a ledger with --ledger"),
    };
    answers(&question, Duration::from_secs(args.patience))?;
    println!("healthy");
    Ok(ExitCode::SUCCESS)
}

/// Whom a configuration tells to ask. It is not checked as a whole: its owner did that when it started.
fn of_config(file: &Path) -> anyhow::Result<Question> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let table: toml::Table = text
        .parse()
        .with_context(|| format!("{} is not TOML", file.display()))?;
    let listen = |section: &str| {
        let value = table.get(section).and_then(|section| section.get("listen"));
        value.map(|value| {
            let address = value.as_str().and_then(|text| text.parse::<SocketAddr>().ok());
            address.with_context(|| format!("{section}.listen is {value}, which is not an address and a port"))
        })
    };
    if table.contains_key("nickname") {
        let address = listen("gateway").context("the relay has no gateway.listen: there is nothing to ask")??;
        Ok(Question::Page(address, "/metrics"))
    } else if table.contains_key("state_directory") {
        let default = SocketAddr::from((Ipv4Addr::LOCALHOST, 9150));
        Ok(Question::Socks(listen("socks").transpose()?.unwrap_or(default)))
    } else {
        bail!(
            "{} is neither a relay's configuration (it has no `nickname`) nor a client's (it has no `state_directory`)",
            file.display()
        )
    }
}

fn answers(question: &Question, patience: Duration) -> anyhow::Result<()> {
    match question {
        Question::Page(address, path) => {
            found(*address, path, None, patience)?;
        }
        Question::Socks(address) => {
            let mut stream = connect(*address, patience)?;
            // Version 5; without a name, or with one.
            stream.send(&[5, 2, 0, 2])?;
            let mut answer = [0; 2];
            stream.fill(&mut answer)?;
            ensure!(
                answer[0] == 5 && answer[1] != 0xff,
                "{address} does not speak SOCKS 5 (it answers {})",
                hex::encode(answer)
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    const PATIENCE: Duration = Duration::from_millis(500);

    /// Somebody who answers every connection with this, after it was asked.
    fn answering(with: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut asked = [0; 256];
                let _ = stream.read(&mut asked);
                let _ = stream.write_all(with);
                // Open for longer than anybody waits: silence is not an end.
                std::thread::sleep(PATIENCE * 4);
            }
        });
        address
    }

    fn of_text(text: &str) -> anyhow::Result<Question> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.toml");
        std::fs::write(&file, text).unwrap();
        of_config(&file)
    }

    #[test]
    fn a_configuration_says_whom_to_ask() {
        let relay = of_text("nickname = \"a\"\n[gateway]\nlisten = \"127.0.0.1:9035\"\n").unwrap();
        assert_eq!(relay, Question::Page("127.0.0.1:9035".parse().unwrap(), "/metrics"));
        let client = of_text("state_directory = \"a\"\n[socks]\nlisten = \"127.0.0.1:1\"\n").unwrap();
        assert_eq!(client, Question::Socks("127.0.0.1:1".parse().unwrap()));
        let default = of_text("state_directory = \"a\"\n").unwrap();
        assert_eq!(default, Question::Socks("127.0.0.1:9150".parse().unwrap()));
        for wrong in [
            "nickname = \"a\"\n",
            "nickname = \"a\"\n[gateway]\nlisten = \"somewhere\"\n",
            "other = 1\n",
            "=",
        ] {
            of_text(wrong).unwrap_err();
        }
    }

    #[test]
    fn an_answer_is_healthy_and_everything_else_is_not() {
        let page = |with| answers(&Question::Page(answering(with), "/metrics"), PATIENCE);
        page(b"HTTP/1.1 200 OK\r\n\r\nobol_links 1\n").unwrap();
        page(b"HTTP/1.1 503 Service Unavailable\r\n\r\n").unwrap_err();
        page(b"HTTP/1.1 403 Forbidden\r\n\r\n 200 ").unwrap_err();
        page(b"HTTP/1.1 200").unwrap_err();
        page(&[b'x'; 1024]).unwrap_err();
        page(b"").unwrap_err();
        let socks = |with| answers(&Question::Socks(answering(with)), PATIENCE);
        socks(b"\x05\x00").unwrap();
        socks(b"\x05\x02").unwrap();
        socks(b"\x05\xff").unwrap_err();
        socks(b"\x04\x00").unwrap_err();
        socks(b"\x05").unwrap_err();
    }

    #[test]
    fn who_listens_everywhere_is_asked_here_and_nobody_is_nobody() {
        let port = answering(b"HTTP/1.1 200 OK\r\n\r\n").port();
        let everywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        answers(&Question::Page(everywhere, "/health"), PATIENCE).unwrap();
        // Bound and let go of: nobody is there.
        let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .unwrap()
            .local_addr()
            .unwrap();
        answers(&Question::Page(nobody, "/health"), PATIENCE).unwrap_err();
        let unknown = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        answers(&Question::Socks(unknown), PATIENCE).unwrap_err();
    }
}
