//! The header in front of every packet of a TUN device opened with `IFF_VNET_HDR`: `struct
//! virtio_net_hdr` of `include/uapi/linux/virtio_net.h`, in native byte order.

/// Length of the header.
pub const LEN: usize = 10;

const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// What kind of super-packet follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Gso {
    /// An ordinary packet.
    #[default]
    None,
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP over either.
    Udp,
}

/// The header's meaning. `hdr_len` is written but never read: on forwarded packets it is the
/// length of whatever part happened to be linear in the kernel's buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Header {
    /// The checksum field holds only the pseudo-header's sum; the rest from
    /// [`Header::checksum_start`] on is still to be added.
    pub needs_checksum: bool,
    /// Kind of super-packet.
    pub gso: Gso,
    /// Length of all headers; a hint for the kernel.
    pub header_len: u16,
    /// Payload bytes of every packet but the last.
    pub segment_size: u16,
    /// Where the checksummed part (the transport header) starts.
    pub checksum_start: u16,
    /// Offset of the checksum field from there.
    pub checksum_offset: u16,
}

/// The kind of super-packet is none that we asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("unknown segmentation type {0:#x}")]
pub struct UnknownGso(u8);

impl Header {
    /// Reads a header.
    pub fn decode(bytes: &[u8; LEN]) -> Result<Self, UnknownGso> {
        let field = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let gso = match bytes[1] & !GSO_ECN {
            GSO_NONE => Gso::None,
            GSO_TCPV4 => Gso::TcpV4,
            GSO_TCPV6 => Gso::TcpV6,
            GSO_UDP_L4 => Gso::Udp,
            other => return Err(UnknownGso(other)),
        };
        Ok(Self {
            needs_checksum: bytes[0] & NEEDS_CSUM != 0,
            gso,
            header_len: field(2),
            segment_size: field(4),
            checksum_start: field(6),
            checksum_offset: field(8),
        })
    }

    /// Writes a header.
    #[must_use]
    pub fn encode(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[0] = if self.needs_checksum { NEEDS_CSUM } else { 0 };
        bytes[1] = match self.gso {
            Gso::None => GSO_NONE,
            Gso::TcpV4 => GSO_TCPV4,
            Gso::TcpV6 => GSO_TCPV6,
            Gso::Udp => GSO_UDP_L4,
        };
        bytes[2..4].copy_from_slice(&self.header_len.to_ne_bytes());
        bytes[4..6].copy_from_slice(&self.segment_size.to_ne_bytes());
        bytes[6..8].copy_from_slice(&self.checksum_start.to_ne_bytes());
        bytes[8..10].copy_from_slice(&self.checksum_offset.to_ne_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let header = Header {
            needs_checksum: true,
            gso: Gso::Udp,
            header_len: 28,
            segment_size: 1200,
            checksum_start: 20,
            checksum_offset: 6,
        };
        assert_eq!(Header::decode(&header.encode()), Ok(header));
    }

    #[test]
    fn ecn_bit_is_no_type() {
        let mut bytes = Header { gso: Gso::TcpV4, ..Header::default() }.encode();
        bytes[1] |= GSO_ECN;
        assert_eq!(Header::decode(&bytes).map(|h| h.gso), Ok(Gso::TcpV4));
    }

    #[test]
    fn unknown_type() {
        let mut bytes = [0; LEN];
        bytes[1] = 3;
        assert_eq!(Header::decode(&bytes), Err(UnknownGso(3)));
    }
}
