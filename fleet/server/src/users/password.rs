//! Passwords: Argon2id with bounded cost, a few at a time, away from the threads that answer requests.

use std::sync::Arc;

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
};
use zeroize::Zeroizing;

use crate::{Random, random::RandomError};

/// Memory in KiB, passes and lanes: the second choice of OWASP's recommendations, 19 MiB a password.
const COST: (u32, u32, u32) = (19 * 1024, 2, 1);
/// A stored hash with more memory or more passes is none of ours, and must not use up the machine.
const MOST: (u32, u32, u32) = (64 * 1024, 8, 4);
/// Passwords that are worked on at the same time.
const AT_ONCE: usize = 2;
/// Passwords that may wait for their turn; one more is turned away.
const WAITING: usize = 32;

const LEAST_CHARACTERS: usize = 12;
const MOST_BYTES: usize = 256;
/// A name of fewer characters may well be a part of a good password.
const LEAST_NAME: usize = 4;

/// What is wrong with a password that somebody chooses.
pub(crate) fn fault(password: &str, name: &str) -> Option<String> {
    let name = name.split('@').next().unwrap_or(name);
    if password.chars().count() < LEAST_CHARACTERS {
        Some(format!("a password has at least {LEAST_CHARACTERS} characters"))
    } else if password.len() > MOST_BYTES {
        Some(format!("a password has at most {MOST_BYTES} bytes"))
    } else if name.len() >= LEAST_NAME && password.to_lowercase().contains(name) {
        Some("the password has the name in it".to_owned())
    } else {
        None
    }
}

/// Why a password could not be worked on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PasswordError {
    /// Too many others wait.
    #[error("too many passwords are waiting to be compared")]
    Busy,
    /// The hash could not be made.
    #[error("cannot hash a password: {0}")]
    Hash(argon2::password_hash::Error),
    /// The cost is not one that Argon2 knows.
    #[error("cannot set the cost of hashing a password: {0}")]
    Cost(argon2::Error),
    /// There is no salt.
    #[error("cannot make a salt")]
    Random(#[from] RandomError),
    /// The work was cut off.
    #[error("hashing a password was cut off")]
    CutOff(#[from] tokio::task::JoinError),
}

/// Where passwords are worked on. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Passwords {
    turns: Arc<Semaphore>,
    places: Arc<Semaphore>,
}

/// A turn to work on one password.
#[derive(Debug)]
pub(crate) struct Turn {
    _turn: OwnedSemaphorePermit,
    _place: OwnedSemaphorePermit,
}

impl Passwords {
    pub(crate) fn new() -> Self {
        Self { turns: Arc::new(Semaphore::new(AT_ONCE)), places: Arc::new(Semaphore::new(AT_ONCE + WAITING)) }
    }

    /// Waits for a turn, unless too many wait already.
    pub(crate) async fn turn(&self) -> Result<Turn, PasswordError> {
        let place = self.places.clone().try_acquire_owned().map_err(|_| PasswordError::Busy)?;
        let turn = self.turns.clone().acquire_owned().await.map_err(|_| PasswordError::Busy)?;
        Ok(Turn { _turn: turn, _place: place })
    }
}

impl Turn {
    /// The hash of a new password, in the PHC form. The turn ends with the work, even if nobody waits for it any more.
    pub(crate) async fn hash(self, password: Zeroizing<String>, random: &Random) -> Result<String, PasswordError> {
        let salt = random.bytes::<16>()?;
        spawn_blocking(move || {
            let _turn = self;
            let made = hasher()?.hash_password_with_salt(password.as_bytes(), &salt);
            made.map(|hash| hash.to_string()).map_err(PasswordError::Hash)
        })
        .await?
    }

    /// Whether the password has this hash. Without a hash it has not, and the answer takes as long.
    pub(crate) async fn matches(
        self,
        password: Zeroizing<String>,
        stored: Option<String>,
    ) -> Result<bool, PasswordError> {
        spawn_blocking(move || {
            let _turn = self;
            match stored {
                Some(stored) => compare(&password, &stored),
                None => {
                    let salt = b"nobody has this.";
                    hasher()?.hash_password_with_salt(password.as_bytes(), salt).map_err(PasswordError::Hash)?;
                    Ok(false)
                }
            }
        })
        .await?
    }
}

fn hasher() -> Result<Argon2<'static>, PasswordError> {
    let (memory, passes, lanes) = COST;
    let params = Params::new(memory, passes, lanes, None).map_err(PasswordError::Cost)?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

fn compare(password: &str, stored: &str) -> Result<bool, PasswordError> {
    let hash =
        PasswordHash::new(stored).map_err(|_| PasswordError::Hash(argon2::password_hash::Error::EncodingInvalid))?;
    let params = Params::try_from(&hash).map_err(PasswordError::Hash)?;
    let (memory, passes, lanes) = MOST;
    if params.m_cost() > memory || params.t_cost() > passes || params.p_cost() > lanes {
        return Err(PasswordError::Hash(argon2::password_hash::Error::ParamsInvalid));
    }
    match Argon2::default().verify_password(password.as_bytes(), &hash) {
        Ok(()) => Ok(true),
        Err(argon2::password_hash::Error::PasswordInvalid) => Ok(false),
        Err(error) => Err(PasswordError::Hash(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Zeroizing<String> {
        Zeroizing::new(text.to_owned())
    }

    #[tokio::test]
    async fn only_the_password_itself_matches_and_no_two_hashes_are_the_same() {
        let passwords = Passwords::new();
        let random = Random::system();
        let hash = async || passwords.turn().await.unwrap().hash(secret("correct horse"), &random).await.unwrap();
        let stored = hash().await;
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
        assert_ne!(hash().await, stored);
        let matches =
            async |text: &str, stored| passwords.turn().await.unwrap().matches(secret(text), stored).await.unwrap();
        assert!(matches("correct horse", Some(stored.clone())).await);
        assert!(!matches("correct horsf", Some(stored)).await);
        assert!(!matches("correct horse", None).await);
    }

    #[test]
    fn a_hash_that_would_use_up_the_machine_is_refused_before_any_work() {
        let salt = "c29tZSBzYWx0IGhlcmU";
        let output = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY";
        for cost in ["m=4194304,t=2,p=1", "m=19456,t=1000000,p=1", "m=19456,t=2,p=200"] {
            assert!(compare("x", &format!("$argon2id$v=19${cost}${salt}${output}")).is_err(), "{cost}");
        }
        assert!(compare("x", "").is_err() && compare("x", "$argon2id$").is_err());
        assert!(!compare("x", &format!("$argon2id$v=19$m=64,t=1,p=1${salt}${output}")).unwrap());
    }

    #[tokio::test]
    async fn when_too_many_wait_one_more_is_turned_away_at_once() {
        let passwords = Passwords::new();
        let held = [passwords.turn().await.unwrap(), passwords.turn().await.unwrap()];
        let waiting: Vec<_> = (0..WAITING)
            .map(|_| {
                let passwords = passwords.clone();
                tokio::spawn(async move { passwords.turn().await.map(drop) })
            })
            .collect();
        while passwords.places.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(matches!(passwords.turn().await, Err(PasswordError::Busy)));
        drop(held);
        for waiting in waiting {
            waiting.await.unwrap().unwrap();
        }
        passwords.turn().await.unwrap();
    }

    #[test]
    fn a_new_password_is_long_enough_not_too_long_and_without_the_name() {
        assert_eq!(fault("correct horse battery", "anna"), None);
        assert_eq!(fault("twelve chars", "ann"), None);
        for wrong in ["eleven char", "my ANNA is the best", &"x".repeat(257)] {
            assert!(fault(wrong, "anna@example.com").is_some(), "{wrong}");
        }
    }
}
