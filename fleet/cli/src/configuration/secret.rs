//! `mbl configuration secret`: secrets of applications. A value comes from a file or from standard input, never from the command line.

use std::{
    fs::File,
    io::{self, Read as _},
    path::PathBuf,
};

use anyhow::Context as _;
use clap::Subcommand;
use data_encoding::BASE64;
use fleet_api::{ChangeSecret, Client, Page, Secret, SecretEncoding};
use protocol_types::{AppName, SealedSecret, SecretName};
use zeroize::Zeroizing;

use crate::{
    configuration::Of,
    failure::{Exit, Failure},
    session::{Session, service_error},
    words::time,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Give a secret a value, which nobody is shown again
    Set {
        #[command(flatten)]
        of: Of,
        /// The application that is given it
        application: AppName,
        /// Its name: the application finds it in /run/mbl/secrets/NAME
        name: SecretName,
        /// File with the value, byte for byte; without it, standard input
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// List the secrets of a level, without their values
    List {
        #[command(flatten)]
        of: Of,
    },
    /// Take a secret away
    Remove {
        #[command(flatten)]
        of: Of,
        /// The application
        application: AppName,
        /// Its name
        name: SecretName,
    },
}

pub(crate) async fn run(command: Command, client: &Client, session: &Session) -> anyhow::Result<()> {
    let (of, change) = match command {
        Command::List { of } => {
            let listed = client.secrets(&of.into()).await.map_err(service_error)?;
            return table(&listed, session);
        }
        Command::Set { of, application, name, file } => {
            // Base64 takes any bytes, also those that are no text.
            let value = Some(BASE64.encode(&read(file)?));
            (of, ChangeSecret { application, name, value, encoding: SecretEncoding::Base64 })
        }
        Command::Remove { of, application, name } => {
            (of, ChangeSecret { application, name, value: None, encoding: SecretEncoding::Text })
        }
    };
    let listed = client.change_secret(&of.into(), &change).await.map_err(service_error)?;
    table(&listed, session)
}

fn read(file: Option<PathBuf>) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let mut value = Zeroizing::new(Vec::new());
    let limit = u64::try_from(SealedSecret::MAX_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    match &file {
        Some(path) => {
            let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
            file.take(limit).read_to_end(&mut value).with_context(|| format!("cannot read {}", path.display()))?;
        }
        None => drop(io::stdin().take(limit).read_to_end(&mut value).context("cannot read standard input")?),
    }
    if value.is_empty() || value.len() > SealedSecret::MAX_BYTES {
        let message = format!("a secret has 1 to {} bytes", SealedSecret::MAX_BYTES);
        return Err(Failure::new(Exit::Failed, message).hint("write it to a file and name that with `--file`").into());
    }
    Ok(value)
}

fn table(listed: &Page<Secret>, session: &Session) -> anyhow::Result<()> {
    session.printer.table(&listed.items, &["APPLICATION", "NAME", "VERSION", "CHANGED"], |secret: &Secret| {
        let (application, name) = (secret.application.to_string(), secret.name.to_string());
        vec![application, name, secret.version.to_string(), time(secret.changed)]
    })
}
