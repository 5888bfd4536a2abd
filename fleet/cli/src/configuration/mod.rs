//! `mbl configuration`: documents of the account, of groups and of devices, what they would change and what they come to.

pub(crate) mod secret;

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use fleet_api::{
    Client, ConfigurationChange, ConfigurationDocument, ConfigurationLevel, ConfigurationOf, ConfigurationPreview,
    EffectiveConfiguration, PageQuery, SaveConfiguration, StagedConfiguration,
};
use protocol_types::{EndpointName, GroupName, RevisionStanding};
use serde_json::Value;

use crate::{
    pages::all_pages,
    rollout::brought,
    session::{Session, service_error},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the document of a level
    Show {
        #[command(flatten)]
        of: Of,
        /// An older revision
        #[arg(long, value_name = "NUMBER")]
        revision: Option<i64>,
    },
    /// Save a document as that of a level
    Save {
        #[command(flatten)]
        wanted: Wanted,
        /// Only if the document is still at this revision
        #[arg(long, value_name = "NUMBER")]
        at_revision: Option<i64>,
    },
    /// Keep a document as a revision that is in force nowhere, for `mbl rollout start --configuration`
    Stage {
        #[command(flatten)]
        wanted: Wanted,
    },
    /// Show what a document would change, device by device, if it were saved
    Preview {
        #[command(flatten)]
        wanted: Wanted,
    },
    /// List the revisions of the document of a level
    Revisions {
        #[command(flatten)]
        of: Of,
    },
    /// Save an older revision as the newest one
    Restore {
        #[command(flatten)]
        of: Of,
        /// The revision
        revision: i64,
    },
    /// Show what all documents come to for a device, where each setting comes from, and what the device says of it
    Effective {
        /// The device
        endpoint: EndpointName,
    },
    /// Give secrets to applications, or take them away
    #[command(subcommand)]
    Secret(secret::Command),
    /// Print the JSON Schema of the documents
    Schema,
}

/// Whose document it is: the account's, unless a group or a device is named.
#[derive(Debug, Args)]
pub(crate) struct Of {
    /// That of a group
    #[arg(long, value_name = "NAME", conflicts_with = "device")]
    group: Option<GroupName>,
    /// That of a device alone
    #[arg(long, value_name = "NAME")]
    device: Option<EndpointName>,
}

#[derive(Debug, Args)]
pub(crate) struct Wanted {
    #[command(flatten)]
    of: Of,
    /// For a group: the higher one wins
    #[arg(long, value_name = "NUMBER", requires = "group")]
    priority: Option<u32>,
    /// File with the whole document, in JSON
    file: PathBuf,
}

impl From<Of> for ConfigurationOf {
    fn from(of: Of) -> Self {
        match (of.group, of.device) {
            (Some(name), _) => Self::Group(name),
            (None, Some(endpoint)) => Self::Device(endpoint),
            (None, None) => Self::Account,
        }
    }
}

impl Wanted {
    fn read(self) -> anyhow::Result<(ConfigurationOf, SaveConfiguration)> {
        let Self { of, priority, file } = self;
        let text = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let document =
            serde_json::from_slice(&text).with_context(|| format!("{} does not hold a JSON object", file.display()))?;
        Ok((of.into(), SaveConfiguration { document, priority }))
    }
}

pub(crate) async fn run(command: Command, session: &Session) -> anyhow::Result<()> {
    let client = session.client()?;
    match command {
        Command::Show { of, revision } => {
            let shown = client.configuration(&of.into(), revision).await.map_err(service_error)?;
            session.printer.data(&shown, pretty(&shown)?)
        }
        Command::Save { wanted, at_revision } => {
            let (of, wanted) = wanted.read()?;
            save(&client, &of, &wanted, at_revision, session).await
        }
        Command::Stage { wanted } => {
            let (of, wanted) = wanted.read()?;
            let staged = client.stage_configuration(&of, &wanted).await.map_err(service_error)?;
            let of = match &of {
                ConfigurationOf::Account => String::new(),
                ConfigurationOf::Group(name) => format!(" --of-group {name}"),
                ConfigurationOf::Device(endpoint) => format!(" --of-device {endpoint}"),
            };
            session.printer.say(format_args!(
                "bring it to devices with `mbl rollout start --configuration {}{of} --all`, in waves if you like",
                staged.revision
            ));
            session.printer.data(&staged, format_args!("staged as revision {}", staged.revision))
        }
        Command::Preview { wanted } => {
            let (of, wanted) = wanted.read()?;
            preview(&client, &of, &wanted, session).await
        }
        Command::Revisions { of } => revisions(&client, &of.into(), session).await,
        Command::Restore { of, revision } => {
            let of = of.into();
            let ConfigurationDocument { level: _, document, priority, .. } =
                client.configuration(&of, Some(revision)).await.map_err(service_error)?;
            let priority = matches!(of, ConfigurationOf::Group(_)).then_some(priority);
            save(&client, &of, &SaveConfiguration { document, priority }, None, session).await
        }
        Command::Effective { endpoint } => {
            let settings = client.effective_configuration(&endpoint).await.map_err(service_error)?;
            session.printer.data(&settings, told(&settings))
        }
        Command::Secret(command) => secret::run(command, &client, session).await,
        Command::Schema => {
            let schema = client.configuration_schema().await.map_err(service_error)?;
            session.printer.data(&schema, serde_json::to_string_pretty(&schema)?)
        }
    }
}

fn pretty(shown: &ConfigurationDocument) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(&shown.document)?)
}

async fn save(
    client: &Client,
    of: &ConfigurationOf,
    wanted: &SaveConfiguration,
    at: Option<i64>,
    session: &Session,
) -> anyhow::Result<()> {
    let saved = client.save_configuration(of, wanted, at).await.map_err(service_error)?;
    session.printer.data(&saved, format_args!("saved as revision {}", saved.revision))
}

async fn preview(
    client: &Client,
    of: &ConfigurationOf,
    wanted: &SaveConfiguration,
    session: &Session,
) -> anyhow::Result<()> {
    let mut query = PageQuery::default();
    let mut whole: Option<ConfigurationPreview> = None;
    loop {
        let page = client.preview_configuration(of, wanted, &query).await.map_err(service_error)?;
        let next = page.next.clone();
        match &mut whole {
            None => whole = Some(ConfigurationPreview { next: None, ..page }),
            Some(whole) => {
                whole.changed += page.changed;
                whole.items.extend(page.items);
            }
        }
        let Some(next) = next else { break };
        query.cursor = Some(next);
    }
    let Some(whole) = whole else { return Ok(()) };
    let mut lines = vec![format!("{} of {} devices would change", whole.changed, whole.devices)];
    for device in whole.items.iter().filter(|device| !device.changes.is_empty() || device.invalid.is_some()) {
        lines.push(device.endpoint.to_string());
        lines.extend(device.changes.iter().map(difference));
        lines.extend(device.invalid.iter().map(|why| format!("  cannot be given to the device: {why}")));
    }
    session.printer.data(&whole, lines.join("\n"))
}

fn difference(change: &ConfigurationChange) -> String {
    let text = |value: &Option<Value>| value.as_ref().map_or_else(|| "unset".to_owned(), Value::to_string);
    format!("  {} {} -> {}", change.path, text(&change.before), text(&change.after))
}

async fn revisions(client: &Client, of: &ConfigurationOf, session: &Session) -> anyhow::Result<()> {
    let all: Vec<ConfigurationDocument> =
        all_pages(async |page| client.configuration_revisions(of, &page).await.map_err(service_error)).await?;
    session.printer.table(&all, &["REVISION", "STANDING", "SAVED", "PRIORITY", "DOCUMENT"], |row| {
        let document = Value::Object(row.document.clone()).to_string();
        let standing = match row.standing {
            RevisionStanding::Past => "past",
            RevisionStanding::InForce => "in force",
            RevisionStanding::Staged => "staged",
        };
        let (revision, priority) = (row.revision.to_string(), row.priority.to_string());
        vec![revision, standing.to_owned(), row.changed.0.to_string(), priority, document]
    })
}

/// A level as in `group doors`.
fn level_of(level: ConfigurationLevel, name: &str) -> String {
    // The word is the one of the API.
    let level = serde_json::to_value(level).ok();
    format!("{} {name}", level.as_ref().and_then(Value::as_str).unwrap_or_default()).trim_end().to_owned()
}

fn told(settings: &EffectiveConfiguration) -> String {
    // The word is the one of the API.
    let status = serde_json::to_value(settings.status).ok();
    let status = status.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut lines = vec![format!("{}: {status}, generation {}", settings.endpoint, settings.generation)];
    lines.extend(settings.invalid.iter().map(|why| format!("cannot be given to the device: {why}")));
    if let Some(reported) = &settings.reported {
        let why = reported.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        lines.push(format!("reported {} for generation {}{why}", reported.state, reported.generation));
    }
    for setting in &settings.settings {
        lines.push(format!("  {} {}  ({})", setting.path, setting.value, level_of(setting.level, &setting.name)));
    }
    for layer in &settings.layers {
        let Some(rollout) = &layer.rollout else { continue };
        let of = StagedConfiguration { level: layer.level, name: layer.name.clone(), revision: layer.revision };
        lines.push(format!("{} is there by rollout {rollout}", brought(None, Some(&of))));
    }
    for secret in &settings.secrets {
        let of = level_of(secret.level, &secret.level_name);
        lines.push(format!("  secret {} of {}, version {}  ({of})", secret.name, secret.application, secret.version));
    }
    if !settings.secrets.is_empty() && !settings.takes_secrets {
        lines.push("the device has not said to which key secrets are sealed, so it has none of them".to_owned());
    }
    if !settings.drift.is_empty() {
        lines.push("differs from what the device confirmed last:".to_owned());
        lines.extend(settings.drift.iter().map(difference));
    }
    lines.join("\n")
}
