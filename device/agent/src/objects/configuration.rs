//! Object 26242, MBL Configuration: what the service wants and what became of it (`docs/formats/device-wire.md`).

use protocol_lwm2m::{
    client::{ObjectError, Reading},
    formats::{Entry, Value},
    object::ids::configuration as resource,
};

use super::{integer, text};
use crate::configuration::{Told, Wish};

pub(super) fn read(wish: Option<&Wish>, told: Option<&Told>, wanted: u16) -> Result<Reading, ObjectError> {
    let told = told.ok_or(ObjectError::NotFound)?;
    let number = |number: u64| integer(i64::try_from(number).unwrap_or(i64::MAX));
    Ok(match wanted {
        resource::DOCUMENT => text(wish.map(Wish::document).unwrap_or_default()),
        resource::GENERATION => number(wish.map_or(0, Wish::generation)),
        resource::STATE => text(told.state),
        resource::REPORTED_GENERATION => number(told.generation),
        resource::DIGEST => text(told.digest.map(|digest| digest.to_string()).unwrap_or_default()),
        resource::REASON_CODE => text(told.reason.as_ref().map(|reason| reason.code.as_str()).unwrap_or_default()),
        resource::REASON => text(told.reason.as_ref().map(|reason| reason.text.as_str()).unwrap_or_default()),
        resource::SEALING_KEY => text(told.sealing_key.map(|key| key.to_string()).unwrap_or_default()),
        _ => return Err(ObjectError::NotFound),
    })
}

/// The wish after a Write on top of the one before: all of it, or an error and none of it.
pub(super) fn wish(before: Option<&Wish>, entries: &[Entry]) -> Result<Wish, ObjectError> {
    let mut document = before.map(|wish| wish.document().to_owned()).unwrap_or_else(|| "{}".to_owned());
    let mut generation = before.map_or(0, Wish::generation);
    for entry in entries {
        match (entry.path.ids(), &entry.value) {
            ([_, _, resource::DOCUMENT], Value::String(text)) => document.clone_from(text),
            ([_, _, resource::GENERATION], Value::Integer(number)) => {
                let bad = |_| ObjectError::BadValue("the generation is a number from 0".to_owned());
                generation = u64::try_from(*number).map_err(bad)?;
            }
            _ => return Err(ObjectError::BadValue(format!("{} is not written by a service", entry.path))),
        }
    }
    Wish::new(generation, document).map_err(ObjectError::BadValue)
}
