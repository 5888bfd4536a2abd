//! What a client may do to a session, and what the session makes of it for the service: message by message.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper that meets what it does not expect should stop the test"
)]

use std::time::Duration;

use protocol_lwm2m::{
    client::WriteMode,
    coap::{Code, ContentFormat, ExchangeError, Message, OptionNumber, Token, signal::Capabilities},
    formats::{self, Entry, Value},
    object::{Accounts, Attributes, Path, SecurityAccount, ServerAccount},
    server::{
        Answer, BootstrapPlan, Content, Decision, Ended, Fact, Operation, Question, RequestError, Session, Settings,
        Step,
    },
    time::Millis,
};

struct Scene {
    now: Millis,
    session: Session,
    token: u32,
}

impl Scene {
    fn opened() -> Self {
        let mut scene = Self { now: Millis(0), session: Session::new(Settings::new(1)), token: 0 };
        assert_eq!(sent(&scene.on(Fact::Opened)).code, Code::CSM);
        scene
    }

    fn greeted() -> Self {
        let mut scene = Self::opened();
        scene.on(Fact::Received(Capabilities { max_message_size: 65_536, block_wise: true }.message()));
        scene
    }

    fn registered() -> Self {
        let mut scene = Self::greeted();
        let (ask, question) = asked(&scene.hear(register("300")));
        let Question::Register(registration) = question else { panic!("{question:?}") };
        assert_eq!(registration.lifetime, 300);
        let steps = scene.decide(ask, Decision::Register { location: "7".to_owned() });
        let created = sent(&steps);
        assert_eq!(created.code, Code::CREATED);
        assert_eq!(created.options.texts(OptionNumber::LOCATION_PATH).collect::<Vec<_>>(), ["rd", "7"]);
        assert!(steps.contains(&Step::Registered(registration)));
        scene
    }

    fn on(&mut self, fact: Fact) -> Vec<Step> {
        self.session.on(self.now, fact)
    }

    fn hear(&mut self, message: Message) -> Vec<Step> {
        self.token += 1;
        self.on(Fact::Received(message.with_token(Token::from(self.token))))
    }

    fn code(&mut self, message: Message) -> Code {
        sent(&self.hear(message)).code
    }

    fn decide(&mut self, ask: u64, decision: Decision) -> Vec<Step> {
        self.on(Fact::Decided { ask, decision })
    }

    fn request(&mut self, operation: Operation) -> Vec<Step> {
        self.on(Fact::Request { id: 9, operation })
    }

    /// Sends an operation and the device's answer to it.
    fn exchange(&mut self, operation: Operation, answer: Message) -> Result<Answer, RequestError> {
        let request = sent(&self.request(operation));
        let steps = self.on(Fact::Received(answer.with_token(request.token)));
        let Some(Step::Answered { id: 9, result }) = steps.first() else { panic!("{steps:?}") };
        result.clone()
    }
}

fn sent(steps: &[Step]) -> Message {
    steps.iter().find_map(|step| if let Step::Send(message) = step { Some(message.clone()) } else { None }).unwrap()
}

fn asked(steps: &[Step]) -> (u64, Question) {
    match steps {
        [Step::Ask { ask, question }, ..] => (*ask, question.clone()),
        other => panic!("expected a question, not {other:?}"),
    }
}

fn post(path: &str) -> Message {
    Message::new(Code::POST).path(path)
}

fn register(lifetime: &str) -> Message {
    post("/rd")
        .query("ep=gate-42")
        .query(&format!("lt={lifetime}"))
        .query("lwm2m=1.1")
        .query("b=T")
        .content(ContentFormat::LINK, "</1/0>,</3/0>")
}

fn plan() -> BootstrapPlan {
    let security = SecurityAccount::managed("coaps+tcp://fleet.example:5685".to_owned(), 1);
    let accounts = Accounts { security: [(1, security)].into(), servers: [(1, ServerAccount::default())].into() };
    BootstrapPlan { delete: vec![Path::object(0), Path::object(1)], accounts, format: ContentFormat::TLV }
}

#[test]
fn malformed_requests_are_refused_without_asking_the_caller() {
    let mut scene = Scene::greeted();
    for (request, code) in [
        (register("5"), Code::BAD_REQUEST),
        (register("99999999999"), Code::BAD_REQUEST),
        (register("300").query("odd=1"), Code::BAD_REQUEST),
        (register("300").content(ContentFormat::LINK, "</1/0"), Code::BAD_REQUEST),
        (register("300").content(ContentFormat::TLV, "x"), Code::UNSUPPORTED_CONTENT_FORMAT),
        (post("/rd").query("ep=a").query("lwm2m=1.2"), Code::PRECONDITION_FAILED),
        (post("/bs").query("ep=../../etc"), Code::BAD_REQUEST),
        (post("/bs").query("x=1"), Code::BAD_REQUEST),
        (post("/rd/7"), Code::NOT_FOUND),
        (Message::new(Code::DELETE).path("/rd/7"), Code::NOT_FOUND),
        (Message::new(Code::GET).path("/rd"), Code::METHOD_NOT_ALLOWED),
        (Message::new(Code::PUT).path("/rd/7/8"), Code::METHOD_NOT_ALLOWED),
        (Message::new(Code::GET).path("/x").with_uint(OptionNumber(2053), 1), Code::BAD_OPTION),
    ] {
        assert_eq!(scene.code(request.clone()), code, "{request:?}");
    }
}

#[test]
fn a_refusal_of_the_caller_reaches_the_client_with_its_reason() {
    for request in [register("300"), post("/bs").query("ep=gate-42")] {
        let mut scene = Scene::greeted();
        let (ask, _) = asked(&scene.hear(request));
        let refusal = Decision::Refuse { code: Code::FORBIDDEN, diagnostic: "suspended".to_owned() };
        let response = sent(&scene.decide(ask, refusal));
        assert_eq!((response.code, response.diagnostic().as_str()), (Code::FORBIDDEN, "suspended"));
        assert_eq!(scene.session.registration(), None);
        assert!(scene.decide(ask, Decision::Allow).is_empty(), "a question is answered once");
    }
}

#[test]
fn a_decision_that_does_not_fit_its_question_is_an_error_of_the_service() {
    let mut scene = Scene::greeted();
    let (ask, _) = asked(&scene.hear(register("300")));
    assert_eq!(sent(&scene.decide(ask, Decision::Allow)).code, Code::INTERNAL_SERVER_ERROR);
    assert_eq!(scene.session.registration(), None);
}

#[test]
fn an_update_changes_the_registration_and_its_expiry() {
    let mut scene = Scene::registered();
    scene.now = scene.now.plus(Duration::from_secs(200));
    let (ask, question) = asked(&scene.hear(post("/rd/7").query("lt=600")));
    assert!(matches!(question, Question::Update(update) if update.lifetime == Some(600)));
    let steps = scene.decide(ask, Decision::Allow);
    assert_eq!(sent(&steps).code, Code::CHANGED);
    assert!(steps.iter().any(|step| matches!(step, Step::Updated(registration) if registration.lifetime == 600)));
    assert!(steps.contains(&Step::WakeAt(Millis(810_000))), "{steps:?}");
    assert_eq!(scene.code(post("/rd/8")), Code::NOT_FOUND, "another location");
    assert_eq!(scene.code(post("/rd/7").query("lt=1")), Code::BAD_REQUEST);
}

#[test]
fn a_registration_ends_by_word_by_time_by_loss_and_by_another() {
    let mut scene = Scene::registered();
    let steps = scene.hear(Message::new(Code::DELETE).path("/rd/7"));
    assert_eq!((sent(&steps).code, &steps[1]), (Code::DELETED, &Step::Deregistered(Ended::Deregistered)));

    let mut scene = Scene::registered();
    scene.now = Millis(309_999);
    assert!(!scene.on(Fact::TimePassed).contains(&Step::Close));
    scene.now = Millis(310_000);
    let steps = scene.on(Fact::TimePassed);
    assert!(steps.ends_with(&[Step::Deregistered(Ended::Expired), Step::Close]), "{steps:?}");

    assert_eq!(Scene::registered().on(Fact::Lost), [Step::Deregistered(Ended::ConnectionLost)]);

    let mut scene = Scene::registered();
    let (ask, _) = asked(&scene.hear(register("300")));
    let steps = scene.decide(ask, Decision::Register { location: "8".to_owned() });
    assert!(matches!(&steps[1..3], [Step::Deregistered(Ended::Replaced), Step::Registered(_)]), "{steps:?}");
}

#[test]
fn a_silent_connection_is_closed() {
    let mut scene = Scene::opened();
    scene.now = Millis(10_000);
    assert!(scene.on(Fact::TimePassed).contains(&Step::Close));
    let mut scene = Scene::greeted();
    scene.now = Millis(119_999);
    assert!(!scene.on(Fact::TimePassed).contains(&Step::Close));
    scene.now = Millis(120_000);
    assert!(scene.on(Fact::TimePassed).contains(&Step::Close));
}

#[test]
fn a_bootstrap_writes_each_account_and_finishes_when_all_were_accepted() {
    let mut scene = Scene::greeted();
    let (ask, question) = asked(&scene.hear(post("/bs").query("ep=gate-42").query("pct=112")));
    assert!(matches!(question, Question::Bootstrap { preferred: Some(ContentFormat::SENML_CBOR), .. }));
    assert_eq!(scene.code(post("/bs")), Code::BAD_REQUEST, "one at a time");
    let mut steps = scene.decide(ask, Decision::Bootstrap(plan()));
    assert_eq!(sent(&steps).code, Code::CHANGED);
    assert_eq!(scene.code(post("/bs")), Code::BAD_REQUEST, "one at a time");
    steps.remove(0);
    let mut seen = Vec::new();
    while !steps.contains(&Step::Bootstrapped) {
        let request = sent(&steps);
        seen.push(format!("{} {}", request.code, request.uri_path()));
        steps = scene.on(Fact::Received(Message::new(Code::CHANGED).with_token(request.token)));
    }
    assert_eq!(seen, ["0.04 /0", "0.04 /1", "0.03 /0/1", "0.03 /1/1", "0.02 /bs"]);
}

#[test]
fn a_bootstrap_that_the_client_refuses_fails_once_and_closes() {
    let mut scene = Scene::greeted();
    let (ask, _) = asked(&scene.hear(post("/bs")));
    let steps = scene.decide(ask, Decision::Bootstrap(plan()));
    let Step::Send(delete) = &steps[1] else { panic!("{steps:?}") };
    let steps = scene.on(Fact::Received(Message::refusal(Code::METHOD_NOT_ALLOWED, "no").with_token(delete.token)));
    let failures =
        steps.iter().filter(|step| matches!(step, Step::BootstrapFailed(RequestError::Refused { .. }))).count();
    assert_eq!((failures, steps.last()), (1, Some(&Step::Close)));

    let mut scene = Scene::greeted();
    let (ask, _) = asked(&scene.hear(post("/bs")));
    scene.decide(ask, Decision::Bootstrap(plan()));
    assert_eq!(scene.on(Fact::Shutdown).iter().filter(|step| matches!(step, Step::BootstrapFailed(_))).count(), 1);
}

#[test]
fn a_request_outside_of_lwm2m_is_the_callers() {
    let mut scene = Scene::greeted();
    let csr = post("/.well-known/est/sen").content(ContentFormat::PKCS10, vec![1; 400]);
    let (ask, question) = asked(&scene.hear(csr));
    assert!(matches!(question, Question::Other(request) if request.payload.len() == 400));
    let certificate = Message::new(Code::CHANGED).content(ContentFormat::PKIX_CERT, vec![2; 600]);
    let response = sent(&scene.decide(ask, Decision::Respond(certificate)));
    assert_eq!((response.payload.len(), response.token), (600, Token::from(1)));
}

#[test]
fn each_operation_is_the_request_that_the_standard_gives_it() {
    let mut scene = Scene::registered();
    let path = Path::instance(3, 0);
    let entries = vec![Entry::new(Path::resource(3, 0, 14), "+01:00")];
    let write = |mode| Operation::Write { path, mode, entries: entries.clone(), format: ContentFormat::TLV };
    let attributes = Attributes { pmin: Some(5), gt: Some(1.5), ..Attributes::default() };
    for (operation, expected) in [
        (Operation::Read { path, accept: None }, "0.01 /3/0 {Uri-Path: [51], Uri-Path: [48]} 0"),
        (Operation::Discover { path }, "0.01 /3/0 {Uri-Path: [51], Uri-Path: [48], Accept: [40]} 0"),
        (Operation::Observe { path, accept: None }, "0.01 /3/0 {Observe: [], Uri-Path: [51], Uri-Path: [48]} 0"),
        (write(WriteMode::Replace), "0.03 /3/0 {Uri-Path: [51], Uri-Path: [48], Content-Format: [45, 22]} 8"),
        (write(WriteMode::Partial), "0.02 /3/0 {Uri-Path: [51], Uri-Path: [48], Content-Format: [45, 22]} 8"),
        (Operation::Execute { path, arguments: String::new() }, "0.02 /3/0 {Uri-Path: [51], Uri-Path: [48]} 0"),
        (
            Operation::Execute { path, arguments: "0".to_owned() },
            "0.02 /3/0 {Uri-Path: [51], Uri-Path: [48], Content-Format: []} 1",
        ),
    ] {
        let message = sent(&scene.request(operation));
        assert_eq!(
            format!("{} {} {:?} {}", message.code, message.uri_path(), message.options, message.payload.len()),
            expected
        );
    }
    let message = sent(&scene.request(Operation::WriteAttributes { path, attributes }));
    assert_eq!(message.queries().collect::<Vec<_>>(), [("pmin", "5"), ("gt", "1.5")]);
    assert_eq!((message.code, message.payload.len()), (Code::PUT, 0));
}

#[test]
fn answers_are_read_by_their_format_and_errors_keep_their_cause() {
    let mut scene = Scene::registered();
    let path = Path::resource(3, 0, 9);
    let read = || Operation::Read { path, accept: None };
    let text = Message::new(Code::CONTENT).content(ContentFormat::TEXT, "80");
    let answer = scene.exchange(read(), text).unwrap();
    assert_eq!(answer.content, Content::Entries(vec![Entry::new(path, Value::Integer(80))]));
    let links = Message::new(Code::CONTENT).content(ContentFormat::LINK, "</3/0/9>");
    let answer = scene.exchange(Operation::Discover { path }, links).unwrap();
    assert!(matches!(answer.content, Content::Links(links) if links[0].path("/") == Some(path)));
    let refused = scene.exchange(read(), Message::refusal(Code::NOT_FOUND, "gone\n"));
    assert_eq!(refused, Err(RequestError::Refused { code: Code::NOT_FOUND, diagnostic: "gone ".to_owned() }));
    let garbage = Message::new(Code::CONTENT).content(ContentFormat::TLV, vec![0xc8]);
    assert!(matches!(scene.exchange(read(), garbage), Err(RequestError::Decode(_))));
    let elsewhere =
        formats::encode(ContentFormat::SENML_CBOR, &Path::ROOT, &[Entry::new(Path::resource(3, 0, 10), 1)]).unwrap();
    let elsewhere = Message::new(Code::CONTENT).content(ContentFormat::SENML_CBOR, elsewhere);
    assert!(matches!(scene.exchange(read(), elsewhere), Err(RequestError::Decode(_))), "a value of another path");
    scene.request(read());
    scene.now = scene.now.plus(Duration::from_secs(30));
    let timed_out = Step::Answered { id: 9, result: Err(ExchangeError::TimedOut.into()) };
    assert!(scene.on(Fact::TimePassed).contains(&timed_out));
}

#[test]
fn nothing_is_asked_of_a_device_that_is_not_registered() {
    let mut scene = Scene::greeted();
    let steps = scene.request(Operation::Discover { path: Path::object(3) });
    assert_eq!(steps[0], Step::Answered { id: 9, result: Err(RequestError::NotRegistered) });
}

#[test]
fn notifications_carry_the_number_of_their_observation_and_bad_ones_end_it() {
    let mut scene = Scene::registered();
    let path = Path::resource(3, 0, 9);
    let value =
        |text: &str| Message::new(Code::CONTENT).content(ContentFormat::TEXT, text).with_uint(OptionNumber::OBSERVE, 3);
    let observe = sent(&scene.request(Operation::Observe { path, accept: Some(ContentFormat::TEXT) }));
    scene.on(Fact::Received(value("50").with_token(observe.token)));
    let steps = scene.on(Fact::Received(value("49").with_token(observe.token)));
    let entries = vec![Entry::new(path, Value::Integer(49))];
    assert_eq!(steps[0], Step::Notified { id: 9, path, entries });
    let steps = scene.on(Fact::Received(value("half").with_token(observe.token)));
    let cancel = sent(&steps);
    assert_eq!((cancel.token, cancel.options.uint(OptionNumber::OBSERVE)), (observe.token, Some(1)));
    assert!(
        steps.iter().any(|step| matches!(step, Step::ObservationEnded { id: 9, error: RequestError::Decode(_), .. }))
    );
    let none = scene.request(Operation::CancelObserve { path });
    assert_eq!(none[0], Step::Answered { id: 9, result: Err(RequestError::NotObserved) });
}

#[test]
fn what_was_observed_under_an_earlier_registration_is_not_taken_for_news() {
    let mut scene = Scene::registered();
    let path = Path::resource(3, 0, 9);
    let value =
        |text: &str| Message::new(Code::CONTENT).content(ContentFormat::TEXT, text).with_uint(OptionNumber::OBSERVE, 3);
    let observe = sent(&scene.request(Operation::Observe { path, accept: None }));
    scene.on(Fact::Received(value("50").with_token(observe.token)));
    let (ask, _) = asked(&scene.hear(register("300")));
    scene.decide(ask, Decision::Register { location: "8".to_owned() });
    let steps = scene.on(Fact::Received(value("49").with_token(observe.token)));
    assert!(!steps.iter().any(|step| matches!(step, Step::Notified { .. })), "{steps:?}");
}

#[test]
fn a_client_that_floods_is_answered_with_5_03_and_costs_a_bounded_number_of_questions() {
    let mut scene = Scene::greeted();
    let mut questions = 0;
    for _ in 0..1000 {
        let steps = scene.hear(Message::new(Code::GET).path("/.well-known/est/crts"));
        questions += steps.iter().filter(|step| matches!(step, Step::Ask { .. })).count();
    }
    assert_eq!(questions, 16);
    assert_eq!(scene.code(Message::new(Code::GET).path("/x")), Code::SERVICE_UNAVAILABLE);
}
