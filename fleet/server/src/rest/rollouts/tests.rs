//! Claims about what the API says of rollouts: what would happen, what did, and why something did not.

use axum::http::StatusCode;
use fleet_store::DeviceEvent;
use serde_json::{Value, json};

use crate::{
    rollouts,
    test_service::{Caller, Publisher, TestService},
};

/// One look of the reconciler, and further ones until nothing moves.
async fn look(service: &TestService) {
    let task = tokio::spawn(rollouts::reconcile(service.fleet.clone()));
    let caller = service.caller("default").await;
    for round in 0.. {
        assert!(round < 200, "it never comes to rest");
        let before = caller.get("/events?limit=500").await.1;
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        if round > 1 && caller.get("/events?limit=500").await.1 == before {
            break;
        }
    }
    task.abort();
}

async fn start(caller: &Caller, wish: &Value) -> String {
    let (status, rollout) = caller.post("/rollouts", wish).await;
    assert_eq!(status, StatusCode::CREATED, "{rollout}");
    let id = rollout["id"].as_str().unwrap().to_owned();
    let (status, started) = caller.act(&format!("/rollouts/{id}/start")).await;
    assert_eq!(status, StatusCode::OK, "{started}");
    id
}

#[tokio::test]
async fn a_dry_run_says_what_the_rollout_then_does() {
    let service = TestService::start().await;
    let caller = service.caller("default").await;
    Publisher::new(&caller).await.publish("1.0.0").await;
    for n in 0..6 {
        service.device("default", &format!("gate-{n}")).await;
    }
    let asleep = "gate-5".parse().unwrap();
    service.presence("default", &asleep, DeviceEvent::Left { session: 1 }).await;
    caller.post("/devices/gate-4/suspend", &json!({ "reason": "sold" })).await;
    let wish = json!({ "release": "1.0.0", "audience": "all", "waves": [{ "filter": "name in (\"gate-0\", \"gate-1\", \"gate-2\", \"gate-5\")" }],
                       "max_in_flight": 2, "rate": { "per_hour": 3600 } });
    let (status, dry) = caller.post("/rollouts/dry-run", &wish).await;
    assert_eq!(status, StatusCode::OK, "{dry}");
    assert_eq!(caller.get("/rollouts").await.1["items"], json!([]), "nothing was made");
    assert_eq!((&dry["devices"], &dry["waves"]), (&json!(6), &json!([4, 2])), "{dry}");
    assert_eq!((&dry["ready"], &dry["at_once"], &dry["already_running"]), (&json!(4), &json!(2), &json!(0)), "{dry}");
    let held = |rule: &str| dry["held"].as_array().unwrap().iter().find(|held| held["rule"] == rule).cloned();
    assert_eq!(held("asleep").unwrap()["example"], "gate-5");
    assert_eq!(held("quarantined").unwrap()["devices"], 1);
    assert!(dry["bytes_per_device"].as_u64().unwrap() > 0);
    assert_eq!(dry["bytes"].as_u64().unwrap(), dry["bytes_per_device"].as_u64().unwrap() * 6);

    let id = start(&caller, &wish).await;
    look(&service).await;
    let why = caller.get(&format!("/rollouts/{id}/why")).await.1;
    let count = |rule: &str| why["items"].as_array().unwrap().iter().filter(|why| why["rule"] == rule).count();
    assert_eq!((count("offered"), count("quota")), (2, 1), "{why}");
    assert_eq!((count("asleep"), count("quarantined"), count("wave")), (1, 1, 1), "{why}");
}

#[tokio::test]
async fn every_device_that_is_not_on_the_release_has_an_answer() {
    let service = TestService::start().await;
    let caller = service.caller("default").await;
    Publisher::new(&caller).await.publish("1.0.0").await;
    service.device("default", "gate-1").await;
    service.device("default", "gate-2").await;
    let only = json!({ "release": "1.0.0", "audience": { "devices": ["gate-1"] }, "not_before": 4_000_000_000_u64 });
    let id = start(&caller, &only).await;
    look(&service).await;
    let why = caller.get("/devices/gate-1/why").await.1;
    let reason = &why["reasons"][0];
    assert_eq!((&reason["rule"], &reason["rollout"]), (&json!("schedule"), &json!(id)), "{why}");
    assert_eq!(reason["next_attempt"], 4_000_000_000_u64);
    assert_eq!(reason["evidence"]["not_before"], "4000000000");
    assert_eq!(caller.get("/devices/gate-2/why").await.1["reasons"][0]["rule"], "not_in_audience");
    caller.act(&format!("/rollouts/{id}/pause")).await;
    look(&service).await;
    assert_eq!(caller.get("/devices/gate-1/why").await.1["reasons"][0]["rule"], "paused");
    caller.act(&format!("/rollouts/{id}/abort")).await;
    look(&service).await;
    let why = caller.get(&format!("/rollouts/{id}/why")).await.1;
    assert_eq!(
        (&why["items"][0]["rule"], &why["items"][0]["evidence"]["reason_code"]),
        (&json!("cancelled"), &json!("aborted"))
    );
    assert_eq!(caller.get("/devices/nobody/why").await.0, StatusCode::NOT_FOUND);
    assert_eq!(caller.act("/devices/nobody/forgive").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_rollout_that_needs_a_second_person_waits_for_one() {
    let service = TestService::start().await;
    let (first, second) = (service.caller("default").await, service.caller("default").await);
    Publisher::new(&first).await.publish("1.0.0").await;
    service.device("default", "gate-1").await;
    let id = start(&first, &json!({ "release": "1.0.0", "audience": "all", "approval": true })).await;
    look(&service).await;
    assert_eq!(first.get("/devices/gate-1/why").await.1["reasons"][0]["rule"], "approval");
    let (status, refused) = first.act(&format!("/rollouts/{id}/approve")).await;
    assert_eq!((status, &refused["code"]), (StatusCode::CONFLICT, &json!("second_person_needed")));
    let (status, approved) = second.act(&format!("/rollouts/{id}/approve")).await;
    assert_eq!(status, StatusCode::OK);
    assert_ne!(approved["approved_by"], approved["started_by"]);
    look(&service).await;
    assert_eq!(first.get("/devices/gate-1/why").await.1["reasons"][0]["rule"], "offered");
}

#[tokio::test]
async fn a_rollout_that_asks_at_devices_says_so_and_nobody_else_may_answer() {
    let service = TestService::start().await;
    let caller = service.caller("default").await;
    Publisher::new(&caller).await.publish("1.0.0").await;
    service.device("default", "gate-1").await;
    let wish =
        json!({ "release": "1.0.0", "audience": "all", "consent": "device", "consent_deadline": 4_000_000_000_u64 });
    let id = start(&caller, &wish).await;
    let (_, shown) = caller.get(&format!("/rollouts/{id}")).await;
    assert_eq!((&shown["consent"], &shown["ask_again_s"]), (&json!("device"), &json!(86_400)), "{shown}");
    assert_eq!(shown["consent_deadline"], json!(4_000_000_000_u64));
    look(&service).await;
    assert_eq!(caller.get("/devices/gate-1/why").await.1["reasons"][0]["rule"], "offered", "it asks by itself");
    let (status, refused) = caller.post(&format!("/rollouts/{id}/consent"), &json!({})).await;
    assert_eq!((status, &refused["code"]), (StatusCode::CONFLICT, &json!("wrong_state")), "{refused}");
    assert_eq!(caller.act(&format!("/rollouts/{id}/ask-again")).await.0, StatusCode::OK);
    let id = start(&caller, &json!({ "release": "1.0.0", "audience": "all" })).await;
    let (status, refused) = caller.act(&format!("/rollouts/{id}/ask-again")).await;
    assert_eq!((status, &refused["code"]), (StatusCode::CONFLICT, &json!("wrong_state")), "{refused}");
}

#[tokio::test]
async fn a_policy_that_makes_no_sense_is_refused_by_its_field() {
    let service = TestService::start().await;
    let caller = service.caller("default").await;
    Publisher::new(&caller).await.publish("1.0.0").await;
    for (field, value) in [
        ("waves", json!([{ "percent": 0 }])),
        ("waves", json!([{ "count": 0 }])),
        ("waves", json!(vec![json!({ "count": 1 }); 21])),
        ("consent_deadline", json!(4_000_000_000_u64)),
        ("ask_again_s", json!(0)),
        ("success_percent", json!(101)),
        ("rate", json!({ "per_hour": 0 })),
        ("rate", json!({ "per_hour": 9, "growth": { "percent": 10, "every": 1, "max_per_hour": 8 } })),
        ("retries", json!({ "most": 11, "first_delay_s": 1 })),
        ("priority", json!(101)),
        ("window", json!({ "from": "22:00", "until": "05:00", "zone": "Mars/Olympus" })),
    ] {
        let mut wish = json!({ "release": "1.0.0", "audience": "all" });
        wish[field] = value.clone();
        let (status, refused) = caller.post("/rollouts", &wish).await;
        assert_eq!(
            (status, &refused["field"]),
            (StatusCode::UNPROCESSABLE_ENTITY, &json!(field)),
            "{value}: {refused}"
        );
    }
    let (_, refused) = caller
        .post("/rollouts", &json!({ "release": "1.0.0", "audience": "all", "waves": [{ "filter": "tga = 1" }] }))
        .await;
    assert_eq!((&refused["code"], &refused["field"]), (&json!("malformed_filter"), &json!("waves")), "{refused}");
}

#[tokio::test]
async fn a_device_that_joins_an_open_audience_later_or_again_gets_the_release() {
    let service = TestService::start().await;
    let caller = service.caller("default").await;
    Publisher::new(&caller).await.publish("1.0.0").await;
    let id = start(&caller, &json!({ "release": "1.0.0", "audience": "all" })).await;
    look(&service).await;
    assert_eq!(caller.get(&format!("/rollouts/{id}")).await.1["state"], "running", "nobody is there yet");
    let rule = async || caller.get("/devices/gate-1/why").await.1["reasons"][0]["rule"].clone();
    let gate = service.device("default", "gate-1").await;
    look(&service).await;
    assert_eq!(rule().await, "offered");
    let account = service.account("default").await;
    account.delete_device(&gate, service.now()).await.unwrap();
    look(&service).await;
    assert_eq!(caller.get(&format!("/rollouts/{id}")).await.1["devices"], json!({ "cancelled": 1 }));
    let authority = caller.get("/authorities").await.1["items"][0]["id"].as_str().unwrap().to_owned();
    let joins = DeviceEvent::Joins { authority, serial: "f1".into(), fingerprint: [0; 32] };
    service.presence("default", &gate, joins).await;
    look(&service).await;
    assert_eq!(rule().await, "asleep", "it is on the list again");
    account.delete_device(&gate, service.now()).await.unwrap();
    look(&service).await;
    let (_, closed) = caller.act(&format!("/rollouts/{id}/close")).await;
    assert_eq!(closed["audience_closed"], true, "{closed}");
    look(&service).await;
    assert_eq!(caller.get(&format!("/rollouts/{id}")).await.1["state"], "finished");
}
