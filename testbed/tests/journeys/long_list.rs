//! A list of certificates as long as a list may be: the service goes through it in little memory.

use std::{
    fs::{self, File},
    io::{BufWriter, Write as _},
    time::Instant,
};

use testbed::until;

use crate::{environment::number, identity::Fleet};

/// Lines, if nobody says otherwise: `MBL_LIST=1000000` is the most that a list may have, and takes a machine to itself and more time than
/// nextest gives a journey (`docs/benchmarks.md` has the command).
const LINES: usize = 10_000;
/// What the service may ever have resident, in megabytes. The list itself has 100 MB at a million lines.
const MEMORY_MB: f64 = 150.0;
/// Lines a second that even a busy machine goes through.
const SLOWEST: usize = 100;

/// The most that the service ever had resident, in megabytes.
fn peak_mb(fleet: &Fleet) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", fleet.service.id().unwrap())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1000.0
}

#[test]
#[expect(clippy::print_stdout, reason = "the measurement is shown with --no-capture")]
fn fleet_a_list_of_very_many_lines_is_gone_through_in_little_memory() {
    let lines = number("MBL_LIST").unwrap_or(LINES);
    let mut fleet = Fleet::new(true);
    let mut list = BufWriter::new(File::create(fleet.folder.path().join("list.csv")).unwrap());
    writeln!(list, "fingerprint,endpoint,tags,attribute.site").unwrap();
    for n in 0..lines {
        writeln!(list, "{n:064x},gate-{n},fleet,site-{}", n % 200).unwrap();
    }
    list.into_inner().unwrap().sync_all().unwrap();
    let before = peak_mb(&fleet);
    let begun = Instant::now();
    let operation = fleet.operator.json(&["enrolment", "import", "list.csv"]).unwrap();
    assert_eq!(operation["total"], lines, "{operation}");
    let id = operation["id"].as_str().unwrap();
    let sent = begun.elapsed().as_secs_f64();
    // Killed on the way: the rest needs no more memory than the beginning.
    until(std::time::Duration::from_secs(600), "a tenth of the list", || {
        let done = fleet.operator.json(&["operation", "show", id])?["done"].as_u64().unwrap_or_default();
        Ok((done >= lines as u64 / 10).then_some(()))
    })
    .unwrap();
    let first = peak_mb(&fleet);
    fleet.service.kill().unwrap();
    fleet.service.restart().unwrap();
    let limit = (60 + lines / SLOWEST).to_string();
    fleet.mbl(&["operation", "watch", id, "--time-limit", &limit]);
    let (seconds, last) = (begun.elapsed().as_secs_f64(), peak_mb(&fleet));
    println!(
        "{lines} lines: {seconds:.1} s ({:.0} a second), of it {sent:.1} s to send; {before:.0} MB resident before, {first:.0} MB at the first peak, {last:.0} MB at that after the kill",
        lines as f64 / seconds
    );
    let ended = fleet.operator.json(&["operation", "show", id]).unwrap();
    assert_eq!((&ended["done"], &ended["refused"]), (&lines.into(), &0.into()), "{ended}");
    assert!(first.max(last) < MEMORY_MB, "{first:.0} and {last:.0} MB resident");
}
