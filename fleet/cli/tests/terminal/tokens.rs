//! Keys in a hardware token: SoftHSM through the same PKCS#11 interface as a real one.

use std::process::Command;

use protocol_release::publish::{Repository, admit};

use super::{
    Desk,
    keys::{build_app, metadata, now},
    picture,
};

const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";

/// A desk with a token called `release` whose PIN is 1234.
fn desk_with_token() -> Desk {
    let desk = Desk::new();
    desk.service_keys();
    desk.write("pin", "1234\n");
    desk.write("tokens/.keep", "");
    desk.write(
        "softhsm.conf",
        &format!("directories.tokendir = {}\nlog.level = ERROR\n", desk.path("tokens").display()),
    );
    let made = Command::new("softhsm2-util")
        .args(["--init-token", "--free", "--label", "release", "--pin", "1234", "--so-pin", "5678"])
        .env("SOFTHSM2_CONF", desk.path("softhsm.conf"))
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    desk
}

fn see(desk: &Desk, arguments: &str) -> String {
    picture(
        desk.command(arguments)
            .env("SOFTHSM2_CONF", desk.path("softhsm.conf"))
            .env("MBL_PIN_FILE", "pin")
            .env("MBL_PASSPHRASE_FILE", "passphrase"),
    )
}

#[test]
fn a_release_key_in_a_token_signs_what_the_service_admits() {
    let desk = desk_with_token();
    let uri = format!("pkcs11:token=release;object=targets?module-path={MODULE}");
    let seen = see(
        &desk,
        &format!("keys init --dir keys --app hello --service-keys service-keys.json --pkcs11 targets={uri}"),
    );
    assert!(seen.starts_with("exit 0\n"), "{seen}");
    assert!(!desk.path("keys/targets.pem").exists(), "the key was to stay in the token");
    let repository = admit(&Repository::empty(), &metadata(&desk.path("keys/metadata")), now()).unwrap().repository;

    build_app(&desk, "1.0.0");
    let seen = see(&desk, "release create --version 1.0.0 --app hello-1.0.0 --keys keys --out release");
    assert!(seen.starts_with("exit 0\n"), "{seen}");
    let seen = see(&desk, "release sign release --keys keys");
    assert!(seen.contains("complete; publish with"), "{seen}");
    admit(&repository, &metadata(&desk.path("release/metadata")), now()).unwrap();
}

#[test]
fn a_wrong_pin_signs_nothing() {
    let desk = desk_with_token();
    desk.write("pin", "4321\n");
    let uri = format!("pkcs11:token=release;object=targets?module-path={MODULE}");
    let seen = see(&desk, &format!("keys init --dir keys --service-keys service-keys.json --pkcs11 targets={uri}"));
    assert!(seen.starts_with("exit 1\n") && seen.contains("token release refuses the PIN"), "{seen}");
    assert!(!desk.path("keys/metadata").exists());
}

#[test]
fn a_token_that_is_not_there_is_named() {
    let desk = desk_with_token();
    let uri = format!("pkcs11:token=other;object=targets?module-path={MODULE}");
    let seen = see(&desk, &format!("keys init --dir keys --service-keys service-keys.json --pkcs11 targets={uri}"));
    assert!(seen.contains("knows no token called other"), "{seen}");
}
