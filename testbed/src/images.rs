//! Images of boards for the tests: built once by `mbl image` from this tree, kept in `target/os` by the digest of what they are made
//! from. Never touches an image that a test uses.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};
use protocol_types::{Digest, Hasher};
use rustix::fs::{FlockOperation, flock};

use crate::programs::program;

/// What kind of image, and which.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    /// `development`, `production` or `evaluation`.
    pub kind: &'static str,
    /// Version of the operating system.
    pub version: &'static str,
    /// Its security version.
    pub security_version: u32,
}

impl Order {
    /// Version 1.0.0 of security version 1.
    pub const fn first(kind: &'static str) -> Self {
        Self { kind, version: "1.0.0", security_version: 1 }
    }
}

/// Whose keys sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signer {
    /// The one whose certificates are in the machine's firmware.
    Owner,
    /// Somebody else, with keys of the same kinds.
    Stranger,
}

/// The tree that is under test.
pub fn tree() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The signed build of an image for the board `qemu-arm64-tpm`.
///
/// # Errors
/// If the programs of the device were not built, or `mbl image` fails.
pub fn image(order: Order, signer: Signer) -> anyhow::Result<PathBuf> {
    let workshop = workshop()?;
    // Two tests that need the same image build it once.
    let lock = File::create(workshop.join("lock")).context("cannot make the lock of the image builds")?;
    flock(&lock, FlockOperation::LockExclusive).context("cannot lock the image builds")?;

    let programs = workshop.join("programs");
    ensure!(
        programs.join("SHA256SUMS").exists(),
        "the programs of the device are not built; run `image/device-binaries {}`",
        programs.display()
    );
    let Order { kind, version, security_version } = order;
    let digest = ingredients(&programs)?;
    let signed_by = match signer {
        Signer::Owner => "owner",
        Signer::Stranger => "stranger",
    };
    let name = format!("{kind}-{version}-{security_version}-{signed_by}-{}", &digest.hex()[..16]);
    let build = workshop.join("builds").join(name);
    let done = build.join("done");
    if done.exists() {
        return Ok(build);
    }
    if build.exists() {
        fs::remove_dir_all(&build).with_context(|| format!("cannot clear {}", build.display()))?;
    }
    fs::create_dir_all(&build).with_context(|| format!("cannot make {}", build.display()))?;
    let keys = workshop.join(format!("keys-{signed_by}"));
    let path = |path: &Path| path.display().to_string();
    if !keys.exists() {
        mbl(&["image", "keys", "init", &path(&keys)])?;
    }
    let cache = workshop.join("cache");
    let build_from = |description: &Path| run_build(order, description, &build, Some(&keys));
    let (committed, note) = (tree().join("image"), workshop.join(NOTE));
    match build_from(&committed) {
        // The mirror has current packages only, so a lock grows old by itself: what is tested then is what a new lock gives.
        Err(error) if error.to_string().contains(LOCK_IS_OLD) => {
            let renewed = workshop.join("description");
            let changes = renew_lock(&committed, &renewed, &path(&cache))?;
            fs::write(&note, changes).with_context(|| format!("cannot write {}", note.display()))?;
            build_from(&renewed)?;
        }
        built => {
            built?;
            if note.exists() {
                fs::remove_file(&note).with_context(|| format!("cannot remove {}", note.display()))?;
            }
        }
    }
    File::create(&done).context("cannot note that the image is built")?;
    Ok(build)
}

/// Builds an image again in `folder/build`, unsigned, from a copy of the description and by somebody with another umask and time zone.
///
/// # Errors
/// As [`image`], which must have built it before.
pub fn build_again(order: Order, folder: &Path) -> anyhow::Result<()> {
    let workshop = workshop()?;
    let lock = File::create(workshop.join("lock")).context("cannot make the lock of the image builds")?;
    flock(&lock, FlockOperation::LockExclusive).context("cannot lock the image builds")?;
    let is_old = workshop.join(NOTE).exists();
    let description = if is_old { workshop.join("description") } else { tree().join("image") };
    let copy = folder.join("description");
    copy_description(&description, &copy)?;
    run_build(order, &copy, &folder.join("build"), None)
}

/// Runs `mbl image build` from `description` into `out`.
fn run_build(order: Order, description: &Path, out: &Path, keys: Option<&Path>) -> anyhow::Result<()> {
    let workshop = workshop()?;
    let mut command = Command::new(program("mbl")?);
    if keys.is_none() {
        // Built again, to be compared: whose clock and rights they are must not show.
        command = Command::new("sh");
        command.args(["-c", "umask 077; exec \"$@\"", "sh"]).arg(program("mbl")?).env("TZ", "Asia/Kathmandu");
    }
    command.args(["image", "build", "--board", "qemu-arm64-tpm", "--kind", order.kind, "--version", order.version]);
    command.arg("--security-version").arg(order.security_version.to_string());
    command.arg("--device-binaries").arg(workshop.join("programs")).arg("--cache").arg(workshop.join("cache"));
    command.arg("--description").arg(description).arg("--out").arg(out);
    if let Some(keys) = keys {
        command.arg("--keys").arg(keys);
    }
    finish(&mut command).map(drop)
}

/// What `mbl image build` says when a locked package is gone from the mirror.
const LOCK_IS_OLD: &str = "the mirror no longer has what is locked";

/// Where it stands what a renewed lock changed; `./test` prints it, for the output of a test that passes is not shown.
const NOTE: &str = "lock-is-old";

/// Makes `renewed` a copy of the description `committed` with a lock of what the mirror has now; says what is different.
fn renew_lock(committed: &Path, renewed: &Path, cache: &str) -> anyhow::Result<String> {
    if renewed.exists() {
        fs::remove_dir_all(renewed).with_context(|| format!("cannot clear {}", renewed.display()))?;
    }
    copy_description(committed, renewed)?;
    let description = renewed.display().to_string();
    mbl(&["image", "lock", "--update", "--description", &description, "--cache", cache])
}

/// Copies the description in `from` to the folder `to`, which is not there yet.
fn copy_description(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    let parts = ["boards", "rootfs", "lock.toml", "tools.toml"].map(|name| from.join(name));
    let copied = Command::new("cp").arg("-r").args(parts).arg(to).status();
    ensure!(copied.context("cannot run cp")?.success(), "cannot copy {}", from.display());
    Ok(())
}

/// Where images are built and kept: beside what cargo builds.
fn workshop() -> anyhow::Result<PathBuf> {
    let mbl = program("mbl")?;
    let target = mbl.ancestors().nth(2).context("mbl lies in no folder of cargo's")?;
    let workshop = target.join("os");
    fs::create_dir_all(&workshop).with_context(|| format!("cannot make {}", workshop.display()))?;
    Ok(workshop)
}

/// The digest of everything that an image is made from, the builder included.
fn ingredients(programs: &Path) -> anyhow::Result<Digest> {
    let mut files = vec![programs.join("SHA256SUMS"), program("mbl")?];
    for folder in ["boards", "rootfs"] {
        collect(&tree().join("image").join(folder), &mut files)?;
    }
    files.extend(["lock.toml", "tools.toml"].map(|name| tree().join("image").join(name)));
    files.sort();
    let mut hasher = Hasher::new();
    for file in files {
        let bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        hasher.update(Digest::of(&bytes).as_bytes());
    }
    Ok(hasher.finish())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            collect(&entry.path(), files)?;
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// Runs `mbl ARGUMENTS`, which must succeed; returns what it printed.
///
/// # Errors
/// With what it said if it does not.
pub fn mbl(arguments: &[&str]) -> anyhow::Result<String> {
    finish(Command::new(program("mbl")?).args(arguments))
}

fn finish(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().context("cannot run mbl")?;
    ensure!(
        output.status.success(),
        "{command:?} ended with {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
