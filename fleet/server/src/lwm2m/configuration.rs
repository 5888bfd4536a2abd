//! Object 26242: what the service writes of a device's configuration, and what the device says of it. Never trusts a length or a form.

use fleet_store::{ConfigurationReport, GivenConfiguration};
use protocol_lwm2m::{
    client::WriteMode,
    coap::ContentFormat,
    formats::{Entry, Value},
    object::{Path, ids, ids::configuration as resource},
    server::Operation,
};
use protocol_types::{ConfigurationState, Reason, ReasonCode, recovery::RecoveryKey};

/// `/26242/0`
pub(super) const CONFIGURATION: Path = Path::instance(ids::CONFIGURATION, 0);

/// The configuration that the device was given, in one Write.
pub(super) fn write(given: &GivenConfiguration) -> Operation {
    let entry = |resource, value: Value| Entry::new(Path::resource(ids::CONFIGURATION, 0, resource), value);
    let generation = i64::try_from(given.generation).unwrap_or(i64::MAX);
    let entries = vec![
        entry(resource::DOCUMENT, Value::String(given.document.clone())),
        entry(resource::GENERATION, Value::Integer(generation)),
    ];
    Operation::Write { path: CONFIGURATION, mode: WriteMode::Partial, entries, format: ContentFormat::SENML_CBOR }
}

pub(super) const fn observe() -> Operation {
    Operation::Observe { path: CONFIGURATION, accept: Some(ContentFormat::SENML_CBOR) }
}

/// Reads the resources of `/26242/0`; `None` without a state that is known.
pub(super) fn report(entries: &[Entry]) -> Option<ConfigurationReport> {
    let value = |resource| {
        let entry = entries.iter().find(|entry| entry.path.ids() == [ids::CONFIGURATION, 0, resource])?;
        Some(&entry.value)
    };
    let text = |resource| value(resource).and_then(Value::as_str);
    // A code of a newer agent is not lost: the sentence still says what happened.
    let reason = text(resource::REASON_CODE).filter(|code| !code.is_empty()).map(|code| {
        let sentence = text(resource::REASON).unwrap_or_default();
        match code.parse::<ReasonCode>() {
            Ok(code) => Reason::new(code, sentence),
            Err(_) => Reason::new(ReasonCode::Internal, format!("{code}: {sentence}")),
        }
    });
    Some(ConfigurationReport {
        state: text(resource::STATE)?.parse().ok()?,
        generation: value(resource::REPORTED_GENERATION)
            .and_then(Value::as_i64)
            .and_then(|generation| u64::try_from(generation).ok())
            .unwrap_or_default(),
        digest: text(resource::DIGEST).and_then(|digest| digest.parse().ok()),
        reason,
    })
}

/// The key to which secrets of the device are sealed, if it says one.
pub(super) fn sealing_key(entries: &[Entry]) -> Option<RecoveryKey> {
    let path = [ids::CONFIGURATION, 0, resource::SEALING_KEY];
    entries.iter().find(|entry| entry.path.ids() == path)?.value.as_str()?.parse().ok()
}

/// What a device that did not take the configuration of this generation has thereby said.
pub(super) fn refused(given: &GivenConfiguration, reason: Reason) -> ConfigurationReport {
    let before = given.report.as_ref().and_then(|(said, _)| said.digest);
    ConfigurationReport {
        state: ConfigurationState::Refused,
        generation: given.generation,
        digest: before,
        reason: Some(reason),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protocol_types::Digest;

    use super::*;

    fn entry(resource: u16, value: impl Into<Value>) -> Entry {
        Entry::new(Path::resource(ids::CONFIGURATION, 0, resource), value)
    }

    #[test]
    fn every_resource_of_a_report_is_understood() {
        let digest = Digest::of(b"{}");
        let said = report(&[
            entry(resource::STATE, "undone"),
            entry(resource::REPORTED_GENERATION, 7),
            entry(resource::DIGEST, digest.to_string()),
            entry(resource::REASON_CODE, "no_contact"),
            entry(resource::REASON, "the service was not reached within 10 s"),
        ])
        .unwrap();
        assert_eq!((said.state, said.generation, said.digest), (ConfigurationState::Undone, 7, Some(digest)));
        assert_eq!(said.reason.unwrap().code, ReasonCode::NoContact);
        assert_eq!(report(&[entry(resource::STATE, "moonlit")]), None);
    }

    proptest! {
        #[test]
        fn whatever_a_device_says_is_read_within_bounds(
            said in proptest::collection::vec((0_u16..9, ".{0,600}"), 0..20), generation: i64,
        ) {
            let said = said.into_iter().map(|(resource, text)| entry(resource, text));
            let first = [entry(resource::STATE, "trial"), entry(resource::REPORTED_GENERATION, generation)];
            let entries: Vec<Entry> = first.into_iter().chain(said).collect();
            let read = report(&entries).unwrap();
            prop_assert!(read.reason.is_none_or(|reason| reason.text.len() <= 500));
        }
    }
}
