//! A board's machine under QEMU: what a developer runs on the desk and what the tests run. Never changes a build; a machine has its
//! own copy of disk, firmware variables and TPM, in a folder that stands for it.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::{fd::AsRawFd as _, unix::net::UnixStream},
    path::Path,
    process::Command,
    time::Duration,
};

use super::{
    build::{DISK, signed_folder},
    description::Description,
    error::{ImageError, file, remove, replace},
    firmware::{FLASH, flash_images},
};
use crate::{board::KeyStore, command};

/// The folder of the TPM's memory in the folder of a machine.
const TPM: &str = "tpm";
/// Its file, as soon as there is any.
const TPM_MEMORY: &str = "tpm2-00.permall";
/// The socket between QEMU and the TPM, named from within the folder: a socket's path is short.
const TPM_SOCKET: &str = "tpm.sock";
/// What ends a TPM in order, on its control channel (`CMD_SHUTDOWN` of `swtpm_ioctls`, its number in network order).
const TPM_SHUTDOWN: [u8; 4] = 3_u32.to_be_bytes();
/// How long a TPM may take to answer that. One that QEMU speaks to does not.
const TPM_ANSWER: Duration = Duration::from_secs(2);

/// What a machine calls the one who runs it.
pub const HOST_ADDRESS: &str = "10.0.2.100";

/// A port that another one answers: of a machine that reaches this machine's loopback under [`HOST_ADDRESS`], or the other way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// The port that is asked for.
    pub port: u16,
    /// The port on the other side that answers.
    pub answered_by: u16,
}

/// A text that names no port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write a port as in 5684, or as in 5684=15684 if another port of the loopback answers")]
pub struct NoPort;

impl std::str::FromStr for Reach {
    type Err = NoPort;
    fn from_str(text: &str) -> Result<Self, NoPort> {
        let (port, answered_by) = text.split_once('=').unwrap_or((text, text));
        let number = |text: &str| text.parse().map_err(|_| NoPort);
        Ok(Self { port: number(port)?, answered_by: number(answered_by)? })
    }
}

impl std::fmt::Display for Reach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.port, self.answered_by)
    }
}

/// On how many threads QEMU emulates the processors of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// Each processor has its own: the machine is fast while nobody else needs the cores.
    OnePerProcessor,
    /// All processors share one: no core is lost to a processor that waits for another one, which has none just now.
    One,
}

/// Makes the folder of a machine from the signed form of the build in `build`, as it comes from the factory line: nothing was ever
/// written. An older machine in the folder is thrown away.
pub fn make_machine(build: &Path, machine: &Path) -> Result<(), ImageError> {
    let signed = signed_folder(build);
    let mut images = vec![signed.join(DISK)];
    for entry in fs::read_dir(&signed).map_err(file("read", &signed))? {
        let path = entry.map_err(file("read", &signed))?.path();
        if path.extension().is_some_and(|kind| kind == FLASH) {
            images.push(path);
        }
    }
    // Under another name until it is complete: half a machine would be turned on the next time.
    let name = machine.file_name().ok_or_else(|| file("make", machine)(io::ErrorKind::InvalidInput.into()))?;
    let mut name = name.to_owned();
    name.push(".new");
    let fresh = machine.with_file_name(name);
    remove(&fresh)?;
    fs::create_dir_all(fresh.join(TPM)).map_err(file("make", &fresh))?;
    // `cp` keeps the holes of a disk image, which is mostly holes.
    let mut copy = Command::new("cp");
    copy.args(["--sparse=always", "--reflink=auto", "--"]);
    copy.args(images).arg(&fresh);
    command::output(&mut copy, "coreutils").map_err(|source| ImageError::Tool { what: "copy of the disk", source })?;
    replace(machine, &fresh)
}

/// The command that turns the machine in `machine` on, with its serial port on standard input and output.
///
/// It has a network in which nobody answers but what `reach` names, under [`HOST_ADDRESS`], and nobody asks but through the ports of
/// this machine's loopback that `forward` names. The TPM is a program of its own, which is started here; it ends with QEMU.
pub fn power_on(
    description: &Description,
    machine: &Path,
    reach: &[Reach],
    forward: &[Reach],
    threads: Threads,
) -> Result<Command, ImageError> {
    let board = &description.board;
    if board.key_store == KeyStore::Tpm2 {
        start_tpm(machine)?;
    }
    let mut qemu = Command::new(&board.machine.program);
    qemu.current_dir(machine).args(&board.machine.arguments);
    let threads = match threads {
        Threads::OnePerProcessor => "multi",
        Threads::One => "single",
    };
    // A small translation buffer: several machines share a desk.
    qemu.args(["-accel", &format!("tcg,thread={threads},tb-size=256")]);
    qemu.args(["-nodefaults", "-no-user-config", "-nographic"]);
    qemu.args(["-serial", "stdio", "-monitor", "none"]);
    let [fixed, written] = flash_images(board);
    qemu.args(["-drive", &format!("if=pflash,format=raw,unit=0,readonly=on,file={fixed}")]);
    qemu.args(["-drive", &format!("if=pflash,format=raw,unit=1,file={written}")]);
    qemu.args(["-drive", &format!("if=none,id=disk,format=raw,cache=writeback,file={DISK}")]);
    qemu.args(["-device", "virtio-blk-pci,drive=disk,bootindex=0", "-device", "virtio-rng-pci"]);
    let mut network = "user,id=net,restrict=on".to_owned();
    for Reach { port, answered_by } in reach {
        network += &format!(",guestfwd=tcp:{HOST_ADDRESS}:{port}-cmd:socat STDIO TCP:127.0.0.1:{answered_by}");
    }
    for Reach { port, answered_by } in forward {
        network += &format!(",hostfwd=tcp:127.0.0.1:{port}-:{answered_by}");
    }
    qemu.args(["-netdev", &network, "-device", "virtio-net-pci,netdev=net,romfile="]);
    if board.key_store == KeyStore::Tpm2 {
        qemu.args(["-chardev", &format!("socket,id=tpm,path={TPM_SOCKET}")]);
        qemu.args(["-tpmdev", "emulator,id=tpm,chardev=tpm", "-device", "tpm-tis-device,tpmdev=tpm"]);
    }
    Ok(qemu)
}

/// Starts the TPM; it listens when this returns, and ends when QEMU lets go of it.
fn start_tpm(machine: &Path) -> Result<(), ImageError> {
    // A daemon leaves its folder.
    let memory = std::path::absolute(machine.join(TPM)).map_err(file("find", machine))?;
    if !memory.join(TPM_MEMORY).exists() {
        manufacture_tpm(&memory)?;
    }
    end_left_tpm(machine).map_err(file("end the former TPM in", machine))?;
    let mut swtpm = Command::new("swtpm");
    swtpm.current_dir(machine).args(["socket", "--daemon", "--tpm2", "--flags", "startup-clear", "--terminate"]);
    swtpm.args([
        "--tpmstate",
        &format!("dir={}", memory.display()),
        "--ctrl",
        &format!("type=unixio,path={TPM_SOCKET}"),
    ]);
    swtpm.args(["--log", "file=tpm.log,level=1"]);
    tpm_tool(&mut swtpm, "swtpm")
}

/// Ends the TPM of a start that was interrupted before QEMU spoke to it: nobody else would ever let go of it, and it keeps its memory from
/// the next one.
fn end_left_tpm(machine: &Path) -> io::Result<()> {
    let folder = File::open(machine)?;
    let Ok(mut left) = UnixStream::connect(format!("/proc/self/fd/{}/{TPM_SOCKET}", folder.as_raw_fd())) else {
        return Ok(());
    };
    left.set_read_timeout(Some(TPM_ANSWER))?;
    // It has let go of its memory when it hangs up. If it does not, the next one says so.
    drop(left.write_all(&TPM_SHUTDOWN).and_then(|()| left.read_to_end(&mut Vec::new())));
    Ok(())
}

/// Makes the memory of a new TPM, whose only registers are those for SHA-256: the firmware hashes the whole system once for each bank that
/// there is, and all but one of a TPM as it comes are for nobody.
fn manufacture_tpm(memory: &Path) -> Result<(), ImageError> {
    let mut setup = Command::new("swtpm_setup");
    setup.args(["--tpm2", "--pcr-banks", "sha256", "--tpmstate", &format!("dir://{}", memory.display())]);
    tpm_tool(&mut setup, "swtpm-tools")
}

fn tpm_tool(command: &mut Command, package: &'static str) -> Result<(), ImageError> {
    let ended = command::output(command, package);
    ended.map(drop).map_err(|source| ImageError::Tool { what: "TPM of the machine", source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_could_not_be_copied_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let (signed, machine) = (signed_folder(dir.path()), dir.path().join("machine"));
        // `cp` copies the disk and then refuses the folder.
        let in_the_way = signed.join("firmware.fd");
        fs::create_dir_all(&in_the_way).unwrap();
        fs::write(signed.join(DISK), b"disk").unwrap();
        make_machine(dir.path(), &machine).unwrap_err();
        assert!(!machine.exists());
        fs::remove_dir(&in_the_way).unwrap();
        fs::write(&in_the_way, b"firmware").unwrap();
        make_machine(dir.path(), &machine).unwrap();
        assert_eq!(fs::read(machine.join(DISK)).unwrap(), b"disk");
        assert!(machine.join(TPM).is_dir() && !dir.path().join("machine.new").exists());
        fs::write(machine.join("written"), b"later").unwrap();
        make_machine(dir.path(), &machine).unwrap();
        assert!(!machine.join("written").exists(), "an older machine is thrown away");
    }

    #[test]
    fn a_port_is_answered_by_itself_unless_another_is_named() {
        assert_eq!("5684".parse(), Ok(Reach { port: 5684, answered_by: 5684 }));
        let other = Reach { port: 5684, answered_by: 15_684 };
        assert_eq!(other.to_string().parse(), Ok(other));
        for wrong in ["", "=", "5684=", "65536", "5684=1=2", "coaps"] {
            assert_eq!(wrong.parse::<Reach>(), Err(NoPort), "{wrong}");
        }
    }
}
