//! A folder tree that is written from a layer, and the only place where a name from a layer meets the file system.
//!
//! Every operation starts at the tree's own root folder, follows no symbolic link in any part of a path and never leaves the
//! root (`openat2(2)` with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS`); the last part is always taken for itself.

use std::{
    cell::Cell,
    ffi::OsStr,
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, chownat, fchmod,
        fchown, futimens, linkat, mkdirat, openat, openat2, statat, symlinkat, unlinkat,
    },
    io::Errno,
};

use super::{
    LayerPath,
    entry::Entry,
    error::{LayerError, shown},
};
use crate::limits::Limits;

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A tree whose owners are shifted by a fixed amount, so that the ids of a container become the ids of its range outside.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    shift: u32,
    /// How many folders were made that no entry is for, but only the path of one, and how many may be.
    implied: Cell<u64>,
    most_implied: u64,
}

impl Tree {
    /// The tree in the folder `root`; id 0 inside becomes `shift` outside. At most `most_implied` folders are made that no entry is for.
    pub fn open(root: &Path, shift: u32, most_implied: u64) -> io::Result<Self> {
        let root = openat(CWD, root, FOLDER, Mode::empty())?;
        Ok(Self { root, shift, implied: Cell::new(0), most_implied })
    }

    /// Makes or changes the folder at the entry's path; whatever else is there gives way.
    pub fn put_directory(&self, entry: &Entry) -> Result<(), LayerError> {
        let path = &entry.path;
        let folder = match path.split() {
            None => self.folder(path)?,
            Some((parent, name)) => {
                let parent = self.made_folder(&parent)?;
                if kind_at(&parent, name, path)? != Some(FileType::Directory) {
                    remove(&parent, name, path, Limits::DEPTH)?;
                    mkdirat(&parent, name, Mode::RWXU).map_err(storage("make the folder", path))?;
                }
                openat(&parent, name, FOLDER, Mode::empty()).map_err(storage("open the folder", path))?
            }
        };
        self.adopt(&folder, entry).map_err(storage("set the owner of", path))
    }

    /// Makes the file at the entry's path from `bytes`; whatever is there gives way.
    pub fn put_file(&self, entry: &Entry, size: u64, bytes: &mut dyn Read) -> Result<(), LayerError> {
        let path = &entry.path;
        let (parent, name) = self.place(path)?;
        // Never written through: an existing file may be a hard link that another path shares.
        remove(&parent, name, path, Limits::DEPTH)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&parent, name, flags, Mode::RUSR | Mode::WUSR).map_err(storage("make the file", path))?;
        let mut file = File::from(file);
        copy(bytes, &mut file, size, path)?;
        self.adopt(&file, entry).map_err(storage("set the owner of", path))?;
        let at = Timespec { tv_sec: i64::try_from(entry.modified).unwrap_or(i64::MAX), tv_nsec: 0 };
        futimens(&file, &Timestamps { last_access: at, last_modification: at })
            .map_err(storage("set the time of", path))
    }

    /// Makes a symbolic link; whatever is there gives way.
    pub fn put_symlink(&self, entry: &Entry, target: &OsStr) -> Result<(), LayerError> {
        let path = &entry.path;
        let (parent, name) = self.place(path)?;
        remove(&parent, name, path, Limits::DEPTH)?;
        symlinkat(target, &parent, name).map_err(storage("make the link", path))?;
        let (uid, gid) = self.outside(entry.uid, entry.gid);
        chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(storage("set the owner of", path))
    }

    /// Gives the file `target`, which must be there, another name; whatever has that name gives way.
    pub fn put_hardlink(&self, path: &LayerPath, target: &LayerPath) -> Result<(), LayerError> {
        let malformed = |what| LayerError::Malformed { path: path.to_string(), what };
        let Some((from, from_name)) = target.split() else { return Err(malformed("is a hard link to a folder")) };
        let from = match self.folder(&from) {
            Err(LayerError::Storage { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(malformed("is a hard link to a file that is not in the image"));
            }
            other => other?,
        };
        match kind_at(&from, from_name, target)? {
            Some(FileType::RegularFile | FileType::Symlink) => {}
            None => return Err(malformed("is a hard link to a file that is not in the image")),
            Some(_) => return Err(malformed("is a hard link to a folder")),
        }
        if path == target {
            return Err(malformed("is a hard link to itself"));
        }
        let (parent, name) = self.place(path)?;
        remove(&parent, name, path, Limits::DEPTH)?;
        linkat(&from, from_name, &parent, name, AtFlags::empty()).map_err(storage("make the link", path))
    }

    /// Removes what is at `path`, if anything.
    pub fn hide(&self, path: &LayerPath) -> Result<(), LayerError> {
        let Some((parent, name)) = path.split() else { return self.hide_inside(path) };
        match self.folder_if_there(&parent)? {
            Some(parent) => remove(&parent, name, path, Limits::DEPTH),
            None => Ok(()),
        }
    }

    /// Empties the folder at `path`, if there is one.
    pub fn hide_inside(&self, path: &LayerPath) -> Result<(), LayerError> {
        match self.folder_if_there(path)? {
            Some(folder) => empty(&folder, path, Limits::DEPTH),
            None => Ok(()),
        }
    }

    /// Makes sure that there is something at `path`: a folder unless the image has another idea. The container's mounts go there.
    pub fn ensure_folder(&self, path: &LayerPath) -> Result<(), LayerError> {
        match self.made_folder(path) {
            // A link that the image put there: the runtime resolves it inside the container's root.
            Ok(_) | Err(LayerError::Unsafe { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn outside(&self, uid: u32, gid: u32) -> (Uid, Gid) {
        (Uid::from_raw(self.shift.saturating_add(uid)), Gid::from_raw(self.shift.saturating_add(gid)))
    }

    fn adopt(&self, file: impl AsFd, entry: &Entry) -> rustix::io::Result<()> {
        let (uid, gid) = self.outside(entry.uid, entry.gid);
        fchown(&file, Some(uid), Some(gid))?;
        fchmod(&file, Mode::from_raw_mode(entry.mode))
    }

    /// The folder for the entry at `path` and the entry's name in it.
    fn place<'a>(&self, path: &'a LayerPath) -> Result<(OwnedFd, &'a OsStr), LayerError> {
        let (parent, name) = path
            .split()
            .ok_or_else(|| LayerError::Malformed { path: path.to_string(), what: "replaces the root itself" })?;
        Ok((self.made_folder(&parent)?, name))
    }

    fn folder(&self, path: &LayerPath) -> Result<OwnedFd, LayerError> {
        open_beneath(&self.root, path).map_err(|errno| refused(&self.root, path, errno))
    }

    fn folder_if_there(&self, path: &LayerPath) -> Result<Option<OwnedFd>, LayerError> {
        match self.folder(path) {
            Ok(folder) => Ok(Some(folder)),
            Err(LayerError::Storage { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(LayerError::Malformed { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The folder at `path`; missing ones are made and belong to root of the container.
    fn made_folder(&self, path: &LayerPath) -> Result<OwnedFd, LayerError> {
        match self.folder(path) {
            Err(LayerError::Storage { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let Some((parent, name)) = path.split() else { return self.folder(path) };
        let parent = self.made_folder(&parent)?;
        if self.implied.get() >= self.most_implied {
            return Err(LayerError::TooLarge { what: "folders that no entry is for", limit: self.most_implied });
        }
        self.implied.set(self.implied.get().saturating_add(1));
        mkdirat(&parent, name, Mode::RWXU).map_err(storage("make the folder", path))?;
        let folder = openat(&parent, name, FOLDER, Mode::empty()).map_err(storage("open the folder", path))?;
        let (uid, gid) = self.outside(0, 0);
        fchown(&folder, Some(uid), Some(gid)).map_err(storage("set the owner of", path))?;
        fchmod(&folder, Mode::from_raw_mode(0o755)).map_err(storage("set the permissions of", path))?;
        Ok(folder)
    }
}

/// Opens the folder at `path` below `root` without following any symbolic link.
fn open_beneath(root: &OwnedFd, path: &LayerPath) -> rustix::io::Result<OwnedFd> {
    let resolve =
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    match openat2(root, path.joined(), FOLDER, Mode::empty(), resolve) {
        Err(Errno::NOSYS | Errno::PERM) => open_part_by_part(root, path),
        other => other,
    }
}

/// The same for kernels before 5.6 and for sandboxes that forbid `openat2`: paths hold no `..`, so one part at a time is as safe.
fn open_part_by_part(root: &OwnedFd, path: &LayerPath) -> rustix::io::Result<OwnedFd> {
    let mut folder = openat(root, ".", FOLDER, Mode::empty())?;
    for part in path.parts() {
        folder = openat(&folder, part, FOLDER, Mode::empty())?;
    }
    Ok(folder)
}

/// Why a folder could not be opened: because of a symbolic link, of a file in its place, or of something else.
fn refused(root: &OwnedFd, path: &LayerPath, errno: Errno) -> LayerError {
    let through_link = LayerError::Unsafe { path: path.to_string(), what: "leads through a symbolic link" };
    match errno {
        // The kernel met a link, or saw the path leave the root.
        Errno::LOOP | Errno::XDEV => through_link,
        // A link in the last part, or, where parts are opened one by one, in any.
        Errno::NOTDIR if (1..=path.parts().len()).any(|parts| is_link(root, &path.first(parts))) => through_link,
        Errno::NOTDIR => LayerError::Malformed { path: path.to_string(), what: "leads through a file" },
        other => storage("open the folder", path)(other),
    }
}

fn is_link(root: &OwnedFd, path: &LayerPath) -> bool {
    statat(root, path.joined(), AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
}

fn kind_at(folder: &OwnedFd, name: &OsStr, path: &LayerPath) -> Result<Option<FileType>, LayerError> {
    match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(Stat { st_mode, .. }) => Ok(Some(FileType::from_raw_mode(st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(storage("look at", path)(errno)),
    }
}

fn remove(folder: &OwnedFd, name: &OsStr, path: &LayerPath, depth: usize) -> Result<(), LayerError> {
    match kind_at(folder, name, path)? {
        None => return Ok(()),
        Some(FileType::Directory) => {
            let inner = openat(folder, name, FOLDER, Mode::empty()).map_err(storage("open the folder", path))?;
            empty(&inner, path, depth)?;
            unlinkat(folder, name, AtFlags::REMOVEDIR)
        }
        Some(_) => unlinkat(folder, name, AtFlags::empty()),
    }
    .map_err(storage("remove", path))
}

fn empty(folder: &OwnedFd, path: &LayerPath, depth: usize) -> Result<(), LayerError> {
    // Paths are at most this deep when they are made, so the tree is too.
    let Some(depth) = depth.checked_sub(1) else {
        return Err(LayerError::Malformed { path: path.to_string(), what: "lies deeper than 64 folders" });
    };
    for entry in Dir::read_from(folder).map_err(storage("read the folder", path))? {
        let entry = entry.map_err(storage("read the folder", path))?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            remove(folder, std::os::unix::ffi::OsStrExt::from_bytes(name.to_bytes()), path, depth)?;
        }
    }
    Ok(())
}

/// Copies exactly `size` bytes; tells a failing archive from a failing disk.
fn copy(from: &mut dyn Read, to: &mut File, size: u64, path: &LayerPath) -> Result<(), LayerError> {
    let mut piece = [0; 16 * 1024];
    let mut left = size;
    loop {
        let read = from.read(&mut piece).map_err(LayerError::from_read)?;
        if read == 0 {
            break;
        }
        io::Write::write_all(to, &piece[..read]).map_err(|source| LayerError::Storage {
            what: "write",
            path: path.to_string(),
            source,
        })?;
        left = left.saturating_sub(read as u64);
    }
    if left > 0 {
        return Err(LayerError::Archive { source: io::ErrorKind::UnexpectedEof.into() });
    }
    Ok(())
}

fn storage(what: &'static str, path: &LayerPath) -> impl Fn(Errno) -> LayerError {
    let path = shown(std::os::unix::ffi::OsStrExt::as_bytes(path.joined().as_os_str()));
    move |errno| LayerError::Storage { what, path: path.clone(), source: errno.into() }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    /// Both ways to open a folder must agree, since a kernel decides which one is taken.
    #[test]
    fn no_way_to_open_a_folder_follows_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("real/inner")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(root.join("file"), b"").unwrap();
        for (name, to) in [("absolute", dir.path().to_str().unwrap()), ("upward", ".."), ("sideways", "real")] {
            symlink(to, root.join(name)).unwrap();
        }
        let root = openat(CWD, &root, FOLDER, Mode::empty()).unwrap();
        for open in [open_beneath, open_part_by_part] {
            let opened = |path: &str| {
                let path = LayerPath::parse(path.as_bytes()).unwrap();
                open(&root, &path).map_err(|errno| refused(&root, &path, errno))
            };
            assert!(opened("real/inner").is_ok() && opened(".").is_ok());
            for link in ["absolute", "absolute/outside", "upward/outside", "sideways", "sideways/inner"] {
                assert!(matches!(opened(link), Err(LayerError::Unsafe { .. })), "{link}");
            }
            assert!(matches!(opened("file/x"), Err(LayerError::Malformed { .. })));
            assert!(matches!(opened("nothing"), Err(LayerError::Storage { .. })));
        }
    }
}
