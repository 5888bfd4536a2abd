//! Exports: what the service sends line by line, to the standard output or into a file.

use std::path::Path;

use fleet_api::{Download, ExportFormat};

use crate::{
    durable,
    failure::{Exit, Failure},
    session::Session,
};

pub(crate) fn export_format(text: &str) -> Result<ExportFormat, String> {
    match text {
        "csv" => Ok(ExportFormat::Csv),
        "jsonl" => Ok(ExportFormat::Jsonl),
        _ => Err("a format is csv or jsonl".to_owned()),
    }
}

/// Puts an export into a file, or to the standard output if none is named.
pub(crate) async fn deliver(answer: Download, file: Option<&Path>, session: &Session) -> anyhow::Result<()> {
    match file {
        None => pour(answer, session).await,
        Some(path) => save(answer, path, session).await,
    }
}

/// Writes an export to the standard output as it comes.
async fn pour(mut answer: Download, session: &Session) -> anyhow::Result<()> {
    while let Some(part) = answer.chunk().await.map_err(broken)? {
        session.printer.bytes(&part)?;
    }
    Ok(())
}

fn broken(cause: impl Into<anyhow::Error>) -> Failure {
    Failure::new(Exit::NotReached, "the export broke off; what came is not whole").because(cause)
}

/// Puts an export into a file, which is there only once it is whole.
pub(crate) async fn save(mut answer: Download, path: &Path, session: &Session) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(broken)? {
        bytes.extend_from_slice(&part);
    }
    durable::write(path, &bytes)?;
    session.printer.data(&serde_json::json!({ "file": path }), format_args!("{} written", path.display()))
}
