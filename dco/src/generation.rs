//! Which peer an event is about.

use crate::data_channel::DataEvent;

/// Numbers the peers that a data channel has one after the other, so that what an earlier one's
/// data path tells late is never taken for the present one's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Generation(u64);

impl Generation {
    /// The peer's that follows, or that of no peer: what was told of those before counts no longer.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }

    /// Marks an event as this peer's.
    pub const fn tells(self, event: DataEvent) -> Told {
        Told { about: self, event }
    }
}

/// An event on its way to whoever waits for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Told {
    about: Generation,
    event: DataEvent,
}

impl Told {
    /// The event, if it is about the present peer. The end of the data path itself always is.
    pub fn about(self, present: Generation) -> Option<DataEvent> {
        let counts = self.about == present || matches!(self.event, DataEvent::Failed(_));
        counts.then_some(self.event)
    }
}
