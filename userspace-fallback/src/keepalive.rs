//! In-band keepalive: when to send a ping, when to give the peer up.

use std::time::{Duration, Instant};

use ovpn_dco::Keepalive;

/// What is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Due {
    Nothing,
    Ping,
    Expired,
}

/// The two timers. Time is an argument, so that nothing here waits.
#[derive(Debug)]
pub(crate) struct Timers {
    ping: Option<Duration>,
    expire: Option<Duration>,
    sent: Instant,
    received: Instant,
}

impl Timers {
    pub(crate) fn new(keepalive: Keepalive, now: Instant) -> Self {
        let seconds = |n: u32| (n != 0).then(|| Duration::from_secs(n.into()));
        Self {
            ping: seconds(keepalive.interval),
            expire: seconds(keepalive.timeout),
            sent: now,
            received: now,
        }
    }

    pub(crate) fn sent(&mut self, now: Instant) {
        self.sent = now;
    }

    pub(crate) fn received(&mut self, now: Instant) {
        self.received = now;
    }

    pub(crate) fn due(&self, now: Instant) -> Due {
        let passed = |since, limit: Option<Duration>| {
            limit.is_some_and(|limit| now.saturating_duration_since(since) >= limit)
        };
        if passed(self.received, self.expire) {
            Due::Expired
        } else if passed(self.sent, self.ping) {
            Due::Ping
        } else {
            Due::Nothing
        }
    }

    /// When something will be due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let ping = self.ping.map(|ping| self.sent + ping);
        let expire = self.expire.map(|expire| self.received + expire);
        ping.into_iter().chain(expire).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pings_then_expires() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut timers = Timers::new(Keepalive { interval: 10, timeout: 25 }, start);
        assert_eq!(timers.deadline(), Some(at(10)));
        assert_eq!(timers.due(at(9)), Due::Nothing);
        assert_eq!(timers.due(at(10)), Due::Ping);
        timers.sent(at(10));
        assert_eq!(timers.due(at(19)), Due::Nothing);
        timers.sent(at(20));
        assert_eq!(timers.deadline(), Some(at(25)));
        assert_eq!(timers.due(at(25)), Due::Expired);
        timers.received(at(24));
        assert_eq!(timers.due(at(29)), Due::Nothing);
        assert_eq!(timers.deadline(), Some(at(30)));
    }

    #[test]
    fn zero_is_off() {
        let start = Instant::now();
        let timers = Timers::new(Keepalive::default(), start);
        assert_eq!(timers.deadline(), None);
        assert_eq!(timers.due(start + Duration::from_secs(1 << 30)), Due::Nothing);
    }
}
