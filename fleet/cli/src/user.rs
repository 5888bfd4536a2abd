//! `mbl user`: people who hold roles; how they begin, sign in and out.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use fleet_api::{ChangeUser, InviteUser, InvitedUser, PageQuery, User, UserState};
use protocol_types::UnixSeconds;
use serde_json::json;

use crate::{
    filter::refused_filter,
    invitation_file::InvitationFile,
    session::{Session, service_error},
    user_session,
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
    Disable {
        /// Their name
        name: String,
    },
    /// Give back a user's right to act
    Enable {
        /// Their name
        name: String,
    },
    /// Take away password, authenticator and sessions, and write another invitation
    Reset {
        /// Their name
        name: String,
        /// Private file to write the invitation into
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Forget a user with their roles and tokens
    Delete {
        /// Their name
        name: String,
    },
    #[command(flatten)]
    Own(user_session::Command),
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
    /// Private file to write the invitation into
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
}

pub(crate) async fn run(command: Command, session: &Session) -> anyhow::Result<()> {
    match command {
        Command::Invite(args) => invite(args, session).await,
        Command::List => list(session).await,
        Command::Show { name } => {
            let user = session.client()?.user(&name).await.map_err(service_error)?;
            session.printer.data(&user, line(&user))
        }
        Command::Disable { name } => set(session, &name, true).await,
        Command::Enable { name } => set(session, &name, false).await,
        Command::Reset { name, output } => {
            let made = session.client()?.reset_user(&name).await.map_err(service_error)?;
            invited(session, made, &output)
        }
        Command::Delete { name } => {
            session.client()?.delete_user(&name).await.map_err(service_error)?;
            session.printer.data(&json!({ "deleted": name }), format_args!("user/{name} deleted"))
        }
        Command::Own(command) => user_session::run(command, session).await,
    }
}

async fn invite(args: InviteArgs, session: &Session) -> anyhow::Result<()> {
    let InviteArgs { name, email, title, role, filter, days, output } = args;
    let expires = Some(UnixSeconds(session.now().0.saturating_add(u64::from(days) * 86_400)));
    let wanted = InviteUser { name, email, title, role, filter, expires };
    let made = session.client()?.invite_user(&wanted).await;
    invited(session, made.map_err(|error| refused_filter(error, wanted.filter.as_deref()))?, &output)
}

fn invited(session: &Session, made: InvitedUser, output: &std::path::Path) -> anyhow::Result<()> {
    let secret = made.invitation.context("the service kept the secret of the invitation to itself")?;
    InvitationFile::of(session.context.load()?, secret).write(output)?;
    session.printer.say(format_args!("hand {} to nobody but {}", output.display(), made.user.email));
    let until = or_dash(made.user.invited_until.map(time));
    let value = json!({ "user": made.user, "file": output });
    session.printer.data(&value, format_args!("user/{} invited until {until}", made.user.name))
}

async fn set(session: &Session, name: &str, disabled: bool) -> anyhow::Result<()> {
    let changed = session.client()?.change_user(name, &ChangeUser { disabled }).await.map_err(service_error)?;
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
    format!("{} <{}> {} last signed in {signed_in}, {codes} recovery codes", user.name, user.email, state(user))
}

async fn list(session: &Session) -> anyhow::Result<()> {
    let client = session.client()?;
    let mut found: Vec<User> = Vec::new();
    let mut query = PageQuery::default();
    loop {
        let page = client.users(&query).await.map_err(service_error)?;
        found.extend(page.items);
        match page.next {
            Some(next) => query.cursor = Some(next),
            None => break,
        }
    }
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
