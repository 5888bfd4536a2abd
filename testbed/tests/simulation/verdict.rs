//! What must hold at the end, when everything had time to come to its end: what the service says of each rollout and device is held
//! against what the devices know.

use fleet_store::{AccountScope, DesiredRelease};
use protocol_types::{Digest, Phase, RolloutId, Standing};
use serde_json::Value;

use crate::{account::Account, device::Body, ledger::Rule, scenario::Fleet};

/// States in which a device of a rollout has come to an end.
const ENDS: [&str; 6] = ["succeeded", "failed", "rolled_back", "skipped", "superseded", "cancelled"];

/// Judges everything.
pub(crate) async fn judge(fleet: &Fleet) {
    for account in &fleet.accounts {
        let store = fleet.service.embedded().expect("the service runs at the end").store().account(account.name());
        let rollouts = account.operator().get("/rollouts?limit=100").await;
        for rollout in rollouts["items"].as_array().into_iter().flatten() {
            Box::pin(judge_rollout(fleet, account, &store, rollout)).await;
        }
        for body in fleet.bodies.iter().filter(|it| it.account().name() == account.name()) {
            Box::pin(judge_device(fleet, body, &store)).await;
        }
    }
}

/// Whether a device takes part, by the service's word.
async fn is_active(store: &AccountScope, body: &Body) -> bool {
    store.device(body.endpoint()).await.is_ok_and(|device| device.standing == Standing::Active)
}

async fn judge_rollout(fleet: &Fleet, account: &Account, store: &AccountScope, rollout: &Value) {
    let (id, state) = (rollout["id"].as_str().unwrap_or_default(), rollout["state"].as_str().unwrap_or_default());
    let name = format!("{} {id} ({} of {})", account.name(), state, rollout["release"]);
    fleet.ledger.note(&format!("at the end {name} {}", rollout["devices"]));
    let digest: Digest = serde_json::from_value(rollout["digest"].clone()).expect("a digest");
    let devices = account.operator().get(&format!("/rollouts/{id}/devices?limit=500")).await;
    let mut open = 0;
    for device in devices["items"].as_array().into_iter().flatten() {
        let (endpoint, at) = (&device["endpoint"], device["state"].as_str().unwrap_or_default());
        let body = fleet
            .bodies
            .iter()
            .find(|it| it.account().name() == account.name() && endpoint.as_str() == Some(it.endpoint().as_str()));
        let Some(body) = body else {
            fleet.broken(Rule::NothingForeign, format!("{name} has {endpoint}, which is no device of the account"));
            continue;
        };
        if at == "succeeded" && !fleet.ledger.has_confirmed(body.place(), digest) {
            fleet.broken(Rule::NoLostUpdate, format!("{name}: {} succeeded without having confirmed it", body.name()));
        }
        if ENDS.contains(&at) {
            continue;
        }
        open += 1;
        // Whoever was held back, or has no power, waits for a person.
        let held = matches!(device["waiting_for"].as_str(), Some("failures" | "quarantined"));
        if state != "paused" && !held && body.is_on() && is_active(store, body).await {
            let text = format!("{name}: {} is still {at}, waiting for {}", body.name(), device["waiting_for"]);
            fleet.broken(Rule::NoStuckRollout, text);
        }
    }
    let listed = |body: &Body| {
        let mut devices = devices["items"].as_array().into_iter().flatten();
        devices.any(|device| device["endpoint"].as_str() == Some(body.endpoint().as_str()))
    };
    if state == "running" && rollout["audience_closed"] != Value::Bool(true) {
        for body in fleet.bodies.iter().filter(|it| it.account().name() == account.name()) {
            if !listed(body) && body.is_on() && is_active(store, body).await {
                let text = format!("{name}: {} was never taken into its audience", body.name());
                fleet.broken(Rule::NoStuckRollout, text);
            }
        }
    }
    if state == "running" && rollout["audience_closed"] == Value::Bool(true) && open == 0 {
        fleet.broken(Rule::NoStuckRollout, format!("{name} has nothing left to do and does not finish"));
    }
}

/// A try as the service names it towards devices.
fn attempt(release: &DesiredRelease) -> Option<RolloutId> {
    match release.attempt {
        0 | 1 => Some(release.rollout.clone()),
        later => RolloutId::new(format!("{}_{later}", release.rollout)).ok(),
    }
}

async fn judge_device(fleet: &Fleet, body: &Body, store: &AccountScope) {
    if !body.is_on() || !is_active(store, body).await {
        fleet.ledger.of(body.place(), "takes no part at the end");
        return;
    }
    let broken = |what: String| fleet.broken(Rule::NoLostUpdate, format!("{} {what}", body.name()));
    let wish = store.desired_release(body.endpoint()).await.expect("the store answers");
    let wanted = wish.and_then(|wish| wish.release).map(|release| (release.digest, attempt(&release)));
    if wanted != body.order() {
        return broken(format!("is to run {wanted:?}, and its agent knows {:?}", body.order()));
    }
    let Some(status) = fleet.ledger.status(body.place()) else { return broken("has never said anything".to_owned()) };
    if let Some((digest, attempt)) = wanted {
        let is_over = matches!(status.phase, Phase::Succeeded | Phase::Failed | Phase::RolledBack);
        if !is_over || status.wanted != Some(digest) || status.rollout != attempt {
            return broken(format!("took {attempt:?} and is at {} of {:?}", status.phase, status.rollout));
        }
    }
    let report = store.device_report(body.endpoint()).await.expect("the store answers").map(|(said, _)| said);
    let told = report.as_ref().map(|said| (said.phase, said.running_digest));
    if told != Some((status.phase, status.running.digest)) {
        let is = (status.phase, status.running.digest);
        broken(format!("is {is:?}, and the service knows {told:?}"));
    }
}
