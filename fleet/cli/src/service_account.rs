//! `mbl service-account`: programs that hold roles.

use clap::{Args, Subcommand};
use fleet_api::{ChangeServiceAccount, CreateServiceAccount, ServiceAccount};
use serde_json::json;

use crate::{
    pages::all_pages,
    session::{Session, service_error},
    words::{or_dash, time},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a service account; give it a role with `mbl access grant service/NAME ROLE`
    Create {
        /// Its name
        name: String,
        /// What people call it
        #[arg(long, default_value = "")]
        title: String,
    },
    /// List the service accounts
    List,
    /// Show a service account
    Show {
        /// Its name
        name: String,
    },
    /// Take away its right to act
    Disable(Which),
    /// Give back its right to act
    Enable(Which),
    /// Forget it with its roles and tokens
    Delete(Which),
}

#[derive(Debug, Args)]
pub(crate) struct Which {
    /// Its name
    name: String,
    /// Only if it is still at this revision
    #[arg(long, value_name = "NUMBER")]
    at_revision: Option<i64>,
}

pub(crate) async fn run(command: Command, session: &Session) -> anyhow::Result<()> {
    let client = session.client()?;
    match command {
        Command::Create { name, title } => {
            let made =
                client.create_service_account(&CreateServiceAccount { name, title }).await.map_err(service_error)?;
            session.printer.data(&made, format_args!("service/{}", made.name))
        }
        Command::List => list(session).await,
        Command::Show { name } => {
            let shown = client.service_account(&name).await.map_err(service_error)?;
            let disabled = or_dash(shown.disabled.map(time));
            session.printer.data(&shown, format_args!("service/{name} disabled {disabled} {}", shown.title))
        }
        Command::Disable(which) => set(session, &which, true).await,
        Command::Enable(which) => set(session, &which, false).await,
        Command::Delete(Which { name, at_revision }) => {
            client.delete_service_account(&name, at_revision).await.map_err(service_error)?;
            session.printer.data(&json!({ "deleted": name }), format_args!("service/{name} deleted"))
        }
    }
}

async fn set(session: &Session, Which { name, at_revision }: &Which, disabled: bool) -> anyhow::Result<()> {
    let change = ChangeServiceAccount { disabled };
    let changed = session.client()?.change_service_account(name, &change, *at_revision).await;
    let changed = changed.map_err(service_error)?;
    let word = if disabled { "may not act any more" } else { "may act again" };
    session.printer.data(&changed, format_args!("service/{} {word}", changed.name))
}

async fn list(session: &Session) -> anyhow::Result<()> {
    let client = session.client()?;
    let found: Vec<ServiceAccount> =
        all_pages(async |page| client.service_accounts(&page).await.map_err(service_error)).await?;
    session.printer.table(&found, &["SERVICE ACCOUNT", "TITLE", "DISABLED"], |account| {
        vec![account.name.clone(), account.title.clone(), or_dash(account.disabled.map(time))]
    })
}
