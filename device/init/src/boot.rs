//! The sequence from the kernel's first process to the system's manager. Every step that matters for trust comes before
//! anything is unlocked, and every failure ends in a restart that the loader counts.

use std::{
    fs::{self, File},
    io,
    path::Path,
    time::Duration,
};

use device_disk::places::{Candidate, Places};
use protocol_types::{
    BootRecord, Slot,
    boot::BootEntry,
    boot_record::{Format1, StateOutcome},
    partitions::Layout,
    signed_cmdline::{self, CmdlineError, SignedCmdline},
};
use rustix::mount::MountFlags;

use crate::{
    announcements::Announcements,
    boot_menu, clock,
    console::{attach, in_one_line, say},
    give_way::give_way,
    growth::grow_state,
    handover::{HandoverError, hand_over},
    kernel::{self, MountError, mount_at},
    key_store::{KeyStore, KeyStoreError},
    loader_entry, names,
    program::{self, ProgramError, run},
    recovery,
    slots::{BelowFloor, Ending, NoSlot, choose, ending_below_floor, hold_against},
    starts, state,
};

const ROOT: &str = "/sysroot";
/// Tells the system that the key store knows of no factory document, so that the factory step may make its file system.
const UNPROVISIONED: &str = "/run/mbl/unprovisioned";
const VERITYSETUP: &str = "/usr/sbin/veritysetup";
/// How long a disk may take to appear.
const APPEARS_WITHIN: Duration = Duration::from_secs(10);
const VERITY_LIMIT: Duration = Duration::from_secs(60);
/// How long a message stays before the machine restarts.
const READ_FOR: Duration = Duration::from_secs(3);

/// Why this boot ended.
#[derive(Debug, thiserror::Error)]
enum BootError {
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error("cannot {what}")]
    Io { what: &'static str, source: io::Error },
    #[error("not an image of this system")]
    SignedCmdline(#[from] CmdlineError),
    #[error("cannot find the slot")]
    NoSlot(#[from] NoSlot),
    #[error("cannot use the board's key store")]
    KeyStore(#[from] KeyStoreError),
    #[error("refused")]
    BelowFloor { refused: BelowFloor, entry: Option<BootEntry> },
    #[error("cannot open the root file system of slot {slot} on {disk}")]
    Verity { slot: Slot, disk: String, source: ProgramError },
    #[error("slot {0} was started too often without coming up")]
    DoesNotComeUp(Slot),
    #[error("cannot hand over")]
    Handover(#[from] HandoverError),
}

impl BootError {
    fn line(&self) -> String {
        match self {
            Self::BelowFloor { refused, .. } => format!("refused: {refused}"),
            other => in_one_line(other),
        }
    }

    const fn ending(&self) -> Ending {
        match self {
            Self::BelowFloor { entry, .. } => ending_below_floor(*entry),
            Self::Mount(_)
            | Self::Io { .. }
            | Self::SignedCmdline(_)
            | Self::NoSlot(_)
            | Self::KeyStore(_)
            | Self::Verity { .. }
            | Self::DoesNotComeUp(_)
            | Self::Handover(_) => Ending::Restart,
        }
    }
}

/// Boots. Returns only if the machine could neither be handed over nor restarted.
pub fn boot() {
    let error = match steps() {
        Ok(never) => match never {},
        Err(error) => error,
    };
    say(&error.line());
    let ending = error.ending();
    say(match ending {
        Ending::Restart => "the machine restarts",
        Ending::PowerOff => "the machine stops: the loader would choose the same entry again",
    });
    kernel::end(ending, READ_FOR);
}

fn steps() -> Result<std::convert::Infallible, BootError> {
    let mounted = kernel::mount_own();
    attach();
    mounted?;
    kernel::restart_after_panic();
    let announced = Announcements::listen().map_err(io_error("listen to the kernel's announcements"))?;
    kernel::load_modules(Path::new("/modules"));
    kernel::arm_watchdog();
    let cmdline = kernel::read_start(Path::new("/proc/cmdline"), SignedCmdline::MAX_BYTES + 1)
        .map_err(io_error("read the command line"))?;
    let cmdline = SignedCmdline::parse(&cmdline)?;
    let [selected, counted, menu] = kernel::firmware_variables(
        [loader_entry::SELECTED, loader_entry::COUNTED, boot_menu::SHOWN],
        loader_entry::MAX_BYTES,
    );
    let entry = loader_entry::entry(selected.as_deref(), counted.as_deref());
    let places = Places::below(Path::new("/"));
    let (layout, slot) = find_slot(&announced, &places, &cmdline, entry)?;
    // Before anything is unlocked: an image below the floor must not even see the state.
    let mut keys = KeyStore::open(cmdline.key_store, &announced, &places, &layout)?;
    let floor = keys.floor()?;
    hold_against(floor, cmdline.security_version).map_err(|refused| BootError::BelowFloor { refused, entry })?;
    open_root(&places, &layout, slot, &cmdline)?;
    mount_factory(&places, &layout);
    fs::create_dir_all("/run/mbl").map_err(io_error("make /run/mbl"))?;
    pass_on_policy();
    if cmdline.key_store != signed_cmdline::KeyStore::None {
        if menu.is_some() {
            offer_reset(&places.node(layout.state()));
        }
        grow_state(&places, &layout);
    }
    keys.enter()?;
    let at = format!("{ROOT}/state");
    let (state, reason) = state::provide(&keys, &places.node(layout.state()), &at)?;
    if state != StateOutcome::Degraded {
        let (device, state) = (places.node(layout.state()), at.into());
        let factory = Path::new(ROOT).join("factory");
        recovery::provide(&mut keys, &recovery::Places { device, state, factory, run: "/run/mbl".into() });
    }
    if matches!(keys.factory_digest(), Ok(None))
        && let Err(e) = File::create(UNPROVISIONED)
    {
        say(&format!("cannot say that the device is not provisioned: {e}"));
    }
    keys.leave()?;
    if state != StateOutcome::Degraded
        && let Some(entry) = entry
        && is_one_too_many(&Path::new(ROOT).join("state"), entry)
        && leave_slot(&places, &layout, entry)
    {
        return Err(BootError::DoesNotComeUp(slot));
    }
    prepare(Path::new(ROOT));
    let record = BootRecord {
        format: Format1,
        slot,
        entry,
        root_hash: cmdline.root_hash,
        security_version: cmdline.security_version,
        floor,
        state,
        reason,
    };
    fs::write(BootRecord::PATH, record.to_json()).map_err(io_error("write the boot record"))?;
    let _ = kernel::show_life_to_watchdog();
    say(&format!("starting slot {slot} of {} ({})", layout.disk, outcome(state)));
    Ok(hand_over(ROOT)?)
}

const fn outcome(state: StateOutcome) -> &'static str {
    match state {
        StateOutcome::Open => "state open",
        StateOutcome::Created => "state created",
        StateOutcome::Degraded => "state degraded",
    }
}

fn io_error(what: &'static str) -> impl FnOnce(io::Error) -> BootError {
    move |source| BootError::Io { what, source }
}

fn find_slot(
    announced: &Announcements,
    places: &Places,
    cmdline: &SignedCmdline,
    entry: Option<BootEntry>,
) -> Result<(Layout, Slot), BootError> {
    let chosen = |candidates: &[Candidate]| {
        choose(candidates, cmdline.root_hash, entry).map(|(layout, slot)| (layout.clone(), slot))
    };
    let mut last: Vec<Candidate> = Vec::new();
    let found = announced.until(APPEARS_WITHIN, || {
        last = places.candidates()?;
        // A disk may appear with its partitions one by one, and the right one later than another of ours.
        match chosen(&last) {
            Err(NoSlot::NoDisk | NoSlot::NoMatch { .. }) => Ok(None),
            decided => Ok(Some(decided)),
        }
    });
    match found.map_err(io_error("look for the system's disk"))? {
        Some(decided) => Ok(decided?),
        None => Ok(chosen(&last)?),
    }
}

/// Whether this confirmed system has been started too often without coming up. The loader counts the starts of all others.
fn is_one_too_many(state: &Path, entry: BootEntry) -> bool {
    if entry.tries.is_some() {
        return false;
    }
    match starts::is_one_too_many(state, entry) {
        Ok(is_one_too_many) => is_one_too_many,
        Err(e) if e.kind() == io::ErrorKind::NotFound => false,
        Err(e) => {
            say(&format!("this start is not counted: {e}"));
            false
        }
    }
}

/// Has the loader start the other slot from now on, if it can; whether it will.
fn leave_slot(places: &Places, layout: &Layout, entry: BootEntry) -> bool {
    if !is_whole(places, layout, entry.slot.other()) {
        return false;
    }
    match give_way(&places.node(layout.esp()), entry) {
        Ok(Some(other)) => {
            say(&format!("{entry} gives way to {other}"));
            true
        }
        Ok(None) => false,
        Err(e) => {
            say(&format!("cannot have the loader start the other slot: {e}"));
            false
        }
    }
}

/// Whether each block of a slot's system is the one that its root hash stands for. Nobody reads the other slot while it is not used, so
/// it may have been damaged first.
fn is_whole(places: &Places, layout: &Layout, slot: Slot) -> bool {
    let candidates = places.candidates().unwrap_or_default();
    let found = candidates.into_iter().find(|candidate| candidate.layout.disk == layout.disk);
    let Some(root_hash) = found.and_then(|candidate| candidate.root_hash(slot)) else {
        say(&format!("slot {slot} holds no system to give way to"));
        return false;
    };
    let (root, verity) = (places.node(layout.root(slot)), places.node(layout.verity(slot)));
    let arguments = ["verify", &root.to_string_lossy(), &verity.to_string_lossy(), &root_hash.hex()];
    match run(VERITYSETUP, &arguments, program::LONGEST) {
        Ok(()) => true,
        // A slow disk: no damage was found as far as it was read.
        Err(ProgramError::Stuck { .. }) => true,
        Err(e @ (ProgramError::Start { .. } | ProgramError::Failed { .. })) => {
            say(&format!("slot {slot} cannot be given way to: {}", in_one_line(&e)));
            false
        }
    }
}

fn open_root(places: &Places, layout: &Layout, slot: Slot, cmdline: &SignedCmdline) -> Result<(), BootError> {
    let (root, verity) = (places.node(layout.root(slot)), places.node(layout.verity(slot)));
    let (root, verity) = (root.to_string_lossy(), verity.to_string_lossy());
    let arguments = ["open", "--panic-on-corruption", &root, "root", &verity, &cmdline.root_hash.hex()];
    run(VERITYSETUP, &arguments, VERITY_LIMIT).map_err(|source| BootError::Verity {
        slot,
        disk: layout.disk.clone(),
        source,
    })?;
    mount_at("erofs", "/dev/mapper/root", ROOT, MountFlags::RDONLY | MountFlags::NODEV, c"")?;
    Ok(())
}

/// A reset that cannot be done leaves the board as it was, and the person at the console reads why.
fn offer_reset(device: &Path) {
    let wanted = boot_menu::wants_reset(rustix::stdio::stdin());
    let _ = kernel::show_life_to_watchdog();
    if wanted && let Err(e) = state::forget(device) {
        say(&format!("cannot do a factory reset: {}", in_one_line(&e)));
    }
}

/// The factory partition is empty until the factory has written to it; a device without it boots, but does not enrol.
///
/// Whoever ended the factory step by cutting the power has left the document in the file system's journal, so the kernel looks into it. It
/// cannot where the board protects the partition from being written; what is there is taken as it is then.
fn mount_factory(places: &Places, layout: &Layout) {
    let device = places.node(layout.factory());
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let at = format!("{ROOT}/factory");
    let mount = |options| mount_at("ext4", &device.to_string_lossy(), &at, flags, options);
    if let Err(e) = mount(c"").or_else(|_| mount(c"noload")) {
        say(&in_one_line(&e));
    }
}

/// What the system finds when it starts, in the state or by it.
fn prepare(root: &Path) {
    let state = root.join("state");
    // Mounted by the system as `/var/lib` and `/var/log`.
    for folder in ["lib", "log"] {
        if let Err(e) = fs::create_dir_all(state.join(folder)) {
            say(&format!("cannot make the folder {folder} in the state: {e}"));
        }
    }
    clock::set_forward(&state);
    names::provide_machine_id(&state, root);
    names::set_hostname(&root.join("factory"));
}

/// Puts the image's policy where systemd's tools look for it, here and in the system, which needs it to seal the state anew,
/// for instance before the Secure Boot keys change.
fn pass_on_policy() {
    for to in [state::POLICY_KEY, state::POLICY_SIGNATURE] {
        let to = Path::new(to);
        let from = Path::new("/.extra").join(to.file_name().unwrap_or_default());
        let copied = fs::create_dir_all("/run/systemd").and_then(|()| fs::copy(&from, to));
        match copied {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => say(&format!("cannot copy {} to {}: {e}", from.display(), to.display())),
        }
    }
}
