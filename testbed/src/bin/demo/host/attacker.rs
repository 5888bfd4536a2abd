//! The attacker: somebody who owns the machine of the service. Reads and writes its database and files, and holds the keys that the
//! service signs with. Holds no key of the account.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, ensure};
use protocol_release::signing::{Algorithm, OnlineDraft, SignedFile, SigningKey, TargetsDraft};
use protocol_types::{Digest, TargetPath, UnixSeconds};
use serde_json::Value;

use crate::stage::ENDPOINT;

/// Somebody with full access to the data folder of the service.
#[derive(Debug)]
pub(crate) struct Attacker {
    data_dir: PathBuf,
}

/// The files of the database.
const DATABASE: [&str; 3] = ["mbl.db", "mbl.db-wal", "mbl.db-shm"];

impl Attacker {
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self { data_dir: data_dir.to_owned() }
    }

    /// Copies the database, which nobody may be using.
    pub(crate) fn copy_database(&self, to: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(to)?;
        copy(&self.data_dir, to)
    }

    /// Takes a consistent copy of the database while the service runs.
    pub(crate) fn take_copy(&self, to: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(to)?;
        self.sql(&format!("VACUUM INTO '{}';", to.join("mbl.db").display())).map(drop)
    }

    /// Puts a copied database back.
    pub(crate) fn put_database(&self, from: &Path) -> anyhow::Result<()> {
        copy(from, &self.data_dir)
    }

    /// Takes all metadata from a copied database, as if nothing had been published since.
    pub(crate) fn replay_metadata(&self, old: &Path) -> anyhow::Result<()> {
        let old = old.join("mbl.db");
        self.sql(&format!(
            "ATTACH '{}' AS old; BEGIN; DELETE FROM metadata_files; INSERT INTO metadata_files SELECT * FROM old.metadata_files;
             DELETE FROM repositories; INSERT INTO repositories SELECT * FROM old.repositories; COMMIT;",
            old.display()
        ))?;
        Ok(())
    }

    /// Orders the device to run a release in the name of a rollout that does not exist.
    pub(crate) fn order(&self, release: &str, digest: &str, rollout: &str) -> anyhow::Result<()> {
        let now = now().0;
        self.sql(&format!(
            "INSERT INTO desired_releases (account, endpoint, generation, path, digest, rollout, changed)
             VALUES ('default', '{ENDPOINT}', 1, '{release}', '{digest}', '{rollout}', {now})
             ON CONFLICT (account, endpoint) DO UPDATE SET generation = generation + 1, path = excluded.path,
             digest = excluded.digest, rollout = excluded.rollout, changed = excluded.changed;"
        ))?;
        Ok(())
    }

    /// Flips one bit in every block of a stored artifact, since a device fetches only blocks that it does not have; doing it again
    /// undoes it. Returns how many.
    pub(crate) fn tamper(&self, digest: &Digest) -> anyhow::Result<usize> {
        let path = self.artifact(digest);
        let mut bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let firsts = bytes.iter_mut().step_by(4096);
        let flipped = firsts.map(|byte| *byte ^= 1).count();
        fs::write(&path, &bytes).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(flipped)
    }

    /// Makes a release of their own out of a good one, signs targets that list it with a key of their own, and makes it current with
    /// the stolen online keys. Returns path and digest of the release.
    pub(crate) async fn publish_as_stranger(&self, good_release: &Value) -> anyhow::Result<(String, String)> {
        let mut release = good_release.clone();
        *release.pointer_mut("/version").context("not a release")? = "6.6.6".into();
        let document = serde_json::to_vec_pretty(&release)?;
        let digest = Digest::of(&document);
        fs::write(self.artifact(&digest), &document)?;

        let path = TargetPath::new("releases/6.6.6.json")?;
        let stranger = SigningKey::generate(Algorithm::Ed25519)?;
        let current = self.number("SELECT targets_version FROM repositories;")?;
        let mut targets = TargetsDraft::read(&self.metadata(&format!("{current}.targets.json"))?)?;
        targets.version += 1;
        targets.insert(path.clone(), &document);
        let targets = targets.sign(&[stranger.source()]).await?;
        self.put_metadata("targets", current + 1, &targets)?;
        self.make_current(current + 1, &targets).await?;
        Ok((path.to_string(), digest.to_string()))
    }

    /// Signs a snapshot and a timestamp over the given targets and every other current file, as the service would.
    async fn make_current(&self, version: u64, targets: &SignedFile) -> anyhow::Result<()> {
        let last_snapshot = self.number("SELECT snapshot_version FROM repositories;")?;
        let snapshot: Value = serde_json::from_slice(&self.metadata(&format!("{last_snapshot}.snapshot.json"))?)?;
        let named =
            snapshot.pointer("/signed/meta").and_then(Value::as_object).context("the snapshot names no files")?;
        let mut files = BTreeMap::new();
        for (name, meta) in named {
            let version = meta.pointer("/version").and_then(Value::as_u64).context("a file without a version")?;
            files.insert(name.clone(), (version, self.metadata(&format!("{version}.{name}"))?));
        }
        files.insert("targets.json".to_owned(), (version, targets.bytes.clone()));
        let now = now();
        let draft = OnlineDraft {
            now,
            last_snapshot,
            last_timestamp: self.number("SELECT timestamp_version FROM repositories;")?,
            snapshot_expires: UnixSeconds(now.0 + 86_400),
            timestamp_expires: UnixSeconds(now.0 + 86_400),
            files,
        };
        let signed = draft.sign(&[self.stolen("snapshot")?.source()], &[self.stolen("timestamp")?.source()]).await?;
        let number = signed.snapshot.name.split('.').next().and_then(|number| number.parse().ok());
        let number: u64 = number.context("the snapshot has no version")?;
        self.put_metadata("snapshot", number, &signed.snapshot)?;
        self.put_metadata("timestamp", number, &signed.timestamp)
    }

    /// A private key of the service.
    fn stolen(&self, role: &str) -> anyhow::Result<SigningKey> {
        let hex =
            self.sql(&format!("SELECT hex(pkcs8) FROM online_keys WHERE account = 'default' AND role = '{role}';"))?;
        Ok(SigningKey::from_pkcs8(&hex::decode(hex.trim())?)?)
    }

    fn metadata(&self, name: &str) -> anyhow::Result<Vec<u8>> {
        let hex =
            self.sql(&format!("SELECT hex(bytes) FROM metadata_files WHERE account = 'default' AND name = '{name}';"))?;
        ensure!(!hex.trim().is_empty(), "the service has no {name}");
        Ok(hex::decode(hex.trim())?)
    }

    fn put_metadata(&self, role: &str, version: u64, file: &SignedFile) -> anyhow::Result<()> {
        let (hex, now) = (hex::encode(&file.bytes), now().0);
        self.sql(&format!(
            "INSERT OR REPLACE INTO metadata_files (account, name, role, version, bytes, created)
             VALUES ('default', '{}', '{role}', {version}, X'{hex}', {now});",
            file.name
        ))?;
        Ok(())
    }

    fn artifact(&self, digest: &Digest) -> PathBuf {
        self.data_dir.join("artifacts/default").join(digest.hex())
    }

    fn number(&self, query: &str) -> anyhow::Result<u64> {
        Ok(self.sql(query)?.trim().parse()?)
    }

    /// Runs SQL on the database itself.
    fn sql(&self, script: &str) -> anyhow::Result<String> {
        let mut sqlite = Command::new("sqlite3")
            .args(["-bail", "-batch"])
            .arg(self.data_dir.join("mbl.db"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run sqlite3")?;
        sqlite.stdin.take().context("sqlite3 takes no input")?.write_all(script.as_bytes())?;
        let output = sqlite.wait_with_output()?;
        ensure!(output.status.success(), "sqlite3: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    for name in DATABASE {
        let (from, to) = (from.join(name), to.join(name));
        if from.exists() {
            fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
        } else if to.exists() {
            fs::remove_file(&to).with_context(|| format!("cannot remove {}", to.display()))?;
        }
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "the attacker signs in the present, as the service would")]
fn now() -> UnixSeconds {
    UnixSeconds(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}
