//! What a management server may do to a device, what it may not, and when it is notified: against the real client, message by message.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper that meets what it does not expect should stop the test"
)]

use std::{collections::BTreeMap, time::Duration};

use protocol_lwm2m::{
    client::{Client, DialFailure, Fact, ObjectError, Objects, Reading, Settings, Step, Target, WriteMode},
    coap::{
        Code, ContentFormat, Message, OptionNumber, Token,
        signal::{Capabilities, Signal},
    },
    formats::{self, Entry, Value, link},
    object::{Accounts, Path, SecurityAccount, SecurityMode, ServerAccount},
    time::Millis,
};

/// Device and firmware objects; what is written or executed is remembered.
#[derive(Default)]
struct Device {
    values: BTreeMap<Path, Value>,
    executed: Vec<(Path, String)>,
    broken: bool,
}

impl Device {
    fn set(&mut self, resource: u16, value: impl Into<Value>) {
        self.values.insert(Path::resource(3, 0, resource), value.into());
    }
}

impl Objects for Device {
    fn objects(&self) -> Vec<u16> {
        vec![3, 5]
    }
    fn instances(&self, _: u16) -> Vec<u16> {
        vec![0]
    }
    fn read(&self, object: u16, instance: u16, resource: u16) -> Result<Reading, ObjectError> {
        match (object, resource) {
            _ if self.broken => Err(ObjectError::Failed("the disk is gone".to_owned())),
            (3, 6) => Ok(Reading::Multiple(vec![(1, Value::Integer(5)), (0, Value::Integer(1))])),
            _ => {
                let value = self.values.get(&Path::resource(object, instance, resource));
                value.cloned().map(Reading::Single).ok_or(ObjectError::NotFound)
            }
        }
    }
    fn write(&mut self, _: &Path, _: WriteMode, entries: &[Entry]) -> Result<(), ObjectError> {
        if entries.iter().any(|entry| entry.value == Value::from("+25:00")) {
            return Err(ObjectError::BadValue("no such offset".to_owned()));
        }
        self.values.extend(entries.iter().map(|entry| (entry.path, entry.value.clone())));
        Ok(())
    }
    fn execute(&mut self, object: u16, instance: u16, resource: u16, arguments: &str) -> Result<(), ObjectError> {
        self.executed.push((Path::resource(object, instance, resource), arguments.to_owned()));
        Ok(())
    }
    fn keep_accounts(&mut self, _: &Accounts) -> Result<(), ObjectError> {
        if self.broken { Err(ObjectError::Failed("the disk is gone".to_owned())) } else { Ok(()) }
    }
}

fn accounts() -> Accounts {
    let security = SecurityAccount {
        mode: SecurityMode::Certificate,
        ..SecurityAccount::managed("coaps+tcp://fleet.example:5685".to_owned(), 1)
    };
    Accounts { security: [(1, security)].into(), servers: [(1, ServerAccount::default())].into() }
}

struct Scene {
    now: Millis,
    client: Client,
    device: Device,
    token: u32,
}

impl Scene {
    /// A client that is registered as `/rd/7`.
    fn registered() -> Self {
        Self::registered_with(1)
    }

    /// One of many.
    fn registered_with(seed: u64) -> Self {
        let mut device = Device::default();
        device.set(0, "Acme");
        device.set(9, 50);
        device.set(14, "+02:00");
        let settings = Settings::new("gate-42".parse().unwrap(), seed);
        let mut scene = Self { now: Millis(0), client: Client::new(settings, Some(accounts())), device, token: 0 };
        scene.on(Fact::Started);
        scene.on(Fact::Connected);
        let peer = Capabilities { max_message_size: 65_536, block_wise: true };
        let register = sent(&scene.on(Fact::Received(peer.message())));
        assert_eq!(register.uri_path(), "/rd");
        scene.answer_registration(&register);
        scene
    }

    fn answer_registration(&mut self, register: &Message) {
        let mut created = Message::new(Code::CREATED).with_token(register.token);
        created.options.push(OptionNumber::LOCATION_PATH, b"rd");
        created.options.push(OptionNumber::LOCATION_PATH, b"7");
        let steps = self.on(Fact::Received(created));
        assert!(steps.contains(&Step::Registered), "{steps:?}");
    }

    fn on(&mut self, fact: Fact) -> Vec<Step> {
        self.client.on(self.now, fact, &mut self.device)
    }

    /// Sends a request of the server; the response comes first, then whatever else the client does.
    fn ask(&mut self, request: Message) -> (Message, Vec<Step>) {
        self.token += 1;
        let token = Token::from(self.token);
        let mut steps = self.on(Fact::Received(request.with_token(token)));
        match steps.remove(0) {
            Step::Send(response) => {
                assert_eq!(response.token, token);
                (response, steps)
            }
            other => panic!("instead of a response: {other:?}"),
        }
    }

    fn code(&mut self, request: Message) -> Code {
        self.ask(request).0.code
    }

    /// Lets time pass; gives the notifications that go out.
    fn later(&mut self, seconds: u64) -> Vec<Message> {
        self.now = self.now.plus(Duration::from_secs(seconds));
        all_sent(&self.on(Fact::TimePassed))
    }

    /// Changes the battery level; gives the notifications that go out.
    fn battery(&mut self, level: i64) -> Vec<Message> {
        self.device.set(9, level);
        all_sent(&self.on(Fact::Changed(Path::resource(3, 0, 9))))
    }

    fn observe_battery(&mut self, attributes: &str) {
        if !attributes.is_empty() {
            let write = attributes
                .split('&')
                .fold(Message::new(Code::PUT).path("/3/0/9"), |message, query| message.query(query));
            assert_eq!(self.code(write), Code::CHANGED);
        }
        let observe =
            Message::new(Code::GET).path("/3/0/9").accept(ContentFormat::TEXT).with_uint(OptionNumber::OBSERVE, 0);
        let (response, _) = self.ask(observe);
        assert!(response.options.uint(OptionNumber::OBSERVE).is_some());
    }
}

fn all_sent(steps: &[Step]) -> Vec<Message> {
    let message = |step: &Step| if let Step::Send(message) = step { Some(message.clone()) } else { None };
    steps.iter().filter_map(message).filter(|message| message.code.is_response()).collect()
}

fn sent(steps: &[Step]) -> Message {
    steps.iter().find_map(|step| if let Step::Send(message) = step { Some(message.clone()) } else { None }).unwrap()
}

/// The update of the registration that goes out.
fn update(steps: &[Step]) -> Message {
    updates(steps).remove(0)
}

fn updates(steps: &[Step]) -> Vec<Message> {
    let message = |step: &Step| if let Step::Send(message) = step { Some(message.clone()) } else { None };
    steps.iter().filter_map(message).filter(|message| message.uri_path() == "/rd/7").collect()
}

fn texts(messages: &[Message]) -> Vec<String> {
    messages.iter().map(|message| String::from_utf8(message.payload.clone()).unwrap()).collect()
}

fn get(path: &str) -> Message {
    Message::new(Code::GET).path(path)
}

fn put(path: &str, text: &str) -> Message {
    Message::new(Code::PUT).path(path).content(ContentFormat::TEXT, text)
}

#[test]
fn a_read_gives_what_is_readable_in_the_format_that_was_asked_for() {
    let mut scene = Scene::registered();
    let (text, _) = scene.ask(get("/3/0/0").accept(ContentFormat::TEXT));
    assert_eq!((text.code, &text.payload[..]), (Code::CONTENT, &b"Acme"[..]));
    for format in [ContentFormat::TLV, ContentFormat::SENML_CBOR] {
        for path in [Path::object(3), Path::instance(3, 0)] {
            let (response, _) = scene.ask(get(&path.to_string()).accept(format));
            let entries = formats::decode(response.content_format().unwrap(), &path, &response.payload).unwrap();
            let paths: Vec<_> = entries.iter().map(|entry| entry.path.to_string()).collect();
            assert_eq!(paths, ["/3/0/0", "/3/0/6/0", "/3/0/6/1", "/3/0/9", "/3/0/14"], "{format}");
        }
    }
    let (one, _) = scene.ask(get("/3/0/6/1").accept(ContentFormat::TEXT));
    assert_eq!(one.payload, b"5");
    let (usual, _) = scene.ask(get("/3/0/9"));
    assert_eq!(usual.content_format(), Some(ContentFormat::SENML_CBOR));
}

#[test]
fn every_refusal_has_the_code_of_the_standard() {
    let mut scene = Scene::registered();
    let post = |path: &str| Message::new(Code::POST).path(path);
    for (request, code) in [
        // Object 0 is nobody's business, whatever is asked.
        (get("/0/1/0"), Code::UNAUTHORIZED),
        (put("/0/1/0", "coap://evil.example"), Code::UNAUTHORIZED),
        (get("/2"), Code::NOT_FOUND),
        (get("/3/1"), Code::NOT_FOUND),
        (get("/3/0/1"), Code::NOT_FOUND),
        (get("/3/0/99"), Code::NOT_FOUND),
        (get("/3/0/6/9"), Code::NOT_FOUND),
        (get("/3/x"), Code::NOT_FOUND),
        (get("/rd"), Code::NOT_FOUND),
        (get("/"), Code::METHOD_NOT_ALLOWED),
        (get("/3/0/4"), Code::METHOD_NOT_ALLOWED),
        (get("/5/0/0"), Code::METHOD_NOT_ALLOWED),
        (get("/3/0").accept(ContentFormat::TEXT), Code::NOT_ACCEPTABLE),
        (get("/3/0").accept(ContentFormat::JSON), Code::NOT_ACCEPTABLE),
        (put("/3/0/0", "Other"), Code::METHOD_NOT_ALLOWED),
        (put("/3/0/13", "noon"), Code::BAD_REQUEST),
        (put("/3/0/14", "+25:00"), Code::BAD_REQUEST),
        (put("/3/0/14", "x").content(ContentFormat::JSON, "{}"), Code::UNSUPPORTED_CONTENT_FORMAT),
        (Message::new(Code::PUT).path("/3/0/14"), Code::UNSUPPORTED_CONTENT_FORMAT),
        (put("/3", "x"), Code::METHOD_NOT_ALLOWED),
        (post("/3/0/9"), Code::METHOD_NOT_ALLOWED),
        (post("/3"), Code::METHOD_NOT_ALLOWED),
        (Message::new(Code::DELETE).path("/3/0"), Code::METHOD_NOT_ALLOWED),
        (Message::new(Code::FETCH).path("/"), Code::METHOD_NOT_ALLOWED),
        (Message::new(Code::PUT).path("/3/0/9").query("pmin=x"), Code::BAD_REQUEST),
        (Message::new(Code::PUT).path("/3/0/9").query("xyz=1"), Code::BAD_REQUEST),
        (Message::new(Code::PUT).path("/3/0/9").query("gt=5").query("lt=9"), Code::BAD_REQUEST),
        (Message::new(Code::PUT).path("/3/0/0").query("gt=5"), Code::BAD_REQUEST),
        (Message::new(Code::PUT).path("/9/0").query("pmin=1"), Code::NOT_FOUND),
        (put("/1/1/1", "0"), Code::BAD_REQUEST),
        (put("/1/1/0", "5"), Code::METHOD_NOT_ALLOWED),
    ] {
        let before = scene.device.values.clone();
        assert_eq!(scene.code(request.clone()), code, "{request:?}");
        assert_eq!(scene.device.values, before, "a refusal left a trace: {request:?}");
    }
    scene.device.broken = true;
    assert_eq!(scene.code(get("/3/0/0")), Code::INTERNAL_SERVER_ERROR);
}

#[test]
fn a_write_of_several_resources_is_taken_whole_or_not_at_all() {
    let mut scene = Scene::registered();
    let write = |offset: &str, zone: u16| {
        let path = Path::instance(3, 0);
        let entries =
            [Entry::new(Path::resource(3, 0, 14), offset), Entry::new(Path::resource(3, 0, zone), "Europe/Paris")];
        let payload = formats::encode(ContentFormat::SENML_CBOR, &path, &entries).unwrap();
        Message::new(Code::POST).path("/3/0").content(ContentFormat::SENML_CBOR, payload)
    };
    assert_eq!(scene.code(write("+03:00", 0)), Code::METHOD_NOT_ALLOWED, "resource 0 is read-only");
    assert_eq!(scene.device.values[&Path::resource(3, 0, 14)], Value::from("+02:00"));
    assert_eq!(scene.code(write("+03:00", 15)), Code::CHANGED);
    assert_eq!(scene.device.values[&Path::resource(3, 0, 15)], Value::from("Europe/Paris"));
}

#[test]
fn an_execute_passes_its_arguments_on() {
    let mut scene = Scene::registered();
    let reboot = Message::new(Code::POST).path("/3/0/4").content(ContentFormat::TEXT, "0='now'");
    assert_eq!(scene.code(reboot), Code::CHANGED);
    assert_eq!(scene.device.executed, [(Path::resource(3, 0, 4), "0='now'".to_owned())]);
}

#[test]
fn discover_names_what_there_is_with_its_attributes() {
    let mut scene = Scene::registered();
    let attributes = Message::new(Code::PUT).path("/3/0/9").query("pmin=5").query("gt=80.5");
    assert_eq!(scene.code(attributes), Code::CHANGED);
    let discover = |path: &str| get(path).accept(ContentFormat::LINK);
    let (object, _) = scene.ask(discover("/3"));
    let expected = "</3>;ver=1.1,</3/0>,</3/0/0>,</3/0/4>,</3/0/6>;dim=2,</3/0/9>;pmin=5;gt=80.5,</3/0/14>";
    assert_eq!(String::from_utf8(object.payload).unwrap(), expected);
    let (resource, _) = scene.ask(discover("/3/0/6"));
    assert_eq!(resource.payload, b"</3/0/6>;dim=2");
    assert_eq!(scene.code(discover("/3/0/1")), Code::NOT_FOUND);
}

#[test]
fn every_change_is_notified_at_once_where_nothing_else_is_set() {
    let mut scene = Scene::registered();
    scene.observe_battery("");
    assert_eq!(texts(&scene.battery(49)), ["49"]);
    assert_eq!(texts(&scene.battery(48)), ["48"]);
    assert!(scene.later(1000).is_empty(), "nothing changed");
    assert!(all_sent(&scene.on(Fact::Changed(Path::resource(3, 0, 0)))).is_empty(), "another resource");
    assert_eq!(scene.on(Fact::Changed(Path::instance(3, 0))).len(), 1, "a change above is a change");
}

#[test]
fn pmin_holds_changes_back_and_pmax_speaks_without_any() {
    let mut scene = Scene::registered();
    scene.observe_battery("pmin=10&pmax=60");
    assert!(scene.battery(49).is_empty() && scene.battery(48).is_empty());
    assert!(scene.later(9).is_empty());
    assert_eq!(texts(&scene.later(1)), ["48"], "the newest value, once");
    assert!(scene.later(59).is_empty());
    assert_eq!(texts(&scene.later(1)), ["48"], "pmax after the last notification");
}

#[test]
fn gt_and_lt_notify_crossings_and_st_steps() {
    let mut scene = Scene::registered();
    scene.observe_battery("gt=80&lt=20");
    for (level, notified) in [
        (60, false),
        (80, false),
        (81, true),
        (95, false),
        (80, true),
        (30, false),
        (19, true),
        (10, false),
        (20, true),
    ] {
        assert_eq!(!scene.battery(level).is_empty(), notified, "{level}");
    }
    let mut scene = Scene::registered();
    scene.observe_battery("st=5");
    for (level, notified) in [(52, false), (54, false), (55, true), (51, false), (50, true), (46, false), (44, true)] {
        assert_eq!(!scene.battery(level).is_empty(), notified, "{level}");
    }
}

#[test]
fn attributes_are_inherited_from_above_and_unset_by_an_empty_value() {
    let mut scene = Scene::registered();
    assert_eq!(scene.code(Message::new(Code::PUT).path("/3").query("pmin=10")), Code::CHANGED);
    scene.observe_battery("");
    assert!(scene.battery(49).is_empty(), "pmin of the object holds");
    let (_, steps) = scene.ask(Message::new(Code::PUT).path("/3").query("pmin="));
    assert_eq!(texts(&all_sent(&steps)), ["49"], "what was held back goes out");
}

#[test]
fn a_cancelled_observation_is_silent_and_a_failing_one_says_why_and_ends() {
    let mut scene = Scene::registered();
    scene.observe_battery("");
    let cancel = get("/3/0/9").accept(ContentFormat::TEXT).with_uint(OptionNumber::OBSERVE, 1);
    // The same token names the observation to end.
    scene.token -= 1;
    assert_eq!(scene.code(cancel), Code::CONTENT);
    assert!(scene.battery(10).is_empty());

    scene.observe_battery("");
    scene.device.broken = true;
    let codes: Vec<_> = scene.battery(9).iter().map(|message| message.code).collect();
    assert_eq!(codes, [Code::INTERNAL_SERVER_ERROR]);
    scene.device.broken = false;
    assert!(scene.battery(8).is_empty());
}

#[test]
fn an_observation_of_what_cannot_be_read_any_more_is_cancelled_all_the_same() {
    let mut scene = Scene::registered();
    scene.observe_battery("");
    let token = Token::from(scene.token);
    scene.device.broken = true;
    let cancel = Message::new(Code::GET).path("/3/0/9").with_uint(OptionNumber::OBSERVE, 1).with_token(token);
    assert_eq!(sent(&scene.on(Fact::Received(cancel))).code, Code::INTERNAL_SERVER_ERROR);
    scene.device.broken = false;
    assert!(scene.battery(9).is_empty());
}

#[test]
fn a_new_lifetime_is_kept_and_told_to_the_server_at_once() {
    let mut scene = Scene::registered();
    let (response, steps) = scene.ask(put("/1/1/1", "60"));
    assert_eq!(response.code, Code::CHANGED);
    let Step::AccountsChanged(kept) = &steps[0] else { panic!("{steps:?}") };
    assert_eq!(kept.servers[&1].lifetime, 60);
    let update = sent(&steps);
    assert_eq!((update.code, update.uri_path().as_str(), update.query_value("lt")), (Code::POST, "/rd/7", Some("60")));
    let wakes = scene.on(Fact::Received(Message::new(Code::CHANGED).with_token(update.token)));
    assert!(wakes.iter().any(|step| matches!(step, Step::WakeAt(at) if *at <= Millis(54_000))), "{wakes:?}");
}

#[test]
fn an_account_that_cannot_be_kept_is_refused_and_the_one_of_before_stays() {
    let mut scene = Scene::registered();
    scene.device.broken = true;
    let (response, steps) = scene.ask(put("/1/1/1", "60"));
    assert_eq!(response.code, Code::INTERNAL_SERVER_ERROR);
    assert!(!steps.iter().any(|step| matches!(step, Step::AccountsChanged(_) | Step::Send(_))), "{steps:?}");
    let (read, _) = scene.ask(get("/1/1/1").accept(ContentFormat::TEXT));
    assert_eq!(read.payload, b"3600");
}

#[test]
fn a_new_binding_is_told_to_the_server_once_and_only_one_with_tcp_is_taken() {
    let mut scene = Scene::registered();
    for bad in ["", "U", "TT", "TQ", "t", "T,U"] {
        assert_eq!(scene.code(put("/1/1/7", bad)), Code::BAD_REQUEST, "{bad:?}");
    }
    let first = update(&scene.ask(put("/1/1/7", "UT")).1);
    assert_eq!((first.query_value("b"), first.query_value("lt")), (Some("UT"), None));
    scene.on(Fact::Received(Message::new(Code::CHANGED).with_token(first.token)));
    let next = update(&scene.ask(Message::new(Code::POST).path("/1/1/8")).1);
    assert_eq!(next.query_value("b"), None, "it is known now");
}

#[test]
fn the_triggers_of_the_server_object_update_disable_and_bootstrap() {
    let trigger = |resource: u16| Message::new(Code::POST).path(&format!("/1/1/{resource}"));
    let (_, steps) = Scene::registered().ask(trigger(8));
    assert_eq!(sent(&steps).uri_path(), "/rd/7");

    let mut scene = Scene::registered();
    let (_, steps) = scene.ask(trigger(4));
    let deregister = sent(&steps);
    assert_eq!((deregister.code, deregister.uri_path().as_str()), (Code::DELETE, "/rd/7"));
    let steps = scene.on(Fact::Received(Message::new(Code::DELETED).with_token(deregister.token)));
    assert_eq!(steps, [Step::Close, Step::WakeAt(Millis(86_400_000))]);

    let (_, steps) = Scene::registered().ask(trigger(9));
    let dial = Step::Dial(Target::Bootstrap);
    assert!(steps.starts_with(&[Step::Unregistered, Step::Close, dial]), "{steps:?}");
}

#[test]
fn a_registration_that_the_server_forgot_is_made_anew_on_the_same_connection() {
    let mut scene = Scene::registered();
    scene.observe_battery("");
    let (_, steps) = scene.ask(Message::new(Code::POST).path("/1/1/8"));
    let gone = Message::new(Code::NOT_FOUND).with_token(sent(&steps).token);
    let steps = scene.on(Fact::Received(gone));
    let register = sent(&steps);
    assert_eq!((register.code, register.uri_path().as_str()), (Code::POST, "/rd"));
    let links = link::parse(&register.payload).unwrap();
    let paths: Vec<_> = links.iter().filter_map(|link| link.path("/")).map(|path| path.to_string()).collect();
    assert_eq!(paths, ["/", "/1", "/1/1", "/3", "/3/0", "/5/0"]);
    scene.answer_registration(&register);
    assert!(scene.battery(1).is_empty(), "the new registration has no observations");
}

#[test]
fn a_server_in_trouble_is_asked_again_and_neither_left_nor_counted_as_a_refusal() {
    let mut scene = Scene::registered();
    let (_, steps) = scene.ask(Message::new(Code::POST).path("/1/1/8"));
    let busy = Message::new(Code::SERVICE_UNAVAILABLE).with_token(sent(&steps).token);
    let steps = scene.on(Fact::Received(busy.clone()));
    assert!(matches!(&steps[..], [Step::WakeAt(at)] if *at <= Millis(360_000)), "{steps:?}");
    assert!(scene.client.is_registered());

    // What it did not take is said again.
    let mut scene = Scene::registered();
    let (_, steps) = scene.ask(put("/1/1/1", "60"));
    let refused = update(&steps);
    assert_eq!(refused.query_value("lt"), Some("60"));
    scene.on(Fact::Received(Message::new(Code::SERVICE_UNAVAILABLE).with_token(refused.token)));
    scene.now = scene.now.plus(Duration::from_secs(30_000));
    let again = update(&scene.on(Fact::TimePassed));
    assert_eq!(again.query_value("lt"), Some("60"));
    scene.on(Fact::Received(Message::new(Code::CHANGED).with_token(again.token)));
    scene.now = scene.now.plus(Duration::from_secs(60));
    assert_eq!(update(&scene.on(Fact::TimePassed)).query_value("lt"), None, "it is known now");

    let mut scene = Scene::registered();
    scene.on(Fact::Lost);
    for _ in 0..20 {
        scene.now = scene.now.plus(Duration::from_secs(400));
        let steps = scene.on(Fact::TimePassed);
        assert!(matches!(&steps[0], Step::Dial(Target::Management { .. })), "{steps:?}");
        scene.on(Fact::Connected);
        let register = sent(&scene.on(Fact::Received(Capabilities::default().message())));
        scene.on(Fact::Received(busy.clone().with_token(register.token)));
    }
}

#[test]
fn a_server_that_releases_the_connection_is_left_alone_as_long_as_it_asks() {
    for waiting_for_an_answer in [false, true] {
        let mut scene = Scene::registered();
        if waiting_for_an_answer {
            scene.ask(Message::new(Code::POST).path("/1/1/8"));
        }
        let release = Signal::Release { alternatives: Vec::new(), hold_off: Some(500) };
        let steps = scene.on(Fact::Received(release.message()));
        assert!(steps.contains(&Step::Close) && steps.contains(&Step::Unregistered), "{steps:?}");
        assert!(steps.contains(&Step::WakeAt(Millis(500_000))), "{steps:?}");
    }
}

#[test]
fn what_changes_while_an_update_is_under_way_is_told_with_the_next() {
    let mut scene = Scene::registered();
    let first = update(&scene.ask(put("/1/1/1", "60")).1);
    let (answer, steps) = scene.ask(put("/1/1/1", "70"));
    assert_eq!(answer.code, Code::CHANGED);
    assert!(updates(&steps).is_empty(), "one at a time: {steps:?}");
    let steps = scene.on(Fact::Received(Message::new(Code::CHANGED).with_token(first.token)));
    assert_eq!(update(&steps).query_value("lt"), Some("70"));
}

#[test]
fn a_client_with_another_network_dials_at_once_unless_a_server_has_sent_it_away() {
    let management = |steps: &[Step]| steps.iter().any(|step| matches!(step, Step::Dial(Target::Management { .. })));
    let mut scene = Scene::registered();
    let steps = scene.on(Fact::DialAnew);
    assert!(steps.starts_with(&[Step::Unregistered]) && management(&steps), "{steps:?}");
    for _ in 0..9 {
        scene.on(Fact::DialFailed(DialFailure::Unreachable));
        scene.now = scene.now.plus(Duration::from_secs(400));
        scene.on(Fact::TimePassed);
    }
    scene.on(Fact::DialFailed(DialFailure::Unreachable));
    assert!(management(&scene.on(Fact::DialAnew)));
    let steps = scene.on(Fact::DialFailed(DialFailure::Unreachable));
    let soon = scene.now.plus(Duration::from_secs(2));
    assert!(steps.iter().any(|step| matches!(step, Step::WakeAt(at) if *at <= soon)), "it begins anew: {steps:?}");

    let mut scene = Scene::registered();
    let release = Signal::Release { alternatives: Vec::new(), hold_off: Some(u32::MAX) };
    let steps = scene.on(Fact::Received(release.message()));
    assert!(steps.contains(&Step::WakeAt(Millis(7 * 86_400_000))), "for a week at most: {steps:?}");
    assert_eq!(scene.on(Fact::DialAnew), []);
}

#[test]
fn clients_that_lose_their_service_at_once_come_back_spread_over_seconds() {
    let mut in_second = [0; 5];
    for seed in 0..200 {
        let mut scene = Scene::registered_with(seed);
        let steps = scene.on(Fact::Lost);
        let wakes = steps.iter().find_map(|step| if let Step::WakeAt(at) = step { Some(*at) } else { None });
        let second = usize::try_from(wakes.unwrap().since(scene.now).as_secs()).unwrap();
        in_second[second.min(4)] += 1;
    }
    assert!(in_second.iter().all(|clients| (15..=70).contains(clients)), "{in_second:?}");
}

#[test]
fn a_client_whose_goodbye_is_not_answered_leaves_all_the_same() {
    let mut scene = Scene::registered();
    scene.observe_battery("");
    scene.ask(Message::new(Code::POST).path("/1/1/4"));
    assert!(scene.battery(7).is_empty(), "whoever leaves tells nothing more");
    scene.now = scene.now.plus(Duration::from_secs(30));
    let steps = scene.on(Fact::TimePassed);
    assert!(steps.contains(&Step::Close), "{steps:?}");
}

#[test]
fn the_callers_own_requests_share_the_connection_and_fail_with_it() {
    let mut scene = Scene::registered();
    let renew = Message::new(Code::POST).path("/.well-known/est/sren").content(ContentFormat::PKCS10, vec![1; 300]);
    let request = sent(&scene.on(Fact::Request { id: 5, request: renew.clone() }));
    assert_eq!(request.uri_path(), "/.well-known/est/sren");
    let answer = Message::new(Code::CHANGED).content(ContentFormat::PKIX_CERT, vec![2; 500]).with_token(request.token);
    let steps = scene.on(Fact::Received(answer.clone()));
    assert_eq!(steps[0], Step::Answered { id: 5, result: Ok(answer) });
    scene.on(Fact::Request { id: 6, request: renew.clone() });
    let steps = scene.on(Fact::Lost);
    let lost = Err(protocol_lwm2m::coap::ExchangeError::ConnectionLost);
    assert!(steps.contains(&Step::Answered { id: 6, result: lost.clone() }), "{steps:?}");
    assert!(steps.contains(&Step::Unregistered));
    assert_eq!(scene.on(Fact::Request { id: 7, request: renew })[0], Step::Answered { id: 7, result: lost });
}
