//! `mbl group`: named lists of devices for rollouts to aim at.

use clap::Subcommand;
use fleet_api::{ChangeGroup, Client, ClientError, CreateGroup, Group, PageQuery};
use protocol_types::{EndpointName, GroupName};
use serde_json::json;

use crate::{
    failure::{Exit, Failure},
    session::{Session, service_error},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a group
    Create {
        /// The group
        name: GroupName,
        /// What people call it
        #[arg(long, default_value = "")]
        title: String,
        /// Its first members
        members: Vec<EndpointName>,
    },
    /// List the groups
    List,
    /// List the members of a group
    Show {
        /// The group
        name: GroupName,
    },
    /// Add members to a group
    Add {
        /// The group
        name: GroupName,
        /// The new members
        #[arg(required = true)]
        members: Vec<EndpointName>,
    },
    /// Take members out of a group
    Remove {
        /// The group
        name: GroupName,
        /// The members
        #[arg(required = true)]
        members: Vec<EndpointName>,
    },
    /// Delete a group; its members stay in the account
    Delete {
        /// The group
        name: GroupName,
    },
}

pub(crate) async fn run(command: Command, session: &Session) -> anyhow::Result<()> {
    let client = session.client()?;
    match command {
        Command::Create { name, title, members } => {
            let group = client.create_group(&CreateGroup { name, title, members }).await.map_err(service_error)?;
            print(&group, session)
        }
        Command::List => list(&client, session).await,
        Command::Show { name } => show(&client, &name, session).await,
        Command::Add { name, members } => {
            change(&client, &name, ChangeGroup { add: members, ..ChangeGroup::default() }, session).await
        }
        Command::Remove { name, members } => {
            change(&client, &name, ChangeGroup { remove: members, ..ChangeGroup::default() }, session).await
        }
        Command::Delete { name } => {
            client.delete_group(&name).await.map_err(|error| missing(error, &name))?;
            session.printer.data(&json!({ "deleted": name }), format_args!("{name} deleted"))
        }
    }
}

async fn change(client: &Client, name: &GroupName, change: ChangeGroup, session: &Session) -> anyhow::Result<()> {
    // Adding and removing do not depend on who is a member, so no revision is asked for.
    let group = client.change_group(name, &change, None).await.map_err(|error| missing(error, name))?;
    print(&group, session)
}

async fn list(client: &Client, session: &Session) -> anyhow::Result<()> {
    let mut groups: Vec<Group> = Vec::new();
    let mut query = PageQuery::default();
    loop {
        let page = client.groups(&query).await.map_err(service_error)?;
        groups.extend(page.items);
        match page.next {
            Some(next) => query.cursor = Some(next),
            None => break,
        }
    }
    session.printer.table(&groups, &["GROUP", "MEMBERS", "TITLE"], |group| {
        vec![group.name.to_string(), group.members.to_string(), group.title.clone()]
    })
}

async fn show(client: &Client, name: &GroupName, session: &Session) -> anyhow::Result<()> {
    let mut members = Vec::new();
    let mut query = PageQuery::default();
    loop {
        let page = client.group_members(name, &query).await.map_err(|error| missing(error, name))?;
        members.extend(page.items);
        match page.next {
            Some(next) => query.cursor = Some(next),
            None => break,
        }
    }
    session.printer.table(&members, &["DEVICE"], |member| vec![member.endpoint.to_string()])
}

fn print(group: &Group, session: &Session) -> anyhow::Result<()> {
    session.printer.data(group, format_args!("{} {} members", group.name, group.members))
}

fn missing(error: ClientError, name: &GroupName) -> anyhow::Error {
    match error.problem() {
        Some(problem) if problem.status == 404 => Failure::new(Exit::Refused, format!("there is no group `{name}`"))
            .hint("list the groups with `mbl group list`")
            .into(),
        _ => service_error(error),
    }
}
