//! Keys and signatures from the first root to a release that a service admits.

use std::{collections::BTreeMap, fs, path::Path};

use insta::assert_snapshot;
use protocol_release::publish::{Repository, admit};
use protocol_types::{ReasonCode, UnixSeconds};

use super::{Desk, names, picture};

/// The metadata of a folder by name, as a service would be sent it.
pub(super) fn metadata(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    names(folder).into_iter().map(|name| (name.clone(), fs::read(folder.join(name)).unwrap())).collect()
}

pub(super) fn now() -> UnixSeconds {
    #[expect(clippy::disallowed_methods, reason = "what was signed a moment ago must not have expired")]
    let now = std::time::SystemTime::now();
    UnixSeconds(now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs())
}

/// An application image in `hello-VERSION`.
pub(super) fn build_app(desk: &Desk, version: &str) {
    desk.write(
        "app.toml",
        &format!(
            "name = \"hello\"\nversion = \"{version}\"\narchitecture = \"x86_64\"\nentrypoint = [\"/bin/hello\"]\n\
             files = [{{ target = \"/bin/hello\", text = \"{version}\", mode = 0o755 }}]\n\
             run = {{ memory_bytes = 1048576, pids = 4 }}\n"
        ),
    );
    let seen = desk.see(&format!("app build --out hello-{version}"));
    assert!(seen.starts_with("exit 0\n"), "{seen}");
}

/// The repository that accepted everything in `keys/metadata`.
fn published(desk: &Desk) -> Repository {
    admit(&Repository::empty(), &metadata(&desk.path("keys/metadata")), now()).unwrap().repository
}

#[test]
fn a_signed_release_is_what_the_service_admits_and_an_unsigned_one_is_not() {
    let desk = Desk::new();
    desk.service_keys();
    let seen = desk.see("-q keys init --dir keys --app hello --service-keys service-keys.json");
    assert!(seen.starts_with("exit 0\n"), "{seen}");
    assert_eq!(names(&desk.path("keys/metadata")), ["1.app-hello.json", "1.os.json", "1.root.json", "1.targets.json"]);
    let repository = published(&desk);

    build_app(&desk, "1.0.0");
    let seen = desk.see("release create --version 1.0.0 --app hello-1.0.0 --keys keys --out release");
    assert!(seen.starts_with("exit 0\n"), "{seen}");
    let folder = desk.path("release/metadata");
    assert_eq!(names(&folder), ["2.app-hello.json", "2.targets.json"]);
    let refused = admit(&repository, &metadata(&folder), now()).unwrap_err();
    assert_eq!(refused.code, ReasonCode::BelowThreshold);

    assert_snapshot!(desk.see("release sign release --keys keys"), @r"
    exit 0
    --- stdout
    signed targets, app-hello
    --- stderr
    complete; publish with `mbl release publish release`
    ");
    let accepted = admit(&repository, &metadata(&folder), now()).unwrap();
    let named = |digest: &str| accepted.artifacts.iter().any(|artifact| artifact.digest.hex() == digest);
    assert!(
        accepted.artifacts.iter().all(|artifact| desk.path("release/artifacts").join(artifact.digest.hex()).is_file())
    );
    assert!(names(&desk.path("release/artifacts")).iter().any(|digest| named(digest)));
}

#[test]
fn what_was_signed_under_a_version_never_changes() {
    let desk = Desk::new();
    desk.service_keys();
    desk.see("-q keys init --dir keys --app hello --service-keys service-keys.json");
    build_app(&desk, "1.0.0");
    desk.see("release create --version 1.0.0 --app hello-1.0.0 --keys keys --out first");
    desk.see("release sign first --keys keys");
    assert_snapshot!(desk.see("release create --version 1.0.0 --app hello-1.0.0 --keys keys --out again"), @r"
    exit 1
    --- stdout
    --- stderr
    error: `releases/1.0.0.json` was signed before with other content
    hint: what was signed never changes: choose a new version
    ");
}

#[test]
fn a_draft_on_old_metadata_is_not_signed() {
    let desk = Desk::new();
    desk.service_keys();
    desk.see("-q keys init --dir keys --app hello --service-keys service-keys.json");
    build_app(&desk, "1.0.0");
    desk.see("release create --version 1.0.0 --app hello-1.0.0 --keys keys --out one");
    desk.see("release create --version 2.0.0 --app hello-1.0.0 --keys keys --out two");
    desk.see("release sign one --keys keys");
    desk.see("-q keys refresh --dir keys");
    let seen = desk.see("release sign two --keys keys");
    assert!(
        seen.starts_with("exit 1\n") && seen.contains("is older than version 3, which was signed already"),
        "{seen}"
    );
}

#[test]
fn an_application_without_a_team_is_refused_with_the_way_to_name_one() {
    let desk = Desk::new();
    desk.service_keys();
    desk.see("-q keys init --dir keys --service-keys service-keys.json");
    build_app(&desk, "1.0.0");
    assert_snapshot!(desk.see("release create --version 1.0.0 --app hello-1.0.0 --keys keys --out release"), @r"
    exit 1
    --- stdout
    --- stderr
    error: nobody may sign `apps/hello/1.0.0.json` for this account
    hint: let a team sign it with `mbl keys add-app hello --dir DIR`
    ");
    let seen = desk.see("keys add-app hello --dir keys");
    assert!(seen.starts_with("exit 0\n"), "{seen}");
    let seen = desk.see("release create --version 1.0.0 --app hello-1.0.0 --keys keys --out release");
    assert!(seen.starts_with("exit 0\n"), "{seen}");
}

#[test]
fn a_rotated_root_is_signed_by_the_old_and_the_new_keys() {
    let desk = Desk::new();
    desk.service_keys();
    desk.see("-q keys init --dir keys --root-keys 2 --root-threshold 2 --service-keys service-keys.json");
    let repository = published(&desk);
    let seen = desk.see("keys rotate-root --dir keys");
    assert!(seen.starts_with("exit 0\n"), "{seen}");
    let accepted = admit(&repository, &metadata(&desk.path("keys/metadata")), now()).unwrap();
    assert_eq!(accepted.repository.root_version(), Some(2));
    // The keys of the new root sign the next one.
    let seen = desk.see("keys rotate-root --dir keys");
    assert!(seen.starts_with("exit 0\n"), "{seen}");
    assert_eq!(published(&desk).root_version(), Some(3));
}

#[test]
fn a_withdrawn_release_is_no_longer_listed() {
    let desk = Desk::new();
    desk.service_keys();
    desk.see("-q keys init --dir keys --app hello --service-keys service-keys.json");
    build_app(&desk, "1.0.0");
    desk.see("release create --version 1.0.0 --app hello-1.0.0 --keys keys --out release");
    desk.see("release sign release --keys keys");
    let seen = desk.see("release withdraw 1.0.0 --keys keys");
    assert!(seen.starts_with("exit 0\n"), "{seen}");
    let newest = fs::read(desk.path("keys/metadata/3.targets.json")).unwrap();
    let targets = protocol_release::signing::TargetsDraft::read(&newest).unwrap();
    assert!(targets.entries.is_empty());
}

#[test]
fn keys_are_private_encrypted_and_never_overwritten() {
    let desk = Desk::new();
    desk.service_keys();
    desk.see("-q keys init --dir keys --service-keys service-keys.json");
    for name in names(&desk.path("keys")).iter().filter(|name| name.ends_with(".pem")) {
        let path = desk.path("keys").join(name);
        let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(&path).unwrap());
        assert_eq!(mode & 0o777, 0o600, "{name}");
        assert!(fs::read_to_string(&path).unwrap().starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"), "{name}");
    }
    assert_snapshot!(desk.see("keys init --dir keys --service-keys service-keys.json"), @r"
    exit 1
    --- stdout
    --- stderr
    error: keys already holds keys
    hint: choose another folder; keys are never overwritten
    ");
}

#[test]
fn without_a_terminal_the_passphrase_is_never_guessed() {
    let desk = Desk::new();
    desk.service_keys();
    let mut command = desk.command("keys init --dir keys --service-keys service-keys.json");
    assert_snapshot!(picture(&mut command), @r"
    exit 1
    --- stdout
    --- stderr
    error: a secret is needed and there is no terminal to ask at
    hint: put it into a file and name that with `--passphrase-file` or MBL_PASSPHRASE_FILE
    ");
    assert!(!desk.path("keys/keys.toml").exists());
}

#[test]
fn a_wrong_passphrase_is_told_and_signs_nothing() {
    let desk = Desk::new();
    desk.service_keys();
    desk.see("-q keys init --dir keys --app hello --service-keys service-keys.json");
    build_app(&desk, "1.0.0");
    desk.see("release create --version 1.0.0 --app hello-1.0.0 --keys keys --out release");
    let before = metadata(&desk.path("release/metadata"));
    desk.write("passphrase", "wrong horse battery\n");
    assert_snapshot!(desk.see("release sign release --keys keys"), @r"
    exit 1
    --- stdout
    --- stderr
    error: the passphrase does not open keys/targets.pem
    hint: name the right file with `--passphrase-file` or MBL_PASSPHRASE_FILE
    ");
    assert_eq!(metadata(&desk.path("release/metadata")), before);
}

#[test]
fn an_account_has_one_recovery_key_whose_private_half_is_never_in_the_clear() {
    let desk = Desk::new();
    desk.service_keys();
    desk.see("-q keys init --dir keys --service-keys service-keys.json");
    let seen = desk.see("keys recovery --dir keys");
    let public = fs::read_to_string(desk.path("keys/recovery.pub")).unwrap();
    assert_eq!(
        seen,
        format!(
            "exit 0\n--- stdout\n{public}--- stderr\n\
             keep the private half off line and a copy of it elsewhere; nothing else opens a device whose key store is dead\n"
        )
    );
    let private = fs::read_to_string(desk.path("keys/recovery.pem")).unwrap();
    assert!(private.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"), "{private}");
    assert_snapshot!(desk.see("keys recovery --dir keys"), @r"
    exit 1
    --- stdout
    --- stderr
    error: there is a recovery key in keys
    hint: devices were given its public half: keep it, and make another one in another folder
    ");
}
