//! `mbl factory`: gives new devices their identity. The device's private key is born on the device and never comes here.

pub(crate) mod authority;
pub(crate) mod line;

use std::{path::PathBuf, process::Stdio, time::Duration};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use fleet_api::{Authority, Client, ClientError, CreateEnrolment, ServiceFacts, UploadAuthority};
use protocol_types::{
    AccountName, Architecture, BoardName, EndpointName, FactoryDocument, Standing, recovery::RecoveryKey,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{ChildStdout, Command as Program},
    time::timeout,
};

use crate::{
    factory::{
        authority::FactoryAuthority,
        line::{Heard, Outcome},
    },
    failure::{Exit, Failure},
    keyring::Keyring,
    keys::recovery_key,
    pages::all_pages,
    repository::MetadataFolder,
    request::not_there,
    secret::PassphraseArgs,
    session::{Session, service_error},
    words::{or_dash, time},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The authority that vouches for new devices
    #[command(subcommand)]
    Authority(AuthorityCommand),
    /// Give a new device its identity
    ///
    /// Runs the given program on the device's side: it makes the device's key and prints a certificate request, and reads the
    /// factory package on its standard input. `mbl-agent factory` is such a program; for a board, it is one that connects to the
    /// serial port, such as `socat - /dev/ttyUSB0,b115200,rawer`: an image without an identity waits there, and what else is
    /// printed on the port does not disturb.
    Provision(ProvisionArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuthorityCommand {
    /// Make the authority's key and certificate
    Init {
        /// Folder of the authority
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// Account whose devices it vouches for
        #[arg(long, value_name = "NAME", default_value = "default")]
        account: AccountName,
        #[command(flatten)]
        passphrase: PassphraseArgs,
    },
    /// Let the service accept devices of this authority
    Upload {
        /// Folder of the authority
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// What people call it
        #[arg(long, default_value = "factory")]
        name: String,
    },
    /// List the authorities that the service knows, revoked ones too
    List,
    /// Let an authority enrol nobody any more; devices that it enrolled before stay
    Revoke {
        /// Its id, as `mbl factory authority list` shows it
        id: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ProvisionArgs {
    /// Name of the device
    #[arg(long, value_name = "NAME")]
    endpoint: EndpointName,
    /// Folder of the factory authority
    #[arg(long, value_name = "DIR")]
    authority: PathBuf,
    /// Folder of the account's keys, whose newest root the device will trust
    #[arg(long, value_name = "DIR")]
    keys: PathBuf,
    /// Board of the device
    #[arg(long, value_name = "NAME", default_value = "host")]
    board: BoardName,
    /// Processor architecture of the device
    #[arg(long, value_name = "NAME", default_value = std::env::consts::ARCH)]
    architecture: Architecture,
    /// Seconds that the device's program may take for each of its two steps
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    patience: u64,
    #[command(flatten)]
    passphrase: PassphraseArgs,
    /// Program that speaks for the device
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    program: Vec<String>,
}

/// An enrolment that is so many seconds old was not made by this command, whatever the clocks of the factory and of the service say.
const EARLIER: u64 = 300;

pub(crate) async fn run(command: Command, session: &Session) -> anyhow::Result<()> {
    match command {
        Command::Authority(command) => vouch(command, session).await,
        Command::Provision(args) => provision(args, session).await,
    }
}

async fn vouch(command: AuthorityCommand, session: &Session) -> anyhow::Result<()> {
    match command {
        AuthorityCommand::Init { dir, account, passphrase } => {
            let secret = passphrase.chosen(&format!("the authority in {}", dir.display()))?;
            let authority = FactoryAuthority::create(&dir, &account, &secret, session.now())?;
            session
                .printer
                .say("keep the folder in the factory; let the service know it with `mbl factory authority upload`");
            let value = json!({ "folder": dir, "account": account, "certificate": authority.certificate()? });
            session.printer.data(&value, format_args!("{}", authority.folder().display()))
        }
        AuthorityCommand::Upload { dir, name } => {
            let certificate = FactoryAuthority::open(&dir)?.certificate()?;
            let uploaded = session.client()?.upload_authority(&UploadAuthority { name, certificate }).await;
            let authority = uploaded.map_err(service_error)?;
            session.printer.data(&authority, format_args!("{} {}", authority.id, authority.fingerprint))
        }
        AuthorityCommand::List => {
            let client = session.client()?;
            let known: Vec<Authority> =
                all_pages(async |page| client.authorities(&page).await.map_err(service_error)).await?;
            session.printer.table(&known, &["AUTHORITY", "NAME", "SUBJECT", "UNTIL", "REVOKED"], |authority| {
                let Authority { id, name, subject, not_after, revoked, .. } = authority;
                vec![id.clone(), name.clone(), subject.clone(), time(*not_after), or_dash(revoked.map(time))]
            })
        }
        AuthorityCommand::Revoke { id } => {
            let revoked = session.client()?.revoke_authority(&id).await.map_err(|error| {
                not_there(error, format!("there is no authority `{id}`"), "list them with `mbl factory authority list`")
            })?;
            session.printer.data(&revoked, format_args!("{} {} enrols nobody any more", revoked.id, revoked.name))
        }
    }
}

async fn provision(args: ProvisionArgs, session: &Session) -> anyhow::Result<()> {
    let authority = FactoryAuthority::open(&args.authority)?;
    let ring = Keyring::open(&args.keys)?;
    let root = MetadataFolder::at(ring.metadata()).root()?;
    let secret = args.passphrase.known(&format!("the authority in {}", authority.folder().display()))?;
    let client = session.client()?;
    let service = client.service_facts().await.map_err(service_error)?;
    is_expected(&client, &args.endpoint, &authority, session).await?;
    let tuf_root = String::from_utf8(root.bytes).context("the root is not text")?;
    let document = document(&args, &service, (tuf_root, recovery_key::public(ring.folder())?), session);

    let patience = Duration::from_secs(args.patience);
    let mut device = Device::start(&args.program)?;
    let request = device.request(patience).await?;
    session.printer.detail(format_args!("{} asks for a certificate", args.endpoint));
    let certificate = authority.certify(&request, (&service.account, &args.endpoint), &secret, session.now())?;
    let package = serde_json::to_string(&json!({ "document": document, "certificate": certificate }))?;
    // Before the step that cannot be done twice. Should that fail, the same command finds the same enrolment.
    let wish = CreateEnrolment { endpoint: Some(args.endpoint.clone()), authority: None };
    let enrolment = client.create_enrolment(&wish).await.map_err(service_error)?;
    if enrolment.created.0 + EARLIER < session.now().0 {
        let (endpoint, created) = (&args.endpoint, time(enrolment.created));
        session.printer.say(format_args!(
            "{endpoint} may enrol since {created}; if another board has that name already, the two keep each other out"
        ));
    }
    device.finish(&package, patience).await?;

    let value = json!({
        "endpoint": args.endpoint, "account": service.account, "enrolment": enrolment.id, "certificate": certificate,
    });
    session.printer.data(&value, format_args!("{} may enrol in account {}", args.endpoint, service.account))
}

/// Refuses a name that a device of the account has, and says so if the service would turn the device away as things stand. A token that
/// may not read learns neither.
async fn is_expected(
    client: &Client,
    endpoint: &EndpointName,
    authority: &FactoryAuthority,
    session: &Session,
) -> anyhow::Result<()> {
    let refused = |error: &ClientError, status| error.problem().is_some_and(|problem| problem.status == status);
    match client.device(endpoint).await {
        Ok(found) if found.device.standing != Standing::Decommissioned => {
            let message = format!("there is a device `{endpoint}` in the account, and no two may have one name");
            let hint =
                format!("choose another name; if this board takes its place: `mbl device decommission {endpoint}`");
            return Err(Failure::new(Exit::Refused, message).hint(hint).into());
        }
        Err(error) if refused(&error, 403) => {
            session.printer.detail("the token may not read, so nobody knows whether the name is free");
            return Ok(());
        }
        Err(error) if !refused(&error, 404) => return Err(service_error(error)),
        Ok(_) | Err(_) => {}
    }
    let known: Vec<Authority> = all_pages(async |page| client.authorities(&page).await.map_err(service_error)).await?;
    let own = authority.fingerprint()?;
    if !known.iter().any(|authority| authority.fingerprint == own && authority.revoked.is_none()) {
        let folder = authority.folder().display();
        session.printer.say(format_args!(
            "the service turns this device away until it knows the authority: `mbl factory authority upload --dir {folder}`"
        ));
    }
    Ok(())
}

/// The document, with what the folder of the account's keys gives to every device.
fn document(
    args: &ProvisionArgs,
    service: &ServiceFacts,
    (tuf_root, recovery_key): (String, Option<RecoveryKey>),
    session: &Session,
) -> FactoryDocument {
    FactoryDocument {
        format: 1,
        endpoint: args.endpoint.clone(),
        account: service.account.clone(),
        board: args.board.clone(),
        architecture: args.architecture.clone(),
        bootstrap_uri: service.bootstrap_uri.clone(),
        service_authority: service.authority.clone(),
        tuf_root,
        time_key: service.time_key.clone(),
        provisioned: session.now(),
        recovery_key,
    }
}

/// The program that speaks for the device.
struct Device {
    name: String,
    child: tokio::process::Child,
    output: ChildStdout,
}

/// How long a program may take to end after the device accepted its package; one that only connects to a port does not end.
const FAREWELL: Duration = Duration::from_secs(2);

impl Device {
    fn start(program: &[String]) -> anyhow::Result<Self> {
        let (name, arguments) = program.split_first().context("no program was given")?;
        let mut child = Program::new(name)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start `{name}`"))?;
        let output = child.stdout.take().context("the program has no standard output")?;
        Ok(Self { name: name.clone(), child, output })
    }

    /// Reads the certificate request that the program prints.
    async fn request(&mut self, patience: Duration) -> anyhow::Result<String> {
        let mut heard = Heard::default();
        let listen = async {
            while heard.request().is_none() && hear(&mut self.output, &mut heard).await? {}
            std::io::Result::Ok(())
        };
        match timeout(patience, listen).await {
            Err(_) => {
                return Err(self.failed(format!("printed no certificate request within {} s", patience.as_secs())));
            }
            Ok(listened) => listened.with_context(|| format!("cannot read what `{}` prints", self.name))?,
        }
        match (heard.request(), heard.outcome()) {
            (Some(request), _) => Ok(request),
            (None, Some(Outcome::Refused(why))) => Err(self.failed(format!("asks for no certificate: {why}"))),
            (None, _) => Err(self.failed("ended without printing a certificate request")),
        }
    }

    /// Hands over the package and waits until the device has stored it.
    async fn finish(mut self, package: &str, patience: Duration) -> anyhow::Result<()> {
        let mut input = self.child.stdin.take().context("the program has no standard input")?;
        let mut heard = Heard::default();
        let hand_over = async {
            // A program that ends early says why by its status, not by a broken pipe.
            drop(input.write_all(format!("{package}\n").as_bytes()).await);
            drop(input.flush().await);
        };
        let listen = async {
            while heard.outcome().is_none() && hear(&mut self.output, &mut heard).await? {}
            std::io::Result::Ok(())
        };
        match timeout(patience, async { tokio::join!(hand_over, listen).1 }).await {
            Err(_) => return Err(self.failed(format!("did not store the package within {} s", patience.as_secs()))),
            Ok(listened) => listened.with_context(|| format!("cannot read what `{}` prints", self.name))?,
        }
        // Only now: a program that connects to a port ends with its input.
        drop(input);
        let ended = timeout(FAREWELL, self.child.wait()).await;
        match (heard.outcome(), ended) {
            (Some(Outcome::Refused(why)), _) => Err(self.failed(format!("refused the package: {why}"))),
            (Some(Outcome::Accepted), Ok(Ok(status))) if !status.success() => {
                Err(self.failed(format!("accepted the package, but then ended with {status}")))
            }
            (Some(Outcome::Accepted), _) => Ok(()),
            (None, Ok(Ok(status))) if status.success() => Ok(()),
            (None, Ok(Ok(status))) => Err(self.failed(format!("refused the package: {status}"))),
            (None, Ok(Err(error))) => Err(error).with_context(|| format!("cannot wait for `{}`", self.name)),
            (None, Err(_)) => Err(self.failed("closed its output and did not say how the factory step ended")),
        }
    }

    fn failed(&self, what: impl std::fmt::Display) -> anyhow::Error {
        Failure::new(Exit::Failed, format!("`{}` {what}", self.name))
            .hint("read what the program said above; when that is mended, give the same command again")
            .into()
    }
}

/// Hears more of a program; false if it closed its output.
async fn hear(output: &mut ChildStdout, heard: &mut Heard) -> std::io::Result<bool> {
    let mut piece = [0; 4096];
    let length = output.read(&mut piece).await?;
    heard.push(piece.get(..length).unwrap_or_default());
    Ok(length > 0)
}
