//! Long answers, page by page.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;

use crate::problem::Problem;

const USUAL: u16 = 50;
const MOST: u16 = 200;

/// The query's parameters; what cannot be read is a problem document.
pub(crate) struct Params<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Params<T>, Problem> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(params)) => Ok(Params(params)),
            Err(rejection) => Err(Problem::bad_parameter(rejection.body_text())),
        }
    }
}

/// Which end comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// The newest.
    #[default]
    Desc,
    /// The oldest.
    Asc,
}

/// Which part of a long answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// At most so many records.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<u16>,
    /// Where the last page ended: its `next`.
    cursor: Option<String>,
    /// Which end comes first.
    #[serde(default)]
    #[param(inline, required = false)]
    order: Order,
    /// Records of this time and later, unix seconds.
    from: Option<u64>,
    /// Records before this time, unix seconds.
    to: Option<u64>,
}

/// A part of a long answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Page<T> {
    /// They.
    pub records: Vec<T>,
    /// What to ask for as `cursor` to go on; `null`: these were the last.
    pub next: Option<String>,
}

/// Where a record stands: its time, and what tells it from others of that time.
pub(crate) type Place = (u64, String);

fn cursor_text((at, key): &Place) -> String {
    format!("{at}.{key}")
}

fn cursor_place(text: &str) -> Option<Place> {
    let (at, key) = text.split_once('.')?;
    Some((at.parse().ok()?, key.to_owned()))
}

/// A number as a key: of the same order as the number.
pub(crate) fn number_key(number: u64) -> String {
    format!("{number:020}")
}

/// The page of `all` that is asked for.
pub(crate) fn page<T>(query: &PageQuery, all: Vec<T>, place: impl Fn(&T) -> Place) -> Result<Page<T>, Problem> {
    let limit = query.limit.unwrap_or(USUAL);
    if !(1..=MOST).contains(&limit) {
        return Err(Problem::bad_parameter(format!(
            "limit is {limit}: from 1 to {MOST} is possible"
        )));
    }
    let after =
        match &query.cursor {
            None => None,
            Some(text) => Some(cursor_place(text).ok_or_else(|| {
                Problem::impossible("cursor is none that was given out: take `next` of the last page")
            })?),
        };
    let (from, to) = (query.from.unwrap_or(0), query.to.unwrap_or(u64::MAX));
    let asked = [query.from, query.to].into_iter().flatten();
    if let Some(time) = asked.max().filter(|time| *time > i64::MAX.unsigned_abs()) {
        return Err(Problem::bad_parameter(format!(
            "{time} is no time: unix seconds are asked for"
        )));
    }
    let mut placed: Vec<(Place, T)> = all
        .into_iter()
        .map(|record| (place(&record), record))
        .filter(|((at, _), _)| (from..to).contains(at))
        .collect();
    placed.sort_by(|(a, _), (b, _)| match query.order {
        Order::Asc => a.cmp(b),
        Order::Desc => b.cmp(a),
    });
    if let Some(after) = after {
        placed.retain(|(place, _)| match query.order {
            Order::Asc => *place > after,
            Order::Desc => *place < after,
        });
    }
    let more = placed.len() > usize::from(limit);
    placed.truncate(limit.into());
    let next = placed.last().filter(|_| more).map(|(place, _)| cursor_text(place));
    Ok(Page {
        records: placed.into_iter().map(|(_, record)| record).collect(),
        next,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pages_together_are_everything_once_in_order(
            times in prop::collection::vec(0u64..20, 0..60),
            limit in 1u16..10,
            asc: bool,
        ) {
            let all: Vec<(u64, usize)> = times.into_iter().enumerate().map(|(i, at)| (at, i)).collect();
            let place = |record: &(u64, usize)| (record.0, number_key(record.1 as u64));
            let order = if asc { Order::Asc } else { Order::Desc };
            let mut query = PageQuery { limit: Some(limit), order, ..PageQuery::default() };
            let mut got = Vec::new();
            loop {
                let page = page(&query, all.clone(), place).unwrap();
                prop_assert!(page.records.len() <= limit.into());
                got.extend(page.records);
                match page.next {
                    Some(next) => query.cursor = Some(next),
                    None => break,
                }
            }
            let mut expected = all;
            expected.sort();
            if !asc {
                expected.reverse();
            }
            prop_assert_eq!(got, expected);
        }
    }

    #[test]
    fn a_page_is_of_its_span_and_bad_wishes_are_named() {
        let all: Vec<u64> = (0..10).collect();
        let ask = |query: PageQuery| page(&query, all.clone(), |at| (*at, number_key(*at)));
        let span = PageQuery {
            from: Some(3),
            to: Some(6),
            ..PageQuery::default()
        };
        assert_eq!(ask(span).unwrap().records, [5, 4, 3]);
        let none = PageQuery {
            limit: Some(0),
            ..PageQuery::default()
        };
        assert!(ask(none).is_err());
        let beyond = PageQuery {
            to: Some(1 << 63),
            ..PageQuery::default()
        };
        assert!(ask(beyond).is_err());
        let odd = PageQuery {
            cursor: Some("x".to_owned()),
            ..PageQuery::default()
        };
        assert!(ask(odd).is_err());
    }
}
