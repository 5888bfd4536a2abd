//! Claims about secrets on their way to a device: what the database holds opens nothing, and what was sealed opens on that device alone.

use fleet_store::ConfigurationLevel;
use protocol_types::{DeviceConfiguration, SealedSecret, recovery::RecoveryKey};
use rustls::crypto::{
    aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_CHACHA20_POLY1305 as HPKE,
    hpke::{EncapsulatedSecret, Hpke as _, HpkePrivateKey},
};
use serde_json::{Map, Value, json};

use super::{DeviceSecrets, effective};
use crate::test_service::{Caller, TestService};

/// A device's key pair.
fn key() -> (RecoveryKey, HpkePrivateKey) {
    let (public, private) = HPKE.generate_key_pair().unwrap();
    (RecoveryKey::from_bytes(public.0.try_into().unwrap()), private)
}

/// What a device opens of its document.
fn opened(document: &Map<String, Value>, endpoint: &str, private: &HpkePrivateKey) -> Option<Vec<u8>> {
    let text = effective(&[]).with_secrets(document.clone()).text;
    let read = DeviceConfiguration::parse(text.as_bytes()).unwrap();
    let secret = read.secrets.values().next()?.values().next()?.clone();
    let bytes = data_encoding::BASE64URL_NOPAD.decode(secret.sealed.as_bytes()).unwrap();
    let (encapsulated, sealed) = bytes.split_at(32);
    let owner = (&"default".parse().unwrap(), &endpoint.parse().unwrap());
    let names = (&"hello".parse().unwrap(), &"token".parse().unwrap());
    let bound_to = SealedSecret::bound_to(owner, names, secret.version);
    let encapsulated = EncapsulatedSecret(encapsulated.to_vec());
    HPKE.open(&encapsulated, SealedSecret::PURPOSE, bound_to.as_bytes(), sealed, private).ok()
}

async fn set(caller: &Caller, path: &str, value: &str) -> Value {
    let change = json!({ "application": "hello", "name": "token", "value": value });
    let (status, listed) = caller.send(Caller::json("PATCH", path, &change)).await;
    assert!(status.is_success(), "{listed}");
    listed["items"][0].clone()
}

#[tokio::test]
async fn a_secret_reaches_its_device_and_nobody_reads_it_on_the_way() {
    let service = TestService::start().await;
    let caller = service.caller("default").await;
    let endpoint = service.device("default", "gate-1").await;
    let account = service.account("default").await;
    let secret = set(&caller, "/configuration/secrets", "swordfish").await;
    assert_eq!((&secret["version"], &secret["value"]), (&json!(1), &Value::Null));
    assert_eq!(set(&caller, "/configuration/secrets", "swordfish").await["version"], 1, "the same value again");
    let names = (&"hello".parse().unwrap(), &"token".parse().unwrap());
    let row = account.sealed_secret(&ConfigurationLevel::Account, names).await.unwrap().unwrap();
    assert!(!row.sealed.contains("swordfish") && !format!("{row:?}").contains(&row.sealed));

    let owner = (account.name(), &endpoint);
    let read = async || DeviceSecrets::read(&account, &endpoint, service.now()).await.unwrap();
    let mut before = read().await;
    assert_eq!(before.seal(&service.fleet.authority.sealing, owner).unwrap(), None, "nobody knows its key yet");
    assert!(before.document().is_empty() && !before.is_complete());

    let (public, private) = key();
    account.record_sealing_key(&endpoint, &public, service.now()).await.unwrap();
    let mut secrets = read().await;
    let news = secrets.seal(&service.fleet.authority.sealing, owner).unwrap().unwrap();
    account.keep_sent_secrets(&endpoint, &news).await.unwrap();
    let document = secrets.document();
    assert_eq!(opened(&document, "gate-1", &private).unwrap(), b"swordfish");
    assert_eq!(opened(&document, "gate-2", &private), None, "it was bound to its device");
    assert_eq!(opened(&document, "gate-1", &key().1), None);

    // The same secret is the same text each time, or the device would hear of news that are none.
    let mut again = read().await;
    assert_eq!(again.seal(&service.fleet.authority.sealing, owner).unwrap(), None);
    assert_eq!((again.document(), again.is_complete()), (document.clone(), true));

    // Another value, or another key of the device, is sealed anew.
    assert_eq!(set(&caller, "/configuration/secrets", "trout").await["version"], 2);
    let mut changed = read().await;
    assert!(!changed.is_complete());
    let news = changed.seal(&service.fleet.authority.sealing, owner).unwrap().unwrap();
    account.keep_sent_secrets(&endpoint, &news).await.unwrap();
    assert_eq!(opened(&changed.document(), "gate-1", &private).unwrap(), b"trout");
    let (other, other_private) = key();
    account.record_sealing_key(&endpoint, &other, service.now()).await.unwrap();
    let mut moved = read().await;
    assert!(moved.seal(&service.fleet.authority.sealing, owner).unwrap().is_some());
    assert_eq!(opened(&moved.document(), "gate-1", &other_private).unwrap(), b"trout");
}

#[tokio::test]
async fn a_secret_that_is_removed_and_set_again_while_a_device_is_looked_at_reaches_it_with_its_new_value() {
    let service = TestService::start().await;
    let caller = service.caller("default").await;
    let endpoint = service.device("default", "gate-1").await;
    let account = service.account("default").await;
    let (public, private) = key();
    account.record_sealing_key(&endpoint, &public, service.now()).await.unwrap();
    set(&caller, "/configuration/secrets", "swordfish").await;
    let owner = (account.name(), &endpoint);
    let sealing = &service.fleet.authority.sealing;
    let mut early = DeviceSecrets::read(&account, &endpoint, service.now()).await.unwrap();
    let gone = json!({ "application": "hello", "name": "token", "value": null });
    assert!(caller.send(Caller::json("PATCH", "/configuration/secrets", &gone)).await.0.is_success());
    assert_eq!(set(&caller, "/configuration/secrets", "trout").await["version"], 1);
    let news = early.seal(sealing, owner).unwrap().unwrap();
    account.keep_sent_secrets(&endpoint, &news).await.unwrap();

    let mut next = DeviceSecrets::read(&account, &endpoint, service.now()).await.unwrap();
    assert!(next.seal(sealing, owner).unwrap().is_some(), "what was sealed of the one before is none of this one");
    assert_eq!(opened(&next.document(), "gate-1", &private).unwrap(), b"trout");
}

#[tokio::test]
async fn no_answer_event_or_line_of_the_audit_log_shows_a_secret() {
    let service = TestService::start().await;
    let caller = service.caller("default").await;
    service.device("default", "gate-1").await;
    for path in ["/configuration/secrets", "/devices/gate-1/configuration/secrets"] {
        set(&caller, path, "swordfish").await;
    }
    for path in ["/configuration/secrets", "/devices/gate-1/effective-configuration", "/events?limit=500", "/audit"] {
        let (status, shown) = caller.get(path).await;
        assert!(status.is_success(), "{path}: {shown}");
        assert!(shown.to_string().contains("token") || path == "/audit", "{path}: {shown}");
        assert!(!shown.to_string().contains("swordfish"), "{path}: {shown}");
    }
    let (_, shown) = caller.get("/devices/gate-1/effective-configuration").await;
    assert_eq!((&shown["status"], &shown["takes_secrets"]), (&json!("waiting"), &json!(false)), "{shown}");
    assert_eq!((&shown["secrets"][0]["level"], &shown["secrets"][0]["version"]), (&json!("device"), &json!(1)));
    for (value, encoding) in [(json!(""), "text"), (json!("a".repeat(1025)), "text"), (json!("?"), "base64")] {
        let change = json!({ "application": "hello", "name": "token", "value": value, "encoding": encoding });
        let (status, refused) = caller.send(Caller::json("PATCH", "/configuration/secrets", &change)).await;
        assert_eq!((status.as_u16(), &refused["field"]), (422, &json!("value")), "{refused}");
    }
    let gone = json!({ "application": "hello", "name": "token", "value": null });
    let (_, left) = caller.send(Caller::json("PATCH", "/configuration/secrets", &gone)).await;
    assert_eq!(left["items"], json!([]));
}
