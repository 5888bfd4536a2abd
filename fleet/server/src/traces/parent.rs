//! The place of something in a trace, as one header says it (W3C Trace Context, `traceparent`). Read within bounds; `tracestate` is not passed on.

use fleet_store::AccountScope;
use opentelemetry::{
    Context, SpanId, TraceId,
    trace::{SpanContext, TraceContextExt as _, TraceFlags, TraceState},
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::fleet::Fleet;

/// The header.
pub(crate) const HEADER: &str = "traceparent";
/// Bytes of version 0, and of what later versions have in common with it.
const LENGTH: usize = 55;
/// Bytes of a later version that are looked at.
const LONGEST: usize = 256;
/// The longest name of what a path changes; a longer one is that of nothing.
const LONGEST_NAME: usize = 128;

/// Reads a header; `None` for whatever is none.
fn parse(text: &str) -> Option<SpanContext> {
    let is_digit = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
    if text.len() > LONGEST || !text.is_ascii() {
        return None;
    }
    let (common, rest) = text.split_at_checked(LENGTH)?;
    let mut fields = common.splitn(4, '-');
    let mut field = |length: usize| {
        let field = fields.next()?;
        (field.len() == length && field.as_bytes().iter().all(is_digit)).then_some(field)
    };
    let (version, trace, span, flags) = (field(2)?, field(32)?, field(16)?, field(2)?);
    let is_whole = match version {
        "ff" => false,
        "00" => rest.is_empty(),
        _ => rest.is_empty() || rest.starts_with('-'),
    };
    if !is_whole {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    Some(SpanContext::new(trace, span, flags, true, TraceState::default())).filter(SpanContext::is_valid)
}

fn write(place: &SpanContext) -> String {
    let flags = place.trace_flags() & TraceFlags::SAMPLED;
    format!("00-{}-{}-{:02x}", place.trace_id(), place.span_id(), flags.to_u8())
}

/// Makes a span that is not yet entered a part of the trace that the header names.
pub(crate) fn adopt(span: &Span, header: &str) {
    if let Some(place) = parse(header) {
        // Without a collector there is no trace to be a part of.
        drop(span.set_parent(Context::new().with_remote_span_context(place)));
    }
}

/// The header for what this span asks for; `None` without a collector.
pub(crate) fn of(span: &Span) -> Option<String> {
    let context = span.context();
    let place = context.span().span_context().clone();
    place.is_valid().then(|| write(&place))
}

/// Notes that the request of this moment changes what its path names, so that whatever comes of it can be found to belong to it.
pub(crate) async fn note(fleet: &Fleet, account: &AccountScope, path: &str) {
    if fleet.config.traces.is_none() {
        return;
    }
    let (Some(parent), Some(subject)) = (of(&Span::current()), subject(path)) else { return };
    if let Err(error) = account.note_trace(subject, &parent, fleet.clock.now()).await {
        tracing::warn!(error = %crate::Chain(&error), "a trace was not noted");
    }
}

/// Makes a span that is not yet entered a part of the trace of the request that last changed `subject`.
pub(crate) async fn adopt_cause(fleet: &Fleet, account: &AccountScope, span: &Span, subject: &str) {
    if fleet.config.traces.is_none() {
        return;
    }
    match account.trace_of(subject).await {
        Ok(Some(parent)) => adopt(span, &parent),
        Ok(None) => {}
        Err(error) => tracing::warn!(error = %crate::Chain(&error), "a trace was not looked for"),
    }
}

/// What a path of the API changes that devices are told of, as in `rollouts/ro-1`.
pub(crate) fn subject(path: &str) -> Option<&str> {
    let path = path.strip_prefix(fleet_api::BASE_PATH).unwrap_or(path).trim_start_matches('/');
    let (kind, rest) = path.split_once('/')?;
    let name = rest.split('/').next().filter(|name| (1..=LONGEST_NAME).contains(&name.len()))?;
    ["rollouts", "devices"].contains(&kind).then(|| &path[..kind.len() + 1 + name.len()])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_header_is_read_as_its_standard_says_and_nothing_else_is() {
        let place = parse(EXAMPLE).unwrap();
        assert!(place.is_sampled() && place.is_remote());
        assert_eq!(write(&place), EXAMPLE);
        let later = format!("cc{}-what-comes-later", &EXAMPLE[2..]);
        assert_eq!(parse(&later).unwrap().trace_id(), place.trace_id());
        for wrong in [
            "",
            "00",
            &EXAMPLE[1..],
            &EXAMPLE.to_uppercase(),
            &EXAMPLE.replace("00-4", "ff-4"),
            &EXAMPLE.replace('-', "_"),
            &EXAMPLE.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &EXAMPLE.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &EXAMPLE.replace("-01", "-+1"),
            &format!("{EXAMPLE}-more"),
            &format!("cc{}more", &EXAMPLE[2..]),
            &format!("cc{}-{}", &EXAMPLE[2..], "x".repeat(LONGEST)),
        ] {
            assert!(parse(wrong).is_none(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_not_and_what_is_read_comes_out_again(text in "\\PC{0,80}", at: proptest::sample::Index, byte: u8) {
            prop_assert!(parse(&text).is_none());
            let mut bent = EXAMPLE.as_bytes().to_vec();
            let place = at.index(bent.len());
            bent[place] = byte;
            if let Some(place) = std::str::from_utf8(&bent).ok().and_then(parse) {
                prop_assert_eq!(parse(&write(&place)).unwrap(), place);
            }
        }
    }

    #[test]
    fn a_path_names_what_it_changes() {
        assert_eq!(subject("/api/v1/rollouts/ro-1/start"), Some("rollouts/ro-1"));
        assert_eq!(subject("/api/v1/devices/gate-1"), Some("devices/gate-1"));
        assert_eq!(subject("rollouts/ro-1/devices/gate-1"), Some("rollouts/ro-1"));
        for none in ["/api/v1/rollouts", "/api/v1/rollouts/", "/api/v1/groups/doors", "/readyz", ""] {
            assert_eq!(subject(none), None, "{none}");
        }
    }
}
