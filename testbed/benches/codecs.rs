//! How fast the codecs are, beside the crate that people would otherwise take. Run with `cargo bench --package testbed --bench codecs`.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot start should stop at once")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use protocol_lwm2m::{
    coap::{Code, ContentFormat, Message, Token, tcp, udp},
    formats::{self, Entry},
    object::Path,
};

/// A registration as a common client sends it: 127 bytes in a datagram.
fn register() -> Message {
    let mut message = Message::new(Code::POST)
        .path("rd")
        .query("lwm2m=1.1")
        .query("ep=urn:imei:490154203237518")
        .query("lt=3600")
        .query("b=U")
        .content(ContentFormat::LINK, &b"</1/1>,</3/0>,</4/0>,</5/0>,</9/0>,</26241/0>;ver=1.0"[..]);
    message.token = Token::new(&[1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
    message
}

fn report() -> (Path, Vec<Entry>) {
    let base: Path = "/26241/0".parse().unwrap();
    let values: [(u16, &str); 6] = [(3, "downloading"), (4, ""), (5, ""), (7, "r-1"), (9, "1.1.0"), (11, "b")];
    let mut entries: Vec<Entry> =
        values.iter().map(|(id, text)| Entry::new(format!("/26241/0/{id}").parse().unwrap(), *text)).collect();
    entries.push(Entry::new("/26241/0/6".parse().unwrap(), 42));
    (base, entries)
}

fn datagrams(c: &mut Criterion) {
    let datagram = udp::Datagram { kind: udp::Kind::Confirmable, id: 7, message: register() };
    let mut bytes = Vec::new();
    udp::encode(&datagram, &mut bytes);
    let theirs = coap_lite::Packet::from_bytes(&bytes).unwrap();

    let mut group = c.benchmark_group("datagram");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("decode", |b| b.iter(|| udp::decode(black_box(&bytes)).unwrap()));
    group.bench_function("decode, coap-lite", |b| b.iter(|| coap_lite::Packet::from_bytes(black_box(&bytes)).unwrap()));
    group.bench_function("encode", |b| {
        let mut out = Vec::new();
        b.iter(|| {
            out.clear();
            udp::encode(black_box(&datagram), &mut out);
        });
    });
    group.bench_function("encode, coap-lite", |b| b.iter(|| black_box(&theirs).to_bytes().unwrap()));
    group.finish();
}

fn streams(c: &mut Criterion) {
    let mut frame = Vec::new();
    tcp::encode(&register(), &mut frame);
    let mut group = c.benchmark_group("stream");
    group.throughput(Throughput::Bytes(frame.len() as u64));
    group.bench_function("decode", |b| b.iter(|| tcp::decode(black_box(&frame)).unwrap()));
    group.finish();
}

fn contents(c: &mut Criterion) {
    let (base, entries) = report();
    for (name, format) in [("tlv", ContentFormat::TLV), ("senml-cbor", ContentFormat::SENML_CBOR)] {
        let bytes = formats::encode(format, &base, &entries).unwrap();
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function("decode", |b| b.iter(|| formats::decode(format, &base, black_box(&bytes)).unwrap()));
        group.bench_function("encode", |b| b.iter(|| formats::encode(format, &base, black_box(&entries)).unwrap()));
        group.finish();
    }
}

criterion_group!(codecs, datagrams, streams, contents);
criterion_main!(codecs);
