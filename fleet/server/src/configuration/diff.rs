//! What two documents differ in, setting by setting.

use std::collections::BTreeMap;

use fleet_api::ConfigurationChange;
use serde_json::{Map, Value};

use super::merge::escaped;

/// Every setting that differs, by path.
pub(crate) fn changes(before: &Map<String, Value>, after: &Map<String, Value>) -> Vec<ConfigurationChange> {
    let (before, after) = (settings(before), settings(after));
    let paths = before.keys().chain(after.keys().filter(|path| !before.contains_key(*path)));
    let mut changes: Vec<ConfigurationChange> = paths
        .filter(|path| before.get(*path) != after.get(*path))
        .map(|path| ConfigurationChange {
            path: path.clone(),
            before: before.get(path).copied().cloned(),
            after: after.get(path).copied().cloned(),
        })
        .collect();
    changes.sort_by(|a, b| a.path.cmp(&b.path));
    changes
}

/// The settings of a document by their JSON Pointers: values that are no object, and empty objects.
pub(super) fn settings(document: &Map<String, Value>) -> BTreeMap<String, &Value> {
    let mut found = BTreeMap::new();
    collect(document, "", &mut found);
    found
}

fn collect<'a>(document: &'a Map<String, Value>, at: &str, found: &mut BTreeMap<String, &'a Value>) {
    for (key, value) in document {
        let path = format!("{at}/{}", escaped(key));
        match value {
            Value::Object(within) if !within.is_empty() => collect(within, &path, found),
            _ => {
                found.insert(path, value);
            }
        }
    }
}
