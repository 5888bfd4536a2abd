//! `mbl image`: operating system components from packages. Never signs and never uploads.

use std::path::PathBuf;

use clap::Subcommand;
use image_builder::host_os;
use protocol_types::ReleaseVersion;
use serde_json::json;

use crate::{session::Session, words::bytes};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build the operating system of the board `host` from Debian packages
    HostOs {
        /// Version of the operating system, as in 1.2.0
        #[arg(long)]
        version: ReleaseVersion,
        /// Folder to write the component into
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Folder whose files come on top of those of the packages
        #[arg(long, value_name = "DIR")]
        overlay: Option<PathBuf>,
        /// Folder that keeps packages and the tree unpacked from them between builds
        #[arg(long, value_name = "DIR", env = "MBL_CACHE_DIR")]
        cache: PathBuf,
    },
}

pub(crate) fn run(command: Command, session: &Session) -> anyhow::Result<()> {
    let Command::HostOs { version, out, overlay, cache } = command;
    session
        .printer
        .say(format_args!("building the operating system {version} from {} packages", host_os::PACKAGES.len()));
    let built = host_os::build(&cache, &version, overlay.as_deref(), &out)?;
    let size: u64 = built.index.sections.iter().map(|section| section.size).sum();
    let value = json!({
        "folder": out, "version": version, "digest": built.stored.digest, "root": built.index.root_digest(), "bytes": size,
    });
    session.printer.data(&value, format_args!("{} {} {}", out.display(), built.stored.digest, bytes(size)))
}
