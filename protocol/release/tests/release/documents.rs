//! The documents, as the format page describes them.

use proptest::prelude::*;
use protocol_release::document::{DocumentError, HostUki, Kind, OsIndex, Release};
use protocol_types::{AppName, Digest, Network, Reason, ReasonCode};
use serde_json::{Value, json};

const DIGEST: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

/// What is broken, and how.
type Broken = (&'static str, fn(&mut Value));

/// The release of the format page.
fn release() -> Value {
    json!({
      "format": 1, "version": "1.1.0", "security_version": 1, "raises_floor": false,
      "health": { "time_limit_s": 90, "no_contact_limit_s": 600 },
      "components": [
        { "kind": "os", "path": "os/host/1.1.0.json", "digest": DIGEST, "size": 812, "version": "1.1.0",
          "boards": ["host"], "architectures": ["x86_64"], "minimum_updater": 1 },
        { "kind": "application", "name": "hello", "path": "apps/hello/1.1.0.json", "digest": DIGEST, "size": 412,
          "version": "1.1.0", "boards": [], "architectures": ["x86_64"], "minimum_updater": 1,
          "run": { "network": "host", "memory_bytes": 33554432, "pids": 32,
                   "ready": { "command": ["/bin/wget", "-q", "http://127.0.0.1/"], "interval_s": 1, "timeout_s": 2 } } },
        { "kind": "configuration", "name": "base", "path": "configuration/base/1.json", "digest": DIGEST, "size": 20,
          "version": "1.0.0", "boards": [], "architectures": [], "minimum_updater": 1 }
      ]
    })
}

fn index() -> Value {
    json!({ "format": 1, "board": "host", "version": "1.1.0",
      "sections": [
        { "name": "root", "digest": DIGEST, "size": 41943040, "blocks": { "digest": DIGEST, "size": 327680 } },
        { "name": "uki",  "digest": DIGEST, "size": 412,      "blocks": { "digest": DIGEST, "size": 32 } } ] })
}

fn parse(value: &Value) -> Result<Release, DocumentError> {
    Release::parse(&serde_json::to_vec(value).unwrap())
}

#[test]
fn the_release_of_the_format_page_reads_back_as_itself() {
    let parsed = parse(&release()).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&parsed.to_bytes().unwrap()).unwrap(), release());
    assert_eq!(Release::parse(&parsed.to_bytes().unwrap()).unwrap(), parsed);
    assert_eq!(parsed.digest().unwrap(), Digest::of(&parsed.to_bytes().unwrap()));
    assert_eq!(parsed.os().unwrap().kind, Kind::Os);
    let app = &parsed.applications()[0];
    assert_eq!((app.name.as_str(), app.run.network), ("hello", Network::Host));
}

#[test]
fn a_release_that_breaks_a_rule_is_neither_read_nor_written() {
    let broken: &[Broken] = &[
        ("another format", |r| r["format"] = json!(2)),
        ("an unknown field", |r| r["later"] = json!(1)),
        ("an unknown field of a component", |r| r["components"][0]["later"] = json!(1)),
        ("an unknown field of the health contract", |r| r["health"]["later"] = json!(1)),
        ("an unknown permission", |r| r["components"][1]["run"]["privileged"] = json!(true)),
        ("a missing field", |r| _ = r.as_object_mut().unwrap().remove("raises_floor")),
        ("no component", |r| r["components"] = json!([])),
        ("two systems", |r| again(r, 0, "os/host/2.json")),
        ("one application twice", |r| again(r, 1, "apps/hello/2.json")),
        ("one configuration twice", |r| again(r, 2, "configuration/base/2.json")),
        ("an application without settings", |r| _ = r["components"][1].as_object_mut().unwrap().remove("run")),
        ("a system with a name", |r| r["components"][0]["name"] = json!("debian")),
        ("a configuration that runs", |r| r["components"][2]["run"] = r["components"][1]["run"].clone()),
        ("a kind that nobody knows", |r| r["components"][0]["kind"] = json!("firmware")),
        ("a path of another kind", |r| r["components"][0]["path"] = json!("apps/hello/1.json")),
        ("a path of another application", |r| r["components"][1]["path"] = json!("apps/hello2/1.json")),
        ("a path that is too deep", |r| r["components"][0]["path"] = json!("os/host/x/1.json")),
        ("a path that leaves its folder", |r| r["components"][0]["path"] = json!("os/host/../1.json")),
        ("a path of another form", |r| r["components"][0]["path"] = json!("os/host/1.txt")),
        ("an index that is too long", |r| r["components"][0]["size"] = json!(65537)),
        ("an image index that is too long", |r| r["components"][1]["size"] = json!(1048577)),
        ("an empty target", |r| r["components"][2]["size"] = json!(0)),
        ("a digest without algorithm", |r| r["components"][0]["digest"] = json!(&DIGEST[7..])),
        ("a version that is none", |r| r["version"] = json!("one")),
        ("a version that no path can hold", |r| r["version"] = json!("1.0.0+build")),
        ("no time", |r| r["health"]["time_limit_s"] = json!(0)),
        ("too much time", |r| r["health"]["time_limit_s"] = json!(86401)),
        ("less time without contact", |r| r["health"]["no_contact_limit_s"] = json!(89)),
        ("no memory", |r| r["components"][1]["run"]["memory_bytes"] = json!(0)),
        ("no process", |r| r["components"][1]["run"]["pids"] = json!(0)),
        ("a ready check without a program", |r| r["components"][1]["run"]["ready"]["command"] = json!([])),
        ("a ready check with a relative program", |r| r["components"][1]["run"]["ready"]["command"] = json!(["sh"])),
        ("a ready check without pause", |r| r["components"][1]["run"]["ready"]["interval_s"] = json!(0)),
        ("a ready check without time", |r| r["components"][1]["run"]["ready"]["timeout_s"] = json!(0)),
    ];
    for (what, change) in broken {
        let mut value = release();
        change(&mut value);
        let error = parse(&value).map(|_| ()).expect_err(what);
        assert_eq!(Reason::from(error).code, ReasonCode::MalformedRelease, "{what}");
    }
    let mut unwritable = parse(&release()).unwrap();
    unwritable.components.clear();
    assert!(unwritable.to_bytes().is_err());
}

fn again(release: &mut Value, component: usize, path: &str) {
    let mut copy = release["components"][component].clone();
    copy["path"] = json!(path);
    release["components"].as_array_mut().unwrap().push(copy);
}

#[test]
fn a_release_has_room_for_32_applications_and_no_more() {
    let with = |count: usize| {
        let mut value = release();
        let app = value["components"][1].clone();
        value["components"] = (0..count)
            .map(|n| {
                let mut app = app.clone();
                (app["name"], app["path"]) = (json!(format!("a{n}")), json!(format!("apps/a{n}/1.json")));
                app
            })
            .collect();
        parse(&value)
    };
    assert_eq!(with(32).unwrap().applications().len(), 32);
    assert!(with(33).is_err());
}

#[test]
fn a_document_beyond_its_limit_is_refused_unread() {
    for error in [
        Release::parse(&vec![b'['; Release::MAX_BYTES + 1]).map(|_| ()),
        OsIndex::parse(&vec![b'['; OsIndex::MAX_BYTES + 1]).map(|_| ()),
        HostUki::parse(&vec![b'['; HostUki::MAX_BYTES + 1]).map(|_| ()),
    ] {
        assert_eq!(Reason::from(error.unwrap_err()).code, ReasonCode::Oversized);
    }
}

#[test]
fn the_index_of_the_format_page_reads_back_as_itself() {
    let parsed = OsIndex::parse(&serde_json::to_vec(&index()).unwrap()).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&parsed.to_bytes().unwrap()).unwrap(), index());
    assert_eq!(parsed.root_digest().unwrap().to_string(), DIGEST);
}

/// The index of a board whose kernel holds each block against a hash tree.
fn verified_index() -> Value {
    let mut value = index();
    let mut verity = value["sections"][0].clone();
    verity["name"] = json!("verity");
    value["sections"].as_array_mut().unwrap().push(verity);
    value["root_hash"] = json!(Digest::of(b"root hash").to_string());
    value
}

#[test]
fn a_system_with_a_hash_tree_names_itself_by_its_root_hash() {
    let parsed = OsIndex::parse(&serde_json::to_vec(&verified_index()).unwrap()).unwrap();
    assert_eq!(parsed.root_digest(), Some(Digest::of(b"root hash")));
    assert_eq!(serde_json::from_slice::<Value>(&parsed.to_bytes().unwrap()).unwrap(), verified_index());
}

#[test]
fn a_hash_tree_without_its_root_hash_is_refused_and_so_is_the_hash_alone() {
    let mut no_hash = verified_index();
    no_hash.as_object_mut().unwrap().remove("root_hash");
    let mut no_tree = verified_index();
    no_tree["sections"].as_array_mut().unwrap().pop();
    for value in [no_hash, no_tree] {
        assert!(OsIndex::parse(&serde_json::to_vec(&value).unwrap()).is_err(), "{value}");
    }
}

#[test]
fn an_index_that_breaks_a_rule_is_refused() {
    let broken: &[Broken] = &[
        ("another format", |i| i["format"] = json!(0)),
        ("an unknown field", |i| i["sections"][0]["offset"] = json!(0)),
        ("an unknown section", |i| i["sections"][1]["name"] = json!("bootloader")),
        ("one section twice", |i| i["sections"][1]["name"] = json!("root")),
        ("no uki", |i| _ = i["sections"].as_array_mut().unwrap().pop()),
        ("no root", |i| _ = i["sections"].as_array_mut().unwrap().remove(0)),
        ("an empty section", |i| i["sections"][1]["size"] = json!(0)),
        ("a section beyond the limit", |i| i["sections"][1]["size"] = json!(u64::MAX)),
        ("a block list that is too short", |i| i["sections"][0]["blocks"]["size"] = json!(327648)),
        ("a block list that is too long", |i| i["sections"][1]["blocks"]["size"] = json!(64)),
    ];
    for (what, change) in broken {
        let mut value = index();
        change(&mut value);
        assert!(OsIndex::parse(&serde_json::to_vec(&value).unwrap()).is_err(), "{what}");
    }
}

#[test]
fn the_host_uki_of_the_format_page_reads_back_as_itself() {
    let text = format!("cmdline: mbl.root={DIGEST} mbl.size=41943040\nosrel: ID=mbl\nosrel: VERSION_ID=1.1.0\n");
    let parsed = HostUki::parse(text.as_bytes()).unwrap();
    assert_eq!((parsed.size, parsed.version_id()), (41_943_040, Some("1.1.0")));
    assert_eq!(parsed.to_bytes().unwrap(), text.as_bytes());
}

#[test]
fn a_host_uki_of_another_form_is_refused() {
    let line = format!("cmdline: mbl.root={DIGEST} mbl.size=1\n");
    for bad in [
        String::new(),
        "osrel: ID=mbl\n".to_owned(),
        format!("{line}{line}"),
        format!("{line}init: /bin/sh\n"),
        format!("{line}\n"),
        format!("{line}osrel: ID\n"),
        format!("{line}osrel: id=mbl\n"),
        format!("{line}osrel: ID=a\nosrel: ID=b\n"),
        line.replace("=1", "=+1"),
        line.replace("=1", "=01"),
        line.replace("=1", "=1 init=/bin/sh"),
        line.replace("mbl.root", "root"),
        line.replace("=1\n", "=1\u{b}\n"),
    ] {
        assert!(HostUki::parse(bad.as_bytes()).is_err(), "{bad:?}");
    }
}

proptest! {
    #[test]
    fn every_host_uki_reads_back_as_itself(
        size: u64,
        bytes: [u8; 32],
        fields in prop::collection::btree_map("[A-Z_][A-Z0-9_]{0,20}", "[^\\p{Cc}]{0,40}", 0..20),
    ) {
        let uki = HostUki { root: Digest::from_bytes(bytes), size, os_release: fields };
        prop_assert_eq!(HostUki::parse(&uki.to_bytes().unwrap()).unwrap(), uki);
    }

    #[test]
    fn every_release_that_is_written_reads_back_as_itself(
        name in "[a-z][a-z0-9-]{0,20}",
        version in "[0-9]{1,3}\\.[0-9]{1,3}\\.(0|[1-9][0-9]{0,2})(-[a-z]{1,8})?",
        memory_bytes in 1_u64..,
        security: u32,
    ) {
        let mut release = parse(&release()).unwrap();
        let Ok(version) = version.parse() else { return Ok(()) };
        release.version = version;
        release.security_version.0 = security;
        let name = AppName::new(name).unwrap();
        release.components[1].path = format!("apps/{name}/1.json").parse().unwrap();
        if let Kind::Application { name: app, run } = &mut release.components[1].kind {
            (*app, run.memory_bytes) = (name, memory_bytes);
        }
        prop_assert_eq!(Release::parse(&release.to_bytes().unwrap()).unwrap(), release);
    }
}
