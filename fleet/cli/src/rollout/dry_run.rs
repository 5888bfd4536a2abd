//! `mbl rollout start --dry-run`: what the rollout would do if it were started now.

use fleet_api::{Client, CreateRollout, DryRun};

use crate::{
    session::{Session, service_error},
    words::time,
};

pub(crate) async fn show(client: &Client, wanted: &CreateRollout, session: &Session) -> anyhow::Result<()> {
    let found = client.dry_run(wanted).await.map_err(service_error)?;
    session.printer.data(&found, text(&found))
}

fn text(found: &DryRun) -> String {
    let DryRun { devices, already_running, ready, at_once, .. } = found;
    let mut text = format!(
        "{devices} devices: {already_running} run it already, {ready} are ready, {at_once} would be offered it at once\n\
         at most {} bytes a device, {} in all",
        found.bytes_per_device, found.bytes
    );
    if found.waves.len() > 1 {
        let waves: Vec<String> = found.waves.iter().map(ToString::to_string).collect();
        text += &format!("\nwaves of {} devices", waves.join(", "));
    }
    if let Some(seconds) = found.offers_take_s {
        text += &format!("\nat this rate all have been offered it after {seconds} s at the earliest");
    }
    for held in &found.held {
        text += &format!("\n{} held by {}, {} for one: {}", held.devices, held.rule, held.example, held.text);
        if let Some(next) = held.next_attempt {
            text += &format!("; next {}", time(next));
        }
        text += &format!("\n  to do: {}", held.hint);
    }
    text
}
