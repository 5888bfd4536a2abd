//! What a device should have and says of a staged configuration, in the terms in which a rollout sees it. Never decides.

use protocol_types::{ConfigurationState, Digest, Phase, Reason, ReasonCode, SecurityVersion};
use sqlx::{Row, any::AnyRow};

use crate::{
    DeviceReport, RolloutRow, StoreError, Wish,
    error::cannot,
    rollouts::updates::read_reason,
    rows::{self, parsed},
};

/// Columns for a query with `g`, the settings that a device was given, and, if the device is `listed`, `r`, the rollout on it.
pub(crate) fn columns(listed: bool) -> String {
    let on_list = if listed {
        "r.released AS released, r.generation AS released_generation, r.refused AS refused"
    } else {
        "CAST(NULL AS BIGINT) AS released, CAST(NULL AS BIGINT) AS released_generation, CAST(NULL AS TEXT) AS refused"
    };
    format!(
        "{on_list}, g.generation AS given_generation, g.acknowledged AS given_acknowledged, g.digest AS given_digest,
         g.said_state AS said_state, g.said_generation AS said_generation, g.said_digest AS said_digest,
         g.said_reason_code AS said_reason_code, g.said_reason_text AS said_reason_text"
    )
}

/// What is wanted of the device, and what it said about that.
pub(crate) fn read(row: &AnyRow, rollout: &RolloutRow) -> Result<(Option<Wish>, Option<DeviceReport>), StoreError> {
    let doing = "read the facts of a device";
    let number = |column| row.try_get::<Option<i64>, _>(column).map_err(cannot(doing));
    let Some(attempt) = number("released")?.and_then(|attempt| u32::try_from(attempt).ok()) else {
        return Ok((None, None));
    };
    let first = number("released_generation")?;
    let taken = first.is_some() && number("given_acknowledged")? >= first;
    let wish = Wish { rollout: rollout.id.clone(), attempt, taken };
    if let Some(why) = rows::text(row, "refused")? {
        let reason = Reason::new(ReasonCode::InvalidConfiguration, why);
        return Ok((Some(wish), Some(report(rollout, attempt, (Phase::Failed, Some(reason))))));
    }
    let given = number("given_generation")?;
    if first.is_none() || given < first || number("said_generation")? != given {
        return Ok((Some(wish), None));
    }
    let state: Option<ConfigurationState> = parsed(row, "said_state")?;
    let reason = read_reason(row, "said_reason_code", "said_reason_text")?;
    let said: Option<Digest> = parsed(row, "said_digest")?;
    let outcome = match state {
        None | Some(ConfigurationState::None) => return Ok((Some(wish), None)),
        Some(ConfigurationState::Trial) => (Phase::Trial, None),
        Some(ConfigurationState::Confirmed) if said == parsed(row, "given_digest")? => (Phase::Succeeded, None),
        Some(ConfigurationState::Confirmed) => {
            let text = "the device has other settings in force than it was given";
            (Phase::Failed, Some(Reason::new(ReasonCode::InvalidConfiguration, text)))
        }
        Some(ConfigurationState::Refused) => (Phase::Failed, reason),
        Some(ConfigurationState::Undone) => (Phase::RolledBack, reason),
    };
    Ok((Some(wish), Some(report(rollout, attempt, outcome))))
}

fn report(rollout: &RolloutRow, attempt: u32, (phase, reason): (Phase, Option<Reason>)) -> DeviceReport {
    DeviceReport {
        phase,
        reason,
        progress: None,
        rollout: Some(rollout.id.clone()),
        attempt,
        digest: Some(rollout.digest),
        running_version: None,
        running_digest: None,
        slot: None,
        floor: SecurityVersion(0),
    }
}
