//! A certificate that a stranger shows in a handshake is read or refused; who it names has the form of a name.
//! The parser's file is included: the service around it would bring a database and a web server into every fuzz build.
#![no_main]

#[path = "../../../fleet/server/src/authority/certificate.rs"]
mod certificate;

use certificate::CertificateFacts;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(facts) = CertificateFacts::parse(bytes) {
        assert!(bytes.len() <= CertificateFacts::MAX_BYTES);
        assert!(facts.serial.len() <= 42 && facts.serial.bytes().all(|b| b.is_ascii_hexdigit()));
        assert!(facts.identity.endpoint.as_str().len() <= 64);
    }
});
