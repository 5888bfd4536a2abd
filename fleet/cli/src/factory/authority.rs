//! The factory's certificate authority: a key that vouches for new devices, encrypted at rest, and its certificate.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use protocol_types::{AccountName, Digest, EndpointName, UnixSeconds};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SerialNumber,
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use x509_parser::prelude::{FromDer as _, X509CertificationRequest};

use crate::{
    durable::write_private,
    failure::{Exit, Failure},
    keys::sealed_key,
    secret::Secret,
};

const CERTIFICATE: &str = "authority-cert.pem";
const KEY: &str = "authority-key.pem";
/// Devices live long and their factory certificates are never renewed (RFC 5280, section 4.1.2.5).
const NO_END: UnixSeconds = UnixSeconds(253_402_300_799);

/// A factory authority in its folder.
#[derive(Clone, Debug)]
pub(crate) struct FactoryAuthority {
    folder: PathBuf,
}

impl FactoryAuthority {
    /// Makes a key and a self-signed certificate for the devices of `account`.
    pub(crate) fn create(
        folder: &Path,
        account: &AccountName,
        secret: &Secret,
        now: UnixSeconds,
    ) -> anyhow::Result<Self> {
        if folder.join(CERTIFICATE).exists() || folder.join(KEY).exists() {
            return Err(Failure::new(Exit::Failed, format!("{} already holds an authority", folder.display()))
                .hint("choose another folder; keys are never overwritten")
                .into());
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("cannot make a key")?;
        let mut params = CertificateParams::default();
        params.distinguished_name = name(account, "factory authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(serial()?);
        params.not_before = date(now)?;
        params.not_after = date(NO_END)?;
        let certificate = params.self_signed(&key).context("cannot sign the certificate")?;
        let der = zeroize::Zeroizing::new(key.serialize_der());
        write_private(&folder.join(KEY), sealed_key::seal(&der, secret)?.as_bytes())?;
        let path = folder.join(CERTIFICATE);
        fs::write(&path, certificate.pem()).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// The authority in `folder`.
    pub(crate) fn open(folder: &Path) -> anyhow::Result<Self> {
        if !folder.join(CERTIFICATE).is_file() {
            return Err(Failure::new(Exit::Failed, format!("{} holds no factory authority", folder.display()))
                .hint(format!("make one with `mbl factory authority init --dir {}`", folder.display()))
                .into());
        }
        Ok(Self { folder: folder.to_owned() })
    }

    /// Its certificate as PEM.
    pub(crate) fn certificate(&self) -> anyhow::Result<String> {
        let path = self.folder.join(CERTIFICATE);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// SHA-256 of its certificate in lower-case hexadecimal digits, as the service shows it.
    pub(crate) fn fingerprint(&self) -> anyhow::Result<String> {
        let certificate = pem::parse(self.certificate()?).context("the authority's certificate is no PEM")?;
        Ok(Digest::of(certificate.contents()).hex())
    }

    /// Where its key and certificate are.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A factory certificate for the key in `request`, whose subject must be exactly this device, or nobody: a board learns who it is
    /// from the factory.
    pub(crate) fn certify(
        &self,
        request: &str,
        (account, endpoint): (&AccountName, &EndpointName),
        secret: &Secret,
        now: UnixSeconds,
    ) -> anyhow::Result<String> {
        let subject = name(account, endpoint.as_str());
        // rcgen checks that the request is signed with the key in it.
        let asked = CertificateSigningRequestParams::from_pem(request)
            .context("the device answered with no certificate request")?;
        if !asks_for(request, account, endpoint) {
            let message =
                format!("the device asks for a certificate of another subject than O={account}, CN={endpoint}");
            return Err(Failure::new(Exit::Failed, message)
                .hint("give the device program the same --endpoint and account")
                .into());
        }
        // Nothing but the key and the subject is taken from the request.
        let mut params = CertificateParams::default();
        params.distinguished_name = subject;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(serial()?);
        params.use_authority_key_identifier_extension = true;
        params.not_before = date(now)?;
        params.not_after = date(NO_END)?;
        let der = sealed_key::unseal(&self.folder.join(KEY), secret)?;
        let key =
            KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(der.as_slice()), &PKCS_ECDSA_P256_SHA256)
                .context("the authority's key is not one on P-256")?;
        let own = self.certificate()?;
        let issuer = Issuer::from_ca_cert_pem(&own, key).context("the authority's certificate cannot be read")?;
        let certificate =
            params.signed_by(&asked.public_key, &issuer).context("cannot sign the factory certificate")?;
        Ok(certificate.pem())
    }
}

/// Whether the subject of the request is this device and nothing more, however its strings are encoded, or empty.
fn asks_for(request: &str, account: &AccountName, endpoint: &EndpointName) -> bool {
    let Ok(pem) = pem::parse(request) else { return false };
    let Ok((_, request)) = X509CertificationRequest::from_der(pem.contents()) else { return false };
    let subject = &request.certification_request_info.subject;
    let parts: Option<Vec<(String, &str)>> = subject
        .iter_attributes()
        .map(|part| part.as_str().ok().map(|text| (part.attr_type().to_id_string(), text)))
        .collect();
    parts.is_some_and(|mut parts| {
        parts.sort_unstable();
        // Organization is 2.5.4.10, common name 2.5.4.3 (X.520).
        parts.is_empty()
            || parts == [("2.5.4.10".to_owned(), account.as_str()), ("2.5.4.3".to_owned(), endpoint.as_str())]
    })
}

fn date(at: UnixSeconds) -> anyhow::Result<time::OffsetDateTime> {
    time::OffsetDateTime::from_unix_timestamp(i64::try_from(at.0)?).context("a time that no certificate can carry")
}

fn name(account: &AccountName, common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, account.as_str());
    name.push(DnType::CommonName, common);
    name
}

/// 127 random bits (RFC 5280, section 4.1.2.2).
fn serial() -> anyhow::Result<SerialNumber> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).context("cannot get random bytes")?;
    if let Some(first) = bytes.first_mut() {
        *first &= 0x7f;
    }
    Ok(SerialNumber::from_slice(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

    fn request(subject: &[(DnType, &str)]) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, text) in subject {
            params.distinguished_name.push(kind.clone(), *text);
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        params.serialize_request(&key).unwrap().pem().unwrap()
    }

    fn names() -> (AccountName, EndpointName) {
        (AccountName::new("default").unwrap(), EndpointName::new("gate-42").unwrap())
    }

    #[test]
    fn a_certificate_chains_to_the_authority_and_names_the_device() {
        let dir = tempfile::tempdir().unwrap();
        let secret = Secret::new("correct horse".to_owned());
        let (account, endpoint) = names();
        let authority = FactoryAuthority::create(dir.path(), &account, &secret, NOW).unwrap();
        let named = request(&[(DnType::OrganizationName, "default"), (DnType::CommonName, "gate-42")]);
        for asked in [named, request(&[])] {
            let certificate = authority.certify(&asked, (&account, &endpoint), &secret, NOW).unwrap();
            let [own, issued] = [authority.certificate().unwrap(), certificate].map(|text| pem::parse(text).unwrap());
            let (_, own) = x509_parser::parse_x509_certificate(own.contents()).unwrap();
            let (_, issued) = x509_parser::parse_x509_certificate(issued.contents()).unwrap();
            assert_eq!(issued.issuer(), own.subject());
            assert_eq!(issued.subject().to_string(), "O=default, CN=gate-42");
            assert!(!issued.is_ca() && own.is_ca());
            issued.verify_signature(Some(own.public_key())).unwrap();
        }
        assert!(
            FactoryAuthority::create(dir.path(), &account, &secret, NOW).is_err(),
            "an authority is never overwritten"
        );
    }

    #[test]
    fn a_request_of_another_subject_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let secret = Secret::new("correct horse".to_owned());
        let (account, endpoint) = names();
        let authority = FactoryAuthority::create(dir.path(), &account, &secret, NOW).unwrap();
        for subject in [
            vec![(DnType::OrganizationName, "default"), (DnType::CommonName, "gate-43")],
            vec![(DnType::OrganizationName, "other"), (DnType::CommonName, "gate-42")],
            vec![(DnType::CommonName, "gate-42")],
            vec![(DnType::OrganizationName, "default"), (DnType::CommonName, "gate-42"), (DnType::CountryName, "FI")],
        ] {
            let refused = authority.certify(&request(&subject), (&account, &endpoint), &secret, NOW).unwrap_err();
            assert!(refused.to_string().contains("another subject"), "{refused}");
        }
        assert!(authority.certify("hello", (&account, &endpoint), &secret, NOW).is_err());
    }
}
