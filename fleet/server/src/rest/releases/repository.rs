//! `/repository` and `/releases`: publish signed metadata, and see what devices see.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::{DefaultBodyLimit, State},
    http::{HeaderName, header},
};
use fleet_api::{Page, PageQuery, ProblemCode, PublishMetadata, Release, Repository, RepositoryState, forms};
use fleet_store::{AccountScope, ReleaseRow, StoreError};
use protocol_release::metadata::MAX_METADATA_BYTES;
use protocol_types::ReleaseVersion;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    fleet::Fleet,
    repository,
    rest::{
        Refusal, Reply,
        body::{Body, Parameters, Segments},
        caller::{Caller, need},
        paging::Paging,
    },
};

/// Files that one publication may bring.
const FILES: usize = 300;
/// Longest publication: as many of the longest files as anybody signs at once, with room for JSON's own characters.
const BODY_BYTES: usize = 24 << 20;

pub(crate) fn router() -> OpenApiRouter<Fleet> {
    OpenApiRouter::new()
        .routes(routes!(publish))
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .routes(routes!(show))
        .routes(routes!(file))
        .routes(routes!(list))
        .routes(routes!(release))
}

async fn view(account: &AccountScope, fleet: &Fleet) -> Reply<Json<Repository>> {
    let keys = repository::public_keys(account, fleet.clock.now()).await.map_err(|e| Refusal::internal(&e))?;
    let state = account.repository().await?.map(|row| RepositoryState {
        root_version: row.root_version,
        targets_version: row.targets_version,
        snapshot_version: row.snapshot_version,
        timestamp_version: row.timestamp_version,
        timestamp_expires: row.timestamp_expires,
        published: row.published,
    });
    Ok(Json(Repository { keys, state }))
}

fn release_view(row: ReleaseRow) -> Reply<Release> {
    let ReleaseRow { version, path, digest, security_version, document, listed, published } = row;
    let document =
        serde_json::from_str(&document).map_err(|_| StoreError::Damaged { table: "releases", column: "document" })?;
    Ok(Release { version, path, digest, security_version, listed, published, document })
}

/// The service's own keys for snapshot and timestamp, and which versions are current.
#[utoipa::path(get, path = "/repository", tag = "repository", operation_id = "show_repository",
    security(("token" = ["read"])), responses((status = 200, description = "The repository", body = Repository)))]
async fn show(State(fleet): State<Fleet>, who: Caller<need::Read>) -> Reply<Json<Repository>> {
    view(&who.account, &fleet).await
}

/// Publishes signed metadata: all of it, or none. Whatever a device would refuse is refused here, under the same code; every
/// artifact that it names must have been uploaded. Publishing the same again changes nothing.
#[utoipa::path(post, path = "/repository/metadata", tag = "repository", operation_id = "publish_metadata",
    request_body = PublishMetadata, security(("token" = ["publish"])),
    responses((status = 200, description = "The repository", body = Repository)))]
async fn publish(
    State(fleet): State<Fleet>,
    who: Caller<need::Publish>,
    body: Body<PublishMetadata>,
) -> Reply<Json<Repository>> {
    let files = body.value.files;
    if files.is_empty() || files.len() > FILES {
        return Err(Refusal::value("files", format!("a publication brings 1 to {FILES} files")));
    }
    if let Some((name, _)) = files.iter().find(|(_, text)| text.len() > MAX_METADATA_BYTES as usize) {
        let name: String = name.chars().take(80).collect();
        let problem = fleet_api::Problem::new(
            ProblemCode::TooLarge,
            format!("`{name}` has more than {MAX_METADATA_BYTES} bytes"),
        );
        return Err(problem.in_field("files").into());
    }
    let upload: BTreeMap<String, Vec<u8>> = files.into_iter().map(|(name, text)| (name, text.into_bytes())).collect();
    Box::pin(repository::publish(&fleet, &who.account, &upload)).await?;
    view(&who.account, &fleet).await
}

/// A metadata file as devices fetch it, as in `timestamp.json` or `1.root.json`.
#[utoipa::path(get, path = "/repository/metadata/{name}", tag = "repository", operation_id = "show_metadata_file",
    params(("name" = String, Path, description = "The file")), security(("token" = ["read"])),
    responses((status = 200, description = "The file", body = Object, content_type = "application/json")))]
async fn file(
    who: Caller<need::Read>,
    Segments(name): Segments<String>,
) -> Reply<([(HeaderName, &'static str); 1], Vec<u8>)> {
    let found = who.account.metadata_file(&name).await?;
    let missing = || StoreError::NotFound { kind: "metadata file", id: name.chars().take(80).collect() };
    Ok(([(header::CONTENT_TYPE, "application/json")], found.ok_or_else(missing)?))
}

/// The releases of the account, also those that the targets list no more.
#[utoipa::path(get, path = "/releases", tag = "releases", operation_id = "list_releases", params(PageQuery),
    security(("token" = ["read"])), responses((status = 200, description = "A page of releases", body = forms::ReleasePage)))]
async fn list(who: Caller<need::Read>, Parameters(query): Parameters<PageQuery>) -> Reply<Json<Page<Release>>> {
    let paging = Paging::read(&query)?;
    let rows = who.account.releases_after(paging.after(), paging.rows()).await?;
    Ok(Json(paging.try_page(rows, |row| row.version.to_string(), release_view)?))
}

/// One release.
#[utoipa::path(get, path = "/releases/{version}", tag = "releases", operation_id = "show_release",
    params(("version" = String, Path, description = "Its version")), security(("token" = ["read"])),
    responses((status = 200, description = "The release", body = Release)))]
async fn release(who: Caller<need::Read>, Segments(version): Segments<ReleaseVersion>) -> Reply<Json<Release>> {
    Ok(Json(release_view(who.account.release(&version).await?)?))
}
