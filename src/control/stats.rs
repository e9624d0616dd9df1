//! Counters of a control channel.

use crate::counters::Counter;

/// Errors that a control channel counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorCounter {
    /// A packet that is no control packet, or not of this connection.
    ControlChannel,
    /// Wrapping: authentication failed.
    Hmac,
    /// Wrapping: not new.
    Replay,
    /// A packet for a key that is not there.
    KeyState,
    /// A negotiation ran out of time.
    HandshakeTimeout,
    /// TLS failed.
    Ssl,
    /// The server's early negotiation data is malformed.
    EarlyNegotiation,
    /// A packet could not be wrapped.
    Encapsulation,
}

impl ErrorCounter {
    /// All of them, in the order of [`ControlStats::errors`].
    const ALL: [Self; 8] = [
        Self::ControlChannel,
        Self::Hmac,
        Self::Replay,
        Self::KeyState,
        Self::HandshakeTimeout,
        Self::Ssl,
        Self::EarlyNegotiation,
        Self::Encapsulation,
    ];

    /// Under which it is told.
    pub const fn counter(self) -> Counter {
        match self {
            Self::ControlChannel => Counter::ControlChannelError,
            Self::Hmac => Counter::HmacError,
            Self::Replay => Counter::ReplayError,
            Self::KeyState => Counter::KeyStateError,
            Self::HandshakeTimeout => Counter::HandshakeTimeout,
            Self::Ssl => Counter::SslError,
            Self::EarlyNegotiation => Counter::EarlyNegotiationInvalid,
            Self::Encapsulation => Counter::EncapsulationError,
        }
    }
}

/// What went through a control channel since it was made. Bytes are whole packets, without the
/// TCP length and without IP and UDP headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ControlStats {
    /// Received, whether accepted or not.
    pub packets_in: u64,
    /// Received, whether accepted or not.
    pub bytes_in: u64,
    /// Sent.
    pub packets_out: u64,
    /// Sent.
    pub bytes_out: u64,
    /// Of the packets sent, how many carried a message again.
    pub retransmissions: u64,
    errors: [u64; ErrorCounter::ALL.len()],
    /// What closed the channel.
    fatal: Option<ErrorCounter>,
}

impl ControlStats {
    /// Each error that the channel has survived, and how often. The one that closed it is for
    /// whoever hears [`super::Event::Closed`] to count.
    pub fn errors(&self) -> impl Iterator<Item = (Counter, u64)> {
        ErrorCounter::ALL
            .into_iter()
            .map(|counter| {
                let fatal = u64::from(self.fatal == Some(counter));
                (counter.counter(), self.error(counter).saturating_sub(fatal))
            })
            .filter(|(_, count)| *count > 0)
    }

    /// One error's count.
    pub const fn error(&self, counter: ErrorCounter) -> u64 {
        self.errors[counter as usize]
    }

    pub(super) const fn count(&mut self, counter: ErrorCounter) {
        self.errors[counter as usize] += 1;
    }

    /// An error that was counted before has closed the channel.
    pub(super) const fn closed_by(&mut self, counter: ErrorCounter) {
        self.fatal = Some(counter);
    }
}
