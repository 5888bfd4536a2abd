//! `/artifacts`: uploads in pieces that go on where the last one ended, and downloads for export.

use std::time::Duration;

use axum::{
    Json,
    body::Body as HttpBody,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::IntoResponse,
};
use fleet_api::{
    Artifact, BeginArtifact, Page, PageQuery, ProblemCode, UPLOAD_CONTENT_TYPE, UPLOAD_LENGTH, UPLOAD_OFFSET, forms,
};
use fleet_store::{AccountScope, ArtifactRow, StoreError};
use futures_util::StreamExt;
use protocol_types::Digest;
use tokio::time::timeout;
use tracing::Instrument as _;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    artifact_store::{Checked, Part, Turn},
    fleet::Fleet,
    rest::{
        Refusal, Reply,
        body::{Body, Parameters, Segments},
        caller::{Caller, need},
        paging::Paging,
    },
};

/// Longest time for one piece, however it trickles.
const PIECE: Duration = Duration::from_secs(60 * 60);
/// So many bytes are brought onto the disk and acknowledged at a time.
const ACKNOWLEDGE: u64 = 16 << 20;

pub(crate) fn router() -> OpenApiRouter<Fleet> {
    OpenApiRouter::new().routes(routes!(list, begin)).routes(routes!(show, offset, append)).routes(routes!(content))
}

fn view(row: ArtifactRow) -> Artifact {
    let ArtifactRow { digest, size, received: offset, complete, created } = row;
    Artifact { digest, size, offset, complete, created }
}

/// How far an upload is, in the headers that a resuming client reads.
fn progress(row: &ArtifactRow) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(HeaderName::from_static(UPLOAD_OFFSET), HeaderValue::from(row.received));
    headers.insert(HeaderName::from_static(UPLOAD_LENGTH), HeaderValue::from(row.size));
    headers
}

fn digest(hex: &str) -> Reply<Digest> {
    Digest::from_hex(hex)
        .map_err(|_| StoreError::NotFound { kind: "artifact", id: hex.chars().take(80).collect() }.into())
}

/// The artifacts of the account, whole and in the making.
#[utoipa::path(get, path = "/artifacts", tag = "artifacts", operation_id = "list_artifacts", params(PageQuery),
    security(("token" = ["read"])), responses((status = 200, description = "A page of artifacts", body = forms::ArtifactPage)))]
async fn list(who: Caller<need::Read>, Parameters(query): Parameters<PageQuery>) -> Reply<Json<Page<Artifact>>> {
    let paging = Paging::read(&query)?;
    let rows = who.account.artifacts_after(paging.after(), paging.rows()).await?;
    Ok(Json(paging.page(rows, |row| row.digest.to_string(), view)))
}

/// Announces an artifact. If it, or a part of it, is here already, the answer says so.
#[utoipa::path(post, path = "/artifacts", tag = "artifacts", operation_id = "begin_artifact", request_body = BeginArtifact,
    security(("token" = ["publish"])), responses((status = 200, description = "How far its upload is", body = Artifact)))]
async fn begin(
    State(fleet): State<Fleet>,
    who: Caller<need::Publish>,
    body: Body<BeginArtifact>,
) -> Reply<(HeaderMap, Json<Artifact>)> {
    let (wanted, limits) = (body.value, &fleet.config.limits);
    if wanted.size > limits.artifact_bytes {
        let problem = fleet_api::Problem::new(
            ProblemCode::TooLarge,
            format!("an artifact has at most {} bytes", limits.artifact_bytes),
        );
        return Err(problem.in_field("size").into());
    }
    let (account, digest, size) = (&who.account, wanted.digest, wanted.size);
    let now = fleet.clock.now();
    let row = match account.begin_artifact(&digest, size, limits.account_bytes, now).await {
        // The size can be corrected, but not while somebody uploads that many bytes.
        Err(StoreError::WrongState { .. }) => {
            let Some(_turn) = fleet.artifacts.turn(account.name(), digest) else {
                return Err(Refusal::new(ProblemCode::UploadBusy, "another request uploads these bytes now"));
            };
            account.announce_again(&digest, size, limits.account_bytes, now).await?
        }
        begun => begun?,
    };
    Ok((progress(&row), Json(view(row))))
}

/// One artifact, whole or in the making.
#[utoipa::path(get, path = "/artifacts/{hex}", tag = "artifacts", operation_id = "show_artifact",
    params(("hex" = String, Path, description = "Its SHA-256 as 64 hexadecimal digits")),
    security(("token" = ["read"])), responses((status = 200, description = "How far its upload is", body = Artifact)))]
async fn show(who: Caller<need::Read>, Segments(hex): Segments<String>) -> Reply<(HeaderMap, Json<Artifact>)> {
    let row = who.account.artifact(&digest(&hex)?).await?;
    Ok((progress(&row), Json(view(row))))
}

/// Where an upload goes on, in the header `Upload-Offset`.
#[utoipa::path(head, path = "/artifacts/{hex}", tag = "artifacts", operation_id = "artifact_offset",
    params(("hex" = String, Path, description = "Its SHA-256 as 64 hexadecimal digits")),
    security(("token" = ["read"])), responses((status = 200, description = "`Upload-Offset` and `Upload-Length`")))]
async fn offset(who: Caller<need::Read>, Segments(hex): Segments<String>) -> Reply<HeaderMap> {
    Ok(progress(&who.account.artifact(&digest(&hex)?).await?))
}

/// Adds a piece that begins where the last one ended. With the last byte the digest is checked; bytes with another digest are
/// discarded and the upload begins again at 0.
#[utoipa::path(patch, path = "/artifacts/{hex}", tag = "artifacts", operation_id = "append_artifact",
    params(("hex" = String, Path, description = "Its SHA-256 as 64 hexadecimal digits"),
           ("upload-offset" = u64, Header, description = "Where the piece begins")),
    request_body(content = Vec<u8>, content_type = "application/offset+octet-stream"),
    security(("token" = ["publish"])), responses((status = 200, description = "How far its upload is", body = Artifact)))]
async fn append(
    State(fleet): State<Fleet>,
    who: Caller<need::Publish>,
    Segments(hex): Segments<String>,
    request: Request,
) -> Reply<(HeaderMap, Json<Artifact>)> {
    let digest = digest(&hex)?;
    let at = piece_offset(request.headers())?;
    let account = &who.account;
    let before = account.artifact(&digest).await?;
    let turn = match fleet.artifacts.turn(account.name(), digest) {
        // Every byte is there, and somebody checks them: whoever waits for that hears how it ends.
        None if before.received == before.size => fleet.artifacts.next_turn(account.name(), digest).await,
        turn => turn,
    };
    let Some(turn) = turn else {
        return Err(Refusal::new(ProblemCode::UploadBusy, "another request uploads these bytes now"));
    };
    let row = account.artifact(&digest).await?;
    if at != row.received {
        return Err(Refusal::new(
            ProblemCode::OffsetMismatch,
            format!("the piece begins at {at}, the upload goes on at {}", row.received),
        ));
    }
    if !row.complete {
        // With every byte there, a crash fell between the last of them and the end of the check: only that is repeated.
        if row.received < row.size || row.size == 0 {
            let silence = fleet.config.limits.slow_sender();
            let received = timeout(PIECE, receive(account, &row, &turn, (request.into_body(), silence)));
            received.await.map_err(|_| Refusal::new(ProblemCode::TooSlow, "the piece took too long"))??;
        }
        // Goes on to its end if the asker goes away, so that whoever asks again need not wait from the beginning.
        let finishing = finish(fleet, account.clone(), digest, turn).in_current_span();
        tokio::spawn(finishing).await.map_err(|e| Refusal::internal(&e))??;
    }
    let row = account.artifact(&digest).await?;
    Ok((progress(&row), Json(view(row))))
}

fn piece_offset(headers: &HeaderMap) -> Reply<u64> {
    if headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()) != Some(UPLOAD_CONTENT_TYPE) {
        let detail = format!("a piece must be `{UPLOAD_CONTENT_TYPE}`");
        return Err(Refusal::new(ProblemCode::UnsupportedMediaType, detail));
    }
    headers
        .get(UPLOAD_OFFSET)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Refusal::new(ProblemCode::MalformedRequest, "`Upload-Offset` must say where the piece begins"))
}

/// Writes what comes. Whatever ends the piece, every byte that arrived before stays, unless there is no room: then what was not yet
/// acknowledged is given back, so that the rest of the service can go on.
async fn receive(account: &AccountScope, row: &ArtifactRow, turn: &Turn, body: (HttpBody, Duration)) -> Reply<()> {
    let Some(mut part) = turn.open(row.received).await.map_err(|e| Refusal::storage(&e))? else {
        account.artifact_received(&row.digest, 0).await?;
        let detail = "bytes that had arrived are gone; the upload goes on at 0";
        return Err(Refusal::new(ProblemCode::OffsetMismatch, detail));
    };
    let ended = copy(account, row, &mut part, body).await;
    if ended.as_ref().is_err_and(|refusal| refusal.0.code == ProblemCode::NoRoom.as_str()) {
        let acknowledged = account.artifact(&row.digest).await?.received;
        turn.open(acknowledged).await.map_err(|e| Refusal::storage(&e))?;
        return ended;
    }
    part.sync().await.map_err(|e| Refusal::storage(&e))?;
    account.artifact_received(&row.digest, part.at()).await?;
    ended
}

async fn copy(
    account: &AccountScope,
    row: &ArtifactRow,
    part: &mut Part,
    (body, silence): (HttpBody, Duration),
) -> Reply<()> {
    let mut pieces = body.into_data_stream();
    let mut acknowledged = part.at();
    loop {
        let piece = match timeout(silence, pieces.next()).await {
            Err(_) => return Err(Refusal::new(ProblemCode::TooSlow, "the sender was silent for too long")),
            Ok(None) => return Ok(()),
            Ok(Some(Err(_))) => return Err(Refusal::new(ProblemCode::MalformedBody, "the body broke off")),
            Ok(Some(Ok(piece))) => piece,
        };
        let left = row.size.saturating_sub(part.at());
        if u64::try_from(piece.len()).unwrap_or(u64::MAX) > left {
            let detail = format!("the piece goes beyond the announced {} bytes", row.size);
            return Err(Refusal::new(ProblemCode::TooLarge, detail));
        }
        part.write(&piece).await.map_err(|e| Refusal::storage(&e))?;
        if part.at().saturating_sub(acknowledged) >= ACKNOWLEDGE {
            part.sync().await.map_err(|e| Refusal::storage(&e))?;
            account.artifact_received(&row.digest, part.at()).await?;
            acknowledged = part.at();
        }
    }
}

/// Checks the digest once every byte is there.
async fn finish(fleet: Fleet, account: AccountScope, digest: Digest, turn: Turn) -> Reply<()> {
    let row = account.artifact(&digest).await?;
    if row.received < row.size {
        return Ok(());
    }
    match turn.finish().await.map_err(|e| Refusal::storage(&e))? {
        Checked::Kept => Ok(account.artifact_complete(&digest, fleet.clock.now()).await?),
        Checked::Discarded => {
            account.artifact_received(&digest, 0).await?;
            let detail = format!("the {} bytes that arrived do not have the digest {digest}", row.size);
            Err(Refusal::new(ProblemCode::DigestMismatch, detail))
        }
    }
}

/// The bytes of a complete artifact.
#[utoipa::path(get, path = "/artifacts/{hex}/content", tag = "artifacts", operation_id = "artifact_content",
    params(("hex" = String, Path, description = "Its SHA-256 as 64 hexadecimal digits")),
    security(("token" = ["read"])),
    responses((status = 200, description = "The bytes", body = Vec<u8>, content_type = "application/octet-stream")))]
async fn content(
    State(fleet): State<Fleet>,
    who: Caller<need::Read>,
    Segments(hex): Segments<String>,
) -> Reply<impl IntoResponse> {
    let digest = digest(&hex)?;
    let row = who.account.artifact(&digest).await?;
    if !row.complete {
        return Err(Refusal::new(ProblemCode::WrongState, "the artifact is not complete yet"));
    }
    let bytes =
        fleet.artifacts.stream(who.account.name(), &digest, 0..row.size).await.map_err(|e| Refusal::storage(&e))?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (header::CONTENT_LENGTH, HeaderValue::from(row.size)),
    ];
    Ok((StatusCode::OK, headers, HttpBody::from_stream(bytes)))
}
