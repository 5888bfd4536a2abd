//! Whatever bytes arrive, a check ends in a verdict; and no file can be changed by a byte and still be believed.

use std::sync::LazyLock;

use proptest::prelude::*;
use protocol_release::{
    document::{HostUki, OsIndex, Release},
    publish::{Repository, admit},
    signing::{RootDraft, TargetsDraft},
    workflow::{Check, Clock, Step, TrustedState},
};
use protocol_types::{UnixSeconds, socket::FetchError};
use serde_json::Value;

use crate::{
    device::visit,
    world::{World, device},
};

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

/// A repository with two roots; made once, since making keys takes longer than a check.
static WORLD: LazyLock<World> = LazyLock::new(|| {
    let mut world = World::new(NOW);
    world.rotate();
    world
});

#[test]
fn a_byte_changed_anywhere_in_a_signed_file_is_never_believed() {
    let world = &*WORLD;
    let (state, wish) = (world.provisioned(), world.wish("1.0.0"));
    let asked = visit(&world.served, state.clone(), &wish, NOW).asked;
    let mut tried = 0;
    for name in asked.iter().filter(|name| world.served.metadata.contains_key(*name)) {
        let file = &world.served.metadata[name];
        let meaning = significant(file);
        // A step without common factors with the length of a line reaches every kind of place.
        for at in (0..file.len()).step_by(17) {
            for change in [|b: u8| b ^ 1, |b: u8| b ^ 0x20, |_| b'0'] {
                let mut served = world.served.clone();
                let bytes = served.metadata.get_mut(name).unwrap();
                bytes[at] = change(bytes[at]);
                if bytes == file || significant(bytes) == meaning {
                    continue; // The same byte, or white space and spelling outside of what is signed.
                }
                tried += 1;
                let visit = visit(&served, state.clone(), &wish, NOW);
                assert_ne!(visit.verdict(), "verified", "{name} with byte {at} changed was believed");
            }
        }
    }
    assert!(tried > 1000, "only {tried} changes were tried");
}

#[test]
fn a_byte_changed_anywhere_in_an_artifact_is_never_believed() {
    let world = &*WORLD;
    let wish = world.wish("1.0.0");
    let visited = visit(&world.served, world.provisioned(), &wish, NOW);
    // With the metadata stored already, a check asks for little else than the artifacts.
    let state = visited.state;
    for (digest, file) in
        world.served.artifacts.iter().filter(|(digest, _)| visited.asked.contains(&digest.to_string()))
    {
        for at in (0..file.len()).step_by(3) {
            let mut served = world.served.clone();
            served.artifacts.get_mut(digest).unwrap()[at] ^= 1;
            assert_eq!(visit(&served, state.clone(), &wish, NOW).verdict(), "digest_mismatch");
        }
    }
}

#[test]
fn a_file_cut_anywhere_is_never_believed() {
    let world = &*WORLD;
    let (state, wish) = (world.provisioned(), world.wish("1.0.0"));
    for (name, file) in world.served.metadata.iter().filter(|(name, _)| *name != "1.root.json") {
        // The last byte is the end of a line, which says nothing.
        for length in (0..file.len() - 1).step_by(11) {
            let mut served = world.served.clone();
            served.metadata.get_mut(name).unwrap().truncate(length);
            assert_ne!(visit(&served, state.clone(), &wish, NOW).verdict(), "verified", "{name} cut to {length}");
        }
    }
}

/// What of a file can matter: its JSON value, with digits of keys and signatures in one spelling.
fn significant(file: &[u8]) -> Option<Value> {
    let mut value: Value = serde_json::from_slice(file).ok()?;
    for signature in value.get_mut("signatures")?.as_array_mut()? {
        for field in ["keyid", "sig"] {
            let lower = signature.get(field)?.as_str()?.to_lowercase();
            signature[field] = lower.into();
        }
        signature.as_object_mut()?.retain(|field, _| field == "keyid" || field == "sig");
    }
    value.as_object_mut()?.retain(|field, _| field == "signed" || field == "signatures");
    Some(value)
}

/// Bytes that are nothing, or nearly something.
fn answers() -> impl Strategy<Value = Result<Vec<u8>, FetchError>> {
    let files: Vec<Vec<u8>> = WORLD.served.metadata.values().chain(WORLD.served.artifacts.values()).cloned().collect();
    prop_oneof![
        any::<Vec<u8>>().prop_map(Ok),
        prop::sample::select(files.clone()).prop_map(Ok),
        (prop::sample::select(files), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(mut file, at, byte)| {
            let at = at.index(file.len());
            file[at] = byte;
            Ok(file)
        }),
        "\\PC{0,64}"
            .prop_map(|text| Ok(format!("{{\"signed\":{{\"_type\":{text:?}}},\"signatures\":[]}}").into_bytes())),
        Just(Err(FetchError::NotFound)),
        Just(Err(FetchError::TooLong)),
    ]
}

proptest! {
    #[test]
    fn any_bytes_at_any_answer_end_in_a_refusal_or_a_request(
        truthful in 0_usize..8,
        lies in prop::collection::vec(answers(), 1..12),
    ) {
        let world = &*WORLD;
        let clock = Clock { now: NOW, not_before: UnixSeconds(0) };
        let (mut check, mut step) = Check::begin(world.provisioned(), world.wish("1.0.0"), device(), clock);
        let mut lies = lies.into_iter();
        for n in 0.. {
            let truth = match &step {
                Step::FetchMetadata { name, .. } => world.served.metadata.get(name).cloned(),
                Step::FetchArtifact { digest, .. } => world.served.artifacts.get(digest).cloned(),
                Step::Verified(release) => {
                    prop_assert_eq!(release.digest, world.wish("1.0.0").digest);
                    break;
                }
                Step::Refused(_) => break,
            };
            let answer = if n < truthful { truth.ok_or(FetchError::NotFound) } else {
                match lies.next() { Some(lie) => lie, None => break }
            };
            step = check.answer(answer);
        }
    }

    #[test]
    fn any_bytes_are_read_as_a_document_without_panic(bytes: Vec<u8>) {
        let _ = (Release::parse(&bytes).is_ok(), OsIndex::parse(&bytes).is_ok(), HostUki::parse(&bytes).is_ok());
        let _ = (RootDraft::read(&bytes).is_ok(), TargetsDraft::read(&bytes).is_ok());
        let _ = (TrustedState::parse(&bytes).is_ok(), TrustedState::from_root(&bytes).is_ok());
    }

    #[test]
    fn any_upload_is_judged_without_panic(name in "[0-9]{0,3}\\.?(root|targets|os|app-x|snapshot|timestamp)?(\\.json)?", bytes: Vec<u8>) {
        let upload = [(name, bytes)].into();
        prop_assert!(admit(&Repository::empty(), &upload, NOW).is_err());
    }
}
