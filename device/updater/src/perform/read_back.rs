//! Reads back what was written: flushes it, lets the medium give it again and compares every block and the whole. Never repairs.

use protocol_release::document::{HostUki, OsIndex, Section, SectionName};
use protocol_types::{Hasher, Reason, ReasonCode, Slot};
use tracing::{info, warn};

use super::{
    Disk, Fact, Peers, Updater, Work,
    bring::{Traffic, Transfer, place_of},
};
use crate::{
    blocks::{BLOCK, BlockList},
    disk::Folder,
    record::Goal,
    storage::STAGED,
};

/// Blocks that are read in one turn.
const BLOCKS_A_TURN: usize = 1024;

/// The file beside the state file that says where the bytes of the newest image came from.
const TRAFFIC: &str = "traffic.json";

/// A read back under way.
#[derive(Debug)]
pub(super) struct ReadBack {
    os: OsIndex,
    slot: Slot,
    transfer: Box<Transfer>,
    section: usize,
    next_block: u64,
    hasher: Hasher,
}

impl<D: Disk, P: Peers> Updater<D, P> {
    pub(super) fn begin_read_back(&mut self, goal: &Goal, slot: Slot) {
        match (std::mem::replace(&mut self.work, Work::None), &goal.os) {
            (Work::Paused(transfer), Some(os)) => {
                let (os, hasher) = (os.clone(), Hasher::new());
                let read_back = ReadBack { os, slot, transfer, section: 0, next_block: 0, hasher };
                self.work = Work::ReadBack(Box::new(read_back));
            }
            _ => self.conclude(Err(Reason::new(ReasonCode::Internal, "nothing was brought that could be read back"))),
        }
    }

    pub(super) fn go_on_reading(&mut self, mut read_back: Box<ReadBack>) {
        match self.read_more(&mut read_back) {
            Ok(false) => self.work = Work::ReadBack(read_back),
            Ok(true) => {
                self.keep_traffic(read_back.transfer.traffic);
                self.conclude(Ok(Fact::ReadBack));
            }
            Err(reason) => self.conclude(Err(reason)),
        }
    }

    /// Reads the next blocks; true at the end of the last section.
    fn read_more(&mut self, read_back: &mut ReadBack) -> Result<bool, Reason> {
        let Some(section) = read_back.os.sections.get(read_back.section).cloned() else { return Ok(true) };
        let Some(list) = read_back.transfer.lists.get(&read_back.section) else {
            return Err(Reason::new(ReasonCode::Internal, "a section has no block list"));
        };
        let (place, name) = (place_of(section.name, read_back.slot), section.name.as_str());
        if read_back.next_block == 0 {
            if section.name == SectionName::Uki {
                // An earlier, longer one may have left its end behind.
                self.storage.cut_to(&place, section.size).map_err(|e| Reason::from(&e))?;
            }
            self.storage.flush(&place).map_err(|e| Reason::from(&e))?;
        }
        let from = read_back.next_block;
        let end = list.count().min(from + BLOCKS_A_TURN as u64);
        let mut piece = vec![0; usize::try_from(list.span(from, end)).unwrap_or(0)];
        let read = self.storage.read(&place, BlockList::start(from), &mut piece).map_err(|e| Reason::from(&e))?;
        for (index, block) in (from..end).zip(piece.chunks(BLOCK)) {
            if read != piece.len() || !list.holds(index, block) {
                let text = format!("{place} does not give back block {index} of section `{name}` as it was written");
                return Err(Reason::new(ReasonCode::StorageFailed, text));
            }
        }
        read_back.hasher.update(&piece);
        read_back.next_block = end;
        if end < list.count() {
            return Ok(false);
        }
        if std::mem::take(&mut read_back.hasher).finish() != section.digest {
            let text = format!("section `{name}` has the listed blocks but not the signed digest");
            return Err(Reason::new(ReasonCode::DigestMismatch, text));
        }
        if section.name == SectionName::Uki {
            self.check_uki(&read_back.os, &section)?;
        }
        (read_back.section, read_back.next_block) = (read_back.section + 1, 0);
        Ok(read_back.section == read_back.os.sections.len())
    }

    /// An entry that names another root than the one beside it would only fail to boot, so it is refused before it is armed.
    fn check_uki(&self, os: &OsIndex, section: &Section) -> Result<(), Reason> {
        let text = self.storage.load(Folder::Esp, STAGED, HostUki::MAX_BYTES).map_err(|e| Reason::from(&e))?;
        let uki = HostUki::parse(&text.unwrap_or_default()).map_err(Reason::from)?;
        let root = os.section(SectionName::Root);
        if root.is_some_and(|root| (root.blocks.digest, root.size) == (uki.root, uki.size)) && section.size > 0 {
            Ok(())
        } else {
            Err(Reason::new(ReasonCode::MalformedRelease, "the boot entry names another root than the index"))
        }
    }

    /// For logs and measurements; an update does not fail for the lack of it.
    fn keep_traffic(&mut self, traffic: Traffic) {
        let Traffic { fetched, lists, copied, kept, written, image } = traffic;
        info!(fetched, lists, copied, kept, written, image, "operating system written and read back");
        let kept = serde_json::to_vec(&traffic).map(|bytes| self.storage.replace(Folder::State, TRAFFIC, &bytes));
        if !matches!(kept, Ok(Ok(()))) {
            warn!("cannot keep the traffic of this transfer");
        }
    }
}
