//! What can happen to the updater, and what it can do. Never says what follows from what.

use std::time::Duration;

use protocol_release::document::SectionName;
use protocol_types::{
    Answer, ApplicationSpec, Digest, Reason, ReasonCode, RunningFirmware, SecurityVersion, Slot, UnixSeconds,
    boot::BootEntry,
    socket::{ApplicationStatus, Contact},
};

use crate::{
    record::{Configuration, Goal, Note, Origin, Record, Wish},
    storage::FirmwareChoice,
};

/// Everything that can wake the updater.
#[derive(Clone, Debug)]
pub enum Fact {
    /// So much time has passed since the updater started.
    Time(Duration),
    /// A release is asked for; the newest wish of each origin counts.
    Desired(Wish),
    /// Nothing is asked for any more by this origin.
    Rest(Origin),
    /// How the agent reaches the world; none when no agent is connected.
    Contact(Option<Contact>),
    /// The service's time key vouched for this time.
    TrustedTime(UnixSeconds),
    /// Whether the device may change its software for the service now; it may until the first of these.
    Window(bool),
    /// Somebody at the device answers the question about the release with this digest.
    Answered(Digest, Answer),
    /// The question that is open needs no answer any more.
    DeadlinePassed,
    /// The service asks for a restart.
    RestartAsked,
    /// Somebody who may asks for a factory reset.
    ResetAsked,
    /// `mbl-apps` is there (again), and has heard nothing yet.
    AppsConnected,
    /// How the applications of the running set are.
    Applications {
        /// The set that runs.
        set: Option<Digest>,
        /// One entry an application.
        statuses: Vec<ApplicationStatus>,
    },
    /// A set is on its way into `mbl-apps`' storage.
    Preparing {
        /// The set.
        set: Digest,
        /// Bytes in storage and bytes in all.
        bytes: (u64, u64),
    },
    /// A set is ready to run, or refused.
    Prepared {
        /// The set.
        set: Digest,
        /// The refusal.
        refused: Option<Reason>,
    },
    /// [`Step::Check`]: the release may be installed.
    Checked(Box<Goal>),
    /// [`Step::Bring`]: every block before `next_block` is in place.
    Brought {
        /// The section's index.
        section: usize,
        /// The block that is needed next.
        next_block: u64,
    },
    /// [`Step::ReadBack`]: the medium gives back what was written.
    ReadBack,
    /// All steps before [`Step::Done`] were done.
    Done,
    /// The wish under way may not be fulfilled.
    Refused(Reason),
    /// A step failed for a reason that may pass.
    Hindered(Reason),
}

/// What the caller must do.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Check a wish against the signed metadata; the answer is [`Fact::Checked`], [`Fact::Refused`] or [`Fact::Hindered`].
    Check(Wish),
    /// Remove the boot entries of a slot.
    Retire(Slot),
    /// Bring the next blocks of a section into its place; the answer is [`Fact::Brought`], [`Fact::Refused`] or [`Fact::Hindered`].
    Bring {
        /// The release.
        goal: Box<Goal>,
        /// The slot to write.
        slot: Slot,
        /// Which section of its OS index.
        section: usize,
        /// The first block that is needed.
        from_block: u64,
    },
    /// Flush what was brought and read all of it again; the answer is [`Fact::ReadBack`], [`Fact::Refused`] or [`Fact::Hindered`].
    ReadBack {
        /// The release.
        goal: Box<Goal>,
        /// The slot that was written.
        slot: Slot,
    },
    /// Forget the check or transfer that is under way.
    Drop,
    /// Let `mbl-apps` prepare a set.
    Prepare {
        /// The key of the set.
        set: Digest,
        /// Its applications.
        applications: Vec<ApplicationSpec>,
    },
    /// Let `mbl-apps` run exactly this set.
    Run {
        /// The key of the set.
        set: Digest,
        /// Its applications.
        applications: Vec<ApplicationSpec>,
    },
    /// Let exactly these configurations be in force.
    Configure(Vec<Configuration>),
    /// Forget all other sets and configurations.
    Retain {
        /// The keys of the sets.
        sets: Vec<Digest>,
        /// The digests of the configurations.
        configurations: Vec<Digest>,
    },
    /// Make the record durable.
    Save(Box<Record>),
    /// Make the staged boot entry bootable.
    Arm(BootEntry),
    /// Take the counter off the entry of this generation: it is trusted from now on.
    Confirm(u32),
    /// Take the tries off the entry of this generation: it is not booted any more.
    Exhaust(u32),
    /// Take the tries off all entries of this slot: what they lead to is, or may be, below the floor, and would not start.
    Forsake(Slot),
    /// Let the firmware start so from now on.
    Firmware(FirmwareChoice),
    /// Refuse releases below this security version from now on.
    RaiseFloor(SecurityVersion),
    /// Answer [`Fact::Done`].
    Done,
    /// Ask for a new state at the next boot, durably; [`Step::Done`] follows.
    ForgetState,
    /// Say goodbye and restart the device.
    Reboot,
}

/// What the loader booted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// The slot.
    pub slot: Slot,
    /// Root digest of the operating system, which the loader verified.
    pub root: Digest,
    /// Version of the operating system, from inside the verified entry.
    pub os_version: String,
    /// Generation of the entry.
    pub generation: u32,
    /// What its signed command line says, which the initrd holds against the floor; nothing on the board `host`.
    pub security_version: Option<SecurityVersion>,
    /// Whether new settings of the operating system restart the agent, as on a real board: nothing on the board `host` reads them.
    pub restarts_agent: bool,
    /// The firmware that started it, on a board with slots for it.
    pub firmware: Option<Firmware>,
}

/// The firmware that started the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Firmware {
    /// Its slot and package.
    pub running: RunningFirmware,
    /// The slot that is on trial by the record, whether it has tries left or not.
    pub on_trial: Option<Slot>,
}

impl Firmware {
    /// Whether it runs on trial.
    pub(super) fn is_on_trial(&self) -> bool {
        self.on_trial == Some(self.running.slot)
    }
}

impl Running {
    /// Whether `goal` keeps the operating system and the firmware that run: it has the same ones, or none. A system with the same root
    /// is another one if only its kernel image can be above the floor that the release raises.
    pub(super) fn is_os(&self, goal: &Goal) -> bool {
        goal.os.as_ref().is_none_or(|os| {
            os.root_digest() == Some(self.root)
                && os.section(SectionName::Firmware).is_none()
                && self.stays_above_floor_of(&goal.note).is_ok()
        })
    }

    /// Why a release must not be confirmed with the operating system that runs: it would be below the floor from then on.
    pub(super) fn stays_above_floor_of(&self, note: &Note) -> Result<(), Reason> {
        let (Some(running), Some(floor)) = (self.security_version, note.new_floor()) else { return Ok(()) };
        if floor <= running {
            return Ok(());
        }
        let text = format!(
            "the release raises the floor to {floor}, and the operating system that runs with it has the security version {running}: \
             bring one of {floor} in the same release"
        );
        Err(Reason::new(ReasonCode::FloorTooHigh, text))
    }

    /// Takes the firmware out of `goal` if it runs already.
    pub(super) fn leave_out_firmware(&self, goal: &mut Goal) {
        if let (Some(os), Some(Firmware { running, .. })) = (&mut goal.os, self.firmware) {
            os.sections
                .retain(|section| section.name != SectionName::Firmware || Some(section.digest) != running.digest);
        }
    }

    /// The slot that firmware started from.
    pub(super) fn firmware_slot(&self) -> Option<Slot> {
        self.firmware.map(|firmware| firmware.running.slot)
    }
}

impl Note {
    /// What confirming this release does to the floor.
    pub(super) fn new_floor(&self) -> Option<SecurityVersion> {
        self.raises_floor.then_some(self.security_version)
    }
}
