//! Reads what a request carries: JSON body, path, query and conditional headers. Each refusal names the place.
//!
//! No text holds U+0000, wherever it stands: PostgreSQL keeps it in none.

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{HeaderMap, header, request::Parts},
};
use fleet_api::ProblemCode;
use fleet_store::RequestKey;
use protocol_types::Hasher;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::{
    fleet::Fleet,
    rest::{Refusal, Reply},
};

/// Longest `Idempotency-Key`, in bytes.
const KEY_BYTES: usize = 128;
/// How paths and queries write U+0000; nothing else in them has these characters.
const NUL_IN_ADDRESS: &str = "%00";
const NUL_REFUSED: &str = "no text may hold the character U+0000";

/// A JSON body and, if the caller sent one, the `Idempotency-Key` bound to it.
pub(crate) struct Body<T> {
    pub(crate) value: T,
    pub(crate) key: Option<RequestKey>,
}

impl<T: DeserializeOwned> FromRequest<Fleet> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, fleet: &Fleet) -> Reply<Self> {
        let content_type =
            request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        if content_type.split(';').next().map(str::trim) != Some("application/json") {
            return Err(Refusal::new(ProblemCode::UnsupportedMediaType, "the body must be `application/json`"));
        }
        let key = idempotency_key(request.headers())?;
        let place = format!("{} {}\n", request.method(), request.uri().path());
        let bytes = arrived(request, fleet).await?;
        let key = key.map(|key| {
            let mut hasher = Hasher::new();
            hasher.update(place.as_bytes());
            hasher.update(&bytes);
            RequestKey { key, request: hasher.finish() }
        });
        Ok(Self { value: parse(&bytes)?, key })
    }
}

async fn arrived(request: Request, fleet: &Fleet) -> Reply<Bytes> {
    match timeout(fleet.config.limits.slow_sender(), Bytes::from_request(request, fleet)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(e)) if e.status() == http::StatusCode::PAYLOAD_TOO_LARGE => {
            Err(Refusal::new(ProblemCode::TooLarge, "the body is longer than this request may be"))
        }
        Ok(Err(_)) => Err(Refusal::new(ProblemCode::MalformedBody, "the body broke off")),
        Err(_) => Err(Refusal::new(ProblemCode::TooSlow, "the body did not arrive in time")),
    }
}

/// Reads a JSON object; unknown fields are refused by the types themselves.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Reply<T> {
    // serde would also take a list of the fields' values, without their names.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(Refusal::new(ProblemCode::MalformedBody, "the body must be a JSON object"));
    }
    if writes_nul(bytes) {
        return Err(Refusal::new(ProblemCode::MalformedBody, NUL_REFUSED));
    }
    serde_json::from_slice(bytes).map_err(|error| {
        // serde names at most one unknown field; the rest of its sentence may repeat what was sent, so it is bounded.
        let detail: String = error.to_string().chars().filter(|c| !c.is_control()).take(300).collect();
        let refusal = Refusal::new(ProblemCode::MalformedBody, detail.clone());
        match detail.split('`').nth(1) {
            Some(field) if error.is_data() && field.len() <= 64 => Refusal::from(refusal.0.in_field(field)),
            Some(_) | None => refusal,
        }
    })
}

/// Whether a JSON text has U+0000 in a string. JSON has one spelling for it.
fn writes_nul(json: &[u8]) -> bool {
    let mut rest = json;
    while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
        let escape = &rest[at + 1..];
        if escape.starts_with(b"u0000") {
            return true;
        }
        // What is escaped may be another backslash.
        rest = escape.get(1..).unwrap_or_default();
    }
    false
}

/// The `Idempotency-Key` of a request.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Reply<Option<String>> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    match value.to_str() {
        Ok(key) if (1..=KEY_BYTES).contains(&key.len()) => Ok(Some(key.to_owned())),
        Ok(_) | Err(_) => Err(Refusal::new(
            ProblemCode::MalformedRequest,
            format!("`Idempotency-Key` must have 1 to {KEY_BYTES} printable ASCII characters"),
        )),
    }
}

const TITLE_CHARACTERS: usize = 200;

/// What people call something.
pub(crate) fn titled(title: &str) -> Reply<&str> {
    if title.chars().count() > TITLE_CHARACTERS {
        return Err(Refusal::value("title", format!("a title has at most {TITLE_CHARACTERS} characters")));
    }
    Ok(title)
}

/// Parts of the path.
pub(crate) struct Segments<T>(pub(crate) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Fleet> for Segments<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, fleet: &Fleet) -> Reply<Self> {
        // A name that breaks the rules of its kind names nothing that exists.
        if parts.uri.path().contains(NUL_IN_ADDRESS) {
            return Err(Refusal::new(ProblemCode::NotFound, NUL_REFUSED));
        }
        let Path(value) = Path::from_request_parts(parts, fleet)
            .await
            .map_err(|e| Refusal::new(ProblemCode::NotFound, bounded(&e.body_text())))?;
        Ok(Self(value))
    }
}

/// Parameters after the `?`; unknown ones are refused by the types themselves.
pub(crate) struct Parameters<T>(pub(crate) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Fleet> for Parameters<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, fleet: &Fleet) -> Reply<Self> {
        if parts.uri.query().is_some_and(|query| query.contains(NUL_IN_ADDRESS)) {
            return Err(Refusal::new(ProblemCode::MalformedRequest, NUL_REFUSED));
        }
        let Query(value) = Query::from_request_parts(parts, fleet)
            .await
            .map_err(|e| Refusal::new(ProblemCode::MalformedRequest, bounded(&e.body_text())))?;
        Ok(Self(value))
    }
}

fn bounded(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

/// The revision that `If-Match` names; changes to a resource at another revision are refused. A request must have the header (RFC
/// 6585, section 3), so that nobody overwrites what they have not seen unless they say so: `*` stands for whatever the revision is.
pub(crate) struct IfMatch(pub(crate) Option<i64>);

impl FromRequestParts<Fleet> for IfMatch {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &Fleet) -> Reply<Self> {
        match matched(parts)? {
            Match::Revision(revision) => Ok(Self(Some(revision))),
            Match::Any => Ok(Self(None)),
            Match::Absent => Err(Refusal::new(ProblemCode::PreconditionRequired, "the request has no `If-Match`")),
        }
    }
}

/// As [`IfMatch`], where the request also makes what is not there: without the header it is to be new, at revision 0.
pub(crate) struct IfMatchOrNew(pub(crate) Option<i64>);

impl FromRequestParts<Fleet> for IfMatchOrNew {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &Fleet) -> Reply<Self> {
        Ok(Self(match matched(parts)? {
            Match::Revision(revision) => Some(revision),
            Match::Any => None,
            Match::Absent => Some(0),
        }))
    }
}

/// As [`IfMatch`], where the header may be left out: asking again does no harm.
pub(crate) struct MayMatch(pub(crate) Option<i64>);

impl FromRequestParts<Fleet> for MayMatch {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &Fleet) -> Reply<Self> {
        Ok(Self(match matched(parts)? {
            Match::Revision(revision) => Some(revision),
            Match::Any | Match::Absent => None,
        }))
    }
}

/// What `If-Match` asks for (RFC 9110, section 13.1.1); every resource here has one revision at a time.
enum Match {
    Revision(i64),
    Any,
    Absent,
}

fn matched(parts: &Parts) -> Reply<Match> {
    let Some(value) = parts.headers.get(header::IF_MATCH) else { return Ok(Match::Absent) };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(Match::Any);
    }
    let revision = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).and_then(|t| t.parse().ok());
    revision
        .map(Match::Revision)
        .ok_or_else(|| Refusal::new(ProblemCode::Stale, "`If-Match` is no `ETag` that this service has given"))
}

/// The `ETag` of a revision.
pub(crate) fn etag(revision: i64) -> [(header::HeaderName, String); 1] {
    [(header::ETAG, format!("\"{revision}\""))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backslash_that_is_escaped_itself_makes_no_nul() {
        for (json, expected) in [
            (r#"{"a":"\u0000"}"#, true),
            (r#"{"\u0000":1}"#, true),
            (r#"{"a":"\\\u0000"}"#, true),
            (r#"{"a":"\\u0000"}"#, false),
            (r#"{"a":"\u0001 u0000"}"#, false),
            (r#"{"a":"\"#, false),
        ] {
            assert_eq!(writes_nul(json.as_bytes()), expected, "{json}");
        }
    }
}
