//! Segmentation offload in software: what a network card would do with super-packets.
//!
//! Everything in here is pure: bytes in, bytes out.
//!
//! - [`virtio`]: the header in front of every packet of a TUN device opened with `IFF_VNET_HDR`.
//! - [`split`]: one super-packet becomes the packets that it stands for (TSO, USO).
//! - [`coalesce`]: consecutive packets of a flow become one super-packet (GRO).
//! - `acknowledgement`: which acknowledgements say nothing that a later one does not say.
//! - [`checksum`]: the Internet checksum that both need.

mod acknowledgement;
pub mod checksum;
pub mod coalesce;
pub mod split;
pub mod virtio;

/// IP protocol number of TCP.
pub(crate) const TCP: u8 = 6;
/// IP protocol number of UDP.
pub(crate) const UDP: u8 = 17;

/// Length of an IPv6 header without extension headers.
pub(crate) const IPV6_HEADER: usize = 40;
/// Length of an IPv4 header without options.
pub(crate) const IPV4_HEADER: usize = 20;
/// Length of a TCP header without options.
pub(crate) const TCP_HEADER: usize = 20;
/// Length of a UDP header.
pub(crate) const UDP_HEADER: usize = 8;

/// Reads a big endian number; the caller has checked the bounds.
#[inline]
pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Reads a big endian number; the caller has checked the bounds.
#[inline]
pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Writes a big endian number; the caller has checked the bounds.
#[inline]
pub(crate) fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}
