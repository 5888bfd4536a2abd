//! From the initrd to the verified root: moves the mounts, frees the initrd's memory, starts the system's manager.

use std::{
    ffi::CStr,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::Command,
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fstat, fstatfs, openat, statat, unlinkat},
    mount::mount_move,
    process::{chdir, chroot},
};

use crate::console::say;

/// What could not be handed over.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}")]
pub struct HandoverError {
    what: String,
    source: io::Error,
}

const MANAGER: &str = "/usr/lib/systemd/systemd";
/// Magic numbers of the two file systems that an initrd is unpacked into (`linux/magic.h`).
const RAMFS: i64 = 0x8584_58f6;
const TMPFS: i64 = 0x0102_1994;
/// An initrd is shallow; deeper folders are left to the kernel's end.
const DEEPEST: u32 = 16;

/// Starts the system under `root`. Returns only if that fails.
///
/// # Errors
/// If a mount cannot be moved, or the manager cannot be started.
pub fn hand_over(root: &str) -> Result<std::convert::Infallible, HandoverError> {
    let tried = |what: String| move |source: io::Error| HandoverError { what, source };
    let old = openat(CWD, "/", OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY, Mode::empty())
        .map_err(|e| tried("open the initrd".to_owned())(e.into()))?;
    for own in ["/dev", "/proc", "/sys", "/run"] {
        let to = format!("{root}{own}");
        mount_move(own, &to).map_err(|e| tried(format!("move {own} to {to}"))(e.into()))?;
    }
    chdir(root).map_err(|e| tried(format!("enter {root}"))(e.into()))?;
    free(&old);
    mount_move(".", "/").map_err(|e| tried(format!("make {root} the root"))(e.into()))?;
    chroot(".").map_err(|e| tried("change the root".to_owned())(e.into()))?;
    chdir("/").map_err(|e| tried("enter the new root".to_owned())(e.into()))?;
    let error = Command::new(MANAGER).env_clear().exec();
    Err(tried(format!("start {MANAGER}"))(error))
}

/// Frees the memory of the initrd. Its files are gone for ever, so it makes sure that they are an initrd's.
fn free(old: &OwnedFd) {
    let Ok(magic) = fstatfs(old).map(|stat| stat.f_type) else { return };
    let Ok(device) = fstat(old).map(|stat| stat.st_dev) else { return };
    #[expect(clippy::useless_conversion, reason = "the type of the number differs between processors")]
    if i64::from(magic) != RAMFS && i64::from(magic) != TMPFS {
        return say("the initrd is not in memory, so it is left as it is");
    }
    empty(old.as_fd(), device, DEEPEST);
}

/// Removes what is in a folder, but nothing on another device. What cannot be removed is left: it only costs memory.
fn empty(folder: impl AsFd, device: u64, deeper: u32) {
    let Ok(entries) = Dir::read_from(&folder) else { return };
    let names: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.file_name().to_owned())).collect();
    for name in names {
        if name.as_bytes() != b"." && name.as_bytes() != b".." {
            remove(&folder, &name, device, deeper);
        }
    }
}

fn remove(folder: &impl AsFd, name: &CStr, device: u64, deeper: u32) {
    let Ok(stat) = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) else { return };
    if stat.st_dev != device {
        return;
    }
    let flags = if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        let how = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if let (Some(deeper), Ok(inner)) = (deeper.checked_sub(1), openat(folder, name, how, Mode::empty())) {
            empty(&inner, device, deeper);
        }
        AtFlags::REMOVEDIR
    } else {
        AtFlags::empty()
    };
    // A mount point cannot be removed; it costs nothing.
    drop(unlinkat(folder, name, flags).map_err(io::Error::from));
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn emptying_a_folder_follows_no_link_out_of_it() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "").unwrap();
        let inside = tempfile::tempdir().unwrap();
        fs::create_dir_all(inside.path().join("a/b")).unwrap();
        fs::write(inside.path().join("a/b/c"), "").unwrap();
        std::os::unix::fs::symlink(outside.path(), inside.path().join("link")).unwrap();
        let folder = openat(CWD, inside.path(), OFlags::DIRECTORY, Mode::empty()).unwrap();
        let device = fstat(&folder).unwrap().st_dev;
        empty(&folder, device, DEEPEST);
        assert_eq!(fs::read_dir(inside.path()).unwrap().count(), 0);
        assert!(outside.path().join("kept").exists());
    }

    #[test]
    fn files_of_another_device_are_left() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("kept"), "").unwrap();
        let open = openat(CWD, folder.path(), OFlags::DIRECTORY, Mode::empty()).unwrap();
        empty(&open, fstat(&open).unwrap().st_dev + 1, DEEPEST);
        assert!(folder.path().join("kept").exists());
    }
}
