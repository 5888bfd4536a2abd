//! A service whose artifacts are in a bucket: a real object store with TLS, signatures and permissions, which knows nothing of the service.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use fleet_api::{Client, ClientConfig};
use protocol_types::Digest;
use testbed::{ObjectStore, Service, programs::program, until};

use crate::{
    backup::a_fleet_goes_on,
    fleet::upload_through_kills,
    world::{PATIENCE, World, write_os},
};

/// Bytes of an operating system that is caught in the middle of its download: two parts of an upload to the bucket, and less than a slot.
const OS_BYTES: usize = 15 << 20;

/// What the object of an artifact of the first account is called.
fn key(prefix: &str, hex: &str) -> String {
    format!("{prefix}/artifacts/default/{hex}")
}

/// Writes settings into a file beside the service; the flags that name it.
fn flags(folder: &Path, settings: &str) -> [String; 2] {
    let path = folder.join("mbl-service.toml");
    fs::write(&path, settings).unwrap();
    ["--config".to_owned(), path.to_str().unwrap().to_owned()]
}

fn client(service: &Service) -> Client {
    let read = |name: &str| fs::read_to_string(service.data_dir().join(name)).unwrap();
    Client::new(&ClientConfig {
        address: format!("https://{}", service.addresses().api),
        authority_pem: read("service-authority.pem"),
        token: Some(read("first-token").trim().to_owned()),
    })
    .unwrap()
}

/// The names of files below the data directory's folder of artifacts.
fn on_disk(data_dir: &Path) -> Vec<String> {
    let accounts = fs::read_dir(data_dir.join("artifacts")).into_iter().flatten();
    let files = accounts.flat_map(|account| fs::read_dir(account.unwrap().path()).unwrap());
    files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn bucket_a_release_reaches_a_device_whose_download_is_cut_off_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let store = ObjectStore::start(&folder.path().join("store")).unwrap();
    let flags = flags(folder.path(), &store.settings("mbl"));
    let mut world = World::on(&flags.each_ref().map(String::as_str));
    write_os(&world.stage.at_operator("os-1.0.0"), "1.0.0", OS_BYTES);
    world.build_app("1.0.0", true);
    world.sign("1.0.0", Some("os-1.0.0"));
    let rollout = world.start("1.0.0");

    let content = store.content().unwrap();
    let artifacts: Vec<(&String, &String)> =
        content.objects.iter().filter(|(name, _)| name.contains("/default/")).collect();
    assert!(artifacts.len() >= 5, "system, block lists, index, application: {artifacts:?}");
    for (name, digest) in artifacts {
        assert_eq!(name, &key("mbl", digest), "an object has the digest that it is named by");
    }
    assert_eq!(content.uploads, [""; 0], "every upload was ended");
    assert_eq!(on_disk(world.stage.service.data_dir()), [""; 0], "nothing is kept twice");

    // The service asks for what the device asks for, a range each, and the device goes on where the service was killed under it.
    let ranges = || store.log().unwrap().matches("\" 206 ").count();
    until(PATIENCE, "the download to begin", || Ok((ranges() > 0).then_some(()))).unwrap();
    world.stage.service.kill().unwrap();
    let before = ranges();
    world.stage.service.restart().unwrap();
    world.until_rollout(&rollout, "succeeded");
    world.until_answer("hello from 1.0.0");
    assert!(ranges() > before, "the download had not ended");
}

#[test]
fn bucket_an_upload_to_a_service_that_is_killed_six_times_ends_whole_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let store = ObjectStore::start(&folder.path().join("store")).unwrap();
    let flags = flags(folder.path(), &store.settings("a/b"));
    let mut service =
        Service::start_with(&folder.path().join("service"), &flags.each_ref().map(String::as_str)).unwrap();
    let digest = upload_through_kills(&mut service).hex();
    assert_eq!(store.content().unwrap().objects.get(&key("a/b", &digest)), Some(&digest));
    assert_eq!(on_disk(service.data_dir()), [""; 0]);

    // What a service that was killed between two steps leaves behind: an upload in parts that has ended.
    service.kill().unwrap();
    let note = service.data_dir().join("artifacts/default").join(format!("{digest}.upload"));
    fs::write(&note, "an-upload-that-has-ended").unwrap();
    service.restart().unwrap();
    until(PATIENCE, "the upload to be taken back", || Ok((!note.exists()).then_some(()))).unwrap();
}

#[test]
fn bucket_artifacts_of_a_service_that_had_none_are_moved_into_it_while_they_are_served() {
    let folder = tempfile::tempdir().unwrap();
    let flags = flags(folder.path(), "");
    let mut service =
        Service::start_with(&folder.path().join("service"), &flags.each_ref().map(String::as_str)).unwrap();
    let digest = upload_through_kills(&mut service);
    assert_eq!(on_disk(service.data_dir()), [digest.hex()]);

    let store = ObjectStore::start(&folder.path().join("store")).unwrap();
    fs::write(folder.path().join("mbl-service.toml"), store.settings("mbl")).unwrap();
    service.restart().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let read = || {
        runtime.block_on(async {
            let mut pieces = std::pin::pin!(client(&service).artifact_content(&digest).await.unwrap());
            let mut content = Vec::new();
            while let Some(piece) = futures_util::StreamExt::next(&mut pieces).await {
                content.extend_from_slice(&piece.unwrap());
            }
            Digest::of(&content)
        })
    };
    assert_eq!(read(), digest, "wherever it is now");
    until(PATIENCE, "the artifact to leave the disk", || Ok(on_disk(service.data_dir()).is_empty().then_some(())))
        .unwrap();
    assert_eq!(store.content().unwrap().objects.get(&key("mbl", &digest.hex())), Some(&digest.hex()));
    assert_eq!(read(), digest);
}

#[test]
fn bucket_a_fleet_goes_on_from_a_backup_that_leaves_the_artifacts_where_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let store = ObjectStore::start(&folder.path().join("store")).unwrap();
    let settings = store.settings("mbl");
    a_fleet_goes_on(&settings, &settings);
}

#[test]
fn bucket_a_service_whose_bucket_cannot_be_used_does_not_start_and_says_what_to_look_at() {
    let folder = tempfile::tempdir().unwrap();
    let store = ObjectStore::start(&folder.path().join("store")).unwrap();
    let well = store.settings("mbl");
    let start = |settings: String| {
        let [config, path] = flags(folder.path(), &settings);
        let mut command = Command::new(program("mbl-service").unwrap());
        command.args(["run", &config, &path, "--data-dir"]).arg(folder.path().join("service"));
        for port in ["api", "bootstrap", "lwm2m", "artifacts"] {
            command.args([&format!("--listen-{port}"), "127.0.0.1:0"]);
        }
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert!(!output.status.success(), "{settings}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let with = |key: &str, value: &str| {
        let lines = well
            .lines()
            .map(|line| if line.starts_with(key) { format!("{key} = \"{value}\"") } else { line.to_owned() });
        start(lines.collect::<Vec<_>>().join("\n"))
    };
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let secret = "not-the-secret-of-anybody";
    for (said, hint) in [
        (with("secret_key_file", &file("wrong", secret)), "look at `bucket.access_key`"),
        (with("secret_key_file", "/nowhere/secret"), "cannot read /nowhere/secret"),
        (with("name", "somebody-elses"), "cannot use the bucket `somebody-elses/mbl`"),
        (with("name", "No_Name"), "`bucket.name` is 3 to 63 lower-case letters"),
        (with("authority_file", &file("none.pem", "")), "look at `bucket.endpoint` and `bucket.authority_file`"),
        (with("endpoint", "https://127.0.0.1:1"), "look at `bucket.endpoint`"),
        (with("endpoint", "http://objects.example.com"), "`bucket.endpoint` begins with `https://`"),
    ] {
        assert!(said.contains(hint), "{hint}: {said}");
        assert!(!said.contains(secret), "{said}");
    }
}
