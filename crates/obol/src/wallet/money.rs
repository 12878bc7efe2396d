//! Money in and out, and what is locked where.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;
use obol_cell::{AccountId, Asset, Stroops};
use obol_stellar::amount::{amount_text, parse_amount};
use obol_stellar::asset::{asset_code, asset_text};
use obol_stellar::key::{account_text, parse_account};
use obol_stellar::rail::horizon::Timeouts;
use obol_stellar::settle::{Money, Transfer};
use obol_stellar::tx::Memo;
use obol_stellar::wallet::Balances;
use obol_stellar::wallet::escrows::{Locked, Stands, TakenBack};
use obol_stellar::wallet::issuer::{self, Finding, Verdict};
use obol_stellar::wallet::purse::{Home, Purse};
use obol_stellar::wallet::qr::Qr;
use obol_stellar::wallet::request::PayRequest;
use obol_stellar::wallet::stellar_toml::StellarToml;
use serde_json::{Value, json};

use super::Whose;
use super::source::{Open, Source};
use crate::demo::show::Show;

#[derive(Debug, Args)]
pub(crate) struct Fund {
    #[command(flatten)]
    whose: Whose,
    /// How much to ask for, in units (default: whoever pays decides).
    #[arg(long, value_name = "AMOUNT", value_parser = amount)]
    amount: Option<Stroops>,
    /// Ask for lumens, which pay for fees and reserves, in place of the asset.
    #[arg(long)]
    lumens: bool,
    /// Write the QR code to this file, as SVG.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Trust {
    #[command(flatten)]
    whose: Whose,
    /// Take the risk of an issuer that can freeze the asset or claw it back.
    #[arg(long)]
    accept_revocable: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Send {
    #[command(flatten)]
    whose: Whose,
    /// To whom: an account, `G...`.
    #[arg(value_parser = account)]
    to: AccountId,
    /// How much, in units.
    #[arg(value_parser = amount)]
    amount: Stroops,
    /// Send lumens in place of the asset.
    #[arg(long)]
    lumens: bool,
    /// What the payee is told, in public: up to 28 bytes.
    #[arg(long, value_name = "TEXT")]
    memo: Option<String>,
}

fn amount(text: &str) -> Result<Stroops, String> {
    match parse_amount(text) {
        Ok(amount) if !amount.is_zero() => Ok(amount),
        _ => Err(format!(
            "`{text}` is not an amount: write for instance 12.5, with at most seven places"
        )),
    }
}

fn account(text: &str) -> Result<AccountId, String> {
    parse_account(text).map_err(|error| error.to_string())
}

/// Opens the purse, and says that this takes a while.
async fn open(whose: &Whose) -> anyhow::Result<Open> {
    let source = Source::load(&whose.config)?;
    let show = Show::new(whose.json);
    let wait = show.wait("reaching the ledger");
    let opened = source.open().await;
    wait.finish_and_clear();
    opened
}

// ---- what there is

pub(super) async fn show(whose: &Whose) -> anyhow::Result<ExitCode> {
    // Who only looks makes no keys: a backup could no longer be taken in there.
    let journal = Source::load(&whose.config)?.journal()?;
    anyhow::ensure!(
        journal.exists(),
        "there is no journal {} yet: start the program once, or take in a backup with `obol wallet import`",
        journal.display()
    );
    let Open { purse, payees, .. } = &open(whose).await?;
    let holdings = purse.holdings().await?;
    let mut of_payees = Vec::new();
    for key in payees {
        let found = obol_stellar::wallet::balances(purse.settler.rail().as_ref(), key.account()).await?;
        of_payees.push((key.account(), found));
    }
    let asset = purse.asset;
    let locked_sum = sum(holdings.locked.iter().map(|locked| locked.money));
    if whose.json {
        let one_time: Vec<Value> = holdings.one_time.iter().map(|b| balances_json(b, &asset)).collect();
        let paid_to: Vec<Value> = of_payees
            .iter()
            .map(|(account, found)| holder_json(account, found.as_ref(), &asset))
            .collect();
        print_json(&json!({
            "asset": asset_text(&asset),
            "account": holder_json(&purse.account.account(), holdings.account.as_ref(), &asset),
            "paid_to": paid_to,
            "one_time_accounts": one_time,
            "locked": holdings.locked.iter().map(locked_json).collect::<Vec<_>>(),
            "locked_stroops": locked_sum.get(),
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let code = asset_code(&asset);
    println!("asset          {}", asset_text(&asset));
    print_holder("account", &purse.account.account(), holdings.account.as_ref(), &asset);
    for (account, found) in &of_payees {
        print_holder("paid to", account, found.as_ref(), &asset);
    }
    for found in &holdings.one_time {
        print_holder("one-time", &found.account, Some(found), &asset);
    }
    if holdings.locked.is_empty() {
        println!("locked         nothing");
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "locked         {} {code} in {} escrows",
        amount_text(locked_sum),
        holdings.locked.len()
    );
    for locked in &holdings.locked {
        let amount = amount_text(locked.money);
        println!(
            "  {}  {amount:>20} {code}  {}",
            account_text(&AccountId(locked.escrow.0)),
            stands(locked)
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn sum(amounts: impl Iterator<Item = Stroops>) -> Stroops {
    amounts.fold(Stroops::ZERO, |sum, amount| {
        sum.checked_add(amount).unwrap_or(Stroops::MAX)
    })
}

fn of_asset(balances: &Balances, asset: &Asset) -> Option<Stroops> {
    let line = balances.assets.iter().find(|line| line.asset == *asset);
    line.map(|line| line.balance)
}

fn print_holder(role: &str, account: &AccountId, found: Option<&Balances>, asset: &Asset) {
    let account = account_text(account);
    let Some(found) = found else {
        println!("{role:<13}  {account}  not on the ledger: fund it (obol wallet fund --lumens)");
        return;
    };
    let lumens = amount_text(found.lumens);
    match of_asset(found, asset) {
        Some(held) => println!(
            "{role:<13}  {account}  {} {}, {lumens} XLM",
            amount_text(held),
            asset_code(asset)
        ),
        None => println!("{role:<13}  {account}  no trust line, {lumens} XLM"),
    }
}

fn holder_json(account: &AccountId, found: Option<&Balances>, asset: &Asset) -> Value {
    match found {
        Some(found) => balances_json(found, asset),
        None => json!({ "account": account_text(account), "on_the_ledger": false }),
    }
}

fn balances_json(found: &Balances, asset: &Asset) -> Value {
    json!({
        "account": account_text(&found.account),
        "on_the_ledger": true,
        "stroops": of_asset(found, asset).map(Stroops::get),
        "lumens_stroops": found.lumens.get(),
        "spendable_lumens_stroops": found.spendable_lumens.get(),
    })
}

fn stands(locked: &Locked) -> String {
    match locked.stands {
        Stands::Gone => "gone".to_owned(),
        Stands::Locked { seconds } => {
            let left = humantime::format_duration(Duration::from_secs(seconds));
            format!("until {} (in {left})", time_text(locked.until))
        }
        Stands::Expired => "expired: can be taken back now".to_owned(),
        Stands::Ended => "ended: the rest can be taken back now".to_owned(),
        Stands::Foreign => "not the escrow that it should be".to_owned(),
    }
}

fn time_text(seconds: u64) -> String {
    let time = std::time::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    time.map_or_else(
        || seconds.to_string(),
        |time| humantime::format_rfc3339_seconds(time).to_string(),
    )
}

fn locked_json(locked: &Locked) -> Value {
    let state = match locked.stands {
        Stands::Gone => "gone",
        Stands::Locked { .. } => "locked",
        Stands::Expired => "expired",
        Stands::Ended => "ended",
        Stands::Foreign => "foreign",
    };
    json!({
        "escrow": account_text(&AccountId(locked.escrow.0)),
        "payee_account": account_text(&locked.payee_account),
        "stroops": locked.money.get(),
        "lumens_stroops": locked.lumens.get(),
        "until": locked.until,
        "state": state,
    })
}

fn print_json(value: &Value) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value).context("the report as JSON")?);
    Ok(())
}

// ---- in

pub(super) fn fund(args: &Fund) -> anyhow::Result<ExitCode> {
    let source = Source::load(&args.whose.config)?;
    let (passphrase, asset) = source.ledger()?;
    let account = source.account()?.account();
    let mut request = PayRequest::new(account, &obol_stellar::Network::new(passphrase));
    request.amount = args.amount;
    request.asset = (!args.lumens).then(|| asset.asset());
    let uri = request.to_string();
    let qr = Qr::new(&uri).context("the request is too long for a QR code")?;
    if let Some(path) = &args.svg {
        std::fs::write(path, qr.svg()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if args.whose.json {
        print_json(&json!({ "account": account_text(&account), "request": uri }))?;
        return Ok(ExitCode::SUCCESS);
    }
    println!("{}", qr.text(false));
    println!("account   {}", account_text(&account));
    println!("request   {uri}");
    Ok(ExitCode::SUCCESS)
}

// ---- the issuer

/// What is found about the asset's issuer.
async fn findings(purse: &Purse) -> anyhow::Result<(Vec<Finding>, Option<StellarToml>)> {
    let issuer_account = AccountId(purse.asset.issuer);
    let state = purse.settler.rail().account(issuer_account).await?;
    let mut findings = issuer::judge(state.as_ref());
    let domain = state.as_ref().and_then(|state| state.home_domain.clone());
    let toml = match domain {
        Some(domain) => StellarToml::fetch(&domain, &purse.connector, Timeouts::default())
            .await
            .ok(),
        None => None,
    };
    findings.extend(issuer::compare(
        &purse.asset,
        state.as_ref(),
        toml.as_ref(),
        purse.settler.network(),
    ));
    Ok((findings, toml))
}

fn grade(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Fine => "fine",
        Verdict::Warn => "warning",
        Verdict::Refuse => "refused",
    }
}

pub(super) async fn issuer(whose: &Whose) -> anyhow::Result<ExitCode> {
    let allowed = Source::load(&whose.config)?.allows_revocable();
    let Open { purse, .. } = &open(whose).await?;
    let (findings, toml) = findings(purse).await?;
    let verdict = issuer::verdict(&findings, allowed);
    let currency = toml.as_ref().and_then(|toml| toml.currency(&purse.asset));
    if whose.json {
        let findings: Vec<Value> = findings
            .iter()
            .map(|finding| json!({ "grade": grade(finding.verdict(allowed)), "text": finding.text() }))
            .collect();
        print_json(&json!({
            "asset": asset_text(&purse.asset),
            "verdict": grade(verdict),
            "findings": findings,
            "organisation": toml.as_ref().and_then(|toml| toml.organisation.clone()),
            "name": currency.and_then(|currency| currency.name.clone()),
            "anchored_to": currency.and_then(|currency| currency.anchored_to.clone()),
        }))?;
    } else {
        println!("asset     {}", asset_text(&purse.asset));
        for finding in &findings {
            println!("{:<8}  {}", grade(finding.verdict(allowed)), finding.text());
        }
        if let Some(organisation) = toml.as_ref().and_then(|toml| toml.organisation.as_ref()) {
            println!("its domain says that it is issued by {organisation}");
        }
        if let Some(anchor) = currency.and_then(|currency| currency.anchored_to.as_ref()) {
            println!("its domain says that it stands for {anchor}");
        }
        println!("verdict   {}", grade(verdict));
    }
    Ok(if verdict == Verdict::Refuse {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

pub(super) async fn trust(args: &Trust) -> anyhow::Result<ExitCode> {
    let allowed = args.accept_revocable || Source::load(&args.whose.config)?.allows_revocable();
    let Open { purse, .. } = &open(&args.whose).await?;
    let (findings, _) = findings(purse).await?;
    let refused: Vec<_> = findings
        .iter()
        .filter(|finding| finding.verdict(allowed) == Verdict::Refuse)
        .map(|finding| finding.text())
        .collect();
    ensure!(
        refused.is_empty(),
        "no line to this asset: {}. --accept-revocable takes the risk of an issuer that can freeze or claw back",
        refused.join("; ")
    );
    for finding in findings
        .iter()
        .filter(|finding| finding.verdict(allowed) == Verdict::Warn)
    {
        eprintln!("warning: {}", finding.text());
    }
    purse.settler.trust(&purse.account, purse.asset).await?;
    let account = account_text(&purse.account.account());
    if args.whose.json {
        print_json(&json!({ "account": account, "asset": asset_text(&purse.asset) }))?;
    } else {
        println!("{account} has a line to {}", asset_text(&purse.asset));
    }
    Ok(ExitCode::SUCCESS)
}

// ---- out

pub(super) async fn send(args: &Send) -> anyhow::Result<ExitCode> {
    let memo = match &args.memo {
        None => Memo::None,
        Some(text) if text.len() <= 28 => Memo::Text(text.clone()),
        Some(_) => bail!("--memo has more than 28 bytes"),
    };
    let Open { purse, .. } = &open(&args.whose).await?;
    let money = if args.lumens {
        Money::Lumens(args.amount)
    } else {
        Money::Asset(purse.asset, args.amount)
    };
    let transfer = Transfer {
        to: args.to,
        money,
        memo,
    };
    let sent = purse.settler.send(rand::random(), &purse.account, &transfer).await?;
    let hash = hex::encode(sent.hash.0);
    if args.whose.json {
        print_json(&json!({ "transaction": hash, "ledger": sent.ledger }))?;
    } else {
        println!("sent: transaction {hash} in ledger {}", sent.ledger);
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn take_back(whose: &Whose) -> anyhow::Result<ExitCode> {
    let Open { purse, .. } = &open(whose).await?;
    let show = Show::new(whose.json);
    let wait = show.wait("taking back");
    let home = purse
        .bring_home(|held, taken| {
            let escrow = account_text(&held.own.escrow.account());
            let text = match taken {
                TakenBack::Done { .. } => format!("{escrow} is back"),
                TakenBack::Locked { until } => format!("{escrow} is locked until {}", time_text(until)),
                TakenBack::Money { merge_from, .. } => {
                    format!("{escrow}: the money is back; its lumens come with ledger {merge_from}")
                }
            };
            wait.suspend(|| show.line(&text));
        })
        .await;
    wait.finish_and_clear();
    let Home {
        ended,
        returned,
        locked,
        until,
        emptied,
    } = home?;
    if whose.json {
        print_json(&json!({
            "escrows_ended": ended,
            "returned_stroops": returned.get(),
            "escrows_locked": locked,
            "locked_until": (locked > 0).then_some(until),
            "one_time_accounts_emptied": emptied,
        }))?;
    } else {
        println!(
            "{ended} escrows are wound up and gave {} {} back; {emptied} one-time accounts are emptied into the wallet",
            amount_text(returned),
            asset_code(&purse.asset)
        );
        if locked > 0 {
            println!("{locked} escrows are still locked, the last until {}", time_text(until));
        }
    }
    Ok(ExitCode::SUCCESS)
}
