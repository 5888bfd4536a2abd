//! Object 26243, MBL Metrics: what was measured and not yet acknowledged, and how much of it may be sent (`docs/formats/metrics.md`).

use protocol_lwm2m::{
    client::{ObjectError, Reading},
    formats::{Entry, Value},
    object::ids::metrics as resource,
};
use protocol_types::metrics::Metric;

use super::integer;
use crate::metrics::Metrics;

pub(super) fn read(metrics: &Metrics, wanted: u16) -> Result<Reading, ObjectError> {
    let number = |number: u64| integer(i64::try_from(number).unwrap_or(i64::MAX));
    match wanted {
        resource::SAMPLES => {
            let bytes = metrics.report().ok_or(ObjectError::NotFound)?;
            Ok(Reading::Single(Value::Opaque(bytes)))
        }
        resource::BUDGET => Ok(number(metrics.budget())),
        resource::DROPPED => Ok(number(metrics.seen().0)),
        _ => {
            let place = wanted.checked_sub(resource::FIRST_VALUE).map(usize::from);
            let metric = place.and_then(|place| Metric::ALL.get(place)).ok_or(ObjectError::NotFound)?;
            let steps = metrics.seen().1.get(*metric).ok_or(ObjectError::NotFound)?;
            Ok(Reading::Single(Value::Float(metric.real(steps))))
        }
    }
}

/// Takes a Write: all of it, or an error and none of it.
pub(super) fn write(metrics: &Metrics, entries: &[Entry]) -> Result<(), ObjectError> {
    let (mut acknowledged, mut budget) = (None, None);
    for entry in entries {
        let place = match (entry.path.ids(), &entry.value) {
            ([_, _, resource::ACKNOWLEDGED], Value::Integer(number)) => (&mut acknowledged, *number),
            ([_, _, resource::BUDGET], Value::Integer(number)) => (&mut budget, *number),
            _ => return Err(ObjectError::BadValue(format!("{} is not written by a service", entry.path))),
        };
        let bad = |_| ObjectError::BadValue(format!("{} is a number from 0", entry.path));
        *place.0 = Some(u64::try_from(place.1).map_err(bad)?);
    }
    if let Some(budget) = budget {
        metrics.set_budget(budget);
    }
    if let Some(number) = acknowledged {
        metrics.acknowledge(number);
    }
    Ok(())
}
