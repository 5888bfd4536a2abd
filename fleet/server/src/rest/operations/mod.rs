//! `/operations`: what takes longer than a request, how far it is, and what became of each row.

#[cfg(test)]
mod tests;

use axum::{
    Json,
    body::{Body as Payload, Bytes},
    extract::State,
    http::{HeaderName, header},
};
use fleet_api::{
    ExportFormat, Operation, OperationKind, OperationRow, Page, PageQuery, ReportFileQuery, ReportQuery, forms,
};
use fleet_store::{AccountScope, OperationRequest, RowReport};
use futures_util::{Stream, TryStreamExt as _, stream};
use protocol_types::RowOutcome;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    fleet::Fleet,
    operations,
    rest::{
        Refusal, Reply,
        body::{Parameters, Segments},
        caller::{Caller, need},
        devices::inventory::{csv_lines, json_lines},
        numbered::number_in,
        paging::Paging,
    },
};

/// Rows that a file reads at a time.
const BATCH: u32 = 1000;

pub(crate) fn router() -> OpenApiRouter<Fleet> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(cancel))
        .routes(routes!(report))
        .routes(routes!(report_file))
}

/// An operation as the API shows it.
pub(crate) fn view(row: fleet_store::OperationRow) -> Operation {
    let id = row.id();
    let (kind, filter) = match row.request {
        OperationRequest::EnrolList { .. } => (OperationKind::EnrolList, None),
        OperationRequest::EditDevices { filter, .. } => (OperationKind::EditDevices, Some(filter.to_string())),
    };
    let (reason_code, reason) = row.reason.unzip();
    Operation {
        id,
        kind,
        state: row.state,
        total: row.total,
        done: row.done,
        unchanged: row.unchanged,
        refused: row.refused,
        filter,
        reason_code,
        reason,
        created: row.created,
        started: row.started,
        ended: row.ended,
    }
}

fn row_view(row: RowReport) -> OperationRow {
    let hint = row.code.as_deref().and_then(hint).map(str::to_owned);
    OperationRow {
        line: row.line,
        subject: row.subject,
        outcome: row.outcome,
        code: row.code,
        detail: row.detail,
        hint,
    }
}

/// What a person can do about a refused row.
fn hint(code: &str) -> Option<&'static str> {
    Some(match code {
        "line_too_long" | "malformed_line" => "write the line as the format says, and send the list again",
        "wrong_number_of_fields" => "give the line as many fields as the head; put a field with a comma in quotes",
        "invalid_fingerprint" => "write the SHA-256 of the certificate in DER as 64 hexadecimal digits",
        "invalid_endpoint" => "use 1 to 64 letters, digits, `.`, `_`, `:` or `-`, or leave the field empty",
        "invalid_tags" => "use at most 50 tags of letters, digits, `_`, `-`, `.` and `:`, with spaces between them",
        "invalid_attribute" => "use a number, or a text of at most 200 characters",
        "listed_for_another_endpoint" => "take the certificate off the list first if the new line is right",
        "too_many" => "take something away from the device first",
        "wrong_state" => "look at the device with `mbl device show`",
        _ => return None,
    })
}

fn number(id: &str) -> Reply<u64> {
    number_in(id, ("operation", "op-"))
}

/// The long operations of the account, the newest first.
#[utoipa::path(get, path = "/operations", tag = "operations", operation_id = "list_operations", params(PageQuery),
    security(("token" = ["read"])), responses((status = 200, description = "A page of operations", body = forms::OperationPage)))]
async fn list(who: Caller<need::Read>, Parameters(query): Parameters<PageQuery>) -> Reply<Json<Page<Operation>>> {
    let paging = Paging::read(&query)?;
    let before = Some(paging.after_number()?).filter(|number| *number > 0);
    let rows = who.account.operations_before(before, paging.rows()).await?;
    Ok(Json(paging.page(rows, |row| row.number.to_string(), view)))
}

/// One operation and how far it is.
#[utoipa::path(get, path = "/operations/{id}", tag = "operations", operation_id = "show_operation",
    params(("id" = String, Path, description = "The operation's id")),
    security(("token" = ["read"])), responses((status = 200, description = "The operation", body = Operation)))]
async fn show(who: Caller<need::Read>, Segments(id): Segments<String>) -> Reply<Json<Operation>> {
    Ok(Json(view(who.account.operation(number(&id)?).await?)))
}

/// Stops an operation. Rows that were done stay so.
#[utoipa::path(post, path = "/operations/{id}/cancel", tag = "operations", operation_id = "cancel_operation",
    params(("id" = String, Path, description = "The operation's id")),
    security(("token" = ["operate"])), responses((status = 200, description = "The operation", body = Operation)))]
async fn cancel(
    State(fleet): State<Fleet>,
    who: Caller<need::Operate>,
    Segments(id): Segments<String>,
) -> Reply<Json<Operation>> {
    let row = who.account.cancel_operation(number(&id)?, fleet.clock.now()).await?;
    operations::clear_away(&fleet, &who.account, &row).await;
    Ok(Json(view(row)))
}

/// What became of each row so far, in the order of the rows.
#[utoipa::path(get, path = "/operations/{id}/report", tag = "operations", operation_id = "list_operation_rows",
    params(("id" = String, Path, description = "The operation's id"), ReportQuery),
    security(("token" = ["read"])), responses((status = 200, description = "A page of rows", body = forms::OperationRowPage)))]
async fn report(
    who: Caller<need::Read>,
    Segments(id): Segments<String>,
    Parameters(query): Parameters<ReportQuery>,
) -> Reply<Json<Page<OperationRow>>> {
    let paging = Paging::read(&PageQuery { cursor: query.cursor, limit: query.limit })?;
    let number = who.account.operation(number(&id)?).await?.number;
    let rows = who.account.operation_rows_after(number, query.outcome, paging.after_number()?, paging.rows()).await?;
    Ok(Json(paging.page(rows, |row| row.line.to_string(), row_view)))
}

/// The report as a file: a line each, in the order of the rows. A file that breaks off is not whole.
#[utoipa::path(get, path = "/operations/{id}/report-file", tag = "operations", operation_id = "export_operation_rows",
    params(("id" = String, Path, description = "The operation's id"), ReportFileQuery),
    security(("token" = ["read"])), responses((status = 200, description = "The rows",
        content((String = "text/csv"), (String = "application/jsonl")))))]
async fn report_file(
    who: Caller<need::Read>,
    Segments(id): Segments<String>,
    Parameters(query): Parameters<ReportFileQuery>,
) -> Reply<([(HeaderName, &'static str); 1], Payload)> {
    let number = who.account.operation(number(&id)?).await?.number;
    let format = query.format.unwrap_or(ExportFormat::Csv);
    let media_type = match format {
        ExportFormat::Csv => "text/csv; charset=utf-8",
        ExportFormat::Jsonl => "application/jsonl",
    };
    let lines = lines(who.account, (number, query.outcome), format).map_err(|refusal| *refusal.0);
    Ok(([(header::CONTENT_TYPE, media_type)], Payload::from_stream(lines)))
}

/// Where a report is: before its head, after a row, or at its end.
enum Place {
    Head,
    After(u64),
    End,
}

/// The report, a batch at a time; only what is being sent is in memory.
fn lines(
    account: AccountScope,
    (number, outcome): (u64, Option<RowOutcome>),
    format: ExportFormat,
) -> impl Stream<Item = Result<Bytes, Refusal>> {
    stream::try_unfold((account, Place::Head), move |(account, place)| async move {
        let after = match place {
            Place::End => return Ok(None),
            Place::Head if format == ExportFormat::Csv => {
                return Ok(Some((csv_lines([HEAD.map(str::to_owned)])?, (account, Place::After(0)))));
            }
            Place::Head => 0,
            Place::After(line) => line,
        };
        let rows = account.operation_rows_after(number, outcome, after, BATCH).await?;
        let next = match rows.last() {
            Some(last) if rows.len() == usize::try_from(BATCH).unwrap_or(usize::MAX) => Place::After(last.line),
            Some(_) | None => Place::End,
        };
        let rows: Vec<OperationRow> = rows.into_iter().map(row_view).collect();
        let bytes = match format {
            ExportFormat::Csv => csv_lines(rows.into_iter().map(csv_fields))?,
            ExportFormat::Jsonl => json_lines(&rows)?,
        };
        Ok(Some((bytes, (account, next))))
    })
}

const HEAD: [&str; 6] = ["line", "subject", "outcome", "code", "detail", "hint"];

/// One row in the order of [`HEAD`].
fn csv_fields(row: OperationRow) -> [String; 6] {
    let or_empty = Option::unwrap_or_default;
    [
        row.line.to_string(),
        or_empty(row.subject),
        row.outcome.as_str().to_owned(),
        or_empty(row.code),
        or_empty(row.detail),
        or_empty(row.hint),
    ]
}
