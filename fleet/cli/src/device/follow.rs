//! `mbl device watch`: shows every change of a device until it is where somebody waits for it.

use std::time::Duration;

use clap::Args;
use fleet_api::{Client, Device, DeviceDetail};
use protocol_types::EndpointName;

use crate::{
    device::{missing, state},
    failure::{Exit, Failure},
    session::Session,
    watch::{Shown, follow, within},
};

#[derive(Debug, Args)]
pub(crate) struct DeviceWatchArgs {
    /// The device
    endpoint: EndpointName,
    /// End when the device runs this version and nothing is under way
    #[arg(long, value_name = "VERSION")]
    until_version: Option<String>,
    /// End with the first change
    #[arg(long, conflicts_with = "until_version")]
    until_change: bool,
    /// Seconds after which to give up
    #[arg(long, value_name = "SECONDS")]
    time_limit: Option<u64>,
}

/// How long between two looks at a watched device.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(crate) async fn run(client: &Client, args: &DeviceWatchArgs, session: &Session) -> anyhow::Result<()> {
    let endpoint = &args.endpoint;
    let (mut shown, mut first) = (Shown::default(), None);
    let look = async || client.device(endpoint).await;
    let explain = |error| missing(error, endpoint);
    let watching = follow(session, LOOK_EVERY, look, explain, |detail: DeviceDetail| {
        let line = state(&detail.device);
        let has_changed = *first.get_or_insert_with(|| line.clone()) != line;
        shown.show(&session.printer, endpoint.as_str(), &detail.device, line)?;
        let is_there = args.until_version.as_deref().is_some_and(|version| settled_at(&detail.device, version));
        Ok((is_there || (args.until_change && has_changed)).then_some(()))
    });
    within(args.time_limit, watching, |seconds| {
        let message = format!("device `{endpoint}` did not get there within {seconds} s");
        Err(Failure::new(Exit::WatchedFailed, message).hint("see what it reports with `mbl device show`").into())
    })
    .await
}

fn settled_at(device: &Device, version: &str) -> bool {
    use protocol_types::Phase::{Failed, Idle, RolledBack, Succeeded};
    device.report.as_ref().is_some_and(|report| {
        report.running_version.as_deref() == Some(version)
            && matches!(report.phase, Idle | Succeeded | Failed | RolledBack)
    })
}
