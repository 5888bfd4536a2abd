//! Turns the lockout of the TPM behind a token off. Never sends another command: all else goes through the token.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::OwnedFd,
        unix::{fs::FileTypeExt, net::UnixStream},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use protocol_types::tpm::{self, TpmError};

/// How long a TPM in software may take; the kernel limits one in hardware itself.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// A TPM whose lockout cannot be turned off.
#[derive(Debug, thiserror::Error)]
pub enum LockoutError {
    /// It cannot be spoken to.
    #[error("cannot speak to {}", path.display())]
    Speak {
        /// Its device or socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It refused.
    #[error("{} does not let its lockout be turned off", path.display())]
    Refused {
        /// Its device or socket.
        path: PathBuf,
        /// Its answer.
        source: TpmError,
    },
}

/// Lets the TPM at `path`, a device or the socket of one in software, never lock out.
///
/// The token's PIN is 128 random bits, so nothing is left to guess; but a TPM counts every cut of power after a use of the key as
/// a guess, and three of them, on some, lock the device out of its own key (`docs/decisions/0008-where-the-device-key-lives.md`).
pub(super) fn turn_off(path: &Path) -> Result<(), LockoutError> {
    let answer = ask(path, &tpm::lockout::never_lock_out())
        .map_err(|source| LockoutError::Speak { path: path.to_owned(), source })?;
    tpm::done(&answer).map_err(|source| LockoutError::Refused { path: path.to_owned(), source })
}

fn ask(path: &Path, command: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = if fs::metadata(path)?.file_type().is_socket() {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        File::from(OwnedFd::from(stream))
    } else {
        OpenOptions::new().read(true).write(true).open(path)?
    };
    stream.write_all(command)?;
    // Both give so short an answer at once.
    let mut answer = vec![0; tpm::MAX_ANSWER];
    let length = stream.read(&mut answer)?;
    answer.truncate(length);
    Ok(answer)
}
