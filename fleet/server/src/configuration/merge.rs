//! RFC 7396 over several documents, remembering for each setting the document that it comes from.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// For each setting, by its JSON Pointer, the index of the document that it comes from. A setting is a value that is no object, or an
/// empty object.
pub(super) type Origins = BTreeMap<String, usize>;

/// The documents merged in their order, later over earlier.
pub(super) fn merge<'a>(documents: impl IntoIterator<Item = &'a Map<String, Value>>) -> (Map<String, Value>, Origins) {
    let (mut merged, mut origins) = (Map::new(), Origins::new());
    for (index, document) in documents.into_iter().enumerate() {
        patch(&mut merged, document, "", (index, &mut origins));
    }
    (merged, origins)
}

fn patch(target: &mut Map<String, Value>, document: &Map<String, Value>, at: &str, place: (usize, &mut Origins)) {
    let (index, origins) = place;
    for (key, value) in document {
        let path = format!("{at}/{}", escaped(key));
        match value {
            Value::Null => {
                target.remove(key);
                forget(origins, &path);
            }
            Value::Object(within) => {
                let inner = target.entry(key.clone()).or_insert(Value::Null);
                if !inner.is_object() {
                    *inner = Value::Object(Map::new());
                    forget(origins, &path);
                }
                let Value::Object(inner) = inner else { continue };
                patch(inner, within, &path, (index, origins));
                if inner.is_empty() {
                    forget(origins, &path);
                    origins.insert(path, index);
                } else {
                    origins.remove(&path);
                }
            }
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                target.insert(key.clone(), value.clone());
                forget(origins, &path);
                origins.insert(path, index);
            }
        }
    }
}

/// Forgets a path and everything below it.
fn forget(origins: &mut Origins, path: &str) {
    let below = format!("{path}/");
    origins.retain(|known, _| known != path && !known.starts_with(&below));
}

/// A key as a part of a JSON Pointer (RFC 6901, section 3).
pub(super) fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}
