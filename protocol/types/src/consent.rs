//! Whether somebody at a device is asked before it installs a release, what is asked and what is answered. Never asks.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{ReleaseVersion, UnixSeconds};

/// That somebody at the device is asked. Written `device`, or `device until SECONDS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceConsent {
    /// From then on the release is installed without a yes; none: never.
    pub deadline: Option<UnixSeconds>,
}

/// A text that does not say who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("consent is written `device` or `device until SECONDS`")]
pub struct DeviceConsentError;

/// What somebody at the device is asked: whether this release, which is in its place already, may be installed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Version of the release.
    pub version: ReleaseVersion,
    /// From then on it is installed without a yes; none: never.
    pub deadline: Option<UnixSeconds>,
}

/// The answer to a [`Question`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Install it.
    Yes,
    /// Leave the device as it is.
    No,
}

const DEVICE: &str = "device";
const UNTIL: &str = "device until ";

impl FromStr for DeviceConsent {
    type Err = DeviceConsentError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == DEVICE {
            return Ok(Self { deadline: None });
        }
        let seconds = text.strip_prefix(UNTIL).and_then(|digits| digits.parse().ok()).ok_or(DeviceConsentError)?;
        let read = Self { deadline: Some(UnixSeconds(seconds)) };
        // One spelling each: neither a sign nor zeros in front.
        if read.to_string() == text { Ok(read) } else { Err(DeviceConsentError) }
    }
}

impl fmt::Display for DeviceConsent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.deadline {
            None => f.write_str(DEVICE),
            Some(deadline) => write!(f, "{UNTIL}{deadline}"),
        }
    }
}

impl TryFrom<String> for DeviceConsent {
    type Error = DeviceConsentError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<DeviceConsent> for String {
    fn from(consent: DeviceConsent) -> Self {
        consent.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn consent_has_one_spelling() {
        assert_eq!("device".parse(), Ok(DeviceConsent { deadline: None }));
        assert_eq!("device until 7".parse(), Ok(DeviceConsent { deadline: Some(UnixSeconds(7)) }));
        for wrong in ["", "Device", "operator", "device until", "device until +7", "device until 07", "device until 7 "]
        {
            assert_eq!(wrong.parse::<DeviceConsent>(), Err(DeviceConsentError), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_written_the_same(text in "(device)?( until )?[ -~]{0,24}", deadline: Option<u64>) {
            if let Ok(consent) = text.parse::<DeviceConsent>() {
                prop_assert_eq!(consent.to_string(), text);
            }
            let consent = DeviceConsent { deadline: deadline.map(UnixSeconds) };
            prop_assert_eq!(consent.to_string().parse(), Ok(consent));
        }
    }
}
