//! A certificate request is read or refused; one that is read was signed by the key that it carries and reads the same again.
//! The parser's files are included: the service around them would bring a database and a web server into every fuzz build.
#![no_main]

#[path = "../../../fleet/server/src/authority/certificate.rs"]
#[expect(dead_code, reason = "only the subject is read here")]
mod certificate;
#[path = "../../../fleet/server/src/authority/request.rs"]
mod request;

use certificate::{DeviceIdentity, SubjectError};
use libfuzzer_sys::fuzz_target;
use request::CertificateRequest;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = CertificateRequest::parse(bytes) {
        assert!(bytes.len() <= CertificateRequest::MAX_BYTES);
        assert_eq!(request.public_key.len(), 91);
        assert_eq!(CertificateRequest::parse(bytes), Ok(request));
    }
});
