//! A key of the operational certificate alone, made when the service asked for a new one. The device key stays what the factory
//! certificate is for.

use std::{fmt, sync::Arc};

use crate::key_store::{DeviceKey, KeptKey, KeyStoreError};

/// A key and as what it is kept.
#[derive(Clone)]
pub struct OperationalKey {
    key: Arc<DeviceKey>,
    kept: KeptKey,
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
    /// A new key where the device key lives: in the token, or in memory until it is kept with its certificate.
    pub fn beside(device: &DeviceKey) -> Result<Self, KeyStoreError> {
        let (key, kept) = device.make_operational()?;
        Ok(Self { key: Arc::new(key), kept })
    }

    /// A key that was kept.
    pub(crate) fn open(kept: KeptKey, device: &DeviceKey) -> Result<Self, KeyStoreError> {
        Ok(Self { key: Arc::new(device.open_operational(&kept)?), kept })
    }

    /// The key, for requests and signatures.
    pub fn key(&self) -> &DeviceKey {
        &self.key
    }

    /// As what it is kept.
    pub(crate) const fn kept(&self) -> &KeptKey {
        &self.kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_was_kept_is_the_same_and_shows_nothing_of_itself() {
        let device = DeviceKey::generate().unwrap();
        let key = OperationalKey::beside(&device).unwrap();
        let again = OperationalKey::open(key.kept().clone(), &device).unwrap();
        assert_eq!(again, key);
        assert_ne!(OperationalKey::beside(&device).unwrap(), key);
        assert_ne!(key.key().public_key(), device.public_key());
        assert_eq!(format!("{key:?}"), "OperationalKey { .. }");
        assert!(OperationalKey::open(KeptKey::Pem("no key".to_owned().into()), &device).is_err());
        let elsewhere = KeptKey::Token("00112233445566778899aabbccddeeff".to_owned().try_into().unwrap());
        assert!(matches!(OperationalKey::open(elsewhere, &device), Err(KeyStoreError::NoOperational)));
    }
}
