//! Any lines are a log whose entries follow each other, or are refused at the first one that does not.
#![no_main]

use fleet_api::{AuditChain, AuditFault};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut chain = AuditChain::default();
    for line in text.lines() {
        let before = chain.clone();
        match chain.take(line) {
            Ok(entry) => assert_eq!(chain.head().map(|(_, number, _)| number), Some(entry.number)),
            Err(AuditFault::Form | AuditFault::Hash { .. }) => assert_eq!(chain, before),
            Err(_) => return,
        }
    }
});
