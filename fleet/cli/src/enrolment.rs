//! `mbl enrolment`: which devices may join the account, by name, by authority and by list, and which were turned away.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use fleet_api::{Client, ClientError, CreateEnrolment, Denial, Enrolment, ListedCertificate};
use protocol_types::EndpointName;
use serde_json::json;

use crate::{
    operation,
    pages::all_pages,
    request::{not_there, request_key},
    session::{Session, service_error},
    words::{or_dash, time},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Let a device, or every device of an authority, join
    Add(AddArgs),
    /// List what lets devices join, apart from listed certificates
    List,
    /// Take an enrolment away; devices that joined by it stay, but cannot bootstrap again
    Remove {
        /// The enrolment, as in en-1
        id: String,
    },
    /// Let the devices of a list join: CSV of certificate fingerprints, up to a million lines
    Import(ImportArgs),
    /// List the certificates that a list lets join
    Certificates,
    /// Take a certificate off the list
    Unlist {
        /// SHA-256 of the certificate
        fingerprint: String,
    },
    /// List the devices that were turned away, and why
    Denials,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(crate) struct AddArgs {
    /// This device alone
    #[arg(long, value_name = "NAME")]
    endpoint: Option<EndpointName>,
    /// Devices of this authority alone
    #[arg(long, value_name = "ID")]
    authority: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The list (docs/formats/enrolment-list.md)
    file: PathBuf,
    /// Watch until the service has gone through it
    #[arg(long)]
    watch: bool,
}

pub(crate) async fn run(command: Command, session: &Session) -> anyhow::Result<()> {
    let client = session.client()?;
    match command {
        Command::Add(AddArgs { endpoint, authority }) => {
            let enrolment =
                client.create_enrolment(&CreateEnrolment { endpoint, authority }).await.map_err(service_error)?;
            session.printer.data(&enrolment, format_args!("{} {}", enrolment.id, allows(&enrolment)))
        }
        Command::List => list(&client, session).await,
        Command::Remove { id } => {
            client.delete_enrolment(&id).await.map_err(|error| missing(error, ("enrolment", &id, "list")))?;
            session.printer.data(&json!({ "removed": id }), format_args!("{id} removed"))
        }
        Command::Import(args) => import(&client, &args, session).await,
        Command::Certificates => certificates(&client, session).await,
        Command::Unlist { fingerprint } => {
            let gone = client.delete_listed_certificate(&fingerprint).await;
            gone.map_err(|error| missing(error, ("listed certificate", &fingerprint, "certificates")))?;
            session.printer.data(&json!({ "unlisted": fingerprint }), format_args!("{fingerprint} unlisted"))
        }
        Command::Denials => denials(&client, session).await,
    }
}

fn missing(error: ClientError, (kind, id, verb): (&str, &str, &str)) -> anyhow::Error {
    not_there(error, format!("there is no {kind} `{id}`"), format!("see what there is with `mbl enrolment {verb}`"))
}

fn allows(enrolment: &Enrolment) -> String {
    match (&enrolment.endpoint, &enrolment.authority) {
        (Some(endpoint), Some(authority)) => format!("{endpoint} with a certificate of {authority}"),
        (Some(endpoint), None) => endpoint.to_string(),
        (None, authority) => format!("every device of {}", or_dash(authority.as_ref())),
    }
}

async fn import(client: &Client, args: &ImportArgs, session: &Session) -> anyhow::Result<()> {
    let file = open(&args.file).await?;
    let key = request_key()?;
    let operation = client.enrol_list(file, Some(&key)).await.map_err(service_error)?;
    operation::begun(client, &operation, args.watch, session).await
}

async fn open(path: &Path) -> anyhow::Result<tokio::fs::File> {
    tokio::fs::File::open(path).await.with_context(|| format!("cannot read {}", path.display()))
}

async fn list(client: &Client, session: &Session) -> anyhow::Result<()> {
    let found: Vec<Enrolment> = all_pages(async |page| client.enrolments(&page).await.map_err(service_error)).await?;
    session.printer.table(&found, &["ENROLMENT", "ALLOWS", "CREATED"], |enrolment| {
        vec![enrolment.id.clone(), allows(enrolment), time(enrolment.created)]
    })
}

async fn certificates(client: &Client, session: &Session) -> anyhow::Result<()> {
    let found: Vec<ListedCertificate> =
        all_pages(async |page| client.listed_certificates(&page).await.map_err(service_error)).await?;
    session.printer.table(&found, &["CERTIFICATE", "DEVICE", "TAGS", "LISTED", "JOINED"], |listed| {
        vec![
            listed.fingerprint.clone(),
            or_dash(listed.endpoint.as_ref()),
            listed.tags.join(" "),
            time(listed.created),
            or_dash(listed.joined.map(time)),
        ]
    })
}

async fn denials(client: &Client, session: &Session) -> anyhow::Result<()> {
    let found: Vec<Denial> = all_pages(async |page| client.denials(&page).await.map_err(service_error)).await?;
    session.printer.table(&found, &["DEVICE", "REASON", "ATTEMPTS", "FIRST", "LAST"], |denial| {
        vec![
            denial.endpoint.to_string(),
            denial.reason.clone(),
            denial.attempts.to_string(),
            time(denial.first),
            time(denial.last),
        ]
    })
}
