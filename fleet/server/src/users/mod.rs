//! How people show who they are: a password and the code of an authenticator.
//!
//! - `password`: hashes and compares passwords, a few at a time and never on the threads that answer requests
//! - `totp`: the codes of authenticators (RFC 6238); `recovery`: codes that each stand once for one; `typed_code`: their form
//! - `backoff`: how long tries that fail lock; `verify`: brings all of it together
//!
//! An answer never tells whether there is such a user: a try for nobody costs as much, counts as much and is refused in the same words.

mod backoff;
mod password;
mod recovery;
mod totp;
mod typed_code;
mod verify;

pub(crate) use password::{PasswordError, Passwords, fault};
pub(crate) use recovery::RecoveryCode;
pub(crate) use totp::TotpSecret;
pub(crate) use typed_code::TypedCode;
pub(crate) use verify::{NotVerified, Shown, letter_sealed_for, sealed_for, subject, verify};
