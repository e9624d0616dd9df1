//! The session's life: one state after the other, until it ends.

use std::time::Duration;

use tokio::sync::mpsc;

use super::SessionConfig;
use super::commands::{Command, Wish};
use super::connected::Connected;
use super::event::{Outcome, SessionEvent};
use super::events::Teller;
use super::negotiating::Negotiating;
use super::over::{Over, follow};
use super::shared::Shared;
use super::tunnel::Tunnel;
use crate::counters::Counter;

/// Where a session stands. What exists in a state is in it, and goes with it into the next.
pub(super) enum State {
    /// Looks for the server.
    Opening(Opening),
    /// Talks with it.
    Negotiating(Box<Negotiating>),
    /// Has a tunnel.
    Connected(Box<Connected>),
    /// Nothing, until the next attempt.
    Waiting(Waiting),
    /// Nothing, until somebody wants to go on.
    Paused(Paused),
    /// Nothing any more.
    Ended(Ended),
}

/// The way to the server's first packet; see `opening`.
pub(super) struct Opening {
    pub(super) kept: Option<Tunnel>,
}

/// Between two attempts.
pub(super) struct Waiting {
    pub(super) delay: Duration,
    pub(super) kept: Option<Tunnel>,
}

/// As somebody asked.
pub(super) struct Paused {
    pub(super) kept: Option<Tunnel>,
}

/// Only the tunnel is still to be removed.
pub(super) struct Ended {
    pub(super) outcome: Outcome,
    pub(super) kept: Option<Tunnel>,
}

/// Runs a session to its end.
pub(super) async fn run(config: SessionConfig, receiver: mpsc::Receiver<Command>, teller: Teller) {
    let outcome = match Shared::new(config, receiver, teller.clone()).await {
        Ok(mut shared) => live(&mut shared).await,
        Err(outcome) => outcome,
    };
    teller.tell(SessionEvent::Ended(outcome));
}

/// What runs a state is on the heap: in one piece the states are more than a thread's stack takes.
async fn live(shared: &mut Shared) -> Outcome {
    let mut state = State::Opening(Opening { kept: None });
    loop {
        state = match state {
            State::Opening(opening) => match Box::pin(opening.run(shared)).await {
                Ok(negotiating) => State::Negotiating(Box::new(negotiating)),
                Err(state) => state,
            },
            State::Negotiating(negotiating) => match Box::pin(negotiating.run(shared)).await {
                Ok(connected) => State::Connected(Box::new(connected)),
                Err(over) => Box::pin(over.next(shared)).await,
            },
            State::Connected(connected) => {
                let over = Box::pin(connected.run(shared)).await;
                Box::pin(over.next(shared)).await
            }
            State::Waiting(waiting) => waiting.run(shared).await,
            State::Paused(paused) => paused.run(shared).await,
            State::Ended(ended) => return ended.clean_up(shared).await,
        }
    }
}

impl Opening {
    async fn run(self, shared: &mut Shared) -> Result<Negotiating, State> {
        if !shared.login.begin() {
            tracing::warn!(
                "another connection needs a login, and the password is not kept (auth-nocache, or good \
                 for one login)"
            );
            let Self { kept } = self;
            return Err(State::Ended(Ended { outcome: Outcome::NeedCredentials, kept }));
        }
        match self.open(shared).await {
            Ok((link, answer_by)) => Ok(Negotiating::new(link, self.kept, answer_by)),
            Err(end) => Err(Over { end, connected: false, kept: self.kept }.next(shared).await),
        }
    }
}

impl Waiting {
    pub(super) async fn run(self, shared: &mut Shared) -> State {
        match Box::pin(shared.pause(self.delay, self.kept.as_ref())).await {
            Ok(()) => State::Opening(Opening { kept: self.kept }),
            Err(wish) => follow(shared, wish, self.kept).await,
        }
    }
}

impl Paused {
    pub(super) async fn run(self, shared: &mut Shared) -> State {
        let Self { kept } = self;
        match shared.commands.wish(&shared.statistics).await {
            Wish::Pause => State::Paused(Self { kept }),
            Wish::Resume | Wish::Restart => {
                shared.statistics.count(Counter::Reconnects);
                State::Opening(Opening { kept })
            }
            Wish::Disconnect => State::Ended(Ended { outcome: Outcome::Disconnected, kept }),
        }
    }
}

impl Ended {
    pub(super) async fn clean_up(self, shared: &mut Shared) -> Outcome {
        if let Some(tunnel) = self.kept {
            shared.release(tunnel).await;
        }
        shared.network.close().await;
        self.outcome
    }
}
