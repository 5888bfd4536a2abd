//! Backups of a data directory, and what comes back.

use std::sync::Arc;

use fleet_store::Store;
use object_store::{ObjectStoreExt as _, memory::InMemory};
use protocol_types::{AccountName, UnixSeconds};

use super::*;

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

async fn used(data_dir: &Path) -> Config {
    let config = Config { data_dir: data_dir.to_owned(), ..Config::default() };
    fs::create_dir_all(data_dir.join("artifacts/acme")).unwrap();
    fs::create_dir_all(data_dir.join("authority")).unwrap();
    for (name, text) in [
        ("authority/service.pem", "a key"),
        ("artifacts/acme/00ff", "an artifact"),
        ("artifacts/acme/11ee.part", "half of one"),
        ("first-token", "a secret"),
        ("lock", ""),
    ] {
        fs::write(data_dir.join(name), text).unwrap();
    }
    let store = Store::open_file(&data_dir.join(EMBEDDED_DATABASE), Arc::new(()), NOW).await.unwrap();
    store.ensure_account(&AccountName::new("acme").unwrap(), "Acme", NOW).await.unwrap();
    config
}

#[tokio::test]
async fn what_is_whole_comes_back_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let config = used(&folder.path().join("first")).await;
    let out = folder.path().join("backup");
    let made = back_up(&config, &out, &Clock::system()).await.unwrap();
    assert!(back_up(&config, &out, &Clock::system()).await.is_err(), "a backup that is there stays");
    let there = fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(there, 2, "nothing is left beside it");

    let again = Config { data_dir: folder.path().join("second"), ..Config::default() };
    assert_eq!(restore(&again, &out).await.unwrap(), made);
    let read = |name: &str| fs::read_to_string(again.data_dir.join(name)).ok();
    assert_eq!(read("authority/service.pem").as_deref(), Some("a key"));
    assert_eq!(read("artifacts/acme/00ff").as_deref(), Some("an artifact"));
    for name in ["artifacts/acme/11ee.part", "first-token", "lock", ABOUT, RESTORING] {
        assert_eq!(read(name), None, "{name}");
    }
    let store = Store::open_file(&again.embedded_database(), Arc::new(()), NOW).await.unwrap();
    let accounts = store.service_wide().accounts_after("", 9).await.unwrap();
    assert_eq!(accounts.iter().map(|account| account.name.as_str()).collect::<Vec<_>>(), ["acme"]);
    assert!(matches!(restore(&again, &out).await, Err(BackupError::NotEmpty(_))));
}

#[tokio::test]
async fn no_service_starts_on_a_restore_that_broke_off() {
    let folder = tempfile::tempdir().unwrap();
    let config = used(&folder.path().join("first")).await;
    let out = folder.path().join("backup");
    back_up(&config, &out, &Clock::system()).await.unwrap();
    let whole = fs::read(&out).unwrap();
    fs::write(&out, &whole[..whole.len() - 2000]).unwrap();
    let again = Config { data_dir: folder.path().join("second"), ..Config::default() };
    assert!(restore(&again, &out).await.is_err());
    let started = crate::run::occupy(&again.data_dir);
    assert!(matches!(started, Err(crate::RunError::Restoring(_))), "{started:?}");
    fs::write(&out, "no backup").unwrap();
    let other = Config { data_dir: folder.path().join("third"), ..Config::default() };
    assert!(matches!(restore(&other, &out).await, Err(BackupError::Broken { .. })));
}

#[tokio::test]
async fn a_backup_of_one_database_is_not_restored_into_another_kind() {
    let folder = tempfile::tempdir().unwrap();
    let config = used(&folder.path().join("first")).await;
    let out = folder.path().join("backup");
    back_up(&config, &out, &Clock::system()).await.unwrap();
    let url = Some("postgres://nobody@localhost/none".to_owned());
    let other = Config { data_dir: folder.path().join("second"), database_url: url, ..Config::default() };
    assert!(matches!(restore(&other, &out).await, Err(BackupError::OtherDatabase { .. })));
}

#[tokio::test]
async fn a_list_that_is_through_may_go_while_files_are_copied_and_a_key_may_not() {
    let folder = tempfile::tempdir().unwrap();
    let config = used(&folder.path().join("first")).await;
    let list = config.data_dir.join("lists/acme/1f0c");
    fs::create_dir_all(list.parent().unwrap()).unwrap();
    fs::write(&list, "fingerprint").unwrap();
    let found = files::kept(&config.data_dir).unwrap();
    let names: Vec<&str> = found.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["artifacts/acme/00ff", "authority/service.pem", "lists/acme/1f0c"]);
    let copied = |out: &str| {
        let mut archive = archive::Writer::new(&folder.path().join(out))?;
        add_files(&mut archive, &found, false)?;
        archive.finish()
    };
    fs::remove_file(&list).unwrap();
    assert_eq!(copied("without-the-list").unwrap(), 2);
    fs::remove_file(config.data_dir.join("authority/service.pem")).unwrap();
    assert!(matches!(copied("without-a-key"), Err(BackupError::File { .. })));
}

async fn objects_into(objects: &InMemory, named: &[(&str, &'static str)]) {
    for (name, text) in named {
        let path = format!("a/b/artifacts/acme/{name}").into();
        objects.put(&path, (*text).into()).await.unwrap();
    }
}

#[tokio::test]
async fn a_backup_leaves_artifacts_to_the_bucket_and_is_not_restored_without_every_one_of_them() {
    let folder = tempfile::tempdir().unwrap();
    // One artifact is still in the data directory, two are in the bucket.
    let config = used(&folder.path().join("first")).await;
    let objects = InMemory::new();
    let bucket = Bucket::in_memory(objects.clone());
    objects_into(&objects, &[("22", "two"), ("33", "three")]).await;
    let out = folder.path().join("backup");
    let made = back_up_with(&config, Some(&bucket), &out, &Clock::system()).await.unwrap();
    let said = about(&out).unwrap();
    assert_eq!((said.format, said.bucket.as_deref()), (2, Some("memory/a/b")));

    let new = |name: &str| Config { data_dir: folder.path().join(name), ..Config::default() };
    let none = restore_with(&new("none"), None, &out).await;
    assert!(matches!(&none, Err(BackupError::NoBucket(there)) if there == "memory/a/b"), "{none:?}");

    let again = new("again");
    assert_eq!(restore_with(&again, Some(&bucket), &out).await.unwrap(), made);
    assert_eq!(fs::read_to_string(again.data_dir.join("artifacts/acme/00ff")).unwrap(), "an artifact");
    assert!(!again.data_dir.join(OBJECTS).exists());

    // A copy of the bucket that is not whole.
    for (name, text) in [("22", Some("tw")), ("22", None)] {
        let copy = InMemory::new();
        objects_into(&copy, &[("33", "three")]).await;
        if let Some(text) = text {
            objects_into(&copy, &[(name, text)]).await;
        }
        let lost = new(&format!("lost-{}", text.is_some()));
        let refused = restore_with(&lost, Some(&Bucket::in_memory(copy)), &out).await;
        let Err(BackupError::Missing { missing, first, .. }) = refused else { panic!("{refused:?}") };
        assert_eq!((missing, first.as_str()), (1, "acme/22"));
        let started = crate::run::occupy(&lost.data_dir);
        assert!(matches!(started, Err(crate::RunError::Restoring(_))), "{started:?}");
    }
}

#[tokio::test]
async fn a_backup_of_a_folder_may_be_restored_for_a_bucket() {
    let folder = tempfile::tempdir().unwrap();
    let config = used(&folder.path().join("first")).await;
    let out = folder.path().join("backup");
    back_up(&config, &out, &Clock::system()).await.unwrap();
    let again = Config { data_dir: folder.path().join("second"), ..Config::default() };
    restore_with(&again, Some(&Bucket::in_memory(InMemory::new())), &out).await.unwrap();
    assert!(again.data_dir.join("artifacts/acme/00ff").exists(), "the service moves it when it runs");
}
