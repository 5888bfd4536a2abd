//! `mbl factory`: gives new devices their identity. The device's private key is born on the device and never comes here.

use std::{path::PathBuf, process::Stdio, time::Duration};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use fleet_api::{CreateEnrolment, ServiceFacts, UploadAuthority};
use protocol_types::{AccountName, Architecture, BoardName, EndpointName, FactoryDocument};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    process::{ChildStdout, Command as Program},
    time::timeout,
};

use crate::{
    factory_authority::FactoryAuthority,
    failure::{Exit, Failure},
    keyring::Keyring,
    repository::MetadataFolder,
    secret::PassphraseArgs,
    session::{Session, service_error},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The authority that vouches for new devices
    #[command(subcommand)]
    Authority(AuthorityCommand),
    /// Give a new device its identity
    ///
    /// Runs the given program on the device's side: it makes the device's key and prints a certificate request, and reads the
    /// factory package on its standard input. `mbl-agent factory` is such a program; on a real line it runs through a serial or
    /// network connection to the device.
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

pub(crate) async fn run(command: Command, session: &Session) -> anyhow::Result<()> {
    match command {
        Command::Authority(AuthorityCommand::Init { dir, account, passphrase }) => {
            let secret = passphrase.chosen(&format!("the authority in {}", dir.display()))?;
            let authority = FactoryAuthority::create(&dir, &account, &secret, session.now())?;
            session
                .printer
                .say("keep the folder in the factory; let the service know it with `mbl factory authority upload`");
            let value = json!({ "folder": dir, "account": account, "certificate": authority.certificate()? });
            session.printer.data(&value, format_args!("{}", authority.folder().display()))
        }
        Command::Authority(AuthorityCommand::Upload { dir, name }) => {
            let certificate = FactoryAuthority::open(&dir)?.certificate()?;
            let uploaded = session.client()?.upload_authority(&UploadAuthority { name, certificate }).await;
            let authority = uploaded.map_err(service_error)?;
            session.printer.data(&authority, format_args!("{} {}", authority.id, authority.fingerprint))
        }
        Command::Provision(args) => provision(args, session).await,
    }
}

async fn provision(args: ProvisionArgs, session: &Session) -> anyhow::Result<()> {
    let authority = FactoryAuthority::open(&args.authority)?;
    let ring = Keyring::open(&args.keys)?;
    let root = MetadataFolder::at(ring.metadata()).root()?;
    let secret = args.passphrase.known(&format!("the authority in {}", authority.folder().display()))?;
    let client = session.client()?;
    let service = client.service_facts().await.map_err(service_error)?;
    let document = document(&args, &service, String::from_utf8(root.bytes).context("the root is not text")?, session);

    let patience = Duration::from_secs(args.patience);
    let mut device = Device::start(&args.program)?;
    let request = device.request(patience).await?;
    session.printer.detail(format_args!("{} asks for a certificate", args.endpoint));
    let certificate = authority.certify(&request, (&service.account, &args.endpoint), &secret, session.now())?;
    let package = serde_json::to_string(&json!({ "document": document, "certificate": certificate }))?;
    device.finish(&package, patience).await?;

    let wish = CreateEnrolment { endpoint: Some(args.endpoint.clone()), authority: None };
    let enrolment = client.create_enrolment(&wish).await.map_err(service_error)?;
    let value = json!({
        "endpoint": args.endpoint, "account": service.account, "enrolment": enrolment.id, "certificate": certificate,
    });
    session.printer.data(&value, format_args!("{} may enrol in account {}", args.endpoint, service.account))
}

fn document(args: &ProvisionArgs, service: &ServiceFacts, tuf_root: String, session: &Session) -> FactoryDocument {
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
    }
}

/// The program that speaks for the device.
struct Device {
    name: String,
    child: tokio::process::Child,
}

/// No certificate request for a P-256 key is longer.
const MAX_REQUEST: u64 = 16 * 1024;
const END_OF_REQUEST: &str = "-----END CERTIFICATE REQUEST-----";

impl Device {
    fn start(program: &[String]) -> anyhow::Result<Self> {
        let (name, arguments) = program.split_first().context("no program was given")?;
        let child = Program::new(name)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start `{name}`"))?;
        Ok(Self { name: name.clone(), child })
    }

    /// Reads the certificate request that the program prints.
    async fn request(&mut self, patience: Duration) -> anyhow::Result<String> {
        let output = self.child.stdout.take().context("the program has no standard output")?;
        match timeout(patience, read_request(output)).await {
            Err(_) => Err(self.failed(format!("printed no certificate request within {} s", patience.as_secs()))),
            Ok(Ok(Some(request))) => Ok(request),
            Ok(Ok(None)) => Err(self.failed("ended without printing a certificate request")),
            Ok(Err(error)) => Err(error).with_context(|| format!("cannot read what `{}` prints", self.name)),
        }
    }

    /// Hands over the package and waits until the program has stored it.
    async fn finish(mut self, package: &str, patience: Duration) -> anyhow::Result<()> {
        let mut input = self.child.stdin.take().context("the program has no standard input")?;
        let hand_over = async {
            // A program that ends early says why by its status, not by a broken pipe.
            drop(input.write_all(package.as_bytes()).await);
            drop(input.shutdown().await);
            drop(input);
            self.child.wait().await
        };
        let ended = timeout(patience, hand_over).await;
        match ended {
            Err(_) => Err(self.failed(format!("did not store the package within {} s", patience.as_secs()))),
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(self.failed(format!("refused the package: {status}"))),
            Ok(Err(error)) => Err(error).with_context(|| format!("cannot wait for `{}`", self.name)),
        }
    }

    fn failed(&self, what: impl std::fmt::Display) -> anyhow::Error {
        Failure::new(Exit::Failed, format!("`{}` {what}", self.name))
            .hint("read what the program said above; nothing was registered at the service")
            .into()
    }
}

async fn read_request(output: ChildStdout) -> std::io::Result<Option<String>> {
    let mut lines = BufReader::new(output.take(MAX_REQUEST));
    let mut text = String::new();
    while lines.read_line(&mut text).await? != 0 {
        if text.trim_end().ends_with(END_OF_REQUEST) {
            return Ok(Some(text));
        }
    }
    Ok(None)
}
