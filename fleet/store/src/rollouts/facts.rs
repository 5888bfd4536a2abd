//! What is known about a rollout and its devices: the facts that a decision needs, read in one look. Never decides.

use protocol_types::{
    DeviceState, EndpointName, OnFailure, RolloutId, RolloutState, Standing, UnixSeconds, WaitingFor,
};
use sqlx::{AnyConnection, AssertSqlSafe, Row, any::AnyRow};

use crate::{
    AccountScope, Audience, DeviceReport, NewRollout, RolloutRow, StoreError, Subject, Wave, configurations,
    devices::{self, bound},
    error::cannot,
    filter::{Bind, Clause, Filter, Place},
    numbers::{from_sql, time, to_sql},
    rollouts::{
        as_json,
        updates::{read_report, read_wish},
    },
    rows::{self, formed, parsed},
};

/// The attribute in which a device's time zone stands, by its name in the IANA database.
const ZONE: &str = "timezone";
/// How far back offers are counted, in seconds: the longest time for which a rate can make a device wait.
const OFFERS_SINCE: u64 = 3600;
/// The first placeholder that is free for filters.
const FIRST: usize = 6;
/// Devices that one question names.
const NAMES: usize = 500;

/// What a device should have by some rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The rollout that asks for it.
    pub rollout: RolloutId,
    /// Its try on the device, from 1.
    pub attempt: u32,
    /// Whether the device has taken it.
    pub taken: bool,
}

/// Everything known about one device of a rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceFacts {
    /// The device.
    pub endpoint: EndpointName,
    /// How far the rollout is on it; `None` if it has just come into the audience.
    pub at: Option<(DeviceState, Option<WaitingFor>)>,
    /// Its wave, from 0, once it has one.
    pub wave: Option<u32>,
    /// The waves whose filter is true for it now.
    pub matches: Vec<u32>,
    /// The try that counts now, from 1.
    pub attempt: u32,
    /// Tries of this rollout that failed.
    pub failed: u32,
    /// It is not tried again before this.
    pub not_before: Option<UnixSeconds>,
    /// Whether it is registered now, and its standing; `None` if it is no longer in the directory.
    pub present: Option<(bool, Standing)>,
    /// When it was last heard.
    pub last_seen: Option<UnixSeconds>,
    /// Whether what the rollout brings is for the device at all; a document is for the devices of its group.
    pub meant: bool,
    /// What is wanted of it.
    pub wish: Option<Wish>,
    /// What it last said about it.
    pub said: Option<DeviceReport>,
    /// The rollout that decides what it runs, if that is another one.
    pub outranked_by: Option<RolloutId>,
    /// Whether an operator has said yes to the rollout on this device.
    pub consented: bool,
    /// Tries of any rollout that failed since the last one that succeeded.
    pub failures: u32,
    /// Where it is, if somebody said: the name of a time zone.
    pub zone: Option<String>,
}

impl DeviceFacts {
    /// Whether the same is known, apart from what changes all the time and moves no device: when it was last heard, and how far it is with
    /// a download.
    pub(crate) fn says_the_same_as(&self, other: &Self) -> bool {
        let what_counts = |facts: &Self| {
            let mut facts = Self { last_seen: None, ..facts.clone() };
            if let Some(said) = &mut facts.said {
                said.progress = None;
            }
            facts
        };
        what_counts(self) == what_counts(other)
    }
}

/// How many devices of a rollout are in each state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(pub Vec<(DeviceState, u64)>);

impl Counts {
    /// Devices in one of the states.
    pub fn of(&self, states: &[DeviceState]) -> u64 {
        self.0.iter().filter(|(state, _)| states.contains(state)).map(|(_, n)| n).sum()
    }

    /// All devices.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|(_, n)| n).sum()
    }
}

/// How many devices of a wave are in a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaveCount {
    /// The wave, from 0; `None` for devices that have none yet.
    pub wave: Option<u32>,
    /// The state.
    pub state: DeviceState,
    /// How many.
    pub devices: u64,
}

/// Everything known about a rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolloutFacts {
    /// The rollout.
    pub rollout: RolloutRow,
    /// Its devices for which something may still change, in the order of their names, then those that have just come.
    pub devices: Vec<DeviceFacts>,
    /// All its devices by wave and state, apart from those that have just come into the audience.
    pub waves: Vec<WaveCount>,
    /// When devices were offered the release in the last hour, oldest first, and how many at that moment.
    pub offers: Vec<(UnixSeconds, u64)>,
    /// A rollout that decides for the whole audience and has brought every device of it to an end.
    pub retired_by: Option<RolloutId>,
    /// Devices that run the release and are to be brought back.
    pub returnable: u64,
}

pub(crate) const ENDS: &str = "('succeeded', 'failed', 'rolled_back', 'skipped', 'superseded', 'cancelled')";

/// Columns of every device's facts, for a query with `d` devices and `z` time zones.
const FACTS: &str = "d.connected AS connected, d.standing AS standing, d.last_seen AS last_seen, d.update_failures AS update_failures, z.value AS zone";

/// Columns of what a device should run and says of it, for a query with `w` wishes and `s` reports.
const RELEASE_FACTS: &str =
    "w.generation AS wish_generation, w.acknowledged AS wish_acknowledged, w.path AS wish_path, w.digest AS wish_digest,
    w.rollout AS wish_rollout, w.attempt AS wish_attempt, w.changed AS wish_changed,
    s.phase AS said_phase, s.reason_code AS said_reason_code, s.reason_text AS said_reason_text,
    s.progress AS said_progress, s.rollout AS said_rollout, s.attempt AS said_attempt, s.digest AS said_digest,
    s.running_version AS said_running_version, s.running_digest AS said_running_digest, s.slot AS said_slot,
    s.floor AS said_floor";

/// Columns of what a device should have; `listed` says whether the query has `r`, the rollout on the device.
fn subject_facts(subject: &Subject, listed: bool) -> String {
    match subject {
        Subject::Release(_) => RELEASE_FACTS.to_owned(),
        Subject::Configuration { .. } => configurations::facts::columns(listed),
    }
}

/// What a query joins to a device, `x` being what names it.
fn joins(x: &str) -> String {
    format!(
        "LEFT JOIN desired_releases w ON w.account = {x}.account AND w.endpoint = {x}.endpoint
         LEFT JOIN device_reports s ON s.account = {x}.account AND s.endpoint = {x}.endpoint
         LEFT JOIN device_configurations g ON g.account = {x}.account AND g.endpoint = {x}.endpoint
         LEFT JOIN device_attributes z ON z.account = {x}.account AND z.endpoint = {x}.endpoint AND z.key = '{ZONE}'"
    )
}

/// The rollout that decides what a device has, if it is not the one that asks. `$2` is the rollout that asks, `$3` its start
/// order, `$4` its priority and `$5` what its subject is told apart by. A rollout under way decides for its devices by priority, then
/// by the later start, except where it failed or gave way. One that is over decides nothing, but what a later one has done an earlier
/// one does not undo.
pub(crate) fn outranked(endpoint: &str) -> String {
    format!(
        "(SELECT n.id FROM rollout_devices o JOIN rollouts n ON n.account = o.account AND n.id = o.rollout
          WHERE o.account = $1 AND o.endpoint = {endpoint} AND o.rollout <> $2 AND {SAME_SUBJECT}
            AND (n.priority > $4 OR (n.priority = $4 AND n.start_order > $3))
            AND ((n.state IN ('running', 'paused')
                  AND o.state NOT IN ('superseded', 'cancelled', 'failed', 'rolled_back'))
                 OR (o.state IN ('succeeded', 'skipped') AND n.start_order > $3))
          ORDER BY n.priority DESC, n.start_order DESC LIMIT 1)"
    )
}

/// That a rollout `n` decides about the same thing as the one that asks.
pub(crate) const SAME_SUBJECT: &str = "COALESCE(n.level || '/' || n.level_name, '') = $5";

fn read_facts(row: &AnyRow, filters: &[u32], rollout: &RolloutRow) -> Result<DeviceFacts, StoreError> {
    let doing = "read the facts of a device";
    let number = |column: &str| row.try_get::<Option<i64>, _>(column).map_err(cannot(doing));
    let small = |column| Ok::<_, StoreError>(number(column)?.map(|n| u32::try_from(n).unwrap_or(u32::MAX)));
    let at = match parsed(row, "state")? {
        Some(state) => Some((state, parsed(row, "waiting_for")?)),
        None => None,
    };
    // There is none if the device is gone.
    let standing = rows::text(row, "standing")?.map(|_| devices::standing(row, doing)).transpose()?;
    // To a rollout, a device that was taken out of service is not there.
    let present = standing
        .filter(|standing| *standing != Standing::Decommissioned)
        .map(|standing| Ok::<_, StoreError>((number("connected")? == Some(1), standing)))
        .transpose()?;
    let (wish, said) = match &rollout.wanted.subject {
        Subject::Release(_) => (read_wish(row)?.and_then(|row| row.wish()), read_report(row)?),
        Subject::Configuration { .. } => configurations::facts::read(row, rollout)?,
    };
    Ok(DeviceFacts {
        endpoint: formed(row, doing, ("rollout_devices", "endpoint"))?,
        at,
        wave: small("wave")?,
        matches: read_matches(row, filters)?,
        attempt: small("attempt")?.unwrap_or(1),
        failed: small("failed")?.unwrap_or(0),
        not_before: number("not_before")?.map(time),
        present,
        last_seen: number("last_seen")?.map(time),
        meant: number("meant")? == Some(1),
        wish,
        said,
        outranked_by: parsed(row, "outranked_by")?,
        consented: number("consented")?.is_some(),
        failures: small("update_failures")?.unwrap_or(0),
        zone: rows::text(row, "zone")?,
    })
}

/// Which of the waves by filter a row is in.
pub(crate) fn read_matches(row: &AnyRow, filters: &[u32]) -> Result<Vec<u32>, StoreError> {
    let mut matches = Vec::new();
    for wave in filters {
        if row.try_get::<i64, _>(format!("wave_{wave}").as_str()).map_err(cannot("read the waves of a device"))? == 1 {
            matches.push(*wave);
        }
    }
    Ok(matches)
}

/// The condition that a device is one of these, the first placeholder being `first`, and what is bound to it.
pub(crate) fn one_of(column: &str, devices: &[EndpointName], first: usize) -> (String, Vec<Bind>) {
    let places: Vec<String> = (first..first + devices.len()).map(|place| format!("${place}")).collect();
    let binds = devices.iter().map(|device| Bind::Text(device.to_string())).collect();
    (format!("{column} IN ({})", places.join(", ")), binds)
}

/// The condition that a device is asked about, with what is bound to it.
fn asked(column: &str, only: Option<&[EndpointName]>, binds: &mut Vec<Bind>) -> String {
    let Some(only) = only else { return "1 = 1".to_owned() };
    let (condition, names) = one_of(column, only, FIRST + binds.len());
    binds.extend(names);
    condition
}

/// Which devices come into the audience while it is open. A list of devices is complete from the beginning.
pub(crate) fn admitted(wanted: &NewRollout) -> Option<Filter> {
    let filter = match &wanted.audience {
        Audience::All => Filter::every_device(),
        Audience::Group(group) => Filter::of_group(group),
        Audience::Filter(filter) => filter.clone(),
        Audience::Devices(_) => return None,
    };
    Some(match wanted.subject.only_for() {
        Some(only) => filter.and(only),
        None => filter,
    })
}

impl AccountScope {
    /// Everything known about a rollout.
    pub async fn facts_of_rollout(&self, id: &RolloutId, now: UnixSeconds) -> Result<RolloutFacts, StoreError> {
        let mut reader = self.readers().acquire().await.map_err(cannot("look at a rollout"))?;
        self.rollout_facts(&mut reader, id, now).await
    }

    pub(crate) async fn rollout_facts(
        &self,
        sql: &mut AnyConnection,
        id: &RolloutId,
        now: UnixSeconds,
    ) -> Result<RolloutFacts, StoreError> {
        let rollout = self.rollout_on(sql, id).await?;
        let running = rollout.state == RolloutState::Running;
        Ok(RolloutFacts {
            devices: self.device_facts(sql, &rollout, None, now).await?,
            waves: self.count_waves(sql, id).await?,
            offers: self.offers(sql, &rollout, now).await?,
            retired_by: if running { self.retired_by(sql, &rollout).await? } else { None },
            returnable: self.returnable(sql, &rollout).await?,
            rollout,
        })
    }

    /// What is known of those among these devices for which something may still change.
    pub(crate) async fn facts_of_devices(
        &self,
        sql: &mut AnyConnection,
        rollout: &RolloutRow,
        devices: &[EndpointName],
        now: UnixSeconds,
    ) -> Result<Vec<DeviceFacts>, StoreError> {
        let mut found = Vec::new();
        for some in devices.chunks(NAMES) {
            found.extend(self.device_facts(sql, rollout, Some(some), now).await?);
        }
        Ok(found)
    }

    /// The devices of a rollout for which something may still change, then those that have just come; if it is asked `only` about some,
    /// those among them.
    async fn device_facts(
        &self,
        sql: &mut AnyConnection,
        rollout: &RolloutRow,
        only: Option<&[EndpointName]>,
        now: UnixSeconds,
    ) -> Result<Vec<DeviceFacts>, StoreError> {
        let running = rollout.state == RolloutState::Running;
        // What gave way to another rollout comes back once nothing is in its way any more.
        let back = if running { "OR (r.state = 'superseded' AND " } else { "OR (1 = 0 AND " };
        let (columns, mut binds, filters) = self.wave_columns(sql, &rollout.wanted.policy.waves, FIRST, now).await?;
        let meant = match rollout.wanted.subject.only_for() {
            None => "1 = 1".to_owned(),
            Some(only) => {
                let only = self.resolved(sql, &only).await?;
                let clause = only.clause(Place { report: "s", first: FIRST + binds.len(), now });
                binds.extend(clause.binds);
                clause.sql
            }
        };
        let asked = asked("r.endpoint", only, &mut binds);
        let known = format!(
            "SELECT {columns} r.endpoint AS endpoint, r.state AS state, r.waiting_for AS waiting_for, r.consented AS consented,
                    r.wave AS wave, r.attempt AS attempt, r.failed AS failed, r.not_before AS not_before,
                    {outranked} AS outranked_by, CAST(CASE WHEN {meant} THEN 1 ELSE 0 END AS BIGINT) AS meant, {FACTS}, {}
             FROM rollout_devices r LEFT JOIN devices d ON d.account = r.account AND d.endpoint = r.endpoint {}
             WHERE r.account = $1 AND r.rollout = $2 AND (r.state NOT IN {ENDS} {back} {outranked} IS NULL)) AND {asked}
             ORDER BY r.endpoint",
            subject_facts(&rollout.wanted.subject, true),
            joins("r"),
            outranked = outranked("r.endpoint"),
        );
        let mut devices = self.facts(sql, (known, binds, &filters), rollout).await?;
        if running
            && !rollout.closed
            && let Some(filter) = admitted(&rollout.wanted)
        {
            devices.extend(self.fresh(sql, rollout, (&filter, only), now).await?);
        }
        Ok(devices)
    }

    /// Devices of the audience that are not on the list; if it is asked `only` about some, those among them.
    async fn fresh(
        &self,
        sql: &mut AnyConnection,
        rollout: &RolloutRow,
        (filter, only): (&Filter, Option<&[EndpointName]>),
        now: UnixSeconds,
    ) -> Result<Vec<DeviceFacts>, StoreError> {
        let filter = self.resolved(sql, filter).await?;
        let Clause { sql: condition, mut binds, .. } = filter.clause(Place { report: "s", first: FIRST, now });
        let (columns, more, filters) =
            self.wave_columns(sql, &rollout.wanted.policy.waves, FIRST + binds.len(), now).await?;
        binds.extend(more);
        let asked = asked("d.endpoint", only, &mut binds);
        let fresh = format!(
            "SELECT d.endpoint AS endpoint, CAST(NULL AS TEXT) AS state, CAST(NULL AS TEXT) AS waiting_for,
                    CAST(NULL AS BIGINT) AS consented, CAST(NULL AS BIGINT) AS wave, CAST(NULL AS BIGINT) AS attempt,
                    CAST(NULL AS BIGINT) AS failed, CAST(NULL AS BIGINT) AS not_before,
                    {columns} {} AS outranked_by, CAST(1 AS BIGINT) AS meant, {FACTS}, {}
             FROM devices d {}
             WHERE d.account = $1 AND d.standing <> 'decommissioned' AND {condition} AND {asked} AND NOT EXISTS (SELECT 1
                 FROM rollout_devices r WHERE r.account = $1 AND r.rollout = $2 AND r.endpoint = d.endpoint) ORDER BY d.endpoint",
            outranked("d.endpoint"),
            subject_facts(&rollout.wanted.subject, false),
            joins("d"),
        );
        self.facts(sql, (fresh, binds, &filters), rollout).await
    }

    /// A column for each wave by filter, `1` where its filter is true; the first placeholder is `first`.
    pub(crate) async fn wave_columns(
        &self,
        sql: &mut AnyConnection,
        waves: &[Wave],
        first: usize,
        now: UnixSeconds,
    ) -> Result<(String, Vec<Bind>, Vec<u32>), StoreError> {
        let (mut columns, mut binds, mut filters) = (String::new(), Vec::new(), Vec::new());
        for (wave, index) in waves.iter().zip(0_u32..) {
            let Wave::Filter(filter) = wave else { continue };
            let filter = self.resolved(sql, filter).await?;
            let clause = filter.clause(Place { report: "s", first: first + binds.len(), now });
            columns += &format!("CAST(CASE WHEN {} THEN 1 ELSE 0 END AS BIGINT) AS wave_{index}, ", clause.sql);
            binds.extend(clause.binds);
            filters.push(index);
        }
        Ok((columns, binds, filters))
    }

    async fn facts(
        &self,
        connection: &mut AnyConnection,
        (sql, binds, filters): (String, Vec<Bind>, &[u32]),
        rollout: &RolloutRow,
    ) -> Result<Vec<DeviceFacts>, StoreError> {
        let query = sqlx::query(AssertSqlSafe(sql))
            .bind(self.id())
            .bind(rollout.id.as_str())
            .bind(rollout.start_order.map_or(i64::MAX, to_sql))
            .bind(i64::from(rollout.wanted.priority))
            .bind(rollout.wanted.subject.key());
        let rows = bound(query, binds).fetch_all(connection).await.map_err(cannot("read the facts of a rollout"))?;
        rows.iter().map(|row| read_facts(row, filters, rollout)).collect()
    }

    async fn offers(
        &self,
        sql: &mut AnyConnection,
        rollout: &RolloutRow,
        now: UnixSeconds,
    ) -> Result<Vec<(UnixSeconds, u64)>, StoreError> {
        let doing = "count the offers of a rollout";
        if rollout.wanted.policy.rate.is_none() {
            return Ok(Vec::new());
        }
        let rows = sqlx::query(
            "SELECT offered, COUNT(*) AS devices FROM rollout_devices
             WHERE account = $1 AND rollout = $2 AND offered > $3 GROUP BY offered ORDER BY offered",
        )
        .bind(self.id())
        .bind(rollout.id.as_str())
        .bind(to_sql(now.0.saturating_sub(OFFERS_SINCE)))
        .fetch_all(sql)
        .await
        .map_err(cannot(doing))?;
        let number = |row: &AnyRow, column| row.try_get::<i64, _>(column).map_err(cannot(doing));
        rows.iter().map(|row| Ok((time(number(row, "offered")?), from_sql(number(row, "devices")?)))).collect()
    }

    async fn retired_by(&self, sql: &mut AnyConnection, rollout: &RolloutRow) -> Result<Option<RolloutId>, StoreError> {
        let query = format!(
            "SELECT n.id AS id FROM rollouts n WHERE n.account = $1 AND n.id <> $2 AND n.state = 'running' AND n.closed = 0
                 AND (n.priority > $4 OR (n.priority = $4 AND n.start_order > $3)) AND n.audience IN ($6, $7) AND {SAME_SUBJECT}
                 AND EXISTS (SELECT 1 FROM rollout_devices r WHERE r.account = $1 AND r.rollout = n.id)
                 AND NOT EXISTS (SELECT 1 FROM rollout_devices r WHERE r.account = $1 AND r.rollout = n.id
                                 AND r.state NOT IN {ENDS})
             ORDER BY n.priority DESC, n.start_order DESC LIMIT 1"
        );
        let row = sqlx::query(AssertSqlSafe(query))
            .bind(self.id())
            .bind(rollout.id.as_str())
            .bind(rollout.start_order.map_or(i64::MAX, to_sql))
            .bind(i64::from(rollout.wanted.priority))
            .bind(rollout.wanted.subject.key())
            .bind(as_json(&Audience::All, "audience")?)
            .bind(as_json(&rollout.wanted.audience, "audience")?)
            .fetch_optional(sql)
            .await
            .map_err(cannot("look for a newer rollout"))?;
        row.as_ref().map_or(Ok(None), |row| parsed(row, "id"))
    }

    async fn returnable(&self, sql: &mut AnyConnection, rollout: &RolloutRow) -> Result<u64, StoreError> {
        let doing = "count devices to bring back";
        if rollout.state != RolloutState::Stopped || rollout.wanted.on_failure != OnFailure::Return {
            return Ok(0);
        }
        let row = sqlx::query(
            "SELECT COUNT(*) AS devices FROM rollout_devices
             WHERE account = $1 AND rollout = $2 AND state = 'succeeded' AND returned IS NULL",
        )
        .bind(self.id())
        .bind(rollout.id.as_str())
        .fetch_one(sql)
        .await
        .map_err(cannot(doing))?;
        Ok(from_sql(row.try_get("devices").map_err(cannot(doing))?))
    }

    async fn count_waves(&self, connection: &mut AnyConnection, id: &RolloutId) -> Result<Vec<WaveCount>, StoreError> {
        let doing = "count the devices of a rollout";
        let rows = sqlx::query(
            "SELECT wave, state, COUNT(*) AS devices FROM rollout_devices WHERE account = $1 AND rollout = $2
             GROUP BY wave, state ORDER BY wave, state",
        )
        .bind(self.id())
        .bind(id.as_str())
        .fetch_all(connection)
        .await
        .map_err(cannot(doing))?;
        rows.iter()
            .map(|row| {
                let number = |column| row.try_get::<i64, _>(column).map_err(cannot(doing));
                let damaged = |column| StoreError::Damaged { table: "rollout_devices", column };
                let wave: Option<i64> = row.try_get("wave").map_err(cannot(doing))?;
                Ok(WaveCount {
                    wave: wave.map(u32::try_from).transpose().map_err(|_| damaged("wave"))?,
                    state: formed(row, doing, ("rollout_devices", "state"))?,
                    devices: from_sql(number("devices")?),
                })
            })
            .collect()
    }

    /// How many devices of a rollout are in each state.
    pub async fn rollout_counts(&self, id: &RolloutId) -> Result<Counts, StoreError> {
        let mut connection = self.readers().acquire().await.map_err(cannot("count the devices of a rollout"))?;
        let waves = self.count_waves(&mut connection, id).await?;
        let of = |state: DeviceState| waves.iter().filter(|w| w.state == state).map(|w| w.devices).sum::<u64>();
        let counts = DeviceState::ALL.iter().map(|&state| (state, of(state))).filter(|(_, devices)| *devices > 0);
        Ok(Counts(counts.collect()))
    }
}
