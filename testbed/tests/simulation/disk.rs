//! The disk of a simulated device: the one with which the updater's own tests cut the power.

pub(crate) use device_updater::disk::{Disk, FirmwareState, Folder, Place, Room};

#[path = "../../../device/updater/src/disk/faulty.rs"]
#[expect(dead_code, reason = "a simulated board has no firmware slots and no hash trees")]
mod faulty;

pub(crate) use faulty::{FaultyDisk, Luck};
