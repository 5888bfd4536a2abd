//! Fills a directory: a list of certificates through the API, then each device as the bootstrap port admits it, without TLS and without
//! signatures, one durable transaction a device.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, bail, ensure};
use fleet_api::{Client, Operation, PageQuery};
use fleet_store::{ComponentRow, FactoryIdentity, Store};
use protocol_types::{AccountName, Digest, EndpointName, OperationState, UnixSeconds};
use testbed::{Service, meter};

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

/// Admits every device, with what its list gives it and an operating system that it has reported. The service must not run.
pub(crate) async fn admit(data: &Path, authority: &str, devices: usize) -> anyhow::Result<()> {
    let store = Store::open_file(&data.join("mbl.db"), Arc::new(()), now()?).await?;
    let account = store.account(&AccountName::new("default")?);
    let begun = Instant::now();
    for number in 0..devices {
        let (endpoint, print) = (EndpointName::new(name(number))?, fingerprint(number));
        let serial = format!("{number:x}");
        let identity = FactoryIdentity { endpoint: &endpoint, authority, serial: &serial, fingerprint: &print };
        ensure!(account.admit(identity, now()?).await?.is_ok(), "{endpoint} was not admitted");
    }
    let seconds = begun.elapsed().as_secs_f64();
    say(&format!(
        "admitted {devices} devices, one durable transaction each: {seconds:.0} s ({:.0} a second)",
        devices as f64 / seconds
    ));
    let begun = Instant::now();
    for number in 0..devices {
        let version = version(number);
        let digest = Digest::of(version.as_bytes());
        let os = ComponentRow { name: "os".to_owned(), version: version.to_owned(), digest, state: None };
        account.set_components(&EndpointName::new(name(number))?, &[os]).await?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    say(&format!("noted an operating system of each: {seconds:.0} s ({:.0} a second)", devices as f64 / seconds));
    store.close().await;
    let process = std::process::id();
    say(&format!("this program, which did that: {:.0} MB resident at its peak", meter::memory(process)?.peak_mb));
    Ok(())
}
