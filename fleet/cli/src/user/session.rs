//! What a user does at their own desk: accept an invitation, sign in, sign out, change the password. No secret is ever an argument.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use fleet_api::{AcceptInvitation, ChangePassword, Client, ClientConfig, CreatedToken, SignIn, TokenScope};
use protocol_types::AccountName;
use serde_json::json;
use zeroize::Zeroizing;

use crate::{
    context::Context,
    durable::{try_private, write_private},
    failure::{Exit, Failure},
    secret::{self, Secret},
    session::{Session, service_error},
    user::{
        invitation_file::InvitationFile,
        single_sign_on::{self, SsoArgs},
    },
    words::{or_dash, time},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show what an invitation is for, and write what the authenticator must hold
    Invitation {
        /// The invitation
        file: PathBuf,
        /// Private file to write the `otpauth` address for the authenticator into
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Accept an invitation: set password and authenticator, and sign in
    Accept(AcceptArgs),
    /// Sign in, and remember the session in the context
    SignIn(SignInArgs),
    /// End the session
    SignOut,
    /// Change the password; all other sessions and tokens of the user end
    Password(PasswordArgs),
}

/// Where password and code come from.
#[derive(Debug, Args)]
pub(crate) struct Shown {
    /// File whose first line is the password, or /dev/stdin; asked for without it
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// File whose first line is the code of the authenticator, a recovery code, or the one-time code of `--no-browser`; asked for
    /// without it
    #[arg(long, value_name = "FILE")]
    code_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct AcceptArgs {
    /// The invitation
    file: PathBuf,
    #[command(flatten)]
    shown: Shown,
    /// Private file to write the recovery codes into
    #[arg(long, value_name = "FILE")]
    recovery_output: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct SignInArgs {
    /// Name of the user
    #[arg(required_unless_present = "sso", conflicts_with = "sso")]
    name: Option<String>,
    /// The account of the user
    #[arg(long)]
    account: AccountName,
    /// Address of a service that no context knows yet, as in `https://service.example:8443`
    #[arg(long, value_name = "ADDRESS", requires = "authority")]
    service: Option<String>,
    /// File with the certificates that the service's certificate must chain to
    #[arg(long, value_name = "FILE", requires = "service")]
    authority: Option<PathBuf>,
    /// What the session allows at most, may be given several times; without it, all that the user's roles allow
    #[arg(long, value_name = "SCOPE")]
    scope: Vec<TokenScope>,
    #[command(flatten)]
    sso: SsoArgs,
    #[command(flatten)]
    shown: Shown,
}

#[derive(Debug, Args)]
pub(crate) struct PasswordArgs {
    #[command(flatten)]
    shown: Shown,
    /// File whose first line is the new password; asked for without it
    #[arg(long, value_name = "FILE")]
    new_password_file: Option<PathBuf>,
}

pub(crate) async fn run(command: Command, session: &Session) -> anyhow::Result<()> {
    match command {
        Command::Invitation { file, output } => invitation(session, &file, &output).await,
        Command::Accept(args) => accept(&args, session).await,
        Command::SignIn(args) => sign_in(args, session).await,
        Command::SignOut => {
            session.client()?.sign_out().await.map_err(service_error)?;
            session.printer.data(&json!({ "signed_out": true }), "signed out")
        }
        Command::Password(args) => password(&args, session).await,
    }
}

/// A client for somebody without a token.
fn outsider(service: &str, authority: &str) -> anyhow::Result<Client> {
    let config = ClientConfig { address: service.to_owned(), authority_pem: authority.to_owned(), token: None };
    Client::new(&config).map_err(service_error)
}

async fn invitation(session: &Session, file: &Path, output: &Path) -> anyhow::Result<()> {
    let invitation = InvitationFile::read(file)?;
    let client = outsider(&invitation.service, &invitation.authority)?;
    let told = client.invitation(&invitation.invitation).await.map_err(service_error)?;
    let address = Zeroizing::new(told.totp_address);
    write_private(output, Zeroizing::new(format!("{}\n", *address)).as_bytes())?;
    let until = time(told.expires);
    let value = json!({
        "service": invitation.service, "account": told.account, "name": told.name, "title": told.title,
        "email": told.email, "expires": told.expires, "file": output,
    });
    session.printer.data(&value, format_args!("user/{} of account {} until {until}", told.name, told.account))
}

async fn accept(args: &AcceptArgs, session: &Session) -> anyhow::Result<()> {
    let InvitationFile { service, authority, invitation } = InvitationFile::read(&args.file)?;
    // The service tells the codes once, and uses the invitation up by that.
    try_private(&args.recovery_output)?;
    let client = outsider(&service, &authority)?;
    let password = chosen(args.shown.password_file.as_deref())?;
    if args.shown.code_file.is_none() {
        let told = client.invitation(&invitation).await.map_err(service_error)?;
        let secret = Zeroizing::new(told.totp_secret);
        // It is shown to the person alone: standard output might be a file.
        session.printer.ask(format_args!("Put this into your authenticator: {}\n", *secret));
    }
    let code = code(args.shown.code_file.as_deref())?;
    let wanted =
        AcceptInvitation { invitation: invitation.to_string(), password: password.to_string(), code: code.to_string() };
    let made = client.accept_invitation(&wanted).await.map_err(service_error)?;
    let codes = Zeroizing::new(made.recovery_codes.join("\n") + "\n");
    let kept = write_private(&args.recovery_output, codes.as_bytes());
    match &kept {
        Ok(()) => session.printer.say(format_args!(
            "{} holds codes that each stand once for the authenticator: keep it apart",
            args.recovery_output.display()
        )),
        // Nobody can ask for them again, so the person sees them, and nobody but the person.
        Err(_) => session.printer.ask(format_args!(
            "These codes each stand once for the authenticator: write them down, they are in no file\n{}",
            *codes
        )),
    }
    remember(session, (service, authority), (&made.account, &made.name), made.session)?;
    kept
}

async fn sign_in(args: SignInArgs, session: &Session) -> anyhow::Result<()> {
    let (service, authority) = match (args.service, &args.authority) {
        (Some(service), Some(file)) => {
            let pem = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            (service, pem)
        }
        _ => {
            let Context { service, authority, .. } = session.context.load()?;
            (service, authority)
        }
    };
    let client = outsider(&service, &authority)?;
    let scopes = (!args.scope.is_empty()).then_some(args.scope);
    let Some(name) = args.name else {
        let how = (&args.sso, args.shown.code_file.as_deref());
        let made = single_sign_on::sign_in(&client, (&args.account, scopes), how, session).await?;
        let who = made.token.principal.clone().unwrap_or_default();
        let name = who.strip_prefix("user/").unwrap_or(&who);
        return remember(session, (service, authority), (&args.account, name), made);
    };
    let password = known(args.shown.password_file.as_deref(), "Password: ")?;
    let code = code(args.shown.code_file.as_deref())?;
    let shown = SignIn {
        account: args.account.clone(),
        name: name.clone(),
        password: password.to_string(),
        code: code.to_string(),
        scopes,
    };
    let made = client.sign_in(&shown).await.map_err(service_error)?;
    remember(session, (service, authority), (&args.account, &name), made)
}

/// Keeps a session in the context.
fn remember(
    session: &Session,
    (service, authority): (String, String),
    (account, name): (&AccountName, &str),
    made: CreatedToken,
) -> anyhow::Result<()> {
    let token = Zeroizing::new(made.secret.context("the service kept the secret of the session to itself")?);
    let file = session.context.save(Context { service, authority, token })?;
    session.printer.say(format_args!("remembered in {}", file.display()));
    let until = or_dash(made.token.expires.map(time));
    let value = json!({
        "context": session.context.name(), "account": account, "name": name, "token": made.token,
    });
    session.printer.data(&value, format_args!("user/{name} of account {account} signed in until {until}"))
}

async fn password(args: &PasswordArgs, session: &Session) -> anyhow::Result<()> {
    let password = known(args.shown.password_file.as_deref(), "Password until now: ")?;
    let new_password = chosen(args.new_password_file.as_deref())?;
    let code = code(args.shown.code_file.as_deref())?;
    let change = ChangePassword {
        password: password.to_string(),
        code: code.to_string(),
        new_password: new_password.to_string(),
    };
    session.client()?.change_password(&change).await.map_err(service_error)?;
    session.printer.data(&json!({ "changed": true }), "the password is another")
}

fn known(file: Option<&Path>, prompt: &str) -> anyhow::Result<Secret> {
    file.map_or_else(|| secret::ask(prompt, "`--password-file`"), secret::first_line)
}

fn code(file: Option<&Path>) -> anyhow::Result<Secret> {
    file.map_or_else(|| secret::ask("Code of the authenticator: ", "`--code-file`"), secret::first_line)
}

/// A new password, typed twice if it is typed. What it must be like the service says.
fn chosen(file: Option<&Path>) -> anyhow::Result<Secret> {
    if let Some(file) = file {
        return secret::first_line(file);
    }
    let password = known(None, "New password: ")?;
    if password != known(None, "Again: ")? {
        return Err(Failure::new(Exit::Failed, "the two passwords differ").into());
    }
    Ok(password)
}
