//! Carries long operations out: a piece of each in turn, so that a list of a million rows holds nobody up. Remembers nothing; the
//! store knows where each goes on.

use std::{collections::HashSet, io, time::Duration};

use fleet_store::{AccountScope, Change, ListBatch, OperationRequest, OperationRow, StoreError};

use crate::{fleet::Fleet, list_files::ReadListError, pacer::Pacer};

/// Longest time between two looks: a signal may be lost.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Lines of a list in one transaction.
const LINES: usize = 1000;
/// Devices that are edited in one transaction.
const DEVICES: u32 = 200;

/// Why a piece of an operation was not done.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error("cannot ask the database")]
    Store(#[from] StoreError),
    #[error("cannot go on with the list")]
    List(#[from] ReadListError),
}

impl StepError {
    /// The code and the sentence with which the operation fails, if trying again would bring nothing better.
    fn verdict(&self) -> Option<(&'static str, String)> {
        match self {
            Self::List(ReadListError::Read(error)) if error.kind() == io::ErrorKind::NotFound => {
                Some(("list_missing", "the list is no longer with the service; send it again".to_owned()))
            }
            Self::List(error @ (ReadListError::Head(_) | ReadListError::Place(_))) => {
                Some(("list_damaged", format!("the list cannot be read: {error}")))
            }
            Self::Store(error @ (StoreError::FilterTooLarge { .. } | StoreError::GroupInItself { .. })) => {
                Some(("filter_too_large", error.to_string()))
            }
            Self::Store(_) | Self::List(ReadListError::Read(_)) => None,
        }
    }
}

/// Runs until the service stops.
pub(crate) async fn work(fleet: Fleet) {
    // People ask for operations one by one, so there is nothing to rest from.
    let mut pacer = Pacer::new(&fleet, Duration::ZERO, |change| matches!(change, Change::Operations(_)));
    while !fleet.stop.is_cancelled() {
        match round(&fleet).await {
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) => tracing::error!(error = %crate::Chain(&error), "long operations could not be looked at"),
        }
        pacer.wait(LOOK_AGAIN).await;
    }
}

/// Does a piece of every operation under way; answers whether there is more to do at once.
pub(crate) async fn round(fleet: &Fleet) -> Result<bool, StoreError> {
    let mut goes_on = false;
    for (name, row) in fleet.store.service_wide().open_operations().await? {
        if fleet.stop.is_cancelled() {
            return Ok(false);
        }
        let account = fleet.store.account(&name);
        match step(fleet, &account, &row).await {
            Ok(true) => goes_on = true,
            Ok(false) => clear_away(fleet, &account, &row).await,
            Err(error) => {
                let operation = row.id();
                tracing::error!(account = %name, %operation, error = %crate::Chain(&error), "an operation did not go on");
                if let Some((code, text)) = error.verdict() {
                    account.fail_operation(row.number, (code, &text), fleet.clock.now()).await?;
                    clear_away(fleet, &account, &row).await;
                }
            }
        }
    }
    Ok(goes_on)
}

/// One piece of one operation; answers whether it goes on.
async fn step(fleet: &Fleet, account: &AccountScope, row: &OperationRow) -> Result<bool, StepError> {
    match &row.request {
        OperationRequest::EnrolList { file } => {
            let path = fleet.lists.path(account.name(), file);
            let read = fleet.lists.lines(path, row.position.clone(), LINES).await?;
            let batch = ListBatch { at: &row.position, lines: &read.lines, next: &read.next, is_end: read.is_end };
            Ok(account.enrol_listed(row.number, &batch, fleet.clock.now()).await?)
        }
        OperationRequest::EditDevices { .. } => {
            Ok(account.edit_devices(row.number, DEVICES, fleet.clock.now()).await?)
        }
    }
}

/// Removes what only the operation needed.
pub(crate) async fn clear_away(fleet: &Fleet, account: &AccountScope, row: &OperationRow) {
    if let OperationRequest::EnrolList { file } = &row.request
        && let Err(error) = fleet.lists.remove(account.name(), file).await
    {
        tracing::warn!(%error, account = %account.name(), "a list that was gone through was not removed");
    }
}

/// Removes lists that no operation needs any more.
pub(crate) async fn clear_lists(fleet: &Fleet) -> Result<(), StoreError> {
    let mut wanted = HashSet::new();
    for (account, row) in fleet.store.service_wide().open_operations().await? {
        if let OperationRequest::EnrolList { file } = &row.request {
            wanted.insert(fleet.lists.path(&account, file));
        }
    }
    if let Err(error) = fleet.lists.keep(wanted).await {
        tracing::warn!(%error, "old lists were not removed");
    }
    Ok(())
}
