//! Lives of the device between two starts: the real updater of `device-updater` on the files of a board, on one thread and with a
//! clock of its own, so that everything happens in the same order each time. Loader, initrd, agent and `mbl-apps` are played here.

use std::time::Duration;

use anyhow::{Context as _, bail};
use device_updater::{
    Peers, Turn, Updater,
    disk::{DeviceDisk, Devices},
    key_store::KeyStore,
    plan::{Fact, Running},
    record::{Origin, Wish},
    storage::Storage,
    trust::{Trust, factory_document},
};
use protocol_types::{
    AppName, BootRecord, Digest, Phase, Reason, SecurityVersion, Slot, TargetPath, UnixSeconds, UpdateStatus,
    boot::BootEntry,
    boot_record::{Format1, StateOutcome},
    socket::{ApplicationStatus, Contact, Fetch, UpdaterToApps},
};

use super::{
    board::Board,
    releases::{Account, NOW},
    systems::System,
};

/// Turns of the updater in one life at most.
const MOST_TURNS: usize = 200_000;

/// Whoever speaks to the updater.
#[derive(Debug, Default)]
struct Desk {
    asked: Vec<(Origin, u64, Fetch)>,
    facts: Vec<Fact>,
    status: Option<UpdateStatus>,
}

impl Peers for Desk {
    fn fetch(&mut self, origin: Origin, id: u64, what: Fetch) -> bool {
        self.asked.push((origin, id, what));
        true
    }

    fn tell_apps(&mut self, message: UpdaterToApps) {
        match message {
            UpdaterToApps::Prepare { release, .. } => {
                self.facts.push(Fact::Prepared { set: release, refused: None });
            }
            UpdaterToApps::Run { release, .. } => {
                let statuses: Vec<ApplicationStatus> = Vec::new();
                self.facts.push(Fact::Applications { set: Some(release), statuses });
            }
            UpdaterToApps::Retain { .. } => {}
        }
    }

    fn configure(&mut self, _: &[(AppName, Vec<u8>)]) {}

    fn report(&mut self, status: &UpdateStatus) {
        self.status = Some(status.clone());
    }

    fn answer_reset(&mut self, _: Option<Reason>) {}

    fn say_goodbye(&mut self) {}
}

/// What was booted.
#[derive(Clone, Debug)]
pub(super) struct Boot<'a> {
    pub(super) system: &'a System,
    pub(super) slot: Slot,
    /// The entry's name after the loader counted the try.
    pub(super) entry: String,
}

/// How a life ended.
#[derive(Clone, Debug)]
pub(super) enum End {
    /// The device asks for a restart.
    Restart,
    /// Nothing is left to be done.
    Rest(Box<UpdateStatus>),
}

/// Lets the updater work until it rests or asks for a restart. Without `in_touch` the agent never comes back to it, which is what a
/// release on trial is left for.
pub(super) fn live(
    board: &Board,
    account: &Account,
    boot: &Boot<'_>,
    wish: Option<&(TargetPath, Digest)>,
    in_touch: bool,
) -> anyhow::Result<End> {
    let device_dir = board.root.join("mbl");
    let record = BootRecord {
        format: Format1,
        slot: boot.slot,
        entry: BootEntry::parse(&boot.entry),
        root_hash: boot.system.root_hash,
        security_version: boot.system.security_version,
        floor: SecurityVersion(0),
        state: StateOutcome::Open,
        reason: None,
    };
    let devices = Devices::below(&board.root);
    let disk = DeviceDisk::open(&devices, record.slot, record.root_hash, &device_dir)?;
    let (storage, mut keys) = (Storage::new(disk), KeyStore::Files);
    let os_release = format!("ID=mbl\nVERSION_ID=\"{}\"\n", boot.system.version);
    let running = Running::from_record(&record, os_release.as_bytes(), &storage.entries()?)?;
    let factory = factory_document(&storage, &mut keys, &device_dir)?;
    let trust = Trust::load(&storage, keys, &factory);
    let mut updater = Updater::start(storage, Desk::default(), trust, running, 0)?;
    let mut elapsed = Duration::ZERO;
    updater.time(elapsed, NOW);
    updater.tell(Fact::AppsConnected);
    if in_touch {
        updater.tell(Fact::Contact(Some(Contact { registered: true, network: true })));
    }
    if let Some((release, digest)) = wish {
        let (release, digest) = (release.clone(), *digest);
        updater.tell(Fact::Desired(Wish { release, digest, rollout: None, origin: Origin::Service, consent: None }));
    }
    for _ in 0..MOST_TURNS {
        updater.time(elapsed, UnixSeconds(NOW.0 + elapsed.as_secs()));
        let turn = updater.turn();
        for fact in std::mem::take(&mut updater.peers.facts) {
            updater.tell(fact);
        }
        match turn {
            Turn::Reboot => return Ok(End::Restart),
            Turn::Again => {}
            Turn::Wait(until) => {
                if let Some((origin, id, what)) = updater.peers.asked.pop() {
                    updater.answer(origin, id, account.fetch(&what));
                    continue;
                }
                if !updater.has_room() || updater.turn() == Turn::Again {
                    continue;
                }
                let status = updater.peers.status.clone().context("the updater reported nothing")?;
                let over = matches!(status.phase, Phase::Idle | Phase::Succeeded | Phase::Failed | Phase::RolledBack);
                match until {
                    _ if over => return Ok(End::Rest(Box::new(status))),
                    Some(until) => elapsed = elapsed.max(until),
                    None => bail!("the updater waits for nothing: {status:?}"),
                }
            }
        }
    }
    bail!("the updater does not come to an end")
}
