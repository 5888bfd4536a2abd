//! `mbl events`: what happened in the account, once or as it happens.

use clap::Args;
use fleet_api::{Client, Event, PageQuery};
use futures_util::StreamExt as _;

use crate::session::{Session, service_error};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Go on with what happens from now on, until interrupted
    #[arg(long, short, visible_alias = "watch")]
    follow: bool,
    /// Only events after this one; a stream that follows begins there
    #[arg(long, value_name = "ID")]
    after: Option<u64>,
    /// Only events about this, as in `devices/gate-42`
    #[arg(long, value_name = "SUBJECT")]
    subject: Option<String>,
}

pub(crate) async fn run(arguments: Arguments, session: &Session) -> anyhow::Result<()> {
    let client = session.client()?;
    if !arguments.follow {
        return list(&client, &arguments, session).await;
    }
    let mut events = std::pin::pin!(client.event_stream(arguments.after));
    while let Some(event) = events.next().await {
        print(&event.map_err(service_error)?, &arguments, session)?;
    }
    Ok(())
}

async fn list(client: &Client, arguments: &Arguments, session: &Session) -> anyhow::Result<()> {
    let mut query = PageQuery::default();
    loop {
        let page = client.events(&query).await.map_err(service_error)?;
        for event in page.items {
            if arguments.after.is_none_or(|after| event.position().is_some_and(|position| position > after)) {
                print(&event, arguments, session)?;
            }
        }
        match page.next {
            Some(next) => query.cursor = Some(next),
            None => return Ok(()),
        }
    }
}

fn print(event: &Event, arguments: &Arguments, session: &Session) -> anyhow::Result<()> {
    if arguments.subject.as_ref().is_some_and(|subject| *subject != event.subject) {
        return Ok(());
    }
    session.printer.line(event, line(event))
}

/// An event in one line, for people.
pub(crate) fn line(event: &Event) -> String {
    format!("{} {} {} {} {}", event.id, event.time, event.kind, event.subject, event.data)
}
