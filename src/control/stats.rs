//! Counters of a control channel, under OpenVPN 3's names.

/// Error counters (OpenVPN 3 `error/error.hpp`).
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

    /// OpenVPN 3's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ControlChannel => "CC_ERROR",
            Self::Hmac => "HMAC_ERROR",
            Self::Replay => "REPLAY_ERROR",
            Self::KeyState => "KEY_STATE_ERROR",
            Self::HandshakeTimeout => "HANDSHAKE_TIMEOUT",
            Self::Ssl => "SSL_ERROR",
            Self::EarlyNegotiation => "EARLY_NEG_INVALID",
            Self::Encapsulation => "ENCAPSULATION_ERROR",
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
    /// Name and count of each error that the channel has survived. The one that closed it is for
    /// whoever hears [`super::Event::Closed`] to count.
    pub fn errors(&self) -> impl Iterator<Item = (&'static str, u64)> {
        ErrorCounter::ALL
            .into_iter()
            .map(|counter| {
                let fatal = u64::from(self.fatal == Some(counter));
                (counter.name(), self.error(counter).saturating_sub(fatal))
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
