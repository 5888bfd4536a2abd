//! `/device-edits`: the same edit to many devices, as a long operation.

use axum::{
    Json,
    extract::State,
    http::{HeaderName, StatusCode, header},
};
use fleet_api::{BASE_PATH, ChangeDevice, DeviceEdit, EditDevices, Operation};
use fleet_store::OperationRequest;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    fleet::Fleet,
    rest::{
        Refusal, Reply,
        body::Body,
        caller::{Caller, need},
        devices,
        groups::filters,
        operations,
    },
};

pub(crate) fn router() -> OpenApiRouter<Fleet> {
    OpenApiRouter::new().routes(routes!(create))
}

/// The answer to a request that began an operation.
pub(crate) type Begun = (StatusCode, [(HeaderName, String); 1], Json<Operation>);

/// Says that an operation has begun and where it is.
pub(crate) fn begun(row: fleet_store::OperationRow) -> Begun {
    let place = format!("{BASE_PATH}/operations/{}", row.id());
    (StatusCode::ACCEPTED, [(header::LOCATION, place)], Json(operations::view(row)))
}

fn check(edit: DeviceEdit) -> Reply<fleet_store::DeviceEdit> {
    Ok(match edit {
        DeviceEdit::Change(change) if change == ChangeDevice::default() => {
            return Err(Refusal::value("edit", "name an attribute, a tag or a note to change"));
        }
        DeviceEdit::Change(change) => fleet_store::DeviceEdit::Change(devices::checked(change)?),
        DeviceEdit::AddToGroup(name) => fleet_store::DeviceEdit::AddToGroup(name),
        DeviceEdit::RemoveFromGroup(name) => fleet_store::DeviceEdit::RemoveFromGroup(name),
        DeviceEdit::Suspend(reason) => fleet_store::DeviceEdit::Suspend(devices::reason(reason)?),
        DeviceEdit::Resume => fleet_store::DeviceEdit::Resume,
        DeviceEdit::Decommission(reason) => fleet_store::DeviceEdit::Decommission(devices::reason(reason)?),
    })
}

/// Does the same to every device that a filter is true for when its turn comes, in the order of their names. The answer is the
/// operation that does it.
#[utoipa::path(post, path = "/device-edits", tag = "operations", operation_id = "edit_devices", request_body = EditDevices,
    params(("idempotency-key" = Option<String>, Header, min_length = 1, max_length = 128,
        description = "Makes the request safe to repeat")),
    security(("token" = ["operate"])), responses((status = 202, description = "The operation", body = Operation)))]
async fn create(State(fleet): State<Fleet>, who: Caller<need::Operate>, body: Body<EditDevices>) -> Reply<Begun> {
    let EditDevices { filter, edit } = body.value;
    let filter = filters::read("filter", &filter)?;
    if let DeviceEdit::AddToGroup(name) | DeviceEdit::RemoveFromGroup(name) = &edit {
        who.account.group(name).await?;
    }
    let now = fleet.clock.now();
    let total = who.account.count_devices(&filter, now).await?;
    let request = OperationRequest::EditDevices { filter, edit: Box::new(check(edit)?) };
    Ok(begun(who.account.create_operation(&request, Some(total), body.key.as_ref(), now).await?))
}
