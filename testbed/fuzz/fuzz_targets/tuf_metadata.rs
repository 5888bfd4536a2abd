//! Any bytes as metadata files, pieces of them as one answer after the other: never believed, never the end of the program.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use protocol_release::{
    publish::{Repository, admit},
    signing::{RootDraft, TargetsDraft},
    workflow::{Check, Clock, Device, Step, TrustedState, Wish},
};
use protocol_types::{Digest, SecurityVersion, UnixSeconds};

/// A root whose keys nobody holds any more.
static STATE: LazyLock<TrustedState> = LazyLock::new(|| {
    TrustedState::from_root(include_bytes!("../seeds/tuf_metadata/root")).expect("the seed is a root")
});
const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

fuzz_target!(|data: &[u8]| {
    let _ = (RootDraft::read(data), TargetsDraft::read(data), TrustedState::parse(data));
    for name in ["2.root.json", "2.targets.json", "2.os.json", "2.snapshot.json", "timestamp.json"] {
        let _ = Repository::read([(name, data)]);
        let _ = admit(&Repository::empty(), &[(name.to_owned(), data.to_vec())].into(), NOW);
    }
    answer(data);
});

/// Hands out `data` in pieces, cut at line ends.
fn answer(data: &[u8]) {
    let wish = Wish { release: "releases/1.0.0.json".parse().expect("a path"), digest: Digest::of(b"") };
    let device = Device {
        board: "host".parse().expect("a name"),
        architecture: "x86_64".parse().expect("a name"),
        updater: 1,
        highest_floor: SecurityVersion(64),
    };
    let clock = Clock { now: NOW, not_before: NOW };
    let (mut check, mut step) = Check::begin(STATE.clone(), wish, device, clock);
    for piece in data.split(|b| *b == b'\n') {
        step = check.answer(Ok(piece.to_vec()));
        assert!(!matches!(step, Step::Verified(_)), "nobody signed this");
        if matches!(step, Step::Refused(_)) {
            break;
        }
    }
}
