//! Claims about commands on both databases: kept until they have ended, in order, and an Execute never given twice.

use protocol_types::{CommandKind, CommandState, Digest, EndpointName, UnixSeconds};

use crate::{
    AccountScope, CommandRow, Delivered, EnrolmentRule, FactoryIdentity, MAX_OBSERVATIONS, MAX_OPEN_COMMANDS,
    MAX_TRIES, MAX_VALUES, NewAuthority, NewCommand, RequestKey, StoreError,
    tests::{Database, NOW},
};

/// The connections of the device, one after the other.
const FIRST: u64 = 7;
const SECOND: u64 = 8;

fn name(text: &str) -> EndpointName {
    EndpointName::new(text).unwrap()
}

fn later(seconds: u64) -> UnixSeconds {
    UnixSeconds(NOW.0 + seconds)
}

async fn with_device(db: &Database) -> AccountScope {
    let account = db.account("one").await;
    let authority = NewAuthority {
        name: "factory".into(),
        subject: "CN=factory".into(),
        fingerprint: "00".repeat(32),
        certificate: vec![0x30, 0x00],
        not_after: NOW,
    };
    let ca = account.add_authority(&authority, None, NOW).await.unwrap().id;
    for endpoint in ["gate-1", "gate-2"] {
        let endpoint = name(endpoint);
        account.add_enrolment(&EnrolmentRule::new(Some(endpoint.clone()), None).unwrap(), NOW).await.unwrap();
        let shown = FactoryIdentity { endpoint: &endpoint, authority: &ca, serial: "f0", fingerprint: &[0; 32] };
        account.admit(shown, NOW).await.unwrap().unwrap();
    }
    account
}

const fn wanted(kind: CommandKind, path: &str) -> NewCommand<'_> {
    NewCommand { kind, path, argument: None, deadline: UnixSeconds(NOW.0 + 600) }
}

async fn ask(account: &AccountScope, kind: CommandKind, path: &str) -> CommandRow {
    account.create_command(&name("gate-1"), &wanted(kind, path), None, NOW).await.unwrap()
}

async fn begin(account: &AccountScope, session: u64) -> Option<CommandRow> {
    account.begin_command(&name("gate-1"), session, NOW).await.unwrap()
}

async fn state(account: &AccountScope, number: u64) -> CommandState {
    account.command(&name("gate-1"), number).await.unwrap().state
}

#[tokio::test]
async fn commands_reach_their_device_in_order_and_one_is_not_given_twice() {
    let db = Database::new().await;
    let account = with_device(&db).await;
    let (first, second) =
        (ask(&account, CommandKind::Read, "/3/0").await, ask(&account, CommandKind::Execute, "/3/0/4").await);
    assert_eq!((first.id().as_str(), second.id().as_str(), first.state), ("c-1", "c-2", CommandState::Waiting));
    assert_eq!(account.begin_command(&name("gate-2"), SECOND, NOW).await.unwrap(), None, "another device");
    let sent = begin(&account, FIRST).await.unwrap();
    assert_eq!((sent.number, sent.state, sent.tries, sent.sent), (1, CommandState::Sent, 1, Some(NOW)));
    assert_eq!(begin(&account, FIRST).await.unwrap().number, 2);
    assert_eq!(begin(&account, FIRST).await, None, "both are under way");
    assert!(!account.command_moved((1, SECOND), &Delivered::Done(None), NOW).await.unwrap(), "another connection's");
    assert!(account.command_moved((1, FIRST), &Delivered::Done(Some("[1]".into())), later(1)).await.unwrap());
    let done = account.command(&name("gate-1"), 1).await.unwrap();
    assert_eq!((done.state, done.result.as_deref(), done.ended), (CommandState::Done, Some("[1]"), Some(later(1))));
    let failed = Delivered::Failed("coap_4_05".into(), "the device answered 4.05".into());
    assert!(account.command_moved((2, FIRST), &failed, NOW).await.unwrap());
    assert!(!account.command_moved((2, FIRST), &Delivered::Done(None), NOW).await.unwrap(), "it has ended");
    let failed = account.command(&name("gate-1"), 2).await.unwrap();
    assert_eq!((failed.state, failed.reason.unwrap().0.as_str()), (CommandState::Failed, "coap_4_05"));
    let numbers = |rows: Vec<CommandRow>| rows.iter().map(|row| row.number).collect::<Vec<_>>();
    assert_eq!(numbers(account.commands_before(&name("gate-1"), None, 10).await.unwrap()), [2, 1]);
    assert_eq!(numbers(account.commands_before(&name("gate-1"), Some(2), 10).await.unwrap()), [1]);
    assert!(account.commands_before(&name("gate-2"), None, 10).await.unwrap().is_empty());
    assert!(matches!(account.command(&name("gate-2"), 1).await, Err(StoreError::NotFound { .. })));
    let two = db.account("two").await;
    assert!(matches!(two.command(&name("gate-1"), 1).await, Err(StoreError::NotFound { .. })));
}

#[tokio::test]
async fn after_a_crash_an_execute_that_may_have_arrived_is_unknown_and_the_rest_is_sent_again() {
    let db = Database::new().await;
    let account = with_device(&db).await;
    let kinds = [CommandKind::Read, CommandKind::Write, CommandKind::Execute, CommandKind::Execute];
    for kind in kinds {
        ask(&account, kind, "/3/0/4").await;
    }
    for _ in 0..3 {
        begin(&account, FIRST).await.unwrap();
    }
    let db = db.reopen().await;
    assert_eq!(db.store.service_wide().commands_cut_off(later(5)).await.unwrap(), 3);
    assert_eq!(db.store.service_wide().commands_cut_off(later(5)).await.unwrap(), 0, "once is enough");
    let account = db.account("one").await;
    let states = [1, 2, 3, 4].map(|number| state(&account, number));
    let [read, write, heard, unheard] = states;
    assert_eq!(
        (read.await, write.await, heard.await, unheard.await),
        (CommandState::Waiting, CommandState::Waiting, CommandState::Unknown, CommandState::Waiting)
    );
    let lost = account.command(&name("gate-1"), 3).await.unwrap();
    assert_eq!((lost.reason.unwrap().0.as_str(), lost.ended), ("answer_lost", Some(later(5))));
    let mut again = Vec::new();
    while let Some(row) = begin(&account, SECOND).await {
        again.push(row.number);
        account.command_moved((row.number, SECOND), &Delivered::Done(None), NOW).await.unwrap();
    }
    assert_eq!(again, [1, 2, 4], "what was heard of as an Execute is not among them");
}

#[tokio::test]
async fn a_device_that_registers_anew_gets_what_was_cut_off_and_not_its_execute() {
    let db = Database::new().await;
    let account = with_device(&db).await;
    ask(&account, CommandKind::Write, "/1/0/2").await;
    ask(&account, CommandKind::Execute, "/3/0/4").await;
    begin(&account, FIRST).await.unwrap();
    begin(&account, FIRST).await.unwrap();
    assert_eq!(account.commands_cut_off(&name("gate-2"), NOW).await.unwrap(), 0);
    assert_eq!(account.commands_cut_off(&name("gate-1"), NOW).await.unwrap(), 2);
    assert_eq!((state(&account, 1).await, state(&account, 2).await), (CommandState::Waiting, CommandState::Unknown));
    // The old connection's answer comes after all: it is nobody's.
    assert!(!account.command_moved((1, FIRST), &Delivered::Done(None), NOW).await.unwrap());
    assert_eq!(begin(&account, SECOND).await.unwrap().number, 1);
    assert!(account.command_moved((1, SECOND), &Delivered::Done(None), NOW).await.unwrap());
}

#[tokio::test]
async fn a_question_without_an_answer_is_given_up_after_some_tries_and_what_was_never_sent_is_not_lost() {
    let db = Database::new().await;
    let account = with_device(&db).await;
    ask(&account, CommandKind::Read, "/3/0").await;
    for tries in 1..=MAX_TRIES {
        assert_eq!(begin(&account, FIRST).await.unwrap().tries, tries);
        account.command_moved((1, FIRST), &Delivered::NoAnswer, NOW).await.unwrap();
    }
    let given_up = account.command(&name("gate-1"), 1).await.unwrap();
    assert_eq!((given_up.state, given_up.reason.unwrap().0.as_str()), (CommandState::Failed, "no_answer"));
    ask(&account, CommandKind::Execute, "/3/0/4").await;
    begin(&account, FIRST).await.unwrap();
    account.command_moved((2, FIRST), &Delivered::NotSent, NOW).await.unwrap();
    assert_eq!(begin(&account, FIRST).await.unwrap().number, 2, "the device has not heard of it");
    account.command_moved((2, FIRST), &Delivered::NoAnswer, NOW).await.unwrap();
    assert_eq!(state(&account, 2).await, CommandState::Unknown);
}

#[tokio::test]
async fn a_command_that_no_device_took_expires_at_its_deadline_and_no_second_earlier() {
    let db = Database::new().await;
    let account = with_device(&db).await;
    ask(&account, CommandKind::Write, "/1/0/2").await;
    let all = db.store.service_wide();
    assert_eq!(all.end_overdue_commands(10, later(599)).await.unwrap(), 0);
    assert_eq!(account.begin_command(&name("gate-1"), FIRST, later(600)).await.unwrap(), None, "it is too late");
    assert_eq!(all.end_overdue_commands(10, later(600)).await.unwrap(), 1);
    assert_eq!(all.end_overdue_commands(10, later(601)).await.unwrap(), 0);
    let expired = account.command(&name("gate-1"), 1).await.unwrap();
    assert_eq!((expired.state, expired.reason.unwrap().0.as_str()), (CommandState::Expired, "deadline"));
    // The answer to what was sent in time counts, also after the deadline.
    ask(&account, CommandKind::Read, "/3/0").await;
    begin(&account, FIRST).await.unwrap();
    assert_eq!(all.end_overdue_commands(10, later(660)).await.unwrap(), 0);
    assert!(account.command_moved((2, FIRST), &Delivered::Done(None), later(661)).await.unwrap());
    // Nobody waits for ever.
    for kind in [CommandKind::Read, CommandKind::Execute] {
        ask(&account, kind, "/3/0/4").await;
        begin(&account, FIRST).await.unwrap();
    }
    assert_eq!(all.end_overdue_commands(10, later(2000)).await.unwrap(), 2);
    assert_eq!((state(&account, 3).await, state(&account, 4).await), (CommandState::Expired, CommandState::Unknown));
    assert_eq!(all.forget_commands(later(661), 10).await.unwrap(), 1);
    assert_eq!(ask(&account, CommandKind::Read, "/3/0").await.number, 5, "no number is given twice");
}

#[tokio::test]
async fn what_a_device_has_not_heard_of_is_taken_back_and_what_was_sent_is_not() {
    let db = Database::new().await;
    let account = with_device(&db).await;
    let gate = name("gate-1");
    ask(&account, CommandKind::Execute, "/3/0/4").await;
    ask(&account, CommandKind::Execute, "/3/0/4").await;
    begin(&account, FIRST).await.unwrap();
    let refused = account.cancel_command(&gate, 1, NOW).await.unwrap_err();
    assert_eq!(refused.to_string(), "command `c-1` is sent");
    let cancelled = account.cancel_command(&gate, 2, NOW).await.unwrap();
    assert_eq!(cancelled.state, CommandState::Cancelled);
    assert_eq!(account.cancel_command(&gate, 2, NOW).await.unwrap(), cancelled, "a second time changes nothing");
    assert_eq!(begin(&account, FIRST).await, None);
    assert!(matches!(account.cancel_command(&name("gate-2"), 2, NOW).await, Err(StoreError::NotFound { .. })));
}

#[tokio::test]
async fn a_device_has_so_many_open_commands_and_only_one_that_takes_part_is_asked() {
    let db = Database::new().await;
    let account = with_device(&db).await;
    for _ in 0..MAX_OPEN_COMMANDS {
        ask(&account, CommandKind::Read, "/3/0").await;
    }
    let gate = name("gate-1");
    let read = wanted(CommandKind::Read, "/3/0");
    let refused = account.create_command(&gate, &read, None, NOW).await.unwrap_err();
    assert!(matches!(refused, StoreError::TooMany { most: MAX_OPEN_COMMANDS, .. }), "{refused}");
    account.cancel_command(&gate, 1, NOW).await.unwrap();
    account.create_command(&gate, &read, None, NOW).await.unwrap();
    account.suspend_device(&name("gate-2"), "", NOW).await.unwrap();
    let refused = account.create_command(&name("gate-2"), &read, None, NOW).await.unwrap_err();
    assert_eq!(refused.to_string(), "device `gate-2` is suspended");
    assert!(matches!(
        account.create_command(&name("gate-9"), &read, None, NOW).await,
        Err(StoreError::NotFound { .. })
    ));
    let key = RequestKey { key: "k".into(), request: Digest::of(b"request") };
    account.cancel_command(&gate, 2, NOW).await.unwrap();
    let first = account.create_command(&gate, &read, Some(&key), NOW).await.unwrap();
    assert_eq!(account.create_command(&gate, &read, Some(&key), NOW).await.unwrap(), first);
    account.delete_device(&gate, NOW).await.unwrap();
    assert!(matches!(account.command(&gate, first.number).await, Err(StoreError::NotFound { .. })), "gone with it");
}

#[tokio::test]
async fn writes_and_executes_are_told_in_the_history_without_their_value() {
    let db = Database::new().await;
    let account = with_device(&db).await;
    let start = account.last_event().await.unwrap();
    let secret = NewCommand { argument: Some("hunter2"), ..wanted(CommandKind::Write, "/1/0/2") };
    account.create_command(&name("gate-1"), &secret, None, NOW).await.unwrap();
    ask(&account, CommandKind::Read, "/3/0").await;
    begin(&account, FIRST).await.unwrap();
    account.command_moved((1, FIRST), &Delivered::Done(None), NOW).await.unwrap();
    let told = account.device_history(&name("gate-1"), None, 10).await.unwrap();
    let told: Vec<_> = told.iter().filter(|event| event.id > start).collect();
    let kinds: Vec<_> = told.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["device.command_ended", "device.command_created"]);
    assert_eq!(told[0].data["state"], "done");
    assert_eq!((&told[1].data["command"], &told[1].data["path"]), (&"c-1".into(), &"/1/0/2".into()));
    assert!(!format!("{told:?}").contains("hunter2"));
}

#[tokio::test]
async fn an_observation_keeps_the_newest_values_over_connections_and_ends_well_at_its_time() {
    let db = Database::new().await;
    let account = with_device(&db).await;
    let gate = name("gate-1");
    ask(&account, CommandKind::Observe, "/3/0/13").await;
    let again = account.create_command(&gate, &wanted(CommandKind::Observe, "/3/0/13"), None, NOW).await.unwrap_err();
    assert!(matches!(again, StoreError::Exists { kind: "observation", .. }), "{again}");
    for path in 1..MAX_OBSERVATIONS {
        ask(&account, CommandKind::Observe, &format!("/3/0/{path}")).await;
    }
    let refused = account.create_command(&gate, &wanted(CommandKind::Observe, "/4/0"), None, NOW).await.unwrap_err();
    assert!(matches!(refused, StoreError::TooMany { most: MAX_OBSERVATIONS, .. }), "{refused}");

    begin(&account, FIRST).await.unwrap();
    assert!(account.observed((1, FIRST), "[0]", NOW).await.unwrap());
    assert!(account.command_moved((1, FIRST), &Delivered::Taken(Some("[0]".into())), NOW).await.unwrap());
    assert!(account.goes_on((1, FIRST)).await.unwrap());
    for round in 0..MAX_VALUES + 4 {
        assert!(account.observed((1, FIRST), &format!("[{round}]"), later(round)).await.unwrap());
    }
    let kept = account.observed_after(1, 0, 1000).await.unwrap();
    let last = kept.last().unwrap();
    assert_eq!((kept.len() as u64, kept[0].number, last.number), (MAX_VALUES, 6, MAX_VALUES + 5));
    assert_eq!(last.value, format!("[{}]", MAX_VALUES + 3));
    assert_eq!(account.observed_after(1, last.number, 10).await.unwrap(), []);
    let two = db.account("two").await;
    assert_eq!(two.observed_after(1, 0, 10).await.unwrap(), []);

    // Over however many connections; what an old one brings is nobody's.
    for session in 20..40 {
        account.commands_cut_off(&gate, NOW).await.unwrap();
        assert_eq!(begin(&account, session).await.unwrap().number, 1);
        account.command_moved((1, session), &Delivered::Taken(Some("[]".into())), NOW).await.unwrap();
    }
    assert!(!account.observed((1, FIRST), "[]", NOW).await.unwrap());
    assert_eq!(db.store.service_wide().end_overdue_commands(10, later(600)).await.unwrap(), 4);
    assert_eq!((state(&account, 1).await, state(&account, 2).await), (CommandState::Done, CommandState::Expired));
    assert!(!account.goes_on((1, 39)).await.unwrap());
}
