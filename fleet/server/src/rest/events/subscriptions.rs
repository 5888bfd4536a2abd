//! `/subscriptions`: independent streams of events, sent to webhooks or read by somebody. Nothing is sent here; `deliveries` does that.

use axum::{
    Json,
    extract::State,
    http::{HeaderName, StatusCode},
};
use fleet_api::{
    AcknowledgeEvents, ChangeSubscription, CreateSubscription, CreatedSubscription, DeadLetter, Page, PageQuery,
    ReplayEvents, Subscription, SubscriptionEvents, SubscriptionEventsQuery, forms,
};
use fleet_store::{
    AccountScope, DeadLetterRow, EventKinds, EventRow, EventSelection, NewSubscription, SubscriptionChange,
    SubscriptionRow,
};
use protocol_types::{GroupName, UnixSeconds};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    deliveries::{MAIL_SCHEME, WebhookSecret, is_mail_address},
    fleet::Fleet,
    outgoing::{AddressPolicy, Target, TargetError},
    rest::{
        Refusal, Reply,
        body::{Body, IfMatch, Parameters, Segments, etag, titled},
        caller::{Caller, need},
        events,
        groups::filters,
        paging::Paging,
    },
};

type Tagged = ([(HeaderName, String); 1], Json<Subscription>);

/// Most dead letters that one request asks for.
const MAX_DEAD_LETTERS: usize = 500;
/// How long a former secret signs beside the new one, in seconds: time to bring the new one to every receiver.
const FORMER_SECRET_S: u64 = 24 * 60 * 60;

pub(crate) fn router() -> OpenApiRouter<Fleet> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(show, change, delete))
        .routes(routes!(rotate_secret))
        .routes(routes!(read_events))
        .routes(routes!(acknowledge))
        .routes(routes!(dead_letters))
        .routes(routes!(replay))
}

fn kinds(types: Vec<String>) -> Reply<EventKinds> {
    EventKinds::new(types).map_err(|error| Refusal::value("types", error.to_string()))
}

/// The address of a webhook, if the service may send something there.
async fn target(fleet: &Fleet, text: &str) -> Reply<String> {
    let wrong = |error: TargetError| Refusal::value("webhook", error.to_string());
    let target = Target::parse(text).map_err(wrong)?;
    AddressPolicy::new("webhooks.allow", &fleet.config.webhooks.allow).check(&target).await.map_err(wrong)?;
    Ok(target.url.into())
}

/// The address of a mailbox, if the service can send e-mail.
fn mailbox(fleet: &Fleet, text: &str) -> Reply<String> {
    if fleet.config.mail.is_none() {
        let detail = "this service has no mail server; the setting `mail.server` names one";
        return Err(Refusal::value("mail", detail));
    }
    if !is_mail_address(text) {
        return Err(Refusal::value("mail", "this is no address of a mailbox, as in `ops@example.com`"));
    }
    Ok(format!("{MAIL_SCHEME}{text}"))
}

/// Where events are to be sent, if anywhere.
async fn place(fleet: &Fleet, webhook: Option<&str>, mail: Option<&str>) -> Reply<Option<String>> {
    match (webhook, mail) {
        (Some(_), Some(_)) => Err(Refusal::value("mail", "a subscription is sent to a webhook or to a mailbox")),
        (Some(text), None) => target(fleet, text).await.map(Some),
        (None, Some(text)) => mailbox(fleet, text).map(Some),
        (None, None) => Ok(None),
    }
}

fn view(row: SubscriptionRow, last_event: u64) -> Subscription {
    let (mail, webhook) = match row.url {
        Some(url) => match url.strip_prefix(MAIL_SCHEME) {
            Some(mailbox) => (Some(mailbox.to_owned()), None),
            None => (None, Some(url)),
        },
        None => (None, None),
    };
    let waits = row.failures > 0 && row.paused.is_none();
    Subscription {
        name: row.name,
        title: row.title,
        types: row.wanted.kinds.as_slice().to_vec(),
        filter: row.wanted.filter.to_string(),
        webhook,
        mail,
        position: row.position,
        behind: last_event.saturating_sub(row.position),
        paused: row.paused,
        failures: row.failures,
        last_failure: row.last_failure,
        next_try: Some(row.next_try).filter(|_| waits),
        dead_letters: row.dead_letters,
        created: row.created,
        revision: row.revision,
    }
}

async fn shown(account: &AccountScope, row: SubscriptionRow) -> Reply<Subscription> {
    Ok(view(row, account.last_event().await?))
}

async fn tagged(account: &AccountScope, row: SubscriptionRow) -> Reply<Tagged> {
    Ok((etag(row.revision), Json(shown(account, row).await?)))
}

/// The subscriptions of the account.
#[utoipa::path(get, path = "/subscriptions", tag = "subscriptions", operation_id = "list_subscriptions", params(PageQuery),
    security(("token" = ["read"])),
    responses((status = 200, description = "A page of subscriptions", body = forms::SubscriptionPage)))]
async fn list(who: Caller<need::Read>, Parameters(query): Parameters<PageQuery>) -> Reply<Json<Page<Subscription>>> {
    let paging = Paging::read(&query)?;
    let last = who.account.last_event().await?;
    let rows = who.account.subscriptions_after(paging.after(), paging.rows()).await?;
    Ok(Json(paging.page(rows, |row| row.name.to_string(), |row| view(row, last))))
}

/// Makes a subscription. With an address each event is sent there as a CloudEvent in JSON, signed as Standard Webhooks defines it, at
/// least once and in order. Without one, somebody reads it and acknowledges.
#[utoipa::path(post, path = "/subscriptions", tag = "subscriptions", operation_id = "create_subscription",
    request_body = CreateSubscription,
    params(("idempotency-key" = Option<String>, Header, min_length = 1, max_length = 128,
        description = "Makes the request safe to repeat")),
    security(("token" = ["operate"])),
    responses((status = 201, description = "The subscription and its secret", body = CreatedSubscription)))]
async fn create(
    State(fleet): State<Fleet>,
    who: Caller<need::Operate>,
    body: Body<CreateSubscription>,
) -> Reply<(StatusCode, Json<CreatedSubscription>)> {
    let CreateSubscription { name, title, types, filter, webhook, mail, after } = body.value;
    let title = titled(&title)?.to_owned();
    let wanted = EventSelection { kinds: kinds(types)?, filter: filters::read("filter", &filter)? };
    let secret = WebhookSecret::new(&fleet.random)?;
    let url = place(&fleet, webhook.as_deref(), mail.as_deref()).await?;
    let is_signed = webhook.is_some();
    let webhook = url.map(|url| (url, secret.bytes().to_vec()));
    let wish = NewSubscription { name, title, wanted, webhook, after };
    let (row, is_new) = who.account.create_subscription(&wish, body.key.as_ref(), fleet.clock.now()).await?;
    let subscription = shown(&who.account, row).await?;
    let secret = (is_new && is_signed).then(|| secret.reveal());
    Ok((StatusCode::CREATED, Json(CreatedSubscription { subscription, secret })))
}

/// One subscription.
#[utoipa::path(get, path = "/subscriptions/{name}", tag = "subscriptions", operation_id = "show_subscription",
    params(("name" = String, Path, description = "The subscription")),
    security(("token" = ["read"])), responses((status = 200, description = "The subscription", body = Subscription)))]
async fn show(who: Caller<need::Read>, Segments(name): Segments<GroupName>) -> Reply<Tagged> {
    let row = who.account.subscription(&name).await?;
    tagged(&who.account, row).await
}

/// Changes a subscription. Another address, or the end of a pause, makes it try at once.
#[utoipa::path(patch, path = "/subscriptions/{name}", tag = "subscriptions", operation_id = "change_subscription",
    request_body = ChangeSubscription,
    params(("name" = String, Path, description = "The subscription"),
           ("if-match" = String, Header, description = "`ETag` that the subscription must still have, or `*`")),
    security(("token" = ["operate"])), responses((status = 200, description = "The subscription", body = Subscription)))]
async fn change(
    State(fleet): State<Fleet>,
    who: Caller<need::Operate>,
    Segments(name): Segments<GroupName>,
    IfMatch(at): IfMatch,
    body: Body<ChangeSubscription>,
) -> Reply<Tagged> {
    let ChangeSubscription { title, types, filter, webhook, mail, paused } = body.value;
    let url = place(&fleet, webhook.as_deref(), mail.as_deref()).await?;
    let change = SubscriptionChange {
        title: title.as_deref().map(titled).transpose()?.map(str::to_owned),
        kinds: types.map(kinds).transpose()?,
        filter: filter.as_deref().map(|text| filters::read("filter", text)).transpose()?,
        url,
        paused,
    };
    let row = who.account.change_subscription(&name, &change, at, fleet.clock.now()).await?;
    tagged(&who.account, row).await
}

/// Forgets a subscription, its position and its dead letters.
#[utoipa::path(delete, path = "/subscriptions/{name}", tag = "subscriptions", operation_id = "delete_subscription",
    params(("name" = String, Path, description = "The subscription"),
           ("if-match" = String, Header, description = "`ETag` that the subscription must still have, or `*`")),
    security(("token" = ["operate"])), responses((status = 204, description = "It is gone")))]
async fn delete(
    State(fleet): State<Fleet>,
    who: Caller<need::Operate>,
    Segments(name): Segments<GroupName>,
    IfMatch(at): IfMatch,
) -> Reply<StatusCode> {
    who.account.delete_subscription(&name, at, fleet.clock.now()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Gives a webhook another secret. The one that it had signs, too, for a day.
#[utoipa::path(post, path = "/subscriptions/{name}/rotate-secret", tag = "subscriptions",
    operation_id = "rotate_subscription_secret",
    params(("name" = String, Path, description = "The subscription")), security(("token" = ["operate"])),
    responses((status = 200, description = "The subscription and its new secret", body = CreatedSubscription)))]
async fn rotate_secret(
    State(fleet): State<Fleet>,
    who: Caller<need::Operate>,
    Segments(name): Segments<GroupName>,
) -> Reply<Json<CreatedSubscription>> {
    let (secret, now) = (WebhookSecret::new(&fleet.random)?, fleet.clock.now());
    let former_until = UnixSeconds(now.0.saturating_add(FORMER_SECRET_S));
    let row = who.account.rotate_subscription_secret(&name, secret.bytes(), former_until, now).await?;
    let subscription = shown(&who.account, row).await?;
    Ok(Json(CreatedSubscription { subscription, secret: Some(secret.reveal()) }))
}

/// The events of a subscription after its position. The position stays until they are acknowledged.
#[utoipa::path(get, path = "/subscriptions/{name}/events", tag = "subscriptions", operation_id = "read_subscription",
    params(("name" = String, Path, description = "The subscription"), SubscriptionEventsQuery),
    security(("token" = ["read"])), responses((status = 200, description = "Events", body = SubscriptionEvents)))]
async fn read_events(
    State(fleet): State<Fleet>,
    who: Caller<need::Read>,
    Segments(name): Segments<GroupName>,
    Parameters(query): Parameters<SubscriptionEventsQuery>,
) -> Reply<Json<SubscriptionEvents>> {
    let limit = Paging::limit(query.limit)?;
    let row = who.account.subscription(&name).await?;
    let found = who.account.selected_events(&row.wanted, row.position, limit, fleet.clock.now()).await?;
    let items = found.events.into_iter().map(|event| events::view(&who.account, event)).collect();
    Ok(Json(SubscriptionEvents { items, through: found.through, more: found.more }))
}

/// Says how far the events of a subscription without a webhook were dealt with. It never goes back; `replay` does.
#[utoipa::path(post, path = "/subscriptions/{name}/acknowledge", tag = "subscriptions", operation_id = "acknowledge_events",
    request_body = AcknowledgeEvents, params(("name" = String, Path, description = "The subscription")),
    security(("token" = ["operate"])), responses((status = 200, description = "The subscription", body = Subscription)))]
async fn acknowledge(
    who: Caller<need::Operate>,
    Segments(name): Segments<GroupName>,
    body: Body<AcknowledgeEvents>,
) -> Reply<Tagged> {
    let row = who.account.acknowledge_events(&name, body.value.position).await?;
    tagged(&who.account, row).await
}

/// The events of a subscription that were tried as often as one is, and not accepted.
#[utoipa::path(get, path = "/subscriptions/{name}/dead-letters", tag = "subscriptions", operation_id = "list_dead_letters",
    params(("name" = String, Path, description = "The subscription"), PageQuery), security(("token" = ["read"])),
    responses((status = 200, description = "A page of dead letters", body = forms::DeadLetterPage)))]
async fn dead_letters(
    who: Caller<need::Read>,
    Segments(name): Segments<GroupName>,
    Parameters(query): Parameters<PageQuery>,
) -> Reply<Json<Page<DeadLetter>>> {
    let paging = Paging::read(&query)?;
    let after = paging.after_number()?;
    who.account.subscription(&name).await?;
    let rows = who.account.dead_letters_after(&name, false, after, paging.rows()).await?;
    let letter = |(letter, event): (DeadLetterRow, EventRow)| DeadLetter {
        event: events::view(&who.account, event),
        tries: letter.tries,
        reason: letter.reason,
        since: letter.since,
        asked: letter.asked,
    };
    Ok(Json(paging.page(rows, |(letter, _)| letter.event.to_string(), letter)))
}

/// Sends events once more: everything after one, dead letters, or both.
#[utoipa::path(post, path = "/subscriptions/{name}/replay", tag = "subscriptions", operation_id = "replay_events",
    request_body = ReplayEvents, params(("name" = String, Path, description = "The subscription")),
    security(("token" = ["operate"])), responses((status = 200, description = "The subscription", body = Subscription)))]
async fn replay(
    State(fleet): State<Fleet>,
    who: Caller<need::Operate>,
    Segments(name): Segments<GroupName>,
    body: Body<ReplayEvents>,
) -> Reply<Tagged> {
    let ReplayEvents { after, dead_letters } = body.value;
    who.account.subscription(&name).await?;
    if after.is_none() && dead_letters.is_empty() {
        return Err(Refusal::value("after", "name a position, or dead letters"));
    }
    if dead_letters.len() > MAX_DEAD_LETTERS {
        let detail = format!("at most {MAX_DEAD_LETTERS} dead letters can be asked for at once");
        return Err(Refusal::value("dead_letters", detail));
    }
    let row = who.account.replay_events(&name, (after, &dead_letters), fleet.clock.now()).await?;
    tagged(&who.account, row).await
}
