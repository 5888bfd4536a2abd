//! Users asked of the whole API: invitation, signing in and out, passwords, locks, and what an administrator may do.

use std::time::{Duration, Instant};

use axum::{
    body::Body,
    http::{Request, StatusCode, header},
};
use data_encoding::BASE32_NOPAD;
use protocol_types::UnixSeconds;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::{
    fleet::Fleet,
    test_service::{Caller, TestService},
    users::TotpSecret,
};

const PASSWORD: &str = "correct horse battery staple";

/// Somebody without a token.
fn nobody(service: &TestService) -> Caller {
    Caller::with_token(service, "")
}

/// An authenticator.
struct Phone(TotpSecret);

impl Phone {
    fn of(invitation: &Value) -> Self {
        let secret = BASE32_NOPAD.decode(invitation["totp_secret"].as_str().unwrap().as_bytes()).unwrap();
        Self(TotpSecret::of(Zeroizing::new(secret)))
    }

    /// The code so many steps after the present one.
    fn code(&self, service: &TestService, steps: u64) -> String {
        self.0.code(service.now().0 / 30 + steps)
    }
}

async fn invite(service: &TestService, account: &str, role: &str) -> (Caller, String) {
    let admin = service.caller(account).await;
    let wanted = json!({"name": "anna", "email": "anna@example.com", "title": "Anna", "role": role});
    let (status, made) = admin.post("/users", &wanted).await;
    assert_eq!((status, &made["user"]["state"]), (StatusCode::CREATED, &json!("invited")), "{made}");
    let secret = made["invitation"].as_str().unwrap().to_owned();
    assert!(secret.starts_with("mbli_"));
    (admin, secret)
}

async fn accept(service: &TestService, secret: &str) -> (Phone, Value) {
    let (status, shown) = nobody(service).post("/invitation", &json!({"invitation": secret})).await;
    assert_eq!((status, &shown["name"]), (StatusCode::OK, &json!("anna")), "{shown}");
    let phone = Phone::of(&shown);
    let wanted = json!({"invitation": secret, "password": PASSWORD, "code": phone.code(service, 0)});
    let (status, made) = nobody(service).post("/invitation/accept", &wanted).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    (phone, made)
}

async fn sign_in(service: &TestService, name: &str, password: &str, code: &str) -> (StatusCode, Value) {
    let shown = json!({"account": "acme", "name": name, "password": password, "code": code});
    nobody(service).post("/sessions", &shown).await
}

fn secret_of(session: &Value) -> &str {
    session["secret"].as_str().unwrap()
}

#[tokio::test]
async fn a_person_is_invited_sets_what_only_they_know_and_acts_by_their_role() {
    let service = TestService::start().await;
    let (admin, secret) = invite(&service, "acme", "operator").await;
    let (phone, made) = accept(&service, &secret).await;
    assert_eq!(made["recovery_codes"].as_array().unwrap().len(), 10);
    let anna = Caller::with_token(&service, secret_of(&made["session"]));
    assert_eq!(anna.post("/groups", &json!({"name": "doors"})).await.0, StatusCode::CREATED);
    assert_eq!(anna.get("/users").await.1["code"], "access_denied");
    let again = nobody(&service).post("/invitation", &json!({"invitation": secret})).await;
    assert_eq!((again.0, &again.1["code"]), (StatusCode::UNAUTHORIZED, &json!("invitation_refused")));

    let (status, session) = sign_in(&service, "anna", PASSWORD, &phone.code(&service, 1)).await;
    assert_eq!(status, StatusCode::CREATED, "{session}");
    assert_eq!(session["token"]["principal"], "user/anna");
    let expires = session["token"]["expires"].as_u64().unwrap();
    assert!((service.now().0 + 12 * 3600 - expires) < 60, "a session lasts 12 hours");
    let anna = Caller::with_token(&service, secret_of(&session));
    let out = Request::delete("/session").body(Body::empty()).unwrap();
    assert_eq!(anna.send(out).await.0, StatusCode::NO_CONTENT);
    assert_eq!(anna.get("/groups").await.1["code"], "token_revoked");

    let (_, log) = admin.get("/audit").await;
    let entries: Vec<&Value> = log["items"].as_array().unwrap().iter().map(|item| &item["entry"]).collect();
    let text = log.to_string();
    for action in ["invite_user", "accept_invitation", "sign_in", "sign_out"] {
        assert!(text.contains(action), "{action} is on record: {entries:?}");
    }
    for kept in [PASSWORD, &secret, secret_of(&session), made["recovery_codes"][0].as_str().unwrap()] {
        assert!(!text.contains(kept), "no secret stands in the log");
    }
}

#[tokio::test]
async fn whatever_is_not_right_is_refused_in_the_same_words_after_the_same_time() {
    let service = TestService::start().await;
    let (_, secret) = invite(&service, "acme", "viewer").await;
    let (phone, _) = accept(&service, &secret).await;
    let good = phone.code(&service, 1);
    let mut answers = Vec::new();
    for (name, password, code) in [
        ("anna", "wrong horse battery", good.as_str()),
        ("anna", PASSWORD, "000000"),
        ("anna", PASSWORD, "aaaa-aaaa-aaaa-aaaa"),
        ("bert", PASSWORD, &good),
        ("No Name", PASSWORD, &good),
    ] {
        let begun = Instant::now();
        let (status, answer) = sign_in(&service, name, password, code).await;
        assert!(begun.elapsed() >= Duration::from_millis(500), "{name} {code}");
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{answer}");
        answers.push(words(answer));
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    let other = json!({"account": "nowhere", "name": "anna", "password": PASSWORD, "code": good});
    let (status, answer) = nobody(&service).post("/sessions", &other).await;
    assert_eq!((status, words(answer)), (StatusCode::UNAUTHORIZED, answers[0].clone()));
}

/// A problem without the name of its request, which no two have.
fn words(mut problem: Value) -> Value {
    assert!(problem.as_object_mut().unwrap().remove("instance").is_some(), "{problem}");
    problem
}

#[tokio::test]
async fn a_code_and_a_recovery_code_sign_in_once() {
    let service = TestService::start().await;
    let (_, secret) = invite(&service, "acme", "viewer").await;
    let (phone, made) = accept(&service, &secret).await;
    let used = phone.code(&service, 0);
    assert_eq!(sign_in(&service, "anna", PASSWORD, &used).await.1["code"], "sign_in_refused", "the invitation took it");
    let recovery = made["recovery_codes"][3].as_str().unwrap();
    assert_eq!(sign_in(&service, "anna", PASSWORD, recovery).await.0, StatusCode::CREATED);
    assert_eq!(sign_in(&service, "anna", PASSWORD, recovery).await.1["code"], "sign_in_refused");
    let admin = service.caller("acme").await;
    assert_eq!(admin.get("/users/anna").await.1["recovery_codes"], 9);
}

#[tokio::test]
async fn tries_that_fail_lock_users_and_nobodies_alike_and_a_reset_unlocks() {
    let service = TestService::start().await;
    let (admin, secret) = invite(&service, "acme", "viewer").await;
    let (phone, _) = accept(&service, &secret).await;
    for name in ["anna", "bert"] {
        for _ in 0..5 {
            assert_eq!(sign_in(&service, name, "wrong horse battery", "000000").await.1["code"], "sign_in_refused");
        }
        let (status, answer) = sign_in(&service, name, PASSWORD, &phone.code(&service, 1)).await;
        assert_eq!((status, &answer["code"]), (StatusCode::TOO_MANY_REQUESTS, &json!("sign_in_locked")), "{name}");
    }
    let (_, log) = admin.get("/audit").await;
    let refused = log["items"].as_array().unwrap().iter().filter(|item| {
        let text = item.to_string();
        text.contains("sign_in_refused") && text.contains("user/anna")
    });
    assert_eq!(refused.count(), 5, "{log}");
    assert!(!log.to_string().contains("user/bert"), "tries for nobody fill no log");
    let (status, made) = admin.act("/users/anna/reset").await;
    assert_eq!((status, &made["user"]["state"]), (StatusCode::OK, &json!("invited")));
    let (phone, _) = accept(&service, made["invitation"].as_str().unwrap()).await;
    assert_eq!(sign_in(&service, "anna", PASSWORD, &phone.code(&service, 1)).await.0, StatusCode::CREATED);
}

#[tokio::test]
async fn another_password_needs_the_old_one_and_a_code_and_ends_all_other_sessions() {
    let service = TestService::start().await;
    let (_, secret) = invite(&service, "acme", "viewer").await;
    let (phone, made) = accept(&service, &secret).await;
    let first = Caller::with_token(&service, secret_of(&made["session"]));
    let recovery: Vec<&str> = made["recovery_codes"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let (_, session) = sign_in(&service, "anna", PASSWORD, recovery[0]).await;
    let second = Caller::with_token(&service, secret_of(&session));
    let change = async |password: &str, code: &str, new: &str| {
        let body = json!({"password": password, "code": code, "new_password": new});
        let (status, answer) = second.send(Caller::json("PUT", "/session/password", &body)).await;
        (status, answer["code"].as_str().unwrap_or_default().to_owned())
    };
    let new = "another horse battery staple";
    assert_eq!(change("wrong horse battery", recovery[1], new).await.1, "sign_in_refused");
    assert_eq!(change(PASSWORD, "000000", new).await.1, "sign_in_refused");
    assert_eq!(change(PASSWORD, recovery[1], "short").await.1, "invalid_value");
    assert_eq!(change(PASSWORD, recovery[1], new).await.0, StatusCode::NO_CONTENT);
    assert_eq!(first.get("/groups").await.1["code"], "token_revoked");
    assert_eq!(second.get("/groups").await.0, StatusCode::OK);
    assert_eq!(sign_in(&service, "anna", PASSWORD, recovery[2]).await.1["code"], "sign_in_refused");
    assert_eq!(sign_in(&service, "anna", new, &phone.code(&service, 1)).await.0, StatusCode::CREATED);
    let admin = service.caller("acme").await;
    let (status, answer) = admin.send(Request::delete("/session").body(Body::empty()).unwrap()).await;
    assert_eq!((status, &answer["code"]), (StatusCode::CONFLICT, &json!("wrong_state")), "a token has no user");
}

#[tokio::test]
async fn a_disabled_user_neither_signs_in_nor_goes_on_nor_accepts() {
    let service = TestService::start().await;
    let (admin, secret) = invite(&service, "acme", "viewer").await;
    let set = async |disabled: bool| {
        let (status, user) = admin.send(Caller::json("PATCH", "/users/anna", &json!({"disabled": disabled}))).await;
        assert_eq!(status, StatusCode::OK, "{user}");
    };
    set(true).await;
    assert_eq!(nobody(&service).post("/invitation", &json!({"invitation": secret})).await.0, StatusCode::UNAUTHORIZED);
    set(false).await;
    let (phone, made) = accept(&service, &secret).await;
    let anna = Caller::with_token(&service, secret_of(&made["session"]));
    set(true).await;
    assert_eq!(anna.get("/groups").await.1["code"], "principal_disabled");
    let (_, answer) = sign_in(&service, "anna", PASSWORD, &phone.code(&service, 1)).await;
    assert_eq!(answer["code"], "sign_in_refused");
    set(false).await;
    assert_eq!(anna.get("/groups").await.0, StatusCode::OK);
    let gone = Request::delete("/users/anna").header(header::IF_MATCH, "*").body(Body::empty()).unwrap();
    assert_eq!(admin.send(gone).await.0, StatusCode::NO_CONTENT);
    assert_eq!(anna.get("/groups").await.1["code"], "token_revoked");
}

#[tokio::test]
async fn no_start_makes_a_first_token_while_a_person_administers_the_first_account() {
    let service = TestService::start().await;
    let (admin, secret) = invite(&service, "default", "administrator").await;
    accept(&service, &secret).await;
    let file = Fleet::first_token_file(&service.fleet.config);
    let tokens = admin.get("/tokens").await.1;
    for token in tokens["items"].as_array().unwrap() {
        let id = token["id"].as_str().unwrap();
        service.account("default").await.revoke_token(id, service.now()).await.unwrap();
    }
    let service = service.restart().await;
    assert!(!file.exists(), "the person signs in");
    let admin = service.caller("default").await;
    let anna = Caller::json("PATCH", "/users/anna", &json!({"disabled": true}));
    assert_eq!(admin.send(anna).await.0, StatusCode::OK);
    for token in admin.get("/tokens").await.1["items"].as_array().unwrap() {
        let id = token["id"].as_str().unwrap();
        service.account("default").await.revoke_token(id, service.now()).await.unwrap();
    }
    let service = service.restart().await;
    assert!(file.exists(), "nobody could act any more");
    drop(service);
}

#[tokio::test]
async fn nobody_makes_a_token_in_the_name_of_a_person_but_that_person() {
    let service = TestService::start().await;
    let (admin, secret) = invite(&service, "acme", "administrator").await;
    let wanted = json!({"name": "nightly", "scopes": ["read"], "principal": "user/anna"});
    let (status, answer) = admin.post("/tokens", &wanted).await;
    assert_eq!((status, &answer["code"]), (StatusCode::FORBIDDEN, &json!("access_denied")), "{answer}");
    let (_, made) = accept(&service, &secret).await;
    let anna = Caller::with_token(&service, secret_of(&made["session"]));
    assert_eq!(anna.post("/tokens", &wanted).await.0, StatusCode::CREATED);
}

#[tokio::test]
async fn policies_know_who_has_shown_a_second_factor() {
    let service = TestService::start().await;
    let (admin, secret) = invite(&service, "acme", "administrator").await;
    let policy =
        "forbid(principal is User, action == Action::\"create_group\", resource) unless { context.second_factor };";
    let saved = admin.send(Caller::json("PUT", "/policies/careful", &json!({"policy": policy}))).await;
    assert_eq!(saved.0, StatusCode::CREATED, "{}", saved.1);
    let (_, made) = accept(&service, &secret).await;
    let session = Caller::with_token(&service, secret_of(&made["session"]));
    assert_eq!(session.post("/groups", &json!({"name": "doors"})).await.0, StatusCode::CREATED);
    let wanted = json!({"name": "nightly", "scopes": ["admin"], "principal": "user/anna"});
    let (_, made) = session.post("/tokens", &wanted).await;
    let token = Caller::with_token(&service, secret_of(&made));
    assert_eq!(token.post("/groups", &json!({"name": "gates"})).await.1["code"], "access_denied");
}

#[tokio::test]
async fn an_invitation_ends_and_asks_for_a_good_password_and_the_right_code() {
    let service = TestService::start().await;
    let (admin, secret) = invite(&service, "acme", "viewer").await;
    let (_, shown) = nobody(&service).post("/invitation", &json!({"invitation": secret})).await;
    assert!(shown["totp_address"].as_str().unwrap().starts_with("otpauth://totp/MBL%20acme%3Aanna?secret="));
    let phone = Phone::of(&shown);
    for (password, code, field) in [
        ("short", phone.code(&service, 0), "password"),
        (PASSWORD, "000000".to_owned(), "code"),
        (PASSWORD, phone.code(&service, 9), "code"),
    ] {
        let wanted = json!({"invitation": secret, "password": password, "code": code});
        let (status, answer) = nobody(&service).post("/invitation/accept", &wanted).await;
        assert_eq!((status, &answer["field"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!(field)), "{answer}");
    }
    let now = service.now().0;
    for expires in [now - 1, now + 31 * 86_400] {
        let wanted = json!({"name": "bert", "email": "bert@example.com", "expires": expires});
        assert_eq!(admin.post("/users", &wanted).await.1["field"], "expires");
    }
    let by_mail = json!({"name": "bert", "email": "bert@example.com", "mail": true});
    assert_eq!(admin.post("/users", &by_mail).await.1["field"], "mail", "this service has no mail server");
    for (name, email, field) in [("Bert", "bert@example.com", "name"), ("bert", "bert", "email")] {
        assert_eq!(admin.post("/users", &json!({"name": name, "email": email})).await.1["field"], field);
    }
    let who = "user/anna".parse().unwrap();
    let past =
        fleet_store::NewInvitation { hash: "h".into(), totp: "t".into(), expires: UnixSeconds(now - 1), letter: None };
    service.account("acme").await.reset_user(&who, &past, service.now()).await.unwrap();
    let (status, answer) = nobody(&service).post("/invitation", &json!({"invitation": secret})).await;
    assert_eq!((status, &answer["code"]), (StatusCode::UNAUTHORIZED, &json!("invitation_refused")));
}
