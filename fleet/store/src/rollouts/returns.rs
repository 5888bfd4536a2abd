//! Brings devices back to what they had before a rollout that stopped: with a rollout of that release, for those devices. Never
//! decides that they are to come back.

use std::collections::BTreeMap;

use protocol_types::{Consent, EndpointName, OnFailure, ReleaseVersion, RolloutId, RolloutState, UnixSeconds};
use serde_json::json;

use crate::{
    AccountScope, Audience, EventDraft, NewRollout, Policy, RolloutRow, StoreError, Subject, Threshold,
    error::cannot,
    events,
    numbers::to_sql,
    rollouts::count,
    rows::{formed, parsed},
    transaction::Transaction,
};

const DOING: &str = "bring devices back";
/// Devices that one rollout lists.
const DEVICES: usize = 10_000;
/// Stands where no release can bring a device back: it ran the image of the factory, or the release is no longer listed.
const NONE: &str = "none";

impl AccountScope {
    /// Starts rollouts of what the devices that run the release of `from` ran before it. Each device is brought back once.
    pub(crate) async fn bring_back(
        &self,
        tx: &mut Transaction,
        from: &RolloutRow,
        now: UnixSeconds,
    ) -> Result<(), StoreError> {
        if let Subject::Configuration { .. } = from.wanted.subject {
            // What was in force before, or released by an earlier rollout, is there again once this is taken back.
            let devices = self.take_released_back(tx, from).await?;
            let data = json!({ "rollout": null, "devices": devices });
            let draft = EventDraft { kind: "rollout.returned", subject: format!("rollouts/{}", from.id), data };
            return events::append(tx, self, now, draft).await;
        }
        let rows = sqlx::query(
            "SELECT r.endpoint AS endpoint, l.version AS version FROM rollout_devices r
             LEFT JOIN devices d ON d.account = r.account AND d.endpoint = r.endpoint
             LEFT JOIN releases l ON l.account = d.account AND l.digest = r.previous AND l.listed = 1
             WHERE r.account = $1 AND r.rollout = $2 AND r.state = 'succeeded' AND r.returned IS NULL ORDER BY r.endpoint",
        )
        .bind(self.id())
        .bind(from.id.as_str())
        .fetch_all(tx.sql())
        .await
        .map_err(cannot(DOING))?;
        let mut releases: BTreeMap<String, (Option<ReleaseVersion>, Vec<EndpointName>)> = BTreeMap::new();
        for row in &rows {
            let version: Option<ReleaseVersion> = parsed(row, "version")?;
            let name = version.as_ref().map(ToString::to_string).unwrap_or_default();
            let place = releases.entry(name).or_insert_with(|| (version, Vec::new()));
            place.1.push(formed(row, DOING, ("rollout_devices", "endpoint"))?);
        }
        for (version, devices) in releases.into_values() {
            for devices in devices.chunks(DEVICES) {
                let by = match &version {
                    Some(version) => Some(self.start_return(tx, from, (version, devices), now).await?),
                    None => None,
                };
                self.note_return(tx, from, by.as_ref(), devices).await?;
                let data = json!({ "rollout": by, "release": version, "devices": devices.len() });
                let draft = EventDraft { kind: "rollout.returned", subject: format!("rollouts/{}", from.id), data };
                events::append(tx, self, now, draft).await?;
            }
        }
        Ok(())
    }

    async fn start_return(
        &self,
        tx: &mut Transaction,
        from: &RolloutRow,
        (version, devices): (&ReleaseVersion, &[EndpointName]),
        now: UnixSeconds,
    ) -> Result<RolloutId, StoreError> {
        let wanted = NewRollout {
            name: format!("return of {}", from.id),
            subject: Subject::Release(version.clone()),
            audience: Audience::Devices(devices.to_vec()),
            // Who comes back must not be kept from it by others who cannot.
            threshold: Threshold::Percent(100),
            on_failure: OnFailure::Stop,
            max_in_flight: from.wanted.max_in_flight,
            window: None,
            consent: Consent::Automatic,
            priority: from.wanted.priority,
            policy: Policy { hold_after: 0, ..Policy::default() },
        };
        let release = self.release_on(tx.sql(), version).await?;
        let number = count(tx, self, "rollouts").await?;
        let id = RolloutId::new(format!("r{number}"))
            .map_err(|_| StoreError::Damaged { table: "counters", column: "value" })?;
        self.insert_rollout(tx, (&id, number), (&wanted, &(Some(release.path), release.digest)), now).await?;
        // It ranks as the one that it undoes, so that what was started after that one goes on to decide.
        sqlx::query(
            "UPDATE rollouts SET start_order = $3, started = $4, brings_back = $5 WHERE account = $1 AND id = $2",
        )
        .bind(self.id())
        .bind(id.as_str())
        .bind(from.start_order.map_or(0, to_sql))
        .bind(to_sql(now.0))
        .bind(from.id.as_str())
        .execute(tx.sql())
        .await
        .map_err(cannot(DOING))?;
        self.set_rollout_state(tx, &id, (RolloutState::Running, None), now).await?;
        Ok(id)
    }

    async fn note_return(
        &self,
        tx: &mut Transaction,
        from: &RolloutRow,
        by: Option<&RolloutId>,
        devices: &[EndpointName],
    ) -> Result<(), StoreError> {
        for endpoint in devices {
            sqlx::query(
                "UPDATE rollout_devices SET returned = $4 WHERE account = $1 AND rollout = $2 AND endpoint = $3",
            )
            .bind(self.id())
            .bind(from.id.as_str())
            .bind(endpoint.as_str())
            .bind(by.map_or(NONE, RolloutId::as_str))
            .execute(tx.sql())
            .await
            .map_err(cannot(DOING))?;
        }
        Ok(())
    }
}
