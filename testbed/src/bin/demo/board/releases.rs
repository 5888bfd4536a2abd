//! Builds, signs and publishes what the board runs, through the command line, as its users do.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde_json::{Value, json};
use testbed::{
    Stage,
    images::{self, Order, Signer},
    stage::{APP, greeting},
};

use crate::{
    report::note,
    stage::{text, type_line},
};

/// The images of the demo, signed with the keys that the board's firmware trusts.
#[derive(Debug)]
pub(crate) struct Images {
    /// 1.0.0, which the board comes with.
    pub(crate) first: PathBuf,
    /// 1.1.0.
    pub(crate) second: PathBuf,
    /// 1.2.0, whose kernel panics.
    pub(crate) bad: PathBuf,
}

/// (a) Builds the images, or finds them where they were built before from the same ingredients.
pub(crate) fn images() -> anyhow::Result<(Images, Value)> {
    let order = |version, with| Order { version, with, ..Order::first("production") };
    let build = |version, with| {
        note(&format!("$ mbl image build --board qemu-arm64-tpm --kind production --version {version} …"));
        images::image(order(version, with), Signer::Owner)
    };
    let images =
        Images { first: build("1.0.0", None)?, second: build("1.1.0", None)?, bad: build("1.2.0", Some("panics"))? };
    let path = images.first.display().to_string();
    note(&format!("$ mbl image inspect {path}"));
    let shown: Value = serde_json::from_str(&images::mbl(&["--json", "image", "inspect", &path])?)?;
    let bill = fs::read(images.first.join("sbom.cdx.json")).context("the image has no bill of materials")?;
    let bill: Value = serde_json::from_slice(&bill)?;
    let components = bill["components"].as_array().map_or(0, Vec::len);
    let download = shown["download"].as_u64().unwrap_or_default();
    note(&format!("{components} components in its bill of materials, {} MiB to download", download >> 20));
    let evidence = json!({
        "image": shown["image"], "parts": shown["parts"], "download": shown["download"], "components": components,
    });
    Ok((images, evidence))
}

/// What a release shall be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) version: &'a str,
    /// The build of its operating system, if it has one.
    pub(crate) os: Option<&'a Path>,
    /// Whether it brings the application.
    pub(crate) has_app: bool,
}

/// Builds, signs and publishes a release.
pub(crate) fn publish(stage: &Stage, plan: Plan<'_>) -> anyhow::Result<()> {
    let Plan { version, os, has_app } = plan;
    let mut line =
        format!("release create --version {version} --security-version 1 --architecture aarch64 --time-limit 600");
    if let Some(build) = os {
        line += &format!(" --os {}", build.join("signed/os").display());
    }
    if has_app {
        line += &format!(" --app {}", build_app(stage, version)?);
    }
    type_line(stage, &format!("{line} --keys keys --out release-{version}"))?;
    type_line(stage, &format!("release sign release-{version} --keys keys"))?;
    type_line(stage, &format!("release publish release-{version}"))?;
    Ok(())
}

/// The folder of the application in this version: a web server that may listen on the board's network.
fn build_app(stage: &Stage, version: &str) -> anyhow::Result<String> {
    let recipe = format!(
        r#"name = "{APP}"
version = "{version}"
architecture = "aarch64"
licence = "Apache-2.0"
entrypoint = ["/bin/hello", "serve"]
environment = {{ GREETING = "{}" }}

[[files]]
target = "/bin/hello"
source = "{}"
mode = 0o755

[run]
network = "host"
memory_bytes = 16777216
pids = 8
ready = {{ command = ["/bin/hello", "ready"], interval_s = 2, timeout_s = 60 }}
"#,
        greeting(version),
        images::application("hello")?.display()
    );
    let (file, folder) = (format!("app-{version}.toml"), format!("{APP}-{version}"));
    let path = stage.at_operator(&file);
    fs::write(&path, recipe).with_context(|| format!("cannot write {}", path.display()))?;
    note(&format!("$ mbl app build {file} --out {folder}"));
    let built = stage.json(&["app", "build", &file, "--out", &folder])?;
    text(&built, "/digest")?;
    Ok(folder)
}
