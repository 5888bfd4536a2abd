//! Keys, drafts and signatures by several people.

use protocol_release::{
    metadata::{Delegate, PublicKey},
    signing::{Algorithm, DraftError, Holders, RootDraft, SignError, SigningKey, TargetsDraft, add_signatures},
    workflow::TrustedState,
};
use protocol_types::UnixSeconds;
use serde_json::json;
use tough::key_source::KeySource;

use crate::world::{World, block_on, damaged, key, resign, signed_part, sources};

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

#[test]
fn a_key_reads_back_from_its_pkcs8_form_with_the_same_id() {
    for algorithm in [Algorithm::Ed25519, Algorithm::EcdsaP256] {
        let key = SigningKey::generate(algorithm).unwrap();
        let again = SigningKey::from_pkcs8(key.to_pkcs8()).unwrap();
        assert_eq!(again.id(), key.id());
        assert_eq!(key.public().to_string().parse::<PublicKey>().unwrap(), *key.public());
    }
}

#[test]
fn a_text_that_is_no_key_is_refused() {
    assert!(SigningKey::from_pkcs8(b"").is_err());
    assert!(SigningKey::from_pkcs8(&[0x30, 0x80]).is_err());
    assert!("{}".parse::<PublicKey>().is_err());
}

#[test]
fn a_key_shows_its_id_and_nothing_else_of_itself() {
    let key = key();
    assert_eq!(format!("{key:?}"), format!("SigningKey {{ id: {:?}, .. }}", key.id()));
}

#[test]
fn several_people_sign_one_after_the_other() {
    let world = World::new(NOW);
    let one = block_on(world.root.sign(&sources([&world.officers[2]]))).unwrap().bytes;
    assert_eq!(TrustedState::from_root(&one).unwrap_err().code.as_str(), "below_threshold");
    let two = block_on(add_signatures(&one, &sources([&world.officers[0]]))).unwrap();
    assert!(TrustedState::from_root(&two).is_ok());
    assert_eq!(signed_part(&one), signed_part(&two));
}

#[test]
fn a_key_that_signs_again_replaces_its_signature() {
    let world = World::new(NOW);
    let broken = damaged(&world.first_root);
    assert_eq!(TrustedState::from_root(&broken).unwrap_err().code.as_str(), "bad_signature");
    let repaired = block_on(add_signatures(&broken, &sources(&world.officers[..2]))).unwrap();
    assert!(TrustedState::from_root(&repaired).is_ok());
}

#[test]
fn a_signed_draft_reads_back_as_itself() {
    let world = World::new(NOW);
    assert_eq!(RootDraft::read(&world.first_root).unwrap(), world.root);
    assert_eq!(TargetsDraft::read(&world.served.metadata["1.targets.json"]).unwrap(), world.targets);
    let os = TargetsDraft::read(&world.served.metadata["1.os.json"]).unwrap();
    assert_eq!(os, world.delegated[&Delegate::Os]);
}

#[test]
fn a_draft_does_not_silently_drop_what_another_tool_wrote() {
    let world = World::new(NOW);
    let signed = signed_part(&world.served.metadata["1.targets.json"]);
    let changes: [fn(&mut serde_json::Value); 4] = [
        |signed| signed["x-ring"] = json!(3),
        |signed| signed["targets"]["releases/1.0.0.json"]["custom"] = json!({ "ring": 3 }),
        |signed| signed["delegations"]["roles"][0]["terminating"] = json!(false),
        |signed| signed["delegations"]["roles"][0]["name"] = json!("somebody"),
    ];
    for change in changes {
        let mut signed = signed.clone();
        change(&mut signed);
        let file = resign(signed, &[&world.release_key]);
        assert!(matches!(TargetsDraft::read(&file), Err(DraftError::Foreign(_))));
    }
}

#[test]
fn a_draft_that_no_client_would_accept_is_not_signed() {
    let world = World::new(NOW);
    let signers = sources(&world.officers);
    let one = world.officers[0].public().clone();
    let bad = [
        Holders { keys: vec![], threshold: 1 },
        Holders { keys: vec![one.clone()], threshold: 0 },
        Holders { keys: vec![one.clone()], threshold: 2 },
        Holders { keys: vec![one.clone(), one], threshold: 2 },
    ];
    for holders in bad {
        let draft = RootDraft { targets: holders, ..world.root.clone() };
        assert!(matches!(block_on(draft.sign(&signers)), Err(DraftError::Holders { .. })));
    }
    let draft = RootDraft { version: 0, ..world.root.clone() };
    assert!(matches!(block_on(draft.sign(&signers)), Err(DraftError::Version)));
    let draft = RootDraft { expires: UnixSeconds(u64::MAX), ..world.root };
    assert!(matches!(block_on(draft.sign(&signers)), Err(DraftError::Expires(_))));
}

/// A token that was pulled out.
#[derive(Debug)]
struct Absent;

#[tough::async_trait]
impl KeySource for Absent {
    async fn as_sign(&self) -> Result<Box<dyn tough::sign::Sign>, Box<dyn std::error::Error + Send + Sync>> {
        Err("no token in the slot".into())
    }

    async fn write(&self, _: &str, _: &str) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(())
    }
}

#[test]
fn a_key_that_cannot_be_used_leaves_no_half_signed_file() {
    let world = World::new(NOW);
    let mut signers = sources(&world.officers[..1]);
    signers.push(Box::new(Absent));
    let error = block_on(world.root.sign(&signers)).unwrap_err();
    assert!(matches!(error, DraftError::Sign(SignError::Key(_))), "{error:?}");
}
