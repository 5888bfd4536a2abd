//! Grows the state partition to the end of a disk that is larger than its image. Never moves a partition, and never fails a boot.
//!
//! `systemd-repart` changes one entry of the table, and writes and flushes in this order: the copy of the table at the end of the
//! disk, its header, the table, its header. A cut in between leaves the old table, or a copy that firmware and kernel (`gpt` on its
//! command line) take instead. The file system follows in the running system.

use std::{fs, path::Path, time::Duration};

use device_disk::places::Places;
use protocol_types::partitions::Layout;

use crate::{
    console::{in_one_line, say},
    program::run,
};

const REPART: &str = "/usr/bin/systemd-repart";
/// Where the program reads what may grow: every partition of the state's type (UAPI.2 Discoverable Partitions Specification).
const DEFINITIONS: &str = "/run/mbl/repart.d";
const STATE: &str = "[Partition]
Type=var
";
/// Less is not worth a change of the table. The table's own copy needs 33 sectors, and partitions end at whole MiB.
const WORTH: u64 = 4 << 20;
const LIMIT: Duration = Duration::from_secs(60);

/// Grows the state if the disk has room behind it.
pub fn grow_state(places: &Places, layout: &Layout) {
    let room = match places.room_behind_state(layout) {
        Ok(room) => room,
        Err(e) => return say(&format!("cannot tell how much room is behind the state: {e}")),
    };
    if !is_worth(room) {
        return;
    }
    let folder = Path::new(DEFINITIONS);
    if let Err(e) = fs::create_dir_all(folder).and_then(|()| fs::write(folder.join("state.conf"), STATE)) {
        return say(&format!("cannot write {DEFINITIONS}: {e}"));
    }
    let disk = places.node(&layout.disk);
    say(&format!("growing the state by {} MiB to the end of {}", room >> 20, disk.display()));
    let definitions = format!("--definitions={DEFINITIONS}");
    let disk = disk.to_string_lossy();
    let words = ["--dry-run=no", "--empty=refuse", "--discard=no", "--pretty=no", "--seed=random", &definitions, &disk];
    if let Err(e) = run(REPART, &words, LIMIT) {
        say(&format!("the state keeps its size: {}", in_one_line(&e)));
    }
}

const fn is_worth(room: u64) -> bool {
    room >= WORTH
}

#[cfg(test)]
mod tests {
    use protocol_types::partitions::{LABELS, Partition, layouts};

    use super::*;

    #[test]
    fn the_table_of_an_image_as_it_was_built_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let places = Places { class_block: folder.path().to_owned(), dev: folder.path().to_owned() };
        let show = |device: &str, what: &str, sectors: u64| {
            fs::create_dir_all(folder.path().join(device)).unwrap();
            fs::write(folder.path().join(device).join(what), format!("{sectors}\n")).unwrap();
        };
        let named = |(number, label): (usize, &&str)| Partition {
            disk: "vda".into(),
            device: format!("vda{}", number + 1),
            label: (*label).to_owned(),
        };
        let layout = layouts(&LABELS.iter().enumerate().map(named).collect::<Vec<_>>()).remove(0);
        assert!(places.room_behind_state(&layout).is_err(), "nothing is shown");
        show("vda7", "start", 1_000_000);
        show("vda7", "size", 1_048_576);
        show("vda", "size", 2_048_576 + 2048);
        let room = places.room_behind_state(&layout).unwrap();
        assert_eq!((room, is_worth(room)), (1 << 20, false), "the copy of the table is there");
        show("vda", "size", 2_048_576 + 2048 + (64 << 11));
        assert!(is_worth(places.room_behind_state(&layout).unwrap()));
    }
}
