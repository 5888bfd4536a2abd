//! `/audit` and `/audit-export`: what was done in the account, to be read, and to be verified elsewhere.

use axum::{
    Json,
    body::{Body as Payload, Bytes},
    extract::State,
    http::{HeaderName, header},
};
use fleet_api::{AuditExportQuery, AuditRecord, Page, PageQuery, audit_line, forms};
use fleet_store::{AccountScope, AuditRow, StoreError};
use futures_util::{Stream, TryStreamExt as _, stream};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    fleet::Fleet,
    rest::{
        Refusal, Reply,
        body::Parameters,
        caller::{Caller, need},
        paging::Paging,
    },
};

/// Entries that an export reads at a time.
const BATCH: u32 = 500;

pub(crate) fn router() -> OpenApiRouter<Fleet> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(export))
}

fn view(row: &AuditRow) -> Reply<AuditRecord> {
    let damaged = |_| StoreError::Damaged { table: "audit_entries", column: "entry" };
    Ok(AuditRecord { hash: row.hash.clone(), entry: serde_json::from_str(&row.entry).map_err(damaged)? })
}

/// The audit log of the account, oldest first.
#[utoipa::path(get, path = "/audit", tag = "audit", operation_id = "list_audit", params(PageQuery),
    security(("token" = ["admin"])), responses((status = 200, description = "A page of entries", body = forms::AuditPage)))]
async fn list(who: Caller<need::Admin>, Parameters(query): Parameters<PageQuery>) -> Reply<Json<Page<AuditRecord>>> {
    let paging = Paging::read(&query)?;
    let rows = who.account.audit_after(paging.after_number()?, paging.rows()).await?;
    let page = paging.page(rows, |row| row.number.to_string(), |row| row);
    let items = page.items.iter().map(view).collect::<Reply<_>>()?;
    Ok(Json(Page { items, next: page.next }))
}

/// The audit log as lines, each the exact text that its hash is of. A file that breaks off is not whole.
#[utoipa::path(get, path = "/audit-export", tag = "audit", operation_id = "export_audit", params(AuditExportQuery),
    security(("token" = ["admin"])), responses((status = 200, description = "The entries",
        body = String, content_type = "application/jsonl")))]
async fn export(
    State(_): State<Fleet>,
    who: Caller<need::Admin>,
    Parameters(query): Parameters<AuditExportQuery>,
) -> Reply<([(HeaderName, &'static str); 1], Payload)> {
    let after = query.after.unwrap_or_default();
    if i64::try_from(after).is_err() {
        return Err(Refusal::value("after", "no entry has so high a number"));
    }
    let lines = lines(who.account, after).map_err(|refusal| *refusal.0);
    Ok(([(header::CONTENT_TYPE, "application/jsonl")], Payload::from_stream(lines)))
}

/// The export, a batch at a time.
fn lines(account: AccountScope, after: u64) -> impl Stream<Item = Result<Bytes, Refusal>> {
    stream::try_unfold((account, after), |(account, after)| async move {
        let rows = account.audit_after(after, BATCH).await?;
        let Some(last) = rows.last().map(|row| row.number) else { return Ok(None) };
        let text: String = rows.iter().map(|row| audit_line(&row.hash, &row.entry) + "\n").collect();
        Ok(Some((Bytes::from(text), (account, last))))
    })
}
