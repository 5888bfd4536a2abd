//! Fills a directory: a list of certificates through the API, then each device by what the ports of the service record when it comes for
//! the first time, without TLS and without signatures.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    ops::Range,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, bail, ensure};
use fleet_api::{Client, Operation, PageQuery};
use fleet_store::{ComponentRow, DeviceEvent, DeviceReport, Parent, PresenceFact, Promise, ServiceWide, Store};
use protocol_types::{AccountName, Digest, EndpointName, OperationState, SecurityVersion, Slot, UnixSeconds};
use testbed::{
    Service,
    meter::{self, Meter},
};

use crate::say;

/// Sites that the devices stand at: a filter on one of them is true for one in two hundred.
pub(crate) const SITES: usize = 200;
/// Longest time until a list is through.
const PATIENCE: Duration = Duration::from_secs(4 * 3600);
/// Between two looks at an operation.
const LOOK: Duration = Duration::from_secs(1);

fn name(number: usize) -> String {
    format!("dev-{number:07}")
}

fn fingerprint(number: usize) -> [u8; 32] {
    *Digest::of(name(number).as_bytes()).as_bytes()
}

/// The operating system of a device: five versions, the newest the most frequent.
fn version(number: usize) -> &'static str {
    ["1.2.0", "1.2.0", "1.2.0", "1.1.4", "1.1.0", "1.0.2", "1.0.0"][number % 7]
}

/// Sends a list of so many certificates and waits until it is through; answers the id of the factory authority.
pub(crate) async fn list(service: &Service, client: &Client, devices: usize, folder: &Path) -> anyhow::Result<String> {
    let path = folder.join("list.csv");
    write(&path, devices).context("cannot write the list")?;
    let process = service.id().context("the service is gone")?;
    let begun = Instant::now();
    let file = tokio::fs::File::open(&path).await.context("cannot read the list")?;
    let mut operation: Operation = client.enrol_list(file, None).await?;
    let sent = begun.elapsed();
    while !operation.state.is_end() {
        ensure!(begun.elapsed() < PATIENCE, "the list is not through after {PATIENCE:?}");
        tokio::time::sleep(LOOK).await;
        operation = client.operation(&operation.id).await?;
    }
    if operation.state != OperationState::Finished || operation.done != u64::try_from(devices)? {
        bail!("the list came to another end: {operation:?}");
    }
    let seconds = begun.elapsed().as_secs_f64();
    say(&format!(
        "listed {devices} certificates with a tag and two attributes each: {seconds:.1} s ({:.0} a second), of it {:.1} s to send; service {:.0} MB resident at its peak",
        devices as f64 / seconds,
        sent.as_secs_f64(),
        meter::memory(process)?.peak_mb
    ));
    let authorities = client.authorities(&PageQuery::default()).await?;
    Ok(authorities.items.into_iter().next().context("the factory has an authority")?.id)
}

fn write(path: &Path, devices: usize) -> anyhow::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    writeln!(file, "fingerprint,endpoint,tags,attribute.site,attribute.rack")?;
    for number in 0..devices {
        let print = hex::encode(fingerprint(number));
        writeln!(file, "{print},{},fleet,site-{},{}", name(number), number % SITES, number % 40)?;
    }
    Ok(file.flush()?)
}

#[expect(clippy::disallowed_methods, reason = "the one clock of this program")]
fn now() -> anyhow::Result<UnixSeconds> {
    Ok(UnixSeconds(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs()))
}

/// Devices that come at the same time; the service writes as many in one transaction.
const TOGETHER: usize = 256;
/// Devices that come one after the other, to see what a transaction of its own costs each.
const ALONE: usize = 200;

/// What a device does when it comes for the first time, each durable before it hears yes, and how long that took for all.
struct Steps([(&'static str, Duration); 4]);

impl Steps {
    const fn new() -> Self {
        Self([
            ("joined", Duration::ZERO),
            ("certificates", Duration::ZERO),
            ("registered", Duration::ZERO),
            ("reported", Duration::ZERO),
        ])
    }

    fn report(&self, devices: usize) -> String {
        let seconds: f64 = self.0.iter().map(|(_, time)| time.as_secs_f64()).sum();
        let each: Vec<String> =
            self.0.iter().map(|(what, time)| format!("{what} {:.0} s", time.as_secs_f64())).collect();
        format!(
            "{devices} devices: {seconds:.0} s ({:.0} a second), of it {}",
            devices as f64 / seconds,
            each.join(", ")
        )
    }
}

/// What the device of this number does in each step.
fn does(step: usize, number: usize, authority: &str, now: UnixSeconds) -> anyhow::Result<DeviceEvent> {
    let (factory, operational) = (format!("f{number:x}"), format!("o{number:x}"));
    Ok(match step {
        0 => DeviceEvent::Joins { authority: authority.to_owned(), serial: factory, fingerprint: fingerprint(number) },
        1 => DeviceEvent::Certified {
            serial: operational,
            parent: Parent::Factory(factory),
            not_after: UnixSeconds(now.0 + YEAR_S),
        },
        2 => DeviceEvent::Registers {
            serial: operational,
            session: u64::try_from(number)? + 1,
            promise: Promise::new(86_400, true),
        },
        _ => {
            let version = version(number);
            let digest = Digest::of(version.as_bytes());
            let report = DeviceReport {
                running_version: Some(version.parse()?),
                running_digest: Some(digest),
                slot: Some(Slot::A),
                floor: SecurityVersion(1),
                ..DeviceReport::idle()
            };
            let os = ComponentRow { name: "os".to_owned(), version: version.to_owned(), digest, state: None };
            DeviceEvent::Reports { components: vec![os], report: Box::new(report) }
        }
    })
}

const YEAR_S: u64 = 366 * 24 * 3600;

/// Lets every device join, get a certificate, register and report, as the service records it. The service must not run.
pub(crate) async fn enrol(data: &Path, authority: &str, devices: usize) -> anyhow::Result<()> {
    let store = Store::open_file(&data.join("mbl.db"), Arc::new(()), now()?).await?;
    let alone = ALONE.min(devices);
    let (mut steps, wide) = (Steps::new(), store.service_wide());
    for number in 0..alone {
        come(&wide, authority, number..number + 1, &mut steps).await?;
    }
    say(&format!("enrolled one after the other, {}", steps.report(alone)));
    let (mut steps, meter) = (Steps::new(), Meter::start(std::process::id())?);
    for first in (alone..devices).step_by(TOGETHER) {
        come(&wide, authority, first..devices.min(first + TOGETHER), &mut steps).await?;
    }
    let busy = meter.busy()? / (devices - alone).max(1) as f64 * 1000.0;
    say(&format!(
        "enrolled {TOGETHER} at a time, {}; {busy:.2} ms of processor time each",
        steps.report(devices - alone)
    ));
    drop(wide);
    store.close().await;
    let memory = meter::memory(std::process::id())?;
    say(&format!("this program, which did that: {:.0} MB resident at its peak", memory.peak_mb));
    Ok(())
}

/// Devices that come at the same time.
async fn come(
    store: &ServiceWide,
    authority: &str,
    numbers: Range<usize>,
    Steps(steps): &mut Steps,
) -> anyhow::Result<()> {
    let account = AccountName::new("default")?;
    for (step, (what, time)) in steps.iter_mut().enumerate() {
        let now = now()?;
        let fact = |number| {
            let (endpoint, what) = (EndpointName::new(name(number))?, does(step, number, authority, now)?);
            Ok(PresenceFact { account: account.clone(), endpoint, what })
        };
        let facts: Vec<PresenceFact> = numbers.clone().map(fact).collect::<anyhow::Result<_>>()?;
        let begun = Instant::now();
        let verdicts = store.record_presence(&facts, now).await?;
        *time += begun.elapsed();
        for (verdict, fact) in verdicts.into_iter().zip(&facts) {
            if let Err(reason) = verdict? {
                bail!("{}, not {what}: {reason}", fact.endpoint);
            }
        }
    }
    Ok(())
}
