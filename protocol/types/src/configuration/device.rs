//! The configuration as one device gets it: the merged settings, and secrets of its applications sealed to its key. Never opens a secret.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Configuration, ConfigurationError};
use crate::{AccountName, AppName, EndpointName, SecretName};

/// Secrets by application and name.
pub type SealedSecrets = BTreeMap<AppName, BTreeMap<SecretName, SealedSecret>>;

/// A secret that only one device can open.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedSecret {
    /// Counts the values that the secret has had.
    pub version: u64,
    /// The encapsulated key (32 bytes), then the ciphertext with its tag, in base64url without padding (RFC 4648, section 5).
    pub sealed: String,
}

impl fmt::Debug for SealedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedSecret").field("version", &self.version).finish_non_exhaustive()
    }
}

impl SealedSecret {
    /// The longest secret in bytes.
    pub const MAX_BYTES: usize = 1024;
    /// What HPKE (RFC 9180) takes as `info`: a key pair for secrets opens nothing that was sealed for another purpose.
    pub const PURPOSE: &'static [u8] = b"mbl secret of an application, format 1";

    /// What HPKE takes as `aad`: a sealed secret is for this device, this application, this name and this version, and opens as no other.
    pub fn bound_to(
        (account, endpoint): (&AccountName, &EndpointName),
        (application, name): (&AppName, &SecretName),
        version: u64,
    ) -> String {
        format!("{account}\n{endpoint}\n{application}\n{name}\n{version}")
    }
}

/// The document that a device gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceConfiguration {
    /// The settings.
    pub settings: Configuration,
    /// The secrets.
    pub secrets: SealedSecrets,
}

impl DeviceConfiguration {
    /// The key of the document under which the secrets stand, beside the settings.
    pub const SECRETS: &'static str = "secrets";
    /// The most secrets of all applications of a device.
    pub const MAX_SECRETS: usize = 32;

    /// Reads the document: a configuration that may also have `secrets`.
    ///
    /// # Errors
    /// As [`Configuration::parse`], or if the secrets are not of the form.
    pub fn parse(text: &[u8]) -> Result<Self, ConfigurationError> {
        if text.len() > Configuration::MAX_BYTES {
            return Err(ConfigurationError::TooLong);
        }
        let mut document: Map<String, Value> = serde_json::from_slice(text)?;
        let secrets = match document.remove(Self::SECRETS) {
            Some(secrets) => serde_json::from_value(secrets)?,
            None => SealedSecrets::new(),
        };
        if secrets.values().map(BTreeMap::len).sum::<usize>() > Self::MAX_SECRETS {
            return Err(ConfigurationError::Rule(format!("`secrets` has more than {} entries", Self::MAX_SECRETS)));
        }
        let settings = Configuration::parse(Value::Object(document).to_string().as_bytes())?;
        Ok(Self { settings, secrets })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = r#"{"hostname":"a","secrets":{"hello":{"token":{"version":2,"sealed":"AAAA"}}}}"#;

    #[test]
    fn secrets_stand_beside_the_settings_of_a_device_and_in_no_document_of_a_level() {
        let read = DeviceConfiguration::parse(TEXT.as_bytes()).unwrap();
        assert_eq!(read.settings.hostname.unwrap().as_str(), "a");
        let (application, secrets) = read.secrets.first_key_value().unwrap();
        let (name, secret) = secrets.first_key_value().unwrap();
        assert_eq!((application.as_str(), name.as_str(), secret.version), ("hello", "token", 2));
        assert!(!format!("{secret:?}").contains("AAAA"), "ciphertext is nothing for a log");
        assert!(Configuration::parse_level(TEXT.as_bytes()).unwrap_err().to_string().contains("secrets"));
        for wrong in [
            r#"{"secrets":{"hello":{"../x":{"version":1,"sealed":""}}}}"#,
            r#"{"secrets":{"hello":{"token":{"version":1,"sealed":"","plain":"x"}}}}"#,
            r#"{"secrets":[]}"#,
            r#"{"hostnam":"a","secrets":{}}"#,
            "[]",
        ] {
            assert!(DeviceConfiguration::parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_a_secret_is_bound_to_tells_any_two_secrets_apart() {
        let bound = |account: &str, endpoint: &str, application: &str, name: &str, version| {
            let owner = (&account.parse().unwrap(), &endpoint.parse().unwrap());
            SealedSecret::bound_to(owner, (&application.parse().unwrap(), &name.parse().unwrap()), version)
        };
        let one = bound("acme", "gate-1", "hello", "token", 1);
        for other in [
            bound("acm", "gate-1", "hello", "token", 1),
            bound("acme", "gate-2", "hello", "token", 1),
            bound("acme", "gate-1", "hell", "token", 1),
            bound("acme", "gate-1", "hello", "oken", 1),
            bound("acme", "gate-1", "hello", "token", 11),
        ] {
            assert_ne!(one, other);
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,200}") {
            drop(DeviceConfiguration::parse(text.as_bytes()));
        }
    }
}
