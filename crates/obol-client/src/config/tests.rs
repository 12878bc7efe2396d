use super::*;

const PAYING: &str = r#"
state_directory = "client"
[socks]
listen = "127.0.0.1:0"
[payments]
pay = "always"
max_price_per_64_kib = 1000
deposit = "10"
budget = "2.5"
[payments.ledger]
network_passphrase = "Obol test"
asset = "OBOL:GAAZI4TCR3TY5OJHCTJC2A4QSY6CJWJH5IAJTGKIN2ER7LBNVKOCCWN7"
urls = ["http://127.0.0.1:8000"]
"#;

#[test]
fn a_paying_client_is_read_with_its_defaults() {
    let config = ClientConfig::parse(PAYING).unwrap();
    let payments = config.payments.unwrap();
    assert_eq!(payments.pay, Pay::Always);
    assert_eq!(payments.deposit, Amount::units(10));
    assert_eq!(payments.budget, Some(Amount(25_000_000)));
    assert_eq!(payments.tunnel_ceiling(), 3_030);
    assert_eq!(payments.random_delay, Span::seconds(600));
    assert_eq!(payments.ledger.asset.code, "OBOL");
}

#[test]
fn a_written_configuration_is_read_back_the_same() {
    let config = ClientConfig::parse(PAYING).unwrap();
    let text = toml::to_string(&config).unwrap();
    assert_eq!(ClientConfig::parse(&text).unwrap(), config);
}

#[test]
fn an_unknown_key_is_an_error_that_names_it() {
    let text = PAYING.replace("pay = ", "pya = ");
    let error = ClientConfig::parse(&text).unwrap_err().to_string();
    assert!(error.contains("pya"), "{error}");
}

#[test]
fn every_impossible_value_is_refused_by_its_key() {
    for (from, to, key) in [
        ("127.0.0.1:0", "0.0.0.0:9150", "socks.listen"),
        (
            "max_price_per_64_kib = 1000",
            "max_price_per_64_kib = 0",
            "payments.max_price_per_64_kib",
        ),
        (
            "pay = \"always\"",
            "pay = \"never\"\npaths = \"only\"",
            "payments.paths",
        ),
        ("deposit = \"10\"", "deposit = 0", "payments.deposit"),
        ("\"Obol test\"", "\"\"", "payments.ledger.network_passphrase"),
        ("[\"http://127.0.0.1:8000\"]", "[]", "payments.ledger.urls"),
        ("http://127", "ftp://127", "payments.ledger.urls"),
        (
            "[payments.ledger]",
            "[payments.ledger]\ntwo_witnesses_above = \"5\"",
            "payments.ledger.two_witnesses_above",
        ),
        (
            "[payments.ledger]",
            "[payments.ledger]\nrequests_per_minute = 0",
            "payments.ledger.requests_per_minute",
        ),
        ("budget = \"2.5\"", "max_locked = \"9.9\"", "payments.max_locked"),
        (
            "[payments]",
            "[tor.storage]\ncache_dir = \"x\"\n[payments]",
            "tor.storage",
        ),
    ] {
        assert!(PAYING.contains(from), "{from}");
        let error = ClientConfig::parse(&PAYING.replace(from, to)).unwrap_err();
        match error {
            ConfigError::Invalid(found) => assert_eq!(found.key, key),
            other => panic!("{to}: {other}"),
        }
    }
}

#[test]
fn paths_are_preferred_where_nothing_is_said_and_each_word_is_read() {
    let paths = |text: &str| ClientConfig::parse(text).unwrap().payments.unwrap().paths;
    assert_eq!(paths(PAYING), Paths::Prefer);
    for (word, meant) in [("any", Paths::Any), ("prefer", Paths::Prefer), ("only", Paths::Only)] {
        let text = PAYING.replace("[payments]", &format!("[payments]\npaths = \"{word}\""));
        assert_eq!(paths(&text), meant);
    }
    assert!(ClientConfig::parse(&PAYING.replace("[payments]", "[payments]\npaths = \"paid\"")).is_err());
}

const SERVICE: &str = r#"
[[services]]
nickname = "web"
ports = [{ port = 80, to = "127.0.0.1:8080" }]
introduction_points = 4
"#;

#[test]
fn services_are_read_and_every_impossible_one_is_refused_by_its_key() {
    let config = ClientConfig::parse(&format!("{PAYING}{SERVICE}")).unwrap();
    let [service] = &config.services[..] else { panic!() };
    assert_eq!((service.nickname.as_str(), service.introduction_points), ("web", 4));
    assert_eq!(
        service.ports,
        [ServicePort {
            port: 80,
            to: "127.0.0.1:8080".parse().unwrap()
        }]
    );
    let text = toml::to_string(&config).unwrap();
    assert_eq!(ClientConfig::parse(&text).unwrap(), config);
    let fewest = SERVICE.replace("introduction_points = 4", "");
    let fewest = ClientConfig::parse(&format!("{PAYING}{fewest}")).unwrap();
    assert_eq!(fewest.services[0].introduction_points, 3);
    let two = SERVICE.replace(" }]", " }, { port = 80, to = \"127.0.0.1:1\" }]");
    for (text, key) in [
        (SERVICE.replace("\"web\"", "\"a b\""), "services.nickname"),
        (format!("{SERVICE}{SERVICE}"), "services.nickname"),
        (
            SERVICE.replace("{ port = 80, to = \"127.0.0.1:8080\" }", ""),
            "services.ports",
        ),
        (SERVICE.replace("port = 80", "port = 0"), "services.ports"),
        (SERVICE.replace(":8080", ":0"), "services.ports"),
        (two, "services.ports"),
        (
            SERVICE.replace("points = 4", "points = 2"),
            "services.introduction_points",
        ),
        (
            SERVICE.replace("points = 4", "points = 21"),
            "services.introduction_points",
        ),
    ] {
        match ClientConfig::parse(&format!("{PAYING}{text}")).unwrap_err() {
            ConfigError::Invalid(found) => assert_eq!(found.key, key),
            other => panic!("{text}: {other}"),
        }
    }
}

#[test]
fn negative_money_is_not_an_amount() {
    assert!(ClientConfig::parse(&PAYING.replace("\"10\"", "-1")).is_err());
    assert!(ClientConfig::parse(&PAYING.replace("\"10\"", "\"1.23456789\"")).is_err());
}

#[test]
fn the_configuration_in_the_readme_is_one() {
    let readme = include_str!("../../README.md");
    let text = readme
        .split("```toml\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .unwrap();
    let config = ClientConfig::parse(text).unwrap();
    assert_eq!(config.payments.unwrap().pay, Pay::WhenItHelps);
    // The commented keys are keys too.
    let all = text.replace("# max_tunnel", "max_tunnel").replace("# budget", "budget");
    let all = all
        .replace("# [[services]]", "[[services]]")
        .replace("# nickname", "nickname");
    let all = all
        .replace("# ports", "ports")
        .replace("# introduction", "introduction");
    assert_eq!(ClientConfig::parse(&all).unwrap().services.len(), 1);
    let payments = ClientConfig::parse(&all).unwrap().payments.unwrap();
    assert_eq!(payments.tunnel_ceiling(), 303);
    assert_eq!(payments.budget, Some(Amount::units(5)));
}
