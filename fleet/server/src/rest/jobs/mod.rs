//! `/jobs`: what many devices do once, each in its turn, and what became of each.

#[cfg(test)]
mod tests;

use axum::{
    Json,
    extract::State,
    http::{HeaderName, StatusCode, header},
};
use fleet_api::{
    BASE_PATH, CollectLogs, Job, JobBounds, JobCounts, JobDevice, JobDeviceQuery, LogSource, Page, PageQuery,
    RebootDevices, RotateKeys, RunProbe, forms,
};
use fleet_store::{AccountScope, CommandRow, JobRow, NewJob, RequestKey, StoreError};
use protocol_types::{CommandState, EndpointName, UnixSeconds};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    fleet::Fleet,
    jobs::{JobOrder, is_probe},
    rest::{
        Refusal, Reply,
        body::{Body, Parameters, Segments},
        caller::{Caller, need},
        commands::until,
        groups::filters,
        numbered::number_in,
        paging::Paging,
    },
};

const CONCURRENCY: u32 = 20;
const MOST_CONCURRENCY: u32 = 10_000;
const PER_MINUTE: u32 = 600;
const MOST_PER_MINUTE: u32 = 100_000;
const DEADLINE_S: u64 = 24 * 60 * 60;
const LONGEST_DEADLINE_S: u64 = 30 * 24 * 60 * 60;
const MOST_LINES: u32 = 1000;

pub(crate) fn router() -> OpenApiRouter<Fleet> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(logs))
        .routes(routes!(reboot))
        .routes(routes!(rotate_key))
        .routes(routes!(probe))
        .routes(routes!(show))
        .routes(routes!(cancel))
        .routes(routes!(devices))
        .routes(routes!(device))
}

fn counted(counts: Vec<(CommandState, u64)>) -> JobCounts {
    let mut all = JobCounts::default();
    for (state, devices) in counts {
        *match state {
            CommandState::Waiting => &mut all.waiting,
            CommandState::Sent => &mut all.sent,
            CommandState::Active => &mut all.active,
            CommandState::Done => &mut all.done,
            CommandState::Failed => &mut all.failed,
            CommandState::Expired => &mut all.expired,
            CommandState::Cancelled => &mut all.cancelled,
            CommandState::Unknown => &mut all.unknown,
        } = devices;
    }
    all
}

async fn view(account: &AccountScope, row: JobRow) -> Reply<Job> {
    let order: JobOrder =
        serde_json::from_str(&row.request).map_err(|_| StoreError::Damaged { table: "jobs", column: "request" })?;
    let (kind, id) = (order.kind(), row.id());
    let (source, application, lines, probe) = match order {
        JobOrder::Logs { source, application, lines } => (Some(source), application, Some(lines), None),
        JobOrder::Reboot | JobOrder::RotateKey => (None, None, None, None),
        JobOrder::Probe { name } => (None, None, None, Some(name)),
    };
    Ok(Job {
        id,
        kind,
        source,
        application,
        lines,
        probe,
        filter: row.filter.to_string(),
        state: row.state,
        devices: counted(account.job_counts(row.number).await?),
        concurrency: row.concurrency,
        per_minute: row.per_minute,
        created: row.created,
        deadline: row.deadline,
        started: row.started,
        ended: row.ended,
    })
}

fn device_view(row: CommandRow, with_result: bool) -> JobDevice {
    let command = row.id();
    let (reason_code, reason) = row.reason.unzip();
    let result_bytes = row.result.as_ref().map_or(0, String::len);
    JobDevice {
        endpoint: row.endpoint,
        command,
        state: row.state,
        reason_code,
        reason,
        result: row.result.filter(|_| with_result),
        result_bytes: u64::try_from(result_bytes).unwrap_or(u64::MAX),
        sent: row.sent,
        ended: row.ended,
    }
}

fn number(id: &str) -> Reply<u64> {
    number_in(id, ("job", "j-"))
}

/// A number within its bounds, or the one that stands for none.
fn within(field: &str, (asked, without, most): (Option<u32>, u32, u32)) -> Reply<u32> {
    let number = asked.unwrap_or(without);
    if (1..=most).contains(&number) {
        return Ok(number);
    }
    Err(Refusal::value(field, format!("it must be from 1 to {most}")))
}

/// The answer to a request that made a job.
type Accepted = (StatusCode, [(HeaderName, String); 1], Json<Job>);

async fn accept(
    account: &AccountScope,
    (filter, order, bounds): (&str, &JobOrder, JobBounds),
    key: Option<&RequestKey>,
    now: UnixSeconds,
) -> Reply<Accepted> {
    let filter = filters::read("filter", filter)?;
    let wanted = NewJob {
        kind: order.kind().as_str(),
        filter: &filter,
        request: &serde_json::to_string(order).map_err(|e| Refusal::internal(&e))?,
        concurrency: within("bounds.concurrency", (bounds.concurrency, CONCURRENCY, MOST_CONCURRENCY))?,
        per_minute: within("bounds.per_minute", (bounds.per_minute, PER_MINUTE, MOST_PER_MINUTE))?,
        deadline: until("bounds.deadline_s", (bounds.deadline_s, DEADLINE_S, LONGEST_DEADLINE_S), now)?,
    };
    // A group that is not there is a slip, and not an audience of nobody.
    account.count_devices(&filter, now).await?;
    let row = account.create_job(&wanted, key, now).await?;
    let place = format!("{BASE_PATH}/jobs/{}", row.id());
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, place)], Json(view(account, row).await?)))
}

/// Collects the end of a log of every device that a filter is true for now. A device that is away hands it in when it is back.
#[utoipa::path(post, path = "/jobs/logs", tag = "jobs", operation_id = "collect_logs", request_body = CollectLogs,
    params(("idempotency-key" = Option<String>, Header, min_length = 1, max_length = 128,
        description = "Makes the request safe to repeat")),
    security(("token" = ["operate"])), responses((status = 202, description = "The job", body = Job)))]
async fn logs(State(fleet): State<Fleet>, who: Caller<need::Operate>, body: Body<CollectLogs>) -> Reply<Accepted> {
    let CollectLogs { filter, source, application, lines, bounds } = body.value;
    if (source == LogSource::Application) != application.is_some() {
        let why = "an application is named with the source `application`, and with no other";
        return Err(Refusal::value("application", why));
    }
    let lines = within("lines", (Some(lines), MOST_LINES, MOST_LINES))?;
    let order = JobOrder::Logs { source, application, lines };
    accept(&who.account, (&filter, &order, bounds), body.key.as_ref(), fleet.clock.now()).await
}

/// Restarts every device that a filter is true for now, in order: each ends what it is at. A device that is away does it when it is back.
#[utoipa::path(post, path = "/jobs/reboot", tag = "jobs", operation_id = "reboot_devices", request_body = RebootDevices,
    params(("idempotency-key" = Option<String>, Header, min_length = 1, max_length = 128,
        description = "Makes the request safe to repeat")),
    security(("token" = ["operate"])), responses((status = 202, description = "The job", body = Job)))]
async fn reboot(State(fleet): State<Fleet>, who: Caller<need::Operate>, body: Body<RebootDevices>) -> Reply<Accepted> {
    let RebootDevices { filter, bounds } = body.value;
    accept(&who.account, (&filter, &JobOrder::Reboot, bounds), body.key.as_ref(), fleet.clock.now()).await
}

/// Has every device that a filter is true for now get an operational certificate for a new key. What was issued for the old key goes
/// with its time.
#[utoipa::path(post, path = "/jobs/rotate-key", tag = "jobs", operation_id = "rotate_keys", request_body = RotateKeys,
    params(("idempotency-key" = Option<String>, Header, min_length = 1, max_length = 128,
        description = "Makes the request safe to repeat")),
    security(("token" = ["operate"])), responses((status = 202, description = "The job", body = Job)))]
async fn rotate_key(State(fleet): State<Fleet>, who: Caller<need::Operate>, body: Body<RotateKeys>) -> Reply<Accepted> {
    let RotateKeys { filter, bounds } = body.value;
    accept(&who.account, (&filter, &JobOrder::RotateKey, bounds), body.key.as_ref(), fleet.clock.now()).await
}

/// Has every device that a filter is true for now make a check that it declares by name. There is no way to run a command line.
#[utoipa::path(post, path = "/jobs/probe", tag = "jobs", operation_id = "run_probe", request_body = RunProbe,
    params(("idempotency-key" = Option<String>, Header, min_length = 1, max_length = 128,
        description = "Makes the request safe to repeat")),
    security(("token" = ["operate"])), responses((status = 202, description = "The job", body = Job)))]
async fn probe(State(fleet): State<Fleet>, who: Caller<need::Operate>, body: Body<RunProbe>) -> Reply<Accepted> {
    let RunProbe { filter, probe, bounds } = body.value;
    if !is_probe(&probe) {
        let why = "the name of a check has 1 to 32 lower-case letters, digits and `-`, and begins with a letter";
        return Err(Refusal::value("probe", why));
    }
    let order = JobOrder::Probe { name: probe };
    accept(&who.account, (&filter, &order, bounds), body.key.as_ref(), fleet.clock.now()).await
}

/// The jobs of the account, the newest first; those that have ended are kept for 30 days.
#[utoipa::path(get, path = "/jobs", tag = "jobs", operation_id = "list_jobs", params(PageQuery),
    security(("token" = ["read"])), responses((status = 200, description = "A page of jobs", body = forms::JobPage)))]
async fn list(who: Caller<need::Read>, Parameters(query): Parameters<PageQuery>) -> Reply<Json<Page<Job>>> {
    let paging = Paging::read(&query)?;
    let before = Some(paging.after_number()?).filter(|number| *number > 0);
    let rows = who.account.jobs_before(before, paging.rows()).await?;
    let page = paging.page(rows, |row| row.number.to_string(), |row| row);
    let mut items = Vec::with_capacity(page.items.len());
    for row in page.items {
        items.push(view(&who.account, row).await?);
    }
    Ok(Json(Page { items, next: page.next }))
}

/// One job and how far its devices are.
#[utoipa::path(get, path = "/jobs/{id}", tag = "jobs", operation_id = "show_job",
    params(("id" = String, Path, description = "The job's id")),
    security(("token" = ["read"])), responses((status = 200, description = "The job", body = Job)))]
async fn show(who: Caller<need::Read>, Segments(id): Segments<String>) -> Reply<Json<Job>> {
    let row = who.account.job(number(&id)?).await?;
    Ok(Json(view(&who.account, row).await?))
}

/// Stops a job: no further device hears of it, and what was told goes on.
#[utoipa::path(post, path = "/jobs/{id}/cancel", tag = "jobs", operation_id = "cancel_job",
    params(("id" = String, Path, description = "The job's id")),
    security(("token" = ["operate"])), responses((status = 200, description = "The job", body = Job)))]
async fn cancel(
    State(fleet): State<Fleet>,
    who: Caller<need::Operate>,
    Segments(id): Segments<String>,
) -> Reply<Json<Job>> {
    let row = who.account.cancel_job(number(&id)?, fleet.clock.now()).await?;
    Ok(Json(view(&who.account, row).await?))
}

/// The devices of a job, in the order of their names, and what became of each.
#[utoipa::path(get, path = "/jobs/{id}/devices", tag = "jobs", operation_id = "list_job_devices",
    params(("id" = String, Path, description = "The job's id"), JobDeviceQuery),
    security(("token" = ["read"])), responses((status = 200, description = "A page of devices", body = forms::JobDevicePage)))]
async fn devices(
    who: Caller<need::Read>,
    Segments(id): Segments<String>,
    Parameters(query): Parameters<JobDeviceQuery>,
) -> Reply<Json<Page<JobDevice>>> {
    let paging = Paging::read(&PageQuery { cursor: query.cursor, limit: query.limit })?;
    let number = who.account.job(number(&id)?).await?.number;
    let rows = who.account.job_devices_after(number, query.state, paging.after_number()?, paging.rows()).await?;
    Ok(Json(paging.page(rows, |row| row.number.to_string(), |row| device_view(row, false))))
}

/// The part of one device in a job, with what it has brought.
#[utoipa::path(get, path = "/jobs/{id}/devices/{endpoint}", tag = "jobs", operation_id = "show_job_device",
    params(("id" = String, Path, description = "The job's id"), ("endpoint" = String, Path, description = "The device's name")),
    security(("token" = ["read"])), responses((status = 200, description = "The device", body = JobDevice)))]
async fn device(
    who: Caller<need::Read>,
    Segments((id, endpoint)): Segments<(String, EndpointName)>,
) -> Reply<Json<JobDevice>> {
    let row = who.account.job_device(number(&id)?, &endpoint).await?;
    Ok(Json(device_view(row, true)))
}
