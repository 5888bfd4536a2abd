//! Measures how long a board takes from power-on to a system that is up and to one that is registered, beside a plain Debian on the same
//! machine with the same firmware, loader and kernel: `boot [RUNS]`. Needs root, and Debian's `debootstrap` and `cpio`.

mod board;
mod debian;
mod times;

use std::{fs, time::Duration};

use anyhow::Context as _;
use testbed::images::{self, Order, Signer};

use crate::{board::Board, debian::Debian, times::Times};

#[expect(clippy::print_stdout, reason = "the measurements are this program's data")]
fn say(line: &str) {
    println!("{line}");
}

fn main() -> anyhow::Result<()> {
    let runs = std::env::args().nth(1);
    let runs = runs.map_or(Ok(3), |text| text.parse().with_context(|| format!("`{text}` is not a number")))?;
    anyhow::ensure!((1..=100).contains(&runs), "from 1 to 100 runs make sense, not {runs}");
    let build = images::image(Order::first("development"), Signer::Owner)?;
    let work = tempfile::tempdir().context("cannot make a work folder")?;
    let mut debian = Debian::make(&build, &work.path().join("debian"))?;
    let mut board = Board::provisioned(&build, &work.path().join("site"))?;
    // What is done once, at the first start, is done now.
    debian.start()?;
    board.start()?;
    let (mut plain, mut ours) = (Vec::new(), Vec::new());
    for run in 1..=runs {
        say(&format!("run {run} of {runs}, load {}", load()?));
        plain.push(debian.start()?);
        ours.push(board.start()?);
    }
    for (name, all) in [("plain Debian", &plain), ("Mbed Linux OS", &ours)] {
        for times in all {
            say(&format!("{name}: {times}"));
        }
    }
    let debian = median(&plain, |times| Some(times.multi_user)).context("Debian was not started")?;
    for (what, time) in
        [("up", median(&ours, |times| Some(times.multi_user))), ("registered", median(&ours, |times| times.registered))]
    {
        let time = time.with_context(|| format!("no start of the board came so far as to be {what}"))?;
        let (ours, plain) = (time.as_secs_f64(), debian.as_secs_f64());
        say(&format!("{what} after {ours:.1} s, {:.2} times the {plain:.1} s after which Debian is up", ours / plain));
    }
    Ok(())
}

/// The upper median.
fn median(all: &[Times], of: impl Fn(&Times) -> Option<Duration>) -> Option<Duration> {
    let mut times: Vec<Duration> = all.iter().filter_map(of).collect();
    times.sort();
    times.get(times.len() / 2).copied()
}

/// How many programs of this machine wanted a processor in the last minute, on average.
fn load() -> anyhow::Result<String> {
    let text = fs::read_to_string("/proc/loadavg").context("cannot read the load of this machine")?;
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}
