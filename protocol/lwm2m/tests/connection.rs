//! Two ends of one connection talk in every size of block, and each rule that a peer may break has its answer.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper that meets what it does not expect should stop the test"
)]

use std::time::Duration;

use protocol_lwm2m::{
    coap::{
        Code, Connection, ContentFormat, ExchangeError, Limits, Message, OptionNumber, Token,
        connection::{CloseReason, InboundId, Output},
        signal::{Capabilities, Signal},
        tcp,
    },
    time::Millis,
};

type End = Connection<u32>;
type Outputs = Vec<Output<u32>>;

const NOW: Millis = Millis(1000);

fn limits(max_message: u32) -> Limits {
    Limits { max_message, max_body: 100_000, ..Limits::default() }
}

/// An end whose peer has said what it takes.
fn open(own: Limits, peer: Capabilities) -> End {
    let mut out = Outputs::new();
    let mut end = End::open(own, 7, &mut out);
    end.receive(NOW, peer.message(), &mut out);
    assert!(matches!(&out[..], [Output::Send(csm), Output::Ready] if csm.code == Code::CSM), "{out:?}");
    end
}

fn peer(max_message_size: u32) -> Capabilities {
    Capabilities { max_message_size, block_wise: true }
}

/// What an end does when it hears a message.
fn hear(end: &mut End, message: Message) -> Outputs {
    let mut out = Outputs::new();
    end.receive(NOW, message, &mut out);
    out
}

fn ask(end: &mut End, request: Message) -> Outputs {
    let mut out = Outputs::new();
    end.request(NOW, request, 1, &mut out);
    out
}

fn sent(out: &Outputs) -> Message {
    match &out[..] {
        [Output::Send(message)] => message.clone(),
        other => panic!("expected one message, not {other:?}"),
    }
}

fn request(out: &Outputs) -> (InboundId, Message) {
    match &out[..] {
        [Output::Request { id, request }] => (*id, request.clone()),
        other => panic!("expected one request, not {other:?}"),
    }
}

/// Carries everything between two ends until `a` has its outcome; `b` answers each request with `answer`. Gives the outcome, what
/// `b` was asked, and how many messages went to and fro.
fn converse(a: &mut End, b: &mut End, first: Message, answer: &Message) -> (Output<u32>, Message, usize) {
    let mut to_b = ask(a, first);
    let (mut heard, mut count) = (None, 0);
    loop {
        let mut to_a = Outputs::new();
        for output in to_b.drain(..) {
            match output {
                Output::Send(message) => {
                    count += 1;
                    b.receive(NOW, message, &mut to_a);
                }
                outcome => return (outcome, heard.unwrap(), count),
            }
        }
        while let Some(at) = to_a.iter().position(|output| matches!(output, Output::Request { .. })) {
            let Output::Request { id, request } = to_a.remove(at) else { unreachable!() };
            heard = Some(request);
            b.respond(NOW, id, answer.clone(), &mut to_a);
        }
        for output in to_a {
            match output {
                Output::Send(message) => {
                    count += 1;
                    a.receive(NOW, message, &mut to_b);
                }
                other => panic!("the answering end did {other:?}"),
            }
        }
        assert!(count < 10_000, "the conversation does not end");
    }
}

#[test]
fn bodies_of_any_length_pass_between_ends_of_any_size() {
    for (small, large) in [(128, 128), (1152, 1152), (1152, 65_536), (4096, 4096), (65_536, 128), (65_536, 65_536)] {
        for len in [0, 1, 15, 16, 17, 1000, 1024, 1100, 5000, 70_000] {
            let (mut a, mut b) = (open(limits(small), peer(large)), open(limits(large), peer(small)));
            let body: Vec<u8> = (0..len).map(|at: u32| at.to_le_bytes()[0]).collect();
            let put = Message::new(Code::POST).path("/x/y").query("z").content(ContentFormat::OPAQUE, body.clone());
            let back: Vec<u8> = body.iter().rev().copied().collect();
            let answer = Message::new(Code::CHANGED).content(ContentFormat::OPAQUE, back.clone());
            let (outcome, heard, count) = converse(&mut a, &mut b, put.clone(), &answer);
            assert_eq!(heard.payload, body, "{small} {large} {len}");
            assert_eq!(heard.options, put.options);
            let Output::Response { tag: 1, response } = outcome else { panic!("{small} {large} {len}: {outcome:?}") };
            assert_eq!((response.code, response.payload), (Code::CHANGED, back));
            if small == 65_536 && large == 65_536 {
                let most = if len > 65_536 { 6 } else { 2 };
                assert!(count <= most, "{count} messages for {len} bytes: many kilobytes fit into one block");
            }
            assert!(!a.is_busy() && !b.is_busy());
        }
    }
}

#[test]
fn a_body_beyond_the_limit_is_refused_at_its_first_block_by_either_end() {
    let small = Limits { max_body: 5000, ..limits(1152) };
    let (mut a, mut b) = (open(limits(1152), peer(1152)), open(small, peer(1152)));
    let first = sent(&ask(&mut a, Message::new(Code::PUT).path("x").content(ContentFormat::OPAQUE, vec![0; 6000])));
    let refusal = sent(&hear(&mut b, first));
    assert_eq!(refusal.code, Code::REQUEST_ENTITY_TOO_LARGE);
    let outcome = hear(&mut a, refusal);
    assert!(
        matches!(&outcome[..], [Output::Response { response, .. }] if response.code == Code::REQUEST_ENTITY_TOO_LARGE)
    );

    let too_large = ask(&mut b, Message::new(Code::PUT).path("x").content(ContentFormat::OPAQUE, vec![0; 6000]));
    assert_eq!(too_large, [Output::Failed { tag: 1, error: ExchangeError::TooLarge }]);

    let mut no_blocks = open(limits(1152), Capabilities { max_message_size: 1152, block_wise: false });
    let too_large =
        ask(&mut no_blocks, Message::new(Code::PUT).path("x").content(ContentFormat::OPAQUE, vec![0; 1200]));
    assert_eq!(too_large, [Output::Failed { tag: 1, error: ExchangeError::TooLarge }]);
}

#[test]
fn a_response_larger_than_the_limit_fails_without_being_kept() {
    let small = Limits { max_body: 2000, ..limits(1152) };
    let (mut a, mut b) = (open(small, peer(1152)), open(limits(1152), peer(1152)));
    let answer = Message::new(Code::CONTENT).content(ContentFormat::OPAQUE, vec![0; 3000]);
    let (outcome, ..) = converse(&mut a, &mut b, Message::new(Code::GET).path("x"), &answer);
    assert_eq!(outcome, Output::Failed { tag: 1, error: ExchangeError::TooLarge });
}

#[test]
fn a_request_that_acts_is_never_run_again_for_a_late_block_of_its_answer() {
    let mut end = open(limits(1152), peer(1152));
    for (code, refused) in [(Code::POST, true), (Code::GET, false)] {
        let late = Message::new(code).path("x").with_uint(OptionNumber::BLOCK2, 0x16).with_token(Token::from(9));
        let out = hear(&mut end, late);
        if refused {
            assert_eq!(sent(&out).code, Code::REQUEST_ENTITY_INCOMPLETE);
        } else {
            let (id, _) = request(&out);
            let mut out = Outputs::new();
            end.respond(NOW, id, Message::new(Code::CONTENT).content(ContentFormat::OPAQUE, vec![5; 1500]), &mut out);
            let part = sent(&out);
            assert_eq!((part.payload.len(), part.options.uint(OptionNumber::BLOCK2)), (476, Some(0x16)));
        }
    }
}

#[test]
fn kept_bodies_are_dropped_when_their_time_is_over() {
    let mut end = open(limits(1152), peer(1152));
    let get = Message::new(Code::GET).path("x").with_token(Token::from(9));
    let (id, _) = request(&hear(&mut end, get.clone()));
    end.respond(
        NOW,
        id,
        Message::new(Code::CONTENT).content(ContentFormat::OPAQUE, vec![5; 1500]),
        &mut Outputs::new(),
    );
    let next = get.with_uint(OptionNumber::BLOCK2, 0x16);
    assert_eq!(sent(&hear(&mut end, next.clone())).payload.len(), 476);
    let later = end.next_deadline().unwrap();
    end.time_passed(later, &mut Outputs::new());
    assert_eq!(end.next_deadline(), None);
    request(&hear(&mut end, next));
}

#[test]
fn an_unknown_critical_option_is_answered_with_4_02_and_in_a_response_fails_the_exchange() {
    let mut end = open(limits(1152), peer(1152));
    let odd = Message::new(Code::GET).with_uint(OptionNumber(2053), 1);
    assert_eq!(sent(&hear(&mut end, odd)).code, Code::BAD_OPTION);
    let known = |number, value: &[u8]| {
        let mut message = Message::new(Code::PUT).path("/3/0/14");
        message.options.push(number, value);
        message
    };
    for (number, value, code) in [
        (OptionNumber::IF_NONE_MATCH, &b""[..], Code::BAD_OPTION),
        (OptionNumber::IF_MATCH, b"1", Code::BAD_OPTION),
        (OptionNumber::URI_PATH, b"\xff", Code::BAD_OPTION),
        (OptionNumber::URI_QUERY, b"a=\xff", Code::BAD_OPTION),
        (OptionNumber::PROXY_URI, b"coap://example", Code::PROXYING_NOT_SUPPORTED),
        (OptionNumber::PROXY_SCHEME, b"coap", Code::PROXYING_NOT_SUPPORTED),
    ] {
        assert_eq!(sent(&hear(&mut end, known(number, value))).code, code, "{number}");
    }
    let get = sent(&ask(&mut end, Message::new(Code::GET)));
    let odd = Message::new(Code::CONTENT).with_uint(OptionNumber(2053), 1).with_token(get.token);
    assert_eq!(hear(&mut end, odd), [Output::Failed { tag: 1, error: ExchangeError::Broken }]);
}

#[test]
fn more_requests_at_once_than_allowed_are_answered_with_5_03_and_ours_fail() {
    let few = Limits { max_inbound: 2, max_exchanges: 2, ..limits(1152) };
    let mut end = open(few, peer(1152));
    let get = |token: u32| Message::new(Code::GET).with_token(Token::from(token));
    let (first, _) = request(&hear(&mut end, get(1)));
    request(&hear(&mut end, get(2)));
    assert_eq!(sent(&hear(&mut end, get(3))).code, Code::SERVICE_UNAVAILABLE);
    end.respond(NOW, first, Message::new(Code::VALID), &mut Outputs::new());
    request(&hear(&mut end, get(4)));

    sent(&ask(&mut end, Message::new(Code::GET)));
    sent(&ask(&mut end, Message::new(Code::GET)));
    assert_eq!(ask(&mut end, Message::new(Code::GET)), [Output::Failed { tag: 1, error: ExchangeError::TooMany }]);
}

#[test]
fn a_request_without_answer_times_out_and_its_late_answer_is_passed_over() {
    let mut end = open(limits(1152), peer(1152));
    let get = sent(&ask(&mut end, Message::new(Code::GET)));
    let deadline = end.next_deadline().unwrap();
    assert_eq!(deadline, NOW.plus(Duration::from_secs(30)));
    let mut out = Outputs::new();
    end.time_passed(Millis(deadline.0 - 1), &mut out);
    assert!(out.is_empty());
    end.time_passed(deadline, &mut out);
    assert_eq!(out, [Output::Failed { tag: 1, error: ExchangeError::TimedOut }]);
    assert!(hear(&mut end, Message::new(Code::CONTENT).with_token(get.token)).is_empty());
}

#[test]
fn a_connection_begins_with_a_csm_or_ends() {
    for first in [Message::new(Code::GET), Signal::Ping { custody: false }.message(), Message::new(Code::CONTENT)] {
        let mut out = Outputs::new();
        let mut end = End::open(limits(1152), 7, &mut out);
        out.clear();
        end.receive(NOW, first, &mut out);
        assert!(
            matches!(&out[..], [Output::Send(abort), Output::Close(CloseReason::Broken)] if abort.code == Code::ABORT),
            "{out:?}"
        );
        assert!(hear(&mut end, peer(1152).message()).is_empty(), "nothing is heard after the end");
    }
    let mut end = End::open(limits(1152), 7, &mut Outputs::new());
    assert_eq!(
        ask(&mut end, Message::new(Code::GET)),
        [Output::Failed { tag: 1, error: ExchangeError::ConnectionLost }]
    );
}

#[test]
fn ping_release_and_abort_are_answered_as_the_standard_says() {
    let mut end = open(limits(1152), peer(1152));
    let ping = Signal::Ping { custody: true }.message().with_token(Token::from(5));
    assert_eq!(sent(&hear(&mut end, ping)), Signal::Pong { custody: true }.message().with_token(Token::from(5)));
    assert!(hear(&mut end, Message::new(Code::EMPTY)).is_empty());
    assert!(hear(&mut end, Message::new(Code::new(7, 9))).is_empty(), "unknown signals are passed over");
    ask(&mut end, Message::new(Code::GET));
    let release = Signal::Release { alternatives: Vec::new(), hold_off: Some(9) };
    let out = hear(&mut end, release.message());
    let lost = Output::Failed { tag: 1, error: ExchangeError::ConnectionLost };
    assert_eq!(out, [lost, Output::Close(CloseReason::Released(Some(9)))]);

    let mut end = open(limits(1152), peer(1152));
    assert_eq!(hear(&mut end, protocol_lwm2m::coap::signal::abort("x")), [Output::Close(CloseReason::Aborted)]);
}

#[test]
fn a_ping_with_custody_is_answered_after_the_requests_before_it() {
    let get = |token: u32| Message::new(Code::GET).with_token(Token::from(token));
    let ping = |custody: bool, token: u32| Signal::Ping { custody }.message().with_token(Token::from(token));
    let pong = |custody: bool, token: u32| Signal::Pong { custody }.message().with_token(Token::from(token));
    let mut end = open(limits(1152), peer(1152));
    let (first, _) = request(&hear(&mut end, get(1)));
    let (second, _) = request(&hear(&mut end, get(2)));
    assert!(hear(&mut end, ping(true, 8)).is_empty(), "nothing is answered yet");
    assert_eq!(sent(&hear(&mut end, ping(false, 9))), pong(false, 9), "it asks for no promise");
    request(&hear(&mut end, get(3)));
    let answer = |token: u32| Output::Send(Message::new(Code::VALID).with_token(Token::from(token)));
    let mut out = Outputs::new();
    end.respond(NOW, second, Message::new(Code::VALID), &mut out);
    assert_eq!(out, [answer(2)], "one of two is answered");
    out.clear();
    end.respond(NOW, first, Message::new(Code::VALID), &mut out);
    assert_eq!(out, [answer(1), Output::Send(pong(true, 8))], "the third request came after the ping");

    let few = Limits { max_inbound: 1, ..limits(1152) };
    let mut end = open(few, peer(1152));
    request(&hear(&mut end, get(1)));
    assert!(hear(&mut end, ping(true, 2)).is_empty());
    assert_eq!(sent(&hear(&mut end, ping(true, 3))), pong(false, 3), "more pings than are kept get no promise");
}

/// An end that observes, the token, and the first response.
fn observing() -> (End, Token) {
    let mut end = open(limits(1152), peer(1152));
    let get = sent(&ask(&mut end, Message::new(Code::GET).path("x").with_uint(OptionNumber::OBSERVE, 0)));
    let first = Message::refusal(Code::CONTENT, "1").with_uint(OptionNumber::OBSERVE, 0).with_token(get.token);
    assert!(matches!(&hear(&mut end, first)[..], [Output::Response { tag: 1, .. }]));
    (end, get.token)
}

#[test]
fn notifications_come_until_the_observation_is_cancelled() {
    let (mut end, token) = observing();
    let note = |text: &str| Message::refusal(Code::CONTENT, text).with_uint(OptionNumber::OBSERVE, 1).with_token(token);
    assert!(
        matches!(&hear(&mut end, note("2"))[..], [Output::Notification { tag: 1, response }] if response.payload == b"2")
    );
    let mut out = Outputs::new();
    assert!(end.cancel(NOW, |tag| *tag == 1, 2, &mut out));
    let cancel = sent(&out);
    assert_eq!((cancel.token, cancel.options.uint(OptionNumber::OBSERVE)), (token, Some(1)));
    let last = Message::refusal(Code::CONTENT, "3").with_token(token);
    assert!(matches!(&hear(&mut end, last)[..], [Output::Response { tag: 2, .. }]));
    assert!(hear(&mut end, note("4")).is_empty());
    assert!(!end.cancel(NOW, |tag| *tag == 1, 2, &mut Outputs::new()));
}

#[test]
fn a_notification_larger_than_a_message_is_fetched_to_its_end() {
    let (mut end, token) = observing();
    let block = |num: u32, more: bool| (num << 4) | if more { 8 } else { 0 } | 6;
    let mut first = Message::new(Code::CONTENT).with_uint(OptionNumber::BLOCK2, block(0, true)).with_token(token);
    first.payload = vec![1; 1024];
    let fetch = sent(&hear(&mut end, first.with_uint(OptionNumber::OBSERVE, 5)));
    assert_ne!(fetch.token, token, "the token of the observation stays free for the next notification");
    assert_eq!(fetch.options.uint(OptionNumber::BLOCK2), Some(block(1, false)));
    assert_eq!(fetch.options.uint(OptionNumber::OBSERVE), None);
    let mut last = Message::new(Code::CONTENT).with_uint(OptionNumber::BLOCK2, block(1, false)).with_token(fetch.token);
    last.payload = vec![2; 10];
    assert!(
        matches!(&hear(&mut end, last)[..], [Output::Notification { tag: 1, response }] if response.payload.len() == 1034)
    );
}

#[test]
fn a_newer_notification_stands_for_an_older_one_that_is_still_fetched() {
    let (mut end, token) = observing();
    let block = |num: u32, more: bool| (num << 4) | if more { 8 } else { 0 } | 6;
    let large = |tag: u8| {
        let mut first = Message::new(Code::CONTENT).with_uint(OptionNumber::BLOCK2, block(0, true)).with_token(token);
        first.options.push(OptionNumber::ETAG, &[tag]);
        first.payload = vec![tag; 1024];
        first.with_uint(OptionNumber::OBSERVE, tag.into())
    };
    let rest = |tag: u8, token: Token| {
        let mut last = Message::new(Code::CONTENT).with_uint(OptionNumber::BLOCK2, block(1, false)).with_token(token);
        last.options.push(OptionNumber::ETAG, &[tag]);
        last.payload = vec![tag; 10];
        last
    };
    let (old, new) = (sent(&hear(&mut end, large(1))).token, sent(&hear(&mut end, large(2))).token);
    assert_eq!(hear(&mut end, rest(2, old)), [], "the fetch of the older one was given up");
    let told = hear(&mut end, rest(2, new));
    assert!(matches!(&told[..], [Output::Notification { response, .. }] if response.payload == [2; 1034]), "{told:?}");

    let old = sent(&hear(&mut end, large(3))).token;
    let small = Message::refusal(Code::CONTENT, "4").with_uint(OptionNumber::OBSERVE, 4).with_token(token);
    assert!(matches!(&hear(&mut end, small)[..], [Output::Notification { .. }]));
    assert_eq!(hear(&mut end, rest(3, old)), [], "nothing older follows");
}

#[test]
fn an_error_ends_the_observation_and_a_lost_connection_ends_all() {
    let (mut end, token) = observing();
    let gone = Message::new(Code::NOT_FOUND).with_token(token);
    assert!(
        matches!(&hear(&mut end, gone.clone())[..], [Output::Notification { response, .. }] if response.code == Code::NOT_FOUND)
    );
    assert!(hear(&mut end, gone).is_empty());
    let (mut end, _) = observing();
    let mut out = Outputs::new();
    end.lost(&mut out);
    assert_eq!(out, [Output::Ended { tag: 1, error: ExchangeError::ConnectionLost }]);
}

#[test]
fn no_message_is_larger_than_the_peer_takes_down_to_the_smallest_that_can_work() {
    for max_message in [100, 200, 600, 1152, 1500, 3000] {
        let mut end = open(limits(65_536), peer(max_message));
        let first =
            sent(&ask(&mut end, Message::new(Code::PUT).path("x").content(ContentFormat::OPAQUE, vec![0; 6000])));
        let size = u32::try_from(tcp::size(&first)).unwrap();
        assert!(size <= max_message && size * 3 > max_message, "{size} of {max_message}");
    }
}
