//! `mbl keys`: the account's signing keys and the first metadata. Private keys stay in their folder or token.

pub(crate) mod recovery_key;
pub(crate) mod sealed_key;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use fleet_api::RepositoryKeys;
use protocol_release::{
    metadata::{Delegate, PublicKey},
    signing::{Holders, RootDraft, SignedFile, TargetsDraft, add_signatures},
};
use protocol_types::{AppName, UnixSeconds};
use serde_json::json;

use crate::{
    failure::{Exit, Failure},
    keyring::{Keyring, PinArgs, Secrets},
    release::publishing::publish_files,
    repository::{MetadataFolder, Role},
    secret::{PassphraseArgs, Secret},
    session::{Session, service_error},
    words::time,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make the account's keys and the first signed metadata
    Init(InitArgs),
    /// Show the keys of a folder
    Show(FolderArgs),
    /// Let a team sign an application: make a key for it and delegate to it
    AddApp(AddAppArgs),
    /// Replace keys of the root by new ones, signed by the old and the new
    RotateRoot(RenewArgs),
    /// Sign the newest metadata of the offline roles again with a later expiry
    Refresh(RenewArgs),
    /// Publish the newest metadata of a folder
    Publish(FolderArgs),
    /// Make the account's recovery key: who holds it opens the state of a device whose key store is dead
    ///
    /// Devices that are provisioned from then on with this folder get its public half.
    Recovery(RecoveryArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RecoveryArgs {
    #[command(flatten)]
    folder: FolderArgs,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

#[derive(Debug, Args)]
pub(crate) struct FolderArgs {
    /// Folder of the keys
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct UnlockArgs {
    #[command(flatten)]
    passphrase: PassphraseArgs,
    #[command(flatten)]
    pin: PinArgs,
}

impl Secrets for UnlockArgs {
    fn passphrase(&self, folder: &Path) -> anyhow::Result<Secret> {
        self.passphrase.known(&format!("the keys in {}", folder.display()))
    }
    fn pin(&self, token: &str) -> anyhow::Result<Secret> {
        self.pin.pin(token)
    }
}

#[derive(Debug, Args)]
pub(crate) struct ExpiryArgs {
    /// Days until a new root expires
    #[arg(long, value_name = "DAYS", default_value_t = 3650)]
    root_days: u32,
    /// Days until new targets and delegated metadata expire
    #[arg(long, value_name = "DAYS", default_value_t = 365)]
    targets_days: u32,
}

/// Expiry times of metadata signed now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expiry {
    /// Of a root.
    pub(crate) root: UnixSeconds,
    /// Of targets and delegated roles.
    pub(crate) targets: UnixSeconds,
}

impl ExpiryArgs {
    /// The times, counted from `now`.
    pub(crate) fn from(&self, now: UnixSeconds) -> Expiry {
        let after = |days: u32| UnixSeconds(now.0.saturating_add(u64::from(days) * 86_400));
        Expiry { root: after(self.root_days), targets: after(self.targets_days) }
    }
}

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    #[command(flatten)]
    folder: FolderArgs,
    /// Root keys to make
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    root_keys: u32,
    /// Root keys that must sign a new root
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    root_threshold: u32,
    /// Application whose team gets a key, may be given several times
    #[arg(long = "app", value_name = "NAME")]
    apps: Vec<AppName>,
    /// Key of a role in a hardware token instead of a file: ROLE=pkcs11:token=TOKEN;object=LABEL?module-path=LIBRARY
    #[arg(long, value_name = "ROLE=URI", value_parser = role_and_uri)]
    pkcs11: Vec<(String, String)>,
    /// File with the public keys of the service (`mbl --json service keys`); asked from the service without it
    #[arg(long, value_name = "FILE")]
    service_keys: Option<PathBuf>,
    #[command(flatten)]
    expiry: ExpiryArgs,
    #[command(flatten)]
    unlock: UnlockArgs,
}

#[derive(Debug, Args)]
pub(crate) struct AddAppArgs {
    #[command(flatten)]
    folder: FolderArgs,
    /// The application
    name: AppName,
    /// Key in a hardware token: pkcs11:token=TOKEN;object=LABEL?module-path=LIBRARY
    #[arg(long, value_name = "URI")]
    pkcs11: Option<String>,
    #[command(flatten)]
    expiry: ExpiryArgs,
    #[command(flatten)]
    unlock: UnlockArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RenewArgs {
    #[command(flatten)]
    folder: FolderArgs,
    #[command(flatten)]
    expiry: ExpiryArgs,
    #[command(flatten)]
    unlock: UnlockArgs,
}

fn role_and_uri(text: &str) -> Result<(String, String), String> {
    let (role, uri) = text.split_once('=').ok_or("write ROLE=pkcs11:…")?;
    let known = matches!(role, "root" | "targets") || role.parse::<Delegate>().is_ok();
    if known {
        Ok((role.to_owned(), uri.to_owned()))
    } else {
        Err(format!("`{role}` is not root, targets, os or app-NAME"))
    }
}

pub(crate) async fn run(command: Command, session: &Session) -> anyhow::Result<()> {
    match command {
        Command::Init(args) => init(args, session).await,
        Command::Show(args) => show(&Keyring::open(&args.dir)?, session),
        Command::AddApp(args) => add_app(args, session).await,
        Command::RotateRoot(args) => rotate_root(args, session).await,
        Command::Refresh(args) => refresh(args, session).await,
        Command::Publish(args) => publish(&Keyring::open(&args.dir)?, session).await,
        Command::Recovery(args) => recovery(&args, session),
    }
}

async fn init(args: InitArgs, session: &Session) -> anyhow::Result<()> {
    if args.root_threshold > args.root_keys {
        let message = format!("{} root keys can never give {} signatures", args.root_keys, args.root_threshold);
        return Err(Failure::new(Exit::Misuse, message).hint("lower `--root-threshold` or raise `--root-keys`").into());
    }
    let online = online_keys(args.service_keys.as_deref(), session).await?;
    let mut ring = Keyring::create(&args.folder.dir, args.root_threshold)?;
    let mut roles = vec!["root".to_owned(); usize::try_from(args.root_keys)?];
    roles.extend(["targets".to_owned(), Delegate::Os.to_string()]);
    roles.extend(args.apps.iter().map(|name| Delegate::App(name.clone()).to_string()));
    let mut uris: Vec<(String, String)> = args.pkcs11;
    let passphrase = match roles.iter().all(|role| uris.iter().any(|(named, _)| named == role)) {
        true => None,
        false => Some(args.unlock.passphrase.chosen(&format!("the keys in {}", ring.folder().display()))?),
    };
    for role in &roles {
        match (uris.iter().position(|(named, _)| named == role), &passphrase) {
            (Some(at), _) => ring.add_token_key(role, &uris.remove(at).1, &args.unlock).await?,
            (None, Some(passphrase)) => ring.add_file_key(role, passphrase)?,
            (None, None) => anyhow::bail!("role `{role}` needs a passphrase or a token"),
        }
        session.printer.detail(format_args!("made a key for {role}"));
    }
    if let Some((role, _)) = uris.first() {
        return Err(Failure::new(
            Exit::Misuse,
            format!("there is no further key of role `{role}` for a token to hold"),
        )
        .into());
    }
    ring.save()?;
    // The passphrase was just chosen; nobody types it a third time.
    let known = Known { passphrase, unlock: &args.unlock };
    sign_first(&ring, &online, args.expiry.from(session.now()), &known).await?;
    session.printer.say(format_args!("made {} keys in {}", ring.keys().len(), ring.folder().display()));
    session.printer.say("keep the folder off line and a copy of it elsewhere; publish with `mbl keys publish`");
    show(&ring, session)
}

/// A passphrase that is known already.
struct Known<'a> {
    passphrase: Option<Secret>,
    unlock: &'a UnlockArgs,
}

impl Secrets for Known<'_> {
    fn passphrase(&self, folder: &Path) -> anyhow::Result<Secret> {
        self.passphrase.clone().map_or_else(|| self.unlock.passphrase(folder), Ok)
    }
    fn pin(&self, token: &str) -> anyhow::Result<Secret> {
        self.unlock.pin(token)
    }
}

/// The public keys with which the service signs snapshot and timestamp.
async fn online_keys(file: Option<&Path>, session: &Session) -> anyhow::Result<RepositoryKeys> {
    match file {
        None => session.client()?.repository_keys().await.map_err(service_error),
        Some(file) => {
            let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            serde_json::from_slice(&text)
                .with_context(|| format!("{} does not hold the keys of a service", file.display()))
        }
    }
}

/// A public key as the API carries it.
fn public_key(value: &serde_json::Value) -> anyhow::Result<PublicKey> {
    value.to_string().parse().context("the service names a key in an unknown form")
}

fn holders(ring: &Keyring, role: &str) -> Holders {
    Holders { keys: ring.public(role), threshold: 1 }
}

/// Signs root 1, targets 1 with every delegation, and an empty file for each delegated role.
async fn sign_first(
    ring: &Keyring,
    online: &RepositoryKeys,
    expiry: Expiry,
    secrets: &dyn Secrets,
) -> anyhow::Result<()> {
    let root = RootDraft {
        version: 1,
        expires: expiry.root,
        root: Holders { threshold: ring.root_threshold(), ..holders(ring, "root") },
        targets: holders(ring, "targets"),
        snapshot: Holders::one(&public_key(&online.snapshot)?),
        timestamp: Holders::one(&public_key(&online.timestamp)?),
    };
    let mut targets = TargetsDraft::new(1, expiry.targets);
    for role in ring.roles() {
        if let Ok(delegate) = role.parse::<Delegate>() {
            targets.delegations.insert(delegate, holders(ring, role));
        }
    }
    let folder = MetadataFolder::at(ring.metadata());
    let unlocked = ring.unlock(&ring.roles(), secrets)?;
    folder.store(&root.sign(unlocked.of("root")?).await?)?;
    folder.store(&targets.sign(unlocked.of("targets")?).await?)?;
    for delegate in targets.delegations.keys() {
        let empty = TargetsDraft::new(1, expiry.targets);
        folder.store(&empty.sign_as(delegate, unlocked.of(&delegate.to_string())?).await?)?;
    }
    Ok(())
}

fn show(ring: &Keyring, session: &Session) -> anyhow::Result<()> {
    let rows: Vec<serde_json::Value> = ring
        .keys()
        .iter()
        .map(|key| {
            let place = key.file.clone().or_else(|| key.pkcs11.clone());
            json!({ "role": key.role, "id": key.public.id().to_string(), "place": place, "public": key.public })
        })
        .collect();
    session.printer.table(&rows, &["ROLE", "KEY", "PLACE"], |row| {
        let text = |field: &str| row.get(field).and_then(|value| value.as_str()).unwrap_or("-").to_owned();
        vec![text("role"), text("id").chars().take(16).collect(), text("place")]
    })
}

async fn add_app(args: AddAppArgs, session: &Session) -> anyhow::Result<()> {
    let mut ring = Keyring::open(&args.folder.dir)?;
    let folder = MetadataFolder::at(ring.metadata());
    let delegate = Delegate::App(args.name);
    let role = delegate.to_string();
    let mut targets = folder.draft(&Role::Targets)?;
    if targets.delegations.contains_key(&delegate) {
        return Err(Failure::new(Exit::Failed, format!("`{role}` has a key already")).into());
    }
    let passphrase = args.unlock.passphrase(ring.folder())?;
    match &args.pkcs11 {
        Some(uri) => ring.add_token_key(&role, uri, &args.unlock).await?,
        None => ring.add_file_key(&role, &passphrase)?,
    }
    ring.save()?;
    let expiry = args.expiry.from(session.now());
    targets.version += 1;
    targets.expires = expiry.targets;
    targets.delegations.insert(delegate.clone(), holders(&ring, &role));
    let unlocked = ring.unlock(&["targets", &role], &Known { passphrase: Some(passphrase), unlock: &args.unlock })?;
    folder.store(&targets.sign(unlocked.of("targets")?).await?)?;
    folder.store(&TargetsDraft::new(1, expiry.targets).sign_as(&delegate, unlocked.of(&role)?).await?)?;
    session.printer.say(format_args!("`{role}` may now sign apps; publish with `mbl keys publish`"));
    show(&ring, session)
}

async fn rotate_root(args: RenewArgs, session: &Session) -> anyhow::Result<()> {
    let mut ring = Keyring::open(&args.folder.dir)?;
    let folder = MetadataFolder::at(ring.metadata());
    let mut root = folder.root_draft()?;
    let passphrase = args.unlock.passphrase(ring.folder())?;
    let known = Known { passphrase: Some(passphrase.clone()), unlock: &args.unlock };
    let old = ring.unlock_keys(&root.root.keys, &known)?;
    ring.retire("root");
    for _ in 0..root.root.keys.len() {
        ring.add_file_key("root", &passphrase)?;
    }
    ring.save()?;
    root.version += 1;
    root.expires = args.expiry.from(session.now()).root;
    root.root.keys = ring.public("root");
    let once = root.sign(&old).await?;
    let new = ring.unlock(&["root"], &known)?;
    let bytes = add_signatures(&once.bytes, new.of("root")?).await?;
    folder.store(&SignedFile { name: once.name, bytes })?;
    session.printer.say(format_args!("root {} names new keys; publish with `mbl keys publish`", root.version));
    show(&ring, session)
}

async fn refresh(args: RenewArgs, session: &Session) -> anyhow::Result<()> {
    let ring = Keyring::open(&args.folder.dir)?;
    let folder = MetadataFolder::at(ring.metadata());
    let expires = args.expiry.from(session.now()).targets;
    let roles: Vec<&str> = ring.roles().into_iter().filter(|role| *role != "root").collect();
    let unlocked = ring.unlock(&roles, &args.unlock)?;
    for name in roles {
        let delegate = name.parse::<Delegate>().ok();
        let mut draft = folder.draft(&delegate.clone().map_or(Role::Targets, Role::Delegated))?;
        draft.version += 1;
        draft.expires = expires;
        let file = match &delegate {
            None => draft.sign(unlocked.of(name)?).await?,
            Some(delegate) => draft.sign_as(delegate, unlocked.of(name)?).await?,
        };
        folder.store(&file)?;
        session.printer.say(format_args!("{} expires {}", file.name, time(expires)));
    }
    Ok(())
}

fn recovery(args: &RecoveryArgs, session: &Session) -> anyhow::Result<()> {
    let ring = Keyring::open(&args.folder.dir)?;
    let secret = args.passphrase.chosen(&format!("the recovery key in {}", ring.folder().display()))?;
    let public = recovery_key::create(ring.folder(), &secret)?;
    session.printer.say("keep the private half off line and a copy of it elsewhere; nothing else opens a device whose key store is dead");
    session.printer.data(&json!({ "recovery_key": public }), public)
}

/// Publishes every root, and the newest file of each other role.
async fn publish(ring: &Keyring, session: &Session) -> anyhow::Result<()> {
    let folder = MetadataFolder::at(ring.metadata());
    let mut newest: BTreeMap<String, SignedFile> = BTreeMap::new();
    for ((role, version), file) in folder.files()? {
        let key = if role == "root" { format!("{version}.root") } else { role };
        newest.insert(key, file);
    }
    let files: Vec<SignedFile> = newest.into_values().collect();
    let repository = publish_files(&files, session).await?;
    let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
    session.printer.data(&repository, format_args!("published {}", names.join(", ")))
}
