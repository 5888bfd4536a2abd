//! Firmware that is built from source: that it can be built again.

use std::{fs, process::Command};

use testbed::images;

use crate::{os::DEVELOPMENT, os_tee};

/// What is compiled: the boot ROM, trusted boot, the secure monitor and UEFI.
const COMPILED: [&str; 4] = ["bl1.bin", "bl2.bin", "bl31.bin", "uefi.fd"];

#[test]
fn os_firmware_that_is_compiled_again_in_another_folder_is_the_same_bytes() {
    let order = DEVELOPMENT.on(os_tee::BOARD);
    let build = os_tee::owners(order);
    // On the same file system as the cache whose packages it shares.
    let elsewhere = tempfile::tempdir_in(images::workshop().unwrap()).unwrap();
    images::compile_again(order, elsewhere.path()).unwrap();
    // One folder for each step: it was compiled, and not taken from where it was before.
    let compiled = fs::read_dir(elsewhere.path().join("cache/firmware")).unwrap().count();
    assert_eq!(compiled, 2, "the trusted firmware and UEFI");
    for name in COMPILED {
        let [first, second] = [build.as_path(), &elsewhere.path().join("build")].map(|it| it.join("parts").join(name));
        let same = Command::new("cmp").args([first, second]).status().unwrap();
        assert!(same.success(), "{name} differs");
    }
}
