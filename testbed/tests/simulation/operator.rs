//! Whoever runs the accounts: speaks JSON to the REST API and repeats what a service that died did not answer.

use std::time::Duration;

use hyper::{
    Method, StatusCode,
    http::{Request, header},
};
use serde_json::Value;
use tokio::time::sleep;

use crate::service::Service;

/// Between two tries to reach a service that is down.
const AGAIN: Duration = Duration::from_secs(30);

/// Somebody with a token.
#[derive(Clone)]
pub(crate) struct Operator {
    service: Service,
    token: String,
}

impl Operator {
    pub(crate) const fn new(service: Service, token: String) -> Self {
        Self { service, token }
    }

    /// The same service for whoever has another token.
    pub(crate) fn with_token(&self, token: &str) -> Self {
        Self { service: self.service.clone(), token: token.to_owned() }
    }

    /// Sends until the service answers.
    async fn send(&self, make: impl Fn() -> Request<Vec<u8>>) -> (StatusCode, Value) {
        loop {
            let mut request = make();
            let bearer = format!("Bearer {}", self.token).parse().expect("a token is a header");
            request.headers_mut().insert(header::AUTHORIZATION, bearer);
            if let Ok(answer) = self.service.request(request).await
                && answer.status() != StatusCode::SERVICE_UNAVAILABLE
            {
                let value = serde_json::from_slice(answer.body()).unwrap_or(Value::Null);
                return (answer.status(), value);
            }
            sleep(AGAIN).await;
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let request = || Request::get(format!("/api/v1{path}")).body(Vec::new()).expect("a request");
        let (status, answer) = self.send(request).await;
        assert!(status.is_success(), "GET {path}: {status} {answer}");
        answer
    }

    /// Posts; `key` makes it safe to repeat. Answers whatever the service says.
    pub(crate) async fn try_post(&self, path: &str, body: Option<&Value>, key: Option<&str>) -> (StatusCode, Value) {
        let request = || {
            let mut request = Request::builder().method(Method::POST).uri(format!("/api/v1{path}"));
            if let Some(key) = key {
                request = request.header("idempotency-key", key);
            }
            match body {
                Some(body) => request
                    .header(header::CONTENT_TYPE, "application/json")
                    .body(serde_json::to_vec(body).expect("JSON"))
                    .expect("a request"),
                None => request.body(Vec::new()).expect("a request"),
            }
        };
        self.send(request).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value, key: Option<&str>) -> Value {
        let (status, answer) = self.try_post(path, Some(body), key).await;
        assert!(status.is_success(), "POST {path}: {status} {answer}");
        answer
    }

    /// Uploads an artifact in one piece.
    pub(crate) async fn upload(&self, digest: &str, hex: &str, bytes: &[u8]) {
        let asked = serde_json::json!({ "digest": digest, "size": bytes.len() });
        let answer = self.post("/artifacts", &asked, None).await;
        if answer["complete"] == Value::Bool(true) {
            return;
        }
        let request = || {
            Request::patch(format!("/api/v1/artifacts/{hex}"))
                .header(header::CONTENT_TYPE, fleet_api::UPLOAD_CONTENT_TYPE)
                .header(fleet_api::UPLOAD_OFFSET, 0)
                .body(bytes.to_vec())
                .expect("a request")
        };
        let (status, answer) = self.send(request).await;
        // A service that died behind the last byte says so of a second try.
        assert!(status.is_success() || status == StatusCode::CONFLICT, "PATCH {hex}: {status} {answer}");
    }
}
