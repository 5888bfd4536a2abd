//! `/listed-certificates`: factory certificates that may join because a list names them, and the lists themselves.

use std::time::Duration;

use axum::{
    Json,
    body::Body as HttpBody,
    extract::{Request, State},
    http::{StatusCode, header},
};
use fleet_api::{LIST_CONTENT_TYPE, ListedCertificate, Page, PageQuery, ProblemCode, forms};
use fleet_store::{Fingerprint, ListedRow, OperationRequest, RequestKey, StoreError, fingerprint, fingerprint_text};
use futures_util::StreamExt as _;
use protocol_types::Hasher;
use tokio::{io::AsyncWriteExt as _, time::timeout};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    fleet::Fleet,
    list_files::ReadListError,
    rest::{
        Refusal, Reply,
        body::{Parameters, Segments, idempotency_key},
        caller::{Caller, need},
        devices::{
            attribute_view,
            edits::{Begun, begun},
        },
        paging::Paging,
    },
};

/// The largest list in bytes.
const MAX_BYTES: u64 = 256 << 20;
/// Most lines of a list after its head.
const MAX_LINES: u64 = 1_000_000;
/// Longest time in which a list must arrive, however it trickles.
const ARRIVAL: Duration = Duration::from_secs(60 * 60);

pub(crate) fn router() -> OpenApiRouter<Fleet> {
    OpenApiRouter::new().routes(routes!(list, send)).routes(routes!(show, delete))
}

fn view(row: ListedRow) -> ListedCertificate {
    let labels = row.listed.labels;
    ListedCertificate {
        fingerprint: fingerprint_text(&row.listed.fingerprint),
        endpoint: row.listed.endpoint,
        tags: labels.add_tags,
        attributes: labels
            .attributes
            .into_iter()
            .filter_map(|(key, value)| Some((key, attribute_view(value?))))
            .collect(),
        created: row.created,
        joined: row.joined,
    }
}

fn wanted(text: &str) -> Reply<Fingerprint> {
    let id = || text.chars().take(80).collect();
    fingerprint(text).ok_or_else(|| StoreError::NotFound { kind: "listed certificate", id: id() }.into())
}

/// The listed certificates of the account, in the order of their fingerprints.
#[utoipa::path(get, path = "/listed-certificates", tag = "enrolments", operation_id = "list_listed_certificates", params(PageQuery),
    security(("token" = ["read"])),
    responses((status = 200, description = "A page of certificates", body = forms::ListedCertificatePage)))]
async fn list(
    who: Caller<need::Read>,
    Parameters(query): Parameters<PageQuery>,
) -> Reply<Json<Page<ListedCertificate>>> {
    let paging = Paging::read(&query)?;
    let after = match paging.after() {
        "" => None,
        text => Some(
            wanted(text).map_err(|_| Refusal::new(ProblemCode::MalformedRequest, "this is no cursor of this list"))?,
        ),
    };
    let rows = who.account.listed_certificates_after(after.as_ref(), paging.rows()).await?;
    Ok(Json(paging.page(rows, |row| fingerprint_text(&row.listed.fingerprint), view)))
}

/// One listed certificate.
#[utoipa::path(get, path = "/listed-certificates/{fingerprint}", tag = "enrolments", operation_id = "show_listed_certificate",
    params(("fingerprint" = String, Path, description = "SHA-256 of the certificate in 64 hexadecimal digits")),
    security(("token" = ["read"])), responses((status = 200, description = "The certificate", body = ListedCertificate)))]
async fn show(who: Caller<need::Read>, Segments(print): Segments<String>) -> Reply<Json<ListedCertificate>> {
    Ok(Json(view(who.account.listed_certificate(&wanted(&print)?).await?)))
}

/// Takes a certificate off the list. A device that joined with it stays, but cannot bootstrap again by it.
#[utoipa::path(delete, path = "/listed-certificates/{fingerprint}", tag = "enrolments",
    operation_id = "delete_listed_certificate",
    params(("fingerprint" = String, Path, description = "SHA-256 of the certificate in 64 hexadecimal digits")),
    security(("token" = ["enrol"])), responses((status = 204, description = "It is off the list")))]
async fn delete(
    State(fleet): State<Fleet>,
    who: Caller<need::Enrol>,
    Segments(print): Segments<String>,
) -> Reply<StatusCode> {
    who.account.delete_listed_certificate(&wanted(&print)?, fleet.clock.now()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Takes a list of certificates that may join (`docs/formats/enrolment-list.md`): at most a million lines and 256 MiB. The answer is
/// the operation that goes through it; certificates that are listed already stay as they are.
#[utoipa::path(post, path = "/listed-certificates", tag = "enrolments", operation_id = "send_enrolment_list",
    request_body(content = String, content_type = "text/csv"),
    params(("idempotency-key" = Option<String>, Header, min_length = 1, max_length = 128,
        description = "Makes the request safe to repeat")),
    security(("token" = ["enrol"])), responses((status = 202, description = "The operation", body = fleet_api::Operation)))]
async fn send(State(fleet): State<Fleet>, who: Caller<need::Enrol>, request: Request) -> Reply<Begun> {
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if content_type.and_then(|value| value.split(';').next()).map(str::trim) != Some(LIST_CONTENT_TYPE) {
        let detail = format!("a list must be `{LIST_CONTENT_TYPE}`");
        return Err(Refusal::new(ProblemCode::UnsupportedMediaType, detail));
    }
    let key = idempotency_key(request.headers())?;
    let mut hasher = Hasher::new();
    hasher.update(format!("{} {}\n", request.method(), request.uri().path()).as_bytes());
    let name = hex::encode(fleet.random.bytes::<16>()?);
    let made = begin(&fleet, &who, (&name, request.into_body()), (key, hasher)).await;
    let is_needed = made.as_ref().is_ok_and(
        |row| matches!(&row.request, OperationRequest::EnrolList { file } if *file == name && !row.state.is_end()),
    );
    if !is_needed && let Err(error) = fleet.lists.remove(who.account.name(), &name).await {
        tracing::warn!(%error, account = %who.account.name(), "a list that nobody needs was not removed");
    }
    made.map(begun)
}

async fn begin(
    fleet: &Fleet,
    who: &Caller<need::Enrol>,
    (name, body): (&str, HttpBody),
    (key, mut hasher): (Option<String>, Hasher),
) -> Reply<fleet_store::OperationRow> {
    let account = who.account.name();
    let mut file = fleet.lists.create(account, name).await.map_err(|e| Refusal::storage(&e))?;
    let received = timeout(ARRIVAL, receive(&mut file, body, &mut hasher, fleet.config.limits.slow_sender())).await;
    let lines = received.map_err(|_| Refusal::new(ProblemCode::TooSlow, "the list took too long"))??;
    fleet.lists.sync(file, account, name).await.map_err(|e| Refusal::storage(&e))?;
    match fleet.lists.lines(fleet.lists.path(account, name), String::new(), 0).await {
        Ok(_) => {}
        Err(ReadListError::Head(fault)) => return Err(Refusal::value("list", fault.to_string())),
        Err(error) => return Err(Refusal::internal(&error)),
    }
    let key = key.map(|key| RequestKey { key, request: hasher.finish() });
    let request = OperationRequest::EnrolList { file: name.to_owned() };
    Ok(who.account.create_operation(&request, Some(lines), key.as_ref(), fleet.clock.now()).await?)
}

/// Writes what comes, piece by piece; answers how many lines follow the head.
async fn receive(file: &mut tokio::fs::File, body: HttpBody, hasher: &mut Hasher, silence: Duration) -> Reply<u64> {
    let mut pieces = body.into_data_stream();
    let (mut bytes, mut ends, mut last) = (0_u64, 0_u64, b'\n');
    loop {
        let piece = match timeout(silence, pieces.next()).await {
            Err(_) => return Err(Refusal::new(ProblemCode::TooSlow, "the sender was silent for too long")),
            Ok(None) => break,
            Ok(Some(Err(_))) => return Err(Refusal::new(ProblemCode::MalformedBody, "the list broke off")),
            Ok(Some(Ok(piece))) => piece,
        };
        bytes = bytes.saturating_add(piece.len() as u64);
        ends = ends.saturating_add(piece.iter().filter(|byte| **byte == b'\n').count() as u64);
        last = piece.last().copied().unwrap_or(last);
        if bytes > MAX_BYTES || ends > MAX_LINES + 1 {
            let detail = format!("a list has at most {MAX_LINES} lines after its head, and {MAX_BYTES} bytes");
            return Err(Refusal::new(ProblemCode::TooLarge, detail));
        }
        hasher.update(&piece);
        file.write_all(&piece).await.map_err(|e| Refusal::storage(&e))?;
    }
    Ok((ends + u64::from(last != b'\n')).saturating_sub(1))
}
