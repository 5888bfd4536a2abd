//! Reads what a device says about its software in object 26241, and of itself in object 3. Never trusts a length or a form.

use fleet_store::{ComponentRow, DesiredRelease, DeviceReport, Nameplate};
use protocol_lwm2m::{
    formats::{Entry, Value},
    object::ids,
};
use protocol_types::{Digest, Phase, Reason, ReasonCode, SecurityVersion, Slot, recovery::SealedRecoveryKey};

use super::tries;

/// The release object's id.
pub(super) const RELEASE_OBJECT: u16 = 26241;
/// Components of one device that are kept: an operating system, 32 applications, and room for what comes.
const MAX_COMPONENTS: usize = 64;
const MAX_STATE_BYTES: usize = 32;
const MAX_NAMEPLATE_BYTES: usize = 64;

/// What a device said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) status: DeviceReport,
    pub(super) components: Vec<ComponentRow>,
}

/// Reads the resources of `/26241/0`; `None` without a phase that is known. What cannot be understood counts as not said.
pub(super) fn report(entries: &[Entry]) -> Option<Report> {
    let text = |resource| {
        entries
            .iter()
            .find(|entry| entry.path.ids() == [RELEASE_OBJECT, 0, resource])
            .and_then(|entry| entry.value.as_str())
    };
    let number = |resource| {
        entries
            .iter()
            .find(|entry| entry.path.ids() == [RELEASE_OBJECT, 0, resource])
            .and_then(|entry| entry.value.as_i64())
    };
    // A code of a newer agent is not lost: the sentence still says what happened.
    let reason = text(4).filter(|code| !code.is_empty()).map(|code| match code.parse::<ReasonCode>() {
        Ok(code) => Reason::new(code, text(5).unwrap_or_default()),
        Err(_) => Reason::new(ReasonCode::Internal, format!("{code}: {}", text(5).unwrap_or_default())),
    });
    let tried = text(7).and_then(tries::read);
    let status = DeviceReport {
        phase: Phase::parse(text(3)?)?,
        reason,
        progress: number(6).and_then(|percent| u8::try_from(percent).ok()).filter(|percent| *percent <= 100),
        attempt: tried.as_ref().map_or(1, |(_, attempt)| *attempt),
        rollout: tried.map(|(rollout, _)| rollout),
        digest: text(8).and_then(|digest| digest.parse().ok()),
        running_version: text(9).and_then(|version| version.parse().ok()),
        running_digest: text(10).and_then(|digest| digest.parse().ok()),
        slot: match text(11) {
            Some("a") => Some(Slot::A),
            Some("b") => Some(Slot::B),
            Some(_) | None => None,
        },
        floor: SecurityVersion(number(13).and_then(|floor| u32::try_from(floor).ok()).unwrap_or_default()),
    };
    let components = entries
        .iter()
        .filter(|entry| entry.path.ids().starts_with(&[RELEASE_OBJECT, 0, 12]))
        .filter_map(|entry| component(entry.value.as_str()?))
        .take(MAX_COMPONENTS)
        .collect();
    Some(Report { status, components })
}

/// The sealed recovery key of the device's state, if it has one.
pub(super) fn recovery_key(entries: &[Entry]) -> Option<SealedRecoveryKey> {
    let said = entries.iter().find(|entry| entry.path.ids() == [RELEASE_OBJECT, 0, ids::release::RECOVERY_KEY])?;
    SealedRecoveryKey::parse(said.value.as_str()?.as_bytes()).ok()
}

/// Reads `os 1.1.0 sha256:…` or `application/hello 1.1.0 sha256:… ready`.
fn component(text: &str) -> Option<ComponentRow> {
    let mut words = text.split(' ');
    let (name, version, digest, state) = (words.next()?, words.next()?, words.next()?, words.next());
    let is_name = (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'/' | b'_'));
    let is_state = state.is_none_or(|state| {
        (1..=MAX_STATE_BYTES).contains(&state.len()) && state.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    });
    let is_version = (1..=64).contains(&version.len()) && version.bytes().all(|b| b.is_ascii_graphic());
    if !is_name || !is_version || !is_state || words.next().is_some() {
        return None;
    }
    Some(ComponentRow {
        name: name.to_owned(),
        version: version.to_owned(),
        digest: digest.parse::<Digest>().ok()?,
        state: state.map(str::to_owned),
    })
}

/// Reads the first four resources of `/3/0`.
pub(super) fn nameplate(entries: &[Entry]) -> Nameplate {
    let text = |resource| {
        let value = &entries.iter().find(|entry| entry.path.ids() == [3, 0, resource])?.value;
        let Value::String(text) = value else { return None };
        let mut kept = String::new();
        for c in text.chars().filter(|c| !c.is_control()) {
            if kept.len() + c.len_utf8() > MAX_NAMEPLATE_BYTES {
                break;
            }
            kept.push(c);
        }
        Some(kept).filter(|kept| !kept.is_empty())
    };
    Nameplate { manufacturer: text(0), model: text(1), serial_number: text(2), firmware_version: text(3) }
}

/// Why a device could not take an order: the code of a reason, or whatever else it said.
pub(super) fn refusal(diagnostic: &str) -> Reason {
    let doing = "the device could not keep the order";
    match diagnostic.parse::<ReasonCode>() {
        Ok(code) => Reason::new(code, doing),
        Err(_) => Reason::new(ReasonCode::Internal, format!("{doing}: {diagnostic}")),
    }
}

/// What a device that did not take a release has thereby said; what runs is what it last reported.
pub(super) fn refused(before: Option<DeviceReport>, release: &DesiredRelease, reason: Reason) -> DeviceReport {
    let before = before.unwrap_or(DeviceReport {
        phase: Phase::Failed,
        reason: None,
        progress: None,
        rollout: None,
        attempt: release.attempt,
        digest: None,
        running_version: None,
        running_digest: None,
        slot: None,
        floor: SecurityVersion(0),
    });
    DeviceReport {
        phase: Phase::Failed,
        reason: Some(reason),
        progress: None,
        rollout: Some(release.rollout.clone()),
        attempt: release.attempt,
        digest: Some(release.digest),
        ..before
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protocol_lwm2m::object::Path;

    use super::*;

    fn entry(resource: u16, value: impl Into<Value>) -> Entry {
        Entry::new(Path::resource(RELEASE_OBJECT, 0, resource), value)
    }

    fn digest() -> String {
        Digest::of(b"x").to_string()
    }

    #[test]
    fn every_resource_of_a_report_is_understood() {
        let mut entries = vec![
            entry(3, "rolled_back"),
            entry(4, "application_not_ready"),
            entry(5, "hello did not answer"),
            entry(6, 70),
            entry(7, "r-2"),
            entry(8, digest()),
            entry(9, "1.1.0"),
            entry(10, digest()),
            entry(11, "b"),
            entry(13, 3),
        ];
        for (n, text) in [format!("os 1.1.0 {}", digest()), format!("application/hello 1.1.0 {} ready", digest())]
            .into_iter()
            .enumerate()
        {
            let path = Path::resource_instance(RELEASE_OBJECT, 0, 12, u16::try_from(n).unwrap());
            entries.push(Entry::new(path, text));
        }
        let Report { status, components } = report(&entries).unwrap();
        assert_eq!(status.phase, Phase::RolledBack);
        assert_eq!(status.reason.unwrap().code, ReasonCode::ApplicationNotReady);
        assert_eq!((status.progress, status.slot, status.floor), (Some(70), Some(Slot::B), SecurityVersion(3)));
        assert_eq!(status.rollout.unwrap().as_str(), "r-2");
        assert_eq!(components[1].state.as_deref(), Some("ready"));
    }

    #[test]
    fn a_reason_code_of_a_newer_agent_keeps_its_sentence() {
        let said = report(&[entry(3, "failed"), entry(4, "moon_phase"), entry(5, "wait for the new moon")]).unwrap();
        let reason = said.status.reason.unwrap();
        assert_eq!(reason.code, ReasonCode::Internal);
        assert_eq!(reason.text, "moon_phase: wait for the new moon");
    }

    #[test]
    fn components_that_are_not_of_the_form_are_left_out() {
        for bad in ["", "os", "os 1.0", "os 1.0 sha256:00", "../x 1 sha256:", "os  1.0"] {
            assert_eq!(component(bad), None, "{bad:?}");
        }
        let good = format!("os 1.0 {}", digest());
        assert!(component(&good).is_some());
        assert_eq!(component(&format!("{good} ready and more")), None);
        assert_eq!(component(&format!("{good} re\u{1b}ady")), None);
    }

    proptest! {
        #[test]
        fn whatever_a_device_says_is_read_within_bounds(
            said in proptest::collection::vec((0_u16..16, 0_u16..100, ".{0,600}"), 0..200),
        ) {
            let entries: Vec<Entry> = said
                .into_iter()
                .map(|(resource, within, text)| {
                    Entry::new(Path::resource_instance(RELEASE_OBJECT, 0, resource, within), text)
                })
                .chain([entry(3, "idle")])
                .collect();
            let Report { status, components } = report(&entries).unwrap();
            prop_assert!(components.len() <= MAX_COMPONENTS);
            prop_assert!(status.reason.is_none_or(|reason| reason.text.len() <= 500));
        }
    }
}
