//! The ESP: a FAT file system with the loader, if the firmware looks for it there, its settings and the first boot entry. The loader asks nobody, and shows its
//! menu only to somebody who types while it starts.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use protocol_types::{Slot, boot::BootEntry};

use super::error::{ImageError, file};
use crate::{board::Board, sandbox::Sandbox};

/// The name in the work folder.
pub(super) const ESP: &str = "esp.img";
/// No menu without a key, nobody at the keyboard edits the command line, and no entries but ours.
const LOADER_CONF: &str = "timeout 0\neditor no\nauto-firmware no\nauto-entries no\nconsole-mode keep\n";
/// Every ESP's, so that builds agree: it identifies nothing that is looked for.
const VOLUME: &str = "4d424c01";

/// Makes [`ESP`] in the work folder from the loader and the unified kernel image given.
pub(super) fn make(
    board: &Board,
    time: u64,
    (loader, uki): (&Path, &Path),
    tools: &Sandbox,
    work: &Path,
) -> Result<(), ImageError> {
    let first = BootEntry { generation: 1, slot: Slot::A, tries: None };
    let staging = work.join("esp");
    let mut made = Vec::new();
    let mut place = |path: PathBuf, content: Content<'_>| -> Result<(), ImageError> {
        let path = staging.join(path);
        let above = path.parent().unwrap_or(&staging);
        fs::create_dir_all(above).map_err(file("make", above))?;
        match content {
            Content::Copy(from) => fs::copy(from, &path).map(|_| ()).map_err(file("copy", from))?,
            Content::Text(text) => fs::write(&path, text).map_err(file("write", &path))?,
        }
        made.extend(path.ancestors().take_while(|above| *above != staging.as_path()).map(Path::to_owned));
        Ok(())
    };
    if let Some(path) = &board.loader.boot_path {
        place(path.clone(), Content::Copy(loader))?;
    }
    place("loader/loader.conf".into(), Content::Text(LOADER_CONF))?;
    // A tree is copied in the order in which the builder's file system lists it, which differs from one to the next. So no folder has
    // two of anything.
    let is_beside = board.loader.boot_path.is_some();
    let entries = if is_beside { "Linux" } else { "EFI/Linux" };
    place(Path::new(entries).join(first.to_string()), Content::Copy(uki))?;
    // Children before the folders that they change.
    made.sort_by(|a, b| b.cmp(a));
    for path in &made {
        let times = SystemTime::UNIX_EPOCH + Duration::from_secs(time);
        File::open(path).and_then(|f| f.set_modified(times)).map_err(file("set the time of", path))?;
    }
    let image = work.join(ESP);
    let bytes = board.partition_bytes("esp").unwrap_or_default();
    File::create(&image).and_then(|f| f.set_len(bytes)).map_err(file("make", &image))?;
    let failed = |source| ImageError::Tool { what: "ESP", source };
    tools.run(work, "mkfs.vfat", &["--invariant", "-i", VOLUME, "-n", "ESP", "-F", "32", ESP]).map_err(failed)?;
    let copy =
        |what: &[&str]| tools.run(work, "mcopy", &[&["-s", "-m", "-Q", "-i", ESP], what].concat()).map_err(failed);
    copy(&["esp/EFI", "esp/loader", "::"])?;
    if is_beside {
        copy(&["esp/Linux", "::EFI"])?;
    }
    fs::remove_dir_all(&staging).map_err(file("remove", &staging))
}

enum Content<'a> {
    Copy(&'a Path),
    Text(&'a str),
}
