//! Who may do what, asked of the whole API: roles for some devices, policies of an account, the tree, and the log of it all.

use axum::{
    body::Body,
    http::{Request, StatusCode, header},
};
use fleet_api::{AuditChain, AuditEntry, TokenScope};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::test_service::{Caller, TestService};

/// A service account of `account` with these roles, and a token of it with every scope.
async fn program(service: &TestService, account: &str, roles: &[(&str, Option<&str>)]) -> Caller {
    let admin = service.caller(account).await;
    let (status, made) = admin.post("/service-accounts", &json!({"name": "ci", "title": "builds"})).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    for (role, filter) in roles {
        let mut wanted = json!({"principal": "service/ci", "role": role});
        if let Some(filter) = filter {
            wanted["filter"] = json!(filter);
        }
        let (status, made) = admin.post("/role-bindings", &wanted).await;
        assert_eq!(status, StatusCode::CREATED, "{made}");
    }
    token_of(service, &admin, &["admin"]).await
}

async fn token_of(service: &TestService, admin: &Caller, scopes: &[&str]) -> Caller {
    let wanted = json!({"name": "ci", "scopes": scopes, "principal": "service/ci"});
    let (status, made) = admin.post("/tokens", &wanted).await;
    assert_eq!((status, &made["token"]["principal"]), (StatusCode::CREATED, &json!("service/ci")), "{made}");
    Caller::with_token(service, made["secret"].as_str().unwrap())
}

async fn check(admin: &Caller, action: &str, device: Option<&str>) -> Value {
    let device = device.map(|device| format!("&device={device}")).unwrap_or_default();
    let (status, answer) = admin.get(&format!("/access-check?principal=service/ci&action={action}{device}")).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer
}

#[tokio::test]
async fn a_role_for_some_devices_reaches_these_and_no_others() {
    let service = TestService::start().await;
    for endpoint in ["north-1", "north-2", "south-1"] {
        service.device("acme", endpoint).await;
    }
    let ci = program(&service, "acme", &[("operator", Some("name ~ \"north-*\""))]).await;
    let (_, devices) = ci.get("/devices").await;
    let names: Vec<&str> =
        devices["items"].as_array().unwrap().iter().map(|d| d["endpoint"].as_str().unwrap()).collect();
    assert_eq!(names, ["north-1", "north-2"]);
    assert_eq!(ci.get("/device-counts").await.1["items"][0]["devices"], 2);
    let (status, all) = ci.get("/devices?filter=name%20~%20%22*%22%20or%20not%20connected%20%3D%20true").await;
    assert_eq!((status, all["items"].as_array().unwrap().len()), (StatusCode::OK, 2), "{all}");
    for (endpoint, expected) in
        [("north-1", StatusCode::OK), ("south-1", StatusCode::FORBIDDEN), ("nowhere", StatusCode::FORBIDDEN)]
    {
        assert_eq!(ci.get(&format!("/devices/{endpoint}")).await.0, expected, "{endpoint}");
        let (status, answer) = ci.post(&format!("/devices/{endpoint}/suspend"), &json!({"reason": "x"})).await;
        assert_eq!(status, expected, "{endpoint}: {answer}");
    }
    for path in ["/groups", "/rollouts", "/events", "/tokens", "/audit", "/artifacts"] {
        let (status, answer) = ci.get(path).await;
        assert_eq!((status, &answer["code"]), (StatusCode::FORBIDDEN, &json!("access_denied")), "{path}");
    }
    let admin = service.caller("acme").await;
    let answer = check(&admin, "list_devices", None).await;
    assert_eq!((&answer["allowed"], &answer["only"]), (&json!(true), &json!("name ~ \"north-*\"")));
    let answer = check(&admin, "suspend_device", Some("south-1")).await;
    assert_eq!((&answer["allowed"], &answer["because"]), (&json!(false), &json!("no policy permits it")));
    assert_eq!(answer["roles"][0]["applies"], false);
    let answer = check(&admin, "suspend_device", Some("north-1")).await;
    assert_eq!((&answer["allowed"], &answer["policies"][0]["id"]), (&json!(true), &json!("role-operator")));
}

#[tokio::test]
async fn two_roles_for_different_devices_show_both_and_act_each_on_its_own() {
    let service = TestService::start().await;
    for endpoint in ["a", "b", "c"] {
        service.device("acme", endpoint).await;
    }
    let roles = [("viewer", Some("name = \"a\"")), ("operator", Some("name = \"b\""))];
    let ci = program(&service, "acme", &roles).await;
    assert_eq!(ci.get("/devices").await.1["items"].as_array().unwrap().len(), 2);
    for (endpoint, expected) in [("a", StatusCode::FORBIDDEN), ("b", StatusCode::OK), ("c", StatusCode::FORBIDDEN)] {
        let (status, _) = ci.post(&format!("/devices/{endpoint}/suspend"), &json!({"reason": ""})).await;
        assert_eq!(status, expected, "{endpoint}");
    }
}

#[tokio::test]
async fn a_token_of_a_principal_allows_what_both_its_scopes_and_the_roles_allow() {
    let service = TestService::start().await;
    program(&service, "acme", &[("operator", None)]).await;
    let admin = service.caller("acme").await;
    let reader = token_of(&service, &admin, &["read"]).await;
    assert_eq!(reader.get("/groups").await.0, StatusCode::OK);
    let (status, answer) = reader.post("/groups", &json!({"name": "doors"})).await;
    assert_eq!((status, &answer["code"]), (StatusCode::FORBIDDEN, &json!("scope_missing")));
    let full = token_of(&service, &admin, &["admin"]).await;
    assert_eq!(full.post("/groups", &json!({"name": "doors"})).await.0, StatusCode::CREATED);
    let (status, answer) = full.post("/service-accounts", &json!({"name": "evil"})).await;
    assert_eq!((status, &answer["code"]), (StatusCode::FORBIDDEN, &json!("access_denied")));

    let (status, _) = admin.send(Caller::json("PATCH", "/service-accounts/ci", &json!({"disabled": true}))).await;
    assert_eq!(status, StatusCode::OK);
    let (status, answer) = full.get("/groups").await;
    assert_eq!((status, &answer["code"]), (StatusCode::UNAUTHORIZED, &json!("principal_disabled")));
    admin.send(Caller::json("PATCH", "/service-accounts/ci", &json!({"disabled": false}))).await;
    assert_eq!(full.get("/groups").await.0, StatusCode::OK);
    let (_, bindings) = admin.get("/role-bindings").await;
    let id = bindings["items"][0]["id"].as_str().unwrap();
    let gone = Request::delete(format!("/role-bindings/{id}")).body(Body::empty()).unwrap();
    assert_eq!(admin.send(gone).await.0, StatusCode::NO_CONTENT);
    assert_eq!(
        full.get("/groups").await.0,
        StatusCode::FORBIDDEN,
        "a role that was taken away ends with the next request"
    );
}

#[tokio::test]
async fn a_policy_of_the_account_is_checked_saved_obeyed_and_cannot_shut_its_author_out() {
    let service = TestService::start().await;
    service.device("acme", "gate-1").await;
    let ci = program(&service, "acme", &[("operator", None)]).await;
    let admin = service.caller("acme").await;
    let put = |name: &str, policy: &str| Caller::json("PUT", &format!("/policies/{name}"), &json!({"policy": policy}));
    let (status, answer) = admin.send(put("lab", "forbid(principal, action == Action::\"reboot\", resource);")).await;
    assert_eq!(
        (status, &answer["code"], &answer["field"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("malformed_policy"), &json!("policy"))
    );
    assert!(answer["at"].is_u64() && answer["length"].is_u64(), "{answer}");
    let (status, answer) = admin.send(put("all", "forbid(principal, action, resource);")).await;
    assert_eq!((status, &answer["field"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("policy")), "{answer}");
    assert!(answer["detail"].as_str().unwrap().contains("could not change policies"), "{answer}");

    assert_eq!(ci.act("/devices/gate-1/factory-reset").await.0, StatusCode::OK);
    let lab = "forbid(principal is Service, action == Action::\"reset_device\", resource) when { resource.tags.contains(\"lab\") };";
    assert_eq!(admin.send(put("lab", lab)).await.0, StatusCode::CREATED);
    assert_eq!(admin.send(put("lab", lab)).await.0, StatusCode::OK);
    assert_eq!(ci.act("/devices/gate-1/factory-reset").await.0, StatusCode::OK, "it is not in the lab yet");
    let tag = json!({"tags": {"add": ["lab"]}});
    assert_eq!(admin.send(Caller::json("PATCH", "/devices/gate-1", &tag)).await.0, StatusCode::OK);
    let (status, answer) = ci.act("/devices/gate-1/factory-reset").await;
    assert_eq!((status, &answer["code"]), (StatusCode::FORBIDDEN, &json!("access_denied")));
    assert!(answer["detail"].as_str().unwrap().contains("`acme/lab` forbids it"), "{answer}");
    let answer = check(&admin, "reset_device", Some("gate-1")).await;
    assert_eq!((&answer["allowed"], &answer["policies"][0]["id"]), (&json!(false), &json!("acme/lab")));
    let (_, policies) = admin.get("/policies").await;
    assert!(policies["items"].as_array().unwrap().iter().any(|p| p["id"] == "acme/lab" && p["builtin"] == false));
    let gone = Request::delete("/policies/lab").header(header::IF_MATCH, "*").body(Body::empty()).unwrap();
    assert_eq!(admin.send(gone).await.0, StatusCode::NO_CONTENT);
    assert_eq!(ci.act("/devices/gate-1/factory-reset").await.0, StatusCode::OK);
}

/// A request to the account `name`, from wherever the caller is.
fn about(name: &str, method: &str, path: &str) -> Request<Body> {
    Request::builder().method(method).uri(path).header(fleet_api::ACCOUNT_HEADER, name).body(Body::empty()).unwrap()
}

#[tokio::test]
async fn roles_and_policies_of_an_account_hold_below_it_and_nothing_reaches_beside_or_above() {
    let service = TestService::start().await;
    let root = service.caller("default").await;
    for (name, parent) in [("org", None), ("customer", Some("org")), ("site", Some("customer")), ("rival", None)] {
        let (status, made) = root.post("/accounts", &json!({"name": name, "parent": parent})).await;
        assert_eq!((status, made["account"]["parent"].as_str()), (StatusCode::CREATED, parent), "{made}");
    }
    service.device("site", "gate-1").await;
    let ci = program(&service, "customer", &[("operator", None)]).await;
    assert_eq!(ci.send(about("site", "GET", "/devices/gate-1")).await.0, StatusCode::OK);
    assert_eq!(ci.get("/devices/gate-1").await.0, StatusCode::NOT_FOUND, "its own account has no such device");
    for foreign in ["org", "rival", "default", "nowhere", "Not a name"] {
        let (status, answer) = ci.send(about(foreign, "GET", "/devices")).await;
        assert_eq!((status, &answer["code"]), (StatusCode::NOT_FOUND, &json!("not_found")), "{foreign}");
    }
    // A token of an account itself reaches no other, not even one below.
    let own = service.caller("customer").await;
    assert_eq!(own.send(about("site", "GET", "/devices")).await.0, StatusCode::NOT_FOUND);
    let (_, seen) = own.get("/accounts").await;
    let names: Vec<&str> = seen["items"].as_array().unwrap().iter().map(|a| a["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["customer", "site"]);

    // What the organisation forbids, nobody below can allow.
    let org = service.caller("org").await;
    let policy = json!({"policy": "forbid(principal, action == Action::\"delete_device\", resource);"});
    assert_eq!(org.send(Caller::json("PUT", "/policies/keep", &policy)).await.0, StatusCode::CREATED);
    let (status, answer) = ci.send(about("site", "DELETE", "/devices/gate-1")).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{answer}");
    assert!(answer["detail"].as_str().unwrap().contains("`org/keep` forbids it"), "{answer}");

    let moved =
        |name: &str, parent: Value| Caller::json("PATCH", &format!("/accounts/{name}"), &json!({"parent": parent}));
    assert_eq!(root.send(moved("org", json!("site"))).await.0, StatusCode::UNPROCESSABLE_ENTITY, "no round");
    assert_eq!(own.send(moved("site", Value::Null)).await.0, StatusCode::FORBIDDEN);
    assert_eq!(own.send(moved("site", json!("rival"))).await.0, StatusCode::NOT_FOUND);
    assert_eq!(own.send(moved("rival", json!("customer"))).await.0, StatusCode::NOT_FOUND);
    assert_eq!(root.send(moved("site", json!("rival"))).await.0, StatusCode::OK);
    assert_eq!(
        ci.send(about("site", "GET", "/devices/gate-1")).await.0,
        StatusCode::NOT_FOUND,
        "it went with the account"
    );
    let rival = service.caller("site").await;
    let (_, log) = rival.get("/audit").await;
    let last = log["items"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&last["entry"]["action"], &last["entry"]["home"]), (&json!("change_account"), &json!("default")));
    assert_eq!(last["entry"]["changes"][0]["data"], json!({"from": "customer", "to": "rival"}));
}

#[tokio::test]
async fn no_policy_of_an_account_keeps_its_policies_from_those_above_and_those_of_their_own_account_do() {
    let service = TestService::start().await;
    let root = service.caller("default").await;
    for (name, parent) in [("msp", None), ("customer", Some("msp"))] {
        let (status, made) = root.post("/accounts", &json!({"name": name, "parent": parent})).await;
        assert_eq!(status, StatusCode::CREATED, "{made}");
    }
    let above = program(&service, "msp", &[("administrator", None)]).await;
    let below = program(&service, "customer", &[("administrator", None)]).await;
    let alone = "forbid(principal, action, resource) unless { principal.account == \"customer\" };";
    let alone = json!({"policy": alone});
    assert_eq!(below.send(Caller::json("PUT", "/policies/alone", &alone)).await.0, StatusCode::CREATED);
    let (status, answer) = above.send(about("customer", "GET", "/groups")).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{answer}");
    assert!(answer["detail"].as_str().unwrap().contains("`customer/alone` forbids it"), "{answer}");
    assert_eq!(above.send(about("customer", "GET", "/policies/alone")).await.0, StatusCode::OK);
    let admin = service.caller("customer").await;
    let asked = "/access-check?principal=service/ci&home=msp&action=delete_policy";
    assert_eq!(admin.get(asked).await.1["allowed"], true, "the answer is that of the gate");

    // What their own account forbids them they may not do below either.
    let keep = json!({"policy": "forbid(principal is Service, action == Action::\"delete_policy\", resource);"});
    let msp = service.caller("msp").await;
    assert_eq!(msp.send(Caller::json("PUT", "/policies/keep", &keep)).await.0, StatusCode::CREATED);
    let gone = || {
        let mut request = about("customer", "DELETE", "/policies/alone");
        request.headers_mut().insert(header::IF_MATCH, "*".parse().unwrap());
        request
    };
    assert_eq!(above.send(gone()).await.0, StatusCode::FORBIDDEN);
    let free = Request::delete("/policies/keep").header(header::IF_MATCH, "*").body(Body::empty()).unwrap();
    assert_eq!(msp.send(free).await.0, StatusCode::NO_CONTENT);
    assert_eq!(above.send(gone()).await.0, StatusCode::NO_CONTENT);
    assert_eq!(above.send(about("customer", "GET", "/groups")).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_refusal_keeps_no_more_of_a_made_up_path_than_a_name_may_have() {
    let service = TestService::start().await;
    let admin = service.caller("acme").await;
    let reader = Caller::with_token(&service, &service.token("acme", &[TokenScope::Read]).await);
    let (status, _) = reader.send(Caller::json("PATCH", &format!("/groups/{}", "x".repeat(9_000)), &json!({}))).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let (_, log) = admin.get("/audit").await;
    let last = log["items"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(last["entry"]["outcome"], "scope_missing");
    assert_eq!(last["entry"]["resource"].as_str().unwrap().len(), 512);
}

#[tokio::test]
async fn an_account_that_asks_too_often_is_told_when_to_come_again() {
    let service = TestService::start_with(|config| {
        config.limits.account_requests_per_s = 1;
        config.limits.account_burst = 2;
    })
    .await;
    let token = service.token("acme", &[TokenScope::Read]).await;
    let ask = async || {
        let request = Request::get("/api/v1/groups").header(header::AUTHORIZATION, format!("Bearer {token}"));
        service.router().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    };
    let answer = ask().await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["ratelimit-policy"], "\"account\";q=2;w=2");
    assert_eq!(answer.headers()["ratelimit"], "\"account\";r=1;t=2");
    let mut refused = None;
    // A slow machine gives the account a new request while it asks.
    for _ in 0..100 {
        let answer = ask().await;
        if answer.status() == StatusCode::TOO_MANY_REQUESTS {
            refused = Some(answer);
            break;
        }
    }
    let answer = refused.expect("one request too many is refused");
    assert_eq!(answer.headers()[header::RETRY_AFTER], "1");
    assert_eq!(answer.headers()[header::CONTENT_TYPE], "application/problem+json");
    assert_eq!(
        service.caller("other").await.get("/groups").await.0,
        StatusCode::OK,
        "another account has its own rate"
    );
}

async fn exported(service: &TestService, account: &str) -> String {
    let token = service.token(account, &[TokenScope::Admin]).await;
    let request = Request::get("/api/v1/audit-export").header(header::AUTHORIZATION, format!("Bearer {token}"));
    let answer = service.router().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// The entries of a log, which verifies.
fn entries(text: &str) -> Vec<AuditEntry> {
    let mut chain = AuditChain::default();
    text.lines().map(|line| chain.take(line).unwrap()).collect()
}

#[tokio::test]
async fn every_change_and_every_refusal_stands_in_the_log_with_who_and_what_and_the_log_verifies() {
    let service = TestService::start().await;
    let ci = program(&service, "acme", &[("viewer", None)]).await;
    let admin = service.caller("acme").await;
    admin.post("/groups", &json!({"name": "doors"})).await;
    admin.post("/groups", &json!({"name": "doors"})).await;
    ci.post("/groups", &json!({"name": "windows"})).await;
    ci.get("/groups").await;
    let text = exported(&service, "acme").await;
    let entries = entries(&text);
    let told: Vec<(&str, &str, &str)> =
        entries.iter().map(|e| (e.action.as_str(), e.resource.as_str(), e.outcome.as_str())).collect();
    assert_eq!(
        told,
        [
            ("create_service_account", "service-accounts", "done"),
            ("create_role_binding", "role-bindings", "done"),
            ("create_token", "tokens", "done"),
            ("create_group", "groups", "done"),
            ("create_group", "groups", "already_exists"),
            ("create_group", "groups", "access_denied"),
        ]
    );
    assert_eq!(entries[3].changes[0].subject, "groups/doors");
    assert!(entries[3].principal.starts_with("token/") && entries[3].request.len() == 16, "{:?}", entries[3]);
    assert_eq!((entries[5].principal.as_str(), entries[5].home.as_str()), ("service/ci", "acme"));
    assert!(!text.contains("mblt_"), "no secret is in the log");
}

#[tokio::test]
async fn whoever_is_refused_again_and_again_is_told_once_a_minute_with_how_often_and_hides_nobody_else() {
    let service = TestService::start().await;
    service.device("acme", "gate-1").await;
    let ci = program(&service, "acme", &[("viewer", None)]).await;
    for _ in 0..60 {
        assert_eq!(ci.post("/groups", &json!({"name": "doors"})).await.0, StatusCode::FORBIDDEN);
        assert_eq!(ci.act("/devices/gate-1/factory-reset").await.0, StatusCode::FORBIDDEN);
    }
    let reader = Caller::with_token(&service, &service.token("acme", &[TokenScope::Read]).await);
    reader.post("/groups", &json!({"name": "doors"})).await;
    let refused = async |principal: &str| -> Vec<AuditEntry> {
        let mut entries = entries(&exported(&service, "acme").await);
        entries.retain(|entry| entry.outcome != "done" && entry.principal.starts_with(principal));
        entries
    };
    let one_by_one = refused("service/ci").await.len();
    // A machine that takes a minute or two for all of it tells a few more.
    assert!((30..60).contains(&one_by_one), "{one_by_one} of 120 refusals are told one by one");
    assert_eq!(refused("token/").await.len(), 1);

    service.fleet.refusals.tell(&service.fleet.store).await;
    let told = refused("service/ci").await;
    assert_eq!(told.len(), one_by_one + 1);
    assert_eq!(told.iter().map(|entry| 1 + entry.left_out()).sum::<u64>(), 120);
    let last = told.last().unwrap();
    assert_eq!((last.home.as_str(), last.outcome.as_str()), ("acme", "access_denied"));
    let actions = last.changes[0].data["actions"].as_object().unwrap();
    assert_eq!(actions.keys().collect::<Vec<_>>(), ["create_group", "reset_device"]);
    service.fleet.refusals.tell(&service.fleet.store).await;
    assert_eq!(refused("service/ci").await.len(), told.len(), "what was told is told once");
}

#[tokio::test]
async fn an_entry_that_is_changed_or_taken_out_breaks_the_log() {
    let service = TestService::start().await;
    let admin = service.caller("acme").await;
    for name in ["one", "two", "three"] {
        admin.post("/groups", &json!({"name": name})).await;
    }
    let whole = exported(&service, "acme").await;
    let verify = |text: &str| {
        let mut chain = AuditChain::default();
        text.lines().try_for_each(|line| chain.take(line).map(drop))
    };
    verify(&whole).unwrap();
    verify(&whole.replace("groups/two", "groups/ten")).unwrap_err();
    let without: Vec<&str> = whole.lines().filter(|line| !line.contains("groups/two")).collect();
    verify(&without.join("\n")).unwrap_err();
}

#[tokio::test]
async fn accounts_service_accounts_and_users_are_changed_only_as_somebody_has_seen_them() {
    let service = TestService::start().await;
    let admin = service.caller("default").await;
    assert_eq!(admin.post("/accounts", &json!({"name": "site"})).await.0, StatusCode::CREATED);
    assert_eq!(admin.post("/service-accounts", &json!({"name": "ci"})).await.0, StatusCode::CREATED);
    let anna = json!({"name": "anna", "email": "anna@example.com"});
    assert_eq!(admin.post("/users", &anna).await.0, StatusCode::CREATED);
    let request = |method: &str, path: &str, at: Option<&str>, body: &Value| {
        let mut request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, "application/json");
        if let Some(at) = at {
            request = request.header(header::IF_MATCH, at);
        }
        request.body(Body::from(body.to_string())).unwrap()
    };
    for (path, body) in [
        ("/accounts/site", json!({"parent": "default"})),
        ("/service-accounts/ci", json!({"disabled": true})),
        ("/users/anna", json!({"disabled": true})),
    ] {
        let shown = admin.raw(Request::get(path).body(Body::empty()).unwrap()).await;
        let tag = shown.headers()[header::ETAG].to_str().unwrap().to_owned();
        assert_eq!(admin.send(request("PATCH", path, None, &body)).await.0.as_u16(), 428, "{path}");
        let changed = admin.raw(request("PATCH", path, Some(&tag), &body)).await;
        assert_eq!(changed.status(), StatusCode::OK, "{path}");
        assert_ne!(changed.headers()[header::ETAG].to_str().unwrap(), tag, "{path}");
        let (status, answer) = admin.send(request("PATCH", path, Some(&tag), &body)).await;
        assert_eq!((status, &answer["code"]), (StatusCode::PRECONDITION_FAILED, &json!("stale")), "{path}");
        if path != "/accounts/site" {
            assert_eq!(admin.send(request("DELETE", path, None, &body)).await.0.as_u16(), 428, "{path}");
            assert_eq!(admin.send(request("DELETE", path, Some(&tag), &body)).await.0.as_u16(), 412, "{path}");
            assert_eq!(admin.send(request("DELETE", path, Some("*"), &body)).await.0, StatusCode::NO_CONTENT, "{path}");
        }
    }
}
