//! Which events somebody wants to hear of: by kind, and by the device that they are about. Reads them from the list of all events;
//! never keeps a position.

use std::{fmt, str::FromStr};

use protocol_types::UnixSeconds;
use sqlx::{AnyConnection, AssertSqlSafe};

use crate::{
    AccountScope, EventRow, Filter, StoreError,
    devices::bound,
    error::cannot,
    events,
    filter::{Bind, Clause, Place},
    numbers::to_sql,
};

/// Kinds of events: exact ones as in `rollout.started`, or all that begin alike as in `device.*`. Without any, every kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventKinds(Vec<String>);

/// A text that names no kind of events, or too many at once.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoEventKind {
    /// The form is wrong.
    #[error("`{0}` is no kind of events: name one as in `device.lost`, or all that begin alike as in `device.*`")]
    Malformed(String),
    /// There are too many.
    #[error("at most {MAX_KINDS} kinds can be named; without any, every kind is meant")]
    TooMany,
}

const MAX_KINDS: usize = 32;
const MAX_KIND_BYTES: usize = 64;

impl EventKinds {
    /// Checks the kinds that somebody has named.
    pub fn new(mut kinds: Vec<String>) -> Result<Self, NoEventKind> {
        if kinds.len() > MAX_KINDS {
            return Err(NoEventKind::TooMany);
        }
        if let Some(wrong) = kinds.iter().find(|kind| !is_kind(kind)) {
            return Err(NoEventKind::Malformed(wrong.chars().take(80).collect()));
        }
        kinds.sort_unstable();
        kinds.dedup();
        Ok(Self(kinds))
    }

    /// The kinds, in the order of their names.
    pub fn as_slice(&self) -> &[String] {
        &self.0
    }

    /// Whether events of this kind are among them.
    pub fn contain(&self, kind: &str) -> bool {
        self.0.is_empty()
            || self.0.iter().any(|wanted| match wanted.strip_suffix('*') {
                Some(beginning) => kind.starts_with(beginning),
                None => wanted == kind,
            })
    }

    /// The same as [`Self::contain`] as a condition on the column `e.kind`, with placeholders from `first` on.
    pub(crate) fn clause(&self, first: usize) -> Clause {
        let mut binds = Vec::new();
        let tests: Vec<String> = self
            .0
            .iter()
            .enumerate()
            .map(|(index, wanted)| {
                let place = first + index;
                match wanted.strip_suffix('*') {
                    Some(beginning) => {
                        binds.push(Bind::Text(beginning.to_owned()));
                        format!("SUBSTR(e.kind, 1, {}) = ${place}", beginning.len())
                    }
                    None => {
                        binds.push(Bind::Text(wanted.clone()));
                        format!("e.kind = ${place}")
                    }
                }
            })
            .collect();
        let sql = if tests.is_empty() { "1 = 1".to_owned() } else { tests.join(" OR ") };
        Clause { sql, binds, asks_report: false }
    }
}

/// Words of small letters and `_`, joined by full stops; the last one may be `*`.
fn is_kind(text: &str) -> bool {
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let exact = text.strip_suffix(".*").unwrap_or(text);
    text.len() <= MAX_KIND_BYTES && exact.split('.').all(is_word)
}

impl fmt::Display for EventKinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(" "))
    }
}

impl FromStr for EventKinds {
    type Err = NoEventKind;
    fn from_str(text: &str) -> Result<Self, NoEventKind> {
        Self::new(text.split_whitespace().map(str::to_owned).collect())
    }
}

/// Which events are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventSelection {
    /// Of these kinds.
    pub kinds: EventKinds,
    /// About devices for which this is true when the event is read; the empty filter also takes events that are about no device.
    pub filter: Filter,
}

impl EventSelection {
    /// Every event.
    pub fn everything() -> Self {
        Self { kinds: EventKinds::default(), filter: Filter::every_device() }
    }
}

/// Some events that follow each other, without those that are not wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct SelectedEvents {
    /// The events, oldest first.
    pub events: Vec<EventRow>,
    /// Every event up to this position was looked at.
    pub through: u64,
    /// Whether there are more after that position.
    pub more: bool,
}

/// Positions that one query looks at, so that a selection that wants little asks for little at a time.
const WINDOW: u64 = 1000;

impl AccountScope {
    /// What is true for events `e` of these kinds about devices that the filter is true for, with placeholders from `first` on. The
    /// empty filter also takes events that are about no device, unless the scope sees some devices only.
    pub(crate) async fn event_condition(
        &self,
        sql: &mut AnyConnection,
        (kinds, filter): (&EventKinds, &Filter),
        (first, now): (usize, UnixSeconds),
    ) -> Result<(String, Vec<Bind>), StoreError> {
        let kinds = kinds.clause(first);
        let (mut condition, mut binds) = (format!("({})", kinds.sql), kinds.binds);
        if !filter.as_str().is_empty() || self.only().is_some() {
            let filter = self.resolved(sql, filter).await?;
            let clause = filter.clause(Place { report: "r", first: first + binds.len(), now });
            condition += &format!(
                " AND EXISTS (SELECT 1 FROM devices d
                     LEFT JOIN device_reports r ON r.account = d.account AND r.endpoint = d.endpoint
                     WHERE d.account = $1 AND d.endpoint = e.device AND {})",
                clause.sql
            );
            binds.extend(clause.binds);
        }
        Ok((condition, binds))
    }

    /// At most `limit` of the wanted events after position `after`, and how far was looked.
    pub async fn selected_events(
        &self,
        wanted: &EventSelection,
        after: u64,
        limit: u32,
        now: UnixSeconds,
    ) -> Result<SelectedEvents, StoreError> {
        let doing = "read events of a selection";
        let last = self.last_event().await?;
        let upper = after.saturating_add(WINDOW).min(last);
        if upper <= after {
            return Ok(SelectedEvents { events: Vec::new(), through: after, more: false });
        }
        let mut connection = self.readers().acquire().await.map_err(cannot(doing))?;
        let (condition, binds) =
            self.event_condition(&mut connection, (&wanted.kinds, &wanted.filter), (5, now)).await?;
        let sql = format!(
            "SELECT e.id, e.time, e.kind, e.subject, e.data FROM events e
             WHERE e.account = $1 AND e.id > $2 AND e.id <= $3 AND {condition} ORDER BY e.id LIMIT $4"
        );
        let query = sqlx::query(AssertSqlSafe(sql))
            .bind(self.id())
            .bind(to_sql(after))
            .bind(to_sql(upper))
            .bind(i64::from(limit));
        let rows = bound(query, binds).fetch_all(&mut *connection).await.map_err(cannot(doing))?;
        let events = rows.iter().map(events::read).collect::<Result<Vec<_>, _>>()?;
        let is_full = events.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
        let through = events.last().filter(|_| is_full).map_or(upper, |event| event.id);
        Ok(SelectedEvents { events, through, more: through < last })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::{
        EventDraft,
        tests::{Database, NOW},
    };

    #[test]
    fn kinds_are_words_or_beginnings_and_nothing_else() {
        for good in ["device.lost", "device.*", "rollout.device_failed", "a"] {
            assert!(EventKinds::new(vec![good.to_owned()]).is_ok(), "{good}");
        }
        for bad in ["", "*", ".*", "device.", "Device.lost", "device*", "a b", "device.*.x", "d'", &"a".repeat(65)] {
            assert!(EventKinds::new(vec![bad.to_owned()]).is_err(), "{bad}");
        }
        assert_eq!(EventKinds::new(vec!["a".to_owned(); 33]), Err(NoEventKind::TooMany));
    }

    fn kind() -> impl Strategy<Value = String> {
        prop::sample::select(vec!["a", "a.b", "a.bc", "a.b.c", "ab.c", "a_b.c", "b", "b.a"]).prop_map(str::to_owned)
    }

    fn pattern() -> impl Strategy<Value = String> {
        (kind(), any::<bool>()).prop_map(|(kind, open)| if open { format!("{kind}.*") } else { kind })
    }

    proptest! {
        #[test]
        fn kinds_read_back_as_themselves(kinds in prop::collection::vec(pattern(), 0..6)) {
            let kinds = EventKinds::new(kinds).unwrap();
            prop_assert_eq!(kinds.to_string().parse::<EventKinds>().unwrap(), kinds);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn the_database_selects_what_the_kinds_contain_and_pages_leave_nothing_out(
            told in prop::collection::vec(kind(), 1..30), wanted in prop::collection::vec(pattern(), 0..4), limit in 1..5_u32,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let db = Database::new().await;
                let account = db.account("one").await;
                let mut tx = db.store.write().await.unwrap();
                for kind in &told {
                    let draft = EventDraft { kind, subject: "x".into(), data: json!({}) };
                    crate::events::append(&mut tx, &account, NOW, draft).await.unwrap();
                }
                tx.commit().await.unwrap();
                let kinds = EventKinds::new(wanted).unwrap();
                let all = account.events_after(0, 100).await.unwrap();
                let expected: Vec<u64> = all.iter().filter(|e| kinds.contain(&e.kind)).map(|e| e.id).collect();
                let wanted = EventSelection { kinds, filter: Filter::every_device() };
                let (mut seen, mut after) = (Vec::new(), 0);
                loop {
                    let found = account.selected_events(&wanted, after, limit, NOW).await.unwrap();
                    seen.extend(found.events.iter().map(|event| event.id));
                    after = found.through;
                    if !found.more {
                        break;
                    }
                }
                assert_eq!(seen, expected);
                assert_eq!(after, account.last_event().await.unwrap());
                db.store.close().await;
            });
        }
    }

    #[tokio::test]
    async fn a_filter_lets_through_what_is_about_its_devices_and_an_empty_one_everything() {
        let db = Database::new().await;
        let one = crate::tests::fleet(&db).await;
        let mut tx = db.store.write().await.unwrap();
        for subject in ["devices/gate-1", "rollouts/r1/devices/gate-2", "rollouts/r1", "devices/gone"] {
            let draft = EventDraft { kind: "x.y", subject: subject.into(), data: json!({}) };
            crate::events::append(&mut tx, &one, NOW, draft).await.unwrap();
        }
        tx.commit().await.unwrap();
        let of = async |filter: &str| {
            let wanted = EventSelection { kinds: "x.*".parse().unwrap(), filter: filter.parse().unwrap() };
            let found = one.selected_events(&wanted, 0, 100, NOW).await.unwrap();
            found.events.into_iter().map(|event| event.subject).collect::<Vec<_>>()
        };
        assert_eq!(of("").await.len(), 4);
        assert_eq!(of("name = \"gate-2\"").await, ["rollouts/r1/devices/gate-2"]);
        assert_eq!(of("not name = \"gate-2\"").await, ["devices/gate-1"], "what is deleted is no device of any filter");
        let foreign = db.account("two").await;
        assert!(foreign.selected_events(&EventSelection::everything(), 0, 9, NOW).await.unwrap().events.len() <= 1);
    }
}
