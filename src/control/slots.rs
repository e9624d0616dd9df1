//! Which data key sends, which only receives, and for how long: the life of keys in two slots.
//!
//! Rules: OpenVPN 2 `ssl.c`. The old key goes on sending for a while, so that the peer has
//! certainly derived the new one; then they swap; the old key receives until `tran-window` ends.

use std::time::{Duration, Instant};

use ovpn_dco::KeyId;

/// What the data plane has to do, in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SlotChange {
    /// Swap: this key sends from now on.
    Promote(KeyId),
    /// Delete this key, which only received.
    Retire(KeyId),
}

/// The two slots.
#[derive(Debug, Default)]
pub(super) struct KeySlots {
    primary: Option<KeyId>,
    secondary: Option<Secondary>,
}

#[derive(Clone, Copy, Debug)]
struct Secondary {
    key_id: KeyId,
    role: Role,
}

#[derive(Clone, Copy, Debug)]
enum Role {
    /// Newer than the primary key.
    Next { promote_at: Instant, started: Instant },
    /// Older than the primary key.
    Old { retire_at: Instant },
}

impl KeySlots {
    /// Makes room for a new key, which enters the secondary slot (the primary if it is the first).
    /// Its negotiation started at `started`; it takes over `defer` later.
    pub(super) fn install(
        &mut self,
        key_id: KeyId,
        started: Instant,
        defer: Duration,
    ) -> Vec<SlotChange> {
        let Some(primary) = self.primary else {
            self.primary = Some(key_id);
            return Vec::new();
        };
        let changes = match self.secondary {
            None => Vec::new(),
            Some(Secondary { key_id: old, role: Role::Old { .. } }) => {
                vec![SlotChange::Retire(old)]
            }
            // Only two slots: the key that never got its turn takes over now.
            Some(Secondary { key_id: next, role: Role::Next { .. } }) => {
                self.primary = Some(next);
                vec![SlotChange::Promote(next), SlotChange::Retire(primary)]
            }
        };
        let role = Role::Next { promote_at: started + defer, started };
        self.secondary = Some(Secondary { key_id, role });
        changes
    }

    /// What is due at `now`. An old key may receive for `transition` after the negotiation of its
    /// successor started.
    pub(super) fn due(&mut self, now: Instant, transition: Duration) -> Option<SlotChange> {
        let secondary = self.secondary?;
        match secondary.role {
            Role::Next { promote_at, .. } if promote_at <= now => self.promote_next(transition),
            Role::Old { retire_at } if retire_at <= now => {
                self.secondary = None;
                Some(SlotChange::Retire(secondary.key_id))
            }
            Role::Next { .. } | Role::Old { .. } => None,
        }
    }

    /// Has a key that waits for its turn take over no sooner than this long after its negotiation
    /// started.
    pub(super) fn defer_next(&mut self, least: Duration) {
        if let Some(Secondary { role: Role::Next { promote_at, started }, .. }) =
            &mut self.secondary
            && let Some(at) = started.checked_add(least)
        {
            *promote_at = at.max(*promote_at);
        }
    }

    /// Lets a key that waits for its turn take over now.
    pub(super) fn promote_next(&mut self, transition: Duration) -> Option<SlotChange> {
        let Some(Secondary { key_id, role: Role::Next { started, .. } }) = self.secondary else {
            return None;
        };
        let old = self.primary.replace(key_id);
        let role = Role::Old { retire_at: started + transition };
        self.secondary = old.map(|key_id| Secondary { key_id, role });
        Some(SlotChange::Promote(key_id))
    }

    /// When [`Self::due`] has something next.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.secondary.map(|s| match s.role {
            Role::Next { promote_at, .. } => promote_at,
            Role::Old { retire_at } => retire_at,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFER: Duration = Duration::from_secs(60);
    const TRANSITION: Duration = Duration::from_secs(3600);

    fn key(id: u8) -> KeyId {
        KeyId::new(id).unwrap()
    }

    #[test]
    fn promote_then_retire() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut slots = KeySlots::default();
        assert_eq!(slots.install(key(0), start, DEFER), []);
        assert_eq!(slots.deadline(), None);
        assert_eq!(slots.install(key(1), at(100), DEFER), []);
        assert_eq!(slots.deadline(), Some(at(160)));
        assert_eq!(slots.due(at(159), TRANSITION), None);
        assert_eq!(slots.due(at(160), TRANSITION), Some(SlotChange::Promote(key(1))));
        assert_eq!(slots.due(at(160), TRANSITION), None);
        assert_eq!(slots.deadline(), Some(at(3700)));
        assert_eq!(slots.due(at(3700), TRANSITION), Some(SlotChange::Retire(key(0))));
        assert_eq!(slots.deadline(), None);
    }

    #[test]
    fn a_key_that_the_server_does_not_take_yet_waits_longer() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut slots = KeySlots::default();
        slots.defer_next(DEFER);
        slots.install(key(0), start, DEFER);
        slots.defer_next(DEFER);
        assert_eq!(slots.deadline(), None);
        slots.install(key(1), at(100), DEFER);
        slots.defer_next(Duration::from_secs(300));
        assert_eq!(slots.deadline(), Some(at(400)));
        slots.defer_next(Duration::from_secs(30));
        assert_eq!(slots.deadline(), Some(at(400)), "never sooner");
        slots.defer_next(Duration::MAX);
        assert_eq!(slots.due(at(400), TRANSITION), Some(SlotChange::Promote(key(1))));
        slots.defer_next(DEFER);
        assert_eq!(slots.deadline(), Some(at(3700)), "it sends already");
    }

    #[test]
    fn two_slots_only() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut slots = KeySlots::default();
        slots.install(key(0), start, DEFER);
        slots.install(key(1), at(10), DEFER);
        assert_eq!(
            slots.install(key(2), at(20), DEFER),
            [SlotChange::Promote(key(1)), SlotChange::Retire(key(0))]
        );
        assert_eq!(slots.due(at(80), TRANSITION), Some(SlotChange::Promote(key(2))));
        assert_eq!(slots.install(key(3), at(90), DEFER), [SlotChange::Retire(key(1))]);
    }
}
