//! What is answered to a directory request: a function of the documents, the request and the time.
//!
//! | path | answer |
//! |---|---|
//! | `/tor/status-vote/current/consensus[-FLAVOUR][/FPR+FPR...]` | the consensus, if more than half of the FPRs signed it |
//! | `/tor/status-vote/current/consensus[-FLAVOUR]/diff/HASH/FPR+FPR...` | the difference from the consensus with that hash |
//! | `/tor/micro/d/D-D-...` | microdescriptors by unpadded base64 of their SHA-256 |
//! | `/tor/keys/{all,authority,fp/F+F,sk/S+S,fp-sk/F-S+F-S}` | authority certificates |
//! | `/tor/server/{all,authority,fp/F+F,d/D+D}` | server descriptors |
//! | `/tor/extra/{all,authority,fp/F+F,d/D+D}` | our own extra-info document |
//! | `/tor/robots.txt` | nothing for robots |
//!
//! `.z` after any of them means deflate. What is missing is left out; 404 only if nothing is found (*dir-spec*,
//! "General-use HTTP URLs"). A client that names older consensuses in a header gets the difference from one of them if we
//! have it, and otherwise the whole. POSTs are not answered here: only an authority takes them.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use bytes::Bytes;
use tor_netdoc::doc::netstatus::ConsensusFlavor;

use super::documents::{Consensus, Documents, Extra, RsaId};
use super::http::{Encoding, Method, Request, Response, format_date, parse_date};

/// How long after its end a consensus is still served: clients with late clocks make do with it.
const STALE: Duration = Duration::from_secs(24 * 3600);

/// Most items that one request may name. C Tor asks for up to 96, arti for up to 500 microdescriptors.
const MOST_ITEMS: usize = 1024;

/// Most consensuses that a client may say it has.
const MOST_BASES: usize = 64;

/// Answers `request` from `documents`.
pub fn answer(documents: &Documents, request: &Request, now: SystemTime) -> Response {
    if request.method != Method::Get {
        return finish(Response::empty(400, "Bad request"), now);
    }
    let (path, forced) = match request.path.strip_suffix(".z") {
        Some(path) => (path, Some(Encoding::Deflate)),
        None => (request.path.as_str(), None),
    };
    let encoding = forced.unwrap_or_else(|| Encoding::preferred(request.headers.get("Accept-Encoding")));
    if let Some(rest) = path.strip_prefix("/tor/status-vote/current/consensus") {
        return finish(consensus(documents, request, rest, encoding, now), now);
    }
    let found = find(documents, path);
    let response = match found {
        None => Response::empty(404, "Not found"),
        Some(pieces) if pieces.is_empty() => Response::empty(404, "Not found"),
        Some(pieces) => {
            let mut response = Response::empty(200, "OK");
            response.headers.push("Content-Type", "text/plain");
            response.body = pieces;
            match response.encode(encoding) {
                Ok(()) => response,
                // Compressing into memory does not fail; were it to, the truth is that we cannot serve now.
                Err(_) => Response::empty(503, "Directory busy, try again later"),
            }
        }
    };
    finish(response, now)
}

/// Adds what every answer carries.
fn finish(mut response: Response, now: SystemTime) -> Response {
    response.headers.push("Date", format_date(now));
    response
}

/// The pieces that a path names; `None` for a path that nobody knows.
fn find(documents: &Documents, path: &str) -> Option<Vec<Bytes>> {
    if let Some(list) = path.strip_prefix("/tor/micro/d/") {
        let wanted = list.split('-').take(MOST_ITEMS).filter_map(base64_digest);
        return Some(
            wanted
                .filter_map(|digest| documents.microdescriptors.get(&digest).cloned())
                .collect(),
        );
    }
    if let Some(which) = path.strip_prefix("/tor/keys/") {
        return certificates(documents, which);
    }
    if let Some(which) = path.strip_prefix("/tor/extra/") {
        return extra_infos(documents, which);
    }
    if let Some(which) = path.strip_prefix("/tor/server/") {
        return servers(documents, which);
    }
    (path == "/tor/robots.txt").then(|| vec![Bytes::from_static(b"User-agent: *\r\nDisallow: /\r\n")])
}

/// Authority certificates.
fn certificates(documents: &Documents, which: &str) -> Option<Vec<Bytes>> {
    let all = || documents.certificates.iter();
    if which == "all" || which == "authority" {
        return Some(all().map(|c| c.text.clone()).collect());
    }
    let pick = |wanted: &dyn Fn(&[u8; 20], &[u8; 20]) -> bool| {
        Some(
            all()
                .filter(|c| wanted(&c.identity, &c.signing_key))
                .map(|c| c.text.clone())
                .collect(),
        )
    };
    if let Some(list) = which.strip_prefix("fp-sk/") {
        let pairs: Vec<_> = list
            .split('+')
            .take(MOST_ITEMS)
            .filter_map(|pair| pair.split_once('-'))
            .filter_map(|(id, key)| Some((hex_id(id)?, hex_id(key)?)))
            .collect();
        return pick(&|id, key| pairs.contains(&(*id, *key)));
    }
    if let Some(list) = which.strip_prefix("fp/") {
        let ids: Vec<_> = list.split('+').take(MOST_ITEMS).filter_map(hex_id).collect();
        return pick(&|id, _| ids.contains(id));
    }
    if let Some(list) = which.strip_prefix("sk/") {
        let keys: Vec<_> = list.split('+').take(MOST_ITEMS).filter_map(hex_id).collect();
        return pick(&|_, key| keys.contains(key));
    }
    None
}

/// Extra-info documents: we keep our own.
fn extra_infos(documents: &Documents, which: &str) -> Option<Vec<Bytes>> {
    let own = documents
        .own
        .and_then(|own| Some((own, documents.servers.get(&own)?.extra_info.as_ref()?)));
    let named = |list: &str, name: &dyn Fn(RsaId, &Extra) -> RsaId| {
        let wanted: Vec<_> = list.split('+').take(MOST_ITEMS).filter_map(hex_id).collect();
        own.filter(|(id, extra)| wanted.contains(&name(*id, extra)))
    };
    let found = match which.split_once('/') {
        None if which == "all" || which == "authority" => own,
        Some(("fp", list)) => named(list, &|id, _| id),
        Some(("d", list)) => named(list, &|_, extra| extra.digest),
        _ => return None,
    };
    Some(found.into_iter().map(|(_, extra)| extra.text.clone()).collect())
}

/// Server descriptors.
fn servers(documents: &Documents, which: &str) -> Option<Vec<Bytes>> {
    if which == "all" {
        return Some(documents.servers.values().map(|s| s.text.clone()).collect());
    }
    if which == "authority" {
        let own = documents.own.and_then(|own| documents.servers.get(&own));
        return Some(own.map(|s| s.text.clone()).into_iter().collect());
    }
    if let Some(list) = which.strip_prefix("fp/") {
        let wanted = list.split('+').take(MOST_ITEMS).filter_map(hex_id);
        return Some(
            wanted
                .filter_map(|id| documents.servers.get(&id))
                .map(|s| s.text.clone())
                .collect(),
        );
    }
    if let Some(list) = which.strip_prefix("d/") {
        let wanted: Vec<_> = list.split('+').take(MOST_ITEMS).filter_map(hex_id).collect();
        let held = documents.servers.values().filter(|s| wanted.contains(&s.digest));
        return Some(held.map(|s| s.text.clone()).collect());
    }
    None
}

/// A consensus, if there is one to give.
fn consensus(documents: &Documents, request: &Request, rest: &str, encoding: Encoding, now: SystemTime) -> Response {
    let not_found = || Response::empty(404, "Not found");
    let (flavor, signers) = match rest.split_once('/') {
        Some((flavor, signers)) => (flavor, Some(signers)),
        None => (rest, None),
    };
    let flavor = match flavor {
        "-microdesc" => ConsensusFlavor::Microdesc,
        // An unknown flavour is the plain one, as C Tor has it; anything else is another path.
        flavor if flavor.is_empty() || flavor.starts_with('-') => ConsensusFlavor::Plain,
        _ => return not_found(),
    };
    let Some(document) = documents.consensus(flavor) else {
        return not_found();
    };
    let (base, signers) = match signers.and_then(|rest| rest.strip_prefix("diff/")) {
        Some(rest) => {
            let (base, signers) = rest.split_once('/').map_or((rest, None), |(base, s)| (base, Some(s)));
            (Some(base), signers)
        }
        None => (None, signers),
    };
    if now > document.valid_until + STALE || !signed_by_most(document, signers) {
        return not_found();
    }
    let diffs = documents.diffs(flavor);
    let diff = match base {
        Some(base) => match hex_digest(base).and_then(|base| diffs.from(&base)) {
            Some(diff) => Some(diff),
            None => return not_found(),
        },
        None if has_it_already(document, request) => return Response::empty(304, "Not modified"),
        None => bases(request).find_map(|base| diffs.from(&base)),
    };
    let Ok(body) = diff.map_or_else(|| document.encoded(encoding), |diff| diff.encoded(encoding)) else {
        return Response::empty(503, "Directory busy, try again later");
    };
    let mut response = Response::empty(200, "OK");
    response.headers.push("Content-Type", "text/plain");
    response.headers.push("Expires", format_date(document.fresh_until));
    response
        .headers
        .push("Last-Modified", format_date(document.valid_after));
    response.headers.push("Vary", "X-Or-Diff-From-Consensus");
    if let Some(name) = encoding.name() {
        response.headers.push("Content-Encoding", name);
    }
    response.body.push(body);
    response
}

/// Whether more than half of the authorities that the client believes in signed. Names may be shortened hex.
fn signed_by_most(document: &Consensus, asked: Option<&str>) -> bool {
    let Some(asked) = asked.filter(|list| !list.is_empty()) else {
        return true;
    };
    let asked: Vec<String> = asked.split('+').take(MOST_ITEMS).map(str::to_ascii_lowercase).collect();
    let signed = |prefix: &String| {
        document
            .signers
            .iter()
            .any(|id| hex::encode(id).starts_with(prefix.as_str()))
    };
    let count = asked.iter().filter(|prefix| signed(prefix)).count();
    count > asked.len() / 2
}

/// Whether the client says that it holds just this document.
fn has_it_already(document: &Consensus, request: &Request) -> bool {
    let since = request.headers.get("If-Modified-Since").and_then(parse_date);
    since.is_some_and(|since| document.valid_after <= since) || bases(request).any(|base| base == document.digest)
}

/// The consensuses that the client has, by SHA3-256 of their signed parts.
fn bases(request: &Request) -> impl Iterator<Item = [u8; 32]> {
    let named = request.headers.get("X-Or-Diff-From-Consensus").unwrap_or_default();
    named
        .split([',', ' '])
        .filter(|name| !name.is_empty())
        .take(MOST_BASES)
        .filter_map(hex_digest)
}

/// Sixty-four hexadecimal digits.
fn hex_digest(text: &str) -> Option<[u8; 32]> {
    hex::decode(text).ok()?.try_into().ok()
}

/// Forty hexadecimal digits.
fn hex_id(text: &str) -> Option<[u8; 20]> {
    hex::decode(text).ok()?.try_into().ok()
}

/// Forty-three characters of base64, with or without padding.
fn base64_digest(text: &str) -> Option<[u8; 32]> {
    let decoded = if text.ends_with('=') {
        STANDARD.decode(text)
    } else {
        STANDARD_NO_PAD.decode(text)
    };
    decoded.ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::super::documents::Server;
    use super::*;

    fn documents() -> (Documents, [u8; 32]) {
        let mut documents = Documents::default();
        let digest = documents.add_microdescriptor(Bytes::from_static(b"onion-key\nntor-onion-key x\n"));
        documents.servers.insert(
            [1; 20],
            Server::new(Bytes::from_static(b"router a\nrouter-signature\nsig\n")),
        );
        documents.servers.insert(
            [2; 20],
            Server::new(Bytes::from_static(b"router b\nrouter-signature\nsig\n")),
        );
        documents.own = Some([2; 20]);
        (documents, digest)
    }

    fn ask(documents: &Documents, path: &str) -> Response {
        answer(documents, &Request::get(path), SystemTime::now())
    }

    #[test]
    fn microdescriptors_are_found_by_digest_and_missing_ones_are_left_out() {
        let (documents, digest) = documents();
        let name = STANDARD_NO_PAD.encode(digest);
        let other = STANDARD_NO_PAD.encode([7; 32]);
        let answer = ask(&documents, &format!("/tor/micro/d/{other}-{name}"));
        assert_eq!(
            (answer.status, answer.concat()),
            (200, b"onion-key\nntor-onion-key x\n".to_vec())
        );
        assert_eq!(ask(&documents, &format!("/tor/micro/d/{other}")).status, 404);
    }

    #[test]
    fn server_descriptors_are_found_by_identity_by_digest_and_as_our_own() {
        let (documents, _) = documents();
        let digest = hex::encode_upper(documents.servers[&[1; 20]].digest);
        assert_eq!(
            ask(&documents, &format!("/tor/server/d/{digest}")).concat(),
            &documents.servers[&[1; 20]].text[..]
        );
        let both = ask(
            &documents,
            &format!("/tor/server/fp/{}+{}", "02".repeat(20), "01".repeat(20)),
        );
        assert_eq!(both.len(), ask(&documents, "/tor/server/all").len());
        assert_eq!(
            ask(&documents, "/tor/server/authority").concat(),
            &documents.servers[&[2; 20]].text[..]
        );
        assert_eq!(ask(&documents, "/tor/server/fp/zz").status, 404);
    }

    #[test]
    fn our_own_extra_info_document_is_found_by_all_its_names() {
        let (mut documents, _) = documents();
        assert_eq!(ask(&documents, "/tor/extra/authority").status, 404);
        let text = Bytes::from_static(b"extra-info b\nrouter-signature\nsig\n");
        documents.servers.get_mut(&[2; 20]).unwrap().extra_info = Some(Extra {
            digest: [9; 20],
            text: text.clone(),
        });
        let (fingerprint, digest) = ("02".repeat(20), "09".repeat(20));
        for name in [
            "all",
            "authority",
            &format!("fp/{fingerprint}"),
            &format!("d/00+{digest}"),
        ] {
            assert_eq!(
                ask(&documents, &format!("/tor/extra/{name}")).concat(),
                &text[..],
                "{name}"
            );
        }
        for name in ["fp/00", &format!("fp/{digest}"), &format!("d/{fingerprint}"), "", "x"] {
            assert_eq!(ask(&documents, &format!("/tor/extra/{name}")).status, 404, "{name}");
        }
    }

    #[test]
    fn a_path_that_ends_in_z_is_answered_with_deflate() {
        let (documents, _) = documents();
        let answer = ask(&documents, "/tor/server/all.z");
        assert_eq!(answer.headers.get("content-encoding"), Some("deflate"));
        assert_eq!(answer.status, 200);
    }

    #[test]
    fn without_a_consensus_the_answer_is_not_found_and_posts_are_refused() {
        let (documents, _) = documents();
        assert_eq!(
            ask(&documents, "/tor/status-vote/current/consensus-microdesc").status,
            404
        );
        assert_eq!(ask(&documents, "/tor/status-vote/next/authority").status, 404);
        let mut post = Request::get("/tor/hs/3/publish");
        post.method = Method::Post;
        assert_eq!(answer(&documents, &post, SystemTime::now()).status, 400);
    }

    proptest::proptest! {
        #[test]
        fn no_path_makes_it_panic(path in "/tor/(micro/d/|keys/fp-sk/|keys/|server/d/|server/|status-vote/current/consensus)?.{0,80}") {
            let (documents, _) = documents();
            let status = ask(&documents, &path).status;
            proptest::prop_assert!(status == 200 || status == 404);
        }
    }
}
