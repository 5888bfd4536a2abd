//! `/configuration`, and the same below groups and devices: documents of each level, their revisions, and what a document would change.

pub(crate) mod effective;
pub(crate) mod secrets;

#[cfg(test)]
mod tests;

use axum::{
    Json,
    extract::State,
    http::{HeaderName, StatusCode},
};
use fleet_api::{
    CONFIGURATION_SCHEMA, ConfigurationDocument, ConfigurationPreview, DevicePreview, Page, PageQuery, RevisionQuery,
    SaveConfiguration, forms,
};
use fleet_store::{AccountScope, ConfigurationLevel, ConfigurationRow, Filter};
use protocol_types::{Configuration, EndpointName, GroupName};
use serde_json::Value;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    configuration::{changes, effective, replaced},
    fleet::Fleet,
    rest::{
        Refusal, Reply,
        body::{Body, IfMatch, Parameters, Segments, etag},
        caller::{Caller, need},
        configuration::effective::api_level,
        paging::Paging,
    },
};

/// The highest priority of a group.
const MOST_PRIORITY: u32 = 1000;
/// Devices of a page of a preview where nobody says how many; each costs a merge.
const PREVIEW_LIMIT: u32 = 100;

type Tagged = ([(HeaderName, String); 1], Json<ConfigurationDocument>);
type Query = Parameters<RevisionQuery>;

pub(crate) fn router() -> OpenApiRouter<Fleet> {
    OpenApiRouter::new()
        .merge(effective::router())
        .merge(secrets::router())
        .routes(routes!(schema))
        .routes(routes!(show_account, save_account))
        .routes(routes!(account_revisions, stage_account))
        .routes(routes!(preview_account))
        .routes(routes!(show_group, save_group))
        .routes(routes!(group_revisions, stage_group))
        .routes(routes!(preview_group))
        .routes(routes!(show_device, save_device))
        .routes(routes!(device_revisions, stage_device))
        .routes(routes!(preview_device))
}

fn view(row: ConfigurationRow) -> ConfigurationDocument {
    let ConfigurationRow { level, priority, document, revision, changed, standing, released: _ } = row;
    let (level, name) = (api_level(&level), level.name().to_owned());
    ConfigurationDocument { level, name, priority, document, revision, changed, standing }
}

fn tagged(row: ConfigurationRow) -> Tagged {
    (etag(row.revision), Json(view(row)))
}

/// Refuses a document that breaks the schema, and a priority where there is none.
fn check(level: &ConfigurationLevel, wanted: &SaveConfiguration) -> Reply<()> {
    let text = Value::Object(wanted.document.clone()).to_string();
    Configuration::parse_level(text.as_bytes()).map_err(|error| Refusal::value("document", error.to_string()))?;
    match (level, wanted.priority) {
        (_, None) => Ok(()),
        (ConfigurationLevel::Group(_), Some(priority)) if priority <= MOST_PRIORITY => Ok(()),
        (ConfigurationLevel::Group(_), Some(_)) => {
            Err(Refusal::value("priority", format!("a priority is at most {MOST_PRIORITY}")))
        }
        (ConfigurationLevel::Account | ConfigurationLevel::Device(_), Some(_)) => {
            Err(Refusal::value("priority", "only the configuration of a group has a priority"))
        }
    }
}

async fn shown(account: &AccountScope, level: ConfigurationLevel, query: &RevisionQuery) -> Reply<Tagged> {
    let row = match query.revision {
        None => account.configuration(&level).await?,
        Some(revision) => account.configuration_revision(&level, revision).await?,
    };
    Ok(tagged(row))
}

async fn saved(
    (fleet, account): (&Fleet, &AccountScope),
    level: ConfigurationLevel,
    at: Option<i64>,
    wanted: &SaveConfiguration,
) -> Reply<Tagged> {
    check(&level, wanted)?;
    let what = (&wanted.document, wanted.priority);
    Ok(tagged(account.save_configuration(&level, what, at, fleet.clock.now()).await?))
}

async fn staged(
    (fleet, account): (&Fleet, &AccountScope),
    level: ConfigurationLevel,
    wanted: &SaveConfiguration,
) -> Reply<(StatusCode, Json<ConfigurationDocument>)> {
    check(&level, wanted)?;
    let what = (&wanted.document, wanted.priority);
    let row = account.stage_configuration(&level, what, fleet.clock.now()).await?;
    Ok((StatusCode::CREATED, Json(view(row))))
}

async fn revisions(
    account: &AccountScope,
    level: ConfigurationLevel,
    query: &PageQuery,
) -> Reply<Json<Page<ConfigurationDocument>>> {
    let paging = Paging::read(query)?;
    let rows = account.configuration_revisions_after(&level, paging.after_number()?, paging.rows()).await?;
    Ok(Json(paging.page(rows, |row| row.revision.to_string(), view)))
}

async fn previewed(
    (fleet, account): (&Fleet, &AccountScope),
    level: ConfigurationLevel,
    query: &PageQuery,
    wanted: SaveConfiguration,
) -> Reply<Json<ConfigurationPreview>> {
    check(&level, &wanted)?;
    let query = PageQuery { limit: query.limit.or(Some(PREVIEW_LIMIT)), ..query.clone() };
    let (paging, now) = (Paging::read(&query)?, fleet.clock.now());
    let present = account.configuration(&level).await?;
    let filter = match &level {
        ConfigurationLevel::Account => Filter::every_device(),
        ConfigurationLevel::Group(name) => Filter::of_group(name),
        ConfigurationLevel::Device(endpoint) => Filter::of_device(endpoint),
    };
    let priority = wanted.priority.unwrap_or(present.priority);
    let wanted = ConfigurationRow { document: wanted.document, priority, ..present };
    let devices = account.count_devices(&filter, now).await?;
    let rows = account.devices_after(paging.after(), &filter, now, paging.rows()).await?;
    let page = paging.page(rows, |row| row.endpoint.to_string(), |row| row.endpoint);
    let layers = account.configuration_layers(&page.items, now).await?;
    let preview = |endpoint: EndpointName| {
        let before = layers.get(&endpoint).map_or(&[][..], Vec::as_slice);
        let after = effective(&replaced(before, &wanted));
        let changes = changes(&effective(before).document, &after.document);
        DevicePreview { endpoint, changes, invalid: after.invalid }
    };
    let items: Vec<DevicePreview> = page.items.iter().cloned().map(preview).collect();
    let changed = items.iter().filter(|device| !device.changes.is_empty()).count();
    let changed = u64::try_from(changed).unwrap_or(u64::MAX);
    Ok(Json(ConfigurationPreview { devices, changed, items, next: page.next }))
}

/// The JSON Schema of the documents.
#[utoipa::path(get, path = "/configuration/schema", tag = "configuration", operation_id = "show_configuration_schema",
    security(("token" = ["read"])), responses((status = 200, description = "A JSON Schema",
        body = Object, content_type = "application/schema+json")))]
async fn schema(_: Caller<need::Read>) -> ([(HeaderName, &'static str); 1], &'static str) {
    ([(axum::http::header::CONTENT_TYPE, "application/schema+json")], CONFIGURATION_SCHEMA)
}

/// The configuration of the account.
#[utoipa::path(get, path = "/configuration", tag = "configuration", operation_id = "show_account_configuration",
    params(RevisionQuery), security(("token" = ["read"])),
    responses((status = 200, description = "The document", body = ConfigurationDocument)))]
async fn show_account(who: Caller<need::Read>, Parameters(query): Query) -> Reply<Tagged> {
    shown(&who.account, ConfigurationLevel::Account, &query).await
}

/// Saves the configuration of the account. Devices are given what it comes to for them as soon as they are there. Refused while a
/// rollout of it goes on.
#[utoipa::path(put, path = "/configuration", tag = "configuration", operation_id = "save_account_configuration",
    request_body = SaveConfiguration,
    params(("if-match" = String, Header, description = "`ETag` that the document must still have, or `*`")),
    security(("token" = ["operate"])), responses((status = 200, description = "The document", body = ConfigurationDocument)))]
async fn save_account(
    State(fleet): State<Fleet>,
    who: Caller<need::Operate>,
    IfMatch(at): IfMatch,
    body: Body<SaveConfiguration>,
) -> Reply<Tagged> {
    saved((&fleet, &who.account), ConfigurationLevel::Account, at, &body.value).await
}

/// The revisions of the configuration of the account, oldest first.
#[utoipa::path(get, path = "/configuration/revisions", tag = "configuration",
    operation_id = "list_account_configuration_revisions", params(PageQuery), security(("token" = ["read"])),
    responses((status = 200, description = "A page of revisions", body = forms::ConfigurationDocumentPage)))]
async fn account_revisions(
    who: Caller<need::Read>,
    Parameters(query): Parameters<PageQuery>,
) -> Reply<Json<Page<ConfigurationDocument>>> {
    revisions(&who.account, ConfigurationLevel::Account, &query).await
}

/// Keeps a document as a revision of the configuration of the account that is in force nowhere: a rollout brings it to devices. The
/// newest one again makes none.
#[utoipa::path(post, path = "/configuration/revisions", tag = "configuration", operation_id = "stage_account_configuration",
    request_body = SaveConfiguration, security(("token" = ["operate"])),
    responses((status = 201, description = "The revision", body = ConfigurationDocument)))]
async fn stage_account(
    State(fleet): State<Fleet>,
    who: Caller<need::Operate>,
    body: Body<SaveConfiguration>,
) -> Reply<(StatusCode, Json<ConfigurationDocument>)> {
    staged((&fleet, &who.account), ConfigurationLevel::Account, &body.value).await
}

/// What a document would change, device by device, if it were saved as that of the account.
#[utoipa::path(post, path = "/configuration/preview", tag = "configuration",
    operation_id = "preview_account_configuration", params(PageQuery), request_body = SaveConfiguration,
    security(("token" = ["read"])), responses((status = 200, description = "What would change", body = ConfigurationPreview)))]
async fn preview_account(
    State(fleet): State<Fleet>,
    who: Caller<need::Read>,
    Parameters(query): Parameters<PageQuery>,
    body: Body<SaveConfiguration>,
) -> Reply<Json<ConfigurationPreview>> {
    previewed((&fleet, &who.account), ConfigurationLevel::Account, &query, body.value).await
}

/// The configuration of a group.
#[utoipa::path(get, path = "/groups/{name}/configuration", tag = "configuration", operation_id = "show_group_configuration",
    params(("name" = String, Path, description = "The group"), RevisionQuery), security(("token" = ["read"])),
    responses((status = 200, description = "The document", body = ConfigurationDocument)))]
async fn show_group(
    who: Caller<need::Read>,
    Segments(name): Segments<GroupName>,
    Parameters(query): Query,
) -> Reply<Tagged> {
    shown(&who.account, ConfigurationLevel::Group(name), &query).await
}

/// Saves the configuration of a group.
#[utoipa::path(put, path = "/groups/{name}/configuration", tag = "configuration", operation_id = "save_group_configuration",
    request_body = SaveConfiguration,
    params(("name" = String, Path, description = "The group"),
           ("if-match" = String, Header, description = "`ETag` that the document must still have, or `*`")),
    security(("token" = ["operate"])), responses((status = 200, description = "The document", body = ConfigurationDocument)))]
async fn save_group(
    State(fleet): State<Fleet>,
    who: Caller<need::Operate>,
    Segments(name): Segments<GroupName>,
    IfMatch(at): IfMatch,
    body: Body<SaveConfiguration>,
) -> Reply<Tagged> {
    saved((&fleet, &who.account), ConfigurationLevel::Group(name), at, &body.value).await
}

/// The revisions of the configuration of a group, oldest first.
#[utoipa::path(get, path = "/groups/{name}/configuration/revisions", tag = "configuration",
    operation_id = "list_group_configuration_revisions",
    params(("name" = String, Path, description = "The group"), PageQuery), security(("token" = ["read"])),
    responses((status = 200, description = "A page of revisions", body = forms::ConfigurationDocumentPage)))]
async fn group_revisions(
    who: Caller<need::Read>,
    Segments(name): Segments<GroupName>,
    Parameters(query): Parameters<PageQuery>,
) -> Reply<Json<Page<ConfigurationDocument>>> {
    revisions(&who.account, ConfigurationLevel::Group(name), &query).await
}

/// Keeps a document as a revision of the configuration of a group that is in force nowhere: a rollout brings it to devices. The newest
/// one again makes none.
#[utoipa::path(post, path = "/groups/{name}/configuration/revisions", tag = "configuration",
    operation_id = "stage_group_configuration", params(("name" = String, Path, description = "The group")),
    request_body = SaveConfiguration, security(("token" = ["operate"])),
    responses((status = 201, description = "The revision", body = ConfigurationDocument)))]
async fn stage_group(
    State(fleet): State<Fleet>,
    who: Caller<need::Operate>,
    Segments(name): Segments<GroupName>,
    body: Body<SaveConfiguration>,
) -> Reply<(StatusCode, Json<ConfigurationDocument>)> {
    staged((&fleet, &who.account), ConfigurationLevel::Group(name), &body.value).await
}

/// What a document would change, device by device, if it were saved as that of the group.
#[utoipa::path(post, path = "/groups/{name}/configuration/preview", tag = "configuration",
    operation_id = "preview_group_configuration", request_body = SaveConfiguration,
    params(("name" = String, Path, description = "The group"), PageQuery), security(("token" = ["read"])),
    responses((status = 200, description = "What would change", body = ConfigurationPreview)))]
async fn preview_group(
    State(fleet): State<Fleet>,
    who: Caller<need::Read>,
    Segments(name): Segments<GroupName>,
    Parameters(query): Parameters<PageQuery>,
    body: Body<SaveConfiguration>,
) -> Reply<Json<ConfigurationPreview>> {
    previewed((&fleet, &who.account), ConfigurationLevel::Group(name), &query, body.value).await
}

/// The configuration of a device alone. What all levels come to is at `/devices/{endpoint}/effective-configuration`.
#[utoipa::path(get, path = "/devices/{endpoint}/configuration", tag = "configuration",
    operation_id = "show_device_configuration",
    params(("endpoint" = String, Path, description = "The device"), RevisionQuery), security(("token" = ["read"])),
    responses((status = 200, description = "The document", body = ConfigurationDocument)))]
async fn show_device(
    who: Caller<need::Read>,
    Segments(endpoint): Segments<EndpointName>,
    Parameters(query): Query,
) -> Reply<Tagged> {
    shown(&who.account, ConfigurationLevel::Device(endpoint), &query).await
}

/// Saves the configuration of a device alone.
#[utoipa::path(put, path = "/devices/{endpoint}/configuration", tag = "configuration",
    operation_id = "save_device_configuration", request_body = SaveConfiguration,
    params(("endpoint" = String, Path, description = "The device"),
           ("if-match" = String, Header, description = "`ETag` that the document must still have, or `*`")),
    security(("token" = ["operate"])), responses((status = 200, description = "The document", body = ConfigurationDocument)))]
async fn save_device(
    State(fleet): State<Fleet>,
    who: Caller<need::Operate>,
    Segments(endpoint): Segments<EndpointName>,
    IfMatch(at): IfMatch,
    body: Body<SaveConfiguration>,
) -> Reply<Tagged> {
    saved((&fleet, &who.account), ConfigurationLevel::Device(endpoint), at, &body.value).await
}

/// The revisions of the configuration of a device alone, oldest first.
#[utoipa::path(get, path = "/devices/{endpoint}/configuration/revisions", tag = "configuration",
    operation_id = "list_device_configuration_revisions",
    params(("endpoint" = String, Path, description = "The device"), PageQuery), security(("token" = ["read"])),
    responses((status = 200, description = "A page of revisions", body = forms::ConfigurationDocumentPage)))]
async fn device_revisions(
    who: Caller<need::Read>,
    Segments(endpoint): Segments<EndpointName>,
    Parameters(query): Parameters<PageQuery>,
) -> Reply<Json<Page<ConfigurationDocument>>> {
    revisions(&who.account, ConfigurationLevel::Device(endpoint), &query).await
}

/// Keeps a document as a revision of the configuration of a device alone that is not in force: a rollout brings it there. The newest one
/// again makes none.
#[utoipa::path(post, path = "/devices/{endpoint}/configuration/revisions", tag = "configuration",
    operation_id = "stage_device_configuration", params(("endpoint" = String, Path, description = "The device")),
    request_body = SaveConfiguration, security(("token" = ["operate"])),
    responses((status = 201, description = "The revision", body = ConfigurationDocument)))]
async fn stage_device(
    State(fleet): State<Fleet>,
    who: Caller<need::Operate>,
    Segments(endpoint): Segments<EndpointName>,
    body: Body<SaveConfiguration>,
) -> Reply<(StatusCode, Json<ConfigurationDocument>)> {
    staged((&fleet, &who.account), ConfigurationLevel::Device(endpoint), &body.value).await
}

/// What a document would change if it were saved as that of the device alone.
#[utoipa::path(post, path = "/devices/{endpoint}/configuration/preview", tag = "configuration",
    operation_id = "preview_device_configuration", request_body = SaveConfiguration,
    params(("endpoint" = String, Path, description = "The device"), PageQuery), security(("token" = ["read"])),
    responses((status = 200, description = "What would change", body = ConfigurationPreview)))]
async fn preview_device(
    State(fleet): State<Fleet>,
    who: Caller<need::Read>,
    Segments(endpoint): Segments<EndpointName>,
    Parameters(query): Parameters<PageQuery>,
    body: Body<SaveConfiguration>,
) -> Reply<Json<ConfigurationPreview>> {
    previewed((&fleet, &who.account), ConfigurationLevel::Device(endpoint), &query, body.value).await
}
