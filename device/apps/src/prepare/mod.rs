//! Makes a set of applications ready to run without disturbing those that run: fetch, check, unpack, record.

mod error;
mod fetch;
mod image;

pub use error::PrepareError;
pub use fetch::Source;

use protocol_types::{ApplicationSpec, Digest};
use tracing::warn;

use crate::{
    image::{BlobRef, Manifest, Platform},
    limits::Limits,
    refusal::reason,
    store::{ImageKey, Keep, Store, StoredSet},
};

/// Prepares sets from one source into one store.
#[derive(Debug)]
pub struct Preparer<'a> {
    /// Where everything goes.
    pub store: &'a Store,
    /// The processor of this device.
    pub platform: &'a Platform,
    /// What is accepted.
    pub limits: &'a Limits,
}

impl Preparer<'_> {
    /// Prepares the applications of `release`. What is in place already is used; what a failure leaves is either checked and
    /// reusable, or gone. `progress` hears of bytes in storage and bytes in all as far as known.
    pub fn prepare(
        &self,
        release: Digest,
        applications: &[ApplicationSpec],
        source: &dyn Source,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<StoredSet, PrepareError> {
        check_specs(applications)?;
        if let Some(set) = self.prepared(release, applications) {
            return Ok(set);
        }
        let mut plans = Vec::new();
        for spec in applications {
            plans.push((spec, self.documents(spec, source)?));
        }
        self.blobs(&plans.iter().flat_map(|(_, plan)| plan.layers()).collect::<Vec<_>>(), source, progress)?;
        let mut stored = Vec::new();
        for (spec, plan) in plans {
            stored.push(self.unpack(spec, plan)?);
        }
        let set = StoredSet { format: 1, release, applications: stored };
        self.store.sets.save(&set)?;
        Ok(set)
    }

    /// The set if it was prepared before and is still whole.
    pub fn prepared(&self, release: Digest, applications: &[ApplicationSpec]) -> Option<StoredSet> {
        let set = self.store.sets.load(&release).unwrap_or_else(|error| {
            warn!(%release, reason = %reason(&error), "a set of applications cannot be read and is prepared again");
            None
        })?;
        let same = set.applications.iter().map(|a| &a.spec).eq(applications);
        (same && set.applications.iter().all(|a| self.store.images.has(&a.image))).then_some(set)
    }

    /// What there is of these applications in storage, as far as their documents are, which are not fetched for this. The next try
    /// to prepare them goes on from there.
    pub fn parts(&self, applications: &[ApplicationSpec]) -> Keep {
        let mut parts = Keep::default();
        for spec in applications {
            let Ok(plan) = self.documents(spec, &fetch::Nobody) else { continue };
            parts.blobs.extend(plan.layers().map(|layer| layer.digest));
            if let Ok(first_uid) = self.store.ranges.first_uid(&spec.name) {
                parts.images.insert(ImageKey { manifest: plan.manifest_digest, first_uid });
            }
            parts.blobs.extend(plan.documents);
        }
        parts
    }

    fn blobs(
        &self,
        blobs: &[BlobRef],
        source: &dyn Source,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), PrepareError> {
        self.store.blobs.need(blobs)?;
        let total = blobs.iter().map(|blob| blob.size).fold(0, u64::saturating_add);
        let mut done = 0u64;
        for blob in blobs {
            fetch::fetch(&self.store.blobs, source, blob, &mut |at| progress(done.saturating_add(at), total))?;
            done = done.saturating_add(blob.size);
            progress(done, total);
        }
        Ok(())
    }
}

/// What the documents of an image say, once they are in storage.
struct Plan {
    manifest_digest: Digest,
    manifest: Manifest,
    configuration: crate::image::Configuration,
    documents: Vec<Digest>,
}

impl Plan {
    fn layers(&self) -> impl Iterator<Item = BlobRef> + '_ {
        self.manifest.layers.iter().map(|layer| layer.blob)
    }
}

/// A verified release may still ask for what this device cannot do.
fn check_specs(applications: &[ApplicationSpec]) -> Result<(), PrepareError> {
    let mut names = std::collections::BTreeSet::new();
    for spec in applications {
        let refuse = |what| PrepareError::Spec { name: spec.name.clone(), what };
        if !names.insert(&spec.name) {
            return Err(refuse("is named twice"));
        }
        // Below this the kernel cannot even start a process in the container.
        if spec.run.memory_bytes < 4 << 20 || i64::try_from(spec.run.memory_bytes).is_err() {
            return Err(refuse("has a memory limit below 4 MiB or beyond all memory"));
        }
        if spec.run.pids == 0 {
            return Err(refuse("may not have a single process"));
        }
        if let Some(ready) = &spec.run.ready {
            let absolute = ready.command.first().is_some_and(|program| program.starts_with('/'));
            if !absolute || ready.command.iter().any(|word| word.contains('\0')) {
                return Err(refuse("has a ready check without an absolute path to its program"));
            }
            if ready.interval_s == 0 || ready.timeout_s == 0 {
                return Err(refuse("has a ready check without an interval or a timeout"));
            }
        }
    }
    Ok(())
}
