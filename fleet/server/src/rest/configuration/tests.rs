//! Claims about `/configuration` as a caller meets it: levels, revisions, previews, what is refused.

use axum::{
    body::Body,
    http::{Request, StatusCode, header},
};
use fleet_api::CONFIGURATION_SCHEMA;
use protocol_types::Configuration;
use serde_json::{Value, json};

use crate::test_service::{Caller, TestService};

async fn save(caller: &Caller, path: &str, document: Value) -> Value {
    let (status, saved) = caller.send(Caller::json("PUT", path, &json!({ "document": document }))).await;
    assert_eq!(status, StatusCode::OK, "{path}: {saved}");
    saved
}

#[tokio::test]
async fn a_device_has_what_its_levels_say_and_each_setting_names_its_level() {
    let service = TestService::start().await;
    let caller = service.caller("default").await;
    service.device("default", "gate-1").await;
    assert_eq!(caller.post("/groups", &json!({ "name": "doors", "members": ["gate-1"] })).await.0, StatusCode::CREATED);
    save(&caller, "/configuration", json!({ "hostname": "all", "contact_limit_s": 60 })).await;
    save(&caller, "/groups/doors/configuration", json!({ "hostname": "doors" })).await;
    save(&caller, "/devices/gate-1/configuration", json!({ "contact_limit_s": null })).await;
    let (status, whole) = caller.get("/devices/gate-1/effective-configuration").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(whole["document"], json!({ "hostname": "doors" }));
    assert_eq!(
        whole["settings"],
        json!([{ "path": "/hostname", "value": "doors", "level": "group", "name": "doors" }])
    );
    let layers = whole["layers"].as_array().unwrap();
    assert_eq!(layers.iter().map(|layer| &layer["level"]).collect::<Vec<_>>(), ["account", "group", "device"]);
    assert_eq!(whole["status"], "waiting");
    assert_eq!(whole["drift"], json!([{ "path": "/hostname", "after": "doors" }]));
}

#[tokio::test]
async fn a_preview_tells_each_device_apart_and_changes_nothing() {
    let service = TestService::start().await;
    let caller = service.caller("default").await;
    for endpoint in ["gate-1", "gate-2", "kiln-1"] {
        service.device("default", endpoint).await;
    }
    let own = json!({ "hostname": "mine" });
    save(&caller, "/devices/gate-2/configuration", own).await;
    let wanted = json!({ "document": { "hostname": "all" } });
    let (status, preview) = caller.post("/configuration/preview?limit=2", &wanted).await;
    assert_eq!(status, StatusCode::OK, "{preview}");
    assert_eq!((&preview["devices"], &preview["changed"]), (&json!(3), &json!(1)));
    assert_eq!(preview["items"][0]["changes"], json!([{ "path": "/hostname", "after": "all" }]));
    assert_eq!(preview["items"][1], json!({ "endpoint": "gate-2", "changes": [] }), "its own name comes over that");
    let next = format!("/configuration/preview?limit=2&cursor={}", preview["next"].as_str().unwrap());
    let (_, rest) = caller.post(&next, &wanted).await;
    assert_eq!(rest["items"][0]["endpoint"], "kiln-1");
    assert_eq!(caller.get("/configuration").await.1["revision"], 0);

    let gateway = json!({ "document": { "network": { "eth0": { "gateway": "192.0.2.1" } } } });
    let (_, preview) = caller.post("/devices/gate-1/configuration/preview", &gateway).await;
    assert!(preview["items"][0]["invalid"].as_str().unwrap().contains("eth0"), "{preview}");
}

#[tokio::test]
async fn revisions_are_kept_and_a_save_on_top_of_an_older_one_is_refused() {
    let service = TestService::start().await;
    let caller = service.caller("default").await;
    save(&caller, "/configuration", json!({ "hostname": "a" })).await;
    assert_eq!(save(&caller, "/configuration", json!({ "hostname": "b" })).await["revision"], 2);
    let mut late = Caller::json("PUT", "/configuration", &json!({ "document": {} }));
    late.headers_mut().insert(header::IF_MATCH, "\"1\"".parse().unwrap());
    let (status, refused) = caller.send(late).await;
    assert_eq!((status, &refused["code"]), (StatusCode::PRECONDITION_FAILED, &json!("stale")), "{refused}");
    let answer = caller.raw(Request::get("/configuration?revision=1").body(Body::empty()).unwrap()).await;
    assert_eq!(answer.headers()[header::ETAG], "\"1\"");
    let (_, revisions) = caller.get("/configuration/revisions").await;
    let documents: Vec<&Value> = revisions["items"].as_array().unwrap().iter().map(|row| &row["document"]).collect();
    assert_eq!(documents, [&json!({ "hostname": "a" }), &json!({ "hostname": "b" })]);
    assert_eq!(caller.get("/configuration?revision=7").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_staged_revision_is_shown_as_that_and_is_what_a_rollout_may_bring() {
    let service = TestService::start().await;
    let caller = service.caller("default").await;
    service.device("default", "gate-1").await;
    save(&caller, "/configuration", json!({ "hostname": "a" })).await;
    let wanted = json!({ "document": { "hostname": "b" } });
    let (status, staged) = caller.post("/configuration/revisions", &wanted).await;
    assert_eq!((status, &staged["revision"], &staged["standing"]), (StatusCode::CREATED, &json!(2), &json!("staged")));
    assert_eq!(caller.get("/configuration").await.1["document"], json!({ "hostname": "a" }));
    let (_, revisions) = caller.get("/configuration/revisions").await;
    let standing: Vec<&Value> = revisions["items"].as_array().unwrap().iter().map(|row| &row["standing"]).collect();
    assert_eq!(standing, ["in_force", "staged"]);

    let brings =
        |revision: i64| json!({ "configuration": { "level": "account", "revision": revision }, "audience": "all" });
    let (status, dry) = caller.post("/rollouts/dry-run", &brings(2)).await;
    assert_eq!((status, &dry["devices"], &dry["ready"]), (StatusCode::OK, &json!(1), &json!(1)), "{dry}");
    assert_eq!(dry["bytes_per_device"], json!(r#"{"hostname":"b"}"#.len()));
    let (status, made) = caller.post("/rollouts", &brings(2)).await;
    assert_eq!((status, &made["configuration"]["revision"]), (StatusCode::CREATED, &json!(2)), "{made}");
    assert_eq!(made.get("release"), None);
    for (body, status, code) in [
        (brings(1), StatusCode::CONFLICT, "wrong_state"),
        (brings(9), StatusCode::NOT_FOUND, "not_found"),
        (json!({ "audience": "all" }), StatusCode::UNPROCESSABLE_ENTITY, "invalid_value"),
        (
            json!({ "configuration": { "level": "group", "revision": 1 }, "audience": "all" }),
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid_value",
        ),
    ] {
        let (found, refused) = caller.post("/rollouts", &body).await;
        assert_eq!((found, &refused["code"]), (status, &json!(code)), "{body}: {refused}");
    }
}

#[tokio::test]
async fn a_document_that_breaks_the_schema_is_refused_by_the_name_of_its_setting() {
    let service = TestService::start().await;
    let caller = service.caller("default").await;
    service.device("default", "gate-1").await;
    for (path, body, says) in [
        ("/configuration", json!({ "document": { "hostnam": "a" } }), "hostnam"),
        ("/configuration", json!({ "document": { "contact_limit_s": 1 } }), "contact_limit_s"),
        ("/configuration", json!({ "document": {}, "priority": 5 }), "priority"),
        ("/devices/gate-1/configuration", json!({ "document": { "time_servers": "a" } }), "sequence"),
    ] {
        for (method, path) in [("PUT", path.to_owned()), ("POST", format!("{path}/preview"))] {
            let (status, refused) = caller.send(Caller::json(method, &path, &body)).await;
            assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{path}: {refused}");
            assert!(refused["detail"].as_str().unwrap().contains(says), "{refused}");
        }
    }
    assert_eq!(caller.get("/configuration").await.1["revision"], 0);
}

/// The names that serde would have taken in place of one that it does not know.
fn known(text: &str) -> Vec<String> {
    let error = Configuration::parse_level(text.as_bytes()).unwrap_err().to_string();
    let mut names: Vec<String> = error.split('`').skip(3).step_by(2).map(str::to_owned).collect();
    names.sort();
    names
}

#[test]
fn the_published_schema_and_the_types_know_the_same_settings_and_limits() {
    let schema: Value = serde_json::from_str(CONFIGURATION_SCHEMA).unwrap();
    let at = |path: &str| schema.pointer(path).unwrap();
    let named = |path: &str| {
        let mut names: Vec<String> = at(path).as_object().unwrap().keys().cloned().collect();
        names.sort();
        names
    };
    assert_eq!(named("/properties"), known(r#"{ "?": 1 }"#));
    for (path, text) in [
        ("/properties/log_levels/properties", r#"{ "log_levels": { "?": 1 } }"#),
        ("/properties/update_window/properties", r#"{ "update_window": { "?": 1 } }"#),
        ("/properties/network/additionalProperties/properties", r#"{ "network": { "eth0": { "?": 1 } } }"#),
    ] {
        assert_eq!(named(path), known(text), "{path}");
    }
    for name in named("/properties") {
        let taken_away = format!("{{ \"{name}\": null }}");
        assert!(Configuration::parse_level(taken_away.as_bytes()).is_ok(), "{name}");
        let kind = &at(&format!("/properties/{name}"))["type"];
        assert!(kind.as_array().unwrap().contains(&json!("null")), "{name}: {kind}");
    }
    let interface = "/properties/network/additionalProperties/properties";
    for (path, limit) in [
        ("/properties/time_servers/maxItems".to_owned(), Configuration::MAX_TIME_SERVERS),
        ("/properties/network/maxProperties".to_owned(), Configuration::MAX_INTERFACES),
        ("/properties/applications/maxProperties".to_owned(), Configuration::MAX_APPLICATIONS),
        (format!("{interface}/addresses/maxItems"), Configuration::MAX_ADDRESSES),
        (format!("{interface}/dns/maxItems"), Configuration::MAX_ADDRESSES),
    ] {
        assert_eq!(at(&path), &json!(limit), "{path}");
    }
    let limit = at("/properties/contact_limit_s");
    let (least, most) = (Configuration::CONTACT_LIMIT_S.start(), Configuration::CONTACT_LIMIT_S.end());
    assert_eq!((&limit["minimum"], &limit["maximum"]), (&json!(least), &json!(most)));
    let levels = at("/$defs/log_level/enum").as_array().unwrap();
    for level in levels.iter().filter(|level| !level.is_null()) {
        let text = json!({ "log_levels": { "agent": level } }).to_string();
        assert!(Configuration::parse_level(text.as_bytes()).is_ok(), "{level}");
    }
    assert_eq!(known(r#"{ "log_levels": { "agent": "?" } }"#).len() + 1, levels.len());
}
