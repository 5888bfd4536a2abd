//! Whole updates on a disk that loses power after every single write, flush and rename.

use std::{cell::RefCell, collections::VecDeque, rc::Rc};

use account::{Account, Contents, NOW, image, verified};
use data_encoding::BASE64;
use protocol_release::document::Span;
use protocol_types::{
    Digest, FactoryDocument, Phase, ReasonCode, RolloutId, RunningFirmware, Slot, TargetPath,
    signed_cmdline::SignedCmdline,
    socket::{ApplicationState, ApplicationStatus, Contact},
};
use rcgen::{KeyPair, SigningKey as _};

use super::*;
use crate::{
    disk::{
        Place,
        faulty::{FaultyDisk, Luck},
    },
    firmware,
    key_store::KeyStore,
    loader,
    record::Wish,
};

#[path = "../../tests/support/account.rs"]
#[expect(dead_code, reason = "the tests of the process share it and use more of it")]
mod account;

const SLOT_BYTES: usize = 16 * 4096;
const FIRMWARE_BYTES: usize = 8 * 4096;
const IN_2099: UnixSeconds = UnixSeconds(4_070_908_800);
const ONLINE: Contact = Contact { registered: true, network: true };

/// What the updater said, to be answered by the test.
#[derive(Clone, Debug, Default)]
struct Mouth {
    said: Rc<RefCell<VecDeque<Said>>>,
    configured: Rc<RefCell<Documents>>,
}

#[derive(Debug)]
enum Said {
    Fetch(u64, Fetch),
    Apps(UpdaterToApps),
}

impl Peers for Mouth {
    fn fetch(&mut self, _: Origin, id: u64, what: Fetch) -> bool {
        self.said.borrow_mut().push_back(Said::Fetch(id, what));
        true
    }

    fn tell_apps(&mut self, message: UpdaterToApps) {
        self.said.borrow_mut().push_back(Said::Apps(message));
    }

    fn configure(&mut self, documents: &[(AppName, Vec<u8>)]) {
        *self.configured.borrow_mut() = documents.to_vec();
    }

    fn report(&mut self, _: &UpdateStatus) {}

    fn answer_reset(&mut self, _: Option<Reason>) {}

    fn say_goodbye(&mut self) {}
}

/// Why a session of the device ended.
#[derive(Debug)]
enum End {
    PowerCut,
    Reboot,
    /// Nothing more happens.
    Settled(Box<UpdateStatus>),
}

/// Configuration documents by name.
type Documents = Vec<(AppName, Vec<u8>)>;
/// What a request is answered with.
type Answer = Result<Vec<u8>, FetchError>;
/// Answers a request otherwise than the account would.
type Lie = fn(&Fetch, Answer) -> Answer;

/// A device, its account, and the wish that the service repeats whenever the device is up.
struct Device {
    disk: FaultyDisk,
    account: Account,
    wish: Option<Wish>,
    /// Sets with this digest never become ready.
    sick: Option<Digest>,
    lie: Lie,
    /// Shorter requests are answered honestly.
    honest_below: u32,
    fetched: u64,
    /// What is in force at the end.
    configured: Documents,
}

fn wish((release, digest): (TargetPath, Digest)) -> Wish {
    Wish { release, digest, rollout: Some(RolloutId::new("r1").unwrap()), origin: Origin::Service, consent: None }
}

fn old_image() -> Vec<u8> {
    image(10, &[], 0)
}

fn new_image() -> Vec<u8> {
    image(12, &[1, 2, 6], 7)
}

/// The command line of images with hash trees, behind the root hash.
const WORDS: &str = "mbl.security_version=1 mbl.key_store=none mbl.board=host quiet";

/// Boots as loader, initrd and kernel do on a real board: by the root hash in the chosen entry, and not without every block of the
/// root having its digest in the tree.
fn boot_with_tree(storage: &mut Storage<FaultyDisk>) -> Result<(Running, u64), loader::BootError> {
    loop {
        let chosen = BootEntry::choose(storage.entries()?).ok_or(loader::BootError::NothingBoots)?;
        let entry = chosen.after_try();
        storage.recount(chosen, entry.tries)?;
        let uki = storage.load(Folder::Esp, &entry.to_string(), 1 << 20)?.unwrap();
        let span = Span::of_cmdline(&uki).unwrap();
        let start = usize::try_from(span.start).unwrap();
        let line = SignedCmdline::parse(&uki[start..start + span.bytes]).unwrap();
        let mut tree = vec![0; 2 * 4096];
        storage.read(&Place::Verity(entry.slot), 0, &mut tree)?;
        let mut root = vec![0; SLOT_BYTES];
        storage.read(&Place::Slot(entry.slot), 0, &mut root)?;
        if let Some((root_hash, blocks)) = verified(&root, &tree)
            && root_hash == line.root_hash
        {
            // The version is the number of blocks: it cannot come from anywhere but the verified root.
            let running = Running {
                slot: entry.slot,
                root: line.root_hash,
                os_version: blocks.to_string(),
                generation: entry.generation,
                security_version: Some(line.security_version),
                restarts_agent: false,
                firmware: firmware::running(storage)?,
            };
            return Ok((running, blocks * 4096));
        }
        assert!(entry.tries.is_some(), "an entry that was confirmed does not boot");
    }
}

/// A firmware image package with one image of `blocks` blocks.
fn package(seed: u8, blocks: u64) -> Vec<u8> {
    let mut package = 0xaa64_0001_u32.to_le_bytes().to_vec();
    package.resize(16 + 40, seed);
    let end = 96 + blocks * 4096;
    package.extend([0; 16]);
    package.extend(end.to_le_bytes());
    package.resize(96, 0);
    package.extend((0..blocks).flat_map(|block| [seed ^ block.to_le_bytes()[0]; 4096]));
    package
}

/// An image as long as a file system is: a whole number of blocks.
fn padded(mut image: Vec<u8>) -> Vec<u8> {
    image.resize(image.len().next_multiple_of(4096), 0);
    image
}

impl Device {
    /// A device with the old image in slot A.
    fn new() -> Self {
        Self::made(FaultyDisk::new(SLOT_BYTES), Account::new())
    }

    /// One whose slots have hash trees.
    fn with_trees() -> Self {
        let mut account = Account::new();
        account.trees = Some(WORDS);
        Self::made(FaultyDisk::with_trees(SLOT_BYTES, 2 * 4096), account)
    }

    /// One that has slots for firmware, too, with the old one in slot a.
    fn with_firmware() -> Self {
        let mut device = Self::with_trees();
        device.disk.add_firmware(&package(1, 3), FIRMWARE_BYTES);
        device
    }

    fn made(disk: FaultyDisk, mut account: Account) -> Self {
        let mut storage = Storage::new(disk.clone());
        let index = account.os_index("1.0.0", &old_image());
        for section in &index.sections {
            let bytes = account.artifacts[&section.digest].clone();
            match bring::place_of(section.name, Slot::A) {
                Place::File(..) => storage.replace(Folder::Esp, "mbl-1-a.efi", &bytes).unwrap(),
                place => {
                    storage.write(&place, 0, &bytes).unwrap();
                    storage.flush(&place).unwrap();
                }
            }
        }
        Self {
            disk,
            account,
            wish: None,
            sick: None,
            lie: |_, answer| answer,
            honest_below: 0,
            fetched: 0,
            configured: Vec::new(),
        }
    }

    fn wanting(contents: &Contents) -> Self {
        let mut device = Self::new();
        device.want(contents);
        device
    }

    fn want(&mut self, contents: &Contents) {
        self.wish = Some(wish(self.account.publish(contents)));
    }

    /// The same device in a world of its own.
    fn fork(&self) -> Self {
        let Self { disk, account, wish, sick, lie, honest_below, fetched, configured } = self;
        Self {
            disk: disk.fork(),
            account: account.clone(),
            wish: wish.clone(),
            sick: *sick,
            lie: *lie,
            honest_below: *honest_below,
            fetched: *fetched,
            configured: configured.clone(),
        }
    }

    /// The image that boots now, read as the loader reads it.
    fn booted_image(&self) -> Vec<u8> {
        let disk = self.disk.fork();
        let (running, size) = self.boot(&mut Storage::new(disk.clone())).expect("nothing boots");
        let mut bytes = vec![0; usize::try_from(size).unwrap()];
        disk.read_at(&Place::Slot(running.slot), 0, &mut bytes).unwrap();
        bytes
    }

    /// What boots, and how long its root is.
    fn boot(&self, storage: &mut Storage<FaultyDisk>) -> Result<(Running, u64), loader::BootError> {
        if self.account.trees.is_some() {
            return boot_with_tree(storage);
        }
        loader::boot(storage).map(|cmdline| (Running::from_cmdline(&cmdline), cmdline.size))
    }

    /// From power-on until the power is gone, a restart is due or nothing more happens.
    fn session(&mut self) -> End {
        if self.disk.room().firmware.is_some() {
            self.disk.start_firmware();
        }
        let mut storage = Storage::new(self.disk.clone());
        let booted = self.boot(&mut storage);
        let Some((running, _)) = self.unless_off(booted) else { return End::PowerCut };
        let trust = Trust::load(&storage, KeyStore::Files, &self.account.factory_document());
        let mouth = Mouth::default();
        let started = Updater::start(storage, mouth.clone(), trust, running, 0);
        let Some(mut updater) = self.unless_off(started) else { return End::PowerCut };
        updater.tell(Fact::Contact(Some(ONLINE)));
        updater.tell(Fact::AppsConnected);
        updater.tell(self.wish.clone().map_or(Fact::Rest(Origin::Service), Fact::Desired));
        let mut elapsed = Duration::ZERO;
        loop {
            updater.time(elapsed, NOW);
            let turn = updater.turn();
            if self.disk.is_off() {
                return End::PowerCut;
            }
            match turn {
                Turn::Again => {}
                Turn::Reboot => return End::Reboot,
                Turn::Wait(until) => {
                    let said = mouth.said.borrow_mut().pop_front();
                    match (said, until) {
                        (Some(said), _) => self.answer(&mut updater, said),
                        (None, Some(until)) => elapsed = elapsed.max(until),
                        (None, None) => {
                            self.configured = mouth.configured.take();
                            return End::Settled(Box::new(updater.status()));
                        }
                    }
                }
            }
            assert!(elapsed < Duration::from_secs(1_000_000), "it goes on for ever: {:?}", updater.status());
        }
    }

    fn unless_off<T, E: std::fmt::Debug>(&self, result: Result<T, E>) -> Option<T> {
        if self.disk.is_off() { None } else { Some(result.expect("with power, this does not fail")) }
    }

    fn answer(&mut self, updater: &mut Updater<FaultyDisk, Mouth>, said: Said) {
        match said {
            Said::Fetch(id, what) => {
                let small = matches!(what, Fetch::Artifact { length, .. } if length < self.honest_below);
                let answer = self.account.fetch(&what);
                let answer = if small { answer } else { (self.lie)(&what, answer) };
                self.fetched += answer.as_ref().map_or(0, |bytes| bytes.len() as u64);
                updater.answer(Origin::Service, id, answer);
            }
            Said::Apps(UpdaterToApps::Prepare { release, .. }) => {
                updater.tell(Fact::Prepared { set: release, refused: None });
            }
            Said::Apps(UpdaterToApps::Run { release, applications }) => {
                let state =
                    if self.sick == Some(release) { ApplicationState::Started } else { ApplicationState::Ready };
                let statuses = applications.into_iter().map(|spec| ApplicationStatus {
                    name: spec.name,
                    digest: spec.digest,
                    state,
                    restarts: 0,
                    reason: None,
                });
                updater.tell(Fact::Applications { set: Some(release), statuses: statuses.collect() });
            }
            Said::Apps(UpdaterToApps::Retain { .. }) => {}
        }
    }

    /// Sessions until nothing more happens; every cut meets `luck`.
    fn settle(&mut self, luck: Luck) -> UpdateStatus {
        for _ in 0..12 {
            match self.session() {
                End::PowerCut => {
                    self.disk.power_on(luck);
                    self.booted_image();
                }
                End::Reboot => {}
                End::Settled(status) => return *status,
            }
        }
        panic!("it never settles");
    }

    fn entries(&self) -> Vec<String> {
        let mut names: Vec<_> =
            Storage::new(self.disk.clone()).entries().unwrap().iter().map(ToString::to_string).collect();
        names.sort();
        names
    }
}

/// Cuts power after every operation of a whole update, with every kind of luck, and lets the device go on afterwards.
fn sweep(device: &Device, check: impl Fn(&Device, &UpdateStatus)) {
    let mut whole = device.fork();
    let first = whole.disk.operations();
    let status = whole.settle(Luck::None);
    check(&whole, &status);
    let last = whole.disk.operations();
    assert!(last > first + 10, "nothing was written");
    for cut in first..=last {
        for luck in [Luck::None, Luck::All, Luck::Mixed(cut), Luck::Mixed(cut + 1000)] {
            let mut device = device.fork();
            device.disk.cut_at(cut);
            let status = device.settle(luck);
            check(&device, &status);
        }
    }
}

fn runs(device: &Device, image: &[u8]) {
    assert!(device.booted_image() == image, "another image runs");
}

#[test]
fn a_cut_at_any_write_of_a_good_update_ends_in_the_new_system() {
    let contents = Contents { application: Some("{}"), ..Contents::new("1.1.0", new_image()) };
    sweep(&Device::wanting(&contents), |device, status| {
        assert_eq!(status.phase, Phase::Succeeded, "{status:?}");
        assert_eq!((status.running.os_version.as_str(), status.running.slot), ("1.1.0", Slot::B));
        runs(device, &new_image());
        // A generation that was promised but never armed is not used again.
        let entries = device.entries();
        assert!(entries == ["mbl-1-a.efi", "mbl-2-b.efi"] || entries == ["mbl-1-a.efi", "mbl-3-b.efi"], "{entries:?}");
    });
}

#[test]
fn a_cut_at_any_write_of_an_update_with_a_hash_tree_ends_in_the_new_system_or_for_a_bad_one_in_the_old() {
    let contents = Contents { application: Some("{}"), ..Contents::new("1.1.0", padded(new_image())) };
    for sick in [false, true] {
        let mut device = Device::with_trees();
        device.want(&contents);
        device.sick = device.wish.as_ref().map(|wish| wish.digest).filter(|_| sick);
        sweep(&device, |device, status| {
            assert_eq!(status.phase, if sick { Phase::RolledBack } else { Phase::Succeeded }, "{status:?}");
            let (version, slot) = if sick { ("11", Slot::A) } else { ("13", Slot::B) };
            assert_eq!((status.running.os_version.as_str(), status.running.slot), (version, slot));
            runs(device, &padded(if sick { old_image() } else { new_image() }));
        });
    }
}

#[test]
fn a_cut_at_any_write_of_an_update_with_firmware_ends_with_system_and_firmware_both_new_or_both_old() {
    let contents = Contents { application: Some("{}"), ..Contents::new("1.1.0", padded(new_image())) };
    for sick in [false, true] {
        let mut device = Device::with_firmware();
        device.account.firmware = Some(package(9, 4));
        device.want(&contents);
        device.sick = device.wish.as_ref().map(|wish| wish.digest).filter(|_| sick);
        sweep(&device, |device, status| {
            let is_new = status.phase == Phase::Succeeded;
            // After a cut between entry and firmware, the new system is not kept.
            let code = status.reason.as_ref().map(|reason| reason.code);
            assert!(is_new || sick || code == Some(ReasonCode::BootFailed), "{status:?}");
            assert!(!(is_new && sick), "{status:?}");
            let (version, slot, firmware) =
                if is_new { ("13", Slot::B, package(9, 4)) } else { ("11", Slot::A, package(1, 3)) };
            let running = &status.running;
            assert_eq!((running.os_version.as_str(), running.slot), (version, slot), "{status:?}");
            let expected = RunningFirmware { slot, digest: Some(Digest::of(&firmware)) };
            assert_eq!(running.firmware, Some(expected), "{status:?}");
            // Of that the next start is made, too.
            let record = device.disk.firmware_record();
            assert_eq!((record.active, record.on_trial), (slot, false), "{status:?}");
            assert!(device.disk.fork().start_firmware().starts_with(&firmware));
            runs(device, &padded(if is_new { new_image() } else { old_image() }));
        });
        let mut uncut = device.fork();
        assert_eq!(uncut.settle(Luck::None).phase, if sick { Phase::RolledBack } else { Phase::Succeeded });
    }
}

#[test]
fn new_firmware_with_the_same_system_is_tried_and_firmware_that_runs_already_is_not_brought() {
    let mut device = Device::with_firmware();
    device.account.firmware = Some(package(9, 4));
    device.want(&Contents::new("1.1.0", old_image()));
    let status = device.settle(Luck::None);
    assert_eq!((status.phase, status.running.slot), (Phase::Succeeded, Slot::B), "{status:?}");
    let digest = Some(Digest::of(&package(9, 4)));
    assert_eq!(status.running.firmware, Some(RunningFirmware { slot: Slot::B, digest }));

    device.want(&Contents::new("1.2.0", padded(new_image())));
    let status = device.settle(Luck::None);
    assert_eq!((status.phase, status.running.slot), (Phase::Succeeded, Slot::A), "{status:?}");
    assert_eq!(status.running.firmware, Some(RunningFirmware { slot: Slot::B, digest }), "it stays where it is");
}

#[test]
fn firmware_that_differs_in_its_first_block_is_whole_although_flash_loses_what_lies_behind_a_write() {
    let mut device = Device::with_firmware();
    let mut newer = package(1, 3);
    newer[16] ^= 1;
    device.account.firmware = Some(newer.clone());
    device.want(&Contents::new("1.1.0", old_image()));
    let status = device.settle(Luck::None);
    assert_eq!(status.phase, Phase::Succeeded, "{status:?}");
    assert_eq!(status.running.firmware.unwrap().digest, Some(Digest::of(&newer)));
}

#[test]
fn firmware_that_is_no_package_or_that_the_board_has_no_slot_for_is_refused_before_anything_is_armed() {
    let mut torn = package(9, 4);
    torn.truncate(9000);
    let mut long = package(9, 4);
    long.push(0);
    for (mut device, firmware, code) in [
        (Device::with_firmware(), torn, ReasonCode::MalformedRelease),
        (Device::with_firmware(), long, ReasonCode::MalformedRelease),
        (Device::with_firmware(), package(9, 8), ReasonCode::NoRoom),
        (Device::with_trees(), package(9, 4), ReasonCode::WrongBoard),
    ] {
        device.account.firmware = Some(firmware);
        device.want(&Contents::new("1.1.0", padded(new_image())));
        let status = device.settle(Luck::None);
        assert_eq!((status.phase, status.reason.map(|reason| reason.code)), (Phase::Failed, Some(code)));
        assert_eq!(device.entries(), ["mbl-1-a.efi"]);
        runs(&device, &padded(old_image()));
    }
}

#[test]
fn a_trial_of_firmware_that_nobody_remembers_is_taken_back() {
    let device = Device::with_firmware();
    let mut storage = Storage::new(device.disk.clone());
    storage.choose_firmware(FirmwareChoice::TryIdle).unwrap();
    storage.write(&Place::IdleFirmware, 0, &package(9, 4)).unwrap();
    let mut device = device;
    let status = device.settle(Luck::None);
    assert_eq!(status.running.firmware.map(|firmware| firmware.slot), Some(Slot::A));
    assert!(!device.disk.firmware_record().on_trial);
}

#[test]
fn a_kernel_image_that_is_not_for_this_release_on_this_board_is_refused_before_it_is_armed() {
    for (words, wrong) in [
        ("mbl.security_version=2 mbl.key_store=none mbl.board=host", "security version"),
        ("mbl.security_version=1 mbl.key_store=none mbl.board=rpi4", "board"),
        ("mbl.security_version=1 mbl.key_store=none", "board"),
        ("mbl.security_version=1 mbl.key_store=tpm2 mbl.board=host", "key store"),
        ("mbl.key_store=none mbl.board=host", "mbl.security_version"),
        ("roothash=0 mbl.security_version=1 mbl.key_store=none mbl.board=host", "twice"),
    ] {
        let mut device = Device::with_trees();
        device.account.trees = Some(words);
        device.want(&Contents::new("1.1.0", padded(new_image())));
        let status = device.settle(Luck::None);
        let reason = status.reason.unwrap();
        assert_eq!((status.phase, reason.code), (Phase::Failed, ReasonCode::MalformedRelease));
        assert!(reason.text.contains(wrong), "{words}: {reason}");
        assert_eq!(device.entries(), ["mbl-1-a.efi"]);
        runs(&device, &padded(old_image()));
    }
}

#[test]
fn an_image_with_a_hash_tree_is_not_for_a_board_without_one_and_the_other_way_round() {
    let mut plain = Device::new();
    plain.account.trees = Some(WORDS);
    plain.want(&Contents::new("1.1.0", padded(new_image())));
    let mut with_trees = Device::with_trees();
    with_trees.account.trees = None;
    with_trees.want(&Contents::new("1.1.0", padded(new_image())));
    for (mut device, trees) in [(plain, None), (with_trees, Some(WORDS))] {
        device.account.trees = trees;
        let status = device.settle(Luck::None);
        assert_eq!((status.phase, status.reason.unwrap().code), (Phase::Failed, ReasonCode::WrongBoard));
        assert_eq!(
            device.disk.slot_bytes_written(),
            if trees.is_some() { 49_252 } else { 41_060 },
            "the old image alone"
        );
    }
}

#[test]
fn a_cut_at_any_write_of_a_bad_update_ends_in_the_old_system() {
    let contents = Contents { application: Some("{}"), ..Contents::new("1.1.0", new_image()) };
    let mut device = Device::wanting(&contents);
    device.sick = device.wish.as_ref().map(|wish| wish.digest);
    sweep(&device, |device, status| {
        assert_eq!(status.phase, Phase::RolledBack, "{status:?}");
        assert_eq!(status.reason.as_ref().unwrap().code, ReasonCode::ApplicationNotReady);
        assert_eq!(status.running.slot, Slot::A);
        runs(device, &old_image());
    });
}

#[test]
fn a_cut_at_any_write_of_a_switch_of_applications_keeps_the_set_and_the_verdict_together() {
    let contents = Contents {
        application: Some("{}"),
        configuration: Some(("base", "{\"interval\":1}")),
        ..Contents::new("1.1.0", old_image())
    };
    for sick in [false, true] {
        let mut device = Device::wanting(&contents);
        device.sick = device.wish.as_ref().map(|wish| wish.digest).filter(|_| sick);
        sweep(&device, |device, status| {
            assert_eq!(status.phase, if sick { Phase::RolledBack } else { Phase::Succeeded }, "{status:?}");
            assert_eq!(status.running.applications.len(), usize::from(!sick));
            assert_eq!(device.configured.len(), usize::from(!sick), "the configuration goes with the release");
            let names = device.disk.list(Folder::State).unwrap();
            assert_eq!(names.iter().any(|name| name.starts_with("configuration-")), !sick, "{names:?}");
            assert_eq!(device.entries(), ["mbl-1-a.efi"]);
        });
    }
}

#[test]
fn settings_of_the_operating_system_that_say_nothing_are_refused_before_anything_is_armed() {
    for (text, says) in [
        (r#"{"format":1,"hostnam":"gate"}"#, "unknown field `hostnam`"),
        (r#"{"format":1,"journal_mib":4096}"#, "`journal_mib` is 4096"),
        ("{", "EOF"),
    ] {
        let contents = Contents { configuration: Some(("system", text)), ..Contents::new("1.1.0", new_image()) };
        let mut device = Device::wanting(&contents);
        let status = device.settle(Luck::None);
        let reason = status.reason.as_ref().unwrap();
        assert_eq!((status.phase, reason.code), (Phase::Failed, ReasonCode::MalformedRelease), "{status:?}");
        assert!(reason.text.contains(says), "{reason}");
        assert_eq!((device.configured.len(), device.entries()), (0, vec!["mbl-1-a.efi".to_owned()]));
    }
    // Whoever else a document is for knows what it means.
    let contents = Contents { configuration: Some(("base", "no JSON")), ..Contents::new("1.1.0", new_image()) };
    let status = Device::wanting(&contents).settle(Luck::None);
    assert_eq!(status.phase, Phase::Succeeded, "{status:?}");
}

#[test]
fn a_cut_at_any_write_while_the_floor_rises_leaves_it_risen_with_the_release() {
    let contents = Contents { security_version: 3, raises_floor: true, ..Contents::new("1.1.0", new_image()) };
    sweep(&Device::wanting(&contents), |device, status| {
        assert_eq!((status.phase, status.floor), (Phase::Succeeded, SecurityVersion(3)), "{status:?}");
        runs(device, &new_image());
    });
}

#[test]
fn a_release_below_the_floor_is_refused_even_after_a_factory_reset() {
    let contents = Contents { security_version: 3, raises_floor: true, ..Contents::new("1.1.0", new_image()) };
    let mut device = Device::wanting(&contents);
    device.settle(Luck::None);
    for name in ["trusted.json", "state.json"] {
        device.disk.remove(Folder::State, name).unwrap();
    }
    device.want(&Contents { security_version: 2, ..Contents::new("1.2.0", old_image()) });
    let status = device.settle(Luck::None);
    assert_eq!((status.floor, status.reason.unwrap().code), (SecurityVersion(3), ReasonCode::BelowSecurityFloor));
    runs(&device, &new_image());
}

#[test]
fn a_cut_during_the_way_back_from_a_cut_is_survived_too() {
    let contents = Contents { application: Some("{}"), ..Contents::new("1.1.0", new_image()) };
    let device = Device::wanting(&contents);
    let mut whole = device.fork();
    let first = whole.disk.operations();
    whole.settle(Luck::None);
    let span = whole.disk.operations() - first;
    for step in 0..120u64 {
        let mut device = device.fork();
        let (cut, again) = (first + step * 37 % span, step * 11 % span);
        device.disk.cut_at(cut);
        while !matches!(device.session(), End::PowerCut | End::Settled(_)) {}
        device.disk.power_on(Luck::Mixed(step));
        device.booted_image();
        device.disk.cut_at(device.disk.operations() + again);
        let status = device.settle(Luck::Mixed(step + 1));
        assert_eq!(status.phase, Phase::Succeeded, "cuts at {cut} and {again} later: {status:?}");
        runs(&device, &new_image());
    }
}

#[test]
fn a_new_system_that_never_starts_its_updater_is_left_after_its_tries() {
    let mut device = Device::wanting(&Contents::new("1.1.0", new_image()));
    assert!(matches!(device.session(), End::Reboot));
    // Three boots in which nothing of ours runs.
    for _ in 0..3 {
        assert_eq!(loader::boot(&mut Storage::new(device.disk.clone())).unwrap().entry.slot, Slot::B);
    }
    let status = device.settle(Luck::None);
    assert_eq!((status.phase, status.reason.unwrap().code), (Phase::RolledBack, ReasonCode::BootFailed));
    runs(&device, &old_image());
}

#[test]
fn blocks_that_the_device_has_are_not_asked_for() {
    let mut device = Device::wanting(&Contents::new("1.1.0", new_image()));
    let (before, metadata) = (device.disk.slot_bytes_written(), 40_000);
    device.settle(Luck::None);
    assert_eq!(device.disk.slot_bytes_written() - before, 12 * 4096 + 100, "each byte is written once");
    // Blocks 1, 2 and 6 changed, the last one of the old image grew, and three are new.
    assert!(device.fetched < 6 * 4096 + metadata, "{} bytes were fetched", device.fetched);
    device.want(&Contents::new("1.2.0", old_image()));
    let before = device.disk.slot_bytes_written();
    let status = device.settle(Luck::None);
    assert_eq!((status.phase, status.running.slot), (Phase::Succeeded, Slot::A));
    assert_eq!(device.disk.slot_bytes_written(), before, "the old image was still in its slot");
}

#[test]
fn blocks_that_the_kernel_image_has_in_common_with_the_one_that_runs_are_not_asked_for() {
    let mut device = Device::with_trees();
    device.want(&Contents::new("1.1.0", padded(new_image())));
    assert_eq!(device.settle(Luck::None).phase, Phase::Succeeded);
    let traffic = Storage::new(device.disk.clone()).load(Folder::State, "traffic.json", 1 << 16).unwrap().unwrap();
    let traffic: serde_json::Value = serde_json::from_slice(&traffic).unwrap();
    // Six blocks of the root, its tree, and of the kernel image the one with the command line; zeros behind it stand there anyway.
    let [fetched, copied, kept] = ["fetched", "copied", "kept"].map(|part| traffic[part].as_u64().unwrap());
    assert_eq!((fetched, copied, kept), ((6 + 2 + 1) * 4096, (7 + 1) * 4096, 9000 % 4096), "{traffic}");
}

#[test]
fn a_lie_in_any_piece_is_refused_with_its_own_code_and_changes_nothing_that_boots() {
    fn on_artifacts(what: &Fetch, change: impl FnOnce(&mut Vec<u8>), answer: Answer) -> Answer {
        let mut answer = answer?;
        if matches!(what, Fetch::Artifact { .. }) {
            change(&mut answer);
        }
        Ok(answer)
    }
    let lies: [(Lie, ReasonCode); 5] = [
        (|what, answer| on_artifacts(what, |bytes| bytes[0] ^= 1, answer), ReasonCode::DigestMismatch),
        (|what, answer| on_artifacts(what, |bytes| bytes.truncate(bytes.len() - 1), answer), ReasonCode::Truncated),
        (|what, answer| on_artifacts(what, |bytes| bytes.push(0), answer), ReasonCode::Oversized),
        (|what, answer| on_artifacts(what, Vec::clear, answer), ReasonCode::Truncated),
        (
            |what, answer| if matches!(what, Fetch::Artifact { .. }) { Err(FetchError::NotFound) } else { answer },
            ReasonCode::NotFound,
        ),
    ];
    for (lie, code) in lies {
        // First only the blocks lie, then everything.
        for late in [true, false] {
            let mut device = Device::wanting(&Contents::new("1.1.0", new_image()));
            (device.lie, device.honest_below) = (lie, if late { 4096 } else { 0 });
            let status = device.settle(Luck::None);
            assert_eq!(status.phase, Phase::Failed, "{status:?}");
            assert_eq!(status.reason.as_ref().unwrap().code, code, "{status:?}");
            runs(&device, &old_image());
        }
    }
}

#[test]
fn an_agent_that_never_answers_costs_time_and_nothing_else() {
    let mut device = Device::wanting(&Contents::new("1.1.0", new_image()));
    device.lie = |_, _| Err(FetchError::Unreachable);
    let (mut updater, mouth) = begin(&device, &device.account.factory_document());
    updater.tell(Fact::Desired(device.wish.clone().unwrap()));
    let mut asked = 0;
    let mut elapsed = Duration::ZERO;
    let mut told = Vec::new();
    while elapsed < Duration::from_secs(4 * 3600) {
        updater.time(elapsed, NOW);
        let status = updater.status();
        told.extend(status.reason.map(|reason| (status.phase, reason.code)));
        if let Turn::Wait(until) = updater.turn() {
            asked += mouth.said.borrow_mut().drain(..).filter(|said| matches!(said, Said::Fetch(..))).count();
            elapsed = elapsed.max(until.unwrap());
        }
    }
    assert!((5..40).contains(&asked), "{asked} requests in four hours");
    told.dedup();
    assert_eq!(told, [(Phase::Downloading, ReasonCode::Unreachable)]);
}

/// An updater on what the device's disk holds, and what it says.
fn begin(device: &Device, factory: &FactoryDocument) -> (Updater<FaultyDisk, Mouth>, Mouth) {
    let mut storage = Storage::new(device.disk.clone());
    let cmdline = loader::boot(&mut storage).unwrap();
    let trust = Trust::load(&storage, KeyStore::Files, factory);
    let mouth = Mouth::default();
    (Updater::start(storage, mouth.clone(), trust, Running::from_cmdline(&cmdline), 0).unwrap(), mouth)
}

/// A time as the service says it.
fn told(key: &KeyPair, time: UnixSeconds) -> SignedTime {
    let signature = key.sign(SignedTime::text(time, "00ff").as_bytes()).unwrap();
    SignedTime { time, nonce: "00ff".to_owned(), signature: BASE64.encode(&signature) }
}

#[test]
fn a_release_that_is_over_by_the_devices_own_clock_alone_is_looked_at_again() {
    let key = KeyPair::generate().unwrap();
    let mut device = Device::wanting(&Contents::new("1.1.0", new_image()));
    let factory = FactoryDocument { time_key: key.public_key_pem(), ..device.account.factory_document() };
    let (mut updater, mouth) = begin(&device, &factory);
    updater.tell(Fact::Contact(Some(ONLINE)));
    updater.tell(Fact::Desired(device.wish.clone().unwrap()));
    let (mut elapsed, mut was_expired) = (Duration::ZERO, false);
    loop {
        updater.time(elapsed, IN_2099);
        match updater.turn() {
            Turn::Again => {}
            Turn::Reboot => break,
            Turn::Wait(until) => {
                let said = mouth.said.borrow_mut().pop_front();
                if let Some(said) = said {
                    device.answer(&mut updater, said);
                    continue;
                }
                let code = updater.status().reason.map(|reason| reason.code);
                assert_eq!((code, was_expired), (Some(ReasonCode::MetadataExpired), false));
                was_expired = true;
                updater.hear_time(&told(&key, NOW));
                elapsed = elapsed.max(until.unwrap());
            }
        }
    }
    assert!(was_expired);
}

#[test]
fn the_clock_goes_by_the_time_key_alone_and_never_back() {
    let (key, stranger) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let device = Device::wanting(&Contents::new("1.1.0", new_image()));
    let factory = FactoryDocument { time_key: key.public_key_pem(), ..device.account.factory_document() };
    let start = || begin(&device, &factory).0;
    // More than the hour after which a time is saved again.
    let (far_ahead, two_hours) = (IN_2099, Duration::from_secs(7200));

    let mut updater = start();
    updater.time(Duration::ZERO, UnixSeconds(0));
    for forged in [told(&stranger, far_ahead), SignedTime { time: far_ahead, ..told(&key, NOW) }] {
        updater.hear_time(&forged);
        assert_eq!(updater.now(), UnixSeconds(0));
    }
    updater.time(Duration::ZERO, far_ahead);
    updater.hear_time(&told(&key, NOW));
    assert_eq!(updater.now(), NOW, "the device's own clock is ahead");
    updater.time(two_hours, far_ahead);
    updater.hear_time(&told(&key, NOW));
    assert_eq!(updater.now(), NOW.plus(two_hours), "the agent says again what it said two hours ago");
    let later = NOW.plus(two_hours * 2);
    updater.hear_time(&told(&key, later));
    assert_eq!(updater.now(), later);
    while updater.turn() == Turn::Again {}

    let mut updater = start();
    updater.time(Duration::ZERO, UnixSeconds(0));
    updater.hear_time(&told(&key, NOW));
    assert_eq!(updater.now(), UnixSeconds(0), "a time from before the last life of the updater");
    updater.hear_time(&told(&key, later));
    assert_eq!(updater.now(), later);
}

#[test]
fn a_full_disk_is_said_so_and_tried_again_when_there_is_room() {
    let mut device = Device::wanting(&Contents::new("1.1.0", new_image()));
    let (mut updater, mouth) = begin(&device, &device.account.factory_document());
    updater.tell(Fact::Contact(Some(ONLINE)));
    updater.tell(Fact::Desired(device.wish.clone().unwrap()));
    device.disk.set_full(true);
    let mut elapsed = Duration::ZERO;
    let mut was_full = false;
    loop {
        updater.time(elapsed, NOW);
        match updater.turn() {
            Turn::Again => {}
            Turn::Reboot => break,
            Turn::Wait(until) => {
                let status = updater.status();
                if status.phase == Phase::Failed {
                    assert_eq!(status.reason.unwrap().code, ReasonCode::NoRoom);
                    was_full = true;
                    runs(&device, &old_image());
                    device.disk.set_full(elapsed < Duration::from_secs(1000));
                }
                let said = mouth.said.borrow_mut().pop_front();
                match said {
                    Some(said) => device.answer(&mut updater, said),
                    None => elapsed = elapsed.max(until.unwrap()),
                }
            }
        }
    }
    assert!(was_full);
    assert_eq!(device.settle(Luck::None).phase, Phase::Succeeded);
    runs(&device, &new_image());
}

#[test]
fn a_device_whose_store_of_trust_is_damaged_runs_but_installs_nothing() {
    let mut device = Device::wanting(&Contents::new("1.1.0", new_image()));
    Storage::new(device.disk.clone()).replace(Folder::State, "trusted.json", b"{}").unwrap();
    let status = device.settle(Luck::None);
    assert_eq!((status.phase, status.reason.unwrap().code), (Phase::Failed, ReasonCode::StateDamaged));
    runs(&device, &old_image());
}

#[test]
fn an_older_repository_is_refused_after_a_newer_one_was_seen() {
    let mut device = Device::wanting(&Contents::new("1.1.0", new_image()));
    let older = device.account.clone();
    device.want(&Contents { application: Some("{}"), ..Contents::new("1.2.0", new_image()) });
    assert_eq!(device.settle(Luck::None).phase, Phase::Succeeded);
    let newer = std::mem::replace(&mut device.account, older);
    device.wish = Some(wish((
        TargetPath::new("releases/1.1.0.json").unwrap(),
        Digest::of(
            newer
                .artifacts
                .values()
                .find(|bytes| bytes.starts_with(b"{\n  \"format\": 1,\n  \"version\": \"1.1.0\""))
                .unwrap(),
        ),
    )));
    let status = device.settle(Luck::None);
    assert_eq!((status.phase, status.reason.unwrap().code), (Phase::Failed, ReasonCode::MetadataRollback));
}
