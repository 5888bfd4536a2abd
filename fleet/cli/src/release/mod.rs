//! `mbl release`: from components to a signed, published release. The rules of what devices accept are in `protocol-release`; here
//! the same judgement is only asked for early.

pub(crate) mod folder;
pub(crate) mod publishing;
pub(crate) mod recipe;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use protocol_release::{
    document::{Health, Release},
    metadata::Delegate,
    publish::{self, Repository},
    signing::{SignedFile, TargetsDraft, add_signatures},
};
use protocol_types::{Architecture, Reason, ReasonCode, ReleaseVersion, SecurityVersion, TargetPath, UnixSeconds};
use serde_json::json;

use crate::{
    failure::{Exit, Failure},
    keyring::Keyring,
    keys::{ExpiryArgs, UnlockArgs},
    release::{
        folder::ReleaseFolder,
        recipe::{AppPart, OsPart, Part, Recipe, default_health},
    },
    repository::{MetadataFolder, Role, file_name},
    session::Session,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Put components together; the result waits for signatures
    Create(CreateArgs),
    /// Add the signatures of the keys at hand
    Sign(SignArgs),
    /// Upload a signed release to the service
    Publish(FolderArgs),
    /// Write a release with all its metadata into a folder, for a USB stick
    Export(ExportArgs),
    /// Show a release of the service, or one in a folder
    Show(ShowArgs),
    /// List the releases of the service
    List,
    /// Take a release out of the targets, so that no device installs it any more
    Withdraw(WithdrawArgs),
}

#[derive(Debug, Args)]
pub(crate) struct FolderArgs {
    /// Folder of the release
    dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Recipe of the release
    #[arg(long, value_name = "FILE", conflicts_with_all = ["version", "os", "with_firmware", "app", "security_version", "raises_floor"])]
    from: Option<PathBuf>,
    /// Version of the release, as in 1.2.0
    #[arg(long, required_unless_present = "from")]
    version: Option<ReleaseVersion>,
    /// Folder of the operating system
    #[arg(long, value_name = "DIR")]
    os: Option<PathBuf>,
    /// Bring the firmware of the build, too; its signatures are new in each build, so devices restart into it even if nothing else changed
    #[arg(long, requires = "os")]
    with_firmware: bool,
    /// Architecture of the operating system
    #[arg(long, value_name = "NAME", default_value = std::env::consts::ARCH)]
    architecture: Architecture,
    /// Folder of an application, may be given several times
    #[arg(long, value_name = "DIR")]
    app: Vec<PathBuf>,
    /// Count of repaired security holes
    #[arg(long, value_name = "N", default_value_t = 0)]
    security_version: u32,
    /// Devices that confirmed the release refuse lower security versions
    #[arg(long)]
    raises_floor: bool,
    /// Seconds until the verdict on a trial
    #[arg(long, value_name = "SECONDS", default_value_t = default_health().time_limit_s)]
    time_limit: u32,
    /// Seconds until the verdict if no host answers at all
    #[arg(long, value_name = "SECONDS", default_value_t = default_health().no_contact_limit_s)]
    no_contact_limit: u32,
    /// Folder of the account's keys, with the metadata to build on; no private key is used
    #[arg(long, value_name = "DIR")]
    keys: PathBuf,
    /// Folder to make the release in
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    expiry: ExpiryArgs,
}

#[derive(Debug, Args)]
pub(crate) struct SignArgs {
    #[command(flatten)]
    folder: FolderArgs,
    /// Folder of the keys
    #[arg(long, value_name = "DIR")]
    keys: PathBuf,
    #[command(flatten)]
    unlock: UnlockArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    folder: FolderArgs,
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Version of a release of the service
    #[arg(required_unless_present = "dir")]
    version: Option<ReleaseVersion>,
    /// Folder of a release
    #[arg(long, conflicts_with = "version")]
    dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct WithdrawArgs {
    /// Version of the release
    version: ReleaseVersion,
    /// Folder of the keys
    #[arg(long, value_name = "DIR")]
    keys: PathBuf,
    #[command(flatten)]
    expiry: ExpiryArgs,
    #[command(flatten)]
    unlock: UnlockArgs,
}

pub(crate) async fn run(command: Command, session: &Session) -> anyhow::Result<()> {
    match command {
        Command::Create(args) => create(args, session).await,
        Command::Sign(args) => sign(&args, session).await,
        Command::Publish(args) => publishing::publish(&args.dir, session).await,
        Command::Export(args) => publishing::export(&args.folder.dir, &args.out, session).await,
        Command::Show(ShowArgs { dir: Some(dir), .. }) => show(&ReleaseFolder::open(&dir)?.release()?, session),
        Command::Show(ShowArgs { version, .. }) => publishing::show(version.as_ref(), session).await,
        Command::List => publishing::list(session).await,
        Command::Withdraw(args) => withdraw(&args, session).await,
    }
}

async fn create(args: CreateArgs, session: &Session) -> anyhow::Result<()> {
    let (recipe, base) = match &args.from {
        Some(file) => (Recipe::load(file)?, file.parent().unwrap_or(Path::new("")).to_owned()),
        None => (recipe_of(&args)?, PathBuf::new()),
    };
    let parts = recipe.parts(&base)?;
    let release = recipe.release(&parts);
    // The document's own rules, before anything is written.
    let text = release.to_bytes()?;
    let known = MetadataFolder::at(Keyring::open(&args.keys)?.metadata());
    let drafts = draft(&known, &release, &text, &parts, args.expiry.from(session.now()).targets)?;

    let folder = ReleaseFolder::create(&args.out)?;
    for part in &parts {
        for artifact in &part.artifacts {
            folder.add_artifact(artifact)?;
        }
        if let Some(bytes) = &part.bytes {
            folder.add_bytes(bytes)?;
        }
    }
    for (role, draft) in &drafts {
        folder.replace_metadata(&unsigned(role, draft).await?)?;
    }
    let wish = folder.write_release(&release)?;
    session.printer.say(format_args!("add signatures with `mbl release sign {} --keys DIR`", args.out.display()));
    let value = json!({
        "folder": args.out, "version": release.version, "release": wish.release, "digest": wish.digest,
        "roles": drafts.keys().map(Role::to_string).collect::<Vec<_>>(),
    });
    session.printer.data(&value, format_args!("{} {} {}", args.out.display(), release.version, wish.digest))
}

fn recipe_of(args: &CreateArgs) -> anyhow::Result<Recipe> {
    let version = args.version.clone().ok_or_else(|| Failure::new(Exit::Misuse, "a release needs a version"))?;
    let os = |folder: &PathBuf| OsPart {
        folder: folder.clone(),
        architectures: vec![args.architecture.clone()],
        minimum_updater: 1,
        with_firmware: args.with_firmware,
    };
    Ok(Recipe {
        version,
        security_version: SecurityVersion(args.security_version),
        raises_floor: args.raises_floor,
        health: Health { time_limit_s: args.time_limit, no_contact_limit_s: args.no_contact_limit },
        os: args.os.as_ref().map(os),
        applications: args.app.iter().map(|folder| AppPart { folder: folder.clone(), minimum_updater: 1 }).collect(),
        configurations: Vec::new(),
    })
}

/// The next version of `targets` and of each role that must vouch for something new.
fn draft(
    known: &MetadataFolder,
    release: &Release,
    text: &[u8],
    parts: &[Part],
    expires: UnixSeconds,
) -> anyhow::Result<BTreeMap<Role, TargetsDraft>> {
    let mut drafts = BTreeMap::from([(Role::Targets, next(known.draft(&Role::Targets)?, expires))]);
    let delegations: BTreeSet<Delegate> =
        drafts.get(&Role::Targets).map(|targets| targets.delegations.keys().cloned().collect()).unwrap_or_default();
    for part in parts {
        if let Role::Delegated(delegate) = &part.role
            && !delegations.contains(delegate)
        {
            let failure =
                Failure::new(Exit::Failed, format!("nobody may sign `{}` for this account", part.component.path));
            let hint = match delegate {
                Delegate::App(name) => format!("let a team sign it with `mbl keys add-app {name} --dir DIR`"),
                Delegate::Os => "make keys with `mbl keys init`".to_owned(),
            };
            return Err(failure.hint(hint).into());
        }
        let listed = known.draft(&part.role)?.entries.get(&part.component.path).copied();
        match listed {
            Some(entry) if entry == part.entry() => continue,
            Some(_) => return Err(taken(&part.component.path)),
            None => {}
        }
        let draft = match drafts.entry(part.role.clone()) {
            std::collections::btree_map::Entry::Occupied(there) => there.into_mut(),
            std::collections::btree_map::Entry::Vacant(free) => free.insert(next(known.draft(&part.role)?, expires)),
        };
        draft.entries.insert(part.component.path.clone(), part.entry());
    }
    let path = release.target_path()?;
    if let Some(targets) = drafts.get_mut(&Role::Targets) {
        if targets.entries.contains_key(&path) {
            return Err(taken(&path));
        }
        targets.insert(path, text);
    }
    Ok(drafts)
}

fn next(mut draft: TargetsDraft, expires: UnixSeconds) -> TargetsDraft {
    draft.version += 1;
    draft.expires = expires;
    draft
}

fn taken(path: &TargetPath) -> anyhow::Error {
    Failure::new(Exit::Failed, format!("`{path}` was signed before with other content"))
        .hint("what was signed never changes: choose a new version")
        .into()
}

/// The file of a draft without any signature.
async fn unsigned(role: &Role, draft: &TargetsDraft) -> anyhow::Result<SignedFile> {
    Ok(match role {
        Role::Targets => draft.sign(&[]).await?,
        Role::Delegated(delegate) => draft.sign_as(delegate, &[]).await?,
    })
}

async fn sign(args: &SignArgs, session: &Session) -> anyhow::Result<()> {
    let folder = ReleaseFolder::open(&args.folder.dir)?;
    let ring = Keyring::open(&args.keys)?;
    let known = MetadataFolder::at(ring.metadata());
    let files = folder.metadata().files()?;
    let here: Vec<&str> = ring.roles().into_iter().filter(|role| files.keys().any(|(name, _)| name == role)).collect();
    if here.is_empty() {
        return Err(Failure::new(
            Exit::Failed,
            format!("{} holds no key that this release needs", args.keys.display()),
        )
        .into());
    }
    refuse_older(&files, &known)?;
    let unlocked = ring.unlock(&here, &args.unlock)?;
    let mut signed = BTreeMap::new();
    for ((role, version), file) in files {
        let bytes = match here.contains(&role.as_str()) {
            true => add_signatures(&file.bytes, unlocked.of(&role)?).await?,
            false => file.bytes,
        };
        folder.replace_metadata(&SignedFile { name: file.name.clone(), bytes: bytes.clone() })?;
        signed.insert((role, version), SignedFile { name: file.name, bytes });
    }
    let missing = match judge(&known, signed.values(), session.now()) {
        Ok(()) => {
            for file in signed.values() {
                known.store(file)?;
            }
            None
        }
        Err(reason) if reason.code == ReasonCode::BelowThreshold => Some(reason),
        Err(reason) => return Err(anyhow::Error::new(reason).context("no device would accept the signed release")),
    };
    match &missing {
        None => session
            .printer
            .say(format_args!("complete; publish with `mbl release publish {}`", args.folder.dir.display())),
        Some(reason) => session.printer.say(format_args!("signatures are still missing: {}", reason.text)),
    }
    let value = json!({ "folder": args.folder.dir, "signed": here, "complete": missing.is_none() });
    session.printer.data(&value, format_args!("signed {}", here.join(", ")))
}

/// A draft on top of metadata that is not the newest would undo what was signed since.
fn refuse_older(files: &BTreeMap<(String, u64), SignedFile>, known: &MetadataFolder) -> anyhow::Result<()> {
    for (role, version) in files.keys() {
        let parsed = role.parse::<Delegate>().map_or(Role::Targets, Role::Delegated);
        let newest = known.newest(&parsed)?.map_or(0, |(version, _)| version);
        if *version < newest {
            let name = file_name(&parsed, *version);
            return Err(Failure::new(
                Exit::Failed,
                format!("{name} is older than version {newest}, which was signed already"),
            )
            .hint("create the release again on top of the newest metadata")
            .into());
        }
    }
    Ok(())
}

/// What the service, and every device after it, will say of the signed files.
fn judge<'a>(
    known: &MetadataFolder,
    files: impl Iterator<Item = &'a SignedFile>,
    now: UnixSeconds,
) -> Result<(), Reason> {
    let stored = known.files().map_err(|error| Reason::new(ReasonCode::StorageFailed, format!("{error:#}")))?;
    let current = Repository::read(stored.values().map(|file| (file.name.as_str(), file.bytes.as_slice())))?;
    let upload = files.map(|file| (file.name.clone(), file.bytes.clone())).collect();
    publish::admit(&current, &upload, now).map(|_| ())
}

async fn withdraw(args: &WithdrawArgs, session: &Session) -> anyhow::Result<()> {
    let ring = Keyring::open(&args.keys)?;
    let known = MetadataFolder::at(ring.metadata());
    let mut targets = next(known.draft(&Role::Targets)?, args.expiry.from(session.now()).targets);
    let path = TargetPath::new(format!("releases/{}.json", args.version))?;
    if targets.entries.remove(&path).is_none() {
        return Err(Failure::new(Exit::Failed, format!("release {} is not in the targets", args.version)).into());
    }
    let unlocked = ring.unlock(&["targets"], &args.unlock)?;
    let file = targets.sign(unlocked.of("targets")?).await?;
    known.store(&file)?;
    session.printer.say("publish the new targets with `mbl keys publish`");
    session
        .printer
        .data(&json!({ "version": args.version, "file": file.name }), format_args!("withdrew {}", args.version))
}

/// Shows a release document.
pub(crate) fn show(release: &Release, session: &Session) -> anyhow::Result<()> {
    let mut text = format!("release {} security version {}", release.version, release.security_version);
    if release.raises_floor {
        text += ", raises the floor";
    }
    for component in &release.components {
        text += &format!("\n  {} {} bytes {}", component.path, component.size, component.digest);
    }
    session.printer.data(release, text)
}
