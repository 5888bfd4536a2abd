//! Releases and the service: publish, export, list, show. Signs nothing.

use std::path::Path;

use anyhow::Context as _;
use fleet_api::{Client, ClientError, PublishMetadata, Release};
use protocol_release::{
    metadata::{TIMESTAMP_FILE, root_file, snapshot_file},
    signing::{SignedFile, TargetsDraft},
};
use protocol_types::ReleaseVersion;
use serde_json::{Value, json};

use crate::{
    failure::{Exit, Failure},
    pages::all_pages,
    release::folder::{ReleaseFolder, Wish},
    repository::MetadataFolder,
    request::not_there,
    session::{Session, service_error},
    uploads,
};

/// Uploads the artifacts of a signed release, then its metadata as one set: devices see all of it or nothing.
pub(crate) async fn publish(dir: &Path, session: &Session) -> anyhow::Result<()> {
    let folder = ReleaseFolder::open(dir)?;
    let release = folder.release()?;
    uploads::upload(&folder.artifacts()?, session).await?;
    let files: Vec<SignedFile> = folder.metadata().files()?.into_values().collect();
    let repository = publish_files(&files, session).await?;
    let value = json!({ "version": release.version, "repository": repository });
    session.printer.data(&value, format_args!("published release {}", release.version))
}

/// Publishes metadata files as one set.
pub(crate) async fn publish_files(files: &[SignedFile], session: &Session) -> anyhow::Result<fleet_api::Repository> {
    let mut set = PublishMetadata::default();
    for file in files {
        let text = String::from_utf8(file.bytes.clone()).with_context(|| format!("{} is not text", file.name))?;
        set.files.insert(file.name.clone(), text);
    }
    session.client()?.publish_metadata(&set).await.map_err(service_error)
}

/// Writes what a device needs to install the release without a network: its artifacts from `dir`, all metadata from the service.
pub(crate) async fn export(dir: &Path, out: &Path, session: &Session) -> anyhow::Result<()> {
    let folder = ReleaseFolder::open(dir)?;
    let (release, wish) = (folder.release()?, folder.wish()?);
    let files = current_metadata(&session.client()?).await?;
    let listed = files.iter().any(|file| lists(file, &wish));
    if !listed {
        return Err(Failure::new(
            Exit::Refused,
            format!("the service's targets do not list release {}", release.version),
        )
        .hint(format!("publish it with `mbl release publish {}`", dir.display()))
        .into());
    }
    let export = ReleaseFolder::create(out)?;
    let metadata = MetadataFolder::at(out.join("metadata"));
    for file in &files {
        metadata.replace(file)?;
    }
    for (digest, path) in folder.artifacts()? {
        export.take(&digest, &path)?;
    }
    export.write_release(&release)?;
    let value = json!({ "folder": out, "release": wish.release, "digest": wish.digest, "metadata": files.len() });
    session.printer.data(&value, format_args!("{} {}", out.display(), wish.digest))
}

fn lists(file: &SignedFile, wish: &Wish) -> bool {
    file.name.ends_with(".targets.json")
        && TargetsDraft::read(&file.bytes)
            .is_ok_and(|targets| targets.entries.get(&wish.release).is_some_and(|entry| entry.digest == wish.digest))
}

/// Every root, and the current timestamp, snapshot, targets and delegated files.
async fn current_metadata(client: &Client) -> anyhow::Result<Vec<SignedFile>> {
    let unpublished = || {
        Failure::new(Exit::Refused, "nothing was published in this account yet").hint("begin with `mbl keys publish`")
    };
    let state = client.repository().await.map_err(service_error)?.state.ok_or_else(unpublished)?;
    let mut names: Vec<String> = (1..=state.root_version).map(root_file).collect();
    let timestamp = fetch(client, TIMESTAMP_FILE.to_owned()).await?;
    // The service may publish meanwhile: follow the timestamp at hand, not the state.
    let snapshot = fetch(client, snapshot_file(version_of(&timestamp, "snapshot.json")?)).await?;
    let meta = signed_part(&snapshot, "meta")?;
    let roles = meta.as_object().context("the snapshot names no files")?;
    for name in roles.keys() {
        names.push(format!("{}.{name}", version_of(&snapshot, name)?));
    }
    let mut files = vec![timestamp, snapshot];
    for name in names {
        files.push(fetch(client, name).await?);
    }
    Ok(files)
}

async fn fetch(client: &Client, name: String) -> anyhow::Result<SignedFile> {
    let bytes =
        client.metadata_file(&name).await.map_err(service_error).with_context(|| format!("cannot fetch {name}"))?;
    Ok(SignedFile { name, bytes })
}

fn signed_part(file: &SignedFile, field: &str) -> anyhow::Result<Value> {
    let mut text: Value = serde_json::from_slice(&file.bytes).with_context(|| format!("{} is not JSON", file.name))?;
    let part = text.get_mut("signed").and_then(|signed| signed.get_mut(field)).map(Value::take);
    part.with_context(|| format!("{} has no `{field}`", file.name))
}

/// The version that a timestamp or snapshot names for another file.
fn version_of(file: &SignedFile, name: &str) -> anyhow::Result<u64> {
    let version = signed_part(file, "meta")?.get(name).and_then(|meta| meta.get("version")).and_then(Value::as_u64);
    version.with_context(|| format!("{} names no version of {name}", file.name))
}

/// Shows one release of the service.
pub(crate) async fn show(version: Option<&ReleaseVersion>, session: &Session) -> anyhow::Result<()> {
    let version = version.ok_or_else(|| Failure::new(Exit::Misuse, "name a version or a folder"))?;
    let release = session.client()?.release(version).await.map_err(|error| missing(error, version))?;
    let document = serde_json::to_string_pretty(&release.document)?;
    let listed = if release.listed { "listed" } else { "not listed" };
    session.printer.data(&release, format_args!("release {version} {listed} {}\n{document}", release.digest))
}

fn missing(error: ClientError, version: &ReleaseVersion) -> anyhow::Error {
    not_there(error, format!("there is no release {version}"), "list the releases with `mbl release list`")
}

/// Lists the releases of the service.
pub(crate) async fn list(session: &Session) -> anyhow::Result<()> {
    let client = session.client()?;
    let releases: Vec<Release> = all_pages(async |page| client.releases(&page).await.map_err(service_error)).await?;
    session.printer.table(&releases, &["VERSION", "SECURITY", "LISTED", "DIGEST"], |release| {
        vec![
            release.version.to_string(),
            release.security_version.to_string(),
            if release.listed { "yes" } else { "no" }.to_owned(),
            release.digest.to_string(),
        ]
    })
}
