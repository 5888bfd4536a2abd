//! `mbl access`: who has which role, and whether somebody may do something, and why.

use clap::{Args, Subcommand};
use fleet_api::{AccessAnswer, AccessQuery, CreateRoleBinding, RoleBinding};
use protocol_types::{AccountName, EndpointName};
use serde_json::json;

use crate::{
    filter::refused_filter,
    pages::all_pages,
    session::{Session, service_error},
    words::or_dash,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the roles
    Roles,
    /// Give a principal a role, for the whole account and all below it, or for some devices
    Grant {
        /// Who, as in `service/ci`
        principal: String,
        /// The role
        role: String,
        /// The devices that the role is for
        #[arg(long, value_name = "FILTER")]
        filter: Option<String>,
        /// The account of the principal, if it is one above
        #[arg(long, value_name = "NAME")]
        home: Option<AccountName>,
    },
    /// List who has which role
    List,
    /// Take a role away
    Revoke {
        /// Id of the binding, as `list` shows it
        id: String,
    },
    /// Show whether somebody may do something, and why
    Check(CheckArgs),
    /// Show what policies may speak of, in Cedar's schema language
    Schema,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Who, as in `service/ci` or `token/ID`
    principal: String,
    /// What: the `operationId` in openapi.json, as in `reset_device`
    action: String,
    /// On which device, if the action is one on a device
    #[arg(long, value_name = "NAME")]
    device: Option<EndpointName>,
    /// The account of the principal, if it is one above
    #[arg(long, value_name = "NAME")]
    home: Option<AccountName>,
}

pub(crate) async fn run(command: Command, session: &Session) -> anyhow::Result<()> {
    let client = session.client()?;
    match command {
        Command::Roles => {
            let roles = client.roles().await.map_err(service_error)?.items;
            session
                .printer
                .table(&roles, &["ROLE", "FOR SOMEBODY WHO"], |role| vec![role.name.clone(), role.title.clone()])
        }
        Command::Grant { principal, role, filter, home } => {
            let wanted = CreateRoleBinding { principal, home, role, filter };
            let made = client.bind_role(&wanted).await.map_err(|e| refused_filter(e, wanted.filter.as_deref()))?;
            session.printer.data(&made, format_args!("{} {} is {}", made.id, made.principal, made.role))
        }
        Command::List => list(session).await,
        Command::Revoke { id } => {
            client.unbind_role(&id).await.map_err(service_error)?;
            session.printer.data(&json!({ "revoked": id }), format_args!("{id} revoked"))
        }
        Command::Check(args) => {
            let query =
                AccessQuery { principal: args.principal, home: args.home, action: args.action, device: args.device };
            let answer = client.check_access(&query).await.map_err(service_error)?;
            session.printer.data(&answer, explained(&answer))
        }
        Command::Schema => {
            let schema = client.access_schema().await.map_err(service_error)?;
            session.printer.data(&schema, &schema)
        }
    }
}

async fn list(session: &Session) -> anyhow::Result<()> {
    let client = session.client()?;
    let bindings: Vec<RoleBinding> =
        all_pages(async |page| client.role_bindings(&page).await.map_err(service_error)).await?;
    session.printer.table(&bindings, &["BINDING", "PRINCIPAL", "OF", "ROLE", "FOR"], |binding| {
        vec![
            binding.id.clone(),
            binding.principal.clone(),
            binding.home.to_string(),
            binding.role.clone(),
            binding.filter.clone().unwrap_or_else(|| "the account".to_owned()),
        ]
    })
}

/// The answer as lines: yes or no, the policies that decided, the roles that counted and those that did not.
fn explained(answer: &AccessAnswer) -> String {
    let mut lines = vec![format!("{}: {}", if answer.allowed { "yes" } else { "no" }, answer.because)];
    if let Some(only) = &answer.only {
        lines.push(format!("only for the devices with {only}"));
    }
    for held in &answer.roles {
        let binding = &held.binding;
        let applies = if held.applies { "counts" } else { "does not count here" };
        let devices = or_dash(binding.filter.as_deref());
        lines.push(format!(
            "role {} ({} in {}, devices {devices}) {applies}",
            binding.role, binding.id, binding.account
        ));
    }
    for policy in &answer.policies {
        lines.push(format!("\n// {}\n{}", policy.id, policy.policy));
    }
    lines.join("\n")
}
