//! When to wait a moment before looking at the socket again.
//!
//! A server that sends single datagrams wakes us for each or every other of them, and the wake-ups
//! then cost more than the packets (returning acknowledgements of an upload are the usual case).
//! Sleeping for a fixed, short time in place of polling gathers a batch, as network cards do with
//! their interrupts. It happens only while datagrams come close together, never for longer than
//! [`LONGEST`], and it stops as soon as a pause brings less than it should: a question that waits
//! for its answer is not held up. A peer that batches (merged datagrams arrive) needs none of this.

use std::time::{Duration, Instant};

/// Shortest and longest pause.
const SHORTEST: Duration = Duration::from_micros(50);
const LONGEST: Duration = Duration::from_micros(500);
/// Packets worth pausing for; closer together the pause is shorter.
const TARGET: u32 = 16;
/// Packets further apart than this on average are not waited for.
const WIDEST: Duration = Duration::from_micros(100);
/// Times that nothing is tried after a pause was in vain; doubles while pauses stay vain.
const HOLD_OFF: u32 = 4;
const LONGEST_HOLD_OFF: u32 = 1024;

/// Decides from what came since the last time there was nothing to do.
#[derive(Debug)]
pub(crate) struct Pacer {
    last: Instant,
    singles: u32,
    /// What the pause that has just ended should have brought; 0 when there was none.
    expected: u32,
    hold_off: u32,
    next_hold_off: u32,
}

impl Pacer {
    pub(crate) fn new(now: Instant) -> Self {
        Self { last: now, singles: 0, expected: 0, hold_off: 0, next_hold_off: HOLD_OFF }
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
        let expected = std::mem::take(&mut self.expected);
        self.last = now;
        if singles * 3 < expected {
            self.hold_off = self.next_hold_off;
            self.next_hold_off = (self.next_hold_off * 2).min(LONGEST_HOLD_OFF);
        } else if expected > 0 {
            self.next_hold_off = HOLD_OFF;
        }
        if self.hold_off > 0 {
            self.hold_off -= 1;
            return None;
        }
        if singles == 0 || elapsed > WIDEST * singles {
            return None;
        }
        let pause = (elapsed * TARGET / singles).clamp(SHORTEST, LONGEST);
        let expected = pause.as_nanos() * u128::from(singles) / elapsed.as_nanos().max(1);
        self.expected = u32::try_from(expected).unwrap_or(u32::MAX / 2).clamp(2, TARGET);
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICROSECOND: Duration = Duration::from_micros(1);

    /// Plays what arrives after how long; the pauses, in microseconds.
    fn pauses(steps: &[(u32, u64, u64)]) -> Vec<u128> {
        let mut now = Instant::now();
        let mut pacer = Pacer::new(now);
        steps
            .iter()
            .map(|(after, messages, packets)| {
                now += MICROSECOND * *after;
                pacer.received(*messages, *packets);
                pacer.pause(now).map_or(0, |pause| pause.as_micros())
            })
            .collect()
    }

    #[test]
    fn close_single_datagrams_are_gathered() {
        // One every 60 µs; then one every 2 µs.
        assert_eq!(pauses(&[(60, 1, 1), (510, 8, 8), (510, 8, 8)]), [500, 500, 500]);
        assert_eq!(pauses(&[(6, 3, 3), (60, 30, 30), (60, 30, 30)]), [50, 50, 50]);
    }

    #[test]
    fn everything_else_is_not_waited_for() {
        // A slow stream, a burst after silence, merged datagrams, nothing.
        assert_eq!(pauses(&[(150, 1, 1), (5000, 40, 40), (30, 8, 300), (1, 0, 0)]), [0, 0, 0, 0]);
    }

    #[test]
    fn questions_and_answers_are_not_held_up() {
        // Each answer takes 50 µs and only comes after the next question.
        let pauses = pauses(&[(50, 1, 1); 2000]);
        let paused: u128 = pauses.iter().sum();
        assert_eq!(pauses[0], 500);
        assert!(paused < 12 * 500, "{paused} µs");
    }
}
