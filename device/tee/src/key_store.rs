//! The commands of our trusted application (`image/trusted-applications/key-store`), typed. Never lowers a floor, and gives the key
//! of the state to the initrd alone: the application sees to both.

use std::path::Path;

use protocol_types::{Digest, SecurityVersion};
use zeroize::{Zeroize as _, Zeroizing};

use crate::{
    message::{Code, Shape, Uuid, WORDS, from_bytes, to_bytes},
    session::{Session, TeeError},
};

/// 56ba3c79-ccd8-4e5d-b23f-ac601a89684d.
const APPLICATION: Uuid =
    [0x56, 0xba, 0x3c, 0x79, 0xcc, 0xd8, 0x4e, 0x5d, 0xb2, 0x3f, 0xac, 0x60, 0x1a, 0x89, 0x68, 0x4d];

/// The commands' numbers, as in `key_store.h`.
const MAKE_RECORD: u32 = 0;
const FLOOR: u32 = 1;
const RAISE_FLOOR: u32 = 2;
const FACTORY: u32 = 3;
const RECORD_FACTORY: u32 = 4;
const NEW_STATE_KEY: u32 = 5;
const STATE_KEY: u32 = 6;
const LEAVE_INITRD: u32 = 7;

/// The key of the state: 32 random bytes that were born in the TEE. Overwritten when it goes.
pub type StateKey = Zeroizing<[u8; 32]>;

/// The key store in the TEE, open for this process's user, who must be root.
#[derive(Debug)]
pub struct KeyStore {
    session: Session,
}

impl KeyStore {
    /// Opens it; `device` is the driver's. Waits for a supplicant as long as there is none.
    ///
    /// # Errors
    /// If there is no TEE, it does not have the application, or this user may not.
    pub fn open(device: &Path) -> Result<Self, TeeError> {
        Session::open(device, APPLICATION).map(|session| Self { session })
    }

    /// Makes the record of a new device: a floor of 0, no factory document, no key.
    ///
    /// # Errors
    /// If there is a record, or it cannot be stored, or the initrd was left.
    pub fn make_record(&self) -> Result<(), TeeError> {
        self.session.invoke("make its record of a new device", MAKE_RECORD, Shape::Nothing).map(drop)
    }

    /// The floor; 0 if it was never raised.
    ///
    /// # Errors
    /// With [`TeeError::NoRecord`] on a device without one, or if it cannot be read.
    pub fn floor(&self) -> Result<SecurityVersion, TeeError> {
        let [floor, ..] = self.ask("tell the floor", FLOOR, Shape::OneOut)?;
        Ok(SecurityVersion(floor))
    }

    /// Raises the floor; one that is already higher stays.
    ///
    /// # Errors
    /// If it cannot be stored.
    pub fn raise_floor(&self, floor: SecurityVersion) -> Result<(), TeeError> {
        self.ask("raise the floor", RAISE_FLOOR, Shape::OneIn(floor.0)).map(drop)
    }

    /// The digest of the factory document; none before it was recorded.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn factory(&self) -> Result<Option<Digest>, TeeError> {
        let words = self.if_there("tell the digest of the factory document", FACTORY, Shape::AllOut)?;
        Ok(words.map(|words| Digest::from_bytes(to_bytes(&words))))
    }

    /// Records the digest of the factory document for good; the same one may be recorded again.
    ///
    /// # Errors
    /// With [`TeeError::Recorded`] if there is another one, or if it cannot be stored.
    pub fn record_factory(&self, digest: &Digest) -> Result<(), TeeError> {
        let words = from_bytes(digest.as_bytes());
        match self.ask("record the digest of the factory document", RECORD_FACTORY, Shape::AllIn(words)) {
            Err(TeeError::Refused { code: Code::ACCESS_CONFLICT, .. }) => Err(TeeError::Recorded),
            other => other.map(drop),
        }
    }

    /// Makes a new key for the state; an earlier one is forgotten.
    ///
    /// # Errors
    /// If it cannot be stored, or the initrd was left.
    pub fn new_state_key(&self) -> Result<StateKey, TeeError> {
        self.ask("make a key for the state", NEW_STATE_KEY, Shape::AllOut).map(state_key)
    }

    /// The key of the state; none before one was made.
    ///
    /// # Errors
    /// If it cannot be read, or the initrd was left.
    pub fn state_key(&self) -> Result<Option<StateKey>, TeeError> {
        Ok(self.if_there("tell the key of the state", STATE_KEY, Shape::AllOut)?.map(state_key))
    }

    /// From now on until the next boot nobody gets the key of the state, or another one in its place.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn leave_initrd(&self) -> Result<(), TeeError> {
        self.session.invoke("note that the initrd is left", LEAVE_INITRD, Shape::Nothing).map(drop)
    }

    /// A command that works on the record.
    fn ask(&self, what: &'static str, command: u32, shape: Shape) -> Result<[u32; WORDS], TeeError> {
        self.session.invoke(what, command, shape).map_err(|error| match error {
            TeeError::Refused { code: Code::ITEM_NOT_FOUND, .. } => TeeError::NoRecord,
            other => other,
        })
    }

    /// As [`KeyStore::ask`], for what the record may lack.
    fn if_there(&self, what: &'static str, command: u32, shape: Shape) -> Result<Option<[u32; WORDS]>, TeeError> {
        match self.ask(what, command, shape) {
            Err(TeeError::Refused { code: Code::NO_DATA, .. }) => Ok(None),
            other => other.map(Some),
        }
    }
}

fn state_key(mut words: [u32; WORDS]) -> StateKey {
    let key = Zeroizing::new(to_bytes(&words));
    words.zeroize();
    key
}
