//! A TPM 2.0 that the updater asks: one command, one answer. Never knows what they mean; that is `protocol_types::tpm`'s part.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::{
        fd::OwnedFd,
        unix::{fs::FileTypeExt as _, net::UnixStream},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use protocol_types::{
    Digest, SecurityVersion,
    tpm::{self, FactoryIndex, FloorIndex, TpmError},
};

/// The TPM's device, behind the kernel's resource manager.
pub const DEVICE: &str = "/dev/tpmrm0";
/// How long a TPM behind a socket may take to answer; the kernel has limits of its own for one behind a device.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// A TPM that did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// It cannot be spoken to.
    #[error("cannot speak to {}", path.display())]
    Speak {
        /// Its device or socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It answered, but not as it should.
    #[error("{} refused", path.display())]
    Answer {
        /// Its device or socket.
        path: PathBuf,
        /// The answer.
        source: TpmError,
    },
    /// Another factory document was recorded before.
    #[error("{} holds the digest of another factory document", .0.display())]
    Recorded(PathBuf),
}

/// An open TPM: the kernel's device, or the socket of one in software. Both take a command as bytes and give an answer as bytes.
#[derive(Debug)]
pub struct Tpm {
    stream: File,
    path: PathBuf,
}

impl Tpm {
    /// Opens the TPM at `path`.
    ///
    /// # Errors
    /// If there is none, or this user may not.
    pub fn open(path: &Path) -> Result<Self, AskError> {
        let open = || -> io::Result<File> {
            if fs::metadata(path)?.file_type().is_socket() {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(ANSWER_LIMIT))?;
                Ok(File::from(OwnedFd::from(stream)))
            } else {
                OpenOptions::new().read(true).write(true).open(path)
            }
        };
        let path = path.to_owned();
        match open() {
            Ok(stream) => Ok(Self { stream, path }),
            Err(source) => Err(AskError::Speak { path, source }),
        }
    }

    /// The floor; 0 if it was never raised.
    ///
    /// # Errors
    /// If the TPM does not answer, or the index is not one that can only rise.
    pub fn floor(&mut self) -> Result<SecurityVersion, AskError> {
        match self.ask(&tpm::ask_about_floor(), tpm::about_floor)? {
            FloorIndex::Missing => Ok(SecurityVersion(0)),
            FloorIndex::Ours => self.ask(&tpm::ask_floor(), tpm::floor),
        }
    }

    /// Raises the floor; one that is already higher stays. Power may fail between any two of the commands: the next call goes on.
    ///
    /// # Errors
    /// If the TPM does not, or cannot hold the floor.
    pub fn raise_floor(&mut self, floor: SecurityVersion) -> Result<(), AskError> {
        let raise = tpm::raise_floor(floor).map_err(|source| self.refused(source))?;
        if self.floor()? >= floor {
            return Ok(());
        }
        if self.ask(&tpm::ask_about_floor(), tpm::about_floor)? == FloorIndex::Missing {
            self.ask(&tpm::define_floor(), tpm::done)?;
        }
        self.ask(&raise, tpm::done)
    }

    /// The digest of the factory document; none before it was recorded for good.
    ///
    /// # Errors
    /// If the TPM does not answer, or the index is not one that is locked by its first write.
    pub fn factory(&mut self) -> Result<Option<Digest>, AskError> {
        match self.ask(&tpm::ask_about_factory(), tpm::about_factory)? {
            // What is not locked could still be anybody's.
            FactoryIndex::Missing | FactoryIndex::Empty | FactoryIndex::Open => Ok(None),
            FactoryIndex::Locked => self.ask(&tpm::ask_factory(), tpm::factory).map(Some),
        }
    }

    /// Records the digest of the factory document for good. Power may fail between any two of the commands: the next call goes on.
    ///
    /// # Errors
    /// If the TPM does not, or if it holds the digest of another document already.
    pub fn record_factory(&mut self, digest: &Digest) -> Result<(), AskError> {
        let found = self.ask(&tpm::ask_about_factory(), tpm::about_factory)?;
        if found == FactoryIndex::Locked {
            let recorded = self.ask(&tpm::ask_factory(), tpm::factory)?;
            return if recorded == *digest { Ok(()) } else { Err(AskError::Recorded(self.path.clone())) };
        }
        if found == FactoryIndex::Missing {
            self.ask(&tpm::define_factory(), tpm::done)?;
        }
        self.ask(&tpm::write_factory(digest), tpm::done)?;
        self.ask(&tpm::lock_factory(), tpm::done)
    }

    /// One command, one answer.
    fn ask<T>(&mut self, command: &[u8], read: impl Fn(&[u8]) -> Result<T, TpmError>) -> Result<T, AskError> {
        let answer = self.exchange(command).map_err(|source| AskError::Speak { path: self.path.clone(), source })?;
        read(&answer).map_err(|source| self.refused(source))
    }

    fn refused(&self, source: TpmError) -> AskError {
        AskError::Answer { path: self.path.clone(), source }
    }

    /// A device gives the whole answer at once, a socket as it comes: the length in its header says where it ends.
    fn exchange(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        self.stream.write_all(command)?;
        let mut answer = vec![0; tpm::MAX_ANSWER];
        let mut filled = 0;
        loop {
            let into = answer.get_mut(filled..).filter(|rest| !rest.is_empty()).ok_or(io::ErrorKind::InvalidData)?;
            let read = self.stream.read(into)?;
            filled += read;
            let header = answer.get(..filled).unwrap_or_default();
            let length = header.get(2..).and_then(|rest| rest.first_chunk()).map(|bytes| u32::from_be_bytes(*bytes));
            if read == 0 || length.is_some_and(|length| usize::try_from(length).is_ok_and(|l| l <= filled)) {
                break;
            }
        }
        answer.truncate(filled);
        Ok(answer)
    }
}

#[cfg(test)]
#[path = "../tests/support/software_tpm.rs"]
mod software;

#[cfg(test)]
mod tests {
    use super::{software::Software, *};

    fn open(software: &Software) -> Tpm {
        Tpm::open(&software.socket()).unwrap()
    }

    #[test]
    fn a_tpm_keeps_the_highest_floor_over_restarts() {
        let mut software = Software::start();
        assert_eq!(open(&software).floor().unwrap(), SecurityVersion(0));
        let mut highest = 0;
        for floor in [0, 1, 3, 2, 3, 64, 7] {
            open(&software).raise_floor(SecurityVersion(floor)).unwrap();
            highest = highest.max(floor);
            assert_eq!(open(&software).floor().unwrap(), SecurityVersion(highest));
            software.restart();
        }
        let refused = open(&software).raise_floor(SecurityVersion(65));
        assert!(matches!(refused, Err(AskError::Answer { source: TpmError::TooHigh(_), .. })), "{refused:?}");
        assert_eq!(open(&software).floor().unwrap(), SecurityVersion(64));
    }

    #[test]
    fn a_tpm_refuses_to_take_a_bit_off_the_floor_or_to_write_its_index() {
        let software = Software::start();
        let mut tpm = open(&software);
        tpm.raise_floor(SecurityVersion(5)).unwrap();
        let mut write = tpm::write_factory(&Digest::of(b"x"));
        for at in [10, 14] {
            write[at..at + 4].copy_from_slice(&tpm::FLOOR_INDEX.to_be_bytes());
        }
        assert!(matches!(tpm.ask(&write, tpm::done), Err(AskError::Answer { source: TpmError::Refused(_), .. })));
        assert_eq!(tpm.floor().unwrap(), SecurityVersion(5));
    }

    #[test]
    fn a_tpm_takes_one_factory_document_for_good() {
        let mut software = Software::start();
        let (ours, other) = (Digest::of(b"ours"), Digest::of(b"other"));
        assert_eq!(open(&software).factory().unwrap(), None);
        open(&software).record_factory(&ours).unwrap();
        software.restart();
        let mut tpm = open(&software);
        assert_eq!(tpm.factory().unwrap(), Some(ours));
        tpm.record_factory(&ours).unwrap();
        assert!(matches!(tpm.record_factory(&other), Err(AskError::Recorded(_))));
        for command in [tpm::write_factory(&other), tpm::define_factory()] {
            assert!(matches!(tpm.ask(&command, tpm::done), Err(AskError::Answer { .. })), "the TPM itself refuses");
        }
        assert_eq!(tpm.factory().unwrap(), Some(ours));
    }

    #[test]
    fn a_power_cut_between_the_commands_of_the_factory_step_is_made_good_by_the_next() {
        let digest = Digest::of(b"ours");
        let steps = [tpm::define_factory(), tpm::write_factory(&digest), tpm::lock_factory()];
        for done in 0..=steps.len() {
            let mut software = Software::start();
            for step in &steps[..done] {
                open(&software).ask(step, tpm::done).unwrap();
            }
            software.restart();
            assert_eq!(open(&software).factory().unwrap(), (done == steps.len()).then_some(digest));
            open(&software).record_factory(&digest).unwrap();
            assert_eq!(open(&software).factory().unwrap(), Some(digest), "after {done} steps");
        }
    }
}
