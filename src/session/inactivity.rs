//! `inactive`: whether the tunnel was used. Pure.

use std::time::Instant;

use crate::counters::{Counter, Counters};
use crate::profile::Inactive;

/// Length of a keepalive inside the tunnel, of which `ovpn-dco-v2` counts each.
const KEEPALIVE: u64 = 16;

/// Bytes that applications moved through the tunnel, from a session's totals: they never go down,
/// whatever becomes of the peer. `with_keepalives`: they are among what was counted.
pub(super) fn traffic(totals: &Counters, with_keepalives: bool) -> u64 {
    let bytes = totals.get(Counter::TunBytesIn).saturating_add(totals.get(Counter::TunBytesOut));
    if !with_keepalives {
        return bytes;
    }
    // How many packets were keepalives, nobody knows. No IP packet is that short, so what is left
    // is zero for keepalives alone, and close to the truth for packets worth mentioning.
    let packets =
        totals.get(Counter::TunPacketsIn).saturating_add(totals.get(Counter::TunPacketsOut));
    bytes.saturating_sub(packets.saturating_mul(KEEPALIVE))
}

/// Watches for too little [`traffic`].
pub(super) struct Inactivity {
    rule: Inactive,
    since: Instant,
    seen: u64,
}

impl Inactivity {
    pub(super) const fn new(rule: Inactive, now: Instant, traffic: u64) -> Self {
        Self { rule, since: now, seen: traffic }
    }

    /// When to look next.
    pub(super) fn deadline(&self) -> Instant {
        self.since + self.rule.after
    }

    /// Whether there was too little since the last look; to be asked at the deadline.
    pub(super) fn is_idle(&mut self, now: Instant, traffic: u64) -> bool {
        let moved = traffic.saturating_sub(self.seen);
        self.seen = traffic;
        self.since = now;
        moved < self.rule.bytes.max(1)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn totals(packets: u64, bytes: u64) -> Counters {
        let mut totals = Counters::default();
        totals.add(Counter::TunPacketsIn, packets);
        totals.add(Counter::TunBytesIn, bytes);
        totals
    }

    #[test]
    fn each_period_needs_its_own_traffic() {
        let start = Instant::now();
        let after = Duration::from_secs(60);
        let mut watch = Inactivity::new(Inactive { after, bytes: 100 }, start, 5000);
        assert_eq!(watch.deadline(), start + after);
        assert!(!watch.is_idle(start + after, 5100));
        assert_eq!(watch.deadline(), start + 2 * after);
        assert!(watch.is_idle(start + 2 * after, 5199));
    }

    #[test]
    fn keepalives_are_no_traffic() {
        assert_eq!(traffic(&totals(3, 48), true), 0);
        assert_eq!(traffic(&totals(4, 48 + 84), true), 84 - 16);
        assert_eq!(traffic(&totals(1, 84), false), 84);
    }
}
