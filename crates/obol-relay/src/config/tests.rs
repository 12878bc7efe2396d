//! node.toml is held against the types, and each rule against a value that breaks it.

use super::*;
use std::collections::BTreeSet;

const NODE_TOML: &str = include_str!("../../../../node.toml");

/// node.toml with its optional keys ("#key = value") switched on.
fn with_optional_keys() -> String {
    let lines = NODE_TOML.lines().map(|line| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase()) && rest.contains(" = ") => rest,
        Some(section) if section.starts_with("[[") => section,
        _ => line,
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    // Two witnesses need two servers.
    text.replace("urls = [", "urls = [\"https://horizon.example\", ")
}

fn keys(value: &serde_json::Value, prefix: &str, out: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::Object(map) => {
            for (key, value) in map {
                let path = if prefix.is_empty() {
                    key.clone()
                } else {
                    format!("{prefix}.{key}")
                };
                out.insert(path.clone());
                keys(value, &path, out);
            }
        }
        serde_json::Value::Array(list) => list.iter().for_each(|value| keys(value, prefix, out)),
        _ => {}
    }
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("/etc/obol/node.toml"))
}

/// The part of node.toml that has no defaults.
const REQUIRED: &str = r#"
nickname = "ObolRelay"
data_directory = "obol-relay"
[or]
listen = "127.0.0.1:9001"
[[directory.authorities]]
name = "example"
address = "192.0.2.1:9030"
v3_identity = "0000000000000000000000000000000000000000"
[payments]
price_per_64_kib = 100
[payments.ledger]
network_passphrase = "Test SDF Network ; September 2015"
asset = "OBOL:GAAQEAYEAUDAOCAJBIFQYDIOB4IBCEQTCQKRMFYYDENBWHA5DYPSABOV"
urls = ["https://horizon-testnet.stellar.org"]
"#;

#[test]
fn node_toml_names_every_key_of_the_types() {
    let text = with_optional_keys();
    let config = parse(&text).expect("node.toml with its optional keys is a configuration");
    let mut of_types = BTreeSet::new();
    keys(&serde_json::to_value(&config).expect("serialises"), "", &mut of_types);
    let table: toml::Table = toml::from_str(&text).expect("TOML");
    let mut of_file = BTreeSet::new();
    keys(&serde_json::to_value(table).expect("serialises"), "", &mut of_file);
    // JSON writes an absent optional key as null, so none can hide.
    assert_eq!(of_types, of_file);
}

#[test]
fn node_toml_shows_the_defaults() {
    let shown = parse(&NODE_TOML.replace("#advertise", "advertise")).expect("node.toml is a configuration");
    let mut least = parse(REQUIRED).expect("the required keys are enough");
    least.or = shown.or.clone();
    assert_eq!(shown, least);
    assert!(!shown.or.allow_private_addresses);
}

#[test]
fn what_is_written_is_read_back_as_it_was() {
    let config = parse(&with_optional_keys()).expect("a configuration");
    let again = parse(&config.to_toml().expect("TOML")).expect("reads back");
    assert_eq!(config, again);
}

#[test]
fn the_data_directory_is_relative_to_the_file_and_other_paths_to_the_data_directory() {
    let config = parse(REQUIRED).expect("a configuration");
    assert_eq!(config.data_directory, Path::new("/etc/obol/obol-relay"));
    assert_eq!(
        config.path(Path::new("payments.sqlite")),
        Path::new("/etc/obol/obol-relay/payments.sqlite")
    );
    assert_eq!(config.path(Path::new("/var/x")), Path::new("/var/x"));
}

#[test]
fn an_unknown_key_is_an_error_that_names_it() {
    let text = REQUIRED.replace("price_per_64_kib", "price_per_mib");
    let error = parse(&text).expect_err("unknown").to_string();
    assert!(
        error.contains("price_per_mib") && error.contains("price_per_64_kib"),
        "{error}"
    );
}

#[test]
fn every_bad_value_gets_an_error_with_its_key_and_an_advice() {
    let cases = [
        ("nickname = \"ObolRelay\"", "nickname = \"obol relay\"", "nickname"),
        (
            "nickname = \"ObolRelay\"",
            "nickname = \"ObolRelay\"\ncontact = \"a\\nb\"",
            "contact",
        ),
        ("127.0.0.1:9001", "0.0.0.0:9001", "or.advertise"),
        ("127.0.0.1:9001", "[::1]:9001", "or.advertise"),
        (
            "\"127.0.0.1:9001\"",
            "\"127.0.0.1:9001\"\nipv6_listen = \"[::]:9001\"",
            "or.ipv6_advertise",
        ),
        (
            "\"127.0.0.1:9001\"",
            "\"127.0.0.1:9001\"\nipv6_advertise = \"[2001:db8::1]:9001\"",
            "or.ipv6_listen",
        ),
        (
            "\"127.0.0.1:9001\"",
            "\"127.0.0.1:9001\"\nipv6_listen = \"[::]:0\"\nipv6_advertise = \"[2001:db8::1]:9001\"",
            "or.ipv6_listen",
        ),
        (
            "[payments.ledger]",
            "[family]\nmembers = [\"nobody\"]\n[payments.ledger]",
            "members",
        ),
        ("price_per_64_kib = 100", "price_per_64_kib = 300", "price_per_64_kib"),
        ("price_per_64_kib = 100", "price_per_64_kib = 0", "price_per_64_kib"),
        ("price_per_64_kib = 100", "price_per_64_kib = -1", "price_per_64_kib"),
        (
            "price_per_64_kib = 100",
            "price_per_64_kib = 100\nforward_ppm = 7",
            "forward_ppm",
        ),
        (
            "price_per_64_kib = 100",
            "price_per_64_kib = 100\nforward_ceiling = 2500",
            "forward_ceiling",
        ),
        (
            "price_per_64_kib = 100",
            "price_per_64_kib = 100\nlargest_step = \"96 KiB\"",
            "largest_step",
        ),
        (
            "urls = [\"https://horizon-testnet.stellar.org\"]",
            "urls = []",
            "payments.ledger.urls",
        ),
        ("https://", "ftp://", "payments.ledger.urls"),
        (
            "[payments.ledger]",
            "[payments.ledger]\nhighest_fee = 100",
            "payments.ledger.highest_fee",
        ),
        (
            "[payments.ledger]",
            "[payments.ledger]\npoll = \"0s\"",
            "payments.ledger.poll",
        ),
        (
            "[payments.ledger]",
            "[payments.ledger]\ntwo_witnesses_above = \"5\"",
            "two_witnesses_above",
        ),
        (
            "[payments.ledger]",
            "[payments.accounts]\npayees = []\n[payments.ledger]",
            "payments.accounts.payees",
        ),
        (
            "[payments.ledger]",
            "[exit]\npolicy = [\"permit *:*\"]\n[payments.ledger]",
            "exit.policy",
        ),
        (
            "[payments.ledger]",
            "[bandwidth]\nrate = 100\n[payments.ledger]",
            "bandwidth.rate",
        ),
        (
            "[payments.ledger]",
            "[bandwidth]\nunpaid = \"capped\"\nunpaid_cap = 1\n[payments.ledger]",
            "bandwidth.unpaid_cap",
        ),
        (
            "[payments.ledger]",
            "[bandwidth]\ndirectory_per_address = 1\n[payments.ledger]",
            "bandwidth.directory_per_address",
        ),
        (
            "[payments.ledger]",
            "[bandwidth]\nrate = \"1 MiB\"\nburst = \"1 KiB\"\n[payments.ledger]",
            "bandwidth.burst",
        ),
        (
            "[payments.ledger]",
            "[accounting]\nmax = 1\n[payments.ledger]",
            "accounting.max",
        ),
        (
            "[payments.ledger]",
            "[accounting]\nstart = \"year 1\"\n[payments.ledger]",
            "start",
        ),
        (
            "[payments.ledger]",
            "[defence]\nconnection_rate = 0\n[payments.ledger]",
            "defence.connection_rate",
        ),
        (
            "[payments.ledger]",
            "[defence]\ncircuit_penalty = \"1s\"\n[payments.ledger]",
            "defence.circuit_penalty",
        ),
        (
            "[payments.ledger]",
            "[defence]\ncircuit_wait = \"10us\"\n[payments.ledger]",
            "defence.circuit_wait",
        ),
        (
            "nickname = \"ObolRelay\"",
            "nickname = \"ObolRelay\"\nshutdown_wait = \"2days\"",
            "shutdown_wait",
        ),
        (
            "[payments.ledger]",
            "[memory]\ncells = \"1 KiB\"\n[payments.ledger]",
            "memory.cells",
        ),
        (
            "[payments.ledger]",
            "[memory]\nonion_descriptors = \"1 KiB\"\n[payments.ledger]",
            "memory.onion_descriptors",
        ),
        (
            "[payments.ledger]",
            "[gateway]\nlisten = \"0.0.0.0:80\"\n[payments.ledger]",
            "gateway.listen",
        ),
    ];
    let error = parse(&REQUIRED.replace("price_per", "journal_limit = 1000\nprice_per")).expect_err("small");
    assert!(error.to_string().contains("payments.journal_limit"), "{error}");
    let of_escrows = [
        ("margin = \"4h\"", "payments.escrows.shortest_life"),
        ("longest_life = \"5h\"", "payments.escrows.longest_life"),
        ("min_deposit = 0", "payments.escrows.min_deposit"),
        ("new_per_minute = 0", "payments.escrows.new_per_minute"),
    ];
    for (line, key) in of_escrows {
        let error = parse(&format!("{REQUIRED}[payments.escrows]\n{line}"))
            .expect_err(line)
            .to_string();
        assert!(error.contains(key), "{line}: {error}");
    }
    let relay = |peer: &str, account: &str| format!("[[payments.trust]]\npeer = \"{peer}\"\naccount = \"{account}\"\n");
    let (anna, bert) = (RelayIdentity([1; 32]).to_string(), RelayIdentity([2; 32]).to_string());
    let one = "GAAQEAYEAUDAOCAJBIFQYDIOB4IBCEQTCQKRMFYYDENBWHA5DYPSABOV";
    let other = AccountName(obol_cell::AccountId([7; 32])).to_string();
    let limit = "[payments.owing]\nmax_unsettled = \"5\"\n";
    let of_owing = [
        ("[payments.owing]\nmax_owed = 0\n".to_owned(), "payments.owing.max_owed"),
        (
            "[payments.owing]\nmax_unsettled = 0\n".to_owned(),
            "payments.owing.max_unsettled",
        ),
        (
            "[payments.owing]\nperiod = \"0s\"\n".to_owned(),
            "payments.owing.period",
        ),
        (
            "[payments.owing]\nmax_owed = 9\nmin_payment = 10\n".to_owned(),
            "payments.owing.min_payment",
        ),
        (relay(&anna, one), "max_unsettled"),
        (format!("{limit}{}{}", relay(&anna, one), relay(&anna, &other)), "twice"),
        (format!("{limit}{}{}", relay(&anna, one), relay(&bert, one)), "twice"),
        (format!("{limit}{}", relay("AQID", one)), "43 characters"),
        (format!("{limit}{}", relay(&anna, &anna)), "56 characters"),
        (
            "[payments.accounts]\ntrust = \"capital.seed\"\n".to_owned(),
            "payments.accounts.trust",
        ),
        (
            "[payments.accounts]\ntrust = \"payee.seed\"\n".to_owned(),
            "payments.accounts.trust",
        ),
    ];
    for (section, key) in of_owing {
        let error = parse(&format!("{REQUIRED}{section}")).expect_err(&section).to_string();
        assert!(error.contains(key), "{section}: {error}");
    }
    let two = format!("{REQUIRED}{limit}{}{}", relay(&anna, one), relay(&bert, &other));
    assert_eq!(
        "01".repeat(32).parse(),
        Ok(RelayIdentity([1; 32])),
        "as running.json has it"
    );
    let trust = parse(&two).expect("a configuration").payments.expect("payments").trust;
    assert_eq!(trust.iter().map(|relay| relay.peer.0[0]).collect::<Vec<_>>(), [1, 2]);
    for (from, to, key) in cases {
        let text = REQUIRED.replace(from, to);
        assert_ne!(text, REQUIRED, "{from} is in the text");
        let error = parse(&text).expect_err(to).to_string();
        assert!(error.contains(key), "{to}: {error}");
    }
    for (value, what) in [
        ("\"5 lightyears\"", "span"),
        ("\"64 KB\"", "size"),
        ("\"-1\"", "amount"),
    ] {
        let text = match what {
            "span" => format!("{REQUIRED}poll = {value}"),
            "size" => format!("{REQUIRED}[memory]\ncells = {value}"),
            _ => format!("{REQUIRED}[payments.peers]\ndeposit = {value}"),
        };
        let error = parse(&text).expect_err(what).to_string();
        assert!(error.contains("write"), "{error}");
    }
}

#[test]
fn the_default_ceiling_is_the_first_rung_of_twenty_times_the_price() {
    let mut payments = parse(REQUIRED).expect("a configuration").payments.expect("payments");
    for (price, ceiling) in [(1, 20), (2, 50), (5, 100), (10, 200), (100, 2_000), (500, 10_000)] {
        payments.price_per_64_kib = price;
        assert_eq!(payments.forward_ceiling(), ceiling);
    }
}

#[test]
fn an_exit_policy_is_the_first_rule_that_matches() {
    let text = format!("{REQUIRED}[exit]\npolicy = [\"reject *:25\", \"accept *:*\"]");
    let policy = parse(&text).expect("a configuration").exit_policy().expect("a policy");
    let address = "192.0.2.9".parse().expect("an address");
    assert_eq!(policy.allows(&address, 25), Some(RuleKind::Reject));
    assert_eq!(policy.allows(&address, 80), Some(RuleKind::Accept));
}

#[test]
fn sizes_read_back_what_they_print() {
    for size in [0, 1, 1023, 1024, 65_536, 3 << 20, 5 << 30, 1_000_000] {
        assert_eq!(Size(size).to_string().parse(), Ok(Size(size)));
    }
    assert_eq!("18446744073709551615 KiB".parse::<Size>(), Err(ValueError::Size));
}
