//! A simulated device: a board with a disk and a clock, both of which may fail, on which the real loader, updater and agent run. Whether
//! a release proves itself on it is decided by the seed.

use std::{
    cell::{Cell, RefCell},
    path::Path,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use device_agent::{clock::Clock, layout::DeviceFolder};
use device_updater::{
    loader,
    plan::Running,
    record::{Origin, Wish},
    storage::{STAGED, Storage, StorageError},
};
use protocol_types::{
    Digest, EndpointName, Phase, RolloutId, Slot, UnixSeconds, UpdateStatus,
    boot::BootEntry,
    socket::{Contact, Fetch, Fetched},
};
use rustls::crypto::CryptoProvider;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    account::{Account, Published, System},
    agent,
    disk::{Disk as _, FaultyDisk, Folder, Luck, Place},
    ledger::{Ledger, Rule},
    machine::{self, Machine},
    network::{Line, Switch},
    parts::Part,
    random::Random,
    updater::{self, Ended},
};

/// Bytes of a slot.
const SLOT_BYTES: usize = 32 * 1024;
/// How long a system lasts that falls over before it has done anything.
const FALLS_OVER: Duration = Duration::from_secs(20);
/// How often a device that never gives up tries a release again by itself: more often than any rollout allows.
const OWN_TRIES: u32 = 8;
/// How long an agent may take to say goodbye before a restart.
const GRACE: Duration = Duration::from_secs(5);

/// A fault that a test plants in one device, to see that a rule catches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plant {
    /// It says that it took an order and never passes it on.
    ForgetsOrders,
    /// After its first update its disk is what it was before.
    InstallsTwice,
    /// It tries a release that failed again and again.
    NeverGivesUp,
    /// Its disk and its key store are those of the factory, after its floor was raised.
    ForgetsFloor,
    /// It has lost its boot entries.
    LosesEntries,
}

/// What somebody does to a device.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Command {
    /// Cuts the power, for this long.
    Cut(Duration),
    /// Cuts the power at one of the next changes of the disk.
    CutAtChange(u64),
    /// Switches it off in order, for this long.
    Off(Duration),
    /// Lets its wall clock be wrong by so many seconds.
    Clock(i64),
}

/// A clock on a board.
#[derive(Debug, Default)]
pub(crate) struct BoardClock {
    wrong_by: AtomicI64,
}

impl Clock for BoardClock {
    fn wall(&self) -> UnixSeconds {
        let right = machine::with(Machine::wall).unwrap_or_default().as_secs();
        UnixSeconds(right.saturating_add_signed(self.wrong_by.load(Ordering::Relaxed)))
    }

    fn monotonic(&self) -> Duration {
        machine::with(Machine::monotonic).unwrap_or_default()
    }
}

/// What outlives the processes of a device.
pub(crate) struct Body {
    place: usize,
    account: Account,
    endpoint: EndpointName,
    folder: DeviceFolder,
    disk: RefCell<FaultyDisk>,
    /// The disk as the factory made it.
    first: FaultyDisk,
    /// The disk before the update under way.
    before: RefCell<FaultyDisk>,
    clock: Arc<BoardClock>,
    random: RefCell<Random>,
    /// Decides which releases prove themselves here.
    lot: u64,
    switch: Switch,
    ledger: Ledger,
    provider: Arc<CryptoProvider>,
    plant: Option<Plant>,
    is_planted: Cell<bool>,
    asked: Cell<Option<(u64, Digest)>>,
    order: RefCell<Option<(Digest, Option<RolloutId>)>>,
    own: RefCell<Option<Wish>>,
    own_tries: Cell<u32>,
    is_on: Cell<bool>,
}

/// Where a device stands in a simulation.
pub(crate) struct Site {
    pub(crate) place: usize,
    pub(crate) seed: u64,
    pub(crate) switch: Switch,
    pub(crate) ledger: Ledger,
    pub(crate) provider: Arc<CryptoProvider>,
    pub(crate) plant: Option<Plant>,
}

impl Body {
    /// A new device of the account, from its factory; its files lie below `folder`.
    pub(crate) fn new(account: Account, endpoint: EndpointName, folder: &Path, site: Site) -> Rc<Self> {
        let Site { place, seed, switch, ledger, provider, plant } = site;
        let folder = DeviceFolder::new(folder.join(place.to_string()));
        std::fs::create_dir_all(folder.state()).expect("a folder for the device");
        let recorded = account.provision(&folder, &endpoint);
        let disk = made_disk(&account.first_system(), recorded);
        let mut random = Random::of(seed, "device", place);
        Rc::new(Self {
            place,
            account,
            endpoint,
            folder,
            first: disk.fork(),
            before: RefCell::new(disk.fork()),
            disk: RefCell::new(disk),
            clock: Arc::default(),
            lot: random.number(),
            random: RefCell::new(random),
            switch,
            ledger,
            provider,
            plant,
            is_planted: Cell::new(false),
            asked: Cell::new(None),
            order: RefCell::new(None),
            own: RefCell::new(None),
            own_tries: Cell::new(0),
            is_on: Cell::new(false),
        })
    }

    pub(crate) fn place(&self) -> usize {
        self.place
    }

    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.account.name(), self.endpoint)
    }

    pub(crate) fn endpoint(&self) -> &EndpointName {
        &self.endpoint
    }

    pub(crate) fn account(&self) -> &Account {
        &self.account
    }

    pub(crate) fn folder(&self) -> &DeviceFolder {
        &self.folder
    }

    pub(crate) fn disk(&self) -> FaultyDisk {
        self.disk.borrow().clone()
    }

    pub(crate) fn clock(&self) -> Arc<BoardClock> {
        self.clock.clone()
    }

    /// What its wall clock shows.
    pub(crate) fn wall(&self) -> UnixSeconds {
        self.clock.wall()
    }

    pub(crate) fn provider(&self) -> Arc<CryptoProvider> {
        self.provider.clone()
    }

    pub(crate) fn line(&self) -> Line {
        self.switch.line(self.place)
    }

    pub(crate) fn draw(&self) -> u64 {
        self.random.borrow_mut().number()
    }

    /// Whether it has power.
    pub(crate) fn is_on(&self) -> bool {
        self.is_on.get()
    }

    /// What the service ordered last, as far as its agent knows.
    pub(crate) fn order(&self) -> Option<(Digest, Option<RolloutId>)> {
        self.order.borrow().clone()
    }

    pub(crate) fn forgets_orders(&self) -> bool {
        self.plant == Some(Plant::ForgetsOrders)
    }

    /// How a release fares here: none if it proves itself.
    fn fault(&self, release: &Published) -> Option<Fault> {
        let mut lot = Random::of(self.lot, &release.version, 0);
        let is_bad = lot.chance(release.bad) || (self.plant == Some(Plant::NeverGivesUp) && release.bad > 0);
        is_bad.then(|| if lot.chance(500) { Fault::FallsOver } else { Fault::IsDeaf })
    }

    /// The updater asks for bytes.
    pub(crate) fn asks(&self, id: u64, what: &Fetch) {
        self.asked.set(match what {
            Fetch::Artifact { digest, .. } => Some((id, *digest)),
            Fetch::Metadata { .. } => None,
        });
    }

    /// Bytes arrived that the updater has asked for.
    pub(crate) fn is_given(&self, fetched: &Fetched) {
        let Some((_, digest)) = self.asked.get().filter(|(id, _)| *id == fetched.id) else { return };
        if fetched.result.as_ref().is_ok_and(|bytes| !bytes.is_empty()) && !self.account.owns(digest) {
            self.ledger.foreign(self.place, digest);
        }
    }

    /// The service ordered something, or nothing.
    pub(crate) fn is_ordered(&self, order: Option<(Digest, Option<RolloutId>)>) {
        if *self.order.borrow() == order {
            return;
        }
        if let Some((digest, rollout)) = &order {
            let attempt = rollout.as_ref().map(ToString::to_string).unwrap_or_default();
            self.ledger.ordered(self.place, self.account.release(*digest).as_ref(), *digest, &attempt);
        }
        *self.order.borrow_mut() = order;
    }

    pub(crate) fn contact(&self, contact: Contact) {
        self.ledger.contact(self.place, contact);
    }

    pub(crate) fn on_trial(&self, attempt: &str, generation: u32) {
        self.ledger.on_trial(self.place, attempt, generation);
    }

    /// A wish that nobody had but the device.
    pub(crate) fn own_wish(&self) -> Option<Wish> {
        self.own.borrow_mut().take()
    }

    /// What the updater says.
    pub(crate) fn reports(&self, status: &UpdateStatus) {
        let release = status.wanted.and_then(|digest| self.account.release(digest));
        let is_news = self.ledger.status(self.place).is_none_or(|before| before.phase != status.phase);
        self.ledger.reports(self.place, self.account.name().as_str(), release.as_ref(), status);
        if self.plant == Some(Plant::NeverGivesUp)
            && is_news
            && self.own_tries.get() < OWN_TRIES
            && matches!(status.phase, Phase::Failed | Phase::RolledBack)
        {
            self.own_tries.set(self.own_tries.get() + 1);
            *self.own.borrow_mut() = self.again(status);
        }
    }

    /// The wish that has failed, under a new name.
    fn again(&self, status: &UpdateStatus) -> Option<Wish> {
        let (digest, rollout) = (status.wanted?, status.rollout.as_ref()?);
        let release = self.account.release(digest)?;
        let rollout = rollout.as_str().split('_').next()?;
        let number = 100 + self.random.borrow_mut().between(0, 1_000_000);
        Some(Wish {
            release: format!("releases/{}.json", release.version).parse().ok()?,
            digest,
            rollout: format!("{rollout}_{number}").parse().ok(),
            origin: Origin::Service,
            consent: None,
        })
    }

    /// Brings about what was planted, once its time has come; true if it did.
    fn spring(&self) -> bool {
        let status = self.ledger.status(self.place);
        let succeeded = status.is_some_and(|status| status.phase == Phase::Succeeded);
        let release = self.order().and_then(|(digest, _)| self.account.release(digest));
        let disk = match self.plant {
            Some(Plant::InstallsTwice) if succeeded => self.before.borrow().fork(),
            Some(Plant::ForgetsFloor) if succeeded && release.is_some_and(|release| release.raises_floor) => {
                self.first.fork()
            }
            Some(Plant::LosesEntries) if succeeded => {
                let mut disk = self.disk();
                for name in disk.list(Folder::Esp).expect("a disk with power") {
                    disk.remove(Folder::Esp, &name).expect("a disk with power");
                }
                disk.sync_folder(Folder::Esp).expect("a disk with power");
                disk
            }
            _ => return false,
        };
        if self.is_planted.replace(true) {
            return false;
        }
        *self.disk.borrow_mut() = disk;
        true
    }
}

/// How a bad release fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The system falls over before the updater starts.
    FallsOver,
    /// The agent does not start.
    IsDeaf,
}

/// A disk with one system and the digest of the factory document.
fn made_disk(System { image, uki, .. }: &System, recorded: Digest) -> FaultyDisk {
    let disk = FaultyDisk::new(SLOT_BYTES);
    let mut storage = Storage::new(disk.clone());
    let made = (|| -> Result<(), StorageError> {
        storage.write(&Place::Slot(Slot::A), 0, image)?;
        storage.flush(&Place::Slot(Slot::A))?;
        let staged = Place::file(Folder::Esp, STAGED);
        storage.write(&staged, 0, uki)?;
        storage.flush(&staged)?;
        storage.arm(BootEntry { generation: 1, slot: Slot::A, tries: None })?;
        storage.replace(Folder::Keys, "factory.sha256", format!("{recorded}\n").as_bytes())
    })();
    made.expect("a new disk takes a system");
    disk
}

/// Lives from the first time with power to the end of the simulation.
pub(crate) async fn live(body: Rc<Body>, mut commands: mpsc::UnboundedReceiver<Command>) {
    loop {
        body.switch.dies(body.place, false);
        body.is_on.set(true);
        let stop = CancellationToken::new();
        let mut life = Part::of(from_start(body.clone(), stop.clone()));
        let mut off = Duration::ZERO;
        let was_cut = loop {
            let command = tokio::select! {
                ended = &mut life => break ended == Ended::PowerFailed,
                Some(command) = commands.recv() => command,
            };
            match command {
                Command::Clock(0) => body.ledger.of(body.place, "has the right time again"),
                _ => body.ledger.fault(body.place, &format!("{command:?}")),
            }
            match command {
                Command::Cut(time) => {
                    off = time;
                    break true;
                }
                Command::CutAtChange(change) => {
                    let disk = body.disk();
                    disk.cut_at(disk.operations() + change);
                }
                Command::Off(time) => {
                    off = time;
                    stop.cancel();
                }
                Command::Clock(seconds) => {
                    body.clock.wrong_by.store(seconds, Ordering::Relaxed);
                    body.switch.doubts(body.place, seconds != 0);
                }
            }
        };
        body.is_on.set(false);
        // Whoever loses power says no goodbye.
        body.switch.dies(body.place, was_cut);
        drop(life);
        let luck = if was_cut { Luck::Mixed(body.draw()) } else { Luck::All };
        let pause = body.random.borrow_mut().between(5, 30);
        sleep(off + Duration::from_secs(pause)).await;
        body.disk().power_on(luck);
    }
}

/// From the loader to the end of the system that it started.
async fn from_start(body: Rc<Body>, stop: CancellationToken) -> Ended {
    let pause = body.random.borrow_mut().between(8, 40);
    sleep(Duration::from_secs(pause)).await;
    let cmdline = match loader::boot(&mut Storage::new(body.disk())) {
        Ok(cmdline) => cmdline,
        Err(_) if body.disk().is_off() => return Ended::PowerFailed,
        Err(error) => {
            body.ledger.broken(Rule::AlwaysBoots, format!("{} does not start: {error}", body.name()));
            return std::future::pending().await;
        }
    };
    let release = body.account.release_of_root(cmdline.root);
    body.ledger.booted(body.place, release.as_ref(), &cmdline.entry.to_string());
    if body.plant.is_some() && cmdline.entry.tries.is_none() {
        *body.before.borrow_mut() = body.disk().fork();
    }
    let fault = release.and_then(|release| body.fault(&release));
    if fault == Some(Fault::FallsOver) {
        sleep(FALLS_OVER).await;
        return Ended::Restart;
    }
    let (to_updater, agents) = mpsc::channel(1);
    let mut updater = Part::of(updater::run(body.clone(), Running::from_cmdline(&cmdline), agents));
    if fault == Some(Fault::IsDeaf) {
        return updater.await;
    }
    let mut agent = Part::of(agent::run(body.clone(), to_updater, stop.clone()));
    let ended = tokio::select! {
        ended = &mut updater => ended,
        () = &mut agent => Ended::Restart,
        () = Part::of(planted(&body)) => return Ended::Restart,
    };
    if ended == Ended::Restart && !stop.is_cancelled() {
        stop.cancel();
        drop(timeout(GRACE, agent).await);
    }
    ended
}

/// Waits until what was planted springs.
async fn planted(body: &Body) {
    while body.plant.is_some() && !body.spring() {
        sleep(Duration::from_secs(60)).await;
    }
    if body.plant.is_none() {
        std::future::pending().await
    }
}
