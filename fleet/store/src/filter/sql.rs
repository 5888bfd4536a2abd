//! A filter as the condition of a query in which `d` is a device and some other name its report. Every value is bound, none is in
//! the text, and each test is true or false, never NULL, so that `not` means what it says.

use protocol_types::UnixSeconds;

use super::{
    Check, Node, Resolved,
    field::{Field, Kind, Source},
    value::{Value, version_key},
};
use crate::PresenceState;

/// A value of a placeholder.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Bind {
    Text(String),
    Integer(i64),
    Real(f64),
}

/// A condition and the values of its placeholders.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Clause {
    pub(crate) sql: String,
    pub(crate) binds: Vec<Bind>,
    /// Whether it asks about the report, so that the query must join it.
    pub(crate) asks_report: bool,
}

/// Where in a query a condition stands. `$1` is the account.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// What the query calls the joined `device_reports`.
    pub(crate) report: &'static str,
    /// Number of the condition's first placeholder.
    pub(crate) first: usize,
    /// The moment at which the question is asked.
    pub(crate) now: UnixSeconds,
}

impl Resolved {
    /// The condition.
    pub(crate) fn clause(&self, place: Place) -> Clause {
        let mut writer = Writer { sql: String::new(), binds: Vec::new(), asks_report: false, place };
        writer.node(&self.0);
        Clause { sql: writer.sql, binds: writer.binds, asks_report: writer.asks_report }
    }
}

struct Writer {
    sql: String,
    binds: Vec<Bind>,
    asks_report: bool,
    place: Place,
}

impl Writer {
    fn node(&mut self, node: &Node) {
        match node {
            Node::All(nodes) => self.joined(nodes, " AND ", "1 = 1"),
            Node::Any(nodes) => self.joined(nodes, " OR ", "1 = 0"),
            Node::Not(node) => {
                self.sql.push_str("NOT ");
                self.node(node);
            }
            Node::Test(field, check) => self.test(field, check),
        }
    }

    fn joined(&mut self, nodes: &[Node], word: &str, none: &str) {
        self.sql.push('(');
        for (index, node) in nodes.iter().enumerate() {
            if index > 0 {
                self.sql.push_str(word);
            }
            self.node(node);
        }
        if nodes.is_empty() {
            self.sql.push_str(none);
        }
        self.sql.push(')');
    }

    fn bind(&mut self, bind: Bind) {
        self.sql.push_str(&format!("${}", self.place.first + self.binds.len()));
        self.binds.push(bind);
    }

    fn test(&mut self, field: &Field, check: &Check) {
        // Each of these opens two parentheses.
        let column = match &field.source {
            Source::Device(column) => {
                self.sql.push_str("((");
                format!("d.{column}")
            }
            Source::Report(column) => {
                self.asks_report = true;
                self.sql.push_str("((");
                format!("{}.{column}", self.place.report)
            }
            Source::Component { name, column } => {
                self.rows_of("device_components", Some(("name", name)));
                format!("x.{column}")
            }
            Source::Attribute(key) => {
                self.rows_of("device_attributes", Some(("key", key)));
                if is_numeric(check) { "x.number".to_owned() } else { "x.value".to_owned() }
            }
            Source::Group => {
                self.rows_of("group_members", None);
                "x.name".to_owned()
            }
            Source::Tag => {
                self.rows_of("device_tags", None);
                "x.tag".to_owned()
            }
            Source::Presence => {
                self.sql.push_str("((");
                format!("({})", PresenceState::as_sql(self.place.now))
            }
        };
        self.check(&if field.kind == Kind::Version { column + "_key" } else { column }, check);
        self.sql.push_str("))");
    }

    /// The beginning of a condition that holds if the device has a row `x` in that table.
    fn rows_of(&mut self, table: &str, only: Option<(&str, &str)>) {
        self.sql.push_str(&format!("(d.endpoint IN (SELECT x.endpoint FROM {table} x WHERE x.account = $1 AND "));
        if let Some((column, value)) = only {
            self.sql.push_str(&format!("x.{column} = "));
            self.bind(Bind::Text(value.to_owned()));
            self.sql.push_str(" AND ");
        }
    }

    /// A column that may be NULL is asked for that first, so that no test is unknown.
    fn check(&mut self, column: &str, check: &Check) {
        self.sql.push_str(&format!("{column} IS NOT NULL"));
        match check {
            Check::Exists => {}
            Check::OneOf(values) => {
                self.sql.push_str(&format!(" AND {column} IN ("));
                for (index, value) in values.iter().enumerate() {
                    if index > 0 {
                        self.sql.push_str(", ");
                    }
                    self.value(value);
                }
                self.sql.push(')');
            }
            Check::Compare(order, value) => {
                self.sql.push_str(&format!(" AND {column} {} ", order.as_sql()));
                self.value(value);
            }
            Check::Matches(pattern) => {
                self.sql.push_str(&format!(" AND {column} LIKE "));
                self.bind(Bind::Text(pattern.as_like()));
                self.sql.push_str(" ESCAPE '\\'");
            }
        }
    }

    fn value(&mut self, value: &Value) {
        let bind = match value {
            Value::Text(text) => Bind::Text(text.clone()),
            Value::Number(number) => Bind::Real(*number),
            Value::Truth(truth) => Bind::Integer(i64::from(*truth)),
            Value::Version(version) => Bind::Text(version_key(&version.to_string()).unwrap_or_default()),
            Value::Time(time) => Bind::Integer(i64::try_from(time.at(self.place.now).0).unwrap_or(i64::MAX)),
        };
        self.bind(bind);
    }
}

fn is_numeric(check: &Check) -> bool {
    match check {
        Check::OneOf(values) => values.iter().all(|value| matches!(value, Value::Number(_))),
        Check::Compare(..) => true,
        Check::Exists | Check::Matches(_) => false,
    }
}
