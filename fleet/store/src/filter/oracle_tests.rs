//! Databases answer filters as a plain reading of them does: random devices, random filters, both databases.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{Config, TestRunner},
};
use protocol_types::{Digest, EndpointName, GroupName, ReleaseVersion, SecurityVersion, Slot, UnixSeconds};

use super::{
    Check, Filter, Node,
    field::Source,
    value::{Order, Value},
};
use crate::{
    AccountScope, AttributeValue, ComponentRow, DeviceChange, DeviceReport, GroupChange, Nameplate, StoreError,
    tests::{Database, NOW},
};

const DEVICES: usize = 40;
const FILTERS: usize = 400;

/// A device as the test knows it.
#[derive(Clone, Debug)]
struct Known {
    name: EndpointName,
    model: Option<String>,
    os: Option<String>,
    slot: Option<Slot>,
    floor: Option<u32>,
    last_seen: Option<u64>,
    attribute: Option<AttributeValue>,
    tags: BTreeSet<String>,
    groups: BTreeSet<String>,
}

fn device(index: usize) -> impl Strategy<Value = Known> {
    let model = prop::option::of(prop::sample::select(vec!["m1", "M1", "m%", "m_2", "größe"]).prop_map(str::to_owned));
    let os = prop::option::of(
        prop::sample::select(vec!["1.9.0", "1.10.0", "1.10.0-rc.1", "2.0.0", "not a version"]).prop_map(str::to_owned),
    );
    let attribute = prop::option::of(prop_oneof![
        (-3..4_i8).prop_map(|n| AttributeValue::Number(f64::from(n) / 2.0)),
        prop::sample::select(vec!["red", "1", ""]).prop_map(|text| AttributeValue::Text(text.to_owned())),
    ]);
    let names = |of: &'static [&'static str]| {
        prop::collection::btree_set(prop::sample::select(of).prop_map(str::to_owned), 0..=2)
    };
    let report = prop::option::of((prop::sample::select(vec![Slot::A, Slot::B]), 0..4_u32));
    let seen = prop::option::of(0..NOW.0);
    (model, os, report, seen, attribute, names(&["new", "old"]), names(&["north", "south"])).prop_map(
        move |(model, os, report, last_seen, attribute, tags, groups)| Known {
            name: format!("gate-{index}").parse().unwrap(),
            model,
            os,
            slot: report.map(|(slot, _)| slot),
            floor: report.map(|(_, floor)| floor),
            last_seen,
            attribute,
            tags,
            groups,
        },
    )
}

fn test() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "model = \"m1\"",
        "model != \"m1\"",
        "model in (\"M1\", \"m_2\")",
        "model ~ \"m*\"",
        "model ~ \"?1\"",
        "model ~ \"m_*\"",
        "model exists",
        "name ~ \"gate-1*\"",
        "os.version < \"1.10.0\"",
        "os.version >= \"1.10.0-rc.1\"",
        "os.version = \"1.10.0\"",
        "os.version exists",
        "slot = a",
        "floor >= 2",
        "floor != 1",
        "last_seen < ago(20000d)",
        "last_seen exists",
        "attribute.x = 1",
        "attribute.x > -0.5",
        "attribute.x = \"1\"",
        "attribute.x ~ \"r*\"",
        "attribute.x exists",
        "attribute.y exists",
        "tag = \"new\"",
        "tag != \"new\"",
        "tag in (\"new\", \"old\")",
        "group = \"north\"",
        "group != \"north\"",
        "group = \"both\"",
        "group = \"first\"",
        "group in (\"south\", \"first\")",
        "standing = active",
        "connected = true",
        "presence in (late, lost)",
        "presence = sleeping",
    ])
    .prop_map(str::to_owned)
}

fn filter() -> impl Strategy<Value = String> {
    test().prop_recursive(4, 12, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|a| format!("not {a}")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) and ({b})")),
            (inner.clone(), inner).prop_map(|(a, b)| format!("({a} or {b})")),
        ]
    })
}

/// What the field of a device holds.
fn values(device: &Known, source: &Source) -> Vec<Value> {
    let text = |text: Option<&str>| text.map(|text| Value::Text(text.to_owned())).into_iter().collect();
    match source {
        Source::Device("endpoint") => text(Some(device.name.as_str())),
        Source::Device("model") => text(device.model.as_deref()),
        Source::Device("standing") => text(Some("active")),
        Source::Device("connected") => vec![Value::Truth(false)],
        Source::Device("last_seen") => {
            device.last_seen.map(|time| Value::Time(super::value::Time::At(UnixSeconds(time)))).into_iter().collect()
        }
        Source::Presence => text(Some("lost")),
        Source::Report("slot") => text(device.slot.map(|slot| slot.letter().to_string()).as_deref()),
        Source::Report("floor") => device.floor.map(|floor| Value::Number(f64::from(floor))).into_iter().collect(),
        Source::Component { name, column: "version" } if name == "os" => device
            .os
            .as_deref()
            .and_then(|os| os.parse::<ReleaseVersion>().ok())
            .map(Value::Version)
            .into_iter()
            .collect(),
        Source::Attribute(key) if key == "x" => match &device.attribute {
            Some(AttributeValue::Number(number)) => vec![Value::Number(*number), Value::Text(number.to_string())],
            Some(AttributeValue::Text(value)) => text(Some(value)),
            None => Vec::new(),
        },
        Source::Attribute(_) => Vec::new(),
        Source::Tag => device.tags.iter().cloned().map(Value::Text).collect(),
        // `both` includes the other two; `first` is a filter that asks about `both`.
        Source::Group => {
            let mut groups = device.groups.clone();
            if !groups.is_empty() {
                groups.insert("both".to_owned());
                if device.model.as_deref() == Some("m1") {
                    groups.insert("first".to_owned());
                }
            }
            groups.into_iter().map(Value::Text).collect()
        }
        other => panic!("the test knows no {other:?}"),
    }
}

fn like(pattern: &[char], text: &[char]) -> bool {
    match (pattern, text) {
        ([], []) => true,
        (['*', rest @ ..], _) => like(rest, text) || (!text.is_empty() && like(pattern, &text[1..])),
        (['?', rest @ ..], [_, more @ ..]) => like(rest, more),
        ([a, rest @ ..], [b, more @ ..]) => a == b && like(rest, more),
        _ => false,
    }
}

fn holds(device: &Known, node: &Node) -> bool {
    match node {
        Node::All(nodes) => nodes.iter().all(|node| holds(device, node)),
        Node::Any(nodes) => nodes.iter().any(|node| holds(device, node)),
        Node::Not(node) => !holds(device, node),
        Node::Test(field, check) => values(device, &field.source).iter().any(|value| match check {
            Check::Exists => true,
            Check::OneOf(wanted) => wanted.contains(value),
            Check::Compare(order, wanted) => {
                let compared = match (value, wanted) {
                    (Value::Number(a), Value::Number(b)) => a.partial_cmp(b),
                    (Value::Version(a), Value::Version(b)) => a.partial_cmp(b),
                    (Value::Time(a), Value::Time(b)) => a.at(NOW).partial_cmp(&b.at(NOW)),
                    _ => None,
                };
                compared.is_some_and(|compared| match order {
                    Order::Less => compared.is_lt(),
                    Order::AtMost => compared.is_le(),
                    Order::More => compared.is_gt(),
                    Order::AtLeast => compared.is_ge(),
                })
            }
            Check::Matches(pattern) => {
                let characters = |text: &str| text.chars().collect::<Vec<_>>();
                value.text().is_some_and(|text| like(&characters(&pattern.0), &characters(text)))
            }
        }),
    }
}

async fn store(db: &Database, account: &AccountScope, device: &Known) {
    let mut tx = db.store.write().await.unwrap();
    sqlx::query("INSERT INTO devices (account, endpoint, created, last_seen) VALUES ('one', $1, 0, $2)")
        .bind(device.name.as_str())
        .bind(device.last_seen.map(crate::numbers::to_sql))
        .execute(tx.sql())
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let nameplate = Nameplate { model: device.model.clone(), ..Nameplate::default() };
    account.set_nameplate(&device.name, &nameplate).await.unwrap();
    let components: Vec<ComponentRow> = device
        .os
        .iter()
        .map(|os| ComponentRow { name: "os".into(), version: os.clone(), digest: Digest::of(b"os"), state: None })
        .collect();
    account.set_components(&device.name, &components).await.unwrap();
    if let Some(floor) = device.floor {
        let report = DeviceReport { slot: device.slot, floor: SecurityVersion(floor), ..DeviceReport::idle() };
        account.record_report(&device.name, &report, NOW).await.unwrap();
    }
    let change = DeviceChange {
        attributes: device.attribute.iter().map(|value| ("x".to_owned(), Some(value.clone()))).collect(),
        add_tags: device.tags.iter().cloned().collect(),
        ..DeviceChange::default()
    };
    account.change_device(&device.name, &change, None, NOW).await.unwrap();
}

fn group(name: &str) -> GroupName {
    name.parse().unwrap()
}

async fn groups(account: &AccountScope, devices: &[Known]) {
    for name in ["north", "south"] {
        let members = devices.iter().filter(|device| device.groups.contains(name)).map(|device| device.name.clone());
        let first = GroupChange { add: members.collect(), ..GroupChange::default() };
        account.create_group(&group(name), &first, None, NOW).await.unwrap();
    }
    let both = GroupChange { include: vec![group("north"), group("south")], ..GroupChange::default() };
    account.create_group(&group("both"), &both, None, NOW).await.unwrap();
    let first = "group = \"both\" and model = \"m1\"".parse().unwrap();
    let first = GroupChange { filter: Some(Some(first)), ..GroupChange::default() };
    account.create_group(&group("first"), &first, None, NOW).await.unwrap();
}

#[tokio::test]
async fn a_database_answers_a_filter_as_a_plain_reading_of_it_does() {
    let db = Database::new().await;
    let account = db.account("one").await;
    let mut runner = TestRunner::new_with_rng(
        Config::default(),
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    let devices: Vec<Known> =
        (0..DEVICES).map(|index| device(index).new_tree(&mut runner).unwrap().current()).collect();
    for device in &devices {
        store(&db, &account, device).await;
    }
    groups(&account, &devices).await;
    let mut found: BTreeMap<bool, usize> = BTreeMap::new();
    for _ in 0..FILTERS {
        let text = filter().new_tree(&mut runner).unwrap().current();
        let filter: Filter = text.parse().unwrap();
        let rows = account.devices_after("", &filter, NOW, 1000).await.unwrap();
        let answered: BTreeSet<EndpointName> = rows.into_iter().map(|row| row.endpoint).collect();
        let expected: BTreeSet<EndpointName> =
            devices.iter().filter(|device| holds(device, &filter.root)).map(|device| device.name.clone()).collect();
        assert_eq!(answered, expected, "{text}");
        assert_eq!(account.count_devices(&filter, NOW).await.unwrap(), expected.len() as u64, "{text}");
        *found.entry(expected.is_empty() || expected.len() == DEVICES).or_default() += 1;
    }
    assert!(found[&false] > FILTERS / 2, "most filters tell devices apart: {found:?}");
}

#[tokio::test]
async fn devices_are_counted_by_every_kind_of_field() {
    let db = Database::new().await;
    let account = db.account("one").await;
    let mut runner = TestRunner::deterministic();
    let devices: Vec<Known> = (0..10).map(|index| device(index).new_tree(&mut runner).unwrap().current()).collect();
    for device in &devices {
        store(&db, &account, device).await;
    }
    let every = Filter::every_device();
    for by in ["model", "slot", "os.version", "attribute.x", "tag", "floor", "standing", "release"] {
        let rows = account.count_devices_by(&by.parse().unwrap(), &every, NOW, 100).await.unwrap();
        let total: u64 = rows.iter().map(|row| row.devices).sum();
        // A device with two tags counts for both.
        assert!(total >= 10, "{by}: {rows:?}");
        assert!(rows.is_sorted_by(|a, b| a.devices >= b.devices), "{by}: {rows:?}");
    }
    // The same without the short cut for every device.
    let each = "name ~ \"gate-*\"".parse().unwrap();
    for by in ["os.version", "os.digest", "os.state", "attribute.x", "attribute.y", "tag"] {
        let by = by.parse().unwrap();
        let rows = account.count_devices_by(&by, &each, NOW, 3).await.unwrap();
        assert_eq!(account.count_devices_by(&by, &every, NOW, 3).await.unwrap(), rows, "{by:?}");
    }
    let models = account.count_devices_by(&"model".parse().unwrap(), &every, NOW, 100).await.unwrap();
    for row in models {
        let of_it = devices.iter().filter(|device| device.model == row.value).count();
        assert_eq!(row.devices, of_it as u64, "{row:?}");
    }
    assert!("group".parse::<crate::CountBy>().is_err(), "whether a device is in a group may be a matter of a filter");
}

#[tokio::test]
async fn a_group_is_never_part_of_itself_and_stays_while_another_needs_it() {
    let db = Database::new().await;
    let account = db.account("one").await;
    groups(&account, &[]).await;
    let round = GroupChange { include: vec![group("first")], ..GroupChange::default() };
    let refused = account.change_group(&group("north"), &round, None, NOW).await.unwrap_err();
    assert!(matches!(&refused, StoreError::GroupInItself { .. }), "{refused}");
    assert_eq!(account.group_includes(&group("north")).await.unwrap(), [], "nothing was changed");

    let filter = "group = \"nowhere\"".parse().unwrap();
    let unknown = GroupChange { filter: Some(Some(filter)), ..GroupChange::default() };
    let refused = account.change_group(&group("north"), &unknown, None, NOW).await.unwrap_err();
    assert!(matches!(refused, StoreError::NotFound { kind: "group", .. }), "{refused}");

    for needed in ["north", "both"] {
        let refused = account.delete_group(&group(needed), None, NOW).await.unwrap_err();
        assert!(matches!(&refused, StoreError::WrongState { .. }), "{refused}");
    }
    account.delete_group(&group("first"), None, NOW).await.unwrap();
    account.delete_group(&group("both"), None, NOW).await.unwrap();
}

#[tokio::test]
async fn what_operators_say_of_a_device_has_a_revision_and_a_limit() {
    let db = Database::new().await;
    let account = db.account("one").await;
    let device = device(1).new_tree(&mut TestRunner::deterministic()).unwrap().current();
    store(&db, &account, &device).await;
    let row = account.device(&device.name).await.unwrap();
    let note = DeviceChange { note: Some("in the cellar".into()), ..DeviceChange::default() };
    let changed = account.change_device(&device.name, &note, Some(row.revision), NOW).await.unwrap();
    assert_eq!((changed.note.as_str(), changed.revision), ("in the cellar", row.revision + 1));
    let refused = account.change_device(&device.name, &note, Some(row.revision), NOW).await.unwrap_err();
    assert!(matches!(refused, StoreError::Stale { .. }), "{refused}");

    let many = DeviceChange { add_tags: (0..51).map(|n| format!("t{n}")).collect(), ..DeviceChange::default() };
    let refused = account.change_device(&device.name, &many, None, NOW).await.unwrap_err();
    assert!(matches!(refused, StoreError::TooMany { what: "tags", .. }), "{refused}");
    let labels = account.labels(std::slice::from_ref(&device.name)).await.unwrap();
    let tags = labels.get(&device.name).map(|labels| labels.tags.clone()).unwrap_or_default();
    assert_eq!(tags, device.tags.into_iter().collect::<Vec<_>>(), "a refusal leaves no side effect");
}
