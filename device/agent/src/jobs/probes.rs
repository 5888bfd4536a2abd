//! Checks that every device has by name. There is no way to have it run a command line: whoever holds the service must not hold the
//! device, and code comes by signed releases alone (decision 22).

use std::{fmt::Write as _, fs, io, path::Path};

use protocol_types::{ProbeName, UnixSeconds};

/// A check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probe {
    /// Room and use of the state.
    Disk,
    /// Memory of the system and of this process.
    Memory,
    /// Interfaces and what went over them.
    Network,
    /// Clock, time since the start, load.
    Time,
}

/// The checks that every device of this version has.
pub(super) const PROBES: [Probe; 4] = [Probe::Disk, Probe::Memory, Probe::Network, Probe::Time];

impl Probe {
    /// The name as the service writes it.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Memory => "memory",
            Self::Network => "network",
            Self::Time => "time",
        }
    }

    /// The check of this name, if every device has it.
    pub(super) fn named(name: &ProbeName) -> Option<Self> {
        PROBES.into_iter().find(|probe| probe.as_str() == name.as_str())
    }

    /// Makes the check; a line a fact.
    pub(super) fn run(self, state: &Path, now: UnixSeconds) -> io::Result<String> {
        match self {
            Self::Disk => disk(state),
            Self::Memory => {
                let system = fs::read_to_string("/proc/meminfo")?;
                Ok(lines(&system, &["MemTotal", "MemFree", "MemAvailable", "SwapTotal", "SwapFree"])
                    + &lines(&fs::read_to_string("/proc/self/status")?, &["VmRSS", "VmHWM"]))
            }
            Self::Network => Ok(network(&fs::read_to_string("/proc/net/dev")?)),
            Self::Time => {
                let uptime = fs::read_to_string("/proc/uptime")?;
                let load = fs::read_to_string("/proc/loadavg")?;
                let word = |text: &str| text.split_whitespace().next().unwrap_or_default().to_owned();
                Ok(format!("unix_seconds {now}\nuptime_seconds {}\nload_1_min {}\n", word(&uptime), word(&load)))
            }
        }
    }
}

fn disk(state: &Path) -> io::Result<String> {
    let found = rustix::fs::statvfs(state)?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    Ok(format!(
        "total_bytes {}\nfree_bytes {}\nfiles {}\nfree_files {}\n",
        bytes(found.f_blocks),
        bytes(found.f_bavail),
        found.f_files,
        found.f_favail
    ))
}

/// The lines of `name: value` that are wanted, as the other checks write theirs.
fn lines(text: &str, wanted: &[&str]) -> String {
    let mut out = String::new();
    for (name, value) in text.lines().filter_map(|line| line.split_once(':')) {
        if wanted.contains(&name) {
            let value = value.trim();
            let (number, unit) = value.split_once(' ').unwrap_or((value, ""));
            // Writing to a text does not fail.
            let _ok = writeln!(out, "{}{} {number}", snake(name), if unit == "kB" { "_kib" } else { "" });
        }
    }
    out
}

fn snake(name: &str) -> String {
    let (mut out, mut after_small) = (String::new(), false);
    for c in name.chars() {
        if c.is_ascii_uppercase() && after_small {
            out.push('_');
        }
        after_small = c.is_ascii_lowercase();
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// Bytes and errors of each interface, from the kernel's table.
fn network(table: &str) -> String {
    let mut out = String::new();
    for (name, counts) in table.lines().filter_map(|line| line.split_once(':')) {
        let counts: Vec<&str> = counts.split_whitespace().collect();
        let at = |index: usize| counts.get(index).copied().unwrap_or("0");
        // Writing to a text does not fail.
        let _ok = writeln!(
            out,
            "{} received_bytes {} received_errors {} sent_bytes {} sent_errors {}",
            name.trim(),
            at(0),
            at(2),
            at(8),
            at(10)
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_tells_facts_of_this_machine() {
        let folder = tempfile::tempdir().unwrap();
        for (probe, fact) in [
            (Probe::Disk, "free_bytes "),
            (Probe::Memory, "mem_total_kib "),
            (Probe::Network, "lo received_bytes "),
            (Probe::Time, "unix_seconds 1800000000\n"),
        ] {
            let told = probe.run(folder.path(), UnixSeconds(1_800_000_000)).unwrap();
            assert!(told.contains(fact), "{}: {told}", probe.as_str());
        }
        assert!(Probe::Disk.run(Path::new("/nonexistent"), UnixSeconds(0)).is_err());
    }

    #[test]
    fn the_kernels_names_become_ours() {
        assert_eq!(
            ["MemTotal", "VmRSS", "VmHWM", "SwapFree"].map(snake),
            ["mem_total", "vm_rss", "vm_hwm", "swap_free"]
        );
        let table = "Inter-|   Receive\n face |bytes\n    lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n";
        assert_eq!(network(table), "lo received_bytes 1 received_errors 3 sent_bytes 9 sent_errors 11\n");
    }
}
