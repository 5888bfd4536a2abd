//! Asks a directory through the API: pages of filters, members of a dynamic group, counts, and what a rollout over all would do.

use std::time::Instant;

use anyhow::ensure;
use fleet_api::{Audience, Client, CountQuery, CreateGroup, CreateRollout, DeviceQuery, FailureThreshold};
use testbed::meter::{Latencies, Meter};

use crate::{fill::SITES, release::VERSION, say};

/// Questions for a first page.
const PAGES: usize = 1000;
/// Counts and dry runs.
const FEW: usize = 10;
/// Warms the caches before anything counts.
const WARM: usize = 20;

/// Asks the same question many times and says how long the answers took, and how long the service was busy with each.
async fn measure(
    process: u32,
    what: &str,
    (warm, times): (usize, usize),
    ask: impl AsyncFn(usize) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for number in 0..warm {
        ask(number).await?;
    }
    let (mut latencies, meter) = (Latencies::default(), Meter::start(process)?);
    for number in warm..warm + times {
        let begun = Instant::now();
        ask(number).await?;
        latencies.add(begun.elapsed());
    }
    let busy = meter.busy()? * 1000.0 / times as f64;
    say(&format!("{what}: {latencies}; {busy:.1} ms of processor time each"));
    Ok(())
}

/// Asks everything.
pub(crate) async fn ask(client: &Client, process: u32, devices: usize) -> anyhow::Result<()> {
    for (what, filter) in [
        ("attribute.site = \"…\" (one in 200)", "attribute.site = \"site-S\""),
        ("the same and tag = \"fleet\"", "attribute.site = \"site-S\" and tag = \"fleet\""),
        ("the same and os.version < \"1.1.0\"", "attribute.site = \"site-S\" and os.version < \"1.1.0\""),
        ("the same and attribute.rack < 5", "attribute.site = \"site-S\" and attribute.rack < 5"),
    ] {
        let page = async |number: usize| {
            let filter = filter.replace('S', &(number * 37 % SITES).to_string());
            let query = DeviceQuery { limit: Some(100), filter: Some(filter), ..DeviceQuery::default() };
            let page = client.devices(&query).await?;
            ensure!(devices < SITES || !page.items.is_empty() || what.contains("and"), "nothing found");
            Ok(())
        };
        measure(process, &format!("first page of 100, {what}"), (WARM, PAGES), page).await?;
    }
    group(client, process, devices).await?;
    for by in ["os.version", "attribute.site"] {
        for filter in [None, Some("attribute.site = \"site-7\""), Some("tag = \"fleet\"")] {
            let query = CountQuery { by: Some(by.to_owned()), filter: filter.map(ToOwned::to_owned) };
            let count = async |_| {
                ensure!(!client.count_devices(&query).await?.items.is_empty(), "nothing was counted");
                Ok(())
            };
            measure(process, &format!("count by {by} where {}", filter.unwrap_or("any")), (1, FEW), count).await?;
        }
    }
    let mut rollout = CreateRollout::new(VERSION.parse()?, Audience::All);
    rollout.failure_threshold = FailureThreshold::Percent(5);
    let dry_run = async |_| {
        let answer = client.dry_run(&rollout).await?;
        ensure!(answer.devices == u64::try_from(devices)?, "the dry run is over {} devices", answer.devices);
        Ok(())
    };
    measure(process, &format!("dry run of a rollout over all {devices}"), (1, FEW), dry_run).await
}

/// A group by filter, and the first page of its devices.
async fn group(client: &Client, process: u32, devices: usize) -> anyhow::Result<()> {
    let name = "one-site".parse()?;
    let group = CreateGroup {
        name,
        title: String::new(),
        members: Vec::new(),
        filter: Some("attribute.site = \"site-7\"".to_owned()),
        include: Vec::new(),
    };
    // An earlier run may have made it.
    if client.group(&group.name).await.is_err() {
        client.create_group(&group).await?;
    }
    let filter = Some(format!("group = \"{}\"", group.name));
    let query = DeviceQuery { limit: Some(100), filter, ..DeviceQuery::default() };
    let members = async |_| {
        let page = client.devices(&query).await?;
        ensure!(page.items.len() == 100.min(devices / SITES), "{} devices are in the group", page.items.len());
        Ok(())
    };
    measure(process, "first page of 100 devices of a dynamic group of one in 200", (WARM, PAGES), members).await
}
