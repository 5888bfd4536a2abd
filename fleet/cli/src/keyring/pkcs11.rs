//! A signing key in a hardware token: ECDSA on P-256 through PKCS#11. The private part never leaves the token.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use aws_lc_rs::rand::SecureRandom;
use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error as TokenError, RvError},
    mechanism::Mechanism,
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::{Session, UserType},
    types::AuthPin,
};
use sha2::Digest as _;
use tough::{
    key_source::KeySource,
    schema::{
        decoded::Decoded,
        key::{EcdsaKey, EcdsaScheme, Key},
    },
    sign::Sign,
};

use crate::{
    failure::{Exit, Failure},
    secret::{self, Secret},
};

/// Where the PIN of a token comes from.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct PinArgs {
    /// File whose first line is the PIN of the token
    #[arg(long, value_name = "FILE", env = "MBL_PIN_FILE")]
    pin_file: Option<PathBuf>,
}

impl PinArgs {
    /// The PIN of the token called `token`.
    pub(crate) fn pin(&self, token: &str) -> anyhow::Result<Secret> {
        match &self.pin_file {
            Some(file) => secret::first_line(file),
            None => secret::ask(&format!("PIN of token {token}: "), "`--pin-file` or MBL_PIN_FILE"),
        }
    }
}

/// The address of a key in a token: `pkcs11:token=TOKEN;object=LABEL?module-path=LIBRARY` (RFC 7512).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenKey {
    module: PathBuf,
    token: String,
    label: String,
}

impl TokenKey {
    /// Reads a PKCS#11 URI; other attributes than the three are refused, for they would change which key is meant.
    pub(crate) fn parse(uri: &str) -> anyhow::Result<Self> {
        parse_uri(uri).ok_or_else(|| {
            Failure::new(Exit::Misuse, format!("`{uri}` does not name a key in a token"))
                .hint("write `pkcs11:token=TOKEN;object=LABEL?module-path=/path/to/library.so`")
                .into()
        })
    }

    /// The token's label.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// The key, which must exist.
    pub(super) fn find(&self, pin: Secret) -> anyhow::Result<Located> {
        let session = self.open(&pin)?;
        let Some(public) = self.object(&session, ObjectClass::PUBLIC_KEY)? else {
            let missing = format!("token {} has no P-256 key called {}", self.token, self.label);
            return Err(Failure::new(Exit::Failed, missing).into());
        };
        let point = self.point(&session, public)?;
        Ok(Located { key: self.clone(), pin, point })
    }

    /// The key, made inside the token if it does not exist.
    pub(super) fn find_or_make(&self, pin: Secret) -> anyhow::Result<Located> {
        let session = self.open(&pin)?;
        if self.object(&session, ObjectClass::PUBLIC_KEY)?.is_none() {
            let label = || Attribute::Label(self.label.clone().into_bytes());
            let public = [Attribute::Token(true), label(), Attribute::EcParams(P256.to_vec()), Attribute::Verify(true)];
            let private = [
                Attribute::Token(true),
                Attribute::Private(true),
                Attribute::Sensitive(true),
                Attribute::Extractable(false),
                Attribute::Sign(true),
                label(),
            ];
            session
                .generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private)
                .with_context(|| format!("token {} cannot make a key", self.token))?;
        }
        drop(session);
        self.find(pin)
    }

    fn open(&self, pin: &Secret) -> anyhow::Result<Session> {
        let module = Pkcs11::new(&self.module)
            .with_context(|| format!("cannot load the PKCS#11 library {}", self.module.display()))?;
        match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            // A library is initialized once a process, however many keys it holds.
            Err(TokenError::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            other => other.with_context(|| format!("cannot start {}", self.module.display()))?,
        }
        let slots = module.get_slots_with_initialized_token().context("cannot list the tokens")?;
        let slot =
            slots.into_iter().find(|slot| module.get_token_info(*slot).is_ok_and(|info| info.label() == self.token));
        let missing =
            || Failure::new(Exit::Failed, format!("{} knows no token called {}", self.module.display(), self.token));
        let session =
            module.open_rw_session(slot.ok_or_else(missing)?).context("cannot open a session with the token")?;
        match session.login(UserType::User, Some(&AuthPin::from(pin.as_str()))) {
            Err(TokenError::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {}
            other => other.with_context(|| format!("token {} refuses the PIN", self.token))?,
        }
        Ok(session)
    }

    fn object(&self, session: &Session, class: ObjectClass) -> anyhow::Result<Option<ObjectHandle>> {
        let template = [
            Attribute::Class(class),
            Attribute::KeyType(KeyType::EC),
            Attribute::Label(self.label.clone().into_bytes()),
        ];
        let found = session.find_objects(&template).with_context(|| format!("cannot search token {}", self.token))?;
        anyhow::ensure!(found.len() < 2, "token {} has several keys called {}", self.token, self.label);
        Ok(found.first().copied())
    }

    /// The public point, uncompressed as in SEC 1, section 2.3.3.
    fn point(&self, session: &Session, public: ObjectHandle) -> anyhow::Result<Vec<u8>> {
        let wanted = [AttributeType::EcParams, AttributeType::EcPoint];
        let attributes = session.get_attributes(public, &wanted).context("cannot read the public key")?;
        let curve =
            attributes.iter().any(|attribute| matches!(attribute, Attribute::EcParams(params) if params == &P256));
        let point = attributes.into_iter().find_map(|attribute| match attribute {
            // DER octet string around the point (PKCS#11 2.40, section 2.3.3).
            Attribute::EcPoint(der) => der.strip_prefix(&[4, 65]).filter(|point| point.len() == 65).map(<[u8]>::to_vec),
            _ => None,
        });
        point.filter(|_| curve).with_context(|| format!("key {} of token {} is not on P-256", self.label, self.token))
    }

    fn sign(&self, pin: &Secret, message: &[u8]) -> anyhow::Result<Vec<u8>> {
        let session = self.open(pin)?;
        let private = self
            .object(&session, ObjectClass::PRIVATE_KEY)?
            .with_context(|| format!("token {} has no private key called {}", self.token, self.label))?;
        let raw = session
            .sign(&Mechanism::Ecdsa, private, &sha2::Sha256::digest(message))
            .with_context(|| format!("token {} cannot sign", self.token))?;
        der_signature(&raw).with_context(|| format!("token {} answered with a malformed signature", self.token))
    }
}

/// DER of the object identifier of P-256 (RFC 5480).
const P256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

/// A key that was found in its token.
pub(super) struct Located {
    key: TokenKey,
    pin: Secret,
    point: Vec<u8>,
}

impl fmt::Debug for Located {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Located").field("key", &self.key).finish_non_exhaustive()
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[async_trait::async_trait]
impl KeySource for Located {
    async fn as_sign(&self) -> Result<Box<dyn Sign>, BoxError> {
        Ok(Box::new(Self { key: self.key.clone(), pin: self.pin.clone(), point: self.point.clone() }))
    }

    async fn write(&self, _value: &str, _key_id_hex: &str) -> Result<(), BoxError> {
        Err("a key in a token cannot be written".into())
    }
}

#[async_trait::async_trait]
impl Sign for Located {
    fn tuf_key(&self) -> Key {
        let keyval = EcdsaKey { public: Decoded::from(self.point.clone()), _extra: Default::default() };
        Key::Ecdsa { keyval, scheme: EcdsaScheme::EcdsaSha2Nistp256, _extra: Default::default() }
    }

    async fn sign(&self, message: &[u8], _random: &(dyn SecureRandom + Sync)) -> Result<Vec<u8>, BoxError> {
        Ok(self.key.sign(&self.pin, message)?)
    }
}

/// `r` and `s` one after the other, as tokens answer, to the DER sequence that TUF and X.509 use.
fn der_signature(raw: &[u8]) -> Option<Vec<u8>> {
    let (r, s) = raw.split_at_checked(32)?;
    let mut body = Vec::with_capacity(72);
    for number in [r, s] {
        if number.len() != 32 {
            return None;
        }
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        let digits = number.get(zeros..).filter(|digits| !digits.is_empty())?;
        // A leading one bit would make the number negative.
        let padded = digits.first().is_some_and(|byte| byte & 0x80 != 0);
        body.extend([2, u8::try_from(digits.len()).ok()? + u8::from(padded)]);
        body.extend(padded.then_some(0));
        body.extend_from_slice(digits);
    }
    let mut der = vec![0x30, u8::try_from(body.len()).ok()?];
    der.append(&mut body);
    Some(der)
}

fn parse_uri(uri: &str) -> Option<TokenKey> {
    let (path, query) = uri.strip_prefix("pkcs11:")?.split_once('?')?;
    let (mut token, mut label) = (None, None);
    for attribute in path.split(';') {
        let (name, value) = attribute.split_once('=')?;
        let place = match name {
            "token" => &mut token,
            "object" => &mut label,
            _ => return None,
        };
        if place.replace(percent_decode(value)?).is_some() {
            return None;
        }
    }
    let module = percent_decode(query.strip_prefix("module-path=")?)?;
    if !Path::new(&module).is_absolute() || module.contains('&') {
        return None;
    }
    Some(TokenKey { module: module.into(), token: token?, label: label? })
}

/// Undoes percent-encoding (RFC 3986, section 2.1); `None` for broken escapes and for nothing at all.
fn percent_decode(text: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let (digits, after) = after.split_at_checked(2)?;
            bytes.extend(hex::decode(digits).ok()?);
            rest = after;
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok().filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_names_library_token_and_key() {
        let uri = "pkcs11:token=release%20keys;object=targets?module-path=/usr/lib/softhsm/libsofthsm2.so";
        let key = TokenKey::parse(uri).unwrap();
        assert_eq!((key.token(), key.label.as_str()), ("release keys", "targets"));
        assert_eq!(key.module, Path::new("/usr/lib/softhsm/libsofthsm2.so"));
    }

    #[test]
    fn a_uri_that_leaves_something_open_is_refused() {
        for uri in [
            "pkcs11:token=a?module-path=/m.so",
            "pkcs11:token=a;object=b",
            "pkcs11:token=a;object=b?module-path=m.so",
            "pkcs11:token=a;token=c;object=b?module-path=/m.so",
            "pkcs11:token=a;object=b;id=%01?module-path=/m.so",
            "pkcs11:token=%zz;object=b?module-path=/m.so",
            "/usr/lib/m.so",
        ] {
            assert!(TokenKey::parse(uri).is_err(), "{uri}");
        }
    }

    #[test]
    fn numbers_of_a_signature_become_shortest_positive_integers() {
        let mut raw = [0; 64];
        raw[31] = 0x80;
        raw[32] = 0x7f;
        let der = der_signature(&raw).unwrap();
        assert_eq!(der[..6], [0x30, 38, 2, 2, 0, 0x80]);
        assert_eq!(der[6..9], [2, 32, 0x7f]);
        assert_eq!(der_signature(&[1; 63]), None);
    }
}
