//! Brings artifacts to the service: what it has already is skipped, what broke off goes on where it ended.

use std::path::PathBuf;

use anyhow::Context as _;
use protocol_types::Digest;

use crate::{
    session::{Session, service_error},
    words::bytes,
};

const TEMPLATE: &str = "{msg:16} [{bar:30}] {bytes}/{total_bytes} {binary_bytes_per_sec}";

/// Uploads the files, each of which must have the digest that it is named by; returns their bytes in all.
pub(crate) async fn upload(files: &[(Digest, PathBuf)], session: &Session) -> anyhow::Result<u64> {
    let client = session.client()?;
    let mut sized = Vec::new();
    for (digest, path) in files {
        let facts = tokio::fs::metadata(path).await.with_context(|| format!("cannot read {}", path.display()))?;
        sized.push((*digest, facts.len(), path));
    }
    let total = sized.iter().map(|(_, size, _)| size).sum();
    let bar = session.printer.progress(total, TEMPLATE).with_message("uploading");
    let mut done = 0;
    for (digest, size, path) in sized {
        let file = tokio::fs::File::open(path).await.with_context(|| format!("cannot read {}", path.display()))?;
        let uploaded = client.upload_artifact((digest, size), file, |offset| bar.set_position(done + offset)).await;
        uploaded.map_err(service_error).with_context(|| format!("cannot upload {}", path.display()))?;
        session.printer.detail(format_args!("{digest} {}", bytes(size)));
        done += size;
    }
    bar.finish_and_clear();
    session.printer.say(format_args!("{} artifacts, {}, are with the service", files.len(), bytes(total)));
    Ok(total)
}
