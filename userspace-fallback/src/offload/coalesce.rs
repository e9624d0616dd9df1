//! Consecutive packets of a flow become one super-packet, by the rules of the kernel's own generic
//! receive offload (`inet_gro_receive`, `tcp_gro_receive`, `udp_gro_receive`), a little stricter.
//!
//! Nothing is copied but the headers of each super-packet: packets stay where they were decrypted
//! (the *slab*), and a super-packet is a list of places in it, written with one gathering write.
//! Because the packets themselves stay untouched, a refused super-packet can still be written one
//! by one.
//!
//! Order within a flow is kept by construction: a packet may join only the newest item of its
//! flow, and whatever cannot be told apart by flow ends all open items.
//!
//! TCP acknowledgements without data cannot be merged, but one that came in the same batch can say
//! all that an earlier one said: it then takes that one's place ([`Config::acknowledgements`]), as
//! if the receiver had acknowledged once for all of it (RFC 3449, section 5.2.1). Each of them
//! costs as much as a super-packet of data, and a server that handles packets one by one sends one
//! for every few packets of an upload.

use std::io::IoSlice;

use super::acknowledgement::Acknowledgement;
use super::checksum::Sum;
use super::virtio::{self, Gso, Header};
use super::{IPV4_HEADER, IPV6_HEADER, TCP, TCP_HEADER, UDP, UDP_HEADER, be16, be32, put16};

const ACK: u8 = 0x10;
const PSH: u8 = 0x08;

/// Most packets in one super-packet. For UDP the kernel allows no more (`UDP_MAX_SEGMENTS`); for
/// TCP it bounds the work of one write.
pub const MAX_SEGMENTS: usize = 128;
const MAX_UDP_SEGMENTS: usize = 64;
/// Largest IP packet.
const MAX_TOTAL: usize = 65_535;
/// Longest IP and TCP headers that merge: IPv6 without extension headers, TCP with all options.
const MAX_HEADERS: usize = IPV6_HEADER + 60;
/// How far back to look for an item of the same flow. A flow whose last item is further back
/// merely starts a new one.
const SEARCH: usize = 32;

/// What to merge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// Merge TCP.
    pub tcp: bool,
    /// Merge UDP; needs a device that understands it (`TUN_F_USO4` and `TUN_F_USO6`, Linux 6.2).
    pub udp: bool,
    /// Let a later TCP acknowledgement take the place of an earlier one.
    pub acknowledgements: bool,
}

impl Config {
    /// Every packet on its own.
    pub const NOTHING: Self = Self { tcp: false, udp: false, acknowledgements: false };
}

/// Collects the packets of one receive batch and turns them into items to write.
#[derive(Debug)]
pub struct Coalescer {
    config: Config,
    /// Items keep their allocations between batches; only the first `used` count.
    items: Vec<Item>,
    used: usize,
    /// Items before this one are closed, whatever they say.
    barrier: usize,
    superseded: u64,
}

/// A packet or super-packet to write.
#[derive(Debug)]
pub struct Item {
    flow: u64,
    kind: Kind,
    open: bool,
    transport: usize,
    header_len: usize,
    segment_size: usize,
    total: usize,
    next_sequence: u32,
    /// Places of whole packets, headers included.
    packets: Vec<Place>,
    /// The virtio header, then the super-packet's headers.
    headers: [u8; virtio::LEN + MAX_HEADERS],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Goes as it is.
    Opaque,
    Tcp,
    Udp,
    /// A TCP segment that only acknowledges.
    Acknowledgement,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    start: u32,
    len: u32,
}

impl Place {
    fn of<'a>(&self, slab: &'a [u8]) -> &'a [u8] {
        &slab[self.start as usize..][..self.len as usize]
    }
}

/// A packet that may be merged: its headers were checked, its checksums are right.
struct Candidate {
    kind: Kind,
    flow: u64,
    transport: usize,
    header_len: usize,
    sequence: u32,
    push: bool,
}

enum Parsed {
    /// May merge.
    Candidate(Candidate),
    /// Belongs to a flow, goes alone.
    Alone { flow: u64 },
    /// Belongs to no flow that can be told apart.
    Opaque,
}

impl Coalescer {
    /// An empty one.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { config, items: Vec::new(), used: 0, barrier: 0, superseded: 0 }
    }

    /// Changes what is merged from now on.
    pub fn set_config(&mut self, config: Config) {
        self.config = config;
    }

    /// What is merged.
    #[must_use]
    pub fn config(&self) -> Config {
        self.config
    }

    /// Takes the packet at `start..start + len` of the slab. The slab may change only outside of
    /// packets taken, until [`Coalescer::clear`].
    ///
    /// # Panics
    /// When the place is outside the slab or the slab is larger than 4 GiB.
    pub fn push(&mut self, slab: &[u8], start: usize, len: usize) {
        let packet = &slab[start..start + len];
        debug_assert!(u32::try_from(slab.len()).is_ok());
        let place = Place { start: start as u32, len: len as u32 };
        if self.config == Config::NOTHING {
            self.add(place, 0, None);
            return;
        }
        let candidate = match parse(packet, self.config) {
            Parsed::Candidate(candidate) => candidate,
            Parsed::Alone { flow } => {
                if let Some(item) = self.newest(flow) {
                    item.open = false;
                }
                self.add(place, flow, None);
                return;
            }
            Parsed::Opaque => {
                self.add(place, 0, None);
                self.barrier = self.used;
                return;
            }
        };
        if let Some(item) = self.newest(candidate.flow) {
            if candidate.kind == Kind::Acknowledgement {
                if item.superseded_by(packet, &candidate, slab) {
                    item.packets[0] = place;
                    item.total = len;
                    self.superseded += 1;
                    return;
                }
            } else if item.open && item.accepts(packet, &candidate, slab) {
                item.join(place, len, &candidate);
                return;
            }
            item.open = false;
        }
        let flow = candidate.flow;
        self.add(place, flow, Some((packet, candidate)));
    }

    /// The newest item of the flow, when it can still be found.
    #[inline]
    fn newest(&mut self, flow: u64) -> Option<&mut Item> {
        let from = self.barrier.max(self.used.saturating_sub(SEARCH));
        self.items[from..self.used].iter_mut().rev().find(|item| item.flow == flow)
    }

    fn add(&mut self, place: Place, flow: u64, candidate: Option<(&[u8], Candidate)>) {
        if self.used == self.items.len() {
            self.items.push(Item::empty());
        }
        let item = &mut self.items[self.used];
        self.used += 1;
        item.start(place, flow, candidate);
    }

    /// The number of acknowledgements that a later one has replaced, so far.
    #[must_use]
    pub fn superseded(&self) -> u64 {
        self.superseded
    }

    /// Whether nothing waits to be written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Completes the headers of every item and returns them, in the order to write them.
    pub fn finish(&mut self) -> &[Item] {
        for item in &mut self.items[..self.used] {
            item.complete_headers();
        }
        &self.items[..self.used]
    }

    /// Forgets all items; their memory is used again.
    pub fn clear(&mut self) {
        self.used = 0;
        self.barrier = 0;
    }
}

impl Item {
    fn empty() -> Self {
        Self {
            flow: 0,
            kind: Kind::Opaque,
            open: false,
            transport: 0,
            header_len: 0,
            segment_size: 0,
            total: 0,
            next_sequence: 0,
            packets: Vec::new(),
            headers: [0; virtio::LEN + MAX_HEADERS],
        }
    }

    fn start(&mut self, place: Place, flow: u64, candidate: Option<(&[u8], Candidate)>) {
        self.flow = flow;
        self.packets.clear();
        self.packets.push(place);
        self.total = place.len as usize;
        let Some((packet, candidate)) = candidate else {
            self.kind = Kind::Opaque;
            self.open = false;
            return;
        };
        let header_len = candidate.header_len;
        self.kind = candidate.kind;
        self.transport = candidate.transport;
        self.header_len = header_len;
        self.segment_size = packet.len() - header_len;
        self.next_sequence = candidate.sequence.wrapping_add(self.segment_size as u32);
        self.open = !candidate.push;
        self.headers[virtio::LEN..][..header_len].copy_from_slice(&packet[..header_len]);
    }

    /// Number of packets in it.
    #[must_use]
    pub fn packets(&self) -> usize {
        self.packets.len()
    }

    /// Whether it is merged UDP.
    #[must_use]
    pub fn is_udp(&self) -> bool {
        self.kind == Kind::Udp
    }

    #[inline]
    fn accepts(&self, packet: &[u8], candidate: &Candidate, slab: &[u8]) -> bool {
        let header_len = self.header_len;
        let payload = packet.len() - candidate.header_len;
        let limit = if self.kind == Kind::Udp { MAX_UDP_SEGMENTS } else { MAX_SEGMENTS };
        if candidate.kind != self.kind
            || candidate.transport != self.transport
            || candidate.header_len != header_len
            || payload > self.segment_size
            || self.total + payload > MAX_TOTAL
            || self.packets.len() >= limit
        {
            return false;
        }
        let first = &self.headers[virtio::LEN..][..header_len];
        let same = |from: usize, to: usize| first[from..to] == packet[from..to];
        let transport = self.transport;
        let same_ip = if transport == IPV4_HEADER {
            // Type of service; flags; time to live and protocol; addresses.
            same(1, 2) && same(6, 10) && same(12, 20) && self.continues_ids(packet, slab)
        } else {
            // Traffic class and flow label; next header and hop limit; addresses.
            same(0, 4) && same(6, 40)
        };
        let same_transport = match self.kind {
            // Ports, acknowledgement number; window; urgent pointer and options. The header length
            // was compared, and of the flags only ACK and PSH can be set.
            Kind::Tcp => {
                candidate.sequence == self.next_sequence
                    && same(transport, transport + 4)
                    && same(transport + 8, transport + 12)
                    && same(transport + 14, transport + 16)
                    && same(transport + 18, header_len)
            }
            _ => same(transport, transport + 4),
        };
        same_ip && same_transport
    }

    /// Whether an acknowledgement that came later says everything that this one says.
    fn superseded_by(&self, packet: &[u8], later: &Candidate, slab: &[u8]) -> bool {
        let [place] = self.packets.as_slice() else { return false };
        if self.kind != Kind::Acknowledgement || self.transport != later.transport {
            return false;
        }
        let earlier = place.of(slab);
        let same = |from: usize, to: usize| earlier[from..to] == packet[from..to];
        let transport = self.transport;
        let same_ip = if transport == IPV4_HEADER {
            // Type of service; flags; time to live and protocol; addresses.
            same(1, 2) && same(6, 10) && same(12, 20)
        } else {
            // Traffic class and flow label; next header and hop limit; addresses.
            same(0, 4) && same(6, 40)
        };
        let parse = |packet: &[u8]| Acknowledgement::parse(&packet[transport..]);
        same_ip
            && same(transport, transport + 4)
            && parse(packet)
                .zip(parse(earlier))
                .is_some_and(|(later, earlier)| later.supersedes(&earlier))
    }

    /// Without DF the identification of IPv4 matters (RFC 6864), and whoever splits the
    /// super-packet again counts it up.
    fn continues_ids(&self, packet: &[u8], slab: &[u8]) -> bool {
        const DF: u8 = 0x40;
        if packet[6] & DF != 0 {
            return true;
        }
        let last = self.packets.last().map_or(0, |place| be16(place.of(slab), 4));
        be16(packet, 4) == last.wrapping_add(1)
    }

    #[inline]
    fn join(&mut self, place: Place, len: usize, candidate: &Candidate) {
        let payload = len - self.header_len;
        self.packets.push(place);
        self.total += payload;
        self.next_sequence = self.next_sequence.wrapping_add(payload as u32);
        if candidate.push {
            self.headers[virtio::LEN + self.transport + 13] |= PSH;
        }
        self.open = !candidate.push && payload == self.segment_size;
    }

    /// Makes the headers those of the super-packet: lengths, checksums, virtio header.
    fn complete_headers(&mut self) {
        if self.packets.len() == 1 {
            return;
        }
        let (total, transport) = (self.total, self.transport);
        let (virtio, ip) = self.headers.split_at_mut(virtio::LEN);
        let (gso, protocol, checksum_offset) = match (self.kind, transport) {
            (Kind::Udp, _) => (Gso::Udp, UDP, 6),
            (_, IPV4_HEADER) => (Gso::TcpV4, TCP, 16),
            _ => (Gso::TcpV6, TCP, 16),
        };
        let length = total - transport;
        let addresses = if transport == IPV4_HEADER {
            put16(ip, 2, total as u16);
            ip[10..12].fill(0);
            let checksum = Sum::ZERO.plus(&ip[..IPV4_HEADER]).checksum();
            ip[10..12].copy_from_slice(&checksum);
            12..20
        } else {
            put16(ip, 4, length as u16);
            8..40
        };
        if self.kind == Kind::Udp {
            put16(ip, transport + 4, length as u16);
        }
        // The kernel adds the rest: the field holds the pseudo-header's sum, not complemented.
        let sum = Sum::ZERO.plus_pseudo_header(&ip[addresses], protocol, length).fold();
        ip[transport + checksum_offset..][..2].copy_from_slice(&sum);
        let header = Header {
            needs_checksum: true,
            gso,
            header_len: self.header_len as u16,
            segment_size: self.segment_size as u16,
            checksum_start: transport as u16,
            checksum_offset: checksum_offset as u16,
        };
        virtio.copy_from_slice(&header.encode());
    }

    /// Hands the item to `write` in pieces that belong together: virtio header (where the device
    /// has one), headers, payloads.
    #[inline]
    pub fn write_with<T>(
        &self,
        slab: &[u8],
        vnet_header: bool,
        write: impl FnOnce(&[IoSlice<'_>]) -> T,
    ) -> T {
        if let [place] = self.packets.as_slice() {
            return write_packet(place.of(slab), vnet_header, write);
        }
        let mut pieces = [IoSlice::new(&[]); 1 + MAX_SEGMENTS];
        let from = if vnet_header { 0 } else { virtio::LEN };
        pieces[0] = IoSlice::new(&self.headers[from..virtio::LEN + self.header_len]);
        for (piece, place) in pieces[1..].iter_mut().zip(&self.packets) {
            *piece = IoSlice::new(&place.of(slab)[self.header_len..]);
        }
        write(&pieces[..=self.packets.len()])
    }

    /// Hands every packet of the item to `write` on its own, as it was received.
    pub fn write_singly(
        &self,
        slab: &[u8],
        vnet_header: bool,
        mut write: impl FnMut(&[IoSlice<'_>]),
    ) {
        for place in &self.packets {
            write_packet(place.of(slab), vnet_header, &mut write);
        }
    }
}

fn write_packet<T>(packet: &[u8], vnet_header: bool, write: impl FnOnce(&[IoSlice<'_>]) -> T) -> T {
    const ORDINARY: [u8; virtio::LEN] = [0; virtio::LEN];
    if vnet_header {
        write(&[IoSlice::new(&ORDINARY), IoSlice::new(packet)])
    } else {
        write(&[IoSlice::new(packet)])
    }
}

/// Reads as much of a packet as merging needs.
#[inline]
fn parse(packet: &[u8], config: Config) -> Parsed {
    let Some(first) = packet.first() else { return Parsed::Opaque };
    let (transport, protocol, addresses) = match first >> 4 {
        4 if packet.len() >= IPV4_HEADER => {
            let fragment = be16(packet, 6) & 0xbfff != 0;
            if *first != 0x45
                || fragment
                || usize::from(be16(packet, 2)) != packet.len()
                || !Sum::ZERO.plus(&packet[..IPV4_HEADER]).is_valid()
            {
                return Parsed::Opaque;
            }
            (IPV4_HEADER, packet[9], &packet[12..20])
        }
        6 if packet.len() >= IPV6_HEADER => {
            if usize::from(be16(packet, 4)) != packet.len() - IPV6_HEADER {
                return Parsed::Opaque;
            }
            (IPV6_HEADER, packet[6], &packet[8..40])
        }
        _ => return Parsed::Opaque,
    };
    let segment = &packet[transport..];
    let length = segment.len();
    match protocol {
        TCP if length >= TCP_HEADER => {}
        UDP if length >= UDP_HEADER => {}
        _ => return Parsed::Opaque,
    }
    let flow = flow_hash(addresses, &segment[..4], protocol);
    let alone = Parsed::Alone { flow };
    let (kind, header_len, push) = if protocol == TCP {
        let header_len = usize::from(segment[12] >> 4) * 4;
        let (reserved, flags) = (segment[12] & 0x0f, segment[13]);
        if config.acknowledgements
            && header_len == length
            && Acknowledgement::parse(segment).is_some()
        {
            (Kind::Acknowledgement, header_len, true)
        } else if config.tcp
            && (TCP_HEADER..length).contains(&header_len)
            && reserved == 0
            && flags & !PSH == ACK
        {
            (Kind::Tcp, header_len, flags & PSH != 0)
        } else {
            return alone;
        }
    } else {
        // A zero checksum means none; the kernel would make one for the super-packet.
        if !config.udp
            || length == UDP_HEADER
            || usize::from(be16(segment, 4)) != length
            || be16(segment, 6) == 0
        {
            return alone;
        }
        (Kind::Udp, UDP_HEADER, false)
    };
    // A super-packet counts as not yet summed: merging a damaged packet would make it valid.
    let sum = Sum::ZERO.plus_pseudo_header(addresses, protocol, length).plus(segment);
    if !sum.is_valid() {
        return alone;
    }
    let sequence = if kind == Kind::Tcp { be32(segment, 4) } else { 0 };
    let header_len = transport + header_len;
    Parsed::Candidate(Candidate { kind, flow, transport, header_len, sequence, push })
}

/// Tells flows apart. Two flows with one hash merely cost a merge: [`Item::accepts`] compares the
/// headers themselves.
#[inline]
fn flow_hash(addresses: &[u8], ports: &[u8], protocol: u8) -> u64 {
    const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = u64::from(protocol) << 32 | u64::from(be32(ports, 0));
    for word in addresses.as_chunks::<8>().0 {
        hash = (hash.rotate_left(23) ^ u64::from_ne_bytes(*word)).wrapping_mul(MULTIPLIER);
    }
    // 0 stands for "no flow".
    hash | 1
}
