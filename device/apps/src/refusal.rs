//! Turns an error and its causes into the one sentence and stable code that other processes see. Never decides anything.

use std::error::Error;

use protocol_types::{Reason, ReasonCode};

/// An error that knows the stable code it is reported under.
pub trait Coded: Error {
    /// The code for programs; the sentence comes from the error itself.
    fn code(&self) -> ReasonCode;
}

/// The reason that is reported for `error`: its code, and its message followed by those of its causes.
pub fn reason(error: &(impl Coded + 'static)) -> Reason {
    Reason::new(error.code(), sentence(error))
}

/// The message of `error` and of each of its causes, separated by colons.
pub fn sentence(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// The code for a failed write or read: a full disk is not a broken one.
pub fn storage_code(error: &std::io::Error) -> ReasonCode {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    match error.kind() {
        StorageFull | QuotaExceeded | FileTooLarge => ReasonCode::NoRoom,
        _ => ReasonCode::StorageFailed,
    }
}
