//! One account is out of another's reach: every operation of the description, with the names of things that another account has. A
//! route that names a thing of a new kind fails here until `TestService::fill` makes one.

use std::collections::BTreeMap;

use axum::{
    body::Body,
    http::{Request, StatusCode, header},
};
use fleet_api::{ACCOUNT_HEADER, TokenScope, UPLOAD_OFFSET};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::{rest::openapi, test_service::TestService};

/// Operations that make what is not there, in the account of the caller. This list may only shrink.
const MAKES_ITS_OWN: &[&str] = &["save_policy"];
const EVERYTHING: &[TokenScope] =
    &[TokenScope::Read, TokenScope::Operate, TokenScope::Publish, TokenScope::Enrol, TokenScope::Admin];

/// An operation that asks for a token.
struct Operation {
    id: String,
    scope: String,
    method: String,
    path: String,
    /// Content type of the body and the least that its schema asks for.
    body: Option<(String, Value)>,
}

fn operations() -> Vec<Operation> {
    let description: Value = serde_json::to_value(openapi()).unwrap();
    let mut found = Vec::new();
    for (path, item) in description["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if operation["security"].is_null() {
                continue;
            }
            let body = operation["requestBody"]["content"].as_object().and_then(|content| content.iter().next());
            let body = body.map(|(kind, form)| (kind.clone(), least(&description, &form["schema"])));
            let id = operation["operationId"].as_str().unwrap().to_owned();
            let scope = operation["security"][0]["token"][0].as_str().unwrap().to_owned();
            found.push(Operation { id, scope, method: method.to_uppercase(), path: path.clone(), body });
        }
    }
    assert!(found.len() > 60, "the description lists every route");
    found
}

/// The least value of a schema: an object with the fields that it must have.
fn least(description: &Value, schema: &Value) -> Value {
    if let Some(name) = schema["$ref"].as_str().and_then(|name| name.strip_prefix("#/components/schemas/")) {
        return least(description, &description["components"]["schemas"][name]);
    }
    let kind = schema["type"].as_str().or_else(|| schema["type"][0].as_str()).unwrap_or("object");
    match kind {
        "object" => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            required.map(|field| (field.to_owned(), least(description, &schema["properties"][field]))).collect()
        }
        "array" => json!([]),
        "boolean" => json!(true),
        "integer" | "number" => json!(1),
        _ => schema["enum"].get(0).cloned().unwrap_or_else(|| json!("a")),
    }
}

impl Operation {
    fn names_a_thing(&self) -> bool {
        self.path.contains('{')
    }

    /// The path with the names of things that are there.
    fn path_to(&self, things: &BTreeMap<&'static str, String>) -> String {
        let (mut path, mut rest) = (String::new(), self.path.as_str());
        // What belongs to a thing is named after it: `/devices/{endpoint}/commands/{id}`.
        while let Some((before, named)) = rest.split_once("/{") {
            let collection = before.strip_prefix("/api/v1/").unwrap_or_else(|| before.trim_start_matches('/'));
            let (_, after) = named.split_once('}').unwrap();
            let thing =
                things.get(collection).unwrap_or_else(|| panic!("TestService::fill makes nothing for {}", self.path));
            path += &format!("{before}/{thing}");
            rest = after;
        }
        path + rest
    }

    fn request(&self, path: &str, token: &str, account: Option<&str>) -> Request<Body> {
        // Whatever the revision is: a refusal must not come from a header that is missing.
        let mut request = Request::builder().method(self.method.as_str()).uri(path).header(header::IF_MATCH, "*");
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        if let Some(account) = account {
            request = request.header(ACCOUNT_HEADER, account);
        }
        let body = match &self.body {
            Some((kind, body)) => {
                request = request.header(header::CONTENT_TYPE, kind.as_str()).header(UPLOAD_OFFSET, 0);
                if kind == "application/json" { Body::from(body.to_string()) } else { Body::from("bytes") }
            }
            None => Body::empty(),
        };
        request.body(body).unwrap()
    }
}

async fn answer(service: &TestService, request: Request<Body>) -> (StatusCode, String) {
    let answer = service.router().oneshot(request).await.unwrap();
    let status = answer.status();
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&bytes).into_owned())
}

/// What an account is, as far as anybody could change it.
async fn picture(service: &TestService, things: &BTreeMap<&'static str, String>, token: &str) -> Vec<String> {
    let account = service.account("other").await;
    let mut seen = vec![format!("{:?} {:?}", account.last_event().await, account.audit_after(0, 1000).await)];
    // Whatever asks for more than to read may leave a trace of its own.
    let looks = |o: &&Operation| o.method == "GET" && o.names_a_thing() && (o.scope == "read" || o.scope == "admin");
    for operation in operations().iter().filter(looks) {
        let path = operation.path_to(things);
        let (status, body) = answer(service, operation.request(&path, token, None)).await;
        assert_eq!(status, StatusCode::OK, "{path} in its own account: {body}");
        // When a token was last used is no change of anybody's.
        seen.push(if operation.id == "show_token" { path } else { body });
    }
    seen
}

#[tokio::test]
async fn what_another_account_has_is_out_of_reach_of_every_operation() {
    let service = TestService::start().await;
    let things = service.fill("other").await;
    let stranger = service.token("stranger", EVERYTHING).await;
    let own = service.token("other", EVERYTHING).await;
    let before = picture(&service, &things, &own).await;
    let mut walked = 0;
    for operation in operations().iter().filter(|operation| operation.names_a_thing()) {
        let path = operation.path_to(&things);
        let (status, body) = answer(&service, operation.request(&path, &stranger, None)).await;
        let name = format!("{} {path}: {body}", operation.method);
        if MAKES_ITS_OWN.contains(&operation.id.as_str()) {
            assert!(!status.is_server_error(), "{name}");
        } else {
            assert_eq!(status, StatusCode::NOT_FOUND, "{name}");
        }
        walked += 1;
    }
    assert!(walked > 30, "{walked} operations name a thing");
    assert_eq!(picture(&service, &things, &own).await, before, "nothing of the other account has changed");
}

#[tokio::test]
async fn no_operation_enters_another_account_by_its_name() {
    let service = TestService::start().await;
    let things = service.fill("other").await;
    let stranger = service.token("stranger", EVERYTHING).await;
    let own = service.token("other", EVERYTHING).await;
    let before = picture(&service, &things, &own).await;
    for operation in operations() {
        let path = operation.path_to(&things);
        let (status, body) = answer(&service, operation.request(&path, &stranger, Some("other"))).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{} {path} in `other`: {body}", operation.method);
    }
    assert_eq!(picture(&service, &things, &own).await, before, "nothing of the other account has changed");
}

#[tokio::test]
async fn no_list_of_an_account_shows_what_another_has() {
    let service = TestService::start().await;
    let things = service.fill("other").await;
    let stranger = service.token("stranger", EVERYTHING).await;
    let lists = operations().into_iter().filter(|o| o.method == "GET" && !o.names_a_thing());
    // A stream has no end to wait for; the stories that it tells are those of `list_events`.
    for operation in lists.filter(|operation| operation.id != "follow_events") {
        let (status, body) = answer(&service, operation.request(&operation.path, &stranger, None)).await;
        assert!(!status.is_server_error(), "{}: {body}", operation.path);
        for collection in ["devices", "artifacts", "groups", "tokens"] {
            let name = format!("\"{}\"", things[collection]);
            assert!(!body.contains(&name), "{} shows {name} of another account: {body}", operation.path);
        }
    }
}
