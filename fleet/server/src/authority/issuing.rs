//! The issuing authorities, one an account: each signs the operational certificates of its own account's devices alone.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use protocol_types::{AccountName, UnixSeconds};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyUsagePurpose, SubjectPublicKeyInfo};
use rustls_pki_types::CertificateDer;

use super::{
    AuthorityError, CertificateRequest, key_file, lifetime, serial_number, service::SigningPair, set_validity,
};

/// More generations than three-year keys can reach; a folder with more was not written by this service.
const MAX_GENERATIONS: u32 = 1000;

/// Every account's issuing authorities: the newest signs, the older ones are trusted until they end.
#[derive(Debug)]
pub struct IssuingAuthorities {
    folder: PathBuf,
    accounts: Mutex<HashMap<AccountName, Vec<Arc<SigningPair>>>>,
}

/// An operational certificate as it goes to the device and into the records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedCertificate {
    /// The certificate.
    pub der: Vec<u8>,
    /// Its serial number in lower-case hexadecimal digits.
    pub serial: String,
    /// When it ends.
    pub not_after: UnixSeconds,
}

/// A certificate that was not issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The account's authority could not be opened or made.
    #[error("no issuing authority for the account")]
    Authority(#[from] AuthorityError),
    /// Signing failed.
    #[error("cannot sign the certificate")]
    Sign(#[source] rcgen::Error),
}

impl IssuingAuthorities {
    /// Opens the authorities below `folder`.
    pub(super) fn open(folder: &Path) -> Result<Self, AuthorityError> {
        key_file::private_folder(folder)?;
        let failed = |source| AuthorityError::File { action: "list", path: folder.to_owned(), source };
        let mut accounts = HashMap::new();
        for entry in fs::read_dir(folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_str().and_then(|name| AccountName::new(name).ok());
            let account = name.ok_or_else(|| AuthorityError::Damaged {
                path: entry.path(),
                expected: "the issuing authorities of an account",
            })?;
            accounts.insert(account, read_generations(&entry.path())?);
        }
        Ok(Self { folder: folder.to_owned(), accounts: Mutex::new(accounts) })
    }

    /// The certificates of the account's authorities that have not ended, the one that signs now first. Makes the account's first
    /// authority, or a successor to one that is near its end: this writes to the disk.
    pub fn certificates(
        &self,
        account: &AccountName,
        now: UnixSeconds,
    ) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
        let current = self.current(account, now)?;
        let accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let older = accounts.get(account).into_iter().flatten().filter(|pair| pair.not_after > now);
        let mut certificates = vec![current.certificate.clone()];
        certificates.extend(older.map(|pair| pair.certificate.clone()).filter(|c| *c != current.certificate));
        Ok(certificates)
    }

    /// Accounts that have an authority already.
    pub fn accounts(&self) -> Vec<AccountName> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// Issues an operational certificate for what `request` asks; the caller has decided that its sender may have it.
    pub fn issue(&self, request: &CertificateRequest, now: UnixSeconds) -> Result<IssuedCertificate, IssueError> {
        let authority = self.current(&request.identity.account, now)?;
        let key = SubjectPublicKeyInfo::from_der(&request.public_key).map_err(IssueError::Sign)?;
        let serial = serial_number()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, request.identity.account.as_str());
        params.distinguished_name.push(DnType::CommonName, request.identity.endpoint.as_str());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial.clone());
        let not_after = set_validity(&mut params, now, lifetime::OPERATIONAL)?;
        let certificate = params.signed_by(&key, &authority.issuer).map_err(IssueError::Sign)?;
        Ok(IssuedCertificate { der: certificate.der().to_vec(), serial: hex::encode(serial.to_bytes()), not_after })
    }

    fn current(&self, account: &AccountName, now: UnixSeconds) -> Result<Arc<SigningPair>, AuthorityError> {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let generations = accounts.entry(account.clone()).or_default();
        if let Some(newest) = generations.last()
            && newest.not_after > now.plus(lifetime::ISSUING_MARGIN)
        {
            return Ok(newest.clone());
        }
        let folder = self.folder.join(account.as_str());
        key_file::private_folder(&folder)?;
        let path = folder.join(format!("{}.pem", generations.len() + 1));
        let subject = [
            (DnType::OrganizationName, account.as_str()),
            (DnType::CommonName, &format!("mbl issuing authority {}", generations.len() + 1)),
        ];
        let made = Arc::new(SigningPair::make(&path, &subject, (now, lifetime::ISSUING_AUTHORITY))?);
        generations.push(made.clone());
        Ok(made)
    }
}

fn read_generations(folder: &Path) -> Result<Vec<Arc<SigningPair>>, AuthorityError> {
    let mut generations = Vec::new();
    for number in 1..=MAX_GENERATIONS {
        match SigningPair::read(&folder.join(format!("{number}.pem")))? {
            Some(pair) => generations.push(Arc::new(pair)),
            None => break,
        }
    }
    Ok(generations)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::authority::CertificateFacts;

    const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

    fn request(account: &str, endpoint: &str) -> CertificateRequest {
        let key = rcgen::KeyPair::generate().unwrap();
        CertificateRequest::parse(&crate::authority::request::tests::request(account, endpoint, &key)).unwrap()
    }

    #[test]
    fn an_issued_certificate_names_what_was_asked_and_lives_thirty_days() {
        let folder = tempfile::tempdir().unwrap();
        let authorities = IssuingAuthorities::open(&folder.path().join("issuing")).unwrap();
        let issued = authorities.issue(&request("default", "gate-42"), NOW).unwrap();
        let facts = CertificateFacts::parse(&issued.der).unwrap();
        assert_eq!((facts.identity.account.as_str(), facts.identity.endpoint.as_str()), ("default", "gate-42"));
        assert_eq!(facts.serial, issued.serial);
        assert_eq!(facts.not_after.since(NOW), Duration::from_secs(30 * 86_400));
    }

    #[test]
    fn two_certificates_for_one_key_have_two_serial_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let authorities = IssuingAuthorities::open(&folder.path().join("issuing")).unwrap();
        let request = request("default", "gate-42");
        let serials =
            [authorities.issue(&request, NOW).unwrap().serial, authorities.issue(&request, NOW).unwrap().serial];
        assert_ne!(serials[0], serials[1]);
    }

    #[test]
    fn a_successor_signs_before_the_end_and_the_older_one_stays_trusted_until_then() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("issuing");
        let account = AccountName::new("default").unwrap();
        let authorities = IssuingAuthorities::open(&path).unwrap();
        let first = authorities.certificates(&account, NOW).unwrap();
        let near_end = NOW.plus(lifetime::ISSUING_AUTHORITY - lifetime::ISSUING_MARGIN);
        let both = authorities.certificates(&account, near_end).unwrap();
        assert_eq!((both.len(), &both[1]), (2, &first[0]));
        let reopened = IssuingAuthorities::open(&path).unwrap();
        assert_eq!(reopened.certificates(&account, near_end).unwrap(), both, "a restart lost a generation");
        let after = NOW.plus(lifetime::ISSUING_AUTHORITY);
        assert_eq!(
            authorities.certificates(&account, after).unwrap(),
            both[..1],
            "an ended authority is still trusted"
        );
    }

    #[test]
    fn accounts_do_not_share_an_authority() {
        let folder = tempfile::tempdir().unwrap();
        let authorities = IssuingAuthorities::open(&folder.path().join("issuing")).unwrap();
        let of = |name| authorities.certificates(&AccountName::new(name).unwrap(), NOW).unwrap();
        assert_ne!(of("one"), of("two"));
    }
}
