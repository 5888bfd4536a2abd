//! Revisions of documents that are not in force: staged, released to devices by a rollout, and brought into force when it ends well.
//! Never decides which device has its turn.

use protocol_types::{EndpointName, Reason, ReasonCode, RevisionStanding, RolloutId, RolloutState, UnixSeconds};
use serde_json::{Map, Value, json};
use sqlx::{Any, AnyConnection, AssertSqlSafe, Row, any::AnyArguments, query::Query};

use crate::{
    AccountScope, Change, ConfigurationLevel, ConfigurationRow, EventDraft, RolloutRow, StoreError,
    configurations::read, error::cannot, events, numbers::to_sql, rows::formed, transaction::Transaction,
};

/// The rollout that gave a device a revision that is not in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Released {
    /// The rollout.
    pub rollout: RolloutId,
    /// Its try on the device, from 1.
    pub attempt: u32,
    /// The first settings of the device that had it; none if it was not given them yet.
    pub generation: Option<u64>,
}

/// Takes back from a device everything that rollouts have released to it.
pub(crate) const FORGET_RELEASED: &str = "UPDATE rollout_devices SET released = NULL, generation = NULL, refused = NULL
    WHERE account = $1 AND endpoint = $2 AND released IS NOT NULL";

/// Refuses a revision that is in force or older.
pub(crate) fn must_be_staged(standing: RevisionStanding, revision: i64) -> Result<(), StoreError> {
    let state = match standing {
        RevisionStanding::Staged => return Ok(()),
        RevisionStanding::InForce => "in force already",
        RevisionStanding::Past => "older than the one in force; stage it anew",
    };
    let (id, state) = (revision.to_string(), state.to_owned());
    Err(StoreError::WrongState { kind: "revision of the configuration", id, state })
}

impl AccountScope {
    /// Keeps a document as a new revision of its level that is not in force on any device. The newest one again makes none. Without a
    /// priority, that of a group is the one in force.
    pub async fn stage_configuration(
        &self,
        level: &ConfigurationLevel,
        (document, priority): (&Map<String, Value>, Option<u32>),
        now: UnixSeconds,
    ) -> Result<ConfigurationRow, StoreError> {
        let mut tx = self.write().await?;
        self.must_have_level(&mut tx, level).await?;
        let (in_force, newest) = self.newest_revision(&mut tx, level).await?;
        let priority = priority.unwrap_or(in_force.priority);
        if newest > in_force.revision
            && let Some(row) = self.revision_on(tx.sql(), level, newest).await?
            && (&row.document, row.priority) == (document, priority)
        {
            return Ok(row);
        }
        let revision = newest.saturating_add(1);
        self.keep_revision(&mut tx, (level, revision), (document, priority), now).await?;
        let data = json!({ "level": level.kind(), "revision": revision });
        let draft = EventDraft { kind: "configuration.staged", subject: level.subject(), data };
        events::append(&mut tx, self, now, draft).await?;
        tx.commit().await?;
        self.configuration_revision(level, revision).await
    }

    pub(crate) async fn revision_on(
        &self,
        sql: &mut AnyConnection,
        level: &ConfigurationLevel,
        revision: i64,
    ) -> Result<Option<ConfigurationRow>, StoreError> {
        let row = sqlx::query(
            "SELECT v.priority, v.document, v.revision, v.changed, c.revision AS in_force FROM configuration_revisions v
             JOIN configurations c ON c.account = v.account AND c.level = v.level AND c.name = v.name
             WHERE v.account = $1 AND v.level = $2 AND v.name = $3 AND v.revision = $4",
        )
        .bind(self.id())
        .bind(level.kind())
        .bind(level.name())
        .bind(revision)
        .fetch_optional(sql)
        .await
        .map_err(cannot("read a revision of a configuration"))?;
        row.map(|row| read(level.clone(), &row)).transpose()
    }

    /// Refuses to begin a rollout of a revision that is no longer staged.
    pub(crate) async fn must_still_be_staged(
        &self,
        tx: &mut Transaction,
        level: &ConfigurationLevel,
        revision: i64,
    ) -> Result<(), StoreError> {
        match self.revision_on(tx.sql(), level, revision).await? {
            Some(row) => must_be_staged(row.standing, revision),
            None => Err(StoreError::NotFound { kind: "revision of the configuration", id: revision.to_string() }),
        }
    }

    /// Refuses to put another revision in force while a rollout of the document goes on.
    pub(crate) async fn must_not_roll_out(
        &self,
        tx: &mut Transaction,
        level: &ConfigurationLevel,
    ) -> Result<(), StoreError> {
        match self.rollouts_of(tx, (level, i64::MAX), "'running', 'paused'").await?.first() {
            None => Ok(()),
            Some(id) => Err(StoreError::WrongState {
                kind: "configuration",
                id: level.name().to_owned(),
                state: format!("being rolled out by {id}; abort that rollout first, or stage the document"),
            }),
        }
    }

    /// Rollouts in one of these states that bring an older revision of the document than this one.
    async fn rollouts_of(
        &self,
        tx: &mut Transaction,
        (level, before): (&ConfigurationLevel, i64),
        states: &'static str,
    ) -> Result<Vec<RolloutId>, StoreError> {
        let doing = "look for rollouts of a configuration";
        let sql = format!(
            "SELECT id FROM rollouts WHERE account = $1 AND level = $2 AND level_name = $3 AND level_revision < $4
                 AND state IN ({states}) ORDER BY number"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(self.id())
            .bind(level.kind())
            .bind(level.name())
            .bind(before)
            .fetch_all(tx.sql())
            .await
            .map_err(cannot(doing))?;
        rows.iter().map(|row| formed(row, doing, ("rollouts", "id"))).collect()
    }

    /// Ends the rollouts that bring an older revision of a document than this one.
    pub(crate) async fn end_rollouts_of(
        &self,
        tx: &mut Transaction,
        document: (&ConfigurationLevel, i64),
        why: &str,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        for id in self.rollouts_of(tx, document, "'draft', 'running', 'paused'").await? {
            let reason = Reason::new(ReasonCode::Superseded, why);
            self.set_rollout_state(tx, &id, (RolloutState::Aborted, Some(&reason)), now).await?;
            let data = json!({ "reason": reason });
            let draft = EventDraft { kind: "rollout.aborted", subject: format!("rollouts/{id}"), data };
            events::append(tx, self, now, draft).await?;
        }
        Ok(())
    }

    /// Puts the revision that a rollout brought in force for all whom its document is for, if the rollout was for all of them.
    pub(crate) async fn bring_in_force(
        &self,
        tx: &mut Transaction,
        rollout: &RolloutRow,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        let wanted = &rollout.wanted;
        let Some((level, revision)) = wanted.subject.in_force_after(&wanted.audience) else { return Ok(()) };
        let Some(row) = self.revision_on(tx.sql(), level, revision).await? else { return Ok(()) };
        if row.standing != RevisionStanding::Staged {
            return Ok(());
        }
        self.put_in_force(tx, (level, revision), (&row.document, row.priority), now).await?;
        self.end_rollouts_of(tx, (level, revision), "a newer revision of the document is in force", now).await?;
        let data = json!({ "level": level.kind(), "revision": revision, "rollout": rollout.id });
        let draft = EventDraft { kind: "configuration.in_force", subject: level.subject(), data };
        events::append(tx, self, now, draft).await
    }

    /// Releases the revision of a rollout to a device with a try, or takes it back.
    pub(crate) async fn release_configuration(
        &self,
        tx: &mut Transaction,
        (endpoint, rollout): (&EndpointName, &RolloutId),
        attempt: Option<u32>,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE rollout_devices SET released = $4, generation = NULL, refused = NULL
             WHERE account = $1 AND rollout = $2 AND endpoint = $3",
        )
        .bind(self.id())
        .bind(rollout.as_str())
        .bind(endpoint.as_str())
        .bind(attempt.map(i64::from))
        .execute(tx.sql())
        .await
        .map_err(cannot("release a configuration to a device"))?;
        tx.changed(Change::Released(self.account.clone(), endpoint.clone()));
        Ok(())
    }

    /// Sets a column of the row about a revision that was released to a device and not given yet, to the value that is bound next.
    fn until_given<'q>(
        &'q self,
        column: &'static str,
        endpoint: &'q EndpointName,
        released: &'q Released,
    ) -> Query<'q, Any, AnyArguments> {
        let query = format!(
            "UPDATE rollout_devices SET {column} = $5
             WHERE account = $1 AND rollout = $2 AND endpoint = $3 AND released = $4 AND generation IS NULL"
        );
        sqlx::query(AssertSqlSafe(query))
            .bind(self.id())
            .bind(released.rollout.as_str())
            .bind(endpoint.as_str())
            .bind(i64::from(released.attempt))
    }

    /// Notes with which settings a device was first given what rollouts have released to it.
    pub(crate) async fn note_given(
        &self,
        tx: &mut Transaction,
        endpoint: &EndpointName,
        (released, generation): (&[Released], u64),
    ) -> Result<(), StoreError> {
        for one in released {
            self.until_given("generation", endpoint, one)
                .bind(to_sql(generation))
                .execute(tx.sql())
                .await
                .map_err(cannot("give a device its configuration"))?;
        }
        Ok(())
    }

    /// Notes that what rollouts have released to a device cannot be given to it; they hear of it as of a failure.
    pub async fn refuse_released(
        &self,
        endpoint: &EndpointName,
        released: &[Released],
        why: &str,
    ) -> Result<(), StoreError> {
        let fresh: Vec<&Released> = released.iter().filter(|one| one.generation.is_none()).collect();
        if fresh.is_empty() {
            return Ok(());
        }
        let mut tx = self.write().await?;
        for one in fresh {
            self.until_given("refused", endpoint, one)
                .bind(why)
                .execute(tx.sql())
                .await
                .map_err(cannot("refuse a configuration for a device"))?;
        }
        tx.changed(Change::Device(self.account.clone(), endpoint.clone()));
        tx.commit().await
    }

    /// Takes back what a rollout has released to the devices on which it succeeded; answers how many there were.
    pub(crate) async fn take_released_back(&self, tx: &mut Transaction, from: &RolloutRow) -> Result<u64, StoreError> {
        let doing = "bring devices back";
        let rows = sqlx::query(
            "UPDATE rollout_devices SET released = NULL, generation = NULL, refused = NULL, returned = 'in_force'
             WHERE account = $1 AND rollout = $2 AND state = 'succeeded' AND returned IS NULL RETURNING endpoint",
        )
        .bind(self.id())
        .bind(from.id.as_str())
        .fetch_all(tx.sql())
        .await
        .map_err(cannot(doing))?;
        for row in &rows {
            let name: String = row.try_get("endpoint").map_err(cannot(doing))?;
            let endpoint =
                name.parse().map_err(|_| StoreError::Damaged { table: "rollout_devices", column: "endpoint" })?;
            tx.changed(Change::Released(self.account.clone(), endpoint));
        }
        Ok(u64::try_from(rows.len()).unwrap_or(u64::MAX))
    }
}
