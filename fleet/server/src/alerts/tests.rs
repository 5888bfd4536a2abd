//! Claims about alerts as the API shows them, against the real database.

use axum::http::StatusCode;
use fleet_store::DeviceEvent;
use serde_json::{Value, json};

use crate::{
    alerts,
    test_service::{Caller, TestService},
};

async fn kinds(caller: &Caller) -> Vec<String> {
    let (_, page) = caller.get("/events?limit=500").await;
    let events = page["items"].as_array().unwrap().iter();
    let kinds = events.map(|event| event["type"].as_str().unwrap().to_owned());
    kinds.filter(|kind| kind.starts_with("alert.")).collect()
}

#[tokio::test]
async fn a_device_that_breaks_its_promise_is_an_alert_that_is_told_known_of_and_over_when_it_comes_back() {
    let service = TestService::start().await;
    let caller = service.caller("default").await;
    let gate = service.device("default", "gate-1").await;
    let rule = json!({"name": "gone", "title": "Gone", "severity": "critical", "condition": {"kind": "absence"},
        "for_s": 0, "clear_for_s": 0});
    let (status, made) = caller.post("/alert-rules", &rule).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    assert_eq!((&made["enabled"], &made["remind_s"]), (&json!(true), &json!(0)));
    alerts::round(&service.fleet).await.unwrap();
    assert!(kinds(&caller).await.is_empty());

    service.presence("default", &gate, DeviceEvent::Left { session: 1 }).await;
    alerts::round(&service.fleet).await.unwrap();
    alerts::round(&service.fleet).await.unwrap();
    assert_eq!(kinds(&caller).await, ["alert.raised"]);
    let (_, page) = caller.get("/alerts?state=raised&rule=gone").await;
    let alert = &page["items"][0];
    assert_eq!(
        (&alert["device"], &alert["severity"], &alert["state"]),
        (&json!("gate-1"), &json!("critical"), &json!("raised"))
    );
    let path = format!("/alerts/{}/acknowledge", alert["id"].as_str().unwrap());
    let (status, known) = caller.post(&path, &json!({"note": "on my way"})).await;
    assert_eq!((status, &known["acknowledged"]["note"]), (StatusCode::OK, &json!("on my way")));
    assert!(known["acknowledged"]["by"].as_str().unwrap().starts_with("token/"), "{known}");

    let back =
        DeviceEvent::Registers { serial: "o1".into(), session: 2, promise: fleet_store::Promise::new(300, false) };
    service.presence("default", &gate, back).await;
    alerts::round(&service.fleet).await.unwrap();
    assert_eq!(kinds(&caller).await, ["alert.raised", "alert.acknowledged", "alert.resolved"]);
    assert!(caller.get("/alerts?state=raised").await.1["items"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn a_silenced_alert_is_there_and_told_of_only_when_the_silence_is_over() {
    let service = TestService::start().await;
    let caller = service.caller("default").await;
    service.device("default", "gate-1").await;
    let silence = json!({"filter": "name = \"gate-1\"", "until": service.now().0 + 600, "reason": "works"});
    let (status, silence) = caller.post("/silences", &silence).await;
    assert_eq!(status, StatusCode::CREATED, "{silence}");
    let rule = json!({"name": "here", "severity": "info", "condition": {"kind": "state", "filter": "connected = true"}, "for_s": 0});
    assert_eq!(caller.post("/alert-rules", &rule).await.0, StatusCode::CREATED);
    alerts::round(&service.fleet).await.unwrap();
    assert!(kinds(&caller).await.is_empty());
    let (_, page) = caller.get("/alerts").await;
    assert_eq!((&page["items"][0]["state"], &page["items"][0]["told"]), (&json!("raised"), &Value::Null));
    let (status, _) = caller.act(&format!("/silences/{}/end", silence["id"].as_str().unwrap())).await;
    assert_eq!(status, StatusCode::OK);
    alerts::round(&service.fleet).await.unwrap();
    assert_eq!(kinds(&caller).await, ["alert.raised"]);
}

#[tokio::test]
async fn what_no_rule_can_look_for_is_refused_with_the_field_that_is_to_blame() {
    let service = TestService::start().await;
    let caller = service.caller("default").await;
    let rate = |types: Value, events: u32, within_s: u64| json!({"kind": "rate", "types": types, "events": events, "within_s": within_s});
    for (condition, field) in [
        (json!({"kind": "state", "filter": ""}), "condition"),
        (json!({"kind": "state", "filter": "no.such = 1"}), "condition"),
        (rate(json!([]), 3, 60), "condition"),
        (rate(json!(["alert.raised"]), 3, 60), "condition"),
        (rate(json!(["Device"]), 3, 60), "condition"),
        (rate(json!(["device.*"]), 0, 60), "condition"),
        (rate(json!(["device.*"]), 3, 0), "condition"),
        (json!({"kind": "rate", "types": ["device.*"], "events": 3, "within_s": 9, "clear_below": 4}), "condition"),
        (json!({"kind": "threshold", "metric": "temperature"}), "condition"),
        (json!({"kind": "threshold", "metric": "temperature", "above": 80, "below": 10}), "condition"),
        (json!({"kind": "threshold", "metric": "temperature", "above": 80, "clear": 80.1}), "condition"),
        (json!({"kind": "threshold", "metric": "cpu.load", "below": 0.1, "clear": 0.0}), "condition"),
        (json!({"kind": "threshold", "metric": "cpu.load", "above": 1e300}), "condition"),
        (json!({"kind": "threshold", "metric": "cpu.load", "above": 0.9, "fresh_s": 5}), "condition"),
    ] {
        let rule = json!({"name": "x", "severity": "info", "condition": condition});
        let (status, refused) = caller.post("/alert-rules", &rule).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{condition}: {refused}");
        assert_eq!(refused["field"], field, "{condition}: {refused}");
    }
    let long = json!({"name": "x", "severity": "info", "condition": {"kind": "absence"}, "for_s": 3_000_000});
    assert_eq!(caller.post("/alert-rules", &long).await.1["field"], "for_s");
    let past = json!({"until": 1, "reason": "x"});
    assert_eq!(caller.post("/silences", &past).await.1["field"], "until");
    assert!(caller.get("/alert-rules").await.1["items"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn a_rule_with_a_threshold_reads_back_as_it_was_made() {
    let service = TestService::start().await;
    let caller = service.caller("default").await;
    let hot = json!({"kind": "threshold", "metric": "temperature", "above": 80.5, "clear": 75.0});
    let rule = json!({"name": "hot", "severity": "warning", "condition": hot, "for_s": 600});
    let (status, made) = caller.post("/alert-rules", &rule).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let whole = json!({"kind": "threshold", "metric": "temperature", "above": 80.5, "clear": 75.0, "fresh_s": 3600});
    assert_eq!((&made["condition"], &made["for_s"]), (&whole, &json!(600)));
    let empty = json!({"name": "idle", "severity": "info", "condition": {"kind": "threshold", "metric": "cpu.load", "below": 0.01}});
    let (_, made) = caller.post("/alert-rules", &empty).await;
    assert_eq!((&made["condition"]["below"], &made["condition"]["clear"]), (&json!(0.01), &json!(0.01)));
}
