//! Commands to a running session. Every wait of the session goes through here, so that it answers
//! at any time.

use std::collections::VecDeque;

use tokio::sync::{mpsc, oneshot};

use crate::counters::Counters;
use crate::secret::{Credentials, Secret};

/// What a running session can be told.
#[derive(Debug)]
pub enum Command {
    /// To change what it does.
    Wish(Wish),
    /// Answers a pending `CR_TEXT` challenge.
    Respond(Secret<String>),
    /// Answers a [`super::SessionEvent::CredentialsNeeded`].
    LogIn {
        /// User name and password.
        credentials: Credentials,
        /// See [`super::SessionConfig::one_time_password`].
        one_time: bool,
    },
    /// Answers a [`super::SessionEvent::Sign`].
    Sign {
        /// The request's.
        id: u32,
        /// ECDSA: DER, or `r || s` as PKCS#11 has it. Or why there is none.
        signature: Result<Vec<u8>, NoSignature>,
    },
    /// Asks for the counters since the session started, over all reconnects. A session that is over
    /// does not answer.
    Statistics(oneshot::Sender<Counters>),
    /// Answered at once, as long as the session's own event loop runs.
    Ping(oneshot::Sender<()>),
}

/// Why there is no signature.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoSignature {
    /// Whoever has the key refuses, in these words.
    #[error("{0}")]
    Refused(String),
    /// What came is none.
    #[error("the signature is not base64: {0}")]
    Encoding(#[from] base64::DecodeError),
}

impl Command {
    /// Answers a question; gives everything else back.
    fn unanswered(self, statistics: &Counters) -> Option<Self> {
        // Whoever does not wait any more needs no answer.
        match self {
            Self::Statistics(reply) => drop(reply.send(statistics.clone())),
            Self::Ping(reply) => drop(reply.send(())),
            other => return Some(other),
        }
        None
    }
}

/// What somebody wants a session to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wish {
    /// Close the sockets and wait; [`super::SessionState::Paused`] follows.
    Pause,
    /// Connect again after a pause.
    Resume,
    /// Drop the connection and connect again at once (also from a pause).
    Restart,
    /// End; [`super::SessionEvent::Ended`] follows, usually within a fraction of a second.
    Disconnect,
}

impl From<Wish> for Command {
    fn from(wish: Wish) -> Self {
        Self::Wish(wish)
    }
}

/// The receiving end.
pub(super) struct Commands {
    receiver: mpsc::Receiver<Command>,
    /// What came during [`Self::while_busy`].
    postponed: VecDeque<Command>,
    /// Every handle is gone, and the wish that follows from it was told.
    abandoned: bool,
}

impl Commands {
    pub(super) const fn new(receiver: mpsc::Receiver<Command>) -> Self {
        Self { receiver, postponed: VecDeque::new(), abandoned: false }
    }

    /// The next one. Cancel safe. Nobody left to ask is a wish to disconnect.
    pub(super) async fn next(&mut self) -> Command {
        match self.postponed.pop_front() {
            Some(command) => command,
            None => self.receive().await,
        }
    }

    async fn receive(&mut self) -> Command {
        match self.receiver.recv().await {
            Some(command) => command,
            None if self.abandoned => std::future::pending().await,
            None => {
                self.abandoned = true;
                Wish::Disconnect.into()
            }
        }
    }

    /// The next wish, while nothing is connected; `statistics` answers who asks meanwhile.
    pub(super) async fn wish(&mut self, statistics: &Counters) -> Wish {
        loop {
            match self.next().await.unanswered(statistics) {
                None => {}
                Some(Command::Wish(wish)) => return wish,
                Some(_) => tracing::warn!("an answer came too late: nothing waits for it"),
            }
        }
    }

    /// Runs `future` to its end and answers meanwhile; wishes wait until it is over.
    pub(super) async fn while_busy<T>(
        &mut self,
        statistics: &Counters,
        future: impl Future<Output = T>,
    ) -> T {
        tokio::pin!(future);
        loop {
            tokio::select! {
                result = &mut future => return result,
                command = self.receive() => self.postponed.extend(command.unanswered(statistics)),
            }
        }
    }

    /// Runs `future`, unless a wish comes first, which waits for its turn: `None`. Answers
    /// meanwhile.
    pub(super) async fn unless_wished<T>(
        &mut self,
        statistics: &Counters,
        future: impl Future<Output = T>,
    ) -> Option<T> {
        tokio::pin!(future);
        loop {
            let wished = self
                .postponed
                .iter()
                .any(|command| matches!(command, Command::Wish(wish) if *wish != Wish::Resume));
            tokio::select! {
                biased;
                result = &mut future => return Some(result),
                () = std::future::ready(()), if wished => return None,
                command = self.receive() => self.postponed.extend(command.unanswered(statistics)),
            }
        }
    }

    /// Runs `future`, unless a wish comes first. A resume without a pause is no wish.
    pub(super) async fn or_wish<T>(
        &mut self,
        statistics: &Counters,
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
