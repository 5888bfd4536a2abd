//! Claims about long operations on both databases: each row once, whatever is cut off, and nothing left of a refused one.

use protocol_types::{Digest, EndpointName, OperationState, ReasonCode, RowOutcome, Standing, UnixSeconds};

use crate::{
    AccountScope, AttributeValue, DeviceChange, DeviceEdit, FactoryIdentity, Fingerprint, GroupChange, LineFault,
    ListBatch, ListLine, ListedCertificate, MAX_OPEN_OPERATIONS, MAX_TAGS, NewAuthority, OperationRequest, RequestKey,
    StoreError, Verdict,
    tests::{Database, NOW},
};

fn name(text: &str) -> EndpointName {
    EndpointName::new(text).unwrap()
}

fn listed(n: u8, endpoint: Option<&str>) -> ListedCertificate {
    ListedCertificate { fingerprint: [n; 32], endpoint: endpoint.map(name), labels: DeviceChange::default() }
}

fn lines(listed: impl IntoIterator<Item = ListedCertificate>) -> Vec<ListLine> {
    (2..).zip(listed).map(|(line, listed)| ListLine { line, read: Ok(listed) }).collect()
}

async fn begin_list(account: &AccountScope) -> u64 {
    let request = OperationRequest::EnrolList { file: "list".into() };
    account.create_operation(&request, None, None, NOW).await.unwrap().number
}

/// A list that comes in one piece.
async fn enrol(account: &AccountScope, lines: &[ListLine]) -> u64 {
    let number = begin_list(account).await;
    let batch = ListBatch { at: "", lines, next: "end", is_end: true };
    assert!(!account.enrol_listed(number, &batch, NOW).await.unwrap());
    number
}

async fn outcomes(account: &AccountScope, number: u64) -> Vec<(u64, &'static str, Option<String>)> {
    let rows = account.operation_rows_after(number, None, 0, 1000).await.unwrap();
    rows.into_iter().map(|row| (row.line, row.outcome.as_str(), row.code)).collect()
}

async fn authority(account: &AccountScope) -> String {
    let authority = NewAuthority {
        name: "factory".into(),
        subject: "CN=factory".into(),
        fingerprint: "00".repeat(32),
        certificate: vec![0x30, 0x00],
        not_after: NOW,
    };
    account.add_authority(&authority, None, NOW).await.unwrap().id
}

async fn admit(account: &AccountScope, endpoint: &str, authority: &str, fingerprint: &Fingerprint) -> Verdict {
    let endpoint = name(endpoint);
    let shown = FactoryIdentity { endpoint: &endpoint, authority, serial: "f0", fingerprint };
    account.admit(shown, NOW).await.unwrap()
}

/// An account with devices `gate-00`, `gate-01` and so on.
async fn with_devices(db: &Database, count: u8) -> AccountScope {
    let account = db.account("one").await;
    let ca = authority(&account).await;
    enrol(&account, &lines((0..count).map(|n| listed(n, None)))).await;
    for n in 0..count {
        admit(&account, &format!("gate-{n:02}"), &ca, &[n; 32]).await.unwrap();
    }
    account
}

async fn begin_edit(account: &AccountScope, filter: &str, edit: DeviceEdit) -> u64 {
    let request = OperationRequest::EditDevices { filter: filter.parse().unwrap(), edit: Box::new(edit) };
    account.create_operation(&request, None, None, NOW).await.unwrap().number
}

fn tagged(tag: &str) -> DeviceEdit {
    DeviceEdit::Change(DeviceChange { add_tags: vec![tag.to_owned()], ..DeviceChange::default() })
}

#[tokio::test]
async fn a_list_that_is_cut_off_between_any_two_pieces_lists_each_line_once() {
    let db = Database::new().await;
    let account = db.account("one").await;
    let number = begin_list(&account).await;
    let mut all = lines((0..5).map(|n| listed(n, None)));
    all.push(ListLine { line: 7, read: Err(LineFault::Malformed) });
    let first = ListBatch { at: "", lines: &all[..3], next: "3", is_end: false };
    assert!(account.enrol_listed(number, &first, NOW).await.unwrap());
    // A piece that was written but not heard of comes again, also after a crash.
    let db = db.reopen().await;
    let account = db.account("one").await;
    assert!(account.enrol_listed(number, &first, NOW).await.unwrap());
    let open = db.store.service_wide().open_operations().await.unwrap();
    assert_eq!((open[0].1.position.as_str(), open[0].1.rows()), ("3", 3));
    let rest = ListBatch { at: "3", lines: &all[3..], next: "6", is_end: true };
    assert!(!account.enrol_listed(number, &rest, UnixSeconds(NOW.0 + 9)).await.unwrap());
    assert!(!account.enrol_listed(number, &rest, NOW).await.unwrap(), "what has ended stays so");
    let ended = account.operation(number).await.unwrap();
    assert_eq!((ended.state, ended.done, ended.refused, ended.total), (OperationState::Finished, 5, 1, Some(6)));
    assert_eq!((ended.started, ended.ended), (Some(NOW), Some(UnixSeconds(NOW.0 + 9))));
    assert_eq!(account.listed_certificates_after(None, 100).await.unwrap().len(), 5);
    assert_eq!(account.listed_certificates_after(Some(&[2; 32]), 100).await.unwrap().len(), 2);
    let refused = account.operation_rows_after(number, Some(RowOutcome::Refused), 0, 10).await.unwrap();
    assert_eq!((refused.len(), refused[0].line, refused[0].code.as_deref()), (1, 7, Some("malformed_line")));
    assert!(db.store.service_wide().open_operations().await.unwrap().is_empty());
}

#[tokio::test]
async fn the_same_list_again_changes_nothing_and_another_name_for_a_certificate_is_refused() {
    let db = Database::new().await;
    let account = db.account("one").await;
    let labels = DeviceChange { add_tags: vec!["lab".into()], ..DeviceChange::default() };
    let with_labels = ListedCertificate { labels, ..listed(2, Some("gate-2")) };
    let list = lines([listed(1, Some("gate-1")), with_labels, listed(1, Some("gate-1"))]);
    let number = enrol(&account, &list).await;
    assert_eq!(outcomes(&account, number).await, [(2, "done", None), (3, "done", None), (4, "unchanged", None)]);
    let number = enrol(&account, &list).await;
    assert_eq!(account.operation(number).await.unwrap().unchanged, 3);
    let other = lines([listed(1, Some("gate-9")), listed(2, Some("gate-2"))]);
    let number = enrol(&account, &other).await;
    let code = Some("listed_for_another_endpoint".to_owned());
    assert_eq!(outcomes(&account, number).await, [(2, "refused", code), (3, "done", None)]);
    let kept = account.listed_certificate(&[1; 32]).await.unwrap();
    assert_eq!(kept.listed, listed(1, Some("gate-1")));
    assert_eq!(account.listed_certificate(&[2; 32]).await.unwrap().listed.labels, DeviceChange::default());
    account.delete_listed_certificate(&[1; 32], NOW).await.unwrap();
    let gone = account.delete_listed_certificate(&[1; 32], NOW).await.unwrap_err();
    assert!(matches!(gone, StoreError::NotFound { kind: "listed certificate", .. }), "{gone}");
}

#[tokio::test]
async fn a_listed_certificate_lets_its_device_alone_join_and_gives_it_its_labels() {
    let db = Database::new().await;
    let (one, two) = (db.account("one").await, db.account("two").await);
    let ca = authority(&one).await;
    authority(&two).await;
    let labels = DeviceChange {
        add_tags: vec!["lab".into()],
        attributes: vec![("rack".into(), Some(AttributeValue::Number(7.0)))],
        ..DeviceChange::default()
    };
    enrol(&one, &lines([ListedCertificate { labels, ..listed(1, Some("gate-1")) }, listed(2, None)])).await;
    assert_eq!(admit(&one, "gate-9", &ca, &[1; 32]).await, Err(ReasonCode::NotEnrolled), "listed for another name");
    assert_eq!(admit(&one, "gate-1", &ca, &[3; 32]).await, Err(ReasonCode::NotEnrolled), "not listed");
    assert_eq!(admit(&two, "gate-1", &ca, &[1; 32]).await, Err(ReasonCode::NotEnrolled), "listed in another account");
    assert_eq!(admit(&one, "gate-1", &ca, &[1; 32]).await, Ok(Standing::Active));
    assert_eq!(admit(&one, "gate-2", &ca, &[2; 32]).await, Ok(Standing::Active));
    let labels = one.labels(&[name("gate-1")]).await.unwrap().remove(&name("gate-1")).unwrap();
    assert_eq!((labels.tags, labels.attributes["rack"].clone()), (vec!["lab".into()], AttributeValue::Number(7.0)));
    assert_eq!(one.listed_certificate(&[1; 32]).await.unwrap().joined, Some(NOW));

    // What operators have changed since stays when it comes again.
    let bare = DeviceChange { remove_tags: vec!["lab".into()], ..DeviceChange::default() };
    one.change_device(&name("gate-1"), &bare, None, NOW).await.unwrap();
    admit(&one, "gate-1", &ca, &[1; 32]).await.unwrap();
    assert!(one.labels(&[name("gate-1")]).await.unwrap()[&name("gate-1")].tags.is_empty());

    one.revoke_authority(&ca, NOW).await.unwrap();
    assert_eq!(admit(&one, "gate-2", &ca, &[2; 32]).await, Err(ReasonCode::NotEnrolled), "its authority is revoked");
}

#[tokio::test]
async fn an_edit_that_makes_its_own_filter_false_reaches_each_device_once() {
    let db = Database::new().await;
    with_devices(&db, 8).await;
    let account = db.account("one").await;
    account
        .change_device(
            &name("gate-03"),
            &DeviceChange { add_tags: vec!["x".into()], ..DeviceChange::default() },
            None,
            NOW,
        )
        .await
        .unwrap();
    let number = begin_edit(&account, "not tag = \"x\"", tagged("x")).await;
    assert!(account.edit_devices(number, 3, NOW).await.unwrap());
    let db = db.reopen().await;
    let account = db.account("one").await;
    while account.edit_devices(number, 3, NOW).await.unwrap() {}
    let ended = account.operation(number).await.unwrap();
    assert_eq!((ended.state, ended.done, ended.total), (OperationState::Finished, 7, Some(7)));
    for n in 0..8 {
        let row = account.device(&name(&format!("gate-{n:02}"))).await.unwrap();
        assert_eq!(row.revision, 2, "{} was changed once", row.endpoint);
    }
    let subjects = account.operation_rows_after(number, None, 0, 100).await.unwrap();
    let subjects: Vec<_> = subjects.iter().map(|row| (row.line, row.subject.as_deref().unwrap())).collect();
    assert_eq!(subjects[2..4], [(3, "gate-02"), (4, "gate-04")]);
}

#[tokio::test]
async fn a_device_that_an_edit_would_overload_is_refused_and_left_as_it_was() {
    let db = Database::new().await;
    let account = with_devices(&db, 2).await;
    let full = (0..MAX_TAGS).map(|n| format!("t{n}")).collect();
    account
        .change_device(&name("gate-00"), &DeviceChange { add_tags: full, ..DeviceChange::default() }, None, NOW)
        .await
        .unwrap();
    let before = account.device(&name("gate-00")).await.unwrap();
    let events = account.last_event().await.unwrap();
    let number = begin_edit(&account, "", tagged("more")).await;
    assert!(!account.edit_devices(number, 10, NOW).await.unwrap());
    let code = Some("too_many".to_owned());
    assert_eq!(outcomes(&account, number).await, [(1, "refused", code), (2, "done", None)]);
    assert_eq!(account.device(&name("gate-00")).await.unwrap(), before);
    let told = account.events_after(events, 100).await.unwrap();
    let about: Vec<_> = told.iter().map(|event| event.subject.as_str()).collect();
    assert_eq!(
        about,
        ["operations/op-2", "devices/gate-01", "operations/op-2"],
        "nothing is told of what was not done"
    );
}

#[tokio::test]
async fn standings_and_memberships_are_edited_and_what_is_so_already_is_unchanged() {
    let db = Database::new().await;
    let account = with_devices(&db, 3).await;
    account.suspend_device(&name("gate-01"), "", NOW).await.unwrap();
    let run = async |filter: &str, edit| {
        let number = begin_edit(&account, filter, edit).await;
        while account.edit_devices(number, 2, NOW).await.unwrap() {}
        let ended = account.operation(number).await.unwrap();
        (ended.state, ended.done, ended.unchanged)
    };
    assert_eq!(run("", DeviceEdit::Suspend("sold".into())).await, (OperationState::Finished, 2, 1));
    assert_eq!(account.device(&name("gate-00")).await.unwrap().standing_reason.as_deref(), Some("sold"));
    assert_eq!(run("name != \"gate-02\"", DeviceEdit::Resume).await, (OperationState::Finished, 2, 0));
    let group: protocol_types::GroupName = "north".parse().unwrap();
    let first = GroupChange { add: vec![name("gate-00")], ..GroupChange::default() };
    account.create_group(&group, &first, None, NOW).await.unwrap();
    assert_eq!(run("", DeviceEdit::AddToGroup(group.clone())).await, (OperationState::Finished, 2, 1));
    assert_eq!(account.group_members_after(&group, "", 10).await.unwrap().len(), 3);
    let out = DeviceEdit::RemoveFromGroup(group.clone());
    assert_eq!(run("standing = suspended", out.clone()).await, (OperationState::Finished, 1, 0));
    let number = begin_edit(&account, "", out).await;
    account.delete_group(&group, None, NOW).await.unwrap();
    assert!(!account.edit_devices(number, 2, NOW).await.unwrap());
    let failed = account.operation(number).await.unwrap();
    assert_eq!((failed.state, failed.reason.unwrap().0.as_str()), (OperationState::Failed, "not_found"));
}

#[tokio::test]
async fn a_cancelled_operation_goes_no_further_and_one_that_has_ended_is_not_cancelled() {
    let db = Database::new().await;
    let account = with_devices(&db, 3).await;
    let number = begin_edit(&account, "", tagged("x")).await;
    assert!(account.edit_devices(number, 1, NOW).await.unwrap());
    let cancelled = account.cancel_operation(number, NOW).await.unwrap();
    assert_eq!((cancelled.state, cancelled.done), (OperationState::Cancelled, 1));
    assert!(!account.edit_devices(number, 1, NOW).await.unwrap());
    assert_eq!(account.cancel_operation(number, NOW).await.unwrap(), cancelled, "a second time changes nothing");
    assert!(account.labels(&[name("gate-01")]).await.unwrap().is_empty());
    let refused = account.cancel_operation(1, NOW).await.unwrap_err();
    assert!(matches!(refused, StoreError::WrongState { kind: "operation", .. }), "{refused}");
    let two = db.account("two").await;
    let foreign = two.cancel_operation(number, NOW).await.unwrap_err();
    assert!(matches!(foreign, StoreError::NotFound { kind: "operation", .. }), "{foreign}");
}

#[tokio::test]
async fn a_repeated_request_finds_the_operation_that_the_first_one_began() {
    let db = Database::new().await;
    let account = db.account("one").await;
    let key = RequestKey { key: "k".into(), request: Digest::of(b"request") };
    let request = OperationRequest::EnrolList { file: "a".into() };
    let first = account.create_operation(&request, Some(3), Some(&key), NOW).await.unwrap();
    let again = OperationRequest::EnrolList { file: "b".into() };
    assert_eq!(account.create_operation(&again, Some(3), Some(&key), NOW).await.unwrap(), first);
    let second = account.create_operation(&again, None, None, NOW).await.unwrap();
    assert_eq!((second.id().as_str(), second.total), ("op-2", None));
    let ids: Vec<u64> = account.operations_before(None, 10).await.unwrap().iter().map(|row| row.number).collect();
    assert_eq!(ids, [2, 1]);
    assert_eq!(account.operations_before(Some(2), 10).await.unwrap(), [first]);
}

#[tokio::test]
async fn an_account_has_so_many_open_operations_and_old_ones_are_forgotten_but_for_the_newest() {
    let db = Database::new().await;
    let account = db.account("one").await;
    for _ in 0..MAX_OPEN_OPERATIONS {
        begin_list(&account).await;
    }
    let request = OperationRequest::EnrolList { file: "list".into() };
    let refused = account.create_operation(&request, None, None, NOW).await.unwrap_err();
    assert!(matches!(refused, StoreError::TooMany { most: MAX_OPEN_OPERATIONS, .. }), "{refused}");
    let all = db.store.service_wide();
    let later = UnixSeconds(NOW.0 + 1);
    assert_eq!(all.forget_operations(later, 10).await.unwrap(), 0, "none has ended");
    for number in [1, 2, MAX_OPEN_OPERATIONS] {
        account.cancel_operation(number, NOW).await.unwrap();
    }
    assert_eq!(all.forget_operations(NOW, 10).await.unwrap(), 0, "none is old");
    assert_eq!(all.forget_operations(later, 1).await.unwrap(), 1);
    assert_eq!(all.forget_operations(later, 10).await.unwrap(), 1);
    assert_eq!(begin_list(&account).await, MAX_OPEN_OPERATIONS + 1, "no number is given out twice");
    assert_eq!(all.forget_operations(later, 10).await.unwrap(), 1);
}

#[tokio::test]
async fn the_report_of_an_old_operation_is_forgotten_in_pieces_before_it() {
    let db = Database::new().await;
    let account = db.account("one").await;
    for first in [0, 5] {
        enrol(&account, &lines((first..first + 5).map(|n| listed(n, None)))).await;
    }
    let (all, later) = (db.store.service_wide(), UnixSeconds(NOW.0 + 1));
    assert_eq!(all.forget_operations(later, 10).await.unwrap(), 0, "its report is there");
    assert_eq!(all.forget_operation_rows(NOW, 10).await.unwrap(), 0, "none is old");
    assert_eq!(all.forget_operation_rows(later, 3).await.unwrap(), 3, "no more at a time than was asked for");
    assert_eq!(all.forget_operation_rows(later, 3).await.unwrap(), 2);
    assert_eq!(all.forget_operations(later, 10).await.unwrap(), 1);
    assert_eq!(outcomes(&account, 2).await.len(), 5, "the newest keeps its report");
}
