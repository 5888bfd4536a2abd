//! Object 3, Device: who made it, what it runs, what time it has.

use protocol_lwm2m::{
    client::{ObjectError, Reading},
    formats::Value,
};
use protocol_types::{ReasonCode, UnixSeconds, UpdateStatus};

use super::{About, text};

/// Executing it asks for a restart.
pub(super) const REBOOT: u16 = 4;
/// Executing it asks for a factory reset.
pub(super) const FACTORY_RESET: u16 = 5;
/// The present, which a Read shows and no notification announces.
pub(super) const CURRENT_TIME: u16 = 13;

pub(super) fn read(
    about: &About,
    status: Option<&UpdateStatus>,
    now: UnixSeconds,
    resource: u16,
) -> Result<Reading, ObjectError> {
    let running = || status.map(|status| &status.running).ok_or(ObjectError::NotFound);
    Ok(match resource {
        0 => text(&about.manufacturer),
        1 => text(&about.model),
        2 => text(&about.serial),
        3 => text(&running()?.os_version),
        11 => Reading::Multiple(vec![(0, Value::Integer(error_code(status)))]),
        CURRENT_TIME => Reading::Single(Value::Time(i64::try_from(now.0).unwrap_or(i64::MAX))),
        // The device keeps UTC; a zone is a matter of who looks at it.
        14 => text("+00:00"),
        16 => text("T"),
        19 => text(&running()?.version),
        _ => return Err(ObjectError::NotFound),
    })
}

/// The error codes of resource 11 that fit what the updater reports: 0 none, 5 out of memory, 8 peripheral malfunction.
fn error_code(status: Option<&UpdateStatus>) -> i64 {
    match status.and_then(|status| status.reason.as_ref()).map(|reason| reason.code) {
        Some(ReasonCode::NoRoom) => 5,
        Some(ReasonCode::StorageFailed | ReasonCode::StateDamaged) => 8,
        _ => 0,
    }
}
