//! Quotas asked of the whole API: who sets them, who is refused, and how.

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::test_service::{Caller, TestService};

async fn set(caller: &Caller, account: &str, wanted: Value) -> (StatusCode, Value) {
    caller.send(Caller::json("PUT", &format!("/accounts/{account}/quotas"), &wanted)).await
}

#[tokio::test]
async fn an_account_sets_quotas_for_those_below_it_and_not_for_itself_or_others() {
    let service = TestService::start().await;
    let default = service.caller("default").await;
    let mut callers = Vec::new();
    for (account, parent) in [("org", None), ("site", Some("org")), ("rival", None)] {
        let (status, made) = default.post("/accounts", &json!({"name": account, "parent": parent})).await;
        assert_eq!(status, StatusCode::CREATED, "{made}");
        callers.push(Caller::with_token(&service, made["token"]["secret"].as_str().unwrap()));
    }
    let [org, site, rival] = <[Caller; 3]>::try_from(callers).ok().unwrap();
    let (status, quotas) = set(&org, "site", json!({"groups": 1})).await;
    assert_eq!(status, StatusCode::OK, "{quotas}");
    assert_eq!(quotas["items"][2], json!({"kind": "groups", "most": 1, "used": 0}));
    assert_eq!(site.post("/groups", &json!({"name": "doors"})).await.0, StatusCode::CREATED);
    let (status, answer) = site.post("/groups", &json!({"name": "gates"})).await;
    assert_eq!((status, &answer["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("quota_exceeded")));
    assert!(answer["hint"].as_str().unwrap().contains("mbl account quota"), "{answer}");
    for (caller, account, expected) in [
        (&site, "site", StatusCode::FORBIDDEN),
        (&org, "org", StatusCode::FORBIDDEN),
        (&site, "org", StatusCode::NOT_FOUND),
        (&rival, "site", StatusCode::NOT_FOUND),
        (&default, "org", StatusCode::OK),
    ] {
        assert_eq!(set(caller, account, json!({"groups": 9})).await.0, expected, "{account}");
    }
    assert_eq!(site.get("/accounts/site/quotas").await.1["items"][2]["used"], 1);
    assert_eq!(rival.get("/accounts/site/quotas").await.0, StatusCode::NOT_FOUND);
    for caller in [&org, &site] {
        let (_, log) = caller.get("/audit").await;
        assert!(log.to_string().contains("account.quota_set"), "both logs tell it: {log}");
    }
    let (_, quotas) = set(&org, "site", json!({})).await;
    assert_eq!(quotas["items"][2].get("most"), None);
    assert_eq!(site.post("/groups", &json!({"name": "gates"})).await.0, StatusCode::CREATED);
}
