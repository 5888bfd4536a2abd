//! Certificates and factory documents for tests, made with fresh keys each time.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::Arc,
};

use protocol_types::{FactoryDocument, UnixSeconds};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// An authority that signs what tests want signed.
pub(crate) struct Authority {
    pub(crate) issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
    pub(crate) der: CertificateDer<'static>,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key).unwrap();
        Self { pem: certificate.pem(), der: certificate.der().clone(), issuer: Issuer::new(params, key) }
    }

    /// A certificate for a PKCS#10 request in PEM that names nobody.
    pub(crate) fn sign_unnamed(&self, request: &str, (account, endpoint): (&str, &str)) -> String {
        let mut request = CertificateSigningRequestParams::from_pem(request).unwrap();
        let subject = &mut request.params.distinguished_name;
        assert_eq!(subject.iter().count(), 0, "{subject:?}");
        subject.push(DnType::OrganizationName, account);
        subject.push(DnType::CommonName, endpoint);
        (request.params.not_before, request.params.not_after) =
            (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2120, 1, 1));
        request.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        request.signed_by(&self.issuer).unwrap().pem()
    }

    /// A certificate for a PKCS#10 request in PEM, valid between two years.
    pub(crate) fn sign_request(&self, request: &str, (from, to): (i32, i32)) -> String {
        let mut request = CertificateSigningRequestParams::from_pem(request).unwrap();
        request.params.not_before = rcgen::date_time_ymd(from, 1, 1);
        request.params.not_after = rcgen::date_time_ymd(to, 1, 1);
        request.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        request.signed_by(&self.issuer).unwrap().pem()
    }

    /// A certificate for a PKCS#10 request in DER, valid between two Unix times.
    pub(crate) fn sign_der(&self, request: &[u8], (from, to): (u64, u64)) -> CertificateDer<'static> {
        let mut request = CertificateSigningRequestParams::from_der(&request.into()).unwrap();
        let at = |second| rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(second);
        (request.params.not_before, request.params.not_after) = (at(from), at(to));
        request.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        request.signed_by(&self.issuer).unwrap().der().clone()
    }

    /// A server certificate for 127.0.0.1 that is valid from the first day of a year on.
    pub(crate) fn server(&self, from: i32) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(from + 10, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }
}

/// The authorities of one service and one factory.
pub(crate) struct World {
    pub(crate) service: Authority,
    pub(crate) factory: Authority,
    pub(crate) issuing: Authority,
    pub(crate) time_key: KeyPair,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            service: Authority::new("service authority"),
            factory: Authority::new("factory authority"),
            issuing: Authority::new("issuing authority"),
            time_key: KeyPair::generate().unwrap(),
        }
    }

    pub(crate) fn document(&self, endpoint: &str, account: &str, bootstrap_uri: &str) -> FactoryDocument {
        FactoryDocument {
            format: 1,
            endpoint: endpoint.parse().unwrap(),
            account: account.parse().unwrap(),
            board: "host".parse().unwrap(),
            architecture: "x86_64".parse().unwrap(),
            bootstrap_uri: bootstrap_uri.to_owned(),
            service_authority: self.service.pem.clone(),
            tuf_root: r#"{"signed":{},"signatures":[]}"#.to_owned(),
            time_key: self.time_key.public_key_pem(),
            provisioned: UnixSeconds(1_767_225_600),
            recovery_key: None,
        }
    }

    /// A TLS server that asks for certificates of the factory or issuing authority.
    pub(crate) fn server_config(&self, alpn: &[u8]) -> Arc<rustls::ServerConfig> {
        self.server_config_from(alpn, 2020, &[&self.factory, &self.issuing])
    }

    /// One whose certificate is valid from a year on and that takes certificates of these authorities.
    pub(crate) fn server_config_from(
        &self,
        alpn: &[u8],
        from: i32,
        clients: &[&Authority],
    ) -> Arc<rustls::ServerConfig> {
        let provider = device_agent::tls::provider();
        let mut roots = rustls::RootCertStore::empty();
        clients.iter().for_each(|authority| roots.add(authority.der.clone()).unwrap());
        let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .build()
            .unwrap();
        let (certificate, key) = self.service.server(from);
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![certificate], key)
            .unwrap();
        config.alpn_protocols = vec![alpn.to_vec()];
        Arc::new(config)
    }
}

/// The factory step of the real program, with its request read.
pub(crate) struct Step {
    child: Child,
    pub(crate) request: String,
}

pub(crate) fn begin_factory_step(device_dir: &Path, endpoint: &str, account: &str) -> Step {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mbl-agent"));
    command.args(["factory", "--endpoint", endpoint, "--account", account, "--device-dir"]).arg(device_dir);
    begin_step(command)
}

/// A factory step as the given command runs it.
pub(crate) fn begin_step(mut command: Command) -> Step {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut request = String::new();
    while !request.contains("END CERTIFICATE REQUEST") && lines.read_line(&mut request).unwrap() > 0 {}
    Step { child, request }
}

impl Step {
    /// Hands over a package and waits for the end.
    pub(crate) fn finish(mut self, package: &str) -> Output {
        // A program that refused before it read anything has closed its input, which is its good right.
        drop(self.child.stdin.take().unwrap().write_all(package.as_bytes()));
        self.child.wait_with_output().unwrap()
    }
}

pub(crate) fn package(document: &FactoryDocument, certificate: &str) -> String {
    serde_json::json!({ "document": document, "certificate": certificate }).to_string()
}

/// A device folder that went through the factory step of the real program.
pub(crate) fn provisioned(world: &World, device_dir: &Path, bootstrap_uri: &str) -> FactoryDocument {
    let document = world.document("gate-42", "acme", bootstrap_uri);
    let step = begin_factory_step(device_dir, "gate-42", "acme");
    let certificate = world.factory.sign_request(&step.request, (2020, 2120));
    let output = step.finish(&package(&document, &certificate));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    document
}
