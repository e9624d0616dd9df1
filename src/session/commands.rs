//! Requests to a running session. Every wait of the session goes through here, so that it answers
//! at any time.

use std::collections::VecDeque;

use tokio::sync::{mpsc, oneshot};

use super::stats::Statistics;
use crate::secret::{Credentials, Secret};

/// What a [`super::SessionHandle`] asks.
pub(super) enum Command {
    Pause,
    Resume,
    Restart,
    Disconnect,
    Respond(Secret<String>),
    LogIn(Credentials, bool),
    Sign(u32, Result<Vec<u8>, String>),
    Ping(oneshot::Sender<()>),
    Statistics(oneshot::Sender<Statistics>),
}

/// A request that ends the present attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wish {
    Pause,
    Resume,
    Restart,
    Disconnect,
}

/// A request that is served while the attempt goes on.
pub(super) enum Request {
    Wish(Wish),
    Respond(Secret<String>),
    LogIn(Credentials, bool),
    Sign(u32, Result<Vec<u8>, String>),
    Statistics(oneshot::Sender<Statistics>),
}

/// The receiving end.
pub(super) struct Commands {
    receiver: mpsc::Receiver<Command>,
    /// What came during [`Self::while_busy`].
    postponed: VecDeque<Request>,
    /// Every handle is gone, and the wish that follows from it was told.
    abandoned: bool,
}

impl Commands {
    pub(super) const fn new(receiver: mpsc::Receiver<Command>) -> Self {
        Self { receiver, postponed: VecDeque::new(), abandoned: false }
    }

    /// The next request. Cancel safe. Nobody left to ask is a wish to disconnect.
    pub(super) async fn next(&mut self) -> Request {
        match self.postponed.pop_front() {
            Some(request) => request,
            None => self.receive().await,
        }
    }

    async fn receive(&mut self) -> Request {
        loop {
            return match self.receiver.recv().await {
                Some(Command::Ping(reply)) => {
                    let _ = reply.send(());
                    continue;
                }
                Some(Command::Pause) => Request::Wish(Wish::Pause),
                Some(Command::Resume) => Request::Wish(Wish::Resume),
                Some(Command::Restart) => Request::Wish(Wish::Restart),
                Some(Command::Disconnect) => Request::Wish(Wish::Disconnect),
                None if self.abandoned => std::future::pending().await,
                None => {
                    self.abandoned = true;
                    Request::Wish(Wish::Disconnect)
                }
                Some(Command::Respond(response)) => Request::Respond(response),
                Some(Command::LogIn(credentials, one_time)) => {
                    Request::LogIn(credentials, one_time)
                }
                Some(Command::Sign(id, signature)) => Request::Sign(id, signature),
                Some(Command::Statistics(reply)) => Request::Statistics(reply),
            };
        }
    }

    /// The next wish, while nothing is connected; `statistics` answers who asks meanwhile.
    pub(super) async fn wish(&mut self, statistics: &Statistics) -> Wish {
        loop {
            match self.next().await {
                Request::Wish(wish) => return wish,
                Request::Statistics(reply) => {
                    let _ = reply.send(statistics.clone());
                }
                Request::Respond(_) | Request::LogIn(..) | Request::Sign(..) => {
                    tracing::warn!("an answer came too late: nothing waits for it");
                }
            }
        }
    }

    /// Runs `future` to its end and answers meanwhile; wishes wait until it is over.
    pub(super) async fn while_busy<T>(
        &mut self,
        statistics: &Statistics,
        future: impl Future<Output = T>,
    ) -> T {
        tokio::pin!(future);
        loop {
            tokio::select! {
                result = &mut future => return result,
                request = self.receive() => match request {
                    Request::Statistics(reply) => {
                        let _ = reply.send(statistics.clone());
                    }
                    request => self.postponed.push_back(request),
                }
            }
        }
    }

    /// Runs `future`, unless a wish comes first, which waits for its turn: `None`. Answers
    /// meanwhile.
    pub(super) async fn unless_wished<T>(
        &mut self,
        statistics: &Statistics,
        future: impl Future<Output = T>,
    ) -> Option<T> {
        tokio::pin!(future);
        loop {
            let wished = self
                .postponed
                .iter()
                .any(|request| matches!(request, Request::Wish(wish) if *wish != Wish::Resume));
            tokio::select! {
                biased;
                result = &mut future => return Some(result),
                () = std::future::ready(()), if wished => return None,
                request = self.receive() => match request {
                    Request::Statistics(reply) => {
                        let _ = reply.send(statistics.clone());
                    }
                    request => self.postponed.push_back(request),
                }
            }
        }
    }

    /// Runs `future`, unless a wish comes first. A resume without a pause is no wish.
    pub(super) async fn or_wish<T>(
        &mut self,
        statistics: &Statistics,
        future: impl Future<Output = T>,
    ) -> Result<T, Wish> {
        tokio::pin!(future);
        loop {
            tokio::select! {
                result = &mut future => return Ok(result),
                wish = self.wish(statistics) => {
                    if wish != Wish::Resume {
                        return Err(wish);
                    }
                }
            }
        }
    }
}
