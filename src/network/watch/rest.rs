//! How long looks at the network rest, so that a big table that changes all the time does not take the
//! processor, and a change now and then is looked at at once, however slow the machine. What may have
//! cut the tunnel off waits for less than the routes of others do. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// Of the time, one part in so many may go into looks.
const SHARE: u32 = 11;
/// What is pressing waits no longer than the last look took, so many times.
const PRESSING: u32 = 3;
/// But as much as this at once: a change comes in parts, and each may be worth a look.
const AT_ONCE: Duration = Duration::from_secs(3);
const LONGEST: Duration = Duration::from_secs(10);

/// When the next look may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rest {
    /// Not before then.
    pub(super) until: Instant,
    /// For what is pressing, not before then.
    pub(super) pressing_until: Instant,
    /// What has been spent on looks, less what time has paid back, at the end of the last one.
    debt: Duration,
    since: Instant,
}

impl Rest {
    pub(super) const fn new(now: Instant) -> Self {
        Self { until: now, pressing_until: now, debt: Duration::ZERO, since: now }
    }

    /// A look is over that took so long.
    pub(super) fn looked(&mut self, took: Duration, now: Instant) {
        let paid = now.saturating_duration_since(self.since) / SHARE;
        let debt = self.debt.saturating_sub(paid).saturating_add(took).min(AT_ONCE + LONGEST);
        let rest = debt.saturating_sub(AT_ONCE).saturating_mul(SHARE).min(LONGEST);
        let pressing_rest = rest.min(took.saturating_mul(PRESSING));
        let (until, pressing_until) = (now + rest, now + pressing_rest);
        *self = Self { until, pressing_until, debt, since: now };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks of this length, as soon as each may be, for a minute: when they ended.
    fn looks(length: Duration) -> Vec<Duration> {
        let begin = Instant::now();
        let (mut rest, mut ends) = (Rest::new(begin), Vec::new());
        while rest.until < begin + Duration::from_secs(60) {
            let now = rest.until + length;
            rest.looked(length, now);
            ends.push(now - begin);
        }
        ends
    }

    #[test]
    fn a_change_now_and_then_is_looked_at_at_once() {
        let (slow, since) = (Duration::from_millis(800), Duration::from_secs(30));
        let begin = Instant::now();
        let mut rest = Rest::new(begin);
        for change in 1..100 {
            let mut now = begin + since * change;
            for part in 0..3 {
                assert!(rest.until <= now, "change {change}, part {part}");
                now += slow;
                rest.looked(slow, now);
            }
        }
    }

    /// A slow machine whose uplinks change all the time, and so often that every look is on credit.
    #[test]
    fn what_is_pressing_waits_for_less() {
        let took = Duration::from_millis(800);
        let mut now = Instant::now();
        let mut rest = Rest::new(now);
        for look in 0..100 {
            now = rest.pressing_until + took;
            rest.looked(took, now);
            assert!(rest.pressing_until <= rest.until, "look {look}");
            assert!(rest.pressing_until <= now + took * PRESSING, "look {look}");
        }
        assert!(rest.until > now + took * PRESSING, "the routes of others wait");
        assert!(rest.pressing_until > now, "but not without any rest");
    }

    #[test]
    fn changes_without_end_take_little() {
        for milliseconds in [1, 20, 800, 5000] {
            let length = Duration::from_millis(milliseconds);
            let ends = looks(length);
            let spent = length * ends.len() as u32;
            assert!(spent < Duration::from_secs(60) / SHARE + AT_ONCE + length * 4, "{spent:?}");
            assert!(ends.windows(2).all(|pair| pair[1] - pair[0] <= LONGEST + length), "{ends:?}");
        }
    }
}
