//! `mbl rollout why` and `mbl device why`: why a device is not where a rollout wants it, and what to do about it.

use fleet_api::{Client, DeviceWhy, PageQuery, WhyNot};
use protocol_types::{EndpointName, RolloutId};

use crate::{
    device,
    rollout::{brought, missing},
    session::Session,
    watch::{self, WatchArgs},
    words::time,
};

/// One answer: what decides, in a line; then what it means and what to do.
fn answer(who: &str, why: &WhyNot) -> String {
    let mut text = format!("{who} {}", why.rule);
    if let Some(next) = why.next_attempt {
        text += &format!(", next try {}", time(next));
    }
    let evidence: Vec<String> = why.evidence.iter().map(|(name, value)| format!("{name}={value}")).collect();
    format!("{text}\n  {}\n  {}\n  to do: {}", why.text, evidence.join(" "), why.hint)
}

pub(crate) async fn of_rollout(client: &Client, id: &RolloutId, session: &Session) -> anyhow::Result<()> {
    let mut query = PageQuery::default();
    let mut found = false;
    loop {
        let page = client.rollout_why(id, &query).await.map_err(|error| missing(error, id))?;
        for why in &page.items {
            found = true;
            session.printer.line(why, answer(why.endpoint.as_str(), why))?;
        }
        match page.next {
            Some(next) => query.cursor = Some(next),
            None => break,
        }
    }
    if !found {
        session.printer.say(format_args!("every device of rollout {id} runs its release"));
    }
    Ok(())
}

pub(crate) async fn of_device(
    client: &Client,
    endpoint: &EndpointName,
    watching: WatchArgs,
    session: &Session,
) -> anyhow::Result<()> {
    if watching.watch {
        let look = async || client.device_why(endpoint).await;
        return watch::one(watching, session, look, |error| device::missing(error, endpoint), all).await;
    }
    let why = client.device_why(endpoint).await.map_err(|error| device::missing(error, endpoint))?;
    session.printer.data(&why, all(&why))
}

pub(crate) async fn forgive(client: &Client, endpoint: &EndpointName, session: &Session) -> anyhow::Result<()> {
    let why = client.forgive_device(endpoint).await.map_err(|error| device::missing(error, endpoint))?;
    session.printer.data(&why, all(&why))
}

fn all(why: &DeviceWhy) -> String {
    let DeviceWhy { endpoint, running, reasons } = why;
    let running = running.as_deref().unwrap_or("nothing that it told of");
    let mut text = format!("{endpoint} runs {running}");
    if reasons.is_empty() {
        text += ", and no rollout wants anything else";
    }
    for why in reasons {
        let brought = brought(why.release.as_ref(), why.configuration.as_ref());
        text += &format!("\n{}", answer(&format!("{} {brought}", why.rollout), why));
    }
    text
}
