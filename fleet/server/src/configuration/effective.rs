//! What the documents of all levels come to for one device.

use fleet_store::ConfigurationRow;
use protocol_types::{Configuration, DeviceConfiguration, Digest};
use serde_json::{Map, Value};

use super::{diff::settings, merge::merge};

/// What a device should have.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Effective {
    /// The merged document.
    pub(crate) document: Map<String, Value>,
    /// The document as the device gets it: keys in order, so that the same settings always have the same digest.
    pub(crate) text: String,
    /// Why a device cannot be given it.
    pub(crate) invalid: Option<String>,
    /// Each setting, by path, with its value and the index of the document that it comes from.
    pub(crate) settings: Vec<(String, Value, usize)>,
}

impl Effective {
    /// The same with secrets, which are sealed to the device.
    pub(crate) fn with_secrets(mut self, secrets: Map<String, Value>) -> Self {
        if !secrets.is_empty() {
            let mut document = self.document.clone();
            document.insert(DeviceConfiguration::SECRETS.to_owned(), Value::Object(secrets));
            self.text = in_order(&document);
            let invalid = || DeviceConfiguration::parse(self.text.as_bytes()).err().map(|error| error.to_string());
            self.invalid = self.invalid.take().or_else(invalid);
        }
        self
    }

    /// Digest of the text.
    pub(crate) fn digest(&self) -> Digest {
        Digest::of(self.text.as_bytes())
    }
}

/// The documents, which are in the order in which they are merged, put together.
pub(crate) fn effective(layers: &[ConfigurationRow]) -> Effective {
    let (document, origins) = merge(layers.iter().map(|row| &row.document));
    let text = in_order(&document);
    let invalid = Configuration::parse(text.as_bytes()).err().map(|error| error.to_string());
    let from = |(path, value): (String, &Value)| {
        let index = origins.get(&path).copied().unwrap_or_default();
        (path, value.clone(), index)
    };
    let settings = settings(&document).into_iter().map(from).collect();
    Effective { settings, text, invalid, document }
}

/// The documents of a device as they would be with `wanted` in its place.
pub(crate) fn replaced(layers: &[ConfigurationRow], wanted: &ConfigurationRow) -> Vec<ConfigurationRow> {
    let others = layers.iter().filter(|row| row.level != wanted.level);
    let mut layers: Vec<ConfigurationRow> = others.chain([wanted]).cloned().collect();
    layers.sort_by(|a, b| a.order().cmp(&b.order()));
    layers
}

/// The text of a document with the keys of every object in order.
fn in_order(document: &Map<String, Value>) -> String {
    let mut sorted = document.clone();
    sort(&mut sorted);
    Value::Object(sorted).to_string()
}

fn sort(document: &mut Map<String, Value>) {
    let mut entries: Vec<(String, Value)> = std::mem::take(document).into_iter().collect();
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    for (key, mut value) in entries {
        sort_within(&mut value);
        document.insert(key, value);
    }
}

fn sort_within(value: &mut Value) {
    match value {
        Value::Object(document) => sort(document),
        Value::Array(items) => items.iter_mut().for_each(sort_within),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
