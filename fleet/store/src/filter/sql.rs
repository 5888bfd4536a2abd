//! A filter as the condition of a query in which `d` is a device and some other name its report. Every value is bound, none is in
//! the text, and each test is true or false, never NULL, so that `not` means what it says.

use protocol_types::UnixSeconds;

use super::{
    Check, Node, Resolved,
    field::{Field, Kind, Source},
    value::{Value, version_key},
};
use crate::devices::presence::presence_as_sql;

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
        let mut writer = Writer::new(place);
        if self.among.is_empty() {
            writer.node(&self.root);
        } else {
            writer.text("(d.endpoint IN (");
            for (index, (field, check)) in self.among.iter().enumerate() {
                writer.text(if index == 0 { "" } else { " UNION ALL " });
                writer.names(field, check);
            }
            writer.text(") AND ");
            writer.node(&self.root);
            writer.text(")");
        }
        writer.clause()
    }

    /// Whether it is true for every device.
    pub(crate) fn is_every_device(&self) -> bool {
        matches!(&self.root, Node::All(nodes) if nodes.is_empty())
    }
}

/// Rows that belong to devices, by whose columns a device passes a test.
pub(super) struct Rows<'a> {
    table: &'static str,
    /// The column that tells the rows that count, and what stands there.
    only: Option<(&'static str, &'a str)>,
    column: &'static str,
}

/// Where the rows for a field are, if it is not kept in the row of the device or of its report.
pub(super) fn rows_of<'a>(source: &'a Source, check: &Check) -> Option<Rows<'a>> {
    Some(match source {
        Source::Component { name, column } => Rows { table: "device_components", only: Some(("name", name)), column },
        Source::Attribute(key) => Rows {
            table: "device_attributes",
            only: Some(("key", key)),
            column: if is_numeric(check) { "number" } else { "value" },
        },
        Source::Group => Rows { table: "group_members", only: None, column: "name" },
        Source::Tag => Rows { table: "device_tags", only: None, column: "tag" },
        Source::Device(_) | Source::Report(_) | Source::Presence => return None,
    })
}

/// Writes conditions and collects what is bound.
pub(super) struct Writer {
    sql: String,
    binds: Vec<Bind>,
    asks_report: bool,
    place: Place,
}

impl Writer {
    pub(super) const fn new(place: Place) -> Self {
        Self { sql: String::new(), binds: Vec::new(), asks_report: false, place }
    }

    pub(super) fn text(&mut self, text: &str) {
        self.sql.push_str(text);
    }

    pub(super) fn clause(self) -> Clause {
        Clause { sql: self.sql, binds: self.binds, asks_report: self.asks_report }
    }

    /// A query for the names of the devices that pass a test on rows of theirs, or on their name.
    pub(super) fn names(&mut self, field: &Field, check: &Check) {
        self.rows(("x.endpoint", ""), field, check);
    }

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
        let column = match &field.source {
            Source::Device(column) => format!("d.{column}"),
            Source::Report(column) => {
                self.asks_report = true;
                format!("{}.{column}", self.place.report)
            }
            Source::Presence => format!("({})", presence_as_sql(self.place.now)),
            Source::Component { .. } | Source::Attribute(_) | Source::Group | Source::Tag => {
                self.text("(EXISTS (");
                self.rows(("1", "x.endpoint = d.endpoint AND "), field, check);
                self.text("))");
                return;
            }
        };
        self.text("((");
        self.check(&keyed(column, field), check);
        self.text("))");
    }

    /// A query for `what` of the rows `x` by which devices pass a test; `which` of them it is about.
    fn rows(&mut self, (what, which): (&str, &str), field: &Field, check: &Check) {
        let device = Rows { table: "devices", only: None, column: "endpoint" };
        let Rows { table, only, column } = rows_of(&field.source, check).unwrap_or(device);
        self.text(&format!("SELECT {what} FROM {table} x WHERE x.account = $1 AND {which}"));
        if let Some((column, value)) = only {
            self.text(&format!("x.{column} = "));
            self.bind(Bind::Text(value.to_owned()));
            self.text(" AND ");
        }
        self.check(&keyed(format!("x.{column}"), field), check);
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

/// The column that has the order of the field's values.
fn keyed(column: String, field: &Field) -> String {
    if field.kind == Kind::Version { column + "_key" } else { column }
}

fn is_numeric(check: &Check) -> bool {
    match check {
        Check::OneOf(values) => values.iter().all(|value| matches!(value, Value::Number(_))),
        Check::Compare(..) => true,
        Check::Exists | Check::Matches(_) => false,
    }
}
