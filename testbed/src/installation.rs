//! What an installation costs the device: the real `mbl-updater` on the partitions of a board with a TPM takes a release from a
//! folder, and its most memory and its time are measured, beside those of a plain copy of the same bytes with the same digests.

use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::{
        fs::{FileExt as _, PermissionsExt as _},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use protocol_types::{
    BootRecord, Digest, Hasher, SecurityVersion, Slot,
    boot::BootEntry,
    boot_record::{Format1, StateOutcome},
};
use rustix::fs::{Advice, fadvise};

use crate::{
    process::Running,
    programs::program,
    replay::{
        board::{Board, ENTRIES, Sizes},
        releases::Account,
        systems::{BOARD, Make, System},
    },
    until,
    wait::until_every,
};

const LIMIT: Duration = Duration::from_secs(600);
const LOOK_EVERY: Duration = Duration::from_millis(5);
const MIB: usize = 1 << 20;
/// Bytes that are brought at once, and those of a block.
const PIECE: usize = 256 * 1024;
const BLOCK: usize = 4096;

/// What was seen.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Bytes of the operating system, all of them new.
    pub bytes: u64,
    /// From the wish to the goodbye before the restart.
    pub installation: Duration,
    /// A copy of the same bytes with the same digests and flushes.
    pub copy: Duration,
    /// The most memory that the updater had at once, in KiB.
    pub peak_kib: u64,
}

/// Installs an operating system of so many MiB in root and kernel image, on a board in the folder `work`.
///
/// # Errors
/// If a program is missing, or the installation does not come to its end.
pub fn measure(work: &Path, root_mib: usize, uki_mib: usize) -> anyhow::Result<Cost> {
    let make = |version, seed| {
        let sizes = (root_mib * MIB, uki_mib * MIB);
        System::of_noise(work, Make { version, security_version: 1, changed: seed, key_store: "tpm2" }, sizes)
    };
    let (first, second) = (make("1.0.0", 1)?, make("1.1.0", 2)?);
    let mut account = Account::new()?;
    let sizes = Sizes { esp_kib: 262_144, root: (root_mib + 1) * MIB, tree: 4 * MIB };
    let board = Board::make(&work.join("board"), &account, (&first, &first), sizes, None)?;
    let wish = account.publish(&second, false)?;
    let folder = work.join("stick");
    account.export(&folder, &wish)?;
    let bytes = (second.root.len() + second.tree.len() + second.uki.len()) as u64;
    let sections = [second.root, second.tree, second.uki].map(|bytes| Digest::of(&bytes));
    let tpm = Tpm::start(&work.join("tpm"))?;
    let device = board.root.join("mbl");
    let updater = program("mbl-updater")?;
    let recorded = Command::new(&updater)
        .args(["record-factory", "--device-dir"])
        .arg(&device)
        .arg("--tpm")
        .arg(&tpm.socket)
        .output()
        .context("cannot run mbl-updater")?;
    ensure!(recorded.status.success(), "{}", String::from_utf8_lossy(&recorded.stderr));
    be_booted(&board, &first)?;
    let mut command = Command::new(&updater);
    command.args(["run", "--board", BOARD, "--device-dir"]).arg(&device).arg("--root").arg(&board.root);
    command.arg("--tpm").arg(&tpm.socket);
    let mut running = Running::start("mbl-updater", &mut command, &work.join("updater.log"))?;
    until(LIMIT, "the updater to listen", || Ok(device.join("run/updater.sock").exists().then_some(())))?;
    let began = Instant::now();
    let mut install = Command::new(&updater);
    let install = install.args(["install", "--device-dir"]).arg(&device).arg("--from").arg(&folder);
    let mut install = install.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("cannot run mbl-updater")?;
    let (mut peak_kib, status) = (0, format!("/proc/{}/status", running.id()));
    until_every(LOOK_EVERY, LIMIT, "the installation to end", || {
        // The kernel keeps the peak until the process is gone.
        let text = fs::read_to_string(&status).unwrap_or_default();
        let peak =
            text.lines().find_map(|line| line.strip_prefix("VmHWM:")).map(|text| text.trim().trim_end_matches(" kB"));
        peak_kib = peak.and_then(|text| text.parse().ok()).unwrap_or(0).max(peak_kib);
        Ok((!running.is_running()?).then_some(()))
    })
    .with_context(|| running.output().unwrap_or_default())?;
    let installation = began.elapsed();
    install.wait().context("cannot wait for the installer")?;
    ensure!(running.output()?.contains("boot entry armed"), "{}", running.output()?);
    let sources = sections.map(|digest| folder.join("artifacts").join(digest.hex()));
    Ok(Cost { bytes, installation, copy: copy(&sources, &work.join("copy"))?, peak_kib })
}

/// The initrd's account of the first system, and what else the updater finds in a system that runs.
fn be_booted(board: &Board, system: &System) -> anyhow::Result<()> {
    let root = &board.root;
    for folder in ["mbl/run", "usr/lib", "usr/bin"] {
        fs::create_dir_all(root.join(folder)).context("cannot make a folder of the system")?;
    }
    let record = BootRecord {
        format: Format1,
        slot: Slot::A,
        entry: BootEntry::parse(ENTRIES[1]),
        root_hash: system.root_hash,
        security_version: system.security_version,
        floor: SecurityVersion(0),
        state: StateOutcome::Open,
        reason: None,
    };
    fs::write(root.join("mbl/run/boot.json"), record.to_json())?;
    fs::write(root.join("usr/lib/os-release"), format!("ID=mbl\nVERSION_ID=\"{}\"\n", system.version))?;
    let systemctl = root.join("usr/bin/systemctl");
    fs::write(&systemctl, "#!/bin/sh\n")?;
    fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755)).context("cannot make the restart a program")
}

/// Copies files as an installation does: each block is hashed before it is written; then it is flushed, dropped from memory, and
/// read again block by block and as a whole.
fn copy(sources: &[PathBuf], to: &Path) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let mut piece = vec![0; PIECE];
    for source in sources {
        let (mut from, target) =
            (File::open(source)?, File::options().read(true).write(true).create(true).truncate(true).open(to)?);
        let (mut at, mut digests) = (0, Vec::new());
        loop {
            let read = from.read(&mut piece)?;
            if read == 0 {
                break;
            }
            digests.extend(piece[..read].chunks(BLOCK).map(Digest::of));
            target.write_all_at(&piece[..read], at)?;
            at += read as u64;
        }
        target.sync_data()?;
        fadvise(&target, 0, None, Advice::DontNeed)?;
        let (mut whole, mut block, mut known) = (Hasher::new(), vec![0; BLOCK], digests.iter());
        for at in (0..at).step_by(BLOCK) {
            let read = target.read_at(&mut block, at)?;
            ensure!(known.next() == Some(&Digest::of(&block[..read])), "the copy is not the same");
            whole.update(&block[..read]);
        }
        ensure!(source.ends_with(whole.finish().hex()), "the copy is not the same");
    }
    Ok(began.elapsed())
}

/// A TPM 2.0 in software.
struct Tpm {
    process: Child,
    socket: PathBuf,
}

impl Tpm {
    fn start(folder: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(folder).context("cannot make the folder of the TPM")?;
        let socket = folder.join("socket");
        let process = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .args(["--server", &format!("type=unixio,path={}", socket.display())])
            .args(["--ctrl", &format!("type=unixio,path={}", folder.join("control").display())])
            .args(["--tpmstate", &format!("dir={}", folder.display())])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot run swtpm")?;
        until(LIMIT, "the TPM to listen", || Ok(UnixStream::connect(&socket).ok().map(drop)))?;
        Ok(Self { process, socket })
    }
}

impl Drop for Tpm {
    fn drop(&mut self) {
        // Nothing can be told from a destructor; a process that is gone already is what was wanted.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
