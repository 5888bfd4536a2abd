//! Object 5, Firmware Update, as a view of the updater's state: it takes no packages, since releases are the only way to change
//! software.

use protocol_lwm2m::client::{ObjectError, Reading};
use protocol_types::{Phase, ReasonCode, UpdateStatus};

use super::{integer, text};

pub(super) fn read(status: Option<&UpdateStatus>, resource: u16) -> Result<Reading, ObjectError> {
    Ok(match resource {
        // No package URI was written, since none is taken.
        1 => text(""),
        3 => integer(status.map_or(0, |status| state(status.phase))),
        5 => integer(status.map_or(0, result)),
        6 => text("os"),
        7 => text(&status.ok_or(ObjectError::NotFound)?.running.os_version),
        // Delivery by pull alone.
        9 => integer(0),
        _ => return Err(ObjectError::NotFound),
    })
}

/// Resource 3: 0 idle, 1 downloading, 2 downloaded, 3 updating.
const fn state(phase: Phase) -> i64 {
    match phase {
        Phase::Idle | Phase::Succeeded | Phase::Failed | Phase::RolledBack => 0,
        Phase::Downloading => 1,
        Phase::Verifying => 2,
        Phase::Installing | Phase::Trial => 3,
    }
}

/// Resource 5: 0 nothing yet, 1 success, 2 not enough storage, 4 connection lost, 5 integrity check failed, 6 unsupported
/// package, 8 update failed.
fn result(status: &UpdateStatus) -> i64 {
    match status.phase {
        Phase::Idle | Phase::Downloading | Phase::Verifying | Phase::Installing | Phase::Trial => 0,
        Phase::Succeeded => 1,
        Phase::RolledBack => 8,
        Phase::Failed => match status.reason.as_ref().map(|reason| reason.code) {
            Some(ReasonCode::NoRoom) => 2,
            Some(ReasonCode::Unreachable | ReasonCode::NoContact) => 4,
            Some(ReasonCode::DigestMismatch | ReasonCode::Truncated | ReasonCode::BadSignature) => 5,
            Some(ReasonCode::WrongBoard | ReasonCode::WrongArchitecture | ReasonCode::MalformedRelease) => 6,
            _ => 8,
        },
    }
}

#[cfg(test)]
mod tests {
    use protocol_types::Reason;

    use super::*;
    use crate::objects::tests::status;

    #[test]
    fn every_phase_has_the_state_and_result_of_the_standard() {
        for (phase, expected) in [
            (Phase::Idle, (0, 0)),
            (Phase::Downloading, (1, 0)),
            (Phase::Verifying, (2, 0)),
            (Phase::Installing, (3, 0)),
            (Phase::Trial, (3, 0)),
            (Phase::Succeeded, (0, 1)),
            (Phase::RolledBack, (0, 8)),
        ] {
            let status = UpdateStatus { phase, ..status("1.0.0") };
            assert_eq!((state(status.phase), result(&status)), expected, "{phase}");
        }
        for (code, expected) in [
            (ReasonCode::NoRoom, 2),
            (ReasonCode::Unreachable, 4),
            (ReasonCode::DigestMismatch, 5),
            (ReasonCode::WrongBoard, 6),
            (ReasonCode::BelowSecurityFloor, 8),
        ] {
            let reason = Some(Reason::new(code, "said so"));
            assert_eq!(result(&UpdateStatus { phase: Phase::Failed, reason, ..status("1.0.0") }), expected, "{code}");
        }
    }
}
