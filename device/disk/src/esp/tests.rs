//! The boot partition on a volume that mkfs.vfat made, cut off from its power between any two writes, and checked by fsck.vfat.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::Command,
};

use protocol_types::boot::BootEntry;

use super::*;

const OLD: &str = "mbl-1-a.efi";

/// A volume in a file.
struct Volume {
    dir: tempfile::TempDir,
}

fn tool(name: &str, arguments: &[&str]) -> (bool, String) {
    let found =
        ["/usr/sbin", "/sbin", "/usr/bin"].map(|dir| Path::new(dir).join(name)).into_iter().find(|p| p.exists());
    let path =
        found.unwrap_or_else(|| panic!("the Debian packages `dosfstools` and `mtools` are installed, for {name}"));
    let output = Command::new(path).args(arguments).env("MTOOLS_SKIP_CHECK", "1").output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

fn content(seed: u8, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at / 251 + at * 7).to_le_bytes()[0] ^ seed).collect()
}

impl Volume {
    /// A fresh volume with the loader's folders and one confirmed entry, as an image builder makes it.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let volume = Self { dir };
        let (path, old) = (volume.path(), volume.dir.path().join("old"));
        fs::write(&old, content(1, 30_000)).unwrap();
        let image = path.to_str().unwrap();
        // 40 MiB with clusters of one sector are the smallest that is still FAT32.
        for (name, arguments) in [
            ("mkfs.vfat", vec!["-C", "-F", "32", "-s", "1", image, "40960"]),
            ("mmd", vec!["-i", image, "::/EFI", "::/EFI/Linux", "::/EFI/systemd"]),
            ("mcopy", vec!["-i", image, old.to_str().unwrap(), "::/EFI/Linux/mbl-1-a.efi"]),
            ("mcopy", vec!["-i", image, old.to_str().unwrap(), "::/EFI/systemd/systemd-bootaa64.efi"]),
        ] {
            let (done, said) = tool(name, &arguments);
            assert!(done, "{name}: {said}");
        }
        volume
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("esp.img")
    }

    fn open(&self) -> Esp {
        Esp::new(OpenOptions::new().read(true).write(true).open(self.path()).unwrap()).unwrap()
    }

    /// Another volume with the same bytes.
    fn copy(&self) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let done = Command::new("cp").arg("--sparse=always").arg(self.path()).arg(dir.path()).status().unwrap();
        assert!(done.success());
        Self { dir }
    }

    fn write(&self, batch: &[(u64, geometry::Sector)]) {
        let file = OpenOptions::new().write(true).open(self.path()).unwrap();
        for (sector, bytes) in batch {
            file.write_all_at(bytes, sector * SECTOR as u64).unwrap();
        }
    }

    /// What fsck.vfat has to say about it; nothing if it is in order.
    fn complaints(&self) -> Option<String> {
        let (clean, said) = tool("fsck.vfat", &["-n", self.path().to_str().unwrap()]);
        (!clean).then_some(said)
    }

    /// The files in the folder with their bytes.
    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let esp = self.open();
        let bytes = |name: &String| {
            let mut bytes = vec![0; usize::try_from(esp.size(name).unwrap().unwrap()).unwrap()];
            assert_eq!(esp.read_at(name, 0, &mut bytes).unwrap(), bytes.len());
            bytes
        };
        esp.list().unwrap().into_iter().map(|name| (name.clone(), bytes(&name))).collect()
    }

    /// Writes the staged file as a transfer does.
    fn stage(&self, bytes: &[u8]) {
        let mut esp = self.open();
        esp.set_len(STAGED, bytes.len() as u64).unwrap();
        for (n, piece) in bytes.chunks(64 * 1024).enumerate() {
            esp.write_at(STAGED, (n * 64 * 1024) as u64, piece).unwrap();
        }
        esp.sync().unwrap();
    }
}

/// The volumes that a cut may leave while `batches` are written: each flushed batch whole, and of the next one any part. Of a batch
/// with many sectors, some parts.
fn cuts(volume: &Volume, batches: &[Batch], check: impl Fn(&Volume)) {
    let flushed = volume.copy();
    check(&flushed.copy());
    for (number, batch) in batches.iter().enumerate() {
        let parts: Vec<u64> = if batch.len() <= 4 {
            (0..1 << batch.len()).collect()
        } else {
            (0..6)
                .map(|n| 0x9e37_79b9_7f4a_7c15_u64.rotate_left(11 * n) ^ number as u64)
                .chain([1, 2, u64::MAX << 1])
                .collect()
        };
        for part in parts {
            let torn = flushed.copy();
            let arrived: Batch =
                batch.iter().enumerate().filter(|(n, _)| part >> (n % 64) & 1 == 1).map(|(_, write)| *write).collect();
            torn.write(&arrived);
            check(&torn);
        }
        flushed.write(batch);
        check(&flushed.copy());
    }
}

/// The batches of an operation that was not committed.
fn planned<T>(
    volume: &Volume,
    kind: Kind,
    work: impl Fn(&Folder<'_, '_>, &Overlay<'_>) -> io::Result<T>,
) -> Vec<Batch> {
    let esp = volume.open();
    let (_, changes) = esp.operate(work).unwrap();
    esp.plan(&changes, kind).unwrap()
}

fn renaming(volume: &Volume, from: &str, to: &str) -> Vec<Batch> {
    let esp = volume.open();
    let changes = esp.renamed(from, to).unwrap();
    esp.plan(&changes, Kind::Rename).unwrap()
}

fn growing(volume: &Volume, bytes: u32) -> Vec<Batch> {
    planned(volume, Kind::Grow, |folder, overlay| {
        let mut file = folder.create_file(STAGED)?;
        lengthen(&mut file, overlay, bytes)?;
        file.flush()
    })
}

fn shrinking(volume: &Volume, bytes: u64) -> Vec<Batch> {
    planned(volume, Kind::Shrink, |folder, _| {
        let mut file = folder.create_file(STAGED)?;
        file.seek(SeekFrom::Start(bytes))?;
        file.truncate()?;
        file.flush()
    })
}

#[test]
fn an_entry_comes_into_being_is_tried_is_confirmed_and_gives_way_on_a_volume_that_stays_in_order() {
    let volume = Volume::new();
    assert_eq!(volume.complaints(), None);
    let systems = [(200_000, 'b'), (90_000, 'a'), (400_123, 'b'), (400_123, 'a')];
    for (generation, (bytes, slot)) in (2..).zip(systems) {
        let mut esp = volume.open();
        let retired: Vec<String> = esp
            .list()
            .unwrap()
            .into_iter()
            .filter(|n| BootEntry::parse(n).is_some_and(|e| e.slot.letter() == slot))
            .collect();
        for name in &retired {
            esp.remove(name).unwrap();
        }
        assert_eq!(
            volume.files().contains_key(STAGED),
            !retired.is_empty(),
            "the retired entry became the staged file"
        );
        volume.stage(&content(generation, bytes));
        let mut esp = volume.open();
        let names = ["+3", "+2-1", "+1-2", ""].map(|counter| format!("mbl-{generation}-{slot}{counter}.efi"));
        esp.rename(STAGED, &names[0]).unwrap();
        for pair in names.windows(2) {
            esp.rename(&pair[0], &pair[1]).unwrap();
            let files = volume.files();
            assert!(!files.contains_key(&pair[0]) && files[&pair[1]] == content(generation, bytes), "{}", pair[1]);
        }
        assert_eq!(volume.complaints(), None, "generation {generation}");
    }
    let names: Vec<String> = volume.files().into_keys().collect();
    assert_eq!(names, ["mbl-4-b.efi", "mbl-5-a.efi"]);
}

#[test]
fn a_rename_changes_one_sector_and_a_cut_leaves_the_old_name_or_the_new_one() {
    let volume = Volume::new();
    volume.stage(&content(2, 100_000));
    let names = [STAGED, "mbl-2-b+3.efi", "mbl-2-b+0-3.efi", "mbl-2-b.efi"];
    for pair in names.windows(2) {
        let batches = renaming(&volume, pair[0], pair[1]);
        assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [1]);
        cuts(&volume, &batches, |volume| {
            let files = volume.files();
            assert_eq!(files[OLD], content(1, 30_000));
            let found: Vec<_> = pair.iter().filter(|name| files.contains_key(**name)).collect();
            assert_eq!((found.len(), files.len()), (1, 2), "{:?}", files.keys());
            assert_eq!(files[*found[0]], content(2, 100_000));
            assert_eq!(volume.complaints(), None);
        });
        volume.write(&batches.concat());
    }
}

#[test]
fn a_cut_while_the_staged_file_grows_or_shrinks_touches_no_entry_and_the_next_try_ends_well() {
    let volume = Volume::new();
    let unharmed = |volume: &Volume| {
        assert_eq!(volume.files()[OLD], content(1, 30_000));
        // Whatever is left of the staged file, the transfer goes on from there.
        let mut esp = volume.open();
        esp.set_len(STAGED, 150_000).unwrap();
        volume.stage(&content(3, 150_000));
        let files = volume.files();
        assert_eq!((&files[OLD], &files[STAGED]), (&content(1, 30_000), &content(3, 150_000)));
        esp.rename(STAGED, "mbl-2-b+3.efi").unwrap();
        assert_eq!(volume.files().len(), 2);
    };
    let made = growing(&volume, 100_000);
    cuts(&volume, &made, unharmed);
    volume.write(&made.concat());
    assert_eq!(volume.complaints(), None);
    let grown = growing(&volume, 170_000);
    cuts(&volume, &grown, unharmed);
    volume.write(&grown.concat());
    assert_eq!(volume.complaints(), None);
    let cut = shrinking(&volume, 40_000);
    cuts(&volume, &cut, unharmed);
    volume.write(&cut.concat());
    assert_eq!(volume.complaints(), None);
}

#[test]
fn a_cut_while_a_file_is_removed_leaves_all_of_it_or_nothing() {
    let volume = Volume::new();
    volume.stage(&content(2, 100_000));
    let mut esp = volume.open();
    esp.rename(STAGED, "mbl-2-b.efi").unwrap();
    let batches = planned(&volume, Kind::Shrink, |folder, _| folder.remove("mbl-2-b.efi"));
    cuts(&volume, &batches, |volume| {
        let files = volume.files();
        assert_eq!(files[OLD], content(1, 30_000));
        assert!(files.get("mbl-2-b.efi").is_none_or(|bytes| *bytes == content(2, 100_000)));
        assert!(files.len() <= 2, "{:?}", files.keys());
    });
    volume.write(&batches.concat());
    assert_eq!(volume.complaints(), None);
}

#[test]
fn an_entry_is_removed_in_earnest_when_there_is_a_staged_file_already() {
    let volume = Volume::new();
    volume.stage(b"staged");
    volume.open().remove(OLD).unwrap();
    volume.open().remove("mbl-9-a.efi").unwrap();
    assert_eq!(volume.files().into_keys().collect::<Vec<_>>(), [STAGED]);
    volume.open().remove(STAGED).unwrap();
    assert_eq!((volume.files().len(), volume.complaints()), (0, None));
}

#[test]
fn bytes_go_into_no_entry_and_no_two_files_get_one_name() {
    let volume = Volume::new();
    let mut esp = volume.open();
    assert_eq!(esp.write_at(OLD, 0, b"x").unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    assert_eq!(esp.set_len(OLD, 0).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    volume.stage(b"staged");
    assert_eq!(volume.open().rename(STAGED, OLD).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(volume.open().rename("mbl-7-a.efi", "mbl-8-a.efi").unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(volume.files()[OLD], content(1, 30_000));
}

/// Adds a file of somebody else's to the folder, or takes it away.
fn foreign(volume: &Volume, name: &str, there: bool) {
    let (image, old, name) = (volume.path(), volume.dir.path().join("old"), format!("::/EFI/Linux/{name}"));
    let (image, old) = (image.to_str().unwrap(), old.to_str().unwrap());
    let (done, said) =
        if there { tool("mcopy", &["-i", image, old, &name]) } else { tool("mdel", &["-i", image, &name]) };
    assert!(done, "{said}");
}

const LONG: &str = "another-loader-entry-with-a-long-name";

#[test]
fn a_name_stays_in_its_sector_although_another_one_has_an_earlier_free_place() {
    let volume = Volume::new();
    for n in 0..8 {
        foreign(&volume, &format!("{LONG}-{n}.conf"), true);
    }
    volume.stage(b"staged");
    foreign(&volume, &format!("{LONG}-0.conf"), false);
    for (from, to) in
        [(STAGED, "mbl-2-b+3.efi"), ("mbl-2-b+3.efi", "mbl-2-b+2-1.efi"), ("mbl-2-b+2-1.efi", "mbl-2-b.efi")]
    {
        assert_eq!(renaming(&volume, from, to).iter().map(Vec::len).collect::<Vec<_>>(), [1], "{to}");
        volume.open().rename(from, to).unwrap();
        assert_eq!(volume.files()[to], b"staged");
        assert_eq!(volume.complaints(), None);
    }
}

/// The first sector of the folder of boot entries, and where it is.
fn first_sector(volume: &Volume) -> (u64, geometry::Sector) {
    let bytes = fs::read(volume.path()).unwrap();
    let ours = |sector: &geometry::Sector| {
        folder::is_first(sector) && sector.as_chunks::<32>().0.iter().any(|name| name.starts_with(b"MBL"))
    };
    let at = bytes.as_chunks::<SECTOR>().0.iter().position(ours).unwrap();
    (at as u64, bytes.as_chunks().0[at])
}

#[test]
fn an_armed_entry_leaves_the_loader_room_for_the_names_of_three_tries_in_the_first_sector() {
    // What the firmware's FAT driver does to a name of 14 to 26 characters: it puts the new one behind all others.
    const PLACES_OF_TRIES: usize = 3 * 3;
    let volume = Volume::new();
    for generation in (2..60).chain(990..1000) {
        let (slot, mut esp) = (if generation % 2 == 0 { 'b' } else { 'a' }, volume.open());
        for old in esp.list().unwrap().into_iter().filter(|name| name.contains(&format!("-{slot}"))) {
            esp.remove(&old).unwrap();
        }
        volume.stage(&content(7, 2000));
        let armed = format!("mbl-{generation}-{slot}+3.efi");
        volume.open().rename(STAGED, &armed).unwrap();
        let (at, mut names) = first_sector(&volume);
        let (places, _) = names.as_chunks_mut::<32>();
        let end = places.iter().position(|name| name[0] == 0).unwrap();
        assert!(end + PLACES_OF_TRIES <= places.len(), "generation {generation} leaves {} places", places.len() - end);
        // All of them were used, and are removed again but for the last try's.
        places[end..end + PLACES_OF_TRIES].fill([0xe5; 32]);
        volume.write(&[(at, names)]);
        volume.open().rename(&armed, &format!("mbl-{generation}-{slot}.efi")).unwrap();
        assert_eq!(volume.complaints(), None, "generation {generation}");
    }
}

#[test]
fn names_in_a_second_sector_keep_the_first_one_as_it_is() {
    let volume = Volume::new();
    for n in 0..8 {
        foreign(&volume, &format!("{LONG}-{n}.conf"), true);
    }
    volume.stage(b"staged");
    foreign(&volume, &format!("{LONG}-0.conf"), false);
    volume.open().rename(STAGED, "mbl-2-b+3.efi").unwrap();
    assert_eq!(volume.files().len(), 9);
    assert_eq!(volume.complaints(), None);
}

#[test]
fn what_a_cut_left_taken_is_free_again_and_every_file_as_before() {
    let volume = Volume::new();
    volume.stage(&content(2, 100_000));
    let reclaimed = |volume: &Volume| {
        let before = volume.files();
        volume.open().reclaim().unwrap();
        assert_eq!(volume.files(), before);
        assert_eq!(volume.complaints(), None);
        assert_eq!(volume.open().reclaim().unwrap(), 0, "nothing is left to be freed");
    };
    cuts(&volume, &growing(&volume, 170_000), reclaimed);
    cuts(&volume, &planned(&volume, Kind::Shrink, |folder, _| folder.remove(STAGED)), reclaimed);
    cuts(&volume, &shrinking(&volume, 30_000), reclaimed);
    let removed = planned(&volume, Kind::Shrink, |folder, _| folder.remove(STAGED));
    volume.write(&removed[0]);
    let clusters = volume.open().reclaim().unwrap();
    assert_eq!(clusters, 100_000_u64.div_ceil(512));
}

#[test]
fn nothing_is_freed_on_a_volume_whose_chains_meet_or_lead_nowhere() {
    for value in [2_u32, 0x0fff_fff7] {
        let volume = Volume::new();
        volume.stage(&content(2, 20_000));
        let esp = volume.open();
        let staged = esp.locate(STAGED).unwrap().unwrap();
        let (sector, number) = esp.geometry.entry_of(staged.runs[0].start / SECTOR as u64);
        let mut table = read_sector(&esp.medium, sector).unwrap();
        geometry::set_entry(&mut table, number, value);
        volume.write(&[(sector, table)]);
        let before = fs::read(volume.path()).unwrap();
        assert!(volume.open().reclaim().is_err());
        assert!(fs::read(volume.path()).unwrap() == before);
    }
}

#[test]
fn a_rename_that_would_need_two_sectors_is_refused_and_changes_nothing() {
    let volume = Volume::new();
    volume.stage(b"staged");
    // Fills the first sector to its end, so that nothing longer has a place there.
    for n in 0..8 {
        foreign(&volume, &format!("{LONG}-{n}.conf"), true);
    }
    let before = fs::read(volume.path()).unwrap();
    let error = volume.open().rename(STAGED, &format!("{LONG}-and-longer-than-any-of-ours.efi")).unwrap_err();
    assert!(error.to_string().contains("too crowded"), "{error}");
    assert!(fs::read(volume.path()).unwrap() == before, "a refusal changes nothing");
}

#[test]
fn a_full_volume_refuses_a_longer_file_before_anything_changes() {
    let volume = Volume::new();
    let before = fs::read(volume.path()).unwrap();
    assert_eq!(volume.open().set_len(STAGED, 64 << 20).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert!(fs::read(volume.path()).unwrap() == before);
}

#[test]
fn a_volume_of_another_kind_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("esp.img");
    assert!(tool("mkfs.vfat", &["-C", "-F", "16", path.to_str().unwrap(), "16384"]).0);
    assert!(Esp::new(OpenOptions::new().read(true).write(true).open(&path).unwrap()).is_err());
    fs::write(&path, [0; 100]).unwrap();
    assert!(Esp::new(OpenOptions::new().read(true).write(true).open(&path).unwrap()).is_err());
}

#[test]
fn a_volume_that_was_marked_unclean_is_used_and_keeps_its_mark() {
    let volume = Volume::new();
    let file = OpenOptions::new().write(true).open(volume.path()).unwrap();
    file.write_all_at(&[1], 0x41).unwrap();
    volume.stage(&content(2, 20_000));
    volume.open().rename(STAGED, "mbl-2-b+3.efi").unwrap();
    assert_eq!(volume.files()["mbl-2-b+3.efi"], content(2, 20_000));
    assert_eq!(fs::read(volume.path()).unwrap()[0x41], 1);
}

#[test]
fn a_damaged_volume_is_refused_or_used_but_never_a_reason_to_crash() {
    let volume = Volume::new();
    volume.stage(&content(2, 20_000));
    let bytes = fs::read(volume.path()).unwrap();
    let used: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
    // What describes the volume, the table and the folders; the files' own bytes do not matter.
    let first_file = used.iter().position(|at| bytes[*at..].starts_with(&content(1, 30_000)[..64])).unwrap();
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed % below as u64).unwrap()
    };
    let mut usable = 0;
    for _ in 0..200 {
        let copy = volume.copy();
        let file = OpenOptions::new().read(true).write(true).open(copy.path()).unwrap();
        for _ in 0..=draw(4) {
            let at = used[draw(first_file)];
            file.write_all_at(&[draw(256).to_le_bytes()[0]], at as u64).unwrap();
        }
        let Ok(mut esp) = Esp::new(file) else { continue };
        let before = esp.list().ok();
        if esp.reclaim().is_ok() {
            assert_eq!(esp.list().ok(), before, "no name goes");
        }
        let mut block = [0; 4096];
        let done = [
            esp.size(OLD).is_ok(),
            esp.read_at(OLD, 4096, &mut block).is_ok(),
            esp.set_len(STAGED, 50_000).is_ok(),
            esp.write_at(STAGED, 40_000, &block).is_ok(),
            esp.rename(STAGED, "mbl-2-b+3.efi").is_ok(),
            esp.remove(OLD).is_ok(),
            esp.set_len(STAGED, 10_000).is_ok(),
            esp.list().is_ok(),
        ];
        usable += usize::from(done == [true; 8]);
    }
    assert!(usable > 20, "{usable}");
}

/// The most memory that this process had at once, in KiB.
fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn a_kernel_image_of_64_mib_is_staged_in_little_memory_and_read_back_block_by_block() {
    let dir = tempfile::tempdir().unwrap();
    let volume = Volume { dir };
    let image = volume.path();
    // Clusters of one sector: the longest chain that there can be.
    assert!(tool("mkfs.vfat", &["-C", "-F", "32", "-s", "1", image.to_str().unwrap(), "102400"]).0);
    assert!(tool("mmd", &["-i", image.to_str().unwrap(), "::/EFI", "::/EFI/Linux"]).0);
    let mut esp = volume.open();
    let before = peak_kib();
    let (piece, pieces) = (content(9, 256 * 1024), 256);
    esp.set_len(STAGED, pieces * 256 * 1024).unwrap();
    for n in 0..pieces {
        esp.write_at(STAGED, n * 256 * 1024, &piece).unwrap();
    }
    esp.sync().unwrap();
    let mut block = [0; 4096];
    for at in (0..pieces * 256 * 1024).step_by(4096) {
        assert_eq!(esp.read_at(STAGED, at, &mut block).unwrap(), 4096);
        let expected = usize::try_from(at % (256 * 1024)).unwrap();
        assert!(block == piece[expected..expected + 4096], "at {at}");
    }
    esp.rename(STAGED, "mbl-2-b+3.efi").unwrap();
    let grown = peak_kib() - before;
    assert!(grown < 12 * 1024, "{grown} KiB");
    assert_eq!(volume.complaints(), None);
}

#[test]
fn every_file_has_dates_that_the_firmware_takes_back_when_the_loader_renames_it() {
    let volume = Volume::new();
    let mut esp = volume.open();
    esp.set_len(STAGED, 4096).unwrap();
    esp.write_at(STAGED, 0, &content(2, 4096)).unwrap();
    esp.rename(STAGED, "mbl-2-b+3.efi").unwrap();
    let look = |folder: &Folder<'_, '_>, _: &Overlay<'_>| {
        folder
            .iter()
            .filter(|entry| entry.as_ref().is_ok_and(fatfs::DirEntry::is_file))
            .collect::<io::Result<Vec<_>>>()
            .map(|files| {
                files
                    .iter()
                    .map(|file| [file.created().date, file.accessed(), file.modified().date])
                    .collect::<Vec<_>>()
            })
    };
    let (dates, _) = esp.operate(look).unwrap();
    assert_eq!(dates.len(), 2, "{dates:?}");
    for date in dates.iter().flatten() {
        assert!((1..=12).contains(&date.month) && (1..=31).contains(&date.day), "{dates:?}");
    }
}
