//! Applications as OCI image layouts (OCI image specification 1.1) built from a recipe, without a container engine and without
//! root. The same recipe and files give the same bytes.

mod bill;
mod layer;
mod layout;
mod recipe;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use oci_spec::image::{
    Arch, Config, ConfigBuilder, Descriptor, DescriptorBuilder, ImageConfigurationBuilder, ImageIndexBuilder,
    ImageManifestBuilder, MediaType, Os, PlatformBuilder, RootFsBuilder,
};
use protocol_types::{AppName, Architecture, Digest, ReleaseVersion, RunSettings};
use serde::{Deserialize, Serialize};

pub use layout::{AppLayout, LayoutError};
pub use recipe::{Compression, Recipe, RecipeError, RecipeFile, RecipeLink};

use crate::{
    artifacts::{ArtifactError, ArtifactFolder, Stored},
    sbom::BILL,
};

/// The file beside an image layout that holds [`AppFacts`].
pub const FACTS_FILE: &str = "app.json";
/// The folder of an image layout that holds its blobs.
pub const BLOBS: &str = "blobs/sha256";

/// What a release says about the application besides its image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppFacts {
    /// The application.
    pub name: AppName,
    /// Its version.
    pub version: ReleaseVersion,
    /// The architectures that its image has programs for.
    pub architectures: Vec<Architecture>,
    /// Permissions and limits.
    pub run: RunSettings,
}

/// What was built.
#[derive(Clone, Debug)]
pub struct BuiltApp {
    /// What the release will say about it.
    pub facts: AppFacts,
    /// The image index.
    pub index: Stored,
}

/// An application that could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A source could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The source.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A path does not stay inside the image.
    #[error("`{path}` is not an absolute path inside the image")]
    Path {
        /// The path.
        path: PathBuf,
    },
    /// A file of the recipe lies below something that is not a folder.
    #[error("`{path}` is a file or link in the image and cannot hold other files")]
    NotAFolder {
        /// The path.
        path: PathBuf,
    },
    /// A device, socket or pipe.
    #[error("{path} is neither file, folder nor symbolic link")]
    Special {
        /// The path.
        path: PathBuf,
    },
    /// The layer could not be written.
    #[error("cannot write the layer")]
    Layer(#[source] io::Error),
    /// The architecture has no name in OCI that we know.
    #[error("architecture `{0}` is not known; use x86_64 or aarch64")]
    Architecture(Architecture),
    /// The OCI documents could not be made.
    #[error("cannot write the image documents")]
    Documents(#[source] oci_spec::OciSpecError),
    /// A JSON text could not be made.
    #[error("cannot write the image documents as JSON")]
    Json(#[from] serde_json::Error),
    /// A blob could not be stored.
    #[error("cannot store a blob of the image")]
    Artifact(#[from] ArtifactError),
    /// The layout could not be put in its place.
    #[error("cannot write the image layout {path}")]
    Write {
        /// The layout.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The place is taken by something else.
    #[error("{path} exists and is not an image layout")]
    Taken {
        /// The place.
        path: PathBuf,
    },
}

/// Builds `recipe`, whose relative paths start at `base`, into the image layout `out`; an older layout there is replaced.
pub fn build(recipe: &Recipe, base: &Path, out: &Path) -> Result<BuiltApp, BuildError> {
    let write = |source| BuildError::Write { path: out.to_owned(), source };
    if out.exists() && !out.join("oci-layout").is_file() {
        return Err(BuildError::Taken { path: out.to_owned() });
    }
    let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(write)?;
    let fresh = tempfile::tempdir_in(parent).map_err(write)?;
    let built = build_layout(recipe, base, fresh.path())?;
    if out.exists() {
        fs::remove_dir_all(out).map_err(write)?;
    }
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(fresh.path(), mode).map_err(write)?;
    fs::rename(fresh.keep(), out).map_err(write)?;
    Ok(built)
}

fn build_layout(recipe: &Recipe, base: &Path, out: &Path) -> Result<BuiltApp, BuildError> {
    let blobs = ArtifactFolder::create(out.join(BLOBS))?;
    let arch = oci_architecture(&recipe.architecture)?;
    let entries = layer::collect(recipe, base)?;

    let temporary = tempfile::NamedTempFile::new_in(out).map_err(BuildError::Layer)?;
    let written = layer::write(&entries, recipe.compression, temporary.as_file())?;
    let layer = blobs.add_file(temporary.path())?;
    let layer_type = match recipe.compression {
        Compression::Gzip => MediaType::ImageLayerGzip,
        Compression::Zstd => MediaType::ImageLayerZstd,
    };

    let configuration = ImageConfigurationBuilder::default()
        .architecture(arch.clone())
        .os(Os::Linux)
        .config(run_configuration(recipe)?)
        .rootfs(
            RootFsBuilder::default()
                .typ("layers")
                .diff_ids([written.diff_id.to_string()])
                .build()
                .map_err(BuildError::Documents)?,
        )
        .build()
        .map_err(BuildError::Documents)?;
    let configuration = blobs.add_bytes(&serde_json::to_vec(&configuration)?)?;

    let manifest = ImageManifestBuilder::default()
        .schema_version(2_u32)
        .media_type(MediaType::ImageManifest)
        .config(descriptor(MediaType::ImageConfig, configuration)?)
        .layers([descriptor(layer_type, layer)?])
        .build()
        .map_err(BuildError::Documents)?;
    let manifest = blobs.add_bytes(&serde_json::to_vec(&manifest)?)?;

    let mut manifest = descriptor(MediaType::ImageManifest, manifest)?;
    let platform = PlatformBuilder::default().architecture(arch).os(Os::Linux).build();
    manifest.set_platform(Some(platform.map_err(BuildError::Documents)?));
    let index = ImageIndexBuilder::default()
        .schema_version(2_u32)
        .media_type(MediaType::ImageIndex)
        .manifests([manifest])
        .build()
        .map_err(BuildError::Documents)?;
    let index = serde_json::to_vec(&index)?;

    let facts = AppFacts {
        name: recipe.name.clone(),
        version: recipe.version.clone(),
        architectures: vec![recipe.architecture.clone()],
        run: recipe.run.clone(),
    };
    let bill = bill::of(recipe, &written.files, &Digest::of(&index));
    let texts: [(&str, Vec<u8>); 4] = [
        ("index.json", index.clone()),
        ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        (FACTS_FILE, serde_json::to_vec_pretty(&facts)?),
        (BILL, serde_json::to_vec_pretty(&bill)?),
    ];
    for (name, text) in texts {
        let path = out.join(name);
        fs::write(&path, text).map_err(|source| BuildError::Write { path, source })?;
    }
    Ok(BuiltApp { facts, index: Stored { digest: Digest::of(&index), size: index.len() as u64 } })
}

fn run_configuration(recipe: &Recipe) -> Result<Config, BuildError> {
    let environment: Vec<String> = recipe.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut config = ConfigBuilder::default()
        .entrypoint(recipe.entrypoint.clone())
        .env(environment)
        .working_dir(recipe.working_directory.clone())
        .user(recipe.user.clone());
    if !recipe.arguments.is_empty() {
        config = config.cmd(recipe.arguments.clone());
    }
    config.build().map_err(BuildError::Documents)
}

fn descriptor(media_type: MediaType, stored: Stored) -> Result<Descriptor, BuildError> {
    let digest: oci_spec::image::Digest = stored.digest.to_string().parse().map_err(BuildError::Documents)?;
    DescriptorBuilder::default()
        .media_type(media_type)
        .digest(digest)
        .size(stored.size)
        .build()
        .map_err(BuildError::Documents)
}

/// OCI names architectures as Go does.
fn oci_architecture(architecture: &Architecture) -> Result<Arch, BuildError> {
    match architecture.as_str() {
        "x86_64" => Ok(Arch::Amd64),
        "aarch64" => Ok(Arch::ARM64),
        _ => Err(BuildError::Architecture(architecture.clone())),
    }
}
