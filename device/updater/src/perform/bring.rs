//! Brings the blocks of a section into their place: keeps what is there already, copies what the running slot has, asks for the
//! rest. Never writes a block whose digest is not the listed one.
//!
//! The place itself is the note of how far a transfer came. After an interruption every block in it is hashed again, so nothing
//! needs to be trusted that a power cut may have torn.

use std::collections::BTreeMap;

use protocol_release::document::{Section, SectionName};
use protocol_types::{
    Digest, Reason, ReasonCode, Slot,
    socket::{Fetch, FetchError, MAX_FETCH},
};
use serde::Serialize;

use super::{Disk, Fact, Peers, Updater, Work};
use crate::{
    blocks::{BLOCK, BlockList},
    disk::{Folder, Place},
    record::Goal,
    storage::{STAGED, StorageError},
};

/// Blocks that are looked at in one turn.
const LOCAL_BLOCKS: u64 = 256;
/// Blocks that are asked for at once.
const FETCH_BLOCKS: u64 = MAX_FETCH as u64 / BLOCK as u64;

/// Where the bytes of an image came from and went to; kept beside the state file for whoever measures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Traffic {
    /// Bytes of blocks that were asked for.
    pub(super) fetched: u64,
    /// Bytes of block lists that were asked for.
    pub(super) lists: u64,
    /// Bytes of blocks that the running slot had at the same place.
    pub(super) copied: u64,
    /// Bytes of blocks that stood in their place already.
    pub(super) kept: u64,
    /// Bytes written to the idle slot and the boot partition.
    pub(super) written: u64,
    /// Bytes of all sections.
    pub(super) image: u64,
}

/// A transfer under way, across all sections of one image.
#[derive(Debug)]
pub(super) struct Transfer {
    release: Digest,
    pub(super) lists: BTreeMap<usize, BlockList>,
    pub(super) traffic: Traffic,
    index: usize,
    section: Section,
    target: Place,
    /// The same section of the running system, where it has one.
    sibling: Option<Place>,
    from: u64,
    awaited: Awaited,
    to_ask: Option<Fetch>,
}

#[derive(Debug)]
enum Awaited {
    Nothing,
    List(Vec<u8>),
    /// Blocks up to `until`; those up to `next` need no more looks.
    Blocks {
        until: u64,
        next: u64,
    },
}

/// Where a section goes.
pub(super) fn place_of(name: SectionName, slot: Slot) -> Place {
    match name {
        SectionName::Root => Place::Slot(slot),
        SectionName::Verity => Place::Verity(slot),
        SectionName::Uki => Place::file(Folder::Esp, STAGED),
        SectionName::Firmware => Place::IdleFirmware,
    }
}

impl<D: Disk, P: Peers> Updater<D, P> {
    pub(super) fn begin_transfer(
        &mut self,
        goal: &Goal,
        slot: Slot,
        (index, from): (usize, u64),
    ) -> Result<(), StorageError> {
        let sections = goal.os.as_ref().map(|os| os.sections.as_slice()).unwrap_or_default();
        let Some(section) = sections.get(index).cloned() else { return Ok(()) };
        let target = place_of(section.name, slot);
        if section.name == SectionName::Uki && from == 0 {
            // All of its room at once: a boot partition that is too full says so before a byte travels, and allocates only once.
            self.storage.cut_to(&target, section.size)?;
        }
        let (lists, traffic) = match std::mem::replace(&mut self.work, Work::None) {
            Work::Paused(before) if before.release == goal.note.digest => (before.lists, before.traffic),
            Work::Paused(_)
            | Work::Transfer(_)
            | Work::None
            | Work::Check(_)
            | Work::Configurations(_)
            | Work::ReadBack(_) => {
                (BTreeMap::new(), Traffic { image: sections.iter().map(|s| s.size).sum(), ..Traffic::default() })
            }
        };
        let sibling = match section.name {
            SectionName::Root | SectionName::Verity => Some(place_of(section.name, slot.other())),
            SectionName::Uki => {
                self.storage.newest_entry(slot.other())?.map(|it| Place::file(Folder::Esp, it.to_string()))
            }
            SectionName::Firmware => Some(Place::BootedFirmware),
        };
        self.asked = None;
        self.work = Work::Transfer(Box::new(Transfer {
            release: goal.note.digest,
            lists,
            traffic,
            index,
            section,
            target,
            sibling,
            from,
            awaited: Awaited::Nothing,
            to_ask: None,
        }));
        Ok(())
    }

    pub(super) fn go_on_bringing(&mut self, mut transfer: Box<Transfer>, answer: Option<Result<Vec<u8>, FetchError>>) {
        let result = match (std::mem::replace(&mut transfer.awaited, Awaited::Nothing), answer) {
            (Awaited::List(so_far), Some(answer)) => take_list(&mut transfer, so_far, answer).map(|()| None),
            (Awaited::Blocks { until, next }, Some(answer)) => {
                self.take_blocks(&mut transfer, until, answer).map(|()| Some(next))
            }
            (awaited, _) => {
                transfer.awaited = awaited;
                self.bring_more(&mut transfer)
            }
        };
        match result {
            Ok(Some(next_block)) => {
                self.facts.push_back(Fact::Brought { section: transfer.index, next_block });
                self.work = Work::Paused(transfer);
            }
            Ok(None) => {
                let what = transfer.to_ask.take();
                self.work = Work::Transfer(transfer);
                if let Some(what) = what {
                    self.ask(what);
                }
            }
            Err(reason) => self.conclude(Err(reason)),
        }
    }

    /// Looks at the next blocks; returns where the plan should go on, or nothing if bytes were asked for.
    fn bring_more(&mut self, transfer: &mut Transfer) -> Result<Option<u64>, Reason> {
        let Some(list) = transfer.lists.get(&transfer.index) else {
            ask_for_list(transfer, Vec::new());
            return Ok(None);
        };
        let from = transfer.from;
        let end = list.count().min(from.saturating_add(LOCAL_BLOCKS));
        for index in from..end {
            if self.find_here(transfer, index).map_err(|e| Reason::from(&e))? {
                continue;
            }
            if index > from {
                return Ok(Some(index));
            }
            self.ask_for_blocks(transfer)?;
            return Ok(None);
        }
        Ok(Some(end))
    }

    /// Whether block `index` stands in its place, or could be copied there from the running slot.
    fn find_here(&mut self, transfer: &mut Transfer, index: u64) -> Result<bool, StorageError> {
        let Transfer { lists, traffic, target, sibling, .. } = transfer;
        let Some(list) = lists.get(&transfer.index) else { return Ok(false) };
        let (mut block, at) = ([0; BLOCK], BlockList::start(index));
        let Some(into) = block.get_mut(..list.length(index)) else { return Ok(false) };
        let length = u64::try_from(into.len()).unwrap_or(0);
        if self.storage.read(target, at, into)? == into.len() && list.holds(index, into) {
            traffic.kept += length;
            return Ok(true);
        }
        let Some(sibling) = sibling else { return Ok(false) };
        if self.storage.read(sibling, at, into)? == into.len() && list.holds(index, into) {
            self.storage.write(target, at, into)?;
            traffic.copied += length;
            traffic.written += length;
            return Ok(true);
        }
        Ok(false)
    }

    /// Asks for the run of blocks from the first needed one on that are nowhere on the device.
    fn ask_for_blocks(&mut self, transfer: &mut Transfer) -> Result<(), Reason> {
        let (from, mut until) = (transfer.from, transfer.from + 1);
        let mut next = until;
        let Some(count) = transfer.lists.get(&transfer.index).map(BlockList::count) else { return Ok(()) };
        while until < count && until - from < FETCH_BLOCKS {
            let is_here = self.find_here(transfer, until).map_err(|e| Reason::from(&e))?;
            next = until + 1;
            if is_here {
                break;
            }
            until = next;
        }
        let Some(list) = transfer.lists.get(&transfer.index) else { return Ok(()) };
        let length = u32::try_from(list.span(from, until)).unwrap_or(MAX_FETCH);
        let what = Fetch::Artifact { digest: transfer.section.digest, offset: BlockList::start(from), length };
        transfer.awaited = Awaited::Blocks { until, next };
        transfer.to_ask = Some(what);
        Ok(())
    }

    fn take_blocks(
        &mut self,
        transfer: &mut Transfer,
        until: u64,
        answer: Result<Vec<u8>, FetchError>,
    ) -> Result<(), Reason> {
        let (from, name) = (transfer.from, transfer.section.name.as_str());
        let bytes = answer.map_err(|e| e.reason(name))?;
        let Some(list) = transfer.lists.get(&transfer.index) else { return Ok(()) };
        same_length(name, &bytes, list.span(from, until))?;
        for (index, block) in (from..).zip(bytes.chunks(BLOCK)) {
            if !list.holds(index, block) {
                let text = format!("block {index} of section `{name}` does not have the digest that its list names");
                return Err(Reason::new(ReasonCode::DigestMismatch, text));
            }
        }
        self.storage.write(&transfer.target, BlockList::start(from), &bytes).map_err(|e| Reason::from(&e))?;
        let length = u64::try_from(bytes.len()).unwrap_or(0);
        transfer.traffic.fetched += length;
        transfer.traffic.written += length;
        Ok(())
    }
}

/// Asks for the next piece of the section's block list.
fn ask_for_list(transfer: &mut Transfer, so_far: Vec<u8>) {
    let blocks = transfer.section.blocks;
    let offset = u64::try_from(so_far.len()).unwrap_or(u64::MAX);
    let rest = blocks.size.saturating_sub(offset);
    let length = u32::try_from(rest).unwrap_or(MAX_FETCH).min(MAX_FETCH);
    transfer.awaited = Awaited::List(so_far);
    transfer.to_ask = Some(Fetch::Artifact { digest: blocks.digest, offset, length });
}

/// Takes a piece of the block list; the whole counts only with the signed digest.
fn take_list(transfer: &mut Transfer, mut so_far: Vec<u8>, answer: Result<Vec<u8>, FetchError>) -> Result<(), Reason> {
    let (Section { name, size, blocks, .. }, kind) = (transfer.section.clone(), "block list");
    let bytes = answer.map_err(|e| e.reason(kind))?;
    let rest = blocks.size.saturating_sub(u64::try_from(so_far.len()).unwrap_or(u64::MAX));
    same_length(kind, &bytes, rest.min(MAX_FETCH.into()))?;
    transfer.traffic.lists += u64::try_from(bytes.len()).unwrap_or(0);
    so_far.extend_from_slice(&bytes);
    if u64::try_from(so_far.len()).is_ok_and(|length| length < blocks.size) {
        ask_for_list(transfer, so_far);
        return Ok(());
    }
    let list = (Digest::of(&so_far) == blocks.digest).then(|| BlockList::new(so_far, size)).flatten();
    let list = list.ok_or_else(|| {
        let text = format!("the block list of section `{}` does not have the signed digest", name.as_str());
        Reason::new(ReasonCode::DigestMismatch, text)
    })?;
    transfer.lists.insert(transfer.index, list);
    Ok(())
}

/// Refuses an answer that is shorter or longer than what was asked for.
pub(super) fn same_length(what: &str, bytes: &[u8], expected: u64) -> Result<(), Reason> {
    let found = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let code = match found.cmp(&expected) {
        std::cmp::Ordering::Equal => return Ok(()),
        std::cmp::Ordering::Less => ReasonCode::Truncated,
        std::cmp::Ordering::Greater => ReasonCode::Oversized,
    };
    Err(Reason::new(code, format!("{what}: {expected} bytes were asked for, {found} came")))
}
