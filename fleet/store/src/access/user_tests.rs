//! Users, invitations, sessions and tries to sign in, on both databases.

use protocol_types::{Digest, UnixSeconds};

use crate::{
    AcceptedInvitation, AccountScope, Credentials, LetterRow, Locked, NewBinding, NewInvitation, NewToken, NewUser,
    PrincipalName, SecondFactor, StoreError,
    tests::{Database, NOW},
};

const LATER: UnixSeconds = UnixSeconds(NOW.0 + 100);

fn anna() -> PrincipalName {
    "user/anna".parse().unwrap()
}

fn invitation(hash: &str) -> NewInvitation {
    NewInvitation { hash: hash.into(), totp: format!("sealed {hash}"), expires: LATER, letter: None }
}

fn token(id: &str) -> NewToken {
    NewToken {
        id: id.into(),
        name: "session".into(),
        hash: format!("hash of {id}"),
        scopes: "admin".into(),
        expires: Some(LATER),
        is_first: false,
        principal: Some(anna()),
    }
}

async fn invite(account: &AccountScope, hash: &str) {
    let user = NewUser { who: anna(), title: "Anna".into(), email: "anna@example.com".into() };
    let role = NewBinding { home: account.name().clone(), who: anna(), role: "operator".into(), filter: None };
    let row = account.invite_user(&user, (&invitation(hash), Some(&role)), None, NOW).await.unwrap();
    assert_eq!((row.invited_until, row.password_set, row.email.as_str()), (Some(LATER), None, "anna@example.com"));
}

async fn accept(account: &AccountScope, hash: &str, session: &str, now: UnixSeconds) -> Result<(), StoreError> {
    let accepted = AcceptedInvitation {
        hash: hash.into(),
        password: "password 1".into(),
        step: 10,
        recovery: vec![Digest::of(b"one").hex(), Digest::of(b"two").hex()],
    };
    account.accept_invitation(&anna(), (&accepted, &token(session)), now).await
}

async fn known(account: &AccountScope) -> Credentials {
    account.credentials(&anna()).await.unwrap().unwrap()
}

#[tokio::test]
async fn an_invitation_is_used_once_in_its_time_and_brings_user_role_and_session() {
    let db = Database::new().await;
    let acme = db.account("acme").await;
    invite(&acme, "h1").await;
    let found = db.store.service_wide().invitation_by_hash("h1").await.unwrap().unwrap();
    assert_eq!((found.account.as_str(), found.who, found.totp.as_str()), ("acme", anna(), "sealed h1"));
    assert_eq!(acme.credentials(&anna()).await.unwrap(), None, "nobody signs in before that");
    for (hash, now) in [("h2", NOW), ("h1", LATER)] {
        assert!(matches!(accept(&acme, hash, "s1", now).await, Err(StoreError::NotFound { .. })), "{hash} {now}");
    }
    accept(&acme, "h1", "s1", NOW).await.unwrap();
    assert!(accept(&acme, "h1", "s2", NOW).await.is_err());
    assert!(db.store.service_wide().invitation_by_hash("h1").await.unwrap().is_none());
    let row = acme.user(&anna()).await.unwrap();
    assert_eq!((row.password_set, row.recovery_codes, row.invited_until), (Some(NOW), 2, None));
    assert!(acme.token("s1").await.unwrap().second_factor, "the session knows of the second factor");
    assert_eq!(acme.bindings_after(0, 10).await.unwrap()[0].binding.who, anna());
    let kinds: Vec<String> = acme.events_after(0, 20).await.unwrap().into_iter().map(|event| event.kind).collect();
    for kind in ["user.invited", "role.bound", "user.accepted", "token.created"] {
        assert!(kinds.iter().any(|told| told == kind), "{kind} in {kinds:?}");
    }
}

#[tokio::test]
async fn a_code_and_a_recovery_code_are_each_taken_once_and_only_while_the_secrets_are_the_same() {
    let db = Database::new().await;
    let acme = db.account("acme").await;
    invite(&acme, "h1").await;
    accept(&acme, "h1", "s1", NOW).await.unwrap();
    let begin = async |known: &Credentials, factor: SecondFactor, id: &str| {
        acme.begin_session((&anna(), known), (&factor, &token(id)), NOW).await
    };
    let takes = async |factor: SecondFactor| acme.would_take(&anna(), &factor).await.unwrap();
    let recovery = |text: &str| SecondFactor::Recovery(Digest::of(text.as_bytes()));
    let now = known(&acme).await;
    for _ in 0..2 {
        assert!(takes(SecondFactor::Code(11)).await && takes(recovery("one")).await, "looking uses nothing up");
        assert!(!takes(SecondFactor::Code(10)).await && !takes(recovery("three")).await);
    }
    for step in [9, 10] {
        let refused = begin(&now, SecondFactor::Code(step), "s2").await;
        assert!(matches!(refused, Err(StoreError::CodeRefused { .. })), "step {step} is not newer");
    }
    begin(&now, SecondFactor::Code(11), "s2").await.unwrap();
    assert!(begin(&now, SecondFactor::Code(11), "s3").await.is_err(), "a code is taken once");
    begin(&now, recovery("one"), "s3").await.unwrap();
    assert!(begin(&now, recovery("one"), "s4").await.is_err());
    assert!(begin(&now, recovery("three"), "s4").await.is_err());
    assert_eq!(acme.user(&anna()).await.unwrap().recovery_codes, 1);
    begin(&now, SecondFactor::Code(12), "s4").await.unwrap();
    let old = Credentials { password: "password 0".into(), ..now };
    assert!(begin(&old, SecondFactor::Code(13), "s5").await.is_err(), "the password was changed meanwhile");
    acme.disable_principal(&anna(), (true, None), NOW).await.unwrap();
    assert_eq!(acme.credentials(&anna()).await.unwrap(), None);
    assert!(acme.token("s5").await.is_err(), "what was refused has made nothing");
}

#[tokio::test]
async fn another_password_ends_all_other_sessions_and_a_reset_ends_everything() {
    let db = Database::new().await;
    let acme = db.account("acme").await;
    invite(&acme, "h1").await;
    accept(&acme, "h1", "s1", NOW).await.unwrap();
    let before = known(&acme).await;
    acme.begin_session((&anna(), &before), (&SecondFactor::Code(11), &token("s2")), NOW).await.unwrap();
    let code = SecondFactor::Code(12);
    acme.change_password((&anna(), &before), (&code, "password 2"), "s2", NOW).await.unwrap();
    assert_eq!(known(&acme).await.password, "password 2");
    assert_eq!(acme.token("s1").await.unwrap().revoked, Some(NOW));
    assert_eq!(acme.token("s2").await.unwrap().revoked, None);

    acme.reset_user(&anna(), &invitation("h2"), NOW).await.unwrap();
    assert_eq!(acme.token("s2").await.unwrap().revoked, Some(NOW));
    assert_eq!(acme.credentials(&anna()).await.unwrap(), None);
    let row = acme.user(&anna()).await.unwrap();
    assert_eq!((row.password_set, row.recovery_codes, row.invited_until), (None, 0, Some(LATER)));
    accept(&acme, "h2", "s3", NOW).await.unwrap();
    acme.end_session(&anna(), "s3", NOW).await.unwrap();
    assert_eq!(acme.token("s3").await.unwrap().revoked, Some(NOW));
    assert!(acme.end_session(&anna(), "s3", NOW).await.is_err());

    acme.delete_principal(&anna(), None, NOW).await.unwrap();
    assert!(matches!(acme.user(&anna()).await, Err(StoreError::NotFound { .. })));
    invite(&acme, "h3").await;
    assert_eq!(acme.user(&anna()).await.unwrap().recovery_codes, 0, "nothing is left of who had the name before");
}

#[tokio::test]
async fn a_person_is_an_administrator_while_the_role_is_for_the_whole_account_and_they_may_and_can_sign_in() {
    let db = Database::new().await;
    let acme = db.account("acme").await;
    invite(&acme, "h1").await;
    let bind = async |role: &str, filter: Option<&str>| {
        let filter = filter.map(|text| text.parse().unwrap());
        let wanted = NewBinding { home: acme.name().clone(), who: anna(), role: role.into(), filter };
        acme.bind_role(&wanted, None, NOW).await.unwrap().id
    };
    let is_one = async || acme.has_administrator(NOW).await.unwrap();
    bind("administrator", Some("tag = \"lab\"")).await;
    let whole = bind("administrator", None).await;
    assert!(!is_one().await, "whoever has only an invitation signs in nowhere");
    accept(&acme, "h1", "s1", NOW).await.unwrap();
    assert!(is_one().await);
    assert!(acme.has_administrator(LATER).await.unwrap(), "whoever has no session signs in again");
    acme.disable_principal(&anna(), (true, None), NOW).await.unwrap();
    assert!(!is_one().await);
    acme.disable_principal(&anna(), (false, None), NOW).await.unwrap();
    assert!(is_one().await);
    acme.unbind_role(&whole, NOW).await.unwrap();
    assert!(!is_one().await, "one for some devices is none");
}

#[tokio::test]
async fn a_letter_is_sent_once_while_its_invitation_is_open_and_its_secret_is_kept_no_longer() {
    let db = Database::new().await;
    let (acme, wide) = (db.account("acme").await, db.store.service_wide());
    let with_letter = |hash: &str| NewInvitation { letter: Some(format!("letter {hash}")), ..invitation(hash) };
    let user = NewUser { who: anna(), title: "Anna".into(), email: "anna@example.com".into() };
    let row = acme.invite_user(&user, (&with_letter("h1"), None), None, NOW).await.unwrap();
    assert_eq!(row.letter, Some(LetterRow { waits: true, sent: None, tries: 0, last_failure: None }));
    let due = wide.due_letters(NOW, 10).await.unwrap();
    let [first] = &due[..] else { panic!("{due:?}") };
    assert_eq!((first.account.as_str(), &first.who, first.secret.as_str()), ("acme", &anna(), "letter h1"));
    assert_eq!((first.email.as_str(), first.expires, first.tries), ("anna@example.com", LATER, 0));

    let soon = UnixSeconds(NOW.0 + 10);
    acme.letter_failed(first, ("the server was away", soon)).await.unwrap();
    assert_eq!(wide.due_letters(NOW, 10).await.unwrap(), []);
    let due = wide.due_letters(soon, 10).await.unwrap();
    assert_eq!(due[0].tries, 1);
    acme.disable_principal(&anna(), (true, None), NOW).await.unwrap();
    assert_eq!(wide.due_letters(soon, 10).await.unwrap(), [], "nobody writes to those who may not act");
    acme.disable_principal(&anna(), (false, None), NOW).await.unwrap();
    assert_eq!(wide.due_letters(LATER, 10).await.unwrap(), [], "nor about an invitation that is over");

    acme.reset_user(&anna(), &with_letter("h2"), NOW).await.unwrap();
    acme.letter_sent(first, NOW).await.unwrap();
    let due = wide.due_letters(NOW, 10).await.unwrap();
    assert_eq!(due[0].secret, "letter h2", "the letter of the former invitation is another");
    acme.letter_sent(&due[0], NOW).await.unwrap();
    assert_eq!(wide.due_letters(soon, 10).await.unwrap(), []);
    let sent = LetterRow { waits: false, sent: Some(NOW), tries: 0, last_failure: None };
    assert_eq!(acme.user(&anna()).await.unwrap().letter, Some(sent));
    accept(&acme, "h2", "s1", NOW).await.unwrap();
    assert_eq!(acme.user(&anna()).await.unwrap().letter, None, "a letter goes away with its invitation");
}

#[tokio::test]
async fn a_user_of_one_account_is_nobody_in_another() {
    let db = Database::new().await;
    let (acme, rival) = (db.account("acme").await, db.account("rival").await);
    invite(&acme, "h1").await;
    for found in [rival.user(&anna()).await.is_ok(), accept(&rival, "h1", "s1", NOW).await.is_ok()] {
        assert!(!found);
    }
    accept(&acme, "h1", "s1", NOW).await.unwrap();
    let before = known(&acme).await;
    assert_eq!(rival.credentials(&anna()).await.unwrap(), None);
    let factor = SecondFactor::Code(11);
    assert!(rival.begin_session((&anna(), &before), (&factor, &token("s2")), NOW).await.is_err());
    assert!(rival.end_session(&anna(), "s1", NOW).await.is_err());
    assert!(rival.reset_user(&anna(), &invitation("h2"), NOW).await.is_err());
    assert_eq!(rival.users_after("", 10).await.unwrap(), []);
    assert_eq!(acme.users_after("", 10).await.unwrap().len(), 1);
    assert_eq!(acme.token("s1").await.unwrap().revoked, None);
}

#[tokio::test]
async fn tries_count_before_they_are_made_and_lock_until_their_time_is_over() {
    let db = Database::new().await;
    let wide = db.store.service_wide();
    let (one, two) = (Digest::of(b"acme/anna"), Digest::of(b"acme/bert"));
    let wait: fn(u64) -> u64 = |tries| if tries < 3 { 0 } else { tries * 10 };
    let begin = async |subject: &Digest, now: u64| wide.begin_try(subject, wait, UnixSeconds(now)).await.unwrap();
    for now in [100, 100, 100] {
        assert_eq!(begin(&one, now).await, Ok(()));
    }
    let locked = |until| Err(Locked { until: UnixSeconds(until) });
    assert_eq!(begin(&one, 101).await, locked(130));
    assert_eq!(begin(&one, 129).await, locked(130), "a refused try makes the wait no longer");
    assert_eq!(begin(&two, 101).await, Ok(()), "another user is not locked");
    assert_eq!(begin(&one, 130).await, Ok(()));
    assert_eq!(begin(&one, 131).await, locked(170));
    wide.end_tries(&one).await.unwrap();
    assert_eq!(begin(&one, 132).await, Ok(()));
    for _ in 0..2 {
        begin(&one, 140).await.unwrap();
    }
    wide.forget_tries(UnixSeconds(150)).await.unwrap();
    assert_eq!(begin(&one, 160).await, locked(170), "what still locks is not forgotten");
    wide.forget_tries(UnixSeconds(171)).await.unwrap();
    for _ in 0..3 {
        assert_eq!(begin(&one, 171).await, Ok(()));
    }
}
