use super::*;

fn from(address: &str) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), 1234)
}

fn door(limits: ConnectionLimits) -> Arc<Door> {
    let door = Arc::new(Door::default());
    door.set_limits(limits);
    door
}

fn limited(concurrent: u32, rate: u32, burst: u32) -> ConnectionLimits {
    ConnectionLimits {
        enabled: true,
        concurrent,
        rate,
        burst,
        penalty: Duration::from_secs(100),
    }
}

#[test]
fn parameters_have_c_tors_defaults_and_limits() {
    let defaults = ConnectionLimits::default();
    let expected = ConnectionLimits {
        enabled: false,
        concurrent: 100,
        rate: 20,
        burst: 40,
        penalty: Duration::from_secs(86_400),
    };
    assert_eq!(defaults, expected);
    let absurd = ConnectionLimits::new(|name, _| if name == "DoSConnectionEnabled" { 1 } else { i32::MIN });
    assert_eq!(
        (absurd.enabled, absurd.concurrent, absurd.rate, absurd.burst),
        (false, 1, 1, 1)
    );
    assert_eq!(absurd.penalty, Duration::from_secs(10));
    let only_on = ConnectionLimits::new(|name, default| if name == "DoSConnectionEnabled" { 1 } else { default });
    assert!(only_on.enabled);
}

#[test]
fn one_address_holds_a_part_of_the_handshakes_and_others_still_come_in() {
    let door = door(ConnectionLimits::default());
    let now = Instant::now();
    let mut held = Vec::new();
    let refused = loop {
        match door.knock(from("192.0.2.1"), now) {
            Ok(knock) => held.push(knock),
            Err(refused) => break refused,
        }
    };
    assert_eq!((refused, held.len()), (Refused::Handshakes, HANDSHAKES_OF_ONE as usize));
    assert!(door.knock(from("192.0.2.2"), now).is_ok());
    // What is over is given back.
    held.pop();
    assert!(door.knock(from("192.0.2.1"), now).is_ok());
}

#[test]
fn when_all_handshakes_are_in_use_the_greediest_address_loses_its_oldest() {
    let door = door(ConnectionLimits::default());
    let now = Instant::now();
    let greedy: Vec<Knock> = (0..HANDSHAKES_OF_ONE)
        .map(|_| door.knock(from("192.0.2.1"), now).unwrap())
        .collect();
    let others: Vec<Knock> = (HANDSHAKES_OF_ONE as usize..HANDSHAKES)
        .map(|n| {
            let address = SocketAddr::from(([198, 51, (n >> 8) as u8, n as u8], 1));
            door.knock(address, now).unwrap()
        })
        .collect();
    assert!(greedy.iter().chain(&others).all(|knock| !knock.cut.is_cancelled()));
    let late = door.knock(from("203.0.113.9"), now).unwrap();
    assert!(greedy[0].cut.is_cancelled());
    assert!(greedy[1..].iter().chain(&others).all(|knock| !knock.cut.is_cancelled()));
    assert_eq!(
        (door.counters().cut, door.counters().handshakes),
        (1, HANDSHAKES as u64)
    );
    // Those that gave way are not counted down twice.
    drop((greedy, others, late));
    assert_eq!(door.counters().handshakes, 0);
    assert!(door.lock().addresses.is_empty());
}

#[test]
fn an_ipv6_network_of_64_bits_is_one_address_and_a_mapped_ipv4_address_is_ipv4() {
    let door = door(limited(1, 1000, 1000));
    let now = Instant::now();
    let _open = door.knock(from("2001:db8::1"), now).unwrap().open(now);
    assert_eq!(
        door.knock(from("2001:db8::ffff:1"), now).unwrap_err(),
        Refused::Concurrent
    );
    assert!(door.knock(from("2001:db8:0:1::1"), now).is_ok());
    let _mapped = door.knock(from("::ffff:192.0.2.1"), now).unwrap().open(now);
    assert_eq!(door.knock(from("192.0.2.1"), now).unwrap_err(), Refused::Concurrent);
}

#[test]
fn an_address_with_too_many_client_links_waits_until_one_is_closed() {
    let door = door(limited(3, 1000, 1000));
    let now = Instant::now();
    let mut open: Vec<Visit> = (0..3)
        .map(|_| door.knock(from("192.0.2.1"), now).unwrap().open(now))
        .collect();
    assert_eq!(door.knock(from("192.0.2.1"), now).unwrap_err(), Refused::Concurrent);
    open.pop();
    assert!(door.knock(from("192.0.2.1"), now).is_ok());
    assert_eq!(door.counters().refused_concurrent, 1);
}

#[test]
fn an_address_that_opens_links_too_fast_is_turned_away_for_its_penalty_and_no_longer() {
    let door = door(limited(1000, 2, 5));
    let now = Instant::now();
    for _ in 0..5 {
        drop(door.knock(from("192.0.2.1"), now).unwrap().open(now));
    }
    assert_eq!(door.knock(from("192.0.2.1"), now).unwrap_err(), Refused::Rate);
    assert_eq!(
        door.knock(from("192.0.2.1"), now + Duration::from_secs(99))
            .unwrap_err(),
        Refused::Rate
    );
    assert!(door.knock(from("192.0.2.2"), now).is_ok());
    assert_eq!((door.counters().marked, door.counters().refused_rate), (1, 2));
    let later = now + Duration::from_secs(150);
    assert!(door.knock(from("192.0.2.1"), later).is_ok());
}

#[test]
fn links_within_the_rate_are_never_too_many() {
    let door = door(limited(1000, 2, 5));
    let mut now = Instant::now();
    for _ in 0..1000 {
        drop(door.knock(from("192.0.2.1"), now).unwrap().open(now));
        now += Duration::from_millis(500);
    }
    assert_eq!(door.counters().marked, 0);
}

#[test]
fn without_the_consensus_nobody_is_turned_away_for_links_and_switching_on_counts_those_that_are_open() {
    let door = door(ConnectionLimits {
        enabled: false,
        ..limited(2, 1, 1)
    });
    let now = Instant::now();
    let _open: Vec<Visit> = (0..10)
        .map(|_| door.knock(from("192.0.2.1"), now).unwrap().open(now))
        .collect();
    assert!(door.knock(from("192.0.2.1"), now).is_ok());
    door.set_limits(limited(2, 1, 1));
    assert_eq!(door.knock(from("192.0.2.1"), now).unwrap_err(), Refused::Concurrent);
}

#[test]
fn addresses_are_forgotten_and_never_too_many() {
    let door = door(limited(10, 1, 2));
    let now = Instant::now();
    let address = |n: usize| SocketAddr::from(([10, (n >> 16) as u8, (n >> 8) as u8, n as u8], 1));
    for n in 0..ADDRESSES + 1000 {
        drop(door.knock(address(n), now).unwrap().open(now));
    }
    assert_eq!(door.lock().addresses.len(), ADDRESSES);
    // Whoever is not remembered is served.
    assert!(door.knock(address(ADDRESSES + 5000), now).is_ok());
    door.sweep(now + Duration::from_secs(2));
    assert!(door.lock().addresses.is_empty() && door.lock().addresses.capacity() < ADDRESSES);
}
