//! The slot found on files in place of partitions, against trees that `veritysetup` made. Needs Debian's `cryptsetup-bin`.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what a test is built from must be there, or it stops at once"
)]

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

use device_disk::places::Places;
use device_init::slots::{NoSlot, choose};
use protocol_types::{Digest, Slot, boot::BootEntry, partitions::LABELS};
use tempfile::TempDir;

/// A machine with one disk, as its kernel would show it.
struct Machine {
    _folder: TempDir,
    places: Places,
}

impl Machine {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (class_block, dev) = (folder.path().join("class"), folder.path().join("dev"));
        fs::create_dir_all(&class_block).unwrap();
        fs::create_dir_all(&dev).unwrap();
        for (number, label) in LABELS.iter().enumerate() {
            let name = format!("vda{}", number + 1);
            let hangs_at = folder.path().join("devices/virtio0/block/vda").join(&name);
            fs::create_dir_all(&hangs_at).unwrap();
            fs::write(hangs_at.join("partition"), format!("{}\n", number + 1)).unwrap();
            fs::write(hangs_at.join("uevent"), format!("DEVNAME={name}\nDEVTYPE=partition\nPARTNAME={label}\n"))
                .unwrap();
            symlink(&hangs_at, class_block.join(&name)).unwrap();
            fs::write(dev.join(&name), [0; 4096]).unwrap();
        }
        symlink(folder.path().join("devices/virtio0/block/vda"), class_block.join("vda")).unwrap();
        Self { places: Places { class_block, dev }, _folder: folder }
    }

    fn node(&self, label: &str) -> std::path::PathBuf {
        let number = LABELS.iter().position(|l| *l == label).unwrap() + 1;
        self.places.dev.join(format!("vda{number}"))
    }

    /// Fills a slot; returns the root hash that `veritysetup` says.
    fn install(&self, slot: Slot, content: u8, blocks: usize) -> Digest {
        let (root, verity) = (self.node(&format!("root-{slot}")), self.node(&format!("verity-{slot}")));
        fs::write(&root, vec![content; blocks * 4096]).unwrap();
        fs::write(&verity, []).unwrap();
        format(&root, &verity)
    }

    fn slot(&self, wanted: Digest, entry: &str) -> Result<Slot, NoSlot> {
        let candidates = self.places.candidates().unwrap();
        choose(&candidates, wanted, BootEntry::parse(entry)).map(|(layout, slot)| {
            assert_eq!(self.places.node(layout.root(slot)), self.node(&format!("root-{slot}")));
            slot
        })
    }
}

fn format(root: &Path, verity: &Path) -> Digest {
    let output = Command::new("/usr/sbin/veritysetup").arg("format").args([root, verity]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Root hash:")).expect("veritysetup names the root hash");
    Digest::from_hex(line.trim()).unwrap()
}

#[test]
fn the_slot_is_found_whose_tree_has_the_root_hash_that_veritysetup_said() {
    let machine = Machine::new();
    // One, two and three levels of hashes: the top block stands first in each.
    for (old, new) in [(2, 128), (129, 300), (128 * 128 + 1, 5)] {
        let a = machine.install(Slot::A, 1, old);
        let b = machine.install(Slot::B, 2, new);
        assert_eq!(machine.slot(a, "mbl-2-b.efi"), Ok(Slot::A));
        assert_eq!(machine.slot(b, ""), Ok(Slot::B));
    }
}

#[test]
fn a_flipped_bit_in_the_top_of_the_tree_leaves_no_slot() {
    let machine = Machine::new();
    let wanted = machine.install(Slot::A, 1, 300);
    let verity = machine.node("verity-a");
    let whole = fs::read(&verity).unwrap();
    for at in (88..120).chain(4096..4096 + 96) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&verity, &bytes).unwrap();
        assert!(matches!(machine.slot(wanted, "mbl-1-a.efi"), Err(NoSlot::NoMatch { .. })), "byte {at}");
    }
}

#[test]
fn a_slot_that_was_half_written_is_no_slot() {
    let machine = Machine::new();
    let a = machine.install(Slot::A, 1, 300);
    let b = machine.install(Slot::B, 2, 300);
    fs::File::options().write(true).open(machine.node("verity-b")).unwrap().set_len(4096).unwrap();
    assert!(machine.slot(b, "mbl-2-b+3.efi").is_err());
    assert_eq!(machine.slot(a, "mbl-2-b+3.efi"), Ok(Slot::A));
}
