//! Object 26241, MBL Release: what the service ordered and what the updater reports (`docs/formats/device-wire.md`).

use protocol_lwm2m::{
    client::{ObjectError, Reading},
    formats::Value,
    object::ids::release,
};
use protocol_types::{Phase, UpdateStatus, socket::ApplicationState};

use super::{integer, software::Installed, text};
use crate::orders::Orders;

/// How many digits of the digest stand for the version of firmware.
const FIRMWARE_VERSION: usize = 12;

pub(super) fn read(
    orders: &Orders,
    status: Option<&UpdateStatus>,
    installed: &Installed,
    resource: u16,
) -> Result<Reading, ObjectError> {
    let [path, digest, rollout, consent] = orders.texts();
    match resource {
        release::DESIRED_RELEASE => return Ok(text(path)),
        release::DESIRED_DIGEST => return Ok(text(digest)),
        release::DESIRED_ROLLOUT => return Ok(text(rollout)),
        release::CONSENT => return Ok(text(consent)),
        release::ARTIFACT_SERVER => return Ok(text(orders.artifacts.as_ref().map(text_of).unwrap_or_default())),
        _ => {}
    }
    // The rest is the updater's to say, and until it has there is nothing to read.
    let status = status.ok_or(ObjectError::NotFound)?;
    let running = &status.running;
    Ok(match resource {
        release::PHASE => text(status.phase),
        release::REASON_CODE => text(status.reason.as_ref().map(|reason| reason.code.as_str()).unwrap_or_default()),
        release::REASON => text(status.reason.as_ref().map(|reason| reason.text.as_str()).unwrap_or_default()),
        release::PROGRESS => integer(progress(status).ok_or(ObjectError::NotFound)?),
        release::REPORTED_ROLLOUT => text(status.rollout.as_ref().map(text_of).unwrap_or_default()),
        release::REPORTED_DIGEST => text(status.wanted.as_ref().map(text_of).unwrap_or_default()),
        release::RUNNING_VERSION => text(&running.version),
        release::RUNNING_DIGEST => text(running.digest.as_ref().map(text_of).unwrap_or_default()),
        release::SLOT => text(running.slot),
        release::COMPONENTS => components(status, installed),
        release::SECURITY_FLOOR => integer(i64::from(status.floor.0)),
        _ => return Err(ObjectError::NotFound),
    })
}

/// Per cent in place, while downloading.
fn progress(status: &UpdateStatus) -> Option<i64> {
    let (done, total) = status.progress.filter(|_| status.phase == Phase::Downloading)?;
    let percent = u128::from(done) * 100 / u128::from(total.max(1));
    Some(i64::try_from(percent.min(100)).unwrap_or(100))
}

/// `os VERSION DIGEST`, then `application/NAME VERSION DIGEST STATE` in the order of the instances of object 9, then
/// `firmware VERSION DIGEST SLOT` on a board with slots for it. Firmware has no number, so its digest begins in the place of one.
fn components(status: &UpdateStatus, installed: &Installed) -> Reading {
    let os = format!("os {} {}", status.running.os_version, status.running.os_digest);
    let applications = installed.applications().map(|app| {
        let state = match app.state {
            Some(ApplicationState::Started) => " started",
            Some(ApplicationState::Ready) => " ready",
            Some(ApplicationState::Waiting) => " waiting",
            Some(ApplicationState::Failed) => " failed",
            None => "",
        };
        format!("application/{} {} {}{state}", app.release.name, app.release.version, app.release.digest)
    });
    let firmware = status.running.firmware.and_then(|firmware| {
        let digest = firmware.digest?;
        let version = digest.hex().chars().take(FIRMWARE_VERSION).collect::<String>();
        Some(format!("firmware {version} {digest} slot_{}", firmware.slot))
    });
    let all = std::iter::once(os).chain(applications).chain(firmware);
    Reading::Multiple((0..u16::MAX).zip(all.map(Value::String)).collect())
}

fn text_of(value: &impl ToString) -> String {
    value.to_string()
}
