//! The disk of a board, for the two programs that use it: `mbl-init` in the initrd and `mbl-updater`. Never decides which slot or which
//! boot entry, and never mounts anything.
//!
//! * [`places`]: which disks are ours, and what their slots hold.
//! * [`esp`]: the boot partition, whose names change so that a power cut leaves the old or the new.
//! * [`starts`]: how often a confirmed system was started without lasting.

pub mod esp;
pub mod places;
pub mod starts;
