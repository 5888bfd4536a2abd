//! Single sign-on asked of the whole API, against an issuer on loopback whose tokens these tests sign themselves: the way that works, and one
//! for each that does not. The journeys do the same with a provider that others wrote.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::{HeaderMap, Request, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};
use fleet_api::code_challenge;
use http_body_util::BodyExt as _;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, jwk::Jwk};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};
use url::{Url, form_urlencoded};

use crate::test_service::{Caller, TestService};

const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

/// How the issuer behaves.
struct Mood {
    key: EncodingKey,
    key_id: &'static str,
    /// Whose keys it publishes; its own, unless a stranger signs.
    published: Option<EncodingKey>,
    /// Claims in the place of good ones; `null` takes one away.
    claims: Value,
    /// What it answers at the token endpoint instead of a token.
    token_answer: Option<fn() -> Response>,
    /// What the service sent to the token endpoint, last.
    asked: HashMap<String, String>,
    authorization: String,
}

/// An issuer on loopback.
struct Issuer {
    address: String,
    mood: Arc<Mutex<Mood>>,
    task: JoinHandle<()>,
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a token endpoint answers, and what is told of it.
type Answer = (fn() -> Response, &'static str);
type Shared = (String, Arc<Mutex<Mood>>);

fn new_key() -> EncodingKey {
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
    EncodingKey::from_ec_der(document.as_ref())
}

async fn discovery(State((issuer, _)): State<Shared>) -> Json<Value> {
    Json(json!({
        "issuer": issuer, "authorization_endpoint": format!("{issuer}/authorize"),
        "token_endpoint": format!("{issuer}/token"), "jwks_uri": format!("{issuer}/keys"),
        "response_types_supported": ["code"], "code_challenge_methods_supported": ["S256"],
    }))
}

async fn keys(State((_, mood)): State<Shared>) -> Json<Value> {
    let mood = mood.lock().unwrap();
    let mut key = Jwk::from_encoding_key(mood.published.as_ref().unwrap_or(&mood.key), Algorithm::ES256).unwrap();
    key.common.key_id = Some(mood.key_id.to_owned());
    Json(json!({ "keys": [key] }))
}

/// The code is the nonce, so that the issuer need not remember it.
async fn token(State((issuer, mood)): State<Shared>, headers: HeaderMap, body: String) -> Response {
    let form: HashMap<String, String> = form_urlencoded::parse(body.as_bytes()).into_owned().collect();
    let mut mood = mood.lock().unwrap();
    mood.authorization = headers.get(header::AUTHORIZATION).map_or("", |value| value.to_str().unwrap()).to_owned();
    if let Some(answer) = mood.token_answer {
        return answer();
    }
    let mut claims = json!({
        "iss": issuer, "aud": "mbl", "sub": "person-1", "nonce": form["code"], "iat": seconds(), "exp": seconds() + 300,
        "email": "anna@example.com", "email_verified": true, "name": "Anna",
    });
    for (name, value) in mood.claims.as_object().unwrap() {
        claims[name] = value.clone();
    }
    let header = Header { kid: Some(mood.key_id.to_owned()), ..Header::new(Algorithm::ES256) };
    let token = encode(&header, &claims, &mood.key).unwrap();
    mood.asked = form;
    Json(json!({"access_token": "a", "token_type": "Bearer", "id_token": token})).into_response()
}

fn seconds() -> u64 {
    crate::Clock::system().now().0
}

impl Issuer {
    async fn start() -> Self {
        let mood = Arc::new(Mutex::new(Mood {
            key: new_key(),
            key_id: "k1",
            published: None,
            claims: json!({}),
            token_answer: None,
            asked: HashMap::new(),
            authorization: String::new(),
        }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/keys", get(keys))
            .route("/token", post(token))
            .with_state((address.clone(), mood.clone()));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, mood, task }
    }

    fn set(&self, change: impl FnOnce(&mut Mood)) {
        change(&mut self.mood.lock().unwrap());
    }

    fn claims(&self, claims: Value) {
        self.set(|mood| mood.claims = claims);
    }
}

/// A service whose account `acme` signs in with an issuer.
struct Office {
    service: TestService,
    issuer: Issuer,
    admin: Caller,
}

impl Office {
    async fn new(other: Value) -> Self {
        let service = TestService::start_with(|config| {
            config.single_sign_on.allow = vec!["127.0.0.1".parse().unwrap()];
            config.public_address = Some("https://fleet.example.com".into());
        })
        .await;
        let (issuer, admin) = (Issuer::start().await, service.caller("acme").await);
        let office = Self { service, issuer, admin };
        let (status, saved) = office.save(other).await;
        assert_eq!(status, StatusCode::OK, "{saved}");
        office
    }

    async fn save(&self, other: Value) -> (StatusCode, Value) {
        let mut wanted = json!({"issuer": self.issuer.address, "client_id": "mbl", "client_secret": "s&cret",
            "domains": ["example.com"]});
        wanted.as_object_mut().unwrap().extend(other.as_object().unwrap().clone());
        self.admin.send(Caller::json("PUT", "/identity-provider", &wanted)).await
    }

    fn nobody(&self) -> Caller {
        Caller::with_token(&self.service, "")
    }

    async fn invite(&self) {
        let wanted = json!({"name": "anna", "email": "Anna@example.com", "role": "operator"});
        assert_eq!(self.admin.post("/users", &wanted).await.0, StatusCode::CREATED);
    }

    /// Begins; answers the id and what the browser carries to the provider.
    async fn begin(&self, port: Option<u16>) -> (String, HashMap<String, String>) {
        let mut wanted = json!({"account": "acme", "challenge": code_challenge(VERIFIER)});
        if let Some(port) = port {
            wanted["port"] = json!(port);
        }
        let (status, begun) = self.nobody().post("/single-sign-on", &wanted).await;
        assert_eq!(status, StatusCode::CREATED, "{begun}");
        let address = Url::parse(begun["address"].as_str().unwrap()).unwrap();
        assert!(address.as_str().starts_with(&format!("{}/authorize?", self.issuer.address)));
        (begun["id"].as_str().unwrap().to_owned(), address.query_pairs().into_owned().collect())
    }

    /// The browser comes back from the provider.
    async fn come_back(&self, query: &[(&str, &str)]) -> Response {
        let mut address = Url::parse("https://host/single-sign-on/callback").unwrap();
        address.query_pairs_mut().extend_pairs(query);
        let path = format!("{}?{}", address.path(), address.query().unwrap());
        self.nobody().raw(Request::get(path).body(Body::empty()).unwrap()).await
    }

    /// A sign-in up to the query of the redirection to the program that began.
    async fn arrive(&self) -> (String, HashMap<String, String>) {
        let (id, sent) = self.begin(Some(4711)).await;
        let answer = self.come_back(&[("state", &sent["state"]), ("code", &sent["nonce"])]).await;
        assert_eq!(answer.status(), StatusCode::SEE_OTHER);
        let location = Url::parse(answer.headers()[header::LOCATION].to_str().unwrap()).unwrap();
        assert_eq!((location.host_str(), location.port()), (Some("127.0.0.1"), Some(4711)));
        let query: HashMap<String, String> = location.query_pairs().into_owned().collect();
        assert_eq!(query["id"], id);
        (id, query)
    }

    async fn finish(&self, id: &str, verifier: &str, code: &str) -> (StatusCode, Value) {
        let shown = json!({"id": id, "verifier": verifier, "code": code});
        self.nobody().post("/single-sign-on/session", &shown).await
    }

    /// A whole sign-in, which succeeds.
    async fn sign_in(&self) -> Value {
        let (id, query) = self.arrive().await;
        let code = query.get("code").unwrap_or_else(|| panic!("{query:?}"));
        let (status, session) = self.finish(&id, VERIFIER, code).await;
        assert_eq!(status, StatusCode::CREATED, "{session}");
        session
    }

    /// A sign-in that comes to nothing; why.
    async fn refused(&self) -> String {
        let (_, query) = self.arrive().await;
        assert_eq!(query.get("code"), None);
        assert_eq!(query["error"], "single_sign_on_refused", "{query:?}");
        query["detail"].clone()
    }

    fn acting(&self, session: &Value) -> Caller {
        Caller::with_token(&self.service, session["secret"].as_str().unwrap())
    }
}

#[tokio::test]
async fn an_invited_user_signs_in_with_the_provider_and_acts_by_their_role() {
    let office = Office::new(json!({})).await;
    office.invite().await;
    let (id, sent) = office.begin(None).await;
    for (name, value) in [
        ("response_type", "code"),
        ("client_id", "mbl"),
        ("redirect_uri", "https://fleet.example.com/api/v1/single-sign-on/callback"),
        ("scope", "openid email profile"),
        ("code_challenge_method", "S256"),
    ] {
        assert_eq!(sent[name], value);
    }
    let answer = office.come_back(&[("state", &sent["state"]), ("code", &sent["nonce"])]).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let page = String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap();
    let code = page.split("<code>").nth(1).unwrap().split('<').next().unwrap().to_owned();
    let (status, session) = office.finish(&id, VERIFIER, &code).await;
    assert_eq!(status, StatusCode::CREATED, "{session}");
    assert_eq!(session["token"]["principal"], "user/anna");
    let anna = office.acting(&session);
    assert_eq!(anna.post("/groups", &json!({"name": "doors"})).await.0, StatusCode::CREATED);
    let (_, user) = office.admin.get("/users/anna").await;
    assert_eq!((&user["state"], user["invited_until"].is_null()), (&json!("active"), true), "{user}");
    {
        let mood = office.issuer.mood.lock().unwrap();
        assert_eq!(code_challenge(&mood.asked["code_verifier"]), sent["code_challenge"]);
        assert_eq!(mood.asked["redirect_uri"], sent["redirect_uri"]);
        // `mbl:s%26cret`
        assert_eq!(mood.authorization, "Basic bWJsOnMlMjZjcmV0");
    }
    let (_, shown) = office.admin.get("/identity-provider").await;
    assert_eq!((&shown["has_secret"], shown.get("client_secret")), (&json!(true), None));
    let (_, log) = office.admin.get("/audit").await;
    for action in ["save_identity_provider", "return_from_identity_provider", "finish_single_sign_on"] {
        assert!(log.to_string().contains(action), "{action} is on record");
    }
    for secret in ["s&cret", &code, &sent["state"], VERIFIER] {
        assert!(!log.to_string().contains(secret), "no secret stands in the log");
    }
}

#[tokio::test]
async fn a_state_and_a_one_time_code_are_each_taken_once_and_only_from_whoever_began() {
    let office = Office::new(json!({})).await;
    office.invite().await;
    let (id, sent) = office.begin(Some(4711)).await;
    let back = [("state", sent["state"].as_str()), ("code", sent["nonce"].as_str())];
    let first = office.come_back(&back).await;
    assert_eq!(first.status(), StatusCode::SEE_OTHER);
    let again = office.come_back(&back).await;
    assert_eq!(again.status(), StatusCode::UNAUTHORIZED, "a state that was replayed");
    let unknown = office.come_back(&[("state", "other"), ("code", "c")]).await;
    assert_eq!(unknown.status(), StatusCode::UNAUTHORIZED);
    let location = Url::parse(first.headers()[header::LOCATION].to_str().unwrap()).unwrap();
    let code = location.query_pairs().find(|(name, _)| name == "code").unwrap().1.into_owned();
    for (verifier, shown) in [("other", code.as_str()), (VERIFIER, "aaaa-aaaa-aaaa-aaaa"), (VERIFIER, "x")] {
        let (status, answer) = office.finish(&id, verifier, shown).await;
        assert_eq!((status, &answer["code"]), (StatusCode::UNAUTHORIZED, &json!("single_sign_on_refused")));
    }
    assert_eq!(office.finish(&id, VERIFIER, &code).await.0, StatusCode::CREATED);
    assert_eq!(office.finish(&id, VERIFIER, &code).await.0, StatusCode::UNAUTHORIZED);
    // Before the browser is back there is nothing to finish.
    let (id, _) = office.begin(None).await;
    assert_eq!(office.finish(&id, VERIFIER, &code).await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_token_that_is_not_for_us_now_and_here_lets_nobody_in() {
    let office = Office::new(json!({})).await;
    office.invite().await;
    for (claims, why) in [
        (json!({"aud": "portal"}), "for somebody else"),
        (json!({"exp": seconds() - 600}), "has expired"),
        (json!({"iss": "https://stranger.example"}), "another issuer"),
        (json!({"nonce": "of-another"}), "another sign-in"),
        (json!({"email_verified": false}), "not verified"),
        (json!({"email": "anna@example.org"}), "`example.org` are not let in"),
        (json!({"email": "bert@example.com"}), "no such user"),
    ] {
        office.issuer.claims(claims.clone());
        let said = office.refused().await;
        assert!(said.contains(why), "{claims}: {said}");
    }
    office.issuer.claims(json!({}));
    office.issuer.set(|mood| mood.published = Some(std::mem::replace(&mut mood.key, new_key())));
    assert!(office.refused().await.contains("signature"), "a stranger signs");
    office.issuer.set(|mood| mood.key = mood.published.take().unwrap());
    let (_, user) = office.admin.get("/users/anna").await;
    assert_eq!(user["state"], "invited", "nobody came in");
    office.sign_in().await;
}

#[tokio::test]
async fn keys_that_the_provider_has_changed_are_asked_for_and_the_old_ones_are_no_good_any_more() {
    let office = Office::new(json!({})).await;
    office.invite().await;
    office.sign_in().await;
    let mut old = None;
    office.issuer.set(|mood| {
        old = Some(std::mem::replace(&mut mood.key, new_key()));
        mood.key_id = "k2";
    });
    office.sign_in().await;
    // The provider still publishes the new key under its id; whoever stole the old one signs as before.
    office.issuer.set(|mood| mood.published = Some(std::mem::replace(&mut mood.key, old.unwrap())));
    assert!(office.refused().await.contains("signature"));
}

#[tokio::test]
async fn what_a_provider_answers_is_bounded_and_its_refusals_are_told() {
    let office = Office::new(json!({})).await;
    office.invite().await;
    let (_, sent) = office.begin(Some(4711)).await;
    let answer = office.come_back(&[("state", &sent["state"]), ("error", "access_denied")]).await;
    let location = answer.headers()[header::LOCATION].to_str().unwrap().to_owned();
    assert!(location.contains("error=single_sign_on_refused") && location.contains("access_denied"), "{location}");
    let (_, sent) = office.begin(Some(4711)).await;
    let back =
        [("state", sent["state"].as_str()), ("code", sent["nonce"].as_str()), ("iss", "https://stranger.example")];
    let answer = office.come_back(&back).await;
    assert!(answer.headers()[header::LOCATION].to_str().unwrap().contains("another+identity+provider"));
    let answers: [Answer; 5] = [
        (|| "x".repeat(300_000).into_response(), "more than"),
        (|| Redirect::temporary("http://127.0.0.1:1/").into_response(), "307"),
        (|| "no token".into_response(), "not of its form"),
        (|| Json(json!({"access_token": "a"})).into_response(), "no ID token"),
        (|| (StatusCode::BAD_REQUEST, Json(json!({"error": "invalid_grant"}))).into_response(), "invalid_grant"),
    ];
    for (token_answer, why) in answers {
        office.issuer.set(|mood| mood.token_answer = Some(token_answer));
        let (_, query) = office.arrive().await;
        assert_eq!(query["error"], "provider_failed");
        assert!(query["detail"].contains(why), "{why}: {}", query["detail"]);
    }
}

#[tokio::test]
async fn somebody_new_becomes_a_user_with_the_roles_of_their_claims_which_follow_them() {
    let office = Office::new(json!({
        "create_users": true, "default_role": "viewer", "role_claim": "groups", "roles": {"ops": "operator"},
    }))
    .await;
    office.issuer.claims(json!({"groups": ["ops"], "amr": ["pwd", "mfa"]}));
    let session = office.sign_in().await;
    assert_eq!(session["token"]["principal"], "user/anna@example.com");
    let anna = office.acting(&session);
    assert_eq!(anna.post("/groups", &json!({"name": "doors"})).await.0, StatusCode::CREATED);
    office.issuer.claims(json!({"groups": [], "email": "anna.maria@example.com"}));
    let session = office.sign_in().await;
    assert_eq!(session["token"]["principal"], "user/anna@example.com", "whoever was linked stays who they are");
    let anna = office.acting(&session);
    assert_eq!(anna.post("/groups", &json!({"name": "gates"})).await.1["code"], "access_denied");
    office.issuer.claims(json!({"sub": "person-2"}));
    assert!(office.refused().await.contains("linked to somebody else"), "an address that changed hands");
    let disable = Caller::json("PATCH", "/users/anna@example.com", &json!({"disabled": true}));
    assert_eq!(office.admin.send(disable).await.0, StatusCode::OK);
    office.issuer.claims(json!({}));
    assert!(office.refused().await.contains("may not act"));
}

#[tokio::test]
async fn a_provider_that_cannot_be_asked_or_that_is_another_is_refused_when_it_is_named() {
    let office = Office::new(json!({})).await;
    let refused = async |other: Value| {
        let (status, answer) = office.save(other).await;
        assert_eq!((status, &answer["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("invalid_value")), "{answer}");
        (answer["field"].as_str().unwrap().to_owned(), answer["detail"].as_str().unwrap().to_owned())
    };
    // Another service on the same machine, which the settings do not list.
    let (field, said) = refused(json!({"issuer": "http://127.0.0.2:1"})).await;
    assert_eq!(field, "issuer");
    assert!(said.contains("`single_sign_on.allow`"), "{said}");
    let slash = format!("{}/", office.issuer.address);
    assert!(refused(json!({"issuer": slash})).await.1.contains("another issuer"));
    assert_eq!(refused(json!({"required": true})).await.0, "break_glass");
    assert_eq!(refused(json!({"required": true, "break_glass": "nobody"})).await.0, "break_glass");
    let (_, before) = office.admin.get("/identity-provider").await;
    assert_eq!((&before["required"], &before["revision"]), (&json!(false), &json!(1)));
    let wanted = json!({"account": "nowhere", "challenge": code_challenge(VERIFIER)});
    assert_eq!(office.nobody().post("/single-sign-on", &wanted).await.0, StatusCode::NOT_FOUND);
}
