//! TCP segments that only acknowledge, and when a later one says all that an earlier one said.
//!
//! A receiver may acknowledge as rarely as it likes within its delay (RFC 9293, section 3.8.6.3),
//! and SACK blocks are repeated because acknowledgements get lost (RFC 2018, section 4), so leaving
//! out one whose successor is already here changes nothing but the sender's work. Whatever carries
//! a meaning of its own stays: a repetition without SACK (a sign of loss) until one is here that
//! advances, a duplicate SACK (RFC 2883), any flag but ACK, any other option.

use super::{TCP_HEADER, be32};

const ACK: u8 = 0x10;
/// SACK blocks that fit a TCP header.
const MAX_BLOCKS: usize = 4;

/// What a segment without data, flags and unusual options says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Acknowledgement {
    sequence: u32,
    acknowledged: u32,
    /// Value and echo (RFC 7323).
    timestamps: Option<[u32; 2]>,
    /// Left and right edges.
    blocks: [[u32; 2]; MAX_BLOCKS],
    block_count: usize,
}

impl Acknowledgement {
    /// Reads a segment: TCP header and options, nothing behind them. Only the options and layouts
    /// that everybody sends are understood: timestamps, SACK, both, each after two NOPs.
    pub(super) fn parse(segment: &[u8]) -> Option<Self> {
        const TIMESTAMPS: [u8; 4] = [1, 1, 8, 10];
        const SACK: [u8; 3] = [1, 1, 5];
        let (header, mut options) = segment.split_at_checked(TCP_HEADER)?;
        if header[12] & 0x0f != 0 || header[13] != ACK {
            return None;
        }
        let mut this = Self {
            sequence: be32(header, 4),
            acknowledged: be32(header, 8),
            timestamps: None,
            blocks: [[0; 2]; MAX_BLOCKS],
            block_count: 0,
        };
        if let Some(rest) = options.strip_prefix(&TIMESTAMPS) {
            let (values, rest) = rest.split_at_checked(8)?;
            this.timestamps = Some([be32(values, 0), be32(values, 4)]);
            options = rest;
        }
        if let Some(rest) = options.strip_prefix(&SACK) {
            let (length, blocks) = rest.split_first()?;
            let (blocks, rest) = blocks.as_chunks::<8>();
            if !rest.is_empty() || usize::from(*length) != 2 + 8 * blocks.len() {
                return None;
            }
            for (to, block) in this.blocks.iter_mut().zip(blocks) {
                *to = [be32(block, 0), be32(block, 4)];
            }
            this.block_count = blocks.len();
            options = &[];
        }
        options.is_empty().then_some(this)
    }

    /// Whether this one, which came later on the same connection, says all that `earlier` said.
    pub(super) fn supersedes(&self, earlier: &Self) -> bool {
        let advances = self.acknowledged != earlier.acknowledged;
        let timestamps = match (self.timestamps, earlier.timestamps) {
            (Some(now), Some(then)) => (0..2).all(|i| not_before(now[i], then[i])),
            (None, None) => true,
            _ => false,
        };
        self.sequence == earlier.sequence
            && not_before(self.acknowledged, earlier.acknowledged)
            && (advances || self.block_count > 0)
            && timestamps
            && !earlier.reports_a_duplicate()
            && !self.reports_a_duplicate()
            && earlier.blocks().iter().all(|block| self.covers(*block))
    }

    fn blocks(&self) -> &[[u32; 2]] {
        &self.blocks[..self.block_count]
    }

    /// Whether everything in a block is known to have arrived.
    fn covers(&self, [left, right]: [u32; 2]) -> bool {
        not_before(self.acknowledged, right)
            || self.blocks().iter().any(|b| not_before(left, b[0]) && not_before(b[1], right))
    }

    /// Whether the first block is a duplicate SACK: it lies before the acknowledgement number, or
    /// inside the second block (RFC 2883, section 4).
    fn reports_a_duplicate(&self) -> bool {
        let Some((first, others)) = self.blocks().split_first() else { return false };
        not_before(self.acknowledged, first[1])
            || others.first().is_some_and(|second| {
                not_before(first[0], second[0]) && not_before(second[1], first[1])
            })
    }
}

/// Whether a sequence number or timestamp is equal to another or follows it.
fn not_before(later: u32, earlier: u32) -> bool {
    later.wrapping_sub(earlier) < 1 << 31
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A segment with these options.
    fn segment(acknowledged: u32, options: &[u8]) -> Vec<u8> {
        let mut segment = vec![0, 1, 0, 2, 0, 0, 0, 9];
        segment.extend_from_slice(&acknowledged.to_be_bytes());
        segment.extend_from_slice(&[((TCP_HEADER + options.len()) / 4 * 16) as u8, ACK]);
        segment.extend_from_slice(&[1, 0, 0, 0, 0, 0]);
        segment.extend_from_slice(options);
        segment
    }

    fn timestamps(value: u32, echo: u32) -> Vec<u8> {
        [&[1, 1, 8, 10][..], &value.to_be_bytes(), &echo.to_be_bytes()].concat()
    }

    fn sack(blocks: &[[u32; 2]]) -> Vec<u8> {
        let mut option = vec![1, 1, 5, 2 + 8 * blocks.len() as u8];
        option.extend(blocks.as_flattened().iter().flat_map(|edge| edge.to_be_bytes()));
        option
    }

    fn parsed(acknowledged: u32, options: &[u8]) -> Acknowledgement {
        Acknowledgement::parse(&segment(acknowledged, options)).unwrap()
    }

    #[test]
    fn ordinary_ones_advance() {
        let earlier = parsed(100, &timestamps(5, 7));
        assert!(parsed(101, &timestamps(5, 7)).supersedes(&earlier));
        assert!(parsed(101, &timestamps(6, 8)).supersedes(&earlier));
        assert!(parsed(101, &[]).supersedes(&parsed(100, &[])));
        // The number wraps.
        assert!(parsed(3, &[]).supersedes(&parsed(u32::MAX, &[])));
    }

    #[test]
    fn what_means_something_else_stays() {
        let earlier = parsed(100, &timestamps(5, 7));
        for (what, later) in [
            ("repeated", parsed(100, &timestamps(5, 7))),
            ("repeated later", parsed(100, &timestamps(6, 7))),
            ("backwards", parsed(99, &timestamps(5, 7))),
            ("older value", parsed(101, &timestamps(4, 7))),
            ("older echo", parsed(101, &timestamps(5, 6))),
            ("no timestamps", parsed(101, &[])),
        ] {
            assert!(!later.supersedes(&earlier), "{what}");
        }
        let mut probe = segment(101, &timestamps(5, 7));
        probe[7] -= 1;
        assert!(!Acknowledgement::parse(&probe).unwrap().supersedes(&earlier), "keep-alive probe");
    }

    #[test]
    fn only_the_usual_layouts_are_understood() {
        assert!(Acknowledgement::parse(&segment(1, &[])).is_some());
        assert!(Acknowledgement::parse(&segment(1, &sack(&[[1, 2]; 4]))).is_some());
        let both = [timestamps(1, 2), sack(&[[5, 6]; 3])].concat();
        assert!(Acknowledgement::parse(&segment(1, &both)).is_some());
        for options in [
            vec![1, 1, 1, 1],
            vec![30, 4, 0, 0],
            [timestamps(1, 2), vec![1, 1, 1, 0]].concat(),
            [sack(&[[5, 6]]), timestamps(1, 2)].concat(),
            vec![1, 1, 5, 2, 0, 0, 0, 0],
            vec![1, 1, 5, 18, 0, 0, 0, 0, 0, 0, 0, 0],
            vec![1, 1, 8, 10, 0, 0, 0, 0],
        ] {
            assert_eq!(Acknowledgement::parse(&segment(1, &options)), None, "{options:?}");
        }
        // Flags, among them those of accurate ECN.
        for (at, bit) in [(13, 0x01), (13, 0x08), (13, 0x40), (13, 0x80), (12, 0x01)] {
            let mut other = segment(1, &[]);
            other[at] |= bit;
            assert_eq!(Acknowledgement::parse(&other), None);
        }
        assert_eq!(Acknowledgement::parse(&segment(1, &[])[..19]), None);
    }

    #[test]
    fn sack_blocks_may_grow_but_not_get_lost() {
        let earlier = parsed(100, &sack(&[[200, 300]]));
        for later in [
            parsed(100, &sack(&[[200, 400]])),
            parsed(100, &sack(&[[500, 600], [200, 300]])),
            parsed(300, &[]),
            parsed(150, &sack(&[[200, 300]])),
        ] {
            assert!(later.supersedes(&earlier), "{later:?}");
        }
        for later in [
            parsed(150, &[]),
            parsed(100, &sack(&[[201, 300]])),
            parsed(100, &sack(&[[500, 600]])),
            parsed(299, &sack(&[[500, 600]])),
        ] {
            assert!(!later.supersedes(&earlier), "{later:?}");
        }
    }

    #[test]
    fn duplicates_reported_are_kept() {
        let before = sack(&[[40, 50]]);
        let inside = sack(&[[210, 220], [200, 300]]);
        for options in [before, inside] {
            let reporting = parsed(100, &options);
            assert!(!parsed(400, &[]).supersedes(&reporting), "{reporting:?}");
            assert!(!reporting.supersedes(&parsed(90, &[])), "{reporting:?}");
        }
    }

    proptest! {
        /// In words: every byte that the earlier one says has arrived, the later one says too.
        #[test]
        fn nothing_known_is_lost(
            then in 0u32..40, now in 0u32..40,
            blocks_then in proptest::collection::vec((0u32..60, 1u32..20), 0..4),
            blocks_now in proptest::collection::vec((0u32..60, 1u32..20), 0..4),
        ) {
            let make = |acknowledged, blocks: &[(u32, u32)]| {
                let blocks: Vec<_> = blocks.iter().map(|(left, len)| [*left, left + len]).collect();
                parsed(acknowledged, &if blocks.is_empty() { vec![] } else { sack(&blocks) })
            };
            let (earlier, later) = (make(then, &blocks_then), make(now, &blocks_now));
            let known = |acknowledged, blocks: &[(u32, u32)], byte: u32| {
                byte < acknowledged || blocks.iter().any(|(left, len)| (*left..left + len).contains(&byte))
            };
            if later.supersedes(&earlier) {
                for byte in 0..100 {
                    prop_assert!(!known(then, &blocks_then, byte) || known(now, &blocks_now, byte));
                }
            }
        }

        #[test]
        fn anything_is_parsed_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = Acknowledgement::parse(&bytes);
        }
    }
}
