//! Claims about `/jobs` as a caller meets them: what is made, what is refused, who may.

use axum::http::{StatusCode, header};
use serde_json::{Value, json};

use crate::{
    jobs,
    test_service::{Caller, TestService},
};

async fn with_devices() -> (TestService, Caller) {
    let service = TestService::start().await;
    for endpoint in ["gate-1", "gate-2", "kiln-1"] {
        service.device("default", endpoint).await;
    }
    let caller = service.caller("default").await;
    (service, caller)
}

async fn states(caller: &Caller, path: &str) -> Vec<(String, String)> {
    let (status, page) = caller.get(path).await;
    assert_eq!(status, StatusCode::OK, "{page}");
    let text = |item: &Value, field: &str| item[field].as_str().unwrap().to_owned();
    page["items"].as_array().unwrap().iter().map(|item| (text(item, "endpoint"), text(item, "state"))).collect()
}

#[tokio::test]
async fn a_job_chooses_its_devices_once_and_shows_how_far_each_is() {
    let (service, caller) = with_devices().await;
    let wanted = json!({ "filter": "name != \"kiln-1\"", "probe": "disk", "bounds": { "concurrency": 1 } });
    let answer = caller.raw(Caller::json("POST", "/jobs/probe", &wanted)).await;
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    assert_eq!(answer.headers()[header::LOCATION], "/api/v1/jobs/j-1");
    assert_eq!(caller.get("/jobs/j-1").await.1["state"], "waiting");
    while jobs::round(&service.fleet).await.unwrap() {}
    service.device("default", "gate-3").await;
    jobs::round(&service.fleet).await.unwrap();
    let (_, job) = caller.get("/jobs/j-1").await;
    assert_eq!(
        (&job["state"], &job["devices"]["waiting"], &job["probe"]),
        (&json!("running"), &json!(2), &json!("disk"))
    );
    let waiting = |name: &str| (name.to_owned(), "waiting".to_owned());
    assert_eq!(states(&caller, "/jobs/j-1/devices").await, [waiting("gate-1"), waiting("gate-2")]);
    assert_eq!(states(&caller, "/jobs/j-1/devices?state=done").await, []);
    assert_eq!(states(&caller, "/jobs/j-1/devices?limit=1").await, [waiting("gate-1")]);
    let (_, one) = caller.get("/jobs/j-1/devices/gate-2").await;
    assert_eq!((&one["state"], &one["result_bytes"]), (&json!("waiting"), &json!(0)));
    assert_eq!(caller.get("/jobs/j-1/devices/kiln-1").await.0, StatusCode::NOT_FOUND);
    assert_eq!(caller.get("/devices/gate-1/commands").await.1["items"][0]["job"], "j-1");
    let (_, cancelled) = caller.act("/jobs/j-1/cancel").await;
    assert_eq!((&cancelled["state"], &cancelled["devices"]["cancelled"]), (&json!("cancelled"), &json!(2)));
    for nothing in ["j-9", "c-1", "1"] {
        assert_eq!(caller.get(&format!("/jobs/{nothing}")).await.0, StatusCode::NOT_FOUND, "{nothing}");
    }
}

#[tokio::test]
async fn what_a_job_may_not_be_is_refused_with_the_field() {
    let (_service, caller) = with_devices().await;
    for (path, body, code, field) in [
        ("/jobs/probe", json!({ "filter": "", "probe": "rm -rf /" }), "invalid_value", "probe"),
        ("/jobs/probe", json!({ "filter": "nmae = 1", "probe": "disk" }), "malformed_filter", "filter"),
        ("/jobs/logs", json!({ "filter": "", "source": "agent", "lines": 0 }), "invalid_value", "lines"),
        ("/jobs/logs", json!({ "filter": "", "source": "agent", "lines": 1001 }), "invalid_value", "lines"),
        ("/jobs/logs", json!({ "filter": "", "source": "application", "lines": 1 }), "invalid_value", "application"),
        (
            "/jobs/logs",
            json!({ "filter": "", "source": "apps", "application": "hello", "lines": 1 }),
            "invalid_value",
            "application",
        ),
        (
            "/jobs/reboot",
            json!({ "filter": "", "bounds": { "concurrency": 0 } }),
            "invalid_value",
            "bounds.concurrency",
        ),
        (
            "/jobs/reboot",
            json!({ "filter": "", "bounds": { "per_minute": 100_001 } }),
            "invalid_value",
            "bounds.per_minute",
        ),
        (
            "/jobs/rotate-key",
            json!({ "filter": "", "bounds": { "deadline_s": 0 } }),
            "invalid_value",
            "bounds.deadline_s",
        ),
    ] {
        let (status, refused) = caller.post(path, &body).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}: {refused}");
        assert_eq!((&refused["code"], &refused["field"]), (&json!(code), &json!(field)), "{body}");
    }
    let (status, refused) =
        caller.post("/jobs/logs", &json!({ "filter": "", "source": "/etc/shadow", "lines": 1 })).await;
    assert_eq!((status, &refused["code"]), (StatusCode::BAD_REQUEST, &json!("malformed_body")), "{refused}");
    assert_eq!(caller.get("/jobs").await.1["items"], json!([]), "a refusal leaves nothing behind");
}

#[tokio::test]
async fn each_kind_of_job_has_a_permission_of_its_own() {
    let (_service, caller) = with_devices().await;
    let policy = json!({ "policy": "forbid(principal, action == Action::\"reboot_devices\", resource);" });
    assert_eq!(caller.send(Caller::json("PUT", "/policies/no-reboot", &policy)).await.0, StatusCode::CREATED);
    let (status, refused) = caller.post("/jobs/reboot", &json!({ "filter": "" })).await;
    assert_eq!((status, &refused["code"]), (StatusCode::FORBIDDEN, &json!("access_denied")), "{refused}");
    for (path, body) in [
        ("/jobs/logs", json!({ "filter": "", "source": "agent", "lines": 1 })),
        ("/jobs/probe", json!({ "filter": "", "probe": "disk" })),
        ("/jobs/rotate-key", json!({ "filter": "" })),
    ] {
        assert_eq!(caller.post(path, &body).await.0, StatusCode::ACCEPTED, "{path}");
    }
    let wanted = json!({ "filter": "", "source": "application", "application": "hello", "lines": 1 });
    let (status, job) = caller.post("/jobs/logs", &wanted).await;
    assert_eq!(
        (status, &job["source"], &job["application"]),
        (StatusCode::ACCEPTED, &json!("application"), &json!("hello"))
    );
    let log = caller.get("/audit?limit=500").await.1.to_string();
    assert!(["collect_logs", "run_probe", "rotate_keys", "reboot_devices"].iter().all(|action| log.contains(action)));
}
