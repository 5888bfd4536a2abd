//! Claims about what receivers get, against real receivers on loopback and the real database.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use aws_lc_rs::hmac;
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use data_encoding::BASE64;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle, time::timeout};

use crate::{
    config::Config,
    deliveries,
    test_service::{Caller, TestService},
};

/// How a receiver answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Accepts,
    Answers(StatusCode),
    /// Accepts everything but events about this.
    AllBut(&'static str),
    /// Keeps the connection open and says nothing.
    Silent,
    /// Sends the sender somewhere else.
    Redirects,
}

/// A receiver of webhooks.
#[derive(Clone)]
struct Receiver {
    got: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
    mood: Arc<Mutex<Mood>>,
    address: String,
    _task: Arc<Aborted>,
}

/// A task that ends with its handle.
struct Aborted(JoinHandle<()>);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}

type Shared = (Arc<Mutex<Vec<(HeaderMap, Bytes)>>>, Arc<Mutex<Mood>>);

async fn answer(State((got, mood)): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    let mood = *mood.lock().unwrap();
    got.lock().unwrap().push((headers, body.clone()));
    let event: Value = serde_json::from_slice(&body).unwrap();
    match mood {
        Mood::Accepts => StatusCode::NO_CONTENT.into_response(),
        Mood::Answers(status) => status.into_response(),
        Mood::AllBut(subject) if event["subject"] == subject => StatusCode::BAD_REQUEST.into_response(),
        Mood::AllBut(_) => (StatusCode::OK, "thank you").into_response(),
        Mood::Silent => std::future::pending().await,
        Mood::Redirects => (StatusCode::FOUND, [(header::LOCATION, "/elsewhere")]).into_response(),
    }
}

impl Receiver {
    async fn start(mood: Mood) -> Self {
        let (got, mood): Shared = (Arc::default(), Arc::new(Mutex::new(mood)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}/in?desk=1", listener.local_addr().unwrap());
        let router = Router::new()
            .route("/in", post(answer))
            .route("/elsewhere", post(answer).get(async || StatusCode::OK))
            .with_state((got.clone(), mood.clone()));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { got, mood, address, _task: Arc::new(Aborted(task)) }
    }

    fn feels(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// The subjects of everything that came, in order.
    fn subjects(&self) -> Vec<String> {
        let got = self.got.lock().unwrap();
        let subject =
            |body: &Bytes| serde_json::from_slice::<Value>(body).unwrap()["subject"].as_str().unwrap().to_owned();
        got.iter().map(|(_, body)| subject(body)).collect()
    }

    async fn until(&self, what: &str, wanted: impl Fn(&[String]) -> bool) -> Vec<String> {
        let waited = timeout(Duration::from_secs(20), async {
            loop {
                let seen = self.subjects();
                if wanted(&seen) {
                    return seen;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        waited.await.unwrap_or_else(|_| panic!("{what} never came; what came: {:?}", self.subjects()))
    }
}

fn settings(config: &mut Config) {
    config.webhooks.allow = vec!["127.0.0.1".parse().unwrap()];
    config.webhooks.longest_wait_s = 1;
    config.webhooks.tries = 3;
    config.webhooks.answer_s = 2;
}

/// A service that delivers.
struct Delivering {
    service: TestService,
    caller: Caller,
    task: JoinHandle<()>,
}

impl Delivering {
    async fn start() -> Self {
        Self::with(TestService::start_with(settings).await).await
    }

    async fn with(service: TestService) -> Self {
        let caller = service.caller("default").await;
        let task = tokio::spawn(deliveries::work(service.fleet.clone()));
        Self { service, caller, task }
    }

    /// A webhook for everything about groups; the secret.
    async fn subscribe(&self, name: &str, receiver: &Receiver) -> String {
        let wish = json!({"name": name, "types": ["group.*"], "webhook": receiver.address});
        let (status, made) = self.caller.post("/subscriptions", &wish).await;
        assert_eq!(status, StatusCode::CREATED, "{made}");
        made["secret"].as_str().unwrap().to_owned()
    }

    /// Makes groups, which are events.
    async fn groups(&self, names: &[&str]) {
        for name in names {
            let (status, made) = self.caller.post("/groups", &json!({"name": name})).await;
            assert_eq!(status, StatusCode::CREATED, "{made}");
        }
    }

    async fn shown(&self, name: &str) -> Value {
        self.caller.get(&format!("/subscriptions/{name}")).await.1
    }

    async fn until(&self, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let waited = timeout(Duration::from_secs(20), async {
            loop {
                last = self.shown(name).await;
                if wanted(&last) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        assert!(waited.await.is_ok(), "{name} stays {last}");
        last
    }

    /// Ends as a killed process does; the service that starts again.
    async fn restart(self) -> Self {
        self.task.abort();
        let folder = self.service.restart_with(settings).await;
        Self::with(folder).await
    }
}

#[tokio::test]
async fn each_event_arrives_in_order_as_a_signed_cloud_event() {
    let (service, receiver) = (Delivering::start().await, Receiver::start(Mood::Accepts).await);
    let secret = service.subscribe("desk", &receiver).await;
    service.groups(&["a", "b", "c"]).await;
    let seen = receiver.until("three groups", |seen| seen.len() >= 3).await;
    assert_eq!(seen, ["groups/a", "groups/b", "groups/c"]);
    let key =
        hmac::Key::new(hmac::HMAC_SHA256, &BASE64.decode(secret.strip_prefix("whsec_").unwrap().as_bytes()).unwrap());
    let got = receiver.got.lock().unwrap().clone();
    for (headers, body) in &got {
        let text = |name: &str| headers[name].to_str().unwrap().to_owned();
        let event: Value = serde_json::from_slice(body).unwrap();
        assert_eq!(text("content-type"), "application/cloudevents+json; charset=utf-8");
        assert_eq!((&event["specversion"], &event["type"]), (&json!("1.0"), &json!("group.created")));
        assert_eq!(text("webhook-id"), format!("evt_default_{}", event["id"].as_str().unwrap()));
        let signed = [text("webhook-id").as_bytes(), b".", text("webhook-timestamp").as_bytes(), b".", body].concat();
        let signature = BASE64.decode(text("webhook-signature").strip_prefix("v1,").unwrap().as_bytes()).unwrap();
        assert!(hmac::verify(&key, &signed, &signature).is_ok());
        let now = service.service.now().0;
        assert!(now.abs_diff(text("webhook-timestamp").parse().unwrap()) < 60);
    }
    let at_rest = service.until("desk", |shown| shown["failures"] == 0 && shown["position"].as_u64() >= Some(5)).await;
    assert!(at_rest["last_failure"].is_null() && at_rest.get("secret").is_none(), "{at_rest}");
}

#[tokio::test]
async fn events_wait_for_a_receiver_that_fails_and_then_come_in_order() {
    let service = Delivering::start().await;
    let receiver = Receiver::start(Mood::Answers(StatusCode::SERVICE_UNAVAILABLE)).await;
    service.subscribe("desk", &receiver).await;
    service.groups(&["a", "b", "c"]).await;
    let failing = service.until("desk", |shown| shown["failures"].as_u64() >= Some(1)).await;
    assert_eq!(failing["last_failure"], "the receiver answered 503");
    assert!(failing["next_try"].is_u64() && failing["dead_letters"] == 0, "{failing}");
    receiver.feels(Mood::Accepts);
    let seen = receiver.until("the last group", |seen| seen.last().is_some_and(|last| last == "groups/c")).await;
    let mut first_times = seen.clone();
    first_times.dedup();
    assert_eq!(first_times, ["groups/a", "groups/b", "groups/c"], "{seen:?}");
}

#[tokio::test]
async fn a_receiver_that_is_silent_or_gone_holds_up_nobody_else() {
    let service = Delivering::start().await;
    let (silent, quick) = (Receiver::start(Mood::Silent).await, Receiver::start(Mood::Accepts).await);
    for n in 0..10 {
        service.subscribe(&format!("silent-{n}"), &silent).await;
    }
    let nobody = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let wish = json!({"name": "dead", "types": ["group.*"], "webhook": format!("http://{nobody}/")});
    assert_eq!(service.caller.post("/subscriptions", &wish).await.0, StatusCode::CREATED);
    service.subscribe("quick", &quick).await;
    let names: Vec<String> = (0..20).map(|n| format!("g{n}")).collect();
    let began = tokio::time::Instant::now();
    service.groups(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    quick.until("every group", |seen| seen.len() == 20).await;
    // One silent try alone lasts two seconds.
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let dead = service.until("dead", |shown| shown["failures"].as_u64() >= Some(1)).await;
    assert!(dead["last_failure"].as_str().unwrap().to_lowercase().contains("connection refused"), "{dead}");
    let silent = service.until("silent-0", |shown| shown["failures"].as_u64() >= Some(1)).await;
    assert!(silent["behind"].as_u64() >= Some(20), "its events wait for it: {silent}");
}

#[tokio::test]
async fn what_is_never_accepted_becomes_a_dead_letter_that_can_be_sent_once_more() {
    let (service, receiver) = (Delivering::start().await, Receiver::start(Mood::AllBut("groups/bad")).await);
    service.subscribe("desk", &receiver).await;
    service.groups(&["a", "bad", "c"]).await;
    receiver.until("the group after the bad one", |seen| seen.iter().any(|one| one == "groups/c")).await;
    let tries = receiver.subjects().iter().filter(|one| *one == "groups/bad").count();
    assert_eq!(tries, 3, "as often as the settings say");
    let (_, letters) = service.caller.get("/subscriptions/desk/dead-letters").await;
    let letter = &letters["items"][0];
    assert_eq!((&letter["event"]["subject"], &letter["tries"]), (&json!("groups/bad"), &json!(3)), "{letters}");
    assert_eq!(letter["reason"], "the receiver answered 400");
    let (_, events) = service.caller.get("/events?limit=500").await;
    let told = events["items"].as_array().unwrap().iter().filter(|event| event["type"] == "subscription.dead_letter");
    assert_eq!(told.count(), 1, "it is told");

    receiver.feels(Mood::Accepts);
    let id: u64 = letter["event"]["id"].as_str().unwrap().parse().unwrap();
    let (status, _) = service.caller.post("/subscriptions/desk/replay", &json!({"dead_letters": [id]})).await;
    assert_eq!(status, StatusCode::OK);
    let seen = receiver.until("the dead letter", |seen| seen.last().is_some_and(|last| last == "groups/bad")).await;
    service.until("desk", |shown| shown["dead_letters"] == 0).await;

    let (status, _) = service.caller.post("/subscriptions/desk/replay", &json!({"after": 0})).await;
    assert_eq!(status, StatusCode::OK);
    let again = receiver.until("everything again", |now| now.len() == seen.len() + 3).await;
    assert_eq!(again[seen.len()..], ["groups/a", "groups/bad", "groups/c"]);
}

#[tokio::test]
async fn a_service_that_was_killed_goes_on_where_it_was_and_loses_nothing() {
    let (service, receiver) = (Delivering::start().await, Receiver::start(Mood::Accepts).await);
    service.subscribe("desk", &receiver).await;
    service.groups(&["a", "b"]).await;
    receiver.until("the first", |seen| !seen.is_empty()).await;
    let service = service.restart().await;
    service.groups(&["c"]).await;
    let seen = receiver.until("the last group", |seen| seen.iter().any(|one| one == "groups/c")).await;
    // What the receiver accepted and nobody noted comes once more, before what is new.
    let mut known = BTreeSet::new();
    let firsts: Vec<&String> = seen.iter().filter(|subject| known.insert(*subject)).collect();
    assert_eq!(firsts, ["groups/a", "groups/b", "groups/c"], "{seen:?}");
    service.until("desk", |shown| shown["behind"] == 0).await;
    let service = service.restart().await;
    service.groups(&["d"]).await;
    let more = receiver.until("one more", |now| now.len() > seen.len()).await;
    assert_eq!(more[seen.len()..], ["groups/d"], "what was accepted and noted is not sent again");
}

#[tokio::test]
async fn a_redirection_is_no_acceptance_and_is_not_followed_and_a_receiver_that_is_gone_is_left_alone() {
    let (service, receiver) = (Delivering::start().await, Receiver::start(Mood::Redirects).await);
    service.subscribe("desk", &receiver).await;
    service.groups(&["a"]).await;
    let shown = service.until("desk", |shown| shown["failures"].as_u64() >= Some(1)).await;
    assert_eq!(shown["last_failure"], "the receiver answered 302");
    receiver.feels(Mood::Answers(StatusCode::GONE));
    let paused = service.until("desk", |shown| !shown["paused"].is_null()).await;
    assert_eq!((&paused["paused"], &paused["dead_letters"]), (&json!("the receiver answered 410"), &json!(0)));
    receiver.feels(Mood::Accepts);
    let request = Caller::json("PATCH", "/subscriptions/desk", &json!({"paused": false}));
    assert_eq!(service.caller.send(request).await.0, StatusCode::OK);
    service.until("desk", |shown| shown["failures"] == 0 && shown["paused"].is_null()).await;
    assert_eq!(receiver.subjects().last().unwrap(), "groups/a", "and what it refused comes after all");
}

#[tokio::test]
async fn addresses_inside_are_refused_when_they_are_named_and_when_they_are_sent_to() {
    let service = Delivering::with(TestService::start_with(|config| config.webhooks.tries = 3).await).await;
    let receiver = Receiver::start(Mood::Accepts).await;
    for address in
        [&receiver.address, "https://127.0.0.1/", "https://169.254.169.254/latest", "http://1.1.1.1/", "nonsense"]
    {
        let wish = json!({"name": "desk", "webhook": address});
        let (status, refused) = service.caller.post("/subscriptions", &wish).await;
        assert_eq!((status, &refused["field"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("webhook")), "{refused}");
    }
    // Settings may have changed since the address was allowed.
    let listed = Delivering::start().await;
    listed.subscribe("desk", &receiver).await;
    listed.task.abort();
    let service = listed.service.restart().await;
    let service = Delivering::with(service).await;
    service.groups(&["a"]).await;
    let shown = service.until("desk", |shown| shown["failures"].as_u64() >= Some(1)).await;
    assert!(shown["last_failure"].as_str().unwrap().contains("webhooks.allow"), "{shown}");
    assert!(receiver.subjects().is_empty());
}

#[tokio::test]
async fn readers_have_positions_of_their_own_and_see_only_what_they_asked_for() {
    let service = Delivering::start().await;
    for (name, types) in [("all", json!([])), ("groups", json!(["group.*"]))] {
        let (status, made) = service.caller.post("/subscriptions", &json!({"name": name, "types": types})).await;
        assert_eq!((status, &made["secret"]), (StatusCode::CREATED, &Value::Null));
    }
    service.groups(&["a", "b", "c"]).await;
    let read = async |name: &str| service.caller.get(&format!("/subscriptions/{name}/events?limit=2")).await.1;
    let first = read("groups").await;
    let subjects = |page: &Value| {
        let items = page["items"].as_array().unwrap();
        items.iter().map(|event| event["subject"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(subjects(&first), ["groups/a", "groups/b"]);
    assert_eq!(subjects(&read("groups").await), subjects(&first), "reading alone moves nothing");
    let path = "/subscriptions/groups/acknowledge";
    let (status, _) = service.caller.post(path, &json!({"position": first["through"]})).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(subjects(&read("groups").await), ["groups/c"]);
    assert_eq!(subjects(&read("all").await)[0], "subscriptions/all", "another stream stands where it stood");
    let (status, _) = service.caller.post(path, &json!({"position": 1_000_000})).await;
    assert_eq!(status, StatusCode::CONFLICT);
}
