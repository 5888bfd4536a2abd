//! `mbl policy`: the Cedar policies that decide, those of the service and those that an account adds.

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use clap::Subcommand;
use fleet_api::SavePolicy;
use protocol_types::GroupName;
use serde_json::json;

use crate::{
    filter::refused_filter,
    session::{Session, service_error},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the policies that hold in the account
    List,
    /// Show a policy that the account has added
    Show {
        /// The policy
        name: GroupName,
    },
    /// Keep a policy under a name; one of that name is replaced
    Save {
        /// The name
        name: GroupName,
        /// File with one Cedar policy
        file: PathBuf,
    },
    /// Forget a policy that the account has added
    Delete {
        /// The policy
        name: GroupName,
    },
}

pub(crate) async fn run(command: Command, session: &Session) -> anyhow::Result<()> {
    let client = session.client()?;
    match command {
        Command::List => {
            let policies = client.policies().await.map_err(service_error)?.items;
            let texts: Vec<String> =
                policies.iter().map(|policy| format!("// {}\n{}\n", policy.id, policy.policy)).collect();
            session.printer.data(&policies, texts.join("\n"))
        }
        Command::Show { name } => {
            let policy = client.policy(&name).await.map_err(service_error)?;
            session.printer.data(&policy, &policy.policy)
        }
        Command::Save { name, file } => {
            let policy = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            let wanted = SavePolicy { policy };
            let saved = client.save_policy(&name, &wanted).await;
            let saved = saved.map_err(|e| refused_filter(e, Some(&wanted.policy)))?;
            session.printer.data(&saved, format_args!("{} saved", saved.name))
        }
        Command::Delete { name } => {
            client.delete_policy(&name).await.map_err(service_error)?;
            session.printer.data(&json!({ "deleted": name }), format_args!("{name} deleted"))
        }
    }
}
