//! Compression framing: how a packet is marked inside the encrypted payload.
//!
//! Nothing is ever sent compressed. What the peer compresses is decompressed by
//! [`crate::inflate`], where the framing allows it.

use std::ops::Range;

use ovpn_dco::Framing;

use crate::inflate::Algorithm;

const LZO_COMPRESSED: u8 = 0x66;
const LZ4_COMPRESSED_SWAP: u8 = 0x69;
const LZO_NOT_COMPRESSED: u8 = 0xfa;
const NOT_COMPRESSED_SWAP: u8 = 0xfb;
const V2_ESCAPE: u8 = 0x50;
const V2_NOT_COMPRESSED: u8 = 0;
const V2_LZ4: u8 = 1;

/// The packet is compressed or framed in another way than agreed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnknownFraming;

/// What a frame holds, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Framed {
    /// A packet.
    Plain(Range<usize>),
    /// A compressed packet.
    Compressed(Algorithm, Range<usize>),
}

/// Bytes that go in front of this packet.
#[inline]
#[must_use]
pub fn prefix(framing: Framing, first_byte: u8) -> &'static [u8] {
    match framing {
        Framing::LzoStub | Framing::Lzo => &[LZO_NOT_COMPRESSED],
        Framing::StubV2 | Framing::Lz4V2 if first_byte == V2_ESCAPE => {
            &[V2_ESCAPE, V2_NOT_COMPRESSED]
        }
        Framing::None | Framing::StubV2 | Framing::Lz4V2 | Framing::Swap | Framing::Lz4 => &[],
    }
}

/// Number of bytes that go behind the packet.
#[inline]
#[must_use]
pub fn suffix(framing: Framing) -> usize {
    usize::from(framing.stub() == Framing::Swap)
}

/// Frames in place: `body` is room for [`prefix`], the packet, and room for [`suffix`].
#[inline]
pub fn encode(framing: Framing, prefix: &[u8], body: &mut [u8]) {
    body[..prefix.len()].copy_from_slice(prefix);
    if framing.stub() == Framing::Swap
        && let [first, .., last] = body
    {
        *last = *first;
        *first = NOT_COMPRESSED_SWAP;
    }
}

/// Undoes the framing in place and tells what is in `body`.
#[inline]
pub fn decode(framing: Framing, body: &mut [u8]) -> Result<Framed, UnknownFraming> {
    let len = body.len();
    let plain = match (framing.stub(), &mut *body) {
        (Framing::None, _) => 0..len,
        // Both swap and no swap are understood, whichever was agreed: servers answer one with
        // the other.
        (Framing::LzoStub | Framing::Swap, [LZO_NOT_COMPRESSED, ..]) => 1..len,
        (Framing::LzoStub | Framing::Swap, [first @ NOT_COMPRESSED_SWAP, .., last]) => {
            *first = *last;
            0..len - 1
        }
        (Framing::StubV2, [V2_ESCAPE, V2_NOT_COMPRESSED, ..]) => 2..len,
        (Framing::StubV2, [first, ..]) if *first != V2_ESCAPE => 0..len,
        (Framing::StubV2, []) => 0..0,
        _ => return compressed(framing, body),
    };
    Ok(Framed::Plain(plain))
}

fn compressed(framing: Framing, body: &mut [u8]) -> Result<Framed, UnknownFraming> {
    let len = body.len();
    let (algorithm, place) = match (framing, body) {
        (Framing::Lzo, [LZO_COMPRESSED, ..]) => (Algorithm::Lzo, 1..len),
        (Framing::Lz4, [first @ LZ4_COMPRESSED_SWAP, .., last]) => {
            *first = *last;
            (Algorithm::Lz4, 0..len - 1)
        }
        (Framing::Lz4V2, [V2_ESCAPE, V2_LZ4, ..]) => (Algorithm::Lz4, 2..len),
        _ => return Err(UnknownFraming),
    };
    Ok(Framed::Compressed(algorithm, place))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
        for framing in Framing::ALL {
            for packet in [[0x45, 1, 2], [0x50, 1, 2]] {
                assert_eq!(framed(framing, &packet), framed(framing.stub(), &packet));
            }
        }
    }

    #[test]
    fn compressed_where_agreed() {
        for (framing, body, algorithm, inside) in [
            (Framing::Lzo, &[0x66, 1, 2, 3][..], Algorithm::Lzo, &[1, 2, 3][..]),
            (Framing::Lz4, &[0x69, 1, 2, 3], Algorithm::Lz4, &[3, 1, 2]),
            (Framing::Lz4V2, &[0x50, 1, 2, 3], Algorithm::Lz4, &[2, 3]),
        ] {
            let mut found = body.to_vec();
            let Ok(Framed::Compressed(a, place)) = decode(framing, &mut found) else {
                panic!("{framing:?}")
            };
            assert_eq!((a, &found[place]), (algorithm, inside));
            for other in Framing::ALL.into_iter().filter(|f| !matches!(f, Framing::None)) {
                let refused = decode(other, &mut body.to_vec()).is_err();
                // What is no escape is a packet as it is.
                let raw = other.stub() == Framing::StubV2 && body[0] != V2_ESCAPE;
                assert_eq!(refused, other != framing && !raw, "{other:?} {body:x?}");
            }
        }
    }

    #[test]
    fn what_was_not_agreed_is_refused() {
        for (framing, body) in [
            (Framing::LzoStub, vec![0x66, 1, 2]),
            (Framing::Swap, vec![0x69, 1, 2]),
            (Framing::Swap, vec![0xfb]),
            (Framing::Swap, vec![]),
            (Framing::StubV2, vec![0x50, 1, 2]),
            (Framing::StubV2, vec![0x50]),
            (Framing::Lz4V2, vec![0x50, 2, 2]),
            (Framing::Lz4V2, vec![0x50]),
            (Framing::Lzo, vec![0x69, 1, 2]),
            (Framing::Lzo, vec![]),
            (Framing::Lz4, vec![0x69]),
            (Framing::Lz4, vec![0x68, 1, 2]),
        ] {
            assert_eq!(decode(framing, &mut body.clone()), Err(UnknownFraming), "{body:x?}");
        }
    }

    proptest! {
        #[test]
        fn round_trip(packet in proptest::collection::vec(any::<u8>(), 1..100), which in 0..Framing::ALL.len()) {
            let mut body = framed(Framing::ALL[which], &packet);
            let Ok(Framed::Plain(range)) = decode(Framing::ALL[which], &mut body) else {
                return Err(TestCaseError::fail("not a packet"));
            };
            prop_assert_eq!(&body[range], &packet[..]);
        }

        #[test]
        fn anything_decodes_or_not(mut body in proptest::collection::vec(any::<u8>(), 0..50), which in 0..Framing::ALL.len()) {
            if let Ok(Framed::Plain(range) | Framed::Compressed(_, range)) =
                decode(Framing::ALL[which], &mut body)
            {
                prop_assert!(range.start <= range.end && range.end <= body.len());
            }
        }
    }
}
