//! Any layer is unpacked or refused, within its limits, and nothing beside its root changes.
#![no_main]

use std::{fs, io::Read as _};

use device_apps::{
    image::Compression,
    layer::{Budget, Tree, apply, check, decoder},
    limits::Limits,
};
use libfuzzer_sys::fuzz_target;
use protocol_types::Digest;

const LIMITS: Limits = Limits { blob_bytes: 1 << 20, unpacked_bytes: 1 << 20, entries: 64 };

fuzz_target!(|bytes: &[u8]| {
    let [kind, blob @ ..] = bytes else { return };
    let compression = [Compression::None, Compression::Gzip, Compression::Zstd][usize::from(kind % 3)];
    let mut archive = Vec::new();
    let Ok(mut decoded) = decoder(blob, compression, LIMITS.unpacked_bytes) else { return };
    if decoded.read_to_end(&mut archive).is_err() {
        return;
    }
    let Ok(checked) = check(blob, compression, &Digest::of(&archive), Budget::of(&LIMITS)) else { return };
    assert!(checked.entries <= LIMITS.entries && checked.archive_bytes <= LIMITS.unpacked_bytes);

    let dir = tempfile::tempdir().expect("a folder for the test");
    let root = dir.path().join("root");
    fs::create_dir(&root).expect("a root");
    fs::write(dir.path().join("outside"), b"outside").expect("a witness");
    let own_id = rustix::process::geteuid().as_raw();
    let tree = Tree::open(&root, own_id, LIMITS.entries).expect("the root can be opened");
    // A refusal is fine; leaving the root is not.
    let _refused = apply(|| Ok(blob), compression, &checked, &tree);
    assert_eq!(fs::read(dir.path().join("outside")).expect("the witness"), b"outside");
    assert_eq!(fs::read_dir(dir.path()).expect("the folder").count(), 2);
});
