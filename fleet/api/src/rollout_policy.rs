//! How a rollout proceeds: waves, thresholds, pace, retries, hours and whose yes it needs.

use protocol_types::EndpointName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How many devices may fail before a rollout stops. A device that lost contact or was taken over by another rollout does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailureThreshold {
    /// So many failed devices; at least 1.
    Count(u32),
    /// So many per cent of the devices in the waves that are open; 1 to 100.
    Percent(u8),
}

impl Default for FailureThreshold {
    fn default() -> Self {
        Self::Count(1)
    }
}

/// Hours of each day in which a rollout may offer its release. The end may lie on the next day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// The first minute, as in `22:00`.
    pub from: String,
    /// The first minute that is outside again, as in `05:00`.
    pub until: String,
    /// Whose clock: `device` for the time zone in each device's attribute `timezone`, or a name of the IANA database; without it UTC,
    /// as for a device without the attribute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

/// Consents to a rollout for some of its devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GiveConsent {
    /// For which devices, 1 to 10000; absent for every device that waits for it now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    pub devices: Option<Vec<EndpointName>>,
}

/// Devices that go together. Waves are filled in their order; what none takes goes last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Wave {
    /// So many devices; at least 1.
    Count(u32),
    /// So many per cent of the audience; 1 to 100.
    Percent(u8),
    /// The devices of the audience that a filter is true for when they come into it.
    Filter(String),
}

/// How many devices are offered the release in an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Devices an hour, at the beginning; at least 1.
    #[schema(minimum = 1)]
    pub per_hour: u32,
    /// How the rate grows while devices succeed; without it, it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub growth: Option<Growth>,
}

/// How a rate grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Growth {
    /// By so many per cent of what it is, each time; 1 to 1000.
    #[schema(minimum = 1, maximum = 1000)]
    pub percent: u16,
    /// Each time so many more devices have succeeded; each device that failed takes one step back.
    #[schema(minimum = 1)]
    pub every: u32,
    /// The rate never grows above this.
    #[schema(minimum = 1)]
    pub max_per_hour: u32,
}

/// How often a device that failed is tried again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Retries {
    /// Further tries after the first; at most 10.
    #[schema(maximum = 10)]
    pub most: u8,
    /// Seconds before the second try; twice as long before each further one, at most a day.
    pub first_delay_s: u32,
}
