//! Step (h): copies of the board's disk with one flipped bit each. The original goes on meanwhile.

use std::{fs, path::Path, time::Duration};

use anyhow::Context as _;
use serde_json::{Value, json};
use testbed::{Machine, images};

use super::{Site, releases::Images};
use crate::report::note;

/// How long an emulated board may take until it says why it does not start.
const REFUSAL: Duration = Duration::from_secs(300);
/// In the loader behind its headers, whose rules alone would stop it.
const IN_LOADER: u64 = 64 << 10;
/// In the root in its first block, which each start reads.
const IN_ROOT: u64 = 1100;
/// What firmware and kernel say.
const OF_FIRMWARE: &[&str] = &["Access Denied", "Access denied", "Security Violation"];
const OF_KERNEL: &[&str] = &["is corrupted"];

/// Bends copies of the board, which runs on: what is bent in them lies where nothing is written.
pub(super) fn refused(site: &Site, images: &Images) -> anyhow::Result<Value> {
    let loader = images.first.join("signed/loader.efi");
    let root = images.second.join("parts/root.erofs");
    let evidence = json!({
        "boot loader": bent(site, images, ("boot loader", &loader, IN_LOADER), OF_FIRMWARE)?,
        "root file system": bent(site, images, ("root file system", &root, IN_ROOT), OF_KERNEL)?,
    });
    site.stage.await_registered()?;
    note("the board itself runs on");
    Ok(evidence)
}

/// Flips one bit in a copy of the board where `content` lies, turns the copy on and waits for what it says instead of starting.
fn bent(
    site: &Site,
    images: &Images,
    (what, content, offset): (&str, &Path, u64),
    said: &[&str],
) -> anyhow::Result<Value> {
    let folder = site.stage.folder.join("bent");
    images::copy(&[site.stage.folder.join("board")], &folder)?;
    let mut copy = Machine::found(&images.first, &folder);
    // What the board itself said is not what its copy says.
    fs::remove_file(copy.log()).context("cannot clear the log of the copy")?;
    let content = fs::read(content).with_context(|| format!("cannot read {}", content.display()))?;
    copy.flip_bit_in(&content, offset)?;
    copy.power_on()?;
    let line = copy.until_says_one(said, REFUSAL)?;
    copy.cut_power()?;
    fs::remove_dir_all(&folder).context("cannot remove the copy")?;
    note(&format!("one bit of the {what}: `{}`", line.trim()));
    Ok(line.trim().into())
}
