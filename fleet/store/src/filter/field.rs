//! The fields of a device that a filter may ask about, and where the database keeps each.

/// A field and what may be asked of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    pub(super) source: Source,
    pub(super) kind: Kind,
}

impl Field {
    pub(crate) fn into_source(self) -> Source {
        self.source
    }
}

/// Where a field is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A column of the table of devices.
    Device(&'static str),
    /// A column of the last report.
    Report(&'static str),
    /// A column of the component of this name.
    Component { name: String, column: &'static str },
    /// An attribute that operators gave the device.
    Attribute(String),
    /// Names of the groups that the device is in.
    Group,
    /// Tags that operators gave the device.
    Tag,
    /// How it stands to what it has promised; depends on the moment of the question.
    Presence,
}

/// What values a field has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Compared by precedence; the database keeps its key beside it.
    Version,
    Number,
    Truth,
    Time,
    /// A text or a number, as it was given.
    Attribute,
    /// Any number of texts.
    Names,
    /// Any number of names of groups. A group may be a filter of its own, so only equality can be asked.
    Group,
}

const STANDINGS: &[&str] = &["active", "suspended", "quarantined", "decommissioned"];
const PRESENCES: &[&str] = &["connected", "sleeping", "late", "lost"];
const SLOTS: &[&str] = &["a", "b"];

/// The fields that have one name for all devices.
const FIXED: &[(&str, Source, Kind)] = &[
    ("name", Source::Device("endpoint"), Kind::Text),
    ("standing", Source::Device("standing"), Kind::Choice(STANDINGS)),
    ("connected", Source::Device("connected"), Kind::Truth),
    ("presence", Source::Presence, Kind::Choice(PRESENCES)),
    ("last_seen", Source::Device("last_seen"), Kind::Time),
    ("created", Source::Device("created"), Kind::Time),
    ("authority", Source::Device("authority"), Kind::Text),
    ("factory_serial", Source::Device("factory_serial"), Kind::Text),
    ("manufacturer", Source::Device("manufacturer"), Kind::Text),
    ("model", Source::Device("model"), Kind::Text),
    ("serial_number", Source::Device("serial_number"), Kind::Text),
    ("firmware_version", Source::Device("firmware_version"), Kind::Text),
    ("phase", Source::Report("phase"), Kind::Text),
    ("reason", Source::Report("reason_code"), Kind::Text),
    ("release", Source::Report("running_version"), Kind::Version),
    ("slot", Source::Report("slot"), Kind::Choice(SLOTS)),
    ("floor", Source::Report("floor"), Kind::Number),
    ("rollout", Source::Report("rollout"), Kind::Text),
];

/// What a component tells of itself.
const PARTS: &[(&str, Kind)] = &[("version", Kind::Version), ("digest", Kind::Text), ("state", Kind::Text)];

/// How fields are written whose names hold a name of the account's, for hints.
const OPEN: [&str; 4] = ["os.version", "os.digest", "application.NAME.version", "attribute.KEY"];

/// The field of this name.
pub(crate) fn lookup(word: &str) -> Option<Field> {
    if let Some((_, source, kind)) = FIXED.iter().find(|(name, ..)| *name == word) {
        return Some(Field { source: source.clone(), kind: *kind });
    }
    match word {
        "group" => return Some(Field { source: Source::Group, kind: Kind::Group }),
        "tag" => return Some(Field { source: Source::Tag, kind: Kind::Names }),
        _ => {}
    }
    if let Some(key) = word.strip_prefix("attribute.").filter(|key| is_key(key)) {
        return Some(Field { source: Source::Attribute(key.to_owned()), kind: Kind::Attribute });
    }
    let (owner, part) = word.rsplit_once('.')?;
    let (column, kind) = *PARTS.iter().find(|(name, _)| *name == part)?;
    let name = match owner.strip_prefix("application.") {
        Some(app) if is_key(app) => format!("application/{app}"),
        None if matches!(owner, "os" | "firmware") => owner.to_owned(),
        Some(_) | None => return None,
    };
    Some(Field { source: Source::Component { name, column }, kind })
}

/// Keys of attributes and names of applications in a field: 1 to 64 letters, digits, `_` and `-`.
pub fn is_key(key: &str) -> bool {
    (1..=64).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

/// The field that a person may have meant.
pub(super) fn resembling(word: &str) -> Option<&'static str> {
    const ALIKE: f64 = 0.8;
    let names = FIXED.iter().map(|(name, ..)| *name).chain(["group", "tag"]).chain(OPEN);
    names
        .map(|name| (strsim::jaro_winkler(name, word), name))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}
