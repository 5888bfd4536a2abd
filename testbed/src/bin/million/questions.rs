//! Asks a directory through the API: pages of filters, members of a dynamic group, counts, and what a rollout over all would do.

use std::time::Instant;

use anyhow::ensure;
use fleet_api::{Audience, Client, CountQuery, CreateGroup, CreateRollout, DeviceQuery, FailureThreshold, PageQuery};
use testbed::meter::Latencies;

use crate::{fill::SITES, release::VERSION, say};

/// Questions for a first page.
const PAGES: usize = 1000;
/// Counts and dry runs.
const FEW: usize = 5;
/// Warms the caches before anything counts.
const WARM: usize = 20;

/// Asks everything and says how long the answers took.
pub(crate) async fn ask(client: &Client, devices: usize) -> anyhow::Result<()> {
    for (what, filter) in [
        ("attribute.site = \"…\" (one in 200)", "attribute.site = \"site-S\""),
        ("the same and tag = \"fleet\"", "attribute.site = \"site-S\" and tag = \"fleet\""),
        ("the same and os.version < \"1.1.0\"", "attribute.site = \"site-S\" and os.version < \"1.1.0\""),
        ("the same and attribute.rack < 5", "attribute.site = \"site-S\" and attribute.rack < 5"),
    ] {
        let mut latencies = Latencies::default();
        for number in 0..WARM + PAGES {
            let filter = filter.replace('S', &(number * 37 % SITES).to_string());
            let query = DeviceQuery { limit: Some(100), filter: Some(filter), ..DeviceQuery::default() };
            let begun = Instant::now();
            let page = client.devices(&query).await?;
            if number >= WARM {
                latencies.add(begun.elapsed());
            }
            ensure!(devices < SITES || !page.items.is_empty() || what.contains("and"), "nothing found");
        }
        say(&format!("first page of 100, {what}: {latencies}"));
    }
    group(client).await?;
    for by in ["os.version", "attribute.site"] {
        for filter in [None, Some("tag = \"fleet\"")] {
            let query = CountQuery { by: Some(by.to_owned()), filter: filter.map(ToOwned::to_owned) };
            let mut latencies = Latencies::default();
            for _ in 0..FEW {
                let begun = Instant::now();
                client.count_devices(&query).await?;
                latencies.add(begun.elapsed());
            }
            say(&format!("count by {by} where {}: {latencies}", filter.unwrap_or("any")));
        }
    }
    let mut rollout = CreateRollout::new(VERSION.parse()?, Audience::All);
    rollout.failure_threshold = FailureThreshold::Percent(5);
    let mut latencies = Latencies::default();
    for _ in 0..FEW {
        let begun = Instant::now();
        let answer = client.dry_run(&rollout).await?;
        latencies.add(begun.elapsed());
        ensure!(answer.devices == u64::try_from(devices)?, "the dry run is over {} devices", answer.devices);
    }
    say(&format!("dry run of a rollout over all {devices}: {latencies}"));
    Ok(())
}

/// A group by filter, and the first page of its members.
async fn group(client: &Client) -> anyhow::Result<()> {
    let name = "one-site".parse()?;
    let group = CreateGroup {
        name,
        title: String::new(),
        members: Vec::new(),
        filter: Some("attribute.site = \"site-7\"".to_owned()),
        include: Vec::new(),
    };
    let group = client.create_group(&group).await?;
    let (mut latencies, page) = (Latencies::default(), PageQuery { limit: Some(100), ..PageQuery::default() });
    for number in 0..WARM + PAGES {
        let begun = Instant::now();
        client.group_members(&group.name, &page).await?;
        if number >= WARM {
            latencies.add(begun.elapsed());
        }
    }
    say(&format!("first page of 100 members of a dynamic group of one in 200: {latencies}"));
    Ok(())
}
