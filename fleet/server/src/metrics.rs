//! Counters for `/metrics`. Never names an account, a device or a token.

use std::fmt;

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use protocol_types::ReasonCode;

/// Labels of a counted request.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct RequestLabels {
    pub(crate) method: &'static str,
    /// The route with its placeholders, never the path that was asked.
    pub(crate) route: String,
    pub(crate) status: u16,
}

/// Labels of a counted connection.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct PortLabels {
    pub(crate) port: &'static str,
}

/// Labels of a counted handshake.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct HandshakeLabels {
    pub(crate) port: &'static str,
    pub(crate) result: &'static str,
}

/// Labels of a device that was turned away.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct RefusalLabels {
    pub(crate) reason: &'static str,
}

/// Labels of a counted try to deliver an event.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct DeliveryLabels {
    pub(crate) result: &'static str,
}

/// Labels of counted spans.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct SpanLabels {
    pub(crate) result: &'static str,
}

/// All counters of the process.
pub(crate) struct Metrics {
    registry: Registry,
    /// Requests that the API answered.
    pub(crate) requests: Family<RequestLabels, Counter>,
    /// Connections that are open now.
    pub(crate) connections: Family<PortLabels, Gauge>,
    /// TLS handshakes with devices.
    pub(crate) handshakes: Family<HandshakeLabels, Counter>,
    /// Registrations that devices have heard of.
    pub(crate) registrations: Counter,
    /// Updates of registrations.
    pub(crate) updates: Counter,
    /// Bootstraps, registrations and certificate requests that were refused.
    pub(crate) refusals: Family<RefusalLabels, Counter>,
    /// Operational certificates that were issued.
    pub(crate) certificates: Counter,
    /// Steps of rollout devices from one state to another.
    pub(crate) rollout_steps: Counter,
    /// Tries to deliver events to webhooks.
    pub(crate) deliveries: Family<DeliveryLabels, Counter>,
    /// Spans that the collector took, that it did not take, and that found no room to wait.
    pub(crate) spans: Family<SpanLabels, Counter>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("mbl");
        let (requests, connections, rollout_steps) = (Family::default(), Family::default(), Counter::default());
        let (handshakes, refusals, deliveries) = (Family::default(), Family::default(), Family::default());
        let spans = Family::default();
        let (registrations, updates, certificates) = (Counter::default(), Counter::default(), Counter::default());
        registry.register("device_handshakes", "TLS handshakes with devices", Clone::clone(&handshakes));
        registry.register("device_registrations", "Registrations of devices", Clone::clone(&registrations));
        registry.register("device_updates", "Updates of registrations", Clone::clone(&updates));
        registry.register("device_refusals", "Devices turned away, by reason", Clone::clone(&refusals));
        registry.register("device_certificates", "Operational certificates issued", Clone::clone(&certificates));
        registry.register("api_requests", "Requests answered by the API", Clone::clone(&requests));
        registry.register("connections", "Open connections by port", Clone::clone(&connections));
        registry.register("rollout_steps", "State changes of devices in rollouts", Clone::clone(&rollout_steps));
        registry.register("trace_spans", "Spans for the collector of traces, by result", Clone::clone(&spans));
        registry.register("webhook_deliveries", "Tries to deliver events, by result", Clone::clone(&deliveries));
        Self {
            registry,
            requests,
            connections,
            handshakes,
            registrations,
            updates,
            refusals,
            certificates,
            rollout_steps,
            deliveries,
            spans,
        }
    }

    /// Counts a device that was turned away.
    pub(crate) fn refused(&self, reason: ReasonCode) {
        self.refusals.get_or_create(&RefusalLabels { reason: reason.as_str() }).inc();
    }

    /// The OpenMetrics text.
    pub(crate) fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    const DASHBOARD: &str = include_str!("../../../deploy/grafana/mbl-service.json");

    #[test]
    fn the_dashboard_has_a_panel_for_each_counter_and_no_other() {
        let metrics = Metrics::new();
        // A family without a member is not in the text.
        let labels = RequestLabels { method: "GET", route: "/healthz".to_owned(), status: 200 };
        metrics.requests.get_or_create(&labels).inc();
        metrics.connections.get_or_create(&PortLabels { port: "api" }).inc();
        metrics.handshakes.get_or_create(&HandshakeLabels { port: "lwm2m", result: "well" }).inc();
        metrics.refused(ReasonCode::NoContact);
        metrics.deliveries.get_or_create(&DeliveryLabels { result: "accepted" }).inc();
        metrics.spans.get_or_create(&SpanLabels { result: "sent" }).inc();
        let text = metrics.text().unwrap();
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
        let counted: BTreeSet<&str> = types.collect();

        let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
        let panels = dashboard["panels"].as_array().unwrap();
        let mut asked = BTreeSet::new();
        for target in panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap()) {
            let words = target["expr"].as_str().unwrap().split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            asked.extend(words.filter(|word| word.starts_with("mbl_")).map(|word| word.trim_end_matches("_total")));
        }
        assert_eq!(asked, counted);
    }
}
