//! Counters for `/metrics`. Never names an account, a device or a token.

use std::fmt;

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Labels of a counted request.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct RequestLabels {
    pub(crate) method: String,
    /// The route with its placeholders, never the path that was asked.
    pub(crate) route: String,
    pub(crate) status: u16,
}

/// Labels of a counted connection.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct PortLabels {
    pub(crate) port: &'static str,
}

/// All counters of the process.
pub(crate) struct Metrics {
    registry: Registry,
    /// Requests that the API answered.
    pub(crate) requests: Family<RequestLabels, Counter>,
    /// Connections that are open now.
    pub(crate) connections: Family<PortLabels, Gauge>,
    /// Steps of rollout devices from one state to another.
    pub(crate) rollout_steps: Counter,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("mbl");
        let (requests, connections, rollout_steps) = (Family::default(), Family::default(), Counter::default());
        registry.register("api_requests", "Requests answered by the API", Clone::clone(&requests));
        registry.register("connections", "Open connections by port", Clone::clone(&connections));
        registry.register("rollout_steps", "State changes of devices in rollouts", Clone::clone(&rollout_steps));
        Self { registry, requests, connections, rollout_steps }
    }

    /// The OpenMetrics text.
    pub(crate) fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
