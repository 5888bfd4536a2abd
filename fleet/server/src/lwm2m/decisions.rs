//! What a device of the management port asks before it may go on: to register, to stay registered, to have a certificate.

use std::time::Duration;

use fleet_store::{DeviceEvent, Parent, Promise};
use protocol_lwm2m::{
    coap::{Code, Message},
    server::{Decision, Question, Registration, RegistrationUpdate},
};
use protocol_types::ReasonCode;
use tokio::time::{Instant, sleep_until};

use super::{
    est::{self, EstRequest},
    management::Visit,
};

/// An update is noted as presence at most this often.
const HEARD_STEP: Duration = Duration::from_secs(30);
/// Least time between two registrations or new promises on one connection: nobody may keep the disk busy for others.
const REGISTRATION_PACE: Duration = Duration::from_secs(1);
/// Certificates in one connection: one renewal, and some tries.
const MAX_CERTIFICATES: u8 = 4;

impl Visit {
    pub(super) async fn decide(&mut self, question: Question) -> Decision {
        match question {
            Question::Register(registration) => self.register(&registration).await,
            Question::Update(update) => self.update(&update).await,
            Question::Other(message) => Decision::Respond(self.est(&message).await),
            Question::Bootstrap { .. } => Decision::Refuse {
                code: Code::METHOD_NOT_ALLOWED,
                diagnostic: "bootstrap with the bootstrap server".to_owned(),
            },
        }
    }

    async fn register(&mut self, registration: &Registration) -> Decision {
        sleep_until(self.next_registration).await;
        self.next_registration = Instant::now() + REGISTRATION_PACE;
        let identity = &self.facts.identity;
        if registration.endpoint.as_ref().is_some_and(|endpoint| *endpoint != identity.endpoint) {
            return self.refuse(ReasonCode::IdentityMismatch);
        }
        if self.has_expired() {
            return self.refuse(ReasonCode::CertificateUnknown);
        }
        self.promise = Promise::new(registration.lifetime, registration.queue_mode);
        let what =
            DeviceEvent::Registers { serial: self.facts.serial.clone(), session: self.session, promise: self.promise };
        let standing = match self.devices.presence.record(identity, what).await {
            Ok(Ok(standing)) => standing,
            Ok(Err(reason)) => return self.refuse(reason),
            Err(_) => return unavailable(),
        };
        match self.devices.fleet.random.bytes::<8>() {
            Ok(location) => {
                self.registered = Some(standing);
                Decision::Register { location: hex::encode(location) }
            }
            Err(error) => {
                tracing::error!(error = %crate::Chain(&error), "a registration was given up");
                unavailable()
            }
        }
    }

    async fn update(&mut self, update: &RegistrationUpdate) -> Decision {
        if self.has_expired() {
            self.is_over = true;
            return self.refuse(ReasonCode::CertificateUnknown);
        }
        let promised = update.lifetime.map(|lifetime| Promise::new(lifetime, self.promise.sleeps()));
        let promise = promised.filter(|promise| *promise != self.promise);
        if promise.is_some() {
            sleep_until(self.next_registration).await;
            self.next_registration = Instant::now() + REGISTRATION_PACE;
        }
        if promise.is_some() || self.heard.elapsed() >= HEARD_STEP {
            if self.devices.presence.record(&self.facts.identity, DeviceEvent::Heard { promise }).await.is_err() {
                return unavailable();
            }
            self.promise = promise.unwrap_or(self.promise);
            self.heard = Instant::now();
        }
        self.devices.fleet.metrics.updates.inc();
        Decision::Allow
    }

    fn refuse(&self, reason: ReasonCode) -> Decision {
        let identity = &self.facts.identity;
        self.devices.fleet.metrics.refused(reason);
        tracing::info!(account = %identity.account, device = %identity.endpoint, %reason, "registration refused");
        Decision::Refuse { code: Code::FORBIDDEN, diagnostic: reason.as_str().to_owned() }
    }

    /// TLS looks at the end of a certificate only once, and connections may outlive it.
    fn has_expired(&self) -> bool {
        self.facts.not_after <= self.devices.fleet.clock.now()
    }

    async fn est(&mut self, message: &Message) -> Message {
        match EstRequest::read(message) {
            Err(code) => Message::refusal(code, "no such resource"),
            Ok(EstRequest::Enrol) => Message::refusal(Code::NOT_FOUND, "enrol with the bootstrap server"),
            Ok(_) if self.has_expired() => Message::refusal(Code::FORBIDDEN, ReasonCode::CertificateUnknown.as_str()),
            Ok(EstRequest::Authority) => est::authority(&self.devices, &self.facts).await,
            Ok(EstRequest::Renew) => {
                self.certificates = self.certificates.saturating_add(1);
                if self.certificates > MAX_CERTIFICATES {
                    return Message::refusal(Code::FORBIDDEN, "too many certificate requests on one connection");
                }
                est::certificate(&self.devices, &self.facts, Parent::Operational(self.facts.serial.clone()), message)
                    .await
            }
        }
    }
}

fn unavailable() -> Decision {
    Decision::Refuse { code: Code::SERVICE_UNAVAILABLE, diagnostic: "try again later".to_owned() }
}
