//! The pure part of the data path from end to end, for the benchmarks.

#[path = "../../tests/packets/mod.rs"]
pub(crate) mod packets;

use std::hint::black_box;
use std::time::Instant;

use ovpn_dco::{Cipher, DirectionKey, Framing, KeyConfig, KeyId, PeerId};
use ovpn_userspace::offload::coalesce::Coalescer;
use ovpn_userspace::offload::split::Plan;
use ovpn_userspace::offload::virtio::Header;
use ovpn_userspace::peer::{Opened, Peer};
use packets::{ACK, Flow, PSH};

/// TCP payload of a packet at MTU 1400, and packets in one UDP_SEGMENT send.
pub(crate) const SEGMENT: usize = 1348;
pub(crate) const SEGMENTS: usize = 45;

/// A full super-packet of an upload, as the TUN device hands it over.
pub(crate) fn super_packet() -> (Header, Vec<u8>) {
    let payload: Vec<u8> = (0..SEGMENT * SEGMENTS).map(|i| (i * 7) as u8).collect();
    Flow::default().super_packet(1, 1, ACK | PSH, &payload, SEGMENT)
}

/// A peer that opens what it seals.
pub(crate) fn peer(cipher: Cipher) -> Peer {
    let direction = || DirectionKey::new(cipher, &[7; 32], [1; 64]).unwrap();
    let mut peer = Peer::new(PeerId::new(1), Framing::None, None);
    let key =
        KeyConfig { key_id: KeyId::FIRST, cipher, encrypt: direction(), decrypt: direction() };
    peer.install(key).unwrap();
    peer
}

/// Splits and seals into `out`; length of each sealed packet but the last, and of all.
pub(crate) fn send(peer: &mut Peer, plan: Plan, packet: &[u8], out: &mut [u8]) -> (usize, usize) {
    let envelope = peer.envelope(packet[0]);
    let (mut at, mut first) = (0, 0);
    for index in 0..plan.segments() {
        let len = plan.segment_len(index);
        let sealed = envelope.sealed_len(len);
        let place = &mut out[at..at + sealed];
        plan.write_segment(packet, index, &mut place[envelope.inner(len)]);
        peer.seal(envelope, place, len).unwrap();
        first = first.max(sealed);
        at += sealed;
    }
    (first, at)
}

/// Opens and coalesces what [`send`] made; the number of writes it takes.
pub(crate) fn receive(
    peer: &mut Peer,
    slab: &mut [u8],
    stride: usize,
    coalescer: &mut Coalescer,
) -> usize {
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
