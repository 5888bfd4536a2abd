//! The mount namespace of this process: what it mounts is seen by the containers that it starts and by nobody else, and is gone
//! when it ends, whichever way it ends.

use std::{io, path::Path};

use rustix::{
    io::Errno,
    mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, mount_remount, unmount},
};

use crate::sys;

/// Leaves the mount namespace of whoever started this process; later mounts out there still show in here. To be called before
/// any thread is started.
pub fn own_mount_namespace() -> io::Result<()> {
    sys::unshare_mounts()?;
    Ok(mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::DOWNSTREAM)?)
}

/// Shows the folder `from` at `to`, where nothing can be written, no device opened and no set-user-id bit honoured.
pub(super) fn bind_read_only(from: &Path, to: &Path) -> io::Result<()> {
    mount_bind(from, to)?;
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    Ok(mount_remount(to, flags, "")?)
}

/// Makes a file system in memory at `at`, for a few small files that nobody but their owner reads.
pub(super) fn in_memory(at: &Path) -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(mount("tmpfs", at, "tmpfs", flags, c"size=131072,mode=755")?)
}

/// Takes away what is mounted at `at`, if anything is.
pub(super) fn unbind(at: &Path) -> io::Result<()> {
    match unmount(at, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
