//! `/device-counts` and `/device-export`: the directory as numbers, and as a file.

use axum::{
    Json,
    body::{Body as Payload, Bytes},
    extract::State,
    http::{HeaderName, header},
};
use fleet_api::{CountQuery, Device, DeviceCount, DeviceCounts, ExportFormat, ExportQuery};
use fleet_store::{AccountScope, CountBy, CountRow, Filter};
use futures_util::{Stream, TryStreamExt as _, stream};
use protocol_types::{EndpointName, UnixSeconds};
use serde::Serialize;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    fleet::Fleet,
    rest::{
        Refusal, Reply,
        body::Parameters,
        caller::{Caller, need},
        devices,
        groups::filters,
    },
};

/// Devices that an export reads at a time.
const BATCH: u32 = 500;
/// Most values that a count tells apart.
const VALUES: u32 = 1000;

pub(crate) fn router() -> OpenApiRouter<Fleet> {
    OpenApiRouter::new().routes(routes!(count)).routes(routes!(export))
}

/// The filter of a query; every device without one.
pub(crate) fn wanted(filter: Option<&str>) -> Reply<Filter> {
    filter.map_or_else(|| Ok(Filter::every_device()), |text| filters::read("filter", text))
}

/// How many devices there are, by the value of a field; the most frequent values first.
#[utoipa::path(get, path = "/device-counts", tag = "devices", operation_id = "count_devices", params(CountQuery),
    security(("token" = ["read"])), responses((status = 200, description = "The counts", body = DeviceCounts)))]
async fn count(
    State(fleet): State<Fleet>,
    who: Caller<need::Read>,
    Parameters(query): Parameters<CountQuery>,
) -> Reply<Json<DeviceCounts>> {
    let filter = wanted(query.filter.as_deref())?;
    let now = fleet.clock.now();
    let Some(by) = &query.by else {
        let devices = who.account.count_devices(&filter, now).await?;
        return Ok(Json(DeviceCounts { items: vec![DeviceCount { value: None, devices }], more: false }));
    };
    let by: CountBy = by.parse().map_err(|e: fleet_store::NotCountable| Refusal::value("by", e.to_string()))?;
    let mut rows = who.account.count_devices_by(&by, &filter, now, VALUES + 1).await?;
    let more = rows.len() > usize::try_from(VALUES).unwrap_or(usize::MAX);
    rows.truncate(usize::try_from(VALUES).unwrap_or(usize::MAX));
    let items = rows.into_iter().map(|CountRow { value, devices }| DeviceCount { value, devices }).collect();
    Ok(Json(DeviceCounts { items, more }))
}

/// The devices as a file: a line each, by name. A file that breaks off is not whole.
#[utoipa::path(get, path = "/device-export", tag = "devices", operation_id = "export_devices", params(ExportQuery),
    security(("token" = ["read"])), responses((status = 200, description = "The devices",
        content((String = "text/csv"), (String = "application/jsonl")))))]
async fn export(
    State(fleet): State<Fleet>,
    who: Caller<need::Read>,
    Parameters(query): Parameters<ExportQuery>,
) -> Reply<([(HeaderName, &'static str); 1], Payload)> {
    let filter = wanted(query.filter.as_deref())?;
    let format = query.format.unwrap_or(ExportFormat::Csv);
    let media_type = match format {
        ExportFormat::Csv => "text/csv; charset=utf-8",
        ExportFormat::Jsonl => "application/jsonl",
    };
    let lines = lines(who.account, filter, format, fleet.clock.now()).map_err(|refusal| *refusal.0);
    Ok(([(header::CONTENT_TYPE, media_type)], Payload::from_stream(lines)))
}

/// Where an export is: before its head, after a device, or at its end.
enum Place {
    Head,
    After(String),
    End,
}

/// The export, a batch at a time; only what is being sent is in memory.
fn lines(
    account: AccountScope,
    filter: Filter,
    format: ExportFormat,
    now: UnixSeconds,
) -> impl Stream<Item = Result<Bytes, Refusal>> {
    stream::try_unfold((account, filter, Place::Head), move |(account, filter, place)| async move {
        let after = match place {
            Place::End => return Ok(None),
            Place::Head if format == ExportFormat::Csv => {
                return Ok(Some((
                    csv_lines([HEAD.map(str::to_owned)])?,
                    (account, filter, Place::After(String::new())),
                )));
            }
            Place::Head => String::new(),
            Place::After(endpoint) => endpoint,
        };
        let rows = account.devices_after(&after, &filter, now, BATCH).await?;
        let next = match rows.last() {
            Some(last) if rows.len() == usize::try_from(BATCH).unwrap_or(usize::MAX) => {
                Place::After(last.endpoint.to_string())
            }
            Some(_) | None => Place::End,
        };
        let devices = devices::labelled(&account, rows, now).await?;
        let bytes = match format {
            ExportFormat::Csv => csv_lines(devices.iter().map(csv_fields))?,
            ExportFormat::Jsonl => json_lines(&devices)?,
        };
        Ok(Some((bytes, (account, filter, next))))
    })
}

const HEAD: [&str; 13] = [
    "endpoint",
    "standing",
    "connected",
    "last_seen",
    "created",
    "version",
    "slot",
    "phase",
    "reason",
    "floor",
    "tags",
    "attributes",
    "presence",
];

/// One device in the order of [`HEAD`]. Times are Unix seconds; tags have spaces between, attributes are JSON.
fn csv_fields(device: &Device) -> [String; 13] {
    let report = device.report.as_ref();
    let or_empty = |text: Option<String>| text.unwrap_or_default();
    [
        EndpointName::to_string(&device.endpoint),
        device.standing.to_string(),
        device.connected.to_string(),
        or_empty(device.last_seen.map(|time| time.to_string())),
        device.created.to_string(),
        or_empty(report.and_then(|report| report.running_version.clone())),
        or_empty(report.and_then(|report| report.slot).map(|slot| slot.to_string())),
        or_empty(report.map(|report| report.phase.to_string())),
        or_empty(report.and_then(|report| report.reason_code.clone())),
        or_empty(report.map(|report| report.floor.to_string())),
        device.tags.join(" "),
        serde_json::to_string(&device.attributes).unwrap_or_default(),
        device.presence.as_str().to_owned(),
    ]
}

/// A field that a spreadsheet would take for a formula gets an apostrophe before it.
fn harmless(field: String) -> String {
    if field.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{field}") } else { field }
}

/// Lines of comma-separated values.
pub(crate) fn csv_lines<const N: usize>(rows: impl IntoIterator<Item = [String; N]>) -> Reply<Bytes> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in rows {
        writer.write_record(row.map(harmless)).map_err(|e| Refusal::internal(&e))?;
    }
    writer.into_inner().map(Bytes::from).map_err(|e| Refusal::internal(&e.into_error()))
}

/// A JSON object a line.
pub(crate) fn json_lines<T: Serialize>(items: &[T]) -> Reply<Bytes> {
    let mut lines = Vec::new();
    for item in items {
        serde_json::to_writer(&mut lines, item).map_err(|e| Refusal::internal(&e))?;
        lines.push(b'\n');
    }
    Ok(lines.into())
}
