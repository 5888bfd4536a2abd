//! `/devices`: who the devices of the account are, how they are, and whether they may take part.

use axum::{Json, extract::State, http::StatusCode};
use fleet_api::{
    DesiredRelease, Device, DeviceCertificate, DeviceDetail, DeviceQuery, DeviceReport, InstalledComponent, Page,
    PageQuery, Standing, SuspendDevice, forms,
};
use fleet_store::{AccountScope, CertificateRow, ComponentRow, DesiredRow, DeviceFilter, DeviceRow};
use protocol_types::{EndpointName, UnixSeconds};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Refusal, Reply,
    body::{Body, Parameters, Segments},
    caller::{Caller, need},
    paging::Paging,
};
use crate::fleet::Fleet;

const REASON_CHARACTERS: usize = 200;

pub(super) fn router() -> OpenApiRouter<Fleet> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show, delete))
        .routes(routes!(suspend))
        .routes(routes!(resume))
        .routes(routes!(factory_reset))
}

const fn standing_view(standing: fleet_store::Standing) -> Standing {
    match standing {
        fleet_store::Standing::Active => Standing::Active,
        fleet_store::Standing::Suspended => Standing::Suspended,
        fleet_store::Standing::Quarantined => Standing::Quarantined,
    }
}

const fn standing_wanted(standing: Standing) -> fleet_store::Standing {
    match standing {
        Standing::Active => fleet_store::Standing::Active,
        Standing::Suspended => fleet_store::Standing::Suspended,
        Standing::Quarantined => fleet_store::Standing::Quarantined,
    }
}

fn view(row: DeviceRow) -> Device {
    Device {
        endpoint: row.endpoint,
        standing: standing_view(row.standing),
        standing_reason: row.standing_reason,
        connected: row.connected,
        last_seen: row.last_seen,
        created: row.created,
        reset_asked: row.reset_asked,
        report: row.report.map(|(report, received)| report_view(report, received)),
    }
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
        device: view(row),
    })
}

/// The devices of the account, by name.
#[utoipa::path(get, path = "/devices", tag = "devices", operation_id = "list_devices", params(DeviceQuery),
    security(("token" = ["read"])), responses((status = 200, description = "A page of devices", body = forms::DevicePage)))]
async fn list(who: Caller<need::Read>, Parameters(query): Parameters<DeviceQuery>) -> Reply<Json<Page<Device>>> {
    let paging = Paging::read(&PageQuery { cursor: query.cursor, limit: query.limit })?;
    let filter =
        DeviceFilter { group: query.group, connected: query.connected, standing: query.standing.map(standing_wanted) };
    let rows = who.account.devices_after(paging.after(), &filter, paging.rows()).await?;
    Ok(Json(paging.page(rows, |row| row.endpoint.to_string(), view)))
}

/// Everything about one device.
#[utoipa::path(get, path = "/devices/{endpoint}", tag = "devices", operation_id = "show_device",
    params(("endpoint" = String, Path, description = "The device's name")),
    security(("token" = ["read"])), responses((status = 200, description = "The device", body = DeviceDetail)))]
async fn show(
    State(fleet): State<Fleet>,
    who: Caller<need::Read>,
    Segments(endpoint): Segments<EndpointName>,
) -> Reply<Json<DeviceDetail>> {
    Ok(Json(detail(&who.account, &endpoint, fleet.clock.now()).await?))
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
    let reason = body.value.reason;
    if reason.chars().count() > REASON_CHARACTERS {
        return Err(Refusal::value("reason", format!("a reason has at most {REASON_CHARACTERS} characters")));
    }
    Ok(Json(view(who.account.suspend_device(&endpoint, &reason, fleet.clock.now()).await?)))
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
    Ok(Json(view(who.account.resume_device(&endpoint, fleet.clock.now()).await?)))
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
    Ok(Json(view(who.account.ask_reset(&endpoint, fleet.clock.now()).await?)))
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
