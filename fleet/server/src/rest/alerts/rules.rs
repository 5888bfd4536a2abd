//! `/alert-rules`: what is to raise alerts. Nothing is looked for here; `alerts` does that.

use axum::{
    Json,
    extract::State,
    http::{HeaderName, StatusCode},
};
use fleet_api::{AlertCondition, AlertRule, ChangeAlertRule, CreateAlertRule, Page, PageQuery, forms};
use fleet_store::{AlertRuleChange, AlertRuleRow, EventKinds, NewAlertRule, Patience, Side};
use protocol_types::GroupName;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    fleet::Fleet,
    rest::{
        Refusal, Reply,
        body::{Body, IfMatch, Parameters, Segments, etag, titled},
        caller::{Caller, need},
        groups::filters,
        paging::Paging,
    },
};

type Tagged = ([(HeaderName, String); 1], Json<AlertRule>);

/// Longest time of a rule: thirty days.
const LONGEST_S: u64 = 30 * 24 * 60 * 60;
/// Longest time over which events are counted: a week.
const LONGEST_WINDOW_S: u64 = 7 * 24 * 60 * 60;
const MOST_EVENTS: u32 = 1_000_000;

pub(crate) fn router() -> OpenApiRouter<Fleet> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(show, change, delete))
}

/// Seconds in a field that are not more than a rule may ask for.
fn seconds(field: &str, seconds: u64) -> Reply<u64> {
    if seconds > LONGEST_S {
        return Err(Refusal::value(field, format!("at most {LONGEST_S} s can be asked for")));
    }
    Ok(seconds)
}

fn condition(wanted: AlertCondition) -> Reply<fleet_store::AlertCondition> {
    let wrong = |detail: String| Err(Refusal::value("condition", detail));
    match wanted {
        AlertCondition::Absence {} => Ok(fleet_store::AlertCondition::Absence {}),
        AlertCondition::State { filter } => {
            let filter = filters::read("condition", &filter)?;
            if filter.as_str().is_empty() {
                return wrong("an empty filter is true for every device".to_owned());
            }
            Ok(fleet_store::AlertCondition::State { filter })
        }
        AlertCondition::Rate { types, events, clear_below, within_s, whole_account } => {
            let kinds = EventKinds::new(types).map_err(|error| Refusal::value("condition", error.to_string()))?;
            // What alerts raise must not raise alerts.
            if kinds.as_slice().is_empty() || kinds.as_slice().iter().any(|kind| kind.starts_with("alert")) {
                return wrong("name the kinds of events that count; those of alerts cannot".to_owned());
            }
            if !(1..=MOST_EVENTS).contains(&events) {
                return wrong(format!("1 to {MOST_EVENTS} events can be asked for"));
            }
            if !(1..=LONGEST_WINDOW_S).contains(&within_s) {
                return wrong(format!("events are counted within 1 to {LONGEST_WINDOW_S} s"));
            }
            let clear_below = clear_below.unwrap_or(events);
            if !(1..=events).contains(&clear_below) {
                return wrong("`clear_below` is 1 at least and not more than `events`".to_owned());
            }
            let kinds = kinds.as_slice().to_vec();
            Ok(fleet_store::AlertCondition::Rate { kinds, events, clear_below, within_s, whole_account })
        }
        AlertCondition::Threshold { metric, above, below, clear, fresh_s } => {
            let (side, raise) = match (above, below) {
                (Some(above), None) => (Side::Above, above),
                (None, Some(below)) => (Side::Below, below),
                (Some(_), Some(_)) | (None, None) => return wrong("name either `above` or `below`".to_owned()),
            };
            let steps = (metric.steps(raise), metric.steps(clear.unwrap_or(raise)));
            let (Some(raise), Some(clear)) = steps else {
                return wrong(format!("there is no such value of `{metric}`"));
            };
            let is_good_side = match side {
                Side::Above => clear <= raise,
                Side::Below => clear >= raise,
            };
            if !is_good_side {
                return wrong("`clear` is on the good side of the threshold".to_owned());
            }
            if !(60..=LONGEST_S).contains(&fresh_s) {
                return wrong(format!("`fresh_s` is 60 to {LONGEST_S} s"));
            }
            Ok(fleet_store::AlertCondition::Threshold { metric, side, raise, clear, fresh_s })
        }
    }
}

fn shown(condition: fleet_store::AlertCondition) -> AlertCondition {
    match condition {
        fleet_store::AlertCondition::Absence {} => AlertCondition::Absence {},
        fleet_store::AlertCondition::State { filter } => AlertCondition::State { filter: filter.to_string() },
        fleet_store::AlertCondition::Rate { kinds, events, clear_below, within_s, whole_account } => {
            AlertCondition::Rate { types: kinds, events, clear_below: Some(clear_below), within_s, whole_account }
        }
        fleet_store::AlertCondition::Threshold { metric, side, raise, clear, fresh_s } => {
            let raise = metric.real(raise);
            let (above, below) = match side {
                Side::Above => (Some(raise), None),
                Side::Below => (None, Some(raise)),
            };
            AlertCondition::Threshold { metric, above, below, clear: Some(metric.real(clear)), fresh_s }
        }
    }
}

fn view(row: AlertRuleRow) -> AlertRule {
    AlertRule {
        name: row.name,
        title: row.title,
        severity: row.severity,
        filter: row.filter.to_string(),
        condition: shown(row.condition),
        for_s: row.patience.for_s,
        clear_for_s: row.patience.clear_for_s,
        remind_s: row.patience.remind_s,
        enabled: row.enabled,
        raised: row.raised,
        is_full: row.is_full,
        created: row.created,
        revision: row.revision,
    }
}

fn tagged(row: AlertRuleRow) -> Tagged {
    (etag(row.revision), Json(view(row)))
}

/// The rules of the account.
#[utoipa::path(get, path = "/alert-rules", tag = "alerts", operation_id = "list_alert_rules", params(PageQuery),
    security(("token" = ["read"])), responses((status = 200, description = "A page of rules", body = forms::AlertRulePage)))]
async fn list(who: Caller<need::Read>, Parameters(query): Parameters<PageQuery>) -> Reply<Json<Page<AlertRule>>> {
    let paging = Paging::read(&query)?;
    let rows = who.account.alert_rules_after(paging.after(), paging.rows()).await?;
    Ok(Json(paging.page(rows, |row| row.name.to_string(), view)))
}

/// Makes a rule. It looks every few seconds.
#[utoipa::path(post, path = "/alert-rules", tag = "alerts", operation_id = "create_alert_rule",
    request_body = CreateAlertRule,
    params(("idempotency-key" = Option<String>, Header, min_length = 1, max_length = 128,
        description = "Makes the request safe to repeat")),
    security(("token" = ["operate"])), responses((status = 201, description = "The rule", body = AlertRule)))]
async fn create(
    State(fleet): State<Fleet>,
    who: Caller<need::Operate>,
    body: Body<CreateAlertRule>,
) -> Reply<(StatusCode, Tagged)> {
    let wish = body.value;
    let wanted = NewAlertRule {
        name: wish.name,
        title: titled(&wish.title)?.to_owned(),
        severity: wish.severity,
        filter: filters::read("filter", &wish.filter)?,
        condition: condition(wish.condition)?,
        patience: Patience {
            for_s: seconds("for_s", wish.for_s)?,
            clear_for_s: seconds("clear_for_s", wish.clear_for_s)?,
            remind_s: seconds("remind_s", wish.remind_s)?,
        },
    };
    let row = who.account.create_alert_rule(&wanted, body.key.as_ref(), fleet.clock.now()).await?;
    Ok((StatusCode::CREATED, tagged(row)))
}

/// One rule.
#[utoipa::path(get, path = "/alert-rules/{name}", tag = "alerts", operation_id = "show_alert_rule",
    params(("name" = String, Path, description = "The rule")),
    security(("token" = ["read"])), responses((status = 200, description = "The rule", body = AlertRule)))]
async fn show(who: Caller<need::Read>, Segments(name): Segments<GroupName>) -> Reply<Tagged> {
    Ok(tagged(who.account.alert_rule(&name).await?))
}

/// Changes a rule. Its open alerts stay open until the rule as it is now ends them; those of a rule that is turned off are resolved.
#[utoipa::path(patch, path = "/alert-rules/{name}", tag = "alerts", operation_id = "change_alert_rule",
    request_body = ChangeAlertRule,
    params(("name" = String, Path, description = "The rule"),
           ("if-match" = String, Header, description = "`ETag` that the rule must still have, or `*`")),
    security(("token" = ["operate"])), responses((status = 200, description = "The rule", body = AlertRule)))]
async fn change(
    State(fleet): State<Fleet>,
    who: Caller<need::Operate>,
    Segments(name): Segments<GroupName>,
    IfMatch(at): IfMatch,
    body: Body<ChangeAlertRule>,
) -> Reply<Tagged> {
    let wish = body.value;
    let change = AlertRuleChange {
        title: wish.title.as_deref().map(titled).transpose()?.map(str::to_owned),
        severity: wish.severity,
        filter: wish.filter.as_deref().map(|text| filters::read("filter", text)).transpose()?,
        condition: wish.condition.map(condition).transpose()?,
        for_s: wish.for_s.map(|s| seconds("for_s", s)).transpose()?,
        clear_for_s: wish.clear_for_s.map(|s| seconds("clear_for_s", s)).transpose()?,
        remind_s: wish.remind_s.map(|s| seconds("remind_s", s)).transpose()?,
        enabled: wish.enabled,
    };
    Ok(tagged(who.account.change_alert_rule(&name, &change, at, fleet.clock.now()).await?))
}

/// Forgets a rule and resolves its alerts.
#[utoipa::path(delete, path = "/alert-rules/{name}", tag = "alerts", operation_id = "delete_alert_rule",
    params(("name" = String, Path, description = "The rule"),
           ("if-match" = String, Header, description = "`ETag` that the rule must still have, or `*`")),
    security(("token" = ["operate"])), responses((status = 204, description = "It is gone")))]
async fn delete(
    State(fleet): State<Fleet>,
    who: Caller<need::Operate>,
    Segments(name): Segments<GroupName>,
    IfMatch(at): IfMatch,
) -> Reply<StatusCode> {
    who.account.delete_alert_rule(&name, at, fleet.clock.now()).await?;
    Ok(StatusCode::NO_CONTENT)
}
