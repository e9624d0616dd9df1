//! Packets as a hostile peer might send them, through the coalescer: nothing may get lost, and what
//! is merged has to split into the same packets again.

use std::io::IoSlice;

use ovpn_userspace::offload::coalesce::{Coalescer, Config};
use ovpn_userspace::offload::split::Plan;
use ovpn_userspace::offload::virtio::{self, Header};

/// Input: packets, each with its length in front (two bytes, little endian).
pub fn run(data: &[u8]) {
    merge(data);
    leave_out_acknowledgements(data);
}

/// Where acknowledgements may be left out, whatever is written is one of the packets, and what is
/// missing was counted.
fn leave_out_acknowledgements(data: &[u8]) {
    let mut coalescer = Coalescer::new(Config { acknowledgements: true, ..Config::NOTHING });
    let mut packets = Vec::new();
    let mut at = 0;
    while let Some(length) = data.get(at..at + 2) {
        let len = usize::from(u16::from_le_bytes([length[0], length[1]])).min(data.len() - at - 2);
        packets.push(&data[at + 2..at + 2 + len]);
        coalescer.push(data, at + 2, len);
        at += 2 + len;
    }
    let written = coalescer.finish().len();
    assert_eq!(written as u64 + coalescer.superseded(), packets.len() as u64);
    for item in coalescer.finish() {
        item.write_with(data, false, |pieces: &[IoSlice<'_>]| {
            assert!(packets.iter().any(|packet| *packet == &*pieces[0]));
        });
    }
}

fn merge(data: &[u8]) {
    let mut coalescer = Coalescer::new(Config { tcp: true, udp: true, ..Config::NOTHING });
    let mut places = Vec::new();
    let mut at = 0;
    while let Some(length) = data.get(at..at + 2) {
        let len = usize::from(u16::from_le_bytes([length[0], length[1]])).min(data.len() - at - 2);
        places.push((at + 2, len));
        coalescer.push(data, at + 2, len);
        at += 2 + len;
    }
    let mut split = Vec::new();
    for item in coalescer.finish() {
        let written = item.write_with(data, true, |pieces: &[IoSlice<'_>]| {
            pieces.iter().flat_map(|piece| piece.iter().copied()).collect::<Vec<u8>>()
        });
        let (header, packet) = written.split_first_chunk::<{ virtio::LEN }>().expect("a header");
        let header = Header::decode(header).expect("our own header");
        if item.packets() == 1 {
            split.push(packet.to_vec());
            continue;
        }
        let plan = Plan::new(&header, packet).expect("our own super-packet");
        assert_eq!(plan.segments(), item.packets());
        for index in 0..plan.segments() {
            let mut segment = vec![0; plan.segment_len(index)];
            plan.write_segment(packet, index, &mut segment);
            split.push(segment);
        }
    }
    let mut original: Vec<Vec<u8>> =
        places.iter().map(|(start, len)| comparable(&data[*start..start + len])).collect();
    let mut split: Vec<Vec<u8>> = split.iter().map(|packet| comparable(packet)).collect();
    original.sort();
    split.sort();
    assert!(original == split, "what was merged is not what comes out");
}

/// With DF set the identification of IPv4 means nothing (RFC 6864), and counts up when split. A
/// checksum of zero may be written as 0xFFFF.
fn comparable(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let (transport, protocol) = match packet.first() {
        Some(0x45) if packet.len() >= 20 => (20, packet[9]),
        Some(first) if first >> 4 == 6 && packet.len() >= 40 => (40, packet[6]),
        _ => return packet,
    };
    if transport == 20 && packet[6] & 0x40 != 0 {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    let checksums = [(transport == 20).then_some(10), (protocol == 6).then_some(transport + 16)];
    for at in checksums.into_iter().flatten() {
        if let Some(field @ [0xff, 0xff]) = packet.get_mut(at..at + 2) {
            field.fill(0);
        }
    }
    packet
}
