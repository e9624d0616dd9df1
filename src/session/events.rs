//! The way from a session to whoever runs it: bounded, and a reader that is stuck holds nothing up.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use super::event::{SessionEvent, SessionState};

/// Events that wait to be taken. What a server can bring about is slower than any reader, and so are
/// the steps of an attempt.
const LIMIT: usize = 256;

/// A way for events.
pub fn events() -> (Teller, Events) {
    let queue = Arc::new(Mutex::new(Queue::default()));
    let (bell, rung) = mpsc::channel(1);
    (Teller { queue: Arc::clone(&queue), bell }, Events { queue, rung })
}

/// The session's end.
#[derive(Clone, Debug)]
pub struct Teller {
    queue: Arc<Mutex<Queue>>,
    bell: mpsc::Sender<()>,
}

/// The other end. Of more than 256 events that nobody has taken the oldest are lost, but never the
/// last state, the last [`SessionState::Connected`], and [`SessionEvent::Ended`].
#[derive(Debug)]
pub struct Events {
    queue: Arc<Mutex<Queue>>,
    rung: mpsc::Receiver<()>,
}

impl Teller {
    /// Never waits. Nothing follows [`SessionEvent::Ended`].
    pub fn tell(&self, event: SessionEvent) {
        if self.bell.is_closed() {
            return;
        }
        if lock(&self.queue).push(event) {
            tracing::warn!("nobody takes what the session tells: the oldest of it is left out");
        }
        // One that is full has been rung already.
        let _ = self.bell.try_send(());
    }

    /// Whether [`SessionEvent::Ended`] has been told.
    pub fn has_ended(&self) -> bool {
        lock(&self.queue).ended
    }
}

impl Events {
    /// The next event; `None` once every [`Teller`] is gone. Cancel safe.
    pub async fn recv(&mut self) -> Option<SessionEvent> {
        loop {
            if let Some(event) = self.try_recv() {
                return Some(event);
            }
            if self.rung.recv().await.is_none() {
                return self.try_recv();
            }
        }
    }

    /// The next event, if there is one now.
    pub fn try_recv(&mut self) -> Option<SessionEvent> {
        lock(&self.queue).pop()
    }
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<SessionEvent>,
    ended: bool,
    /// Something has been lost since the queue was empty.
    lossy: bool,
}

impl Queue {
    /// True if something is lost by it, for the first time since the queue was empty.
    fn push(&mut self, event: SessionEvent) -> bool {
        if self.ended {
            return false;
        }
        self.ended = matches!(event, SessionEvent::Ended(_));
        self.events.push_back(event);
        self.events.len() > LIMIT && self.drop_oldest() && !std::mem::replace(&mut self.lossy, true)
    }

    fn pop(&mut self) -> Option<SessionEvent> {
        let event = self.events.pop_front();
        self.lossy &= !self.events.is_empty();
        event
    }

    /// Of all that must stay there are three at most.
    fn drop_oldest(&mut self) -> bool {
        let last = |wanted: fn(&SessionEvent) -> bool| self.events.iter().rposition(wanted);
        let stay = [
            last(|event| matches!(event, SessionEvent::State(_))),
            last(|event| matches!(event, SessionEvent::State(SessionState::Connected(_)))),
            last(|event| matches!(event, SessionEvent::Ended(_))),
        ];
        let oldest = (0..self.events.len()).find(|index| !stay.contains(&Some(*index)));
        oldest.and_then(|index| self.events.remove(index)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::session::Outcome;
    use crate::session::tests::info;

    fn any_event() -> impl Strategy<Value = SessionEvent> {
        prop_oneof![
            4 => any::<u16>().prop_map(|n| SessionEvent::Info(n.to_string())),
            4 => Just(()).prop_map(|()| SessionEvent::CredentialsNeeded),
            2 => Just(()).prop_map(|()| SessionEvent::State(SessionState::Authenticating)),
            2 => any::<u16>().prop_map(|n| {
                SessionEvent::State(SessionState::Reconnecting { reason: n.to_string() })
            }),
            1 => any::<u16>().prop_map(|mtu| SessionEvent::State(SessionState::Connected(info(mtu)))),
        ]
    }

    /// What must be there in the end, in words: an event is no value that can be compared.
    fn last(events: &[SessionEvent]) -> [Option<String>; 3] {
        let last = |wanted: fn(&SessionEvent) -> bool| {
            events.iter().rev().find(|event| wanted(event)).map(|event| format!("{event:?}"))
        };
        [
            last(|event| matches!(event, SessionEvent::State(_))),
            last(|event| matches!(event, SessionEvent::State(SessionState::Connected(_)))),
            last(|event| matches!(event, SessionEvent::Ended(_))),
        ]
    }

    fn in_words(events: &[SessionEvent]) -> Vec<String> {
        events.iter().map(|event| format!("{event:?}")).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever is told to a reader that is stuck: it is bounded, in order, and what matters is
        /// there.
        #[test]
        fn what_matters_is_never_lost(
            told in prop::collection::vec(any_event(), 0..3 * LIMIT),
            ends in any::<bool>(),
        ) {
            let (teller, mut events) = events();
            let mut told = told;
            if ends {
                told.push(SessionEvent::Ended(Outcome::Disconnected));
            }
            let (expected, all) = (last(&told), in_words(&told));
            for event in told {
                teller.tell(event);
            }
            // After the end nothing is told.
            if ends {
                teller.tell(SessionEvent::CredentialsNeeded);
            }
            prop_assert_eq!(teller.has_ended(), ends);
            let taken: Vec<_> = std::iter::from_fn(|| events.try_recv()).collect();
            prop_assert_eq!(taken.len(), all.len().min(LIMIT));
            prop_assert_eq!(last(&taken), expected);
            let mut rest = all.iter();
            let taken = in_words(&taken);
            prop_assert!(taken.iter().all(|event| rest.any(|told| told == event)), "in order");
        }
    }

    #[tokio::test]
    async fn the_end_of_the_session_is_the_end_of_its_events() {
        let (teller, mut events) = events();
        let clone = teller.clone();
        drop(teller);
        clone.tell(SessionEvent::CredentialsNeeded);
        drop(clone);
        assert!(matches!(events.recv().await, Some(SessionEvent::CredentialsNeeded)));
        assert!(events.recv().await.is_none());
    }
}
