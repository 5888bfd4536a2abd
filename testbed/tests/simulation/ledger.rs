//! What happened in a simulation, as those know it who did it and not as the service tells it; and the rules that must hold whatever
//! happens. A rule that is broken is noted with the time and the device.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fmt,
    fs::File,
    io::{LineWriter, Write as _},
    path::Path,
    rc::Rc,
};

use protocol_types::{
    Digest, Hasher, Phase, Reason, ReasonCode, RolloutId, SecurityVersion, UpdateStatus, socket::Contact,
};

use crate::{account::Published, machine::Machine};

/// What must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rule {
    /// What a device was ordered and has taken comes to an end that the service hears of.
    NoLostUpdate,
    /// One try of a rollout installs once.
    NoDoubleInstallation,
    /// No rollout waits for what will never come.
    NoStuckRollout,
    /// A rollout fails on a device no more often than its retries allow.
    CeilingOfTries,
    /// No device runs what is below the floor that it has confirmed.
    NoVersionBelowFloor,
    /// Nothing of another account reaches a device.
    NothingForeign,
    /// A device always starts.
    AlwaysBoots,
}

/// A rule that was broken.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub(crate) rule: Rule,
    pub(crate) what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.what)
    }
}

/// One try of a rollout on one device.
#[derive(Clone, Debug, Default)]
struct Try {
    /// Generations of the boot entries with which it was on trial.
    generations: BTreeSet<u32>,
    /// How it has ended.
    ends: BTreeSet<End>,
}

/// How a try ends, once or again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    /// It met nobody at all, so that the device may try it again by itself.
    Silent,
    /// It failed, for a reason that counts.
    Failed,
    /// Its release was confirmed.
    Succeeded,
}

/// What is known of one device.
#[derive(Clone, Debug, Default)]
struct Known {
    name: String,
    tries: BTreeMap<String, Try>,
    /// The floor that it has confirmed.
    floor: SecurityVersion,
    /// Releases that it has confirmed, in order.
    confirmed: Vec<Digest>,
    status: Option<UpdateStatus>,
}

struct Inner {
    machine: Rc<Machine>,
    devices: Vec<Known>,
    /// Retries that a rollout allows, by account and rollout.
    retries: BTreeMap<(String, RolloutId), u32>,
    violations: Vec<Violation>,
    is_calm: bool,
    hasher: Hasher,
    lines: u64,
    file: Option<LineWriter<File>>,
    counts: BTreeMap<&'static str, u64>,
}

/// The ledger of one simulation. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Ledger(Rc<RefCell<Inner>>);

impl Ledger {
    /// A ledger of devices with these names, whose lines also go to a file if there is one.
    pub(crate) fn new(machine: Rc<Machine>, names: impl IntoIterator<Item = String>, file: Option<&Path>) -> Self {
        let known = |name| Known { name, ..Known::default() };
        let file = file.map(|path| LineWriter::new(File::create(path).expect("a file for the trace")));
        let inner = Inner {
            machine,
            devices: names.into_iter().map(known).collect(),
            retries: BTreeMap::new(),
            violations: Vec::new(),
            is_calm: false,
            hasher: Hasher::new(),
            lines: 0,
            file,
            counts: BTreeMap::new(),
        };
        Self(Rc::new(RefCell::new(inner)))
    }

    /// Notes something that is not about one device.
    pub(crate) fn note(&self, what: &str) {
        self.0.borrow_mut().note("", what);
    }

    /// Notes something about a device.
    pub(crate) fn of(&self, place: usize, what: &str) {
        let mut inner = self.0.borrow_mut();
        let name = inner.devices[place].name.clone();
        inner.note(&name, what);
    }

    /// Notes that nothing goes wrong any more.
    pub(crate) fn calms(&self) {
        self.note("from now on nothing goes wrong any more");
        self.0.borrow_mut().is_calm = true;
    }

    /// Notes what somebody does to a device. The rules about the end are only fair if nobody does in the calm days.
    pub(crate) fn fault(&self, place: usize, what: &str) {
        self.of(place, what);
        assert!(!self.0.borrow().is_calm, "{what} of {} comes in the calm days", self.0.borrow().devices[place].name);
    }

    /// Counts something.
    pub(crate) fn count(&self, what: &'static str) {
        *self.0.borrow_mut().counts.entry(what).or_default() += 1;
    }

    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.0.borrow().counts.clone()
    }

    /// Notes that a rule was broken.
    pub(crate) fn broken(&self, rule: Rule, what: String) {
        let mut inner = self.0.borrow_mut();
        inner.note("", &format!("BROKEN {rule:?}: {what}"));
        let days = inner.machine.passed().as_secs_f64() / 86_400.0;
        inner.violations.push(Violation { rule, what: format!("day {days:.3}: {what}") });
    }

    fn broken_by(&self, place: usize, rule: Rule, what: &str) {
        let name = self.0.borrow().devices[place].name.clone();
        self.broken(rule, format!("{name} {what}"));
    }

    pub(crate) fn violations(&self) -> Vec<Violation> {
        self.0.borrow().violations.clone()
    }

    /// Lines so far, and the digest of them all.
    pub(crate) fn seal(&self) -> (u64, Digest) {
        let mut inner = self.0.borrow_mut();
        if let Some(file) = &mut inner.file {
            file.flush().expect("the trace is written");
        }
        (inner.lines, inner.hasher.clone().finish())
    }

    /// Says how often a rollout may fail on a device.
    pub(crate) fn allow(&self, account: &str, rollout: &RolloutId, retries: u32) {
        self.0.borrow_mut().retries.insert((account.to_owned(), rollout.clone()), retries);
    }

    /// A device started a system.
    pub(crate) fn booted(&self, place: usize, release: Option<&Published>, entry: &str) {
        let version = release.map_or("1.0.0", |release| release.version.as_str());
        self.of(place, &format!("boots {version} by {entry}"));
        self.count("starts of devices");
        let floor = self.0.borrow().devices[place].floor;
        let security_version = release.map_or(SecurityVersion(0), |release| release.security_version);
        if security_version < floor {
            let what = format!("runs {version} with security version {security_version}, below its floor {floor}");
            self.broken_by(place, Rule::NoVersionBelowFloor, &what);
        }
    }

    /// A device began the trial of a try of a rollout in the system with this generation.
    pub(crate) fn on_trial(&self, place: usize, attempt: &str, generation: u32) {
        let again = {
            let mut inner = self.0.borrow_mut();
            let known = inner.devices[place].tries.entry(attempt.to_owned()).or_default();
            let is_new = known.generations.insert(generation);
            known.ends.contains(&End::Succeeded)
                || (is_new && known.generations.len() > 1 && !known.ends.contains(&End::Silent))
        };
        self.of(place, &format!("has {attempt} on trial in generation {generation}"));
        if again {
            self.broken_by(place, Rule::NoDoubleInstallation, &format!("installed {attempt} a second time"));
        }
    }

    /// A device was ordered a release.
    pub(crate) fn ordered(&self, place: usize, release: Option<&Published>, digest: Digest, attempt: &str) {
        match release {
            Some(release) => self.of(place, &format!("is to run {} by {attempt}", release.version)),
            None => {
                self.broken_by(
                    place,
                    Rule::NothingForeign,
                    &format!("is to run {digest}, which its account never published"),
                );
            }
        }
    }

    /// A device was given bytes that do not belong to its account.
    pub(crate) fn foreign(&self, place: usize, digest: Digest) {
        self.broken_by(place, Rule::NothingForeign, &format!("was given {digest}, which its account never published"));
    }

    /// What the updater of a device says of itself.
    pub(crate) fn reports(&self, place: usize, account: &str, release: Option<&Published>, status: &UpdateStatus) {
        let before = self.0.borrow_mut().devices[place].status.replace(status.clone());
        let same = before.as_ref().is_some_and(|before| {
            (before.phase, &before.rollout, before.wanted) == (status.phase, &status.rollout, status.wanted)
        });
        if same {
            return;
        }
        let attempt = status.rollout.as_ref().map(ToString::to_string).unwrap_or_default();
        let code = status.reason.as_ref().map(|reason| format!(" ({})", reason.code)).unwrap_or_default();
        self.of(place, &format!("says {} of {attempt}{code}", status.phase));
        match status.phase {
            Phase::Succeeded => self.succeeded(place, release, status),
            Phase::Failed | Phase::RolledBack => self.failed(place, account, (&attempt, status.reason.as_ref())),
            Phase::Idle | Phase::Downloading | Phase::Verifying | Phase::Installing | Phase::Trial => {}
        }
    }

    fn succeeded(&self, place: usize, release: Option<&Published>, status: &UpdateStatus) {
        self.count("updates that succeeded");
        let mut inner = self.0.borrow_mut();
        let known = &mut inner.devices[place];
        known.confirmed.extend(status.wanted);
        if let Some(attempt) = &status.rollout {
            known.tries.entry(attempt.to_string()).or_default().ends.insert(End::Succeeded);
        }
        if let Some(release) = release.filter(|release| release.raises_floor) {
            known.floor = known.floor.max(release.security_version);
        }
    }

    fn failed(&self, place: usize, account: &str, (attempt, reason): (&str, Option<&Reason>)) {
        let code = reason.map(|reason| reason.code);
        self.count("updates that failed");
        let (rollout, failed, limit) = {
            let mut inner = self.0.borrow_mut();
            let known = inner.devices[place].tries.entry(attempt.to_owned()).or_default();
            let end = match code {
                Some(ReasonCode::Superseded) => None,
                Some(ReasonCode::NoContact) => Some(End::Silent),
                _ => Some(End::Failed),
            };
            known.ends.extend(end);
            let rollout = rollout_of(attempt);
            let tries = inner.devices[place].tries.iter();
            let failed =
                tries.filter(|(name, it)| it.ends.contains(&End::Failed) && rollout_of(name) == rollout).count();
            let named = RolloutId::new(rollout.clone()).ok();
            let limit = named.and_then(|named| inner.retries.get(&(account.to_owned(), named)).copied());
            (rollout, failed, limit)
        };
        if let Some(limit) = limit.filter(|limit| u32::try_from(failed).is_ok_and(|failed| failed > limit + 1)) {
            let what = format!("has failed {failed} tries of {rollout}, which allows {limit} more than one");
            self.broken_by(place, Rule::CeilingOfTries, &what);
        }
    }

    /// The newest report of a device's updater.
    pub(crate) fn status(&self, place: usize) -> Option<UpdateStatus> {
        self.0.borrow().devices[place].status.clone()
    }

    /// Whether a device has ever confirmed a release.
    pub(crate) fn has_confirmed(&self, place: usize, digest: Digest) -> bool {
        self.0.borrow().devices[place].confirmed.contains(&digest)
    }

    /// Notes how a device reaches the world.
    pub(crate) fn contact(&self, place: usize, contact: Contact) {
        let Contact { registered, network } = contact;
        self.of(place, &format!("contact: registered {registered}, network {network}"));
    }
}

impl Inner {
    fn note(&mut self, who: &str, what: &str) {
        let line = format!("{:>12} {who} {what}\n", self.machine.passed().as_millis());
        self.hasher.update(line.as_bytes());
        self.lines += 1;
        if let Some(file) = &mut self.file {
            file.write_all(line.as_bytes()).expect("the trace is written");
        }
    }
}

/// The rollout of a try, as the service names tries: `r7`, `r7_2`.
fn rollout_of(attempt: &str) -> String {
    match attempt.rsplit_once('_') {
        Some((rollout, number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => rollout.to_owned(),
        _ => attempt.to_owned(),
    }
}
