//! The pure parts of the data path, per batch of one 64 KiB super-packet: what each costs without
//! a kernel in between. `cargo bench -p ovpn-userspace`.
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark")]

#[path = "../tests/packets/mod.rs"]
mod packets;

use std::hint::black_box;
use std::time::Instant;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ovpn_dco::{Cipher, DirectionKey, Framing, KeyConfig, KeyId, KeySlot, PeerId};
use ovpn_userspace::offload::checksum::Sum;
use ovpn_userspace::offload::coalesce::{Coalescer, Config};
use ovpn_userspace::offload::split::Plan;
use ovpn_userspace::offload::virtio::Header;
use ovpn_userspace::peer::{Opened, Peer};
use ovpn_userspace::replay::Window;
use packets::{ACK, Flow, PSH};

/// TCP payload of a packet at MTU 1400, and packets in one UDP_SEGMENT send.
const SEGMENT: usize = 1348;
const SEGMENTS: usize = 45;

fn super_packet() -> (Header, Vec<u8>) {
    let payload: Vec<u8> = (0..SEGMENT * SEGMENTS).map(|i| (i * 7) as u8).collect();
    Flow::default().super_packet(1, 1, ACK | PSH, &payload, SEGMENT)
}

fn peer(cipher: Cipher) -> Peer {
    let direction = DirectionKey::new(cipher, &[7; 32], [1; 8]).unwrap();
    let mut peer = Peer::new(PeerId::new(1), Framing::None, None);
    let key =
        KeyConfig { key_id: KeyId::FIRST, cipher, encrypt: direction.clone(), decrypt: direction };
    peer.set_key(KeySlot::Primary, &key).unwrap();
    peer
}

/// Splits and seals into `out`; length of each sealed packet but the last, and of all.
fn send(peer: &mut Peer, plan: Plan, packet: &[u8], out: &mut [u8]) -> (usize, usize) {
    let envelope = peer.envelope(packet[0]);
    let (mut at, mut first) = (0, 0);
    for index in 0..plan.segments() {
        let sealed = envelope.sealed_len(plan.segment_len(index));
        let place = &mut out[at..at + sealed];
        plan.write_segment(packet, index, &mut place[envelope.inner(sealed)]);
        peer.seal(envelope, place).unwrap();
        first = first.max(sealed);
        at += sealed;
    }
    (first, at)
}

/// Opens and coalesces what [`send`] made; the number of writes it takes.
fn receive(peer: &mut Peer, slab: &mut [u8], stride: usize, coalescer: &mut Coalescer) -> usize {
    let now = Instant::now();
    let mut start = 0;
    while start < slab.len() {
        let end = (start + stride).min(slab.len());
        if let Opened::Packet(inner) = peer.open(&mut slab[start..end], now) {
            coalescer.push(slab, start + inner.start, inner.len());
        }
        start = end;
    }
    let mut writes = 0;
    for item in coalescer.finish() {
        writes += item.write_with(slab, true, |pieces| usize::from(!black_box(pieces).is_empty()));
    }
    coalescer.clear();
    writes
}

fn benchmarks(criterion: &mut Criterion) {
    let (header, packet) = super_packet();
    let plan = Plan::new(&header, &packet).unwrap();
    let mut out = vec![0; 70_000];
    let config = Config { tcp: true, udp: true, acknowledgements: true };

    let mut group = criterion.benchmark_group("one packet");
    group.throughput(Throughput::Bytes(1400));
    group.bench_function("checksum", |b| b.iter(|| Sum::ZERO.plus(black_box(&packet[..1400]))));
    let mut copy = vec![0; 1400];
    group.bench_function("checksum and copy", |b| {
        b.iter(|| Sum::ZERO.plus_copying(black_box(&packet[..1400]), &mut copy));
    });
    for cipher in Cipher::ALL {
        let mut sender = peer(cipher);
        let envelope = sender.envelope(0x45);
        let mut sealed = vec![0x45; envelope.sealed_len(1400)];
        let name = format!("seal {cipher}");
        group.bench_function(name, |b| b.iter(|| sender.seal(envelope, &mut sealed).is_ok()));
        let mut receiver = peer(cipher);
        group.bench_function(format!("open {cipher}"), |b| {
            b.iter_batched_ref(
                || {
                    let mut sealed = vec![0x45; envelope.sealed_len(1400)];
                    sender.seal(envelope, &mut sealed).unwrap();
                    sealed
                },
                |sealed| receiver.open(sealed, Instant::now()),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("one super-packet");
    group.throughput(Throughput::Elements(SEGMENTS as u64));
    group.bench_function("split", |b| {
        b.iter(|| {
            let mut at = 0;
            for index in 0..plan.segments() {
                let len = plan.segment_len(index);
                plan.write_segment(black_box(&packet), index, &mut out[at..at + len]);
                at += len;
            }
        });
    });
    let segments: Vec<u8> = (0..plan.segments())
        .flat_map(|index| {
            let mut segment = vec![0; plan.segment_len(index)];
            plan.write_segment(&packet, index, &mut segment);
            segment
        })
        .collect();
    let segment_len = plan.segment_len(0);
    let mut coalescer = Coalescer::new(config);
    group.bench_function("coalesce", |b| {
        b.iter(|| {
            let mut start = 0;
            while start < segments.len() {
                let len = segment_len.min(segments.len() - start);
                coalescer.push(black_box(&segments), start, len);
                start += len;
            }
            let items = coalescer.finish().len();
            coalescer.clear();
            items
        });
    });
    // What comes back for it from a peer that handles packets one by one.
    let acknowledgements: Vec<u8> = (1..=SEGMENTS as u32 / 3)
        .flat_map(|n| Flow { acknowledgement: n * 4000, ..Flow::default() }.packet(1, 1, ACK, &[]))
        .collect();
    let len = acknowledgements.len() / (SEGMENTS / 3);
    group.bench_function("supersede acknowledgements", |b| {
        b.iter(|| {
            for start in (0..acknowledgements.len()).step_by(len) {
                coalescer.push(black_box(&acknowledgements), start, len);
            }
            let items = coalescer.finish().len();
            coalescer.clear();
            items
        });
    });
    group.bench_function("replay window", |b| {
        let now = Instant::now();
        b.iter_batched_ref(
            Window::default,
            |window| {
                for id in 1..=SEGMENTS as u64 {
                    if window.check(black_box(id), now).is_ok() {
                        window.accept(id, now);
                    }
                }
            },
            BatchSize::SmallInput,
        );
    });
    let mut sender = peer(Cipher::Aes256Gcm);
    group.bench_function("pipeline up (split, seal)", |b| {
        b.iter(|| send(&mut sender, plan, black_box(&packet), &mut out));
    });
    let mut receiver = peer(Cipher::Aes256Gcm);
    let (stride, _) = send(&mut sender, plan, &packet, &mut out);
    group.bench_function("pipeline down (open, coalesce)", |b| {
        b.iter_batched_ref(
            || {
                let mut out = vec![0; 70_000];
                let (_, len) = send(&mut sender, plan, &packet, &mut out);
                out.truncate(len);
                out
            },
            |slab| receive(&mut receiver, slab, stride, &mut coalescer),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, benchmarks);
criterion_main!(benches);
