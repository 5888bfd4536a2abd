//! Gives a state a second key slot, whose key only the account's recovery key can open, and shows the system the sealed key. Never keeps
//! the key itself, never tells it to anybody, and never keeps a device from starting.
//!
//! The sealed key is durable before its slot is made, and is shown only once the slot is there: after a cut of power between, the
//! next boot begins anew with another key. `docs/decisions/0015-a-recovery-key-for-the-state.md` says why.

mod seal;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use device_tee::TeeError;
use protocol_types::{
    Digest, FactoryDocument,
    factory::FactoryError,
    luks,
    recovery::{RecoveryKey, SealedRecoveryKey, VolumeId},
};

use crate::{
    console::{in_one_line, say},
    kernel::read_start,
    key_file::KeyFile,
    key_store::{KeyStore, KeyStoreError},
    program::{LONGEST, ProgramError, run},
};

const CRYPTSETUP: &str = "/usr/sbin/cryptsetup";
/// The slot of the recovery key. The TPM's key is in slot 1, the TEE's in slot 0 (`docs/formats/boot.md`).
const SLOT: &str = "2";
/// In the state: the sealed key of a slot that is there, and one whose slot may not be.
const KEPT: &str = "recovery.json";
const PENDING: &str = "recovery.pending.json";
/// In memory only, and for no longer than it takes to make the slot.
const NEW_KEY: &str = "recovery.key";
const OLD_KEY: &str = "state.key";

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// The device's account has no recovery key.
    Nothing,
    /// The slot is there.
    Show,
    /// A slot is to be made.
    Add {
        /// For whom.
        recipient: RecoveryKey,
        /// Whether an earlier one may be in its place.
        over: bool,
    },
}

/// Decides from whom the account names, which volume is open, and what the state keeps.
pub fn plan(wanted: Option<RecoveryKey>, volume: &VolumeId, kept: Option<&SealedRecoveryKey>, pending: bool) -> Plan {
    match (wanted, kept) {
        (None, _) => Plan::Nothing,
        (Some(recipient), Some(kept)) if kept.recipient == recipient && kept.volume == *volume => Plan::Show,
        (Some(recipient), kept) => Plan::Add { recipient, over: pending || kept.is_some() },
    }
}

/// Why a state has no recovery key in this boot.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// A file or the partition could not be read or written.
    #[error("cannot {what} {}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The key store does not tell which factory document is this device's.
    #[error("cannot ask the key store for the digest of the factory document")]
    KeyStore(#[from] KeyStoreError),
    /// The TEE does not give the key of the state.
    #[error("cannot have the key of the state")]
    Tee(#[from] TeeError),
    /// The state was opened by nobody.
    #[error("the board has no key of the state")]
    NoKey,
    /// Somebody exchanged it.
    #[error("the factory document is not the one that the key store has recorded")]
    OtherDocument,
    /// It cannot be read although it is the recorded one.
    #[error("cannot read the factory document")]
    Document(#[from] FactoryError),
    /// The header has none.
    #[error("the header of the state has no UUID")]
    NoVolume,
    /// The account's key cannot be sealed to.
    #[error("cannot seal a key to the recovery key of the account")]
    Seal,
    /// No key.
    #[error("cannot make a recovery key")]
    Random(#[source] io::Error),
    /// `cryptsetup` failed.
    #[error("cannot add the recovery key to the state")]
    Add(#[source] ProgramError),
}

/// How `cryptsetup` opens the state to which a key is added.
#[derive(Debug)]
pub enum Opener {
    /// By the token that `systemd-cryptenroll` left for the TPM.
    Tpm,
    /// By a key in a file.
    Key(KeyFile),
}

/// Where things are while the initrd runs.
#[derive(Clone, Debug)]
pub struct Places {
    /// The state's partition.
    pub device: PathBuf,
    /// The state.
    pub state: PathBuf,
    /// The factory's data.
    pub factory: PathBuf,
    /// Memory, for keys, and for what the system is shown.
    pub run: PathBuf,
}

/// Sees to it that the open state has the recovery key that its account wants, and shows it to the system. What goes wrong is said, and
/// tried again at the next boot.
pub fn provide(keys: &mut KeyStore, places: &Places) {
    let tried = wanted(keys, &places.factory).and_then(|wanted| match wanted {
        None => Ok(()),
        Some(_) => apply(wanted, places, || opener(keys, &places.run)),
    });
    if let Err(e) = tried {
        say(&format!("going on without a recovery key: {}", in_one_line(&e)));
    }
}

/// Whom the factory document names, if it is the recorded one: another one may name anybody.
fn wanted(keys: &mut KeyStore, factory: &Path) -> Result<Option<RecoveryKey>, RecoveryError> {
    let path = factory.join("factory.json");
    let bytes = match read_start(&path, FactoryDocument::MAX_BYTES + 1) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(at("read", &path))?,
    };
    match keys.factory_digest()? {
        // The factory step is not over: its end is what makes the document count.
        None => Ok(None),
        Some(recorded) if recorded != Digest::of(&bytes) => Err(RecoveryError::OtherDocument),
        Some(_) => Ok(FactoryDocument::parse(&bytes)?.recovery_key),
    }
}

fn opener(keys: &KeyStore, run: &Path) -> Result<Opener, RecoveryError> {
    match keys {
        KeyStore::None => Err(RecoveryError::NoKey),
        KeyStore::Tpm(_) => Ok(Opener::Tpm),
        KeyStore::Tee(tee) => {
            let key = tee.state_key()?.ok_or(RecoveryError::NoKey)?;
            let path = run.join(OLD_KEY);
            Ok(Opener::Key(KeyFile::holding(&path, &*key).map_err(at("write", &path))?))
        }
    }
}

/// Does what [`plan`] says.
///
/// # Errors
/// If the slot could not be made, or the sealed key be kept or shown.
pub fn apply(
    wanted: Option<RecoveryKey>,
    places: &Places,
    opener: impl FnOnce() -> Result<Opener, RecoveryError>,
) -> Result<(), RecoveryError> {
    let volume = volume(&places.device)?;
    let (kept_at, pending_at) = (places.state.join(KEPT), places.state.join(PENDING));
    // One that is damaged counts as none: its slot is made anew. One that cannot be read may be whole.
    let kept = match read_start(&kept_at, SealedRecoveryKey::MAX_BYTES + 1) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        read => Some(read.map_err(at("read", &kept_at))?),
    };
    let parsed = kept.as_deref().and_then(|bytes| SealedRecoveryKey::parse(bytes).ok());
    match plan(wanted, &volume, parsed.as_ref(), kept.is_some() || pending_at.exists()) {
        Plan::Nothing => return Ok(()),
        Plan::Show => {}
        Plan::Add { recipient, over } => {
            say("adding a recovery key to the state");
            add(recipient, &volume, places, over, &opener()?)?;
            fs::rename(&pending_at, &kept_at).map_err(at("rename", &pending_at))?;
            sync(&places.state)?;
        }
    }
    let shown = places.run.join(KEPT);
    let sealed = fs::read(&kept_at).map_err(at("read", &kept_at))?;
    // The agent reads it, which is not root.
    let mut file = OpenOptions::new();
    let file = file.write(true).create(true).truncate(true).mode(0o644).open(&shown);
    file.and_then(|mut file| file.write_all(&sealed)).map_err(at("write", &shown))
}

/// Keeps the sealed key, then makes the slot.
fn add(
    recipient: RecoveryKey,
    volume: &VolumeId,
    places: &Places,
    over: bool,
    opener: &Opener,
) -> Result<(), RecoveryError> {
    let device = places.device.to_string_lossy();
    if over {
        // Most often there is no such slot; one that stays keeps the next step from being done.
        drop(run(CRYPTSETUP, &["luksKillSlot", "--batch-mode", &device, SLOT], LONGEST));
    }
    let passphrase = seal::passphrase().map_err(RecoveryError::Random)?;
    let sealed = seal::seal(recipient, volume, &passphrase).ok_or(RecoveryError::Seal)?;
    keep(&places.state, &sealed)?;
    let path = places.run.join(NEW_KEY);
    let key = KeyFile::holding(&path, &*passphrase).map_err(at("write", &path))?;
    let new_key = format!("--new-keyfile={}", key.path());
    let old_key = match opener {
        Opener::Tpm => vec!["--token-type=systemd-tpm2".to_owned(), "--token-only".to_owned()],
        Opener::Key(key) => vec![format!("--key-file={}", key.path())],
    };
    let slot = format!("--new-key-slot={SLOT}");
    let mut arguments = vec!["luksAddKey", "--batch-mode", &slot, &new_key];
    arguments.extend(old_key.iter().map(String::as_str));
    // The key is random bytes: nothing to stretch.
    arguments.extend(["--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000", &device]);
    run(CRYPTSETUP, &arguments, LONGEST).map_err(RecoveryError::Add)
}

/// The UUID in the first copy of the header, or in the second where the first is gone.
fn volume(device: &Path) -> Result<VolumeId, RecoveryError> {
    let file = File::open(device).map_err(at("open", device))?;
    let mut place = [0; luks::BYTES];
    for offset in luks::PLACES {
        match file.read_exact_at(&mut place, offset) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(e) => return Err(at("read", device)(e)),
        }
        if let Some(volume) = luks::volume(&place) {
            return Ok(volume);
        }
    }
    Err(RecoveryError::NoVolume)
}

/// Temporary file, fsync, rename, fsync of the folder.
fn keep(state: &Path, sealed: &SealedRecoveryKey) -> Result<(), RecoveryError> {
    let (path, temporary) = (state.join(PENDING), state.join(format!(".{PENDING}.new")));
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(sealed.to_json().as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &path)
    };
    write().map_err(at("write", &path))?;
    sync(state)
}

fn sync(folder: &Path) -> Result<(), RecoveryError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(at("flush", folder))
}

fn at<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> RecoveryError + 'a {
    move |source| RecoveryError::File { what, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
