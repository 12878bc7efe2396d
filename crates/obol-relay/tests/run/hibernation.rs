//! What a relay does when it has carried all that it may.

use std::time::{SystemTime, UNIX_EPOCH};

use obol_onion::crypto::tor1::{BODY_LEN, ClientLayers};
use obol_onion::handshake::fast;
use obol_relay::directory::http::{self, Request};

use super::*;

const CELL: u64 = 514;
const MAX: u64 = 64 << 20;
const RELAY: u8 = 3;
/// The relay message that is thrown away where it arrives.
const DROP: u8 = 10;
const HIBERNATING: u8 = 4;

/// A circuit of one hop that can be filled.
struct Circuit {
    link: LinkStream,
    layers: ClientLayers,
    id: u32,
}

impl Circuit {
    async fn new(relay: &RunningRelay) -> Circuit {
        let mut link = link(relay).await;
        let id = 0x8000_0001;
        let (client, request) = fast::Client::start([5; 20]);
        let mut body = [0; BODY_LEN];
        body[..request.len()].copy_from_slice(&request);
        write(&mut link, id, CREATE_FAST, &body).await;
        let (command, reply) = read(&mut link, id).await;
        assert_eq!(command, CREATED_FAST);
        let mut layers = ClientLayers::new();
        layers.push(&client.finish(&reply[..fast::REPLY_LEN]).expect("our keys"));
        Circuit { link, layers, id }
    }

    /// Sends so many cells, which the relay carries to itself.
    async fn fill(&mut self, cells: u64) {
        for _ in 0..cells {
            let mut body = [0; BODY_LEN];
            body[0] = DROP;
            self.layers.originate(0, &mut body).expect("one hop");
            write(&mut self.link, self.id, RELAY, &body).await;
        }
    }
}

async fn write(link: &mut LinkStream, circuit: u32, command: u8, body: &[u8; BODY_LEN]) {
    let cell = [&circuit.to_be_bytes()[..], &[command], body].concat();
    // The relay may have closed the link.
    let _ = link.write_all(&cell).await;
    let _ = link.flush().await;
}

/// The next cell of this circuit.
async fn read(link: &mut LinkStream, circuit: u32) -> (u8, Vec<u8>) {
    loop {
        let mut cell = [0; CELL as usize];
        link.read_exact(&mut cell).await.expect("a cell");
        if cell[..4] == circuit.to_be_bytes() {
            return (cell[4], cell[5..].to_vec());
        }
    }
}

/// Whether the relay's own descriptor, as it serves it, says that it hibernates.
async fn hibernates(relay: &RunningRelay) -> bool {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let limits = http::Limits {
        head: 10_000,
        body: 1 << 20,
        patience: Duration::from_secs(120),
    };
    let request = Request::get("/tor/server/authority");
    let cache = relay.directory().cache();
    let (answer, ()) = tokio::join!(
        http::exchange(&mut client, "relay", &request, &limits),
        cache.serve(server, None)
    );
    let text = String::from_utf8(answer.expect("answered").concat()).expect("text");
    text.contains("\nhibernating 1\n")
}

async fn until_it_hibernates(relay: &RunningRelay, hibernating: bool) {
    let looking = async {
        while hibernates(relay).await != hibernating {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), looking)
        .await
        .expect("the descriptor follows");
}

/// Whether a connection is accepted for more than the moment that it takes to close it.
async fn is_let_in(relay: &RunningRelay) -> bool {
    let mut tcp = tokio::net::TcpStream::connect(relay.addresses()[0])
        .await
        .expect("connects");
    let closed = tokio::time::timeout(Duration::from_secs(2), tcp.read(&mut [0; 1])).await;
    closed.is_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_has_carried_what_it_may_refuses_then_closes_and_a_higher_limit_wakes_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let (ledger, server) = ledger().await;
    let mut config = config(directory.path(), ledger.passphrase(), &server.url());
    config.accounting.max = Some(Size(MAX));
    config.accounting.start = "month 1 00:00".parse().expect("a beginning");
    // All but some cells of 95 % were carried earlier in this period.
    let drowsy = MAX / 20 * 19;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_secs();
    let since = config.accounting.start.period(now).0;
    let record = format!("{{\"since\": {since}, \"carried\": {}}}", drowsy - 10 * CELL);
    std::fs::write(directory.path().join("accounting.json"), record).expect("written");

    let relay = run(config.clone()).await.expect("runs");
    let mut circuit = Circuit::new(&relay).await;
    until_it_hibernates(&relay, false).await;
    circuit.fill(20).await;
    until_it_hibernates(&relay, true).await;
    assert!(!is_let_in(&relay).await);
    let late = 0x8000_0002;
    send(&mut circuit.link, late, CREATE_FAST).await;
    assert_eq!(next(&mut circuit.link, late).await, (DESTROY, HIBERNATING));
    assert_eq!(
        relay.engine().counters().circuits.iter().sum::<u64>(),
        1,
        "the old one goes on"
    );

    circuit.fill((MAX - drowsy) / CELL).await;
    // Until the link is closed.
    let mut rest = Vec::new();
    let closing = circuit.link.read_to_end(&mut rest);
    let _ = tokio::time::timeout(Duration::from_secs(120), closing)
        .await
        .expect("the link is closed");
    assert!(!is_let_in(&relay).await);

    // A restart is no way around it.
    relay.shutdown().await;
    let relay = run(config.clone()).await.expect("runs");
    assert!(!is_let_in(&relay).await);
    until_it_hibernates(&relay, true).await;

    config.accounting.max = Some(Size(2 * MAX));
    relay.reload(config).expect("reloads");
    until_it_hibernates(&relay, false).await;
    Circuit::new(&relay).await.fill(1).await;
    relay.shutdown().await;
    server.shutdown().await;
}
