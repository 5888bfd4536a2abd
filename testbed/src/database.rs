//! The database of a service under test: the embedded one, or one of its own in the PostgreSQL server that `MBL_TEST_DATABASE` names.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, ensure};
use protocol_types::Digest;

/// The address of the PostgreSQL server in which every service has a database; without it the embedded one is used. The program `postgresql` of
/// this crate sets it for the command that it runs.
pub const SERVER: &str = "MBL_TEST_DATABASE";

/// The address of the database of the service in `data_dir`; `None` if it is to be embedded. Made the first time, and the same one from then on.
///
/// # Errors
/// If the server makes none.
pub(crate) fn of(data_dir: &Path) -> anyhow::Result<Option<String>> {
    let Some(server) = std::env::var_os(SERVER).filter(|address| !address.is_empty()) else { return Ok(None) };
    let server = server.to_str().with_context(|| format!("{SERVER} is no text"))?;
    let note = note(data_dir);
    let name = match fs::read_to_string(&note) {
        Ok(name) if !name.ends_with(LOST) => name,
        other => {
            let seed = format!("{} {}", data_dir.display(), other.unwrap_or_default());
            let name = format!("mbl_{}", &Digest::of(seed.as_bytes()).hex()[..24]);
            make(server, &name)?;
            fs::write(&note, &name).with_context(|| format!("cannot write {}", note.display()))?;
            name
        }
    };
    in_server(server, &name).map(Some)
}

/// Forgets the database of the service in `data_dir`: the next one is new and empty.
///
/// # Errors
/// If that cannot be noted.
pub(crate) fn lose(data_dir: &Path) -> anyhow::Result<()> {
    let note = note(data_dir);
    // Without a note there is none that could be lost.
    let Ok(name) = fs::read_to_string(&note) else { return Ok(()) };
    fs::write(&note, name + LOST).with_context(|| format!("cannot write {}", note.display()))
}

/// What stands behind the name of a database that was lost.
const LOST: &str = " is lost";

/// Beside the data directory, which may be taken away while the database stays.
fn note(data_dir: &Path) -> std::path::PathBuf {
    data_dir.with_extension("database")
}

fn make(server: &str, name: &str) -> anyhow::Result<()> {
    let made = Command::new("createdb").arg(format!("--maintenance-db={server}")).arg(name).output();
    let made = made.context("cannot run createdb, of the package postgresql-client")?;
    ensure!(made.status.success(), "no database in {server}: {}", String::from_utf8_lossy(&made.stderr));
    Ok(())
}

/// Every row of the database at `address`, as text; bytes are hexadecimal digits.
///
/// # Errors
/// If the server does not give them.
pub(crate) fn rows(address: &str) -> anyhow::Result<Vec<u8>> {
    let dumped = Command::new("pg_dump").args(["--data-only", "--dbname"]).arg(address).output();
    let dumped = dumped.context("cannot run pg_dump, of the package postgresql-client")?;
    ensure!(dumped.status.success(), "no dump of {address}: {}", String::from_utf8_lossy(&dumped.stderr));
    Ok(dumped.stdout)
}

/// The address of a database in the server at `address`.
fn in_server(address: &str, name: &str) -> anyhow::Result<String> {
    let (scheme, rest) = address.split_once("://").with_context(|| format!("{SERVER} is no address: {address}"))?;
    let (host, tail) = rest.split_once('/').unwrap_or((rest, ""));
    let query = tail.split_once('?').map_or_else(String::new, |(_, query)| format!("?{query}"));
    Ok(format!("{scheme}://{host}/{name}{query}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_has_the_address_of_its_server_with_its_own_name() {
        for (server, database) in [
            ("postgres://postgres@localhost/?host=/tmp/pg", "postgres://postgres@localhost/x?host=/tmp/pg"),
            ("postgres://db:5433/postgres", "postgres://db:5433/x"),
            ("postgres://db", "postgres://db/x"),
        ] {
            assert_eq!(in_server(server, "x").unwrap(), database);
        }
        assert!(in_server("postgresql", "x").is_err());
    }
}
