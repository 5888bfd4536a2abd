//! The part of a visit that notices one identity in two places: an older connection that still answers.

use fleet_store::DeviceEvent;
use protocol_lwm2m::server::RequestError;

use super::management::Visit;

impl Visit {
    /// The probe of an older connection brought no value. One that does not answer is what an honest device leaves behind; one that
    /// answers, whatever it says, is alive.
    pub(super) async fn probed(&mut self, error: &RequestError) {
        match error {
            RequestError::Refused { .. } | RequestError::Decode(_) => self.seen_twice().await,
            RequestError::Exchange(_)
            | RequestError::Encode(_)
            | RequestError::NotRegistered
            | RequestError::NotObserved => self.is_over = true,
        }
    }

    /// The device answered here after it had registered elsewhere: there are two of it.
    pub(super) async fn seen_twice(&mut self) {
        let identity = &self.facts.identity;
        tracing::warn!(account = %identity.account, device = %identity.endpoint, "one identity answers in two places");
        if self.devices.presence.record(identity, DeviceEvent::SeenTwice).await.is_err() {
            tracing::error!(account = %identity.account, device = %identity.endpoint, "a clone was not recorded");
        }
        self.is_over = true;
    }
}
