//! The store of a token that does not last: each start of the agent has the one of the factory anew. Once the agent has made a key in it, a
//! copy is kept in the agent's state and put back at the next start (decision 8). Never looks into it.

use std::path::PathBuf;

use crate::durable::{self, DurableError};

/// The longest store in bytes; one with a few keys has tens of thousands.
const MAX_BYTES: usize = 1024 * 1024;

/// Where a store is, and where its copy is kept.
#[derive(Clone, Debug)]
pub(super) struct StoreCopy {
    pub(super) store: PathBuf,
    pub(super) kept: PathBuf,
}

impl StoreCopy {
    /// Keeps the store as it is.
    pub(super) fn keep(&self) -> Result<(), DurableError> {
        match durable::read(&self.store, MAX_BYTES)? {
            Some(bytes) => durable::replace(&self.kept, &bytes, 0o600),
            None => Ok(()),
        }
    }

    /// Puts the copy in the place of the store, before anybody opens it; whether there is a copy.
    pub(super) fn restore(&self) -> Result<bool, DurableError> {
        match durable::read(&self.kept, MAX_BYTES)? {
            Some(bytes) => durable::replace(&self.store, &bytes, 0o600).map(|()| true),
            None => Ok(false),
        }
    }

    /// Does without the copy from the next start on.
    pub(super) fn forget(&self) -> Result<(), DurableError> {
        durable::remove(&self.kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_put_back_until_it_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let copy = StoreCopy { store: folder.path().join("store"), kept: folder.path().join("kept") };
        copy.keep().unwrap();
        assert!(!copy.restore().unwrap(), "there is no store to keep");
        let read = || std::fs::read_to_string(&copy.store).unwrap();
        std::fs::write(&copy.store, "of the factory").unwrap();
        assert!(!copy.restore().unwrap());
        std::fs::write(&copy.store, "with a key").unwrap();
        copy.keep().unwrap();
        std::fs::write(&copy.store, "of the factory").unwrap();
        assert!(copy.restore().unwrap());
        assert_eq!(read(), "with a key");
        copy.forget().unwrap();
        std::fs::write(&copy.store, "of the factory").unwrap();
        assert!(!copy.restore().unwrap());
        assert_eq!(read(), "of the factory");
    }
}
