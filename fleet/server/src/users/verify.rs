//! Finds out whether somebody is the user whom they say they are.

use fleet_store::{AccountScope, Credentials, Locked, PrincipalKind, PrincipalName, SecondFactor, StoreError};
use protocol_types::{AccountName, Digest, UnixSeconds};
use zeroize::Zeroizing;

use super::{PasswordError, RecoveryCode, TotpSecret, backoff};
use crate::{authority::NotSealedHere, fleet::Fleet};

/// What somebody shows.
pub(crate) struct Shown {
    /// The name of the user.
    pub(crate) name: String,
    pub(crate) password: Zeroizing<String>,
    /// The code of the authenticator, or a recovery code.
    pub(crate) code: Zeroizing<String>,
}

/// Somebody who has shown the password and a second factor, which is not used up yet.
#[derive(Debug)]
pub(crate) struct Verified {
    pub(crate) who: PrincipalName,
    /// What it was compared with.
    pub(crate) known: Credentials,
    pub(crate) factor: SecondFactor,
}

/// Why somebody is not taken for the user.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotVerified {
    /// Something is not right; which one is told to nobody. The user, if there is one.
    #[error("account, name, password or code is not right")]
    Wrong(Option<PrincipalName>),
    /// Too many tries have failed.
    #[error("too many tries have failed; the next one may come in {seconds} s")]
    Locked {
        /// Seconds to wait.
        seconds: u64,
    },
    #[error("cannot compare a password")]
    Password(#[from] PasswordError),
    #[error("cannot read what the authenticator holds")]
    Sealed(#[from] NotSealedHere),
    #[error("cannot look for the user")]
    Store(#[from] StoreError),
}

/// For what a secret of an authenticator is sealed.
pub(crate) fn sealed_for(account: &AccountName, name: &str) -> String {
    format!("totp {account}/{name}")
}

/// For what the secret of an invitation is sealed as long as its letter waits.
pub(crate) fn letter_sealed_for(account: &AccountName, name: &str) -> String {
    format!("invitation {account}/{name}")
}

/// Under what tries for a user are counted, whether or not there is one.
pub(crate) fn subject(account: &AccountName, name: &str) -> Digest {
    Digest::of(format!("mbl-sign-in\n{account}/{name}").as_bytes())
}

/// Compares what somebody shows with what the user has set. The try counts until it is told otherwise with `end_tries`.
pub(crate) async fn verify(
    fleet: &Fleet,
    account: &AccountScope,
    shown: Shown,
    now: UnixSeconds,
) -> Result<Verified, NotVerified> {
    let Shown { name, password, code } = shown;
    let turn = fleet.passwords.turn().await?;
    let subject = subject(account.name(), &name);
    if let Err(Locked { until }) = fleet.store.service_wide().begin_try(&subject, backoff::wait_s, now).await? {
        return Err(NotVerified::Locked { seconds: until.0.saturating_sub(now.0).max(1) });
    }
    // A name that breaks the rules is that of nobody.
    let who = PrincipalName::new(PrincipalKind::User, &name).ok();
    let known = match &who {
        Some(who) => account.credentials(who).await?,
        None => None,
    };
    let matches = turn.matches(password, known.as_ref().map(|known| known.password.clone())).await?;
    let (Some(who), Some(known)) = (who, known) else { return Err(NotVerified::Wrong(None)) };
    let secret = TotpSecret::of(fleet.authority.sealing.unseal(&sealed_for(account.name(), &name), &known.totp)?);
    match factor(&secret, (account.name(), &name), &code, now) {
        Some(factor) if matches => Ok(Verified { who, known, factor }),
        Some(_) | None => Err(NotVerified::Wrong(Some(who))),
    }
}

fn factor(
    secret: &TotpSecret,
    (account, name): (&AccountName, &str),
    code: &str,
    now: UnixSeconds,
) -> Option<SecondFactor> {
    let code = code.trim();
    secret
        .step_of(code, now)
        .map(SecondFactor::Code)
        .or_else(|| RecoveryCode::parse(code).map(|code| SecondFactor::Recovery(code.hash(account, name))))
}
