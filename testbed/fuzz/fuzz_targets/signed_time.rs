//! Any bytes are a time that the service told, or none; and any text is a time key, or none. Nothing is believed that the key did not sign.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol_time::TimeKey;
use protocol_types::SignedTime;

/// A key whose private half nobody kept.
const KEY: &str = "\
-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEw+BJXXnDJDuClVJH+Yz3HKuaFGLW
43CDskpLKZxkbqwhkHpys0ca3XmsLhOEJZDsbGzeu83+DcyRZo+2Qkzbdw==
-----END PUBLIC KEY-----
";

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        drop(TimeKey::from_pem(text));
    }
    if let Ok(told) = serde_json::from_slice::<SignedTime>(data) {
        let key = TimeKey::from_pem(KEY).expect("a key");
        assert!(!key.has_signed(&told));
    }
});
