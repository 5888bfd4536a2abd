//! A plain Debian for a board's machine: what debootstrap makes, with the kernel, the loader and the firmware of a board's image, and
//! nothing of ours but a unit that says how long the start took.

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use image_builder::{
    board::{Board, Firmware},
    image::{FIRMWARE_VARIABLES, Manifest, load_board},
    packages::{Lock, LockedPackage, PackageCache, Pool, RELEASE},
};
use testbed::{
    Machine, Running,
    images::{tree, workshop},
    until,
};

use crate::times::{SAY, Times};

/// Installing it on an emulated machine takes minutes, with others beside it many.
const PATIENCE: Duration = Duration::from_secs(3600);
/// What Debian's kernel needs that debootstrap does not bring by itself.
const WITH: &str = "--include=initramfs-tools,kmod,linux-base,zstd";
/// The program that installs it.
const SECOND_STAGE: &str = include_str!("second-stage");
/// The driver that it needs to reach the disk.
const DISK_DRIVER: &str = "virtio_blk.ko.xz";
const MIB: u64 = 1 << 20;
/// Sizes of the boot partition and of the root file system, in MiB.
const ESP_MIB: u64 = 256;
const ROOT_MIB: u64 = 2048;

/// Says at the serial port how long the start took, and turns the machine off.
const UNIT: (&str, &str) = ("etc/systemd/system/say-times.service", "etc/systemd/system/graphical.target.wants");

/// A machine with a plain Debian.
#[derive(Debug)]
pub(crate) struct Debian {
    machine: Machine,
}

impl Debian {
    /// Makes the machine of the build in `build` in `folder`, with a plain Debian on its disk.
    pub(crate) fn make(build: &Path, folder: &Path) -> anyhow::Result<Self> {
        let board = load_board(&tree().join("image"), Manifest::load(build)?.board.as_str())?;
        let machine = Machine::new(build, folder)?;
        let cache = workshop()?.join("cache");
        let lock = Lock::load(&tree().join("image/lock.toml"))?;
        let Firmware::Package(firmware) = &board.firmware else {
            anyhow::bail!("the firmware of board `{}` starts nothing but what its owner signed", board.name)
        };
        // Without keys: nothing of a plain Debian is signed with ours.
        let package = fetch(&cache, &board, &lock, &firmware.package)?;
        let variables = folder.join(FIRMWARE_VARIABLES);
        let extract = format!(
            "dpkg-deb --fsys-tarfile \"$1\" | tar --extract --to-stdout ./{} > \"$2\"",
            firmware.variables.display()
        );
        run(Command::new("sh").args(["-euc", &extract, "sh"]).arg(&package).arg(&variables))?;
        let kernel = lock.choose(Pool::Device, [board.kernel.package.as_str()])?;
        let kernel = kernel.keys().find(|name| name.starts_with("linux-image-") && **name != board.kernel.package);
        let kernel = kernel.with_context(|| format!("`{}` needs no kernel", board.kernel.package))?;
        let kernel = fetch(&cache, &board, &lock, kernel)?;
        let tar = installed(build, &board, &kernel)?;
        disk(&tar, &build.join("parts/loader.efi"), &machine.disk())?;
        Ok(Self { machine })
    }

    /// Turns it on and waits until it has turned itself off.
    pub(crate) fn start(&mut self) -> anyhow::Result<Times> {
        let before = self.machine.said().len();
        self.machine.power_on()?;
        self.machine.until_off(PATIENCE)?;
        let said = self.machine.said();
        Times::parse(said.get(before..).unwrap_or_default())
    }
}

/// The package `name` of the lock, in the cache.
fn fetch(cache: &Path, board: &Board, lock: &Lock, name: &str) -> anyhow::Result<PathBuf> {
    let package = lock.pool(Pool::Device).find(|package| package.name == name);
    let package: &LockedPackage = package.with_context(|| format!("the lock has no package `{name}`"))?;
    let cache = PackageCache::open(cache)?;
    cache.fetch_locked(&board.debian_architecture, std::slice::from_ref(package))?;
    Ok(cache.file(package))
}

/// A tar of an installed Debian with the kernel in the package `kernel`; made once.
fn installed(build: &Path, board: &Board, kernel: &Path) -> anyhow::Result<PathBuf> {
    let name = kernel.file_stem().unwrap_or_default().to_string_lossy();
    let tar = workshop()?.join(format!("plain-debian-{}.tar", name.get(..16).unwrap_or_default()));
    if tar.exists() {
        return Ok(tar);
    }
    let work = tempfile::tempdir().context("cannot make a work folder")?;
    let (root, memory, fresh) = (work.path().join("root"), work.path().join("root.cpio"), tar.with_extension("fresh"));
    let mut first = Command::new("debootstrap");
    first.args(["--foreign", WITH, &format!("--arch={}", board.debian_architecture), RELEASE]);
    run(first.arg(&root).arg(mirror()?)).context("Debian's `debootstrap` makes the tree, as root")?;
    fs::copy(kernel, root.join("kernel.deb")).context("cannot copy the kernel")?;
    let find =
        "dpkg-deb --fsys-tarfile \"$1\" | tar --extract --to-stdout --wildcards \"./usr/lib/modules/*/$2\" > \"$3\"";
    run(Command::new("sh").args(["-euc", find, "sh"]).arg(kernel).arg(DISK_DRIVER).arg(root.join(DISK_DRIVER)))?;
    write(&root.join("second-stage"), SECOND_STAGE, 0o755)?;
    let pack = "cd \"$1\" && find . -print0 | cpio --null --quiet --create --format=newc > \"$2\"";
    run(Command::new("sh").args(["-euc", pack, "sh"]).arg(&root).arg(&memory))?;
    let disk = File::create(&fresh).with_context(|| format!("cannot make {}", fresh.display()))?;
    disk.set_len((ROOT_MIB + 1024) * MIB).context("cannot make the disk longer")?;

    let mut qemu = Command::new(&board.machine.program);
    qemu.args(&board.machine.arguments).args(["-m", "3072", "-accel", "tcg,thread=multi", "-nodefaults", "-nographic"]);
    qemu.args(["-no-user-config", "-serial", "stdio", "-monitor", "none", "-no-reboot", "-kernel"]);
    qemu.arg(build.join("parts/kernel")).arg("-initrd").arg(&memory);
    qemu.args(["-append", "console=ttyAMA0 rdinit=/second-stage panic=-1 quiet"]);
    qemu.args(["-drive", &format!("if=none,id=disk,format=raw,file={}", fresh.display())]);
    qemu.args(["-device", "virtio-blk-pci,drive=disk"]);
    let mut machine = Running::start("QEMU", &mut qemu, &work.path().join("serial.log"))?;
    until(PATIENCE, "Debian to be installed", || Ok((!machine.is_running()?).then_some(())))?;
    let said = machine.output()?;
    let last: Vec<&str> = said.lines().rev().take(10).collect();
    let done = Command::new("tar").args(["--list", "./installed", "--file"]).arg(&fresh).stderr(Stdio::null()).output();
    ensure!(done.context("cannot run tar")?.status.success(), "Debian was not installed: {last:?}");
    fs::rename(&fresh, &tar).with_context(|| format!("cannot keep {}", tar.display()))?;
    Ok(tar)
}

/// The Debian archive that this machine's apt uses.
fn mirror() -> anyhow::Result<String> {
    let said =
        Command::new("apt-get").args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]).output();
    let said = String::from_utf8_lossy(&said.context("cannot run apt-get")?.stdout).into_owned();
    let archive = said.lines().find(|address| address.trim_end_matches('/').ends_with("/debian"));
    Ok(archive.context("apt of this machine names no Debian archive")?.to_owned())
}

/// Makes the disk image `path`: a boot partition with the loader, and a root file system with what is in the tar.
fn disk(tar: &Path, loader: &Path, path: &Path) -> anyhow::Result<()> {
    let work = tempfile::tempdir().context("cannot make a work folder")?;
    let (root, boot) = (work.path().join("root"), work.path().join("boot"));
    fs::create_dir(&root).context("cannot make the folder of the root")?;
    run(Command::new("tar").args(["--extract", "--numeric-owner", "--directory"]).arg(&root).arg("--file").arg(tar))?;
    write(&root.join("etc/hostname"), "debian\n", 0o644)?;
    write(&root.join("etc/fstab"), "/dev/vda2 / ext4 errors=remount-ro 0 1\n", 0o644)?;
    let says: String = SAY.iter().map(|command| format!("ExecStart={command}\n")).collect();
    let unit = format!(
        "[Unit]\nAfter=multi-user.target\n\n[Service]\nType=oneshot\nStandardOutput=tty\nTTYPath=/dev/console\n{says}\
         ExecStart=systemctl --no-block poweroff\n"
    );
    write(&root.join(UNIT.0), &unit, 0o644)?;
    let wants = root.join(UNIT.1);
    fs::create_dir_all(&wants).context("cannot make the folder of a target")?;
    std::os::unix::fs::symlink("../say-times.service", wants.join("say-times.service"))
        .context("cannot start the unit")?;

    let entry = "title Debian\nlinux /vmlinuz\ninitrd /initrd.img\noptions root=/dev/vda2 ro console=ttyAMA0 panic=5\n";
    for (name, text) in [("loader/loader.conf", "timeout 0\n"), ("loader/entries/debian.conf", entry)] {
        fs::create_dir_all(boot.join(name).parent().unwrap_or(&boot)).context("cannot make a folder of the loader")?;
        write(&boot.join(name), text, 0o644)?;
    }
    fs::create_dir_all(boot.join("EFI/BOOT")).context("cannot make the folder of the loader")?;
    fs::copy(loader, boot.join("EFI/BOOT/BOOTAA64.EFI")).context("cannot copy the loader")?;
    for (from, to) in [("vmlinuz-", "vmlinuz"), ("initrd.img-", "initrd.img")] {
        fs::copy(in_boot(&root, from)?, boot.join(to)).with_context(|| format!("cannot copy {to}"))?;
    }
    let (esp, system) = (work.path().join("esp.img"), work.path().join("root.img"));
    for (image, mib) in [(&esp, ESP_MIB), (&system, ROOT_MIB), (&path.to_owned(), ESP_MIB + ROOT_MIB + 2)] {
        let file = File::create(image).with_context(|| format!("cannot make {}", image.display()))?;
        file.set_len(mib * MIB).with_context(|| format!("cannot make {} longer", image.display()))?;
    }
    run(Command::new("mkfs.vfat").args(["-F", "32"]).arg(&esp))?;
    run(Command::new("mcopy")
        .arg("-s")
        .arg("-i")
        .arg(&esp)
        .args(["EFI", "loader", "vmlinuz", "initrd.img"].map(|name| boot.join(name)))
        .arg("::"))?;
    run(Command::new("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(&root).arg(&system))?;
    let table = work.path().join("table");
    fs::write(&table, format!("label: gpt\nstart=1MiB, size={ESP_MIB}MiB, type=U\nsize={ROOT_MIB}MiB, type=L\n"))
        .context("cannot write a table")?;
    let table = File::open(&table).context("cannot read the table")?;
    run(Command::new("sfdisk").arg("--quiet").arg(path).stdin(table))?;
    for (image, at) in [(&esp, 1), (&system, 1 + ESP_MIB)] {
        let mut dd = Command::new("dd");
        dd.args([
            "bs=1M",
            "conv=notrunc,sparse",
            "status=none",
            &format!("seek={at}"),
            &format!("if={}", image.display()),
        ]);
        run(dd.arg(format!("of={}", path.display())))?;
    }
    Ok(())
}

/// The one file in `/boot` of the tree whose name begins so.
fn in_boot(root: &Path, name: &str) -> anyhow::Result<PathBuf> {
    for entry in fs::read_dir(root.join("boot")).context("cannot read /boot")? {
        let entry = entry.context("cannot read /boot")?;
        if entry.file_name().to_string_lossy().starts_with(name) {
            return Ok(entry.path());
        }
    }
    anyhow::bail!("there is no `{name}…` in /boot of Debian")
}

fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("cannot change {}", path.display()))
}

/// Runs a command to its end, which must be good.
fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("cannot run {}", command.get_program().display()))?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let last: Vec<&str> = said.lines().rev().take(5).collect();
    ensure!(output.status.success(), "{command:?} ended with {}: {last:?}", output.status);
    Ok(())
}
