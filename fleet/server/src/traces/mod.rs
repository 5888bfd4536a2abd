//! Traces: what a request set off, up to what a device was told because of it, for a collector that speaks OpenTelemetry. Without the table
//! `traces` in the settings nothing of it runs.
//!
//! ```text
//! a span ends → queue (bounded, never waits) → export, a task of the service → collector (OTLP over HTTP)
//! ```

mod collector;
mod parent;
mod queue;
mod settings;

use std::{
    sync::{Arc, atomic::AtomicU64, atomic::Ordering},
    time::Duration,
};

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracerProvider, SpanData},
};
use tokio::{sync::mpsc, time::timeout};
use tracing::Subscriber;
use tracing_subscriber::{Layer, registry::LookupSpan};

pub(crate) use self::parent::{HEADER, adopt, adopt_cause, note, of, subject};
use self::{collector::Collector, queue::Queue};
pub use self::{
    collector::TraceError,
    settings::{TraceFault, TraceSettings},
};
use crate::{fleet::Fleet, metrics::SpanLabels};

/// The name of the service, and of what makes the spans.
const NAME: &str = "mbl-service";
/// Spans that are sent together.
const TOGETHER: usize = 512;
/// How long spans wait for others that go with them.
const GATHER: Duration = Duration::from_secs(1);
/// How long the last spans of a service that stops may take.
const LAST: Duration = Duration::from_secs(2);

/// What is traced, and the way to the collector.
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
    spans: mpsc::Receiver<SpanData>,
    /// Spans that found no room.
    dropped: Arc<AtomicU64>,
    collector: Collector,
}

impl Traces {
    /// Prepares what these settings say. Nothing is sent before the service runs.
    ///
    /// # Errors
    /// If a file that they name cannot be read, or the collector cannot be spoken to in this way.
    pub fn new(settings: &TraceSettings) -> Result<Self, TraceError> {
        let (sender, spans) = mpsc::channel(usize::from(settings.queue));
        let dropped = Arc::new(AtomicU64::new(0));
        let resource = Resource::builder_empty()
            .with_service_name(NAME)
            .with_attribute(opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let share = Sampler::TraceIdRatioBased(1.0 / f64::from(settings.one_in));
        let provider = SdkTracerProvider::builder()
            .with_sampler(Sampler::ParentBased(Box::new(share)))
            .with_resource(resource.clone())
            .with_span_processor(Queue::new(sender, dropped.clone()))
            .build();
        Ok(Self { provider, spans, dropped, collector: Collector::new(settings, &resource)? })
    }

    /// What a subscriber of `tracing` needs so that its spans are traced.
    pub fn layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
    {
        // Where in the source and in which thread is nothing that an operator could use.
        tracing_opentelemetry::layer::<S>()
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_context_activation(false)
            .with_tracer(self.provider.tracer(NAME))
    }
}

/// Sends what was traced, until the service stops.
pub(crate) async fn export(mut traces: Traces, fleet: Fleet) {
    let mut batch = Vec::with_capacity(TOGETHER);
    while !fleet.stop.is_cancelled() {
        tokio::select! {
            received = traces.spans.recv_many(&mut batch, TOGETHER) => if received == 0 { break },
            () = fleet.stop.cancelled() => break,
        }
        let more = async {
            while let room @ 1.. = TOGETHER.saturating_sub(batch.len()) {
                if traces.spans.recv_many(&mut batch, room).await == 0 {
                    break;
                }
            }
        };
        // What comes in the meantime goes with it; when the service stops, at once.
        drop(timeout(GATHER, fleet.stop.run_until_cancelled(more)).await);
        let sent = fleet.stop.run_until_cancelled(traces.collector.send(&batch, &fleet.random)).await;
        if let Some(sent) = sent {
            count(&fleet, &traces, (sent, batch.len()));
            batch.clear();
        }
    }
    while let Ok(span) = traces.spans.try_recv() {
        batch.push(span);
    }
    let sent = timeout(LAST, traces.collector.send(&batch, &fleet.random)).await.is_ok_and(|sent| sent);
    count(&fleet, &traces, (sent, batch.len()));
}

fn count(fleet: &Fleet, traces: &Traces, (sent, spans): (bool, usize)) {
    let of = |result| fleet.metrics.spans.get_or_create_owned(&SpanLabels { result });
    of(if sent { "sent" } else { "lost" }).inc_by(u64::try_from(spans).unwrap_or(u64::MAX));
    of("dropped").inc_by(traces.dropped.swap(0, Ordering::Relaxed));
}
