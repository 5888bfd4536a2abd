//! The partitions of the system's disk, as the kernel names them. Never reads a disk: facts come from the kernel's own reading
//! of the partition table, which it publishes as text.

use std::collections::BTreeMap;

use crate::Slot;

/// A partition in the kernel's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// The disk that it is on, as in `vda`.
    pub disk: String,
    /// The device, as in `vda2`.
    pub device: String,
    /// Its label in the partition table.
    pub label: String,
}

/// The labels that a disk of ours has, each once. Other partitions may stand beside them.
pub const LABELS: [&str; 7] = ["esp", "root-a", "verity-a", "root-b", "verity-b", "factory", "state"];

/// The label of what a TEE stores, on a board that has one; no more than once either.
pub const TEE: &str = "tee";

/// The devices of a disk that has every label exactly once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Layout {
    /// The disk, as in `vda`.
    pub disk: String,
    devices: BTreeMap<&'static str, String>,
}

impl Layout {
    /// The device of the slot's root file system.
    pub fn root(&self, slot: Slot) -> &str {
        self.device(match slot {
            Slot::A => "root-a",
            Slot::B => "root-b",
        })
    }

    /// The device of the slot's hash tree.
    pub fn verity(&self, slot: Slot) -> &str {
        self.device(match slot {
            Slot::A => "verity-a",
            Slot::B => "verity-b",
        })
    }

    /// The device of the boot partition.
    pub fn esp(&self) -> &str {
        self.device("esp")
    }

    /// The device of the factory's data.
    pub fn factory(&self) -> &str {
        self.device("factory")
    }

    /// The device of the encrypted state.
    pub fn state(&self) -> &str {
        self.device("state")
    }

    /// The device of what the TEE stores; none on a board that has no place for it.
    pub fn tee(&self) -> Option<&str> {
        self.devices.get(TEE).map(String::as_str)
    }

    fn device(&self, label: &str) -> &str {
        self.devices.get(label).map_or("", String::as_str)
    }
}

/// The longest `uevent` text that is read; the kernel's own limit is one page.
pub const MAX_UEVENT: usize = 4096;

/// Reads the label from a partition's `uevent` file; `None` if it has none.
pub fn label(uevent: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(uevent.get(..uevent.len().min(MAX_UEVENT))?).ok()?;
    let label = text.lines().find_map(|line| line.strip_prefix("PARTNAME="))?;
    Some(label.to_owned())
}

/// The disks that are laid out as ours.
pub fn layouts(partitions: &[Partition]) -> Vec<Layout> {
    let mut disks: BTreeMap<&str, Vec<&Partition>> = BTreeMap::new();
    for partition in partitions {
        disks.entry(&partition.disk).or_default().push(partition);
    }
    disks.into_iter().filter_map(|(disk, partitions)| layout(disk, &partitions)).collect()
}

fn layout(disk: &str, partitions: &[&Partition]) -> Option<Layout> {
    let mut devices = BTreeMap::new();
    for label in LABELS {
        let mut found = partitions.iter().filter(|p| p.label == label);
        match (found.next(), found.next()) {
            (Some(partition), None) => devices.insert(label, partition.device.clone()),
            (None, _) | (Some(_), Some(_)) => return None,
        };
    }
    let mut tee = partitions.iter().filter(|p| p.label == TEE);
    match (tee.next(), tee.next()) {
        (None, _) => {}
        (Some(partition), None) => drop(devices.insert(TEE, partition.device.clone())),
        (Some(_), Some(_)) => return None,
    }
    Some(Layout { disk: disk.to_owned(), devices })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn disk(name: &str) -> Vec<Partition> {
        let partition = |(number, label): (usize, &&str)| Partition {
            disk: name.to_owned(),
            device: format!("{name}{}", number + 1),
            label: (*label).to_owned(),
        };
        LABELS.iter().enumerate().map(partition).collect()
    }

    #[test]
    fn a_disk_with_every_label_once_is_ours() {
        let mut partitions = disk("vda");
        partitions.push(Partition { disk: "vda".into(), device: "vda8".into(), label: "swap".into() });
        partitions.push(Partition { disk: "vdb".into(), device: "vdb1".into(), label: "root-a".into() });
        let layouts = layouts(&partitions);
        assert_eq!(layouts.len(), 1);
        assert_eq!((layouts[0].root(Slot::B), layouts[0].verity(Slot::A)), ("vda4", "vda3"));
        assert_eq!((layouts[0].factory(), layouts[0].state()), ("vda6", "vda7"));
    }

    #[test]
    fn a_disk_may_have_one_place_for_what_a_tee_stores() {
        let mut partitions = disk("vda");
        assert_eq!(layouts(&partitions)[0].tee(), None);
        let tee = |device: &str| Partition { disk: "vda".into(), device: device.into(), label: TEE.into() };
        partitions.push(tee("vda8"));
        assert_eq!(layouts(&partitions)[0].tee(), Some("vda8"));
        partitions.push(tee("vda9"));
        assert_eq!(layouts(&partitions), []);
    }

    #[test]
    fn a_disk_with_a_label_twice_or_not_at_all_is_not_ours() {
        for label in LABELS {
            let mut twice = disk("vda");
            twice.push(Partition { disk: "vda".into(), device: "vda9".into(), label: label.into() });
            assert_eq!(layouts(&twice), []);
            let mut less = disk("vda");
            less.retain(|p| p.label != label);
            assert_eq!(layouts(&less), []);
        }
    }

    #[test]
    fn partitions_of_two_disks_do_not_make_one() {
        let mut partitions = disk("vda");
        partitions[3].disk = "vdb".into();
        assert_eq!(layouts(&partitions), []);
    }

    #[test]
    fn the_label_is_read_from_what_the_kernel_says() {
        let text = b"MAJOR=254\nMINOR=2\nDEVNAME=vda2\nDEVTYPE=partition\nDISKSEQ=9\nPARTN=2\nPARTNAME=root-a\n";
        assert_eq!(label(text).as_deref(), Some("root-a"));
        assert_eq!(label(b"DEVNAME=vda\nDEVTYPE=disk\n"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            let _ = label(&bytes);
        }
    }
}
