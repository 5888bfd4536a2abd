//! What must be asked of the kernel before anything can be found: its file systems, modules and watchdog.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::Path,
    time::Duration,
};

use rustix::{
    io::Errno,
    mount::{MountFlags, UnmountFlags, mount, unmount},
    system::{RebootCommand, finit_module, reboot},
};

use crate::{
    console::{in_one_line, say},
    slots::Ending,
    sys,
};

/// A file system that could not be mounted.
#[derive(Debug, thiserror::Error)]
#[error("cannot mount {kind} from {source_name} on {at}")]
pub struct MountError {
    /// Its kind.
    pub kind: &'static str,
    /// What was to be mounted.
    pub source_name: String,
    /// Where to.
    pub at: String,
    /// Why not.
    pub source: io::Error,
}

/// Mounts a file system and makes the folder for it if it is missing and can be made.
///
/// # Errors
/// If the kernel refuses.
pub fn mount_at(
    kind: &'static str,
    what: &str,
    at: &str,
    flags: MountFlags,
    options: &std::ffi::CStr,
) -> Result<(), MountError> {
    // If it cannot be made, mounting says why.
    drop(fs::create_dir_all(at));
    match mount(what, at, kind, flags, options) {
        Ok(()) => Ok(()),
        Err(e) => Err(MountError { kind, source_name: what.to_owned(), at: at.to_owned(), source: e.into() }),
    }
}

const BARE: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// Mounts the kernel's own file systems.
///
/// # Errors
/// If the kernel refuses one.
pub fn mount_own() -> Result<(), MountError> {
    mount_at("proc", "proc", "/proc", BARE, c"")?;
    mount_at("sysfs", "sysfs", "/sys", BARE, c"")?;
    mount_at("devtmpfs", "devtmpfs", "/dev", MountFlags::NOSUID, c"mode=0755")?;
    mount_at("tmpfs", "tmpfs", "/run", MountFlags::NOSUID | MountFlags::NODEV, c"mode=0755,size=20%")
}

/// Reads variables of the firmware; `None` for each that is not there or, which is said, cannot be read, or without such firmware.
pub fn firmware_variables<const N: usize>(files: [&str; N], limit: usize) -> [Option<Vec<u8>>; N] {
    const AT: &str = "/sys/firmware/efi/efivars";
    // Read-only, and away again at once: the system mounts it as it needs it.
    let mounted = Path::new(AT).is_dir().then(|| mount_at("efivarfs", "efivarfs", AT, BARE | MountFlags::RDONLY, c""));
    match mounted {
        None => return files.map(|_| None),
        Some(Err(e)) => {
            say(&in_one_line(&e));
            return files.map(|_| None);
        }
        Some(Ok(())) => {}
    }
    let read = files.map(|file| match read_start(&Path::new(AT).join(file), limit) {
        Ok(bytes) => Some(bytes),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => {
            say(&format!("cannot read the variable {file} of the firmware: {e}"));
            None
        }
    });
    if let Err(e) = unmount(AT, UnmountFlags::DETACH) {
        say(&format!("cannot unmount {AT}: {e}"));
    }
    read
}

/// The first `limit` bytes of a file, or all of a shorter one.
///
/// # Errors
/// If it cannot be read.
pub fn read_start(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(u64::try_from(limit).unwrap_or(u64::MAX)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Loads the modules that `/modules` names, in its order. One that does not load is said and passed over: what it was for
/// will be missed where it is needed, with a better message.
pub fn load_modules(list: &Path) {
    let names = match read_start(list, 64 * 1024) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return,
        Err(e) => return say(&format!("cannot read {}: {e}", list.display())),
    };
    for name in names.lines().map(str::trim).filter(|name| !name.is_empty()) {
        let loaded = File::open(name).and_then(|file| match finit_module(&file, c"", 0) {
            Err(Errno::EXIST) => Ok(()),
            other => other.map_err(io::Error::from),
        });
        if let Err(e) = loaded {
            say(&format!("cannot load module {name}: {e}"));
        }
    }
}

/// A panic must end in a restart, or the loader never counts the try.
pub fn restart_after_panic() {
    const PANIC: &str = "/proc/sys/kernel/panic";
    if fs::read_to_string(PANIC).is_ok_and(|text| text.trim() == "0")
        && let Err(e) = fs::write(PANIC, "10")
    {
        say(&format!("cannot write {PANIC}: {e}"));
    }
}

/// How long the machine may go without a sign of life until the system's manager takes the watchdog over.
pub const WITHOUT_LIFE: Duration = Duration::from_secs(120);
const WATCHDOG: &str = "/dev/watchdog0";

/// Arms the hardware watchdog if there is one. It is left armed: closing it without the letter that would disarm it is what
/// makes a system restart that hangs before its manager runs.
pub fn arm_watchdog() {
    if let Some(seconds) = show_life_to_watchdog() {
        say(&format!("{WATCHDOG} restarts the machine after {seconds} seconds without a sign of life"));
    }
}

/// Begins the watchdog's wait anew; returns its length in seconds, or `None` without a watchdog that works.
pub fn show_life_to_watchdog() -> Option<i32> {
    let shown = OpenOptions::new().write(true).open(WATCHDOG).and_then(|mut watchdog| {
        let seconds = i32::try_from(WITHOUT_LIFE.as_secs()).unwrap_or(i32::MAX);
        let seconds = sys::set_watchdog_timeout(&watchdog, seconds)?;
        watchdog.write_all(b"\0")?;
        Ok(seconds)
    });
    match shown {
        Ok(seconds) => return Some(seconds),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => say(&format!("cannot arm {WATCHDOG}: {e}")),
    }
    None
}

/// Leaves time to read the console, then ends the machine. Returns only if the kernel refuses even that.
pub fn end(ending: Ending, after: Duration) {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let until = rustix::time::Timespec {
        tv_sec: now.tv_sec.saturating_add(i64::try_from(after.as_secs()).unwrap_or(i64::MAX)),
        tv_nsec: now.tv_nsec,
    };
    while rustix::thread::clock_nanosleep_absolute(rustix::thread::ClockId::Monotonic, &until) == Err(Errno::INTR) {}
    rustix::fs::sync();
    let (how, word) = match ending {
        Ending::Restart => (RebootCommand::Restart, "restart"),
        Ending::PowerOff => (RebootCommand::PowerOff, "power off"),
    };
    if let Err(e) = reboot(how) {
        say(&format!("cannot {word}: {e}"));
    }
}
