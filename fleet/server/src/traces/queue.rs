//! Takes spans that have ended, and never waits: a span that finds no room is dropped and counted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use opentelemetry::{
    Context, KeyValue,
    trace::{SpanKind, Status},
};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{Span, SpanData, SpanProcessor},
};
use tokio::sync::mpsc;

/// The bounded way to the task that sends spans.
#[derive(Debug)]
pub(super) struct Queue {
    spans: mpsc::Sender<SpanData>,
    dropped: Arc<AtomicU64>,
}

impl Queue {
    pub(super) fn new(spans: mpsc::Sender<SpanData>, dropped: Arc<AtomicU64>) -> Self {
        Self { spans, dropped }
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, mut span: SpanData) {
        conventional(&mut span);
        if self.spans.try_send(span).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// The names of our logs, and those of the semantic conventions.
const NAMES: [(&str, &str); 3] = [("id", "mbl.request.id"), ("method", "http.request.method"), ("route", "http.route")];

/// Gives a span of ours the name, kind and attributes by which others know it (OpenTelemetry semantic conventions for HTTP).
fn conventional(span: &mut SpanData) {
    match span.name.as_ref() {
        "request" => {
            span.span_kind = SpanKind::Server;
            for attribute in &mut span.attributes {
                if let Some((_, name)) = NAMES.iter().find(|(ours, _)| *ours == attribute.key.as_str()) {
                    attribute.key = (*name).into();
                }
            }
            let of = |name: &str| {
                let found = span.attributes.iter().find(|attribute| attribute.key.as_str() == name);
                found.map(|attribute| attribute.value.to_string()).unwrap_or_default()
            };
            span.name = format!("{} {}", of("http.request.method"), of("http.route")).into();
            if of("http.response.status_code").starts_with('5') {
                span.status = Status::error("");
            }
        }
        "errand" | "delivery" => {
            span.span_kind = SpanKind::Client;
            if let Some(KeyValue { value, .. }) = span.attributes.iter().find(|it| it.key.as_str() == "error.type") {
                span.status = Status::error(value.to_string());
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{Tracer as _, TracerProvider as _};
    use opentelemetry_sdk::trace::SdkTracerProvider;

    use super::*;

    fn provider(room: usize) -> (SdkTracerProvider, mpsc::Receiver<SpanData>, Arc<AtomicU64>) {
        let (sender, spans) = mpsc::channel(room);
        let dropped = Arc::new(AtomicU64::new(0));
        let queue = Queue::new(sender, dropped.clone());
        (SdkTracerProvider::builder().with_span_processor(queue).build(), spans, dropped)
    }

    #[test]
    fn what_finds_no_room_is_dropped_and_counted() {
        let (provider, mut spans, dropped) = provider(3);
        let tracer = provider.tracer("test");
        for _ in 0..5 {
            drop(tracer.start("something"));
        }
        assert_eq!(dropped.load(Ordering::Relaxed), 2);
        let kept = std::iter::from_fn(|| spans.try_recv().ok()).count();
        assert_eq!(kept, 3);
        drop(tracer.start("something"));
        assert!(spans.try_recv().is_ok(), "there is room again");
    }

    #[test]
    fn a_request_has_the_names_that_others_know() {
        let (provider, mut spans, _) = provider(3);
        let tracer = provider.tracer("test");
        let attributes =
            [("id", "7f"), ("method", "GET"), ("route", "/api/v1/devices"), ("http.response.status_code", "503")];
        let attributes = attributes.map(|(key, value)| KeyValue::new(key, value));
        drop(tracer.span_builder("request").with_attributes(attributes).start(&tracer));
        let span = spans.try_recv().unwrap();
        assert_eq!((span.name.as_ref(), span.span_kind), ("GET /api/v1/devices", SpanKind::Server));
        assert_eq!(span.status, Status::error(""));
        assert!(span.attributes.contains(&KeyValue::new("mbl.request.id", "7f")), "{:?}", span.attributes);
    }
}
