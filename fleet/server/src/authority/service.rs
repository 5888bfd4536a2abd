//! The service authority: signs the certificates of the service's own ports and nothing else.

use std::{net::IpAddr, path::Path, time::Duration};

use protocol_types::UnixSeconds;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{AuthorityError, key_file, lifetime, serial_number, set_validity};

/// A key and its certificate that together may sign other certificates.
pub(super) struct SigningPair {
    pub(super) issuer: Issuer<'static, KeyPair>,
    pub(super) certificate: CertificateDer<'static>,
    pub(super) not_after: UnixSeconds,
}

impl std::fmt::Debug for SigningPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningPair").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

impl SigningPair {
    /// Makes an authority that signs end certificates only, and keeps it in `path`.
    pub(super) fn make(
        path: &Path,
        subject: &[(DnType, &str)],
        (now, lifetime): (UnixSeconds, Duration),
    ) -> Result<Self, AuthorityError> {
        let failed = |source| AuthorityError::Make { what: "a certificate authority", source };
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, text) in subject {
            params.distinguished_name.push(kind.clone(), *text);
        }
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(serial_number()?);
        set_validity(&mut params, now, lifetime)?;
        let certificate = params.self_signed(&key).map_err(failed)?;
        // Key and certificate share one file, so no crash can part them.
        key_file::write_private(path, &format!("{}{}", key.serialize_pem(), certificate.pem()))?;
        Self::of(path, key, certificate.der().clone())
    }

    /// Reads what [`SigningPair::make`] wrote; `None` if there is no such file.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, AuthorityError> {
        let Some(text) = key_file::read(path)? else { return Ok(None) };
        let damaged = || AuthorityError::Damaged { path: path.to_owned(), expected: "a key and its certificate" };
        let blocks = pem::parse_many(&text).map_err(|_| damaged())?;
        let [key, certificate] = blocks.as_slice() else { return Err(damaged()) };
        if key.tag() != "PRIVATE KEY" || certificate.tag() != "CERTIFICATE" {
            return Err(damaged());
        }
        let key = KeyPair::try_from(key.contents()).map_err(|_| damaged())?;
        Self::of(path, key, certificate.contents().to_vec().into()).map(Some)
    }

    fn of(path: &Path, key: KeyPair, certificate: CertificateDer<'static>) -> Result<Self, AuthorityError> {
        let damaged = || AuthorityError::Damaged { path: path.to_owned(), expected: "a key and its certificate" };
        let (_, parsed) = X509Certificate::from_der(&certificate).map_err(|_| damaged())?;
        let point: &[u8] = parsed.public_key().subject_public_key.as_ref();
        if point != key.public_key_raw() {
            return Err(damaged());
        }
        let not_after = u64::try_from(parsed.validity().not_after.timestamp()).map_err(|_| damaged())?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|_| damaged())?;
        Ok(Self { issuer, not_after: UnixSeconds(not_after), certificate })
    }
}

/// Signs the certificates of the service's ports.
#[derive(Debug)]
pub struct ServiceAuthority {
    pair: SigningPair,
    pem: String,
}

/// A certificate for the service's ports, with its key.
#[derive(Debug)]
pub struct ServerCertificate {
    /// The certificate; the authority that signed it is what clients have already.
    pub certificate: CertificateDer<'static>,
    /// Its private key, never written to a disk.
    pub key: PrivatePkcs8KeyDer<'static>,
    /// When its successor is due.
    pub renew_at: UnixSeconds,
}

impl ServiceAuthority {
    /// Reads the authority in `path`, or makes it.
    pub(super) fn open(path: &Path, now: UnixSeconds) -> Result<Self, AuthorityError> {
        let pair = match SigningPair::read(path)? {
            Some(pair) => pair,
            None => SigningPair::make(
                path,
                &[(DnType::CommonName, "mbl service authority")],
                (now, lifetime::SERVICE_AUTHORITY),
            )?,
        };
        let pem = pem::encode_config(
            &pem::Pem::new("CERTIFICATE", pair.certificate.to_vec()),
            pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
        );
        Ok(Self { pair, pem })
    }

    /// The certificate that clients of the service must trust, as PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.pem
    }

    /// The same certificate as DER.
    pub const fn certificate_der(&self) -> &CertificateDer<'static> {
        &self.pair.certificate
    }

    /// When the authority itself ends.
    pub const fn not_after(&self) -> UnixSeconds {
        self.pair.not_after
    }

    /// Signs a certificate with a fresh key for `hosts`, which are names or addresses.
    pub fn server_certificate(&self, hosts: &[String], now: UnixSeconds) -> Result<ServerCertificate, AuthorityError> {
        let failed = |source| AuthorityError::Make { what: "a server certificate", source };
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "mbl service");
        for host in hosts {
            params.subject_alt_names.push(match host.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(host.as_str().try_into().map_err(failed)?),
            });
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial_number()?);
        set_validity(&mut params, now, lifetime::SERVER)?;
        let certificate = params.signed_by(&key, &self.pair.issuer).map_err(failed)?;
        Ok(ServerCertificate {
            certificate: certificate.der().clone(),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()),
            renew_at: now.plus(lifetime::SERVER_RENEWAL),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

    #[test]
    fn the_authority_outlives_a_restart_and_its_key_is_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("service.pem");
        let first = ServiceAuthority::open(&path, NOW).unwrap();
        let second = ServiceAuthority::open(&path, NOW).unwrap();
        assert_eq!(first.certificate_pem(), second.certificate_pem());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(first.not_after(), NOW.plus(lifetime::SERVICE_AUTHORITY));
    }

    #[test]
    fn a_damaged_authority_stops_the_start_instead_of_being_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("service.pem");
        ServiceAuthority::open(&path, NOW).unwrap();
        let whole = std::fs::read_to_string(&path).unwrap();
        for kept in [0, whole.len() / 3, whole.len() - 40] {
            std::fs::write(&path, &whole[..kept]).unwrap();
            let refused = ServiceAuthority::open(&path, NOW).unwrap_err();
            assert!(matches!(refused, AuthorityError::Damaged { .. }), "{kept} bytes: {refused}");
        }
        let other = folder.path().join("other.pem");
        ServiceAuthority::open(&other, NOW).unwrap();
        let (key, certificate) =
            (pem::parse_many(&whole).unwrap(), pem::parse_many(std::fs::read(&other).unwrap()).unwrap());
        std::fs::write(&path, pem::encode_many(&[key[0].clone(), certificate[1].clone()])).unwrap();
        assert!(
            matches!(ServiceAuthority::open(&path, NOW), Err(AuthorityError::Damaged { .. })),
            "parted pair accepted"
        );
    }

    #[test]
    fn an_interrupted_first_start_leaves_nothing_that_hinders_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("service.pem");
        std::fs::write(path.with_added_extension("new"), "half a k").unwrap();
        ServiceAuthority::open(&path, NOW).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
