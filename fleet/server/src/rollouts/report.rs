//! What a device's report means for a rollout. Never decides what follows from it.

use fleet_store::{DeviceReport, RolloutRow, Subject};
use protocol_types::{Consent, DeviceState, Phase, Reason, ReasonCode, WaitingFor};

/// What the device said; nothing, if it is about something else or about an earlier try.
pub(crate) fn heard(
    rollout: &RolloutRow,
    said: Option<&DeviceReport>,
    attempt: u32,
) -> Option<(DeviceState, Option<WaitingFor>, Option<Reason>)> {
    let said = said?;
    if said.rollout.as_ref() != Some(&rollout.id) || said.digest != Some(rollout.digest) || said.attempt != attempt {
        return None;
    }
    let is_configuration = matches!(rollout.wanted.subject, Subject::Configuration { .. });
    let asks = rollout.wanted.consent == Consent::Device;
    let code = said.reason.as_ref().map(|reason| reason.code);
    let (state, waiting_for) = match (said.phase, code) {
        (Phase::Idle, _) => return None,
        (Phase::Downloading, _) => (DeviceState::Downloading, None),
        (Phase::Verifying, Some(ReasonCode::ConsentNeeded)) if asks => {
            (DeviceState::Waiting, Some(WaitingFor::Consent))
        }
        (Phase::Verifying, _) => (DeviceState::Verifying, None),
        (Phase::Installing, _) => (DeviceState::Installing, None),
        (Phase::Trial, _) => (DeviceState::Trial, None),
        (Phase::Succeeded, _) => (DeviceState::Succeeded, None),
        // Settings that cut contact are undone for good: nothing but the settings is to blame.
        (Phase::RolledBack, Some(ReasonCode::NoContact)) if is_configuration => (DeviceState::RolledBack, None),
        // The device tries again by itself once it has contact; that is no failure of the release.
        (Phase::Failed | Phase::RolledBack, Some(ReasonCode::NoContact)) => {
            (DeviceState::Waiting, Some(WaitingFor::Asleep))
        }
        // A no is no failure: the device is asked again.
        (Phase::Failed, Some(ReasonCode::ConsentRefused)) if asks => (DeviceState::Waiting, Some(WaitingFor::Consent)),
        (Phase::Failed | Phase::RolledBack, Some(ReasonCode::Superseded)) => (DeviceState::Superseded, None),
        (Phase::Failed, _) => (DeviceState::Failed, None),
        (Phase::RolledBack, _) => (DeviceState::RolledBack, None),
    };
    Some((state, waiting_for, said.reason.clone()))
}
