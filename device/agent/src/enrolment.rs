//! The operational identity of a device: its account with the service and the certificate it was issued. Never talks to anyone.

use protocol_lwm2m::object::{Accounts, SecurityAccount, ServerAccount};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use crate::{
    identity::{ChainError, read_chain},
    key_store::{DeviceKey, KeptKey, KeyId, KeyStoreError},
    operational_key::OperationalKey,
    tls::Validities,
};

/// Accounts and certificate, kept and replaced together.
#[derive(Clone, Debug, PartialEq)]
pub struct Enrolment {
    /// Where the device is managed.
    pub accounts: Accounts,
    /// The operational certificate, the leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key that the certificate is for, if it is another than the device key.
    pub key: Option<OperationalKey>,
}

impl Enrolment {
    /// First and last second of the certificate.
    pub fn validity(&self) -> Validities {
        self.chain.first().map(Validities::of).unwrap_or_default()
    }
}

/// An [`Enrolment`] as it is kept: the one account that the device registers with, and the certificate as PEM.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EnrolmentText {
    uri: String,
    security_instance: u16,
    server_instance: u16,
    short_server_id: u16,
    lifetime_s: u32,
    default_pmin_s: u32,
    default_pmax_s: Option<u32>,
    disable_timeout_s: u32,
    store_notifications: bool,
    binding: String,
    certificate: String,
    /// The key of the certificate if it is another than the device key: itself as PEM, or which of the token's it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token_key: Option<KeyId>,
}

/// A kept enrolment that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EnrolmentError {
    /// The certificate cannot be read.
    #[error("the kept operational certificate is damaged")]
    Certificate(#[from] ChainError),
    /// The key of the certificate cannot be had.
    #[error("the key of the kept operational certificate cannot be used")]
    Key(#[from] KeyStoreError),
}

/// An enrolment without a server to register with, which is never kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the accounts name no management server")]
pub struct NoManagement;

impl TryFrom<&Enrolment> for EnrolmentText {
    type Error = NoManagement;

    fn try_from(enrolment: &Enrolment) -> Result<Self, NoManagement> {
        let accounts = &enrolment.accounts;
        let (security, server_instance, server) = accounts.management().ok_or(NoManagement)?;
        let instance = accounts.security.iter().find(|(_, account)| *account == security).map(|(id, _)| *id);
        let (key, token_key) = match enrolment.key.as_ref().map(OperationalKey::kept) {
            None => (None, None),
            Some(KeptKey::Pem(pem)) => (Some(pem.to_string()), None),
            Some(KeptKey::Token(id)) => (None, Some(*id)),
        };
        let certificate = enrolment.chain.iter().map(|der| {
            let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
            pem::encode_config(&pem::Pem::new("CERTIFICATE", der.as_ref()), config)
        });
        Ok(Self {
            uri: security.uri.clone(),
            security_instance: instance.unwrap_or(server_instance),
            server_instance,
            short_server_id: server.short_server_id,
            lifetime_s: server.lifetime,
            default_pmin_s: server.default_pmin,
            default_pmax_s: server.default_pmax,
            disable_timeout_s: server.disable_timeout,
            store_notifications: server.store_notifications,
            binding: server.binding.clone(),
            certificate: certificate.collect(),
            key,
            token_key,
        })
    }
}

impl EnrolmentText {
    /// The enrolment, of the device with this key.
    pub(crate) fn open(self, device: &DeviceKey) -> Result<Enrolment, EnrolmentError> {
        let text = self;
        // What the server's certificate must chain to is the factory's decision.
        let security = SecurityAccount::managed(text.uri, text.short_server_id);
        let server = ServerAccount {
            short_server_id: text.short_server_id,
            lifetime: text.lifetime_s,
            default_pmin: text.default_pmin_s,
            default_pmax: text.default_pmax_s,
            disable_timeout: text.disable_timeout_s,
            store_notifications: text.store_notifications,
            binding: text.binding,
        };
        let accounts = Accounts {
            security: [(text.security_instance, security)].into(),
            servers: [(text.server_instance, server)].into(),
        };
        let kept = text.key.map(|pem| KeptKey::Pem(pem.into())).or(text.token_key.map(KeptKey::Token));
        let key = kept.map(|kept| OperationalKey::open(kept, device)).transpose()?;
        Ok(Enrolment { accounts, chain: read_chain(&text.certificate)?, key })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An enrolment with a certificate of ten years.
    pub(crate) fn enrolment() -> Enrolment {
        let text = EnrolmentText {
            uri: "coaps+tcp://fleet.example:5685".to_owned(),
            security_instance: 1,
            server_instance: 2,
            short_server_id: 7,
            lifetime_s: 300,
            default_pmin_s: 1,
            default_pmax_s: Some(60),
            disable_timeout_s: 90,
            store_notifications: true,
            binding: "T".to_owned(),
            certificate: {
                let key = rcgen::KeyPair::generate().unwrap();
                let mut params = rcgen::CertificateParams::default();
                params.not_before = rcgen::date_time_ymd(2025, 1, 1);
                params.not_after = rcgen::date_time_ymd(2035, 1, 1);
                params.self_signed(&key).unwrap().pem()
            },
            key: None,
            token_key: None,
        };
        text.open(&DeviceKey::generate().unwrap()).unwrap()
    }

    #[test]
    fn an_enrolment_reads_back_as_itself() {
        let text = EnrolmentText::try_from(&enrolment()).unwrap();
        let kept = serde_json::to_string(&text).unwrap();
        let read: EnrolmentText = serde_json::from_str(&kept).unwrap();
        let device = DeviceKey::generate().unwrap();
        let again = read.open(&device).unwrap();
        assert_eq!(
            again.accounts.management().map(|(security, id, server)| (security.uri.clone(), id, server.lifetime)),
            Some(("coaps+tcp://fleet.example:5685".to_owned(), 2, 300))
        );
        assert_eq!(EnrolmentText::try_from(&again).unwrap().certificate, text.certificate);
        assert!(!kept.contains("key"), "the form is that of before as long as there is no other key");
        let rotated = Enrolment { key: Some(OperationalKey::beside(&device).unwrap()), ..again };
        let kept = serde_json::to_string(&EnrolmentText::try_from(&rotated).unwrap()).unwrap();
        let read: EnrolmentText = serde_json::from_str(&kept).unwrap();
        assert_eq!(read.open(&device).unwrap().key, rotated.key);
        let id = "00112233445566778899aabbccddeeff";
        let kept = kept.replacen("\"key\":", &format!("\"token_key\":\"{id}\",\"key\":"), 1);
        let mut read: EnrolmentText = serde_json::from_str(&kept).unwrap();
        assert_eq!(read.token_key.map(String::from).as_deref(), Some(id));
        read.key = None;
        let gone = read.open(&device);
        assert!(matches!(gone, Err(EnrolmentError::Key(KeyStoreError::NoOperational))), "no other key in its place");
    }
}
