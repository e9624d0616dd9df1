//! One VPN session: connects, reconnects, pauses, ends. The only place where the control channel,
//! the transport, the data plane and the network configuration meet.
//!
//! A session is in one state at a time, a value that holds what exists in it and nothing else:
//!
//! ```text
//! Opening ---> Negotiating ---> Connected      any of the three ends as an `Over`
//!    ^  name, socket  push reply    |
//!    +--- Waiting <--- Over <-------+          Over: what follows is decided by `reconnect`
//!    +--- Paused <-----+----> Ended
//! ```
//!
//! - `life` has the states and walks through them; `opening`, `negotiating` and `connected` are what
//!   each does; `over` is what follows a connection, and what becomes of its tunnel.
//! - `shared` is handed to every state: commands, events, network, counters, login.
//! - `link` is a connection's transport and control channel, and alone moves packets between them;
//!   `heard` sorts what the control channel tells by the states that act on it.
//! - `bring_up` makes a tunnel of a push reply, `fall_back` another one of a tunnel that failed;
//!   `tunnel` is the device with its data plane, which may outlive connections.
//! - `roaming` notices that the host's network changes or the machine slept (`absence`), in every
//!   state; `following` is what a connection does then.
//! - `extension` is what optional parts implement: `signing`, `posture`.
//! - `remotes`, `reconnect`, `login`, `mtu`, `inactivity` decide; they are pure.
//!
//! Another source of events is an arm of the `select!` in `Connected::step`.
//!
//! # What can wait, and what bounds it
//!
//! Whatever a server, a stranger or a reader that is stuck does, memory does not grow:
//!
//! | What waits | Bound |
//! |---|---|
//! | received control messages out of order | window of 12 for each of at most four keys |
//! | text of the server not yet read | 64 KiB, then an error; a push reply 768 KiB and 65,536 options |
//! | TLS bytes the server has not acknowledged | 256 KiB, then an error |
//! | bytes for a TLS thread that signs | 256 KiB, then an error |
//! | parts of an application's message | 64 KiB |
//! | control events | drained after each packet: what one packet may complete |
//! | control packets as a whole | 1 MiB at once, 128 KiB a second; beyond it the socket is not read |
//! | control packets from and to a data channel | 256 and 64 packets of at most 64 KiB; what does not fit is lost |
//! | data packets on their way | one read of the device (64 KiB) and one batch to send (128 KiB); one batch received |
//! | data packets that come before their key | 1,024, 2 MiB, 2 s; what does not fit is lost |
//! | commands to a data path | one: whoever gives it waits for the answer |
//! | [`SessionEvent`] | 256; of more the oldest are lost, never what matters: [`Events`] |
//! | texts of the server among them | 32 at once, one a second |
//! | renegotiations of the server | ten at once, one a second |
//! | requests to sign | one for each handshake |
//! | posture checks | four at a time, 16 at once, six a minute |
//! | log lines | 1,024, then they are dropped |
//! | data events | fed by us: each ends a connection, once, or is one for each key |
//! | requests to the helper process | one on each line: whoever asks waits for the answer |

mod absence;
mod bring_up;
mod commands;
mod connected;
mod data_counters;
mod ending;
mod event;
mod events;
mod extension;
mod fall_back;
mod following;
mod heard;
mod host;
mod inactivity;
mod life;
mod link;
mod login;
mod mtu;
mod name_query;
mod negotiating;
mod network;
mod offload;
mod opening;
mod over;
mod plane;
mod posture;
mod reconnect;
mod remotes;
mod resolve;
mod roaming;
mod shared;
mod signing;
#[cfg(test)]
mod tests;
mod tunnel;
mod updating;

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc;

pub use commands::{Command, NoSignature, Wish};
pub use ending::{DataPathError, Ending, Loss, NetworkChange, ResolveError, SetUpError};
pub use event::{
    ConfiguredNetwork, ConnectionInfo, Outcome, SessionEvent, SessionState, SignatureRequest,
};
pub use events::{Events, Teller, events};
#[cfg(feature = "internals")]
pub use posture::request as posture_request;

use crate::posture::DevicePosture;
use crate::profile::{DnsScope, Options};
use crate::secret::{Credentials, Secret};

/// Everything one session needs. User input that can be known before connecting is in here
/// already; what the server asks for later comes as [`SessionEvent::PendingAuth`].
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// The profile, overrides applied.
    pub options: Arc<Options>,
    /// User name and password; the password already holds a static challenge (`SCRV1:`) or a
    /// dynamic challenge response (`CRV1::`) where there is one.
    pub credentials: Credentials,
    /// The password is one-time (challenge response): never repeat it without a token.
    pub one_time_password: bool,
    /// Passphrase of the private key.
    pub key_passphrase: Option<Secret<String>>,
    /// Credentials for the proxy.
    pub proxy_credentials: Option<Credentials>,
    /// Kernel offload wished for.
    pub dco: bool,
    /// Who configures the network.
    pub network: NetworkMode,
    /// Directory of the undo journal.
    pub runtime_dir: PathBuf,
    /// Keep trying after AUTH_FAILED (override `auth-fail-retry`).
    pub auth_fail_retry: bool,
    /// Override `dns-scope`.
    pub dns_scope: DnsScope,
    /// `IV_GUI_VER`
    pub gui_version: String,
    /// `IV_SSO`: what the front end can do.
    pub sso: String,
    /// Runs device posture checks, where the profile has an enterprise profile.
    pub posture: Option<DevicePosture>,
}

impl SessionConfig {
    /// A session that sets up the network itself, over netlink, with kernel offload where it can be
    /// had; without user name, password and passphrase. Set the other fields as needed.
    pub fn new(options: Arc<Options>, runtime_dir: PathBuf) -> Self {
        Self {
            options,
            credentials: Credentials::default(),
            one_time_password: false,
            key_passphrase: None,
            proxy_credentials: None,
            dco: true,
            network: NetworkMode::Direct,
            runtime_dir,
            auth_fail_retry: false,
            dns_scope: DnsScope::default(),
            gui_version: concat!("ovpn-client/", env!("CARGO_PKG_VERSION")).to_owned(),
            sso: String::new(),
            posture: None,
        }
    }
}

/// Who sets addresses, routes and DNS.
#[derive(Clone, Debug)]
pub enum NetworkMode {
    /// This process, over netlink; DNS through the host's resolver.
    Direct,
    /// The same, but for DNS where this process may not set it: that does the service
    /// `net.openvpn.v3.netcfg`.
    DirectWith(crate::network::NetcfgConfig),
    /// The service `net.openvpn.v3.netcfg`.
    Netcfg(crate::network::NetcfgConfig),
}

/// A running session, as two channels.
#[derive(Debug)]
pub struct Running {
    /// To the session. Dropping it, and every clone of it, disconnects. A queue that is full means
    /// that the session hangs.
    pub commands: mpsc::Sender<Command>,
    /// From the session; the last one is [`SessionEvent::Ended`].
    pub events: Events,
}

/// Commands that wait for a session. Answers and wishes are few.
pub(crate) const COMMANDS: usize = 64;

impl Running {
    /// Starts a session on the current tokio runtime. Returns at once.
    pub fn start(config: SessionConfig) -> Self {
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let (teller, events) = events();
        tokio::spawn(run(config, receiver, teller));
        Self { commands, events }
    }
}

/// The same with queues that exist already: from whoever does something else first. Returns once the
/// session has [ended](SessionEvent::Ended).
pub(crate) async fn run(config: SessionConfig, commands: mpsc::Receiver<Command>, teller: Teller) {
    life::run(config, commands, teller).await;
}
