//! A machine with an image in it, under QEMU: turned on and off, read and typed at through its serial port. Every wait has a limit.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use image_builder::image::{FIRMWARE_PACKAGE, FIRMWARE_VARIABLES, Reach, Threads};
use serde_json::{Value, json};

use crate::{images::tree, monitor, programs::program, until};

/// The socket of QEMU's monitor, in the machine's folder, which is where QEMU runs.
const MONITOR: &str = "monitor.sock";
/// How long QEMU may take to write a machine's memory into a file, or to read it from there.
const MOVING: Duration = Duration::from_secs(120);

/// Where the flash has the two places of the record, and the slots for firmware image packages (docs/formats/firmware.md).
pub const RECORDS: [u64; 2] = [0, 256 << 10];
/// The first slot.
pub const SLOT_A: u64 = 16 << 20;
/// The second slot.
pub const SLOT_B: u64 = 32 << 20;
/// What a slot has room for.
pub const SLOT_BYTES: usize = 8 << 20;

/// A machine. Dropping it turns it off at once.
#[derive(Debug)]
pub struct Machine {
    build: PathBuf,
    folder: PathBuf,
    /// Ports of this machine's loopback that it reaches.
    reach: Vec<Reach>,
    /// Ports of this machine's loopback that lead to one of its own.
    forward: Vec<Reach>,
    /// On how many threads its processors are emulated.
    threads: Threads,
    /// Further arguments of QEMU.
    further: Vec<String>,
    qemu: Option<Child>,
    /// How much of the log earlier waits have read.
    read: usize,
    /// How much of it is of earlier times that it was on.
    earlier: usize,
}

impl Machine {
    /// A new machine, in a folder that is not there yet, with the signed build in `build`. It is off.
    ///
    /// # Errors
    /// If the build cannot be copied.
    pub fn new(build: &Path, folder: &Path) -> anyhow::Result<Self> {
        image_builder::image::make_machine(build, folder).context("cannot make the machine")?;
        Ok(Self::found(build, folder))
    }

    /// A machine that was made before from the signed build in `build`, in its folder. It is off.
    pub fn found(build: &Path, folder: &Path) -> Self {
        let (build, folder) = (build.to_owned(), folder.to_owned());
        Self {
            build,
            folder,
            reach: Vec::new(),
            forward: Vec::new(),
            threads: Threads::OnePerProcessor,
            further: Vec::new(),
            qemu: None,
            read: 0,
            earlier: 0,
        }
    }

    /// Its disk, which may be looked at and bent while it is off.
    pub fn disk(&self) -> PathBuf {
        self.folder.join("disk.img")
    }

    /// Gives it the firmware of the machine that `build` was signed for: code, and the certificates that it trusts.
    ///
    /// # Errors
    /// If the files cannot be copied.
    pub fn trust_like(&self, build: &Path) -> anyhow::Result<()> {
        self.flash_from(build, FIRMWARE_VARIABLES)
    }

    /// Gives it the flash image `name` of the machine that `build` was signed for.
    ///
    /// # Errors
    /// If the file cannot be copied.
    pub fn flash_from(&self, build: &Path, name: &str) -> anyhow::Result<()> {
        fs::copy(build.join("signed").join(name), self.folder.join(name)).context("cannot copy the firmware")?;
        Ok(())
    }

    /// Lets it reach these ports of this machine's loopback, from the next time that it is turned on.
    pub fn reach(&mut self, reach: Vec<Reach>) {
        self.reach = reach;
    }

    /// Lets these ports of this machine's loopback be answered by it, from the next time that it is turned on.
    pub fn forward(&mut self, forward: Vec<Reach>) {
        self.forward = forward;
    }

    /// The process id of QEMU, while it is on.
    pub fn id(&self) -> Option<u32> {
        self.qemu.as_ref().map(Child::id)
    }

    /// Lets its processors share one thread, from the next time that it is turned on: several machines then share this one's cores better.
    pub const fn share_one_thread(&mut self) {
        self.threads = Threads::One;
    }

    /// Gives QEMU further arguments, from the next time that it is turned on.
    pub fn arguments(&mut self, further: &[&str]) {
        self.further = further.iter().map(|&word| word.to_owned()).collect();
    }

    /// The command that turns it on.
    ///
    /// # Errors
    /// If `mbl` was not built.
    pub fn command(&self) -> anyhow::Result<Command> {
        let mut command = Command::new(program("mbl")?);
        command.args(["image", "run"]).arg(&self.build).arg("--machine").arg(&self.folder);
        command.arg("--description").arg(tree().join("image"));
        for reach in &self.reach {
            command.args(["--reach", &reach.to_string()]);
        }
        for forward in &self.forward {
            command.args(["--forward", &forward.to_string()]);
        }
        if self.threads == Threads::One {
            command.arg("--one-thread");
        }
        command.args(["--", "-qmp", &format!("unix:{MONITOR},server=on,wait=off")]);
        command.args(&self.further);
        Ok(command)
    }

    /// Turns it on.
    ///
    /// # Errors
    /// If QEMU cannot be started.
    pub fn power_on(&mut self) -> anyhow::Result<()> {
        self.start(&[])
    }

    /// Lets it go on as it was when the file `moment` was saved. Its folder is as it was then, and so is its command, but for the ports of
    /// this machine's loopback.
    ///
    /// # Errors
    /// If QEMU cannot be started, or does not take it.
    pub fn resume(&mut self, moment: &Path) -> anyhow::Result<()> {
        self.start(&["-incoming", &format!("exec:cat {}", quoted(moment)?)])?;
        // What is typed before would be lost.
        let is_there = || Ok((self.ask("query-status", &json!({}))?["status"] == "paused").then_some(()));
        until(MOVING, "the machine to be as it was saved", is_there).with_context(|| self.last_words())?;
        self.ask("cont", &json!({})).map(drop)
    }

    fn start(&mut self, further: &[&str]) -> anyhow::Result<()> {
        match fs::remove_file(self.folder.join(MONITOR)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).context("cannot clear the old monitor");
            }
            _ => {}
        }
        self.earlier = self.said().len();
        self.read = self.earlier;
        let log = File::options().create(true).append(true).open(self.log()).context("cannot open the serial log")?;
        let mut command = self.command()?;
        let errors = log.try_clone().context("cannot share the serial log")?;
        command.args(further).stdin(Stdio::piped()).stdout(log).stderr(errors);
        self.qemu = Some(command.spawn().context("cannot run mbl image run")?);
        Ok(())
    }

    /// Pulls the network's cable out, or puts it in again. It is turned on.
    ///
    /// # Errors
    /// If QEMU does not do it.
    pub fn cable(&self, plugged: bool) -> anyhow::Result<()> {
        self.ask("set_link", &json!({ "name": "net", "up": plugged })).map(drop)
    }

    /// Has QEMU's monitor do this; what it answers.
    fn ask(&self, command: &str, arguments: &Value) -> anyhow::Result<Value> {
        let socket = self.folder.join(MONITOR);
        // QEMU makes the socket a moment after it was started.
        until(Duration::from_secs(30), "QEMU's monitor", || Ok(socket.exists().then_some(())))?;
        monitor::tell(&socket, command, arguments)
    }

    /// Saves what it does at this moment in the file `moment` and turns it off: with its folder, that is all it takes to go on.
    ///
    /// # Errors
    /// If QEMU does not do it.
    pub fn save(&mut self, moment: &Path) -> anyhow::Result<()> {
        // A file is no network that others need, too.
        self.ask("migrate-set-parameters", &json!({ "max-bandwidth": 10_u64 << 30 }))?;
        self.ask("stop", &json!({}))?;
        self.ask("migrate", &json!({ "uri": format!("exec:cat > {}", quoted(moment)?) }))?;
        let saved = || {
            let state = self.ask("query-migrate", &json!({}))?;
            anyhow::ensure!(state["status"] != "failed", "QEMU cannot save the machine: {state}");
            Ok((state["status"] == "completed").then_some(()))
        };
        until(MOVING, "the machine to be saved", saved)?;
        self.cut_power()
    }

    /// Cuts the power.
    ///
    /// # Errors
    /// If the process cannot be ended.
    pub fn cut_power(&mut self) -> anyhow::Result<()> {
        if let Some(mut qemu) = self.qemu.take() {
            qemu.kill().context("cannot end QEMU")?;
            qemu.wait().context("cannot wait for QEMU")?;
        }
        Ok(())
    }

    /// Waits until it has turned itself off.
    ///
    /// # Errors
    /// After `limit`.
    pub fn until_off(&mut self, limit: Duration) -> anyhow::Result<()> {
        let mut qemu = self.qemu.take().context("the machine is off")?;
        let off = until(limit, "the machine to turn itself off", || Ok(qemu.try_wait()?));
        if off.is_err() {
            qemu.kill().context("cannot end QEMU")?;
            qemu.wait().context("cannot wait for QEMU")?;
        }
        off.map(drop).with_context(|| self.last_words())
    }

    /// Types a line at its serial port.
    ///
    /// # Errors
    /// If it is off.
    pub fn type_line(&mut self, line: &str) -> anyhow::Result<()> {
        self.type_text(&format!("{line}\n"))
    }

    /// Types at its serial port, control characters as they are.
    ///
    /// # Errors
    /// If it is off.
    pub fn type_text(&mut self, text: &str) -> anyhow::Result<()> {
        let input = self.qemu.as_mut().and_then(|qemu| qemu.stdin.as_mut()).context("the machine is off")?;
        input.write_all(text.as_bytes()).context("cannot type at the serial port")
    }

    /// Waits until its serial port says one of `words` after what earlier waits have heard; says which, with the rest of its line.
    ///
    /// # Errors
    /// After `limit`, or if the machine is gone, with the last lines that it said.
    pub fn until_says_one(&mut self, words: &[&str], limit: Duration) -> anyhow::Result<String> {
        let what = format!("the machine to say one of {words:?}");
        let (log, from) = (self.log(), self.read);
        let heard = until(limit, &what, || {
            let text = plain(&fs::read(&log)?);
            let fresh = text.get(from..).unwrap_or_default();
            let found = words.iter().filter_map(|word| fresh.find(word).map(|at| (at, *word))).min();
            let Some((at, word)) = found else {
                // Looked at last, so that its last words have been heard.
                let gone = self.qemu.as_mut().is_none_or(|qemu| !matches!(qemu.try_wait(), Ok(None)));
                return Ok(gone.then_some(None));
            };
            let line = fresh.get(at..).and_then(|rest| rest.lines().next()).unwrap_or_default().to_owned();
            Ok(Some(Some((from + at + word.len(), line))))
        });
        let heard = heard.and_then(|heard| heard.context("the machine is off"));
        let (read, line) = heard.with_context(|| self.last_words())?;
        self.read = read;
        Ok(line)
    }

    /// As [`Machine::until_says_one`], for one word.
    ///
    /// # Errors
    /// As there.
    pub fn until_says(&mut self, word: &str, limit: Duration) -> anyhow::Result<String> {
        self.until_says_one(&[word], limit)
    }

    /// Waits until the system that was started last shows the prompt of a development image's shell.
    ///
    /// # Errors
    /// After `limit`.
    pub fn until_prompt(&mut self, limit: Duration) -> anyhow::Result<()> {
        const PROMPT: &str = "bash-";
        let (log, earlier) = (self.log(), self.earlier);
        let shown = until(limit, "the prompt of the shell", || {
            let text = plain(&fs::read(&log)?);
            // Prompts of earlier starts stand above it.
            let from = text.rfind("mbl-init: starting slot").map_or(earlier, |at| at.max(earlier));
            Ok(text.get(from..).and_then(|this| this.find(PROMPT)).map(|at| from + at + PROMPT.len()))
        });
        self.read = shown.with_context(|| self.last_words())?;
        Ok(())
    }

    /// Runs a command in the shell of a development image and gives back what it printed.
    ///
    /// # Errors
    /// If it does not end within `limit`.
    pub fn shell(&mut self, command: &str, limit: Duration) -> anyhow::Result<String> {
        // Quoted apart, so that what is typed is not what is waited for.
        self.type_line(&format!("echo \"shell-\"\"begins\"; {{ {command}; }} 2>&1; echo \"shell-\"\"is-done\""))?;
        self.until_says("shell-begins", limit)?;
        let before = self.read;
        self.until_says("shell-is-done", limit)?;
        let text = self.said();
        let said = text.get(before..self.read).unwrap_or_default();
        Ok(said.trim_end_matches("shell-is-done").trim().to_owned())
    }

    /// Everything that it has said so far, without what only moves a cursor.
    pub fn said(&self) -> String {
        plain(&fs::read(self.log()).unwrap_or_default())
    }

    /// The file with everything that it said.
    pub fn log(&self) -> PathBuf {
        self.folder.join("serial.log")
    }

    fn last_words(&self) -> String {
        let text = self.said();
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let from = lines.len().saturating_sub(25);
        format!("the serial port said last:\n{}", lines.get(from..).unwrap_or_default().join("\n"))
    }

    /// Flips one bit of the disk, `offset` bytes behind the place where `content` begins; the machine is off.
    ///
    /// # Errors
    /// If the content is not on the disk.
    pub fn flip_bit_in(&self, content: &[u8], offset: u64) -> anyhow::Result<()> {
        let mark = content.get(..4096).context("the content is shorter than a block")?;
        let disk = File::options().read(true).write(true).open(self.disk()).context("cannot open the disk")?;
        let length = disk.metadata().context("cannot look at the disk")?.len();
        let (mut piece, mut block) = (vec![0; 1 << 20], [0; 4096]);
        for from in (0..length).step_by(piece.len()) {
            let read = disk.read_at(&mut piece, from).context("cannot read the disk")?;
            // Partitions, clusters and files all begin at sectors.
            let sectors = piece[..read].chunks_exact(512).zip((from..).step_by(512));
            for (_, at) in sectors.filter(|(sector, _)| *sector == &mark[..512]) {
                disk.read_exact_at(&mut block, at).context("cannot read the disk")?;
                if block == mark {
                    let mut byte = [0];
                    disk.read_exact_at(&mut byte, at + offset).context("cannot read the disk")?;
                    byte[0] ^= 1;
                    return disk.write_all_at(&byte, at + offset).context("cannot write the disk");
                }
            }
        }
        anyhow::bail!("what should be bent is not on the disk")
    }

    /// Flips one bit in the firmware image package of slot a, `offset` bytes behind the place where `content` begins; the machine is
    /// off. What follows the first kilobyte of `content` may have been changed by signing.
    ///
    /// # Errors
    /// If the content is not there exactly once.
    pub fn flip_bit_in_flash(&self, content: &[u8], offset: usize) -> anyhow::Result<()> {
        let mark = content.get(..1024).context("the content is shorter than a kilobyte")?;
        let bytes = self.flash(SLOT_A, SLOT_BYTES)?;
        let is_there = |at: &usize| bytes.get(*at..*at + mark.len()) == Some(mark);
        let places: Vec<usize> = (0..bytes.len() - mark.len()).filter(is_there).collect();
        let &[at] = places.as_slice() else {
            anyhow::bail!("what should be bent is in the flash {} times", places.len())
        };
        let bent = bytes.get(at + offset).context("the offset is behind the end of the slot")? ^ 1;
        self.write_flash(SLOT_A + (at + offset) as u64, &[bent])
    }

    /// The bytes of the flash that the system can write, from `offset` on.
    ///
    /// # Errors
    /// If the file of the machine cannot be read.
    pub fn flash(&self, offset: u64, length: usize) -> anyhow::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let flash = File::open(self.folder.join(FIRMWARE_PACKAGE)).context("cannot open the flash")?;
        flash.read_exact_at(&mut bytes, offset).context("cannot read the flash")?;
        Ok(bytes)
    }

    /// Replaces bytes of that flash; the machine is off.
    ///
    /// # Errors
    /// If the file of the machine cannot be written.
    pub fn write_flash(&self, offset: u64, bytes: &[u8]) -> anyhow::Result<()> {
        let flash =
            File::options().write(true).open(self.folder.join(FIRMWARE_PACKAGE)).context("cannot open the flash")?;
        flash.write_all_at(bytes, offset).context("cannot write the flash")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Nothing can be told from a destructor; a process that is gone already is what was wanted.
        drop(self.cut_power());
    }
}

/// A path as a word of the shell.
fn quoted(path: &Path) -> anyhow::Result<String> {
    let path = std::path::absolute(path).context("cannot find the folder")?;
    let text = path.to_str().filter(|text| !text.contains('\'')).context("the path is no word of a shell")?;
    Ok(format!("'{text}'"))
}

/// Text without escape sequences and carriage returns. Whole pieces are copied, since waits look at all that was said 20 times a second.
fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes).replace('\r', "");
    let mut pieces = text.split('\u{1b}');
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let mut rest = piece.chars();
        if rest.next() == Some('[') {
            // A control sequence ends with a letter (ECMA-48, 5.4).
            rest.find(char::is_ascii_alphabetic);
        }
        plain.push_str(rest.as_str());
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_a_cursor_is_no_text() {
        assert_eq!(plain(b"\x1b[0;32m  OK  \x1b[0m] done\r\n\x1b[K"), "  OK  ] done\n");
        assert_eq!(plain(b"\x1b7as it was\x1b8\x1b[12"), "as it was");
    }
}
