//! Enrolment over secure transport (RFC 9148): the certificate requests of both ports. Never believes what a request says of
//! itself: subject, key and parent are all checked against the connection.

use fleet_store::{DeviceEvent, Parent};
use protocol_lwm2m::coap::{Code, ContentFormat, Message};
use protocol_types::ReasonCode;

use super::{Devices, presence::NotRecorded};
use crate::{
    authority::{CertificateFacts, CertificateRequest, IssueError, RequestError},
    device_trust::IssuersError,
};

/// What a path below `/.well-known/est` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EstRequest {
    /// `crts`: the authority that signs operational certificates.
    Authority,
    /// `sen`: the first operational certificate, or a new one after a bootstrap.
    Enrol,
    /// `sren`: the next operational certificate.
    Renew,
}

impl EstRequest {
    /// Reads path and method; the code of the refusal if they ask for nothing that exists.
    pub(super) fn read(message: &Message) -> Result<Self, Code> {
        let (request, method) = match message.uri_path().as_str() {
            "/.well-known/est/crts" => (Self::Authority, Code::GET),
            "/.well-known/est/sen" => (Self::Enrol, Code::POST),
            "/.well-known/est/sren" => (Self::Renew, Code::POST),
            _ => return Err(Code::NOT_FOUND),
        };
        if message.code == method { Ok(request) } else { Err(Code::METHOD_NOT_ALLOWED) }
    }
}

/// The certificate of the account's issuing authority.
pub(super) async fn authority(devices: &Devices, facts: &CertificateFacts) -> Message {
    let (fleet, account) = (devices.fleet.clone(), facts.identity.account.clone());
    let opened = tokio::task::spawn_blocking(move || {
        let now = fleet.clock.now();
        fleet.trust.trust_issuers(&fleet.authority, &account, now)?;
        Ok::<_, IssuersError>(fleet.authority.issuing.certificates(&account, now)?)
    });
    match opened.await {
        Ok(Ok(certificates)) => match certificates.first() {
            Some(newest) => Message::new(Code::CONTENT).content(ContentFormat::PKIX_CERT, newest.to_vec()),
            None => failed(),
        },
        Ok(Err(error)) => {
            tracing::error!(error = %crate::Chain(&error), "an issuing authority cannot be used");
            failed()
        }
        Err(error) => {
            tracing::error!(%error, "an issuing authority cannot be used");
            failed()
        }
    }
}

/// Issues an operational certificate for the device of the connection, whose certificate says `facts`.
pub(super) async fn certificate(
    devices: &Devices,
    facts: &CertificateFacts,
    parent: Parent<String>,
    message: &Message,
) -> Message {
    if message.content_format() != Some(ContentFormat::PKCS10) {
        return Message::refusal(Code::UNSUPPORTED_CONTENT_FORMAT, ReasonCode::BadCertificateRequest.as_str());
    }
    if message.accepted().is_some_and(|format| format != ContentFormat::PKIX_CERT) {
        return Message::refusal(Code::NOT_ACCEPTABLE, ReasonCode::BadCertificateRequest.as_str());
    }
    let request = match CertificateRequest::parse(&message.payload) {
        Ok(request) if request.identity == facts.identity => request,
        Ok(_) | Err(RequestError::Subject(_)) => return refused(devices, facts, ReasonCode::IdentityMismatch),
        Err(error) => {
            let identity = &facts.identity;
            tracing::info!(account = %identity.account, device = %identity.endpoint, %error, "certificate request refused");
            return Message::refusal(Code::BAD_REQUEST, ReasonCode::BadCertificateRequest.as_str());
        }
    };
    issue(devices, facts, parent, request).await
}

/// Why no certificate was signed.
#[derive(Debug, thiserror::Error)]
enum SignError {
    #[error("the issuing authority cannot be used")]
    Issuers(#[from] IssuersError),
    #[error("the certificate was not issued")]
    Issue(#[from] IssueError),
}

/// Signs, records, and only then hands out.
async fn issue(
    devices: &Devices,
    facts: &CertificateFacts,
    parent: Parent<String>,
    request: CertificateRequest,
) -> Message {
    let fleet = devices.fleet.clone();
    let identity = &facts.identity;
    let signed = tokio::task::spawn_blocking(move || {
        let now = fleet.clock.now();
        // The first certificate of an account makes its authority; the other ports must know it before the device comes there.
        fleet.trust.trust_issuers(&fleet.authority, &request.identity.account, now)?;
        Ok::<_, SignError>(fleet.authority.issuing.issue(&request, now)?)
    });
    let issued = match signed.await {
        Ok(Ok(issued)) => issued,
        Ok(Err(error)) => {
            tracing::error!(account = %identity.account, error = %crate::Chain(&error), "no certificate was issued");
            return failed();
        }
        Err(error) => {
            tracing::error!(account = %identity.account, %error, "no certificate was issued");
            return failed();
        }
    };
    let certified = DeviceEvent::Certified { serial: issued.serial.clone(), parent, not_after: issued.not_after };
    match devices.presence.record(identity, certified).await {
        Ok(Ok(_)) => {
            devices.fleet.metrics.certificates.inc();
            tracing::info!(
                account = %identity.account, device = %identity.endpoint, serial = %issued.serial, "certificate issued"
            );
            Message::new(Code::CHANGED).content(ContentFormat::PKIX_CERT, issued.der)
        }
        Ok(Err(reason)) => refused(devices, facts, reason),
        Err(NotRecorded) => {
            tracing::error!(account = %identity.account, device = %identity.endpoint, "no certificate was recorded");
            failed()
        }
    }
}

fn refused(devices: &Devices, facts: &CertificateFacts, reason: ReasonCode) -> Message {
    let identity = &facts.identity;
    devices.fleet.metrics.refused(reason);
    tracing::info!(account = %identity.account, device = %identity.endpoint, %reason, "certificate refused");
    Message::refusal(Code::FORBIDDEN, reason.as_str())
}

fn failed() -> Message {
    Message::refusal(Code::SERVICE_UNAVAILABLE, "try again later")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_of_est_has_its_one_method() {
        let read = |code, path| EstRequest::read(&Message::new(code).path(path));
        assert_eq!(read(Code::GET, "/.well-known/est/crts"), Ok(EstRequest::Authority));
        assert_eq!(read(Code::POST, "/.well-known/est/sen"), Ok(EstRequest::Enrol));
        assert_eq!(read(Code::POST, "/.well-known/est/sren"), Ok(EstRequest::Renew));
        assert_eq!(read(Code::POST, "/.well-known/est/crts"), Err(Code::METHOD_NOT_ALLOWED));
        for path in ["/", "/.well-known/est", "/.well-known/est/sen/x", "/.well-known/est/skg", "/est/sen"] {
            assert_eq!(read(Code::POST, path), Err(Code::NOT_FOUND), "{path}");
        }
    }
}
