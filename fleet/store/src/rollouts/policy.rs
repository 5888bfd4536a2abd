//! What is asked of a rollout: for whom, how carefully, how fast and when. Plain data; never decides anything.

use protocol_types::{Consent, DeviceConsent, EndpointName, GroupName, OnFailure, UnixSeconds};
use serde::{Deserialize, Serialize};

use crate::{Filter, Subject};

/// Which devices a rollout is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Audience {
    /// Every device of the account, also those that join until the audience is closed.
    All,
    /// The members of a group, also those that join it until the audience is closed.
    Group(GroupName),
    /// The devices that a filter is true for, also those for which it becomes true until the audience is closed.
    Filter(Filter),
    /// These devices; such an audience is closed from the beginning.
    Devices(Vec<EndpointName>),
}

/// How many devices may fail before a rollout stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Threshold {
    /// At so many failed devices; at least 1.
    Count(u32),
    /// When so many per cent of the devices in the waves that are open have failed; 1 to 100.
    Percent(u8),
}

/// Whose clock a window is read on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Zone {
    /// Coordinated Universal Time.
    #[default]
    Utc,
    /// The time zone in the device's attribute `timezone`; UTC for a device without one.
    Device,
    /// A time zone by its name in the IANA database.
    Named(String),
}

/// Hours of each day in which a rollout may offer the release, in minutes after midnight. The end may lie on the next day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DailyWindow {
    /// The first minute.
    pub from: u16,
    /// The first minute that is outside again.
    pub until: u16,
    /// Whose midnight.
    #[serde(default)]
    pub zone: Zone,
}

/// Which devices go together. What no wave takes goes last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wave {
    /// So many devices.
    Count(u32),
    /// So many per cent of the audience.
    Percent(u8),
    /// The devices of the audience that a filter is true for when they come into it.
    Filter(Filter),
}

/// How many devices are offered the release in an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Devices an hour, at the beginning.
    pub per_hour: u32,
    /// How it grows; it stays without.
    #[serde(default)]
    pub growth: Option<Growth>,
}

/// How a rate grows while devices succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Growth {
    /// By so many per cent of what it is, each time.
    pub percent: u16,
    /// Each time so many more devices have succeeded; each failed device takes one such step back.
    pub every: u32,
    /// Never above this.
    pub max_per_hour: u32,
}

/// How often a device that failed is tried again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retries {
    /// Further tries after the first.
    pub most: u8,
    /// Seconds before the second try; twice as long before each further one, at most a day.
    pub first_delay_s: u32,
}

/// Seconds after which a device at which somebody said no asks again, where nobody says otherwise: a day.
pub const ASK_AGAIN_S: u32 = 24 * 60 * 60;
/// Failed tries in a row at which a device is held back, where nobody says otherwise.
pub const HOLD_AFTER: u32 = 5;
/// The priority of a rollout where nobody says otherwise.
pub const PRIORITY: u8 = 50;

/// How a rollout proceeds, apart from what queries ask about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// Which devices go first.
    pub waves: Vec<Wave>,
    /// Per cent of a wave that must have succeeded before the next one opens; without it, its devices must have come to an end.
    pub success_percent: Option<u8>,
    /// How fast.
    pub rate: Option<Rate>,
    /// How often again.
    pub retries: Retries,
    /// Failed tries in a row, of any rollout, after which a device is held back; 0 for never.
    pub hold_after: u32,
    /// Nothing is offered before this moment.
    pub not_before: Option<UnixSeconds>,
    /// Whether the audience is closed as soon as its first devices are known.
    pub closes_at_start: bool,
    /// Whether somebody else than who started it must approve it.
    pub approval: bool,
    /// From then on devices that ask somebody install the release without a yes.
    pub consent_deadline: Option<UnixSeconds>,
    /// Seconds after which a device at which somebody said no asks again.
    pub ask_again_s: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            waves: Vec::new(),
            success_percent: None,
            rate: None,
            retries: Retries::default(),
            hold_after: HOLD_AFTER,
            not_before: None,
            closes_at_start: false,
            approval: false,
            consent_deadline: None,
            ask_again_s: ASK_AGAIN_S,
        }
    }
}

/// A rollout to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRollout {
    /// What people call it.
    pub name: String,
    /// What it brings.
    pub subject: Subject,
    /// For which devices.
    pub audience: Audience,
    /// How many may fail.
    pub threshold: Threshold,
    /// What happens then.
    pub on_failure: OnFailure,
    /// How many devices may be under way at a time; `None` for all.
    pub max_in_flight: Option<u32>,
    /// When it may act; `None` for always.
    pub window: Option<DailyWindow>,
    /// Whose yes each device needs.
    pub consent: Consent,
    /// Of two rollouts for a device the one with the higher priority decides, among equals the one that was started later.
    pub priority: u8,
    /// How it proceeds.
    pub policy: Policy,
}

impl Policy {
    /// How each device asks somebody at it, if this is the consent that it needs.
    pub(crate) fn asked_at_device(&self, consent: Consent) -> Option<DeviceConsent> {
        (consent == Consent::Device).then_some(DeviceConsent { deadline: self.consent_deadline })
    }
}

impl NewRollout {
    /// How each device asks somebody at it, if it does.
    pub fn asked_at_device(&self) -> Option<DeviceConsent> {
        self.policy.asked_at_device(self.consent)
    }
}
