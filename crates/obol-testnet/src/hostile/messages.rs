//! Relay messages on a circuit, from a client whose first and only hop the relay is.

use super::wire::{Circuit, DATA_MAX, Link, cell, message, relay};
use super::{Case, Cost, case};

/// What a client sends on its circuit.
type Cells = fn(&mut Circuit) -> Vec<Vec<u8>>;

fn on_a_circuit(name: &str, cost: Cost, cells: Cells) -> Case {
    case(format!("message: {name}"), cost, move |address| async move {
        let mut link = Link::open(address).await?;
        let mut circuit = link.circuit().await?;
        let cells = cells(&mut circuit).concat();
        let sent = link.send(&cells).await;
        if cost != Cost::Link {
            sent?;
        }
        if cost == Cost::Nothing {
            // It not only lives: it is of use.
            circuit.fetch(&mut link, 0x7777).await?;
        }
        link.check(cost, circuit.id).await
    })
}

/// A message on the wire, one after the other, of one command.
fn one(circuit: &mut Circuit, command: u8, stream: u16, data: &[u8]) -> Vec<Vec<u8>> {
    vec![circuit.message(command, stream, data)]
}

fn early(circuit: &mut Circuit, command: u8, data: &[u8]) -> Vec<Vec<u8>> {
    vec![circuit.cell(cell::RELAY_EARLY, message(command, 0, data))]
}

/// The body of an EXTEND2: link specifiers, and a CREATE2.
fn extend2(specifiers: &[(u8, &[u8])], kind: u16, skin: &[u8]) -> Vec<u8> {
    let mut body = vec![u8::try_from(specifiers.len()).unwrap_or(255)];
    for (of, specifier) in specifiers {
        body.push(*of);
        body.push(u8::try_from(specifier.len()).unwrap_or(255));
        body.extend_from_slice(specifier);
    }
    body.extend_from_slice(&kind.to_be_bytes());
    body.extend_from_slice(&u16::try_from(skin.len()).unwrap_or(0).to_be_bytes());
    body.extend_from_slice(skin);
    body
}

/// 127.0.0.1, port 1: nobody is there.
const NOWHERE: &[u8] = &[127, 0, 0, 1, 0, 1];

pub(super) fn cases() -> Vec<Case> {
    use Cost::{Circuit as Destroyed, Nothing};
    let mut all = vec![
        on_a_circuit("a length beyond the cell's end", Destroyed, |circuit| {
            let mut body = message(relay::DROP, 0, &[]);
            body[9..11].copy_from_slice(&u16::MAX.to_be_bytes());
            vec![circuit.cell(cell::RELAY, body)]
        }),
        on_a_circuit("a length one beyond the cell's end", Destroyed, |circuit| {
            let mut body = message(relay::DROP, 0, &[]);
            body[9..11].copy_from_slice(&((DATA_MAX + 1) as u16).to_be_bytes());
            vec![circuit.cell(cell::RELAY, body)]
        }),
        on_a_circuit("a command that nobody knows", Nothing, |c| one(c, 250, 0, &[1; 100])),
        on_a_circuit("a command that nobody knows, on a stream", Nothing, |c| {
            one(c, 250, 9, &[1; 100])
        }),
        on_a_circuit("ten thousand DROP", Nothing, |circuit| {
            (0..10_000)
                .map(|_| circuit.message(relay::DROP, 0, &[0; 498]))
                .collect()
        }),
        on_a_circuit("nine RELAY_EARLY", Destroyed, |circuit| {
            (0..9)
                .map(|_| circuit.cell(cell::RELAY_EARLY, message(relay::DROP, 0, &[])))
                .collect()
        }),
        on_a_circuit("eight RELAY_EARLY", Nothing, |circuit| {
            (0..8)
                .map(|_| circuit.cell(cell::RELAY_EARLY, message(relay::DROP, 0, &[])))
                .collect()
        }),
        // Streams.
        on_a_circuit("BEGIN without an end of its target", Nothing, |c| {
            one(c, relay::BEGIN, 1, b"example.com:80")
        }),
        on_a_circuit("BEGIN without anything", Nothing, |c| one(c, relay::BEGIN, 1, b"")),
        on_a_circuit("BEGIN to port 0", Nothing, |c| {
            one(c, relay::BEGIN, 1, b"127.0.0.1:0\0")
        }),
        on_a_circuit("BEGIN to port 99999", Nothing, |c| {
            one(c, relay::BEGIN, 1, b"127.0.0.1:99999\0")
        }),
        on_a_circuit("BEGIN of bytes that are no text", Nothing, |c| {
            one(c, relay::BEGIN, 1, &[0xff; 400])
        }),
        on_a_circuit("BEGIN as if the relay were an open proxy", Nothing, |c| {
            one(c, relay::BEGIN, 1, b"127.0.0.1:80\0")
        }),
        on_a_circuit("RESOLVE without anything", Nothing, |c| one(c, relay::RESOLVE, 1, b"")),
        on_a_circuit("RESOLVE of bytes that are no text", Nothing, |c| {
            one(c, relay::RESOLVE, 1, &[0xfe; 498])
        }),
        on_a_circuit("RESOLVED, which only relays say", Nothing, |c| {
            one(c, relay::RESOLVED, 1, &[4, 4, 1, 2, 3, 4])
        }),
        on_a_circuit("CONNECTED, which only relays say", Nothing, |c| {
            one(c, relay::CONNECTED, 1, b"")
        }),
        on_a_circuit("DATA on no stream", Nothing, |c| one(c, relay::DATA, 1234, &[1; 498])),
        on_a_circuit("two thousand DATA on no stream", Nothing, |circuit| {
            (0..2000)
                .map(|_| circuit.message(relay::DATA, 1234, &[1; 498]))
                .collect()
        }),
        on_a_circuit("END on no stream", Nothing, |c| one(c, relay::END, 1234, &[6])),
        on_a_circuit("END without a reason", Destroyed, |c| {
            vec![c.message(relay::BEGIN_DIR, 1, b""), c.message(relay::END, 1, b"")]
        }),
        on_a_circuit("XOFF and XON of nonsense", Nothing, |c| {
            vec![c.message(relay::XOFF, 1, &[9; 20]), c.message(relay::XON, 1, &[9; 2])]
        }),
        on_a_circuit("SENDME on no stream", Nothing, |c| one(c, relay::SENDME, 1234, b"")),
        on_a_circuit("SENDME of a stream that is owed none", Destroyed, |circuit| {
            let mut cells = vec![circuit.message(relay::BEGIN_DIR, 1, b"")];
            cells.extend((0..20).map(|_| circuit.message(relay::SENDME, 1, b"")));
            cells
        }),
        on_a_circuit("SENDME of a circuit that is owed none", Destroyed, |c| {
            one(c, relay::SENDME, 0, b"")
        }),
        on_a_circuit("SENDME with a wrong tag", Destroyed, |c| {
            one(c, relay::SENDME, 0, &[&[1, 0, 20][..], &[7; 20]].concat())
        }),
        on_a_circuit("SENDME that is cut off", Destroyed, |c| {
            one(c, relay::SENDME, 0, &[1, 0, 20, 1, 2])
        }),
        on_a_circuit("SENDME of an unknown version", Destroyed, |c| {
            one(c, relay::SENDME, 0, &[9, 0, 0])
        }),
        // The directory.
        on_a_circuit("BEGIN_DIR, and bytes that are no HTTP", Nothing, |c| {
            vec![
                c.message(relay::BEGIN_DIR, 1, b""),
                c.message(relay::DATA, 1, &[0xff; 498]),
            ]
        }),
        on_a_circuit("BEGIN_DIR, and a request for nonsense", Nothing, |c| {
            let request = b"GET /tor/../../etc/passwd HTTP/1.0\r\nContent-Length: -1\r\n\r\n";
            vec![c.message(relay::BEGIN_DIR, 1, b""), c.message(relay::DATA, 1, request)]
        }),
        on_a_circuit(
            "BEGIN_DIR, and a request of many fingerprints that nobody has",
            Nothing,
            |c| {
                let mut request = b"GET /tor/server/fp/".to_vec();
                while request.len() < 8000 {
                    request.extend_from_slice(b"0123456789ABCDEF0123456789ABCDEF01234567+");
                }
                request.extend_from_slice(b" HTTP/1.0\r\n\r\n");
                let mut cells = vec![c.message(relay::BEGIN_DIR, 1, b"")];
                cells.extend(request.chunks(DATA_MAX).map(|part| c.message(relay::DATA, 1, part)));
                cells
            },
        ),
        on_a_circuit("BEGIN_DIR, and a head that never ends", Nothing, |c| {
            let mut cells = vec![c.message(relay::BEGIN_DIR, 1, b"")];
            cells.extend((0..300).map(|_| c.message(relay::DATA, 1, &[b'x'; 498])));
            cells
        }),
        on_a_circuit("BEGIN_DIR, and a POST of more than it has", Nothing, |c| {
            let head = b"POST /tor/ HTTP/1.0\r\nContent-Length: 99999999999\r\n\r\n";
            let mut cells = vec![c.message(relay::BEGIN_DIR, 1, b""), c.message(relay::DATA, 1, head)];
            cells.extend((0..300).map(|_| c.message(relay::DATA, 1, &[b'x'; 498])));
            cells
        }),
        on_a_circuit("five hundred BEGIN_DIR that ask for nothing", Nothing, |c| {
            (1..=500)
                .map(|stream| c.message(relay::BEGIN_DIR, stream, b""))
                .collect()
        }),
        on_a_circuit("BEGIN_DIR twice on one stream", Nothing, |c| {
            vec![c.message(relay::BEGIN_DIR, 1, b""), c.message(relay::BEGIN_DIR, 1, b"")]
        }),
        // Extending.
        on_a_circuit("EXTEND2 without anything", Destroyed, |c| early(c, relay::EXTEND2, b"")),
        on_a_circuit("EXTEND2 that promises 255 specifiers", Destroyed, |c| {
            early(c, relay::EXTEND2, &[255, 0, 6])
        }),
        on_a_circuit("EXTEND2 without a specifier", Destroyed, |c| {
            early(c, relay::EXTEND2, &extend2(&[], 2, &[1; 84]))
        }),
        on_a_circuit("EXTEND2 without an identity", Destroyed, |c| {
            early(c, relay::EXTEND2, &extend2(&[(0, NOWHERE)], 2, &[1; 84]))
        }),
        on_a_circuit("EXTEND2 with two identities", Destroyed, |c| {
            early(
                c,
                relay::EXTEND2,
                &extend2(&[(0, NOWHERE), (2, &[1; 20]), (2, &[2; 20])], 2, &[1; 84]),
            )
        }),
        on_a_circuit("EXTEND2 to the identity of nobody", Destroyed, |c| {
            early(c, relay::EXTEND2, &extend2(&[(0, NOWHERE), (2, &[0; 20])], 2, &[1; 84]))
        }),
        on_a_circuit("EXTEND2 to where nobody is", Destroyed, |c| {
            early(c, relay::EXTEND2, &extend2(&[(0, NOWHERE), (2, &[9; 20])], 2, &[1; 84]))
        }),
        on_a_circuit("EXTEND2 with an address of the wrong length", Destroyed, |c| {
            early(
                c,
                relay::EXTEND2,
                &extend2(&[(0, &[1, 2, 3]), (2, &[9; 20])], 2, &[1; 84]),
            )
        }),
        on_a_circuit("EXTEND2 to port 0", Destroyed, |c| {
            early(
                c,
                relay::EXTEND2,
                &extend2(&[(0, &[127, 0, 0, 1, 0, 0]), (2, &[9; 20])], 2, &[1; 84]),
            )
        }),
        on_a_circuit("EXTEND2 to a group of addresses", Destroyed, |c| {
            early(
                c,
                relay::EXTEND2,
                &extend2(&[(0, &[224, 0, 0, 1, 1, 1]), (2, &[9; 20])], 2, &[1; 84]),
            )
        }),
        on_a_circuit("EXTEND2 with a handshake longer than its message", Destroyed, |c| {
            let mut body = extend2(&[(0, NOWHERE), (2, &[9; 20])], 2, &[]);
            let end = body.len();
            body[end - 2..].copy_from_slice(&u16::MAX.to_be_bytes());
            early(c, relay::EXTEND2, &body)
        }),
        on_a_circuit("EXTEND2 in a RELAY cell", Nothing, |c| {
            let body = extend2(&[(0, NOWHERE), (2, &[9; 20])], 2, &[1; 84]);
            one(c, relay::EXTEND2, 0, &body)
        }),
        on_a_circuit("EXTEND, which nobody has used for years", Destroyed, |c| {
            early(c, relay::EXTEND, &[1; 212])
        }),
        on_a_circuit("EXTENDED, which only relays say", Nothing, |c| {
            one(c, relay::EXTENDED, 0, &[1; 148])
        }),
        on_a_circuit("EXTENDED2, which only relays say", Nothing, |c| {
            one(c, relay::EXTENDED2, 0, &[0, 64])
        }),
        on_a_circuit("TRUNCATE where nothing follows", Nothing, |c| {
            one(c, relay::TRUNCATE, 0, &[9; 40])
        }),
        on_a_circuit("TRUNCATED, which only relays say", Nothing, |c| {
            one(c, relay::TRUNCATED, 0, &[9])
        }),
        on_a_circuit("CONFLUX_LINK, which nobody offered", Nothing, |c| {
            one(c, relay::CONFLUX_LINK, 0, &[1; 50])
        }),
        on_a_circuit("PADDING_NEGOTIATE for machines, which nobody offered", Nothing, |c| {
            one(c, relay::PADDING_NEGOTIATE, 0, &[0, 2, 1])
        }),
        // Onion services.
        on_a_circuit("ESTABLISH_INTRO without anything", Destroyed, |c| {
            one(c, relay::ESTABLISH_INTRO, 0, b"")
        }),
        on_a_circuit("ESTABLISH_INTRO of garbage", Destroyed, |c| {
            one(c, relay::ESTABLISH_INTRO, 0, &[2; 300])
        }),
        on_a_circuit("ESTABLISH_INTRO with a signature of nobody", Destroyed, |c| {
            let mut body = vec![2, 0, 32];
            body.extend_from_slice(&[7; 32]);
            body.push(0);
            body.extend_from_slice(&[8; 32]);
            body.extend_from_slice(&[0, 64]);
            body.extend_from_slice(&[9; 64]);
            one(c, relay::ESTABLISH_INTRO, 0, &body)
        }),
        on_a_circuit("INTRODUCE1 without anything", Destroyed, |c| {
            one(c, relay::INTRODUCE1, 0, b"")
        }),
        on_a_circuit("INTRODUCE1 of garbage", Destroyed, |c| {
            one(c, relay::INTRODUCE1, 0, &[3; 400])
        }),
        on_a_circuit("INTRODUCE2, which only relays say", Nothing, |c| {
            one(c, relay::INTRODUCE2, 0, &[3; 400])
        }),
        on_a_circuit("INTRO_ESTABLISHED, which only relays say", Nothing, |c| {
            one(c, relay::INTRO_ESTABLISHED, 0, &[0])
        }),
        on_a_circuit("ESTABLISH_RENDEZVOUS with a short cookie", Destroyed, |c| {
            one(c, relay::ESTABLISH_RENDEZVOUS, 0, &[5; 19])
        }),
        on_a_circuit("ESTABLISH_RENDEZVOUS twice", Destroyed, |c| {
            vec![
                c.message(relay::ESTABLISH_RENDEZVOUS, 0, &[5; 20]),
                c.message(relay::ESTABLISH_RENDEZVOUS, 0, &[6; 20]),
            ]
        }),
        on_a_circuit("RENDEZVOUS1 with a cookie that nobody has", Destroyed, |c| {
            one(c, relay::RENDEZVOUS1, 0, &[4; 84])
        }),
        on_a_circuit("RENDEZVOUS1 without anything", Destroyed, |c| {
            one(c, relay::RENDEZVOUS1, 0, b"")
        }),
        on_a_circuit("RENDEZVOUS2, which only relays say", Nothing, |c| {
            one(c, relay::RENDEZVOUS2, 0, &[4; 64])
        }),
        // Payments.
        on_a_circuit("an answer to a client, from a client", Nothing, |c| {
            one(c, relay::TO_ORIGIN, 0, &[1; 100])
        }),
        on_a_circuit("a payment message on a stream", Destroyed, |c| {
            one(c, relay::TO_NODE, 5, &[1; 100])
        }),
    ];
    // A relay that is not paid drops them; one that is ends the circuit, since no honest client sends such.
    all.extend(
        [
            ("a payment message without anything in it", &[][..]),
            ("a payment message of an unknown kind", &[0xff; 300][..]),
            (
                "a payment message of garbage, as long as there can be",
                &[1; DATA_MAX][..],
            ),
            ("a payment message that is cut off", &[2, 0][..]),
        ]
        .map(|(name, body)| paid_or_not(name, body)),
    );
    all
}

/// A payment message that says nothing: a relay that is paid ends the circuit, any other takes no notice. Both are right, and
/// nothing more may happen.
fn paid_or_not(name: &str, body: &'static [u8]) -> Case {
    case(format!("message: {name}"), Cost::Circuit, move |address| async move {
        let mut link = Link::open(address).await?;
        let mut circuit = link.circuit().await?;
        let cells = one(&mut circuit, relay::TO_NODE, 0, body).concat();
        link.send(&cells).await?;
        // Either the page comes, or the circuit is gone.
        let _ = circuit.fetch(&mut link, 1).await;
        link.lives(None).await
    })
}
