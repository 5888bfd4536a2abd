//! Claims about merging documents, the origin of settings, differences, and how a device stands.

use fleet_api::ConfigurationStatus;
use fleet_store::{ConfigurationLevel, ConfigurationReport, ConfigurationRow, GivenConfiguration};
use proptest::prelude::*;
use protocol_types::{ConfigurationState, Digest, RevisionStanding, UnixSeconds};
use serde_json::{Map, Value, json};

use super::{changes, diff::settings, effective, merge::merge, replaced, status};

fn map(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

/// MergePatch as the pseudo-code of RFC 7396, section 2, has it.
fn by_the_book(target: Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else { return patch.clone() };
    let mut target = if let Value::Object(target) = target { target } else { Map::new() };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            let before = target.remove(key).unwrap_or(Value::Null);
            target.insert(key.clone(), by_the_book(before, value));
        }
    }
    Value::Object(target)
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0_i64..3).prop_map(Value::from),
        "[a-c/~]{0,2}".prop_map(Value::from),
        Just(json!([1, { "b": 1, "a": 2 }])),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        proptest::collection::vec(("[a-c/~]{1,2}", inner), 0..4)
            .prop_map(|entries| Value::Object(entries.into_iter().collect()))
    })
}

fn document() -> impl Strategy<Value = Map<String, Value>> {
    proptest::collection::vec(("[a-c/~]{1,2}", value()), 0..5).prop_map(|entries| entries.into_iter().collect())
}

proptest! {
    #[test]
    fn documents_merge_as_rfc_7396_says(documents in proptest::collection::vec(document(), 0..5)) {
        let book = documents.iter().fold(json!({}), |all, next| by_the_book(all, &Value::Object(next.clone())));
        let (merged, _) = merge(&documents);
        prop_assert_eq!(Value::Object(merged), book);
    }

    #[test]
    fn every_setting_comes_from_a_document_that_says_so(documents in proptest::collection::vec(document(), 0..5)) {
        let (merged, origins) = merge(&documents);
        let all = settings(&merged);
        prop_assert_eq!(all.keys().collect::<Vec<_>>(), origins.keys().collect::<Vec<_>>());
        for (path, value) in all {
            let from = Value::Object(documents[origins[&path]].clone());
            let said = from.pointer(&path);
            // An object may be empty because its document, or one before it, took everything away.
            let is_emptied = value.as_object().is_some_and(Map::is_empty) && said.is_some_and(Value::is_object);
            prop_assert!(is_emptied || said == Some(value), "{path}");
        }
    }

    #[test]
    fn nothing_differs_from_itself_and_each_difference_is_one(before in document(), after in document()) {
        prop_assert!(changes(&before, &before).is_empty());
        let there = changes(&before, &after);
        let back = changes(&after, &before);
        prop_assert_eq!(there.len(), back.len());
        for (there, back) in there.iter().zip(&back) {
            prop_assert!(there.before != there.after);
            prop_assert_eq!((&there.path, &there.before, &there.after), (&back.path, &back.after, &back.before));
        }
        prop_assert_eq!(there.is_empty(), settings(&before) == settings(&after));
    }
}

fn row(level: ConfigurationLevel, priority: u32, document: Value) -> ConfigurationRow {
    let (standing, changed) = (RevisionStanding::InForce, UnixSeconds(1));
    ConfigurationRow { level, priority, document: map(document), revision: 1, changed, standing, released: None }
}

fn group(name: &str, priority: u32, document: Value) -> ConfigurationRow {
    row(ConfigurationLevel::Group(name.parse().unwrap()), priority, document)
}

#[test]
fn the_device_comes_over_its_groups_and_these_over_the_account() {
    let device = ConfigurationLevel::Device("gate-1".parse().unwrap());
    let layers = [
        row(ConfigurationLevel::Account, 0, json!({ "hostname": "all", "contact_limit_s": 60, "time_servers": ["a"] })),
        group("doors", 100, json!({ "hostname": "doors", "time_servers": null })),
        row(device, 0, json!({ "log_levels": { "agent": "debug" } })),
    ];
    let whole = effective(&layers);
    assert_eq!(whole.invalid, None);
    assert_eq!(whole.text, r#"{"contact_limit_s":60,"hostname":"doors","log_levels":{"agent":"debug"}}"#);
    let from: Vec<(&str, usize)> = whole.settings.iter().map(|(path, _, from)| (path.as_str(), *from)).collect();
    assert_eq!(from, [("/contact_limit_s", 0), ("/hostname", 1), ("/log_levels/agent", 2)]);
}

#[test]
fn a_document_in_a_preview_stands_where_it_would_stand_when_saved() {
    let layers = [
        row(ConfigurationLevel::Account, 0, json!({ "hostname": "all" })),
        group("b", 100, json!({ "hostname": "b" })),
        group("c", 200, json!({ "hostname": "c" })),
    ];
    let hostname = |wanted: ConfigurationRow| effective(&replaced(&layers, &wanted)).document["hostname"].clone();
    assert_eq!(hostname(group("a", 100, json!({ "hostname": "a" }))), "c");
    assert_eq!(hostname(group("a", 201, json!({ "hostname": "a" }))), "a");
    assert_eq!(hostname(group("c", 50, json!({ "hostname": "c" }))), "b", "its priority sinks with the same preview");
    assert_eq!(hostname(group("c", 200, json!({}))), "b");
}

#[test]
fn documents_that_do_not_fit_together_are_given_to_no_device() {
    let layers = [
        row(ConfigurationLevel::Account, 0, json!({ "network": { "eth0": { "gateway": "192.0.2.1" } } })),
        group("doors", 100, json!({ "network": { "eth0": { "addresses": ["192.0.2.7/24"] } } })),
    ];
    assert_eq!(effective(&layers).invalid, None);
    let alone = effective(&layers[..1]);
    assert!(alone.invalid.as_ref().is_some_and(|why| why.contains("eth0")), "{alone:?}");
    assert_eq!(status(&alone, None), ConfigurationStatus::Invalid);
}

#[test]
fn how_a_device_stands_follows_from_what_it_says() {
    let wanted = effective(&[row(ConfigurationLevel::Account, 0, json!({ "hostname": "a" }))]);
    assert_eq!(status(&effective(&[]), None), ConfigurationStatus::Unset);
    assert_eq!(status(&wanted, None), ConfigurationStatus::Waiting);
    let given = |state, generation, digest| GivenConfiguration {
        generation: 2,
        acknowledged: 2,
        document: wanted.text.clone(),
        digest: wanted.digest(),
        changed: UnixSeconds(1),
        report: Some((ConfigurationReport { state, generation, digest, reason: None }, UnixSeconds(2))),
        confirmed: None,
    };
    let own = Some(wanted.digest());
    for (state, generation, digest, expected) in [
        (ConfigurationState::Confirmed, 1, own, ConfigurationStatus::Waiting),
        (ConfigurationState::None, 2, None, ConfigurationStatus::Waiting),
        (ConfigurationState::Trial, 2, own, ConfigurationStatus::Trial),
        (ConfigurationState::Confirmed, 2, own, ConfigurationStatus::InForce),
        (ConfigurationState::Confirmed, 2, Some(Digest::of(b"else")), ConfigurationStatus::Drifted),
        (ConfigurationState::Refused, 2, None, ConfigurationStatus::Refused),
        (ConfigurationState::Undone, 2, None, ConfigurationStatus::Undone),
    ] {
        assert_eq!(status(&wanted, Some(&given(state, generation, digest))), expected, "{state}");
    }
    // A later save makes whatever was said the past.
    let newer = effective(&[row(ConfigurationLevel::Account, 0, json!({ "hostname": "b" }))]);
    let said = given(ConfigurationState::Confirmed, 2, own);
    assert_eq!(status(&newer, Some(&said)), ConfigurationStatus::Waiting);
}
