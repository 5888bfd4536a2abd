//! One session with one trusted application: one command, one answer. Never knows what they mean.

use std::{
    fs::{File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use zeroize::Zeroize as _;

use crate::{
    message::{COUNT, Code, Invoke, LOGIN_USER, OpenSession, Shape, Uuid, WORDS, parameters, words},
    sys,
};

/// A TEE that did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum TeeError {
    /// Its driver cannot be used.
    #[error("cannot ask {} to {what}", device.display())]
    Driver {
        /// The driver's device.
        device: PathBuf,
        /// What was asked for.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// It refused.
    #[error("the key store in the TEE did not {what}: {code}")]
    Refused {
        /// What was asked for.
        what: &'static str,
        /// Its result.
        code: Code,
    },
    /// It answered with what is no answer.
    #[error("the key store in the TEE gave a malformed answer when it was asked to {0}")]
    Malformed(&'static str),
    /// There is no record of this device in it: a new device, or one whose storage was lost.
    #[error("the key store in the TEE has no record of this device")]
    NoRecord,
    /// It holds the digest of another factory document, for good.
    #[error("the key store in the TEE holds the digest of another factory document")]
    Recorded,
}

/// An open session. The driver closes it with the device, but applications may keep count, so dropping it closes it.
#[derive(Debug)]
pub(crate) struct Session {
    file: File,
    device: PathBuf,
    number: u32,
}

impl Session {
    /// Opens a session as the user of this process.
    pub(crate) fn open(device: &Path, application: Uuid) -> Result<Self, TeeError> {
        const WHAT: &str = "open a session";
        let driver = |source| TeeError::Driver { device: device.to_owned(), what: WHAT, source };
        let file = OpenOptions::new().read(true).write(true).open(device).map_err(driver)?;
        let mut call = OpenSession { application, login: LOGIN_USER, count: COUNT, ..OpenSession::default() };
        sys::open_session(&file, &mut call).map_err(driver)?;
        match call.result {
            0 => Ok(Self { file, device: device.to_owned(), number: call.session }),
            code => Err(TeeError::Refused { what: WHAT, code: Code(code) }),
        }
    }

    /// Has a command done; returns the words of the answer.
    pub(crate) fn invoke(&self, what: &'static str, command: u32, shape: Shape) -> Result<[u32; WORDS], TeeError> {
        let mut call =
            Invoke { command, session: self.number, count: COUNT, parameters: parameters(shape), ..Invoke::default() };
        sys::invoke(&self.file, &mut call).map_err(|source| TeeError::Driver {
            device: self.device.clone(),
            what,
            source,
        })?;
        let answer = match call.result {
            0 => words(&call.parameters).ok_or(TeeError::Malformed(what)),
            code => Err(TeeError::Refused { what, code: Code(code) }),
        };
        // It may be a secret.
        for parameter in &mut call.parameters {
            parameter.a.zeroize();
            parameter.b.zeroize();
        }
        answer
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Nothing can be told from a destructor, and the driver closes what is left when the device is.
        drop(sys::close_session(&self.file, self.number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_tee_is_told_by_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Session::open(file.path(), [0; 16]).unwrap_err();
        assert!(matches!(&error, TeeError::Driver { device, .. } if device == file.path()), "{error}");
    }
}
