//! What a device uses an operational certificate for: TLS towards management and artifacts, and its renewal. Never connects.

use std::sync::Arc;

use protocol_lwm2m::object::Accounts;
use rustls::{ClientConfig, sign::CertifiedKey};

use crate::{
    clock::Present,
    enrolment::Enrolment,
    identity::Identity,
    operational_key::OperationalKey,
    renewal::Renewal,
    tls::{ALPN_COAP, ALPN_HTTP, Trust, TrustError, Validity},
};

/// An enrolment in use.
#[derive(Debug)]
pub(crate) struct Operational {
    enrolment: Enrolment,
    credential: Arc<CertifiedKey>,
    management: Arc<ClientConfig>,
    artifacts: Arc<ClientConfig>,
    renewal: Renewal,
}

impl Operational {
    pub(crate) fn new(enrolment: Enrolment, identity: &Identity, trust: &Trust) -> Result<Self, TrustError> {
        let key = enrolment.key.as_ref().map_or(identity.key(), OperationalKey::key);
        let credential = key.with_chain(enrolment.chain.clone());
        Ok(Self {
            management: trust.client(credential.clone(), ALPN_COAP, Validity::Strict)?,
            artifacts: trust.client(credential.clone(), ALPN_HTTP, Validity::Strict)?,
            renewal: Renewal::of(enrolment.validity()),
            credential,
            enrolment,
        })
    }

    pub(crate) const fn enrolment(&self) -> &Enrolment {
        &self.enrolment
    }

    pub(crate) fn set_accounts(&mut self, accounts: Accounts) {
        self.enrolment.accounts = accounts;
    }

    pub(crate) fn credential(&self) -> Arc<CertifiedKey> {
        self.credential.clone()
    }

    /// For CoAP with the management server; sessions are resumed.
    pub(crate) const fn management(&self) -> &Arc<ClientConfig> {
        &self.management
    }

    /// For HTTP with the artifact server; sessions are resumed.
    pub(crate) const fn artifacts(&self) -> &Arc<ClientConfig> {
        &self.artifacts
    }

    pub(crate) const fn renewal(&self) -> &Renewal {
        &self.renewal
    }

    pub(crate) const fn renewal_mut(&mut self) -> &mut Renewal {
        &mut self.renewal
    }

    /// Whether the certificate is surely over.
    pub(crate) fn is_expired(&self, present: Present) -> bool {
        present.earliest() >= self.enrolment.validity().not_after
    }
}
