//! The bootstrap port: a device with a factory certificate is admitted, told where to register, and given an operational
//! certificate. Never keeps a device longer than it takes.

use std::{collections::VecDeque, time::Duration};

use fleet_store::{DeviceEvent, Parent};
use protocol_lwm2m::{
    coap::{Code, ContentFormat, Message},
    object::{Accounts, SecurityAccount, ServerAccount},
    server::{BootstrapPlan, Decision, Fact, Question, Step},
};
use protocol_types::{EndpointName, ReasonCode};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, timeout_at},
};

use super::{
    Devices,
    est::{self, EstRequest},
    presence::NotRecorded,
    wire::Wire,
};
use crate::tls::Peer;

/// Longest life of a bootstrap connection: a handful of exchanges.
const LIFE: Duration = Duration::from_secs(120);
/// Certificates in one connection: one, and some tries.
const MAX_CERTIFICATES: u8 = 4;
/// The only management server.
const SHORT_SERVER_ID: u16 = 1;

/// What one connection has come to.
struct Visit<'a> {
    peer: &'a Peer,
    devices: &'a Devices,
    is_admitted: bool,
    certificates: u8,
}

/// Serves one connection to its end.
pub(super) async fn attend<S: AsyncRead + AsyncWrite + Unpin>(mut wire: Wire<S>, peer: &Peer, devices: &Devices) {
    let mut visit = Visit { peer, devices, is_admitted: false, certificates: 0 };
    let end = Instant::now() + LIFE;
    let mut steps = VecDeque::from(wire.tell(Fact::Opened).await);
    loop {
        while let Some(step) = steps.pop_front() {
            if let Some(fact) = visit.act(step).await {
                steps.extend(wire.tell(fact).await);
            }
        }
        if !wire.is_open() {
            break;
        }
        tokio::select! {
            arrival = timeout_at(end, wire.arrival()) => match arrival {
                Ok(arrival) => steps.extend(wire.tell_arrival(arrival).await),
                Err(_) => steps.extend(wire.hang_up().await),
            },
            () = devices.fleet.stop.cancelled() => steps.extend(wire.hang_up().await),
        }
    }
    wire.close().await;
}

impl Visit<'_> {
    /// Does what a step asks for; the fact that the session must hear of it.
    async fn act(&mut self, step: Step) -> Option<Fact> {
        let identity = &self.peer.facts.identity;
        match step {
            Step::Ask { ask, question } => Some(Fact::Decided { ask, decision: self.decide(question).await }),
            Step::Bootstrapped => {
                tracing::info!(account = %identity.account, device = %identity.endpoint, "device bootstrapped");
                None
            }
            Step::BootstrapFailed(error) => {
                let error = crate::Chain(&error);
                tracing::warn!(account = %identity.account, device = %identity.endpoint, %error, "bootstrap failed");
                None
            }
            _ => None,
        }
    }

    async fn decide(&mut self, question: Question) -> Decision {
        match question {
            Question::Bootstrap { endpoint, preferred } => self.bootstrap(endpoint, preferred).await,
            Question::Other(message) => Decision::Respond(self.est(&message).await),
            Question::Register(_) | Question::Update(_) => Decision::Refuse {
                code: Code::METHOD_NOT_ALLOWED,
                diagnostic: "register with the management server".to_owned(),
            },
        }
    }

    async fn bootstrap(&mut self, endpoint: Option<EndpointName>, preferred: Option<ContentFormat>) -> Decision {
        let identity = &self.peer.facts.identity;
        let verdict = if endpoint.is_some_and(|endpoint| endpoint != identity.endpoint) {
            Err(ReasonCode::IdentityMismatch)
        } else {
            let joins = DeviceEvent::Joins {
                authority: self.peer.authority.to_string(),
                serial: self.peer.facts.serial.clone(),
                fingerprint: self.peer.facts.fingerprint,
            };
            match self.devices.presence.record(identity, joins).await {
                Ok(verdict) => verdict.map(drop),
                Err(NotRecorded) => {
                    tracing::error!(account = %identity.account, device = %identity.endpoint, "no device was admitted");
                    let diagnostic = "try again later".to_owned();
                    return Decision::Refuse { code: Code::SERVICE_UNAVAILABLE, diagnostic };
                }
            }
        };
        match verdict {
            Ok(()) => {
                self.is_admitted = true;
                let format = match preferred {
                    Some(ContentFormat::TLV) => ContentFormat::TLV,
                    Some(_) | None => ContentFormat::SENML_CBOR,
                };
                Decision::Bootstrap(BootstrapPlan { delete: Vec::new(), accounts: self.accounts(), format })
            }
            Err(reason) => {
                self.devices.fleet.metrics.refused(reason);
                tracing::info!(account = %identity.account, device = %identity.endpoint, %reason, "bootstrap refused");
                Decision::Refuse { code: Code::FORBIDDEN, diagnostic: reason.as_str().to_owned() }
            }
        }
    }

    /// Where the device registers from now on.
    fn accounts(&self) -> Accounts {
        let security = SecurityAccount {
            server_public_key: self.devices.fleet.authority.service.certificate_der().to_vec(),
            ..SecurityAccount::managed(self.devices.fleet.management_uri(), SHORT_SERVER_ID)
        };
        let server = ServerAccount {
            short_server_id: SHORT_SERVER_ID,
            lifetime: self.devices.fleet.config.registration_lifetime_s,
            binding: "T".to_owned(),
            ..ServerAccount::default()
        };
        Accounts { security: [(1, security)].into(), servers: [(1, server)].into() }
    }

    async fn est(&mut self, message: &Message) -> Message {
        match EstRequest::read(message) {
            Err(code) => Message::refusal(code, "no such resource"),
            Ok(_) if !self.is_admitted => Message::refusal(Code::FORBIDDEN, ReasonCode::NotEnrolled.as_str()),
            Ok(EstRequest::Authority) => est::authority(self.devices, &self.peer.facts).await,
            Ok(EstRequest::Renew) => Message::refusal(Code::NOT_FOUND, "renew with the management server"),
            Ok(EstRequest::Enrol) => {
                self.certificates += 1;
                if self.certificates > MAX_CERTIFICATES {
                    return Message::refusal(Code::FORBIDDEN, "too many certificate requests on one connection");
                }
                let parent = Parent::Factory(self.peer.facts.serial.clone());
                est::certificate(self.devices, &self.peer.facts, parent, message).await
            }
        }
    }
}
