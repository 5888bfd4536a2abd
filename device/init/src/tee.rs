//! The key store in a TEE: mounts what the TEE stores, starts the supplicant that reads and writes it for the TEE, asks. Never makes
//! a key store anew on a device that has something to lose with the old one.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use device_tee::{KeyStore, StateKey, TeeError};
use protocol_types::{Digest, SecurityVersion, luks::Header};
use rustix::mount::{MountFlags, UnmountFlags, unmount};

use crate::{
    console::say,
    kernel::{MountError, mount_at},
    program::{Background, ProgramError, run},
};

/// Where the TEE's files are, in the initrd and later in the system: what is mounted below `/run` is handed over with it.
pub const STORE: &str = "/run/tee";
/// The driver's device for the supplicant.
pub const SUPPLICANT_DEVICE: &str = "/dev/teepriv0";
const SUPPLICANT: &str = "/usr/sbin/tee-supplicant";
/// The trusted applications that the initrd asks.
const APPLICATIONS: &str = "/usr/lib/optee_armtz";
const MKE2FS: &str = "/usr/sbin/mke2fs";
const FORMAT_LIMIT: Duration = Duration::from_secs(60);
/// How long the supplicant may take until it serves.
const SERVES_WITHIN: Duration = Duration::from_secs(20);

/// A key store that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TeeStoreError {
    /// The disk has no place for it.
    #[error("disk {0} has no partition `tee`, where the board's TEE would store")]
    NoPartition(String),
    /// The partition's file system cannot be used.
    #[error("cannot use the partition of the TEE")]
    Mount(#[from] MountError),
    /// It could not be made anew.
    #[error("cannot make a file system for the TEE")]
    Format(#[source] ProgramError),
    /// It could not be taken away again.
    #[error("cannot unmount {STORE}")]
    Unmount(#[source] io::Error),
    /// The supplicant does not serve.
    #[error("the TEE has nobody to read and write its files")]
    Supplicant(#[source] ProgramError),
    /// The TEE did not do what was asked.
    #[error("cannot use the key store in the TEE")]
    Ask(#[from] TeeError),
    /// What the device had is gone.
    #[error("the key store is lost or damaged, and this device is not new: nothing is made in its place")]
    Lost(#[source] Box<TeeStoreError>),
}

impl TeeStoreError {
    const fn found(&self) -> Found {
        match self {
            Self::Ask(TeeError::NoRecord) => Found::NoRecord,
            Self::Ask(TeeError::Refused { code, .. }) if code.is_damage() => Found::Damaged,
            Self::Mount(_) => Found::Damaged,
            Self::NoPartition(_)
            | Self::Format(_)
            | Self::Unmount(_)
            | Self::Supplicant(_)
            | Self::Ask(_)
            | Self::Lost(_) => Found::OutOfReach,
        }
    }
}

/// Why a key store does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// It works and holds nothing of this device.
    NoRecord,
    /// What it stored cannot be read.
    Damaged,
    /// Something else than what it stored is the reason.
    OutOfReach,
}

/// What is done about a key store that does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Remedy {
    /// The record of a new device.
    MakeRecord,
    /// A new file system, then a record.
    MakeAnew,
    /// The boot ends.
    Refuse,
}

/// A key store that was there once and is not any more must not pass for a new one: the floor would be 0 again, and the state's key
/// is gone. A device is new as long as it has neither a state nor what the factory wrote, so a cut of power before that costs nothing.
const fn remedy(found: Found, new: bool) -> Remedy {
    match (found, new) {
        (Found::NoRecord, true) => Remedy::MakeRecord,
        (Found::Damaged, true) => Remedy::MakeAnew,
        (Found::NoRecord | Found::Damaged, false) | (Found::OutOfReach, _) => Remedy::Refuse,
    }
}

/// Whether a device holds nothing yet that depends on its key store.
pub fn is_new(state: Header, factory: &Path) -> io::Result<bool> {
    let no_state = match state {
        Header::None | Header::Unfinished => true,
        Header::Reset | Header::Present => false,
    };
    Ok(no_state && !is_ext4(factory)?)
}

/// Whether there is the mark of an ext4 super block (Documentation/filesystems/ext4/super.rst).
fn is_ext4(device: &Path) -> io::Result<bool> {
    let mut mark = [0; 2];
    match File::open(device)?.read_exact_at(&mut mark, 1024 + 0x38) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        read => read.map(|()| mark == [0x53, 0xef]),
    }
}

/// An open key store, with the supplicant that works for it.
#[derive(Debug)]
pub struct Tee {
    // Closed first: closing asks the TEE.
    keys: KeyStore,
    _supplicant: Background,
    floor: SecurityVersion,
}

impl Tee {
    /// Opens the key store that stores on `partition`; on a new device it is made if need be.
    ///
    /// # Errors
    /// If it cannot be used.
    pub fn open(partition: &Path, new: bool) -> Result<Self, TeeStoreError> {
        let error = match Self::ask(partition, |keys| keys.floor()) {
            Ok(open) => return Ok(open),
            Err(error) => error,
        };
        match remedy(error.found(), new) {
            Remedy::MakeRecord => {}
            Remedy::MakeAnew => make_file_system(partition)?,
            Remedy::Refuse => {
                return Err(match error.found() {
                    Found::OutOfReach => error,
                    Found::NoRecord | Found::Damaged => TeeStoreError::Lost(Box::new(error)),
                });
            }
        }
        say("making the key store of a new device in the TEE");
        Self::ask(partition, |keys| keys.make_record().and_then(|()| keys.floor()))
    }

    /// With file system and supplicant in place. If it fails the supplicant ends; the file system stays mounted.
    fn ask(
        partition: &Path,
        floor: impl FnOnce(&KeyStore) -> Result<SecurityVersion, TeeError>,
    ) -> Result<Self, TeeStoreError> {
        mount(partition)?;
        let supplicant = start_supplicant().map_err(TeeStoreError::Supplicant)?;
        let keys = KeyStore::open(Path::new(device_tee::DEVICE))?;
        let floor = floor(&keys)?;
        Ok(Self { keys, _supplicant: supplicant, floor })
    }

    /// The floor.
    pub const fn floor(&self) -> SecurityVersion {
        self.floor
    }

    /// The digest of the factory document; none before it was recorded.
    ///
    /// # Errors
    /// If the TEE does not tell.
    pub fn factory_digest(&self) -> Result<Option<Digest>, TeeError> {
        self.keys.factory()
    }

    /// The key of the state; none if none was made.
    ///
    /// # Errors
    /// If the TEE does not give it.
    pub fn state_key(&self) -> Result<Option<StateKey>, TeeError> {
        self.keys.state_key()
    }

    /// A new key for the state.
    ///
    /// # Errors
    /// If the TEE does not make one.
    pub fn new_state_key(&self) -> Result<StateKey, TeeError> {
        self.keys.new_state_key()
    }

    /// Ends the initrd's part: the TEE gives the state's key no more, and the supplicant makes room for the system's. No file of the TEE
    /// is open then, so another supplicant can take over.
    ///
    /// # Errors
    /// If the TEE does not answer.
    pub fn leave_initrd(self) -> Result<(), TeeError> {
        self.keys.leave_initrd()
    }
}

/// Unless it is mounted already. Each write reaches the disk before the TEE hears that it was done.
fn mount(partition: &Path) -> Result<(), MountError> {
    let partition = partition.to_string_lossy();
    let mounted = fs::read_to_string("/proc/mounts").unwrap_or_default();
    if mounted.lines().any(|line| line.split(' ').nth(1) == Some(STORE)) {
        return Ok(());
    }
    let bare = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount_at("ext4", &partition, STORE, bare | MountFlags::SYNCHRONOUS | MountFlags::DIRSYNC, c"errors=remount-ro")
}

fn make_file_system(partition: &Path) -> Result<(), TeeStoreError> {
    match unmount(STORE, UnmountFlags::empty()) {
        // It was not mounted.
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
        Err(e) => return Err(TeeStoreError::Unmount(e.into())),
    }
    let partition = partition.to_string_lossy();
    run(MKE2FS, &["-q", "-F", "-t", "ext4", "-O", "metadata_csum", "-m", "0", "-L", "tee", &partition], FORMAT_LIMIT)
        .map_err(TeeStoreError::Format)
}

/// Starts the supplicant and waits until it serves: a question to the TEE before that would wait for ever if it never does.
fn start_supplicant() -> Result<Background, ProgramError> {
    let arguments = ["--fs-parent-path", STORE, "--ta-path", APPLICATIONS];
    Background::start(SUPPLICANT, &arguments)?.until(SERVES_WITHIN, |id| has_open(id, SUPPLICANT_DEVICE))
}

/// Whether a process has a file open.
fn has_open(process: u32, path: &str) -> bool {
    let open = fs::read_dir(PathBuf::from("/proc").join(process.to_string()).join("fd"));
    open.is_ok_and(|open| open.flatten().any(|file| fs::read_link(file.path()).is_ok_and(|to| to == Path::new(path))))
}

#[cfg(test)]
mod tests {
    use device_tee::message::Code;

    use super::*;

    fn refused(code: Code) -> TeeStoreError {
        TeeError::Refused { what: "tell the floor", code }.into()
    }

    #[test]
    fn a_lost_or_damaged_key_store_is_made_anew_only_on_a_new_device() {
        assert_eq!(remedy(Found::NoRecord, true), Remedy::MakeRecord);
        assert_eq!(remedy(Found::Damaged, true), Remedy::MakeAnew);
        for found in [Found::NoRecord, Found::Damaged, Found::OutOfReach] {
            assert_eq!(remedy(found, false), Remedy::Refuse, "{found:?}");
        }
        assert_eq!(remedy(Found::OutOfReach, true), Remedy::Refuse);
    }

    #[test]
    fn damage_is_told_from_a_tee_that_is_out_of_reach() {
        assert_eq!(refused(Code::CORRUPT_OBJECT).found(), Found::Damaged);
        assert_eq!(TeeStoreError::from(TeeError::NoRecord).found(), Found::NoRecord);
        for code in [Code::COMMUNICATION, Code::TARGET_DEAD, Code::ACCESS_DENIED, Code::STORAGE_NOT_AVAILABLE] {
            assert_eq!(refused(code).found(), Found::OutOfReach, "{code}");
        }
    }

    #[test]
    fn a_device_with_a_state_or_a_factory_partition_in_use_is_not_new() {
        let factory = tempfile::NamedTempFile::new().unwrap();
        factory.as_file().set_len(4096).unwrap();
        for (state, new) in
            [(Header::None, true), (Header::Unfinished, true), (Header::Reset, false), (Header::Present, false)]
        {
            assert_eq!(is_new(state, factory.path()).unwrap(), new, "{state:?}");
        }
        factory.as_file().write_all_at(&[0x53, 0xef], 1080).unwrap();
        assert!(!is_new(Header::None, factory.path()).unwrap());
    }

    #[test]
    fn a_process_has_its_own_program_s_files_open_and_no_others() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        assert!(has_open(std::process::id(), &path));
        assert!(!has_open(std::process::id(), "/nowhere"));
    }
}
