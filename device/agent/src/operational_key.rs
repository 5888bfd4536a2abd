//! A key of the operational certificate alone, made when the service asked for a new one. The device key stays what the factory
//! certificate is for.

use std::{fmt, sync::Arc};

use zeroize::Zeroizing;

use crate::key_store::{DeviceKey, KeyStoreError};

/// A key and the text as which it is kept.
#[derive(Clone)]
pub struct OperationalKey {
    key: Arc<DeviceKey>,
    pem: Zeroizing<String>,
}

impl fmt::Debug for OperationalKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OperationalKey").finish_non_exhaustive()
    }
}

impl PartialEq for OperationalKey {
    fn eq(&self, other: &Self) -> bool {
        self.key.public_key() == other.key.public_key()
    }
}

impl OperationalKey {
    /// A new key, in memory until it is kept with its certificate.
    pub fn generate() -> Result<Self, KeyStoreError> {
        let (key, pem) = DeviceKey::generate_with_pem()?;
        Ok(Self { key: Arc::new(key), pem })
    }

    /// A key that was kept.
    pub(crate) fn read(pem: String) -> Result<Self, KeyStoreError> {
        let pem = Zeroizing::new(pem);
        Ok(Self { key: Arc::new(DeviceKey::from_pem(&pem)?), pem })
    }

    /// The key, for requests and signatures.
    pub fn key(&self) -> &DeviceKey {
        &self.key
    }

    /// The text to keep, for the eyes of the agent's own folder.
    pub(crate) fn to_pem(&self) -> String {
        self.pem.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_was_kept_is_the_same_and_shows_nothing_of_itself() {
        let key = OperationalKey::generate().unwrap();
        let again = OperationalKey::read(key.to_pem()).unwrap();
        assert_eq!(again, key);
        assert_ne!(OperationalKey::generate().unwrap(), key);
        assert_eq!(format!("{key:?}"), "OperationalKey { .. }");
        assert!(OperationalKey::read("no key".to_owned()).is_err());
    }
}
