//! A PKCS#11 token of a TPM or TEE. The device key is born in it and cannot be taken out; the digest of the factory document is a
//! private object beside it. Never holds private key bytes.
//!
//! Calls block for as long as a TPM signs, a fraction of a second, and a connection or a certificate request needs one signature.
//! rustls asks for it in the middle of a handshake and cannot wait for another thread, so the agent's loop stands still that long.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use aws_lc_rs::digest::{SHA256, digest};
use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error as CallError, RvError},
    mechanism::Mechanism,
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::{Session, UserType},
    slot::Slot,
    types::AuthPin,
};
use protocol_types::Digest;
use zeroize::Zeroizing;

use super::{
    ecdsa::{P256, der_signature, point},
    lockout::{self, LockoutError},
    store_copy::StoreCopy,
    token_key::{KeyId, OPERATIONAL_LABEL, TokenKey, Which},
};
use crate::{
    cause::Chain,
    config::TokenConfig,
    durable::{self, DurableError},
    random,
};

/// What the recorded digest is called in the token.
const DIGEST_LABEL: &str = "factory.sha256";

/// A token that does not do what it is asked.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The library cannot be loaded or started.
    #[error("cannot start the PKCS#11 library {}", path.display())]
    Library {
        /// The library.
        path: PathBuf,
        /// Why not.
        source: CallError,
    },
    /// The library knows no such token.
    #[error("{} knows no token called `{token}`", path.display())]
    Missing {
        /// The library.
        path: PathBuf,
        /// The token's label.
        token: String,
    },
    /// The library has no token that could be made ready.
    #[error("{} has no blank token", .0.display())]
    NoBlank(PathBuf),
    /// A call failed.
    #[error("cannot {doing} in token `{token}`")]
    Call {
        /// What was tried.
        doing: &'static str,
        /// The token's label.
        token: String,
        /// What it answered.
        source: CallError,
    },
    /// What is in the token is not what this agent puts there.
    #[error("token `{token}` {what}")]
    Content {
        /// The token's label.
        token: String,
        /// What is wrong.
        what: &'static str,
    },
    /// The copy of the store cannot be made.
    #[error("cannot keep a copy of the store of the token")]
    Copy(#[source] DurableError),
    /// The PIN cannot be read or written.
    #[error("cannot use the PIN of the token")]
    Pin(#[from] DurableError),
    /// There is no PIN.
    #[error("there is no PIN in {}", .0.display())]
    NoPin(PathBuf),
    /// The operating system gives no random bytes.
    #[error("there are no random bytes for a PIN or an id")]
    NoRandomness,
    /// The TPM behind the token would lock out.
    #[error("the TPM behind the token would lock the device out after cuts of power")]
    Lockout(#[from] LockoutError),
}

/// A token that is opened at its first use, and again after a failure.
#[derive(Clone)]
pub struct TokenStore(Arc<Token>);

struct Token {
    config: TokenConfig,
    copy: Option<StoreCopy>,
    /// A session serves one call at a time.
    open: Mutex<Option<Session>>,
}

impl std::fmt::Debug for TokenStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TokenStore").field(&self.0.config).finish()
    }
}

impl TokenStore {
    /// The token of these settings; `state` is the agent's own folder, where it keeps a copy of a store that does not last. Opens nothing yet.
    pub fn new(config: TokenConfig, state: &Path) -> Self {
        let copy = config.store.clone().map(|store| StoreCopy { store, kept: state.join("key-store.sqlite3") });
        Self(Arc::new(Token { config, copy, open: Mutex::new(None) }))
    }

    /// The copy of a store that does not last; none where the token keeps its keys itself.
    pub(super) fn copy(&self) -> Option<&StoreCopy> {
        self.0.copy.as_ref()
    }

    /// Makes a blank token ready: label and PIN. Goes on where a cut of power ended an earlier try.
    pub(super) fn prepare(&self) -> Result<(), TokenError> {
        let TokenConfig { tpm, token, module, .. } = &self.0.config;
        if let Some(tpm) = tpm {
            lockout::turn_off(tpm)?;
        }
        // One PIN for the token's user and its officer, who can do nothing but set the user's: nobody else ever needs either.
        let pin = self.pin_or_new()?;
        let library = self.library()?;
        if self.slot(&library)?.is_none() {
            let slots = library.get_slots_with_token().map_err(self.call("list what is"))?;
            let is_blank = |slot: &Slot| library.get_token_info(*slot).is_ok_and(|info| !info.token_initialized());
            let blank = slots.into_iter().find(is_blank).ok_or_else(|| TokenError::NoBlank(module.clone()))?;
            library.init_token(blank, &pin, token).map_err(self.call("set the label"))?;
        }
        // Some libraries say that there is a user's PIN whenever there is a token; only a try tells.
        match self.log_in() {
            Err(TokenError::Call { source: CallError::Pkcs11(RvError::UserPinNotInitialized, _), .. }) => {}
            other => return other.map(drop),
        }
        let slot = self.slot(&library)?.ok_or_else(|| self.missing())?;
        let session = library.open_rw_session(slot).map_err(self.call("open a session"))?;
        session.login(UserType::So, Some(&pin)).map_err(self.call("log in as officer"))?;
        session.init_pin(&pin).map_err(self.call("set the PIN"))?;
        session.logout().map_err(self.call("log out"))
    }

    /// This key, or none if none was born yet.
    pub(super) fn key(&self, which: Which) -> Result<Option<TokenKey>, TokenError> {
        let read = |session: &Session| -> Result<_, CallError> {
            let (Some(private), Some(public)) =
                (find(session, ObjectClass::PRIVATE_KEY, which)?, find(session, ObjectClass::PUBLIC_KEY, which)?)
            else {
                return Ok(None);
            };
            let secrecy = session.get_attributes(private, &[AttributeType::Extractable, AttributeType::Sensitive])?;
            let public = session.get_attributes(public, &[AttributeType::EcParams, AttributeType::EcPoint])?;
            Ok(Some((secrecy, public)))
        };
        let Some((secrecy, public)) = self.with("find a key", read)? else { return Ok(None) };
        if !secrecy.contains(&Attribute::Extractable(false)) || !secrecy.contains(&Attribute::Sensitive(true)) {
            return Err(self.content("gives a key away"));
        }
        let found = public.iter().find_map(|attribute| match attribute {
            Attribute::EcPoint(der) => point(der),
            _ => None,
        });
        let on_p256 = public.contains(&Attribute::EcParams(P256.to_vec()));
        let point = found.filter(|_| on_p256).ok_or_else(|| self.content("has a key that is not on P-256"))?;
        Ok(Some(TokenKey { store: self.clone(), which, point }))
    }

    /// Makes a key for an operational certificate inside the token, where it outlives a loss of power.
    pub(super) fn create_operational_key(&self) -> Result<(TokenKey, KeyId), TokenError> {
        let mut id = [0; 16];
        if !random::fill(&mut id) {
            return Err(TokenError::NoRandomness);
        }
        let key = self.create_key(Which::Operational(KeyId(id)))?;
        self.keep_copy()?;
        Ok((key, KeyId(id)))
    }

    /// Removes every key of an operational certificate but `used`; how many objects went.
    pub(super) fn keep_only(&self, used: Option<KeyId>) -> Result<usize, TokenError> {
        let used = used.map(|KeyId(id)| Attribute::Id(id.to_vec()));
        let removed = self.with("remove the keys that are no longer used", |session| {
            let mut removed = 0;
            for class in [ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY] {
                let named = [Attribute::Class(class), Attribute::Label(OPERATIONAL_LABEL.into())];
                for object in session.find_objects(&named)? {
                    let id = session.get_attributes(object, &[AttributeType::Id])?;
                    if used.as_ref().is_none_or(|used| !id.contains(used)) {
                        session.destroy_object(object)?;
                        removed += 1;
                    }
                }
            }
            Ok(removed)
        })?;
        if removed > 0 {
            self.keep_copy()?;
        }
        Ok(removed)
    }

    fn keep_copy(&self) -> Result<(), TokenError> {
        // Nobody else has the store open, and between two calls nothing of it is half written.
        let _closed = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        self.copy().map_or(Ok(()), |copy| copy.keep().map_err(TokenError::Copy))
    }

    /// Makes a key inside the token.
    pub(super) fn create_key(&self, which: Which) -> Result<TokenKey, TokenError> {
        let own = || [&[Attribute::Token(true)], &which.named()[..]].concat();
        let public = [&own()[..], &[Attribute::EcParams(P256.to_vec()), Attribute::Verify(true)]].concat();
        let secret = [Attribute::Private(true), Attribute::Sensitive(true), Attribute::Extractable(false)];
        let private = [&own()[..], &secret, &[Attribute::Sign(true)]].concat();
        // A TPM has room for three keys at a time if nobody manages it, and the end of a session gives that room back.
        drop(self.0.open.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.with("make a key", |session| session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private))?;
        self.key(which)?.ok_or_else(|| self.content("lost the key that it made"))
    }

    /// The text that was recorded, or none.
    pub(super) fn accepted_document(&self) -> Result<Option<Vec<u8>>, TokenError> {
        let found = self.with("read the recorded digest", |session| {
            let objects = session.find_objects(&[
                Attribute::Class(ObjectClass::DATA),
                Attribute::Private(true),
                Attribute::Label(DIGEST_LABEL.into()),
            ])?;
            objects.into_iter().map(|object| session.get_attributes(object, &[AttributeType::Value])).collect()
        })?;
        let values: Vec<Vec<Attribute>> = found;
        match values.as_slice() {
            [] => Ok(None),
            [one] => match one.as_slice() {
                [Attribute::Value(text)] => Ok(Some(text.clone())),
                _ => Err(self.content("has a recorded digest without a value")),
            },
            _ => Err(self.content("has several recorded digests")),
        }
    }

    /// Records a digest; the object is encrypted with a key of the token, so nobody without the token can make such a one.
    pub(super) fn accept_document(&self, digest: Digest) -> Result<(), TokenError> {
        let object = [
            Attribute::Class(ObjectClass::DATA),
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Label(DIGEST_LABEL.into()),
            Attribute::Application(b"mbl-agent".to_vec()),
            Attribute::Value(digest.to_string().into_bytes()),
        ];
        self.with("record the digest", |session| session.create_object(&object).map(drop))
    }

    /// An ECDSA signature over a message, in DER.
    pub(super) fn sign(&self, which: Which, message: &[u8]) -> Result<Vec<u8>, TokenError> {
        let hash = digest(&SHA256, message);
        let sign = |session: &Session| {
            let key = find(session, ObjectClass::PRIVATE_KEY, which)?;
            key.map(|key| session.sign(&Mechanism::Ecdsa, key, hash.as_ref())).transpose()
        };
        // A session dies with the TPM's daemon or a restart of the TEE; the second try has a new one.
        let raw = self.with("sign", sign).or_else(|first| {
            tracing::warn!(error = %Chain(&first), "the token did not sign, trying once more");
            self.with("sign", sign)
        })?;
        let raw = raw.ok_or_else(|| self.content("has the key no more"))?;
        der_signature(&raw).ok_or_else(|| self.content("answered with a malformed signature"))
    }

    /// Runs `ask` in a session with the user logged in; a session in which something failed is not used again.
    fn with<T>(
        &self,
        doing: &'static str,
        ask: impl FnOnce(&Session) -> Result<T, CallError>,
    ) -> Result<T, TokenError> {
        let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        let ready = match open.take() {
            Some(ready) => ready,
            None => self.log_in()?,
        };
        let answer = ask(&ready).map_err(self.call(doing))?;
        *open = Some(ready);
        Ok(answer)
    }

    fn log_in(&self) -> Result<Session, TokenError> {
        let pin = self.pin()?.ok_or_else(|| TokenError::NoPin(self.0.config.pin_file.clone()))?;
        let library = self.library()?;
        let slot = self.slot(&library)?.ok_or_else(|| self.missing())?;
        let session = library.open_rw_session(slot).map_err(self.call("open a session"))?;
        match session.login(UserType::User, Some(&pin)) {
            Err(CallError::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {}
            other => other.map_err(self.call("log in"))?,
        }
        Ok(session)
    }

    fn library(&self) -> Result<Pkcs11, TokenError> {
        let path = &self.0.config.module;
        let failed = |source| TokenError::Library { path: path.clone(), source };
        let library = Pkcs11::new(path).map_err(failed)?;
        match library.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            // A library is started once a process.
            Err(CallError::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            other => other.map_err(failed)?,
        }
        Ok(library)
    }

    fn slot(&self, library: &Pkcs11) -> Result<Option<Slot>, TokenError> {
        let slots = library.get_slots_with_initialized_token().map_err(self.call("list what is"))?;
        let called = |slot: &Slot| library.get_token_info(*slot).is_ok_and(|info| info.label() == self.0.config.token);
        Ok(slots.into_iter().find(called))
    }

    fn pin(&self) -> Result<Option<AuthPin>, TokenError> {
        let Some(bytes) = durable::read(&self.0.config.pin_file, 256)?.map(Zeroizing::new) else { return Ok(None) };
        let text = std::str::from_utf8(&bytes).unwrap_or_default().trim_end();
        Ok(Some(AuthPin::from(text)).filter(|_| !text.is_empty()))
    }

    fn pin_or_new(&self) -> Result<AuthPin, TokenError> {
        if let Some(pin) = self.pin()? {
            return Ok(pin);
        }
        let mut bytes = Zeroizing::new([0; 16]);
        if !random::fill(bytes.as_mut_slice()) {
            return Err(TokenError::NoRandomness);
        }
        let text = Zeroizing::new(data_encoding::HEXLOWER.encode(bytes.as_slice()));
        durable::replace(&self.0.config.pin_file, format!("{}\n", *text).as_bytes(), 0o600)?;
        Ok(AuthPin::from(text.as_str()))
    }

    fn call(&self, doing: &'static str) -> impl FnOnce(CallError) -> TokenError + '_ {
        move |source| TokenError::Call { doing, token: self.0.config.token.clone(), source }
    }

    fn missing(&self) -> TokenError {
        TokenError::Missing { path: self.0.config.module.clone(), token: self.0.config.token.clone() }
    }

    fn content(&self, what: &'static str) -> TokenError {
        TokenError::Content { token: self.0.config.token.clone(), what }
    }
}

fn find(session: &Session, class: ObjectClass, which: Which) -> Result<Option<ObjectHandle>, CallError> {
    let template = [&[Attribute::Class(class), Attribute::KeyType(KeyType::EC)], &which.named()[..]].concat();
    Ok(session.find_objects(&template)?.first().copied())
}
