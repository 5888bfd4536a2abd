//! What a device is told to do in a job, as the store keeps it and as the device reads it. Never sends it.

use fleet_api::{JobKind, LogSource};
use protocol_types::AppName;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// What a device is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum JobOrder {
    /// Hand in the end of a log.
    Logs {
        /// Whose.
        source: LogSource,
        /// Which application, with the source `application` and no other.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        application: Option<AppName>,
        /// How many lines.
        lines: u32,
    },
    /// Restart.
    Reboot,
    /// Get a certificate for a new key.
    RotateKey,
    /// Make a check.
    Probe {
        /// Its name.
        name: String,
    },
}

impl JobOrder {
    pub(crate) const fn kind(&self) -> JobKind {
        match self {
            Self::Logs { .. } => JobKind::Logs,
            Self::Reboot => JobKind::Reboot,
            Self::RotateKey => JobKind::RotateKey,
            Self::Probe { .. } => JobKind::Probe,
        }
    }

    /// The arguments as the device reads them.
    pub(crate) fn arguments(&self) -> String {
        match self {
            Self::Logs { source, application: None, lines } => {
                json!({ "source": source.as_str(), "lines": lines }).to_string()
            }
            Self::Logs { source, application: Some(application), lines } => {
                json!({ "source": source.as_str(), "application": application, "lines": lines }).to_string()
            }
            Self::Reboot | Self::RotateKey => "{}".to_owned(),
            Self::Probe { name } => json!({ "name": name }).to_string(),
        }
    }
}

/// Whether this may be the name of a check.
pub(crate) fn is_probe(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=32).contains(&name.len()) && name.starts_with(|c: char| c.is_ascii_lowercase()) && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_reads_back_as_it_was_kept_and_its_arguments_are_those_of_the_device() {
        for (order, arguments) in [
            (
                JobOrder::Logs { source: LogSource::Agent, application: None, lines: 7 },
                json!({ "source": "agent", "lines": 7 }),
            ),
            (
                JobOrder::Logs { source: LogSource::Application, application: "hello".parse().ok(), lines: 7 },
                json!({ "source": "application", "application": "hello", "lines": 7 }),
            ),
            (JobOrder::Reboot, json!({})),
            (JobOrder::RotateKey, json!({})),
            (JobOrder::Probe { name: "disk".into() }, json!({ "name": "disk" })),
        ] {
            let kept = serde_json::to_string(&order).unwrap();
            assert_eq!(serde_json::from_str::<JobOrder>(&kept).unwrap(), order);
            assert_eq!(serde_json::from_str::<serde_json::Value>(&order.arguments()).unwrap(), arguments);
        }
    }

    #[test]
    fn the_name_of_a_check_is_a_plain_word() {
        assert!(["disk", "modem-2", "a"].into_iter().all(is_probe));
        for bad in ["", "Disk", "-a", "2g", "rm -rf", "../x", &"a".repeat(33)] {
            assert!(!is_probe(bad), "{bad}");
        }
    }
}
