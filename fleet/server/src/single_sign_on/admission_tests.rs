//! Who is let in, as whom, with which roles.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn settings() -> ProviderSettings {
    ProviderSettings {
        issuer: "https://login.example".into(),
        client_id: "mbl".into(),
        scopes: Vec::new(),
        user_claim: "email".into(),
        domains: vec!["example.com".into()],
        role_claim: None,
        roles: BTreeMap::new(),
        create_users: false,
        default_role: None,
        required: false,
        break_glass: None,
    }
}

fn token(claims: Value) -> IdToken {
    IdToken { subject: "person-1".into(), claims: claims.as_object().unwrap().clone() }
}

fn anna() -> IdToken {
    token(json!({"email": "Anna@Example.com", "email_verified": true, "name": "Anna"}))
}

fn who(name: &str) -> PrincipalName {
    format!("user/{name}").parse().unwrap()
}

/// The user who is found.
fn known() -> Known {
    Known { who: who("anna"), may_act: true, is_taken: false }
}

#[test]
fn an_address_counts_if_it_is_verified_and_of_a_listed_domain() {
    assert_eq!(read(&settings(), &anna()).unwrap().sought, Sought::Email("anna@example.com".into()));
    let said = |claims| read(&settings(), &token(claims)).unwrap_err();
    assert_eq!(said(json!({"email": "anna@example.com"})), NotAdmitted::NotVerified);
    assert_eq!(said(json!({"email": "anna@example.com", "email_verified": false})), NotAdmitted::NotVerified);
    assert_eq!(said(json!({"email_verified": true})), NotAdmitted::NoClaim("email".into()));
    for stranger in
        ["anna@example.org", "anna@example.com.evil.example", "anna@evil.example@example.org", "example.com"]
    {
        let refused = said(json!({"email": stranger, "email_verified": true}));
        assert!(matches!(refused, NotAdmitted::Domain(_)), "{stranger}: {refused:?}");
    }
    // Another claim names the user, and the domain still counts.
    let by_name = ProviderSettings { user_claim: "preferred_username".into(), ..settings() };
    let claims = json!({"preferred_username": "Anna.B", "email": "anna@example.com", "email_verified": "true"});
    assert_eq!(read(&by_name, &token(claims)).unwrap().sought, Sought::Name(who("anna.b")));
    let refused = read(&by_name, &token(json!({"preferred_username": "anna"}))).unwrap_err();
    assert_eq!(refused, NotAdmitted::NoClaim("email".into()));
    let anywhere = ProviderSettings { domains: Vec::new(), ..by_name };
    assert!(read(&anywhere, &token(json!({"preferred_username": "anna"}))).is_ok());
    let refused = read(&anywhere, &token(json!({"preferred_username": "anna b"}))).unwrap_err();
    assert_eq!(refused, NotAdmitted::Name("anna b".into()));
}

#[test]
fn only_a_user_who_may_act_and_is_nobody_else_s_is_let_in() {
    let admitted = |known| admit(&settings(), read(&settings(), &anna()).unwrap(), known);
    let (as_whom, admission) = admitted(Some(known())).unwrap();
    assert_eq!((as_whom, admission.new_user, admission.roles), (who("anna"), None, None));
    assert_eq!(admitted(Some(Known { is_taken: true, ..known() })).unwrap_err(), NotAdmitted::Taken);
    assert_eq!(admitted(Some(Known { may_act: false, ..known() })).unwrap_err(), NotAdmitted::Disabled);
    assert_eq!(admitted(None).unwrap_err(), NotAdmitted::NoUser);
}

#[test]
fn somebody_new_becomes_a_user_only_where_the_settings_say_so() {
    let settings = ProviderSettings { create_users: true, default_role: Some("viewer".into()), ..settings() };
    let (as_whom, admission) = admit(&settings, read(&settings, &anna()).unwrap(), None).unwrap();
    assert_eq!(as_whom, who("anna@example.com"));
    let user = NewUser { who: who("anna@example.com"), title: "Anna".into(), email: "anna@example.com".into() };
    assert_eq!((admission.new_user, admission.first_role.as_deref()), (Some(user), Some("viewer")));
    let long = format!("{}@example.com", "a".repeat(60));
    let claimed = read(&settings, &token(json!({"email": long, "email_verified": true}))).unwrap();
    assert!(matches!(admit(&settings, claimed, None), Err(NotAdmitted::Name(_))));
}

#[test]
fn a_claim_brings_the_roles_of_its_values_and_otherwise_the_one_for_everybody() {
    let mut settings = ProviderSettings {
        domains: Vec::new(),
        user_claim: "sub_name".into(),
        role_claim: Some("groups".into()),
        roles: BTreeMap::from([("ops".into(), "operator".into()), ("boss".into(), "administrator".into())]),
        ..settings()
    };
    let brought = |settings: &ProviderSettings, claims: Value| {
        let mut claims = claims;
        claims["sub_name"] = json!("anna");
        let (_, admission) = admit(settings, read(settings, &token(claims)).unwrap(), Some(known())).unwrap();
        assert_eq!(admission.first_role, None);
        admission.roles.unwrap().into_iter().collect::<Vec<_>>()
    };
    assert_eq!(brought(&settings, json!({"groups": ["ops", "boss", "ops", "cooks"]})), ["administrator", "operator"]);
    assert_eq!(brought(&settings, json!({"groups": "ops"})), ["operator"]);
    for none in [json!({"groups": ["cooks"]}), json!({"groups": 7}), json!({})] {
        assert!(brought(&settings, none).is_empty());
    }
    settings.default_role = Some("viewer".into());
    assert_eq!(brought(&settings, json!({"groups": ["cooks"]})), ["viewer"]);
    assert_eq!(brought(&settings, json!({"groups": ["ops"]})), ["operator"]);
    settings.role_claim = Some("/realm_access/roles".into());
    assert_eq!(brought(&settings, json!({"realm_access": {"roles": ["boss"]}})), ["administrator"]);
    settings.role_claim = Some("/https:~1~1example.com~1roles".into());
    assert_eq!(brought(&settings, json!({"https://example.com/roles": ["ops"]})), ["operator"]);
}

#[test]
fn several_factors_count_if_the_provider_says_so() {
    for (amr, second_factor) in [(json!(["pwd", "mfa"]), true), (json!(["pwd"]), false), (json!("mfa"), false)] {
        let mut anna = anna();
        anna.claims.insert("amr".into(), amr);
        assert_eq!(read(&settings(), &anna).unwrap().second_factor, second_factor);
    }
}

proptest! {
    #[test]
    fn whatever_an_address_says_nobody_of_another_domain_is_let_in(address in "[ -~]{0,40}") {
        let claims = json!({"email": address, "email_verified": true});
        if read(&settings(), &token(claims)).is_ok() {
            prop_assert!(address.to_lowercase().ends_with("@example.com"));
        }
    }
}
