//! Builds, signs and publishes the demo's releases through the command line, as its users do.

use std::{fs, io::Read as _, path::Path};

use anyhow::Context as _;
use testbed::{Stage, stage::APP};

use super::cache_folder;
use crate::{
    report::note,
    stage::{text, type_line},
};

/// What a release of the demo shall be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan<'a> {
    /// Its version, and that of its operating system and application.
    pub(crate) version: &'a str,
    /// Its security version.
    pub(crate) security: u32,
    /// Whether confirmed devices keep the security version as their floor.
    pub(crate) raises_floor: bool,
    /// Whether the application ever becomes ready.
    pub(crate) ready: bool,
    /// Seconds until the verdict.
    pub(crate) time_limit: u32,
}

impl<'a> Plan<'a> {
    /// An ordinary release.
    pub(crate) const fn ordinary(version: &'a str, security: u32) -> Self {
        Self { version, security, raises_floor: false, ready: true, time_limit: 60 }
    }
}

/// A release in its folder.
#[derive(Debug)]
pub(crate) struct Built {
    /// Digest of the release document.
    pub(crate) digest: String,
    /// Root digest of the operating system, as devices report it.
    pub(crate) os_root: String,
    /// Digest of the application's image index.
    pub(crate) app: String,
}

/// Builds the operating system `version` into `os-VERSION` and returns its root digest.
///
/// A device fetches only blocks that it does not have, so each version brings a file of its own on top of the same packages, as
/// large as what changes in a few months of Debian.
pub(crate) fn build_os(stage: &Stage, version: &str) -> anyhow::Result<String> {
    let (out, overlay) = (format!("os-{version}"), format!("overlay-{version}"));
    let data = stage.at_operator(&overlay).join("usr/share/demo");
    fs::create_dir_all(&data).with_context(|| format!("cannot make {}", data.display()))?;
    let mut noise = vec![0; NEW_BYTES];
    fs::File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut noise))
        .context("cannot get random bytes")?;
    fs::write(data.join("data"), noise).context("cannot write the file of this version")?;
    let cache = cache_folder()?;
    let cache = cache.to_str().context("the cache folder is not text")?;
    let arguments = ["image", "host-os", "--version", version, "--overlay", &overlay, "--out", &out, "--cache", cache];
    note(&format!("$ mbl {}", arguments.join(" ")));
    Ok(text(&stage.json(&arguments)?, "/root")?.to_owned())
}

/// Bytes that are new in each version of the operating system.
const NEW_BYTES: usize = 32 << 20;

/// Builds, signs and publishes a release.
pub(crate) fn publish(stage: &Stage, plan: Plan<'_>) -> anyhow::Result<Built> {
    let version = plan.version;
    let os_root = build_os(stage, version)?;
    let app = build_app(stage, plan)?;
    let (os, image, out) = (format!("os-{version}"), format!("{APP}-{version}"), format!("release-{version}"));
    let (security, limit) = (plan.security.to_string(), plan.time_limit.to_string());
    let mut create = vec!["release", "create", "--version", version, "--os", &os, "--app", &image, "--keys", "keys"];
    create.extend(["--out", &out, "--security-version", &security, "--time-limit", &limit]);
    if plan.raises_floor {
        create.push("--raises-floor");
    }
    note(&format!("$ mbl {}", create.join(" ")));
    let created = stage.json(&create)?;
    type_line(stage, &format!("release sign {out} --keys keys"))?;
    type_line(stage, &format!("release publish {out}"))?;
    Ok(Built { digest: text(&created, "/digest")?.to_owned(), os_root, app })
}

fn build_app(stage: &Stage, plan: Plan<'_>) -> anyhow::Result<String> {
    let version = plan.version;
    let file = stage.at_operator(&format!("app-{version}.toml"));
    fs::write(&file, stage.recipe(version, plan.ready)).with_context(|| format!("cannot write {}", file.display()))?;
    let (file, out) = (format!("app-{version}.toml"), format!("{APP}-{version}"));
    note(&format!("$ mbl app build {file} --out {out}"));
    let built = stage.json(&["app", "build", &file, "--out", &out])?;
    Ok(text(&built, "/digest")?.to_owned())
}

/// Whether the operator's folder holds a private key of the device; it never should.
pub(crate) fn holds_private_key(folder: &Path) -> anyhow::Result<bool> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            if holds_private_key(&path)? {
                return Ok(true);
            }
        } else if path.extension().is_some_and(|kind| kind == "pem")
            && fs::read_to_string(&path)
                .is_ok_and(|text| text.contains("BEGIN PRIVATE KEY") || text.contains("BEGIN EC PRIVATE"))
        {
            return Ok(true);
        }
    }
    Ok(false)
}
