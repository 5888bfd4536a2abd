//! `mbl app`: applications from recipes to OCI images, and their blobs to the service. Never signs.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Subcommand;
use image_builder::application::{self, AppLayout, Recipe};
use serde_json::json;

use crate::{session::Session, uploads};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build an OCI image from a recipe
    Build {
        /// The recipe
        #[arg(default_value = "app.toml")]
        recipe: PathBuf,
        /// Folder to write the image layout into
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Upload an image to the service, so that publishing a release with it is quick
    Push {
        /// Folder of the image layout
        dir: PathBuf,
    },
}

pub(crate) async fn run(command: Command, session: &Session) -> anyhow::Result<()> {
    match command {
        Command::Build { recipe, out } => build(&recipe, &out, session),
        Command::Push { dir } => {
            let app = AppLayout::load(&dir)?;
            let files: Vec<_> = app.artifacts.into_iter().map(|file| (file.stored.digest, file.path)).collect();
            let bytes = uploads::upload(&files, session).await?;
            let value = json!({ "name": app.facts.name, "version": app.facts.version, "artifacts": files.len(), "bytes": bytes });
            session.printer.data(&value, format_args!("{} {}", app.facts.name, app.facts.version))
        }
    }
}

fn build(recipe_path: &Path, out: &Path, session: &Session) -> anyhow::Result<()> {
    let recipe = Recipe::load(recipe_path)?;
    let base = recipe_path.parent().context("a recipe lies in a folder")?;
    let built = application::build(&recipe, base, out)?;
    let value = json!({
        "folder": out, "name": built.facts.name, "version": built.facts.version,
        "digest": built.index.digest, "architectures": built.facts.architectures,
    });
    let text = format!("{} {} {}", built.facts.name, built.facts.version, built.index.digest);
    session.printer.data(&value, text)
}
