//! Block-level replay of updates: every write and flush of the real updater is recorded, with the loader's own; then the disk is put
//! into the states that a power cut could have left (`docs/formats/power-cuts.md`), and each is held against the rules of firmware,
//! loader and initrd. Never judges by the updater's own reading of a disk.

pub(crate) mod board;
mod checker;
mod efi_program;
mod fat;
mod firmware;
mod history;
mod loader;
pub(crate) mod releases;
mod sectors;
mod session;
mod states;
mod strace;
pub(crate) mod systems;

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use anyhow::{Context as _, bail, ensure};
use board::{Board, Sizes};
use checker::{Checker, Outcome, Verdict};
use history::{EspOf, Event, Files, History};
use protocol_types::{Digest, Phase, SecurityVersion, Slot, TargetPath};
use releases::Account;
use sectors::{Content, Disk, Library, Part, Place, SECTOR, Sector};
use session::{Boot, End};
use states::Dice;
use systems::{Make, System};

/// Starts of a device until its update is over, at most.
const MOST_STARTS: usize = 12;

/// The ESP is the smallest that is still FAT32 with clusters of one sector, as on the reference board.
const SIZES: Sizes = Sizes { esp_kib: 40_960, root: 640 * 1024, tree: 64 * 1024 };

/// How much of what is possible is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Which states are drawn.
    pub seed: u64,
    /// Different states.
    pub states: usize,
    /// States that are kept, to be gone on with.
    pub samples: usize,
    /// What a flush means.
    pub medium: Medium,
}

/// What a flush means to a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// What was flushed stays.
    Keeps,
    /// Nothing ever stays for sure: no order of writes helps against this.
    Forgets,
}

/// A state that was kept.
#[derive(Clone, Debug)]
pub struct Sample {
    disk: Disk,
    files: Arc<Files>,
    /// The release that was under way, by its number.
    update: usize,
    verdict: Verdict,
    /// How many events of the history began before the cut.
    pub events: usize,
}

/// What was found in the states of a history.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Different states.
    pub states: usize,
    /// How many of them start what.
    pub outcomes: BTreeMap<String, usize>,
    /// States that start nothing, or something that may not start: where the cut was, and what happens.
    pub faults: Vec<String>,
    /// States of every kind: with each release under way, and each entry that the loader may choose.
    pub samples: Vec<Sample>,
}

/// What the loader does with an entry that it chose.
struct Counted {
    /// What it is called then.
    name: String,
    /// What the firmware writes for that, in any order, with one flush behind.
    writes: Vec<(usize, Sector)>,
}

/// States with one release under way in which the loader chooses one entry.
#[derive(Debug, Default)]
struct Kind {
    seen: usize,
    kept: Vec<Sample>,
}

/// What holds at one moment of the history.
#[derive(Clone, Debug)]
struct Moment {
    update: usize,
    may: Vec<usize>,
    files: Arc<Files>,
    /// The files that were flushed.
    lasting: Arc<Files>,
}

/// A release of the history.
#[derive(Debug)]
struct Update {
    wish: (TargetPath, Digest),
    system: usize,
    /// Whether it proves itself healthy.
    healthy: bool,
}

/// The recorded history of three updates of a board: one that is kept, one that is left again, and one that is kept and raises the
/// floor.
#[derive(Debug)]
pub struct Recording {
    board: Board,
    account: Account,
    library: Library,
    systems: Vec<System>,
    ukis: Vec<Vec<Content>>,
    updates: Vec<Update>,
    start: Disk,
    start_files: Arc<Files>,
    /// What the files of the board hold now.
    now: Disk,
    events: Vec<Event>,
}

impl Recording {
    /// Makes a board in the folder `work` and records its updates. With `loader`, a program for its ESP, the firmware of a machine
    /// can start it.
    ///
    /// # Errors
    /// If a tool is missing, or an update does not come to the end that it should.
    pub fn make(work: &Path, loader: Option<&Path>) -> anyhow::Result<Self> {
        let system = |version, security_version, changed| {
            System::small(work, Make { version, security_version, changed, key_store: "none" })
        };
        let systems = vec![
            system("0.9.0", 1, 20)?,
            system("1.0.0", 1, 21)?,
            system("1.1.0", 1, 22)?,
            system("1.2.0", 1, 23)?,
            system("1.3.0", 2, 24)?,
        ];
        let (mut account, mut library) = (Account::new()?, Library::default());
        let board = Board::make(&work.join("board"), &account, (&systems[1], &systems[0]), SIZES, loader)?;
        let start = board.read(&mut library)?;
        let start_files = Arc::new(history::files_of(&board)?);
        let ukis = systems.iter().map(|system| library.numbers(&system.uki)).collect();
        let mut updates = Vec::new();
        for (system, healthy, raises_floor) in [(2, true, false), (3, false, false), (4, true, true)] {
            let wish = account.publish(&systems[system], raises_floor)?;
            updates.push(Update { wish, system, healthy });
        }
        let (now, events) = (start.clone(), Vec::new());
        let mut recording = Self { board, account, library, systems, ukis, updates, start, start_files, now, events };
        recording.record(work)?;
        Ok(recording)
    }

    fn record(&mut self, work: &Path) -> anyhow::Result<()> {
        let mut history = History::new(self.start.clone(), (*self.start_files).clone());
        let mut running = 1;
        for number in 0..self.updates.len() {
            let (wanted, healthy) = (self.updates[number].system, self.updates[number].healthy);
            history.events.push(Event::May(vec![running, wanted]));
            let mut trials = 0;
            let (ended_in, status) = 'update: {
                for _ in 0..MOST_STARTS {
                    let (entry, system, slot) = self.turn_on(&mut history)?;
                    trials += usize::from(system == wanted);
                    if !healthy && (1..3).contains(&trials) {
                        // The kernel panics: the loader counts the next try, and nothing else happened.
                        continue;
                    }
                    let boot = Boot { system: &self.systems[system], slot, entry };
                    let life = || self.live(number, &boot);
                    let (end, calls) = strace::watch(work, life)?;
                    history.add(&self.board, &mut self.library, calls)?;
                    if let End::Rest(status) = end {
                        break 'update (system, status);
                    }
                }
                bail!("the update does not come to an end");
            };
            let expected = if healthy { (wanted, Phase::Succeeded) } else { (running, Phase::RolledBack) };
            ensure!((ended_in, status.phase) == expected, "the update ended as {status:?}");
            running = ended_in;
        }
        let mut found = history.now.clone();
        self.read_back(&mut found)?;
        ensure!(Part::ALL.iter().all(|part| found.part(*part) == history.now.part(*part)), "a write went by unseen");
        (self.now, self.events) = (history.now, history.events);
        Ok(())
    }

    /// One life of the device during an update.
    fn live(&self, number: usize, boot: &Boot<'_>) -> anyhow::Result<End> {
        let update = &self.updates[number];
        let in_touch = update.healthy || boot.system.version != self.systems[update.system].version;
        session::live(&self.board, &self.account, boot, Some(&update.wish), in_touch)
    }

    fn checker(&self) -> Checker<'_> {
        Checker::new(&self.systems, &self.library, self.ukis.clone())
    }

    /// The board is turned on: the loader counts a try, on the disk and in the history. Returns what it started.
    fn turn_on(&mut self, history: &mut History) -> anyhow::Result<(String, usize, Slot)> {
        let verdict = self.checker().check(&history.now, SecurityVersion(0));
        let Outcome::Starts(system, slot) = verdict.first else { bail!("the board starts nothing: {verdict:?}") };
        let Counted { name, writes } = self.counted(&history.now, &verdict.entry)?;
        let before = history.now.clone();
        for (sector, bytes) in &writes {
            let content = self.library.number(bytes);
            history.write(Part::Esp, *sector, vec![content]);
        }
        if !writes.is_empty() {
            history.events.push(Event::Flush(Part::Esp));
        }
        self.board.write(&self.library, &before, &history.now)?;
        Ok((name, system, slot))
    }

    /// What the loader does with the entry that it chose.
    fn counted(&self, disk: &Disk, chosen: &str) -> anyhow::Result<Counted> {
        let esp = EspOf(disk, &self.library);
        let entries = loader::entries(&loader::folder(&esp)?);
        let entry = entries.into_iter().find(|entry| entry.name.text == chosen).context("the entry is gone")?;
        let writes = loader::count_try(&esp, &entry)?;
        Ok(Counted { name: entry.next_name().unwrap_or(entry.name.text), writes })
    }

    /// Makes `disk` what the board's disk holds.
    fn read_back(&mut self, disk: &mut Disk) -> anyhow::Result<()> {
        for part in Part::ALL {
            let bytes = fs::read(self.board.node(&part.label())).context("cannot read a partition")?;
            for (sector, found) in bytes.as_chunks::<SECTOR>().0.iter().enumerate() {
                let place = Place { part, sector };
                if self.library.sector(disk.get(place)) != found {
                    disk.set(place, self.library.number(found));
                }
            }
        }
        Ok(())
    }

    /// Holds the states of the history against the rules.
    pub fn explore(&self, extent: Extent) -> Report {
        let moments = self.moments();
        let (mut checker, mut report) = (self.checker(), Report::default());
        let mut dice = Dice::new(extent.seed ^ 1);
        let mut kinds: BTreeMap<(usize, String), Kind> = BTreeMap::new();
        let most_of_a_kind = extent.samples.div_ceil(4);
        states::explore(&self.start, &self.events, extent, |state| {
            let moment = &moments[state.events];
            let verdict = checker.check(state.disk, history::floor(&moment.files));
            report.states += 1;
            let may = |outcome: &Outcome| matches!(outcome, Outcome::Starts(system, _) if moment.may.contains(system));
            let version = |outcome: &Outcome| match outcome {
                Outcome::Starts(system, slot) => format!("{} from slot {slot}", self.systems[*system].version),
                Outcome::Nothing(why) | Outcome::Mixed(why) => why.clone(),
            };
            let kind = match &verdict.first {
                Outcome::Starts(..) => version(&verdict.first),
                Outcome::Nothing(_) => "nothing".to_owned(),
                Outcome::Mixed(_) => "a mixture".to_owned(),
            };
            *report.outcomes.entry(kind).or_default() += 1;
            if !may(&verdict.first) || !may(&verdict.last) {
                report.faults.push(format!(
                    "cut in event {} of {}: {} starts {}, later {}",
                    state.events,
                    self.events.len(),
                    verdict.entry,
                    version(&verdict.first),
                    version(&verdict.last)
                ));
            }
            let kind = kinds.entry((moment.update, verdict.entry.clone())).or_default();
            kind.seen += 1;
            // Of one kind, each state is kept with the same likelihood.
            let place = if kind.kept.len() < most_of_a_kind { kind.kept.len() } else { dice.below(kind.seen) };
            if place < most_of_a_kind {
                let files = if dice.below(2) == 0 { &moment.files } else { &moment.lasting };
                let (disk, files, update, events) =
                    (state.disk.clone(), Arc::clone(files), moment.update, state.events);
                let sample = Sample { disk, files, update, verdict, events };
                if place < kind.kept.len() { kind.kept[place] = sample } else { kind.kept.push(sample) }
            }
        });
        // One of each kind after the other: the rare ones are in, too.
        for round in 0..most_of_a_kind {
            report.samples.extend(kinds.values().filter_map(|kind| kind.kept.get(round).cloned()));
        }
        report.samples.truncate(extent.samples);
        report
    }

    /// What holds after so many events.
    fn moments(&self) -> Vec<Moment> {
        let files = || Arc::clone(&self.start_files);
        let mut moments = vec![Moment { update: 0, may: Vec::new(), files: files(), lasting: files() }];
        for event in &self.events {
            let mut next = moments[moments.len() - 1].clone();
            match event {
                Event::Write { .. } | Event::Flush(_) => {}
                Event::Files(files) => next.files = Arc::clone(files),
                Event::FilesLast => next.lasting = Arc::clone(&next.files),
                Event::May(may) => {
                    next.update =
                        self.updates.iter().position(|update| may.last() == Some(&update.system)).unwrap_or(0);
                    next.may.clone_from(may);
                }
            }
            moments.push(next);
        }
        moments
    }

    /// Goes on from a state with the real loader's rules and the real updater until its update is over: it must have come to the end
    /// that it would have without the cut, and leave a boot partition that `fsck.vfat` has nothing to say about.
    ///
    /// # Errors
    /// If it does not.
    pub fn go_on(&mut self, sample: &Sample) -> anyhow::Result<()> {
        self.board.write(&self.library, &self.now, &sample.disk)?;
        history::write_files(&self.board, &sample.files)?;
        let mut history = History::new(sample.disk.clone(), (*sample.files).clone());
        let result = self.until_over(sample, &mut history);
        self.read_back(&mut history.now)?;
        self.now = history.now;
        result
    }

    fn until_over(&mut self, sample: &Sample, history: &mut History) -> anyhow::Result<()> {
        for _ in 0..MOST_STARTS {
            let (entry, system, slot) = self.turn_on(history)?;
            let boot = Boot { system: &self.systems[system], slot, entry };
            let end = self.live(sample.update, &boot)?;
            self.read_back(&mut history.now)?;
            let End::Rest(status) = end else { continue };
            let update = &self.updates[sample.update];
            let phase = if update.healthy { Phase::Succeeded } else { Phase::RolledBack };
            ensure!(status.phase == phase, "the update ends as {status:?}");
            ensure!(update.healthy == (system == update.system), "system {system} runs in the end");
            let files = history::files_of(&self.board)?;
            let verdict = self.checker().check(&history.now, history::floor(&files));
            let kept = Outcome::Starts(system, slot);
            ensure!(verdict.first == kept && verdict.last == kept, "in the end {verdict:?}");
            systems::tool("fsck.vfat", &["-n", &self.board.node("esp").display().to_string()])?;
            return Ok(());
        }
        bail!("the update does not come to an end")
    }

    /// Turns a machine on under QEMU whose ESP is in this state: firmware and loader must start the same kernel image as the rules
    /// say, and write the same sectors, with one flush behind them. Returns the entry that they chose.
    ///
    /// # Errors
    /// If they do not.
    pub fn compare_with_firmware(&self, sample: &Sample, work: &Path, firmware: &Path) -> anyhow::Result<String> {
        let esp: Vec<Sector> =
            sample.disk.part(Part::Esp).iter().map(|content| *self.library.sector(*content)).collect();
        let started = firmware::start(work, firmware, &esp)?;
        let Outcome::Starts(system, _) = sample.verdict.first else { bail!("the rules say {:?}", sample.verdict) };
        let expected = format!("{} {}", systems::STARTS, self.systems[system].version);
        ensure!(started.said.contains(&expected), "not `{expected}`, but the console said: {}", started.said);
        let Counted { writes, .. } = self.counted(&sample.disk, &sample.verdict.entry)?;
        let mut ruled = esp;
        for (sector, bytes) in &writes {
            ruled[*sector] = *bytes;
        }
        let mut differing = ruled.iter().zip(fat::sectors_of(&started.esp)).enumerate();
        let other = differing.find(|(_, (ruled, found))| fat::without_times(ruled) != fat::without_times(found));
        ensure!(other.is_none(), "sector {other:?} of the ESP is not as the rules say");
        let (mut ruled, mut found) = (writes.iter().map(|(sector, _)| *sector).collect::<Vec<_>>(), started.written);
        ruled.sort_unstable();
        found.sort_unstable();
        ensure!(ruled == found, "the firmware writes the sectors {found:?}, by the rules {ruled:?}");
        ensure!(started.flushed_behind, "the firmware does not flush once behind its writes");
        Ok(sample.verdict.entry.clone())
    }
}
