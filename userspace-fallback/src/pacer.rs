//! When to wait a moment before looking at the socket again.
//!
//! A server that sends single datagrams at a high rate wakes us for every two or three of them, and
//! the wake-ups then cost more than the packets. Sleeping a fixed, short time in place of polling
//! gathers a batch. It happens only while the rate is so high that the batch is worth it, which is
//! also when such a delay is small against what the packets wait elsewhere. A peer that batches
//! (merged datagrams arrive) needs none of this.

use std::time::{Duration, Instant};

/// The delay: small against any round trip that is not on one machine.
const DELAY: Duration = Duration::from_micros(50);
/// Packets closer together than this on average are worth waiting for: 50,000 a second, or
/// 0.5 Gbit/s of full-size packets.
const SPACING: Duration = Duration::from_micros(20);

/// Decides from what came since the last time there was nothing to do.
#[derive(Debug)]
pub(crate) struct Pacer {
    last: Instant,
    singles: u32,
}

impl Pacer {
    pub(crate) fn new(now: Instant) -> Self {
        Self { last: now, singles: 0 }
    }

    /// A batch was received: messages, and the packets in them.
    pub(crate) fn received(&mut self, messages: u64, packets: u64) {
        if messages == packets {
            self.singles = self.singles.saturating_add(packets as u32);
        }
    }

    /// There is nothing more to do: how long to sleep before looking again, without being woken.
    /// `None`: wait until something arrives.
    pub(crate) fn pause(&mut self, now: Instant) -> Option<Duration> {
        let elapsed = now.saturating_duration_since(self.last);
        let singles = std::mem::take(&mut self.singles);
        self.last = now;
        (elapsed < SPACING * singles).then_some(DELAY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICROSECOND: Duration = Duration::from_micros(1);

    #[test]
    fn only_a_high_rate_of_single_datagrams_pauses() {
        let mut now = Instant::now();
        let mut pacer = Pacer::new(now);
        for (after, messages, packets, pauses) in [
            // Three packets within 30 µs, again and again.
            (30, 3, 3, true),
            (30, 3, 3, true),
            // Nothing came during a pause: back to waiting.
            (60, 0, 0, false),
            // A burst after a while, a slow stream, merged datagrams.
            (5000, 40, 40, false),
            (30, 1, 1, false),
            (100, 8, 300, false),
            (30, 2, 2, true),
        ] {
            now += MICROSECOND * after;
            pacer.received(messages, packets);
            assert_eq!(pacer.pause(now).is_some(), pauses, "{packets} after {after} µs");
        }
    }
}
