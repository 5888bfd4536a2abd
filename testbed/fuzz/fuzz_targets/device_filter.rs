//! Any text is a filter that reads back as itself, or is refused at a place within it.
#![no_main]

use fleet_store::Filter;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match text.parse::<Filter>() {
        Ok(filter) => assert_eq!(filter.to_string().parse::<Filter>().as_ref(), Ok(&filter)),
        Err(refused) => assert!(refused.at + refused.length <= text.chars().count()),
    }
});
