//! The replay window, of data and of control packets: which ids were seen.
//!
//! Check before opening a packet ([`Window::check`]), mark after it proved authentic
//! ([`Window::accept`]). One window belongs to one key.

use std::time::{Duration, Instant};

/// Ids of data packets behind the highest that are still told apart. OpenVPN's default of 64 is too small behind
/// bursts of merged datagrams and parallel paths.
pub const WINDOW: u64 = 8192;

/// After this long without any packet everything up to the highest id counts as seen, so that a
/// packet held back cannot be replayed much later. The value OpenVPN 3 uses.
pub const EXPIRY: Duration = Duration::from_secs(30);

/// Why an id is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// Id 0 is never sent.
    #[error("replay counter is zero")]
    Invalid,
    /// Further behind the highest id than the window reaches.
    #[error("packet is older than the replay window")]
    Backtrack,
    /// Seen before.
    #[error("packet seen before")]
    Replay,
    /// Too late: nothing was received for the expiry time in between.
    #[error("packet arrived too late")]
    Expired,
}

/// A sliding window of packet ids.
#[derive(Debug)]
pub struct Window {
    /// Bit `id % len` tells whether `id` was seen, for ids in `highest - size + 1 ..= highest`.
    bits: Box<[u64]>,
    size: u64,
    highest: u64,
    /// Ids up to this one are expired.
    floor: u64,
    expiry: Duration,
    last: Option<Instant>,
}

impl Default for Window {
    fn default() -> Self {
        Self::new(WINDOW, EXPIRY)
    }
}

impl Window {
    /// Remembers `size` ids (1 at least); those that a newer one overtook are refused once nothing
    /// came for `expiry`.
    #[must_use]
    pub fn new(size: u64, expiry: Duration) -> Self {
        let size = size.max(1);
        let bits = vec![0; size.div_ceil(64) as usize].into();
        Self { bits, size, highest: 0, floor: 0, expiry, last: None }
    }

    /// Forgets every id.
    pub fn clear(&mut self) {
        self.bits.fill(0);
        (self.highest, self.floor, self.last) = (0, 0, None);
    }

    #[inline]
    fn bit(&self, id: u64) -> (usize, u64) {
        let at = id % (self.bits.len() as u64 * 64);
        ((at / 64) as usize, 1 << (at % 64))
    }

    /// Whether the id is new.
    #[inline]
    pub fn check(&self, id: u64, now: Instant) -> Result<(), Refused> {
        if id == 0 {
            return Err(Refused::Invalid);
        }
        if id > self.highest {
            return Ok(());
        }
        if self.highest - id >= self.size {
            return Err(Refused::Backtrack);
        }
        if id <= self.floor || self.is_stale(now) {
            return Err(Refused::Expired);
        }
        let (word, mask) = self.bit(id);
        if self.bits[word] & mask != 0 { Err(Refused::Replay) } else { Ok(()) }
    }

    #[inline]
    fn is_stale(&self, now: Instant) -> bool {
        self.last.is_some_and(|last| now.saturating_duration_since(last) >= self.expiry)
    }

    /// Marks an id that [`Window::check`] found new.
    #[inline]
    pub fn accept(&mut self, id: u64, now: Instant) {
        if self.is_stale(now) {
            self.floor = self.highest;
        }
        self.last = Some(now);
        if id > self.highest {
            self.advance(id);
        }
        let (word, mask) = self.bit(id);
        self.bits[word] |= mask;
    }

    /// Moves the window up to `id` and forgets what leaves it.
    #[inline]
    fn advance(&mut self, id: u64) {
        let step = id - self.highest;
        if step >= self.size {
            self.bits.fill(0);
        } else {
            for between in self.highest + 1..=id {
                let (word, mask) = self.bit(between);
                self.bits[word] &= !mask;
            }
        }
        self.highest = id;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn test(window: &mut Window, id: u64, now: Instant) -> Result<(), Refused> {
        window.check(id, now)?;
        window.accept(id, now);
        Ok(())
    }

    /// OpenVPN 3's vector for a window of 64 ids and 5 seconds.
    #[test]
    fn known_sequence() {
        use Refused::{Backtrack, Expired, Invalid, Replay};
        let start = Instant::now();
        let mut window = Window::new(64, Duration::from_secs(5));
        for (time, id, expected) in [
            (0, 0, Err(Invalid)),
            (1, 1, Ok(())),
            (1, 1, Err(Replay)),
            (2, 2, Ok(())),
            (3, 4, Ok(())),
            (4, 1, Err(Replay)),
            (5, 3, Ok(())),
            (6, 8, Ok(())),
            (10, 5, Ok(())),
            (15, 7, Err(Expired)),
            (20, 127, Ok(())),
            (20, 127, Err(Replay)),
            (21, 128, Ok(())),
            (22, 64, Err(Backtrack)),
            (23, 65, Ok(())),
            (24, 66, Ok(())),
            (30, 0, Err(Invalid)),
            (33, 3, Err(Backtrack)),
            (40, 0xffff_fffe, Ok(())),
            (41, 0xffff_ffff, Ok(())),
        ] {
            let now = start + Duration::from_secs(time);
            assert_eq!(test(&mut window, id, now), expected, "time {time} id {id}");
        }
    }

    /// The same implementation with 48-bit ids.
    #[test]
    fn known_sequence_of_long_ids() {
        use Refused::Backtrack;
        let now = Instant::now();
        let mut window = Window::new(64, Duration::from_secs(5));
        for (id, expected) in [
            (0xffff_fffe, Ok(())),
            (0xffff_ffff, Ok(())),
            (0x1_0000_0001, Ok(())),
            (0xffff_ff0d, Err(Backtrack)),
            (0x2_0000_0000, Ok(())),
            (0x5_0000_0000, Ok(())),
            (0x4_0000_0000, Err(Backtrack)),
            (0x3_9999_9999, Err(Backtrack)),
            (0x3_ffff_ffff, Err(Backtrack)),
            (0x4_ffff_ffff, Ok(())),
        ] {
            assert_eq!(test(&mut window, id, now), expected, "id {id:x}");
        }
    }

    /// What the documentation says, looked up in the list of everything accepted.
    fn by_history(
        accepted: &[(u64, Instant)],
        size: u64,
        id: u64,
        now: Instant,
    ) -> Result<(), Refused> {
        let highest = accepted.iter().map(|(id, _)| *id).max().unwrap_or(0);
        // What was the highest id before each pause, the one that lasts until now included.
        let ends = accepted.iter().skip(1).map(|(_, time)| *time).chain([now]);
        let expired = accepted.iter().zip(ends).enumerate().any(|(at, ((_, last), next))| {
            next - *last >= EXPIRY && accepted[..=at].iter().any(|(earlier, _)| id <= *earlier)
        });
        if id == 0 {
            Err(Refused::Invalid)
        } else if id > highest {
            Ok(())
        } else if highest - id >= size {
            Err(Refused::Backtrack)
        } else if expired {
            Err(Refused::Expired)
        } else if accepted.iter().any(|(seen, _)| *seen == id) {
            Err(Refused::Replay)
        } else {
            Ok(())
        }
    }

    /// How far an id is from the highest, forwards or back; how long after the packet before, in
    /// milliseconds; and whether the packet proves authentic.
    fn step() -> impl Strategy<Value = (i64, u64, bool)> {
        let distance =
            prop_oneof![6 => -9i64..9, 6 => -400i64..0, 2 => 0i64..400, 1 => 0i64..1 << 40];
        let expiry = EXPIRY.as_millis() as u64;
        let wait = prop_oneof![40 => 0u64..50, 2 => expiry - 1..=expiry, 1 => 0..2 * expiry];
        (distance, wait, prop::bool::weighted(0.8))
    }

    proptest! {
        /// Any order of ids and any pauses, for windows of any size. A packet that is no more than
        /// checked leaves no trace.
        #[test]
        fn like_a_list_of_everything_accepted(
            size in 1u64..300, steps in proptest::collection::vec(step(), 1..300),
        ) {
            let mut window = Window::new(size, EXPIRY);
            let mut now = Instant::now();
            let mut accepted: Vec<(u64, Instant)> = Vec::new();
            let mut highest = 0u64;
            for (distance, wait, authentic) in steps {
                now += Duration::from_millis(wait);
                let id = highest.saturating_add_signed(distance);
                let expected = by_history(&accepted, size, id, now);
                prop_assert_eq!(window.check(id, now), expected);
                if expected.is_ok() && authentic {
                    window.accept(id, now);
                    accepted.push((id, now));
                    highest = highest.max(id);
                }
            }
        }
    }
}
