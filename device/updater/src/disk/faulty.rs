//! A disk that loses power: it cuts at a chosen operation and then keeps only what was flushed, plus whatever luck kept.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use protocol_types::{FirmwareRecord, Slot};

use super::{Disk, FirmwareState, Folder, Place, Room};

/// What happens to what was written but not flushed when power fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Luck {
    /// All of it is lost.
    None,
    /// All of it had reached the medium already.
    All,
    /// Each sector and each change of a folder has its own fate.
    Mixed(u64),
}

#[derive(Clone, Debug, Default)]
struct Content {
    volatile: Vec<u8>,
    /// What a flush made last; none if the file was never flushed.
    durable: Option<Vec<u8>>,
}

#[derive(Clone, Debug)]
enum Change {
    Link(String, usize),
    Rename(String, String),
    Remove(String),
}

type Names = BTreeMap<String, usize>;

#[derive(Clone, Debug, Default)]
struct Inner {
    slots: BTreeMap<Place, Content>,
    contents: Vec<Content>,
    names: BTreeMap<Folder, Names>,
    durable_names: BTreeMap<Folder, Names>,
    changes: BTreeMap<Folder, Vec<Change>>,
    operations: u64,
    cut_at: Option<u64>,
    off: bool,
    full: bool,
    slot_writes: u64,
    /// The slot that the firmware started from, and its record, on a disk with slots for it.
    firmware: Option<(Slot, FirmwareRecord)>,
}

/// A disk in memory; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct FaultyDisk {
    inner: Arc<Mutex<Inner>>,
    room: Room,
}

fn next(state: &mut u64) -> bool {
    // xorshift64: any spread will do, as long as the seed reproduces it.
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state & 0x100 != 0
}

fn apply(names: &mut Names, change: Change) {
    match change {
        Change::Link(name, content) => {
            names.insert(name, content);
        }
        Change::Rename(from, to) => {
            if let Some(content) = names.remove(&from) {
                names.insert(to, content);
            }
        }
        Change::Remove(name) => {
            names.remove(&name);
        }
    }
}

impl FaultyDisk {
    pub(crate) fn new(slot_bytes: usize) -> Self {
        Self::with_partitions(slot_bytes, None)
    }

    /// A disk whose slots have partitions for hash trees.
    pub(crate) fn with_trees(slot_bytes: usize, tree_bytes: usize) -> Self {
        Self::with_partitions(slot_bytes, Some(tree_bytes))
    }

    fn with_partitions(slot_bytes: usize, tree_bytes: Option<usize>) -> Self {
        let blank = |bytes: usize| Content { volatile: vec![0; bytes], durable: Some(vec![0; bytes]) };
        let mut slots = BTreeMap::new();
        for slot in [Slot::A, Slot::B] {
            slots.insert(Place::Slot(slot), blank(slot_bytes));
            slots.extend(tree_bytes.map(|bytes| (Place::Verity(slot), blank(bytes))));
        }
        let inner = Arc::new(Mutex::new(Inner { slots, ..Inner::default() }));
        let room = Room { root: slot_bytes as u64, verity: tree_bytes.map(|bytes| bytes as u64), firmware: None };
        Self { inner, room }
    }

    /// Gives the disk slots for firmware; slot a has `package`.
    pub(crate) fn add_firmware(&mut self, package: &[u8], slot_bytes: usize) {
        let mut inner = self.lock();
        let blank = vec![0xff; slot_bytes];
        let mut booted = blank.clone();
        booted[..package.len()].copy_from_slice(package);
        for (place, bytes) in [(Place::BootedFirmware, booted), (Place::IdleFirmware, blank)] {
            inner.slots.insert(place, Content { volatile: bytes.clone(), durable: Some(bytes) });
        }
        inner.firmware = Some((Slot::A, FirmwareRecord::new(1, Slot::A, false)));
        drop(inner);
        self.room.firmware = Some(slot_bytes as u64);
    }

    /// Starts the firmware by its record, as BL1 does; the package that starts.
    pub(crate) fn start_firmware(&self) -> Vec<u8> {
        let mut inner = self.lock();
        let (booted, record) = inner.firmware.unwrap();
        let is_tried = record.on_trial && record.tried < protocol_types::firmware_record::TRIES;
        let chosen = if is_tried { record.active.other() } else { record.active };
        if chosen != booted {
            let idle = inner.slots.remove(&Place::IdleFirmware).unwrap();
            let before = inner.slots.insert(Place::BootedFirmware, idle).unwrap();
            inner.slots.insert(Place::IdleFirmware, before);
        }
        let record = FirmwareRecord { tried: record.tried + usize::from(is_tried), ..record };
        inner.firmware = Some((chosen, record));
        inner.slots[&Place::BootedFirmware].volatile.clone()
    }

    /// The record of the firmware.
    pub(crate) fn firmware_record(&self) -> FirmwareRecord {
        self.lock().firmware.unwrap().1
    }

    /// A disk of its own with the same bytes.
    pub(crate) fn fork(&self) -> Self {
        Self { inner: Arc::new(Mutex::new(self.lock().clone())), room: self.room }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// Operations that change something, since the beginning.
    pub(crate) fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Bytes written into slots since the beginning.
    pub(crate) fn slot_bytes_written(&self) -> u64 {
        self.lock().slot_writes
    }

    /// Power fails in the middle of the operation with this number.
    pub(crate) fn cut_at(&self, operation: u64) {
        self.lock().cut_at = Some(operation);
    }

    pub(crate) fn is_off(&self) -> bool {
        self.lock().off
    }

    /// From now on (or no longer) nothing new fits.
    pub(crate) fn set_full(&self, full: bool) {
        self.lock().full = full;
    }

    /// Power returns: what was not flushed meets its luck. No further cut is planned.
    pub(crate) fn power_on(&self, luck: Luck) {
        let mut inner = self.lock();
        let mut seed = match luck {
            Luck::Mixed(seed) => seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            Luck::None | Luck::All => 1,
        };
        let mut kept = || match luck {
            Luck::None => false,
            Luck::All => true,
            Luck::Mixed(_) => next(&mut seed),
        };
        let Inner { slots, contents, names, durable_names, changes, .. } = &mut *inner;
        for content in slots.values_mut().chain(contents.iter_mut()) {
            let mut after = content.durable.take().unwrap_or_default();
            let volatile = &content.volatile;
            if kept() {
                after.resize(volatile.len(), 0);
            }
            for (at, sector) in volatile.chunks(512).enumerate().map(|(n, sector)| (n * 512, sector)) {
                let end = (at + sector.len()).min(after.len());
                if at < end && kept() {
                    after[at..end].copy_from_slice(&sector[..end - at]);
                }
            }
            *content = Content { volatile: after.clone(), durable: Some(after) };
        }
        for (folder, pending) in std::mem::take(changes) {
            for change in pending {
                if kept() {
                    apply(durable_names.entry(folder).or_default(), change);
                }
            }
        }
        *names = durable_names.clone();
        inner.off = false;
        inner.cut_at = None;
    }

    /// Counts an operation; `Err(true)` if power fails during this one, `Err(false)` if it is off already.
    fn operate(inner: &mut Inner) -> Result<(), bool> {
        if inner.off {
            return Err(false);
        }
        inner.operations += 1;
        if inner.cut_at.is_some_and(|cut| inner.operations > cut) {
            inner.off = true;
            return Err(true);
        }
        Ok(())
    }
}

fn dead() -> io::Error {
    io::Error::other("no power")
}

impl Inner {
    fn change(&mut self, folder: Folder, change: Change) {
        apply(self.names.entry(folder).or_default(), change.clone());
        self.changes.entry(folder).or_default().push(change);
    }

    fn find(&self, place: &Place) -> Option<&Content> {
        match place {
            Place::Slot(_) | Place::Verity(_) | Place::BootedFirmware | Place::IdleFirmware => self.slots.get(place),
            Place::File(folder, name) => self.contents.get(*self.names.get(folder)?.get(name)?),
        }
    }

    fn open(&mut self, place: &Place) -> &mut Content {
        match place {
            Place::Slot(_) | Place::Verity(_) | Place::BootedFirmware | Place::IdleFirmware => {
                self.slots.get_mut(place).unwrap()
            }
            Place::File(folder, name) => {
                let known = self.names.get(folder).and_then(|names| names.get(name)).copied();
                let content = known.unwrap_or_else(|| {
                    self.contents.push(Content::default());
                    let content = self.contents.len() - 1;
                    self.change(*folder, Change::Link(name.clone(), content));
                    content
                });
                &mut self.contents[content]
            }
        }
    }
}

impl Disk for FaultyDisk {
    fn room(&self) -> Room {
        self.room
    }

    fn list(&self, folder: Folder) -> io::Result<Vec<String>> {
        let inner = self.lock();
        if inner.off {
            return Err(dead());
        }
        Ok(inner.names.get(&folder).map(|names| names.keys().cloned().collect()).unwrap_or_default())
    }

    fn size(&self, place: &Place) -> io::Result<Option<u64>> {
        let inner = self.lock();
        if inner.off {
            return Err(dead());
        }
        Ok(inner.find(place).map(|content| content.volatile.len() as u64))
    }

    fn read_at(&self, place: &Place, at: u64, into: &mut [u8]) -> io::Result<usize> {
        let inner = self.lock();
        if inner.off {
            return Err(dead());
        }
        let content = inner.find(place).ok_or(io::ErrorKind::NotFound)?;
        let rest = content.volatile.get(usize::try_from(at).unwrap()..).unwrap_or_default();
        let read = rest.len().min(into.len());
        into[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn write_at(&mut self, place: &Place, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.lock();
        let (bytes, cut) = match Self::operate(&mut inner) {
            Ok(()) => (bytes, false),
            // A write during which power fails is torn.
            Err(true) => (&bytes[..bytes.len() / 2], true),
            Err(false) => return Err(dead()),
        };
        if inner.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if !matches!(place, Place::File(..)) {
            inner.slot_writes += bytes.len() as u64;
        }
        let at = usize::try_from(at).unwrap();
        let content = inner.open(place);
        if content.volatile.len() < at + bytes.len() {
            assert!(matches!(place, Place::File(..)), "a write leaves its slot");
            content.volatile.resize(at + bytes.len(), 0);
        }
        if *place == Place::IdleFirmware && content.volatile[at..at + bytes.len()] != *bytes {
            // Flash is erased from where it is written on.
            content.volatile[at..].fill(0xff);
        }
        content.volatile[at..at + bytes.len()].copy_from_slice(bytes);
        if cut { Err(dead()) } else { Ok(()) }
    }

    fn set_len(&mut self, place: &Place, bytes: u64) -> io::Result<()> {
        let mut inner = self.lock();
        Self::operate(&mut inner).map_err(|_| dead())?;
        if inner.full && inner.find(place).is_none() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        inner.open(place).volatile.resize(usize::try_from(bytes).unwrap(), 0);
        Ok(())
    }

    fn sync(&mut self, place: &Place) -> io::Result<()> {
        let mut inner = self.lock();
        Self::operate(&mut inner).map_err(|_| dead())?;
        inner.find(place).ok_or(io::ErrorKind::NotFound)?;
        let content = inner.open(place);
        content.durable = Some(content.volatile.clone());
        Ok(())
    }

    fn rename(&mut self, folder: Folder, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.lock();
        let powered = Self::operate(&mut inner);
        if powered == Err(false) {
            return Err(dead());
        }
        inner.find(&Place::file(folder, from)).ok_or(io::ErrorKind::NotFound)?;
        inner.change(folder, Change::Rename(from.to_owned(), to.to_owned()));
        powered.map_err(|_| dead())
    }

    fn remove(&mut self, folder: Folder, name: &str) -> io::Result<()> {
        let mut inner = self.lock();
        let powered = Self::operate(&mut inner);
        if powered == Err(false) {
            return Err(dead());
        }
        inner.change(folder, Change::Remove(name.to_owned()));
        powered.map_err(|_| dead())
    }

    fn firmware(&self) -> io::Result<Option<FirmwareState>> {
        let inner = self.lock();
        if inner.off {
            return Err(dead());
        }
        Ok(inner.firmware.map(|(booted, record)| FirmwareState { booted, record: Some(record) }))
    }

    fn write_firmware_record(&mut self, record: &FirmwareRecord) -> io::Result<()> {
        let mut inner = self.lock();
        // A torn one does not count; the older copy does.
        Self::operate(&mut inner).map_err(|_| dead())?;
        inner.firmware = inner.firmware.map(|(booted, _)| (booted, *record));
        Ok(())
    }

    fn forget_state(&mut self) -> io::Result<()> {
        Self::operate(&mut self.lock()).map_err(|_| dead())
    }

    fn sync_folder(&mut self, folder: Folder) -> io::Result<()> {
        let mut inner = self.lock();
        Self::operate(&mut inner).map_err(|_| dead())?;
        let changes = inner.changes.remove(&folder).unwrap_or_default();
        for change in changes {
            apply(inner.durable_names.entry(folder).or_default(), change);
        }
        Ok(())
    }
}
