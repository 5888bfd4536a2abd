//! `mbl operation`: what takes longer than a request, how far it is, and what became of each row.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use fleet_api::{Client, ClientError, ExportFormat, Operation, PageQuery, ReportFileQuery, ReportQuery};
use indicatif::ProgressBar;
use protocol_types::{OperationState, RowOutcome};

use crate::{
    export::{export_format, save},
    failure::{Exit, Failure},
    pages::all_pages,
    request::not_there,
    session::{Session, service_error},
    watch::{Shown, follow, not_ended, within},
    words::{or_dash, time},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the operations, the newest first
    List,
    /// Show an operation and how far it is
    Show {
        /// The operation, as in op-1
        id: String,
    },
    /// Show how an operation goes on until it ends
    Watch(WatchArgs),
    /// Stop an operation; what was done stays
    Cancel {
        /// The operation, as in op-1
        id: String,
    },
    /// Show or write what became of each row
    Report(ReportArgs),
}

#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// The operation, as in op-1
    pub(crate) id: String,
    /// Seconds after which to give up watching
    #[arg(long, value_name = "SECONDS")]
    pub(crate) time_limit: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// The operation, as in op-1
    id: String,
    /// Only rows of this outcome: done, unchanged or refused
    #[arg(long, value_name = "OUTCOME")]
    outcome: Option<RowOutcome>,
    /// The file; it is there only once it is whole
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// For a file: csv, or jsonl for a JSON object a line
    #[arg(long, value_name = "FORMAT", default_value = "csv", value_parser = export_format, requires = "output")]
    format: ExportFormat,
}

/// How long between two looks at a watched operation.
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub(crate) async fn run(command: Command, session: &Session) -> anyhow::Result<()> {
    let client = session.client()?;
    match command {
        Command::List => list(&client, session).await,
        Command::Show { id } => {
            let operation = client.operation(&id).await.map_err(|error| missing(error, &id))?;
            session.printer.data(&operation, describe(&operation))
        }
        Command::Watch(args) => watch(&client, &args, session).await,
        Command::Cancel { id } => {
            let operation = client.cancel_operation(&id).await.map_err(|error| missing(error, &id))?;
            session.printer.data(&operation, describe(&operation))
        }
        Command::Report(args) => report(&client, args, session).await,
    }
}

/// Shows an operation that was just begun, or follows it to its end.
pub(crate) async fn begun(
    client: &Client,
    operation: &Operation,
    is_watched: bool,
    session: &Session,
) -> anyhow::Result<()> {
    if is_watched {
        session.printer.say(format_args!("operation {} begun", operation.id));
        let args = WatchArgs { id: operation.id.clone(), time_limit: None };
        return watch(client, &args, session).await;
    }
    session.printer.say(format_args!("watch it with `mbl operation watch {}`", operation.id));
    session.printer.data(operation, describe(operation))
}

fn missing(error: ClientError, id: &str) -> anyhow::Error {
    not_there(error, format!("there is no operation `{id}`"), "list the operations with `mbl operation list`")
}

const fn rows(operation: &Operation) -> u64 {
    operation.done.saturating_add(operation.unchanged).saturating_add(operation.refused)
}

/// One line: what, how far, why.
fn describe(operation: &Operation) -> String {
    let Operation { id, kind, state, done, unchanged, refused, .. } = operation;
    let mut text = format!(
        "{id} {} {} {} of {}: done {done} unchanged {unchanged} refused {refused}",
        kind.as_str(),
        state.as_str(),
        rows(operation),
        or_dash(operation.total)
    );
    if let Some(code) = &operation.reason_code {
        text += &format!(" ({code}: {})", operation.reason.as_deref().unwrap_or_default());
    }
    text
}

async fn list(client: &Client, session: &Session) -> anyhow::Result<()> {
    let operations = all_pages(async |page| client.operations(&page).await.map_err(service_error)).await?;
    let head = ["OPERATION", "KIND", "STATE", "ROWS", "TOTAL", "REFUSED", "CREATED"];
    session.printer.table(&operations, &head, |operation: &Operation| {
        vec![
            operation.id.clone(),
            operation.kind.as_str().to_owned(),
            operation.state.as_str().to_owned(),
            rows(operation).to_string(),
            or_dash(operation.total),
            operation.refused.to_string(),
            time(operation.created),
        ]
    })
}

async fn report(client: &Client, args: ReportArgs, session: &Session) -> anyhow::Result<()> {
    let ReportArgs { id, outcome, output, format } = args;
    if let Some(path) = output {
        let query = ReportFileQuery { format: Some(format), outcome };
        let answer = client.operation_report_file(&id, &query).await.map_err(|error| missing(error, &id))?;
        return save(answer, &path, session).await;
    }
    let rows = all_pages(async |page: PageQuery| {
        let query = ReportQuery { cursor: page.cursor, outcome, ..ReportQuery::default() };
        client.operation_report(&id, &query).await.map_err(|error| missing(error, &id))
    })
    .await?;
    session.printer.table(&rows, &["LINE", "SUBJECT", "OUTCOME", "CODE", "WHAT IS WRONG", "WHAT TO DO"], |row| {
        vec![
            row.line.to_string(),
            or_dash(row.subject.as_ref()),
            row.outcome.as_str().to_owned(),
            or_dash(row.code.as_ref()),
            or_dash(row.detail.as_ref()),
            or_dash(row.hint.as_ref()),
        ]
    })
}

async fn watch(client: &Client, args: &WatchArgs, session: &Session) -> anyhow::Result<()> {
    let bar = session.printer.progress(0, "{msg} [{bar:30}] {pos} of {len}");
    let look = until_end(client, &args.id, &bar, session);
    let ended = within(args.time_limit, look, |seconds| Err(not_ended("operation", &args.id, seconds))).await;
    bar.finish_and_clear();
    let operation = ended?;
    if operation.state == OperationState::Finished && operation.refused == 0 {
        return Ok(());
    }
    let message = match operation.state {
        OperationState::Finished => format!("operation {} refused {} rows", operation.id, operation.refused),
        state => format!("operation {} {}", operation.id, state.as_str()),
    };
    let hint = format!("see why with `mbl operation report {} --outcome refused`", operation.id);
    Err(Failure::new(Exit::WatchedFailed, message).hint(hint).into())
}

/// Prints every change until the operation ends.
async fn until_end(client: &Client, id: &str, bar: &ProgressBar, session: &Session) -> anyhow::Result<Operation> {
    let mut shown = Shown::default();
    let look = async || client.operation(id).await;
    follow(
        session,
        LOOK_EVERY,
        look,
        |error| missing(error, id),
        |operation: Operation| {
            bar.set_message(id.to_owned());
            bar.set_length(operation.total.unwrap_or_default());
            bar.set_position(rows(&operation));
            bar.suspend(|| shown.show(&session.printer, id, &operation, describe(&operation)))?;
            Ok(operation.state.is_end().then_some(operation))
        },
    )
    .await
}
