//! The operational certificate of a session: asked for, taken, renewed, and given up at its end.

use protocol_lwm2m::{
    client::Fact,
    coap::{ExchangeError, Message},
    object::Accounts,
};
use rustls_pki_types::CertificateDer;

use super::{AUTHORITY, CERTIFICATE, RENEWAL, Session};
use crate::{
    cause::Chain, durable::DurableError, enrolment::Enrolment, est, identity::Identity, operational::Operational,
    operational_key::OperationalKey, random, renewal::Due,
};

/// A certificate for a new key that was asked for.
pub(super) struct Rotating {
    /// The number of the wish.
    wish: u64,
    key: OperationalKey,
}

/// Whether the key store may hold keys that no certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UnusedKeys {
    /// They were looked for, and none was made since.
    None,
    /// One may have been left, be it by an earlier start.
    Possible,
}

/// The question for the next certificate, for the key of the present one.
fn ask_again(operational: &Operational, identity: &Identity) -> Result<Message, est::EstError> {
    let key = operational.enrolment().key.as_ref().map_or(identity.key(), OperationalKey::key);
    est::ask_renewal(identity, key)
}

/// An enrolment on the bootstrap connection.
pub(super) struct Enrolling {
    pub(super) accounts: Accounts,
    pub(super) authority: Option<CertificateDer<'static>>,
}

impl Session {
    pub(super) fn answered(&mut self, id: u64, result: Result<Message, ExchangeError>) {
        let answer = est::certificate(result);
        let next = match id {
            AUTHORITY => answer.and_then(|authority| {
                let request = est::ask_certificate(&self.device.identity)?;
                self.enrolling.iter_mut().for_each(|enrolling| enrolling.authority = Some(authority.clone()));
                Ok(Fact::Request { id: CERTIFICATE, request })
            }),
            CERTIFICATE => answer.and_then(|issued| self.enrolled(issued)),
            _ => {
                let renewed = answer.and_then(|issued| self.renewed(issued));
                self.asked_for_new_key(&renewed);
                if let Err(e) = renewed {
                    tracing::warn!(error = %Chain(&e), "the operational certificate was not renewed");
                    let monotonic = self.monotonic();
                    self.operational.iter_mut().for_each(|it| it.renewal_mut().failed(monotonic, random::number()));
                }
                return;
            }
        };
        let fact = next.unwrap_or_else(|e| {
            tracing::warn!(error = %Chain(&e), "no operational certificate was issued");
            if matches!(e, est::EstError::Validity) {
                // It was issued just now, so this clock is wrong.
                self.ask_time();
            }
            self.enrolling = None;
            Fact::EnrolFailed
        });
        self.due.push_back(fact);
    }

    pub(super) fn enrolled(&mut self, issued: CertificateDer<'static>) -> Result<Fact, est::EstError> {
        let Some(Enrolling { accounts, authority }) = self.enrolling.take() else { return Ok(Fact::EnrolFailed) };
        let identity = &self.device.identity;
        let chain = est::accept(issued, authority.as_ref(), (identity, identity.key()), self.present())?;
        tracing::info!("operational certificate issued");
        let enrolment = Enrolment { accounts, chain, key: None };
        self.keep_or_remember(&enrolment)?;
        self.take_up(enrolment);
        self.device.facts.rotation.settle(Err("the device had to enrol anew with its device key".to_owned()));
        Ok(Fact::Enrolled)
    }

    /// Keeps an enrolment for the device key. If the state cannot be written, it lasts until the agent restarts, which then enrols anew:
    /// without a certificate nobody would hear from the device what is wrong. But with one on the state that is still good a restart would
    /// go back to that, and the device look like a copy of itself (`docs/formats/device-wire.md`).
    fn keep_or_remember(&self, enrolment: &Enrolment) -> Result<(), DurableError> {
        let Err(e) = self.device.state.keep_enrolment(enrolment) else { return Ok(()) };
        // The service's own clock says so, whatever this one does.
        let is_over = |former: &Operational| former.enrolment().validity().not_after <= enrolment.validity().not_before;
        if self.operational.as_ref().is_none_or(is_over) {
            tracing::error!(error = %Chain(&e), "the operational certificate lasts until the agent restarts only");
            return Ok(());
        }
        Err(e)
    }

    pub(super) fn renewed(&mut self, issued: CertificateDer<'static>) -> Result<(), est::EstError> {
        let asked_for = self.rotating.as_ref().map(|rotating| rotating.key.clone());
        let key = asked_for.or_else(|| self.operational.as_ref().and_then(|it| it.enrolment().key.clone()));
        let identity = &self.device.identity;
        let for_key = key.as_ref().map_or(identity.key(), OperationalKey::key);
        let chain = est::accept(issued, None, (identity, for_key), self.present())?;
        if self.rotating.as_ref().is_some_and(|rotating| !self.device.facts.rotation.keep(rotating.wish)) {
            return Err(est::EstError::GivenUp);
        }
        let accounts = self.client.accounts().cloned().unwrap_or_default();
        tracing::info!("operational certificate renewed");
        let enrolment = Enrolment { accounts, chain, key };
        // One that a restart forgets would make the device look like a copy of itself: the former one is still good.
        self.device.state.keep_enrolment(&enrolment)?;
        self.take_up(enrolment);
        Ok(())
    }

    /// Asks for a certificate for a new key, if none is asked for just now.
    pub(super) fn rotate(&mut self) -> Vec<Fact> {
        let Some(wish) = self.heard.rotation.borrow_and_update().wanted() else { return Vec::new() };
        let Some(operational) = &mut self.operational else { return Vec::new() };
        let asked = OperationalKey::beside(self.device.identity.key()).map_err(est::EstError::from).and_then(|key| {
            let request = est::ask_renewal(&self.device.identity, key.key())?;
            Ok((key, request))
        });
        match asked {
            Ok((key, request)) => {
                operational.renewal_mut().asked();
                self.rotating = Some(Rotating { wish, key });
                vec![Fact::Request { id: RENEWAL, request }]
            }
            Err(e) => {
                // The key may be there although no certificate was asked for.
                self.unused_keys = UnusedKeys::Possible;
                tracing::error!(error = %Chain(&e), "cannot ask for a certificate for a new key");
                self.device.facts.rotation.fail(wish, Chain(&e).to_string());
                Vec::new()
            }
        }
    }

    /// The connection made with the old key is left for one with the new key, or whoever asked for it is told why there is none.
    fn asked_for_new_key(&mut self, renewed: &Result<(), est::EstError>) {
        let Some(Rotating { wish, .. }) = self.rotating.take() else { return };
        match renewed {
            Ok(()) => self.leaves_line = true,
            Err(e) => {
                self.device.facts.rotation.fail(wish, Chain(e).to_string());
                self.unused_keys = UnusedKeys::Possible;
                self.remove_unused_keys();
            }
        }
    }

    /// Removes from the token the keys that no certificate of this device is for any more. Called once the present one has been used; a
    /// key that a certificate is being asked for stays.
    pub(super) fn remove_unused_keys(&mut self) {
        let Some(operational) = self.operational.as_ref() else { return };
        if self.rotating.is_some() || self.unused_keys == UnusedKeys::None {
            return;
        }
        let used = operational.enrolment().key.as_ref().map(OperationalKey::kept);
        match self.device.identity.key().keep_only(used) {
            Ok(removed) => {
                self.unused_keys = UnusedKeys::None;
                if removed > 0 {
                    tracing::info!(removed, "keys that are no longer used were removed from the token");
                }
            }
            // Asked again after the next registration.
            Err(e) => tracing::warn!(error = %Chain(&e), "keys that are no longer used are still in the token"),
        }
    }

    /// Uses an enrolment from the next connection on.
    fn take_up(&mut self, enrolment: Enrolment) {
        let clock = self.device.trust.clock();
        // The service issued it just now, so its first day has come.
        clock.raise_floor(enrolment.validity().not_before);
        self.objects.enrolled(enrolment.clone());
        if let Err(e) = self.device.state.keep_floor(clock.floor()) {
            tracing::error!(error = %Chain(&e), "the time could not be kept");
        }
        match Operational::new(enrolment, &self.device.identity, &self.device.trust) {
            Ok(operational) => self.operational = Some(operational),
            Err(e) => tracing::error!(error = %Chain(&e), "TLS cannot be configured with the issued certificate"),
        }
        self.unused_keys = UnusedKeys::Possible;
        self.point_source();
    }

    pub(super) fn accounts_changed(&mut self, accounts: Accounts) {
        if let Some(operational) = &mut self.operational {
            operational.set_accounts(accounts);
        }
    }

    pub(super) fn look_at_certificate(&mut self) -> Vec<Fact> {
        let (present, monotonic) = (self.present(), self.monotonic());
        let Some(operational) = &mut self.operational else { return Vec::new() };
        match operational.renewal().due(present, monotonic) {
            Due::In(_) => Vec::new(),
            Due::Expired => {
                tracing::warn!("the operational certificate has expired, enrolling anew");
                // Or this clock is ahead.
                self.ask_time();
                vec![Fact::BootstrapAgain]
            }
            Due::Renew => match ask_again(operational, &self.device.identity) {
                Ok(request) => {
                    operational.renewal_mut().asked();
                    vec![Fact::Request { id: RENEWAL, request }]
                }
                Err(e) => {
                    tracing::error!(error = %Chain(&e), "cannot ask for a new operational certificate");
                    operational.renewal_mut().failed(monotonic, random::number());
                    Vec::new()
                }
            },
        }
    }
}
