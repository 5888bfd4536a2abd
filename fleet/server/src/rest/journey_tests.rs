//! Claims about what the API does over several requests, against the real database and the real reconciler.

use std::time::Duration;

use axum::{
    body::Body,
    http::{Request, StatusCode, header},
};
use fleet_api::{RepositoryKeys, TokenScope};
use fleet_store::{DeviceEvent, DeviceReport, Promise};
use http_body_util::BodyExt;
use protocol_release::signing::{Algorithm, SigningKey};
use protocol_types::{Digest, EndpointName, Phase, Reason, ReasonCode, SecurityVersion};
use serde_json::{Value, json};
use tokio::time::timeout;
use tower::ServiceExt;

use crate::{
    fleet::Fleet,
    rollouts,
    test_service::{Caller, Publisher, TestService},
};

/// Asks again until the answer is as wanted.
async fn until(caller: &Caller, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let asked = async {
        loop {
            last = caller.get(path).await.1;
            if wanted(&last) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let in_time = timeout(Duration::from_secs(20), asked).await;
    assert!(in_time.is_ok(), "{path} stays {last}");
    last
}

async fn report(
    service: &TestService,
    endpoint: &EndpointName,
    rollout: &Value,
    phase: Phase,
    code: Option<ReasonCode>,
) {
    let digest: Digest = rollout["digest"].as_str().unwrap().parse().unwrap();
    let report = DeviceReport {
        phase,
        reason: code.map(|code| Reason::new(code, "the check of `hello` never answered")),
        progress: Some(50),
        rollout: Some(rollout["id"].as_str().unwrap().parse().unwrap()),
        attempt: 1,
        digest: Some(digest),
        running_version: None,
        running_digest: (phase == Phase::Succeeded).then_some(digest),
        slot: None,
        floor: SecurityVersion(0),
    };
    service.account("default").await.record_report(endpoint, &report, service.now()).await.unwrap();
}

async fn acknowledge(service: &TestService, endpoint: &EndpointName) {
    let account = service.account("default").await;
    let wish = account.desired_release(endpoint).await.unwrap().unwrap();
    account.acknowledge_desired(endpoint, wish.generation).await.unwrap();
}

async fn start_rollout(caller: &Caller, release: &str) -> Value {
    let wish =
        json!({"release": release, "audience": "all", "failure_threshold": {"count": 1}, "close_audience": true});
    let (status, rollout) = caller.post("/rollouts", &wish).await;
    assert_eq!(status, StatusCode::CREATED, "{rollout}");
    let id = rollout["id"].as_str().unwrap();
    let (status, started) = caller.act(&format!("/rollouts/{id}/start")).await;
    assert_eq!(status, StatusCode::OK, "{started}");
    started
}

#[tokio::test]
async fn a_rollout_follows_a_device_from_offer_to_success_and_stops_when_the_next_release_fails() {
    let service = TestService::start().await;
    let caller = service.caller("default").await;
    let mut publisher = Publisher::new(&caller).await;
    publisher.publish("1.0.0").await;
    publisher.publish("1.1.0").await;
    let gate = service.device("default", "gate-1").await;
    let task = tokio::spawn(rollouts::reconcile(service.fleet.clone()));

    let rollout = start_rollout(&caller, "1.0.0").await;
    let devices = format!("/rollouts/{}/devices", rollout["id"].as_str().unwrap());
    until(&caller, &devices, |page| page["items"][0]["state"] == "queued").await;
    acknowledge(&service, &gate).await;
    until(&caller, &devices, |page| page["items"][0]["state"] == "offered").await;
    report(&service, &gate, &rollout, Phase::Downloading, None).await;
    let page = until(&caller, &devices, |page| page["items"][0]["state"] == "downloading").await;
    assert_eq!(page["items"][0]["progress"], 50);
    report(&service, &gate, &rollout, Phase::Succeeded, None).await;
    let path = format!("/rollouts/{}", rollout["id"].as_str().unwrap());
    let done = until(&caller, &path, |rollout| rollout["state"] == "finished").await;
    assert_eq!(done["devices"], json!({"succeeded": 1}));

    let rollout = start_rollout(&caller, "1.1.0").await;
    let path = format!("/rollouts/{}", rollout["id"].as_str().unwrap());
    until(&caller, &format!("{path}/devices"), |page| page["items"][0]["state"] == "queued").await;
    report(&service, &gate, &rollout, Phase::RolledBack, Some(ReasonCode::ApplicationNotReady)).await;
    let stopped = until(&caller, &path, |rollout| rollout["state"] == "stopped").await;
    assert_eq!(stopped["reason"]["code"], "failure_threshold");
    assert!(stopped["reason"]["text"].as_str().unwrap().contains("application_not_ready"), "{stopped}");
    let page = caller.get(&format!("{path}/devices?state=rolled_back")).await.1;
    assert_eq!(page["items"][0]["reason"]["code"], "application_not_ready");
    let account = service.account("default").await;
    assert_eq!(account.desired_release(&gate).await.unwrap().unwrap().release, None, "nothing leads it back there");

    service.fleet.stop.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn a_rollout_goes_on_after_the_service_was_killed_and_repeats_nothing() {
    let service = TestService::start().await;
    let caller = service.caller("default").await;
    Publisher::new(&caller).await.publish("1.0.0").await;
    let gate = service.device("default", "gate-1").await;
    let rollout = start_rollout(&caller, "1.0.0").await;
    let path = format!("/rollouts/{}", rollout["id"].as_str().unwrap());

    let service = service.restart().await;
    let caller = service.caller("default").await;
    let task = tokio::spawn(rollouts::reconcile(service.fleet.clone()));
    let devices = format!("{path}/devices");
    until(&caller, &devices, |page| page["items"][0]["waiting_for"] == "asleep").await;
    service
        .presence(
            "default",
            &gate,
            DeviceEvent::Registers { serial: "o1".into(), session: 2, promise: Promise::new(300, false) },
        )
        .await;
    until(&caller, &devices, |page| page["items"][0]["state"] == "queued").await;
    acknowledge(&service, &gate).await;
    until(&caller, &devices, |page| page["items"][0]["state"] == "offered").await;
    let events = caller.get("/events?limit=500").await.1["items"].as_array().unwrap().len();
    service.fleet.stop.cancel();
    task.await.unwrap();

    let service = service.restart().await;
    let caller = service.caller("default").await;
    let task = tokio::spawn(rollouts::reconcile(service.fleet.clone()));
    let generation = service.account("default").await.desired_release(&gate).await.unwrap().unwrap().generation;
    report(&service, &gate, &rollout, Phase::Succeeded, None).await;
    until(&caller, &path, |rollout| rollout["state"] == "finished").await;
    let wish = service.account("default").await.desired_release(&gate).await.unwrap().unwrap();
    assert_eq!(wish.generation, generation, "the wish was not set again");
    let kinds: Vec<String> = caller.get("/events?limit=500").await.1["items"].as_array().unwrap()[events..]
        .iter()
        .map(|event| event["type"].as_str().unwrap().to_owned())
        .filter(|kind| kind.starts_with("rollout"))
        .collect();
    assert_eq!(kinds, ["rollout.device", "rollout.finished"]);
    service.fleet.stop.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn an_upload_goes_on_where_it_was_acknowledged_after_the_service_was_killed() {
    let service = TestService::start().await;
    let caller = service.caller("default").await;
    let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let digest = Digest::of(&bytes);
    caller.post("/artifacts", &json!({"digest": digest, "size": bytes.len()})).await;
    let (status, answer) = caller.piece(&digest, 0, &bytes[..123_457]).await;
    assert_eq!((status, &answer["offset"]), (StatusCode::OK, &json!(123_457)));

    let service = service.restart().await;
    let caller = service.caller("default").await;
    let (status, answer) = caller.piece(&digest, 123_000, &bytes[123_000..]).await;
    assert_eq!((status, &answer["code"]), (StatusCode::CONFLICT, &json!("offset_mismatch")));
    let (status, answer) = caller.piece(&digest, 123_457, &bytes[123_457..]).await;
    assert_eq!((status, &answer["complete"]), (StatusCode::OK, &json!(true)), "{answer}");
    let stored = service.fleet.artifacts.read(service.account("default").await.name(), &digest).await.unwrap();
    assert_eq!(stored, bytes);
}

#[tokio::test]
async fn bytes_that_are_wrong_too_many_or_too_large_are_refused() {
    let service = TestService::start().await;
    let caller = service.caller("default").await;
    let digest = Digest::of(b"right");
    caller.post("/artifacts", &json!({"digest": digest, "size": 5})).await;
    let (status, answer) = caller.piece(&digest, 0, b"wrong").await;
    assert_eq!((status, &answer["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("digest_mismatch")));
    let (status, answer) = caller.piece(&digest, 0, b"right and more").await;
    assert_eq!((status, &answer["code"]), (StatusCode::PAYLOAD_TOO_LARGE, &json!("too_large")));
    assert_eq!(caller.piece(&digest, 0, b"right").await.1["complete"], true, "the upload begins again");

    let (status, answer) = caller.post("/artifacts", &json!({"digest": Digest::of(b"x"), "size": 1_u64 << 62})).await;
    assert_eq!((status, &answer["field"]), (StatusCode::PAYLOAD_TOO_LARGE, &json!("size")));
    let (_, answer) = caller.post("/artifacts", &json!({"digest": "sha256:../../etc/passwd", "size": 1})).await;
    assert_eq!(answer["code"], "malformed_body");
    assert_eq!(caller.get("/artifacts/..%2F..%2Fetc%2Fpasswd").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_size_that_was_announced_wrongly_is_corrected_but_not_while_somebody_uploads() {
    let service = TestService::start().await;
    let caller = service.caller("default").await;
    let digest = Digest::of(b"right");
    caller.post("/artifacts", &json!({"digest": digest, "size": 500})).await;
    let turn = service.fleet.artifacts.turn(service.account("default").await.name(), digest).unwrap();
    let (status, answer) = caller.post("/artifacts", &json!({"digest": digest, "size": 5})).await;
    assert_eq!((status, &answer["code"]), (StatusCode::CONFLICT, &json!("upload_busy")));
    drop(turn);
    assert_eq!(caller.upload(b"right").await, digest);
}

#[tokio::test]
async fn an_account_cannot_hold_more_than_its_limit() {
    let service = TestService::start_with(|config| config.limits.account_bytes = 10).await;
    let caller = service.caller("default").await;
    caller.upload(b"sixbyt").await;
    let (status, answer) = caller.post("/artifacts", &json!({"digest": Digest::of(b"more"), "size": 5})).await;
    assert_eq!((status, &answer["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("over_quota")));
}

#[tokio::test]
async fn metadata_that_a_device_would_refuse_is_not_stored() {
    let service = TestService::start().await;
    let caller = service.caller("default").await;
    let mut publisher = Publisher::new(&caller).await;

    let public = |key: &SigningKey| serde_json::to_value(key.public()).unwrap();
    let foreign = SigningKey::generate(Algorithm::Ed25519).unwrap();
    let keys = RepositoryKeys { snapshot: public(&foreign), timestamp: public(&foreign) };
    let root = publisher.root(&keys).await;
    let (status, answer) = publisher.send_files([root]).await;
    assert_eq!((status, &answer["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("not_found")), "no targets yet");

    publisher.publish("1.0.0").await;
    let before = caller.get("/repository").await.1["state"].clone();
    publisher.list("6.6.6");
    let (status, answer) = publisher.send_forged().await;
    assert_eq!((status, &answer["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("unknown_key")), "{answer}");
    let (status, answer) = publisher.send().await;
    assert_eq!((status, &answer["code"]), (StatusCode::CONFLICT, &json!("artifacts_missing")), "{answer}");
    assert_eq!(caller.get("/repository").await.1["state"], before, "nothing changed");
    assert_eq!(caller.get("/releases/6.6.6").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_root_that_names_other_online_keys_is_refused_before_it_strands_a_device() {
    let service = TestService::start().await;
    let caller = service.caller("default").await;
    let publisher = Publisher::new(&caller).await;
    let foreign = SigningKey::generate(Algorithm::Ed25519).unwrap();
    let key = serde_json::to_value(foreign.public()).unwrap();
    let root = publisher.root(&RepositoryKeys { snapshot: key.clone(), timestamp: key }).await;
    let targets = publisher.targets().await;
    let (status, answer) = publisher.send_files([root, targets]).await;
    assert_eq!((status, &answer["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("unknown_key")), "{answer}");
    assert_eq!(caller.get("/repository").await.1.get("state"), None);
}

#[tokio::test]
async fn only_listed_releases_are_rolled_out_and_publishing_again_changes_nothing() {
    let service = TestService::start().await;
    let caller = service.caller("default").await;
    let mut publisher = Publisher::new(&caller).await;
    publisher.publish("1.0.0").await;
    publisher.withdraw("1.0.0");
    publisher.publish("1.1.0").await;
    let (_, release) = caller.get("/releases/1.0.0").await;
    assert_eq!(release["listed"], false);
    let (status, answer) = caller.post("/rollouts", &json!({"release": "1.0.0", "audience": "all"})).await;
    assert_eq!((status, &answer["code"]), (StatusCode::CONFLICT, &json!("wrong_state")));
    let (status, _) = caller.post("/rollouts", &json!({"release": "7.7.7", "audience": "all"})).await;
    assert_eq!(status, StatusCode::NOT_FOUND);

    let before = caller.get("/repository").await.1;
    let again = publisher.again().await;
    assert_eq!(again.0, StatusCode::OK, "{}", again.1);
    assert_eq!(caller.get("/repository").await.1, before);
}

#[tokio::test]
async fn a_request_that_is_repeated_under_its_key_makes_nothing_more() {
    let service = TestService::start().await;
    let caller = service.caller("default").await;
    let send = async |body: Value| {
        let mut request = Caller::json("POST", "/groups", &body);
        request.headers_mut().insert("idempotency-key", "k-1".parse().unwrap());
        caller.send(request).await
    };
    let (status, first) = send(json!({"name": "doors"})).await;
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!(send(json!({"name": "doors"})).await, (StatusCode::CREATED, first));
    let (status, answer) = send(json!({"name": "gates"})).await;
    assert_eq!((status, &answer["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("idempotency_key_reused")));
    let (status, answer) = caller.post("/groups", &json!({"name": "doors"})).await;
    assert_eq!((status, &answer["code"]), (StatusCode::CONFLICT, &json!("already_exists")));
}

#[tokio::test]
async fn a_change_to_a_group_that_changed_meanwhile_is_refused() {
    let service = TestService::start().await;
    let caller = service.caller("default").await;
    caller.post("/groups", &json!({"name": "doors", "members": ["a", "b"]})).await;
    let change = async |tag: &str, body: Value| {
        let mut request = Caller::json("PATCH", "/groups/doors", &body);
        request.headers_mut().insert(header::IF_MATCH, tag.parse().unwrap());
        caller.send(request).await
    };
    let (status, group) = change("\"1\"", json!({"add": ["c"], "remove": ["a"]})).await;
    assert_eq!((status, &group["members"]), (StatusCode::OK, &json!(2)));
    let (status, answer) = caller.send(Request::delete("/groups/doors").body(Body::empty()).unwrap()).await;
    assert_eq!((status, &answer["code"]), (StatusCode::PRECONDITION_REQUIRED, &json!("precondition_required")));
    for stale in ["\"1\"", "\"0\"", "W/\"2\"", "nonsense"] {
        let (status, answer) = change(stale, json!({"add": ["d"]})).await;
        assert_eq!((status, &answer["code"]), (StatusCode::PRECONDITION_FAILED, &json!("stale")), "{stale}");
    }
    let members = caller.get("/groups/doors/members").await.1;
    assert_eq!(members["items"], json!([{"endpoint": "b"}, {"endpoint": "c"}]));
}

#[tokio::test]
async fn the_first_token_works_until_its_successor_is_used() {
    let service = TestService::start().await;
    let file = Fleet::first_token_file(&service.fleet.config);
    let first = std::fs::read_to_string(&file).unwrap();
    let first = Caller::with_token(&service, first.trim());
    let wish = json!({"name": "me", "scopes": ["admin"]});
    let (status, lost) = first.post("/tokens", &wish).await;
    assert_eq!(status, StatusCode::CREATED);
    assert!(lost["secret"].as_str().unwrap().starts_with("mblt_"));
    let (status, kept) = first.post("/tokens", &wish).await;
    assert_eq!(status, StatusCode::CREATED, "the answer may have been lost, so it still works");
    let me = Caller::with_token(&service, kept["secret"].as_str().unwrap());
    assert_eq!(me.get("/tokens").await.0, StatusCode::OK);
    let (status, answer) = first.get("/tokens").await;
    assert_eq!((status, &answer["code"]), (StatusCode::UNAUTHORIZED, &json!("token_revoked")));
    assert!(!file.exists());
    let service = service.restart().await;
    assert!(!file.exists(), "there is an administrator");
    drop(service);
}

#[tokio::test]
async fn only_the_first_account_makes_accounts_and_each_begins_with_a_token_of_its_own() {
    let service = TestService::start().await;
    let caller = service.caller("default").await;
    let (status, made) = caller.post("/accounts", &json!({"name": "acme", "title": "Acme"})).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let acme = Caller::with_token(&service, made["token"]["secret"].as_str().unwrap());
    assert_eq!(acme.get("/accounts").await.1["items"].as_array().unwrap().len(), 1);
    let (status, answer) = acme.post("/accounts", &json!({"name": "evil"})).await;
    assert_eq!((status, &answer["code"]), (StatusCode::FORBIDDEN, &json!("scope_missing")));
    assert_eq!(acme.get("/accounts/default").await.0, StatusCode::NOT_FOUND);
    assert_eq!(caller.get("/accounts").await.1["items"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_stream_goes_on_after_the_last_event_that_came() {
    let service = TestService::start().await;
    let caller = service.caller("default").await;
    let token = service.token("default", &[TokenScope::Read]).await;
    caller.post("/groups", &json!({"name": "one"})).await;
    let last = service.account("default").await.last_event().await.unwrap();
    let request = Request::get("/api/v1/events/stream")
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .header("last-event-id", last - 1)
        .body(Body::empty())
        .unwrap();
    let mut body = service.router().oneshot(request).await.unwrap().into_body();
    let mut next = async || {
        let frame = timeout(Duration::from_secs(10), body.frame()).await.unwrap().unwrap().unwrap();
        String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
    };
    let first = next().await;
    assert!(first.contains(&format!("id: {last}\n")) && first.contains("group.created"), "{first}");
    caller.post("/groups", &json!({"name": "two"})).await;
    let second = next().await;
    assert!(second.contains(&format!("id: {}\n", last + 1)) && second.contains("groups/two"), "{second}");
}
