//! The state partition: opened, made anew at the first boot or after a factory reset, or left alone. Never wipes a state that it
//! cannot open unless somebody asked for that.
//!
//! With a TPM the key is born here and sealed to the Secure Boot keys (PCR 7) and to images of ours in the initrd (PCR 11, by a
//! policy that the image brings with a signature). `systemd-cryptenroll` and `systemd-cryptsetup` do the sealing: they are kept
//! by others, and the running system's tools read what they write. With a TEE it is born there, and the TEE gives it to the initrd.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use device_tee::TeeError;
use protocol_types::{
    boot_record::StateOutcome,
    luks::{self, FINISHED, Header, RESET, UNFINISHED},
};
use rustix::mount::MountFlags;

use crate::{
    console::{in_one_line, say},
    kernel::{MountError, mount_at},
    key_file::{KeyFile, random},
    key_store::KeyStore,
    program::{LONGEST, ProgramError, run},
    tee::Tee,
    tpm::TPM_DEVICE,
};

const CRYPTSETUP: &str = "/usr/sbin/cryptsetup";
const CRYPTENROLL: &str = "/usr/bin/systemd-cryptenroll";
const SYSTEMD_CRYPTSETUP: &str = "/usr/bin/systemd-cryptsetup";
const MKE2FS: &str = "/usr/sbin/mke2fs";
/// The public key of the policies for PCR 11, copied from where the image's stub leaves it.
pub const POLICY_KEY: &str = "/run/systemd/tpm2-pcr-public-key.pem";
/// The signed policies for PCR 11, likewise.
pub const POLICY_SIGNATURE: &str = "/run/systemd/tpm2-pcr-signature.json";
const MAPPED: &str = "/dev/mapper/state";
/// In memory only, and for no longer than it takes to seal it or to unlock with it.
const KEY_FILE: &str = "/run/mbl/state.key";

/// What is to be done with the state partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Open what is there.
    Open,
    /// Make a new one.
    Create {
        /// Why there is none to open.
        because: &'static str,
    },
    /// Go on without.
    Without {
        /// Why.
        because: &'static str,
    },
}

/// Where the key of a state can be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeper {
    /// Nowhere.
    Nobody,
    /// In a TPM, if the image brings a signed policy to seal it by.
    Tpm {
        /// Whether it does.
        policy: bool,
    },
    /// In a TEE.
    Tee,
}

impl Keeper {
    fn of(keys: &KeyStore) -> Self {
        match keys {
            KeyStore::None => Self::Nobody,
            KeyStore::Tpm(_) => Self::Tpm { policy: has_policy() },
            KeyStore::Tee(_) => Self::Tee,
        }
    }
}

/// Decides from what is there.
pub const fn plan(keeper: Keeper, header: Header) -> Plan {
    let because = match (keeper, header) {
        (Keeper::Nobody, _) => return Plan::Without { because: "the board has no key store that could keep its key" },
        (Keeper::Tpm { .. } | Keeper::Tee, Header::Present) => return Plan::Open,
        (Keeper::Tpm { policy: false }, _) => {
            return Plan::Without {
                because: "there is none, and the image brings no signed policy to seal a new one by",
            };
        }
        (_, Header::None) => "the partition held none",
        (_, Header::Unfinished) => "the making of an earlier one was cut short",
        (_, Header::Reset) => "a factory reset was asked for",
    };
    Plan::Create { because }
}

/// Whether the image brought a key and a signature for PCR 11.
fn has_policy() -> bool {
    Path::new(POLICY_KEY).exists() && Path::new(POLICY_SIGNATURE).exists()
}

/// A state that could not be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The partition could not be read.
    #[error("cannot read the state partition {}", device.display())]
    Read {
        /// The partition.
        device: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The partition could not be written.
    #[error("cannot overwrite the header of the state partition {}", device.display())]
    Wipe {
        /// The partition.
        device: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No new key.
    #[error("cannot make a key for the state")]
    Key(#[source] io::Error),
    /// One of the programs failed.
    #[error("cannot {what} the state")]
    Program {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: ProgramError,
    },
    /// The TEE did not give its key.
    #[error("cannot have the key of the state")]
    Tee(#[from] TeeError),
    /// The TEE has no key for it: it was made on another board, or the key store was made anew since.
    #[error("the key store in the TEE has no key for the state")]
    NoKey,
    /// The board has no key store.
    #[error("the board has no key store that could keep the key of the state")]
    NoKeyStore,
    /// The file system in it could not be mounted.
    #[error("cannot use the file system of the state")]
    Mount(#[source] MountError),
}

/// What the partition holds.
///
/// # Errors
/// If it cannot be read.
pub fn examine(device: &Path) -> Result<Header, StateError> {
    let read = |source| StateError::Read { device: device.to_owned(), source };
    let file = File::open(device).map_err(read)?;
    let mut places = Vec::new();
    for at in luks::PLACES {
        let mut place = [0; luks::BYTES];
        match file.read_exact_at(&mut place, at) {
            Ok(()) => places.push(place),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(e) => return Err(read(e)),
        }
    }
    Ok(luks::examine(places.iter().map(<[u8; luks::BYTES]>::as_slice)))
}

/// Gets a state mounted at `at`, whatever it takes; without one, it is memory. Returns what became of it, and why.
///
/// # Errors
/// If not even memory can be mounted.
pub fn provide(keys: &KeyStore, device: &Path, at: &str) -> Result<(StateOutcome, Option<String>), MountError> {
    let (outcome, tried) = match examine(device).map(|header| plan(Keeper::of(keys), header)) {
        Ok(Plan::Open) => (Some((StateOutcome::Open, None)), open(keys, device).and_then(|()| mount(at))),
        Ok(Plan::Create { because }) => {
            say(&format!("making a new state on {}: {because}", device.display()));
            (Some((StateOutcome::Created, Some(because))), create(keys, device).and_then(|()| mount(at)))
        }
        Ok(Plan::Without { because }) => (Some((StateOutcome::Degraded, Some(because))), Ok(())),
        Err(e) => (None, Err(e)),
    };
    let reason = match (outcome, tried) {
        (Some((outcome @ (StateOutcome::Open | StateOutcome::Created), because)), Ok(())) => {
            return Ok((outcome, because.map(str::to_owned)));
        }
        (Some((StateOutcome::Degraded, because)), Ok(())) => because.unwrap_or_default().to_owned(),
        (None, Ok(())) => String::new(),
        (_, Err(e)) => in_one_line(&e),
    };
    say(&format!("going on without the state partition: {reason}"));
    mount_at("tmpfs", "tmpfs", at, MountFlags::NOSUID | MountFlags::NODEV, c"mode=0755,size=25%")?;
    Ok((StateOutcome::Degraded, Some(reason)))
}

/// Makes [`provide`] make a new state, in this boot or the next. A partition without a state needs none; one whose header can
/// no longer be changed loses it, which comes to the same.
///
/// # Errors
/// If the partition can be neither marked nor written.
pub fn forget(device: &Path) -> Result<(), StateError> {
    match examine(device)? {
        Header::None | Header::Unfinished | Header::Reset => Ok(()),
        Header::Present => {
            let marked = run(CRYPTSETUP, &["config", "--label", RESET, &device.to_string_lossy()], LONGEST);
            marked.or_else(|e| {
                say(&format!("overwriting the header of {}: {}", device.display(), in_one_line(&e)));
                wipe(device).map_err(|source| StateError::Wipe { device: device.to_owned(), source })
            })
        }
    }
}

/// Overwrites every place where a header may stand, the first copy last: until then it is still a state, which can be forgotten.
fn wipe(device: &Path) -> io::Result<()> {
    let partition = OpenOptions::new().write(true).open(device)?;
    for at in luks::PLACES.iter().rev() {
        partition.write_all_at(&[0; luks::BYTES], *at)?;
        partition.sync_all()?;
    }
    Ok(())
}

fn open(keys: &KeyStore, device: &Path) -> Result<(), StateError> {
    match keys {
        KeyStore::None => Err(StateError::NoKeyStore),
        KeyStore::Tpm(_) => unlock_with_tpm(device),
        KeyStore::Tee(tee) => {
            let key = tee.state_key()?.ok_or(StateError::NoKey)?;
            unlock(device, &KeyFile::holding(Path::new(KEY_FILE), &*key).map_err(StateError::Key)?)
        }
    }
}

/// Each step leaves a partition that the next boot reads as unfinished, until the last one.
fn create(keys: &KeyStore, device: &Path) -> Result<(), StateError> {
    match keys {
        KeyStore::None => return Err(StateError::NoKeyStore),
        KeyStore::Tpm(_) => create_for_tpm(device)?,
        KeyStore::Tee(tee) => create_for_tee(tee, device)?,
    }
    let did = |what| move |source| StateError::Program { what, source };
    run(MKE2FS, &["-q", "-t", "ext4", "-O", "metadata_csum", "-m", "1", "-L", "state", MAPPED], LONGEST)
        .map_err(did("make a file system in"))?;
    run(CRYPTSETUP, &["config", "--label", FINISHED, &device.to_string_lossy()], LONGEST).map_err(did("finish"))
}

/// Leaves it unlocked.
fn create_for_tpm(device: &Path) -> Result<(), StateError> {
    let key = new_key()?;
    format(device, &key)?;
    run(
        CRYPTENROLL,
        &[
            &format!("--unlock-key-file={}", key.path()),
            &format!("--tpm2-device={TPM_DEVICE}"),
            "--tpm2-pcrs=7",
            &format!("--tpm2-public-key={POLICY_KEY}"),
            "--tpm2-public-key-pcrs=11",
            &format!("--tpm2-signature={POLICY_SIGNATURE}"),
            "--wipe-slot=password",
            &device.to_string_lossy(),
        ],
        LONGEST,
    )
    .map_err(|source| StateError::Program { what: "seal", source })?;
    drop(key);
    unlock_with_tpm(device)
}

fn new_key() -> Result<KeyFile, StateError> {
    let key = random::<64>().map_err(StateError::Key)?;
    KeyFile::holding(Path::new(KEY_FILE), &*key).map_err(StateError::Key)
}

/// Leaves it unlocked. The TEE has stored the new key before the old key slots are overwritten, and forgotten the old one.
fn create_for_tee(tee: &Tee, device: &Path) -> Result<(), StateError> {
    let key = tee.new_state_key()?;
    let key = KeyFile::holding(Path::new(KEY_FILE), &*key).map_err(StateError::Key)?;
    format(device, &key)?;
    unlock(device, &key)
}

fn unlock_with_tpm(device: &Path) -> Result<(), StateError> {
    let options = format!("luks,headless=1,tpm2-device={TPM_DEVICE},tpm2-signature={POLICY_SIGNATURE}");
    let device = device.to_string_lossy();
    run(SYSTEMD_CRYPTSETUP, &["attach", "state", &device, "-", &options], LONGEST)
        .map_err(|source| StateError::Program { what: "unlock", source })
}

fn unlock(device: &Path, key: &KeyFile) -> Result<(), StateError> {
    let device = device.to_string_lossy();
    run(CRYPTSETUP, &["open", "--type=luks2", "--key-file", &key.path(), &device, "state"], LONGEST)
        .map_err(|source| StateError::Program { what: "unlock", source })
}

fn format(device: &Path, key: &KeyFile) -> Result<(), StateError> {
    run(
        CRYPTSETUP,
        &[
            "luksFormat",
            "--batch-mode",
            "--type=luks2",
            "--label",
            UNFINISHED,
            "--cipher=aes-xts-plain64",
            "--key-size=512",
            // The key is random bytes: nothing to stretch.
            "--pbkdf=pbkdf2",
            "--pbkdf-force-iterations=1000",
            "--key-file",
            &key.path(),
            &device.to_string_lossy(),
        ],
        LONGEST,
    )
    .map_err(|source| StateError::Program { what: "format", source })
}

fn mount(at: &str) -> Result<(), StateError> {
    mount_at("ext4", MAPPED, at, MountFlags::NOSUID | MountFlags::NODEV, c"errors=remount-ro")
        .map_err(StateError::Mount)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_is_there_is_never_made_anew() {
        for keeper in [Keeper::Tpm { policy: false }, Keeper::Tpm { policy: true }, Keeper::Tee] {
            assert_eq!(plan(keeper, Header::Present), Plan::Open, "{keeper:?}");
        }
    }

    #[test]
    fn a_tpm_seals_nothing_without_a_signed_policy() {
        for header in [Header::None, Header::Unfinished, Header::Reset] {
            assert!(matches!(plan(Keeper::Tpm { policy: true }, header), Plan::Create { .. }));
            assert!(matches!(plan(Keeper::Tpm { policy: false }, header), Plan::Without { .. }));
            assert!(matches!(plan(Keeper::Tee, header), Plan::Create { .. }));
        }
    }

    #[test]
    fn a_board_without_a_key_store_keeps_no_state() {
        for header in [Header::None, Header::Unfinished, Header::Reset, Header::Present] {
            assert!(matches!(plan(Keeper::Nobody, header), Plan::Without { .. }));
        }
    }

    #[test]
    fn a_damaged_state_is_forgotten_by_its_header_and_keeps_it_until_the_last_copy_is_gone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(0x80_0000).unwrap();
        file.as_file().write_all_at(b"LUKS\xba\xbe\x00\x02", 0).unwrap();
        file.as_file().write_all_at(b"SKUL\xba\xbe\x00\x02", 0x4000).unwrap();
        assert_eq!(examine(file.path()).unwrap(), Header::Present);
        wipe(file.path()).unwrap();
        assert_eq!(examine(file.path()).unwrap(), Header::None);
        forget(file.path()).unwrap();
        assert!(forget(Path::new("/nowhere")).is_err());
    }

    #[test]
    fn a_partition_too_small_for_a_second_header_is_still_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(0x9000).unwrap();
        assert_eq!(examine(file.path()).unwrap(), Header::None);
        file.as_file().write_all_at(b"SKUL\xba\xbe", 0x8000).unwrap();
        assert_eq!(examine(file.path()).unwrap(), Header::Present);
    }
}
