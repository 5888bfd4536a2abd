//! Reads back what was written: flushes it, lets the medium give it again and compares every block and the whole. Never repairs.

use protocol_release::document::{OsIndex, SectionName};
use protocol_types::{Hasher, Reason, ReasonCode, SecurityVersion, Slot};
use tracing::{info, warn};

use super::{
    Disk, Fact, Peers, Updater, Work,
    bring::{Traffic, Transfer, place_of},
};
use crate::{
    blocks::{BLOCK, BlockList},
    disk::Folder,
    record::Goal,
};

/// Blocks that are read in one turn; they are in memory at once.
const BLOCKS_A_TURN: usize = 256;

/// The file beside the state file that says where the bytes of the newest image came from.
const TRAFFIC: &str = "traffic.json";

/// A read back under way.
#[derive(Debug)]
pub(super) struct ReadBack {
    pub(super) os: OsIndex,
    pub(super) security_version: SecurityVersion,
    pub(super) slot: Slot,
    transfer: Box<Transfer>,
    section: usize,
    next_block: u64,
    hasher: Hasher,
}

impl<D: Disk, P: Peers> Updater<D, P> {
    pub(super) fn begin_read_back(&mut self, goal: &Goal, slot: Slot) {
        match (std::mem::replace(&mut self.work, Work::None), &goal.os) {
            (Work::Paused(transfer), Some(os)) => {
                let (os, security_version, hasher) = (os.clone(), goal.note.security_version, Hasher::new());
                let read_back = ReadBack { os, security_version, slot, transfer, section: 0, next_block: 0, hasher };
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
        self.check_bootable(read_back, &section)?;
        (read_back.section, read_back.next_block) = (read_back.section + 1, 0);
        Ok(read_back.section == read_back.os.sections.len())
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
