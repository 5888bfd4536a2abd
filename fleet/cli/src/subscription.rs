//! `mbl subscription`: streams of events with positions of their own, for webhooks and for whoever reads. The secret of a webhook goes
//! into a private file, never to the terminal.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use fleet_api::{
    ChangeSubscription, Client, ClientError, CreateSubscription, CreatedSubscription, DeadLetter, Event, ReplayEvents,
    Subscription, SubscriptionEventsQuery,
};
use futures_util::StreamExt as _;
use protocol_types::GroupName;
use serde_json::json;
use zeroize::Zeroizing;

use crate::{
    durable::write_private,
    events,
    failure::{Exit, Failure},
    filter::refused_filter,
    pages::all_pages,
    session::{Session, service_error},
    words::{or_dash, time},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a subscription
    Create(CreateArgs),
    /// List the subscriptions
    List,
    /// Show a subscription: how far it is, and why it is no further
    Show {
        /// The subscription
        name: GroupName,
    },
    /// Change a subscription; what is not named stays
    Change(ChangeArgs),
    /// Send nothing until `mbl subscription resume`; nothing is lost
    Pause {
        /// The subscription
        name: GroupName,
    },
    /// Go on where it was
    Resume {
        /// The subscription
        name: GroupName,
    },
    /// Give a webhook another secret; the one that it had signs, too, for a day
    RotateSecret {
        /// The subscription
        name: GroupName,
        /// Private file to write the secret into
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Print the events of a subscription without a webhook, and acknowledge them
    Read(ReadArgs),
    /// List the events that were not accepted
    DeadLetters {
        /// The subscription
        name: GroupName,
    },
    /// Send events once more
    Replay(ReplayArgs),
    /// Forget a subscription, its position and its dead letters
    Delete {
        /// The subscription
        name: GroupName,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Its name
    name: GroupName,
    /// What people call it
    #[arg(long, default_value = "")]
    title: String,
    /// Only events of this kind, as in `device.lost` or `device.*`; may be given several times
    #[arg(long = "type", value_name = "KIND")]
    types: Vec<String>,
    /// Only events about devices for which this is true
    #[arg(long, default_value = "")]
    filter: String,
    /// Send events here; without it they wait to be read
    #[arg(long, value_name = "ADDRESS", requires = "output")]
    webhook: Option<String>,
    /// Send events to this mailbox
    #[arg(long, value_name = "ADDRESS", conflicts_with = "webhook")]
    mail: Option<String>,
    /// Private file to write the secret into that signs what is sent
    #[arg(long, value_name = "FILE", requires = "webhook")]
    output: Option<PathBuf>,
    /// Begin after this event, 0 for the first one; without it, with what happens from now on
    #[arg(long, value_name = "ID")]
    after: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct ChangeArgs {
    /// The subscription
    name: GroupName,
    /// What people call it
    #[arg(long)]
    title: Option<String>,
    /// Only events of this kind; may be given several times
    #[arg(long = "type", value_name = "KIND")]
    types: Option<Vec<String>>,
    /// Only events about devices for which this is true; empty for all events
    #[arg(long)]
    filter: Option<String>,
    /// Send events here
    #[arg(long, value_name = "ADDRESS")]
    webhook: Option<String>,
    /// Send events to this mailbox
    #[arg(long, value_name = "ADDRESS", conflicts_with = "webhook")]
    mail: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ReadArgs {
    /// The subscription
    name: GroupName,
    /// Go on with what happens, until interrupted
    #[arg(long, short)]
    follow: bool,
    /// Acknowledge nothing: the next reading begins at the same place
    #[arg(long)]
    keep: bool,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true).args(["after", "event", "dead_letters"]))]
pub(crate) struct ReplayArgs {
    /// The subscription
    name: GroupName,
    /// Everything after this event; 0 for everything
    #[arg(long, value_name = "ID")]
    after: Option<u64>,
    /// The dead letter of this event; may be given several times
    #[arg(long, value_name = "ID")]
    event: Vec<u64>,
    /// All dead letters
    #[arg(long)]
    dead_letters: bool,
}

pub(crate) async fn run(command: Command, session: &Session) -> anyhow::Result<()> {
    let client = session.client()?;
    match command {
        Command::Create(args) => create(&client, args, session).await,
        Command::List => list(&client, session).await,
        Command::Show { name } => {
            let subscription = client.subscription(&name).await.map_err(|e| missing(e, &name))?;
            session.printer.data(&subscription, described(&subscription))
        }
        Command::Change(args) => change(&client, args, session).await,
        Command::Pause { name } => pause(&client, &name, true, session).await,
        Command::Resume { name } => pause(&client, &name, false, session).await,
        Command::RotateSecret { name, output } => {
            let made = client.rotate_subscription_secret(&name).await.map_err(|e| missing(e, &name))?;
            keep_secret(made, &output, session)
        }
        Command::Read(args) => read(&client, &args, session).await,
        Command::DeadLetters { name } => {
            let letters = all_dead_letters(&client, &name).await?;
            session.printer.table(&letters, &["EVENT", "TYPE", "SUBJECT", "TRIES", "SINCE", "REASON"], |letter| {
                vec![
                    letter.event.id.clone(),
                    letter.event.kind.clone(),
                    letter.event.subject.clone(),
                    letter.tries.to_string(),
                    time(letter.since),
                    letter.reason.clone(),
                ]
            })
        }
        Command::Replay(args) => replay(&client, args, session).await,
        Command::Delete { name } => {
            client.delete_subscription(&name).await.map_err(|e| missing(e, &name))?;
            session.printer.data(&json!({ "deleted": name }), format_args!("{name} deleted"))
        }
    }
}

async fn create(client: &Client, args: CreateArgs, session: &Session) -> anyhow::Result<()> {
    let CreateArgs { name, title, types, filter, webhook, mail, output, after } = args;
    let wanted = CreateSubscription { name, title, types, filter, webhook, mail, after };
    let made = client.create_subscription(&wanted).await;
    let made = made.map_err(|e| refused_filter(e, Some(&wanted.filter)))?;
    match output {
        Some(file) => keep_secret(made, &file, session),
        None => {
            let made = made.subscription;
            session.printer.data(&made, format_args!("{} begins after event {}", made.name, made.position))
        }
    }
}

/// Writes the secret into its file and prints everything else.
fn keep_secret(made: CreatedSubscription, file: &Path, session: &Session) -> anyhow::Result<()> {
    let CreatedSubscription { subscription, secret } = made;
    let secret = Zeroizing::new(secret.context("the service kept the secret of the subscription to itself")?);
    write_private(file, Zeroizing::new(format!("{}\n", *secret)).as_bytes())?;
    let text = format!("{}: the secret is in {}", subscription.name, file.display());
    session.printer.data(&subscription, text)
}

async fn list(client: &Client, session: &Session) -> anyhow::Result<()> {
    let found: Vec<Subscription> =
        all_pages(async |page| client.subscriptions(&page).await.map_err(service_error)).await?;
    let head = ["SUBSCRIPTION", "TYPES", "TO", "AFTER", "BEHIND", "DEAD LETTERS", "STATE"];
    session.printer.table(&found, &head, |subscription| {
        vec![
            subscription.name.to_string(),
            if subscription.types.is_empty() { "all".to_owned() } else { subscription.types.join(" ") },
            or_dash(sent_to(subscription)),
            subscription.position.to_string(),
            subscription.behind.to_string(),
            subscription.dead_letters.to_string(),
            state(subscription),
        ]
    })
}

/// Where the events of a subscription go.
fn sent_to(subscription: &Subscription) -> Option<&str> {
    subscription.webhook.as_deref().or(subscription.mail.as_deref())
}

fn state(subscription: &Subscription) -> String {
    match (&subscription.paused, &subscription.last_failure) {
        (Some(reason), _) => format!("paused: {reason}"),
        (None, Some(reason)) if subscription.failures > 0 => format!("failing: {reason}"),
        (None, _) => "fine".to_owned(),
    }
}

fn described(subscription: &Subscription) -> String {
    let mut lines = vec![
        format!("{} {}", subscription.name, subscription.title).trim_end().to_owned(),
        format!("to           {}", or_dash(sent_to(subscription))),
        format!("types        {}", or_dash(Some(subscription.types.join(" ")).filter(|types| !types.is_empty()))),
        format!("filter       {}", or_dash(Some(&subscription.filter).filter(|filter| !filter.is_empty()))),
        format!("after        event {}, {} behind", subscription.position, subscription.behind),
        format!("dead letters {}", subscription.dead_letters),
        format!("state        {}", state(subscription)),
    ];
    lines.extend(subscription.next_try.map(|at| format!("next try     {}", time(at))));
    lines.join("\n")
}

async fn change(client: &Client, args: ChangeArgs, session: &Session) -> anyhow::Result<()> {
    let ChangeArgs { name, title, types, filter, webhook, mail } = args;
    let change = ChangeSubscription { title, types, filter, webhook, mail, paused: None };
    let changed = client.change_subscription(&name, &change, None).await;
    let changed = changed.map_err(|e| match e.problem() {
        Some(problem) if problem.status == 404 => missing(e, &name),
        _ => refused_filter(e, change.filter.as_deref()),
    })?;
    session.printer.data(&changed, described(&changed))
}

async fn pause(client: &Client, name: &GroupName, paused: bool, session: &Session) -> anyhow::Result<()> {
    let change = ChangeSubscription { paused: Some(paused), ..ChangeSubscription::default() };
    let changed = client.change_subscription(name, &change, None).await.map_err(|e| missing(e, name))?;
    let word = if paused { "rests" } else { "goes on" };
    session.printer.data(&changed, format_args!("{name} {word} after event {}", changed.position))
}

async fn read(client: &Client, args: &ReadArgs, session: &Session) -> anyhow::Result<()> {
    if args.follow {
        return follow(client, args, session).await;
    }
    loop {
        let query = SubscriptionEventsQuery::default();
        let found = client.subscription_events(&args.name, &query).await.map_err(|e| missing(e, &args.name))?;
        for event in &found.items {
            print(event, session)?;
        }
        if args.keep {
            return Ok(());
        }
        client.acknowledge_events(&args.name, found.through).await.map_err(service_error)?;
        if !found.more {
            return Ok(());
        }
    }
}

async fn follow(client: &Client, args: &ReadArgs, session: &Session) -> anyhow::Result<()> {
    let mut events = std::pin::pin!(client.subscription_stream(&args.name));
    while let Some(event) = events.next().await {
        let event = event.map_err(|e| missing(e, &args.name))?;
        print(&event, session)?;
        if let Some(position) = event.position().filter(|_| !args.keep) {
            client.acknowledge_events(&args.name, position).await.map_err(service_error)?;
        }
    }
    Ok(())
}

fn print(event: &Event, session: &Session) -> anyhow::Result<()> {
    session.printer.line(event, events::line(event))
}

async fn all_dead_letters(client: &Client, name: &GroupName) -> anyhow::Result<Vec<DeadLetter>> {
    all_pages(async |page| client.dead_letters(name, &page).await.map_err(|e| missing(e, name))).await
}

/// Dead letters that one request asks for.
const AT_ONCE: usize = 500;

async fn replay(client: &Client, args: ReplayArgs, session: &Session) -> anyhow::Result<()> {
    let ReplayArgs { name, after, event, dead_letters } = args;
    let mut wanted = event;
    if dead_letters {
        let all = all_dead_letters(client, &name).await?;
        wanted.extend(all.iter().filter_map(|letter| letter.event.position()));
    }
    if after.is_none() && wanted.is_empty() {
        return Err(Failure::new(Exit::Failed, format!("`{name}` has no dead letters")).into());
    }
    let mut parts = wanted.chunks(AT_ONCE);
    let first = parts.next().unwrap_or_default().to_vec();
    let ask = ReplayEvents { after, dead_letters: first };
    let mut changed = client.replay_events(&name, &ask).await.map_err(|e| missing(e, &name))?;
    for part in parts {
        let ask = ReplayEvents { after: None, dead_letters: part.to_vec() };
        changed = client.replay_events(&name, &ask).await.map_err(service_error)?;
    }
    let text = format!("{name} goes on after event {}, with {} dead letters first", changed.position, wanted.len());
    session.printer.data(&changed, text)
}

fn missing(error: ClientError, name: &GroupName) -> anyhow::Error {
    match error.problem() {
        Some(problem) if problem.status == 404 && problem.detail.contains("subscription") => {
            Failure::new(Exit::Refused, format!("there is no subscription `{name}`"))
                .hint("list the subscriptions with `mbl subscription list`")
                .into()
        }
        _ => service_error(error),
    }
}
