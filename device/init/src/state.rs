//! The state partition: opened, made anew at the first boot or after a factory reset, or left alone. Never wipes a state that it
//! cannot open unless somebody asked for that.
//!
//! The key is born here and sealed by the TPM to the Secure Boot keys (PCR 7) and to images of ours in the initrd (PCR 11, by a
//! policy that the image brings with a signature). `systemd-cryptenroll` and `systemd-cryptsetup` do the sealing: they are kept
//! by others, and the running system's tools read what they write.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use protocol_types::{
    boot_record::StateOutcome,
    luks::{self, FINISHED, Header, RESET, UNFINISHED},
    signed_cmdline::KeyStore,
};
use rustix::{
    mount::MountFlags,
    rand::{GetRandomFlags, getrandom},
};

use crate::{
    console::{in_one_line, say},
    kernel::{MountError, mount_at},
    key_store::TPM_DEVICE,
    program::{ProgramError, run},
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
/// In memory only, and for no longer than the TPM takes to seal it.
const KEY_FILE: &str = "/run/mbl/state.key";

/// A TPM is slow, and an emulated processor slower.
const SEAL_LIMIT: Duration = Duration::from_secs(120);
const FORMAT_LIMIT: Duration = Duration::from_secs(120);

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

/// Decides from what is there. `policy` says whether the image brought a key and a signature for PCR 11.
pub const fn plan(key_store: KeyStore, header: Header, policy: bool) -> Plan {
    let because = match (key_store, header) {
        (KeyStore::None, _) => return Plan::Without { because: "the board has no key store that could keep its key" },
        (KeyStore::Tpm2, Header::Present) => return Plan::Open,
        (KeyStore::Tpm2, Header::None) => "the partition held none",
        (KeyStore::Tpm2, Header::Unfinished) => "the making of an earlier one was cut short",
        (KeyStore::Tpm2, Header::Reset) => "a factory reset was asked for",
    };
    if policy {
        Plan::Create { because }
    } else {
        Plan::Without { because: "there is none, and the image brings no signed policy to seal a new one by" }
    }
}

/// Whether the image brought a key and a signature for PCR 11.
pub fn has_policy() -> bool {
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
pub fn provide(key_store: KeyStore, device: &Path, at: &str) -> Result<(StateOutcome, Option<String>), MountError> {
    let (outcome, tried) = match examine(device).map(|header| plan(key_store, header, has_policy())) {
        Ok(Plan::Open) => (Some((StateOutcome::Open, None)), open(device).and_then(|()| mount(at))),
        Ok(Plan::Create { because }) => {
            say(&format!("making a new state on {}: {because}", device.display()));
            (Some((StateOutcome::Created, Some(because))), create(device).and_then(|()| mount(at)))
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

/// Leaves the wish for a new state to the next boot, which makes it. A partition without a state needs none; one whose header can
/// no longer be changed loses it, which comes to the same.
///
/// # Errors
/// If the partition can be neither marked nor written.
pub fn forget(device: &Path) -> Result<(), StateError> {
    match examine(device)? {
        Header::None | Header::Unfinished | Header::Reset => Ok(()),
        Header::Present => {
            let marked = run(CRYPTSETUP, &["config", "--label", RESET, &device.to_string_lossy()], FORMAT_LIMIT);
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

fn open(device: &Path) -> Result<(), StateError> {
    let options = format!("luks,headless=1,tpm2-device={TPM_DEVICE},tpm2-signature={POLICY_SIGNATURE}");
    let device = device.to_string_lossy();
    run(SYSTEMD_CRYPTSETUP, &["attach", "state", &device, "-", &options], SEAL_LIMIT)
        .map_err(|source| StateError::Program { what: "unlock", source })
}

/// Each step leaves a partition that the next boot reads as unfinished, until the last one.
fn create(device: &Path) -> Result<(), StateError> {
    let key = KeyFile::new().map_err(StateError::Key)?;
    let device_text = device.to_string_lossy();
    let did = |what| move |source| StateError::Program { what, source };
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
            // The key is 64 random bytes and lives for seconds: nothing to stretch.
            "--pbkdf=pbkdf2",
            "--pbkdf-force-iterations=1000",
            "--key-file",
            KEY_FILE,
            &device_text,
        ],
        FORMAT_LIMIT,
    )
    .map_err(did("format"))?;
    run(
        CRYPTENROLL,
        &[
            &format!("--unlock-key-file={KEY_FILE}"),
            &format!("--tpm2-device={TPM_DEVICE}"),
            "--tpm2-pcrs=7",
            &format!("--tpm2-public-key={POLICY_KEY}"),
            "--tpm2-public-key-pcrs=11",
            &format!("--tpm2-signature={POLICY_SIGNATURE}"),
            "--wipe-slot=password",
            &device_text,
        ],
        SEAL_LIMIT,
    )
    .map_err(did("seal"))?;
    drop(key);
    open(device)?;
    run(MKE2FS, &["-q", "-t", "ext4", "-O", "metadata_csum", "-m", "1", "-L", "state", MAPPED], FORMAT_LIMIT)
        .map_err(did("make a file system in"))?;
    run(CRYPTSETUP, &["config", "--label", FINISHED, &device_text], FORMAT_LIMIT).map_err(did("finish"))
}

fn mount(at: &str) -> Result<(), StateError> {
    mount_at("ext4", MAPPED, at, MountFlags::NOSUID | MountFlags::NODEV, c"errors=remount-ro")
        .map_err(StateError::Mount)
}

/// A new random key in a file of memory, gone when this goes.
struct KeyFile;

impl KeyFile {
    fn new() -> io::Result<Self> {
        let mut key = [0; 64];
        let mut filled = 0;
        while let Some(rest) = key.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            filled += getrandom(rest, GetRandomFlags::empty())?;
        }
        let this = Self;
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(KEY_FILE)?.write_all(&key)?;
        Ok(this)
    }
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_file(KEY_FILE) {
            say(&format!("cannot remove {KEY_FILE}: {e}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_is_there_is_never_made_anew() {
        for policy in [false, true] {
            assert_eq!(plan(KeyStore::Tpm2, Header::Present, policy), Plan::Open);
        }
    }

    #[test]
    fn nothing_is_sealed_without_a_signed_policy() {
        for header in [Header::None, Header::Unfinished, Header::Reset] {
            assert!(matches!(plan(KeyStore::Tpm2, header, true), Plan::Create { .. }));
            assert!(matches!(plan(KeyStore::Tpm2, header, false), Plan::Without { .. }));
        }
    }

    #[test]
    fn a_board_without_a_key_store_keeps_no_state() {
        for header in [Header::None, Header::Unfinished, Header::Reset, Header::Present] {
            assert!(matches!(plan(KeyStore::None, header, true), Plan::Without { .. }));
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
