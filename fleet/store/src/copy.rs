//! A copy of the embedded database that is whole although the service goes on writing.

use std::path::Path;

use sqlx::{AnyConnection, Connection as _};

use crate::{StoreError, connection::sqlite_url, error::cannot};

/// Copies the embedded database in `file`, as it is at one moment, into the new file `to`. The caller brings `to` onto the disk.
///
/// # Errors
/// If there is no database in `file`, `to` is there already, or there is no room.
pub async fn copy_embedded(file: &Path, to: &Path) -> Result<(), StoreError> {
    sqlx::any::install_default_drivers();
    let doing = "copy the database";
    let mut connection = AnyConnection::connect(&sqlite_url(file, "rw")).await.map_err(cannot(doing))?;
    let to =
        to.to_str().ok_or_else(|| sqlx::Error::Configuration("its name is not UTF-8".into())).map_err(cannot(doing))?;
    // SQLite reads from one snapshot; writers do not wait for it.
    sqlx::query("VACUUM INTO $1").bind(to).execute(&mut connection).await.map_err(cannot(doing))?;
    connection.close().await.map_err(cannot(doing))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use protocol_types::AccountName;

    use super::*;
    use crate::{Store, tests::NOW};

    #[tokio::test]
    async fn a_copy_is_as_of_one_moment_while_writers_go_on_and_replaces_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (file, to) = (folder.path().join("mbl.db"), folder.path().join("copy%20 of.db"));
        assert!(copy_embedded(&file, &to).await.is_err(), "there is nothing to copy");
        let store = Store::open_file(&file, Arc::new(()), NOW).await.unwrap();
        let name = |number: u32| AccountName::new(format!("account-{number}")).unwrap();
        for number in 0..20 {
            store.ensure_account(&name(number), "one", NOW).await.unwrap();
        }
        copy_embedded(&file, &to).await.unwrap();
        store.ensure_account(&name(99), "later", NOW).await.unwrap();
        assert!(copy_embedded(&file, &to).await.is_err(), "a copy that is there stays");
        let copy = Store::open_file(&to, Arc::new(()), NOW).await.unwrap();
        assert_eq!(copy.service_wide().accounts_after("", 100).await.unwrap().len(), 20);
    }
}
