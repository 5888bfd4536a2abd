//! The same edit to many devices, as a long operation: in the order of their names, some in each transaction.

use protocol_types::{EndpointName, GroupName, OperationState, RowOutcome, Standing, UnixSeconds};
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, raw_sql};

use crate::{
    AccountScope, DeviceChange, Filter, StoreError,
    devices::bound,
    error::cannot,
    filter::Place,
    operations::{OperationRequest, OperationRow, RowReport},
    rows::formed,
    transaction::Transaction,
};

/// What is done to each device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceEdit {
    /// Change attributes, tags and the note.
    Change(DeviceChange),
    /// Make it a listed member of a group.
    AddToGroup(GroupName),
    /// Take it from the listed members of a group.
    RemoveFromGroup(GroupName),
    /// Keep it out, for this reason.
    Suspend(String),
    /// Let it take part again.
    Resume,
    /// Take it out of service for good, for this reason.
    Decommission(String),
}

impl DeviceEdit {
    const fn group(&self) -> Option<&GroupName> {
        match self {
            Self::AddToGroup(name) | Self::RemoveFromGroup(name) => Some(name),
            Self::Change(_) | Self::Suspend(_) | Self::Resume | Self::Decommission(_) => None,
        }
    }
}

/// Why one device was left as it was while the operation goes on; anything else ends the transaction.
fn refusal(error: StoreError) -> Result<(&'static str, String), StoreError> {
    match error {
        StoreError::TooMany { .. } => Ok(("too_many", error.to_string())),
        StoreError::WrongState { .. } => Ok(("wrong_state", error.to_string())),
        other => Err(other),
    }
}

impl AccountScope {
    /// Edits at most `most` devices more and reports each. Answers whether the operation goes on.
    pub async fn edit_devices(&self, operation: u64, most: u32, now: UnixSeconds) -> Result<bool, StoreError> {
        let mut tx = self.write().await?;
        let Some(row) = self.take_up(&mut tx, operation, now).await? else { return Ok(false) };
        let OperationRequest::EditDevices { filter, edit } = &row.request else {
            return Err(StoreError::Damaged { table: "operations", column: "request" });
        };
        if let Some(name) = edit.group() {
            match self.next_group_revision(&mut tx, name, None).await {
                Err(StoreError::NotFound { .. }) => {
                    let why = format!("the group `{name}` is no longer there");
                    self.end_operation(&mut tx, &row, (OperationState::Failed, Some(("not_found", &why))), now).await?;
                    tx.commit().await?;
                    return Ok(false);
                }
                other => other?,
            }
        }
        let devices = self.next_devices(&mut tx, (&row.position, most), filter, now).await?;
        let mut reports = Vec::with_capacity(devices.len());
        for (line, endpoint) in (row.rows() + 1..).zip(&devices) {
            reports.push(self.edit_one(&mut tx, (line, endpoint), edit, now).await?);
        }
        if let Some(name) = edit.group().filter(|_| reports.iter().any(|row| row.outcome == RowOutcome::Done)) {
            let data = serde_json::json!({ "operation": row.id() });
            self.tell_group(&mut tx, (name, "changed"), data, now).await?;
        }
        let is_end = devices.len() < usize::try_from(most).unwrap_or(usize::MAX);
        let position = devices.last().map_or(row.position.as_str(), EndpointName::as_str);
        let row: OperationRow = self.record_rows(&mut tx, operation, &reports, position).await?;
        if is_end {
            self.end_operation(&mut tx, &row, (OperationState::Finished, None), now).await?;
        }
        tx.commit().await?;
        Ok(!is_end)
    }

    async fn next_devices(
        &self,
        tx: &mut Transaction,
        (after, most): (&str, u32),
        filter: &Filter,
        now: UnixSeconds,
    ) -> Result<Vec<EndpointName>, StoreError> {
        let doing = "look for the next devices of an operation";
        let filter = self.resolved(tx.sql(), filter).await?;
        let clause = filter.clause(Place { report: "r", first: 4, now });
        let sql = format!(
            "SELECT d.endpoint FROM devices d
             LEFT JOIN device_reports r ON r.account = d.account AND r.endpoint = d.endpoint
             WHERE d.account = $1 AND d.endpoint > $2 AND {} ORDER BY d.endpoint LIMIT $3",
            clause.sql
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(self.id()).bind(after).bind(i64::from(most));
        let rows = bound(query, clause.binds).fetch_all(tx.sql()).await.map_err(cannot(doing))?;
        rows.iter().map(|row| formed(row, doing, ("devices", "endpoint"))).collect()
    }

    /// Edits one device; a refusal leaves nothing of the edit behind.
    async fn edit_one(
        &self,
        tx: &mut Transaction,
        (line, endpoint): (u64, &EndpointName),
        edit: &DeviceEdit,
        now: UnixSeconds,
    ) -> Result<RowReport, StoreError> {
        let doing = "edit a device";
        raw_sql("SAVEPOINT device_edit").execute(tx.sql()).await.map_err(cannot(doing))?;
        let edited = match edit {
            DeviceEdit::Change(change) => self.change_device_on(tx, endpoint, (change, None), now).await.map(|()| true),
            DeviceEdit::AddToGroup(name) => self.add_member(tx, name, endpoint).await,
            DeviceEdit::RemoveFromGroup(name) => self.remove_member(tx, name, endpoint).await,
            DeviceEdit::Suspend(reason) => {
                let reason = Some(reason.as_str()).filter(|reason| !reason.is_empty());
                self.stand(tx, endpoint, (Standing::Suspended, reason), now).await
            }
            DeviceEdit::Resume => self.stand(tx, endpoint, (Standing::Active, None), now).await,
            DeviceEdit::Decommission(reason) => self.decommission(tx, (endpoint, reason), now).await,
        };
        let (outcome, refused) = match edited {
            Ok(true) => (RowOutcome::Done, None),
            Ok(false) => (RowOutcome::Unchanged, None),
            Err(error) => {
                let refused = refusal(error)?;
                raw_sql("ROLLBACK TO SAVEPOINT device_edit").execute(tx.sql()).await.map_err(cannot(doing))?;
                (RowOutcome::Refused, Some(refused))
            }
        };
        raw_sql("RELEASE SAVEPOINT device_edit").execute(tx.sql()).await.map_err(cannot(doing))?;
        let (code, detail) = refused.map(|(code, detail)| (code.to_owned(), detail)).unzip();
        Ok(RowReport { line, subject: Some(endpoint.to_string()), outcome, code, detail })
    }
}
