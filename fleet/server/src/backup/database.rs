//! The database of a backup: SQLite copies itself, PostgreSQL is asked by its own programs.

use std::{path::Path, process::Stdio};

use fleet_store::copy_embedded;
use tokio::process::Command;
use url::Url;

use super::{BackupError, at};
use crate::Config;

/// Copies the database as it is at one moment into the new file `to`.
pub(super) async fn copy(config: &Config, to: &Path) -> Result<(), BackupError> {
    match &config.database_url {
        None => copy_embedded(&config.embedded_database(), to).await?,
        Some(url) => {
            let file = format!("--file={}", to.display());
            run("pg_dump", url, &["--format=custom", "--no-owner", "--no-privileges", &file]).await?;
        }
    }
    std::fs::File::open(to).and_then(|file| file.sync_all()).map_err(at("write", to))
}

/// Fills the empty PostgreSQL database at `url` from a copy; all of it or nothing.
pub(super) async fn fill(url: &str, from: &Path) -> Result<(), BackupError> {
    let from = from.display().to_string();
    run("pg_restore", url, &["--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges", &from]).await
}

/// Runs a program of PostgreSQL on the database at `url`. The password is in its environment, where no other user sees it.
async fn run(program: &'static str, url: &str, arguments: &[&str]) -> Result<(), BackupError> {
    let (url, password) = without_password(url)?;
    let mut command = Command::new(program);
    command
        .arg(format!("--dbname={url}"))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true);
    if let Some(password) = password {
        command.env("PGPASSWORD", password);
    }
    let failed = |why: String| BackupError::Tool { program, why };
    let output =
        command.stderr(Stdio::piped()).output().await.map_err(|e| failed(format!("it cannot be started: {e}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(failed(said.lines().next().unwrap_or("it said nothing").to_owned()))
}

/// The address without the password in it, and the password.
fn without_password(url: &str) -> Result<(String, Option<String>), BackupError> {
    let mut url = Url::parse(url).map_err(BackupError::Address)?;
    let mut password =
        url.password().map(|it| percent_encoding::percent_decode_str(it).decode_utf8_lossy().into_owned());
    // It has a user if it has a password; an address that cannot have either is left as it is.
    if password.is_some() && url.set_password(None).is_err() {
        return Err(BackupError::Address(url::ParseError::EmptyHost));
    }
    let others: Vec<(String, String)> = url
        .query_pairs()
        .filter_map(|(key, value)| {
            if key == "password" {
                password = Some(value.into_owned());
                return None;
            }
            Some((key.into_owned(), value.into_owned()))
        })
        .collect();
    url.set_query(None);
    if !others.is_empty() {
        url.query_pairs_mut().extend_pairs(others);
    }
    Ok((url.into(), password))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_leaves_the_address_wherever_it_stood() {
        for (url, left, password) in [
            (
                "postgres://mbl:s%20e%2Fcret@db:5433/mbl?sslmode=require",
                "postgres://mbl@db:5433/mbl?sslmode=require",
                Some("s e/cret"),
            ),
            (
                "postgres://mbl@localhost/mbl?password=x&host=%2Frun",
                "postgres://mbl@localhost/mbl?host=%2Frun",
                Some("x"),
            ),
            ("postgresql://db/mbl", "postgresql://db/mbl", None),
        ] {
            let found = without_password(url).unwrap();
            assert_eq!(found, (left.to_owned(), password.map(str::to_owned)), "{url}");
        }
        assert!(without_password("no address").is_err());
    }
}
