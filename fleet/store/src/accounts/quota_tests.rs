//! Quotas, on both databases: held for an account and those below it together, and by every account above.

use protocol_types::{AccountName, Digest, EndpointName, GroupName, ReasonCode, UnixSeconds};

use crate::{
    AccountScope, EnrolmentRule, FactoryIdentity, GroupChange, NewAccount, NewAuthority, NewToken, QuotaKind,
    StoreError,
    tests::{Database, NOW},
};

fn name(text: &str) -> AccountName {
    AccountName::new(text).unwrap()
}

/// `org` above `customer` above `site`; and `rival` beside them.
async fn tree(db: &Database) -> [AccountScope; 4] {
    let by = db.account("default").await;
    for (account, parent) in [("org", None), ("customer", Some("org")), ("site", Some("customer")), ("rival", None)] {
        let wanted = NewAccount { name: name(account), title: String::new(), parent: parent.map(name) };
        db.store.create_account(&by, &wanted, None, NOW).await.unwrap();
    }
    ["org", "customer", "site", "rival"].map(|account| db.store.account(&name(account)))
}

async fn set(account: &AccountScope, kind: QuotaKind, most: Option<u64>) {
    account.set_quotas(account, &[(kind, most)], NOW).await.unwrap();
}

async fn group(account: &AccountScope, group: &str) -> Result<(), StoreError> {
    account.create_group(&GroupName::new(group).unwrap(), &GroupChange::default(), None, NOW).await.map(drop)
}

fn by_whom(result: Result<(), StoreError>) -> String {
    match result {
        Err(StoreError::QuotaExceeded { account, .. }) => account,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_quota_holds_for_the_account_and_all_below_it_together_and_for_nobody_beside() {
    let db = Database::new().await;
    let [org, customer, site, rival] = tree(&db).await;
    set(&org, QuotaKind::Groups, Some(3)).await;
    set(&site, QuotaKind::Groups, Some(1)).await;
    group(&site, "a").await.unwrap();
    assert_eq!(by_whom(group(&site, "b").await), "site", "the nearest quota");
    group(&customer, "b").await.unwrap();
    group(&org, "c").await.unwrap();
    assert_eq!(by_whom(group(&customer, "d").await), "org", "the ceiling from above");
    for other in ["a", "b", "c", "d"] {
        group(&rival, other).await.unwrap();
    }
    set(&org, QuotaKind::Groups, Some(1)).await;
    let row = org.quotas(NOW).await.unwrap().into_iter().find(|row| row.kind == QuotaKind::Groups).unwrap();
    assert_eq!((row.most, row.used), (Some(1), 3), "a lower quota takes nothing away");
    set(&org, QuotaKind::Groups, None).await;
    group(&customer, "d").await.unwrap();
    assert_eq!(by_whom(group(&site, "b").await), "site");
}

#[tokio::test]
async fn what_ends_or_was_revoked_no_longer_counts() {
    let db = Database::new().await;
    let [org, ..] = tree(&db).await;
    set(&org, QuotaKind::Tokens, Some(2)).await;
    let make = async |id: &str, expires: Option<u64>, now: u64| {
        let token = NewToken {
            id: id.into(),
            name: id.into(),
            hash: format!("hash of {id}"),
            scopes: "read".into(),
            expires: expires.map(UnixSeconds),
            is_first: false,
            principal: None,
        };
        org.create_token(&token, None, UnixSeconds(now)).await.map(drop)
    };
    make("t1", Some(200), 100).await.unwrap();
    make("t2", None, 100).await.unwrap();
    assert_eq!(by_whom(make("t3", None, 199).await), "org");
    make("t3", None, 200).await.unwrap();
    assert_eq!(by_whom(make("t4", None, 201).await), "org");
    org.revoke_token("t2", UnixSeconds(201)).await.unwrap();
    make("t4", None, 201).await.unwrap();
}

#[tokio::test]
async fn an_account_that_could_not_have_a_token_is_not_made() {
    let db = Database::new().await;
    let [org, customer, ..] = tree(&db).await;
    set(&org, QuotaKind::Tokens, Some(0)).await;
    let wanted = NewAccount { name: name("late"), title: String::new(), parent: Some(name("customer")) };
    assert_eq!(by_whom(db.store.create_account(&customer, &wanted, None, NOW).await.map(drop)), "org");
    assert!(db.store.account(&name("late")).account_row().await.is_err());
    set(&org, QuotaKind::Tokens, Some(1)).await;
    db.store.create_account(&customer, &wanted, None, NOW).await.unwrap();
}

#[tokio::test]
async fn bytes_and_principals_are_counted_across_the_family() {
    let db = Database::new().await;
    let [org, customer, site, _] = tree(&db).await;
    set(&org, QuotaKind::ArtifactBytes, Some(100)).await;
    set(&org, QuotaKind::Principals, Some(1)).await;
    let begin = async |account: &AccountScope, bytes: &[u8], size| {
        account.begin_artifact(&Digest::of(bytes), size, u64::MAX, NOW).await.map(drop)
    };
    begin(&customer, b"one", 60).await.unwrap();
    assert_eq!(by_whom(begin(&site, b"two", 41).await), "org");
    begin(&site, b"two", 40).await.unwrap();
    begin(&site, b"two", 40).await.unwrap();
    let who = |text: &str| text.parse().unwrap();
    site.create_principal((&who("service/ci"), ""), None, NOW).await.unwrap();
    let refused = customer.create_principal((&who("service/ci"), ""), None, NOW).await.map(drop);
    assert_eq!(by_whom(refused), "org");
}

#[tokio::test]
async fn a_device_that_is_one_too_many_is_turned_away_with_the_reason_and_may_come_again() {
    let db = Database::new().await;
    let [_, customer, site, _] = tree(&db).await;
    let authority = NewAuthority {
        name: "factory".into(),
        subject: "CN=factory".into(),
        fingerprint: Digest::of(b"factory").hex(),
        certificate: b"certificate".to_vec(),
        not_after: UnixSeconds(u64::from(u32::MAX)),
    };
    let authority = site.add_authority(&authority, None, NOW).await.unwrap().id;
    site.add_enrolment(&EnrolmentRule::new(None, Some(authority.clone())).unwrap(), NOW).await.unwrap();
    set(&customer, QuotaKind::Devices, Some(1)).await;
    let admit = async |endpoint: &str| {
        let endpoint = EndpointName::new(endpoint).unwrap();
        let fingerprint = [endpoint.as_str().len().try_into().unwrap(); 32];
        let device =
            FactoryIdentity { endpoint: &endpoint, authority: &authority, serial: "f1", fingerprint: &fingerprint };
        site.admit(device, NOW).await.unwrap().map(drop)
    };
    assert_eq!(admit("gate-1").await, Ok(()));
    assert_eq!(admit("gate-1").await, Ok(()), "a device that is there already is not one more");
    assert_eq!(admit("gate-22").await, Err(ReasonCode::QuotaExceeded));
    assert_eq!(site.denials_before(None, 10).await.unwrap()[0].reason, "quota_exceeded");
    set(&customer, QuotaKind::Devices, Some(2)).await;
    assert_eq!(admit("gate-22").await, Ok(()));
}
