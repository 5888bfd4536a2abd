//! What `mbl rollout start` is told, and the request that it becomes.

use clap::{Args, ValueEnum};
use fleet_api::{
    Audience, ConfigurationLevel, CreateRollout, FailureThreshold, Growth, Rate, Retries, StagedConfiguration, Wave,
    Window,
};
use protocol_types::{Consent, EndpointName, GroupName, OnFailure, ReleaseVersion, UnixSeconds};

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// Version of the release, unless it is a rollout of a configuration
    #[arg(required_unless_present = "configuration")]
    release: Option<ReleaseVersion>,
    #[command(flatten)]
    staged: StagedArgs,
    #[command(flatten)]
    audience: AudienceArgs,
    /// What people call the rollout
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    care: CareArgs,
    #[command(flatten)]
    pace: PaceArgs,
    #[command(flatten)]
    time: TimeArgs,
    /// Of two rollouts for a device the one with the higher priority decides, 0 to 100
    #[arg(long, value_name = "N", default_value_t = CreateRollout::PRIORITY)]
    priority: u8,
    /// Take the audience as it is now; otherwise devices that come later are admitted until `mbl rollout close`
    #[arg(long)]
    close_audience: bool,
    #[command(flatten)]
    people: PeopleArgs,
    /// Make it, and leave it to `mbl rollout begin` to start it
    #[arg(long, conflicts_with = "watch")]
    pub(crate) draft: bool,
    #[command(flatten)]
    pub(crate) look: LookArgs,
}

/// The configuration that it brings instead of a release.
#[derive(Debug, Args)]
struct StagedArgs {
    /// Revision of a configuration that was staged, instead of a release; that of the account unless a group or device is named
    #[arg(long, value_name = "REVISION", conflicts_with = "release")]
    configuration: Option<i64>,
    /// It is the configuration of this group
    #[arg(long, value_name = "NAME", requires = "configuration", conflicts_with = "of_device")]
    of_group: Option<GroupName>,
    /// It is the configuration of this device
    #[arg(long, value_name = "NAME", requires = "configuration")]
    of_device: Option<EndpointName>,
}

impl From<StagedArgs> for Option<StagedConfiguration> {
    fn from(args: StagedArgs) -> Self {
        let revision = args.configuration?;
        let (level, name) = match (args.of_group, args.of_device) {
            (Some(group), _) => (ConfigurationLevel::Group, group.to_string()),
            (None, Some(device)) => (ConfigurationLevel::Device, device.to_string()),
            (None, None) => (ConfigurationLevel::Account, String::new()),
        };
        Some(StagedConfiguration { level, name, revision })
    }
}

/// Who is asked first.
#[derive(Debug, Args)]
struct PeopleArgs {
    #[command(flatten)]
    ask: AskArgs,
    /// Offer nothing before somebody else has run `mbl rollout approve`
    #[arg(long)]
    approval: bool,
}

/// Whose yes each device needs.
#[derive(Debug, Args)]
struct AskArgs {
    /// Offer it to a device only after `mbl rollout consent` for that device
    #[arg(long)]
    ask_consent: bool,
    /// Let each device bring it, ask somebody there, and install it after a yes
    #[arg(long, conflicts_with = "ask_consent")]
    ask_device: bool,
    /// From this moment on devices install it without a yes, as in 2027-01-31T22:00:00Z
    #[arg(long, value_name = "TIME", value_parser = moment, requires = "ask_device")]
    ask_until: Option<UnixSeconds>,
    /// Seconds after which a device at which somebody said no asks again
    #[arg(long, value_name = "SECONDS", requires = "ask_device", default_value_t = CreateRollout::ASK_AGAIN_S)]
    ask_again: u32,
}

/// What the caller wants to see of it.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct LookArgs {
    /// Show what it would do now, and make nothing
    #[arg(long, conflicts_with_all = ["watch", "draft"])]
    pub(crate) dry_run: bool,
    /// Watch until it ends, or until every device has come to an end
    #[arg(long)]
    pub(crate) watch: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct AudienceArgs {
    /// Every device of the account; of a configuration, every device that its document is for
    #[arg(long)]
    all: bool,
    /// The devices in a group
    #[arg(long, value_name = "NAME")]
    group: Option<GroupName>,
    /// The devices that a filter is true for, as in 'model = "m1"'
    #[arg(long, value_name = "FILTER")]
    filter: Option<String>,
    /// This device, may be given several times
    #[arg(long = "device", value_name = "NAME")]
    devices: Vec<EndpointName>,
}

#[derive(Debug, Args)]
struct CareArgs {
    /// Devices that go before the others: a number as in 10, a share as in 5%, or a filter; may be given several times
    #[arg(long = "wave", value_name = "WAVE", value_parser = wave)]
    waves: Vec<Wave>,
    /// Per cent of a wave that must have succeeded before the next one begins
    #[arg(long, value_name = "PERCENT")]
    success_percent: Option<u8>,
    /// Failed devices at which the rollout stops by itself
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "failures_percent")]
    failures: u32,
    /// Failed devices, in per cent of the open waves, at which the rollout stops by itself
    #[arg(long, value_name = "PERCENT")]
    failures_percent: Option<u8>,
    /// What happens then
    #[arg(long, value_name = "WHAT", default_value = "stop")]
    on_failure: WhatThen,
    /// How often a device that failed is tried again
    #[arg(long, value_name = "N", default_value_t = 0)]
    retries: u8,
    /// Seconds before the second try; twice as long before each further one
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    retry_after: u32,
    /// Hold a device back on which so many tries in a row failed, of any rollout; 0 for never
    #[arg(long, value_name = "N", default_value_t = CreateRollout::HOLD_AFTER)]
    hold_after: u32,
}

#[derive(Debug, Args)]
struct PaceArgs {
    /// Devices that may be under way at a time; all without it
    #[arg(long, value_name = "N")]
    max_in_flight: Option<u32>,
    /// Devices that are offered the release in an hour; no limit without it
    #[arg(long, value_name = "N")]
    per_hour: Option<u32>,
    /// Let the rate grow by so many per cent of what it is, again and again
    #[arg(long, value_name = "PERCENT", requires = "per_hour", requires = "grow_max")]
    grow_percent: Option<u16>,
    /// Each time so many more devices have succeeded
    #[arg(long, value_name = "N", requires = "grow_percent", default_value_t = 10)]
    grow_every: u32,
    /// Never above so many devices an hour
    #[arg(long, value_name = "N", requires = "grow_percent")]
    grow_max: Option<u32>,
}

#[derive(Debug, Args)]
struct TimeArgs {
    /// Offer nothing before this moment, as in 2027-01-31T22:00:00Z
    #[arg(long, value_name = "TIME", value_parser = moment)]
    not_before: Option<UnixSeconds>,
    /// Hours of the day in which the release is offered, as in 22:00-05:00
    #[arg(long, value_name = "FROM-UNTIL", value_parser = window)]
    window: Option<Window>,
    /// Whose hours: device, for the time zone in each device's attribute `timezone`, or a name as in Europe/Berlin; UTC without it
    #[arg(long, value_name = "ZONE", requires = "window")]
    zone: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum WhatThen {
    /// The rollout ends
    Stop,
    /// It waits for `mbl rollout resume`
    Pause,
    /// It ends, and devices that succeeded go back to the release they ran before
    Return,
}

fn wave(text: &str) -> Result<Wave, String> {
    let number = |digits: &str| digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<u32>());
    let wrong = |_| "write it as in 10, 5% or 'tag = \"lab\"'".to_owned();
    match text.trim().strip_suffix('%') {
        Some(share) => share.trim().parse().map(Wave::Percent).map_err(wrong),
        None => match number(text.trim()) {
            Some(count) => count.map(Wave::Count).map_err(wrong),
            None => Ok(Wave::Filter(text.to_owned())),
        },
    }
}

fn moment(text: &str) -> Result<UnixSeconds, String> {
    let moment: jiff::Timestamp = text.parse().map_err(|_| "write it as in 2027-01-31T22:00:00Z".to_owned())?;
    u64::try_from(moment.as_second()).map(UnixSeconds).map_err(|_| "that was before 1970".to_owned())
}

fn window(text: &str) -> Result<Window, String> {
    let (from, until) = text.split_once('-').ok_or("write it as in 22:00-05:00")?;
    Ok(Window { from: from.to_owned(), until: until.to_owned(), zone: None })
}

impl From<AudienceArgs> for Audience {
    fn from(args: AudienceArgs) -> Self {
        match (args.group, args.filter) {
            (Some(group), _) => Self::Group(group),
            (None, Some(filter)) => Self::Filter(filter),
            (None, None) if args.all => Self::All,
            (None, None) => Self::Devices(args.devices),
        }
    }
}

impl From<StartArgs> for CreateRollout {
    fn from(args: StartArgs) -> Self {
        let StartArgs { care, pace, time, people: PeopleArgs { ask, approval }, .. } = args;
        let growth = pace.grow_percent.zip(pace.grow_max);
        let growth = growth.map(|(percent, max_per_hour)| Growth { percent, every: pace.grow_every, max_per_hour });
        Self {
            name: args.name,
            release: args.release,
            configuration: args.staged.into(),
            audience: args.audience.into(),
            failure_threshold: care
                .failures_percent
                .map_or(FailureThreshold::Count(care.failures), FailureThreshold::Percent),
            on_failure: match care.on_failure {
                WhatThen::Stop => OnFailure::Stop,
                WhatThen::Pause => OnFailure::Pause,
                WhatThen::Return => OnFailure::Return,
            },
            waves: care.waves,
            success_percent: care.success_percent,
            rate: pace.per_hour.map(|per_hour| Rate { per_hour, growth }),
            retries: Retries { most: care.retries, first_delay_s: care.retry_after },
            hold_after: care.hold_after,
            priority: args.priority,
            not_before: time.not_before,
            close_audience: args.close_audience,
            approval,
            max_in_flight: pace.max_in_flight,
            window: time.window.map(|hours| Window { zone: time.zone, ..hours }),
            consent: match (ask.ask_consent, ask.ask_device) {
                (_, true) => Consent::Device,
                (true, false) => Consent::Operator,
                (false, false) => Consent::Automatic,
            },
            consent_deadline: ask.ask_until,
            ask_again_s: ask.ask_again,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wave_is_a_number_a_share_or_a_filter() {
        assert_eq!(wave("10"), Ok(Wave::Count(10)));
        assert_eq!(wave("5%"), Ok(Wave::Percent(5)));
        assert_eq!(wave("tag = \"lab\""), Ok(Wave::Filter("tag = \"lab\"".to_owned())));
        assert!(wave("99999999999").is_err() && wave("300%").is_err());
    }
}
