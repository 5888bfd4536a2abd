//! Object 26244, MBL Job: what the service asks the device to do, and what came of it (`docs/formats/device-wire.md`).

use protocol_lwm2m::{
    client::{ObjectError, Reading},
    formats::{Entry, Value},
    object::ids::job as resource,
};
use protocol_types::ProbeName;

use super::text;
use crate::jobs::{JobOrder, JobStatus, Ledger};

pub(super) fn read(
    ledger: &Ledger,
    (status, probes): (&JobStatus, &[ProbeName]),
    wanted: u16,
) -> Result<Reading, ObjectError> {
    Ok(match wanted {
        // What was written is told by what became of it.
        resource::ID | resource::REPORTED_ID => text(&status.id),
        resource::KIND | resource::ARGUMENTS => text(""),
        resource::STATE => text(status.state),
        resource::REASON_CODE => text(status.reason.as_ref().map(|reason| reason.code.as_str()).unwrap_or_default()),
        resource::REASON => text(status.reason.as_ref().map(|reason| reason.text.as_str()).unwrap_or_default()),
        // The service reads the state first: a result belongs to the job that it names.
        resource::RESULT if ledger.status() == *status => text(ledger.result()),
        resource::RESULT => text(""),
        resource::PROBES => Reading::Multiple(
            (0..).zip(probes).map(|(at, probe)| (at, Value::String(probe.as_str().to_owned()))).collect(),
        ),
        _ => return Err(ObjectError::NotFound),
    })
}

/// The job of a Write: all of it, or an error and none of it.
pub(super) fn order(entries: &[Entry]) -> Result<JobOrder, ObjectError> {
    let (mut id, mut kind, mut arguments) = (None, None, None);
    for entry in entries {
        let place = match entry.path.ids() {
            [_, _, resource::ID] => &mut id,
            [_, _, resource::KIND] => &mut kind,
            [_, _, resource::ARGUMENTS] => &mut arguments,
            _ => return Err(ObjectError::BadValue(format!("{} is not written by a service", entry.path))),
        };
        *place = entry.value.as_str();
    }
    let (Some(id), Some(kind), Some(arguments)) = (id, kind, arguments) else {
        return Err(ObjectError::BadValue("a job is written with id, kind and arguments in one Write".to_owned()));
    };
    JobOrder::read(id, kind, arguments).map_err(ObjectError::BadValue)
}
