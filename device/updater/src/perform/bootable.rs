//! Looks whether what was written could boot. An entry that names another root than the one beside it would only fail to, so it is
//! refused before it is armed. Never repairs, and never judges a signature: that is the firmware's part.

use protocol_release::document::{HostUki, OsIndex, Section, SectionName, Span};
use protocol_types::{Digest, Reason, ReasonCode, signed_cmdline::SignedCmdline, verity::Superblock};

use super::{Disk, Peers, Updater, read_back::ReadBack};
use crate::{
    disk::{Folder, Place},
    firmware,
    storage::STAGED,
};

impl<D: Disk, P: Peers> Updater<D, P> {
    /// Checks a section that was read back against the others.
    pub(super) fn check_bootable(&self, read_back: &ReadBack, section: &Section) -> Result<(), Reason> {
        let os = &read_back.os;
        match (section.name, os.root_hash) {
            (SectionName::Root, _) => Ok(()),
            (SectionName::Verity, Some(root_hash)) => self.check_tree(&Place::Verity(read_back.slot), root_hash),
            (SectionName::Verity, None) => Err(malformed("a hash tree without a root hash")),
            (SectionName::Uki, Some(root_hash)) => self.check_uki(read_back, root_hash),
            (SectionName::Uki, None) => self.check_host_uki(os, section),
            (SectionName::Firmware, _) => self.check_firmware(section),
        }
    }

    /// What the firmware takes for a package must be the section, no more and no less; that is what it reports later.
    fn check_firmware(&self, section: &Section) -> Result<(), Reason> {
        let package = firmware::package(&self.storage, &Place::IdleFirmware).map_err(|e| Reason::from(&e))?;
        if package == Some(section.digest) {
            Ok(())
        } else {
            Err(malformed("the section `firmware` is not one whole firmware image package"))
        }
    }

    fn check_host_uki(&self, os: &OsIndex, section: &Section) -> Result<(), Reason> {
        let text = self.storage.load(Folder::Esp, STAGED, HostUki::MAX_BYTES).map_err(|e| Reason::from(&e))?;
        let text = text.ok_or_else(|| malformed("there is no boot entry in its place"))?;
        let uki = HostUki::parse(&text).map_err(Reason::from)?;
        let root = os.section(SectionName::Root);
        if root.is_some_and(|root| (root.blocks.digest, root.size) == (uki.root, uki.size)) && section.size > 0 {
            Ok(())
        } else {
            Err(malformed("the boot entry names another root than the index"))
        }
    }

    /// The same look at the tree as the initrd's: its top block must have the root hash.
    fn check_tree(&self, place: &Place, root_hash: Digest) -> Result<(), Reason> {
        let mut superblock = [0; Superblock::BYTES];
        let mut top = [0; Superblock::BLOCK];
        self.read_whole(place, 0, &mut superblock)?;
        self.read_whole(place, Superblock::TOP_AT, &mut top)?;
        let superblock = Superblock::parse(&superblock).map_err(|e| malformed(e.to_string()))?;
        if superblock.root_hash(&top) == root_hash {
            Ok(())
        } else {
            Err(malformed("the hash tree has another root hash than the index"))
        }
    }

    /// The signed command line must be the one of this release on this board.
    fn check_uki(&self, read_back: &ReadBack, root_hash: Digest) -> Result<(), Reason> {
        let staged = Place::file(Folder::Esp, STAGED);
        let mut head = vec![0; Span::HEAD_BYTES];
        let read = self.storage.read(&staged, 0, &mut head).map_err(|e| Reason::from(&e))?;
        head.truncate(read);
        let line = self.signed_line(Span::of_cmdline(&head).map_err(Reason::from)?)?;
        let trust = self.trust.as_ref().map_err(Clone::clone)?;
        let wrong = if line.root_hash != root_hash {
            "another root hash than the index"
        } else if line.security_version != read_back.security_version {
            "another security version than the release"
        } else if line.board.as_ref() != Some(&trust.device().board) {
            "another board than this one"
        } else if line.key_store != trust.keys().on_cmdline() {
            "another key store than this board's"
        } else {
            return Ok(());
        };
        Err(malformed(format!("the command line in the boot entry names {wrong}")))
    }

    fn signed_line(&self, span: Span) -> Result<SignedCmdline, Reason> {
        let mut line = vec![0; span.bytes];
        self.read_whole(&Place::file(Folder::Esp, STAGED), span.start, &mut line)?;
        let end = line.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
        line.truncate(end);
        SignedCmdline::parse(&line).map_err(|e| malformed(e.to_string()))
    }

    /// Reads all of `into`; a section that ends before is not what it should be.
    fn read_whole(&self, place: &Place, at: u64, into: &mut [u8]) -> Result<(), Reason> {
        let read = self.storage.read(place, at, into).map_err(|e| Reason::from(&e))?;
        if read == into.len() { Ok(()) } else { Err(malformed(format!("{place} ends too soon"))) }
    }
}

fn malformed(text: impl AsRef<str>) -> Reason {
    Reason::new(ReasonCode::MalformedRelease, text)
}
