//! MSS clamping: the maximum segment size that SYN packets announce is lowered to what fits the
//! tunnel (`mssfix`), never raised.

use crate::offload::checksum;
use crate::offload::{IPV4_HEADER, IPV6_HEADER, TCP, TCP_HEADER, be16, put16};

/// Largest TCP segment size that fits the tunnel, for clamping the MSS option of SYN packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MssClamp {
    /// For TCP over IPv4, bytes.
    pub ipv4: u16,
    /// For TCP over IPv6, bytes.
    pub ipv6: u16,
}

const SYN: u8 = 0x02;
const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_MSS: u8 = 2;

/// Lowers the MSS option of a TCP SYN packet; leaves everything else as it is. The TCP checksum
/// stays right (or wrong) as it was.
#[inline]
pub fn clamp(limits: MssClamp, packet: &mut [u8]) {
    let Some(&first) = packet.first() else { return };
    let (limit, transport) = match first >> 4 {
        4 if packet.len() >= IPV4_HEADER + TCP_HEADER && packet[9] == TCP => {
            // Only a first fragment has a TCP header, and SYN packets are not fragmented.
            if be16(packet, 6) & 0x1fff != 0 {
                return;
            }
            (limits.ipv4, usize::from(first & 0xf) * 4)
        }
        6 if packet.len() >= IPV6_HEADER + TCP_HEADER && packet[6] == TCP => {
            (limits.ipv6, IPV6_HEADER)
        }
        _ => return,
    };
    let Some(tcp) = packet.get_mut(transport..) else { return };
    if tcp.len() >= TCP_HEADER && tcp[13] & SYN != 0 {
        clamp_options(limit, tcp);
    }
}

fn clamp_options(limit: u16, tcp: &mut [u8]) {
    let end = (usize::from(tcp[12] >> 4) * 4).min(tcp.len());
    let mut at = TCP_HEADER;
    while at + 1 < end {
        match tcp[at] {
            OPTION_END => return,
            OPTION_NOP => at += 1,
            kind => {
                let len = usize::from(tcp[at + 1]);
                if len < 2 || at + len > end {
                    return;
                }
                if kind == OPTION_MSS && len == 4 && be16(tcp, at + 2) > limit {
                    lower(limit, tcp, at + 2);
                }
                at += len;
            }
        }
    }
}

fn lower(limit: u16, tcp: &mut [u8], at: usize) {
    let old = be16(tcp, at);
    put16(tcp, at, limit);
    // An option at an odd offset spans two words of the sum, with its bytes exchanged.
    let (old, new) =
        if at.is_multiple_of(2) { (old, limit) } else { (old.swap_bytes(), limit.swap_bytes()) };
    let sum = checksum::update(be16(tcp, 16), old, new);
    put16(tcp, 16, sum);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::offload::checksum::Sum;

    const LIMITS: MssClamp = MssClamp { ipv4: 1400, ipv6: 1380 };

    /// A SYN with these TCP options.
    fn syn(v6: bool, flags: u8, options: &[u8]) -> Vec<u8> {
        let transport = if v6 { 40 } else { 20 };
        let mut packet = vec![0; transport + 20];
        packet.extend_from_slice(options);
        let tcp_len = packet.len() - transport;
        if v6 {
            packet[0] = 0x60;
            put16(&mut packet, 4, tcp_len as u16);
            packet[6] = TCP;
            packet[8..40].fill(0x20);
        } else {
            packet[0] = 0x45;
            put16(&mut packet, 2, (transport + tcp_len) as u16);
            packet[9] = TCP;
            packet[12..20].fill(10);
        }
        packet[transport + 12] = ((tcp_len / 4) as u8) << 4;
        packet[transport + 13] = flags;
        let sum = tcp_sum(&packet).checksum();
        packet[transport + 16..transport + 18].copy_from_slice(&sum);
        packet
    }

    fn tcp_sum(packet: &[u8]) -> Sum {
        let (addresses, tcp) = if packet[0] >> 4 == 6 {
            (&packet[8..40], &packet[40..])
        } else {
            (&packet[12..20], &packet[20..])
        };
        Sum::ZERO.plus_pseudo_header(addresses, TCP, tcp.len()).plus(tcp)
    }

    #[test]
    fn lowered_with_a_right_checksum() {
        for (v6, limit) in [(false, 1400u16), (true, 1380)] {
            // In front of the option: nothing, one NOP (odd offset), another option.
            for front in [&[][..], &[1], &[4, 2]] {
                let mut options = front.to_vec();
                options.extend_from_slice(&[2, 4, 0x05, 0xb4]);
                options.resize(options.len().next_multiple_of(4), 0);
                let mut packet = syn(v6, SYN, &options);
                clamp(LIMITS, &mut packet);
                let at = if v6 { 40 } else { 20 } + 20 + front.len() + 2;
                assert_eq!(be16(&packet, at), limit);
                assert!(tcp_sum(&packet).is_valid());
            }
        }
    }

    #[test]
    fn left_alone() {
        let mss = [2, 4, 0x05, 0xb4];
        let mut fragment = syn(false, SYN, &mss);
        fragment[7] = 1;
        for packet in [
            syn(false, 0x10, &mss),
            syn(false, SYN, &[2, 4, 0x05, 0x00]),
            syn(false, SYN, &[0, 2, 4, 0x05, 0xb4, 0, 0, 0]),
            syn(false, SYN, &[2, 3, 0x05, 0xb4]),
            syn(false, SYN, &[3, 0, 2, 4]),
            fragment,
        ] {
            let mut clamped = packet.clone();
            clamp(LIMITS, &mut clamped);
            assert_eq!(clamped, packet);
        }
    }

    proptest! {
        #[test]
        fn anything_goes(mut packet in proptest::collection::vec(any::<u8>(), 0..120), v6: bool) {
            if let Some(first) = packet.first_mut() {
                *first = if v6 { 0x60 } else { 0x40 | (*first & 0xf) };
            }
            if packet.len() > 9 {
                packet[6] = if v6 { TCP } else { 0x40 };
                packet[9] = TCP;
            }
            let len = packet.len();
            clamp(LIMITS, &mut packet);
            prop_assert_eq!(packet.len(), len);
        }

        #[test]
        fn any_options(options in proptest::collection::vec(0u8..6, 0..10), v6: bool) {
            let mut options = options;
            options.resize(options.len().next_multiple_of(4), 0);
            let mut packet = syn(v6, SYN, &options);
            clamp(MssClamp { ipv4: 1, ipv6: 1 }, &mut packet);
            prop_assert!(tcp_sum(&packet).is_valid());
        }
    }
}
