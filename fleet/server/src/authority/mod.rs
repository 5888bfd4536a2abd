//! The keys that the service owns: who they belong to, how long they last, and what each may sign. Never opens a socket.
//!
//! | Key | Signs | Lives | Kept in |
//! |---|---|---|---|
//! | service authority | certificates of the service's own ports | 20 years, for it stands in factory documents | `authority/service.pem` |
//! | server key | nothing; proves a port to a client | 90 days, replaced after 60 | memory alone |
//! | issuing authority, one an account | operational certificates | 3 years, a successor takes over 90 days before the end | `authority/issuing/ACCOUNT/N.pem` |
//! | time key | nonce-bound time | as long as the service authority | `authority/time.pem` |
//!
//! None of them can sign a release.

mod certificate;
mod issuing;
mod key_file;
mod request;
mod sealing_key;
mod service;
mod time_key;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use protocol_types::UnixSeconds;

pub use certificate::{CertificateFacts, DeviceIdentity, SubjectError};
pub use issuing::{IssueError, IssuedCertificate, IssuingAuthorities};
pub use request::{CertificateRequest, RequestError};
pub use sealing_key::{NotSealedHere, SealingKey};
pub use service::{ServerCertificate, ServiceAuthority};
pub use time_key::TimeKey;

/// How long each kind of certificate is valid, and when its successor is made.
pub mod lifetime {
    use std::time::Duration;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    /// Certificates begin this much in the past, for clients whose clocks are late.
    pub const BACKDATED: Duration = Duration::from_secs(60 * 60);
    /// The service authority.
    pub const SERVICE_AUTHORITY: Duration = DAY.saturating_mul(20 * 365);
    /// A certificate of one of the service's ports.
    pub const SERVER: Duration = DAY.saturating_mul(90);
    /// Age at which a port gets its next certificate.
    pub const SERVER_RENEWAL: Duration = DAY.saturating_mul(60);
    /// An account's issuing authority.
    pub const ISSUING_AUTHORITY: Duration = DAY.saturating_mul(3 * 365);
    /// What must be left of an issuing authority for it to sign: three times what it signs for.
    pub const ISSUING_MARGIN: Duration = DAY.saturating_mul(90);
    /// An operational certificate.
    pub const OPERATIONAL: Duration = DAY.saturating_mul(30);
}

/// A key or certificate that cannot be made, read or kept.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The file system refused.
    #[error("cannot {action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file is there but does not hold one key and its certificate.
    #[error("{path} does not hold {expected}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
    },
    /// Making a key or signing a certificate failed.
    #[error("cannot make {what}")]
    Make {
        /// What was to be made.
        what: &'static str,
        /// Why not.
        source: rcgen::Error,
    },
    /// The system gave no random numbers.
    #[error("cannot draw random numbers")]
    Random(#[source] getrandom::Error),
    /// A time that a certificate cannot express.
    #[error("{0} is no time that a certificate can hold")]
    Time(UnixSeconds),
    /// The time key could not sign.
    #[error("cannot sign with the time key")]
    Sign,
    /// The sealing key could not seal.
    #[error("cannot encrypt with the sealing key")]
    Seal,
}

/// Every key of the service, opened once at start.
#[derive(Debug)]
pub struct Authority {
    /// Signs the certificates of the service's ports.
    pub service: ServiceAuthority,
    /// Sign the operational certificates of each account.
    pub issuing: IssuingAuthorities,
    /// Signs nonce-bound time.
    pub time: TimeKey,
    /// Seals what lies in the database and must not be read there.
    pub sealing: SealingKey,
}

impl Authority {
    /// Opens the keys in `data_dir`, making those that are missing, and publishes `service-authority.pem` and `time-key.pem` there.
    pub fn open(data_dir: &Path, now: UnixSeconds) -> Result<Self, AuthorityError> {
        let folder = data_dir.join("authority");
        key_file::private_folder(&folder)?;
        let service = ServiceAuthority::open(&folder.join("service.pem"), now)?;
        let issuing = IssuingAuthorities::open(&folder.join("issuing"))?;
        let time = TimeKey::open(&folder.join("time.pem"))?;
        let sealing = SealingKey::open(&folder.join("sealing.key"))?;
        key_file::publish(&data_dir.join("service-authority.pem"), service.certificate_pem())?;
        key_file::publish(&data_dir.join("time-key.pem"), &time.public_key_pem())?;
        Ok(Self { service, issuing, time, sealing })
    }
}

/// 16 random bytes as a positive serial number (RFC 5280, section 4.1.2.2).
fn serial_number() -> Result<rcgen::SerialNumber, AuthorityError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(AuthorityError::Random)?;
    // A leading one bit would make it negative, a leading zero byte would give the number two spellings.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(rcgen::SerialNumber::from_slice(&bytes))
}

/// Validity from shortly before `now` until `lifetime` after it.
fn set_validity(
    params: &mut rcgen::CertificateParams,
    now: UnixSeconds,
    lifetime: Duration,
) -> Result<UnixSeconds, AuthorityError> {
    let not_after = now.plus(lifetime);
    params.not_before = date(UnixSeconds(now.0.saturating_sub(lifetime::BACKDATED.as_secs())))?;
    params.not_after = date(not_after)?;
    Ok(not_after)
}

fn date(at: UnixSeconds) -> Result<time::OffsetDateTime, AuthorityError> {
    let seconds = i64::try_from(at.0).map_err(|_| AuthorityError::Time(at))?;
    time::OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| AuthorityError::Time(at))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::Index};

    /// What a parser meets: `good` with one to five of its bytes changed, and bytes that were never anything.
    pub(super) fn changed_or_garbage(good: Vec<u8>) -> impl Strategy<Value = [Vec<u8>; 2]> {
        let changes = vec((any::<Index>(), any::<u8>()), 1..6);
        (changes, vec(any::<u8>(), 0..100)).prop_map(move |(changes, garbage)| {
            let mut changed = good.clone();
            for (at, byte) in changes {
                let at = at.index(changed.len());
                changed[at] = byte;
            }
            [changed, garbage]
        })
    }
}
