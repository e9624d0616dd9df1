//! Why a control channel cannot go on, by who is to blame: the server, a limit, the caller, this
//! machine.

use std::time::Duration;

use super::key_schedule::KeyScheduleError;
use super::wrap::WrapKeyError;
use crate::fault::Fault;
use crate::tls::TlsError;

/// What a server that does not go on after our TLS hello most likely lacks.
pub(crate) const NOTHING_SHARED: &str = "most likely it takes none of the TLS versions (1.2 and 1.3), \
    cipher suites (ECDHE with AES-GCM or CHACHA20-POLY1305) and groups that are offered. Its log \
    says which; its administrator can remove or extend tls-version-max, tls-cipher or tls-groups \
    (ecdh-curve) there, as far as the profile's own leave something";

/// Why a control channel ended by itself.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ControlError {
    /// `hand-window` passed without a complete handshake.
    #[error("TLS key negotiation did not finish within {} s (is the server reachable, does the wrapping key match?)", .0.as_secs())]
    HandshakeTimeout(Duration),
    /// `hand-window` passed with a server that is there and has the wrapping key, but says nothing to
    /// our TLS hello: OpenVPN 2.6 and 2.7 fall silent where TLS has an alert.
    #[error("the server answered, but not our TLS hello, within {} s: {NOTHING_SHARED}", .0.as_secs())]
    HelloUnanswered(Duration),
    /// No push reply in time.
    #[error("the server sent no configuration (PUSH_REPLY) within {} s", .0.as_secs())]
    NoPushReply(Duration),
    /// A key exchange asked for user name and password, and nobody gave them.
    #[error(
        "the credentials were forgotten (auth-nocache), and a renegotiation that needs them again \
         did not get them within {} s", .0.as_secs()
    )]
    NoLogin(Duration),
    /// The last key expired without a successor: why the last try for one failed.
    #[error("no usable key is left: {0}")]
    KeyExpired(#[source] Box<Self>),
    /// TLS failed; its kind says on which side.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The server broke the protocol.
    #[error(transparent)]
    PeerMisbehaved(#[from] PeerMisbehaved),
    /// Nobody broke anything, but it is too much.
    #[error(transparent)]
    LimitReached(#[from] LimitReached),
    /// The caller did what it may not do.
    #[error(transparent)]
    Misuse(#[from] ApiMisuse),
    /// This machine's cryptography failed.
    #[error(transparent)]
    Host(#[from] HostFailure),
}

impl ControlError {
    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::HandshakeTimeout(_)
            | Self::HelloUnanswered(_)
            | Self::NoPushReply(_)
            | Self::PeerMisbehaved(_) => Fault::Peer,
            Self::NoLogin(_) | Self::Misuse(_) => Fault::Misuse,
            Self::LimitReached(_) => Fault::Limit,
            Self::Host(_) => Fault::Host,
            Self::KeyExpired(error) => error.fault(),
            Self::Tls(error) => error.fault(),
        }
    }
}

/// What the server did that the protocol does not allow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PeerMisbehaved {
    /// Its key exchange message begins otherwise.
    #[error("protocol error: the server does not speak key method 2")]
    KeyMethod,
    /// Too long, or not text.
    #[error("protocol error: the server's options string is malformed")]
    OptionsString,
    /// The payload of HARD_RESET_SERVER_V2 is not a list of type, length, value.
    #[error("protocol error: the server's early negotiation data is malformed")]
    EarlyNegotiation,
    /// So many bytes of text.
    #[error("protocol error: the server sent more than {0} bytes without an end of message")]
    EndlessText(usize),
}

/// A limit that was reached, with its value.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LimitReached {
    /// Bytes of all options of a push reply.
    #[error("the pushed options are longer than {0} bytes; the server has to push less")]
    PushedBytes(usize),
    /// Options of a push reply.
    #[error("the server pushes more than {0} options; it has to push less")]
    PushedOptions(usize),
    /// Updates of what was pushed, by far more often than anything changes.
    #[error("the server updates what it pushed without end")]
    PushUpdates,
    /// Bytes that the server has not acknowledged.
    #[error(
        "more than {0} bytes wait for the server: it asks, and does not acknowledge the answers"
    )]
    Unacknowledged(usize),
    /// Bytes of our key exchange message, as many as a server's buffer holds.
    #[error(
        "the key exchange message would have {len} bytes, more than the {limit} a server reads; \
         shorten user name, password or the peer info (setenv UV_...)"
    )]
    KeyMessage {
        /// What it would have.
        len: usize,
        /// What it may have.
        limit: usize,
    },
    /// Packet ids of one wrapping key.
    #[error("no packet id of the control channel is left; a new connection begins with new ones")]
    PacketIds,
}

/// What the caller did, and may not do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ApiMisuse {
    /// [`super::ControlChannel::accept_push`] without [`super::Event::Pushed`].
    #[error("no push reply waits to be accepted")]
    NoPushReply,
    /// Data keys before a key exchange.
    #[error("no key exchange is complete")]
    NoKeyExchange,
    /// A wrapping key that the profile would have refused.
    #[error(transparent)]
    WrapKey(#[from] WrapKeyError),
    /// A string that a NUL ends on the wire has one inside.
    #[error("{0} contains a NUL character")]
    Nul(&'static str),
}

/// What this machine could not do.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HostFailure {
    /// The TLS library exports no key.
    #[error("no key can be exported from the TLS session: {0}")]
    Exporter(#[source] TlsError),
    /// The key schedule came to nothing.
    #[error(transparent)]
    DataKeys(#[from] KeyScheduleError),
    /// A control packet could not be encrypted.
    #[error("a control packet cannot be encrypted")]
    Encryption,
}
