//! What a bootstrap server may write, and that a bootstrap is taken whole or leaves everything as it was: against the real client.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper that meets what it does not expect should stop the test"
)]

use std::time::Duration;

use protocol_lwm2m::{
    client::{Client, Fact, ObjectError, Objects, Reading, Settings, Step, Target, WriteMode},
    coap::{Code, ContentFormat, Message, Token, signal::Capabilities},
    formats::{self, Entry, Value},
    object::{Accounts, Path, SecurityAccount, ServerAccount},
    time::Millis,
};

struct Nothing;

impl Objects for Nothing {
    fn objects(&self) -> Vec<u16> {
        vec![3]
    }
    fn instances(&self, _: u16) -> Vec<u16> {
        vec![0]
    }
    fn read(&self, _: u16, _: u16, _: u16) -> Result<Reading, ObjectError> {
        Err(ObjectError::NotFound)
    }
    fn write(&mut self, _: &Path, _: WriteMode, _: &[Entry]) -> Result<(), ObjectError> {
        panic!("bootstrap writes no other object")
    }
    fn execute(&mut self, _: u16, _: u16, _: u16, _: &str) -> Result<(), ObjectError> {
        panic!("bootstrap executes nothing")
    }
    fn keep_accounts(&mut self, _: &Accounts) -> Result<(), ObjectError> {
        panic!("accounts are kept with the certificate")
    }
}

fn accounts(host: &str) -> Accounts {
    let security = SecurityAccount {
        server_public_key: vec![1; 20],
        ..SecurityAccount::managed(format!("coaps+tcp://{host}:5685"), 1)
    };
    Accounts { security: [(1, security)].into(), servers: [(1, ServerAccount::default())].into() }
}

struct Scene {
    now: Millis,
    client: Client,
    token: u32,
}

impl Scene {
    /// A client whose bootstrap server has said yes.
    fn bootstrapping(kept: Option<Accounts>) -> Self {
        let client = Client::new(Settings::new("gate-42".parse().unwrap(), 1), kept);
        let mut scene = Self { now: Millis(0), client, token: 0 };
        scene.on(Fact::Started);
        let steps = scene.on(Fact::BootstrapAgain);
        assert!(steps.contains(&Step::Dial(Target::Bootstrap)), "{steps:?}");
        scene.on(Fact::Connected);
        let peer = Capabilities { max_message_size: 65_536, block_wise: true };
        let request = sent(&scene.on(Fact::Received(peer.message())));
        assert_eq!((request.uri_path().as_str(), request.query_value("ep")), ("/bs", Some("gate-42")));
        scene.on(Fact::Received(Message::new(Code::CHANGED).with_token(request.token)));
        scene
    }

    fn on(&mut self, fact: Fact) -> Vec<Step> {
        self.client.on(self.now, fact, &mut Nothing)
    }

    fn ask(&mut self, request: Message) -> (Message, Vec<Step>) {
        self.token += 1;
        let steps = self.on(Fact::Received(request.with_token(Token::from(self.token))));
        (sent(&steps), steps)
    }

    fn code(&mut self, request: Message) -> Code {
        self.ask(request).0.code
    }

    fn write(&mut self, entries: &[Entry]) {
        for group in entries.chunk_by(|a, b| a.path.upper(2) == b.path.upper(2)) {
            assert_eq!(self.code(put(&group[0].path.upper(2), group)), Code::CHANGED);
        }
    }
}

fn sent(steps: &[Step]) -> Message {
    steps.iter().find_map(|step| if let Step::Send(message) = step { Some(message.clone()) } else { None }).unwrap()
}

fn put(path: &Path, entries: &[Entry]) -> Message {
    let payload = formats::encode(ContentFormat::TLV, path, entries).unwrap();
    Message::new(Code::PUT).path(&path.to_string()).content(ContentFormat::TLV, payload)
}

fn finish() -> Message {
    Message::new(Code::POST).path("/bs")
}

fn delete(path: &str) -> Message {
    Message::new(Code::DELETE).path(path)
}

#[test]
fn a_consistent_bootstrap_is_taken_and_the_connection_kept_until_the_caller_has_enrolled() {
    let mut scene = Scene::bootstrapping(None);
    scene.write(&accounts("new.example").entries());
    let (response, steps) = scene.ask(finish());
    assert_eq!(response.code, Code::CHANGED);
    assert_eq!(steps[1], Step::BootstrapDone(accounts("new.example")));
    assert!(!steps.contains(&Step::Close));
    let steps = scene.on(Fact::Enrolled);
    let target = Target::Management { uri: "coaps+tcp://new.example:5685".to_owned(), server_public_key: vec![1; 20] };
    assert!(steps.starts_with(&[Step::Close, Step::Dial(target)]), "{steps:?}");
}

#[test]
fn an_incomplete_configuration_is_answered_with_4_06_and_may_be_completed() {
    let mut scene = Scene::bootstrapping(None);
    let entries = accounts("new.example").entries();
    scene.write(&entries[..7]);
    let (response, steps) = scene.ask(finish());
    assert_eq!(response.code, Code::NOT_ACCEPTABLE);
    assert!(!steps.iter().any(|step| matches!(step, Step::BootstrapDone(_))));
    scene.write(&entries[7..]);
    assert_eq!(scene.code(finish()), Code::CHANGED);
}

#[test]
fn a_bootstrap_that_does_not_finish_leaves_the_accounts_as_they_were() {
    for end in [Fact::Lost, Fact::TimePassed] {
        let mut scene = Scene::bootstrapping(Some(accounts("old.example")));
        assert_eq!(scene.code(delete("/")), Code::DELETED);
        scene.write(&accounts("new.example").entries());
        scene.now = scene.now.plus(Duration::from_secs(61));
        scene.on(end);
        assert_eq!(scene.client.accounts(), Some(&accounts("old.example")));
        scene.now = scene.now.plus(Duration::from_secs(61));
        let steps = scene.on(Fact::TimePassed);
        assert!(matches!(&steps[0], Step::Dial(Target::Management { uri, .. }) if uri.contains("old")), "{steps:?}");
    }
}

#[test]
fn deleting_everything_spares_the_account_of_the_bootstrap_server() {
    let mut kept = accounts("old.example");
    let own = SecurityAccount {
        uri: "coaps+tcp://boot.example".to_owned(),
        bootstrap: true,
        short_server_id: None,
        ..kept.security[&1].clone()
    };
    kept.security.insert(0, own);
    for path in ["/", "/0"] {
        let mut scene = Scene::bootstrapping(Some(kept.clone()));
        assert_eq!(scene.code(delete(path)), Code::DELETED);
        let (response, _) = scene.ask(Message::new(Code::GET).path("/0").accept(ContentFormat::LINK));
        assert_eq!(response.payload, br#"</>;lwm2m=1.1,</0/0>;uri="coaps+tcp://boot.example""#);
    }
}

#[test]
fn writing_an_instance_leaves_nothing_of_the_one_before() {
    let mut kept = accounts("old.example");
    kept.servers.insert(1, ServerAccount { default_pmax: Some(60), ..ServerAccount::default() });
    let mut scene = Scene::bootstrapping(Some(kept));
    scene.write(&accounts("new.example").entries());
    let (_, steps) = scene.ask(finish());
    assert_eq!(steps[1], Step::BootstrapDone(accounts("new.example")));
}

#[test]
fn discover_and_read_tell_a_bootstrap_server_what_there_is() {
    let mut scene = Scene::bootstrapping(Some(accounts("old.example")));
    let (response, _) = scene.ask(Message::new(Code::GET).accept(ContentFormat::LINK));
    let expected = r#"</>;lwm2m=1.1,</0/1>;ssid=1;uri="coaps+tcp://old.example:5685",</1/1>;ssid=1,</3/0>"#;
    assert_eq!(String::from_utf8(response.payload).unwrap(), expected);
    let (response, _) = scene.ask(Message::new(Code::GET).path("/1").accept(ContentFormat::TLV));
    let entries = formats::decode(ContentFormat::TLV, &Path::object(1), &response.payload).unwrap();
    assert_eq!(entries, accounts("x").servers[&1].entries(1));
}

#[test]
fn nothing_but_accounts_can_be_written_read_or_deleted() {
    let mut scene = Scene::bootstrapping(None);
    let name = [Entry::new(Path::resource(3, 0, 0), "Other")];
    let uri = [Entry::new(Path::resource(0, 1, 0), Value::from("coap://x"))];
    for (request, code) in [
        (put(&Path::instance(3, 0), &name), Code::METHOD_NOT_ALLOWED),
        (Message::new(Code::GET).path("/0/1"), Code::METHOD_NOT_ALLOWED),
        (Message::new(Code::GET).path("/3/0"), Code::METHOD_NOT_ALLOWED),
        (Message::new(Code::GET).path("/1"), Code::NOT_FOUND),
        (delete("/3"), Code::METHOD_NOT_ALLOWED),
        (delete("/1/1/0"), Code::METHOD_NOT_ALLOWED),
        (Message::new(Code::POST).path("/1/1/8"), Code::METHOD_NOT_ALLOWED),
        (Message::new(Code::PUT).path("/0/1"), Code::UNSUPPORTED_CONTENT_FORMAT),
        (put(&Path::instance(0, 1), &uri).content(ContentFormat::TLV, vec![0xc8]), Code::BAD_REQUEST),
        (Message::new(Code::GET).path("/x"), Code::NOT_FOUND),
    ] {
        assert_eq!(scene.code(request.clone()), code, "{request:?}");
    }
}

#[test]
fn a_refused_bootstrap_is_reported_with_its_reason_and_tried_again_later() {
    let client = Client::new(Settings::new("gate-42".parse().unwrap(), 1), None);
    let mut scene = Scene { now: Millis(0), client, token: 0 };
    scene.on(Fact::Started);
    scene.on(Fact::Connected);
    let request = sent(&scene.on(Fact::Received(Capabilities::default().message())));
    let steps = scene.on(Fact::Received(Message::refusal(Code::FORBIDDEN, "not_enrolled").with_token(request.token)));
    let refused = Step::Refused { by: Target::Bootstrap, code: Code::FORBIDDEN, diagnostic: "not_enrolled".to_owned() };
    assert!(
        matches!(&steps[..], [first, Step::Close, Step::WakeAt(at)] if *first == refused && *at <= Millis(2000)),
        "{steps:?}"
    );
    scene.now = Millis(2000);
    assert_eq!(scene.on(Fact::TimePassed)[0], Step::Dial(Target::Bootstrap));
}

#[test]
fn an_enrolment_that_fails_leads_back_to_bootstrap_after_a_wait() {
    let mut scene = Scene::bootstrapping(None);
    scene.write(&accounts("new.example").entries());
    scene.ask(finish());
    let steps = scene.on(Fact::EnrolFailed);
    assert!(matches!(&steps[..], [Step::Close, Step::WakeAt(_)]), "{steps:?}");
    scene.now = Millis(10_000);
    assert_eq!(scene.on(Fact::TimePassed)[0], Step::Dial(Target::Bootstrap));
}
