//! Cells on an open link, from a client.

use super::wire::{self, Link, cell, fixed, netinfo, variable};
use super::{Case, Cost, case};

/// A circuit id that the relay's side gives out, not ours.
const NOT_OURS: u32 = 5;
/// One that is not in use.
const UNUSED: u32 = 0x8000_7777;

/// Cells on a new link. `circuit`: the id that a DESTROY is for.
fn on_a_link(name: &str, cost: Cost, circuit: u32, cells: Vec<Vec<u8>>) -> Case {
    case(format!("cell: {name}"), cost, move |relay| {
        let cells = cells.concat();
        async move {
            let mut link = Link::open(relay).await?;
            // The relay may close it while we still send.
            let sent = link.send(&cells).await;
            if cost != Cost::Link {
                sent?;
            }
            link.check(cost, circuit).await
        }
    })
}

/// Cells that concern a circuit that is open; they get its id.
fn on_a_circuit(name: &str, cost: Cost, cells: impl Fn(u32) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Case {
    case(format!("cell: {name}"), cost, move |relay| {
        let cells = |id| cells(id).concat();
        let id = 0x8000_0001;
        let cells = cells(id);
        async move {
            let mut link = Link::open(relay).await?;
            let mut circuit = link.circuit_with(id).await?;
            let sent = link.send(&cells).await;
            if cost != Cost::Link {
                sent?;
            }
            link.check(cost, id).await?;
            if cost == Cost::Nothing {
                circuit.fetch(&mut link, 99).await?;
            }
            Ok(())
        }
    })
}

/// The body of a CREATE2.
fn create2(kind: u16, len: u16, skin: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes(), &len.to_be_bytes(), skin].concat()
}

pub(super) fn cases() -> Vec<Case> {
    use Cost::{Circuit, Link, Nothing};
    let fast = |id| fixed(id, cell::CREATE_FAST, &[1; 20]);
    let create = |body: Vec<u8>| vec![fixed(UNUSED, cell::CREATE2, &body)];
    vec![
        on_a_link("CREATE_FAST on circuit 0", Nothing, 0, vec![fast(0)]),
        on_a_link(
            "CREATE2 on circuit 0",
            Nothing,
            0,
            vec![fixed(0, cell::CREATE2, &create2(2, 84, &[1; 84]))],
        ),
        on_a_link(
            "CREATE_FAST with an id of the other half",
            Circuit,
            NOT_OURS,
            vec![fast(NOT_OURS)],
        ),
        on_a_link(
            "CREATE, which nobody has used for years",
            Circuit,
            UNUSED,
            vec![fixed(UNUSED, cell::CREATE, &[1; 186])],
        ),
        on_a_link(
            "CREATE2 of type 0 (TAP)",
            Circuit,
            UNUSED,
            create(create2(0, 186, &[1; 186])),
        ),
        on_a_link("CREATE2 of type 1", Circuit, UNUSED, create(create2(1, 84, &[1; 84]))),
        on_a_link(
            "CREATE2 of type 65535",
            Circuit,
            UNUSED,
            create(create2(65_535, 84, &[1; 84])),
        ),
        on_a_link(
            "CREATE2 longer than its cell",
            Circuit,
            UNUSED,
            create(create2(2, 65_535, &[1; 400])),
        ),
        on_a_link("CREATE2 of no length", Circuit, UNUSED, create(create2(2, 0, &[]))),
        on_a_link(
            "CREATE2 of type ntor and the wrong length",
            Circuit,
            UNUSED,
            create(create2(2, 83, &[1; 83])),
        ),
        on_a_link(
            "CREATE2 of type ntor for nobody's key",
            Circuit,
            UNUSED,
            create(create2(2, 84, &[1; 84])),
        ),
        on_a_link(
            "CREATE2 of type ntor with a point of low order",
            Circuit,
            UNUSED,
            create(create2(2, 84, &[0; 84])),
        ),
        on_a_link(
            "CREATE2 of type ntor-v3, too short",
            Circuit,
            UNUSED,
            create(create2(3, 20, &[1; 20])),
        ),
        on_a_link(
            "CREATE2 of type ntor-v3 for nobody's key",
            Circuit,
            UNUSED,
            create(create2(3, 400, &[1; 400])),
        ),
        on_a_link("a thousand CREATE2 for nobody's key", Nothing, 0, {
            let id = |n: u32| 0x8001_0000 + n;
            (0..1000)
                .map(|n| fixed(id(n), cell::CREATE2, &create2(2, 84, &[1; 84])))
                .collect()
        }),
        on_a_circuit("CREATE_FAST on a circuit that is open", Nothing, move |id| {
            vec![fast(id)]
        }),
        on_a_circuit("CREATE2 on a circuit that is open", Nothing, |id| {
            vec![fixed(id, cell::CREATE2, &create2(2, 84, &[1; 84]))]
        }),
        on_a_circuit("CREATED2 on a circuit that was made long ago", Circuit, |id| {
            vec![fixed(id, cell::CREATED2, &[0, 64])]
        }),
        on_a_circuit("DESTROY of a circuit twice", Nothing, |_| {
            vec![fixed(UNUSED, cell::DESTROY, &[1]), fixed(UNUSED, cell::DESTROY, &[255])]
        }),
        on_a_circuit("a RELAY cell of garbage", Circuit, |id| {
            vec![fixed(id, cell::RELAY, &[0x5a; 509])]
        }),
        on_a_circuit(
            "RELAY cells after the one that destroyed their circuit",
            Circuit,
            |id| vec![fixed(id, cell::RELAY, &[0x5a; 509]); 100],
        ),
        on_a_circuit("a RELAY cell of zeros", Circuit, |id| vec![fixed(id, cell::RELAY, &[])]),
        on_a_circuit("more RELAY_EARLY cells than there may be", Circuit, |id| {
            vec![fixed(id, cell::RELAY_EARLY, &[0x5a; 509]); 20]
        }),
        on_a_link(
            "CREATED without a circuit",
            Nothing,
            0,
            vec![fixed(UNUSED, cell::CREATED, &[1; 148])],
        ),
        on_a_link(
            "CREATED_FAST without a circuit",
            Nothing,
            0,
            vec![fixed(UNUSED, cell::CREATED_FAST, &[1; 40])],
        ),
        on_a_link(
            "CREATED2 without a circuit",
            Nothing,
            0,
            vec![fixed(UNUSED, cell::CREATED2, &[0, 64])],
        ),
        on_a_link(
            "CREATED2 on circuit 0",
            Nothing,
            0,
            vec![fixed(0, cell::CREATED2, &[0, 64])],
        ),
        on_a_link(
            "RELAY without a circuit",
            Nothing,
            0,
            vec![fixed(UNUSED, cell::RELAY, &[1; 509]); 50],
        ),
        on_a_link("RELAY on circuit 0", Nothing, 0, vec![fixed(0, cell::RELAY, &[1; 509])]),
        on_a_link(
            "RELAY_EARLY without a circuit",
            Nothing,
            0,
            vec![fixed(UNUSED, cell::RELAY_EARLY, &[1; 509]); 50],
        ),
        on_a_link(
            "DESTROY without a circuit",
            Nothing,
            0,
            vec![fixed(UNUSED, cell::DESTROY, &[9])],
        ),
        on_a_link("DESTROY of circuit 0", Nothing, 0, vec![fixed(0, cell::DESTROY, &[9])]),
        on_a_link("a second NETINFO", Nothing, 0, vec![netinfo()]),
        on_a_link(
            "VERSIONS on an open link",
            Nothing,
            0,
            vec![variable(0, cell::VERSIONS, &[0, 4, 0, 5])],
        ),
        on_a_link(
            "CERTS on an open link",
            Nothing,
            0,
            vec![variable(0, cell::CERTS, &[0])],
        ),
        on_a_link(
            "AUTHENTICATE on an open link",
            Nothing,
            0,
            vec![variable(0, cell::AUTHENTICATE, &[0; 356])],
        ),
        on_a_link(
            "AUTHORIZE on an open link",
            Nothing,
            0,
            vec![variable(0, cell::AUTHORIZE, &[0; 10])],
        ),
        on_a_link(
            "a fixed cell that nobody knows",
            Nothing,
            0,
            vec![fixed(UNUSED, 99, &[1; 509])],
        ),
        on_a_link(
            "a variable cell that nobody knows",
            Nothing,
            0,
            vec![variable(0, 250, &[1; 600])],
        ),
        on_a_link("a variable cell of no length", Nothing, 0, vec![variable(0, 250, &[])]),
        on_a_link(
            "VPADDING of 65535 bytes",
            Nothing,
            0,
            vec![variable(0, cell::VPADDING, &[1; 65_535])],
        ),
        on_a_link(
            "a variable cell that nobody knows, of 65535 bytes",
            Nothing,
            0,
            vec![variable(0, 250, &[1; 65_535])],
        ),
        on_a_link(
            "ten thousand PADDING cells",
            Nothing,
            0,
            vec![fixed(0, cell::PADDING, &[]); 10_000],
        ),
        on_a_link(
            "a thousand VPADDING cells",
            Nothing,
            0,
            vec![variable(0, cell::VPADDING, &[1; 300]); 1000],
        ),
        on_a_link(
            "PADDING_NEGOTIATE of an unknown version",
            Nothing,
            0,
            vec![fixed(0, cell::PADDING_NEGOTIATE, &[9, 9, 255, 255])],
        ),
        on_a_link("PADDING_NEGOTIATE with times the wrong way round", Nothing, 0, {
            vec![fixed(0, cell::PADDING_NEGOTIATE, &[0, 2, 255, 255, 0, 1])]
        }),
        on_a_link("a thousand PADDING_NEGOTIATE", Nothing, 0, {
            (0..1000u16)
                .map(|n| fixed(0, cell::PADDING_NEGOTIATE, &[0, 1 + (n % 2) as u8]))
                .collect()
        }),
        on_a_link(
            "a payment message of a client",
            Nothing,
            0,
            vec![variable(0, cell::LINK_PAYMENT, &[1; 64])],
        ),
        on_a_link(
            "a payment message without anything in it",
            Nothing,
            0,
            vec![variable(0, cell::LINK_PAYMENT, &[])],
        ),
        on_a_link(
            "a payment message of 65535 bytes",
            Link,
            0,
            vec![variable(0, cell::LINK_PAYMENT, &[1; 65_535])],
        ),
        case("cell: half of one, and the end", Link, |relay| async move {
            let mut link = wire::Link::open(relay).await?;
            link.send(&fixed(UNUSED, cell::RELAY, &[])[..100]).await?;
            drop(link);
            Ok(())
        }),
        case(
            "cell: a thousand circuits that nobody uses",
            Nothing,
            |relay| async move {
                let mut link = wire::Link::open(relay).await?;
                let mut cells = Vec::new();
                for _ in 0..1000 {
                    cells.extend(fixed(link.fresh(), cell::CREATE_FAST, &[3; 20]));
                }
                link.send(&cells).await?;
                link.lives(None).await
            },
        ),
    ]
}
