//! `/groups`: groups of devices, listed, found by a filter, or both.

pub(crate) mod filters;

use axum::{
    Json,
    extract::State,
    http::{HeaderName, StatusCode},
};
use fleet_api::{ChangeGroup, CreateGroup, Group, GroupDetail, GroupMember, Page, PageQuery, forms};
use fleet_store::{Filter, GroupChange, GroupRow};
use protocol_types::{EndpointName, GroupName};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    fleet::Fleet,
    rest::{
        Refusal, Reply,
        body::{Body, IfMatch, Parameters, Segments, etag, titled},
        caller::{Caller, need},
        paging::Paging,
    },
};

/// Members that one request may name.
const MEMBERS: usize = 10_000;
/// Groups that one request may name.
const GROUPS: usize = 100;

type Tagged = ([(HeaderName, String); 1], Json<Group>);

pub(crate) fn router() -> OpenApiRouter<Fleet> {
    OpenApiRouter::new()
        .merge(filters::router())
        .routes(routes!(list, create))
        .routes(routes!(show, change, delete))
        .routes(routes!(members))
}

fn view(row: GroupRow) -> Group {
    let GroupRow { name, title, members, filter, created, revision } = row;
    Group { name, title, members, filter: filter.map(String::from), created, revision }
}

fn tagged(row: GroupRow) -> Tagged {
    (etag(row.revision), Json(view(row)))
}

fn check_groups(field: &str, groups: &[GroupName]) -> Reply<()> {
    if groups.len() > GROUPS {
        return Err(Refusal::value(field, format!("one request names at most {GROUPS} groups")));
    }
    Ok(())
}

fn check(title: Option<&str>, lists: &[(&str, &[EndpointName])]) -> Reply<()> {
    title.map(titled).transpose()?;
    match lists.iter().find(|(_, list)| list.len() > MEMBERS) {
        Some((field, _)) => Err(Refusal::value(field, format!("one request names at most {MEMBERS} devices"))),
        None => Ok(()),
    }
}

/// The groups of the account.
#[utoipa::path(get, path = "/groups", tag = "groups", operation_id = "list_groups", params(PageQuery),
    security(("token" = ["read"])), responses((status = 200, description = "A page of groups", body = forms::GroupPage)))]
async fn list(who: Caller<need::Read>, Parameters(query): Parameters<PageQuery>) -> Reply<Json<Page<Group>>> {
    let paging = Paging::read(&query)?;
    let rows = who.account.groups_after(paging.after(), paging.rows()).await?;
    Ok(Json(paging.page(rows, |row| row.name.to_string(), view)))
}

/// Makes a group.
#[utoipa::path(post, path = "/groups", tag = "groups", operation_id = "create_group", request_body = CreateGroup,
    params(("idempotency-key" = Option<String>, Header, min_length = 1, max_length = 128,
        description = "Makes the request safe to repeat")),
    security(("token" = ["operate"])), responses((status = 201, description = "The group", body = Group)))]
async fn create(
    State(fleet): State<Fleet>,
    who: Caller<need::Operate>,
    body: Body<CreateGroup>,
) -> Reply<(StatusCode, Tagged)> {
    let CreateGroup { name, title, members, filter, include } = body.value;
    check(Some(&title), &[("members", &members)])?;
    check_groups("include", &include)?;
    let first = GroupChange {
        title: Some(title),
        add: members,
        filter: filter.map(|text| filters::read("filter", &text).map(Some)).transpose()?,
        include,
        ..GroupChange::default()
    };
    let row = who.account.create_group(&name, &first, body.key.as_ref(), fleet.clock.now()).await?;
    Ok((StatusCode::CREATED, tagged(row)))
}

/// One group.
#[utoipa::path(get, path = "/groups/{name}", tag = "groups", operation_id = "show_group",
    params(("name" = String, Path, description = "The group")),
    security(("token" = ["read"])), responses((status = 200, description = "The group", body = GroupDetail)))]
async fn show(
    State(fleet): State<Fleet>,
    who: Caller<need::Read>,
    Segments(name): Segments<GroupName>,
) -> Reply<([(HeaderName, String); 1], Json<GroupDetail>)> {
    let row = who.account.group(&name).await?;
    let includes = who.account.group_includes(&name).await?;
    let devices = who.account.count_devices(&Filter::of_group(&name), fleet.clock.now()).await?;
    Ok((etag(row.revision), Json(GroupDetail { group: view(row), includes, devices })))
}

/// Changes a group. Running rollouts to it take new devices in.
#[utoipa::path(patch, path = "/groups/{name}", tag = "groups", operation_id = "change_group", request_body = ChangeGroup,
    params(("name" = String, Path, description = "The group"),
           ("if-match" = String, Header, description = "`ETag` that the group must still have, or `*`")),
    security(("token" = ["operate"])), responses((status = 200, description = "The group", body = Group)))]
async fn change(
    State(fleet): State<Fleet>,
    who: Caller<need::Operate>,
    Segments(name): Segments<GroupName>,
    IfMatch(at): IfMatch,
    body: Body<ChangeGroup>,
) -> Reply<Tagged> {
    let ChangeGroup { title, add, remove, filter, include, exclude } = body.value;
    check(title.as_deref(), &[("add", &add), ("remove", &remove)])?;
    check_groups("include", &include)?;
    check_groups("exclude", &exclude)?;
    let wanted = |text: String| match text.trim() {
        "" => Ok(None),
        text => filters::read("filter", text).map(Some),
    };
    let change = GroupChange { title, add, remove, filter: filter.map(wanted).transpose()?, include, exclude };
    Ok(tagged(who.account.change_group(&name, &change, at, fleet.clock.now()).await?))
}

/// Removes a group; its members remain devices of the account.
#[utoipa::path(delete, path = "/groups/{name}", tag = "groups", operation_id = "delete_group",
    params(("name" = String, Path, description = "The group"),
           ("if-match" = String, Header, description = "`ETag` that the group must still have, or `*`")),
    security(("token" = ["operate"])), responses((status = 204, description = "It is gone")))]
async fn delete(
    State(fleet): State<Fleet>,
    who: Caller<need::Operate>,
    Segments(name): Segments<GroupName>,
    IfMatch(at): IfMatch,
) -> Reply<StatusCode> {
    who.account.delete_group(&name, at, fleet.clock.now()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The listed members of a group. The devices that are in it now are at `/devices?group=`.
#[utoipa::path(get, path = "/groups/{name}/members", tag = "groups", operation_id = "list_group_members",
    params(("name" = String, Path, description = "The group"), PageQuery),
    security(("token" = ["read"])), responses((status = 200, description = "A page of members", body = forms::GroupMemberPage)))]
async fn members(
    who: Caller<need::Read>,
    Segments(name): Segments<GroupName>,
    Parameters(query): Parameters<PageQuery>,
) -> Reply<Json<Page<GroupMember>>> {
    let paging = Paging::read(&query)?;
    let rows = who.account.group_members_after(&name, paging.after(), paging.rows()).await?;
    Ok(Json(paging.page(rows, EndpointName::to_string, |endpoint| GroupMember { endpoint })))
}
