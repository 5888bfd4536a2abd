//! What a process costs, read from `/proc`: processor time and memory. Never changes another process.

use std::{fs, time::Instant};

use anyhow::Context as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Processor time of one process from a moment on.
#[derive(Debug)]
pub(crate) struct Meter {
    process: u32,
    begun: Instant,
    seconds: f64,
}

impl Meter {
    /// Begins to measure.
    pub(crate) fn start(process: u32) -> anyhow::Result<Self> {
        Ok(Self { process, begun: Instant::now(), seconds: processor_seconds(process)? })
    }

    /// One line: how many a second, and how many a second of one core of the service.
    pub(crate) fn report(&self, what: &str, count: usize) -> anyhow::Result<String> {
        let wall = self.begun.elapsed().as_secs_f64();
        let busy = processor_seconds(self.process)? - self.seconds;
        let count_f = count as f64;
        Ok(format!(
            "{what}: {count} in {wall:.1} s = {:.0} a second; {:.0} a second and core of the service, {:.0} µs each",
            count_f / wall,
            count_f / busy,
            busy / count_f * 1e6
        ))
    }

    /// Share of one core that the process has used.
    pub(crate) fn load(&self) -> anyhow::Result<f64> {
        Ok((processor_seconds(self.process)? - self.seconds) / self.begun.elapsed().as_secs_f64())
    }
}

/// User and system time of all threads (proc_pid_stat(5), fields 14 and 15).
fn processor_seconds(process: u32) -> anyhow::Result<f64> {
    let path = format!("/proc/{process}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let fields = text.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect::<Vec<_>>()).unwrap_or_default();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok());
    let (user, system) = ticks(11).zip(ticks(12)).with_context(|| format!("cannot understand {path}"))?;
    Ok((user + system) / rustix::param::clock_ticks_per_second() as f64)
}

/// Memory of a process.
#[derive(Debug)]
pub(crate) struct Memory {
    /// Resident now, in megabytes.
    pub(crate) resident_mb: f64,
    /// The most that was ever resident, in megabytes.
    pub(crate) peak_mb: f64,
}

/// Reads `VmRSS` and `VmHWM`.
pub(crate) fn memory(process: u32) -> anyhow::Result<Memory> {
    let path = format!("/proc/{process}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let megabytes = |name: &str| -> anyhow::Result<f64> {
        let line =
            text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name} in {path}"))?;
        let kilobytes: f64 = line.split_whitespace().next().unwrap_or_default().parse().context("not a number")?;
        Ok(kilobytes / 1000.0)
    };
    Ok(Memory { resident_mb: megabytes("VmRSS:")?, peak_mb: megabytes("VmHWM:")? })
}

/// Raises the soft limit of open files to the hard one; the service inherits it.
pub(crate) fn allow_many_files() -> anyhow::Result<()> {
    let hard = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard }).context("cannot raise the limit of open files")
}
