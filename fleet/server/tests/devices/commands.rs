//! Commands of operators reach devices over real TLS: at once, or when a device wakes, and an Execute at most once whatever dies in between.

use fleet_api::{
    Command, CommandQuery, CommandValuesQuery, ExecuteResource, ObserveResource, PageQuery, ReadResource, ResourceType,
    ResourceValue, WriteResource,
};
use protocol_lwm2m::{
    client::Reading,
    coap::{Code, ContentFormat, Message, OptionNumber},
    formats::{self, Entry, Value},
    object::Path,
};
use protocol_types::{CommandState, EndpointName, Presence};

use crate::{
    clones::{register, register_with},
    device::{Device, News, Order},
    factory::Identity,
    service::{Service, until},
    wire::{Wire, enrol},
};

const NAME: &str = "gate-42";

fn name() -> EndpointName {
    EndpointName::new(NAME).unwrap()
}

async fn read(service: &Service, path: &str) -> Command {
    let wanted = ReadResource { path: path.to_owned(), deadline_s: None };
    service.admin.read_resource(&name(), &wanted, None).await.unwrap()
}

async fn execute(service: &Service, path: &str) -> Command {
    let wanted = ExecuteResource { path: path.to_owned(), arguments: String::new(), deadline_s: None };
    service.admin.execute_resource(&name(), &wanted, None).await.unwrap()
}

/// Waits until the command has ended.
async fn ended(service: &Service, command: &Command) -> Command {
    let query = CommandQuery { wait_s: Some(2) };
    until("the command ends", async || {
        let shown = service.admin.command(&name(), &command.id, &query).await.ok()?;
        shown.state.is_end().then_some(shown)
    })
    .await
}

async fn in_state(service: &Service, command: &Command, state: CommandState) {
    until("the command is there", async || {
        let shown = service.admin.command(&name(), &command.id, &CommandQuery::default()).await.ok()?;
        (shown.state == state).then_some(())
    })
    .await;
}

/// What a device answers to a question for one value.
fn content(path: Path, value: impl Into<Value>) -> Message {
    let payload = formats::encode(ContentFormat::SENML_CBOR, &path, &[Entry::new(path, value)]).unwrap();
    Message::new(Code::CONTENT).content(ContentFormat::SENML_CBOR, payload)
}

/// A device that has enrolled and is away.
async fn away(service: &Service) -> Identity {
    let factory = service.trusted_factory().await;
    enrol(service, &factory.device("default", NAME), NAME).await
}

async fn until_gone(service: &Service) {
    until("the device is gone", async || service.device(NAME).await.filter(|d| !d.device.connected)).await;
}

#[tokio::test]
async fn a_connected_device_is_read_and_written_and_says_why_not() {
    let service = Service::start().await;
    let factory = service.trusted_factory().await;
    let mut device = Device::start(&service, factory.device("default", NAME), NAME);
    device.registered().await;
    let done = ended(&service, &read(&service, "/3/0/0").await).await;
    let text =
        |path: &str, value: &str| ResourceValue { path: path.into(), kind: ResourceType::String, value: value.into() };
    assert_eq!((done.state, done.values, done.tries), (CommandState::Done, vec![text("/3/0/0", "Example Works")], 1));
    let instance = ended(&service, &read(&service, "/3/0").await).await;
    assert!(instance.values.contains(&text("/3/0/1", "Gate")), "{instance:?}");

    let refused = ended(&service, &read(&service, "/3/0/9").await).await;
    assert_eq!((refused.state, refused.reason_code.as_deref()), (CommandState::Failed, Some("coap_4_04")));
    let refused = ended(&service, &execute(&service, "/3/0/12").await).await;
    assert_eq!((refused.state, refused.reason_code.as_deref()), (CommandState::Failed, Some("coap_4_05")));

    let servers = ended(&service, &read(&service, "/1").await).await;
    let pmin = servers.values.iter().find(|value| value.path.ends_with("/2")).expect("the default minimum period");
    let wanted = WriteResource { path: pmin.path.clone(), value: "3".into(), kind: None, deadline_s: None };
    let written = service.admin.write_resource(&name(), &wanted, None).await.unwrap();
    assert_eq!(ended(&service, &written).await.state, CommandState::Done);
    let again = ended(&service, &read(&service, &pmin.path).await).await;
    assert_eq!(again.values, [ResourceValue { value: "3".into(), ..pmin.clone() }]);

    let history = service.admin.device_history(&name(), &PageQuery::default()).await.unwrap().items;
    let told: Vec<_> = history.iter().filter(|event| event.data["command"] == written.id.as_str()).collect();
    let kinds: Vec<_> = told.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["device.command_ended", "device.command_created"], "the history has the write");
}

#[tokio::test]
async fn a_sleeping_device_gets_its_command_when_it_wakes_although_the_service_was_killed_in_between() {
    let mut service = Service::start().await;
    let identity = away(&service).await;
    drop(register_with(&service, &identity, (NAME, &["Q"])).await);
    until_gone(&service).await;
    let command = read(&service, "/3/0/13").await;
    assert_eq!((command.state, command.presence), (CommandState::Waiting, Presence::Sleeping));
    assert!(command.expected_by.is_some_and(|by| by > command.created), "{command:?}");
    service.crash_and_restart().await;
    in_state(&service, &command, CommandState::Waiting).await;
    let mut wire = register_with(&service, &identity, (NAME, &["Q"])).await;
    let asked = wire.asked_for("/3/0/13").await.unwrap();
    wire.send(&content(Path::resource(3, 0, 13), Value::Time(1_800_000_000)).with_token(asked.token)).await.unwrap();
    let done = ended(&service, &command).await;
    let value = ResourceValue { path: "/3/0/13".into(), kind: ResourceType::Time, value: "1800000000".into() };
    assert_eq!((done.state, done.values), (CommandState::Done, vec![value]));
}

#[tokio::test]
async fn an_execute_whose_answer_is_lost_is_unknown_and_never_sent_again() {
    let mut service = Service::start().await;
    let identity = away(&service).await;
    // Once the device dies with it, once the service does.
    for service_dies in [false, true] {
        let mut wire = register(&service, &identity, NAME).await;
        let command = execute(&service, "/3/0/4").await;
        let asked = wire.asked_for("/3/0/4").await.unwrap();
        assert_eq!(asked.code, Code::POST);
        in_state(&service, &command, CommandState::Sent).await;
        if service_dies {
            service.crash_and_restart().await;
        }
        drop(wire);
        let unknown = ended(&service, &command).await;
        assert_eq!((unknown.state, unknown.reason_code.as_deref()), (CommandState::Unknown, Some("answer_lost")));

        let mut wire = register(&service, &identity, NAME).await;
        let question = read(&service, "/3/0/13").await;
        let asked = wire.asked_for("/3/0/13").await.unwrap();
        wire.send(&content(Path::resource(3, 0, 13), Value::Time(1)).with_token(asked.token)).await.unwrap();
        assert_eq!(ended(&service, &question).await.state, CommandState::Done);
        let twice = wire.orders.iter().filter(|order| order.uri_path() == "/3/0/4").count();
        assert_eq!(twice, 0, "the device was told again: {:?}", wire.orders);
        drop(wire);
        until_gone(&service).await;
    }
}

#[tokio::test]
async fn a_read_whose_connection_breaks_is_asked_again_and_a_command_nobody_takes_expires() {
    let service = Service::start().await;
    let identity = away(&service).await;
    let mut wire = register(&service, &identity, NAME).await;
    let command = read(&service, "/3/0/13").await;
    wire.asked_for("/3/0/13").await.unwrap();
    drop(wire);
    let mut wire = register(&service, &identity, NAME).await;
    let asked = wire.asked_for("/3/0/13").await.unwrap();
    wire.send(&content(Path::resource(3, 0, 13), Value::Time(1)).with_token(asked.token)).await.unwrap();
    let done = ended(&service, &command).await;
    assert_eq!((done.state, done.tries), (CommandState::Done, 2));
    drop(wire);
    until_gone(&service).await;

    let wanted = ExecuteResource { path: "/3/0/4".into(), arguments: String::new(), deadline_s: Some(1) };
    let short = service.admin.execute_resource(&name(), &wanted, None).await.unwrap();
    let expired = ended(&service, &short).await;
    assert_eq!((expired.state, expired.reason_code.as_deref()), (CommandState::Expired, Some("deadline")));
    let taken_back = read(&service, "/3/0/13").await;
    assert_eq!(service.admin.cancel_command(&name(), &taken_back.id).await.unwrap().state, CommandState::Cancelled);
    let mut wire = register(&service, &identity, NAME).await;
    let last = read(&service, "/3/0/16").await;
    wire.asked_for("/3/0/16").await.unwrap();
    in_state(&service, &last, CommandState::Sent).await;
    assert!(!wire.orders.iter().any(|order| ["/3/0/4", "/3/0/13"].contains(&order.uri_path().as_str())));
}

async fn observed(service: &Service, command: &Command, after: u64) -> Vec<(u64, String)> {
    let query = CommandValuesQuery { after: Some(after), wait_s: Some(2) };
    let items = until("a value comes", async || {
        let items = service.admin.observed(&name(), &command.id, &query).await.ok()?.items;
        (!items.is_empty()).then_some(items)
    })
    .await;
    items.into_iter().map(|item| (item.number, item.values[0].value.clone())).collect()
}

/// A value as a device notifies it.
fn notification(asked: &Message, sequence: u32, value: i64) -> Message {
    content(Path::resource(3, 0, 10), value).with_uint(OptionNumber::OBSERVE, sequence).with_token(asked.token)
}

async fn observation(wire: &mut Wire) -> Message {
    let asked = wire.asked_for("/3/0/10").await.unwrap();
    assert_eq!((asked.code, asked.options.uint(OptionNumber::OBSERVE)), (Code::GET, Some(0)));
    asked
}

#[tokio::test]
async fn what_is_observed_comes_as_it_changes_over_connections_until_it_is_ended() {
    let service = Service::start().await;
    let identity = away(&service).await;
    let mut wire = register(&service, &identity, NAME).await;
    let wanted = ObserveResource { path: "/3/0/10".into(), duration_s: Some(600) };
    let command = service.admin.observe_resource(&name(), &wanted, None).await.unwrap();
    let asked = observation(&mut wire).await;
    wire.send(&notification(&asked, 0, 100)).await.unwrap();
    assert_eq!(observed(&service, &command, 0).await, [(1, "100".to_owned())]);
    wire.send(&notification(&asked, 1, 90)).await.unwrap();
    assert_eq!(observed(&service, &command, 1).await, [(2, "90".to_owned())]);
    in_state(&service, &command, CommandState::Active).await;

    drop(wire);
    let mut wire = register(&service, &identity, NAME).await;
    let asked = observation(&mut wire).await;
    wire.send(&notification(&asked, 0, 80)).await.unwrap();
    assert_eq!(observed(&service, &command, 2).await, [(3, "80".to_owned())]);
    in_state(&service, &command, CommandState::Active).await;

    service.admin.cancel_command(&name(), &command.id).await.unwrap();
    let end = wire.asked_for("/3/0/10").await.unwrap();
    assert_eq!(end.options.uint(OptionNumber::OBSERVE), Some(1), "the device hears that nobody watches");
    assert_eq!(ended(&service, &command).await.state, CommandState::Cancelled);
}

#[tokio::test]
async fn an_execute_reaches_a_device_that_is_there_once() {
    let service = Service::start().await;
    let factory = service.trusted_factory().await;
    let mut device = Device::start(&service, factory.device("default", NAME), NAME);
    device.registered().await;
    let done = ended(&service, &execute(&service, "/3/0/4").await).await;
    assert_eq!(done.state, CommandState::Done);
    device.hear("a restart", |news| (*news == News::Restart).then_some(())).await;
    // What comes after it shows that nothing else did.
    device.order(Order::Set(11, Reading::from("b"))).await;
    assert_eq!(ended(&service, &read(&service, "/3/0/0").await).await.state, CommandState::Done);
    assert!(device.passed().iter().all(|news| *news != News::Restart), "it restarts twice");
}
