//! `mbl group`: named sets of devices for rollouts to aim at.

use clap::Subcommand;
use fleet_api::{ChangeGroup, Client, ClientError, CreateGroup, Group, GroupDetail};
use protocol_types::{EndpointName, GroupName};
use serde_json::json;

use crate::{
    filter::refused_filter,
    pages::all_pages,
    request::not_there,
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
        /// The filter whose devices are in it, too
        #[arg(long, value_name = "FILTER")]
        filter: Option<String>,
        /// A group whose devices are in it, too, may be given several times
        #[arg(long, value_name = "NAME")]
        include: Vec<GroupName>,
        /// Its first members
        members: Vec<EndpointName>,
    },
    /// Change the filter of a group and the groups that it includes
    Change {
        /// The group
        name: GroupName,
        /// The filter from now on; empty for none
        #[arg(long, value_name = "FILTER")]
        filter: Option<String>,
        /// A group that it includes from now on, may be given several times
        #[arg(long, value_name = "NAME")]
        include: Vec<GroupName>,
        /// A group that it includes no more, may be given several times
        #[arg(long, value_name = "NAME")]
        exclude: Vec<GroupName>,
    },
    /// List the groups
    List,
    /// Show what is in a group
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
        Command::Create { name, title, filter, include, members } => {
            let wanted = CreateGroup { name, title, members, filter, include };
            let text = wanted.filter.clone();
            let group = client.create_group(&wanted).await.map_err(|e| refused_filter(e, text.as_deref()))?;
            print(&group, session)
        }
        Command::Change { name, filter, include, exclude } => {
            let wanted = ChangeGroup { filter, include, exclude, ..ChangeGroup::default() };
            change(&client, &name, wanted, session).await
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
    let changed = client.change_group(name, &change, None).await;
    let group = changed.map_err(|error| match error.problem() {
        Some(problem) if problem.status == 404 && change.include.is_empty() && change.filter.is_none() => {
            missing(error, name)
        }
        _ => refused_filter(error, change.filter.as_deref()),
    })?;
    print(&group, session)
}

async fn list(client: &Client, session: &Session) -> anyhow::Result<()> {
    let groups: Vec<Group> = all_pages(async |page| client.groups(&page).await.map_err(service_error)).await?;
    session.printer.table(&groups, &["GROUP", "MEMBERS", "FILTER", "TITLE"], |group| {
        let filter = group.filter.clone().unwrap_or_default();
        vec![group.name.to_string(), group.members.to_string(), filter, group.title.clone()]
    })
}

async fn show(client: &Client, name: &GroupName, session: &Session) -> anyhow::Result<()> {
    let GroupDetail { group, includes, devices } = client.group(name).await.map_err(|error| missing(error, name))?;
    let members =
        all_pages(async |page| client.group_members(name, &page).await.map_err(|error| missing(error, name))).await?;
    let mut text = format!("{name}: {devices} devices now");
    if let Some(filter) = &group.filter {
        text += &format!("\n  filter {filter}");
    }
    for include in &includes {
        text += &format!("\n  includes {include}");
    }
    for member in &members {
        text += &format!("\n  {}", member.endpoint);
    }
    session.printer.data(&json!({ "group": group, "includes": includes, "devices": devices, "members": members }), text)
}

fn print(group: &Group, session: &Session) -> anyhow::Result<()> {
    session.printer.data(group, format_args!("{} {} members", group.name, group.members))
}

fn missing(error: ClientError, name: &GroupName) -> anyhow::Error {
    not_there(error, format!("there is no group `{name}`"), "list the groups with `mbl group list`")
}
