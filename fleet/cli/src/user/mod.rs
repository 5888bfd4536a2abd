//! `mbl user`: people who hold roles; how they begin, sign in and out.

pub(crate) mod invitation_file;
pub(crate) mod session;
pub(crate) mod single_sign_on;

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use fleet_api::{ChangeUser, InviteUser, InvitedUser, LetterState, ResetUserQuery, User, UserState};
use protocol_types::UnixSeconds;
use serde_json::json;

use crate::{
    filter::refused_filter,
    pages::all_pages,
    session::{Session, service_error},
    user::invitation_file::InvitationFile,
    words::{or_dash, time},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a user and write the invitation with which they begin
    Invite(InviteArgs),
    /// List the users
    List,
    /// Show a user
    Show {
        /// Their name
        name: String,
    },
    /// Take away a user's right to act
    Disable(Which),
    /// Give back a user's right to act
    Enable(Which),
    /// Take away password, authenticator, sessions and the link to the identity provider, and make another invitation
    Reset {
        /// Their name
        name: String,
        #[command(flatten)]
        way: Way,
    },
    /// Forget a user with their roles and tokens
    Delete(Which),
    #[command(flatten)]
    Own(session::Command),
}

#[derive(Debug, Args)]
pub(crate) struct Which {
    /// Their name
    name: String,
    /// Only if they are still at this revision
    #[arg(long, value_name = "NUMBER")]
    at_revision: Option<i64>,
}

/// How the invitation comes to the person.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(crate) struct Way {
    /// Private file to write the invitation into
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Send the invitation to their address, over the mail server of the service
    #[arg(long)]
    mail: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InviteArgs {
    /// Their name, with which they sign in
    name: String,
    /// Their address for mail
    #[arg(long, value_name = "ADDRESS")]
    email: String,
    /// What people call them
    #[arg(long, default_value = "")]
    title: String,
    /// A role for them
    #[arg(long)]
    role: Option<String>,
    /// The devices that the role is for
    #[arg(long, value_name = "FILTER", requires = "role")]
    filter: Option<String>,
    /// Days until the invitation stops working, at most 30
    #[arg(long, value_name = "DAYS", default_value_t = 7)]
    days: u32,
    #[command(flatten)]
    way: Way,
}

pub(crate) async fn run(command: Command, session: &Session) -> anyhow::Result<()> {
    match command {
        Command::Invite(args) => invite(args, session).await,
        Command::List => list(session).await,
        Command::Show { name } => {
            let user = session.client()?.user(&name).await.map_err(service_error)?;
            session.printer.data(&user, line(&user))
        }
        Command::Disable(which) => set(session, &which, true).await,
        Command::Enable(which) => set(session, &which, false).await,
        Command::Reset { name, way } => {
            let query = ResetUserQuery { mail: Some(way.mail) };
            let made = session.client()?.reset_user(&name, &query).await.map_err(service_error)?;
            invited(session, made, &way)
        }
        Command::Delete(Which { name, at_revision }) => {
            session.client()?.delete_user(&name, at_revision).await.map_err(service_error)?;
            session.printer.data(&json!({ "deleted": name }), format_args!("user/{name} deleted"))
        }
        Command::Own(command) => session::run(command, session).await,
    }
}

async fn invite(args: InviteArgs, session: &Session) -> anyhow::Result<()> {
    let InviteArgs { name, email, title, role, filter, days, way } = args;
    let expires = Some(UnixSeconds(session.now().0.saturating_add(u64::from(days) * 86_400)));
    let wanted = InviteUser { name, email, title, role, filter, expires, mail: Some(way.mail) };
    let made = session.client()?.invite_user(&wanted).await;
    invited(session, made.map_err(|error| refused_filter(error, wanted.filter.as_deref()))?, &way)
}

fn invited(session: &Session, made: InvitedUser, way: &Way) -> anyhow::Result<()> {
    if let Some(output) = &way.output {
        let secret = made.invitation.context("the service kept the secret of the invitation to itself")?;
        InvitationFile::write(session.context.load()?, secret, output)?;
        session.printer.say(format_args!("hand {} to nobody but {}", output.display(), made.user.email));
    }
    if way.mail {
        session.printer.say(format_args!("the service sends the invitation to {}", made.user.email));
    }
    let until = or_dash(made.user.invited_until.map(time));
    let value = json!({ "user": made.user, "file": way.output });
    session.printer.data(&value, format_args!("user/{} invited until {until}", made.user.name))
}

async fn set(session: &Session, Which { name, at_revision }: &Which, disabled: bool) -> anyhow::Result<()> {
    let changed = session.client()?.change_user(name, &ChangeUser { disabled }, *at_revision).await;
    let changed = changed.map_err(service_error)?;
    let word = if disabled { "may not act any more" } else { "may act again" };
    session.printer.data(&changed, format_args!("user/{} {word}", changed.name))
}

const fn state(user: &User) -> &'static str {
    match user.state {
        UserState::Invited => "invited",
        UserState::Active => "active",
        UserState::Disabled => "disabled",
    }
}

fn line(user: &User) -> String {
    let signed_in = or_dash(user.last_sign_in.map(time));
    let codes = user.recovery_codes;
    let letter = match &user.letter {
        None => String::new(),
        Some(letter) => match (letter.state, &letter.last_failure) {
            (LetterState::Sent, _) => ", invitation sent".to_owned(),
            (LetterState::Waiting, None) => ", invitation waits to be sent".to_owned(),
            (LetterState::Waiting, Some(reason)) => {
                format!(", invitation not sent after {} tries: {reason}", letter.tries)
            }
        },
    };
    let linked = if user.linked.is_some() { ", single sign-on" } else { "" };
    let User { name, email, .. } = user;
    format!("{name} <{email}> {} last signed in {signed_in}, {codes} recovery codes{linked}{letter}", state(user))
}

async fn list(session: &Session) -> anyhow::Result<()> {
    let client = session.client()?;
    let found: Vec<User> = all_pages(async |page| client.users(&page).await.map_err(service_error)).await?;
    session.printer.table(&found, &["USER", "EMAIL", "STATE", "LAST SIGNED IN", "TITLE"], |user| {
        vec![
            user.name.clone(),
            user.email.clone(),
            state(user).to_owned(),
            or_dash(user.last_sign_in.map(time)),
            user.title.clone(),
        ]
    })
}
