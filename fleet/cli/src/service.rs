//! `mbl service`: how this command line gets to know a service, and whether it is well.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use fleet_api::{CreateToken, TokenScope};
use protocol_types::UnixSeconds;
use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

use crate::{
    context::Context,
    failure::{Exit, Failure},
    secret::{self, Secret},
    session::{Session, connect, service_error},
    words::time,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Exchange the first token of a new service for one of your own, and remember the service
    Token(TokenArgs),
    /// Show whether the service answers, and as whom it knows you
    Status,
    /// Show the public keys with which the service signs snapshot and timestamp
    Keys,
}

#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    /// Data directory of the service, on this machine
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Name or address of the service as it is reached from here; without it the first one that the service gives to devices
    #[arg(long)]
    host: Option<String>,
    /// What the token is called
    #[arg(long, default_value = "mbl")]
    name: String,
    /// What the token allows, may be given several times
    #[arg(long, value_name = "SCOPE", default_values = ["admin"])]
    scope: Vec<TokenScope>,
    /// Days until the token stops working
    #[arg(long, value_name = "DAYS", default_value_t = 90)]
    days: u32,
}

/// The part of `addresses.json` that matters here.
#[derive(Debug, Deserialize)]
struct Addresses {
    api: std::net::SocketAddr,
    public_hosts: Vec<String>,
}

pub(crate) async fn run(command: Command, session: &Session) -> anyhow::Result<()> {
    match command {
        Command::Token(args) => token(&args, session).await,
        Command::Status => status(session).await,
        Command::Keys => {
            let keys = session.client()?.repository_keys().await.map_err(service_error)?;
            let text = serde_json::to_string_pretty(&keys)?;
            session.printer.data(&keys, text)
        }
    }
}

async fn token(args: &TokenArgs, session: &Session) -> anyhow::Result<()> {
    let first = first_token(&args.data_dir)?;
    let addresses: Addresses = serde_json::from_slice(&read(&args.data_dir.join("addresses.json"))?)
        .context("the service left its addresses in an unknown form")?;
    let host = args.host.as_deref().or(addresses.public_hosts.first().map(String::as_str)).unwrap_or("localhost");
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let authority =
        String::from_utf8(read(&args.data_dir.join("service-authority.pem"))?).context("the authority is not text")?;
    let mut context = Context { service: format!("https://{host}:{}", addresses.api.port()), authority, token: first };

    let expires = UnixSeconds(session.now().0.saturating_add(u64::from(args.days) * 86_400));
    let wanted =
        CreateToken { name: args.name.clone(), scopes: args.scope.clone(), expires: Some(expires), principal: None };
    let made = connect(&context)?.create_token(&wanted).await.map_err(service_error)?;
    context.token = Zeroizing::new(made.secret.context("the service kept the secret of the new token to itself")?);
    let file = session.context.save(context.clone())?;
    // Only now is the successor safe; its first use makes the service forget the first token.
    let facts = connect(&context)?.service_facts().await.map_err(service_error)?;
    session.printer.say(format_args!("remembered in {}", file.display()));
    let value = json!({
        "context": session.context.name(), "service": context.service, "account": facts.account, "token": made.token,
    });
    let text = format!("{} account {} token {} until {}", context.service, facts.account, made.token.id, time(expires));
    session.printer.data(&value, text)
}

/// Both options, as either may say which database the running service asks.
const ANOTHER: &str = "it goes away with its first use; make another with `mbl-service first-token` and the `--config FILE` and `--data-dir DIR` of the service";

fn first_token(data_dir: &Path) -> anyhow::Result<Secret> {
    let file = data_dir.join("first-token");
    if !file.exists() {
        return Err(Failure::new(Exit::Failed, format!("there is no first token in {}", data_dir.display()))
            .hint(ANOTHER)
            .into());
    }
    secret::first_line(&file)
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    match fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Failure::new(Exit::NotReached, format!("there is no {}", path.display()))
                .hint("the service writes it when it starts: is it running?")
                .into())
        }
        other => other.with_context(|| format!("cannot read {}", path.display())),
    }
}

async fn status(session: &Session) -> anyhow::Result<()> {
    let context = session.context.load()?;
    let client = connect(&context)?;
    let ready = client.ready().await.map_err(service_error)?;
    let facts = client.service_facts().await.map_err(service_error)?;
    let word = if ready { "ready" } else { "not ready" };
    let value = json!({ "service": context.service, "ready": ready, "facts": facts });
    session
        .printer
        .data(&value, format_args!("{} {word} version {} account {}", context.service, facts.version, facts.account))
}
