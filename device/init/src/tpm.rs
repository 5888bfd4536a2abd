//! Asks a TPM for the floor, and measures the phases of the boot into it. Never decides what follows.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    path::Path,
};

use protocol_types::{
    Digest, SecurityVersion,
    tpm::{self, FactoryIndex, FloorIndex, TpmError},
};

/// The TPM's device, behind the kernel's resource manager.
pub const TPM_DEVICE: &str = "/dev/tpmrm0";
/// The register of the boot phases, beside the image's own parts that its stub has measured there.
const PHASES: u8 = 11;

/// A TPM that did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The device cannot be used.
    #[error("cannot ask {TPM_DEVICE} to {what}")]
    Device {
        /// What was asked for.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It answered, but not as it should.
    #[error("{TPM_DEVICE} did not {what}")]
    Answer {
        /// What was asked for.
        what: &'static str,
        /// The answer.
        source: TpmError,
    },
}

/// A point of the boot that is measured, so that a key sealed before it cannot be had after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Before the state is unlocked.
    EnterInitrd,
    /// Before the system is started, which therefore cannot unseal the state's key again.
    LeaveInitrd,
}

impl Phase {
    /// The word that is measured: systemd's own for this point, so that its tools can sign for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::EnterInitrd => "enter-initrd",
            Self::LeaveInitrd => "leave-initrd",
        }
    }
}

/// A TPM 2.0 that was opened.
#[derive(Debug)]
pub struct Tpm<D = File>(D);

impl Tpm {
    /// Opens the TPM.
    ///
    /// # Errors
    /// If there is none.
    pub fn open(device: &Path) -> Result<Self, AskError> {
        let opened = OpenOptions::new().read(true).write(true).open(device);
        opened.map(Self).map_err(|source| AskError::Device { what: "open itself", source })
    }
}

impl<D: Read + Write> Tpm<D> {
    /// The TPM behind a stream that gives one whole answer a read.
    pub const fn behind(stream: D) -> Self {
        Self(stream)
    }

    /// The floor; 0 if it was never raised.
    ///
    /// # Errors
    /// If the TPM does not answer, or the index is not one that can only rise.
    pub fn floor(&mut self) -> Result<SecurityVersion, AskError> {
        const WHAT: &str = "tell the floor";
        let answer = |source| AskError::Answer { what: WHAT, source };
        match tpm::about_floor(&self.ask(WHAT, &tpm::ask_about_floor())?).map_err(answer)? {
            FloorIndex::Missing => Ok(SecurityVersion(0)),
            FloorIndex::Ours => tpm::floor(&self.ask(WHAT, &tpm::ask_floor())?).map_err(answer),
        }
    }

    /// The digest of the factory document, once nobody can write it again.
    ///
    /// # Errors
    /// If the TPM does not answer, or the index is not one of ours.
    pub fn factory_digest(&mut self) -> Result<Option<Digest>, AskError> {
        const WHAT: &str = "tell the digest of the factory document";
        let answer = |source| AskError::Answer { what: WHAT, source };
        match tpm::about_factory(&self.ask(WHAT, &tpm::ask_about_factory())?).map_err(answer)? {
            FactoryIndex::Missing | FactoryIndex::Empty | FactoryIndex::Open => Ok(None),
            FactoryIndex::Locked => tpm::factory(&self.ask(WHAT, &tpm::ask_factory())?).map(Some).map_err(answer),
        }
    }

    /// Measures that a phase of the boot begins or ends.
    ///
    /// # Errors
    /// If the TPM does not.
    pub fn measure(&mut self, phase: Phase) -> Result<(), AskError> {
        const WHAT: &str = "measure the phase of the boot";
        let answer = self.ask(WHAT, &tpm::measure(PHASES, phase.word()))?;
        tpm::done(&answer).map_err(|source| AskError::Answer { what: WHAT, source })
    }

    /// One command, one answer: the device file keeps them apart.
    ///
    /// # Errors
    /// If the device cannot be written or read.
    pub fn ask(&mut self, what: &'static str, command: &[u8]) -> Result<Vec<u8>, AskError> {
        let device = |source| AskError::Device { what, source };
        self.0.write_all(command).map_err(device)?;
        let mut answer = vec![0; tpm::MAX_ANSWER];
        let length = self.0.read(&mut answer).map_err(device)?;
        answer.truncate(length);
        Ok(answer)
    }
}
