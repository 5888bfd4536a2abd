//! Registration updates at the pace of a fleet: every connection sends one each three seconds, whether the one before was answered in
//! time or not, and the time to the answer counts from when it was due. Then ten times as many, and how long it takes until all is well.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use testbed::{
    crowd::Enrolled,
    meter::{self, Latencies, Meter},
};
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{
    say,
    wire::{Handshakes, Line},
};

/// Between two updates of one device.
const PACE: Duration = Duration::from_secs(3);
/// How many times as much an overload asks for.
const OVERLOAD: u32 = 10;
/// The time within which 99 of 100 updates shall be answered.
const AIM: Duration = Duration::from_millis(25);
/// Connections that are opened at a time.
const OPENING: usize = 32;
/// A stretch of the time after an overload, each judged by itself.
const STRETCH: Duration = Duration::from_secs(3);
/// Stretches until it is given up that all will be well again.
const MOST_STRETCHES: usize = 60;

/// Opens a line for every device and measures the three paces on them.
pub(crate) async fn measure(
    process: u32,
    (devices, management): (&[Arc<Enrolled>], SocketAddr),
    (paced, overload): (Duration, Duration),
) -> anyhow::Result<()> {
    let lines = open(devices, management).await?;
    let count = lines.len();
    let rate = |pace: Duration| count as f64 / pace.as_secs_f64();

    let meter = Meter::start(process)?;
    let (lines, told) = hold(lines, PACE, paced).await?;
    let used = meter::memory(process)?;
    say(&format!(
        "updates at {:.0} a second on {count} connections for {} s: {told}; {:.0} % of a core, {:.0} MB resident at its peak",
        rate(PACE),
        paced.as_secs(),
        meter.load()? * 100.0,
        used.peak_mb
    ));
    if overload.is_zero() {
        return Ok(());
    }
    let (meter, fast) = (Meter::start(process)?, PACE / OVERLOAD);
    let (mut lines, told) = hold(lines, fast, overload).await?;
    let used = meter::memory(process)?;
    say(&format!(
        "updates when {:.0} a second are asked for, {} s: {:.0} a second answered; {told}; {:.0} % of a core, {:.0} MB resident at its peak",
        rate(fast),
        overload.as_secs(),
        told.count() as f64 / overload.as_secs_f64(),
        meter.load()? * 100.0,
        used.peak_mb
    ));
    let since = Instant::now();
    for _ in 0..MOST_STRETCHES {
        let (kept, told) = hold(lines, PACE, STRETCH).await?;
        lines = kept;
        if told.permille(990) < AIM.as_secs_f64() * 1000.0 {
            say(&format!("after that, 99 of 100 updates take less than {AIM:?} again {:?} later", since.elapsed()));
            return Ok(());
        }
    }
    say(&format!("after that, 99 of 100 updates take longer than {AIM:?} for {:?} and more", since.elapsed()));
    Ok(())
}

async fn open(devices: &[Arc<Enrolled>], management: SocketAddr) -> anyhow::Result<Vec<Line>> {
    let (places, mut opening) = (Arc::new(Semaphore::new(OPENING)), JoinSet::new());
    for device in devices {
        let (device, places) = (device.clone(), places.clone());
        opening.spawn(async move {
            let _place = places.acquire_owned().await?;
            let mut line = Line::open(&device, management, Handshakes::Ticket).await?;
            line.register().await?;
            anyhow::Ok(line)
        });
    }
    let mut lines = Vec::with_capacity(devices.len());
    while let Some(opened) = opening.join_next().await {
        lines.push(opened?.context("a device did not come back")?);
    }
    Ok(lines)
}

/// Lets every line send an update each `pace` for so long; a line that is behind sends the next one as soon as it can.
async fn hold(lines: Vec<Line>, pace: Duration, time: Duration) -> anyhow::Result<(Vec<Line>, Latencies)> {
    let (begin, count) = (Instant::now() + Duration::from_millis(500), u32::try_from(lines.len().max(1))?);
    let (end, behind) = (begin + time, Arc::new(AtomicU64::new(0)));
    let mut running = JoinSet::new();
    for (number, mut line) in (0_u32..).zip(lines) {
        let behind = behind.clone();
        running.spawn(async move {
            let (mut due, mut latencies) = (begin + pace * number / count, Latencies::default());
            while due < end && Instant::now() < end {
                sleep_until(due).await;
                line.update().await?;
                let now = Instant::now();
                latencies.add(now.saturating_duration_since(due));
                due += pace;
                // What is long due is not asked for at once: a device has one update under way.
                if due < now {
                    behind.fetch_add(1, Ordering::Relaxed);
                    due = now;
                }
            }
            anyhow::Ok((line, latencies))
        });
    }
    let (mut lines, mut all) = (Vec::new(), Latencies::default());
    while let Some(ended) = running.join_next().await {
        let (line, latencies) = ended??;
        lines.push(line);
        all.extend(latencies);
    }
    let behind = behind.load(Ordering::Relaxed);
    if behind > 0 {
        say(&format!(
            "{behind} of these were asked for later than they were due, because the one before was not answered yet"
        ));
    }
    Ok((lines, all))
}
