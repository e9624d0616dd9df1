//! Compression framing: how an uncompressed packet is marked inside the encrypted payload.
//!
//! Nothing is ever compressed or decompressed (`allow-compression no`); compressed packets are
//! refused.

use std::ops::Range;

use ovpn_dco::Framing;

const LZO_NOT_COMPRESSED: u8 = 0xfa;
const NOT_COMPRESSED_SWAP: u8 = 0xfb;
const V2_ESCAPE: u8 = 0x50;
const V2_NOT_COMPRESSED: u8 = 0;

/// The packet is compressed, or framed in another way than agreed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnknownFraming;

/// Bytes that go in front of this packet.
#[inline]
#[must_use]
pub fn prefix(framing: Framing, first_byte: u8) -> &'static [u8] {
    match framing {
        Framing::LzoStub => &[LZO_NOT_COMPRESSED],
        Framing::StubV2 if first_byte == V2_ESCAPE => &[V2_ESCAPE, V2_NOT_COMPRESSED],
        Framing::None | Framing::StubV2 | Framing::Swap => &[],
    }
}

/// Number of bytes that go behind the packet.
#[inline]
#[must_use]
pub fn suffix(framing: Framing) -> usize {
    usize::from(framing == Framing::Swap)
}

/// Frames in place: `body` is room for [`prefix`], the packet, and room for [`suffix`].
#[inline]
pub fn encode(framing: Framing, prefix: &[u8], body: &mut [u8]) {
    body[..prefix.len()].copy_from_slice(prefix);
    if framing == Framing::Swap
        && let [first, .., last] = body
    {
        *last = *first;
        *first = NOT_COMPRESSED_SWAP;
    }
}

/// Undoes the framing in place and tells where in `body` the packet is.
#[inline]
pub fn decode(framing: Framing, body: &mut [u8]) -> Result<Range<usize>, UnknownFraming> {
    let len = body.len();
    match (framing, &mut *body) {
        (Framing::None, _) => Ok(0..len),
        // Both swap and no swap are understood, whichever was agreed: servers answer one with
        // the other.
        (Framing::LzoStub | Framing::Swap, [LZO_NOT_COMPRESSED, ..]) => Ok(1..len),
        (Framing::LzoStub | Framing::Swap, [first @ NOT_COMPRESSED_SWAP, .., last]) => {
            *first = *last;
            Ok(0..len - 1)
        }
        (Framing::LzoStub | Framing::Swap, _) => Err(UnknownFraming),
        (Framing::StubV2, [V2_ESCAPE, V2_NOT_COMPRESSED, ..]) => Ok(2..len),
        (Framing::StubV2, [V2_ESCAPE, ..]) => Err(UnknownFraming),
        (Framing::StubV2, _) => Ok(0..len),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [Framing; 4] = [Framing::None, Framing::LzoStub, Framing::Swap, Framing::StubV2];

    fn framed(framing: Framing, packet: &[u8]) -> Vec<u8> {
        let prefix = prefix(framing, packet[0]);
        let mut body = vec![0; prefix.len()];
        body.extend_from_slice(packet);
        body.resize(body.len() + suffix(framing), 0);
        encode(framing, prefix, &mut body);
        body
    }

    #[test]
    fn bytes() {
        assert_eq!(framed(Framing::None, &[0x45, 1, 2]), [0x45, 1, 2]);
        assert_eq!(framed(Framing::LzoStub, &[0x45, 1, 2]), [0xfa, 0x45, 1, 2]);
        assert_eq!(framed(Framing::Swap, &[0x45, 1, 2]), [0xfb, 1, 2, 0x45]);
        assert_eq!(framed(Framing::Swap, &[0x45]), [0xfb, 0x45]);
        assert_eq!(framed(Framing::StubV2, &[0x45, 1, 2]), [0x45, 1, 2]);
        assert_eq!(framed(Framing::StubV2, &[0x50, 1, 2]), [0x50, 0, 0x50, 1, 2]);
    }

    #[test]
    fn compressed_is_refused() {
        for (framing, body) in [
            (Framing::LzoStub, vec![0x66, 1, 2]),
            (Framing::Swap, vec![0x69, 1, 2]),
            (Framing::Swap, vec![0xfb]),
            (Framing::Swap, vec![]),
            (Framing::StubV2, vec![0x50, 1, 2]),
            (Framing::StubV2, vec![0x50]),
        ] {
            assert_eq!(decode(framing, &mut body.clone()), Err(UnknownFraming), "{body:x?}");
        }
    }

    proptest! {
        #[test]
        fn round_trip(packet in proptest::collection::vec(any::<u8>(), 1..100), which in 0usize..4) {
            let mut body = framed(ALL[which], &packet);
            let range = decode(ALL[which], &mut body).unwrap();
            prop_assert_eq!(&body[range], &packet[..]);
        }

        #[test]
        fn anything_decodes_or_not(mut body in proptest::collection::vec(any::<u8>(), 0..50), which in 0usize..4) {
            if let Ok(range) = decode(ALL[which], &mut body) {
                prop_assert!(range.end <= body.len());
            }
        }
    }
}
