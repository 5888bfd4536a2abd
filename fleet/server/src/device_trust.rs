//! Keeps the authorities that device certificates must chain to as the store and the issuing authorities have them.

use std::{collections::BTreeMap, sync::Arc};

use fleet_store::StoreError;
use protocol_types::{AccountName, UnixSeconds};
use rustls_pki_types::CertificateDer;

use crate::{
    authority::{Authority, AuthorityError},
    fleet::Fleet,
    tls::{TlsError, TrustedAuthorities},
};

/// Whose signature makes a device certificate.
#[derive(Debug, Default)]
pub(crate) struct DeviceTrust {
    /// Factory authorities, for the bootstrap port.
    pub(crate) factories: Arc<TrustedAuthorities>,
    /// Issuing authorities, for the management and artifact ports.
    pub(crate) issuers: Arc<TrustedAuthorities>,
    /// Two uploads at once must not put the older list in place last.
    loading: tokio::sync::Mutex<()>,
}

impl DeviceTrust {
    /// Trusts what the account's issuing authorities are now.
    pub(crate) fn trust_issuers(
        &self,
        authority: &Authority,
        account: &AccountName,
        now: UnixSeconds,
    ) -> Result<(), IssuersError> {
        let certificates = authority.issuing.certificates(account, now)?;
        if !self.issuers.are(account, &certificates) {
            let named = certificates.into_iter().enumerate().map(|(n, certificate)| (n.to_string(), certificate));
            self.issuers.replace(account, named)?;
        }
        Ok(())
    }
}

/// The issuing authorities of an account cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IssuersError {
    #[error("cannot open the issuing authorities of the account")]
    Authority(#[from] AuthorityError),
    #[error("cannot trust the issuing authorities of the account")]
    Tls(#[from] TlsError),
}

/// Trusts exactly the factory authorities that the store has now.
pub(crate) async fn reload_factories(fleet: &Fleet) -> Result<(), StoreError> {
    let trust = &fleet.trust;
    let _loading = trust.loading.lock().await;
    let mut accounts: BTreeMap<AccountName, Vec<(String, CertificateDer<'static>)>> = BTreeMap::new();
    for row in fleet.store.service_wide().trusted_authorities().await? {
        accounts.entry(row.account).or_default().push((row.id, row.certificate.into()));
    }
    for account in trust.factories.accounts().into_iter().filter(|account| !accounts.contains_key(account)) {
        trust.factories.forget(&account);
    }
    for (account, authorities) in accounts {
        // Every authority was checked when it was uploaded; one that no longer passes must not shut out the others.
        if let Err(error) = trust.factories.replace(&account, authorities) {
            tracing::error!(%account, error = %crate::Chain(&error), "the factory authorities of an account cannot be used");
        }
    }
    Ok(())
}

/// Trusts the issuing authorities of every account that has one, making successors to those that are near their end.
pub(crate) async fn renew_issuers(fleet: &Fleet, now: UnixSeconds) {
    let fleet = fleet.clone();
    // A successor is written to the disk.
    let renewed = tokio::task::spawn_blocking(move || {
        for account in fleet.authority.issuing.accounts() {
            if let Err(error) = fleet.trust.trust_issuers(&fleet.authority, &account, now) {
                let error = crate::Chain(&error);
                tracing::error!(%account, %error, "the issuing authorities of an account cannot be used");
            }
        }
    });
    if let Err(error) = renewed.await {
        tracing::error!(%error, "issuing authorities were not renewed");
    }
}
