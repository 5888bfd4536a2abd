//! The operating system on the reference board with a TPM, under QEMU: what starts, and what must not.

use std::{collections::BTreeSet, fs, path::Path, process::Command, time::Duration};

use serde_json::Value;
use testbed::{
    Machine,
    images::{self, Order, Signer, tree},
    wait::until,
};

use crate::site::{Release, Site};

/// Without hardware virtualisation everything takes its time, and other tests run beside it.
pub(crate) const BOOT: Duration = Duration::from_secs(600);
pub(crate) const ANSWER: Duration = Duration::from_secs(60);

pub(crate) const DEVELOPMENT: Order = Order::first("development");
/// As good as any, unless a file on the board tells it to fail.
pub(crate) const NEWER: Order = Order::fallible("1.1.0", 1);
pub(crate) const PRODUCTION: Order = Order::first("production");

/// What the firmware or the loader says when it starts nothing that is not signed by the owner.
pub(crate) const REFUSED: &[&str] = &["Access Denied", "Access denied", "Security Violation"];
/// What only a system that started says.
pub(crate) const STARTED: &str = "mbl-init: starting slot";

/// A new machine in `folder` with the build in `build`, which is off. Several journeys share the cores.
pub(crate) fn machine(build: &Path, folder: &Path) -> Machine {
    let mut machine = Machine::new(build, &folder.join("machine")).unwrap();
    machine.share_one_thread();
    machine
}

/// Waits for the shell of a development image. Without an identity it asks for one first, until a person says no.
pub(crate) fn until_shell(machine: &mut Machine) {
    machine.until_says("BEGIN CERTIFICATE REQUEST", BOOT).unwrap();
    machine.type_text("\u{3}").unwrap();
    machine.until_says("bash-", BOOT).unwrap();
}

/// The build that the owner of the boards signed.
pub(crate) fn owners(order: Order) -> std::path::PathBuf {
    images::image(order, Signer::Owner).unwrap()
}

/// Whether `od` has shown a variable of the firmware whose value is 1, whatever the system says before and after.
pub(crate) fn says_on(shown: &str) -> bool {
    shown.lines().any(|line| line.split_whitespace().eq(["6", "0", "0", "0", "1"]))
}

/// What the initrd left about this boot.
pub(crate) fn boot_record(machine: &mut Machine) -> Value {
    let text = machine.shell("cat /run/mbl/boot.json", ANSWER).unwrap();
    let from = text.find('{').unwrap();
    serde_json::from_str(&text[from..=text.rfind('}').unwrap()]).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The units that failed, but for one, and what each has said.
pub(crate) fn failed_units(machine: &mut Machine, but: &str) -> String {
    let units = format!("systemctl --failed --no-legend --plain | cut -d' ' -f1 | grep -vxF '{but}'");
    machine
        .shell(&format!("for unit in $({units}); do systemctl status -n 20 --no-pager --full $unit; done"), ANSWER)
        .unwrap()
}

#[test]
fn os_an_image_starts_verified_seals_its_state_in_the_tpm_and_opens_it_again() {
    let (build, folder) = (owners(DEVELOPMENT), tempfile::tempdir().unwrap());
    let mut machine = machine(&build, folder.path());
    machine.power_on().unwrap();
    assert!(machine.until_says(STARTED, BOOT).unwrap().contains("slot a"));
    until_shell(&mut machine);
    let first = boot_record(&mut machine);
    let manifest: Value = serde_json::from_slice(&fs::read(build.join("image.json")).unwrap()).unwrap();
    assert_eq!(first["root_hash"], manifest["root_hash"], "{first}");
    assert_eq!((&first["slot"], &first["state"]), (&"a".into(), &"created".into()), "{first}");
    assert_eq!(first["entry"], "mbl-1-a.efi", "{first}");
    let secure = machine.shell("od -An -t u1 /sys/firmware/efi/efivars/SecureBoot-*", ANSWER).unwrap();
    assert!(says_on(&secure), "Secure Boot is on: {secure}");
    let banks = machine.shell("cd /sys/class/tpm/tpm0 && echo pcr-*", ANSWER).unwrap();
    assert!(banks.ends_with("pcr-sha256") && !banks.contains("sha1"), "one bank is enough: {banks}");
    let root = machine.shell("findmnt -no SOURCE,FSTYPE,OPTIONS /", ANSWER).unwrap();
    assert!(root.contains("/dev/mapper/root") && root.contains("erofs") && root.contains("ro"), "{root}");
    let written = machine.shell("touch /usr/new /etc/new; echo kept > /state/note && sync", ANSWER).unwrap();
    assert_eq!(written.matches("Read-only file system").count(), 2, "{written}");
    machine.cut_power().unwrap();

    // A start that is interrupted between its TPM and QEMU leaves a TPM that nobody lets go of.
    let desk = folder.path().join("machine");
    let mut left = Command::new("swtpm");
    left.current_dir(&desk).args([
        "socket",
        "--daemon",
        "--tpm2",
        "--terminate",
        "--ctrl",
        "type=unixio,path=tpm.sock",
    ]);
    left.arg("--tpmstate").arg(format!("dir={}", desk.join("tpm").display()));
    until(ANSWER, "the TPM before it to end", || Ok(left.status()?.success().then_some(()))).unwrap();
    machine.power_on().unwrap();
    machine.until_says(STARTED, BOOT).unwrap();
    until_shell(&mut machine);
    assert_eq!(boot_record(&mut machine)["state"], "open");
    assert!(machine.shell("cat /state/note", ANSWER).unwrap().contains("kept"));
    // But for the factory step, which was interrupted.
    assert_eq!(failed_units(&mut machine, "mbl-factory.service"), "");
}

/// A machine with the image of `build`, bent by `bend`, says one of `words` before anything of ours started.
pub(crate) fn refuses(build: &Path, bend: impl FnOnce(&Machine), words: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let mut machine = machine(build, folder.path());
    bend(&machine);
    machine.power_on().unwrap();
    let said = machine.until_says_one(&[words, &[STARTED]].concat(), BOOT).unwrap();
    assert!(!said.contains(STARTED), "it is bent and starts all the same: {said}");
}

/// One flipped bit of the file `part` of the build, on the disk.
pub(crate) fn bent_disk(build: &Path, part: &str, offset: u64, words: &[&str]) {
    let content = fs::read(build.join(part)).unwrap();
    refuses(build, |machine| machine.flip_bit_in(&content, offset).unwrap(), words);
}

#[test]
fn os_a_loader_with_one_flipped_bit_is_refused_by_the_firmware() {
    bent_disk(&owners(PRODUCTION), "signed/loader.efi", 30_000, REFUSED);
}

#[test]
fn os_a_kernel_image_with_one_flipped_bit_is_refused_by_the_loader() {
    bent_disk(&owners(PRODUCTION), "signed/uki.efi", 20_000_000, REFUSED);
}

#[test]
fn os_a_root_file_system_with_one_flipped_bit_stops_the_kernel() {
    bent_disk(&owners(PRODUCTION), "parts/root.erofs", 1_100, &["dm-verity device corrupted"]);
}

#[test]
fn os_a_hash_tree_with_one_flipped_bit_leads_to_no_slot() {
    // The second block is the top of the tree.
    bent_disk(&owners(PRODUCTION), "parts/root.verity", 4_096 + 40, &["no slot has the root hash"]);
}

#[test]
fn os_an_image_that_a_stranger_signed_is_refused_by_the_firmware() {
    let (owner, stranger) = (owners(PRODUCTION), images::image(PRODUCTION, Signer::Stranger).unwrap());
    refuses(&stranger, |machine| machine.trust_like(&owner).unwrap(), REFUSED);
}

#[test]
fn os_a_board_gets_its_identity_at_its_serial_port_registers_and_updates_into_the_other_slot() {
    let site = Site::running(&owners(DEVELOPMENT));
    let newer = owners(NEWER);
    let rollout = site.roll_out(&Release::of_os("1.1.0", &newer));
    site.until_rollout(&rollout, "succeeded");
    site.until_runs("1.1.0", "b");
}

/// What gives or needs a shell, or lets somebody in.
pub(crate) const SHELLS: [&str; 11] =
    ["sh", "bash", "dash", "busybox", "python3", "perl", "sshd", "ssh", "login", "su", "sudo"];

/// The paths of the programs in the root file system of a build.
pub(crate) fn programs(build: &Path) -> BTreeSet<String> {
    let report: Value = serde_json::from_slice(&fs::read(build.join("report.json")).unwrap()).unwrap();
    let is_program = |path: &&str| path.starts_with("usr/bin/") || path.starts_with("usr/sbin/");
    let files = report["files"].as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap());
    files.filter(is_program).map(str::to_owned).collect()
}

#[test]
fn os_a_production_image_holds_exactly_the_committed_programs_and_no_shell() {
    let programs = programs(&owners(PRODUCTION));
    let found: BTreeSet<&str> = programs.iter().map(String::as_str).collect();
    let list = tree().join("image/rootfs/production.programs");
    if std::env::var_os("UPDATE_PROGRAMS").is_some() {
        fs::write(&list, found.iter().map(|path| format!("{path}\n")).collect::<String>()).unwrap();
    }
    let committed = fs::read_to_string(&list).unwrap();
    let committed: BTreeSet<&str> = committed.lines().collect();
    let news: Vec<_> = found.symmetric_difference(&committed).collect();
    assert!(news.is_empty(), "programs differ from {}; renew it with UPDATE_PROGRAMS=1: {news:?}", list.display());
    for shell in SHELLS {
        assert!(!found.iter().any(|path| path.rsplit('/').next() == Some(shell)), "{shell} is in the image");
    }
}

#[test]
fn os_a_production_image_holds_no_private_key_and_lets_nobody_in_by_one() {
    let (build, folder) = (owners(PRODUCTION), tempfile::tempdir().unwrap());
    let root = folder.path().join("root");
    let image = build.join("parts/root.erofs");
    let extract = format!("--extract={}", root.display());
    let taken_apart = Command::new("fsck.erofs").args([&extract, "--no-preserve"]).arg(image).output().unwrap();
    assert!(taken_apart.status.success(), "{}", String::from_utf8_lossy(&taken_apart.stderr));
    let (mut open, mut seen) = (vec![root], 0);
    while let Some(path) = open.pop() {
        let kind = fs::symlink_metadata(&path).unwrap().file_type();
        if kind.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if kind.is_file() {
            let (bytes, name) = (fs::read(&path).unwrap(), path.file_name().unwrap().to_string_lossy());
            // Programs and libraries know the words with which a key begins.
            let holds_key = !bytes.starts_with(b"\x7fELF") && find(&bytes, b"PRIVATE KEY-----");
            let lets_in = name == "authorized_keys" || name.starts_with("ssh_host_");
            assert!(!holds_key && !lets_in, "{}", path.display());
            seen += 1;
        }
    }
    assert!(seen > 500, "only {seen} files were looked at");
}

fn find(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|window| window == word)
}
