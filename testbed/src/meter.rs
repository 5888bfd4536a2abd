//! What a process costs, read from `/proc`: processor time and memory. Never changes another process.

use std::{
    fmt, fs,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Processor time of one process from a moment on.
#[derive(Debug)]
pub struct Meter {
    process: u32,
    begun: Instant,
    seconds: f64,
}

impl Meter {
    /// Begins to measure.
    ///
    /// # Errors
    /// If there is no such process.
    pub fn start(process: u32) -> anyhow::Result<Self> {
        Ok(Self { process, begun: Instant::now(), seconds: processor_seconds(process)? })
    }

    /// One line: how many a second, and how many a second of one core of the service.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn report(&self, what: &str, count: usize) -> anyhow::Result<String> {
        let wall = self.begun.elapsed().as_secs_f64();
        let busy = self.busy()?;
        let count_f = count as f64;
        Ok(format!(
            "{what}: {count} in {wall:.1} s = {:.0} a second; {:.0} a second and core of the service, {:.0} µs each",
            count_f / wall,
            count_f / busy,
            busy / count_f * 1e6
        ))
    }

    /// Processor time of the process since then, in seconds.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn busy(&self) -> anyhow::Result<f64> {
        Ok(processor_seconds(self.process)? - self.seconds)
    }

    /// Share of one core that the process has used.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn load(&self) -> anyhow::Result<f64> {
        Ok(self.busy()? / self.begun.elapsed().as_secs_f64())
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
pub struct Memory {
    /// Resident now, in megabytes.
    pub resident_mb: f64,
    /// The most that was ever resident, in megabytes.
    pub peak_mb: f64,
}

/// Reads `VmRSS` and `VmHWM`.
///
/// # Errors
/// If the process is gone.
pub fn memory(process: u32) -> anyhow::Result<Memory> {
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
///
/// # Errors
/// If the system does not allow it.
pub fn allow_many_files() -> anyhow::Result<()> {
    let hard = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard }).context("cannot raise the limit of open files")
}

/// How long each of many things took.
#[derive(Clone, Debug, Default)]
pub struct Latencies(Vec<Duration>);

impl Latencies {
    /// Adds one.
    pub fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// Takes over all of another collection.
    pub fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The time that so many of a thousand did not exceed, in milliseconds; 0 without any.
    pub fn permille(&self, permille: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let at = (sorted.len() * permille).div_ceil(1000).saturating_sub(1);
        sorted.get(at).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [half, most, nearly, all] = [500, 990, 999, 1000].map(|permille| self.permille(permille));
        write!(
            f,
            "{} times: median {half:.2} ms, p99 {most:.2} ms, p99.9 {nearly:.2} ms, longest {all:.2} ms",
            self.count()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ninety_ninth_of_a_hundred_times_is_the_second_longest() {
        let mut latencies = Latencies::default();
        (1..=100).rev().for_each(|time| latencies.add(Duration::from_millis(time)));
        assert_eq!(latencies.permille(990), 99.0);
        assert_eq!((latencies.permille(500), latencies.permille(1000)), (50.0, 100.0));
        assert_eq!(Latencies::default().permille(990), 0.0);
    }
}
