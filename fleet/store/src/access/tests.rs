//! Principals, role bindings, policies, the tree of accounts and the audit log, on both databases.

use protocol_types::{AccountName, Digest, GroupName, UnixSeconds};
use serde_json::Value;
use sqlx::Row;

use crate::{
    AccountScope, Acting, Filter, GroupChange, LeftOut, NewAccount, NewBinding, NewToken, PrincipalKind, PrincipalName,
    StoreError,
    tests::{Database, NOW},
};

fn name(text: &str) -> AccountName {
    AccountName::new(text).unwrap()
}

fn who(text: &str) -> PrincipalName {
    text.parse().unwrap()
}

fn acting(request: &str) -> Acting {
    Acting {
        request: request.into(),
        principal: "service/ci".into(),
        home: name("acme"),
        credential: "t1".into(),
        address: "192.0.2.1".into(),
        action: "create_group".into(),
        resource: "groups".into(),
        time: NOW,
    }
}

async fn tree(db: &Database, edges: &[(&str, Option<&str>)]) {
    let by = db.account("default").await;
    for (account, parent) in edges {
        let wanted = NewAccount { name: name(account), title: String::new(), parent: parent.map(name) };
        db.store.create_account(&by, &wanted, None, NOW).await.unwrap();
    }
}

async fn bind(at: &AccountScope, home: &str, principal: &str, filter: Option<&str>) -> String {
    let wanted = NewBinding {
        home: name(home),
        who: who(principal),
        role: "operator".into(),
        filter: filter.map(|text| text.parse().unwrap()),
    };
    at.bind_role(&wanted, None, NOW).await.unwrap().id
}

#[test]
fn a_principal_has_one_spelling() {
    assert_eq!(who("user/anna@example.com").to_string(), "user/anna@example.com");
    for wrong in ["", "anna", "user/", "user/Anna", "user/.a", "robot/a", "user/a/b", "user/a b"] {
        assert!(wrong.parse::<PrincipalName>().is_err(), "{wrong}");
    }
    assert!(PrincipalName::new(PrincipalKind::User, &"a".repeat(65)).is_err());
}

#[tokio::test]
async fn a_role_holds_where_it_was_bound_and_below_and_nowhere_else() {
    let db = Database::new().await;
    tree(&db, &[("org", None), ("customer", Some("org")), ("site", Some("customer")), ("other", Some("org"))]).await;
    let (org, customer) = (db.store.account(&name("org")), db.store.account(&name("customer")));
    org.create_principal((&who("user/anna"), "Anna"), None, NOW).await.unwrap();
    bind(&customer, "org", "user/anna", None).await;
    let wide = db.store.service_wide();
    for (account, count) in [("site", 1), ("customer", 1), ("org", 0), ("other", 0)] {
        let path = wide.account_path(&name(account)).await.unwrap();
        assert_eq!(path.first(), Some(&name(account)));
        let found = wide.bindings_on(&path, (&name("org"), &who("user/anna"))).await.unwrap();
        assert_eq!(found.len(), count, "{account}");
    }
    assert_eq!(wide.account_path(&name("site")).await.unwrap(), ["site", "customer", "org"].map(name));
}

#[tokio::test]
async fn a_principal_of_an_account_beside_or_below_gets_no_role() {
    let db = Database::new().await;
    tree(&db, &[("org", None), ("one", Some("org")), ("two", Some("org"))]).await;
    let one = db.store.account(&name("one"));
    one.create_principal((&who("service/ci"), ""), None, NOW).await.unwrap();
    for account in ["org", "two"] {
        let wanted = NewBinding { home: name("one"), who: who("service/ci"), role: "viewer".into(), filter: None };
        let refused = db.store.account(&name(account)).bind_role(&wanted, None, NOW).await;
        assert!(matches!(refused, Err(StoreError::NotFound { kind: "principal", .. })), "{account}: {refused:?}");
    }
}

#[tokio::test]
async fn an_account_never_stands_below_itself_and_the_tree_is_not_too_deep() {
    let db = Database::new().await;
    let names = ["a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8", "a9"];
    for (index, account) in names.iter().enumerate() {
        let by = db.account("default").await;
        let parent = index.checked_sub(1).map(|above| name(names[above]));
        let wanted = NewAccount { name: name(account), title: String::new(), parent };
        let made = db.store.create_account(&by, &wanted, None, NOW).await;
        assert_eq!(made.is_ok(), index < 8, "{account}: {made:?}");
    }
    let by = db.account("default").await;
    let first = db.store.account(&name("a1"));
    let round = first.move_account(&by, Some(&name("a8")), None, NOW).await;
    assert!(matches!(round, Err(StoreError::AccountInItself { .. })), "{round:?}");
    let round = first.move_account(&by, Some(&name("a1")), None, NOW).await;
    assert!(matches!(round, Err(StoreError::AccountInItself { .. })), "{round:?}");
    let deep = first.move_account(&by, Some(&name("default")), None, NOW).await;
    assert!(matches!(deep, Err(StoreError::TooMany { .. })), "{deep:?}");
    // The refusals changed nothing.
    assert_eq!(db.store.service_wide().account_path(&name("a8")).await.unwrap().len(), 8);
    let free = db.store.account(&name("a5")).move_account(&by, None, None, NOW).await.unwrap();
    assert_eq!(free.parent, None);
    assert_eq!(db.store.service_wide().account_path(&name("a8")).await.unwrap().len(), 4);
    let family: Vec<_> = first.family_after("", 10).await.unwrap().into_iter().map(|row| row.name).collect();
    assert_eq!(family, ["a1", "a2", "a3", "a4"].map(name));
}

#[tokio::test]
async fn a_principal_that_is_forgotten_leaves_no_role_and_no_token() {
    let db = Database::new().await;
    let acme = db.account("acme").await;
    acme.create_principal((&who("service/ci"), ""), None, NOW).await.unwrap();
    let twice = acme.create_principal((&who("service/ci"), ""), None, NOW).await;
    assert!(matches!(twice, Err(StoreError::Exists { .. })));
    bind(&acme, "acme", "service/ci", Some("tag = \"lab\"")).await;
    let token = NewToken {
        id: "t1".into(),
        name: "ci".into(),
        hash: "aa".into(),
        scopes: "admin".into(),
        expires: None,
        is_first: false,
        principal: Some(who("service/ci")),
    };
    assert_eq!(acme.create_token(&token, None, NOW).await.unwrap().principal, Some(who("service/ci")));
    assert!(!acme.has_admin_token(NOW).await.unwrap(), "a token of a principal is no way back in");
    let stray = NewToken { id: "t2".into(), hash: "bb".into(), principal: Some(who("user/nobody")), ..token };
    assert!(matches!(acme.create_token(&stray, None, NOW).await, Err(StoreError::NotFound { .. })));

    let off = acme.disable_principal(&who("service/ci"), (true, None), NOW).await.unwrap();
    assert_eq!(off.disabled, Some(NOW));
    assert_eq!(acme.disable_principal(&who("service/ci"), (false, None), NOW).await.unwrap().disabled, None);
    acme.delete_principal(&who("service/ci"), None, NOW).await.unwrap();
    assert!(acme.bindings_after(0, 10).await.unwrap().is_empty());
    assert_eq!(acme.token("t1").await.unwrap().revoked, Some(NOW));
    assert!(matches!(acme.principal(&who("service/ci")).await, Err(StoreError::NotFound { .. })));
}

#[tokio::test]
async fn a_program_is_an_administrator_while_a_token_of_it_allows_that() {
    let db = Database::new().await;
    let acme = db.account("acme").await;
    acme.create_principal((&who("service/ci"), ""), None, NOW).await.unwrap();
    let role = "administrator".into();
    let wanted = NewBinding { home: name("acme"), who: who("service/ci"), role, filter: None };
    acme.bind_role(&wanted, None, NOW).await.unwrap();
    let later = UnixSeconds(NOW.0 + 100);
    for (id, scopes) in [("t1", "read"), ("t2", "read admin")] {
        assert!(!acme.has_administrator(NOW).await.unwrap(), "before {id}");
        let token = NewToken {
            id: id.into(),
            name: "ci".into(),
            hash: format!("hash of {id}"),
            scopes: scopes.into(),
            expires: Some(later),
            is_first: false,
            principal: Some(who("service/ci")),
        };
        acme.create_token(&token, None, NOW).await.unwrap();
    }
    assert!(acme.has_administrator(NOW).await.unwrap());
    assert!(!db.account("other").await.has_administrator(NOW).await.unwrap());
    assert!(!acme.has_administrator(later).await.unwrap(), "its time is over");
    acme.revoke_token("t2", NOW).await.unwrap();
    assert!(!acme.has_administrator(NOW).await.unwrap());
}

#[tokio::test]
async fn a_policy_keeps_its_revision_and_holds_for_its_account_alone() {
    let db = Database::new().await;
    let (acme, other) = (db.account("acme").await, db.account("other").await);
    let lab = GroupName::new("lab").unwrap();
    let (row, is_new) = acme.save_policy((&lab, "one"), None, NOW).await.unwrap();
    assert_eq!((row.revision, is_new), (1, true));
    let stale = acme.save_policy((&lab, "two"), Some(7), NOW).await;
    assert!(matches!(stale, Err(StoreError::Stale { now: 1, .. })), "{stale:?}");
    let (row, is_new) = acme.save_policy((&lab, "two"), Some(1), NOW).await.unwrap();
    assert_eq!((row.policy.as_str(), row.revision, is_new), ("two", 2, false));
    assert!(matches!(other.policy(&lab).await, Err(StoreError::NotFound { .. })));
    assert!(matches!(other.delete_policy(&lab, None, NOW).await, Err(StoreError::NotFound { .. })));
    let wide = db.store.service_wide();
    assert_eq!(wide.policies_of(&[name("other"), name("acme")]).await.unwrap(), [row]);
    acme.delete_policy(&lab, Some(2), NOW).await.unwrap();
    assert!(wide.policies_of(&[name("acme")]).await.unwrap().is_empty());
}

#[tokio::test]
async fn each_change_and_its_entry_are_one_transaction_and_the_entries_a_chain() {
    let db = Database::new().await;
    let acme = db.account("acme").await;
    let group = GroupName::new("doors").unwrap();
    let first = GroupChange::default();
    acme.acting(acting("r1")).create_group(&group, &first, None, NOW).await.unwrap();
    // A change that did not happen leaves no entry of its own.
    assert!(acme.acting(acting("r2")).create_group(&group, &first, None, NOW).await.is_err());
    acme.note_refused(&acting("r2"), "already_exists").await.unwrap();
    acme.acting(acting("r3")).delete_group(&group, None, NOW).await.unwrap();
    // What the service does by itself is told by events alone.
    acme.create_group(&group, &first, None, NOW).await.unwrap();

    let rows = acme.audit_after(0, 10).await.unwrap();
    assert_eq!(rows.len(), 3);
    let mut previous = "0".repeat(64);
    for (row, (request, outcome, kind)) in rows.iter().zip([
        ("r1", "done", Some("group.created")),
        ("r2", "already_exists", None),
        ("r3", "done", Some("group.deleted")),
    ]) {
        assert_eq!(row.hash, Digest::of(row.entry.as_bytes()).hex());
        let entry: Value = serde_json::from_str(&row.entry).unwrap();
        assert_eq!((&entry["request"], &entry["outcome"]), (&request.into(), &outcome.into()));
        assert_eq!(entry["changes"][0]["kind"].as_str(), kind);
        assert_eq!(entry["previous"].as_str(), Some(previous.as_str()));
        previous.clone_from(&row.hash);
    }
    assert!(db.account("other").await.audit_after(0, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_entry_lists_a_bounded_number_of_changes_and_counts_the_others() {
    let db = Database::new().await;
    let acme = db.account("acme").await.acting(acting("r1"));
    let mut tx = acme.write().await.unwrap();
    for number in 0..130 {
        let draft = crate::EventDraft { kind: "x.y", subject: format!("x/{number}"), data: serde_json::json!({}) };
        crate::events::append(&mut tx, &acme, NOW, draft).await.unwrap();
    }
    tx.commit().await.unwrap();
    let entry: Value = serde_json::from_str(&acme.audit_after(0, 10).await.unwrap()[0].entry).unwrap();
    assert_eq!((entry["changes"].as_array().unwrap().len(), &entry["more_changes"]), (100, &30.into()));
}

#[tokio::test]
async fn refusals_that_are_told_together_say_how_many_of_each_action_since_when() {
    let db = Database::new().await;
    let acme = db.account("acme").await;
    let at = |action: &str, seconds: u64| {
        let acting = acting(&format!("r{seconds}"));
        LeftOut::new(Acting { action: action.into(), time: UnixSeconds(seconds), ..acting }, "access_denied")
    };
    acme.note_left_out(&at("create_group", 5)).await.unwrap();
    let mut many = at("delete_group", 7);
    // Those that could not be told before come after newer ones.
    for more in [at("create_group", 8), at("create_group", 6)] {
        many.add(more);
    }
    acme.note_left_out(&many).await.unwrap();
    let rows = acme.audit_after(0, 10).await.unwrap();
    let entries: Vec<Value> = rows.iter().map(|row| serde_json::from_str(&row.entry).unwrap()).collect();
    assert_eq!((entries.len(), &entries[0]["changes"]), (2, &serde_json::json!([])), "one stands for itself");
    assert_eq!((&entries[1]["request"], &entries[1]["time"]), (&"r8".into(), &8.into()));
    assert_eq!(
        entries[1]["changes"],
        serde_json::json!([{
            "kind": "audit.refusals_left_out",
            "subject": "service/ci",
            "data": { "refusals": 3, "since": 6, "actions": { "create_group": 2, "delete_group": 1 } },
        }])
    );
}

#[tokio::test]
async fn an_account_or_a_principal_that_changed_since_it_was_read_is_not_changed() {
    let db = Database::new().await;
    tree(&db, &[("org", None), ("customer", None)]).await;
    let (by, customer) = (db.account("default").await, db.store.account(&name("customer")));
    let read = customer.account_row().await.unwrap().revision;
    let moved = customer.move_account(&by, Some(&name("org")), Some(read), NOW).await.unwrap();
    assert_eq!(moved.revision, read + 1);
    let late = customer.move_account(&by, None, Some(read), NOW).await;
    assert!(matches!(late, Err(StoreError::Stale { kind: "account", now, .. }) if now == read + 1), "{late:?}");
    assert_eq!(customer.account_row().await.unwrap(), moved, "what was refused has changed nothing");

    let ci = who("service/ci");
    let made = customer.create_principal((&ci, ""), None, NOW).await.unwrap();
    let off = customer.disable_principal(&ci, (true, Some(made.revision)), NOW).await.unwrap();
    assert_eq!(off.revision, made.revision + 1);
    let again = customer.disable_principal(&ci, (true, Some(off.revision)), NOW).await.unwrap();
    assert_eq!(again, off, "a second time changes nothing");
    for late in [
        customer.disable_principal(&ci, (false, Some(made.revision)), NOW).await.map(drop),
        customer.delete_principal(&ci, Some(made.revision), NOW).await,
    ] {
        assert!(matches!(late, Err(StoreError::Stale { kind: "principal", .. })), "{late:?}");
    }
    assert_eq!(customer.principal(&ci).await.unwrap(), off);
    customer.delete_principal(&ci, Some(off.revision), NOW).await.unwrap();
}

#[tokio::test]
async fn a_move_is_told_in_the_logs_of_both_accounts() {
    let db = Database::new().await;
    tree(&db, &[("org", None), ("customer", None)]).await;
    let by = db.account("default").await.acting(acting("r1"));
    let customer = db.store.account(&name("customer"));
    customer.move_account(&by, Some(&name("org")), None, NOW).await.unwrap();
    for scope in [&by, &customer] {
        let rows = scope.audit_after(0, 10).await.unwrap();
        let entry: Value = serde_json::from_str(&rows.last().unwrap().entry).unwrap();
        assert_eq!(entry["changes"][0]["data"], serde_json::json!({"from": null, "to": "org"}));
        assert_eq!(entry["account"].as_str(), Some(scope.name().as_str()));
    }
}

#[tokio::test]
async fn a_narrowed_scope_shows_and_counts_no_other_device() {
    let db = Database::new().await;
    let acme = db.account("acme").await;
    let mut tx = db.store.write().await.unwrap();
    for endpoint in ["a1", "a2", "b1"] {
        sqlx::query("INSERT INTO devices (account, endpoint, created) VALUES ($1, $2, 1)")
            .bind("acme")
            .bind(endpoint)
            .execute(tx.sql())
            .await
            .unwrap();
    }
    tx.commit().await.unwrap();
    let narrowed = acme.narrowed("name ~ \"a*\"".parse().unwrap());
    let every = Filter::every_device();
    let later = UnixSeconds(NOW.0 + 1);
    let seen: Vec<String> = narrowed
        .devices_after("", &every, later, 10)
        .await
        .unwrap()
        .into_iter()
        .map(|d| d.endpoint.to_string())
        .collect();
    assert_eq!(seen, ["a1", "a2"]);
    assert_eq!(narrowed.count_devices(&every, later).await.unwrap(), 2);
    assert_eq!(narrowed.count_devices(&"not name = \"a1\"".parse().unwrap(), later).await.unwrap(), 1);
    assert_eq!(acme.count_devices(&every, later).await.unwrap(), 3);
    let standing = "standing".parse().unwrap();
    assert_eq!(narrowed.count_devices_by(&standing, &every, later, 10).await.unwrap()[0].devices, 2);
    let both = acme.narrowed(Filter::or("name = \"a1\"".parse().unwrap(), "name = \"b1\"".parse().unwrap()));
    assert_eq!(both.count_devices(&every, later).await.unwrap(), 2);
}

#[tokio::test]
async fn an_entry_cannot_be_written_twice_under_one_number() {
    let db = Database::new().await;
    let acme = db.account("acme").await;
    acme.note_refused(&acting("r1"), "x").await.unwrap();
    let mut tx = db.store.write().await.unwrap();
    let again = sqlx::query("INSERT INTO audit_entries (account, number, entry, hash) VALUES ('acme', 1, '', '')")
        .execute(tx.sql())
        .await;
    assert!(again.is_err());
    drop(tx);
    let mut tx = db.store.write().await.unwrap();
    let row = sqlx::query("SELECT COUNT(*) AS n FROM audit_entries").fetch_one(tx.sql()).await.unwrap();
    assert_eq!(row.get::<i64, _>("n"), 1);
}

#[tokio::test]
async fn tokens_that_ended_long_ago_are_forgotten_and_no_others() {
    let db = Database::new().await;
    let acme = db.account("acme").await;
    let make = async |id: &str, expires: Option<u64>| {
        let token = NewToken {
            id: id.into(),
            name: "ci".into(),
            hash: id.into(),
            scopes: "read".into(),
            expires: expires.map(UnixSeconds),
            is_first: false,
            principal: None,
        };
        acme.create_token(&token, None, NOW).await.unwrap();
    };
    make("for-ever", None).await;
    make("later", Some(NOW.0 + 100)).await;
    make("expired", Some(NOW.0 + 1)).await;
    make("revoked", None).await;
    acme.revoke_token("revoked", NOW).await.unwrap();
    let all = db.store.service_wide();
    assert_eq!(all.forget_tokens(UnixSeconds(NOW.0 + 2), 1).await.unwrap(), 1);
    assert_eq!(all.forget_tokens(UnixSeconds(NOW.0 + 2), 10).await.unwrap(), 1);
    assert!(acme.token("for-ever").await.is_ok() && acme.token("later").await.is_ok());
    assert!(acme.token("expired").await.is_err() && acme.token("revoked").await.is_err());
}
