//! `mbl image`: operating systems from packages: locked, built, signed with keys in files, checked. Never uploads.

use std::{
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use image_builder::{
    host_os,
    image::{self, Description, FeatureAllowance, FileChange, Manifest, Order, Reach, Report, Threads},
    packages::PackageCache,
    rootfs::ImageKind,
};
use protocol_types::{BoardName, ReleaseVersion, SecurityVersion};
use serde_json::json;

use crate::{session::Session, words::bytes};

/// How much a machine stands back behind other programs.
const NICENESS: i32 = 5;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build the operating system of the board `host` from Debian packages
    HostOs {
        /// Version of the operating system, as in 1.2.0
        #[arg(long)]
        version: ReleaseVersion,
        /// Folder to write the component into
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Folder whose files come on top of those of the packages
        #[arg(long, value_name = "DIR")]
        overlay: Option<PathBuf>,
        /// Folder that keeps packages and the tree unpacked from them between builds
        #[arg(long, value_name = "DIR", env = "MBL_CACHE_DIR")]
        cache: PathBuf,
    },
    /// Renew the list of exact packages that images are built from
    Lock {
        /// Resolve every package anew from what the mirror has now, and print what changed
        #[arg(long, required = true)]
        update: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Build the image of a board: parts, disk and component, unsigned and the same bytes from the same input
    Build {
        /// The board, as its file in `boards` is called
        #[arg(long)]
        board: BoardName,
        /// The kind of image: development, production or evaluation
        #[arg(long, default_value = "production")]
        kind: ImageKind,
        /// Optional feature that the image has beside those of its kind, as in wifi; may be given several times
        #[arg(long = "feature", value_name = "NAME")]
        features: Vec<String>,
        /// Version of the operating system, as in 1.2.0
        #[arg(long)]
        version: ReleaseVersion,
        /// Counts repaired security holes; a device does not start an image below its floor
        #[arg(long, value_name = "NUMBER", default_value_t = 1)]
        security_version: u32,
        /// Folder with the device's programs and their SHA256SUMS, as `image/device-binaries` writes it
        #[arg(long, value_name = "DIR")]
        device_binaries: PathBuf,
        /// Folder to write the build into
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Let whoever holds the private half of a key in this file log in by SSH; only a development image can
        #[arg(long, value_name = "FILE")]
        ssh_key: Option<PathBuf>,
        /// Sign the build with the keys in this folder, too
        #[arg(long, value_name = "DIR")]
        keys: Option<PathBuf>,
        #[command(flatten)]
        place: Place,
    },
    /// Sign a build for Secure Boot and the TPM, and make the flash images of firmware that trusts the keys
    Sign {
        /// Folder of the build
        dir: PathBuf,
        /// Folder with the keys, as `image keys init` makes it
        #[arg(long, value_name = "DIR")]
        keys: PathBuf,
        #[command(flatten)]
        place: Place,
    },
    /// Check a build: parts, budgets, partitions, hash tree, and that every file has an owner
    Verify {
        /// Folder of the build
        dir: PathBuf,
        #[command(flatten)]
        place: Place,
    },
    /// Turn a machine with a signed build on, its serial port at this terminal, until it is turned off or interrupted
    Run {
        /// Folder of the build
        dir: PathBuf,
        /// Folder that stands for the machine: its disk, its firmware's variables, its TPM. Made from the build if it is not there
        #[arg(long, value_name = "DIR")]
        machine: PathBuf,
        /// Make the machine anew, as it comes from the factory line
        #[arg(long)]
        fresh: bool,
        /// Let it reach this port of this machine's loopback, as 10.0.2.100; may be given several times. It reaches nothing else.
        /// With `=` and a second port that one answers in its place
        #[arg(long, value_name = "PORT")]
        reach: Vec<Reach>,
        /// Let a port of this machine's loopback be answered by a port of the board, as in `8080` or `18080=8080`
        #[arg(long, value_name = "PORT")]
        forward: Vec<Reach>,
        /// Emulate all its processors on one thread: slower alone, but cheaper where several machines share the cores
        #[arg(long)]
        one_thread: bool,
        /// Folder that says what images are made from
        #[arg(long, value_name = "DIR", default_value = "image")]
        description: PathBuf,
        /// Further arguments of QEMU, as in `-- -rtc base=2030-01-01`
        #[arg(last = true, value_name = "ARGUMENT")]
        further: Vec<String>,
    },
    /// Show what a build needs and why
    Inspect {
        /// Folder of the build
        dir: PathBuf,
    },
    /// Show what changes from one build to another: packages, files, sizes, and how much a device would have to fetch at least
    Diff {
        /// Folder of the old build
        old: PathBuf,
        /// Folder of the new build
        new: PathBuf,
    },
    /// Keys of a developer's own verified boot
    #[command(subcommand)]
    Keys(KeysCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Make root-of-trust, platform, exchange, signature and policy keys in a folder
    Init {
        /// The folder
        dir: PathBuf,
    },
}

/// What the commands on images work with.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// Folder that says what images are made from
    #[arg(long, value_name = "DIR", default_value = "image")]
    description: PathBuf,
    /// Folder that keeps packages and the trees unpacked from them between builds
    #[arg(long, value_name = "DIR", env = "MBL_CACHE_DIR")]
    cache: PathBuf,
}

pub(crate) fn run(command: Command, session: &Session) -> anyhow::Result<()> {
    match command {
        Command::HostOs { version, out, overlay, cache } => {
            host_os(session, &version, overlay.as_deref(), (&cache, &out))
        }
        Command::Lock { update: _, place } => lock(session, &place),
        Command::Build {
            board,
            kind,
            features,
            version,
            security_version,
            device_binaries,
            out,
            ssh_key,
            keys,
            place,
        } => {
            let features = features.into_iter().collect();
            let description = Description::load(&place.description, board.as_str(), kind, &features)?;
            let cache = PackageCache::open(&place.cache)?;
            let security_version = SecurityVersion(security_version);
            let ssh_keys = ssh_key.as_deref();
            let order = Order { version: &version, security_version, programs: &device_binaries, out: &out, ssh_keys };
            session.printer.say(format_args!("building the {} image {version} for {board}", kind.as_str()));
            let (manifest, report) = image::build(&cache, &description, &order)?;
            if let Some(keys) = keys {
                image::sign(&cache, &description, &keys, &out)?;
            }
            show(session, &out, &manifest, &report)
        }
        Command::Sign { dir, keys, place } => {
            let (cache, description) = open(&place, &dir)?;
            let out = image::sign(&cache, &description, &keys, &dir)?;
            session.printer.data(&json!({ "folder": out }), out.display())
        }
        Command::Verify { dir, place } => {
            let (cache, description) = open(&place, &dir)?;
            let files = image::verify(&cache, &description, &dir)?;
            let text =
                format!("{} is whole, within its budget, and each of its {files} files has an owner", dir.display());
            session.printer.data(&json!({ "folder": dir, "files": files }), text)
        }
        Command::Run { dir, machine, fresh, reach, forward, one_thread, description, further } => {
            let manifest = Manifest::load(&dir).with_context(|| format!("{} holds no build", dir.display()))?;
            let description = describe(&description, &manifest)?;
            if fresh || !machine.exists() {
                image::make_machine(&dir, &machine)?;
            }
            let threads = if one_thread { Threads::One } else { Threads::OnePerProcessor };
            let mut qemu = image::power_on(&description, &machine, &reach, &forward, threads)?;
            qemu.args(further);
            // Whoever waits for the machine goes first, and so does the TPM, whose answers have a time limit. It is no loss if that fails.
            rustix::process::nice(NICENESS).ok();
            // Its place is taken, so that whoever stops this command stops the machine. The TPM ends when QEMU is gone.
            Err(qemu.exec()).with_context(|| format!("cannot run {}", qemu.get_program().to_string_lossy()))
        }
        Command::Inspect { dir } => {
            let (manifest, report) = image::inspect(&dir)?;
            show(session, &dir, &manifest, &report)
        }
        Command::Diff { old, new } => diff(session, &old, &new),
        Command::Keys(KeysCommand::Init { dir }) => {
            image::init_keys(&dir)?;
            session.printer.data(&json!({ "folder": dir }), dir.display())
        }
    }
}

fn host_os(
    session: &Session,
    version: &ReleaseVersion,
    overlay: Option<&Path>,
    (cache, out): (&Path, &Path),
) -> anyhow::Result<()> {
    session
        .printer
        .say(format_args!("building the operating system {version} from {} packages", host_os::PACKAGES.len()));
    let built = host_os::build(cache, version, overlay, out)?;
    let size: u64 = built.index.sections.iter().map(|section| section.size).sum();
    let value = json!({
        "folder": out, "version": version, "digest": built.stored.digest, "root": built.index.root_digest(), "bytes": size,
    });
    session.printer.data(&value, format_args!("{} {} {}", out.display(), built.stored.digest, bytes(size)))
}

fn lock(session: &Session, place: &Place) -> anyhow::Result<()> {
    let cache = PackageCache::open(&place.cache)?;
    let changes = image::update_lock(&cache, &place.description)?;
    let text = if changes.is_empty() { "nothing changed".to_owned() } else { changes.join("\n") };
    session.printer.data(&json!({ "changes": changes }), text)
}

/// The cache, and the description of the build in `dir`.
fn open(place: &Place, dir: &Path) -> anyhow::Result<(PackageCache, Description)> {
    let manifest = Manifest::load(dir).with_context(|| format!("{} holds no build", dir.display()))?;
    let description = describe(&place.description, &manifest)?;
    Ok((PackageCache::open(&place.cache)?, description))
}

/// What the build of `manifest` is made from.
fn describe(folder: &Path, manifest: &Manifest) -> anyhow::Result<Description> {
    Ok(Description::load(folder, manifest.board.as_str(), manifest.kind, &manifest.features)?)
}

fn show(session: &Session, dir: &Path, manifest: &Manifest, report: &Report) -> anyhow::Result<()> {
    let mut lines =
        vec![format!("{} {} {} {}", dir.display(), manifest.board, manifest.kind.as_str(), manifest.version)];
    for part in &report.parts {
        let sizes = [part.bytes, part.budget, part.download].map(bytes);
        lines.push(format!("{:8} {:>9} of {:>9}, {:>9} to download", part.name, sizes[0], sizes[1], sizes[2]));
    }
    let [download, budget] = [report.download, report.download_budget].map(bytes);
    lines.push(format!("{:8} {download:>9} of {budget:>9}", "download"));
    for FeatureAllowance { feature, root, download } in &report.allowances {
        let [root, download] = [*root, *download].map(bytes);
        lines.push(format!("feature {feature} allows {root} more of root and {download} more to download"));
    }
    for share in &report.owners {
        lines.push(format!("{:>9}  {} ({})", bytes(share.bytes), share.owner, share.why));
    }
    let value = json!({
        "folder": dir, "image": manifest, "parts": report.parts, "download": report.download,
        "download_budget": report.download_budget, "allowances": report.allowances, "owners": report.owners,
    });
    session.printer.data(&value, lines.join("\n"))
}

fn diff(session: &Session, old: &Path, new: &Path) -> anyhow::Result<()> {
    let found = image::diff(old, new)?;
    let mut lines: Vec<String> =
        found.facts.iter().map(|(name, change)| format!("{name}: {} -> {}", change.old, change.new)).collect();
    for (name, change) in &found.sizes {
        lines.push(format!("{name}: {} -> {}", bytes(change.old), bytes(change.new)));
    }
    for (name, change) in &found.packages {
        let [old, new] = [&change.old, &change.new].map(|version| version.as_deref().unwrap_or("none"));
        lines.push(format!("package {name}: {old} -> {new}"));
    }
    for (path, change) in &found.files {
        let sign = match change {
            FileChange::Added => '+',
            FileChange::Changed => '~',
            FileChange::Removed => '-',
        };
        lines.push(format!("{sign} {}", path.display()));
    }
    lines.push(format!("{} of {} are in no block of the old image", bytes(found.new_bytes), bytes(found.all_bytes)));
    session.printer.data(&serde_json::to_value(&found)?, lines.join("\n"))
}
