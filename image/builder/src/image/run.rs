//! A board's machine under QEMU: what a developer runs on the desk and what the tests run. Never changes a build; a machine has its
//! own copy of disk, firmware variables and TPM, in a folder that stands for it.

use std::{fs, path::Path, process::Command};

use super::{
    build::{DISK, signed_folder},
    description::Description,
    error::{ImageError, file},
    firmware::{FLASH, flash_images},
};
use crate::{board::KeyStore, command};

/// The folder of the TPM's memory in the folder of a machine.
const TPM: &str = "tpm";
/// The socket between QEMU and the TPM, named from within the folder: a socket's path is short.
const TPM_SOCKET: &str = "tpm.sock";

/// What a machine calls the one who runs it.
pub const HOST_ADDRESS: &str = "10.0.2.100";

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
    if machine.exists() {
        fs::remove_dir_all(machine).map_err(file("clear", machine))?;
    }
    fs::create_dir_all(machine.join(TPM)).map_err(file("make", machine))?;
    // `cp` keeps the holes of a disk image, which is mostly holes.
    let mut copy = Command::new("cp");
    copy.args(["--sparse=always", "--reflink=auto", "--"]);
    copy.args(images).arg(machine);
    command::output(&mut copy, "coreutils")
        .map(drop)
        .map_err(|source| ImageError::Tool { what: "copy of the disk", source })
}

/// The command that turns the machine in `machine` on, with its serial port on standard input and output.
///
/// It has a network in which nobody answers but `ports` of this machine's loopback, under [`HOST_ADDRESS`]. The TPM is a program of
/// its own, which is started here; it ends with QEMU.
pub fn power_on(description: &Description, machine: &Path, ports: &[u16]) -> Result<Command, ImageError> {
    let board = &description.board;
    if board.key_store == KeyStore::Tpm2 {
        start_tpm(machine)?;
    }
    let mut qemu = Command::new(&board.machine.program);
    qemu.current_dir(machine).args(&board.machine.arguments);
    // A small translation buffer: several machines share a desk.
    qemu.args(["-accel", "tcg,thread=multi,tb-size=256", "-nodefaults", "-no-user-config", "-nographic"]);
    qemu.args(["-serial", "stdio", "-monitor", "none"]);
    let [fixed, written] = flash_images(board);
    qemu.args(["-drive", &format!("if=pflash,format=raw,unit=0,readonly=on,file={fixed}")]);
    qemu.args(["-drive", &format!("if=pflash,format=raw,unit=1,file={written}")]);
    qemu.args(["-drive", &format!("if=none,id=disk,format=raw,cache=writeback,file={DISK}")]);
    qemu.args(["-device", "virtio-blk-pci,drive=disk,bootindex=0", "-device", "virtio-rng-pci"]);
    let mut network = "user,id=net,restrict=on".to_owned();
    for port in ports {
        network += &format!(",guestfwd=tcp:{HOST_ADDRESS}:{port}-cmd:socat STDIO TCP:127.0.0.1:{port}");
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
    let mut swtpm = Command::new("swtpm");
    swtpm.current_dir(machine).args(["socket", "--daemon", "--tpm2", "--flags", "startup-clear", "--terminate"]);
    // A daemon leaves its folder.
    let memory = std::path::absolute(machine.join(TPM)).map_err(file("find", machine))?;
    swtpm.args([
        "--tpmstate",
        &format!("dir={}", memory.display()),
        "--ctrl",
        &format!("type=unixio,path={TPM_SOCKET}"),
    ]);
    swtpm.args(["--log", "file=tpm.log,level=1"]);
    command::output(&mut swtpm, "swtpm")
        .map(drop)
        .map_err(|source| ImageError::Tool { what: "TPM of the machine", source })
}
