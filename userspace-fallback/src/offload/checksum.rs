//! The Internet checksum (RFC 1071).
//!
//! One's complement addition does not care about byte order as long as it is the same for every
//! word, so sums run over native-endian words and only [`Sum::fold`] turns the result into the two
//! bytes as they stand in memory. The main loop adds 32-bit lanes into independent 64-bit
//! accumulators, which the compiler turns into vector code.

/// An unfinished one's complement sum of 16-bit words.
#[derive(Clone, Copy, Default, Debug)]
#[must_use]
pub struct Sum(u64);

/// Bytes that one turn of the main loop handles.
const STEP: usize = 64;

impl Sum {
    /// The empty sum.
    pub const ZERO: Self = Self(0);

    /// Adds `data`, which starts at an even offset of whatever is summed. An odd last byte counts
    /// as the first half of a word whose other half is zero, so only the last piece may be odd.
    #[inline]
    pub fn plus(self, data: &[u8]) -> Self {
        let (blocks, rest) = data.as_chunks::<STEP>();
        let mut lanes = [0u64; STEP / 4];
        for block in blocks {
            add_block(&mut lanes, block);
        }
        self.finish(lanes, rest)
    }

    /// Copies `from` to `to`, which has the same length, and adds it: one pass over memory.
    #[inline]
    pub fn plus_copying(self, from: &[u8], to: &mut [u8]) -> Self {
        let (blocks, rest) = from.as_chunks::<STEP>();
        let (to_blocks, to_rest) = to.as_chunks_mut::<STEP>();
        let mut lanes = [0u64; STEP / 4];
        for (block, to) in blocks.iter().zip(to_blocks) {
            *to = *block;
            add_block(&mut lanes, block);
        }
        to_rest.copy_from_slice(rest);
        self.finish(lanes, rest)
    }

    #[inline]
    fn finish(self, lanes: [u64; STEP / 4], rest: &[u8]) -> Self {
        let mut sum = self.0;
        for lane in lanes {
            sum += lane;
        }
        let (words, rest) = rest.as_chunks::<4>();
        for word in words {
            sum += u64::from(u32::from_ne_bytes(*word));
        }
        let (halves, rest) = rest.as_chunks::<2>();
        for half in halves {
            sum += u64::from(u16::from_ne_bytes(*half));
        }
        if let [byte] = rest {
            sum += u64::from(u16::from_ne_bytes([*byte, 0]));
        }
        Self(sum)
    }

    /// Adds one 16-bit number.
    #[inline]
    pub fn plus_u16(self, value: u16) -> Self {
        Self(self.0 + u64::from(u16::from_ne_bytes(value.to_be_bytes())))
    }

    /// Adds the pseudo-header of IPv4 (RFC 9293 3.1) or IPv6 (RFC 8200 8.1): the addresses as they
    /// stand in the IP header, protocol, and length of the transport header with its payload.
    #[inline]
    pub fn plus_pseudo_header(self, addresses: &[u8], protocol: u8, length: usize) -> Self {
        // Lengths above 65,535 (IPv6 jumbograms) do not occur, but the sum would be right.
        let length = length as u32;
        self.plus(addresses)
            .plus_u16(u16::from(protocol))
            .plus_u16((length >> 16) as u16)
            .plus_u16(length as u16)
    }

    /// The sum as the two bytes to store, not complemented.
    #[inline]
    #[must_use]
    pub fn fold(self) -> [u8; 2] {
        let mut sum = self.0;
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (sum as u16).to_ne_bytes()
    }

    /// The checksum: the complemented sum as the two bytes to store.
    #[inline]
    #[must_use]
    pub fn checksum(self) -> [u8; 2] {
        let [a, b] = self.fold();
        [!a, !b]
    }

    /// The checksum with zero written as 0xFFFF, its other representation, because zero means "no
    /// checksum" in UDP.
    #[inline]
    #[must_use]
    pub fn checksum_not_zero(self) -> [u8; 2] {
        match self.checksum() {
            [0, 0] => [0xff, 0xff],
            checksum => checksum,
        }
    }

    /// Whether this is the sum of data that includes its own, correct checksum.
    #[inline]
    #[must_use]
    pub fn is_valid(self) -> bool {
        self.fold() == [0xff, 0xff]
    }
}

#[inline]
fn add_block(lanes: &mut [u64; STEP / 4], block: &[u8; STEP]) {
    for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<4>().0) {
        *lane += u64::from(u32::from_ne_bytes(*word));
    }
}

/// Changes a checksum for one 16-bit word that changes (RFC 1624, equation 3).
#[must_use]
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    let sum = u32::from(!checksum) + u32::from(!old) + u32::from(new);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071 word by word.
    fn slow(data: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in data.chunks(2) {
            let word = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
            sum += u32::from(word);
            if sum > 0xffff {
                sum -= 0xffff;
            }
        }
        sum as u16
    }

    #[test]
    fn example_of_rfc_1071() {
        let data = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::ZERO.plus(&data).fold(), [0xdd, 0xf2]);
    }

    #[test]
    fn zero_is_not_sent_in_udp() {
        assert_eq!(Sum::ZERO.plus_u16(0xffff).checksum(), [0, 0]);
        assert_eq!(Sum::ZERO.plus_u16(0xffff).checksum_not_zero(), [0xff, 0xff]);
    }

    proptest! {
        #[test]
        fn like_word_by_word(data in proptest::collection::vec(any::<u8>(), 0..3000)) {
            let expected = slow(&data);
            prop_assert_eq!(u16::from_be_bytes(Sum::ZERO.plus(&data).fold()), expected);
            let mut copy = vec![0; data.len()];
            let sum = Sum::ZERO.plus_copying(&data, &mut copy);
            prop_assert_eq!(u16::from_be_bytes(sum.fold()), expected);
            prop_assert_eq!(copy, data);
        }

        #[test]
        fn pieces_add_up(data in proptest::collection::vec(any::<u8>(), 0..400), cut in 0usize..200) {
            let cut = (cut * 2).min(data.len() & !1);
            let (a, b) = data.split_at(cut);
            prop_assert_eq!(Sum::ZERO.plus(a).plus(b).fold(), Sum::ZERO.plus(&data).fold());
        }

        #[test]
        fn update_like_recomputing(
            mut data in proptest::collection::vec(any::<u8>(), 4..100), new: u16, at in 0usize..50,
        ) {
            let at = (at * 2) % (data.len() & !1);
            let before = u16::from_be_bytes(Sum::ZERO.plus(&data).checksum());
            let old = u16::from_be_bytes([data[at], data[at + 1]]);
            data[at..at + 2].copy_from_slice(&new.to_be_bytes());
            let after = u16::from_be_bytes(Sum::ZERO.plus(&data).checksum());
            let updated = update(before, old, new);
            // The two representations of zero are equal.
            prop_assert!(updated == after || (updated ^ after) == 0xffff && [0, 0xffff].contains(&updated));
        }

        #[test]
        fn own_checksum_is_valid(mut data in proptest::collection::vec(any::<u8>(), 2..200)) {
            data[0] = 0;
            data[1] = 0;
            let checksum = Sum::ZERO.plus(&data).checksum();
            data[..2].copy_from_slice(&checksum);
            prop_assert!(Sum::ZERO.plus(&data).is_valid());
        }
    }
}
