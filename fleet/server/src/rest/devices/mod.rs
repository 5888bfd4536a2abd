//! `/devices`: who the devices of the account are, how they are, and whether they may take part.

pub(crate) mod edits;
pub(crate) mod inventory;
pub(crate) mod metrics;

use axum::{
    Json,
    extract::State,
    http::{HeaderName, StatusCode},
};
use fleet_api::{
    AttributeValue, ChangeAttributes, ChangeDevice, ChangeTags, DecommissionDevice, DesiredRelease, Device,
    DeviceCertificate, DeviceDetail, DeviceQuery, DeviceRecoveryKey, DeviceRecoveryKeys, DeviceReport, Event,
    InstalledComponent, Page, PageQuery, SuspendDevice, forms,
};
use fleet_store::{
    AccountScope, CertificateRow, ComponentRow, DesiredRow, DeviceChange, DeviceRow, Filter, Labels, RecoveryRow,
    is_key, is_tag,
};
use protocol_types::{EndpointName, GroupName, UnixSeconds};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    fleet::Fleet,
    rest::{
        Refusal, Reply,
        body::{Body, IfMatch, Parameters, Segments, etag},
        caller::{Caller, need},
        events,
        groups::filters,
        paging::Paging,
    },
};

const REASON_CHARACTERS: usize = 200;
const NOTE_CHARACTERS: usize = 2000;
const VALUE_CHARACTERS: usize = 200;
/// Attributes, or tags to add or remove, that one request may name.
const LABELS: usize = 100;

type Tagged = ([(HeaderName, String); 1], Json<Device>);

pub(crate) fn router() -> OpenApiRouter<Fleet> {
    OpenApiRouter::new()
        .merge(edits::router())
        .merge(inventory::router())
        .merge(metrics::router())
        .routes(routes!(list))
        .routes(routes!(show, change, delete))
        .routes(routes!(suspend))
        .routes(routes!(resume))
        .routes(routes!(decommission))
        .routes(routes!(history))
        .routes(routes!(factory_reset))
        .routes(routes!(recovery))
}

fn view(row: DeviceRow, labels: Labels, now: UnixSeconds) -> Device {
    Device {
        presence: row.presence(now),
        endpoint: row.endpoint,
        standing: row.standing,
        standing_reason: row.standing_reason,
        connected: row.connected,
        last_seen: row.last_seen,
        created: row.created,
        reset_asked: row.reset_asked,
        tags: labels.tags,
        attributes: labels.attributes.into_iter().map(|(key, value)| (key, attribute_view(value))).collect(),
        revision: row.revision,
        report: row.report.map(|(report, received)| report_view(report, received)),
    }
}

/// An attribute as the API shows it.
pub(crate) fn attribute_view(value: fleet_store::AttributeValue) -> AttributeValue {
    match value {
        fleet_store::AttributeValue::Text(text) => AttributeValue::Text(text),
        fleet_store::AttributeValue::Number(number) => AttributeValue::Number(number),
    }
}

/// The devices as lists show them.
pub(crate) async fn labelled(account: &AccountScope, rows: Vec<DeviceRow>, now: UnixSeconds) -> Reply<Vec<Device>> {
    let endpoints: Vec<EndpointName> = rows.iter().map(|row| row.endpoint.clone()).collect();
    let mut labels = account.labels(&endpoints).await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let labels = labels.remove(&row.endpoint).unwrap_or_default();
            view(row, labels, now)
        })
        .collect())
}

async fn labelled_one(account: &AccountScope, row: DeviceRow, now: UnixSeconds) -> Reply<Device> {
    let mut labels = account.labels(std::slice::from_ref(&row.endpoint)).await?;
    let labels = labels.remove(&row.endpoint).unwrap_or_default();
    Ok(view(row, labels, now))
}

fn report_view(report: fleet_store::DeviceReport, received: UnixSeconds) -> DeviceReport {
    let (reason_code, reason) = report.reason.map(|reason| (reason.code.to_string(), reason.text)).unzip();
    DeviceReport {
        phase: report.phase,
        reason_code,
        reason,
        progress: report.progress,
        rollout: report.rollout,
        digest: report.digest,
        running_version: report.running_version.map(String::from),
        running_digest: report.running_digest,
        slot: report.slot,
        floor: report.floor.0,
        received,
    }
}

fn certificate_view(row: CertificateRow) -> DeviceCertificate {
    DeviceCertificate {
        serial: row.serial,
        parent: row.parent,
        from_factory: row.from_factory,
        issued: row.issued,
        not_after: row.not_after,
        first_used: row.first_used,
    }
}

fn recovery_view(row: RecoveryRow) -> DeviceRecoveryKey {
    let RecoveryRow { sealed, received } = row;
    DeviceRecoveryKey { volume: sealed.volume, recipient: sealed.recipient, sealed: sealed.sealed, received }
}

fn component_view(row: ComponentRow) -> InstalledComponent {
    InstalledComponent { name: row.name, version: row.version, digest: row.digest, state: row.state }
}

fn desired_view(row: DesiredRow) -> DesiredRelease {
    let acknowledged = row.is_acknowledged();
    let release = row.release;
    DesiredRelease {
        release: release.as_ref().map(|release| release.path.to_string()),
        digest: release.as_ref().map(|release| release.digest),
        rollout: release.map(|release| release.rollout),
        acknowledged,
        changed: row.changed,
    }
}

async fn detail(account: &AccountScope, endpoint: &EndpointName, now: UnixSeconds) -> Reply<DeviceDetail> {
    let row = account.device(endpoint).await?;
    let certificates = account.device_certificates(endpoint, now).await?;
    let components = account.device_components(endpoint).await?;
    let desired = account.desired_release(endpoint).await?;
    let nameplate = row.nameplate.clone();
    let away = Some(row.deadlines).filter(|_| !row.connected);
    Ok(DeviceDetail {
        authority: row.authority.clone(),
        factory_serial: row.factory_serial.clone(),
        manufacturer: nameplate.manufacturer,
        model: nameplate.model,
        serial_number: nameplate.serial_number,
        firmware_version: nameplate.firmware_version,
        certificates: certificates.into_iter().map(certificate_view).collect(),
        components: components.into_iter().map(component_view).collect(),
        desired: desired.map(desired_view),
        note: row.note.clone(),
        lifetime: row.promise.lifetime(),
        sleeps: row.promise.sleeps(),
        late_at: away.map(|deadlines| deadlines.late),
        lost_at: away.map(|deadlines| deadlines.lost),
        device: labelled_one(account, row, now).await?,
    })
}

/// The devices of the account, by name.
#[utoipa::path(get, path = "/devices", tag = "devices", operation_id = "list_devices", params(DeviceQuery),
    security(("token" = ["read"])), responses((status = 200, description = "A page of devices", body = forms::DevicePage)))]
async fn list(
    State(fleet): State<Fleet>,
    who: Caller<need::Read>,
    Parameters(query): Parameters<DeviceQuery>,
) -> Reply<Json<Page<Device>>> {
    let paging = Paging::read(&PageQuery { cursor: query.cursor, limit: query.limit })?;
    let mut filter = Filter::every_device();
    if let Some(text) = &query.filter {
        filter = filter.and(filters::read("filter", text)?);
    }
    if let Some(group) = &query.group {
        let name: GroupName =
            group.parse().map_err(|e: protocol_types::NameError| Refusal::value("group", e.to_string()))?;
        filter = filter.and(Filter::of_group(&name));
    }
    if let Some(connected) = query.connected {
        filter = filter.and(Filter::connected(connected));
    }
    if let Some(standing) = query.standing {
        filter = filter.and(Filter::of_standing(standing));
    }
    let now = fleet.clock.now();
    let rows = who.account.devices_after(paging.after(), &filter, now, paging.rows()).await?;
    let page = paging.page(rows, |row| row.endpoint.to_string(), |row| row);
    Ok(Json(Page { items: labelled(&who.account, page.items, now).await?, next: page.next }))
}

/// Everything about one device.
#[utoipa::path(get, path = "/devices/{endpoint}", tag = "devices", operation_id = "show_device",
    params(("endpoint" = String, Path, description = "The device's name")),
    security(("token" = ["read"])), responses((status = 200, description = "The device", body = DeviceDetail)))]
async fn show(
    State(fleet): State<Fleet>,
    who: Caller<need::Read>,
    Segments(endpoint): Segments<EndpointName>,
) -> Reply<([(HeaderName, String); 1], Json<DeviceDetail>)> {
    let detail = detail(&who.account, &endpoint, fleet.clock.now()).await?;
    Ok((etag(detail.device.revision), Json(detail)))
}

fn text_of(field: &str, text: String, most: usize) -> Reply<String> {
    if text.chars().count() > most || text.chars().any(|c| c.is_control() && c != '\n') {
        return Err(Refusal::value(
            field,
            format!("a text here has at most {most} characters, none of them a control character"),
        ));
    }
    Ok(text)
}

fn check_tags(tags: ChangeTags) -> Reply<(Vec<String>, Vec<String>)> {
    let ChangeTags { add, remove } = tags;
    if add.len().max(remove.len()) > LABELS || !add.iter().chain(&remove).all(|tag| is_tag(tag)) {
        let detail =
            format!("a tag has 1 to 64 letters, digits, `_`, `-`, `.` and `:`; one request names at most {LABELS}");
        return Err(Refusal::value("tags", detail));
    }
    Ok((add, remove))
}

fn check_attributes(
    ChangeAttributes { set, remove }: ChangeAttributes,
) -> Reply<Vec<(String, Option<fleet_store::AttributeValue>)>> {
    if set.len().max(remove.len()) > LABELS {
        return Err(Refusal::value("attributes", format!("one request names at most {LABELS} attributes")));
    }
    let set = set.into_iter().map(|(key, value)| (key, Some(value)));
    set.chain(remove.into_iter().map(|key| (key, None)))
        .map(|(key, value)| {
            if !is_key(&key) {
                let detail = "the key of an attribute has 1 to 64 letters, digits, `_` and `-`";
                return Err(Refusal::value("attributes", detail));
            }
            let value = match value {
                None => None,
                Some(AttributeValue::Number(number)) => Some(fleet_store::AttributeValue::Number(number)),
                Some(AttributeValue::Text(text)) => {
                    Some(fleet_store::AttributeValue::Text(text_of("attributes", text, VALUE_CHARACTERS)?))
                }
            };
            Ok((key, value))
        })
        .collect()
}

/// What a request wants changed of a device, checked.
pub(crate) fn checked(change: ChangeDevice) -> Reply<DeviceChange> {
    let ChangeDevice { note, attributes, tags } = change;
    let (add_tags, remove_tags) = check_tags(tags)?;
    Ok(DeviceChange {
        note: note.map(|note| text_of("note", note, NOTE_CHARACTERS)).transpose()?,
        attributes: check_attributes(attributes)?,
        add_tags,
        remove_tags,
    })
}

/// Why something is done to a device, checked.
pub(crate) fn reason(reason: String) -> Reply<String> {
    if reason.chars().count() > REASON_CHARACTERS {
        return Err(Refusal::value("reason", format!("a reason has at most {REASON_CHARACTERS} characters")));
    }
    Ok(reason)
}

/// Changes what operators say of a device: its attributes, its tags and a note.
#[utoipa::path(patch, path = "/devices/{endpoint}", tag = "devices", operation_id = "change_device", request_body = ChangeDevice,
    params(("endpoint" = String, Path, description = "The device's name"),
           ("if-match" = String, Header, description = "`ETag` that the device must still have, or `*`")),
    security(("token" = ["operate"])), responses((status = 200, description = "The device", body = Device)))]
async fn change(
    State(fleet): State<Fleet>,
    who: Caller<need::Operate>,
    Segments(endpoint): Segments<EndpointName>,
    IfMatch(at): IfMatch,
    body: Body<ChangeDevice>,
) -> Reply<Tagged> {
    let now = fleet.clock.now();
    let row = who.account.change_device(&endpoint, &checked(body.value)?, at, now).await?;
    Ok((etag(row.revision), Json(labelled_one(&who.account, row, now).await?)))
}

/// Keeps a device out until it is resumed. Its connection ends at once.
#[utoipa::path(post, path = "/devices/{endpoint}/suspend", tag = "devices", operation_id = "suspend_device",
    params(("endpoint" = String, Path, description = "The device's name")), request_body = SuspendDevice,
    security(("token" = ["operate"])), responses((status = 200, description = "The device", body = Device)))]
async fn suspend(
    State(fleet): State<Fleet>,
    who: Caller<need::Operate>,
    Segments(endpoint): Segments<EndpointName>,
    body: Body<SuspendDevice>,
) -> Reply<Json<Device>> {
    let reason = reason(body.value.reason)?;
    let now = fleet.clock.now();
    let row = who.account.suspend_device(&endpoint, &reason, now).await?;
    Ok(Json(labelled_one(&who.account, row, now).await?))
}

/// Takes a device out of service for good: its certificates, the enrolments that name it, its memberships and its wanted release are
/// gone; it and its history stay. It comes back only by a new enrolment that names it.
#[utoipa::path(post, path = "/devices/{endpoint}/decommission", tag = "devices", operation_id = "decommission_device",
    params(("endpoint" = String, Path, description = "The device's name")), request_body = DecommissionDevice,
    security(("token" = ["operate"])), responses((status = 200, description = "The device", body = Device)))]
async fn decommission(
    State(fleet): State<Fleet>,
    who: Caller<need::Operate>,
    Segments(endpoint): Segments<EndpointName>,
    body: Body<DecommissionDevice>,
) -> Reply<Json<Device>> {
    let (reason, now) = (reason(body.value.reason)?, fleet.clock.now());
    let row = who.account.decommission_device(&endpoint, &reason, now).await?;
    Ok(Json(labelled_one(&who.account, row, now).await?))
}

/// What happened to a device, the newest first: how it joined, its certificates, its standing, its presence, what operators changed of
/// it, and its steps in rollouts. What happened stays when the device is deleted.
#[utoipa::path(get, path = "/devices/{endpoint}/history", tag = "devices", operation_id = "list_device_history",
    params(("endpoint" = String, Path, description = "The device's name"), PageQuery),
    security(("token" = ["read"])), responses((status = 200, description = "A page of events", body = forms::EventPage)))]
async fn history(
    who: Caller<need::Read>,
    Segments(endpoint): Segments<EndpointName>,
    Parameters(query): Parameters<PageQuery>,
) -> Reply<Json<Page<Event>>> {
    let paging = Paging::read(&query)?;
    let before = Some(paging.after_number()?).filter(|number| *number > 0);
    let rows = who.account.device_history(&endpoint, before, paging.rows()).await?;
    if rows.is_empty() && before.is_none() {
        who.account.device(&endpoint).await?;
    }
    Ok(Json(paging.page(rows, |row| row.id.to_string(), |row| events::view(&who.account, row))))
}

/// Lets a suspended or quarantined device take part again.
#[utoipa::path(post, path = "/devices/{endpoint}/resume", tag = "devices", operation_id = "resume_device",
    params(("endpoint" = String, Path, description = "The device's name")),
    security(("token" = ["operate"])), responses((status = 200, description = "The device", body = Device)))]
async fn resume(
    State(fleet): State<Fleet>,
    who: Caller<need::Operate>,
    Segments(endpoint): Segments<EndpointName>,
) -> Reply<Json<Device>> {
    let now = fleet.clock.now();
    let row = who.account.resume_device(&endpoint, now).await?;
    Ok(Json(labelled_one(&who.account, row, now).await?))
}

/// Makes a device as new: its data, settings and applications go, its identity and its operating system stay. A device that is away
/// hears of it when it returns; asking again before changes nothing.
#[utoipa::path(post, path = "/devices/{endpoint}/factory-reset", tag = "devices", operation_id = "reset_device",
    params(("endpoint" = String, Path, description = "The device's name")),
    security(("token" = ["operate"])), responses((status = 200, description = "The device", body = Device)))]
async fn factory_reset(
    State(fleet): State<Fleet>,
    who: Caller<need::Operate>,
    Segments(endpoint): Segments<EndpointName>,
) -> Reply<Json<Device>> {
    let now = fleet.clock.now();
    let row = who.account.ask_reset(&endpoint, now).await?;
    Ok(Json(labelled_one(&who.account, row, now).await?))
}

/// The recovery keys of a device's state, sealed to the account: only its offline recovery key opens them. Each fetch is an event that
/// names the token.
#[utoipa::path(get, path = "/devices/{endpoint}/recovery", tag = "devices", operation_id = "fetch_recovery_keys",
    params(("endpoint" = String, Path, description = "The device's name")),
    security(("token" = ["operate"])), responses((status = 200, description = "The sealed keys", body = DeviceRecoveryKeys)))]
async fn recovery(
    State(fleet): State<Fleet>,
    who: Caller<need::Operate>,
    Segments(endpoint): Segments<EndpointName>,
) -> Reply<Json<DeviceRecoveryKeys>> {
    let rows = who.account.fetch_recovery_keys(&endpoint, &who.token, fleet.clock.now()).await?;
    Ok(Json(DeviceRecoveryKeys { items: rows.into_iter().map(recovery_view).collect() }))
}

/// Forgets a device and its certificates. It may come back only if an enrolment still allows it.
#[utoipa::path(delete, path = "/devices/{endpoint}", tag = "devices", operation_id = "delete_device",
    params(("endpoint" = String, Path, description = "The device's name")),
    security(("token" = ["operate"])), responses((status = 204, description = "It is forgotten")))]
async fn delete(
    State(fleet): State<Fleet>,
    who: Caller<need::Operate>,
    Segments(endpoint): Segments<EndpointName>,
) -> Reply<StatusCode> {
    who.account.delete_device(&endpoint, fleet.clock.now()).await?;
    Ok(StatusCode::NO_CONTENT)
}
