//! Addresses that ask without a token, asked of the whole API: how often they may, and who is not held up by them.

use std::net::{IpAddr, SocketAddr};

use axum::{
    body::Body,
    http::{Request, StatusCode, header},
    response::Response,
};
use fleet_api::TokenScope;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::{rest::gate::Peer, test_service::TestService};

/// Room for two tries that are refused, and for one more each six minutes.
async fn service(proxies: &[&str]) -> TestService {
    TestService::start_with(|config| {
        config.limits.open_requests_per_minute = 1;
        config.limits.open_burst = 12;
        config.proxies.trusted = proxies.iter().map(|text| text.parse().unwrap()).collect();
    })
    .await
}

fn from(peer: &str, mut request: Request<Body>) -> Request<Body> {
    let peer: IpAddr = peer.parse().unwrap();
    request.extensions_mut().insert(Peer(SocketAddr::new(peer, 4711)));
    request
}

/// Shows an invitation that is none.
async fn knock(service: &TestService, peer: &str, forwarded_for: Option<&str>) -> Response {
    let mut request = Request::post("/api/v1/invitation").header(header::CONTENT_TYPE, "application/json");
    if let Some(line) = forwarded_for {
        request = request.header("x-forwarded-for", line);
    }
    let request = request.body(Body::from(json!({"invitation": "mbli_x"}).to_string())).unwrap();
    service.router().oneshot(from(peer, request)).await.unwrap()
}

#[tokio::test]
async fn an_address_whose_tries_are_refused_waits_and_neither_others_nor_tokens_do() {
    let service = service(&[]).await;
    for _ in 0..2 {
        assert_eq!(knock(&service, "192.0.2.1", None).await.status(), StatusCode::UNAUTHORIZED);
    }
    let answer = knock(&service, "192.0.2.1", None).await;
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    let wait: u64 = answer.headers()[header::RETRY_AFTER].to_str().unwrap().parse().unwrap();
    assert!((350..=360).contains(&wait), "{wait}");
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let problem: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(problem["code"], "address_locked", "{problem}");
    assert_eq!(knock(&service, "192.0.2.1", Some("198.51.100.1")).await.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(knock(&service, "192.0.2.2", None).await.status(), StatusCode::UNAUTHORIZED);

    let token = service.token("acme", &[TokenScope::Read]).await;
    let request = Request::get("/api/v1/groups").header(header::AUTHORIZATION, format!("Bearer {token}"));
    let request = from("192.0.2.1", request.body(Body::empty()).unwrap());
    assert_eq!(service.router().oneshot(request).await.unwrap().status(), StatusCode::OK);
    let alive = from("192.0.2.1", Request::get("/healthz").body(Body::empty()).unwrap());
    assert_eq!(service.router().oneshot(alive).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn methods_that_somebody_made_up_are_counted_as_one() {
    let service = service(&[]).await;
    let ask = async |method: &str, path: &str| {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        service.router().oneshot(from("192.0.2.1", request)).await.unwrap()
    };
    for method in ["MADEUP", "MADEUP2", "GET"] {
        ask(method, "/healthz").await;
    }
    let counted = ask("GET", "/metrics").await.into_body().collect().await.unwrap().to_bytes();
    let counted = String::from_utf8_lossy(&counted);
    assert!(!counted.contains("MADEUP"), "{counted}");
    let other = counted.lines().find(|line| line.contains("api_requests") && line.contains("method=\"other\""));
    assert!(other.is_some_and(|line| line.ends_with(" 2")), "{counted}");
}

#[tokio::test]
async fn behind_a_trusted_proxy_each_client_has_a_count_of_its_own() {
    let service = service(&["10.0.0.0/8"]).await;
    for client in ["198.51.100.1", "198.51.100.2", "198.51.100.3"] {
        for _ in 0..2 {
            assert_eq!(knock(&service, "10.0.0.1", Some(client)).await.status(), StatusCode::UNAUTHORIZED);
        }
        assert_eq!(knock(&service, "10.0.0.1", Some(client)).await.status(), StatusCode::TOO_MANY_REQUESTS);
        // What the client claims stands before what the proxy saw.
        let claim = format!("203.0.113.9, {client}");
        assert_eq!(knock(&service, "10.0.0.2", Some(&claim)).await.status(), StatusCode::TOO_MANY_REQUESTS);
    }
}
