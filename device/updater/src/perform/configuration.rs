//! Configuration documents of a release: brought and checked with its metadata, kept beside the state file, put in force with the
//! release. Read is only the one for the operating system, so that a release whose settings nobody could apply is not tried: what the
//! others mean is the business of those whom they configure.

use protocol_release::document::SystemConfiguration;
use protocol_types::{
    Digest, Reason, ReasonCode,
    socket::{Fetch, FetchError, MAX_FETCH},
};
use tracing::warn;

use super::{Disk, Fact, Folder, Peers, Updater, Work, bring::same_length};
use crate::{
    record::{Configuration, Goal},
    storage::StorageError,
};

/// The longest configuration document in bytes, as for every component that is not an operating system.
const MAX_BYTES: usize = 1024 * 1024;

/// Configurations on their way.
#[derive(Debug)]
pub(super) struct Configurations {
    goal: Box<Goal>,
    next: usize,
    so_far: Vec<u8>,
}

impl<D: Disk, P: Peers> Updater<D, P> {
    /// The last part of a check.
    pub(super) fn bring_configurations(&mut self, goal: Box<Goal>) {
        self.bring_next(Box::new(Configurations { goal, next: 0, so_far: Vec::new() }));
    }

    pub(super) fn go_on_configuring(
        &mut self,
        mut under_way: Box<Configurations>,
        answer: Result<Vec<u8>, FetchError>,
    ) {
        match self.take_configuration(&mut under_way, answer) {
            Ok(()) => self.bring_next(under_way),
            Err(reason) => self.conclude(Err(reason)),
        }
    }

    /// Asks for what is still missing; at the end, the check is over.
    fn bring_next(&mut self, mut under_way: Box<Configurations>) {
        while let Some(wanted) = under_way.goal.note.configurations.get(under_way.next) {
            let kept = if under_way.so_far.is_empty() { self.kept_configuration(wanted) } else { Ok(None) };
            let kept = kept.unwrap_or_else(|e| {
                warn!(configuration = %wanted.name, reason = %Reason::from(&e), "cannot be read, and is brought again");
                None
            });
            let Some(kept) = kept else {
                let offset = u64::try_from(under_way.so_far.len()).unwrap_or(u64::MAX);
                let length = piece_length(wanted.size, offset);
                let what = Fetch::Artifact { digest: wanted.digest, offset, length };
                self.work = Work::Configurations(under_way);
                return self.ask(what);
            };
            if let Err(reason) = judge(wanted, &kept) {
                return self.conclude(Err(reason));
            }
            under_way.next += 1;
        }
        self.conclude(Ok(Fact::Checked(under_way.goal)));
    }

    fn take_configuration(
        &mut self,
        under_way: &mut Configurations,
        answer: Result<Vec<u8>, FetchError>,
    ) -> Result<(), Reason> {
        let Configurations { goal, next, so_far } = under_way;
        let Some(wanted) = goal.note.configurations.get(*next) else { return Ok(()) };
        let what = format!("configuration `{}`", wanted.name);
        let bytes = answer.map_err(|e| e.reason(&what))?;
        let offset = u64::try_from(so_far.len()).unwrap_or(u64::MAX);
        same_length(&what, &bytes, piece_length(wanted.size, offset).into())?;
        so_far.extend_from_slice(&bytes);
        if u64::try_from(so_far.len()).is_ok_and(|length| length < wanted.size) {
            return Ok(());
        }
        if Digest::of(so_far) != wanted.digest {
            return Err(Reason::new(ReasonCode::DigestMismatch, format!("{what} does not have the signed digest")));
        }
        judge(wanted, so_far)?;
        self.storage.replace(Folder::State, &wanted.file_name(), so_far).map_err(|e| Reason::from(&e))?;
        (*next, *so_far) = (*next + 1, Vec::new());
        Ok(())
    }

    /// A document that was brought before, if it is still the one that was signed.
    fn kept_configuration(&self, wanted: &Configuration) -> Result<Option<Vec<u8>>, StorageError> {
        let kept = self.storage.load(Folder::State, &wanted.file_name(), MAX_BYTES)?;
        Ok(kept.filter(|kept| Digest::of(kept) == wanted.digest))
    }

    /// Puts the configurations of the running release in force.
    pub(super) fn configure(&mut self, configurations: &[Configuration]) {
        let mut documents = Vec::new();
        for wanted in configurations {
            match self.kept_configuration(wanted) {
                Ok(Some(bytes)) => documents.push((wanted.name.clone(), bytes)),
                Ok(None) => warn!(configuration = %wanted.name, "a kept configuration is damaged and not in force"),
                Err(e) => {
                    let reason = Reason::from(&e);
                    warn!(configuration = %wanted.name, %reason, "a kept configuration cannot be read and is not in force");
                }
            }
        }
        self.peers.configure(&documents);
    }

    /// Frees what no release needs any more. What a check brings at this moment is not known to the plan yet, so it waits.
    pub(super) fn forget_configurations(&mut self, needed: &[Digest]) {
        if matches!(self.work, Work::Check(_) | Work::Configurations(_)) {
            return;
        }
        let needed: Vec<String> = needed.iter().map(Configuration::file_of).collect();
        let forgotten = self.storage.remove_where(Folder::State, |name| {
            name.starts_with("configuration-") && !needed.iter().any(|needed| needed == name)
        });
        if let Err(e) = forgotten {
            warn!(reason = %Reason::from(&e), "cannot free old configurations");
        }
    }
}

/// Refuses a document that says nothing to whom it is for, as far as that is known here.
fn judge(wanted: &Configuration, bytes: &[u8]) -> Result<(), Reason> {
    if wanted.name.as_str() == SystemConfiguration::NAME {
        SystemConfiguration::parse(bytes)?;
    }
    Ok(())
}

/// Bytes of the piece that begins at `offset` of a document of `size` bytes.
fn piece_length(size: u64, offset: u64) -> u32 {
    u32::try_from(size.saturating_sub(offset)).unwrap_or(MAX_FETCH).min(MAX_FETCH)
}
