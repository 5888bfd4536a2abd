//! `mbl token`: tokens of the account and of its principals. A secret goes into a private file or a context, never to the terminal.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use fleet_api::{CreateToken, Token, TokenScope};
use protocol_types::UnixSeconds;
use serde_json::json;
use zeroize::Zeroizing;

use crate::{
    context::Context,
    durable::write_private,
    pages::all_pages,
    session::{Session, service_error},
    words::{or_dash, time},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a token
    Create(CreateArgs),
    /// List the tokens, revoked ones too
    List,
    /// Make a token useless from now on
    Revoke {
        /// The token's id
        id: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// What it is called
    name: String,
    /// Whose it is, as in `service/ci`; without it, the account's own
    #[arg(long, value_name = "PRINCIPAL")]
    principal: Option<String>,
    /// What it allows at most, may be given several times
    #[arg(long, value_name = "SCOPE", default_values = ["read"])]
    scope: Vec<TokenScope>,
    /// Days until it stops working
    #[arg(long, value_name = "DAYS", default_value_t = 90)]
    days: u32,
    #[command(flatten)]
    place: Place,
}

/// Where the secret goes.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Place {
    /// Private file to write the secret into
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Name of a new context that uses the token, for `mbl --context NAME`
    #[arg(long, value_name = "NAME")]
    into_context: Option<String>,
}

pub(crate) async fn run(command: Command, session: &Session) -> anyhow::Result<()> {
    match command {
        Command::Create(args) => create(args, session).await,
        Command::List => list(session).await,
        Command::Revoke { id } => {
            let token = session.client()?.revoke_token(&id).await.map_err(service_error)?;
            session.printer.data(&token, format_args!("{} revoked", token.id))
        }
    }
}

async fn create(args: CreateArgs, session: &Session) -> anyhow::Result<()> {
    let expires = UnixSeconds(session.now().0.saturating_add(u64::from(args.days) * 86_400));
    let wanted = CreateToken { name: args.name, scopes: args.scope, principal: args.principal, expires: Some(expires) };
    let made = session.client()?.create_token(&wanted).await.map_err(service_error)?;
    let secret = Zeroizing::new(made.secret.context("the service kept the secret of the new token to itself")?);
    if let Some(file) = &args.place.output {
        write_private(file, format!("{}\n", *secret).as_bytes())?;
    }
    if let Some(name) = &args.place.into_context {
        let Context { service, authority, .. } = session.context.load()?;
        session.context.keep(name, Context { service, authority, token: secret })?;
    }
    let value = json!({ "token": made.token, "context": args.place.into_context, "file": args.place.output });
    session.printer.data(&value, format_args!("{} until {}", made.token.id, time(expires)))
}

async fn list(session: &Session) -> anyhow::Result<()> {
    let client = session.client()?;
    let tokens: Vec<Token> = all_pages(async |page| client.tokens(&page).await.map_err(service_error)).await?;
    session.printer.table(&tokens, &["TOKEN", "NAME", "WHOSE", "SCOPES", "EXPIRES", "REVOKED"], |token| {
        let scopes: Vec<&str> = token.scopes.iter().map(|scope| scope.as_str()).collect();
        vec![
            token.id.clone(),
            token.name.clone(),
            or_dash(token.principal.as_deref()),
            scopes.join(" "),
            or_dash(token.expires.map(time)),
            or_dash(token.revoked.map(time)),
        ]
    })
}
