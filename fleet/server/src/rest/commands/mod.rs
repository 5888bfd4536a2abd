//! `/devices/{endpoint}/read`, `/write`, `/execute`, `/observe` and `/commands`: what operators ask of a device itself, and what it answers.

pub(crate) mod wait;

#[cfg(test)]
mod tests;

use axum::{
    Json,
    extract::State,
    http::{HeaderName, StatusCode, header},
};
use fleet_api::{
    BASE_PATH, Command, CommandQuery, CommandValuesQuery, ExecuteResource, ObserveResource, Observed, ObservedValues,
    Page, PageQuery, Problem, ProblemCode, ReadResource, WriteResource, forms,
};
use fleet_store::{AccountScope, CommandRow, CommandValueRow, DeviceRow, MAX_VALUES, NewCommand, RequestKey};
use protocol_lwm2m::object::Path as ResourcePath;
use protocol_types::{CommandKind, EndpointName, UnixSeconds};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    commands::{
        order::{self, Argument},
        paths::{self, NotAllowed},
        values,
    },
    fleet::Fleet,
    rest::{
        Refusal, Reply,
        body::{Body, Parameters, Segments},
        caller::{Caller, need},
        commands::wait::Waiter,
        numbered::number_in,
        paging::Paging,
    },
};

/// How long a command waits for its device, if the caller does not say.
const DEADLINE_S: u64 = 60 * 60;
const LONGEST_DEADLINE_S: u64 = 30 * 24 * 60 * 60;
/// How long an observation lives, if the caller does not say.
const OBSERVATION_S: u64 = 10 * 60;
const LONGEST_OBSERVATION_S: u64 = 24 * 60 * 60;
const VALUE_CHARACTERS: usize = 8192;
const ARGUMENTS_CHARACTERS: usize = 512;

pub(crate) fn router() -> OpenApiRouter<Fleet> {
    OpenApiRouter::new()
        .routes(routes!(read))
        .routes(routes!(write))
        .routes(routes!(execute))
        .routes(routes!(observe))
        .routes(routes!(list))
        .routes(routes!(show, cancel))
        .routes(routes!(values_of))
}

fn view(row: CommandRow, device: &DeviceRow, now: UnixSeconds) -> Reply<Command> {
    let (reason_code, reason) = row.reason.clone().unzip();
    // What a job has brought is a file of its own.
    let values = match row.result.as_deref().filter(|_| row.job.is_none()) {
        Some(text) => order::read_back(text, ("commands", "result"))?,
        None => Vec::new(),
    };
    Ok(Command {
        id: row.id(),
        kind: row.kind,
        state: row.state,
        job: row.job.map(|job| format!("j-{job}")),
        values,
        reason_code,
        reason,
        tries: row.tries,
        presence: device.presence(now),
        expected_by: Some(device.deadlines.late).filter(|_| !device.connected),
        created: row.created,
        deadline: row.deadline,
        sent: row.sent,
        ended: row.ended,
        endpoint: row.endpoint,
        path: row.path,
    })
}

fn number(id: &str) -> Reply<u64> {
    number_in(id, ("command", "c-"))
}

/// The path of a request, if a command of this kind may be about it.
fn allowed(kind: CommandKind, text: &str) -> Reply<ResourcePath> {
    let path: ResourcePath =
        text.parse().map_err(|e: protocol_lwm2m::object::PathError| Refusal::value("path", e.to_string()))?;
    paths::check(kind, &path).map_err(|refused| {
        let text = refused.to_string();
        match refused {
            NotAllowed::Protected { instead, .. } => {
                Refusal::from(Problem::new(ProblemCode::ProtectedPath, text).in_field("path").with_hint(instead))
            }
            NotAllowed::DoesNotFit(_) => Refusal::value("path", text),
        }
    })?;
    Ok(path)
}

/// A time from now on, within bounds.
pub(crate) fn until(
    field: &str,
    (asked, without, most): (Option<u64>, u64, u64),
    now: UnixSeconds,
) -> Reply<UnixSeconds> {
    let seconds = asked.unwrap_or(without);
    if !(1..=most).contains(&seconds) {
        return Err(Refusal::value(field, format!("it must be from 1 to {most} seconds")));
    }
    Ok(UnixSeconds(now.0.saturating_add(seconds)))
}

/// The answer to a request that made a command.
type Accepted = (StatusCode, [(HeaderName, String); 1], Json<Command>);

async fn accept(
    account: &AccountScope,
    (endpoint, wanted): (&EndpointName, &NewCommand<'_>),
    key: Option<&RequestKey>,
    now: UnixSeconds,
) -> Reply<Accepted> {
    let row = account.create_command(endpoint, wanted, key, now).await?;
    let device = account.device(endpoint).await?;
    let place = format!("{BASE_PATH}/devices/{endpoint}/commands/{}", row.id());
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, place)], Json(view(row, &device, now)?)))
}

/// Asks a device what lies at a path. The answer is a command, which waits for a device that is away.
#[utoipa::path(post, path = "/devices/{endpoint}/read", tag = "commands", operation_id = "read_resource", request_body = ReadResource,
    params(("endpoint" = String, Path, description = "The device's name"),
           ("idempotency-key" = Option<String>, Header, min_length = 1, max_length = 128,
        description = "Makes the request safe to repeat")),
    security(("token" = ["operate"])), responses((status = 202, description = "The command", body = Command)))]
async fn read(
    State(fleet): State<Fleet>,
    who: Caller<need::Operate>,
    Segments(endpoint): Segments<EndpointName>,
    body: Body<ReadResource>,
) -> Reply<Accepted> {
    who.account.device(&endpoint).await?;
    let (kind, now) = (CommandKind::Read, fleet.clock.now());
    let path = allowed(kind, &body.value.path)?.to_string();
    let deadline = until("deadline_s", (body.value.deadline_s, DEADLINE_S, LONGEST_DEADLINE_S), now)?;
    let wanted = NewCommand { kind, path: &path, argument: None, deadline };
    accept(&who.account, (&endpoint, &wanted), body.key.as_ref(), now).await
}

/// Writes a value to a resource of a device. Credentials, software, settings and jobs have doors of their own.
#[utoipa::path(post, path = "/devices/{endpoint}/write", tag = "commands", operation_id = "write_resource", request_body = WriteResource,
    params(("endpoint" = String, Path, description = "The device's name"),
           ("idempotency-key" = Option<String>, Header, min_length = 1, max_length = 128,
        description = "Makes the request safe to repeat")),
    security(("token" = ["operate"])), responses((status = 202, description = "The command", body = Command)))]
async fn write(
    State(fleet): State<Fleet>,
    who: Caller<need::Operate>,
    Segments(endpoint): Segments<EndpointName>,
    body: Body<WriteResource>,
) -> Reply<Accepted> {
    who.account.device(&endpoint).await?;
    let (kind, now) = (CommandKind::Write, fleet.clock.now());
    let WriteResource { path, value, kind: said, deadline_s } = body.value;
    let path = allowed(kind, &path)?;
    if value.chars().count() > VALUE_CHARACTERS {
        return Err(Refusal::value("value", format!("a value has at most {VALUE_CHARACTERS} characters")));
    }
    let of_type = values::type_of(&path, said).map_err(|why| Refusal::value("type", why))?;
    values::parse(of_type, &value).map_err(|why| Refusal::value("value", why))?;
    let deadline = until("deadline_s", (deadline_s, DEADLINE_S, LONGEST_DEADLINE_S), now)?;
    let argument = serde_json::to_string(&Argument { kind: of_type, value }).map_err(|e| Refusal::internal(&e))?;
    let path = path.to_string();
    let wanted = NewCommand { kind, path: &path, argument: Some(&argument), deadline };
    accept(&who.account, (&endpoint, &wanted), body.key.as_ref(), now).await
}

/// Executes a resource of a device, once: if its answer is lost, the command ends as `unknown` and is not repeated.
#[utoipa::path(post, path = "/devices/{endpoint}/execute", tag = "commands", operation_id = "execute_resource",
    request_body = ExecuteResource,
    params(("endpoint" = String, Path, description = "The device's name"),
           ("idempotency-key" = Option<String>, Header, min_length = 1, max_length = 128,
        description = "Makes the request safe to repeat")),
    security(("token" = ["operate"])), responses((status = 202, description = "The command", body = Command)))]
async fn execute(
    State(fleet): State<Fleet>,
    who: Caller<need::Operate>,
    Segments(endpoint): Segments<EndpointName>,
    body: Body<ExecuteResource>,
) -> Reply<Accepted> {
    who.account.device(&endpoint).await?;
    let (kind, now) = (CommandKind::Execute, fleet.clock.now());
    let ExecuteResource { path, arguments, deadline_s } = body.value;
    let path = allowed(kind, &path)?.to_string();
    let is_plain = arguments.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if arguments.len() > ARGUMENTS_CHARACTERS || !is_plain {
        let why = format!("arguments have at most {ARGUMENTS_CHARACTERS} printable ASCII characters");
        return Err(Refusal::value("arguments", why));
    }
    let deadline = until("deadline_s", (deadline_s, DEADLINE_S, LONGEST_DEADLINE_S), now)?;
    let argument = Some(arguments.as_str()).filter(|text| !text.is_empty());
    let wanted = NewCommand { kind, path: &path, argument, deadline };
    accept(&who.account, (&endpoint, &wanted), body.key.as_ref(), now).await
}

/// Observes what lies at a path of a device, for a bounded time; the newest 256 values are kept and read at `/values`.
#[utoipa::path(post, path = "/devices/{endpoint}/observe", tag = "commands", operation_id = "observe_resource",
    request_body = ObserveResource,
    params(("endpoint" = String, Path, description = "The device's name"),
           ("idempotency-key" = Option<String>, Header, min_length = 1, max_length = 128,
        description = "Makes the request safe to repeat")),
    security(("token" = ["operate"])), responses((status = 202, description = "The command", body = Command)))]
async fn observe(
    State(fleet): State<Fleet>,
    who: Caller<need::Operate>,
    Segments(endpoint): Segments<EndpointName>,
    body: Body<ObserveResource>,
) -> Reply<Accepted> {
    who.account.device(&endpoint).await?;
    let (kind, now) = (CommandKind::Observe, fleet.clock.now());
    let path = allowed(kind, &body.value.path)?.to_string();
    let deadline = until("duration_s", (body.value.duration_s, OBSERVATION_S, LONGEST_OBSERVATION_S), now)?;
    let wanted = NewCommand { kind, path: &path, argument: None, deadline };
    accept(&who.account, (&endpoint, &wanted), body.key.as_ref(), now).await
}

/// The commands of a device, the newest first; those that have ended are kept for 30 days.
#[utoipa::path(get, path = "/devices/{endpoint}/commands", tag = "commands", operation_id = "list_commands",
    params(("endpoint" = String, Path, description = "The device's name"), PageQuery),
    security(("token" = ["read"])), responses((status = 200, description = "A page of commands", body = forms::CommandPage)))]
async fn list(
    State(fleet): State<Fleet>,
    who: Caller<need::Read>,
    Segments(endpoint): Segments<EndpointName>,
    Parameters(query): Parameters<PageQuery>,
) -> Reply<Json<Page<Command>>> {
    let paging = Paging::read(&query)?;
    let before = Some(paging.after_number()?).filter(|number| *number > 0);
    let (device, now) = (who.account.device(&endpoint).await?, fleet.clock.now());
    let rows = who.account.commands_before(&endpoint, before, paging.rows()).await?;
    Ok(Json(paging.try_page(rows, |row| row.number.to_string(), |row| view(row, &device, now))?))
}

/// One command of a device. With `wait_s` the answer comes when it has ended, or after that time.
#[utoipa::path(get, path = "/devices/{endpoint}/commands/{id}", tag = "commands", operation_id = "show_command",
    params(("endpoint" = String, Path, description = "The device's name"),
           ("id" = String, Path, description = "The command's id"), CommandQuery),
    security(("token" = ["read"])), responses((status = 200, description = "The command", body = Command)))]
async fn show(
    State(fleet): State<Fleet>,
    who: Caller<need::Read>,
    Segments((endpoint, id)): Segments<(EndpointName, String)>,
    Parameters(query): Parameters<CommandQuery>,
) -> Reply<Json<Command>> {
    let number = number(&id)?;
    let mut waiter = Waiter::begin(&fleet, (who.account.name(), &endpoint), query.wait_s)?;
    let row = loop {
        let row = who.account.command(&endpoint, number).await?;
        if row.state.is_end() || !waiter.changed().await {
            break row;
        }
    };
    let device = who.account.device(&endpoint).await?;
    Ok(Json(view(row, &device, fleet.clock.now())?))
}

/// Takes a command back that the device has not heard of, or ends an observation.
#[utoipa::path(delete, path = "/devices/{endpoint}/commands/{id}", tag = "commands", operation_id = "cancel_command",
    params(("endpoint" = String, Path, description = "The device's name"),
           ("id" = String, Path, description = "The command's id")),
    security(("token" = ["operate"])), responses((status = 200, description = "The command", body = Command)))]
async fn cancel(
    State(fleet): State<Fleet>,
    who: Caller<need::Operate>,
    Segments((endpoint, id)): Segments<(EndpointName, String)>,
) -> Reply<Json<Command>> {
    let now = fleet.clock.now();
    let row = who.account.cancel_command(&endpoint, number(&id)?, now).await?;
    let device = who.account.device(&endpoint).await?;
    Ok(Json(view(row, &device, now)?))
}

/// What an observation has brought, the oldest first. With `wait_s` the answer comes when there is something after `after`, when the
/// observation has ended, or after that time.
#[utoipa::path(get, path = "/devices/{endpoint}/commands/{id}/values", tag = "commands", operation_id = "list_command_values",
    params(("endpoint" = String, Path, description = "The device's name"),
           ("id" = String, Path, description = "The command's id"), CommandValuesQuery),
    security(("token" = ["read"])), responses((status = 200, description = "Values", body = Observed)))]
async fn values_of(
    State(fleet): State<Fleet>,
    who: Caller<need::Read>,
    Segments((endpoint, id)): Segments<(EndpointName, String)>,
    Parameters(query): Parameters<CommandValuesQuery>,
) -> Reply<Json<Observed>> {
    let (number, after) = (number(&id)?, query.after.unwrap_or_default());
    let mut waiter = Waiter::begin(&fleet, (who.account.name(), &endpoint), query.wait_s)?;
    let most = u32::try_from(MAX_VALUES).unwrap_or(u32::MAX);
    loop {
        // The state first: after an end nothing more comes.
        let row = who.account.command(&endpoint, number).await?;
        let rows = who.account.observed_after(number, after, most).await?;
        if rows.is_empty() && !row.state.is_end() && waiter.changed().await {
            continue;
        }
        let item = |row: CommandValueRow| -> Reply<ObservedValues> {
            let values = order::read_back(&row.value, ("command_values", "value"))?;
            Ok(ObservedValues { number: row.number, time: row.time, values })
        };
        return Ok(Json(Observed { state: row.state, items: rows.into_iter().map(item).collect::<Reply<_>>()? }));
    }
}
