//! Measures a directory of many devices: enrolled by a list, come for the first time, then asked by filter, counted, and held against a
//! rollout over all of them. One service process on its embedded database; this program on the same machine.

mod fill;
mod questions;
mod release;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use testbed::{Service, crowd::Factory, meter};

#[expect(clippy::print_stdout, reason = "the measurements are this program's data")]
fn say(line: &str) {
    println!("{line}");
}

/// `million [DEVICES [FOLDER [again]]]`: with `again`, asks the devices that an earlier run has left in the folder.
fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let devices = arguments.next().map_or(Ok(1_000_000), |text| text.parse()).context("DEVICES is a number")?;
    let folder = arguments.next().map_or_else(|| PathBuf::from("target/million"), PathBuf::from);
    let again = match arguments.next().as_deref() {
        None => false,
        Some("again") => true,
        Some(other) => bail!("`{other}` is not `again`"),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(measure(devices, &folder, again))
}

async fn measure(devices: usize, folder: &Path, again: bool) -> anyhow::Result<()> {
    let data = folder.join("service");
    if !again {
        begin_anew(devices, folder, &data).await?;
    }
    say(&format!("on disk: {:.0} MB", disk_mb(&data)?));
    let begun = std::time::Instant::now();
    let mut service = Service::start_embedded(&data, &[])?;
    let process = service.id().context("the service is gone")?;
    say(&format!(
        "service up {:.1} s after its start, {:.0} MB resident",
        begun.elapsed().as_secs_f64(),
        meter::memory(process)?.resident_mb
    ));
    ensure!(service.command("first-token")?.status()?.success(), "the service makes no first token");
    questions::ask(Factory::open(&service).await?.client(), process, devices).await?;
    let memory = meter::memory(process)?;
    say(&format!("service after that: {:.0} MB resident, {:.0} MB at its peak", memory.resident_mb, memory.peak_mb));
    service.stop()?;
    Ok(())
}

/// Fills a new folder.
async fn begin_anew(devices: usize, folder: &Path, data: &Path) -> anyhow::Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot clear {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut service = Service::start_embedded(data, &[])?;
    let factory = Factory::open(&service).await?;
    let authority = fill::list(&service, factory.client(), devices, folder).await?;
    release::publish(factory.client()).await?;
    service.stop()?;
    fill::enrol(data, &authority, devices).await
}

/// The database with its log, in megabytes.
fn disk_mb(data: &Path) -> anyhow::Result<f64> {
    let mut bytes = 0;
    for entry in fs::read_dir(data).context("cannot look into the data folder")? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("mbl.db") {
            bytes += entry.metadata()?.len();
        }
    }
    Ok(bytes as f64 / 1e6)
}
