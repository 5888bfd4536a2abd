//! The disk that loses power keeps what it must, and loses what it may.

use protocol_types::Slot;

use super::{
    Disk, Folder, Place,
    faulty::{FaultyDisk, Luck},
};
use crate::storage::Storage;

#[test]
fn what_was_not_flushed_may_vanish_and_what_was_may_not() {
    let mut disk = FaultyDisk::new(4096);
    let (kept, lost) = (Place::file(Folder::State, "kept"), Place::file(Folder::State, "lost"));
    disk.write_at(&kept, 0, b"1").unwrap();
    disk.sync(&kept).unwrap();
    disk.sync_folder(Folder::State).unwrap();
    disk.write_at(&kept, 0, b"2").unwrap();
    disk.write_at(&lost, 0, b"3").unwrap();
    disk.write_at(&Place::Slot(Slot::B), 0, &[9; 512]).unwrap();
    disk.power_on(Luck::None);
    let mut byte = [0];
    disk.read_at(&kept, 0, &mut byte).unwrap();
    assert_eq!(byte, *b"1");
    assert_eq!(disk.size(&lost).unwrap(), None);
    disk.read_at(&Place::Slot(Slot::B), 0, &mut byte).unwrap();
    assert_eq!(byte, [0]);
}

#[test]
fn a_rename_without_a_flush_of_the_bytes_is_caught() {
    let mut disk = FaultyDisk::new(4096);
    let new = Place::file(Folder::State, "new");
    disk.write_at(&new, 0, b"12").unwrap();
    disk.rename(Folder::State, "new", "old").unwrap();
    disk.sync_folder(Folder::State).unwrap();
    disk.power_on(Luck::None);
    assert_eq!(disk.size(&Place::file(Folder::State, "old")).unwrap(), Some(0), "the classic empty file");
}

#[test]
fn a_replaced_file_holds_old_or_new_bytes_after_a_cut_at_any_operation() {
    for luck in [Luck::None, Luck::All].into_iter().chain((0..20).map(Luck::Mixed)) {
        for cut in 0..8 {
            let disk = FaultyDisk::new(4096);
            let mut storage = Storage::new(disk.clone());
            storage.replace(Folder::State, "x", b"old bytes").unwrap();
            disk.cut_at(disk.operations() + cut);
            let done = storage.replace(Folder::State, "x", b"new").is_ok();
            disk.power_on(luck);
            let found = storage.load(Folder::State, "x", 100).unwrap().unwrap();
            assert!(found == b"new" || (found == b"old bytes" && !done), "cut {cut}, {luck:?}: {found:?}");
        }
    }
}
