//! Measures what an installation costs the device in memory and time: `install [ROOT_MIB [UKI_MIB]]`. Loopback only.

use std::time::Duration;

use anyhow::Context as _;
use testbed::installation::measure;

#[expect(clippy::print_stdout, reason = "the measurements are this program's data")]
fn say(line: &str) {
    println!("{line}");
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |otherwise: usize| {
        let text = arguments.next();
        text.map_or(Ok(otherwise), |text| text.parse().with_context(|| format!("`{text}` is not a number")))
    };
    let (root_mib, uki_mib) = (next(48)?, next(38)?);
    let work = tempfile::tempdir().context("cannot make a work folder")?;
    let cost = measure(work.path(), root_mib, uki_mib)?;
    let rate = |time: Duration| format!("{:.1} MB a second", cost.bytes as f64 / 1e6 / time.as_secs_f64());
    say(&format!(
        "installed {} bytes in {:.2} s: {}",
        cost.bytes,
        cost.installation.as_secs_f64(),
        rate(cost.installation)
    ));
    say(&format!("copied them with the same digests in {:.2} s: {}", cost.copy.as_secs_f64(), rate(cost.copy)));
    say(&format!(
        "an installation takes {:.2} times as long",
        cost.installation.as_secs_f64() / cost.copy.as_secs_f64()
    ));
    say(&format!("most memory of mbl-updater: {} KiB", cost.peak_kib));
    Ok(())
}
