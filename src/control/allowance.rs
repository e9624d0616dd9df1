//! How much of something a peer may make us do: so much at once, and so much a second for ever.

use std::time::{Duration, Instant};

/// A token bucket over passed-in time.
#[derive(Debug)]
pub struct Allowance {
    burst: f64,
    per_second: f64,
    /// Below zero after [`Self::spend`] beyond what was there.
    left: f64,
    at: Option<Instant>,
    /// How often [`Self::take`] has said no.
    refused: u64,
}

impl Allowance {
    /// `burst` at once, `per_second` for ever.
    pub const fn new(burst: u32, per_second: f64) -> Self {
        Self { burst: burst as f64, per_second, left: burst as f64, at: None, refused: 0 }
    }

    /// Takes one. False: there is none; see [`Self::is_worth_telling`].
    pub fn take(&mut self, now: Instant) -> bool {
        self.refill(now);
        if self.left < 1.0 {
            self.refused = self.refused.saturating_add(1);
            return false;
        }
        self.left -= 1.0;
        true
    }

    /// After a refusal: the first, second, fourth, eighth ... of all. Telling of them takes no room.
    pub const fn is_worth_telling(&self) -> bool {
        self.refused.is_power_of_two()
    }

    /// How often it was refused.
    pub const fn refused(&self) -> u64 {
        self.refused
    }

    /// Takes `amount`, which has been used already, also beyond what is there.
    pub fn spend(&mut self, amount: usize, now: Instant) {
        self.refill(now);
        self.left -= amount as f64;
    }

    /// When there is something again; `None`: there is now.
    pub fn ready_at(&self) -> Option<Instant> {
        if self.left > 0.0 {
            return None;
        }
        let wait = Duration::try_from_secs_f64(1.0_f64.max(-self.left) / self.per_second);
        self.at?.checked_add(wait.unwrap_or(Duration::MAX))
    }

    fn refill(&mut self, now: Instant) {
        if let Some(at) = self.at {
            let passed = now.saturating_duration_since(at).as_secs_f64();
            self.left = self.burst.min(self.left + passed * self.per_second);
        }
        self.at = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_a_rate() {
        let start = Instant::now();
        let mut allowance = Allowance::new(3, 2.0);
        let granted = |allowance: &mut Allowance, at: Duration| {
            (0..10).filter(|_| allowance.take(start + at)).count()
        };
        assert_eq!(granted(&mut allowance, Duration::ZERO), 3);
        assert_eq!(allowance.refused(), 7);
        assert_eq!(granted(&mut allowance, Duration::from_millis(500)), 1);
        assert_eq!(granted(&mut allowance, Duration::from_millis(600)), 0);
        assert_eq!(granted(&mut allowance, Duration::from_secs(1000)), 3, "no more than a burst");
    }

    #[test]
    fn what_was_used_beyond_it_is_waited_for() {
        let start = Instant::now();
        let mut allowance = Allowance::new(100, 10.0);
        allowance.spend(99, start);
        assert_eq!(allowance.ready_at(), None);
        allowance.spend(51, start);
        assert_eq!(allowance.ready_at(), Some(start + Duration::from_secs(5)));
        allowance.spend(0, start + Duration::from_millis(5100));
        assert_eq!(allowance.ready_at(), None);
    }

    #[test]
    fn refusals_are_told_less_and_less_often() {
        let now = Instant::now();
        let mut allowance = Allowance::new(0, 1.0);
        let told = (0..1000).filter(|_| !allowance.take(now) && allowance.is_worth_telling());
        assert_eq!(told.count(), 10);
    }
}
