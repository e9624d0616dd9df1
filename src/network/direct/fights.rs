//! Who insists is let be: parts of a plan that somebody takes away as often as they are put back.
//! Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::super::plan::Item;

/// What goes again so soon after it was put back was taken away on purpose.
const SOON: Duration = Duration::from_secs(3);
/// How often in a row.
const PATIENCE: u32 = 5;
/// How long it is left alone then.
const PEACE: Duration = Duration::from_secs(600);

/// What becomes of a part that has gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    PutBack,
    /// From now on it is left alone. Told once.
    GiveUp,
    LeaveAlone,
}

/// What was put back, and when.
#[derive(Debug, Default)]
pub(super) struct Fights(BTreeMap<Item, Fight>);

#[derive(Debug)]
struct Fight {
    /// How often in a row it went soon.
    lost: u32,
    put_back: Instant,
    /// Until then it is left alone.
    peace: Option<Instant>,
    told: bool,
}

impl Fights {
    /// A part has gone, or could not be put back.
    pub(super) fn gone(&mut self, item: &Item, now: Instant) -> Verdict {
        let new = Fight { lost: 0, put_back: now, peace: None, told: false };
        let Some(fight) = self.0.get_mut(item) else {
            self.0.insert(item.clone(), new);
            return Verdict::PutBack;
        };
        match fight.peace {
            Some(peace) if now < peace => return Verdict::LeaveAlone,
            Some(_) => {
                fight.peace = None;
                fight.lost = 0;
            }
            None => {
                let soon = now.saturating_duration_since(fight.put_back) < SOON;
                fight.lost = if soon { fight.lost + 1 } else { 0 };
            }
        }
        fight.put_back = now;
        if fight.lost < PATIENCE {
            return Verdict::PutBack;
        }
        fight.peace = Some(now + PEACE);
        if std::mem::replace(&mut fight.told, true) { Verdict::LeaveAlone } else { Verdict::GiveUp }
    }

    /// Whether a part is left alone at present.
    pub(super) fn is_left_alone(&self, item: &Item, now: Instant) -> bool {
        self.0.get(item).is_some_and(|fight| fight.peace.is_some_and(|peace| now < peace))
    }

    /// A new connection tries everything again.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::plan::LinkSettings;
    use super::*;

    fn item(mtu: u16) -> Item {
        Item::Link(LinkSettings { mtu, tx_queue_len: None })
    }

    #[test]
    fn who_insists_is_let_be() {
        let (start, part) = (Instant::now(), item(1500));
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut fights = Fights::default();
        for n in 0..5 {
            assert_eq!(fights.gone(&part, at(n * 100)), Verdict::PutBack, "{n}");
        }
        assert_eq!(fights.gone(&part, at(500)), Verdict::GiveUp);
        assert_eq!(fights.gone(&part, at(600)), Verdict::LeaveAlone);
        assert!(fights.is_left_alone(&part, at(700)));
        assert_eq!(fights.gone(&item(1400), at(700)), Verdict::PutBack, "another one");
        // Much later once more, without a word.
        let later = 700_000;
        assert!(!fights.is_left_alone(&part, at(later)));
        for n in 0..5 {
            assert_eq!(fights.gone(&part, at(later + n * 100)), Verdict::PutBack, "{n}");
        }
        assert_eq!(fights.gone(&part, at(later + 500)), Verdict::LeaveAlone);
        fights.forget();
        assert_eq!(fights.gone(&part, at(later + 600)), Verdict::PutBack);
    }

    /// A program that comes by once a minute makes no fight.
    #[test]
    fn now_and_then_is_no_fight() {
        let (start, part) = (Instant::now(), item(1500));
        let mut fights = Fights::default();
        for n in 0..100 {
            let verdict = fights.gone(&part, start + Duration::from_secs(n * 4));
            assert_eq!(verdict, Verdict::PutBack, "{n}");
        }
    }
}
