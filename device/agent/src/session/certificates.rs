//! The operational certificate of a session: asked for, taken, renewed, and given up at its end.

use protocol_lwm2m::{
    client::Fact,
    coap::{ExchangeError, Message},
    object::Accounts,
};
use rustls_pki_types::CertificateDer;

use super::{AUTHORITY, CERTIFICATE, RENEWAL, Session};
use crate::{cause::Chain, enrolment::Enrolment, est, operational::Operational, random, renewal::Due};

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
                if let Err(e) = answer.and_then(|issued| self.renewed(issued)) {
                    tracing::warn!(error = %Chain(&e), "the operational certificate was not renewed");
                    let monotonic = self.monotonic();
                    self.operational.iter_mut().for_each(|it| it.renewal_mut().failed(monotonic, random::number()));
                }
                return;
            }
        };
        let fact = next.unwrap_or_else(|e| {
            tracing::warn!(error = %Chain(&e), "no operational certificate was issued");
            self.enrolling = None;
            Fact::EnrolFailed
        });
        self.due.push_back(fact);
    }

    pub(super) fn enrolled(&mut self, issued: CertificateDer<'static>) -> Result<Fact, est::EstError> {
        let Some(Enrolling { accounts, authority }) = self.enrolling.take() else { return Ok(Fact::EnrolFailed) };
        let chain = est::accept(issued, authority.as_ref(), &self.device.identity, self.present())?;
        tracing::info!("operational certificate issued");
        self.take_up(Enrolment { accounts, chain });
        Ok(Fact::Enrolled)
    }

    pub(super) fn renewed(&mut self, issued: CertificateDer<'static>) -> Result<(), est::EstError> {
        let chain = est::accept(issued, None, &self.device.identity, self.present())?;
        let accounts = self.client.accounts().cloned().unwrap_or_default();
        tracing::info!("operational certificate renewed");
        self.take_up(Enrolment { accounts, chain });
        Ok(())
    }

    /// Keeps an enrolment and uses it from the next connection on.
    pub(super) fn take_up(&mut self, enrolment: Enrolment) {
        let clock = self.device.trust.clock();
        // The service issued it just now, so its first day has come.
        clock.raise_floor(enrolment.validity().not_before);
        let kept = self.device.state.keep_enrolment(&enrolment);
        if let Err(e) = kept.and_then(|()| self.device.state.keep_floor(clock.floor())) {
            tracing::error!(error = %Chain(&e), "the enrolment could not be kept; a restart will enrol again");
        }
        match Operational::new(enrolment, &self.device.identity, &self.device.trust) {
            Ok(operational) => self.operational = Some(operational),
            Err(e) => tracing::error!(error = %Chain(&e), "TLS cannot be configured with the issued certificate"),
        }
        self.point_source();
    }

    pub(super) fn accounts_changed(&mut self, accounts: Accounts) {
        let Some(operational) = &mut self.operational else { return };
        operational.set_accounts(accounts);
        if let Err(e) = self.device.state.keep_enrolment(operational.enrolment()) {
            tracing::error!(error = %Chain(&e), "changed accounts could not be kept");
        }
    }

    pub(super) fn look_at_certificate(&mut self) -> Vec<Fact> {
        let (present, monotonic) = (self.present(), self.monotonic());
        let Some(operational) = &mut self.operational else { return Vec::new() };
        match operational.renewal().due(present, monotonic) {
            Due::In(_) => Vec::new(),
            Due::Expired => {
                tracing::warn!("the operational certificate has expired, enrolling anew");
                vec![Fact::BootstrapAgain]
            }
            Due::Renew => match est::ask_renewal(&self.device.identity) {
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
