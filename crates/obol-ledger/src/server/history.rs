//! Lists of ledgers, transactions, operations, payments and effects, whole or of one account, ledger or transaction.

use axum::extract::{Path, State};
use serde_json::Value;
use stellar_xdr::{ClaimableBalanceId, Limits, ReadXdr};

use super::problem::Problem;
use super::request::{Asked, account_id, hash, sequence};
use super::{Answer, App, hal, operations as ops, resources, stream};
use crate::effects;
use crate::history::{claimable_hash, split_operation_id};
use crate::store::{Filter, Page, StoreError};

type Read = fn(&App, &Asked, Page, &Filter) -> Result<Vec<Value>, Problem>;

/// A page of a list, or a stream of it.
fn listed(app: &App, asked: Asked, filter: Filter, read: Read) -> Answer {
    let page = asked.page(app.ledger.latest().sequence)?;
    if asked.stream {
        let (app_for_source, mut cursor) = (app.clone(), page.cursor);
        if page.descending {
            return Err(Problem::not_acceptable());
        }
        return Ok(stream::events(app, page.limit, move |limit| {
            let records = read(
                &app_for_source,
                &asked,
                Page {
                    cursor,
                    descending: false,
                    limit,
                },
                &filter,
            )?;
            let token = |record: &Value| record["paging_token"].as_str().unwrap_or_default().to_owned();
            if let Some(last) = records.last().and_then(|r| token(r).parse().ok()) {
                cursor = last;
            }
            Ok(records.into_iter().map(|record| (token(&record), record)).collect())
        }));
    }
    let records = read(app, &asked, page, &filter)?;
    Ok(hal(&resources::page(&asked, records, page.limit, page.descending)))
}

fn read_ledgers(app: &App, asked: &Asked, page: Page, _: &Filter) -> Result<Vec<Value>, Problem> {
    Ok(app
        .ledger
        .ledgers(page)?
        .iter()
        .map(|record| resources::ledger(asked, record))
        .collect())
}

fn read_transactions(app: &App, asked: &Asked, page: Page, filter: &Filter) -> Result<Vec<Value>, Problem> {
    let records = app.ledger.transactions(page, filter)?;
    Ok(records
        .iter()
        .map(|record| resources::transaction(asked, record, None))
        .collect::<Result<_, StoreError>>()?)
}

fn read_operations(app: &App, asked: &Asked, page: Page, filter: &Filter) -> Result<Vec<Value>, Problem> {
    let join = match asked.get("join") {
        None => false,
        Some("transactions") => true,
        Some(_) => return Err(Problem::bad_request("join", "Accepted values: transactions")),
    };
    let records = app.ledger.operations(page, filter)?;
    Ok(records
        .iter()
        .map(|(id, record)| ops::operation(asked, *id, record, join))
        .collect::<Result<_, StoreError>>()?)
}

fn transaction_filter(asked: &Asked) -> Result<Filter, Problem> {
    Ok(Filter {
        failed: asked.flag("include_failed")?,
        ..Filter::default()
    })
}

/// The history of an account, there or gone. Of one that never was there is none.
fn account_filter(app: &App, asked: &Asked, id: &str) -> Result<Filter, Problem> {
    let account = account_id("account_id", id)?;
    let filter = Filter {
        account: Some(account),
        ..transaction_filter(asked)?
    };
    if app.ledger.account(&account).is_none() && !has_history(app, &filter)? {
        return Err(Problem::not_found());
    }
    Ok(filter)
}

/// Whether any transaction, failed or not, concerns the account or claimable balance of a filter.
fn has_history(app: &App, filter: &Filter) -> Result<bool, StoreError> {
    let any = Page {
        cursor: 0,
        descending: false,
        limit: 1,
    };
    let filter = Filter {
        failed: true,
        ..filter.clone()
    };
    Ok(!app.ledger.transactions(any, &filter)?.is_empty())
}

fn ledger_filter(app: &App, asked: &Asked, text: &str) -> Result<Filter, Problem> {
    let number = sequence(text)?;
    if app.ledger.ledger(number)?.is_none() {
        return Err(Problem::not_found());
    }
    let range = (i64::from(number) << 32, (i64::from(number) + 1) << 32);
    Ok(Filter {
        range: Some(range),
        ..transaction_filter(asked)?
    })
}

/// All operations of one transaction, failed or not: it was asked for by name.
fn one_transaction_filter(app: &App, text: &str) -> Result<Filter, Problem> {
    let record = app.ledger.transaction(&hash(text)?)?.ok_or_else(Problem::not_found)?;
    Ok(Filter {
        range: Some((record.id, record.id + 4096)),
        failed: true,
        ..Filter::default()
    })
}

/// `GET /ledgers`
pub async fn ledgers(State(app): State<App>, asked: Asked) -> Answer {
    listed(&app, asked, Filter::default(), read_ledgers)
}

/// `GET /ledgers/{sequence}`
pub async fn ledger(State(app): State<App>, Path(number): Path<String>, asked: Asked) -> Answer {
    let record = app.ledger.ledger(sequence(&number)?)?.ok_or_else(Problem::not_found)?;
    Ok(hal(&resources::ledger(&asked, &record)))
}

/// `GET /ledgers/{sequence}/transactions`
pub async fn ledger_transactions(State(app): State<App>, Path(number): Path<String>, asked: Asked) -> Answer {
    let filter = ledger_filter(&app, &asked, &number)?;
    listed(&app, asked, filter, read_transactions)
}

/// `GET /ledgers/{sequence}/operations`
pub async fn ledger_operations(State(app): State<App>, Path(number): Path<String>, asked: Asked) -> Answer {
    let filter = ledger_filter(&app, &asked, &number)?;
    listed(&app, asked, filter, read_operations)
}

/// `GET /ledgers/{sequence}/payments`
pub async fn ledger_payments(State(app): State<App>, Path(number): Path<String>, asked: Asked) -> Answer {
    let filter = Filter {
        payments: true,
        ..ledger_filter(&app, &asked, &number)?
    };
    listed(&app, asked, filter, read_operations)
}

/// `GET /ledgers/{sequence}/effects`
pub async fn ledger_effects(State(app): State<App>, Path(number): Path<String>, asked: Asked) -> Answer {
    let filter = ledger_filter(&app, &asked, &number)?;
    effect_list(&app, &asked, filter)
}

/// `GET /transactions`
pub async fn transactions(State(app): State<App>, asked: Asked) -> Answer {
    let filter = transaction_filter(&asked)?;
    listed(&app, asked, filter, read_transactions)
}

/// `GET /transactions/{hash}`
pub async fn transaction(State(app): State<App>, Path(text): Path<String>, asked: Asked) -> Answer {
    let hash = hash(&text)?;
    let record = app.ledger.transaction(&hash)?.ok_or_else(Problem::not_found)?;
    Ok(hal(&resources::transaction(&asked, &record, Some(&hash))?))
}

/// `GET /transactions/{hash}/operations`
pub async fn transaction_operations(State(app): State<App>, Path(text): Path<String>, asked: Asked) -> Answer {
    let filter = one_transaction_filter(&app, &text)?;
    listed(&app, asked, filter, read_operations)
}

/// `GET /transactions/{hash}/payments`
pub async fn transaction_payments(State(app): State<App>, Path(text): Path<String>, asked: Asked) -> Answer {
    let filter = Filter {
        payments: true,
        ..one_transaction_filter(&app, &text)?
    };
    listed(&app, asked, filter, read_operations)
}

/// `GET /transactions/{hash}/effects`
pub async fn transaction_effects(State(app): State<App>, Path(text): Path<String>, asked: Asked) -> Answer {
    let filter = one_transaction_filter(&app, &text)?;
    effect_list(&app, &asked, filter)
}

/// `GET /accounts/{id}/transactions`
pub async fn account_transactions(State(app): State<App>, Path(id): Path<String>, asked: Asked) -> Answer {
    let filter = account_filter(&app, &asked, &id)?;
    listed(&app, asked, filter, read_transactions)
}

/// `GET /accounts/{id}/operations`
pub async fn account_operations(State(app): State<App>, Path(id): Path<String>, asked: Asked) -> Answer {
    let filter = account_filter(&app, &asked, &id)?;
    listed(&app, asked, filter, read_operations)
}

/// `GET /accounts/{id}/payments`
pub async fn account_payments(State(app): State<App>, Path(id): Path<String>, asked: Asked) -> Answer {
    let filter = Filter {
        payments: true,
        ..account_filter(&app, &asked, &id)?
    };
    listed(&app, asked, filter, read_operations)
}

/// `GET /accounts/{id}/effects`
pub async fn account_effects(State(app): State<App>, Path(id): Path<String>, asked: Asked) -> Answer {
    let filter = account_filter(&app, &asked, &id)?;
    effect_list(&app, &asked, filter)
}

/// The history of a claimable balance, there or gone.
fn claimable_filter(app: &App, asked: &Asked, text: &str) -> Result<Filter, Problem> {
    let id = hex::decode(text)
        .ok()
        .and_then(|bytes| ClaimableBalanceId::from_xdr(bytes, Limits::none()).ok())
        .ok_or_else(|| Problem::bad_request("id", "must be a claimable balance's id in hexadecimal"))?;
    let filter = Filter {
        account: Some(claimable_hash(&id)),
        ..transaction_filter(asked)?
    };
    if !has_history(app, &filter)? {
        return Err(Problem::not_found());
    }
    Ok(filter)
}

/// `GET /claimable_balances/{id}/transactions`
pub async fn claimable_transactions(State(app): State<App>, Path(id): Path<String>, asked: Asked) -> Answer {
    let filter = claimable_filter(&app, &asked, &id)?;
    listed(&app, asked, filter, read_transactions)
}

/// `GET /claimable_balances/{id}/operations`
pub async fn claimable_operations(State(app): State<App>, Path(id): Path<String>, asked: Asked) -> Answer {
    let filter = claimable_filter(&app, &asked, &id)?;
    listed(&app, asked, filter, read_operations)
}

/// `GET /operations`
pub async fn operations(State(app): State<App>, asked: Asked) -> Answer {
    let filter = transaction_filter(&asked)?;
    listed(&app, asked, filter, read_operations)
}

fn operation_id(text: &str) -> Result<i64, Problem> {
    text.parse()
        .ok()
        .filter(|id| *id > 0)
        .ok_or_else(|| Problem::bad_request("id", "must be a positive number"))
}

/// `GET /operations/{id}`
pub async fn operation(State(app): State<App>, Path(id): Path<String>, asked: Asked) -> Answer {
    let id = operation_id(&id)?;
    let record = app.ledger.operation(id)?.ok_or_else(Problem::not_found)?;
    let join = asked.get("join") == Some("transactions");
    Ok(hal(&ops::operation(&asked, id, &record, join)?))
}

/// `GET /operations/{id}/effects`
pub async fn operation_effects(State(app): State<App>, Path(id): Path<String>, asked: Asked) -> Answer {
    let id = operation_id(&id)?;
    app.ledger.operation(id)?.ok_or_else(Problem::not_found)?;
    effect_list(
        &app,
        &asked,
        Filter {
            range: Some((id, id + 1)),
            ..Filter::default()
        },
    )
}

/// `GET /payments`
pub async fn payments(State(app): State<App>, asked: Asked) -> Answer {
    let filter = Filter {
        payments: true,
        ..transaction_filter(&asked)?
    };
    listed(&app, asked, filter, read_operations)
}

/// `GET /effects`
pub async fn effects(State(app): State<App>, asked: Asked) -> Answer {
    effect_list(&app, &asked, Filter::default())
}

/// Where a page of effects begins: an operation, and an effect of it. Their paging tokens are `operation-number`.
type Token = (i64, i64);

fn effect_cursor(asked: &Asked, latest: u32, descending: bool) -> Result<Token, Problem> {
    let bad = || Problem::bad_request("cursor", "cursor: invalid value");
    let last_event = asked.last_event.as_deref().filter(|_| asked.stream);
    match last_event.or(asked.get("cursor")) {
        None if descending => Ok((i64::MAX, i64::MAX)),
        None => Ok((0, 0)),
        Some("now") => Ok((((i64::from(latest) + 1) << 32) - 1, 0)),
        Some(cursor) => {
            let (id, number) = cursor.split_once('-').unwrap_or((cursor, "0"));
            match (id.parse(), number.parse()) {
                (Ok(id @ 0..), Ok(number @ 0..)) => Ok((id, number)),
                _ => Err(bad()),
            }
        }
    }
}

/// Effects are not stored: they are derived from the operations on the page.
fn read_effects(
    app: &App,
    asked: &Asked,
    after: Token,
    descending: bool,
    limit: u32,
    filter: &Filter,
) -> Result<Vec<(Token, Value)>, Problem> {
    // The operation that the cursor stands in may have more effects, so the page of operations begins with it.
    let mut cursor: i64 = if descending {
        after.0.saturating_add(1)
    } else {
        after.0 - 1
    };
    let mut records = Vec::new();
    loop {
        let page = Page {
            cursor,
            descending,
            limit: 50,
        };
        let operations = app.ledger.operations(
            page,
            &Filter {
                failed: false,
                ..filter.clone()
            },
        )?;
        for (id, record) in &operations {
            cursor = *id;
            let mut found = effects::effects(record, split_operation_id(*id).1)?;
            if descending {
                found.reverse();
            }
            for effect in found {
                let here = (*id, i64::from(effect.number));
                let wanted = if descending { here < after } else { here > after };
                let concerned = filter.account.is_none_or(|account| account == effect.account);
                if wanted && concerned {
                    records.push((here, resources::effect(asked, *id, record, &effect)));
                    if records.len() as u32 == limit {
                        return Ok(records);
                    }
                }
            }
        }
        if operations.len() < 50 {
            return Ok(records);
        }
    }
}

fn effect_list(app: &App, asked: &Asked, filter: Filter) -> Answer {
    let (descending, limit) = (asked.descending()?, asked.limit()?);
    let mut after = effect_cursor(asked, app.ledger.latest().sequence, descending)?;
    if !asked.stream {
        let records = read_effects(app, asked, after, descending, limit, &filter)?;
        let records = records.into_iter().map(|(_, record)| record).collect();
        return Ok(hal(&resources::page(asked, records, limit, descending)));
    }
    if descending {
        return Err(Problem::not_acceptable());
    }
    let (streaming, asked) = (app.clone(), asked.clone());
    Ok(stream::events(app, limit, move |limit| {
        let records = read_effects(&streaming, &asked, after, false, limit, &filter)?;
        if let Some((last, _)) = records.last() {
            after = *last;
        }
        let token = |(id, number): Token| format!("{id}-{number}");
        Ok(records
            .into_iter()
            .map(|(here, record)| (token(here), record))
            .collect())
    }))
}
