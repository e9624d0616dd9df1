//! A peer's two key slots: which key sends, which other one still opens.
//!
//! Every data channel keeps account of its keys with [`Slots`], so that all of them answer
//! [`crate::DataChannel::install`] and its like by one rule. Pure.

use crate::error::Error;
use crate::types::{KeyId, KeySlot};

/// At most two keys of a peer, with what there is to keep with each. No id is there twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slots<K> {
    primary: Option<(KeyId, K)>,
    secondary: Option<(KeyId, K)>,
}

impl<K> Default for Slots<K> {
    fn default() -> Self {
        Self { primary: None, secondary: None }
    }
}

impl<K> Slots<K> {
    /// Where a new key goes: to the primary slot in place of its namesake, or if nothing sends; else
    /// it waits in the secondary slot.
    pub fn place_for(&self, id: KeyId) -> KeySlot {
        match &self.primary {
            Some((primary, _)) if *primary != id => KeySlot::Secondary,
            Some(_) | None => KeySlot::Primary,
        }
    }

    /// Puts a key to its [place](Self::place_for); what was there is gone.
    pub fn install(&mut self, id: KeyId, key: K) {
        let (slot, other) = match self.place_for(id) {
            KeySlot::Primary => (&mut self.primary, &mut self.secondary),
            KeySlot::Secondary => (&mut self.secondary, &mut self.primary),
        };
        other.take_if(|(namesake, _)| *namesake == id);
        *slot = Some((id, key));
    }

    /// Whether this key must change places with the primary one to send.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchKey`] if it is in neither slot.
    pub fn waits(&self, id: KeyId) -> Result<bool, Error> {
        match self.find(id) {
            Some(KeySlot::Primary) => Ok(false),
            Some(KeySlot::Secondary) => Ok(true),
            None => Err(Error::NoSuchKey(id)),
        }
    }

    /// Lets a key send from now on; the one that did goes on opening.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchKey`] if it is in neither slot; nothing has changed then.
    pub fn promote(&mut self, id: KeyId) -> Result<(), Error> {
        if self.waits(id)? {
            std::mem::swap(&mut self.primary, &mut self.secondary);
        }
        Ok(())
    }

    /// Takes a key away, and tells from where.
    pub fn retire(&mut self, id: KeyId) -> Option<KeySlot> {
        let slot = self.find(id)?;
        match slot {
            KeySlot::Primary => self.primary = None,
            KeySlot::Secondary => self.secondary = None,
        }
        Some(slot)
    }

    /// Where a key is.
    pub fn find(&self, id: KeyId) -> Option<KeySlot> {
        match (&self.primary, &self.secondary) {
            (Some((primary, _)), _) if *primary == id => Some(KeySlot::Primary),
            (_, Some((secondary, _))) if *secondary == id => Some(KeySlot::Secondary),
            _ => None,
        }
    }

    /// The key that sends.
    pub fn sending(&self) -> Option<KeyId> {
        self.primary.as_ref().map(|(id, _)| *id)
    }

    /// The key that only opens.
    pub fn opening(&self) -> Option<KeyId> {
        self.secondary.as_ref().map(|(id, _)| *id)
    }

    /// The key that sends, with what is kept with it.
    #[inline]
    pub fn sending_ref(&self) -> Option<(KeyId, &K)> {
        self.primary.as_ref().map(|(id, key)| (*id, key))
    }

    /// The same, to be changed.
    #[inline]
    pub fn sending_mut(&mut self) -> Option<(KeyId, &mut K)> {
        self.primary.as_mut().map(|(id, key)| (*id, key))
    }

    /// What is kept with a key.
    #[inline]
    pub fn get_mut(&mut self, id: KeyId) -> Option<&mut K> {
        self.iter_mut().find(|(other, _)| *other == id).map(|(_, key)| key)
    }

    /// The keys, the one that sends first.
    #[inline]
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (KeyId, &mut K)> {
        [&mut self.primary, &mut self.secondary].into_iter().flatten().map(|(id, key)| (*id, key))
    }

    /// The ids alone.
    pub fn ids(&self) -> Slots<()> {
        let id = |slot: &Option<(KeyId, K)>| slot.as_ref().map(|(id, _)| (*id, ()));
        Slots { primary: id(&self.primary), secondary: id(&self.secondary) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(n: u8) -> KeyId {
        KeyId::new(n).unwrap()
    }

    fn places(slots: &Slots<u32>) -> [Option<u8>; 2] {
        [slots.sending(), slots.opening()].map(|key| key.map(KeyId::get))
    }

    #[test]
    fn a_renegotiation() {
        let mut slots = Slots::default();
        slots.install(id(0), 0);
        slots.promote(id(0)).unwrap();
        slots.install(id(1), 1);
        assert_eq!(places(&slots), [Some(0), Some(1)]);
        slots.promote(id(1)).unwrap();
        assert_eq!(places(&slots), [Some(1), Some(0)]);
        assert_eq!(slots.retire(id(0)), Some(KeySlot::Secondary));
        assert_eq!(slots.retire(id(0)), None);
        // The only key goes: nothing can be sent, and the next key sends at once.
        assert_eq!(slots.retire(id(1)), Some(KeySlot::Primary));
        slots.install(id(2), 2);
        assert_eq!(places(&slots), [Some(2), None]);
    }

    #[test]
    fn a_key_that_was_never_promoted_is_replaced() {
        let mut slots = Slots::default();
        for n in 0..3 {
            slots.install(id(n), 0);
        }
        assert_eq!(places(&slots), [Some(0), Some(2)]);
        assert!(matches!(slots.promote(id(1)), Err(Error::NoSuchKey(key)) if key == id(1)));
        assert_eq!(places(&slots), [Some(0), Some(2)], "as before");
    }

    proptest! {
        /// Any sequence of operations beside the plainest account of them: the list of keys, the one
        /// that sends in front.
        #[test]
        fn like_a_list(steps in proptest::collection::vec((0u8..3, 0u8..8), 1..60)) {
            let mut slots = Slots::default();
            let mut list: [Option<(u8, u32)>; 2] = [None, None];
            for (number, (operation, n)) in steps.into_iter().enumerate() {
                let holds = |place: Option<(u8, u32)>| place.is_some_and(|(key, _)| key == n);
                match operation {
                    0 => {
                        slots.install(id(n), number as u32);
                        let at = usize::from(list[0].is_some() && !holds(list[0]));
                        list = list.map(|place| place.filter(|(key, _)| *key != n));
                        list[at] = Some((n, number as u32));
                    }
                    1 => {
                        let there = holds(list[0]) || holds(list[1]);
                        prop_assert_eq!(slots.promote(id(n)).is_ok(), there);
                        if holds(list[1]) {
                            list.swap(0, 1);
                        }
                    }
                    _ => {
                        let at = list.into_iter().position(holds);
                        let slot = at.map(|at| [KeySlot::Primary, KeySlot::Secondary][at]);
                        prop_assert_eq!(slots.retire(id(n)), slot);
                        if let Some(at) = at {
                            list[at] = None;
                        }
                    }
                }
                prop_assert_eq!(places(&slots), list.map(|place| place.map(|(key, _)| key)));
                let kept: Vec<_> = slots.iter_mut().map(|(key, kept)| (key.get(), *kept)).collect();
                let expected: Vec<_> = list.into_iter().flatten().collect();
                prop_assert_eq!(kept, expected);
                for (key, kept) in list.into_iter().flatten() {
                    prop_assert_eq!(slots.get_mut(id(key)).copied(), Some(kept));
                }
            }
        }
    }
}
