//! Any document of an image is read or refused; what was read stays within the limits.
#![no_main]

use device_apps::{
    image::{Configuration, Manifest, Platform, TopDocument, parse_top, resolve_user},
    limits::Limits,
};
use libfuzzer_sys::fuzz_target;
use protocol_types::Architecture;

fuzz_target!(|bytes: &[u8]| {
    let platform = Platform::of(&Architecture::new("x86_64").expect("a proper name"));
    match parse_top(bytes) {
        Ok(TopDocument::Index(index)) => {
            if let Ok(chosen) = index.choose(&platform) {
                assert!(chosen.size <= Limits::DOCUMENT_BYTES);
            }
        }
        Ok(TopDocument::Manifest(manifest)) => {
            assert_eq!(Manifest::parse(bytes).expect("it was read before"), manifest);
            assert!((1..=Limits::LAYERS).contains(&manifest.layers.len()));
            assert!(manifest.configuration.size <= Limits::DOCUMENT_BYTES);
        }
        Err(_) => {}
    }
    if let Ok(configuration) = Configuration::parse(bytes, &platform, 1) {
        assert_eq!(configuration.diff_ids.len(), 1);
        assert!(!configuration.process.args.is_empty() && configuration.process.working_dir.starts_with('/'));
        if let Ok(ids) = resolve_user(&configuration.process.user, "", "") {
            assert!(ids.uid < Limits::OWNERS && ids.gid < Limits::OWNERS);
        }
    }
});
