//! One application's image: its documents, then its layers, each checked before it is used.

use protocol_types::{ApplicationSpec, Digest};

use super::{Plan, PrepareError, Preparer, Source, fetch};
use crate::{
    image::{BlobRef, Configuration, Manifest, TopDocument, parse_top},
    layer::{self, Budget, Checked, LayerError, LayerPath, Tree},
    limits::Limits,
    store::{ImageKey, StoreError, StoredApplication},
};

/// Where the container's own file systems are mounted; the root is read-only, so the places must be there beforehand.
const MOUNT_POINTS: &[&str] = &["proc", "dev", "tmp"];

impl Preparer<'_> {
    /// Fetches and reads index, manifest and configuration.
    pub(super) fn documents(&self, spec: &ApplicationSpec, source: &dyn Source) -> Result<Plan, PrepareError> {
        let refuse = |source| PrepareError::Image { name: spec.name.clone(), source };
        let mut documents = Vec::new();
        let mut read = |blob: &BlobRef| -> Result<Vec<u8>, PrepareError> {
            documents.push(blob.digest);
            self.document(blob, source)
        };
        let top = BlobRef { digest: spec.digest, size: spec.size };
        let (manifest_digest, manifest) = match parse_top(&read(&top)?).map_err(refuse)? {
            TopDocument::Manifest(manifest) => (top.digest, manifest),
            TopDocument::Index(index) => {
                let chosen = index.choose(self.platform).map_err(refuse)?;
                (chosen.digest, Manifest::parse(&read(&chosen)?).map_err(refuse)?)
            }
        };
        let limit = self.limits.blob_bytes;
        if let Some(BlobRef { digest, size }) = manifest.layers.iter().map(|l| l.blob).find(|blob| blob.size > limit) {
            return Err(PrepareError::TooLong { digest, size, limit });
        }
        let bytes = read(&manifest.configuration)?;
        let configuration = Configuration::parse(&bytes, self.platform, manifest.layers.len()).map_err(refuse)?;
        Ok(Plan { manifest_digest, manifest, configuration, documents })
    }

    fn document(&self, blob: &BlobRef, source: &dyn Source) -> Result<Vec<u8>, PrepareError> {
        let BlobRef { digest, size } = *blob;
        if size > Limits::DOCUMENT_BYTES {
            return Err(PrepareError::TooLong { digest, size, limit: Limits::DOCUMENT_BYTES });
        }
        fetch::fetch(&self.store.blobs, source, blob, &mut |_| {})?;
        match self.store.blobs.read(blob) {
            Err(StoreError::WrongDigest { .. }) => {
                // The disk changed what was checked before: fetch it again.
                self.store.blobs.drop_if_damaged(&digest)?;
                fetch::fetch(&self.store.blobs, source, blob, &mut |_| {})?;
                Ok(self.store.blobs.read(blob)?)
            }
            other => Ok(other?),
        }
    }

    /// Unpacks the layers unless that was done before.
    pub(super) fn unpack(&self, spec: &ApplicationSpec, plan: Plan) -> Result<StoredApplication, PrepareError> {
        let key = ImageKey { manifest: plan.manifest_digest, first_uid: self.store.ranges.first_uid(&spec.name)? };
        if !self.store.images.has(&key) {
            let checked = self.check_layers(spec, &plan)?;
            let written = self.write_layers(spec, &plan, &checked, &key);
            if written.is_err() {
                self.store.images.discard()?;
            }
            written?;
        }
        let layers = plan.layers().map(|blob| blob.digest).collect::<Vec<_>>();
        Ok(StoredApplication {
            spec: spec.clone(),
            image: key,
            process: plan.configuration.process,
            blobs: plan.documents.into_iter().chain(layers).collect(),
        })
    }

    /// The first pass over every layer, so that nothing is written if any of them is refused.
    fn check_layers(&self, spec: &ApplicationSpec, plan: &Plan) -> Result<Vec<Checked>, PrepareError> {
        let mut budget = Budget::of(self.limits);
        let mut checked = Vec::new();
        for (number, (layer, diff_id)) in plan.manifest.layers.iter().zip(&plan.configuration.diff_ids).enumerate() {
            let blob = self.store.blobs.open_blob(&layer.blob.digest)?;
            let result = layer::check(blob, layer.compression, diff_id, budget);
            let result = result.or_else(|error| self.blame(&layer.blob.digest, spec, number, error))?;
            budget = budget.after(&result);
            checked.push(result);
        }
        self.store.images.need(checked.iter().map(|layer| layer.disk_bytes).fold(0, u64::saturating_add))?;
        Ok(checked)
    }

    fn write_layers(
        &self,
        spec: &ApplicationSpec,
        plan: &Plan,
        checked: &[Checked],
        key: &ImageKey,
    ) -> Result<(), PrepareError> {
        let rootfs = self.store.images.begin(key.first_uid)?;
        let tree = Tree::open(&rootfs, key.first_uid, self.limits.entries).map_err(StoreError::io("open", &rootfs))?;
        for (number, (layer, checked)) in plan.manifest.layers.iter().zip(checked).enumerate() {
            let open = || {
                self.store
                    .blobs
                    .open_blob(&layer.blob.digest)
                    .map_err(|error| LayerError::Archive { source: std::io::Error::other(error) })
            };
            layer::apply(open, layer.compression, checked, &tree)
                .or_else(|error| self.blame(&layer.blob.digest, spec, number, error))?;
        }
        let number = plan.manifest.layers.len().saturating_sub(1);
        for point in MOUNT_POINTS {
            LayerPath::parse(point.as_bytes())
                .and_then(|path| tree.ensure_folder(&path))
                .map_err(|source| PrepareError::Layer { name: spec.name.clone(), layer: number, source })?;
        }
        Ok(self.store.images.finish(key)?)
    }

    /// Tells an image that is wrong from a disk that changed it: a damaged blob is dropped, so that it is fetched again.
    fn blame<T>(
        &self,
        digest: &Digest,
        spec: &ApplicationSpec,
        layer: usize,
        source: LayerError,
    ) -> Result<T, PrepareError> {
        if self.store.blobs.drop_if_damaged(digest)? {
            return Err(PrepareError::Damaged { digest: *digest });
        }
        Err(PrepareError::Layer { name: spec.name.clone(), layer, source })
    }
}
