//! The floor in a TPM that others wrote: `swtpm`, which answers as the specification says. Needs Debian's `swtpm`.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what a test is built from must be there, or it stops at once"
)]

use std::{
    io::{Read, Write},
    os::{fd::AsRawFd, unix::net::UnixStream},
    process::{Child, Command},
};

use device_init::tpm::{AskError, Phase, Tpm};
use protocol_types::{
    SecurityVersion,
    tpm::{self, TpmError},
};
use rustix::io::{FdFlags, fcntl_setfd};
use tempfile::TempDir;

/// A TPM for one test; it ends with its connection.
struct Emulated {
    process: Child,
    tpm: Tpm<UnixStream>,
}

impl Emulated {
    fn start(state: &TempDir) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        // It takes its connection by number, but not as standard input.
        fcntl_setfd(&theirs, FdFlags::empty()).unwrap();
        let process = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "startup-clear", "--fd"])
            .arg(theirs.as_raw_fd().to_string())
            .arg("--tpmstate")
            .arg(format!("dir={}", state.path().display()))
            .spawn()
            .expect("swtpm starts");
        Self { process, tpm: Tpm::behind(ours) }
    }

    fn does(&mut self, command: &[u8]) -> Result<(), TpmError> {
        tpm::done(&self.tpm.ask("do", command).unwrap())
    }

    fn raise(&mut self, floor: u32) {
        let command = tpm::raise_floor(SecurityVersion(floor)).unwrap();
        self.does(&command).unwrap();
    }

    fn floor(&mut self) -> u32 {
        self.tpm.floor().unwrap().0
    }

    /// Cuts the connection, at which the TPM ends; what it has promised to keep is in its folder.
    fn stop(self) {
        let Self { mut process, tpm } = self;
        drop(tpm);
        process.wait().unwrap();
    }
}

#[test]
fn the_floor_only_rises_and_outlives_a_restart() {
    let state = tempfile::tempdir().unwrap();
    let mut tpm = Emulated::start(&state);
    assert_eq!(tpm.floor(), 0, "there is no index yet");
    tpm.does(&tpm::define_floor()).unwrap();
    assert_eq!(tpm.floor(), 0, "the index was never written");
    tpm.raise(5);
    tpm.raise(3);
    tpm.raise(0);
    assert_eq!(tpm.floor(), 5);
    tpm.stop();
    let mut tpm = Emulated::start(&state);
    assert_eq!(tpm.floor(), 5);
    tpm.raise(64);
    assert_eq!(tpm.floor(), 64);
    tpm.stop();
}

#[test]
fn an_index_that_could_be_lowered_is_refused() {
    let state = tempfile::tempdir().unwrap();
    let mut tpm = Emulated::start(&state);
    let mut ordinary = tpm::define_floor();
    let attributes = ordinary.len() - 8..ordinary.len() - 4;
    ordinary[attributes].copy_from_slice(&0x0204_0004_u32.to_be_bytes());
    tpm.does(&ordinary).unwrap();
    assert!(matches!(
        tpm.tpm.floor(),
        Err(AskError::Answer { source: TpmError::Foreign { index: _, attributes: 0x0204_0004 }, .. })
    ));
    tpm.stop();
}

#[test]
fn a_phase_of_the_boot_is_measured_as_the_digest_of_its_word() {
    let state = tempfile::tempdir().unwrap();
    let mut tpm = Emulated::start(&state);
    tpm.tpm.measure(Phase::EnterInitrd).unwrap();
    // TPM2_PCR_Read of register 11 in the SHA-256 bank.
    let read = hex::decode("8001000000140000017e00000001000b03000800").unwrap();
    let answer = tpm.tpm.ask("read a register", &read).unwrap();
    let word = protocol_types::Digest::of(b"enter-initrd");
    let mut extended = [0; 64];
    extended[32..].copy_from_slice(word.as_bytes());
    assert_eq!(answer[answer.len() - 32..], *protocol_types::Digest::of(&extended).as_bytes());
    tpm.stop();
}

#[test]
fn a_tpm_that_hangs_up_is_an_error_and_not_a_floor_of_zero() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let ended = std::thread::spawn(move || {
        let mut command = [0; 64];
        let _ = theirs.read(&mut command).unwrap();
        theirs.flush().unwrap();
    });
    assert!(Tpm::behind(ours).floor().is_err());
    ended.join().unwrap();
}
