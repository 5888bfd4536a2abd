//! Rollouts as the API writes them and as the store keeps them. Never asks the store.

use fleet_api::{
    Audience, ConfigurationLevel as Level, CreateRollout, FailureThreshold, Growth, Rate, Retries, Rollout,
    StagedConfiguration, Wave, Window,
};
use fleet_store::{ConfigurationLevel, Counts, DailyWindow, NewRollout, Policy, RolloutRow, Subject, Threshold, Zone};
use protocol_types::{Consent, ReleaseVersion};

use crate::{
    rest::{Refusal, Reply, configuration::effective::api_level, groups::filters},
    rollouts::is_zone,
};

const NAME_CHARACTERS: usize = 100;
/// Devices that an audience may list.
pub(crate) const DEVICES: usize = 10_000;
const WAVES: usize = 20;
/// Tries after the first.
const RETRIES: u8 = 10;
const PRIORITIES: u8 = 100;
/// What stands for each device's own time zone.
const DEVICE_ZONE: &str = "device";

/// Checks a wish and turns it into what the store keeps.
pub(crate) fn understand(wanted: CreateRollout) -> Reply<NewRollout> {
    check_consent(&wanted)?;
    let name = wanted.name.unwrap_or_default();
    if name.chars().count() > NAME_CHARACTERS {
        return Err(Refusal::value("name", format!("a name has at most {NAME_CHARACTERS} characters")));
    }
    if wanted.max_in_flight == Some(0) {
        return Err(Refusal::value("max_in_flight", "at least one device must be under way at a time"));
    }
    if wanted.priority > PRIORITIES {
        return Err(Refusal::value("priority", format!("a priority is 0 to {PRIORITIES}")));
    }
    if wanted.success_percent.is_some_and(|percent| !(1..=100).contains(&percent)) {
        return Err(Refusal::value("success_percent", "a share of devices that succeeded is 1 to 100 per cent"));
    }
    if wanted.retries.most > RETRIES {
        return Err(Refusal::value("retries", format!("a device is tried at most {RETRIES} times again")));
    }
    if wanted.waves.len() > WAVES {
        return Err(Refusal::value("waves", format!("a rollout has at most {WAVES} waves before the last one")));
    }
    Ok(NewRollout {
        name,
        subject: subject(wanted.release, wanted.configuration)?,
        audience: audience(wanted.audience)?,
        threshold: threshold(wanted.failure_threshold)?,
        on_failure: wanted.on_failure,
        max_in_flight: wanted.max_in_flight,
        window: wanted.window.map(window).transpose()?,
        consent: wanted.consent,
        priority: wanted.priority,
        policy: Policy {
            waves: wanted.waves.into_iter().map(wave).collect::<Reply<_>>()?,
            success_percent: wanted.success_percent,
            rate: wanted.rate.map(rate).transpose()?,
            retries: fleet_store::Retries { most: wanted.retries.most, first_delay_s: wanted.retries.first_delay_s },
            hold_after: wanted.hold_after,
            not_before: wanted.not_before,
            closes_at_start: wanted.close_audience,
            approval: wanted.approval,
            consent_deadline: wanted.consent_deadline,
            ask_again_s: wanted.ask_again_s,
        },
    })
}

fn check_consent(wanted: &CreateRollout) -> Reply<()> {
    let asks = wanted.consent == Consent::Device;
    if asks && wanted.release.is_none() {
        return Err(Refusal::value(
            "consent",
            "a device asks about releases only; a configuration needs an operator's consent",
        ));
    }
    if wanted.consent_deadline.is_some() && !asks {
        return Err(Refusal::value(
            "consent_deadline",
            "only a rollout with the consent `device` has a deadline for it",
        ));
    }
    if wanted.ask_again_s == 0 {
        return Err(Refusal::value("ask_again_s", "a device asks again after 1 second or later"));
    }
    Ok(())
}

fn subject(release: Option<ReleaseVersion>, configuration: Option<StagedConfiguration>) -> Reply<Subject> {
    let StagedConfiguration { level, name, revision } = match (release, configuration) {
        (Some(release), None) => return Ok(Subject::Release(release)),
        (None, Some(configuration)) => configuration,
        (None, None) => return Err(Refusal::value("release", "a rollout brings a release or a configuration")),
        (Some(_), Some(_)) => {
            return Err(Refusal::value("configuration", "a rollout brings a release or a configuration, not both"));
        }
    };
    let wrong =
        || Refusal::value("configuration", "`name` is that of a group or of a device, and empty for the account");
    let level = match level {
        Level::Account if name.is_empty() => ConfigurationLevel::Account,
        Level::Account => return Err(wrong()),
        Level::Group => ConfigurationLevel::Group(name.parse().map_err(|_| wrong())?),
        Level::Device => ConfigurationLevel::Device(name.parse().map_err(|_| wrong())?),
    };
    Ok(Subject::Configuration { level, revision })
}

/// What a rollout brings, as the API writes it.
pub(crate) fn brought(subject: Subject) -> (Option<ReleaseVersion>, Option<StagedConfiguration>) {
    match subject {
        Subject::Release(release) => (Some(release), None),
        Subject::Configuration { level, revision } => {
            let (level, name) = (api_level(&level), level.name().to_owned());
            (None, Some(StagedConfiguration { level, name, revision }))
        }
    }
}

fn audience(wanted: Audience) -> Reply<fleet_store::Audience> {
    Ok(match wanted {
        Audience::All => fleet_store::Audience::All,
        Audience::Group(group) => fleet_store::Audience::Group(group),
        Audience::Filter(text) => fleet_store::Audience::Filter(filters::read("audience", &text)?),
        Audience::Devices(devices) if (1..=DEVICES).contains(&devices.len()) => fleet_store::Audience::Devices(devices),
        Audience::Devices(_) => {
            return Err(Refusal::value("audience", format!("an audience lists 1 to {DEVICES} devices")));
        }
    })
}

fn threshold(wanted: FailureThreshold) -> Reply<Threshold> {
    match wanted {
        FailureThreshold::Count(0) => {
            Err(Refusal::value("failure_threshold", "a rollout stops at 1 failed device or later"))
        }
        FailureThreshold::Count(count) => Ok(Threshold::Count(count)),
        FailureThreshold::Percent(percent @ 1..=100) => Ok(Threshold::Percent(percent)),
        FailureThreshold::Percent(_) => {
            Err(Refusal::value("failure_threshold", "a share of failed devices is 1 to 100 per cent"))
        }
    }
}

fn wave(wanted: Wave) -> Reply<fleet_store::Wave> {
    match wanted {
        Wave::Count(0) => Err(Refusal::value("waves", "a wave has at least one device")),
        Wave::Count(count) => Ok(fleet_store::Wave::Count(count)),
        Wave::Percent(percent @ 1..=100) => Ok(fleet_store::Wave::Percent(percent)),
        Wave::Percent(_) => Err(Refusal::value("waves", "a wave is 1 to 100 per cent of the audience")),
        Wave::Filter(text) => Ok(fleet_store::Wave::Filter(filters::read("waves", &text)?)),
    }
}

fn rate(wanted: Rate) -> Reply<fleet_store::Rate> {
    if wanted.per_hour == 0 {
        return Err(Refusal::value("rate", "a rate is at least one device an hour"));
    }
    let growth = match wanted.growth {
        None => None,
        Some(Growth { percent, every, max_per_hour })
            if (1..=1000).contains(&percent) && every > 0 && max_per_hour >= wanted.per_hour =>
        {
            Some(fleet_store::Growth { percent, every, max_per_hour })
        }
        Some(_) => {
            let detail =
                "a rate grows by 1 to 1000 per cent, every 1 device or more, to a maximum not below its beginning";
            return Err(Refusal::value("rate", detail));
        }
    };
    Ok(fleet_store::Rate { per_hour: wanted.per_hour, growth })
}

fn window(wanted: Window) -> Reply<DailyWindow> {
    let Window { from, until, zone } = wanted;
    let zone = match zone {
        None => Zone::Utc,
        Some(zone) if zone == DEVICE_ZONE => Zone::Device,
        Some(zone) if is_zone(&zone) => Zone::Named(zone),
        Some(zone) => {
            let zone: String = zone.chars().take(80).collect();
            let detail = format!("`{zone}` is no time zone: write `{DEVICE_ZONE}` or a name as in `Europe/Berlin`");
            return Err(Refusal::value("window", detail));
        }
    };
    Ok(DailyWindow { from: minute(&from)?, until: minute(&until)?, zone })
}

/// `22:30` as minutes after midnight.
fn minute(text: &str) -> Reply<u16> {
    let two = |digits: &str| {
        let fits = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit());
        fits.then(|| digits.parse::<u16>().ok()).flatten()
    };
    text.split_once(':')
        .and_then(|(hours, minutes)| Some((two(hours)?, two(minutes)?)))
        .filter(|(hours, minutes)| *hours < 24 && *minutes < 60)
        .map(|(hours, minutes)| hours * 60 + minutes)
        .ok_or_else(|| Refusal::value("window", "a time of day is written as in `22:30`"))
}

fn time_of_day(minute: u16) -> String {
    format!("{:02}:{:02}", minute / 60, minute % 60)
}

fn window_view(window: DailyWindow) -> Window {
    let zone = match window.zone {
        Zone::Utc => None,
        Zone::Device => Some(DEVICE_ZONE.to_owned()),
        Zone::Named(name) => Some(name),
    };
    Window { from: time_of_day(window.from), until: time_of_day(window.until), zone }
}

fn rate_view(rate: fleet_store::Rate) -> Rate {
    let growth = rate.growth.map(|growth| {
        let fleet_store::Growth { percent, every, max_per_hour } = growth;
        Growth { percent, every, max_per_hour }
    });
    Rate { per_hour: rate.per_hour, growth }
}

fn wave_view(wave: fleet_store::Wave) -> Wave {
    match wave {
        fleet_store::Wave::Count(count) => Wave::Count(count),
        fleet_store::Wave::Percent(percent) => Wave::Percent(percent),
        fleet_store::Wave::Filter(filter) => Wave::Filter(filter.to_string()),
    }
}

/// A rollout as the API shows it.
pub(crate) fn view(row: RolloutRow, counts: Counts) -> Rollout {
    let NewRollout { name, subject, audience, threshold, on_failure, max_in_flight, window, consent, priority, policy } =
        row.wanted;
    let (release, configuration) = brought(subject);
    Rollout {
        id: row.id,
        name,
        release,
        configuration,
        digest: row.digest,
        audience: match audience {
            fleet_store::Audience::All => Audience::All,
            fleet_store::Audience::Group(group) => Audience::Group(group),
            fleet_store::Audience::Filter(filter) => Audience::Filter(filter.to_string()),
            fleet_store::Audience::Devices(devices) => Audience::Devices(devices),
        },
        failure_threshold: match threshold {
            Threshold::Count(count) => FailureThreshold::Count(count),
            Threshold::Percent(percent) => FailureThreshold::Percent(percent),
        },
        on_failure,
        waves: policy.waves.into_iter().map(wave_view).collect(),
        success_percent: policy.success_percent,
        rate: policy.rate.map(rate_view),
        retries: Retries { most: policy.retries.most, first_delay_s: policy.retries.first_delay_s },
        hold_after: policy.hold_after,
        priority,
        not_before: policy.not_before,
        audience_closed: row.closed,
        approval: policy.approval,
        started_by: row.started_by,
        approved_by: row.approved_by,
        open_wave: row.wave + 1,
        brings_back: row.brings_back,
        max_in_flight,
        window: window.map(window_view),
        consent,
        consent_deadline: policy.consent_deadline,
        ask_again_s: policy.ask_again_s,
        state: row.state,
        reason: row.reason,
        created: row.created,
        started: row.started,
        changed: row.changed,
        revision: row.revision,
        devices: counts.0.into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_day_has_one_spelling() {
        assert_eq!(minute("22:30").unwrap(), 22 * 60 + 30);
        assert_eq!(time_of_day(minute("05:07").unwrap()), "05:07");
        for wrong in ["24:00", "1:00", "01:60", "0100", "", "-1:00", "01:00:00", "+1:00"] {
            assert!(minute(wrong).is_err(), "{wrong}");
        }
    }
}
