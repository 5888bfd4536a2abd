//! Claims about the rules that come with the service, over every route of the API.

use std::collections::BTreeSet;

use cedar_policy::{Entities, Request};
use fleet_api::TokenScope;
use protocol_types::{AccountName, EndpointName, GroupName, UnixSeconds};

use super::*;

fn access() -> Access {
    Access::new(&crate::rest::openapi()).unwrap()
}

fn path() -> Vec<AccountName> {
    ["site", "customer"].map(|name| AccountName::new(name).unwrap()).to_vec()
}

fn user() -> Subject {
    Subject::Principal { home: path()[1].clone(), who: "user/anna".parse().unwrap() }
}

fn token() -> Subject {
    Subject::Token { home: path()[0].clone(), id: "t1".into() }
}

fn resource(action: &Action) -> Resource {
    let facts = DeviceFacts {
        standing: "active".into(),
        connected: true,
        tags: vec!["lab".into()],
        attributes: vec![("rack".into(), "7".into())],
        groups: vec!["north".into()],
    };
    let device = action.on_device.then(|| (EndpointName::new("gate-1").unwrap(), facts));
    Resource { path: path(), device }
}

fn ask(
    access: &Access,
    book: &PolicyBook,
    (subject, roles, scopes): (&Subject, &[&str], &[&str]),
    name: &str,
) -> Decision {
    let action = access.routes.named(name).unwrap();
    let scopes: Vec<String> = scopes.iter().map(|&scope| scope.to_owned()).collect();
    let resource = resource(action);
    decide(
        book,
        &Question {
            subject,
            roles: roles.iter().map(|&role| role.to_owned()).collect(),
            scopes: &scopes,
            second_factor: false,
            address: "192.0.2.1",
            now: UnixSeconds(1),
            action,
            resource: &resource,
        },
    )
}

fn extended(access: &Access, policy: &str) -> PolicyBook {
    access.check_policy(policy).unwrap();
    let row = fleet_store::PolicyRow {
        account: path()[0].clone(),
        name: GroupName::new("own").unwrap(),
        policy: policy.into(),
        created: UnixSeconds(1),
        revision: 1,
    };
    access.builtin.with(&[row]).unwrap()
}

#[test]
fn the_policies_of_the_service_keep_to_their_own_schema() {
    let access = access();
    for policy in access.builtin.texts() {
        access.check_policy(&policy.text).unwrap_or_else(|fault| panic!("{}: {fault:?}", policy.id));
    }
    for role in ROLES {
        assert!(access.builtin.texts().iter().any(|policy| policy.id == format!("role-{}", role.name)), "{role:?}");
    }
}

#[test]
fn the_facts_of_every_action_have_the_form_that_the_schema_promises() {
    let access = access();
    for action in access.routes.actions() {
        for subject in [user(), token()] {
            let resource = resource(action);
            let question = Question {
                subject: &subject,
                roles: ["viewer".to_owned()].into(),
                scopes: &["read".to_owned()],
                second_factor: true,
                address: "::1",
                now: UnixSeconds(1),
                action,
                resource: &resource,
            };
            let (request, entities) = decide::asked(&question).unwrap();
            // Actions and groups of them come from the schema itself when it is given.
            let actions = "Action".parse().unwrap();
            let things = entities.into_iter().filter(|entity| *entity.uid().type_name() != actions);
            Entities::from_entities(things, Some(&access.schema)).unwrap_or_else(|e| panic!("{action:?}: {e}"));
            let [who, what, on] =
                [request.principal(), request.action(), request.resource()].map(|uid| uid.unwrap().clone());
            let context = request.context().unwrap().clone();
            Request::new(who, what, on, context, Some(&access.schema)).unwrap_or_else(|e| panic!("{action:?}: {e}"));
        }
    }
}

#[test]
fn each_role_allows_what_its_title_says_and_no_more() {
    let access = access();
    let allowed = |role: &str| -> BTreeSet<String> {
        let may =
            |action: &&Action| ask(&access, &access.builtin, (&user(), &[role], &["admin"]), &action.name).allowed;
        access.routes.actions().filter(may).map(|action| action.name.clone()).collect()
    };
    let of = |scope: TokenScope| -> BTreeSet<String> {
        access.routes.actions().filter(|action| action.scope == scope).map(|action| action.name.clone()).collect()
    };
    let (read, operate, publish, enrol) =
        (of(TokenScope::Read), of(TokenScope::Operate), of(TokenScope::Publish), of(TokenScope::Enrol));
    assert_eq!(allowed("viewer"), read);
    assert_eq!(allowed("operator"), &read | &operate);
    let releases = allowed("release-manager");
    assert!(releases.is_superset(&(&read | &publish)) && releases.contains("start_rollout"));
    assert!(!releases.contains("suspend_device") && !releases.contains("create_enrolment"), "{releases:?}");
    let security = allowed("security-officer");
    assert!(security.is_superset(&(&read | &enrol)));
    for (action, may) in [
        ("suspend_device", true),
        ("export_audit", true),
        ("revoke_token", true),
        ("create_token", false),
        ("create_role_binding", false),
        ("save_policy", false),
        ("reset_device", false),
        ("publish_metadata", false),
    ] {
        assert_eq!(security.contains(action), may, "{action}");
    }
    assert_eq!(allowed("administrator").len(), access.routes.actions().count());
    let nobody: BTreeSet<String> = ["sign_out", "change_password"].map(str::to_owned).into();
    let without = |action: &&Action| ask(&access, &access.builtin, (&user(), &[], &["admin"]), &action.name).allowed;
    let without: BTreeSet<String> = access.routes.actions().filter(without).map(|action| action.name.clone()).collect();
    assert_eq!(without, nobody, "without a role a person may leave and look after their password, and no more");
}

#[test]
fn a_token_allows_what_its_scopes_say_whatever_the_roles_of_its_principal() {
    let access = access();
    for action in access.routes.actions() {
        for scope in TokenScope::ALL {
            let wanted = *scope == action.scope || *scope == TokenScope::Admin;
            let scopes = [scope.as_str()];
            for (subject, roles) in [(token(), &[][..]), (user(), &["administrator"][..])] {
                let decision = ask(&access, &access.builtin, (&subject, roles, &scopes), &action.name);
                assert_eq!(decision.allowed, wanted, "{subject} with {scope}: {action:?}");
                if !wanted {
                    assert_eq!(decision.deciding, [format!("scope-{}", action.scope)]);
                }
            }
        }
    }
}

#[test]
fn a_policy_of_an_account_decides_by_what_is_known_of_the_device_and_is_named() {
    let access = access();
    let lab = extended(
        &access,
        r#"forbid(principal, action == Action::"reset_device", resource in Account::"customer")
           when { resource.tags.contains("lab") && resource.hasTag("rack") && resource.getTag("rack") == "7" };"#,
    );
    let decision = ask(&access, &lab, (&user(), &["operator"], &["admin"]), "reset_device");
    assert_eq!((decision.allowed, decision.deciding), (false, vec!["site/own".to_owned()]));
    assert!(ask(&access, &lab, (&user(), &["operator"], &["admin"]), "suspend_device").allowed);

    let more = extended(
        &access,
        r#"permit(principal == User::"customer/anna", action == Action::"suspend_device", resource in Group::"north");"#,
    );
    let decision = ask(&access, &more, (&user(), &["viewer"], &["admin"]), "suspend_device");
    assert_eq!((decision.allowed, decision.deciding), (true, vec!["site/own".to_owned()]));
    assert!(!ask(&access, &more, (&user(), &["viewer"], &["admin"]), "resume_device").allowed);
    assert_eq!(more.groups(), ["north".to_owned()].into());
}

#[test]
fn a_faulty_policy_is_refused_at_the_place() {
    let access = access();
    for (policy, at) in [
        ("permit(principal, action == Action::\"reboot_devise\", resource);", "Action::\"reboot_devise\""),
        ("permit(principal, action, resource) when { resource.colour == 1 };", "resource.colour"),
        ("permit(principal, action, resource", ""),
        (
            "permit(principal, action == Action::\"list_groups\", resource) when { resource.standing == \"active\" };",
            "resource.standing",
        ),
        (
            "permit(principal, action == Action::\"show_device\", resource) when { resource.getTag(\"rack\") == \"7\" };",
            "resource.getTag(\"rack\")",
        ),
    ] {
        let fault = access.check_policy(policy).unwrap_err();
        let (before, length) = fault.place.unwrap_or_else(|| panic!("{policy}: {fault:?}"));
        let blamed: String = policy.chars().skip(before).take(length).collect();
        assert!(at.is_empty() || blamed.contains(at) || at.contains(&blamed), "{policy}: {blamed:?} {fault:?}");
        assert!(!fault.message.is_empty());
    }
    assert!(access.check_policy(&format!("// {}", "x".repeat(9000))).unwrap_err().message.contains("8192"));
    assert!(access.check_policy("permit(principal, action, resource);\npermit(principal, action, resource);").is_err());
}

#[test]
fn the_actions_on_devices_are_those_whose_path_names_one() {
    let access = access();
    let on_devices: BTreeSet<&str> =
        access.routes.actions().filter(|action| action.on_device).map(|action| action.name.as_str()).collect();
    assert!(on_devices.is_superset(&["show_device", "change_device", "delete_device", "reset_device"].into()));
    assert!(!on_devices.contains("list_devices") && !on_devices.contains("list_rollout_devices"));
    let narrowed: BTreeSet<&str> =
        access.routes.actions().filter(|action| action.narrowed).map(|action| action.name.as_str()).collect();
    assert_eq!(narrowed, ["count_devices", "export_devices", "list_devices", "summarise_metric"].into());
}
