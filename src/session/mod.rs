//! One VPN session: connects, reconnects, pauses, ends. The only place where the control channel,
//! the transport, the data plane and the network configuration meet.
//!
//! - `remotes`, `reconnect`, `keys`, `mtu`, `inactivity` decide; they are pure.
//! - `run` walks from attempt to attempt; `attempt` is one connection from socket to end;
//!   `bring_up` makes a tunnel of a push reply; `tunnel` is the device with its data plane, which
//!   may outlive connections.
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
//! | control packets from and to a data channel | channels of fixed size; what does not fit is lost |
//! | [`SessionEvent`], and the driver's and the front end's news | fed by us, one for each step of an attempt, and by texts of the server: 32 at once, one a second |
//! | renegotiations of the server | ten at once, one a second |
//! | requests to sign | one for each handshake |
//! | posture checks | four at a time, 16 at once, six a minute |
//! | log lines | 1,024, then they are dropped |
//! | data events | fed by us: each ends a connection, or is one for each key |

mod attempt;
mod bring_up;
mod commands;
mod event;
mod host;
mod inactivity;
mod login;
mod mtu;
mod name_query;
mod network;
mod plane;
mod posture;
mod reconnect;
mod remotes;
mod resolve;
mod run;
mod signing;
mod stats;
#[cfg(test)]
mod tests;
mod tunnel;

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use commands::Command;
pub use event::{ConnectionInfo, Outcome, SessionEvent, SessionState, SignatureRequest};
#[doc(hidden)]
pub use posture::request as posture_request;
pub use stats::Statistics;

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
    /// Credentials for the HTTP proxy.
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

/// Drives a running session. Dropping every handle disconnects.
#[derive(Clone, Debug)]
pub struct SessionHandle {
    commands: mpsc::Sender<Command>,
}

impl SessionHandle {
    /// Starts a session on the current tokio runtime. Returns at once; progress and end come as
    /// events.
    ///
    /// As many wait as nobody takes. They are the session's own steps, a few for each attempt, and
    /// what the server says: of that the control channel tells 32 at once and one a second, and of
    /// new keys 10 at once and one a second.
    pub fn start(config: SessionConfig) -> (Self, mpsc::UnboundedReceiver<SessionEvent>) {
        let (commands, receiver) = mpsc::channel(16);
        let (events, event_receiver) = mpsc::unbounded_channel();
        tokio::spawn(run::run(config, receiver, events));
        (Self { commands }, event_receiver)
    }

    /// Closes the sockets and waits for [`Self::resume`]; [`SessionState::Paused`] follows.
    pub async fn pause(&self) {
        self.send(Command::Pause).await;
    }

    /// Connects again after a pause.
    pub async fn resume(&self) {
        self.send(Command::Resume).await;
    }

    /// Drops the connection and connects again at once (also from a pause).
    pub async fn restart(&self) {
        self.send(Command::Restart).await;
    }

    /// Ends the session; [`SessionEvent::Ended`] follows, usually within a fraction of a second.
    pub async fn disconnect(&self) {
        self.send(Command::Disconnect).await;
    }

    /// Answers a pending `CR_TEXT` challenge.
    pub async fn respond(&self, response: Secret<String>) {
        self.send(Command::Respond(response)).await;
    }

    /// Answers a [`SessionEvent::CredentialsNeeded`]. `one_time`: see
    /// [`SessionConfig::one_time_password`].
    pub async fn log_in(&self, credentials: Credentials, one_time: bool) {
        self.send(Command::LogIn(credentials, one_time)).await;
    }

    /// Answers a [`SessionEvent::Sign`]: the signature (ECDSA: DER, or `r || s` as PKCS#11 has it),
    /// or why there is none.
    pub async fn sign(&self, id: u32, signature: Result<Vec<u8>, String>) {
        self.send(Command::Sign(id, signature)).await;
    }

    /// True if the session's own event loop answers.
    pub async fn ping(&self) -> bool {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Ping(reply)).await;
        answer.await.is_ok()
    }

    /// Counters since the session started, over all reconnects. `None` when the session is over.
    pub async fn statistics(&self) -> Option<Statistics> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Statistics(reply)).await;
        answer.await.ok()
    }

    async fn send(&self, command: Command) {
        // A session that is over has said so by its last event.
        let _ = self.commands.send(command).await;
    }
}
