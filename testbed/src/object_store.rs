//! A real object store with one bucket, beside the service under test: TLS, signatures and permissions are those of S3.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde::Deserialize;

use crate::{Running, until};

/// How long it may take to start; the first time its packages are installed.
const PATIENCE: Duration = Duration::from_secs(300);

/// The object store. It forgets everything when it ends.
#[derive(Debug)]
pub struct ObjectStore {
    folder: PathBuf,
    about: About,
    process: Running,
}

/// What it says of itself.
#[derive(Clone, Debug, Deserialize)]
struct About {
    endpoint: String,
    bucket: String,
    region: String,
    service: Key,
}

#[derive(Clone, Debug, Deserialize)]
struct Key {
    access_key: String,
    secret_key: String,
}

/// What is in the bucket, as another client sees it.
#[derive(Clone, Debug, Deserialize)]
pub struct Content {
    /// The SHA-256 of each object by its name, in hexadecimal digits.
    pub objects: BTreeMap<String, String>,
    /// The names of uploads in parts that nobody ended.
    pub uploads: Vec<String>,
}

impl ObjectStore {
    /// Starts it with its files in `folder`, which is made.
    ///
    /// # Errors
    /// If it does not listen in time.
    pub fn start(folder: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        certify(folder)?;
        let mut command = python("serve.py", folder);
        let mut process = Running::start("the object store", &mut command, &folder.join("serve.log"))?;
        let file = folder.join("store.json");
        let about: About = until(PATIENCE, "the object store to listen", || {
            ensure!(process.is_running()?, "it ended: {}", process.output()?);
            match fs::read(&file) {
                Ok(text) => Ok(Some(serde_json::from_slice(&text).context("cannot read store.json")?)),
                Err(_) => Ok(None),
            }
        })?;
        fs::write(folder.join("secret"), &about.service.secret_key).context("cannot write the secret")?;
        Ok(Self { folder: folder.to_owned(), about, process })
    }

    /// The settings of a service that keeps its artifacts here, below `prefix`.
    pub fn settings(&self, prefix: &str) -> String {
        let Self { folder, about, .. } = self;
        format!(
            "[bucket]\nname = \"{}\"\nendpoint = \"{}\"\nregion = \"{}\"\nprefix = \"{prefix}\"\naccess_key = \"{}\"\n\
             secret_key_file = \"{}\"\nauthority_file = \"{}\"\n",
            about.bucket,
            about.endpoint,
            about.region,
            about.service.access_key,
            folder.join("secret").display(),
            folder.join("authority.pem").display()
        )
    }

    /// Looks into the bucket with the client that the makers of S3 wrote.
    ///
    /// # Errors
    /// If it finds fault with it.
    pub fn content(&self) -> anyhow::Result<Content> {
        let output = python("look.py", &self.folder).output().context("cannot run look.py")?;
        ensure!(output.status.success(), "look.py: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).context("look.py printed no JSON")
    }

    /// A line for each request that it has answered, with its status.
    ///
    /// # Errors
    /// If its log cannot be read.
    pub fn log(&self) -> anyhow::Result<String> {
        self.process.output()
    }
}

/// A script beside the pinned packages that it needs.
fn python(script: &str, folder: &Path) -> Command {
    let testbed = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(testbed.join("oracles/python"));
    command.arg(testbed.join("object-store").join(script)).arg(folder).env("PINS", testbed.join("object-store"));
    // Proxies are for the way to other machines.
    command.env("NO_PROXY", "*").env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// An authority, and a certificate of it for this machine.
fn certify(folder: &Path) -> anyhow::Result<()> {
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(DnType::CommonName, "authority of the object store");
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let (authority_key, key) = (KeyPair::generate()?, KeyPair::generate()?);
    let authority_pem = authority.self_signed(&authority_key)?.pem();
    let issuer = Issuer::new(authority, authority_key);
    let certificate = CertificateParams::new(["127.0.0.1".to_owned()])?.signed_by(&key, &issuer)?;
    for (name, text) in
        [("authority.pem", authority_pem), ("certificate.pem", certificate.pem()), ("key.pem", key.serialize_pem())]
    {
        fs::write(folder.join(name), text).with_context(|| format!("cannot write {name}"))?;
    }
    Ok(())
}
