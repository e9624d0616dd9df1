//! A virtio header and a packet as a TUN device might hand them over. Whatever splits has to split
//! into what the packet's own headers say, and merge to the same again.

use ovpn_userspace::offload::coalesce::{Coalescer, Config};
use ovpn_userspace::offload::split::{MAX_SEGMENTS, Plan};
use ovpn_userspace::offload::virtio::{self, Gso, Header};

/// Input: ten bytes of header, then the packet.
pub fn run(data: &[u8]) {
    let Some((header, packet)) = data.split_first_chunk::<{ virtio::LEN }>() else {
        return;
    };
    let Ok(header) = Header::decode(header) else {
        return;
    };
    let Ok(plan) = Plan::new(&header, packet) else {
        return;
    };
    assert!((1..=MAX_SEGMENTS).contains(&plan.segments()));
    let mut slab = Vec::new();
    let mut places = Vec::new();
    for index in 0..plan.segments() {
        let len = plan.segment_len(index);
        let start = slab.len();
        slab.resize(start + len, 0xee);
        plan.write_segment(packet, index, &mut slab[start..]);
        places.push((start, len));
    }
    if header.gso == Gso::None {
        assert_eq!(places, [(0, packet.len())]);
        return;
    }
    // Only the last may be shorter, and nothing of the payload is missing.
    let (first, last) = (places[0].1, places[places.len() - 1].1);
    assert!(last <= first && places[..places.len() - 1].iter().all(|(_, len)| *len == first));
    match places.len() {
        1 => assert_eq!(first, packet.len()),
        _ => {
            let headers = first - usize::from(header.segment_size);
            let payload: usize = places.iter().map(|(_, len)| len - headers).sum();
            assert_eq!(headers + payload, packet.len());
        }
    }

    let mut coalescer = Coalescer::new(Config { tcp: true, udp: true, ..Config::NOTHING });
    for (start, len) in &places {
        coalescer.push(&slab, *start, *len);
    }
    let merged: usize = coalescer.finish().iter().map(|item| item.packets()).sum();
    assert_eq!(merged, places.len());
}
