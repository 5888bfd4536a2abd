//! Programs of the folder `guest` inside of a machine whose image does not have them: compiled here, typed in at its shell.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, ensure};

use crate::Machine;

/// As `image/device-binaries` uses it for what runs on boards.
const COMPILER: &str = "aarch64-linux-gnu-gcc";
/// No library, no start files, and nothing in the file that is not the program: it is typed.
const OPTIONS: [&str; 9] = [
    "-Os",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-static",
    "-nostdlib",
    "-ffreestanding",
    "-fno-asynchronous-unwind-tables",
    "-Wl,--build-id=none,-z,noseparate-code,-z,max-page-size=4096,-z,norelro,--strip-all",
];
/// A terminal takes at most 4096 bytes in one line.
const LINE: usize = 1024;
const ANSWER: Duration = Duration::from_secs(60);

/// Compiles the program `name` and puts it into the machine, whose shell waits; its path there.
///
/// # Errors
/// If there is no compiler, or the machine does not take it.
pub fn bring(machine: &mut Machine, name: &str) -> anyhow::Result<String> {
    let program = machine.disk().with_file_name(name);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest").join(name).with_extension("c");
    let output = Command::new(COMPILER).args(OPTIONS).arg("-o").arg(&program).arg(&source).output();
    let output = output.with_context(|| format!("cannot run {COMPILER}; image/device-binaries installs it"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{COMPILER} does not compile {}:\n{said}", source.display());
    let bytes = fs::read(&program).with_context(|| format!("cannot read {}", program.display()))?;
    let (text, path) = (hex::encode_upper(bytes), format!("/tmp/{name}"));
    for line in text.as_bytes().chunks(LINE) {
        let line = std::str::from_utf8(line).context("hexadecimal digits are text")?;
        machine.shell(&format!("printf %s {line} >> {path}.hex"), ANSWER)?;
    }
    let put = format!("basenc --base16 -d {path}.hex > {path} && chmod 0755 {path} && stat -c %s {path}");
    let put = machine.shell(&put, ANSWER)?;
    ensure!(put.trim() == (text.len() / 2).to_string(), "{path} did not arrive whole: {put}");
    Ok(path)
}
