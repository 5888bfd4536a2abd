//! Images of boards for the tests: built once by `mbl image` from this tree, kept in `target/os` by the digest of what they are made
//! from. Never touches an image that a test uses.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use protocol_types::{Digest, Hasher};
use rustix::fs::{FlockOperation, flock};

use crate::programs::program;

/// What kind of image, and which.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    /// The board.
    pub board: &'static str,
    /// `development`, `production` or `evaluation`.
    pub kind: &'static str,
    /// Version of the operating system.
    pub version: &'static str,
    /// Its security version.
    pub security_version: u32,
    /// Optional features of the recipe.
    pub features: &'static [&'static str],
    /// A feature that no product has, from `testbed/image-features`.
    pub with: Option<&'static str>,
}

impl Order {
    /// Version 1.0.0 of security version 1 for the board `qemu-arm64-tpm`.
    pub const fn first(kind: &'static str) -> Self {
        Self { board: "qemu-arm64-tpm", kind, version: "1.0.0", security_version: 1, features: &[], with: None }
    }

    /// The same with optional features.
    pub const fn having(self, features: &'static [&'static str]) -> Self {
        Self { features, ..self }
    }

    /// The same for another board.
    pub const fn on(self, board: &'static str) -> Self {
        Self { board, ..self }
    }

    /// A development image that fails as a file in `/state/faults` says (`testbed/image-features/faults`).
    pub const fn fallible(version: &'static str, security_version: u32) -> Self {
        Self { version, security_version, with: Some("faults"), ..Self::first("development") }
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

/// The signed build of an image.
///
/// # Errors
/// If the programs of the device were not built, or `mbl image` fails.
pub fn image(order: Order, signer: Signer) -> anyhow::Result<PathBuf> {
    let workshop = workshop()?;
    let programs = workshop.join("programs");
    ensure!(
        programs.join("SHA256SUMS").exists(),
        "the programs of the device are not built; run `image/device-binaries {}`",
        programs.display()
    );
    let Order { board, kind, version, security_version, features, with } = order;
    let digest = ingredients(&programs, with)?;
    let signed_by = match signer {
        Signer::Owner => "owner",
        Signer::Stranger => "stranger",
    };
    let features: String = features.iter().chain(with.as_ref()).map(|name| format!("-{name}")).collect();
    let name = format!("{board}-{kind}{features}-{version}-{security_version}-{signed_by}-{}", &digest.hex()[..16]);
    let build = workshop.join("builds").join(name);
    let done = build.join("done");
    if done.exists() {
        return Ok(build);
    }
    // Two tests that need the same image build it once.
    let lock = File::create(workshop.join("lock")).context("cannot make the lock of the image builds")?;
    flock(&lock, FlockOperation::LockExclusive).context("cannot lock the image builds")?;
    if done.exists() {
        return Ok(build);
    }
    if build.exists() {
        fs::remove_dir_all(&build).with_context(|| format!("cannot clear {}", build.display()))?;
    }
    fs::create_dir_all(&build).with_context(|| format!("cannot make {}", build.display()))?;
    let keys = workshop.join("keys").join(signed_by);
    let path = |path: &Path| path.display().to_string();
    if !keys.exists() {
        mbl(&["image", "keys", "init", &path(&keys)])?;
    }
    let cache = workshop.join("cache");
    let build_from = |description: &Path| {
        let extended =
            with.map(|name| with_feature(description, &workshop.join("extended"), kind, name)).transpose()?;
        run_build(order, extended.as_deref().unwrap_or(description), &cache, &build, Some(&keys))
    };
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
    build_with_cache(order, &workshop()?.join("cache"), folder)
}

/// As [`build_again`], and what is compiled for the image is compiled again, too.
///
/// # Errors
/// As there.
pub fn compile_again(order: Order, folder: &Path) -> anyhow::Result<()> {
    // What was fetched is the same; what was compiled is not there.
    let (kept, cache) = (workshop()?.join("cache"), folder.join("cache"));
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    for name in ["apt", "packages", "sources", "trees"] {
        symlink(kept.join(name), cache.join(name)).with_context(|| format!("cannot share {name} of the cache"))?;
    }
    build_with_cache(order, &cache, folder)
}

fn build_with_cache(order: Order, cache: &Path, folder: &Path) -> anyhow::Result<()> {
    let workshop = workshop()?;
    let lock = File::create(workshop.join("lock")).context("cannot make the lock of the image builds")?;
    flock(&lock, FlockOperation::LockExclusive).context("cannot lock the image builds")?;
    let is_old = workshop.join(NOTE).exists();
    let description = if is_old { workshop.join("description") } else { tree().join("image") };
    let copy = folder.join("description");
    copy_description(&description, &copy)?;
    run_build(order, &copy, cache, &folder.join("build"), None)
}

/// Runs `mbl image build` from `description` into `out`.
fn run_build(order: Order, description: &Path, cache: &Path, out: &Path, keys: Option<&Path>) -> anyhow::Result<()> {
    let workshop = workshop()?;
    let mut command = Command::new(program("mbl")?);
    if keys.is_none() {
        // Built again, to be compared: whose clock and rights they are must not show.
        command = Command::new("sh");
        command.args(["-c", "umask 077; exec \"$@\"", "sh"]).arg(program("mbl")?).env("TZ", "Asia/Kathmandu");
    }
    command.args(["image", "build", "--board", order.board, "--kind", order.kind, "--version", order.version]);
    command.arg("--security-version").arg(order.security_version.to_string());
    for feature in order.features {
        command.args(["--feature", feature]);
    }
    command.arg("--device-binaries").arg(workshop.join("programs")).arg("--cache").arg(cache);
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
    copy_description(committed, renewed)?;
    let description = renewed.display().to_string();
    mbl(&["image", "lock", "--update", "--description", &description, "--cache", cache])
}

/// The program of an application of `testbed/applications`, for the board.
///
/// # Errors
/// If Debian's compiler cannot build it; `image/device-binaries` installs what that needs.
pub fn application(name: &str) -> anyhow::Result<PathBuf> {
    let source = tree().join("testbed/applications").join(name).with_extension("rs");
    let text = fs::read(&source).with_context(|| format!("cannot read {}", source.display()))?;
    let program = workshop()?.join(format!("application-{name}-{}", &Digest::of(&text).hex()[..16]));
    if !program.exists() {
        // Under a name of its own, so that two tests may build it at a time.
        let unfinished = program.with_extension(std::process::id().to_string());
        let mut compiler = Command::new("/usr/bin/rustc");
        compiler.args(["--edition=2024", "-O", "--target=aarch64-unknown-linux-gnu", "-Ctarget-feature=+crt-static"]);
        compiler.args(["-Clinker=aarch64-linux-gnu-gcc", "-Clink-arg=-s"]).arg(&source).arg("-o").arg(&unfinished);
        let output = compiler.output().context("cannot run /usr/bin/rustc")?;
        ensure!(output.status.success(), "rustc: {}", String::from_utf8_lossy(&output.stderr));
        fs::rename(&unfinished, &program).context("cannot keep the application")?;
    }
    Ok(program)
}

/// Makes `extended` a copy of the description `from` in which images of `kind` have a feature of `testbed/image-features`, too.
fn with_feature(from: &Path, extended: &Path, kind: &str, name: &str) -> anyhow::Result<PathBuf> {
    copy_description(from, extended)?;
    let (feature, rootfs) = (tree().join("testbed/image-features").join(name), extended.join("rootfs"));
    let read = |path: &Path| fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
    let write =
        |path: &Path, text: String| fs::write(path, text).with_context(|| format!("cannot write {}", path.display()));
    let recipe = rootfs.join("recipe.toml");
    write(&recipe, read(&recipe)? + "\n" + &read(&feature.join("feature.toml"))?)?;
    let kind = rootfs.join(kind).with_extension("toml");
    let mut table: toml::Table = read(&kind)?.parse().context("a kind of image is no TOML")?;
    let features =
        table.get_mut("features").and_then(toml::Value::as_array_mut).context("a kind of image has no features")?;
    features.push(name.into());
    write(&kind, table.to_string())?;
    if feature.join("overlay").is_dir() {
        copy(&[feature.join("overlay")], &rootfs.join("overlay").join(name))?;
    }
    Ok(extended.to_owned())
}

/// What a description consists of.
const FOLDERS: [&str; 4] = ["boards", "firmware", "rootfs", "trusted-applications"];
const FILES: [&str; 4] = ["lock.toml", "sources.toml", "toolchain.toml", "tools.toml"];

/// Makes `to` a copy of the description in `from`.
fn copy_description(from: &Path, to: &Path) -> anyhow::Result<()> {
    if to.exists() {
        fs::remove_dir_all(to).with_context(|| format!("cannot clear {}", to.display()))?;
    }
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    copy(&[&FOLDERS[..], &FILES].concat().iter().map(|name| from.join(name)).collect::<Vec<_>>(), to)
}

/// Copies files and folders as they are, holes included: into the folder `to`, or as `to` if it is not there.
///
/// # Errors
/// If something cannot be read or written.
pub fn copy(from: &[PathBuf], to: &Path) -> anyhow::Result<()> {
    let copied = Command::new("cp").args(["-a", "--sparse=always", "--reflink=auto", "--"]).args(from).arg(to).status();
    ensure!(copied.context("cannot run cp")?.success(), "cannot copy {from:?} to {}", to.display());
    Ok(())
}

/// Where images are built and kept: beside what cargo builds.
///
/// # Errors
/// If the folder cannot be made.
pub fn workshop() -> anyhow::Result<PathBuf> {
    let mbl = program("mbl")?;
    let target = mbl.ancestors().nth(2).context("mbl lies in no folder of cargo's")?;
    let workshop = target.join("os");
    fs::create_dir_all(&workshop).with_context(|| format!("cannot make {}", workshop.display()))?;
    Ok(workshop)
}

/// Notes how long something took, beside the images: a line in `measured`.
///
/// # Errors
/// If it cannot be written.
pub fn measured(what: &str, time: Duration) -> anyhow::Result<()> {
    let path = workshop()?.join("measured");
    let file = File::options().create(true).append(true).open(&path);
    let written = file.and_then(|mut file| file.write_all(format!("{what}: {:.1} s\n", time.as_secs_f64()).as_bytes()));
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// The digest of everything that an image is made from, the builder included.
fn ingredients(programs: &Path, with: Option<&str>) -> anyhow::Result<Digest> {
    let mut files = vec![programs.join("SHA256SUMS"), program("mbl")?];
    for folder in FOLDERS {
        collect(&tree().join("image").join(folder), &mut files)?;
    }
    files.extend(FILES.map(|name| tree().join("image").join(name)));
    if let Some(name) = with {
        collect(&tree().join("testbed/image-features").join(name), &mut files)?;
    }
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
