//! Packets built field by field, with a checksum computed word by word: slow, obvious, and not
//! sharing a line with what is tested.
#![allow(dead_code, reason = "each binary uses its part")]

use ovpn_userspace::offload::virtio::{Gso, Header};

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const CWR: u8 = 0x80;

/// What all packets of a flow have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    pub(crate) v6: bool,
    pub(crate) tcp: bool,
    pub(crate) ports: (u16, u16),
    pub(crate) tos: u8,
    pub(crate) ttl: u8,
    pub(crate) dont_fragment: bool,
    /// An IPv6 destination options header in front of the transport header.
    pub(crate) extension: bool,
    /// TCP options; a multiple of 4.
    pub(crate) options: Vec<u8>,
    pub(crate) acknowledgement: u32,
    pub(crate) window: u16,
}

impl Default for Flow {
    fn default() -> Self {
        Self {
            v6: false,
            tcp: true,
            ports: (40_000, 443),
            tos: 0,
            ttl: 64,
            dont_fragment: true,
            extension: false,
            // NOP, NOP, timestamps: what Linux sends.
            options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
            acknowledgement: 1,
            window: 502,
        }
    }
}

/// The sum of RFC 1071, word by word.
pub(crate) fn slow_sum(data: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in data.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        if sum > 0xffff {
            sum -= 0xffff;
        }
    }
    sum as u16
}

impl Flow {
    pub(crate) fn transport_offset(&self) -> usize {
        match (self.v6, self.extension) {
            (false, _) => 20,
            (true, false) => 40,
            (true, true) => 48,
        }
    }

    pub(crate) fn header_len(&self) -> usize {
        self.transport_offset() + if self.tcp { 20 + self.options.len() } else { 8 }
    }

    fn pseudo_header(&self, addresses: &[u8], length: usize) -> Vec<u8> {
        let mut pseudo = addresses.to_vec();
        pseudo.extend_from_slice(&(length as u32).to_be_bytes());
        pseudo.extend_from_slice(&[0, 0, 0, if self.tcp { 6 } else { 17 }]);
        pseudo
    }

    /// One packet, complete and right.
    pub(crate) fn packet(&self, sequence: u32, id: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
        let (mut packet, addresses) = self.raw(sequence, id, flags, payload);
        let at = self.transport_offset();
        let mut summed = self.pseudo_header(&addresses, packet.len() - at);
        summed.extend_from_slice(&packet[at..]);
        let mut checksum = !slow_sum(&summed);
        if !self.tcp && checksum == 0 {
            checksum = 0xffff;
        }
        let field = at + if self.tcp { 16 } else { 6 };
        packet[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
        packet
    }

    /// The super-packet for `payload`, as the kernel hands it over: the checksum field holds the
    /// pseudo-header's sum.
    pub(crate) fn super_packet(
        &self,
        sequence: u32,
        id: u16,
        flags: u8,
        payload: &[u8],
        segment_size: usize,
    ) -> (Header, Vec<u8>) {
        let (mut packet, addresses) = self.raw(sequence, id, flags, payload);
        let at = self.transport_offset();
        let sum = slow_sum(&self.pseudo_header(&addresses, packet.len() - at));
        let offset = if self.tcp { 16 } else { 6 };
        packet[at + offset..at + offset + 2].copy_from_slice(&sum.to_be_bytes());
        let header = Header {
            needs_checksum: true,
            gso: match (self.tcp, self.v6) {
                (true, false) => Gso::TcpV4,
                (true, true) => Gso::TcpV6,
                (false, _) => Gso::Udp,
            },
            header_len: self.header_len() as u16,
            segment_size: segment_size as u16,
            checksum_start: at as u16,
            checksum_offset: offset as u16,
        };
        (header, packet)
    }

    fn raw(&self, sequence: u32, id: u16, flags: u8, payload: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let total = self.header_len() + payload.len();
        let protocol = if self.tcp { 6 } else { 17 };
        let mut packet = Vec::with_capacity(total);
        let addresses = if self.v6 {
            let mut addresses = vec![0xfd; 32];
            (addresses[15], addresses[31]) = (1, 2);
            packet.extend_from_slice(&[0x60 | self.tos >> 4, self.tos << 4, 0, 0]);
            packet.extend_from_slice(&((total - 40) as u16).to_be_bytes());
            packet.extend_from_slice(&[if self.extension { 60 } else { protocol }, self.ttl]);
            packet.extend_from_slice(&addresses);
            if self.extension {
                packet.extend_from_slice(&[protocol, 0, 1, 4, 0, 0, 0, 0]);
            }
            addresses
        } else {
            let addresses = vec![10, 0, 0, 1, 10, 0, 0, 2];
            packet.extend_from_slice(&[0x45, self.tos]);
            packet.extend_from_slice(&(total as u16).to_be_bytes());
            packet.extend_from_slice(&id.to_be_bytes());
            packet.extend_from_slice(&[if self.dont_fragment { 0x40 } else { 0 }, 0]);
            packet.extend_from_slice(&[self.ttl, protocol, 0, 0]);
            packet.extend_from_slice(&addresses);
            let checksum = !slow_sum(&packet);
            packet[10..12].copy_from_slice(&checksum.to_be_bytes());
            addresses
        };
        packet.extend_from_slice(&self.ports.0.to_be_bytes());
        packet.extend_from_slice(&self.ports.1.to_be_bytes());
        if self.tcp {
            packet.extend_from_slice(&sequence.to_be_bytes());
            packet.extend_from_slice(&self.acknowledgement.to_be_bytes());
            packet.extend_from_slice(&[((20 + self.options.len()) as u8 / 4) << 4, flags]);
            packet.extend_from_slice(&self.window.to_be_bytes());
            packet.extend_from_slice(&[0, 0, 0, 0]);
            packet.extend_from_slice(&self.options);
        } else {
            packet.extend_from_slice(&((8 + payload.len()) as u16).to_be_bytes());
            packet.extend_from_slice(&[0, 0]);
        }
        packet.extend_from_slice(payload);
        (packet, addresses)
    }
}
