//! How much of what a server says to the user is passed on. It may say things as fast as the
//! network carries them; whoever passes them on, and whoever reads them, cannot keep up with that.

use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use crate::session::SessionEvent;

/// Texts for the log.
const TEXTS: (u32, Duration) = (20, Duration::from_secs(1));
/// Questions and addresses to open. A person answers one at a time.
const QUESTIONS: (u32, Duration) = (5, Duration::from_secs(10));

/// So many at once, then one per interval.
#[derive(Debug)]
struct Allowance {
    burst: u32,
    interval: Duration,
    left: u32,
    since: Instant,
    refused: u64,
}

impl Allowance {
    const fn new((burst, interval): (u32, Duration), now: Instant) -> Self {
        Self { burst, interval, left: burst, since: now, refused: 0 }
    }

    fn take(&mut self, now: Instant) -> bool {
        while self.left < self.burst && now.duration_since(self.since) >= self.interval {
            self.left += 1;
            self.since += self.interval;
        }
        if self.left == self.burst {
            self.since = now;
        }
        let admitted = self.left > 0;
        if admitted {
            self.left -= 1;
            self.refused = 0;
        } else {
            self.refused += 1;
        }
        admitted
    }
}

/// The allowances of one session.
#[derive(Debug)]
pub(super) struct Allowances {
    texts: Allowance,
    questions: Allowance,
}

impl Allowances {
    pub(super) const fn new(now: Instant) -> Self {
        Self { texts: Allowance::new(TEXTS, now), questions: Allowance::new(QUESTIONS, now) }
    }

    /// Whether an event is passed on. What is left out is told once each time it begins.
    pub(super) fn admit(&mut self, event: &SessionEvent, now: Instant) -> bool {
        let (allowance, what) = match event {
            SessionEvent::Info(_) => (&mut self.texts, "messages"),
            SessionEvent::PendingAuth(_) => (&mut self.questions, "authentication requests"),
            SessionEvent::State(_)
            | SessionEvent::CredentialsNeeded
            | SessionEvent::Sign(_)
            | SessionEvent::Ended(_) => return true,
        };
        let admitted = allowance.take(now);
        if allowance.refused == 1 {
            warn!("The server sends more {what} than anybody can read; some are left out");
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::SessionState;

    #[tokio::test]
    async fn a_flood_of_texts_becomes_a_trickle_and_states_pass() {
        let start = Instant::now();
        let mut allowances = Allowances::new(start);
        let text = SessionEvent::Info("buy!".to_owned());
        let mut admitted = 0;
        for tick in 0..10_000_u32 {
            let now = start + Duration::from_millis(1) * tick;
            admitted += u32::from(allowances.admit(&text, now));
            assert!(allowances.admit(&SessionEvent::State(SessionState::Paused), now));
        }
        assert_eq!(admitted, 20 + 9);
        // Silence earns a new burst, and no more.
        let later = start + Duration::from_secs(3600);
        let again = (0..100).filter(|_| allowances.admit(&text, later)).count();
        assert_eq!(again, 20);
    }
}
