//! Claims about every route at once, drawn from the description of the API: new routes are covered without a line here.

use std::{collections::BTreeSet, fs, path::Path};

use axum::{
    body::Body,
    http::{Request, StatusCode, header},
};
use fleet_api::{Problem, TokenScope};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::{
    rest::openapi,
    test_service::{Caller, TestService},
};

/// Paths that answer without a token: those of a person who has none yet are as far as this list may grow.
const OPEN: &[&str] = &[
    "/healthz",
    "/readyz",
    "/metrics",
    "/api/v1/service-authority",
    "/api/v1/sessions",
    "/api/v1/invitation",
    "/api/v1/invitation/accept",
    "/api/v1/single-sign-on",
    "/api/v1/single-sign-on/callback",
    "/api/v1/single-sign-on/session",
];

#[test]
fn the_committed_description_is_the_one_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../api/openapi.json");
    let code = format!("{}\n", openapi().to_pretty_json().unwrap());
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        fs::write(&path, &code).unwrap();
    }
    let file = fs::read_to_string(&path).unwrap();
    assert!(
        file == code,
        "fleet/api/openapi.json is not what the code says; run `UPDATE_OPENAPI=1 cargo nextest run -p fleet-server description`"
    );
}

/// One operation of the description.
struct Operation {
    method: String,
    path: String,
    scope: Option<String>,
    has_json_body: bool,
    id: String,
}

fn operations() -> Vec<Operation> {
    let description: Value = serde_json::to_value(openapi()).unwrap();
    let mut found = Vec::new();
    for (path, item) in description["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let scope = operation["security"][0]["token"][0].as_str().map(str::to_owned);
            let has_json_body = operation["requestBody"]["content"].get("application/json").is_some();
            let id = operation["operationId"].as_str().unwrap_or_default().to_owned();
            found.push(Operation { method: method.to_uppercase(), path: path.clone(), scope, has_json_body, id });
        }
    }
    assert!(found.len() > 40, "the description lists every route");
    found
}

impl Operation {
    /// A request with names that exist nowhere.
    fn request(&self, token: Option<&str>, body: &str) -> Request<Body> {
        let mut path = self.path.clone();
        while let (Some(from), Some(to)) = (path.find('{'), path.find('}')) {
            let value = if path[from..to].contains("version") { "9.9.9" } else { "nothing" };
            path.replace_range(from..=to, value);
        }
        let mut request = Request::builder().method(self.method.as_str()).uri(path).header(header::IF_MATCH, "*");
        if self.has_json_body {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        request.body(Body::from(body.to_owned())).unwrap()
    }
}

async fn answer(service: &TestService, request: Request<Body>) -> (StatusCode, Option<Problem>) {
    let answer = service.router().oneshot(request).await.unwrap();
    let status = answer.status();
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&bytes).ok())
}

#[tokio::test]
async fn every_operation_asks_for_a_token_with_the_scope_that_it_names() {
    let service = TestService::start().await;
    for operation in operations() {
        let name = format!("{} {}", operation.method, operation.path);
        let Some(scope) = &operation.scope else {
            assert!(OPEN.contains(&operation.path.as_str()), "{name} names no scope");
            continue;
        };
        let (status, problem) = answer(&service, operation.request(None, "{}")).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{name} without a token");
        if operation.method != "HEAD" {
            assert_eq!(problem.expect("a problem").code, "token_missing", "{name}");
        }
        let others: Vec<TokenScope> = TokenScope::ALL
            .iter()
            .copied()
            .filter(|other| other.as_str() != scope && *other != TokenScope::Admin)
            .collect();
        let token = service.token("default", &others).await;
        let (status, _) = answer(&service, operation.request(Some(&token), "{}")).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{name} with every scope but {scope}");
    }
}

#[tokio::test]
async fn every_operation_refuses_tokens_that_are_wrong_revoked_or_expired() {
    let service = TestService::start().await;
    let revoked = service.revoked_token().await;
    let expired = service.expired_token().await;
    let unknown = format!("mblt_{}", "a".repeat(52));
    for operation in operations().into_iter().filter(|o| o.scope.is_some() && o.method != "HEAD") {
        for (token, code) in [
            (revoked.as_str(), "token_revoked"),
            (&expired, "token_expired"),
            (&unknown, "token_unknown"),
            ("mblt_short", "token_unknown"),
        ] {
            let (status, problem) = answer(&service, operation.request(Some(token), "{}")).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{} {}", operation.method, operation.path);
            assert_eq!(problem.expect("a problem").code, code, "{} {}", operation.method, operation.path);
        }
    }
}

#[tokio::test]
async fn every_json_body_refuses_unknown_fields_malformed_json_and_other_types() {
    let service = TestService::start().await;
    let token = service.token("default", &[TokenScope::Admin]).await;
    let oversized = format!("{{\"a\":\"{}\"}}", "x".repeat(25 << 20));
    for operation in operations().into_iter().filter(|o| o.has_json_body) {
        let name = format!("{} {}", operation.method, operation.path);
        for body in [r#"{"no_such_field":1}"#, "{", "[]", "null", "\"\u{0}\"", ""] {
            let (status, problem) = answer(&service, operation.request(Some(&token), body)).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{name} took {body:?}");
            assert_eq!(problem.expect("a problem").code, "malformed_body", "{name} {body:?}");
        }
        let mut request = operation.request(Some(&token), "{}");
        request.headers_mut().insert(header::CONTENT_TYPE, "text/plain".parse().unwrap());
        assert_eq!(answer(&service, request).await.0, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{name}");
        let (status, problem) = answer(&service, operation.request(Some(&token), &oversized)).await;
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{name}");
        assert_eq!(problem.expect("a problem").code, "too_large", "{name}");
    }
}

#[tokio::test]
async fn nobody_sends_a_text_with_nul() {
    let service = TestService::start().await;
    let token = service.token("default", &[TokenScope::Admin]).await;
    let told = "no text may hold the character U+0000";
    for operation in operations().into_iter().filter(|o| o.has_json_body) {
        for body in [r#"{"reason":"\u0000"}"#, r#"{"\u0000":1}"#] {
            let (status, problem) = answer(&service, operation.request(Some(&token), body)).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{} {}", operation.method, operation.path);
            assert_eq!(problem.expect("a problem").detail, told, "{} {}", operation.method, operation.path);
        }
    }
    let caller = Caller::with_token(&service, &token);
    let (status, problem) = caller.post("/device-edits", &json!({"filter": "", "edit": {"suspend": "\0"}})).await;
    assert_eq!((status, &problem["code"]), (StatusCode::BAD_REQUEST, &json!("malformed_body")));
    for (path, status, code) in [
        ("/jobs/%00", StatusCode::NOT_FOUND, "not_found"),
        ("/devices?filter=%00", StatusCode::BAD_REQUEST, "malformed_request"),
        ("/groups?cursor=AA", StatusCode::BAD_REQUEST, "malformed_request"),
    ] {
        let (answered, problem) = caller.get(path).await;
        assert_eq!((answered, &problem["code"]), (status, &json!(code)), "{path}");
        assert!(problem["detail"] == told || problem["field"] == "cursor", "{path}: {problem}");
    }
}

/// Operations that make something and take no key: the same enrolment again is the one that there is, and a configuration that is
/// staged twice and rolled out once does nothing more.
const SAME_AGAIN: &[&str] =
    &["create_enrolment", "stage_account_configuration", "stage_group_configuration", "stage_device_configuration"];

#[test]
fn whatever_makes_something_says_how_it_is_repeated_without_making_more() {
    let description: Value = serde_json::to_value(openapi()).unwrap();
    for (path, item) in description["paths"].as_object().unwrap() {
        let operation = &item["post"];
        let makes = [201, 202].iter().any(|status| operation["responses"].get(status.to_string()).is_some());
        let is_known = operation["security"].is_array();
        let reads_json = operation["requestBody"]["content"].get("application/json").is_some();
        if !(makes && is_known && reads_json) || SAME_AGAIN.iter().any(|name| operation["operationId"] == *name) {
            continue;
        }
        let mut named = operation["parameters"].as_array().into_iter().flatten();
        assert!(named.any(|parameter| parameter["name"] == "idempotency-key"), "{path}");
    }
}

#[tokio::test]
async fn operations_have_names_of_their_own_for_generated_clients() {
    let operations = operations();
    let ids: BTreeSet<&str> = operations.iter().map(|o| o.id.as_str()).collect();
    assert_eq!(ids.len(), operations.len());
}
