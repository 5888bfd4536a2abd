//! Any answer of a TEE is eight words of 32 bits each, or is refused; bytes and words are the same thing.
#![no_main]

use device_tee::message::{Parameter, from_bytes, to_bytes, words};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: [u64; 8]| {
    let [a, b, c, d, e, f, g, h] = data;
    let answer = [(a, b), (c, d), (e, f), (g, h)].map(|(a, b)| Parameter { a, b, ..Parameter::default() });
    let fits = data.iter().all(|value| *value <= u64::from(u32::MAX));
    match words(&answer) {
        Some(words) => {
            assert!(fits && words.iter().zip(data).all(|(word, value)| u64::from(*word) == value));
            assert_eq!(from_bytes(&to_bytes(&words)), words);
        }
        None => assert!(!fits),
    }
});
