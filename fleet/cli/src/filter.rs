//! `mbl filter`: questions about devices that are kept under a name.

use clap::Subcommand;
use fleet_api::{ChangeFilter, Client, ClientError, CreateFilter, SavedFilter};
use protocol_types::GroupName;
use serde_json::json;

use crate::{
    failure::{Exit, Failure},
    pages::all_pages,
    request::not_there,
    session::{Session, service_error},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Keep a filter under a name; one of that name is replaced
    Save {
        /// The name
        name: GroupName,
        /// The filter, as in 'group = "north" and os.version < "1.2.0"'
        filter: String,
        /// What people call it
        #[arg(long)]
        title: Option<String>,
    },
    /// List the filters
    List,
    /// Show a filter
    Show {
        /// The filter
        name: GroupName,
    },
    /// Forget a filter
    Delete {
        /// The filter
        name: GroupName,
    },
}

pub(crate) async fn run(command: Command, session: &Session) -> anyhow::Result<()> {
    let client = session.client()?;
    match command {
        Command::Save { name, filter, title } => save(&client, (name, filter, title), session).await,
        Command::List => list(&client, session).await,
        Command::Show { name } => {
            let filter = client.filter(&name).await.map_err(|e| missing(e, &name))?;
            session.printer.data(&filter, &filter.filter)
        }
        Command::Delete { name } => {
            client.delete_filter(&name).await.map_err(|e| missing(e, &name))?;
            session.printer.data(&json!({ "deleted": name }), format_args!("{name} deleted"))
        }
    }
}

async fn save(
    client: &Client,
    (name, text, title): (GroupName, String, Option<String>),
    session: &Session,
) -> anyhow::Result<()> {
    let wanted = CreateFilter { name, title: title.clone().unwrap_or_default(), filter: text };
    let saved = match client.create_filter(&wanted).await {
        Err(error) if error.problem().is_some_and(|problem| problem.code == "already_exists") => {
            let change = ChangeFilter { title, filter: Some(wanted.filter.clone()) };
            client.change_filter(&wanted.name, &change, None).await
        }
        made => made,
    };
    let saved = saved.map_err(|e| refused_filter(e, Some(&wanted.filter)))?;
    session.printer.data(&saved, format_args!("{} saved", saved.name))
}

async fn list(client: &Client, session: &Session) -> anyhow::Result<()> {
    let filters: Vec<SavedFilter> = all_pages(async |page| client.filters(&page).await.map_err(service_error)).await?;
    session.printer.table(&filters, &["FILTER", "TITLE", "IS"], |filter| {
        vec![filter.name.to_string(), filter.title.clone(), filter.filter.clone()]
    })
}

fn missing(error: ClientError, name: &GroupName) -> anyhow::Error {
    not_there(error, format!("there is no filter `{name}`"), "list the filters with `mbl filter list`")
}

/// The line of a text in which the character `at` stands, and carets to be written below it.
fn underlined(text: &str, at: usize, length: usize) -> (&str, String) {
    let mut before = at;
    let mut found = "";
    for line in text.split('\n') {
        found = line;
        let characters = line.chars().count();
        if before <= characters {
            break;
        }
        before -= characters + 1;
    }
    let room = found.chars().count().saturating_sub(before).max(1);
    (found, format!("{}{}", " ".repeat(before), "^".repeat(length.clamp(1, room))))
}

/// A refusal of a filter or a policy points at the characters that are to blame.
pub(crate) fn refused_filter(error: ClientError, filter: Option<&str>) -> anyhow::Error {
    let pointed = error.problem().zip(filter).and_then(|(problem, filter)| Some((problem, filter, problem.at?)));
    let Some((problem, filter, at)) = pointed else { return service_error(error) };
    let (at, length) = (usize::try_from(at).unwrap_or_default(), problem.length.unwrap_or_default());
    let (line, carets) = underlined(filter, at, usize::try_from(length).unwrap_or_default());
    let failure = Failure::new(Exit::Refused, format!("{problem}\n  {line}\n  {carets}"));
    match &problem.hint {
        Some(hint) => failure.hint(hint).into(),
        None => failure.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_shown_in_its_own_line_and_never_beyond_it() {
        assert_eq!(underlined("tag = 1", 6, 1), ("tag = 1", "      ^".to_owned()));
        assert_eq!(
            underlined("forbid(\n  principal is X,\n);", 10, 9),
            ("  principal is X,", "  ^^^^^^^^^".to_owned())
        );
        assert_eq!(underlined("one\ntwo", 5, 40), ("two", " ^^".to_owned()));
        assert_eq!(underlined("one", 3, 0), ("one", "   ^".to_owned()));
    }
}
