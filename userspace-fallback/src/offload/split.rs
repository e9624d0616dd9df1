//! One super-packet becomes the packets that it stands for, as the kernel's `tcp_gso_segment` and
//! `__udp_gso_segment` would do it.

use super::checksum::Sum;
use super::virtio::{Gso, Header};
use super::{IPV4_HEADER, IPV6_HEADER, TCP, TCP_HEADER, UDP, UDP_HEADER, be16, be32, put16};

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// Most packets that one super-packet may become. The smallest segment size that Linux uses for
/// TCP is 48 bytes (`tcp_min_snd_mss`); 64 KiB of those are 1,366 packets.
pub const MAX_SEGMENTS: usize = 2048;

/// Why a packet from the device cannot be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("malformed packet from the TUN device: {0}")]
pub struct Malformed(&'static str);

/// How to split one packet. Holds no bytes of it, so that splitting can pause half-way and go on
/// when the socket takes more.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    kind: Kind,
    /// Length of all headers together; 0 for an ordinary packet.
    header_len: usize,
    /// Where the transport header starts.
    transport: usize,
    /// Payload bytes of every packet but the last.
    segment_size: usize,
    packet_len: usize,
    segments: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Ready to send.
    Whole,
    /// An ordinary packet whose checksum is to be finished: offset of the field.
    Checksum(usize),
    Tcp(IpVersion),
    Udp(IpVersion),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum IpVersion {
    V4,
    V6,
}

impl Plan {
    /// Checks the packet against its header. Nothing is trusted except that `packet` is as long as
    /// the read was.
    pub fn new(header: &Header, packet: &[u8]) -> Result<Self, Malformed> {
        let transport = usize::from(header.checksum_start);
        let whole = Self {
            kind: Kind::Whole,
            header_len: 0,
            transport,
            segment_size: packet.len(),
            packet_len: packet.len(),
            segments: 1,
        };
        if packet.is_empty() {
            return Err(Malformed("empty"));
        }
        if header.gso == Gso::None {
            if !header.needs_checksum {
                return Ok(whole);
            }
            let field = transport + usize::from(header.checksum_offset);
            if field + 2 > packet.len() {
                return Err(Malformed("checksum outside the packet"));
            }
            return Ok(Self { kind: Kind::Checksum(field), ..whole });
        }

        let version = match packet[0] >> 4 {
            4 => IpVersion::V4,
            6 => IpVersion::V6,
            _ => return Err(Malformed("neither IPv4 nor IPv6")),
        };
        let ip_header = match version {
            IpVersion::V4 => IPV4_HEADER,
            IpVersion::V6 => IPV6_HEADER,
        };
        if packet.len() < ip_header {
            return Err(Malformed("shorter than its IP header"));
        }
        let (kind, protocol, transport_header) = match (header.gso, version) {
            (Gso::TcpV4, IpVersion::V4) | (Gso::TcpV6, IpVersion::V6) => {
                (Kind::Tcp(version), TCP, TCP_HEADER)
            }
            (Gso::Udp, _) => (Kind::Udp(version), UDP, UDP_HEADER),
            _ => return Err(Malformed("IP version is not that of its segmentation type")),
        };
        match version {
            IpVersion::V4 => {
                if transport != usize::from(packet[0] & 0xf) * 4 || transport < IPV4_HEADER {
                    return Err(Malformed("IPv4 header length"));
                }
                if packet[9] != protocol {
                    return Err(Malformed("protocol is not that of its segmentation type"));
                }
            }
            // Extension headers may stand between; the kernel tells where they end.
            IpVersion::V6 if transport < IPV6_HEADER => {
                return Err(Malformed("IPv6 header length"));
            }
            IpVersion::V6 => {}
        }
        if transport + transport_header > packet.len() {
            return Err(Malformed("shorter than its transport header"));
        }
        let header_len = match kind {
            Kind::Tcp(_) => {
                let len = usize::from(packet[transport + 12] >> 4) * 4;
                if len < TCP_HEADER {
                    return Err(Malformed("TCP header length"));
                }
                transport + len
            }
            _ => transport + UDP_HEADER,
        };
        let segment_size = usize::from(header.segment_size);
        if header_len >= packet.len() {
            return Err(Malformed("super-packet without payload"));
        }
        if segment_size == 0 || header_len + segment_size > usize::from(u16::MAX) {
            return Err(Malformed("segment size"));
        }
        let segments = (packet.len() - header_len).div_ceil(segment_size);
        if segments > MAX_SEGMENTS {
            return Err(Malformed("too many segments"));
        }
        Ok(Self { kind, header_len, transport, segment_size, packet_len: packet.len(), segments })
    }

    /// Number of packets, at least 1.
    #[must_use]
    pub fn segments(&self) -> usize {
        self.segments
    }

    /// Length of the packet with this number, headers included.
    #[must_use]
    pub fn segment_len(&self, index: usize) -> usize {
        let (start, end) = self.payload(index);
        self.header_len + end - start
    }

    fn payload(&self, index: usize) -> (usize, usize) {
        let start = self.header_len + index * self.segment_size;
        (start.min(self.packet_len), (start + self.segment_size).min(self.packet_len))
    }

    /// Writes the packet with this number. `packet` is what the plan was made for; `out` has
    /// exactly [`Plan::segment_len`] bytes.
    #[inline]
    pub fn write_segment(&self, packet: &[u8], index: usize, out: &mut [u8]) {
        match self.kind {
            Kind::Whole => out.copy_from_slice(packet),
            Kind::Checksum(field) => {
                out.copy_from_slice(packet);
                let checksum = Sum::ZERO.plus(&out[self.transport..]).checksum_not_zero();
                out[field..field + 2].copy_from_slice(&checksum);
            }
            Kind::Tcp(version) => self.write_tcp(version, packet, index, out),
            Kind::Udp(version) => self.write_udp(version, packet, index, out),
        }
    }

    fn write_tcp(&self, version: IpVersion, packet: &[u8], index: usize, out: &mut [u8]) {
        let transport = self.transport;
        let (start, end) = self.payload(index);
        let (headers, payload) = out.split_at_mut(self.header_len);
        headers.copy_from_slice(&packet[..self.header_len]);
        fix_ip(version, headers, transport, index, payload.len());

        let tcp = &mut headers[transport..];
        let sequence = be32(tcp, 4).wrapping_add((index * self.segment_size) as u32);
        tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
        if index + 1 != self.segments {
            tcp[13] &= !(FIN | PSH);
        }
        if index != 0 {
            tcp[13] &= !CWR;
        }
        tcp[16..18].fill(0);
        let length = headers.len() - transport + payload.len();
        let sum = self
            .pseudo_header(version, packet, TCP, 16, length)
            .plus(&headers[transport..])
            .plus_copying(&packet[start..end], payload);
        headers[transport + 16..transport + 18].copy_from_slice(&sum.checksum());
    }

    fn write_udp(&self, version: IpVersion, packet: &[u8], index: usize, out: &mut [u8]) {
        let transport = self.transport;
        let (start, end) = self.payload(index);
        let (headers, payload) = out.split_at_mut(self.header_len);
        headers.copy_from_slice(&packet[..self.header_len]);
        fix_ip(version, headers, transport, index, payload.len());

        let length = UDP_HEADER + payload.len();
        let udp = &mut headers[transport..];
        put16(udp, 4, length as u16);
        udp[6..8].fill(0);
        let sum = self
            .pseudo_header(version, packet, UDP, 6, length)
            .plus(&headers[transport..])
            .plus_copying(&packet[start..end], payload);
        headers[transport + 6..transport + 8].copy_from_slice(&sum.checksum_not_zero());
    }

    /// Sum of the pseudo-header of a packet whose transport part has this length. `field`: offset
    /// of the checksum in the transport header.
    #[inline]
    fn pseudo_header(
        &self,
        version: IpVersion,
        packet: &[u8],
        protocol: u8,
        field: usize,
        length: usize,
    ) -> Sum {
        let addresses = match version {
            IpVersion::V4 => &packet[12..20],
            IpVersion::V6 if packet[6] == protocol => &packet[8..40],
            // Behind a routing header the destination that counts is the last one (RFC 8200,
            // section 8.1). The kernel knows it: its checksum field holds the sum for the
            // super-packet, in which only the length changes.
            IpVersion::V6 => {
                let at = self.transport + field;
                let whole = (self.packet_len - self.transport) as u16;
                return Sum::ZERO
                    .plus(&packet[at..at + 2])
                    .plus(&(!whole).to_be_bytes())
                    .plus(&(length as u16).to_be_bytes());
            }
        };
        Sum::ZERO.plus_pseudo_header(addresses, protocol, length)
    }
}

/// Sets lengths, IPv4 identification and IPv4 header checksum.
#[inline]
fn fix_ip(version: IpVersion, headers: &mut [u8], transport: usize, index: usize, payload: usize) {
    let total = headers.len() + payload;
    match version {
        IpVersion::V4 => {
            put16(headers, 2, total as u16);
            let id = be16(headers, 4).wrapping_add(index as u16);
            put16(headers, 4, id);
            headers[10..12].fill(0);
            let checksum = Sum::ZERO.plus(&headers[..transport]).checksum();
            headers[10..12].copy_from_slice(&checksum);
        }
        IpVersion::V6 => put16(headers, 4, (total - IPV6_HEADER) as u16),
    }
}
