//! Payment for services beyond the circuit: invoices (SEP-7 requests with a memo of their own) and transfers from the wallet.
//!
//! Each is recorded before anything is done, under the key that its asker chose: the same again is the same one.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use obol_cell::Stroops;
use obol_stellar::key::{account_text, parse_account};
use obol_stellar::rail::RailError;
use obol_stellar::settle::{CarryError, Money, Reference, Transfer as Order, WalletError};
use obol_stellar::tx::{Memo, TxHash};
use obol_stellar::wallet::qr::Qr;
use obol_stellar::wallet::request::{PayRequest, Received};
use rusqlite::{OptionalExtension as _, params};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::history::{History, now};
use crate::problem::Problem;
use crate::subject::Wallet;
use crate::whole::whole;

/// The longest text that is shown to whoever pays, characters (SEP-7).
const LONGEST_MESSAGE: usize = 300;
/// The longest idempotency key, characters.
const LONGEST_KEY: usize = 200;

/// An invoice that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InvoiceWanted {
    /// How much, stroops.
    #[serde(deserialize_with = "whole")]
    #[schema(minimum = 1)]
    pub amount: i64,
    /// What whoever pays is shown.
    #[schema(max_length = 300)]
    pub message: Option<String>,
}

/// Where an invoice stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum InvoiceState {
    /// Nothing came as yet.
    Open,
    /// Less than asked for came.
    Underpaid,
    /// All of it came.
    Paid,
}

/// A payment request for something beyond the circuit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Invoice {
    /// Its name here.
    pub id: String,
    /// When it was made.
    pub created_at: u64,
    /// Who is to be paid, `G...`.
    pub account: String,
    /// How much.
    pub amount: i64,
    /// The memo that a payment has to carry (`MEMO_HASH`): 64 hexadecimal digits. No other invoice has it.
    pub memo: String,
    /// What whoever pays is shown.
    pub message: Option<String>,
    /// The request (SEP-7).
    pub uri: String,
    /// The same as a QR code, SVG.
    pub qr_svg: String,
    /// Where it stands, as of the last look at the ledger.
    pub state: InvoiceState,
    /// What came, as of the last look at the ledger.
    pub received: i64,
    /// The transactions by which it came.
    pub transactions: Vec<String>,
}

/// Where to look for an invoice's payment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// A transaction that pays it, 64 hexadecimal digits; `null` or absent: look for all. Needed where the ledger is reached by Stellar RPC, which cannot
    /// search.
    #[schema(pattern = "^[0-9a-fA-F]{64}$")]
    pub transaction: Option<String>,
}

/// A transfer that is asked for: a payment request to pay, or whom to pay what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum TransferWanted {
    /// A request (SEP-7), of this wallet's asset and network, that names its amount.
    Request(RequestToPay),
    /// Whom to pay what.
    Direct(DirectTransfer),
}

/// A request (SEP-7), of this wallet's asset and network, that names its amount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RequestToPay {
    /// `web+stellar:pay?...`.
    pub uri: String,
}

/// Whom to pay what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DirectTransfer {
    /// Whom, `G...`.
    pub destination: String,
    /// How much of the asset, stroops.
    #[serde(deserialize_with = "whole")]
    #[schema(minimum = 1)]
    pub amount: i64,
    /// What the payee is told, in public: up to 28 bytes.
    pub memo: Option<String>,
}

/// Where a transfer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TransferState {
    /// On its way.
    Pending,
    /// The ledger has it.
    Confirmed,
    /// It will never be in the ledger.
    Failed,
    /// Only the ledger can tell, and has not yet. It is looked for again when it is asked for.
    Unknown,
}

/// A payment from the wallet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Transfer {
    /// Its name here.
    pub id: String,
    /// When it was asked for.
    pub created_at: u64,
    /// Who is paid, `G...`.
    pub destination: String,
    /// How much.
    pub amount: i64,
    /// What the payee is told: a text, a number or 64 hexadecimal digits.
    pub memo: Option<String>,
    /// Where it stands.
    pub state: TransferState,
    /// The transaction.
    pub transaction: Option<String>,
    /// Why it stands there, for people.
    pub detail: Option<String>,
}

/// The desk for both.
#[derive(Clone)]
pub(crate) struct Services {
    history: Arc<History>,
    wallet: Wallet,
    /// Transfers that somebody carries out at this moment.
    carried: Arc<Mutex<HashSet<i64>>>,
}

/// What was asked under a key, and whether that is new.
enum Kept {
    New(i64),
    Known(i64),
}

fn problem(error: impl std::fmt::Display) -> Problem {
    Problem::broken(format!("the gateway's records: {error}"))
}

fn random() -> Result<[u8; 32], Problem> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|_| Problem::broken("the system gives no random bytes"))?;
    Ok(bytes)
}

fn number(id: &str, kind: &str) -> Result<i64, Problem> {
    let not_found = || Problem::not_found(format!("no {kind} is called {id:?}"));
    let number = id
        .strip_prefix(kind.get(..3).unwrap_or_default())
        .and_then(|rest| rest.strip_prefix('-'));
    number.and_then(|n| n.parse().ok()).ok_or_else(not_found)
}

impl Services {
    pub(crate) fn new(history: Arc<History>, wallet: Wallet) -> Services {
        Services {
            history,
            wallet,
            carried: Arc::default(),
        }
    }

    /// Runs a short piece of work on the records' file off the runtime's own threads.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Problem> {
        let records = Arc::clone(self.history.records());
        let done =
            tokio::task::spawn_blocking(move || work(&records.db()).map_err(|error| problem(records.failed(error))));
        done.await.map_err(problem)?
    }

    /// Keeps what is asked for under its key; the same key with another wish is refused.
    async fn keep(
        &self,
        table: &'static str,
        key: Option<String>,
        asked: String,
        columns: Columns,
    ) -> Result<Kept, Problem> {
        let key = match key {
            Some(key) if key.is_empty() || key.chars().count() > LONGEST_KEY => {
                return Err(Problem::bad_parameter(format!(
                    "an Idempotency-Key has from 1 to {LONGEST_KEY} characters"
                )));
            }
            Some(key) => key,
            // Whoever sends none never asks again.
            None => format!("none-{}", hex::encode(random()?)),
        };
        let (kept, same) = self
            .with(move |db| {
                let query = format!("SELECT number, asked FROM {table} WHERE key = ?1");
                let known: Option<(i64, String)> =
                    db.query_row(&query, [&key], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
                if let Some((number, before)) = known {
                    return Ok((Kept::Known(number), before == asked));
                }
                match columns {
                    Columns::Invoice { memo, amount, message } => db.execute(
                        "INSERT INTO invoices (key, asked, memo, created_at, amount, message) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                        params![key, asked, memo, now() as i64, amount, message],
                    )?,
                    Columns::Transfer { reference, body } => db.execute(
                        "INSERT INTO transfers (key, asked, reference, created_at, body) VALUES (?1, ?2, ?3, ?4, ?5)",
                        params![key, asked, reference, now() as i64, body],
                    )?,
                };
                Ok((Kept::New(db.last_insert_rowid()), true))
            })
            .await?;
        match same {
            true => Ok(kept),
            false => Err(Problem::other_request(
                "another request was made with this Idempotency-Key: choose another one",
            )),
        }
    }

    // ---- invoices

    pub(crate) async fn new_invoice(&self, key: Option<String>, wanted: InvoiceWanted) -> Result<Invoice, Problem> {
        if wanted.amount <= 0 {
            return Err(Problem::bad_body("amount: at least 1 stroop is asked for"));
        }
        if wanted
            .message
            .as_ref()
            .is_some_and(|message| message.chars().count() > LONGEST_MESSAGE)
        {
            return Err(Problem::bad_body(format!(
                "message: at most {LONGEST_MESSAGE} characters"
            )));
        }
        let asked = serde_json::to_string(&wanted).map_err(problem)?;
        let memo = random()?;
        // Whatever is kept can be shown.
        let request = self.request(wanted.amount, memo, wanted.message.clone())?;
        Qr::new(&request.to_string()).map_err(|_| Problem::impossible("message: it is too long for a QR code"))?;
        let columns = Columns::Invoice {
            memo,
            amount: wanted.amount,
            message: wanted.message,
        };
        let (Kept::New(number) | Kept::Known(number)) = self.keep("invoices", key, asked, columns).await?;
        self.invoice_of(number).await
    }

    pub(crate) async fn invoice(&self, id: &str) -> Result<Invoice, Problem> {
        self.invoice_of(number(id, "invoice")?).await
    }

    async fn invoice_of(&self, number: i64) -> Result<Invoice, Problem> {
        let all = self.invoices_where("WHERE number = ?1", number).await?;
        all.into_iter()
            .next()
            .ok_or_else(|| Problem::not_found(format!("there is no invoice inv-{number}")))
    }

    pub(crate) async fn invoices(&self) -> Result<Vec<Invoice>, Problem> {
        self.invoices_where("WHERE number > ?1", 0).await
    }

    async fn invoices_where(&self, which: &'static str, number: i64) -> Result<Vec<Invoice>, Problem> {
        let rows = self
            .with(move |db| {
                let query = format!(
                    "SELECT number, memo, created_at, amount, message,
                       (SELECT coalesce(sum(amount), 0) FROM invoice_payments p WHERE p.number = invoices.number),
                       (SELECT coalesce(group_concat(hash, ' '), '') FROM invoice_payments p WHERE p.number = invoices.number)
                     FROM invoices {which}"
                );
                let mut query = db.prepare(&query)?;
                let rows = query.query_map([number], |row| {
                    Ok(InvoiceRow {
                        number: row.get(0)?,
                        memo: row.get(1)?,
                        created_at: row.get::<_, i64>(2)?,
                        amount: row.get(3)?,
                        message: row.get(4)?,
                        received: row.get(5)?,
                        paid_by: row.get(6)?,
                    })
                })?;
                rows.collect::<rusqlite::Result<Vec<_>>>()
            })
            .await?;
        rows.into_iter().map(|row| self.shown(row)).collect()
    }

    /// The request (SEP-7) of an invoice.
    fn request(&self, amount: i64, memo: [u8; 32], message: Option<String>) -> Result<PayRequest, Problem> {
        Ok(PayRequest {
            amount: Some(Stroops::new(amount).map_err(problem)?),
            asset: Some(self.wallet.asset),
            memo: Memo::Hash(memo),
            message,
            ..PayRequest::new(self.wallet.account.account(), self.wallet.settler.network())
        })
    }

    fn shown(&self, row: InvoiceRow) -> Result<Invoice, Problem> {
        let account = self.wallet.account.account();
        let uri = self.request(row.amount, row.memo, row.message.clone())?.to_string();
        let qr = Qr::new(&uri).map_err(problem)?;
        Ok(Invoice {
            id: format!("inv-{}", row.number),
            created_at: u64::try_from(row.created_at).unwrap_or(0),
            account: account_text(&account),
            amount: row.amount,
            memo: hex::encode(row.memo),
            message: row.message,
            uri,
            qr_svg: qr.svg(),
            state: match row.received {
                0 => InvoiceState::Open,
                some if some < row.amount => InvoiceState::Underpaid,
                _ => InvoiceState::Paid,
            },
            received: row.received,
            transactions: row.paid_by.split_whitespace().map(ToOwned::to_owned).collect(),
        })
    }

    /// Looks an invoice's payments up on the ledger: successful transactions with its memo that pay its account in its asset.
    pub(crate) async fn check(&self, id: &str, check: Check) -> Result<Invoice, Problem> {
        let invoice = self.invoice(id).await?;
        let memo: [u8; 32] = hex::decode(&invoice.memo)
            .ok()
            .and_then(|memo| memo.try_into().ok())
            .ok_or_else(|| problem("a memo that is none"))?;
        let account = self.wallet.account.account();
        let rail = self.wallet.settler.rail();
        let away = |error: RailError| match error {
            RailError::Unsupported => Problem::not_now("this ledger's server cannot search: name the transaction"),
            error => Problem::ledger(error.to_string()),
        };
        let found = match check.transaction {
            None => rail.payments_with_memo(account, memo).await.map_err(away)?,
            Some(text) => {
                let hash: [u8; 32] = hex::decode(&text)
                    .ok()
                    .and_then(|hash| hash.try_into().ok())
                    .ok_or_else(|| Problem::bad_body("transaction: it has 64 hexadecimal digits"))?;
                rail.payments(TxHash(hash)).await.map_err(away)?.into_iter().collect()
            }
        };
        // By the hash that stays the same when somebody wraps it: one payment counts once.
        let mut paid = BTreeMap::new();
        for transaction in found {
            if !transaction.record.successful || transaction.memo != Memo::Hash(memo) {
                continue;
            }
            let to_us = transaction
                .payments
                .iter()
                .filter(|payment| payment.to == account && payment.asset == Some(self.wallet.asset));
            let sum = to_us.map(|payment| payment.amount).sum::<Stroops>();
            if !sum.is_zero() {
                paid.insert(hex::encode(transaction.transaction.0), sum);
            }
        }
        let number = number(&invoice.id, "invoice")?;
        self.with(move |db| {
            let mut insert = db.prepare("INSERT OR IGNORE INTO invoice_payments VALUES (?1, ?2, ?3)")?;
            paid.iter()
                .try_for_each(|(hash, sum)| insert.execute(params![number, hash, sum.get()]).map(drop))
        })
        .await?;
        self.invoice_of(number).await
    }

    // ---- transfers

    pub(crate) async fn new_transfer(&self, key: Option<String>, wanted: TransferWanted) -> Result<Transfer, Problem> {
        let asked = serde_json::to_string(&wanted).map_err(problem)?;
        let body = serde_json::to_string(&self.order(wanted)?).map_err(problem)?;
        let columns = Columns::Transfer {
            reference: random()?,
            body,
        };
        let number = match self.keep("transfers", key, asked, columns).await? {
            Kept::Known(number) => number,
            Kept::New(number) => {
                self.carry(number, true);
                number
            }
        };
        self.transfer_of(number).await
    }

    /// What is to be paid: checked, as far as it can be without the ledger.
    fn order(&self, wanted: TransferWanted) -> Result<KeptOrder, Problem> {
        match wanted {
            TransferWanted::Direct(direct) => {
                parse_account(&direct.destination)
                    .map_err(|error| Problem::impossible(format!("destination: {error}")))?;
                if direct.amount <= 0 {
                    return Err(Problem::bad_body("amount: at least 1 stroop can be sent"));
                }
                if direct.memo.as_ref().is_some_and(|memo| memo.len() > 28) {
                    return Err(Problem::impossible("memo: at most 28 bytes"));
                }
                Ok(KeptOrder {
                    destination: direct.destination,
                    amount: direct.amount,
                    memo: direct.memo.map_or(KeptMemo::None, KeptMemo::Text),
                })
            }
            TransferWanted::Request(RequestToPay { uri }) => {
                let bad = |why: String| Problem::impossible(format!("uri: {why}"));
                let request = uri.parse::<Received>().map_err(|error| bad(error.to_string()))?.request;
                if request.network() != *self.wallet.settler.network() {
                    return Err(bad("it is of another network".to_owned()));
                }
                if request.asset != Some(self.wallet.asset) {
                    return Err(bad("it asks for another asset than this wallet's".to_owned()));
                }
                let amount = request.amount.filter(|amount| !amount.is_zero());
                Ok(KeptOrder {
                    destination: account_text(&request.destination),
                    amount: amount.ok_or_else(|| bad("it names no amount".to_owned()))?.get(),
                    memo: match request.memo {
                        Memo::None => KeptMemo::None,
                        Memo::Text(text) => KeptMemo::Text(text),
                        Memo::Id(id) => KeptMemo::Id(id),
                        Memo::Hash(hash) => KeptMemo::Hash(hex::encode(hash)),
                        Memo::Return(_) => {
                            return Err(bad(
                                "it wants a return memo, which is for money that comes back".to_owned()
                            ));
                        }
                    },
                })
            }
        }
    }

    pub(crate) async fn transfer(&self, id: &str) -> Result<Transfer, Problem> {
        self.transfer_of(number(id, "transfer")?).await
    }

    async fn transfer_of(&self, number: i64) -> Result<Transfer, Problem> {
        let all = self.transfers_where("WHERE number = ?1", number).await?;
        all.into_iter()
            .next()
            .ok_or_else(|| Problem::not_found(format!("there is no transfer tra-{number}")))
    }

    pub(crate) async fn transfers(&self) -> Result<Vec<Transfer>, Problem> {
        self.transfers_where("WHERE number > ?1", 0).await
    }

    async fn transfers_where(&self, which: &'static str, number: i64) -> Result<Vec<Transfer>, Problem> {
        let rows = self
            .with(move |db| {
                let query =
                    format!("SELECT number, created_at, body, state, transaction_hash, detail FROM transfers {which}");
                let mut query = db.prepare(&query)?;
                let rows = query.query_map([number], |row| {
                    let text = |column| row.get::<_, String>(column);
                    Ok((
                        row.get::<_, i64>(0)?,
                        row.get::<_, i64>(1)?,
                        text(2)?,
                        text(3)?,
                        row.get(4)?,
                        row.get(5)?,
                    ))
                })?;
                rows.collect::<rusqlite::Result<Vec<_>>>()
            })
            .await?;
        let shown = |(number, created_at, body, state, transaction, detail): (i64, i64, String, String, _, _)| {
            let order: KeptOrder = serde_json::from_str(&body).map_err(problem)?;
            Ok(Transfer {
                id: format!("tra-{number}"),
                created_at: u64::try_from(created_at).unwrap_or(0),
                destination: order.destination,
                amount: order.amount,
                memo: match order.memo {
                    KeptMemo::None => None,
                    KeptMemo::Text(text) | KeptMemo::Hash(text) => Some(text),
                    KeptMemo::Id(id) => Some(id.to_string()),
                },
                state: match state.as_str() {
                    "confirmed" => TransferState::Confirmed,
                    "failed" => TransferState::Failed,
                    "unknown" => TransferState::Unknown,
                    _ => TransferState::Pending,
                },
                transaction,
                detail,
            })
        };
        rows.into_iter().map(shown).collect()
    }

    /// Goes on with every transfer of which nobody knows yet what became of it: at the start, and now and then.
    pub(crate) async fn resume(&self) -> Result<usize, Problem> {
        let open = self
            .with(|db| {
                let mut query = db.prepare("SELECT number FROM transfers WHERE state IN ('pending', 'unknown')")?;
                let rows = query.query_map([], |row| row.get::<_, i64>(0))?;
                rows.collect::<rusqlite::Result<Vec<_>>>()
            })
            .await?;
        open.iter().for_each(|number| self.carry(*number, false));
        Ok(open.len())
    }

    /// Carries a transfer out, in a task of its own, unless one does.
    fn carry(&self, number: i64, is_first: bool) {
        let carried = |services: &Services| {
            services
                .carried
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(number)
        };
        if !carried(self) {
            return;
        }
        let services = self.clone();
        tokio::spawn(async move {
            if let Err(error) = services.carry_out(number, is_first).await {
                tracing::warn!(detail = error.detail(), "a transfer's state cannot be recorded");
            }
            services
                .carried
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&number);
        });
    }

    async fn carry_out(&self, number: i64, is_first: bool) -> Result<(), Problem> {
        let (reference, body): (Reference, String) = self
            .with(move |db| {
                let query = "SELECT reference, body FROM transfers WHERE number = ?1";
                db.query_row(query, [number], |row| Ok((row.get(0)?, row.get(1)?)))
            })
            .await?;
        let order: KeptOrder = serde_json::from_str(&body).map_err(problem)?;
        let transfer = Order {
            to: parse_account(&order.destination).map_err(problem)?,
            money: Money::Asset(self.wallet.asset, Stroops::new(order.amount).map_err(problem)?),
            memo: order.memo.memo()?,
        };
        let sent = self
            .wallet
            .settler
            .send(reference, &self.wallet.account, &transfer)
            .await;
        let (state, transaction, detail) = match sent {
            Ok(record) => ("confirmed", Some(hex::encode(record.hash.0)), None),
            Err(error) => {
                let state = if is_final(&error, is_first) {
                    "failed"
                } else {
                    "unknown"
                };
                (state, None, Some(error.to_string()))
            }
        };
        self.with(move |db| {
            db.execute(
                "UPDATE transfers SET state = ?2, transaction_hash = ?3, detail = ?4 WHERE number = ?1",
                params![number, state, transaction, detail],
            )
        })
        .await?;
        Ok(())
    }
}

/// Whether it is certain that nothing was and will be paid. What is found before anything is recorded says so only at the first try: later an earlier
/// transaction may be alive.
fn is_final(error: &WalletError, is_first: bool) -> bool {
    match error {
        WalletError::Carry(CarryError::Failed { .. } | CarryError::Expired) => true,
        WalletError::Carry(CarryError::NoAccount { .. } | CarryError::Tx(_))
        | WalletError::NoLine { .. }
        | WalletError::MemoRequired
        | WalletError::TooLittle { .. }
        | WalletError::NoMoney { .. }
        | WalletError::NoLumens { .. } => is_first,
        // A rejected transaction may be submitted by whoever saw it, as long as it is valid.
        _ => false,
    }
}

/// The columns of a new row.
enum Columns {
    Invoice {
        memo: [u8; 32],
        amount: i64,
        message: Option<String>,
    },
    Transfer {
        reference: Reference,
        body: String,
    },
}

struct InvoiceRow {
    number: i64,
    memo: [u8; 32],
    created_at: i64,
    amount: i64,
    message: Option<String>,
    received: i64,
    paid_by: String,
}

/// A transfer as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct KeptOrder {
    destination: String,
    amount: i64,
    memo: KeptMemo,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum KeptMemo {
    None,
    Text(String),
    Id(u64),
    Hash(String),
}

impl KeptMemo {
    fn memo(self) -> Result<Memo, Problem> {
        Ok(match self {
            KeptMemo::None => Memo::None,
            KeptMemo::Text(text) => Memo::Text(text),
            KeptMemo::Id(id) => Memo::Id(id),
            KeptMemo::Hash(text) => {
                let hash = hex::decode(text).ok().and_then(|hash| hash.try_into().ok());
                Memo::Hash(hash.ok_or_else(|| problem("a memo that is none"))?)
            }
        })
    }
}
