//! Why a connection, or the attempt at one, ended by itself, and whose fault it was. What follows from
//! it is decided in `reconnect`.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use ovpn_dco::{Error as DataError, PeerDeletedReason};

use crate::control::{AuthFailed, ControlError, NOTHING_SHARED, RestartFlags};
use crate::fault::Fault;
use crate::network::{NetcfgError, NetworkError, PlanError};
use crate::profile::{Family, PushError};
use crate::transport::TransportError;

/// How a connection, or the attempt at one, ended by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Ending {
    /// The server's name could not be resolved.
    #[error("cannot resolve {host}: {source}")]
    Resolve {
        /// The name.
        host: String,
        /// Why not.
        source: ResolveError,
    },
    /// A name that has addresses, and none to connect to.
    #[error("{0} has no usable address")]
    NoAddress(String),
    /// No socket or connection.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The server did not answer at all.
    #[error("no answer within {} s{}", .after.as_secs(), silence(.source.as_ref()))]
    NoAnswer {
        /// For how long.
        after: Duration,
        /// Why a packet did not reach it, if the host or ICMP said so.
        source: Option<io::Error>,
    },
    /// The control channel gave up.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The server fell silent, and there is a reason to think that our certificate is why.
    #[error("{doubt}; the server fell silent: {source}")]
    Silence {
        /// What is wrong with the certificate.
        doubt: String,
        /// How the silence ended.
        source: Box<Self>,
    },
    /// AUTH_FAILED
    #[error("{}", refusal(.0))]
    AuthFailed(AuthFailed),
    /// AUTH_FAILED to a token.
    #[error("{}", token_refusal(.0))]
    TokenRefused(AuthFailed),
    /// RESTART, with the server's reason.
    #[error("{}", with_reason("the server restarts", .0))]
    ServerRestart(String, RestartFlags),
    /// HALT, with the server's reason.
    #[error("{}", with_reason("the server ended the session", .0))]
    Halted(String),
    /// EXIT, or OCC EXIT.
    #[error("the server exits")]
    ServerExit,
    /// Nothing received for the keepalive timeout.
    #[error("nothing received for the keepalive timeout")]
    PingTimeout {
        /// `ping-exit`
        exit: bool,
    },
    /// The transport or the data path broke.
    #[error(transparent)]
    Lost(#[from] Loss),
    /// The network is another one, and the connection cannot go on over it.
    #[error(transparent)]
    NetworkChanged(#[from] NetworkChange),
    /// `inactive`
    #[error("nothing went through the tunnel (inactive)")]
    Inactive,
    /// `session-timeout`
    #[error("the session's time limit (session-timeout) was reached")]
    SessionTimeout,
    /// What the server pushed cannot be used.
    #[error(transparent)]
    Push(#[from] PushError),
    /// What the server changes of it cannot be followed: a new connection begins with the whole.
    #[error(transparent)]
    PushUpdate(PushError),
    /// There could be no tunnel.
    #[error(transparent)]
    SetUp(#[from] SetUpError),
    /// Something came out of its order: a fault of this program's.
    #[error("{0} (internal error)")]
    Disorder(&'static str),
}

/// Why a name has no addresses.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// Nobody answered in time.
    #[error("no answer from the name server")]
    NoAnswer,
    /// The system's resolver said no.
    #[error(transparent)]
    System(#[from] io::Error),
    /// There are addresses, but not of this family.
    #[error("no address of the wanted family ({0})")]
    Family(Family),
}

/// What broke under a connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Loss {
    /// The socket takes nothing.
    #[error("cannot send to the server: {0}")]
    Send(#[source] io::Error),
    /// The socket gives nothing.
    #[error("the connection to the server broke: {0}")]
    Receive(#[source] io::Error),
    /// A stream that ends where an answer to our TLS hello should come.
    #[error("the server closed the connection at our TLS hello: {NOTHING_SHARED}")]
    Hello(#[source] io::Error),
    /// A stream that ends before the server has said anything.
    #[error(
        "the server closed the connection without a word: most likely the tls-auth, tls-crypt or \
         tls-crypt-v2 key is not the server's, or something else answers at this address and port; \
         its log says which"
    )]
    Wordless(#[source] io::Error),
    /// A TCP stream that takes no more.
    #[error("the TCP stream stands still")]
    Stalled,
    /// The data channel found the transport broken.
    #[error("the data channel's transport broke")]
    Transport,
    /// Somebody else's deed.
    #[error("something else deleted the data channel's peer ({0})")]
    PeerDeleted(PeerDeletedReason),
    /// It is not there, and nothing told why.
    #[error("the data channel's peer has disappeared")]
    NoPeer,
    /// Where the data path cannot be replaced within the connection.
    #[error("the data path failed: {0}")]
    DataPath(#[source] DataPathError),
    /// Renegotiation failed, and the old key is gone.
    #[error("there is no key to send with: {0}")]
    NoKey(#[source] ControlError),
    /// The interface of that name, by somebody else.
    #[error("the interface {0} was moved to another network namespace")]
    Moved(String),
    /// Somebody wants something else before the tunnel is there.
    #[error("interrupted")]
    Interrupted,
}

/// Why a connection cannot go on over another network.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkChange {
    /// While nothing was connected.
    #[error("the network has changed")]
    Other,
    /// In the middle of a handshake.
    #[error("the machine slept in the middle of it")]
    Slept,
    /// The host's own address.
    #[error("packets to the server would come from {now} now, not {before}")]
    Source {
        /// Which it would be.
        now: IpAddr,
        /// Which the server knows.
        before: IpAddr,
    },
    /// The host's own address, which the data path cannot change.
    #[error("the local address has changed, and {0}")]
    FixedSource(#[source] DataError),
    /// Nothing led to the server for a while.
    #[error("there is a way to the server again")]
    WayAgain,
    /// It was asked, and did not prove that it knows us.
    #[error("the server does not know us any more, or is out of reach")]
    Forgotten,
}

/// Why a data path is no good (any more). Another one may be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataPathError {
    /// It refused something.
    #[error(transparent)]
    Channel(#[from] DataError),
    /// It told so itself, in these words.
    #[error("{0}")]
    Failed(String),
    /// The kernel takes a stream over between two packets only.
    #[error("the TCP stream does not come to a packet's end")]
    NoBoundary,
    /// Its interface cannot be configured.
    #[error(transparent)]
    Network(NetworkError),
    /// Nobody else may, there.
    #[error("only the netcfg service can make the device")]
    NotNetcfg,
}

/// Why there could be no tunnel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetUpError {
    /// Nowhere to connect to.
    #[error("the profile has no remote")]
    NoRemote,
    /// The last data path that there is.
    #[error("{introduction}{0}", introduction = introduction(.0))]
    DataPath(#[source] DataPathError),
    /// The TUN device.
    #[error("cannot create the device {name}: {source}")]
    Device {
        /// As the profile has it.
        name: String,
        /// Why not.
        source: DataError,
    },
    /// What was pushed cannot be configured.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The host.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The netcfg service.
    #[error(transparent)]
    Netcfg(#[from] NetcfgError),
    /// What asked the kernel panicked.
    #[error(transparent)]
    Probe(#[from] tokio::task::JoinError),
}

/// What a failure to set up means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Consequence {
    /// A privilege or a device is missing, now and later.
    Privilege,
    /// It may work in a while.
    Later,
    /// It never will.
    Unusable,
}

impl SetUpError {
    pub(super) fn consequence(&self) -> Consequence {
        match self {
            Self::DataPath(DataPathError::Channel(DataError::NotPermitted { .. }))
            | Self::Netcfg(NetcfgError::Unavailable { startable: false, .. }) => {
                Consequence::Privilege
            }
            Self::DataPath(DataPathError::Network(NetworkError::Netlink { source, .. }))
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                Consequence::Privilege
            }
            Self::Netcfg(NetcfgError::Unavailable { startable: true, .. }) => Consequence::Later,
            _ => Consequence::Unusable,
        }
    }

    /// Whose fault it is.
    pub const fn fault(&self) -> Fault {
        match self {
            Self::NoRemote => Fault::Misuse,
            Self::Plan(_) => Fault::Peer,
            _ => Fault::Host,
        }
    }
}

impl From<DataPathError> for Ending {
    fn from(error: DataPathError) -> Self {
        match error {
            DataPathError::NoBoundary => Loss::DataPath(error).into(),
            error => SetUpError::DataPath(error).into(),
        }
    }
}

impl Loss {
    /// Whose fault it is. Where the network lies between, the other end's.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Send(_)
            | Self::PeerDeleted(_)
            | Self::NoPeer
            | Self::DataPath(_)
            | Self::Moved(_) => Fault::Host,
            Self::Receive(_)
            | Self::Hello(_)
            | Self::Wordless(_)
            | Self::Stalled
            | Self::Transport => Fault::Peer,
            Self::NoKey(error) => error.fault(),
            Self::Interrupted => Fault::Misuse,
        }
    }
}

impl Ending {
    /// Whose fault it is. Where the network lies between, the other end's.
    pub fn fault(&self) -> Fault {
        match self {
            Self::NoAddress(_)
            | Self::NoAnswer { .. }
            | Self::ServerRestart(..)
            | Self::Halted(_)
            | Self::ServerExit
            | Self::PingTimeout { .. }
            | Self::Push(_)
            | Self::PushUpdate(_) => Fault::Peer,
            Self::Resolve { .. } | Self::NetworkChanged(_) | Self::Disorder(_) => Fault::Host,
            Self::Inactive | Self::SessionTimeout | Self::TokenRefused(_) => Fault::Limit,
            Self::AuthFailed(AuthFailed::Temporary { .. }) => Fault::Peer,
            Self::AuthFailed(_) | Self::Silence { .. } => Fault::Misuse,
            Self::Transport(error) => error.fault(),
            Self::Control(error) => error.fault(),
            Self::Lost(loss) => loss.fault(),
            Self::SetUp(error) => error.fault(),
        }
    }
}

fn introduction(error: &DataPathError) -> &'static str {
    match error {
        DataPathError::Channel(DataError::NotPermitted { .. }) => "",
        DataPathError::Channel(_) => "cannot set up the tunnel: ",
        _ => "",
    }
}

pub(super) fn refusal(failed: &AuthFailed) -> String {
    match failed {
        AuthFailed::Temporary { message, .. } => {
            with_reason("the server cannot authenticate now", message)
        }
        AuthFailed::Permanent { reason } => with_reason("authentication failed", reason),
        AuthFailed::Challenge { text, .. } => with_reason("the server asks", text),
    }
}

/// What a server that never answers means.
fn silence(reason: Option<&io::Error>) -> String {
    reason.map_or_else(
        || {
            " (wrong address or port, a firewall, or a tls-auth, tls-crypt or tls-crypt-v2 key that is \
             not the server's; with tls-auth, key-direction and auth must fit, too)"
                .to_owned()
        },
        |reason| format!(": {reason}"),
    )
}

fn token_refusal(failed: &AuthFailed) -> String {
    let what = "the server takes the session token no longer";
    match failed {
        AuthFailed::Permanent { reason } => with_reason(what, reason),
        AuthFailed::Temporary { .. } | AuthFailed::Challenge { .. } => what.to_owned(),
    }
}

pub(super) fn with_reason(what: &str, reason: &str) -> String {
    if reason.is_empty() { what.to_owned() } else { format!("{what}: {reason}") }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;
    use crate::session::Outcome;

    /// Who shows the cause by itself finds it below.
    #[test]
    fn what_is_below_is_kept() {
        let refused = || DataError::Kernel { operation: "PEER_NEW", errno: 16, message: None };
        let cases: [(Ending, Fault, &str); 4] = [
            (DataPathError::from(refused()).into(), Fault::Host, "cannot set up the tunnel: "),
            (
                Loss::Receive(io::ErrorKind::ConnectionReset.into()).into(),
                Fault::Peer,
                "the connection to the server broke: ",
            ),
            (
                NetworkChange::FixedSource(refused()).into(),
                Fault::Host,
                "the local address has changed, and ",
            ),
            (
                Ending::Resolve { host: "vpn".to_owned(), source: ResolveError::NoAnswer },
                Fault::Host,
                "cannot resolve vpn: ",
            ),
        ];
        for (ending, fault, introduction) in cases {
            let source = ending.source().expect("a source").to_string();
            assert_eq!(ending.to_string(), format!("{introduction}{source}"));
            assert_eq!(ending.fault(), fault, "{ending}");
        }
        let outcome = Outcome::Unreachable(Loss::Stalled.into());
        assert_eq!(outcome.to_string(), Loss::Stalled.to_string());
        assert!(outcome.source().is_some());
        let not_permitted =
            DataError::NotPermitted { operation: "PEER_NEW", needs: "CAP_NET_ADMIN" };
        let text = not_permitted.to_string();
        let ending = Ending::from(DataPathError::from(not_permitted));
        assert_eq!(ending.to_string(), text, "it says itself what is missing");
    }
}
