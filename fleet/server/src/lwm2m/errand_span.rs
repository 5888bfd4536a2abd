//! The span of an errand: from the moment at which a device is told something to its answer, in the trace of the request that it comes from.

use fleet_store::AccountScope;
use protocol_lwm2m::server::RequestError;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::errands::Errand;
use crate::{authority::DeviceIdentity, fleet::Fleet, traces};

/// The span of an errand that begins now; none if nothing is traced.
pub(super) async fn begin(fleet: &Fleet, identity: &DeviceIdentity, errand: Errand) -> Span {
    if fleet.config.traces.is_none() {
        return Span::none();
    }
    let span = tracing::info_span!("errand", account = %identity.account, device = %identity.endpoint, what = ?errand);
    let account = fleet.store.account(&identity.account);
    if let Some(subject) = cause(&account, identity, errand).await {
        traces::adopt_cause(fleet, &account, &span, &subject).await;
    }
    span
}

/// What an errand comes from, as the traces of requests name it.
async fn cause(account: &AccountScope, identity: &DeviceIdentity, errand: Errand) -> Option<String> {
    match errand {
        Errand::WriteWish => {
            let wish = account.desired_release(&identity.endpoint).await.ok()??;
            wish.release.map(|release| format!("rollouts/{}", release.rollout))
        }
        Errand::FactoryReset | Errand::Command => Some(format!("devices/{}", identity.endpoint)),
        Errand::NameArtifactServer
        | Errand::Observe
        | Errand::ReadNameplate
        | Errand::WriteConfiguration
        | Errand::ObserveConfiguration
        | Errand::WriteMetricsBudget
        | Errand::ObserveMetrics
        | Errand::AcknowledgeMetrics
        | Errand::ObserveJobs
        | Errand::Probe => None,
    }
}

/// Notes how an errand ended; the span ends with its last owner.
pub(super) fn end(span: Span, error: Option<&RequestError>) {
    if let Some(error) = error {
        span.set_attribute("error.type", crate::Chain(error).to_string());
    }
}
