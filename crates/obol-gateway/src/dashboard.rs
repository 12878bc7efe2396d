//! The dashboard: one static bundle, in the program itself.

use axum::Router;
use axum::extract::Path;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::problem::Problem;

/// Nothing from elsewhere, nothing inline, and no page around it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const INDEX: &str = include_str!("../dashboard/index.html");

macro_rules! files {
    ($($name:literal)*) => {
        /// Every file that the page names.
        const FILES: &[(&str, &str)] = &[$(($name, include_str!(concat!("../dashboard/", $name)))),*];
    };
}

files! {
    "style.css" "api.js" "app.js" "charts.js" "common.js" "dom.js" "escrows.js" "format.js" "history.js" "json.js" "log.js"
    "money.js" "operator.js" "paging.js" "scale.js" "sse.js" "store.js" "user.js"
}

/// `/` and what it names.
pub(crate) fn routes() -> Router {
    Router::new()
        .route("/", get(|| async { shown("text/html; charset=utf-8", INDEX) }))
        .route("/dashboard/{name}", get(file))
}

async fn file(Path(name): Path<String>) -> Result<Response, Problem> {
    let found = FILES.iter().find(|(known, _)| *known == name);
    let (name, text) = found.ok_or_else(|| Problem::not_found("the dashboard has no such file"))?;
    let kind = match name.ends_with(".css") {
        true => "text/css; charset=utf-8",
        false => "text/javascript; charset=utf-8",
    };
    Ok(shown(kind, text))
}

fn shown(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (CONTENT_TYPE, kind),
        (CACHE_CONTROL, "no-cache"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    (headers, text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_file_of_the_bundle_is_served_and_no_other() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/dashboard");
        let there: BTreeSet<String> = std::fs::read_dir(directory)
            .expect("the bundle is there")
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.ends_with(".js") || name.ends_with(".css"))
            .collect();
        let served: BTreeSet<String> = FILES.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(served, there);
    }
}
