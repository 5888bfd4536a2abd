//! Identity providers, sign-ins under way and whom they are linked to, on both databases.

use std::collections::{BTreeMap, BTreeSet};

use protocol_types::UnixSeconds;

use crate::{
    AccountScope, Admission, Confirmed, Identity, Known, NewInvitation, NewSingleSignOn, NewToken, NewUser,
    PrincipalName, ProviderSettings, Sought, StoreError,
    tests::{Database, NOW},
};

const LATER: UnixSeconds = UnixSeconds(NOW.0 + 600);

fn settings() -> ProviderSettings {
    ProviderSettings {
        issuer: "https://login.example".into(),
        client_id: "mbl".into(),
        scopes: vec!["email".into(), "profile".into()],
        user_claim: "email".into(),
        domains: vec!["example.com".into(), "example.org".into()],
        role_claim: Some("groups".into()),
        roles: BTreeMap::from([("ops".into(), "operator".into())]),
        create_users: true,
        default_role: Some("viewer".into()),
        required: false,
        break_glass: None,
    }
}

fn who(name: &str) -> PrincipalName {
    format!("user/{name}").parse().unwrap()
}

fn identity(subject: &str) -> Identity {
    Identity { issuer: "https://login.example".into(), subject: subject.into() }
}

fn begin(id: &str, expires: UnixSeconds) -> NewSingleSignOn {
    NewSingleSignOn {
        id: id.into(),
        sealed: format!("sealed {id}"),
        challenge: "challenge".into(),
        port: Some(4711),
        scopes: "read".into(),
        expires,
    }
}

fn session(id: &str, name: &str) -> NewToken {
    NewToken {
        id: id.into(),
        name: "session".into(),
        hash: format!("hash of {id}"),
        scopes: "read".into(),
        expires: Some(LATER),
        is_first: false,
        principal: Some(who(name)),
    }
}

fn confirmed(name: &str, code: &str) -> Confirmed {
    Confirmed { who: who(name), code: code.into(), second_factor: true }
}

/// Nothing but a link.
fn only(subject: &str) -> Admission {
    Admission { identity: identity(subject), new_user: None, first_role: None, roles: None }
}

fn new_user(name: &str) -> NewUser {
    NewUser { who: who(name), title: "Anna".into(), email: format!("{name}@Example.com") }
}

fn creating(name: &str, subject: &str) -> Admission {
    Admission { new_user: Some(new_user(name)), first_role: Some("viewer".into()), ..only(subject) }
}

/// Goes through a sign-in up to the one-time code `code`.
async fn arrive(account: &AccountScope, code: &str, name: &str, admission: &Admission) -> Result<(), StoreError> {
    account.begin_single_sign_on(&begin(code, LATER), NOW).await.unwrap();
    assert!(account.return_single_sign_on(code, NOW).await.unwrap());
    account.confirm_single_sign_on((code, &confirmed(name, code)), admission, NOW).await
}

async fn roles(account: &AccountScope) -> Vec<String> {
    let mut roles: Vec<String> =
        account.bindings_after(0, 100).await.unwrap().into_iter().map(|row| row.binding.role).collect();
    roles.sort_unstable();
    roles
}

#[tokio::test]
async fn a_provider_reads_back_and_its_secret_stays_only_for_the_same_client_of_the_same_issuer() {
    let db = Database::new().await;
    let acme = db.account("acme").await;
    assert_eq!(acme.identity_provider().await.unwrap(), None);
    let stale = acme.save_identity_provider(&settings(), None, Some(1), NOW).await;
    assert!(matches!(stale, Err(StoreError::Stale { now: 0, .. })), "{stale:?}");
    let saved = acme.save_identity_provider(&settings(), Some("sealed"), Some(0), NOW).await.unwrap();
    assert_eq!((&saved.settings, saved.secret.as_deref(), saved.revision), (&settings(), Some("sealed"), 1));
    acme.begin_single_sign_on(&begin("s1", LATER), NOW).await.unwrap();
    let required =
        ProviderSettings { required: true, break_glass: Some("root".into()), role_claim: None, ..settings() };
    let saved = acme.save_identity_provider(&required, None, Some(1), NOW).await.unwrap();
    assert_eq!((&saved.settings, saved.secret.as_deref(), saved.revision), (&required, Some("sealed"), 2));
    let wide = db.store.service_wide();
    assert_eq!(wide.single_sign_on("s1").await.unwrap(), None, "what began before comes to nothing");
    for other in [
        ProviderSettings { issuer: "https://other.example".into(), ..settings() },
        ProviderSettings { client_id: "other".into(), ..settings() },
    ] {
        acme.save_identity_provider(&settings(), Some("sealed"), None, NOW).await.unwrap();
        let saved = acme.save_identity_provider(&other, None, None, NOW).await.unwrap();
        assert_eq!(saved.secret, None, "a secret goes to nobody but whom it was meant for");
    }
    let rival = db.account("rival").await;
    assert_eq!(rival.identity_provider().await.unwrap(), None);
    assert!(matches!(rival.delete_identity_provider(None, NOW).await, Err(StoreError::NotFound { .. })));
    assert!(matches!(acme.delete_identity_provider(Some(1), NOW).await, Err(StoreError::Stale { .. })));
    acme.delete_identity_provider(None, NOW).await.unwrap();
    assert_eq!(acme.identity_provider().await.unwrap(), None);
}

#[tokio::test]
async fn each_step_of_a_sign_in_is_taken_once_in_its_time_and_in_its_account() {
    let db = Database::new().await;
    let (acme, rival, wide) = (db.account("acme").await, db.account("rival").await, db.store.service_wide());
    acme.begin_single_sign_on(&begin("s1", LATER), NOW).await.unwrap();
    let row = wide.single_sign_on("s1").await.unwrap().unwrap();
    assert_eq!((row.account.as_str(), row.sealed.as_str(), row.port), ("acme", "sealed s1", Some(4711)));
    assert_eq!((row.has_returned, row.who, row.expires), (false, None, LATER));
    let early = acme.confirm_single_sign_on(("s1", &confirmed("anna", "c1")), &creating("anna", "sub-1"), NOW).await;
    assert!(matches!(early, Err(StoreError::NotFound { .. })), "{early:?}");
    assert!(acme.user(&who("anna")).await.is_err(), "what was refused has made nobody");
    assert!(!rival.return_single_sign_on("s1", NOW).await.unwrap());
    assert!(!acme.return_single_sign_on("s1", LATER).await.unwrap(), "too late");
    assert!(acme.return_single_sign_on("s1", NOW).await.unwrap());
    assert!(!acme.return_single_sign_on("s1", NOW).await.unwrap(), "a state is taken once");
    acme.confirm_single_sign_on(("s1", &confirmed("anna", "c1")), &creating("anna", "sub-1"), NOW).await.unwrap();
    let again = acme.confirm_single_sign_on(("s1", &confirmed("anna", "c2")), &only("sub-1"), NOW).await;
    assert!(matches!(again, Err(StoreError::NotFound { .. })), "{again:?}");

    let finish = async |account: &AccountScope, code: &str, name: &str, now| {
        account.finish_single_sign_on(("s1", code), (&who(name), &session("t1", name)), now).await
    };
    for refused in [
        finish(&acme, "c2", "anna", NOW).await,
        finish(&acme, "c1", "bert", NOW).await,
        finish(&acme, "c1", "anna", LATER).await,
        finish(&rival, "c1", "anna", NOW).await,
    ] {
        assert!(matches!(refused, Err(StoreError::NotFound { .. })), "{refused:?}");
    }
    acme.disable_principal(&who("anna"), (true, None), NOW).await.unwrap();
    assert!(finish(&acme, "c1", "anna", NOW).await.is_err(), "nor for those who may not act");
    acme.disable_principal(&who("anna"), (false, None), NOW).await.unwrap();
    let token = finish(&acme, "c1", "anna", NOW).await.unwrap();
    assert_eq!((token.principal, token.scopes.as_str(), token.second_factor), (Some(who("anna")), "read", true));
    assert!(finish(&acme, "c1", "anna", NOW).await.is_err(), "a code is used once");
    let row = acme.user(&who("anna")).await.unwrap();
    assert_eq!((row.last_sign_in, row.linked, row.password_set), (Some(NOW), Some(NOW), None));
    assert_eq!(roles(&acme).await, ["viewer"]);
}

#[tokio::test]
async fn whoever_loses_all_tokens_loses_the_sign_in_that_is_under_way() {
    let db = Database::new().await;
    let acme = db.account("acme").await;
    arrive(&acme, "s1", "anna", &creating("anna", "sub-1")).await.unwrap();
    let invitation = NewInvitation { hash: "h1".into(), totp: "t".into(), expires: LATER, letter: None };
    acme.reset_user(&who("anna"), &invitation, NOW).await.unwrap();
    let finished = acme.finish_single_sign_on(("s1", "s1"), (&who("anna"), &session("t1", "anna")), NOW).await;
    assert!(matches!(finished, Err(StoreError::NotFound { .. })), "{finished:?}");
}

#[tokio::test]
async fn whoever_was_linked_is_known_by_the_provider_s_name_and_by_nothing_else() {
    let db = Database::new().await;
    let acme = db.account("acme").await;
    let invitation = NewInvitation { hash: "h1".into(), totp: "t".into(), expires: LATER, letter: None };
    acme.invite_user(&new_user("anna"), (&invitation, None), None, NOW).await.unwrap();
    let address = Sought::Email("anna@example.com".into());
    let user = async |subject: &str, sought: &Sought| acme.user_of(&identity(subject), sought).await.unwrap();
    let free = Known { who: who("anna"), may_act: true, is_taken: false };
    assert_eq!(user("sub-1", &address).await, Some(free.clone()), "an address is the same in all letters");
    assert_eq!(user("sub-1", &Sought::Name(who("anna"))).await, Some(free.clone()));
    assert_eq!(user("sub-1", &Sought::Name(who("bert"))).await, None);
    arrive(&acme, "c1", "anna", &only("sub-1")).await.unwrap();
    assert_eq!(acme.user(&who("anna")).await.unwrap().invited_until, None, "the invitation is used up");
    assert_eq!(user("sub-1", &Sought::Name(who("bert"))).await, Some(free.clone()), "whatever the claims say");
    let taken = Known { is_taken: true, ..free };
    assert_eq!(user("sub-2", &address).await, Some(taken), "an address that changed hands opens nothing");
    let stranger = arrive(&acme, "c2", "anna", &only("sub-2")).await;
    assert!(matches!(stranger, Err(StoreError::WrongState { .. })), "{stranger:?}");
    let twice = arrive(&acme, "c3", "bert", &creating("bert", "sub-1")).await;
    assert!(matches!(twice, Err(StoreError::WrongState { .. })), "{twice:?}");
    assert!(acme.user(&who("bert")).await.is_err());

    let other = NewUser { email: "ANNA@example.com".into(), ..new_user("carl") };
    let invitation = NewInvitation { hash: "h2".into(), ..invitation };
    acme.invite_user(&other, (&invitation, None), None, NOW).await.unwrap();
    assert_eq!(user("sub-3", &address).await, None, "an address of two users is that of nobody");
    let rival = db.account("rival").await;
    assert_eq!(rival.user_of(&identity("sub-1"), &address).await.unwrap(), None);

    acme.reset_user(&who("anna"), &NewInvitation { hash: "h3".into(), ..invitation }, NOW).await.unwrap();
    assert_eq!(user("sub-1", &Sought::Name(who("bert"))).await, None, "a reset takes the link away");
}

#[tokio::test]
async fn roles_follow_the_claims_and_those_that_a_person_gave_stay() {
    let db = Database::new().await;
    let acme = db.account("acme").await;
    let with = |wanted: &[&str]| Admission {
        roles: Some(wanted.iter().map(|&role| role.to_owned()).collect::<BTreeSet<_>>()),
        ..only("sub-1")
    };
    let first = Admission { new_user: Some(new_user("anna")), ..with(&["operator", "viewer"]) };
    arrive(&acme, "c1", "anna", &first).await.unwrap();
    assert_eq!(roles(&acme).await, ["operator", "viewer"]);
    let given =
        crate::NewBinding { home: acme.name().clone(), who: who("anna"), role: "release-manager".into(), filter: None };
    acme.bind_role(&given, None, NOW).await.unwrap();
    arrive(&acme, "c2", "anna", &with(&["viewer", "security-officer"])).await.unwrap();
    assert_eq!(roles(&acme).await, ["release-manager", "security-officer", "viewer"]);
    arrive(&acme, "c3", "anna", &only("sub-1")).await.unwrap();
    assert_eq!(roles(&acme).await.len(), 3, "claims that bring none change none");
    arrive(&acme, "c4", "anna", &with(&[])).await.unwrap();
    assert_eq!(roles(&acme).await, ["release-manager"]);
}

#[tokio::test]
async fn so_many_sign_ins_are_under_way_and_no_more_and_those_that_are_over_are_forgotten() {
    let db = Database::new().await;
    let (acme, wide) = (db.account("acme").await, db.store.service_wide());
    for number in 0..1001_u64 {
        let expires = UnixSeconds(LATER.0 + number);
        acme.begin_single_sign_on(&begin(&format!("s{number}"), expires), NOW).await.unwrap();
    }
    assert_eq!(wide.single_sign_on("s0").await.unwrap(), None, "whoever began longest ago begins anew");
    assert!(wide.single_sign_on("s1").await.unwrap().is_some());
    wide.forget_single_sign_ons(UnixSeconds(LATER.0 + 10)).await.unwrap();
    assert_eq!(wide.single_sign_on("s10").await.unwrap(), None);
    acme.begin_single_sign_on(&begin("next", UnixSeconds(LATER.0 + 9000)), UnixSeconds(LATER.0 + 2000)).await.unwrap();
    assert_eq!(wide.single_sign_on("s1000").await.unwrap(), None);
}
