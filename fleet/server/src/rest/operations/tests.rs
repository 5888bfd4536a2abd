//! Claims about long operations through the API: lists, edits, reports, and a service that is killed in the middle.

use axum::{
    body::Body,
    http::{Request, StatusCode, header},
};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use crate::{
    operations,
    test_service::{Caller, TestService},
};

fn upload(list: String, key: Option<&str>) -> Request<Body> {
    let request = Request::post("/listed-certificates").header(header::CONTENT_TYPE, "text/csv");
    let request = match key {
        Some(key) => request.header("idempotency-key", key),
        None => request,
    };
    request.body(Body::from(list)).unwrap()
}

fn list(count: u64) -> String {
    let lines: Vec<String> = (0..count).map(|n| format!("{n:064x},gate-{n}")).collect();
    format!("fingerprint,endpoint\n{}\n", lines.join("\n"))
}

async fn finish(service: &TestService) {
    while operations::round(&service.fleet).await.unwrap() {}
}

fn lists_on_disk(service: &TestService) -> usize {
    let folder = service.fleet.config.data_dir.join("lists/default");
    std::fs::read_dir(folder).map_or(0, Iterator::count)
}

/// The body of an answer as text.
async fn text(caller: &Caller, path: &str) -> String {
    let answer = caller.raw(Request::get(path).body(Body::empty()).unwrap()).await;
    assert_eq!(answer.status(), StatusCode::OK);
    String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn a_list_is_an_operation_whose_report_says_what_to_do_about_each_bad_line() {
    let service = TestService::start().await;
    let caller = service.caller("default").await;
    let sent = format!("{}nonsense,gate-x\n{:064x},../etc\n", list(3), 77);
    let (status, operation) = caller.send(upload(sent.clone(), Some("one"))).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{operation}");
    assert_eq!(
        (&operation["id"], &operation["state"], &operation["total"]),
        (&json!("op-1"), &json!("waiting"), &json!(5))
    );
    let (_, again) = caller.send(upload(sent, Some("one"))).await;
    assert_eq!(again["id"], "op-1", "a repeated request begins nothing");
    assert_eq!(lists_on_disk(&service), 1);
    finish(&service).await;
    let done = caller.get("/operations/op-1").await.1;
    assert_eq!((&done["state"], &done["done"], &done["refused"]), (&json!("finished"), &json!(3), &json!(2)), "{done}");
    assert_eq!(lists_on_disk(&service), 0);

    let report = caller.get("/operations/op-1/report?outcome=refused").await.1;
    let rows: Vec<(u64, &str)> = report["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["line"].as_u64().unwrap(), row["code"].as_str().unwrap()))
        .collect();
    assert_eq!(rows, [(5, "invalid_fingerprint"), (6, "invalid_endpoint")]);
    assert!(report["items"][0]["detail"].as_str().unwrap().contains("`nonsense`"), "{report}");
    assert!(report["items"][0]["hint"].as_str().unwrap().contains("64 hexadecimal digits"), "{report}");
    let page = caller.get("/operations/op-1/report?limit=2").await.1;
    let next = page["next"].as_str().unwrap();
    let page = caller.get(&format!("/operations/op-1/report?limit=2&cursor={next}")).await.1;
    assert_eq!(page["items"][0]["line"], 4, "{page}");
    let file = text(&caller, "/operations/op-1/report-file").await;
    assert!(file.starts_with("line,subject,outcome,code,detail,hint\n2,,done,,,\n"), "{file}");
    assert_eq!(file.lines().count(), 6, "{file}");
    let file = text(&caller, "/operations/op-1/report-file?format=jsonl&outcome=refused").await;
    let row: Value = serde_json::from_str(file.lines().next().unwrap()).unwrap();
    assert_eq!(row["line"], 5);

    let listed = caller.get("/listed-certificates?limit=2").await.1;
    assert_eq!((listed["items"].as_array().unwrap().len(), listed["next"].is_string()), (2, true));
    assert_eq!(caller.get("/operations").await.1["items"][0]["id"], "op-1");
}

#[tokio::test]
async fn a_list_that_nobody_can_read_is_refused_and_leaves_nothing() {
    let service = TestService::start().await;
    let caller = service.caller("default").await;
    let (status, refused) = caller.send(upload("serial,endpoint\n1,gate-1\n".into(), None)).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(refused["detail"].as_str().unwrap().contains("there is no column `serial`"), "{refused}");
    let json = Caller::json("POST", "/listed-certificates", &json!({}));
    assert_eq!(caller.send(json).await.0, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let (status, _) = caller.send(upload(format!("fingerprint\n{}", "\n".repeat(1_000_001)), None)).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(lists_on_disk(&service), 0);
    assert_eq!(caller.get("/operations").await.1["items"], json!([]));
    assert_eq!(caller.get("/operations/op-1").await.0, StatusCode::NOT_FOUND);
    assert_eq!(caller.get("/operations/x").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_service_that_is_killed_in_the_middle_of_a_list_does_each_line_once() {
    let mut service = TestService::start().await;
    let caller = service.caller("default").await;
    caller.send(upload(list(3500), None)).await;
    let lost = service.fleet.config.data_dir.join("lists/default/half");
    std::fs::write(&lost, "what a killed upload left").unwrap();
    for wanted in [1000, 2000, 3000] {
        assert!(operations::round(&service.fleet).await.unwrap());
        service = service.restart().await;
        let caller = service.caller("default").await;
        let under_way = caller.get("/operations/op-1").await.1;
        assert_eq!((&under_way["state"], &under_way["done"]), (&json!("running"), &json!(wanted)));
        assert!(!lost.exists() && lists_on_disk(&service) == 1);
    }
    finish(&service).await;
    let caller = service.caller("default").await;
    let done = caller.get("/operations/op-1").await.1;
    assert_eq!((&done["state"], &done["done"], &done["unchanged"]), (&json!("finished"), &json!(3500), &json!(0)));
    let last = caller.get(&format!("/listed-certificates/{:064x}", 3499)).await.1;
    assert_eq!(last["endpoint"], "gate-3499");
}

#[tokio::test]
async fn a_list_that_is_gone_fails_its_operation_with_what_to_do() {
    let service = TestService::start().await;
    let caller = service.caller("default").await;
    caller.send(upload(list(10), None)).await;
    std::fs::remove_dir_all(service.fleet.config.data_dir.join("lists/default")).unwrap();
    finish(&service).await;
    let failed = caller.get("/operations/op-1").await.1;
    assert_eq!((&failed["state"], &failed["reason_code"]), (&json!("failed"), &json!("list_missing")), "{failed}");
}

#[tokio::test]
async fn many_devices_are_edited_as_one_operation_and_a_cancelled_one_goes_no_further() {
    let service = TestService::start().await;
    for n in 0..5 {
        service.device("default", &format!("gate-{n}")).await;
    }
    let caller = service.caller("default").await;
    let edit = json!({"filter": "name != \"gate-3\"", "edit": {"change": {"tags": {"add": ["lab"]}, "attributes": {"set": {"rack": 7}}}}});
    let (status, operation) = caller.post("/device-edits", &edit).await;
    assert_eq!((status, &operation["total"]), (StatusCode::ACCEPTED, &json!(4)), "{operation}");
    finish(&service).await;
    let done = caller.get("/operations/op-1").await.1;
    assert_eq!((&done["state"], &done["done"], &done["kind"]), (&json!("finished"), &json!(4), &json!("edit_devices")));
    let tagged = caller.get("/devices?filter=tag%20%3D%20%22lab%22%20and%20attribute.rack%20%3D%207").await.1;
    assert_eq!(tagged["items"].as_array().unwrap().len(), 4);

    let suspend = json!({"filter": "", "edit": {"suspend": "sold"}});
    caller.post("/device-edits", &suspend).await;
    let (status, cancelled) = caller.act("/operations/op-2/cancel").await;
    assert_eq!((status, &cancelled["state"]), (StatusCode::OK, &json!("cancelled")));
    finish(&service).await;
    assert_eq!(caller.get("/devices?standing=suspended").await.1["items"], json!([]));
    assert_eq!(caller.act("/operations/op-1/cancel").await.0, StatusCode::CONFLICT);

    for (edit, status) in [
        (json!({"filter": "tag =", "edit": "resume"}), StatusCode::UNPROCESSABLE_ENTITY),
        (json!({"filter": "", "edit": {"change": {}}}), StatusCode::UNPROCESSABLE_ENTITY),
        (json!({"filter": "", "edit": {"change": {"tags": {"add": ["a/b"]}}}}), StatusCode::UNPROCESSABLE_ENTITY),
        (json!({"filter": "", "edit": {"add_to_group": "nowhere"}}), StatusCode::NOT_FOUND),
        (json!({"filter": "", "edit": "explode"}), StatusCode::BAD_REQUEST),
    ] {
        assert_eq!(caller.post("/device-edits", &edit).await.0, status, "{edit}");
    }
}
