//! Which data key is in which slot. Pure: says what to do, the tunnel does it.

use ovpn_dco::{KeyId, KeySlot};

/// What to do with the data channel's slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum KeyStep {
    /// Install the key in this slot.
    Install(KeySlot),
    /// Exchange the slots.
    Swap,
    /// Empty this slot.
    Delete(KeySlot),
    /// Nothing: it is so already.
    Nothing,
    /// The key is in no slot although it should be.
    Mismatch,
}

/// The key ids in the two slots.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KeySlots {
    primary: Option<KeyId>,
    secondary: Option<KeyId>,
}

impl KeySlots {
    /// Whether the primary slot has a key.
    pub(super) const fn can_send(&self) -> bool {
        self.primary.is_some()
    }

    /// A new key: it sends at once if no other can, else it waits to be promoted.
    pub(super) fn add(&mut self, key: KeyId) -> KeyStep {
        let slot = match self.primary {
            Some(primary) if primary != key => KeySlot::Secondary,
            Some(_) | None => KeySlot::Primary,
        };
        match slot {
            KeySlot::Primary => self.primary = Some(key),
            KeySlot::Secondary => self.secondary = Some(key),
        }
        KeyStep::Install(slot)
    }

    /// Send with this key from now on.
    pub(super) fn promote(&mut self, key: KeyId) -> KeyStep {
        match (self.primary, self.secondary) {
            (_, Some(secondary)) if secondary == key => {
                std::mem::swap(&mut self.primary, &mut self.secondary);
                KeyStep::Swap
            }
            (Some(primary), _) if primary == key => KeyStep::Nothing,
            // A new peer: the key was the old one's, and another is on its way.
            (None, None) => KeyStep::Nothing,
            _ => KeyStep::Mismatch,
        }
    }

    /// This key is no longer needed.
    pub(super) fn retire(&mut self, key: KeyId) -> KeyStep {
        if self.secondary == Some(key) {
            self.secondary = None;
            KeyStep::Delete(KeySlot::Secondary)
        } else if self.primary == Some(key) {
            self.primary = None;
            KeyStep::Delete(KeySlot::Primary)
        } else {
            KeyStep::Nothing
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renegotiation() {
        let id = |n| KeyId::new(n).unwrap();
        let mut slots = KeySlots::default();
        assert_eq!(slots.add(id(0)), KeyStep::Install(KeySlot::Primary));
        assert_eq!(slots.promote(id(0)), KeyStep::Nothing);
        assert_eq!(slots.add(id(1)), KeyStep::Install(KeySlot::Secondary));
        assert_eq!(slots.promote(id(1)), KeyStep::Swap);
        assert_eq!(slots.retire(id(0)), KeyStep::Delete(KeySlot::Secondary));
        assert_eq!(slots.retire(id(0)), KeyStep::Nothing);
        // The only key goes: nothing can be sent, and the next key sends at once.
        assert_eq!(slots.retire(id(1)), KeyStep::Delete(KeySlot::Primary));
        assert_eq!(slots.add(id(2)), KeyStep::Install(KeySlot::Primary));
    }

    #[test]
    fn a_key_that_was_never_promoted_is_replaced() {
        let id = |n| KeyId::new(n).unwrap();
        let mut slots = KeySlots::default();
        slots.add(id(0));
        slots.add(id(1));
        assert_eq!(slots.add(id(2)), KeyStep::Install(KeySlot::Secondary));
        assert_eq!(slots.retire(id(1)), KeyStep::Nothing);
        assert_eq!(slots.promote(id(2)), KeyStep::Swap);
    }

    #[test]
    fn a_key_that_is_nowhere_cannot_be_promoted() {
        let id = |n| KeyId::new(n).unwrap();
        let mut slots = KeySlots::default();
        assert_eq!(slots.promote(id(1)), KeyStep::Nothing, "it went with its peer");
        slots.add(id(0));
        assert_eq!(slots.promote(id(1)), KeyStep::Mismatch);
        slots.add(id(2));
        assert_eq!(slots.promote(id(1)), KeyStep::Mismatch);
        assert_eq!(slots.promote(id(0)), KeyStep::Nothing);
    }
}
