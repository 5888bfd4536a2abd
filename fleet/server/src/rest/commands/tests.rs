//! Claims about commands as a caller meets them: what is refused and why, who may, and what the audit log has.

use axum::{
    body::Body,
    http::{Request, StatusCode, header},
};
use fleet_api::TokenScope;
use fleet_store::DeviceEvent;
use serde_json::{Value, json};

use crate::test_service::{Caller, TestService};

async fn with_device() -> (TestService, Caller) {
    let service = TestService::start().await;
    service.device("default", "gate-1").await;
    let caller = service.caller("default").await;
    (service, caller)
}

async fn cancel(caller: &Caller, path: &str) -> (StatusCode, Value) {
    caller.send(Request::delete(path).body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn a_command_is_accepted_with_its_place_and_taken_back_there() {
    let (service, caller) = with_device().await;
    let wanted = json!({ "path": "/3/0/13", "deadline_s": 60 });
    let answer = caller.raw(Caller::json("POST", "/devices/gate-1/read", &wanted)).await;
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    assert_eq!(answer.headers()[header::LOCATION], "/api/v1/devices/gate-1/commands/c-1");
    let (status, shown) = caller.get("/devices/gate-1/commands/c-1").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!((&shown["state"], &shown["presence"]), (&json!("waiting"), &json!("connected")));
    assert_eq!(shown["deadline"].as_u64().unwrap() - shown["created"].as_u64().unwrap(), 60);
    let endpoint = "gate-1".parse().unwrap();
    service.presence("default", &endpoint, DeviceEvent::Left { session: 1 }).await;
    let (_, shown) = caller.get("/devices/gate-1/commands/c-1").await;
    assert!(shown["expected_by"].is_u64(), "{shown}");
    assert_eq!(cancel(&caller, "/devices/gate-1/commands/c-1").await.1["state"], "cancelled");
    assert_eq!(caller.get("/devices/gate-1/commands").await.1["items"][0]["state"], "cancelled");
    for nothing in ["c-9", "op-1", "1", "c--1"] {
        let path = format!("/devices/gate-1/commands/{nothing}");
        assert_eq!(caller.get(&path).await.0, StatusCode::NOT_FOUND, "{nothing}");
        assert_eq!(cancel(&caller, &path).await.0, StatusCode::NOT_FOUND, "{nothing}");
    }
}

#[tokio::test]
async fn what_has_a_door_of_its_own_is_refused_with_the_way_to_it() {
    let (_service, caller) = with_device().await;
    for (verb, body, hint) in [
        ("read", json!({ "path": "/0/0" }), "certificates are renewed by the device itself"),
        ("write", json!({ "path": "/5/0/1", "value": "coap://evil" }), "mbl rollout start"),
        ("read", json!({ "path": "/26241/0" }), "mbl rollout start"),
        ("write", json!({ "path": "/26242/0/0", "value": "{}" }), "mbl configuration save"),
        ("observe", json!({ "path": "/26244" }), "mbl job start"),
        ("execute", json!({ "path": "/3/0/5" }), "mbl device factory-reset"),
    ] {
        let (status, refused) = caller.post(&format!("/devices/gate-1/{verb}"), &body).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}: {refused}");
        assert_eq!((&refused["code"], &refused["field"]), (&json!("protected_path"), &json!("path")));
        assert!(refused["hint"].as_str().unwrap().contains(hint), "{refused}");
    }
    assert_eq!(caller.get("/devices/gate-1/commands").await.1["items"], json!([]), "a refusal leaves nothing behind");
}

#[tokio::test]
async fn a_value_or_a_time_that_does_not_fit_is_refused_with_the_field() {
    let (_service, caller) = with_device().await;
    for (verb, body, field) in [
        ("read", json!({ "path": "3/0" }), "path"),
        ("read", json!({ "path": "/3/0/4" }), "path"),
        ("read", json!({ "path": "/3/0", "deadline_s": 0 }), "deadline_s"),
        ("read", json!({ "path": "/3/0", "deadline_s": 2_592_001 }), "deadline_s"),
        ("write", json!({ "path": "/1/0/2", "value": "soon" }), "value"),
        ("write", json!({ "path": "/1/0/2", "value": "1", "type": "string" }), "type"),
        ("write", json!({ "path": "/3303/0/5601", "value": "1" }), "type"),
        ("write", json!({ "path": "/1/0/7", "value": "U".repeat(8193) }), "value"),
        ("execute", json!({ "path": "/3/0/4", "arguments": "\n" }), "arguments"),
        ("observe", json!({ "path": "/3/0", "duration_s": 86_401 }), "duration_s"),
    ] {
        let (status, refused) = caller.post(&format!("/devices/gate-1/{verb}"), &body).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}: {refused}");
        assert_eq!((&refused["code"], &refused["field"]), (&json!("invalid_value"), &json!(field)), "{body}");
    }
    let (status, refused) = caller.get("/devices/gate-1/commands/c-1?wait_s=21").await;
    assert_eq!((status, &refused["field"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("wait_s")));
}

#[tokio::test]
async fn each_kind_of_command_has_a_permission_of_its_own_and_stands_in_the_audit_log() {
    let (service, caller) = with_device().await;
    let policy = json!({ "policy": "forbid(principal, action == Action::\"execute_resource\", resource);" });
    assert_eq!(caller.send(Caller::json("PUT", "/policies/no-execute", &policy)).await.0, StatusCode::CREATED);
    let (status, refused) = caller.post("/devices/gate-1/execute", &json!({ "path": "/3/0/4" })).await;
    assert_eq!((status, &refused["code"]), (StatusCode::FORBIDDEN, &json!("access_denied")), "{refused}");
    let written = json!({ "path": "/1/0/2", "value": "76543210" });
    assert_eq!(caller.post("/devices/gate-1/write", &written).await.0, StatusCode::ACCEPTED);
    assert_eq!(caller.post("/devices/gate-1/read", &json!({ "path": "/3/0" })).await.0, StatusCode::ACCEPTED);

    let viewer = Caller::with_token(&service, &service.token("default", &[TokenScope::Read]).await);
    let refused = viewer.post("/devices/gate-1/read", &json!({ "path": "/3/0" })).await;
    assert_eq!((refused.0, &refused.1["code"]), (StatusCode::FORBIDDEN, &json!("scope_missing")));
    assert_eq!(viewer.get("/devices/gate-1/commands/c-1").await.0, StatusCode::OK);

    let log = caller.get("/audit?limit=500").await.1.to_string();
    for action in ["execute_resource", "write_resource", "read_resource"] {
        assert!(log.contains(action), "{action} is not in the log: {log}");
    }
    assert!(!log.contains("76543210"), "what was written is nobody's business: {log}");
}

#[tokio::test]
async fn an_answer_that_waits_comes_with_the_end_of_the_command() {
    let (service, caller) = with_device().await;
    caller.post("/devices/gate-1/read", &json!({ "path": "/3/0/13" })).await;
    let waiting = caller.get("/devices/gate-1/commands/c-1?wait_s=20");
    let ending = async {
        let account = service.account("default").await;
        tokio::task::yield_now().await;
        let endpoint = "gate-1".parse().unwrap();
        account.cancel_command(&endpoint, 1, service.now()).await.unwrap();
    };
    let ((status, shown), ()) = tokio::join!(waiting, ending);
    assert_eq!((status, &shown["state"]), (StatusCode::OK, &json!("cancelled")));
}
