//! Index, manifest and configuration of an image, read from bytes that were already checked against their digest.
//!
//! Unknown members are ignored, as the specification asks; what is used is checked.

use oci_spec::image::{Arch, Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType, Os};
use protocol_types::{Architecture, Digest};
use serde::{Deserialize, Serialize};

use super::{ImageError, error::shortened};
use crate::limits::Limits;

/// The processor that an image must be built for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    architecture: Arch,
}

impl Platform {
    /// The platform of a device whose architecture `uname -m` names; OCI has its own names for some.
    pub fn of(architecture: &Architecture) -> Self {
        let name = match architecture.as_str() {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self { architecture: Arch::from(name) }
    }

    fn fits(&self, os: &Os, architecture: &Arch) -> bool {
        *os == Os::Linux && *architecture == self.architecture
    }

    fn missing(&self) -> ImageError {
        ImageError::Platform { architecture: self.architecture.to_string() }
    }
}

/// A blob that a document names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobRef {
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// How the archive of a layer travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// As it is.
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

/// One layer of a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerRef {
    /// The archive as it travels.
    pub blob: BlobRef,
    /// How to undo its compression.
    pub compression: Compression,
}

/// The document that an application's target is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopDocument {
    /// Names one manifest a platform.
    Index(Index),
    /// Is the manifest.
    Manifest(Manifest),
}

/// The manifests of an image, one a platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    manifests: Vec<Descriptor>,
}

/// The blobs of an image for one platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The configuration document.
    pub configuration: BlobRef,
    /// The layers, lowest first.
    pub layers: Vec<LayerRef>,
}

/// What an image runs and how its layers must unpack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// Digest of each layer's archive without compression, lowest first.
    pub diff_ids: Vec<Digest>,
    /// What it runs.
    pub process: ImageProcess,
}

/// The process that an image asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageProcess {
    /// Program and arguments; never empty.
    pub args: Vec<String>,
    /// `NAME=value` each.
    pub env: Vec<String>,
    /// Absolute path inside the container.
    pub working_dir: String,
    /// `user[:group]` by name or number; empty means root of the container.
    pub user: String,
}

/// The members that tell an index from a manifest.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
}

/// Reads an application's target: an image index or an image manifest.
///
/// A document that could be read as both is refused, so that nobody can sign one meaning and deliver another
/// (OCI image specification, advisory GHSA-77vh-xpmg-72qh).
pub fn parse_top(bytes: &[u8]) -> Result<TopDocument, ImageError> {
    const DOCUMENT: &str = "the image's first document";
    let shape: Shape = json(bytes, DOCUMENT)?;
    let is_index = shape.manifests.is_some();
    if is_index == (shape.layers.is_some() || shape.config.is_some()) {
        return Err(ImageError::invalid(DOCUMENT, "it must be an index or a manifest and not both"));
    }
    let expected = if is_index { MediaType::ImageIndex } else { MediaType::ImageManifest };
    if let Some(given) = shape.media_type
        && MediaType::from(given.as_str()) != expected
    {
        return Err(ImageError::MediaType { what: DOCUMENT, media_type: shortened(&given) });
    }
    if is_index {
        Index::parse(bytes).map(TopDocument::Index)
    } else {
        Manifest::parse(bytes).map(TopDocument::Manifest)
    }
}

impl Index {
    fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        const DOCUMENT: &str = "the image index";
        let index: ImageIndex = json(bytes, DOCUMENT)?;
        version(index.schema_version(), DOCUMENT)?;
        if index.manifests().len() > Limits::MANIFESTS {
            return Err(ImageError::TooLarge { what: "the list of manifests", limit: Limits::MANIFESTS as u64 });
        }
        Ok(Self { manifests: index.manifests().clone() })
    }

    /// The manifest for `platform`. A manifest without a platform is taken if it is the only one; its configuration must fit then.
    pub fn choose(&self, platform: &Platform) -> Result<BlobRef, ImageError> {
        let mut manifests = self.manifests.iter().filter(|m| *m.media_type() == MediaType::ImageManifest);
        let named = self.manifests.iter().find(|m| {
            *m.media_type() == MediaType::ImageManifest
                && m.platform().as_ref().is_some_and(|p| platform.fits(p.os(), p.architecture()))
        });
        let chosen = match (named, manifests.next(), manifests.next()) {
            (Some(named), ..) => named,
            (None, Some(only), None) if only.platform().is_none() => only,
            _ => return Err(platform.missing()),
        };
        blob(chosen, "an image manifest", Limits::DOCUMENT_BYTES)
    }
}

impl Manifest {
    /// Reads an image manifest; sizes of blobs are bounded by the caller's limits.
    pub fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        const DOCUMENT: &str = "the image manifest";
        let manifest: ImageManifest = json(bytes, DOCUMENT)?;
        version(manifest.schema_version(), DOCUMENT)?;
        if let Some(given) = manifest.media_type()
            && *given != MediaType::ImageManifest
        {
            return Err(ImageError::MediaType { what: DOCUMENT, media_type: shortened(given.as_ref()) });
        }
        if *manifest.config().media_type() != MediaType::ImageConfig {
            let media_type = shortened(manifest.config().media_type().as_ref());
            return Err(ImageError::MediaType { what: "the image configuration", media_type });
        }
        if manifest.layers().is_empty() {
            return Err(ImageError::invalid(DOCUMENT, "it has no layers"));
        }
        if manifest.layers().len() > Limits::LAYERS {
            return Err(ImageError::TooLarge { what: "the list of layers", limit: Limits::LAYERS as u64 });
        }
        let configuration = blob(manifest.config(), "the image configuration", Limits::DOCUMENT_BYTES)?;
        let layers = manifest.layers().iter().map(layer).collect::<Result<_, _>>()?;
        Ok(Self { configuration, layers })
    }
}

impl Configuration {
    /// Reads an image configuration and checks that it is for `platform` and belongs to a manifest with `layers` layers.
    pub fn parse(bytes: &[u8], platform: &Platform, layers: usize) -> Result<Self, ImageError> {
        const DOCUMENT: &str = "the image configuration";
        let configuration: ImageConfiguration = json(bytes, DOCUMENT)?;
        if !platform.fits(configuration.os(), configuration.architecture()) {
            return Err(platform.missing());
        }
        let rootfs = configuration.rootfs();
        if rootfs.typ() != "layers" || rootfs.diff_ids().len() != layers {
            return Err(ImageError::invalid(DOCUMENT, "it must name one `diff_id` for each layer"));
        }
        let diff_ids = rootfs.diff_ids().iter().map(|id| id.parse()).collect::<Result<_, _>>();
        let diff_ids = diff_ids.map_err(|_| ImageError::invalid(DOCUMENT, "a `diff_id` is not a SHA-256 digest"))?;
        Ok(Self { diff_ids, process: process(&configuration)? })
    }
}

fn process(configuration: &ImageConfiguration) -> Result<ImageProcess, ImageError> {
    const DOCUMENT: &str = "the image configuration";
    let config = configuration.config().as_ref();
    let list = |of: Option<&Option<Vec<String>>>| of.cloned().flatten().unwrap_or_default();
    let mut args = list(config.map(|c| c.entrypoint()));
    args.extend(list(config.map(|c| c.cmd())));
    let env = list(config.map(|c| c.env()));
    let text = |of: Option<&Option<String>>| of.cloned().flatten().unwrap_or_default();
    let mut working_dir = text(config.map(|c| c.working_dir()));
    let user = text(config.map(|c| c.user()));
    if working_dir.is_empty() {
        working_dir.push('/');
    }
    if args.first().is_none_or(String::is_empty) {
        return Err(ImageError::invalid(DOCUMENT, "it has neither an entry point nor a command"));
    }
    if !working_dir.starts_with('/') {
        return Err(ImageError::invalid(DOCUMENT, "its working directory is not an absolute path"));
    }
    if env.iter().any(|pair| pair.split_once('=').is_none_or(|(name, _)| name.is_empty())) {
        return Err(ImageError::invalid(DOCUMENT, "an environment variable does not have the form NAME=value"));
    }
    if [&args, &env].into_iter().flatten().chain([&working_dir, &user]).any(|text| text.contains('\0')) {
        return Err(ImageError::invalid(DOCUMENT, "a text holds a zero byte"));
    }
    Ok(ImageProcess { args, env, working_dir, user })
}

fn json<T: for<'de> Deserialize<'de>>(bytes: &[u8], document: &'static str) -> Result<T, ImageError> {
    if bytes.len() as u64 > Limits::DOCUMENT_BYTES {
        return Err(ImageError::TooLarge { what: document, limit: Limits::DOCUMENT_BYTES });
    }
    serde_json::from_slice(bytes).map_err(|source| ImageError::Malformed { document, source })
}

fn version(given: u32, document: &'static str) -> Result<(), ImageError> {
    match given {
        2 => Ok(()),
        _ => Err(ImageError::invalid(document, "`schemaVersion` must be 2")),
    }
}

fn blob(descriptor: &Descriptor, what: &'static str, limit: u64) -> Result<BlobRef, ImageError> {
    let digest = descriptor.digest().as_ref().parse();
    let digest = digest.map_err(|_| ImageError::invalid(what, "its digest is not a SHA-256 digest"))?;
    match descriptor.size() {
        size if size > limit => Err(ImageError::TooLarge { what, limit }),
        size => Ok(BlobRef { digest, size }),
    }
}

fn layer(descriptor: &Descriptor) -> Result<LayerRef, ImageError> {
    let compression = match descriptor.media_type() {
        MediaType::ImageLayer => Compression::None,
        MediaType::ImageLayerGzip => Compression::Gzip,
        MediaType::ImageLayerZstd => Compression::Zstd,
        other => return Err(ImageError::MediaType { what: "a layer", media_type: shortened(other.as_ref()) }),
    };
    // The limit for layers is configuration; whoever fetches them knows it.
    Ok(LayerRef { blob: blob(descriptor, "a layer", u64::MAX)?, compression })
}
