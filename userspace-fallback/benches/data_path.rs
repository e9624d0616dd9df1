//! The pure parts of the data path, per batch of one 64 KiB super-packet: what each costs without
//! a kernel in between. `cargo bench -p ovpn-userspace`.
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark")]

mod pipeline;

use std::hint::black_box;
use std::time::Instant;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ovpn_dco::replay::Window;
use ovpn_dco::{Cipher, Digest};
use ovpn_userspace::offload::checksum::Sum;
use ovpn_userspace::offload::coalesce::{Coalescer, Config};
use ovpn_userspace::offload::split::Plan;
use pipeline::packets::{ACK, Flow};
use pipeline::{SEGMENTS, peer, receive, send, super_packet};

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
    let cbc = [Digest::Sha1, Digest::Sha256, Digest::Sha512].map(Cipher::Aes256Cbc);
    let epochs = [Cipher::Aes256GcmEpoch, Cipher::ChaCha20Poly1305Epoch];
    for cipher in Cipher::AEAD.into_iter().chain(cbc).chain(epochs) {
        let mut sender = peer(cipher);
        let envelope = sender.envelope(0x45);
        let mut sealed = vec![0x45; envelope.sealed_len(1400)];
        let name = format!("seal {cipher}");
        group.bench_function(name, |b| b.iter(|| sender.seal(envelope, &mut sealed, 1400).is_ok()));
        let mut receiver = peer(cipher);
        group.bench_function(format!("open {cipher}"), |b| {
            b.iter_batched_ref(
                || {
                    let mut sealed = vec![0x45; envelope.sealed_len(1400)];
                    sender.seal(envelope, &mut sealed, 1400).unwrap();
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
