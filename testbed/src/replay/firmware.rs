//! The same states under QEMU: packaged UEFI firmware and the real systemd-boot start from an ESP, and a log of every write and
//! flush of the machine is kept. Never judges.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::FileExt as _,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, ensure};

use super::sectors::{SECTOR, Sector};
use crate::until;

/// Where the ESP begins on the disk, in sectors, and what is left behind it for the second partition table.
const ESP_AT: usize = 2048;
const BEHIND: usize = 2048;
/// Firmware and loader take some seconds; emulation beside others takes longer.
const LIMIT: Duration = Duration::from_secs(240);
const LOG_BYTES: u64 = 64 << 20;
/// The format that the kernel calls dm-log-writes: what a log begins with, and what an entry can be.
const LOG_MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;

/// A machine that was turned on once.
#[derive(Debug)]
pub(super) struct Started {
    /// What its console said.
    pub(super) said: String,
    /// What its ESP holds now.
    pub(super) esp: Vec<u8>,
    /// The sectors of the ESP that it wrote, in order.
    pub(super) written: Vec<usize>,
    /// Whether it flushed once, after all of them.
    pub(super) flushed_behind: bool,
}

/// Turns on a machine that has this ESP; its kernel images turn it off.
pub(super) fn start(work: &Path, firmware: &Path, esp: &[Sector]) -> anyhow::Result<Started> {
    let path = |name: &str| work.join(name).display().to_string();
    let (disk, log) = (path("disk.img"), path("log.img"));
    make_disk(&disk, esp)?;
    File::create(&log).and_then(|file| file.set_len(LOG_BYTES)).context("cannot make the log of writes")?;
    let firmware_bytes = fs::metadata(firmware).context("cannot look at the firmware")?.len();
    // Without a key in it, the firmware is in setup mode and starts what nobody signed.
    File::create(path("variables.fd"))
        .and_then(|file| file.set_len(firmware_bytes))
        .context("cannot make variables")?;
    let console = File::create(work.join("console.log")).context("cannot open the console's log")?;
    let mut qemu = Command::new("qemu-system-aarch64");
    qemu.args(["-M", "virt,gic-version=3", "-cpu", "cortex-a72", "-smp", "1", "-m", "256", "-accel", "tcg"]);
    qemu.args(["-nodefaults", "-no-user-config", "-nographic", "-serial", "stdio", "-monitor", "none"]);
    qemu.args(["-drive", &format!("if=pflash,format=raw,unit=0,readonly=on,file={}", firmware.display())]);
    qemu.args(["-drive", &format!("if=pflash,format=raw,unit=1,file={}", path("variables.fd"))]);
    for node in [
        format!("driver=file,node-name=medium,filename={disk}"),
        format!("driver=file,node-name=log,filename={log}"),
        "driver=blklogwrites,node-name=disk,file=medium,log=log,log-sector-size=512".to_owned(),
    ] {
        qemu.args(["-blockdev", &node]);
    }
    qemu.args(["-device", "virtio-blk-pci,drive=disk,bootindex=0"]);
    let errors = console.try_clone().context("cannot share the console's log")?;
    let mut qemu = qemu.stdin(Stdio::null()).stdout(console).stderr(errors).spawn().context("cannot run QEMU")?;
    let ended = until(LIMIT, "the machine to turn itself off", || Ok(qemu.try_wait()?));
    if ended.is_err() {
        qemu.kill().context("cannot end QEMU")?;
        qemu.wait().context("cannot wait for QEMU")?;
    }
    let said = fs::read(work.join("console.log")).context("cannot read the console's log")?;
    let said = String::from_utf8_lossy(&said).into_owned();
    ended.with_context(|| format!("the console said: {said}"))?;
    let whole = fs::read(&disk).context("cannot read the disk")?;
    let esp = whole.get(ESP_AT * SECTOR..(ESP_AT + esp.len()) * SECTOR).context("the disk got shorter")?.to_vec();
    let (written, flushed_behind) = parse_log(&fs::read(&log).context("cannot read the log of writes")?)?;
    Ok(Started { said, esp, written, flushed_behind })
}

/// Makes a disk with a partition table and the ESP.
fn make_disk(path: &str, esp: &[Sector]) -> anyhow::Result<()> {
    let disk = File::create(path).context("cannot make the disk")?;
    let sectors = ESP_AT + esp.len() + BEHIND;
    disk.set_len((sectors * SECTOR) as u64).context("cannot make the disk")?;
    let table = format!("label: gpt\nstart={ESP_AT}, size={}, type=uefi, name=esp\n", esp.len());
    let mut sfdisk = Command::new("/usr/sbin/sfdisk");
    let mut sfdisk = sfdisk.args(["--quiet", path]).stdin(Stdio::piped()).spawn();
    let sfdisk =
        sfdisk.as_mut().map_err(|e| anyhow::anyhow!("cannot run sfdisk, of the Debian package `fdisk`: {e}"))?;
    sfdisk.stdin.take().context("sfdisk hears nothing")?.write_all(table.as_bytes())?;
    ensure!(sfdisk.wait()?.success(), "sfdisk cannot write the partition table");
    for (number, sector) in esp.iter().enumerate().filter(|(_, sector)| **sector != [0; SECTOR]) {
        disk.write_all_at(sector, ((ESP_AT + number) * SECTOR) as u64).context("cannot write the disk")?;
    }
    Ok(())
}

/// The sectors of the ESP in a log of writes, and whether there is exactly one flush behind them.
fn parse_log(log: &[u8]) -> anyhow::Result<(Vec<usize>, bool)> {
    let word = |at: usize| {
        let bytes = log.get(at..).and_then(|rest| rest.first_chunk()).context("the log of writes is too short")?;
        anyhow::Ok(u64::from_le_bytes(*bytes))
    };
    if word(0)? == 0 {
        // It begins with the first write.
        return Ok((Vec::new(), true));
    }
    ensure!(word(0)? == LOG_MAGIC, "no log of writes");
    let entries = word(16)?;
    let (mut at, mut written, mut flushes) = (SECTOR, Vec::new(), Vec::new());
    for _ in 0..entries {
        let (first, count, flags) = (usize::try_from(word(at)?)?, usize::try_from(word(at + 8)?)?, word(at + 16)?);
        ensure!(flags & !FLUSH == 0, "a write of a kind that nobody thought of: {flags}");
        let first = if count == 0 { first } else { first.checked_sub(ESP_AT).context("a write before the ESP")? };
        written.extend(first..first + count);
        if flags & FLUSH != 0 {
            flushes.push(written.len());
        }
        at += (1 + count) * SECTOR;
    }
    let flushed_behind = flushes == [written.len()];
    Ok((written, flushed_behind))
}
