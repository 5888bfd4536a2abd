//! The one language for questions about devices (`docs/formats/filter.md`): lists, dynamic groups, audiences of rollouts, alerts
//! and scopes of roles. Parsed here and turned into SQL; never asks the database by itself and never reads a clock.

mod error;
mod field;
mod lexer;
mod narrowing;
mod parser;
mod sql;
mod value;

#[cfg(test)]
mod oracle_tests;
#[cfg(test)]
mod tests;

use std::{fmt, str::FromStr};

use protocol_types::{EndpointName, GroupName, Standing};
use serde::{Deserialize, Serialize};

pub use error::FilterError;
pub use field::is_key;
pub(crate) use field::{Field, Source, lookup};
pub(crate) use sql::{Bind, Clause, Place};
pub(crate) use value::version_key;
use value::{Order, Pattern, Value};

/// The longest filter in bytes.
const MAX_BYTES: usize = 4096;
/// How deep parentheses and `not` may be nested.
const MAX_DEPTH: usize = 32;
/// Most values of one `in`.
const MAX_VALUES: usize = 200;
/// Most tests in one filter.
const MAX_TESTS: usize = 100;

/// A checked question about one device: true or false for each.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Filter {
    /// Reads back as `root`.
    text: String,
    root: Node,
}

/// A filter in which each group stands with what it is, so that it can be asked.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    root: Node,
    /// Each device that it is true for passes one of these tests; empty if that is not known.
    among: Vec<(Field, Check)>,
}

/// A filter as a tree.
#[derive(Clone, Debug, PartialEq)]
enum Node {
    /// True if each is; without any, true for every device.
    All(Vec<Node>),
    /// True if at least one is.
    Any(Vec<Node>),
    Not(Box<Node>),
    Test(Field, Check),
}

/// What is asked of a field. A device without the field passes none of these.
#[derive(Clone, Debug, PartialEq)]
enum Check {
    Exists,
    /// The field is one of these; for a field with several values, one of them is.
    OneOf(Vec<Value>),
    Compare(Order, Value),
    Matches(Pattern),
}

impl Filter {
    /// The filter that is true for every device.
    pub fn every_device() -> Self {
        Self { text: String::new(), root: Node::All(Vec::new()) }
    }

    /// The filter as it was written; empty if it is true for every device.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// How many tests there are in it.
    pub(crate) fn tests(&self) -> usize {
        self.root.tests()
    }

    /// The filter that is true for devices that are, or are not, registered now.
    pub fn connected(connected: bool) -> Self {
        let text = format!("connected = {connected}");
        Self::one(text, "connected", Value::Truth(connected))
    }

    /// The filter that is true for devices of this standing.
    pub fn of_standing(standing: Standing) -> Self {
        let text = format!("standing = {}", standing.as_str());
        Self::one(text, "standing", Value::Text(standing.as_str().to_owned()))
    }

    /// The filter that is true for devices that are in a group.
    pub fn of_group(name: &GroupName) -> Self {
        Self::one(format!("group = \"{name}\""), "group", Value::Text(name.to_string()))
    }

    fn one(text: String, field: &str, value: Value) -> Self {
        let test = |field| Node::Test(field, Check::OneOf(vec![value]));
        Self { text, root: lookup(field).map_or(Node::Any(Vec::new()), test) }
    }

    /// Names of the groups that the filter asks about, each as often as it does.
    pub(crate) fn groups(&self) -> Vec<&str> {
        let mut found = Vec::new();
        self.root.collect_groups(&mut found);
        found
    }

    /// The filter in which a question about a group is also one about the filters that stand for it.
    pub(crate) fn resolved(&self, stands_for: &dyn Fn(&str) -> Vec<Resolved>) -> Resolved {
        Resolved { root: self.root.resolved(stands_for), among: Vec::new() }
    }

    /// The filter that is true where both are.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self.text.is_empty(), other.text.is_empty()) {
            (true, _) => other,
            (_, true) => self,
            (false, false) => Self {
                text: format!("({}) and ({})", self.text, other.text),
                root: Node::All(vec![self.root, other.root]),
            },
        }
    }
}

impl Filter {
    /// The filter that is true for the device of that name.
    pub fn of_device(endpoint: &EndpointName) -> Self {
        Self::one(format!("name = \"{endpoint}\""), "name", Value::Text(endpoint.to_string()))
    }

    /// The filter that is true where at least one of both is.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        match (self.text.is_empty(), other.text.is_empty()) {
            (true, _) => self,
            (_, true) => other,
            (false, false) => Self {
                text: format!("({}) or ({})", self.text, other.text),
                root: Node::Any(vec![self.root, other.root]),
            },
        }
    }
}

impl Node {
    fn tests(&self) -> usize {
        match self {
            Self::All(nodes) | Self::Any(nodes) => nodes.iter().map(Self::tests).sum(),
            Self::Not(node) => node.tests(),
            Self::Test(..) => 1,
        }
    }

    fn resolved(&self, stands_for: &dyn Fn(&str) -> Vec<Resolved>) -> Self {
        let each = |nodes: &[Self]| nodes.iter().map(|node| node.resolved(stands_for)).collect();
        match self {
            Self::All(nodes) => Self::All(each(nodes)),
            Self::Any(nodes) => Self::Any(each(nodes)),
            Self::Not(node) => Self::Not(Box::new(node.resolved(stands_for))),
            Self::Test(field, Check::OneOf(values)) if field.source == Source::Group => {
                let filters = values.iter().filter_map(Value::text).flat_map(stands_for);
                Self::Any(filters.map(|filter| filter.root).chain([self.clone()]).collect())
            }
            Self::Test(..) => self.clone(),
        }
    }

    fn collect_groups<'a>(&'a self, found: &mut Vec<&'a str>) {
        match self {
            Self::All(nodes) | Self::Any(nodes) => nodes.iter().for_each(|node| node.collect_groups(found)),
            Self::Not(node) => node.collect_groups(found),
            Self::Test(field, Check::OneOf(values)) if field.source == Source::Group => {
                found.extend(values.iter().filter_map(Value::text));
            }
            Self::Test(..) => {}
        }
    }
}

impl FromStr for Filter {
    type Err = FilterError;
    fn from_str(text: &str) -> Result<Self, FilterError> {
        let root = parser::parse(text)?;
        Ok(Self { text: text.trim().to_owned(), root })
    }
}

impl TryFrom<String> for Filter {
    type Error = FilterError;
    fn try_from(text: String) -> Result<Self, FilterError> {
        text.parse()
    }
}

impl From<Filter> for String {
    fn from(filter: Filter) -> Self {
        filter.text
    }
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Filter {}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
