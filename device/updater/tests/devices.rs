//! The real updater on partitions with hash trees, a FAT32 volume and a TPM in software. Loader, initrd and kernel are played by the
//! test, with mtools for the firmware's FAT driver.

#![expect(clippy::unwrap_used, reason = "whatever fails here fails the test")]

#[expect(dead_code, reason = "the tests of the board `host` use more of it")]
mod support;

use std::{
    fs,
    os::unix::{
        fs::{FileExt as _, PermissionsExt as _, symlink},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use protocol_release::document::{SectionName, Span};
use protocol_types::{
    BootRecord, Digest, Phase, ReasonCode, SecurityVersion, Slot, UpdateStatus,
    boot::BootEntry,
    boot_record::{Format1, StateOutcome},
    luks,
    signed_cmdline::SignedCmdline,
};
use support::{
    account::{Account, Contents, image, verified},
    bench::{UPDATER, until},
    peers::{Peers, World, pause},
    software_tpm::Software,
};

const BOARD: &str = "qemu-arm64-tpm";
const LABELS: [&str; 7] = ["esp", "root-a", "verity-a", "root-b", "verity-b", "factory", "state"];
const ROOT_BYTES: usize = 120 * 4096;
const WORDS: &str = "mbl.security_version=1 mbl.key_store=tpm2 mbl.board=qemu-arm64-tpm quiet";
const FLOOR_WORDS: &str = "mbl.security_version=4 mbl.key_store=tpm2 mbl.board=qemu-arm64-tpm quiet";

/// A board that was provisioned and has a system in slot A.
struct Machine {
    dir: tempfile::TempDir,
    tpm: Software,
    world: Arc<Mutex<World>>,
    updater: Option<Child>,
    peers: Option<Peers>,
    booted: Vec<String>,
}

fn tool(name: &str, arguments: &[&str]) -> String {
    let found =
        ["/usr/sbin", "/sbin", "/usr/bin"].map(|dir| Path::new(dir).join(name)).into_iter().find(|p| p.exists());
    let output = Command::new(found.unwrap()).args(arguments).env("MTOOLS_SKIP_CHECK", "1").output().unwrap();
    assert!(output.status.success(), "{name} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn padded(mut image: Vec<u8>) -> Vec<u8> {
    image.resize(image.len().next_multiple_of(4096), 0);
    image
}

fn old_image() -> Vec<u8> {
    padded(image(100, &[], 0))
}

fn new_image() -> Vec<u8> {
    padded(image(110, &[3, 50, 51, 52, 90], 9))
}

impl Machine {
    fn new() -> Self {
        let mut account = Account::new();
        account.board = BOARD.parse().unwrap();
        account.trees = Some(WORDS);
        let machine = Self {
            dir: tempfile::tempdir().unwrap(),
            tpm: Software::start(),
            world: Arc::new(Mutex::new(World::new(account.clone()))),
            updater: None,
            peers: None,
            booted: Vec::new(),
        };
        for name in ["sys/class/block", "dev", "usr/lib", "usr/bin", "mbl/factory", "mbl/state"] {
            fs::create_dir_all(machine.root().join(name)).unwrap();
        }
        for (number, label) in (1..).zip(LABELS) {
            machine.add_partition("vda", number, label);
        }
        tool("mkfs.vfat", &["-C", "-F", "32", machine.node("esp").to_str().unwrap(), "300000"]);
        machine.m("mmd", &["::/EFI", "::/EFI/Linux", "::/EFI/BOOT"]);
        for label in ["root-a", "root-b"] {
            fs::write(machine.node(label), vec![0xee; ROOT_BYTES]).unwrap();
        }
        for label in ["verity-a", "verity-b"] {
            fs::write(machine.node(label), vec![0xee; 3 * 4096]).unwrap();
        }
        machine.write_first_system(&mut account);
        let systemctl = machine.root().join("usr/bin/systemctl");
        let script = format!("#!/bin/sh\necho \"$@\" >> {}\n", machine.root().join("asked").display());
        fs::write(&systemctl, script).unwrap();
        fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755)).unwrap();
        let document = serde_json::to_vec(&account.factory_document()).unwrap();
        fs::write(machine.root().join("mbl/factory/factory.json"), document).unwrap();
        machine.world.lock().unwrap().account = account;
        machine
    }

    fn root(&self) -> &Path {
        self.dir.path()
    }

    /// Shows a partition as the kernel does.
    fn add_partition(&self, disk: &str, number: u32, label: &str) {
        let device = format!("{disk}{number}");
        let place = self.root().join("sys/devices").join(disk).join(&device);
        fs::create_dir_all(&place).unwrap();
        fs::write(place.join("partition"), format!("{number}\n")).unwrap();
        let uevent = format!("DEVNAME={device}\nDEVTYPE=partition\nPARTN={number}\nPARTNAME={label}\n");
        fs::write(place.join("uevent"), uevent).unwrap();
        symlink(&place, self.root().join("sys/class/block").join(&device)).unwrap();
    }

    fn node(&self, label: &str) -> PathBuf {
        let number = 1 + LABELS.iter().position(|l| *l == label).unwrap();
        self.root().join(format!("dev/vda{number}"))
    }

    /// One of the mtools on the boot partition.
    fn m(&self, name: &str, arguments: &[&str]) -> String {
        let image = self.node("esp");
        tool(name, &[&["-i", image.to_str().unwrap()], arguments].concat())
    }

    fn write_first_system(&self, account: &mut Account) {
        let index = account.os_index("1.0.0", &old_image());
        for section in &index.sections {
            let bytes = &account.artifacts[&section.digest];
            match section.name {
                SectionName::Root => self.write("root-a", bytes),
                SectionName::Verity => self.write("verity-a", bytes),
                SectionName::Firmware => unreachable!("this board has no slots for firmware"),
                SectionName::Uki => {
                    let file = self.root().join("uki");
                    fs::write(&file, bytes).unwrap();
                    self.m("mcopy", &[file.to_str().unwrap(), "::/EFI/Linux/mbl-1-a.efi"]);
                }
            }
        }
    }

    fn write(&self, label: &str, bytes: &[u8]) {
        fs::OpenOptions::new().write(true).open(self.node(label)).unwrap().write_all_at(bytes, 0).unwrap();
    }

    /// The factory's last step.
    fn record_factory(&self) -> ExitStatus {
        let mut command = Command::new(UPDATER);
        command.arg("record-factory").arg("--device-dir").arg(self.root().join("mbl"));
        command.arg("--tpm").arg(self.tpm.socket()).stderr(Stdio::null()).status().unwrap()
    }

    fn entries(&self) -> Vec<String> {
        let listed = self.m("mdir", &["-b", "::/EFI/Linux"]);
        let names = listed.lines().filter_map(|line| line.rsplit('/').next());
        let mut names: Vec<String> = names.filter(|name| name.ends_with(".efi")).map(str::to_owned).collect();
        names.sort();
        names
    }

    /// Power on: loader, initrd and kernel, then the updater.
    fn boot(&mut self) {
        let entries = self.entries();
        let chosen = BootEntry::choose(entries.iter().filter_map(|name| BootEntry::parse(name))).unwrap();
        let entry = chosen.after_try();
        if entry != chosen {
            self.m("mren", &[&format!("::/EFI/Linux/{chosen}"), &format!("::/EFI/Linux/{entry}")]);
        }
        let uki = self.root().join("uki");
        self.m("mcopy", &["-n", "-o", &format!("::/EFI/Linux/{entry}"), uki.to_str().unwrap()]);
        let uki = fs::read(uki).unwrap();
        let span = Span::of_cmdline(&uki).unwrap();
        let start = usize::try_from(span.start).unwrap();
        let line = SignedCmdline::parse(&uki[start..start + span.bytes]).unwrap();
        let held = |slot: Slot| {
            let read = |name: &str| fs::read(self.node(&format!("{name}-{slot}"))).unwrap();
            verified(&read("root"), &read("verity")).filter(|(root_hash, _)| *root_hash == line.root_hash)
        };
        let (slot, (root_hash, blocks)) =
            [Slot::A, Slot::B].into_iter().find_map(|slot| Some((slot, held(slot)?))).unwrap();
        let run = self.root().join("mbl/run");
        drop(fs::remove_dir_all(&run));
        fs::create_dir_all(&run).unwrap();
        let (floor, security_version) = (SecurityVersion(0), line.security_version);
        let record = BootRecord {
            format: Format1,
            slot,
            entry: Some(entry),
            root_hash,
            security_version,
            floor,
            state: StateOutcome::Open,
            reason: None,
        };
        fs::write(run.join("boot.json"), record.to_json()).unwrap();
        fs::write(self.root().join("usr/lib/os-release"), format!("ID=mbl\nVERSION_ID=\"{blocks}\"\n")).unwrap();
        self.booted.push(entry.to_string());
        self.start();
    }

    fn start(&mut self) {
        let mut command = Command::new(UPDATER);
        command.args(["run", "--board", BOARD, "--device-dir"]).arg(self.root().join("mbl"));
        command.arg("--root").arg(self.root()).arg("--tpm").arg(self.tpm.socket());
        let log = fs::OpenOptions::new().create(true).append(true).open(self.root().join("updater.log")).unwrap();
        self.updater = Some(command.stderr(log).process_group(0).spawn().unwrap());
        self.peers = Some(Peers::play(&self.root().join("mbl"), &self.world));
    }

    fn power_off(&mut self) {
        self.peers = None;
        if let Some(mut updater) = self.updater.take() {
            updater.kill().unwrap();
            updater.wait().unwrap();
        }
    }

    fn status(&self) -> Option<UpdateStatus> {
        serde_json::from_slice(&fs::read(self.root().join("mbl/run/update-status.json")).ok()?).ok()
    }

    fn want(&self, contents: &Contents) -> Digest {
        let mut world = self.world.lock().unwrap();
        let wish = world.account.publish(contents);
        let digest = wish.1;
        world.want(wish);
        digest
    }

    /// Restarts when it is asked to, until the wish came to its end.
    fn ends(&mut self, digest: Digest) -> UpdateStatus {
        if self.updater.is_none() {
            self.boot();
        }
        loop {
            let ended = until("the update comes to its end or a restart", Duration::from_secs(90), || {
                if let Some(status) = self.updater.as_mut().unwrap().try_wait().unwrap() {
                    return Some(Err(status));
                }
                let over = |status: &UpdateStatus| {
                    matches!(status.phase, Phase::Succeeded | Phase::Failed | Phase::RolledBack)
                        && status.wanted == Some(digest)
                };
                self.status().filter(over).map(Ok)
            });
            match ended {
                Ok(status) => return status,
                Err(status) => {
                    let log = fs::read_to_string(self.root().join("updater.log")).unwrap();
                    assert_eq!(status.code(), Some(75), "{log}");
                    let asked = fs::read_to_string(self.root().join("asked")).unwrap();
                    assert!(asked.lines().last() == Some("--no-block reboot"), "{asked}");
                    self.peers = None;
                    self.updater = None;
                    self.boot();
                }
            }
        }
    }

    fn holds(&self, label: &str, bytes: &[u8]) -> bool {
        fs::read(self.node(label)).unwrap().starts_with(bytes)
    }

    fn is_in_order(&self) {
        tool("fsck.vfat", &["-n", self.node("esp").to_str().unwrap()]);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.power_off();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.root().join("updater.log")).unwrap_or_default();
            #[expect(clippy::print_stderr, reason = "the log of a device is why its test failed")]
            log.lines().rev().take(40).for_each(|line| eprintln!("{line}"));
        }
    }
}

#[test]
fn a_release_with_a_hash_tree_is_installed_tried_and_kept_and_its_floor_is_in_the_tpm() {
    let mut machine = Machine::new();
    assert!(machine.record_factory().success());
    let untouched = ["factory", "state"].map(|label| fs::read(machine.node(label)).unwrap_or_default());
    let first = machine.want(&Contents { application: Some("{}"), ..Contents::new("1.1.0", new_image()) });
    let status = machine.ends(first);
    assert_eq!((status.phase, status.running.slot), (Phase::Succeeded, Slot::B), "{status:?}");
    assert_eq!((status.running.os_version.as_str(), status.floor), ("111", SecurityVersion(0)));
    assert_eq!(machine.entries(), ["mbl-1-a.efi", "mbl-2-b.efi"]);
    assert_eq!(machine.booted, ["mbl-1-a.efi", "mbl-2-b+2-1.efi"]);
    assert!(machine.holds("root-a", &old_image()) && machine.holds("root-b", &new_image()));
    machine.is_in_order();
    // The next one goes into slot A and raises the floor.
    machine.world.lock().unwrap().account.trees = Some(FLOOR_WORDS);
    let third = padded(image(105, &[1, 2, 3], 77));
    let raising = Contents { security_version: 4, raises_floor: true, ..Contents::new("1.2.0", third.clone()) };
    let second = machine.want(&raising);
    let status = machine.ends(second);
    assert_eq!((status.phase, status.running.slot, status.floor), (Phase::Succeeded, Slot::A, SecurityVersion(4)));
    assert_eq!(machine.entries(), ["mbl-2-b+0.efi", "mbl-3-a.efi"]);
    assert!(machine.holds("root-a", &third) && machine.holds("root-b", &new_image()));
    machine.is_in_order();
    // State that is lost does not take the floor along.
    machine.power_off();
    machine.tpm.restart();
    fs::remove_dir_all(machine.root().join("mbl/state/updater")).unwrap();
    machine.world.lock().unwrap().account.trees = Some(WORDS);
    let older = machine.want(&Contents::new("1.0.9", old_image()));
    let status = machine.ends(older);
    assert_eq!((status.phase, status.reason.unwrap().code), (Phase::Failed, ReasonCode::BelowSecurityFloor));
    assert_eq!(untouched, ["factory", "state"].map(|label| fs::read(machine.node(label)).unwrap_or_default()));
}

#[test]
fn a_release_that_does_not_prove_itself_is_left_again_and_can_be_followed_by_another() {
    let mut machine = Machine::new();
    assert!(machine.record_factory().success());
    let health = protocol_release::document::Health { time_limit_s: 2, no_contact_limit_s: 5 };
    let contents = Contents { application: Some("{}"), health, ..Contents::new("1.1.0", new_image()) };
    let digest = machine.want(&contents);
    machine.world.lock().unwrap().sick = Some(digest);
    let status = machine.ends(digest);
    assert_eq!((status.phase, status.reason.unwrap().code), (Phase::RolledBack, ReasonCode::ApplicationNotReady));
    assert_eq!((status.running.slot, status.running.os_version.as_str()), (Slot::A, "101"));
    assert_eq!(machine.entries(), ["mbl-1-a.efi", "mbl-2-b+0-1.efi"]);
    machine.is_in_order();
    let repaired = machine.want(&Contents { version: "1.1.1", ..contents });
    let status = machine.ends(repaired);
    assert_eq!((status.phase, status.running.slot), (Phase::Succeeded, Slot::B), "{status:?}");
    assert_eq!(machine.entries(), ["mbl-1-a.efi", "mbl-3-b.efi"]);
    machine.is_in_order();
}

#[test]
fn a_board_that_loses_power_again_and_again_still_comes_to_the_end() {
    let mut machine = Machine::new();
    assert!(machine.record_factory().success());
    machine.world.lock().unwrap().slowness = Duration::from_millis(5);
    let digest = machine.want(&Contents::new("1.1.0", new_image()));
    for cut in 0..6 {
        machine.boot();
        pause(Duration::from_millis(60 + cut * 90));
        machine.power_off();
        machine.tpm.restart();
    }
    let status = machine.ends(digest);
    // Three cuts during one trial are a reason to go back, with the old system untouched.
    let image = match status.phase {
        Phase::Succeeded => new_image(),
        Phase::RolledBack => old_image(),
        other => panic!("{other}: {status:?}"),
    };
    assert!(machine.holds(&format!("root-{}", status.running.slot), &image), "{status:?}");
    assert!(machine.holds("root-a", &old_image()));
}

#[test]
fn a_board_whose_factory_document_is_not_the_recorded_one_installs_nothing() {
    let mut machine = Machine::new();
    let digest = machine.want(&Contents::new("1.1.0", new_image()));
    let refused = |status: UpdateStatus| {
        assert_eq!((status.phase, status.reason.unwrap().code), (Phase::Failed, ReasonCode::StateDamaged));
    };
    refused(machine.ends(digest));
    machine.power_off();
    assert!(machine.record_factory().success());
    let path = machine.root().join("mbl/factory/factory.json");
    let changed = fs::read_to_string(&path).unwrap().replace("127.0.0.1", "127.0.0.2");
    fs::write(&path, changed).unwrap();
    assert!(!machine.record_factory().success(), "it is recorded once");
    let digest = machine.want(&Contents::new("1.1.1", new_image()));
    refused(machine.ends(digest));
    assert_eq!(machine.entries(), ["mbl-1-a.efi"]);
}

#[test]
fn an_image_with_a_second_profile_is_refused_before_it_is_armed() {
    let mut machine = Machine::new();
    assert!(machine.record_factory().success());
    machine.world.lock().unwrap().account.profile = Some(WORDS);
    let digest = machine.want(&Contents::new("1.1.0", new_image()));
    let status = machine.ends(digest);
    let reason = status.reason.unwrap();
    assert_eq!((status.phase, reason.code), (Phase::Failed, ReasonCode::MalformedRelease), "{reason:?}");
    assert!(reason.text.contains("profiles"), "{reason:?}");
    assert_eq!((machine.entries(), machine.booted.len()), (vec!["mbl-1-a.efi".to_owned()], 1));
    // The same system without it is taken afterwards.
    machine.world.lock().unwrap().account.profile = None;
    let digest = machine.want(&Contents::new("1.1.1", new_image()));
    assert_eq!(machine.ends(digest).phase, Phase::Succeeded);
}

impl Machine {
    /// Adds a disk with the same partitions and the same bytes.
    fn add_twin(&self) {
        for (number, label) in (1..).zip(LABELS) {
            self.add_partition("vdb", number, label);
            if self.node(label).exists() {
                fs::copy(self.node(label), self.root().join(format!("dev/vdb{number}"))).unwrap();
            }
        }
    }

    fn log_says(&self, what: &str) {
        until(what, Duration::from_secs(20), || {
            let log = fs::read_to_string(self.root().join("updater.log")).unwrap();
            log.contains(what).then_some(())
        });
    }
}

#[test]
fn a_second_disk_with_the_same_system_keeps_the_updater_from_guessing_and_a_confirmed_system_runs_on() {
    let mut machine = Machine::new();
    machine.add_twin();
    machine.boot();
    machine.log_says("2 disks have the partitions of this system");
    assert_eq!(machine.updater.as_mut().unwrap().try_wait().unwrap(), None, "it does not end again and again");
    assert!(!machine.root().join("asked").exists());
}

#[test]
fn a_system_on_trial_whose_updater_cannot_start_uses_up_its_tries() {
    let mut machine = Machine::new();
    machine.add_twin();
    machine.m("mren", &["::/EFI/Linux/mbl-1-a.efi", "::/EFI/Linux/mbl-1-a+3.efi"]);
    machine.boot();
    let updater = machine.updater.as_mut().unwrap();
    let ended = until("it ends", Duration::from_secs(20), || updater.try_wait().unwrap());
    assert_eq!(ended.code(), Some(75));
    machine.log_says("2 disks have the partitions of this system");
    assert_eq!(fs::read_to_string(machine.root().join("asked")).unwrap(), "--no-block reboot\n");
}

#[test]
fn a_factory_reset_marks_the_header_of_the_state_before_the_device_restarts() {
    let mut machine = Machine::new();
    assert!(machine.record_factory().success());
    fs::create_dir_all(machine.root().join("usr/sbin")).unwrap();
    symlink("/usr/sbin/cryptsetup", machine.root().join("usr/sbin/cryptsetup")).unwrap();
    let (state, key) = (machine.node("state"), machine.root().join("key"));
    fs::write(&state, vec![0; 17 << 20]).unwrap();
    fs::write(&key, "a key of this test alone").unwrap();
    let words = "luksFormat --batch-mode --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --label mbl-state --key-file";
    let words: Vec<&str> = words.split(' ').chain([key.to_str().unwrap(), state.to_str().unwrap()]).collect();
    tool("cryptsetup", &words);
    let header = |state: &Path| {
        let bytes = fs::read(state).unwrap();
        luks::examine(
            luks::PLACES.iter().filter_map(|at| bytes.get(usize::try_from(*at).unwrap()..)?.get(..luks::BYTES)),
        )
    };
    assert_eq!(header(&state), luks::Header::Present);
    machine.boot();
    let socket = machine.root().join("mbl/run/updater.sock");
    until("the updater listens", Duration::from_secs(30), || socket.exists().then_some(()));
    let asked = Command::new(UPDATER).arg("factory-reset").arg("--device-dir").arg(machine.root().join("mbl")).output();
    let asked = asked.unwrap();
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    let ended =
        until("the updater ends", Duration::from_secs(30), || machine.updater.as_mut().unwrap().try_wait().unwrap());
    assert_eq!((ended.code(), header(&state)), (Some(75), luks::Header::Reset));
    // The key still opens it: nothing is destroyed before the next boot does so.
    tool("cryptsetup", &["open", "--test-passphrase", "--key-file", key.to_str().unwrap(), state.to_str().unwrap()]);
    // A reset that power interrupted while the first header was overwritten goes on.
    fs::OpenOptions::new().write(true).open(&state).unwrap().write_all_at(&[0; 4096], 0).unwrap();
    assert_eq!(header(&state), luks::Header::Reset);
}
