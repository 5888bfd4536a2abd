//! Presence by the schedule that a device itself has promised, and the times at which it changes by itself. The decision is a function
//! of promise, last sign of life and now; only deadlines that have come are looked at, however many devices there are.

use protocol_types::{EndpointName, Presence, UnixSeconds};
use serde_json::json;
use sqlx::Row;

use crate::{
    AccountScope, ServiceWide, StoreError,
    error::cannot,
    numbers::{from_sql, time, to_sql},
    rows::formed,
    transaction::Transaction,
};

/// What a device promises when it registers (LwM2M 1.1, section 6.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// It is heard within so many seconds, as long as it is registered.
    lifetime: u32,
    /// It sleeps in between (queue mode); otherwise it stays connected.
    sleeps: bool,
}

/// From when on a device that is not connected is late, and lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// The first second in which it is late.
    pub late: UnixSeconds,
    /// The first second in which it is lost.
    pub lost: UnixSeconds,
}

impl Promise {
    /// A registration that is renewed more often than this asks for more than the service keeps track of.
    const SHORTEST: u32 = 60;
    const LONGEST: u32 = 366 * 24 * 60 * 60;
    /// The last sign of life is on record with this precision, in seconds.
    const PRECISION: u64 = 30;
    /// So many lifetimes after it became late, a device is lost.
    const PATIENCE: u64 = 2;

    /// What a device promises with this lifetime in seconds; extreme ones are held to between a minute and a year.
    pub const fn new(lifetime: u32, sleeps: bool) -> Self {
        let lifetime = if lifetime < Self::SHORTEST {
            Self::SHORTEST
        } else if lifetime > Self::LONGEST {
            Self::LONGEST
        } else {
            lifetime
        };
        Self { lifetime, sleeps }
    }

    /// Seconds within which it is heard.
    pub const fn lifetime(self) -> u32 {
        self.lifetime
    }

    /// Whether it sleeps in between.
    pub const fn sleeps(self) -> bool {
        self.sleeps
    }

    /// When a device is late and lost that was last heard at `heard` and whose connection ended at `left`.
    pub const fn deadlines(self, heard: UnixSeconds, left: UnixSeconds) -> Deadlines {
        let lifetime = self.lifetime as u64;
        let late = if self.sleeps { heard.0.saturating_add(lifetime).saturating_add(Self::PRECISION) } else { left.0 };
        let lost = late.saturating_add(lifetime.saturating_mul(Self::PATIENCE));
        Deadlines { late: UnixSeconds(late), lost: UnixSeconds(lost) }
    }
}

impl Deadlines {
    /// How a device that is not connected stands now.
    pub const fn state(self, now: UnixSeconds) -> Presence {
        if now.0 < self.late.0 {
            Presence::Sleeping
        } else if now.0 < self.lost.0 {
            Presence::Late
        } else {
            Presence::Lost
        }
    }

    /// When that changes next by time alone.
    pub const fn next(self, now: UnixSeconds) -> Option<UnixSeconds> {
        match self.state(now) {
            Presence::Sleeping => Some(self.late),
            Presence::Late => Some(self.lost),
            Presence::Connected | Presence::Lost => None,
        }
    }
}

/// How a device `d` stands, as an expression; the same as [`Deadlines::state`].
pub(crate) fn presence_as_sql(now: UnixSeconds) -> String {
    let now = to_sql(now.0);
    format!(
        "CASE WHEN d.connected = 1 THEN 'connected' WHEN d.late_at > {now} THEN 'sleeping' \
         WHEN d.lost_at > {now} THEN 'late' ELSE 'lost' END"
    )
}

impl AccountScope {
    /// Notes that the connection of a device has ended, if it is the one on which the device is registered.
    pub(crate) async fn left(
        &self,
        tx: &mut Transaction,
        (endpoint, session): (&EndpointName, u64),
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let doing = "note that a device left";
        let row = sqlx::query(
            "UPDATE devices SET connected = 0, session = 0
             WHERE account = $1 AND endpoint = $2 AND connected = 1 AND session = $3
             RETURNING last_seen, lifetime, sleeps",
        )
        .bind(self.id())
        .bind(endpoint.as_str())
        .bind(to_sql(session))
        .fetch_optional(tx.sql())
        .await
        .map_err(cannot(doing))?;
        let Some(row) = row else { return Ok(()) };
        let number =
            |column| row.try_get::<Option<i64>, _>(column).map(Option::unwrap_or_default).map_err(cannot(doing));
        let lifetime = u32::try_from(number("lifetime")?).unwrap_or(u32::MAX);
        let promise = Promise::new(lifetime, number("sleeps")? != 0);
        let deadlines = promise.deadlines(time(number("last_seen")?), now);
        sqlx::query(
            "UPDATE devices SET late_at = $3, lost_at = $4,
                 presence_due = CASE WHEN standing = 'decommissioned' THEN NULL ELSE CAST($5 AS BIGINT) END
             WHERE account = $1 AND endpoint = $2",
        )
        .bind(self.id())
        .bind(endpoint.as_str())
        .bind(to_sql(deadlines.late.0))
        .bind(to_sql(deadlines.lost.0))
        .bind(deadlines.next(now).map(|at| to_sql(at.0)))
        .execute(tx.sql())
        .await
        .map_err(cannot(doing))?;
        tx.changed(self.device_changed(endpoint));
        let data = json!({ "presence": deadlines.state(now).as_str() });
        self.tell(tx, endpoint, ("device.disconnected", data), now).await
    }
}

impl ServiceWide {
    /// At the start of the service nobody is connected: what the last run could not note is noted now, with deadlines from now on.
    pub async fn nobody_is_connected(&self, now: UnixSeconds) -> Result<u64, StoreError> {
        let mut tx = self.store.write().await?;
        // The same as `Promise::deadlines` and `Deadlines::next`, for a million devices in one statement.
        let late = format!(
            "(CASE WHEN sleeps = 1 THEN COALESCE(last_seen, 0) + lifetime + {} ELSE CAST($1 AS BIGINT) END)",
            Promise::PRECISION
        );
        let lost = format!("({late} + {} * lifetime)", Promise::PATIENCE);
        let sql = format!(
            "UPDATE devices SET connected = 0, session = 0, late_at = {late}, lost_at = {lost}, presence_due =
             CASE WHEN {late} > $1 THEN {late} WHEN {lost} > $1 THEN {lost} ELSE NULL END WHERE connected <> 0"
        );
        let done = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(to_sql(now.0))
            .execute(tx.sql())
            .await
            .map_err(cannot("note that nobody is connected"))?;
        tx.commit().await?;
        Ok(done.rows_affected())
    }

    /// Tells of at most `most` devices that have become late or lost, the longest overdue first. Answers how many there were.
    pub async fn tell_overdue(&self, most: u32, now: UnixSeconds) -> Result<usize, StoreError> {
        let doing = "look for devices that are overdue";
        const DUE: &str = "SELECT account, endpoint, late_at, lost_at FROM devices
            WHERE presence_due IS NOT NULL AND presence_due <= $1 ORDER BY presence_due LIMIT $2";
        let Some((mut tx, rows)) = self.due((DUE, doing), most, now).await? else { return Ok(0) };
        for row in &rows {
            let number = |column| row.try_get::<i64, _>(column).map(from_sql).map_err(cannot(doing));
            let account = self.store.account(&formed(row, doing, ("devices", "account"))?);
            let endpoint: EndpointName = formed(row, doing, ("devices", "endpoint"))?;
            let deadlines = Deadlines { late: UnixSeconds(number("late_at")?), lost: UnixSeconds(number("lost_at")?) };
            sqlx::query("UPDATE devices SET presence_due = $3 WHERE account = $1 AND endpoint = $2")
                .bind(account.id())
                .bind(endpoint.as_str())
                .bind(deadlines.next(now).map(|at| to_sql(at.0)))
                .execute(tx.sql())
                .await
                .map_err(cannot("note that a device is overdue"))?;
            let kind = match deadlines.state(now) {
                Presence::Late => "device.late",
                Presence::Lost => "device.lost",
                // Not overdue after all: the clock of the service was set back.
                Presence::Sleeping | Presence::Connected => continue,
            };
            tx.changed(account.device_changed(&endpoint));
            account.tell(&mut tx, &endpoint, (kind, json!({})), now).await?;
        }
        tx.commit().await?;
        Ok(rows.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        CountBy, Filter,
        tests::{Database, NOW},
    };

    fn promise() -> impl Strategy<Value = Promise> {
        (any::<u32>(), any::<bool>()).prop_map(|(lifetime, sleeps)| Promise::new(lifetime, sleeps))
    }

    proptest! {
        #[test]
        fn a_device_that_is_away_goes_from_sleeping_over_late_to_lost_and_never_back(
            promise in promise(), heard in 0..u64::from(u32::MAX), away in 0..100_000_u64, mut looks in prop::collection::vec(any::<u32>(), 1..20),
        ) {
            let (heard, left) = (UnixSeconds(heard), UnixSeconds(heard + away));
            let deadlines = promise.deadlines(heard, left);
            looks.sort_unstable();
            let rank = |at: u32| deadlines.state(UnixSeconds(left.0 + u64::from(at))) as u8;
            prop_assert!(looks.iter().map(|at| rank(*at)).is_sorted());
            prop_assert!(deadlines.late < deadlines.lost);
            // Within its promise a device that sleeps is neither late nor lost; one that stays connected never sleeps.
            let within = UnixSeconds(heard.0 + u64::from(promise.lifetime()));
            if promise.sleeps() {
                prop_assert_eq!(deadlines.state(within), Presence::Sleeping);
            } else {
                prop_assert_eq!(deadlines.state(left), Presence::Late);
            }
        }

        #[test]
        fn the_next_look_is_the_moment_at_which_the_state_changes(
            promise in promise(), heard in 0..u64::from(u32::MAX), later in any::<u32>(),
        ) {
            let heard = UnixSeconds(heard);
            let deadlines = promise.deadlines(heard, heard);
            let now = UnixSeconds(heard.0 + u64::from(later));
            match deadlines.next(now) {
                Some(next) => {
                    prop_assert!(next > now);
                    prop_assert_eq!(deadlines.state(UnixSeconds(next.0 - 1)), deadlines.state(now));
                    prop_assert_ne!(deadlines.state(next), deadlines.state(now));
                }
                None => prop_assert_eq!(deadlines.state(now), Presence::Lost),
            }
        }
    }

    async fn insert(db: &Database, name: &str, promise: Promise, heard: u64) {
        let mut tx = db.store.write().await.unwrap();
        sqlx::query(
            "INSERT INTO devices (account, endpoint, created, connected, session, last_seen, lifetime, sleeps)
             VALUES ('one', $1, 0, 1, 7, $2, $3, $4)",
        )
        .bind(name)
        .bind(to_sql(heard))
        .bind(i64::from(promise.lifetime()))
        .bind(i64::from(promise.sleeps()))
        .execute(tx.sql())
        .await
        .unwrap();
        tx.commit().await.unwrap();
    }

    const PROMISES: [(&str, Promise, u64); 4] = [
        ("awake", Promise::new(300, false), NOW.0 - 20),
        ("asleep", Promise::new(3600, true), NOW.0 - 600),
        ("overdue", Promise::new(300, true), NOW.0 - 400),
        ("gone", Promise::new(300, true), NOW.0 - 5000),
    ];

    async fn listed(account: &AccountScope, presence: &str, now: UnixSeconds) -> Vec<String> {
        let filter: Filter = format!("presence = {presence}").parse().unwrap();
        let rows = account.devices_after("", &filter, now, 10).await.unwrap();
        assert!(rows.iter().all(|row| row.presence(now).as_str() == presence), "{rows:?}");
        rows.iter().map(|row| row.endpoint.to_string()).collect()
    }

    #[tokio::test]
    async fn a_start_of_the_service_sets_the_deadlines_that_the_end_of_each_connection_would_have_set() {
        let (one, other) = (Database::new().await, Database::new().await);
        let (account, expected) = (one.account("one").await, other.account("one").await);
        for (name, promise, heard) in PROMISES {
            insert(&one, name, promise, heard).await;
            insert(&other, name, promise, heard).await;
            let mut tx = other.store.write().await.unwrap();
            expected.left(&mut tx, (&EndpointName::new(name).unwrap(), 7), NOW).await.unwrap();
            tx.commit().await.unwrap();
        }
        assert_eq!(one.store.service_wide().nobody_is_connected(NOW).await.unwrap(), 4);
        for (name, promise, heard) in PROMISES {
            let name = EndpointName::new(name).unwrap();
            let row = account.device(&name).await.unwrap();
            assert_eq!(row, expected.device(&name).await.unwrap());
            assert_eq!(row.deadlines, promise.deadlines(UnixSeconds(heard), NOW));
        }
        for later in [0, 1, 599, 600, 601, 10_000, 20_000] {
            let now = UnixSeconds(NOW.0 + later);
            let told = one.store.service_wide().tell_overdue(10, now).await.unwrap();
            assert_eq!(other.store.service_wide().tell_overdue(10, now).await.unwrap(), told, "{later} s later");
        }
    }

    #[tokio::test]
    async fn a_device_is_found_and_counted_by_its_presence_and_told_of_once_when_it_is_late_and_when_it_is_lost() {
        let db = Database::new().await;
        let account = db.account("one").await;
        for (name, promise, heard) in PROMISES {
            insert(&db, name, promise, heard).await;
        }
        assert_eq!(listed(&account, "connected", NOW).await.len(), 4);
        db.store.service_wide().nobody_is_connected(NOW).await.unwrap();
        assert_eq!(listed(&account, "sleeping", NOW).await, ["asleep"]);
        assert_eq!(listed(&account, "late", NOW).await, ["awake", "overdue"]);
        assert_eq!(listed(&account, "lost", NOW).await, ["gone"]);
        let by: CountBy = "presence".parse().unwrap();
        let counts = account.count_devices_by(&by, &Filter::every_device(), NOW, 10).await.unwrap();
        let counts: Vec<_> = counts.iter().map(|row| (row.value.as_deref().unwrap(), row.devices)).collect();
        assert_eq!(counts, [("late", 2), ("lost", 1), ("sleeping", 1)]);

        let start = account.last_event().await.unwrap();
        for later in 0..12_000_u64 {
            if later % 50 == 0 {
                db.store.service_wide().tell_overdue(1, UnixSeconds(NOW.0 + later)).await.unwrap();
            }
        }
        let told = account.events_after(start, 100).await.unwrap();
        let told: Vec<_> = told.iter().map(|event| (event.kind.as_str(), event.subject.as_str())).collect();
        assert_eq!(
            told,
            [
                ("device.lost", "devices/overdue"),
                ("device.lost", "devices/awake"),
                ("device.late", "devices/asleep"),
                ("device.lost", "devices/asleep"),
            ]
        );
    }
}
