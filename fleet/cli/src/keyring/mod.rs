//! The folder of a person's signing keys: which key signs which role, encrypted at rest or kept in a hardware token.
//! Never writes a private key in the clear.

mod pkcs11;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use protocol_release::{
    metadata::PublicKey,
    signing::{Algorithm, SigningKey},
};
use serde::{Deserialize, Serialize};
use tough::key_source::KeySource;

use crate::{
    durable::write_private,
    failure::{Exit, Failure},
    keys::sealed_key,
    secret::Secret,
};

pub(crate) use pkcs11::{PinArgs, TokenKey};

/// The file that lists the keys.
const LIST: &str = "keys.toml";
/// The folder with the newest metadata that these keys signed, which nothing older may follow.
const METADATA: &str = "metadata";

/// A folder of keys.
#[derive(Debug)]
pub(crate) struct Keyring {
    folder: PathBuf,
    list: KeyList,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyList {
    format: u32,
    /// Signatures that the root needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    root_threshold: Option<u32>,
    #[serde(default, rename = "key")]
    keys: Vec<KeyEntry>,
}

/// One key: what it signs and where its private part is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyEntry {
    /// The role that it signs: `root`, `targets`, `os` or `app-NAME`.
    pub(crate) role: String,
    /// The public part.
    #[serde(with = "as_text")]
    pub(crate) public: PublicKey,
    /// The private part as an encrypted PKCS#8 file in the folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) file: Option<String>,
    /// The private part in a token, as a PKCS#11 URI (RFC 7512).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pkcs11: Option<String>,
}

/// A public key as the JSON text that metadata holds.
mod as_text {
    use protocol_release::metadata::PublicKey;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(key: &PublicKey, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&key.to_string())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PublicKey, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// The secrets that a key ring may ask for.
pub(crate) trait Secrets {
    /// The passphrase of the encrypted files in `folder`.
    fn passphrase(&self, folder: &Path) -> anyhow::Result<Secret>;
    /// The user PIN of the token called `token`.
    fn pin(&self, token: &str) -> anyhow::Result<Secret>;
}

impl Keyring {
    /// A new, empty folder of keys.
    pub(crate) fn create(folder: &Path, root_threshold: u32) -> anyhow::Result<Self> {
        if folder.join(LIST).exists() {
            return Err(Failure::new(Exit::Failed, format!("{} already holds keys", folder.display()))
                .hint("choose another folder; keys are never overwritten")
                .into());
        }
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs::set_permissions(folder, private).with_context(|| format!("cannot make {} private", folder.display()))?;
        let list = KeyList { format: 1, root_threshold: Some(root_threshold), keys: Vec::new() };
        Ok(Self { folder: folder.to_owned(), list })
    }

    /// Opens a folder of keys; no private key is touched yet.
    pub(crate) fn open(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(LIST);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Failure::new(Exit::Failed, format!("{} holds no keys", folder.display()))
                    .hint(format!("make keys with `mbl keys init --dir {}`", folder.display()))
                    .into());
            }
            other => other.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let list: KeyList =
            toml::from_str(&text).with_context(|| format!("{} is not a list of keys", path.display()))?;
        anyhow::ensure!(list.format == 1, "{} has format {}, only format 1 is known", path.display(), list.format);
        Ok(Self { folder: folder.to_owned(), list })
    }

    /// The folder itself.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the newest metadata that these keys signed is kept.
    pub(crate) fn metadata(&self) -> PathBuf {
        self.folder.join(METADATA)
    }

    /// Signatures that the root needs.
    pub(crate) fn root_threshold(&self) -> u32 {
        self.list.root_threshold.unwrap_or(1)
    }

    /// Every key.
    pub(crate) fn keys(&self) -> &[KeyEntry] {
        &self.list.keys
    }

    /// The public keys that sign `role`.
    pub(crate) fn public(&self, role: &str) -> Vec<PublicKey> {
        self.list.keys.iter().filter(|key| key.role == role).map(|key| key.public.clone()).collect()
    }

    /// The roles that have a key here, each once, in the order of the list.
    pub(crate) fn roles(&self) -> Vec<&str> {
        let mut roles: Vec<&str> = Vec::new();
        for key in self.list.keys.iter().filter(|key| !key.role.starts_with("retired-")) {
            if !roles.contains(&key.role.as_str()) {
                roles.push(&key.role);
            }
        }
        roles
    }

    /// Makes a key for `role` in an encrypted file. The list names it once it is [saved](Self::save).
    pub(crate) fn add_file_key(&mut self, role: &str, secret: &Secret) -> anyhow::Result<()> {
        let names =
            (1_u32..).map(|number| if number == 1 { format!("{role}.pem") } else { format!("{role}-{number}.pem") });
        let file = names.into_iter().find(|name| !self.folder.join(name).exists()).context("no file name is free")?;
        let key = SigningKey::generate(Algorithm::Ed25519)?;
        write_private(&self.folder.join(&file), sealed_key::seal(key.to_pkcs8(), secret)?.as_bytes())?;
        let public = key.public().clone();
        self.list.keys.push(KeyEntry { role: role.to_owned(), public, file: Some(file), pkcs11: None });
        Ok(())
    }

    /// Adds a key of a hardware token for `role`; the token makes it if it has none under that label. The list names it once it is
    /// [saved](Self::save).
    pub(crate) async fn add_token_key(&mut self, role: &str, uri: &str, secrets: &dyn Secrets) -> anyhow::Result<()> {
        let token = TokenKey::parse(uri)?;
        let key = token.find_or_make(secrets.pin(token.token())?)?;
        let public = public_of(&key).await?;
        self.list.keys.push(KeyEntry { role: role.to_owned(), public, file: None, pkcs11: Some(uri.to_owned()) });
        Ok(())
    }

    /// Keeps the keys of `role` but lets them sign nothing new.
    pub(crate) fn retire(&mut self, role: &str) {
        for key in self.list.keys.iter_mut().filter(|key| key.role == role) {
            key.role = format!("retired-{role}");
        }
    }

    /// The private keys of these roles, asking for each secret at most once.
    pub(crate) fn unlock(&self, roles: &[&str], secrets: &dyn Secrets) -> anyhow::Result<Unlocked> {
        self.unlock_where(|entry| roles.contains(&entry.role.as_str()), secrets)
    }

    /// The private keys whose public parts are these, whatever role they have now.
    pub(crate) fn unlock_keys(&self, keys: &[PublicKey], secrets: &dyn Secrets) -> anyhow::Result<Sources> {
        let unlocked = self.unlock_where(|entry| keys.contains(&entry.public), secrets)?;
        Ok(unlocked.0.into_values().flatten().collect())
    }

    fn unlock_where(&self, wanted: impl Fn(&KeyEntry) -> bool, secrets: &dyn Secrets) -> anyhow::Result<Unlocked> {
        let (mut passphrase, mut pins) = (None, BTreeMap::<String, Secret>::new());
        let mut unlocked = Unlocked::default();
        for entry in self.list.keys.iter().filter(|entry| wanted(entry)) {
            let source: Box<dyn KeySource> = match (&entry.file, &entry.pkcs11) {
                (Some(file), None) => {
                    let secret = match &passphrase {
                        Some(secret) => secret,
                        None => passphrase.insert(secrets.passphrase(&self.folder)?),
                    };
                    SigningKey::from_pkcs8(&sealed_key::unseal(&self.folder.join(file), secret)?)?.source()
                }
                (None, Some(uri)) => {
                    let token = TokenKey::parse(uri)?;
                    let pin = match pins.get(token.token()) {
                        Some(pin) => pin.clone(),
                        None => secrets.pin(token.token())?,
                    };
                    pins.insert(token.token().to_owned(), pin.clone());
                    Box::new(token.find(pin)?)
                }
                _ => anyhow::bail!("the key of role `{}` has not one place but none or two", entry.role),
            };
            unlocked.0.entry(entry.role.clone()).or_default().push(source);
        }
        Ok(unlocked)
    }

    /// Makes the list of keys durable.
    pub(crate) fn save(&self) -> anyhow::Result<()> {
        write_private(&self.folder.join(LIST), toml::to_string(&self.list)?.as_bytes())
    }
}

/// Private keys to sign with.
pub(crate) type Sources = Vec<Box<dyn KeySource>>;

/// Private keys by role.
#[derive(Debug, Default)]
pub(crate) struct Unlocked(BTreeMap<String, Sources>);

impl Unlocked {
    /// Those of `role`; none is a failure, for a signature would be missing.
    pub(crate) fn of(&self, role: &str) -> anyhow::Result<&[Box<dyn KeySource>]> {
        self.0.get(role).map(Vec::as_slice).ok_or_else(|| {
            Failure::new(Exit::Failed, format!("there is no key of role `{role}` here"))
                .hint("sign in the folder of the person who holds it")
                .into()
        })
    }
}

/// The public part of a key source.
async fn public_of(source: &dyn KeySource) -> anyhow::Result<PublicKey> {
    let signer = source.as_sign().await.map_err(|error| anyhow::anyhow!(error)).context("cannot use the new key")?;
    Ok(PublicKey::try_from(signer.tuf_key())?)
}
