//! The wallet's library: keys from words by the standard's own vectors, requests for payment, QR codes, stellar.toml from a
//! server, and what is locked where, until when.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::sim::Sim;
use common::{Agreed, DEPOSIT, LIFE, WEALTH, key, stroops};
use obol_stellar::asset::parse_asset;
use obol_stellar::key::{account_text, parse_account};
use obol_stellar::rail::horizon::Timeouts;
use obol_stellar::tx::Memo;
use obol_stellar::wallet::escrows::{OwnEscrow, Stands, TakenBack};
use obol_stellar::wallet::qr::Qr;
use obol_stellar::wallet::request::{BadRequest, PayRequest, Received};
use obol_stellar::wallet::stellar_toml::{LARGEST, StellarToml, TomlError};
use obol_stellar::wallet::words::{BadPhrase, Length, NoSuchAccount, Phrase};
use obol_stellar::wallet::{self};
use obol_stellar::{Connect, Keypair, Network, Tcp};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// SEP-5, "Test Cases": phrase, passphrase, and the keys at `m/44'/148'/x'` for some x.
type Vector = (&'static str, &'static str, &'static [(u32, &'static str, &'static str)]);
const VECTORS: [Vector; 5] = [
    (
        "illness spike retreat truth genius clock brain pass fit cave bargain toe",
        "",
        &[
            (
                0,
                "GDRXE2BQUC3AZNPVFSCEZ76NJ3WWL25FYFK6RGZGIEKWE4SOOHSUJUJ6",
                "SBGWSG6BTNCKCOB3DIFBGCVMUPQFYPA2G4O34RMTB343OYPXU5DJDVMN",
            ),
            (
                1,
                "GBAW5XGWORWVFE2XTJYDTLDHXTY2Q2MO73HYCGB3XMFMQ562Q2W2GJQX",
                "SCEPFFWGAG5P2VX5DHIYK3XEMZYLTYWIPWYEKXFHSK25RVMIUNJ7CTIS",
            ),
            (
                9,
                "GBTVYYDIYWGUQUTKX6ZMLGSZGMTESJYJKJWAATGZGITA25ZB6T5REF44",
                "SCJGVMJ66WAUHQHNLMWDFGY2E72QKSI3XGSBYV6BANDFUFE7VY4XNXXR",
            ),
        ],
    ),
    (
        "resource asthma orphan phone ice canvas fire useful arch jewel impose vague theory cushion top",
        "",
        &[
            (
                0,
                "GAVXVW5MCK7Q66RIBWZZKZEDQTRXWCZUP4DIIFXCCENGW2P6W4OA34RH",
                "SAKS7I2PNDBE5SJSUSU2XLJ7K5XJ3V3K4UDFAHMSBQYPOKE247VHAGDB",
            ),
            (
                9,
                "GB3C6RRQB3V7EPDXEDJCMTS45LVDLSZQ46PTIGKZUY37DXXEOAKJIWSV",
                "SDHRG2J34MGDAYHMOVKVJC6LX2QZMCTIKRO5I4JQ6BJQ36KVL6QUTT72",
            ),
        ],
    ),
    (
        "bench hurt jump file august wise shallow faculty impulse spring exact slush thunder author capable act festival \
         slice deposit sauce coconut afford frown better",
        "",
        &[
            (
                0,
                "GC3MMSXBWHL6CPOAVERSJITX7BH76YU252WGLUOM5CJX3E7UCYZBTPJQ",
                "SAEWIVK3VLNEJ3WEJRZXQGDAS5NVG2BYSYDFRSH4GKVTS5RXNVED5AX7",
            ),
            (
                9,
                "GDXOY6HXPIDT2QD352CH7VWX257PHVFR72COWQ74QE3TEV4PK2KCKZX7",
                "SCPA5OX4EYINOPAUEQCPY6TJMYICUS5M7TVXYKWXR3G5ZRAJXY3C37GF",
            ),
        ],
    ),
    (
        "cable spray genius state float twenty onion head street palace net private method loan turn phrase state blanket \
         interest dry amazing dress blast tube",
        "p4ssphr4se",
        &[
            (
                0,
                "GDAHPZ2NSYIIHZXM56Y36SBVTV5QKFIZGYMMBHOU53ETUSWTP62B63EQ",
                "SAFWTGXVS7ELMNCXELFWCFZOPMHUZ5LXNBGUVRCY3FHLFPXK4QPXYP2X",
            ),
            (
                9,
                "GBOSMFQYKWFDHJWCMCZSMGUMWCZOM4KFMXXS64INDHVCJ2A2JAABCYRR",
                "SDXDYPDNRMGOF25AWYYKPHFAD3M54IT7LCLG7RWTGR3TS32A4HTUXNOS",
            ),
        ],
    ),
    (
        "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about",
        "",
        &[
            (
                0,
                "GB3JDWCQJCWMJ3IILWIGDTQJJC5567PGVEVXSCVPEQOTDN64VJBDQBYX",
                "SBUV3MRWKNS6AYKZ6E6MOUVF2OYMON3MIUASWL3JLY5E3ISDJFELYBRZ",
            ),
            (
                9,
                "GAKFARYSPI33KUJE7HYLT47DCX2PFWJ77W3LZMRBPSGPGYPMSDBE7W7X",
                "SALJ5LPBTXCFML2CQ7ORP7WJNJOZSVBVRQAAODMVHMUF4P4XXFZB7MKY",
            ),
        ],
    ),
];

#[test]
fn keys_out_of_words_are_those_of_the_standards_vectors() {
    for (words, passphrase, keys) in VECTORS {
        let phrase = Phrase::parse(words).unwrap();
        assert_eq!(phrase.words(), words);
        for (x, account, seed) in keys {
            let key = phrase.key(passphrase, *x).unwrap();
            assert_eq!(account_text(&key.account()), *account);
            assert_eq!(key.secret_strkey().as_str(), *seed);
        }
        assert_eq!(phrase.key("", 1 << 31).err(), Some(NoSuchAccount));
    }
}

#[test]
fn a_phrase_with_a_fault_is_refused_and_never_shown() {
    let words = VECTORS[0].0;
    let spaced = format!("  {}\n", words.replace(' ', " \t ").to_uppercase());
    assert_eq!(Phrase::parse(&spaced).unwrap().words(), words);
    assert_eq!(Phrase::parse("").err(), Some(BadPhrase::Count { count: 0 }));
    assert_eq!(
        Phrase::parse("illness spike").err(),
        Some(BadPhrase::Count { count: 2 })
    );
    let unknown = words.replace("truth", "obolus");
    assert_eq!(Phrase::parse(&unknown).err(), Some(BadPhrase::Word { number: 4 }));
    let swapped = words.replace("illness spike", "spike illness");
    assert_eq!(Phrase::parse(&swapped).err(), Some(BadPhrase::Checksum));
    let phrase = Phrase::parse(words).unwrap();
    assert_eq!(format!("{phrase:?}"), "Phrase(..)");
    assert!(!BadPhrase::Word { number: 4 }.to_string().contains("obolus"));
}

#[test]
fn new_phrases_differ_and_read_back() {
    for (length, words) in [(Length::Twelve, 12), (Length::TwentyFour, 24)] {
        let (one, other) = (Phrase::random(length).unwrap(), Phrase::random(length).unwrap());
        assert_ne!(one.words(), other.words());
        assert_eq!(one.words().split(' ').count(), words);
        let read = Phrase::parse(one.words()).unwrap();
        assert_eq!(read.key("", 0).unwrap().account(), one.key("", 0).unwrap().account());
        assert_ne!(one.key("", 0).unwrap().account(), one.key("x", 0).unwrap().account());
    }
}

/// The two examples of SEP-7.
#[test]
fn requests_of_the_standard_are_understood() {
    let lumens: Received =
        "web+stellar:pay?destination=GCALNQQBXAPZ2WIRSDDBMSTAKCUH5SG6U76YBFLQLIXJTF7FE5AX7AOO&amount=\
                            120.1234567&memo=skdjfasf&msg=pay%20me%20with%20lumens"
            .parse()
            .unwrap();
    let request = &lumens.request;
    assert_eq!(request.amount, Some(stroops(1_201_234_567)));
    assert_eq!((request.asset, &request.memo), (None, &Memo::Text("skdjfasf".into())));
    assert_eq!(request.message.as_deref(), Some("pay me with lumens"));
    assert_eq!(request.network(), Network::public());
    let asset: Received = "web+stellar:pay?destination=GCALNQQBXAPZ2WIRSDDBMSTAKCUH5SG6U76YBFLQLIXJTF7FE5AX7AOO&amount=\
                           120.123&asset_code=USD&asset_issuer=GCRCUE2C5TBNIPYHMEP7NK5RWTT2WBSZ75CMARH7GDOHDDCQH3XANFOB\
                           &memo=hasysda987fs&callback=url%3Ahttps%3A%2F%2FsomeSigningService.com%2Fhasysda987fs%3Fasset%3DUSD"
        .parse()
        .unwrap();
    let usd = parse_asset("USD:GCRCUE2C5TBNIPYHMEP7NK5RWTT2WBSZ75CMARH7GDOHDDCQH3XANFOB").unwrap();
    assert_eq!(asset.request.asset, Some(usd));
    assert_eq!(
        asset.callback.as_deref(),
        Some("url:https://someSigningService.com/hasysda987fs?asset=USD")
    );
}

#[test]
fn requests_that_could_mislead_are_refused() {
    let to = "destination=GCALNQQBXAPZ2WIRSDDBMSTAKCUH5SG6U76YBFLQLIXJTF7FE5AX7AOO";
    for (text, fault) in [
        ("web+stellar:tx?xdr=AAAA".to_owned(), BadRequest::Scheme),
        ("https://example.com/?destination=G".to_owned(), BadRequest::Scheme),
        ("web+stellar:pay?".to_owned(), BadRequest::Field("destination")),
        (
            "web+stellar:pay?destination=GCAL".to_owned(),
            BadRequest::Field("destination"),
        ),
        (format!("web+stellar:pay?{to}&{to}"), BadRequest::Twice),
        (format!("web+stellar:pay?{to}&amount=-1"), BadRequest::Field("amount")),
        (format!("web+stellar:pay?{to}&amount=0"), BadRequest::Field("amount")),
        (format!("web+stellar:pay?{to}&amount=1e3"), BadRequest::Field("amount")),
        (
            format!("web+stellar:pay?{to}&asset_code=USD"),
            BadRequest::Field("asset_issuer"),
        ),
        (
            format!("web+stellar:pay?{to}&memo=x&memo_type=MEMO_ID"),
            BadRequest::Field("memo"),
        ),
        (
            format!("web+stellar:pay?{to}&memo=AAAA&memo_type=MEMO_HASH"),
            BadRequest::Field("memo"),
        ),
        (
            format!("web+stellar:pay?{to}&memo={}", "x".repeat(29)),
            BadRequest::Field("memo"),
        ),
        (format!("web+stellar:pay?{to}&msg=%f"), BadRequest::Encoding),
        (format!("web+stellar:pay?{to}&msg=%ff"), BadRequest::Encoding),
        (
            format!("web+stellar:pay?{to}&msg={}", "x".repeat(301)),
            BadRequest::Field("msg"),
        ),
        (
            // A domain that nobody signed for.
            format!("web+stellar:pay?{to}&origin_domain=example.com"),
            BadRequest::Field("origin_domain"),
        ),
        (
            format!("web+stellar:pay?{to}&msg={}", "x".repeat(5000)),
            BadRequest::TooLong,
        ),
    ] {
        assert_eq!(text.parse::<Received>(), Err(fault), "{text}");
    }
}

#[test]
fn a_signed_request_is_its_domains_and_nobody_elses() {
    let key = Keypair::from_seed(&[9; 32]);
    let request = PayRequest {
        amount: Some(stroops(5)),
        ..PayRequest::new(key.account(), &Network::public())
    };
    let unsigned = format!("{request}&origin_domain=wallet.example");
    let mut payload = vec![0; 35];
    payload.push(4);
    payload.extend_from_slice(b"stellar.sep.7 - URI Scheme");
    payload.extend_from_slice(unsigned.as_bytes());
    let signature = {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(key.sign(&payload).0)
    };
    let encoded = signature.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    let received: Received = format!("{unsigned}&signature={encoded}").parse().unwrap();
    assert_eq!(received.origin_domain.as_deref(), Some("wallet.example"));
    assert!(received.is_signed_by(&key.account()));
    assert!(!received.is_signed_by(&Keypair::from_seed(&[8; 32]).account()));
    let forged = format!("{unsigned}&signature={encoded}").replace("amount=0.0000005", "amount=9.0000005");
    assert!(!forged.parse::<Received>().unwrap().is_signed_by(&key.account()));
    let appended = format!("{unsigned}&signature={encoded}&memo=x");
    assert_eq!(appended.parse::<Received>(), Err(BadRequest::Field("signature")));
}

fn memos() -> impl Strategy<Value = Memo> {
    prop_oneof![
        Just(Memo::None),
        "[ -~]{1,28}".prop_map(Memo::Text),
        any::<u64>().prop_map(Memo::Id),
        any::<[u8; 32]>().prop_map(Memo::Hash),
        any::<[u8; 32]>().prop_map(Memo::Return),
    ]
}

proptest! {
    #[test]
    fn a_request_reads_back_as_it_was_written(
        amount in proptest::option::of(1i64..),
        with_asset in any::<bool>(),
        memo in memos(),
        message in proptest::option::of("\\PC{1,300}"),
        passphrase in proptest::option::of("\\PC{1,60}"),
    ) {
        let destination = parse_account("GCALNQQBXAPZ2WIRSDDBMSTAKCUH5SG6U76YBFLQLIXJTF7FE5AX7AOO").unwrap();
        let usd = parse_asset("USD:GCRCUE2C5TBNIPYHMEP7NK5RWTT2WBSZ75CMARH7GDOHDDCQH3XANFOB").unwrap();
        let request = PayRequest {
            destination,
            amount: amount.map(stroops),
            asset: with_asset.then_some(usd),
            memo,
            message,
            network_passphrase: passphrase,
        };
        let text = request.to_string();
        prop_assume!(text.len() <= 4096);
        let received: Received = text.parse().unwrap();
        prop_assert_eq!(received.request, request);
    }

    #[test]
    fn no_text_makes_the_reader_of_requests_panic(text in "(web\\+stellar:pay\\?)?\\PC{0,200}") {
        let _ = text.parse::<Received>();
    }
}

/// A QR code is read back by reading what is drawn: the finders stand in three corners, and both drawings agree.
#[test]
fn a_qr_code_is_drawn_alike_as_text_and_as_svg() {
    let key = Keypair::from_seed(&[9; 32]);
    let text = PayRequest::new(key.account(), &Network::testnet()).to_string();
    let qr = Qr::new(&text).unwrap();
    let n = qr.width();
    for (column, row) in [(0, 0), (n - 7, 0), (0, n - 7)] {
        for i in 0..7 {
            let edge = [(i, 0), (i, 6), (0, i), (6, i)];
            assert!(edge.iter().all(|(x, y)| qr.is_dark(column + x, row + y)));
            assert!(i == 0 || i == 6 || !qr.is_dark(column + i, row + 1) || !(1..6).contains(&i));
        }
    }
    assert!(!qr.is_dark(n, 0) && !qr.is_dark(0, n));
    for inverted in [false, true] {
        let drawn = qr.text(inverted);
        let lines: Vec<Vec<char>> = drawn.lines().map(|line| line.chars().collect()).collect();
        assert_eq!(lines.len(), (n + 8).div_ceil(2));
        for row in 0..n {
            for column in 0..n {
                let (y, x) = (row + 4, column + 4);
                let (upper, lower) = match lines[y / 2][x] {
                    '\u{2588}' => (true, true),
                    '\u{2580}' => (true, false),
                    '\u{2584}' => (false, true),
                    ' ' => (false, false),
                    other => panic!("{other}"),
                };
                let drawn = if y % 2 == 0 { upper } else { lower };
                assert_eq!(drawn == inverted, qr.is_dark(column, row), "column {column}, row {row}");
            }
        }
    }
    let svg = qr.svg();
    let dark = (0..n * n).filter(|i| qr.is_dark(i % n, i / n)).count();
    let path = svg.split("fill=\"#000\" d=\"").nth(1).unwrap();
    let runs: usize = path
        .split('M')
        .skip(1)
        .map(|run| run.split(['h', 'v']).nth(1).unwrap().parse::<usize>().unwrap())
        .sum();
    assert_eq!(runs, dark);
    assert!(Qr::new(&"x".repeat(3000)).is_err());
}

/// Answers every connection's first request with these bytes, then closes it.
async fn server(answer: Vec<u8>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut request = vec![0; 64 * 1024];
                let n = stream.read(&mut request).await.unwrap_or(0);
                assert!(request[..n].starts_with(b"GET /.well-known/stellar.toml HTTP/1.1\r\n"));
                let _ = stream.write_all(&answer).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    format!("http://{address}")
}

#[tokio::test]
async fn a_stellar_toml_is_fetched_and_what_is_none_is_told_apart() {
    let tcp: Arc<dyn Connect> = Arc::new(Tcp);
    let fetch = async |answer: String| {
        let url = server(answer.into_bytes()).await;
        StellarToml::fetch_at(&url, &tcp, Timeouts::default()).await
    };
    let http = |status: &str, body: &str| format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let toml = fetch(http("200 OK", "NETWORK_PASSPHRASE = \"a network\""))
        .await
        .unwrap();
    assert_eq!(toml.network_passphrase.as_deref(), Some("a network"));
    assert_eq!(fetch(http("404 Not Found", "")).await, Err(TomlError::None));
    let long = "#".repeat(LARGEST + 1);
    assert_eq!(fetch(http("200 OK", &long)).await, Err(TomlError::TooLong));
    assert_eq!(fetch(http("200 OK", "<html>")).await, Err(TomlError::NotToml));
    assert!(matches!(fetch(http("302 Found", "")).await, Err(TomlError::Fetch(_))));
    for domain in ["127.0.0.1", "localhost", "issuer.example/elsewhere", ""] {
        let fetched = StellarToml::fetch(domain, &tcp, Timeouts::default()).await;
        assert_eq!(fetched, Err(TomlError::NotADomain), "{domain}");
    }
}

fn own(agreed: &Agreed) -> OwnEscrow {
    OwnEscrow {
        escrow: agreed.escrow.clone(),
        key: agreed.e.clone(),
        deposit: stroops(DEPOSIT),
        refund: agreed.refund,
    }
}

#[tokio::test(start_paused = true)]
async fn a_wallet_shows_what_is_locked_until_when_and_gets_it_back_without_the_payee() {
    let sim = Sim::funded().await;
    let (never, open, flushed) = (sim.agree(10), sim.opened(11).await, sim.opened(12).await);
    sim.settler.flush(&sim.order(&flushed, 3, 300_000)).await.unwrap();
    let all = [own(&never), own(&open), own(&flushed)];
    let listed = sim.settler.locked(&all).await.unwrap();
    assert_eq!(
        listed.iter().map(|l| l.money.get()).collect::<Vec<_>>(),
        [0, DEPOSIT, 700_000]
    );
    assert_eq!((listed[0].stands, listed[2].stands), (Stands::Gone, Stands::Ended));
    assert_eq!(listed[1].until, open.escrow.terms().expiry);
    assert_eq!(listed[1].payee_account, sim.payee.account());
    assert_eq!(listed[1].lumens, stroops(20_000_000));
    let Stands::Locked { seconds } = listed[1].stands else {
        panic!("{:?}", listed[1])
    };
    assert!((LIFE - 60..=LIFE).contains(&seconds));

    let home = sim.payer.account();
    let take = async |agreed: &Agreed| {
        let own = own(agreed);
        sim.settler.take_back(&own, &sim.payer, home).await.unwrap()
    };
    let until = open.escrow.terms().expiry;
    assert_eq!(take(&open).await, TakenBack::Locked { until });
    let swept = take(&flushed).await;
    assert!(
        matches!(swept, TakenBack::Money { returned, .. } if returned == stroops(700_000)),
        "{swept:?}"
    );
    sim.pass(Duration::from_secs(LIFE)).await;
    sim.ledgers(60).await;
    assert_eq!(sim.settler.locked(&all).await.unwrap()[1].stands, Stands::Expired);
    let back = TakenBack::Done {
        returned: stroops(DEPOSIT),
    };
    assert_eq!(take(&open).await, back);
    assert!(matches!(take(&flushed).await, TakenBack::Done { .. }));
    assert!(matches!(take(&never).await, TakenBack::Done { .. }));
    let listed = sim.settler.locked(&all).await.unwrap();
    assert!(listed.iter().all(|locked| locked.stands == Stands::Gone));
    sim.adds_up(&[sim.payer.account(), sim.payee.account()]);

    let balances = wallet::balances(sim.settler.rail().as_ref(), home)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(balances.assets.len(), 1);
    assert_eq!(balances.assets[0].spendable, stroops(WEALTH - 300_000));
    // One trust line: three base reserves of half a lumen are not to be spent.
    assert_eq!(balances.lumens.get() - balances.spendable_lumens.get(), 15_000_000);
    let nobody = wallet::balances(sim.settler.rail().as_ref(), key(99).account()).await;
    assert_eq!(nobody, Ok(None));
}
