//! Splitting and coalescing against slow and obvious versions, against each other, and against the
//! `tun-rs` crate's implementation.

#![allow(clippy::unwrap_used, reason = "tests")]

mod packets;

use std::io::IoSlice;

use ovpn_userspace::offload::coalesce::{self, Coalescer, Config};
use ovpn_userspace::offload::split::{MAX_SEGMENTS, Plan};
use ovpn_userspace::offload::virtio::{self, Gso, Header};
use packets::{ACK, CWR, FIN, Flow, PSH, SYN};
use proptest::collection::vec;
use proptest::prelude::*;

const BOTH: Config = Config { tcp: true, udp: true, acknowledgements: false };

fn flow() -> impl Strategy<Value = Flow> {
    (
        any::<[bool; 4]>(),
        any::<(u16, u16)>(),
        any::<(u8, u8)>(),
        vec(any::<u8>(), 0..=10),
        any::<(u32, u16)>(),
    )
        .prop_map(
            |([v6, tcp, dont_fragment, extension], ports, (tos, ttl), mut options, rest)| {
                options = options.into_iter().flat_map(|b| [b; 4]).collect();
                Flow {
                    v6,
                    tcp,
                    ports,
                    tos,
                    ttl,
                    dont_fragment,
                    extension: extension && v6,
                    options,
                    acknowledgement: rest.0,
                    window: rest.1,
                }
            },
        )
}

fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn split(header: &Header, packet: &[u8]) -> Vec<Vec<u8>> {
    let plan = Plan::new(header, packet).unwrap();
    (0..plan.segments())
        .map(|index| {
            let mut out = vec![0xee; plan.segment_len(index)];
            plan.write_segment(packet, index, &mut out);
            out
        })
        .collect()
}

/// The same by `tun-rs`.
fn split_by_tun_rs(header: &Header, packet: &[u8]) -> Vec<Vec<u8>> {
    let theirs = tun_rs::VirtioNetHdr::decode(&header.encode()).unwrap();
    let mut packet = packet.to_vec();
    let plan = Plan::new(header, &packet).unwrap();
    let mut out = vec![vec![0; plan.segment_len(0)]; plan.segments()];
    let mut sizes = vec![0; out.len()];
    let v6 = packet[0] >> 4 == 6;
    let count = tun_rs::gso_split(&mut packet, theirs, &mut out, &mut sizes, 0, v6).unwrap();
    out.truncate(count);
    out.iter_mut().zip(sizes).for_each(|(out, size)| out.truncate(size));
    out
}

/// What the super-packet stands for, built packet by packet.
fn expected(
    flow: &Flow,
    sequence: u32,
    id: u16,
    flags: u8,
    payload: &[u8],
    size: usize,
) -> Vec<Vec<u8>> {
    let count = payload.len().div_ceil(size);
    payload
        .chunks(size)
        .enumerate()
        .map(|(i, chunk)| {
            let mut flags = flags;
            if i != 0 {
                flags &= !CWR;
            }
            if i != count - 1 {
                flags &= !(FIN | PSH);
            }
            let sequence = sequence.wrapping_add((i * size) as u32);
            flow.packet(sequence, id.wrapping_add(i as u16), flags, chunk)
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn split_like_building_each(
        flow in flow(), sequence: u32, id: u16, flags: u8, len in 1usize..65_000, size in 1usize..9000,
    ) {
        let size = size.max(len.div_ceil(MAX_SEGMENTS));
        let len = len.min(65_535 - flow.header_len());
        let payload = payload(len);
        let (header, packet) = flow.super_packet(sequence, id, flags, &payload, size);
        let segments = split(&header, &packet);
        prop_assert!(segments == expected(&flow, sequence, id, flags, &payload, size));
    }

    #[test]
    fn finishing_a_checksum(flow in flow(), len in 0usize..1500) {
        let (mut header, packet) = flow.super_packet(5, 6, ACK, &payload(len), 1);
        header.gso = Gso::None;
        prop_assert_eq!(split(&header, &packet), [flow.packet(5, 6, ACK, &payload(len))]);
    }

    /// Anything at all either splits into packets of the lengths told, or is refused.
    #[test]
    fn hostile_headers(
        needs_checksum: bool, kind in 0usize..4, fields: [u16; 4], flow in flow(), len in 0usize..3000,
        flips in vec((0usize..80, any::<u8>()), 0..4), near: bool,
    ) {
        let (good, mut packet) = flow.super_packet(1, 1, ACK, &payload(len), 100);
        let gso = [Gso::None, Gso::TcpV4, Gso::TcpV6, Gso::Udp][kind];
        let header = if near {
            Header { gso, needs_checksum, ..good }
        } else {
            let [header_len, segment_size, checksum_start, checksum_offset] = fields;
            let (checksum_start, checksum_offset) = (checksum_start % 100, checksum_offset % 100);
            Header { needs_checksum, gso, header_len, segment_size, checksum_start, checksum_offset }
        };
        for (at, value) in flips {
            if let Some(byte) = packet.get_mut(at) {
                *byte = value;
            }
        }
        if let Ok(plan) = Plan::new(&header, &packet) {
            prop_assert!(plan.segments() <= MAX_SEGMENTS);
            for index in 0..plan.segments() {
                let mut out = vec![0; plan.segment_len(index)];
                plan.write_segment(&packet, index, &mut out);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn split_like_tun_rs(
        flow in flow(), sequence: u32, id: u16, flags: u8, len in 1usize..65_000, size in 40usize..2000,
    ) {
        let len = len.min(65_535 - flow.header_len());
        let (header, packet) = flow.super_packet(sequence, id, flags, &payload(len), size);
        prop_assert!(split(&header, &packet) == split_by_tun_rs(&header, &packet));
    }
}

/// Runs packets through a coalescer: what would be written, with virtio headers.
fn coalesce(config: Config, packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut slab = Vec::new();
    let mut places = Vec::new();
    for packet in packets {
        slab.extend_from_slice(b"between");
        places.push((slab.len(), packet.len()));
        slab.extend_from_slice(packet);
    }
    let mut coalescer = Coalescer::new(config);
    // What an earlier batch left must not matter.
    coalescer.push(&slab, 0, 7);
    coalescer.clear();
    for (start, len) in places {
        coalescer.push(&slab, start, len);
    }
    let collect = |pieces: &[IoSlice<'_>]| -> Vec<u8> {
        pieces.iter().flat_map(|piece| piece.iter().copied()).collect()
    };
    let written: Vec<_> =
        coalescer.finish().iter().map(|item| item.write_with(&slab, true, collect)).collect();
    // Singly, everything is as it came in, if maybe in another order between flows.
    let mut singly = Vec::new();
    for item in coalescer.finish() {
        item.write_singly(&slab, false, |pieces| singly.push(collect(pieces)));
    }
    let mut sorted = packets.to_vec();
    sorted.sort();
    singly.sort();
    assert!(singly == sorted);
    written
}

fn parts(written: &[u8]) -> (Header, &[u8]) {
    let (header, packet) = written.split_first_chunk::<{ virtio::LEN }>().unwrap();
    (Header::decode(header).unwrap(), packet)
}

/// What the kernel makes of what was written.
fn split_again(written: &[Vec<u8>]) -> Vec<Vec<u8>> {
    written
        .iter()
        .flat_map(|written| {
            let (header, packet) = parts(written);
            let segments = split(&header, packet);
            if header.gso != Gso::None {
                assert!(segments.len() > 1);
                assert!(segments == split_by_tun_rs(&header, packet));
            }
            segments
        })
        .collect()
}

/// One packet of a mixed sequence.
#[derive(Clone, Debug)]
enum Step {
    /// In order, full size.
    Next,
    Short(usize),
    Push,
    Empty,
    Flags(u8),
    Gap(u32),
    OtherTtl,
    Corrupt(usize),
    Fragment,
    Garbage(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => Just(Step::Next),
        1 => (1usize..100).prop_map(Step::Short),
        1 => Just(Step::Push),
        1 => Just(Step::Empty),
        1 => any::<u8>().prop_map(Step::Flags),
        1 => any::<u32>().prop_map(Step::Gap),
        1 => Just(Step::OtherTtl),
        1 => (0usize..1000).prop_map(Step::Corrupt),
        1 => Just(Step::Fragment),
        1 => (1usize..50).prop_map(Step::Garbage),
    ]
}

/// Builds the packets of a sequence; each with the flow it belongs to, if any.
fn sequence(flows: &[Flow], steps: &[(usize, Step)], size: usize) -> Vec<(Option<usize>, Vec<u8>)> {
    let mut next = vec![(7u32, 1u16); flows.len()];
    steps
        .iter()
        .map(|(which, step)| {
            let which = which % flows.len();
            let mut flow = flows[which].clone();
            let (sequence, id) = &mut next[which];
            let (mut len, mut flags) = (size, ACK);
            match step {
                Step::Short(n) => len = (*n).min(size),
                Step::Push => flags |= PSH,
                Step::Empty => len = 0,
                Step::Flags(other) => flags = *other,
                Step::Gap(gap) => *sequence = sequence.wrapping_add(*gap),
                Step::OtherTtl => flow.ttl ^= 1,
                _ => {}
            }
            // The flow's number in the payload, so that flows with equal fields stay apart.
            let mut data = payload(len);
            data.iter_mut().take(1).for_each(|b| *b = which as u8);
            let mut packet = flow.packet(*sequence, *id, flags, &data);
            *sequence = sequence.wrapping_add(len as u32);
            *id = id.wrapping_add(1);
            match step {
                Step::Corrupt(at) => {
                    let at = at % packet.len();
                    packet[at] ^= 0x10;
                    // It may be another flow's now, or none's.
                    return (None, packet);
                }
                Step::Fragment if !flow.v6 => {
                    packet[6] = 0x20;
                    return (None, packet);
                }
                Step::Garbage(len) => return (None, payload(*len)),
                _ => {}
            }
            (Some(which), packet)
        })
        .collect()
}

/// IDs count up when a super-packet is split again; with DF set they mean nothing.
fn without_id(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet.len() >= 20 && packet[0] == 0x45 && packet[6] == 0x40 {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    packet
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Nothing is lost, nothing is changed, nothing overtakes another packet of its flow.
    #[test]
    fn coalescing_keeps_everything(
        mut flows in vec(flow(), 1..4), steps in vec((0usize..4, step()), 1..120), size in 1usize..1400,
    ) {
        for (n, flow) in flows.iter_mut().enumerate() {
            flow.ports = (n as u16 + 1, 9);
        }
        let packets = sequence(&flows, &steps, size);
        let raw: Vec<_> = packets.iter().map(|(_, packet)| packet.clone()).collect();
        let back = split_again(&coalesce(BOTH, &raw));
        prop_assert_eq!(back.len(), raw.len());
        for (which, flow) in flows.iter().enumerate() {
            let reference = flow.packet(0, 0, 0, &[]);
            let (addresses, protocol) = if flow.v6 { (8..40, 6) } else { (12..20, 9) };
            let at = flow.transport_offset();
            let ports = at..at + 4;
            // A damaged packet may be one of this flow or of another.
            let mine = |packet: &[u8]| {
                packet.len() >= ports.end
                    && packet[0] == reference[0]
                    && packet[protocol] == reference[protocol]
                    && packet[addresses.clone()] == reference[addresses.clone()]
                    && packet[ports.clone()] == reference[ports.clone()]
            };
            let order = |list: &[Vec<u8>]| -> Vec<Vec<u8>> {
                list.iter().filter(|p| mine(p)).map(|p| without_id(p)).collect()
            };
            prop_assert!(order(&back) == order(&raw), "flow {}", which);
        }
        let sorted = |list: &[Vec<u8>]| {
            let mut list: Vec<_> = list.iter().map(|p| without_id(p)).collect();
            list.sort();
            list
        };
        prop_assert!(sorted(&back) == sorted(&raw));
    }

    /// How one flow's packets are grouped, by the rules in words.
    #[test]
    fn groups_like_the_rules(
        flow in flow(), sizes in vec((1usize..4, any::<u8>()), 1..200), full in 100usize..1400,
    ) {
        prop_assume!(!flow.extension);
        let mut packets = Vec::new();
        let mut groups: Vec<usize> = Vec::new();
        let (mut sequence, mut open, mut first, mut total) = (1u32, false, 0, 0);
        let limit = if flow.tcp { coalesce::MAX_SEGMENTS } else { 64 };
        for (id, (size, dice)) in sizes.iter().enumerate() {
            let len = if *dice < 200 { full } else { full / size };
            let push = *dice % 32 == 31;
            let flags = if push { ACK | PSH } else { ACK };
            packets.push(flow.packet(sequence, id as u16, flags, &payload(len)));
            sequence = sequence.wrapping_add(len as u32);
            let merges = open
                && len <= first
                && total + len <= 65_535
                && groups.last().is_some_and(|count| *count < limit);
            if merges {
                *groups.last_mut().unwrap() += 1;
                total += len;
            } else {
                groups.push(1);
                (first, total) = (len, flow.header_len() + len);
            }
            // PSH means something in TCP only.
            open = !(push && flow.tcp) && len == first;
        }
        let written = coalesce(BOTH, &packets);
        let got: Vec<_> = written
            .iter()
            .map(|w| { let (h, p) = parts(w); split(&h, p).len() })
            .collect();
        prop_assert_eq!(got, groups);
    }
}

/// Behind a routing header the last destination counts for the checksum, not the next hop that the
/// IPv6 header names.
#[test]
fn a_routing_header_keeps_its_last_destination() {
    const NEXT_HEADER: usize = 6;
    const ROUTING: u8 = 43;
    for tcp in [true, false] {
        let flow = Flow { v6: true, tcp, extension: true, ..Flow::default() };
        let routed = |mut packet: Vec<u8>| {
            packet[NEXT_HEADER] = ROUTING;
            packet[24..40].fill(0x77);
            packet
        };
        let data = payload(3500);
        let (header, packet) = flow.super_packet(1, 1, ACK, &data, 1000);
        let expected: Vec<_> =
            expected(&flow, 1, 1, ACK, &data, 1000).into_iter().map(routed).collect();
        assert!(split(&header, &routed(packet)) == expected);
    }
}

#[test]
fn a_download_becomes_one_super_packet() {
    for v6 in [false, true] {
        let flow = Flow { v6, ..Flow::default() };
        let data = payload(45 * 1348);
        let packets = expected(&flow, 9, 1, ACK | PSH, &data, 1348);
        let written = coalesce(BOTH, &packets);
        assert_eq!(written.len(), 1);
        let (header, packet) = flow.super_packet(9, 1, ACK | PSH, &data, 1348);
        assert_eq!(parts(&written[0]), (header, &packet[..]));
        assert_eq!(split_again(&written), packets);
    }
}

#[test]
fn two_flows_interleaved_become_two() {
    let a = Flow::default();
    let b = Flow { ports: (1, 2), v6: true, ..Flow::default() };
    let (a, b) = (
        expected(&a, 1, 1, ACK, &payload(20 * 500), 500),
        expected(&b, 1, 1, ACK, &payload(20 * 500), 500),
    );
    let mixed: Vec<_> = a.iter().zip(&b).flat_map(|(a, b)| [a.clone(), b.clone()]).collect();
    let written = coalesce(BOTH, &mixed);
    assert_eq!(written.len(), 2);
    assert_eq!(split_again(&written), [a, b].concat());
}

#[test]
fn what_must_not_merge() {
    let base = Flow::default();
    let data = payload(100);
    let first = base.packet(1, 1, ACK, &data);
    let next = |flow: &Flow| flow.packet(101, 2, ACK, &data);
    let count = |second: Vec<u8>| coalesce(BOTH, &[first.clone(), second]).len();
    assert_eq!(count(next(&base)), 1);
    for other in [
        Flow { tos: 1, ..base.clone() },
        Flow { ttl: 63, ..base.clone() },
        Flow { dont_fragment: false, ..base.clone() },
        Flow { acknowledgement: 2, ..base.clone() },
        Flow { window: 501, ..base.clone() },
        Flow { ports: (40_000, 444), ..base.clone() },
        Flow { options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 3], ..base.clone() },
        Flow { options: vec![], ..base.clone() },
        Flow { v6: true, ..base.clone() },
    ] {
        assert_eq!(count(next(&other)), 2, "{other:?}");
    }
    for flags in [ACK | FIN, ACK | SYN, ACK | CWR, ACK | 0x20, ACK | 0x40, 0, PSH] {
        assert_eq!(count(base.packet(101, 2, flags, &data)), 2, "flags {flags:x}");
    }
    // Accurate ECN and the reserved bits are flags too; the checksum is right for them.
    for bit in 1..=8 {
        let mut packet = next(&base);
        packet[32] |= bit;
        let sum = u16::from_be_bytes([packet[36], packet[37]]);
        let (less, borrow) = sum.overflowing_sub(u16::from(bit) << 8);
        packet[36..38].copy_from_slice(&(less - u16::from(borrow)).to_be_bytes());
        assert_eq!(count(packet), 2, "bit {bit} beside the header length");
    }
    assert_eq!(count(base.packet(102, 2, ACK, &data)), 2, "a gap");
    assert_eq!(count(base.packet(101, 2, ACK, &payload(101))), 2, "longer than the first");
    assert_eq!(count(base.packet(101, 2, ACK, &[])), 2, "nothing to merge");

    // Without DF, identifications have to count up.
    let fragile = Flow { dont_fragment: false, ..base.clone() };
    let with_id = |id| [fragile.packet(1, 1, ACK, &data), fragile.packet(101, id, ACK, &data)];
    assert_eq!(coalesce(BOTH, &with_id(2)).len(), 1);
    assert_eq!(coalesce(BOTH, &with_id(3)).len(), 2);

    // UDP without a checksum.
    let udp = Flow { tcp: false, ..base.clone() };
    let mut zero = [udp.packet(0, 1, 0, &data), udp.packet(0, 2, 0, &data)];
    assert_eq!(coalesce(BOTH, &zero).len(), 1);
    zero.iter_mut().for_each(|packet| packet[26..28].fill(0));
    assert_eq!(coalesce(BOTH, &zero).len(), 2);
}

#[test]
fn any_flipped_bit_goes_through_alone() {
    for flow in [Flow::default(), Flow { v6: true, tcp: false, ..Flow::default() }] {
        let first = flow.packet(1, 1, ACK, &payload(64));
        let second = flow.packet(65, 2, ACK, &payload(64));
        assert_eq!(coalesce(BOTH, &[first.clone(), second.clone()]).len(), 1);
        for bit in 0..second.len() * 8 {
            let mut damaged = second.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            // Traffic class, flow label and hop limit of IPv6 are in no checksum, but compared.
            let written = coalesce(BOTH, &[first.clone(), damaged.clone()]);
            assert_eq!(written.len(), 2, "bit {bit}");
            assert_eq!(parts(&written[1]), (Header::default(), &damaged[..]));
        }
    }
}

#[test]
fn switched_off_nothing_merges() {
    let tcp = expected(&Flow::default(), 1, 1, ACK, &payload(1000), 100);
    let udp = expected(&Flow { tcp: false, ..Flow::default() }, 1, 1, 0, &payload(1000), 100);
    let all = [tcp, udp].concat();
    for (config, items) in [
        (BOTH, 2),
        (Config { udp: false, ..BOTH }, 11),
        (Config { tcp: false, ..BOTH }, 11),
        (Config::NOTHING, 20),
    ] {
        let written = coalesce(config, &all);
        assert_eq!(written.len(), items);
        assert_eq!(split_again(&written), all);
    }
}

/// Acknowledgements of an upload: of each batch the last is written, in its place between whatever
/// else the flow sends, and nothing of another flow or with a meaning of its own is lost.
#[test]
fn a_later_acknowledgement_takes_the_place_of_earlier_ones() {
    let config = Config { acknowledgements: true, ..BOTH };
    for v6 in [false, true] {
        let flow = |acknowledgement| Flow { v6, acknowledgement, ..Flow::default() };
        let only = |acknowledgement| flow(acknowledgement).packet(1, 1, ACK, &[]);
        let other = Flow { ports: (1, 2), ..flow(7) }.packet(1, 1, ACK, &[]);
        let finish = flow(40).packet(1, 1, ACK | FIN, &[]);
        let data = flow(20).packet(1, 1, ACK, &payload(100));
        let after_data = flow(30).packet(101, 1, ACK, &[]);
        let packets = [
            only(10),
            other.clone(),
            only(11),
            only(20),
            data.clone(),
            after_data.clone(),
            after_data.clone(),
            finish.clone(),
        ];
        let mut slab = Vec::new();
        let mut coalescer = Coalescer::new(config);
        let starts = packets.iter().map(|packet| {
            let start = slab.len();
            slab.extend_from_slice(packet);
            (start, packet.len())
        });
        for (start, len) in starts.collect::<Vec<_>>() {
            coalescer.push(&slab, start, len);
        }
        let written: Vec<Vec<u8>> = coalescer
            .finish()
            .iter()
            .map(|item| {
                item.write_with(&slab, false, |pieces| {
                    pieces.iter().flat_map(|p| p.to_vec()).collect()
                })
            })
            .collect();
        // Repeated, an acknowledgement stays.
        assert!(written == [only(20), other, data, after_data.clone(), after_data, finish]);
        assert_eq!(coalescer.superseded(), 2);
        // A damaged one replaces nothing and is replaced by nothing.
        let mut damaged = only(11);
        *damaged.last_mut().unwrap() ^= 1;
        assert_eq!(coalesce(config, &[only(10), damaged.clone()]).len(), 2);
        assert_eq!(coalesce(config, &[damaged, only(12)]).len(), 2);
        assert_eq!(coalesce(BOTH, &[only(10), only(11)]).len(), 2);
    }
}
