//! `mbl-updater format`: makes the disk of a new device from the operating system that an image builder wrote. Never touches a
//! device that boots.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use protocol_release::document::{DocumentError, OsIndex, Section, SectionName};
use protocol_types::{Hasher, Slot, boot::BootEntry};

use crate::{
    disk::{Disk, FileDisk, Folder, ImageError, OpenError, Place, create_image},
    files::read_at_most,
    loader::{self, BootError},
    storage::{STAGED, Storage, StorageError},
};

/// A disk that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The device has a boot entry.
    #[error("{} holds a device that boots already", .0.display())]
    InUse(PathBuf),
    /// A file cannot be read or made.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The index is malformed.
    #[error("cannot use the index of the operating system")]
    Index(#[from] DocumentError),
    /// A section is longer than its place, or has no place on this board.
    #[error("section `{0}` does not fit")]
    NoRoom(&'static str),
    /// A section is not the one that the index names.
    #[error("the artifact of section `{0}` does not have the digest and size in the index")]
    Digest(&'static str),
    /// The image cannot be made.
    #[error("cannot make the disk image")]
    Image(#[from] ImageError),
    /// The new disk cannot be used.
    #[error("cannot open the new disk")]
    Open(#[from] OpenError),
    /// The new disk cannot be written.
    #[error("cannot write the new disk")]
    Storage(#[from] StorageError),
    /// What was written does not boot.
    #[error("the new disk does not boot")]
    Boot(#[from] BootError),
}

/// Makes `disk.img` with two slots of `slot_bytes` and the first entry in `device_dir`, from `os.json` and `artifacts/` in `os`.
/// The entry comes last: what an earlier, interrupted call left behind is thrown away.
///
/// # Errors
/// If the device boots already, or anything does not fit or cannot be written.
pub fn format(device_dir: &Path, slot_bytes: u64, os: &Path) -> Result<BootEntry, FormatError> {
    let file_error = |doing, path: &Path| {
        let path = path.to_owned();
        move |source| FormatError::File { doing, path, source }
    };
    let index_path = os.join("os.json");
    let index = read_at_most(&index_path, OsIndex::MAX_BYTES).map_err(file_error("read", &index_path))?;
    let index = OsIndex::parse(&index)?;
    let esp = device_dir.join("esp");
    fs::create_dir_all(&esp).map_err(file_error("make", &esp))?;
    let image = device_dir.join("disk.img");
    match fs::exists(&image) {
        Ok(true) => {
            let known = Storage::new(FileDisk::open(device_dir)?).entries()?;
            if !known.is_empty() {
                return Err(FormatError::InUse(device_dir.to_owned()));
            }
            fs::remove_file(&image).map_err(file_error("remove", &image))?;
        }
        Ok(false) => {}
        Err(source) => return Err(FormatError::File { doing: "look for", path: image, source }),
    }
    create_image(&image, slot_bytes)?;
    let mut storage = Storage::new(FileDisk::open(device_dir)?);
    for section in &index.sections {
        write_section(&mut storage, section, os)?;
    }
    let entry = BootEntry { generation: 1, slot: Slot::A, tries: None };
    storage.arm(entry)?;
    loader::boot(&mut storage)?;
    Ok(entry)
}

fn write_section<D: Disk>(storage: &mut Storage<D>, section: &Section, os: &Path) -> Result<(), FormatError> {
    let name = section.name.as_str();
    let place = match section.name {
        SectionName::Root if section.size <= storage.room().root => Place::Slot(Slot::A),
        SectionName::Uki => Place::file(Folder::Esp, STAGED),
        SectionName::Root | SectionName::Verity | SectionName::Firmware => return Err(FormatError::NoRoom(name)),
    };
    let path = os.join("artifacts").join(section.digest.hex());
    let refused = |source| FormatError::File { doing: "read", path: path.clone(), source };
    // One byte more than the index says, so that a longer artifact shows.
    let mut artifact = File::open(&path).map_err(refused)?.take(section.size + 1);
    let (mut hasher, mut at, mut piece) = (Hasher::new(), 0, vec![0; 1024 * 1024]);
    loop {
        let read = artifact.read(&mut piece).map_err(refused)?;
        let Some(bytes) = piece.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        let end = at + u64::try_from(read).unwrap_or(u64::MAX);
        if end > section.size {
            return Err(FormatError::Digest(name));
        }
        hasher.update(bytes);
        storage.write(&place, at, bytes)?;
        at = end;
    }
    if at != section.size || hasher.finish() != section.digest {
        return Err(FormatError::Digest(name));
    }
    if section.name == SectionName::Uki {
        storage.cut_to(&place, section.size)?;
    }
    Ok(storage.flush(&place)?)
}
