//! Measures `mbl-service` under simulated devices over real TLS: enrolments, registrations with full and with resumed handshakes,
//! registration updates as fast as they go and at the pace of a fleet, ten times that pace, and memory with many connected devices.
//! Loopback only; every loop is bounded.

mod paced;
mod wire;

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use testbed::{
    Service,
    crowd::{Enrolled, Factory, Simulated},
    meter::{self, Meter},
};

use crate::wire::{Handshakes, Line};

/// Connections at a time while registrations and updates are measured.
const LINES: usize = 16;
/// Devices that come back again and again while registrations are measured.
const RETURNING: usize = 200;

/// What one run does.
struct Plan {
    devices: usize,
    registrations: usize,
    updates: usize,
    /// How long the pace of a fleet is held.
    paced: Duration,
    /// How long ten times that pace is asked for.
    overload: Duration,
}

impl Plan {
    /// `load [DEVICES [REGISTRATIONS [UPDATES [PACED_SECONDS [OVERLOAD_SECONDS]]]]]`
    fn from_arguments() -> anyhow::Result<Self> {
        let mut arguments = std::env::args().skip(1);
        let mut next = |default: usize| -> anyhow::Result<usize> {
            arguments
                .next()
                .map_or(Ok(default), |text| text.parse().with_context(|| format!("`{text}` is not a number")))
        };
        let (devices, registrations, updates) = (next(10_000)?, next(4_000)?, next(100_000)?);
        let seconds = |count: usize| anyhow::Ok(Duration::from_secs(u64::try_from(count)?));
        let (paced, overload) = (seconds(next(60)?)?, seconds(next(300)?)?);
        Ok(Self { devices, registrations, updates, paced, overload })
    }
}

#[expect(clippy::print_stdout, reason = "the measurements are this program's data")]
fn say(line: &str) {
    println!("{line}");
}

fn main() -> anyhow::Result<()> {
    let plan = Plan::from_arguments()?;
    meter::allow_many_files()?;
    let folder = PathBuf::from("target/load");
    if folder.exists() {
        fs::remove_dir_all(&folder).context("cannot clear target/load")?;
    }
    fs::create_dir_all(&folder).context("cannot make target/load")?;
    let mut service = Service::start(&folder.join("service"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(measure(&plan, &service))?;
    service.stop()?;
    Ok(())
}

async fn measure(plan: &Plan, service: &Service) -> anyhow::Result<()> {
    let process = service.id().context("the service is gone")?;
    let factory = Factory::open(service).await?;
    let idle = meter::memory(process)?;
    say(&format!("service without devices: {:.1} MB resident", idle.resident_mb));

    let meter = Meter::start(process)?;
    let simulated = Simulated::enrol(&factory, plan.devices).await?;
    say(&meter.report("enrolled and registered (bootstrap, EST, register, observe)", plan.devices)?);
    let full = meter::memory(process)?;
    say(&format!(
        "service with {} connected devices: {:.1} MB resident, {:.1} MB at its peak, {:.1} kB a device",
        plan.devices,
        full.resident_mb,
        full.peak_mb,
        (full.resident_mb - idle.resident_mb) * 1000.0 / plan.devices.max(1) as f64
    ));
    let meter = Meter::start(process)?;
    tokio::time::sleep(Duration::from_secs(20)).await;
    say(&format!("service with {} idle devices: {:.1} % of a core", plan.devices, meter.load()? * 100.0));
    let enrolled = simulated.stop().await?;

    let management = service.addresses().lwm2m;
    paced::measure(process, (&enrolled, management), (plan.paced, plan.overload)).await?;
    let enrolled = &enrolled[..enrolled.len().min(RETURNING)];
    let register = move |device: &Arc<Enrolled>, handshakes| {
        let device = Arc::clone(device);
        async move { Line::open(&device, management, handshakes).await?.register().await }
    };
    wire::in_parallel(enrolled, LINES, enrolled.len(), |device| register(device, Handshakes::Ticket)).await?;
    for (what, handshakes) in
        [("registered, full handshake", Handshakes::Full), ("registered, resumed handshake", Handshakes::Resumed)]
    {
        let meter = Meter::start(process)?;
        wire::in_parallel(enrolled, LINES, plan.registrations, |device| register(device, handshakes)).await?;
        say(&meter.report(what, plan.registrations)?);
    }

    let mut lines = Vec::new();
    for device in enrolled.iter().take(LINES) {
        let mut line = Line::open(device, management, Handshakes::Ticket).await?;
        line.register().await?;
        lines.push(line);
    }
    let meter = Meter::start(process)?;
    let each = plan.updates / lines.len().max(1);
    let updates = lines.into_iter().map(|mut line| {
        tokio::spawn(async move {
            for _ in 0..each {
                line.update().await?;
            }
            anyhow::Ok(line)
        })
    });
    for update in updates.collect::<Vec<_>>() {
        drop(update.await??);
    }
    say(&meter.report("registration updates", each * LINES)?);
    Ok(())
}
