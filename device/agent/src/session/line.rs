//! The one connection of a session: where it leads, with which certificate, and what its end means.

use std::sync::Arc;

use protocol_lwm2m::{
    client::{DialFailure, Fact, Target},
    coap::signal,
};

use super::{Event, LIMITS, Pending, Session};
use crate::{
    address::{Scheme, ServerAddress},
    cause::Chain,
    connection::{CoapConnection, ConnectionError},
    dial::{DialError, Verdict},
    facts::set,
    tls::{ALPN_COAP, Validity},
};

/// The one connection that the client uses.
pub(super) enum Line {
    Idle,
    Dialing(Pending<Result<Box<CoapConnection>, DialError>>),
    Open(Box<CoapConnection>),
}

impl Line {
    /// What happens on the line next; may be dropped and called again.
    pub(super) async fn event(&mut self) -> Event {
        match self {
            Self::Idle => std::future::pending().await,
            Self::Dialing(dialing) => Event::Dialed(dialing.await),
            Self::Open(connection) => Event::Received(connection.receive().await),
        }
    }
}

impl Session {
    pub(super) fn dial(&mut self, target: &Target) {
        let (address, tls) = match self.destination(target) {
            Ok(destination) => destination,
            Err(fact) => {
                if fact == Fact::BootstrapAgain {
                    // The certificate has expired, or this clock is ahead.
                    self.ask_time();
                }
                return self.due.push_back(fact);
            }
        };
        tracing::debug!(%address, "dialing");
        let limit = usize::try_from(LIMITS.max_message).unwrap_or(usize::MAX);
        let source = *self.device.facts.source_address.borrow();
        let dialing = self.device.network.dial(source, &address, tls);
        self.line = Line::Dialing(Box::pin(async move { Ok(Box::new(CoapConnection::new(dialing.await?, limit))) }));
    }

    /// Address and TLS of a target, or what the client must hear instead.
    pub(super) fn destination(&self, target: &Target) -> Result<(ServerAddress, Arc<rustls::ClientConfig>), Fact> {
        let identity = &self.device.identity;
        let unusable = || Fact::DialFailed(DialFailure::Unauthorized);
        match target {
            Target::Bootstrap => {
                let tls = self.device.trust.client(identity.factory().clone(), ALPN_COAP, Validity::Strict);
                let tls = tls.map_err(|e| {
                    tracing::error!(error = %Chain(&e), "TLS cannot be configured for bootstrap");
                    unusable()
                })?;
                Ok((identity.bootstrap().clone(), tls))
            }
            Target::Management { uri, .. } => {
                let operational = self.operational.as_ref().ok_or(Fact::BootstrapAgain)?;
                if operational.is_expired(self.device.trust.clock().present()) {
                    tracing::warn!("the operational certificate has expired, enrolling anew");
                    return Err(Fact::BootstrapAgain);
                }
                let address: ServerAddress = uri.parse().map_err(|e| {
                    tracing::error!(error = %Chain(&e), "the management server has no usable address");
                    unusable()
                })?;
                if address.scheme() != Scheme::CoapsTcp {
                    tracing::error!(%address, "the management server is not one of CoAP over TLS");
                    return Err(unusable());
                }
                Ok((address, operational.management().clone()))
            }
        }
    }

    pub(super) fn dialed(&mut self, dialed: Result<Box<CoapConnection>, DialError>) -> Fact {
        let facts = &self.device.facts;
        let error = match dialed {
            Ok(connection) => {
                set(&facts.service_answers, true);
                if let Some(address) = connection.local_address() {
                    self.objects.connected_from(address);
                }
                self.line = Line::Open(connection);
                return Fact::Connected;
            }
            Err(error) => error,
        };
        self.line = Line::Idle;
        set(&facts.service_answers, error.answered());
        tracing::warn!(error = %Chain(&error), "the service was not reached");
        match error.verdict() {
            Verdict::TryAgain => Fact::DialFailed(DialFailure::Unreachable),
            Verdict::CertificateRefused | Verdict::ServerUntrusted => Fact::DialFailed(DialFailure::Unauthorized),
            Verdict::TimeDoubtful => {
                // The service may be right and this clock wrong: ask, and do not take it for a refusal.
                self.ask_time();
                Fact::DialFailed(DialFailure::Unreachable)
            }
        }
    }

    /// Leaves the line, whatever is on it, so that the client dials anew.
    pub(super) async fn hang_up(&mut self) -> Fact {
        if let Line::Open(connection) = std::mem::replace(&mut self.line, Line::Idle) {
            connection.close().await;
        }
        tracing::info!("dialing anew, with another network or key");
        Fact::DialAnew
    }

    /// The connection ended by itself; it is dropped, and the client hears why.
    pub(super) async fn line_broke(&mut self, error: &ConnectionError) -> Fact {
        let line = std::mem::replace(&mut self.line, Line::Idle);
        if let (Line::Open(mut connection), ConnectionError::Wire(e)) = (line, error) {
            // RFC 8323, section 5.6: say why before hanging up.
            connection.queue(&signal::abort(&e.to_string()));
            connection.close().await;
        }
        tracing::warn!(error = %Chain(error), "the connection to the service ended");
        match error.verdict() {
            Verdict::CertificateRefused => Fact::DialFailed(DialFailure::Unauthorized),
            Verdict::TryAgain | Verdict::ServerUntrusted | Verdict::TimeDoubtful => Fact::Lost,
        }
    }
}
