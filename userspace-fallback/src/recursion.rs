//! Our own packets to the server, coming back through the tunnel: the route to the server is gone,
//! and what the tunnel's route sends in would be sealed and sent in again without end. Pure.

use std::net::{IpAddr, SocketAddr};

const TCP: u8 = 6;
const UDP: u8 = 17;
const IPV6_FRAGMENT: u8 = 44;

/// Tells packets to the transport's own destination. Address, protocol and port count, as in
/// OpenVPN 2.7: what else somebody wants from the server's machine may go through the tunnel.
#[derive(Clone, Copy, Debug)]
pub struct Guard {
    address: IpAddr,
    port: [u8; 2],
    protocol: u8,
}

impl Guard {
    /// `remote`: where the transport's packets go.
    #[must_use]
    pub fn new(remote: SocketAddr, tcp: bool) -> Self {
        Self {
            address: remote.ip().to_canonical(),
            port: remote.port().to_be_bytes(),
            protocol: if tcp { TCP } else { UDP },
        }
    }

    /// Whether this is a packet (or super-packet, or fragment) of the transport itself.
    #[inline]
    #[must_use]
    pub fn catches(&self, packet: &[u8]) -> bool {
        match self.address {
            IpAddr::V4(address) => {
                packet.get(16..20).is_some_and(|to| to == address.octets())
                    && self.is_outer_v4(packet)
            }
            IpAddr::V6(address) => {
                packet.get(24..40).is_some_and(|to| to == address.octets())
                    && self.is_outer_v6(packet)
            }
        }
    }

    #[cold]
    fn is_outer_v4(&self, packet: &[u8]) -> bool {
        let [first, _, _, _, _, _, flags, offset, _, protocol, ..] = *packet else { return false };
        if first >> 4 != 4 || protocol != self.protocol {
            return false;
        }
        // A fragment behind the first has no ports. It is no use without the first.
        let is_rest = (flags & 0x1f, offset) != (0, 0);
        is_rest || self.is_port(packet, usize::from(first & 0xf) * 4)
    }

    #[cold]
    fn is_outer_v6(&self, packet: &[u8]) -> bool {
        let Some(first) = packet.first() else { return false };
        if first >> 4 != 6 {
            return false;
        }
        match packet.get(6) {
            Some(&IPV6_FRAGMENT) => {
                let Some(&[protocol, _, offset, rest, ..]) = packet.get(40..48) else {
                    return false;
                };
                let is_rest = (offset, rest & 0xf8) != (0, 0);
                protocol == self.protocol && (is_rest || self.is_port(packet, 48))
            }
            Some(protocol) => *protocol == self.protocol && self.is_port(packet, 40),
            None => false,
        }
    }

    /// UDP and TCP have the destination port in the same place.
    fn is_port(&self, packet: &[u8], transport: usize) -> bool {
        packet.get(transport + 2..transport + 4).is_some_and(|port| port == self.port)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn guard(remote: &str, tcp: bool) -> Guard {
        Guard::new(remote.parse().unwrap(), tcp)
    }

    /// To port 1194 of 192.0.2.1, or of 2001:db8::1.
    fn v4(protocol: u8, options: usize) -> Vec<u8> {
        let mut packet = vec![0; 20 + options];
        packet[0] = 0x45 + (options / 4) as u8;
        packet[6] = 0x40;
        packet[9] = protocol;
        packet[16..20].copy_from_slice(&[192, 0, 2, 1]);
        packet.extend_from_slice(&[0xab, 0xcd, 0x04, 0xaa, 0, 8, 0, 0]);
        packet
    }

    fn v6(protocol: u8) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[0] = 0x60;
        packet[6] = protocol;
        packet[24..28].copy_from_slice(&[0x20, 1, 0x0d, 0xb8]);
        packet[39] = 1;
        packet.extend_from_slice(&[0xab, 0xcd, 0x04, 0xaa, 0, 8, 0, 0]);
        packet
    }

    #[test]
    fn address_protocol_and_port() {
        for remote in ["192.0.2.1:1194", "[::ffff:192.0.2.1]:1194"] {
            let udp = guard(remote, false);
            assert!(udp.catches(&v4(UDP, 0)) && udp.catches(&v4(UDP, 8)));
            assert!(!udp.catches(&v4(TCP, 0)) && !udp.catches(&v6(UDP)));
            assert!(guard(remote, true).catches(&v4(TCP, 0)));
        }
        let udp = guard("[2001:db8::1]:1194", false);
        assert!(udp.catches(&v6(UDP)));
        assert!(!udp.catches(&v6(TCP)) && !udp.catches(&v4(UDP, 0)));
        for other in ["192.0.2.1:1195", "192.0.2.2:1194", "[2001:db8::2]:1194"] {
            let other = guard(other, false);
            assert!(!other.catches(&v4(UDP, 0)) && !other.catches(&v6(UDP)), "{other:?}");
        }
    }

    #[test]
    fn fragments() {
        let mut rest = v4(UDP, 0);
        rest[7] = 185;
        rest[20..24].fill(0xee);
        assert!(guard("192.0.2.1:1194", false).catches(&rest));
        assert!(!guard("192.0.2.1:1194", true).catches(&rest));
        let mut first = v6(IPV6_FRAGMENT);
        first.splice(40..40, [UDP, 0, 0, 1, 0, 0, 0, 1]);
        assert!(guard("[2001:db8::1]:1194", false).catches(&first));
        assert!(!guard("[2001:db8::1]:1195", false).catches(&first));
        first[43] = 0xb9;
        assert!(guard("[2001:db8::1]:1195", false).catches(&first));
        assert!(!guard("[2001:db8::1]:1195", true).catches(&first));
    }

    proptest! {
        /// Whatever comes from the device, cut anywhere.
        #[test]
        fn never_panics(mut packet in proptest::collection::vec(any::<u8>(), 0..80), tcp: bool) {
            for (at, to) in [(16, &v4(UDP, 0)[16..20]), (24, &v6(UDP)[24..40])] {
                if let Some(place) = packet.get_mut(at..at + to.len()) {
                    place.copy_from_slice(to);
                }
                let _ = guard("192.0.2.1:1194", tcp).catches(&packet);
                let _ = guard("[2001:db8::1]:1194", tcp).catches(&packet);
            }
        }
    }
}
