//! Decompression of packets that the peer has compressed (`comp-lzo`, `compress lz4`).
//!
//! The output is bounded, whatever the input says. Nothing here compresses.

use std::ops::Range;

/// What one packet may become: the largest IP packet.
const MAX_PACKET: usize = 65_535;
/// What the packets of one batch may become together: more than the largest batch of full packets.
const MAX_BATCH: usize = 4 * 1024 * 1024;
/// More than this is given back after a batch.
const KEPT: usize = 512 * 1024;

/// How a packet is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Algorithm {
    /// LZO1X, without any header.
    Lzo,
    /// One LZ4 block, without any header.
    Lz4,
}

/// Not of this algorithm, or larger than any packet, or too much at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotInflated;

/// The packets of one batch, decompressed, one behind the other. Those that were not compressed are
/// copied here as well, because the coalescer wants all of them in one buffer.
#[derive(Debug)]
pub struct Inflated {
    scratch: Box<[u8]>,
    packets: Vec<u8>,
}

impl Default for Inflated {
    fn default() -> Self {
        Self { scratch: vec![0; MAX_PACKET].into(), packets: Vec::new() }
    }
}

impl Inflated {
    /// Forgets the packets of the last batch.
    pub fn clear(&mut self) {
        self.packets.clear();
        self.packets.shrink_to(KEPT);
    }

    /// All packets so far.
    #[must_use]
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.packets
    }

    /// Hands over all packets so far.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.packets)
    }

    /// Adds a packet that was not compressed, and tells where it is.
    pub fn push(&mut self, packet: &[u8]) -> Range<usize> {
        let start = self.packets.len();
        self.packets.extend_from_slice(packet);
        start..self.packets.len()
    }

    /// Decompresses a packet, and tells where it is.
    pub fn inflate(
        &mut self,
        algorithm: Algorithm,
        body: &[u8],
    ) -> Result<Range<usize>, NotInflated> {
        let room = &mut *self.scratch;
        let len = match algorithm {
            Algorithm::Lzo => lzo::decompress_into(body, room).map_err(|_| NotInflated)?,
            Algorithm::Lz4 => {
                lz4_flex::block::decompress_into(body, room).map_err(|_| NotInflated)?
            }
        };
        if self.packets.len() + len > MAX_BATCH {
            return Err(NotInflated);
        }
        let start = self.packets.len();
        self.packets.extend_from_slice(&self.scratch[..len]);
        Ok(start..self.packets.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An LZ4 block: one zero, then a match of it that is `steps` times 255 bytes longer than
    /// another, then five zeros.
    fn zeros(steps: usize) -> Vec<u8> {
        [&[0x1f, 0, 1, 0][..], &vec![255; steps], &[0, 0x50, 0, 0, 0, 0, 0]].concat()
    }

    #[test]
    fn no_packet_is_larger_than_one_can_be() {
        let mut inflated = Inflated::default();
        assert_eq!(inflated.inflate(Algorithm::Lz4, &zeros(1)), Ok(0..280));
        assert!(inflated.bytes().iter().all(|byte| *byte == 0));
        assert!(inflated.inflate(Algorithm::Lz4, &zeros(256)).is_ok());
        assert_eq!(inflated.inflate(Algorithm::Lz4, &zeros(257)), Err(NotInflated));
    }

    #[test]
    fn a_batch_is_bounded() {
        let mut inflated = Inflated::default();
        let large = zeros(250);
        let one = inflated.inflate(Algorithm::Lz4, &large).unwrap().len();
        assert!(one > 60_000);
        let more = (0..1000).take_while(|_| inflated.inflate(Algorithm::Lz4, &large).is_ok());
        assert_eq!(more.count() + 1, MAX_BATCH / one);
        inflated.clear();
        assert_eq!(inflated.packets.capacity(), KEPT);
    }

    proptest! {
        #[test]
        fn anything_inflates_or_not(body in proptest::collection::vec(any::<u8>(), 0..200), lzo: bool) {
            let algorithm = if lzo { Algorithm::Lzo } else { Algorithm::Lz4 };
            let mut inflated = Inflated::default();
            inflated.push(&[1, 2, 3]);
            if let Ok(place) = inflated.inflate(algorithm, &body) {
                prop_assert_eq!((place.start, place.end), (3, inflated.bytes().len()));
            }
        }
    }
}
