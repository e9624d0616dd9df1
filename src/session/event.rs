//! What a session tells the backend that drives it.

use std::net::SocketAddr;

use ovpn_dco::Cipher;

use super::ending::{Ending, refusal, with_reason};
use crate::control::{AuthFailed, PendingAuth};
use crate::data_path::{DataPath, Reason};
use crate::network::dns::DnsPlan;
use crate::network::{Item, PlannedRoute};
use crate::profile::Protocol;
use crate::tls::{SignAlgorithm, TlsError, TlsParameters};

/// Where a session stands. Each change is told once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SessionState {
    /// Looking up a server name, or opening a socket to it.
    Resolving {
        /// Host name as in the profile.
        host: String,
    },
    /// A socket is up; waiting for the server's first answer.
    Waiting {
        /// Host name as in the profile.
        host: String,
        /// Where to.
        address: SocketAddr,
        /// How.
        protocol: Protocol,
    },
    /// The server answered; TLS runs.
    Authenticating,
    /// Waiting for PUSH_REPLY.
    GetConfig,
    /// Address, routes, DNS are being set.
    Configuring,
    /// The tunnel works.
    Connected(ConnectionInfo),
    /// A working connection was lost; a new attempt follows.
    Reconnecting {
        /// Why.
        reason: String,
    },
    /// Sockets are closed; the device is kept if persist-tun says so.
    Paused,
}

/// A working connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConnectionInfo {
    /// Transport.
    pub protocol: Protocol,
    /// Host name as configured.
    pub host: String,
    /// Address in use.
    pub address: SocketAddr,
    /// User name, if one was sent.
    pub username: String,
    /// Network interface.
    pub device: String,
    /// What carries its data.
    pub data_path: DataPath,
    /// Why it is not kernel offload; empty where it is.
    pub data_path_reasons: Vec<Reason>,
    /// Tunnel addresses.
    pub tunnel: Vec<String>,
    /// Tunnel gateways.
    pub gateways: Vec<String>,
    /// Interface MTU.
    pub mtu: u16,
    /// Negotiated data cipher.
    pub cipher: Cipher,
    /// The netcfg device object, where netcfg made the device.
    pub device_path: Option<String>,
    /// What the handshake agreed on.
    pub tls: Option<Box<TlsParameters>>,
    /// What is configured for it on this host.
    pub network: Box<ConfiguredNetwork>,
}

/// What a connection has had configured on this host. Where the netcfg service does that, nothing of
/// it is known here.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConfiguredNetwork {
    /// The first of the routes, 256 at most, in the order in which they were made.
    pub routes: Vec<PlannedRoute>,
    /// How many there are in all.
    pub route_count: usize,
    /// DNS.
    pub dns: Option<DnsPlan>,
}

impl ConfiguredNetwork {
    /// Routes that are told one by one. A server may push many thousand.
    const ROUTES: usize = 256;

    /// Of a plan's parts.
    pub(super) fn of(items: &[Item]) -> Self {
        let routes = || {
            items.iter().filter_map(|item| match item {
                Item::Route(route) => Some(route),
                _ => None,
            })
        };
        let dns = items.iter().find_map(|item| match item {
            Item::Dns(dns) => Some(dns.clone()),
            _ => None,
        });
        Self {
            routes: routes().take(Self::ROUTES).cloned().collect(),
            route_count: routes().count(),
            dns,
        }
    }
}

/// What a session tells.
#[derive(Debug)]
pub enum SessionEvent {
    /// A new state.
    State(SessionState),
    /// The server wants something from the user; the connection waits.
    PendingAuth(PendingAuth),
    /// A renegotiation needs credentials that were forgotten (`auth-nocache`) or are used up (one-time
    /// password); the connection goes on meanwhile. Answer with [`super::Command::LogIn`].
    CredentialsNeeded,
    /// A text from the server for the user.
    Info(String),
    /// The external private key must sign; the connection waits. Answer with
    /// [`super::Command::Sign`].
    Sign(SignatureRequest),
    /// It is over; nothing else follows, and nothing is left behind.
    Ended(Outcome),
}

/// What an external private key is to sign.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignatureRequest {
    /// Names the request in the answer.
    pub id: u32,
    /// How to sign; hashing `message` is part of it.
    pub algorithm: SignAlgorithm,
    /// The whole message.
    pub message: Vec<u8>,
    /// Its hash, for mechanisms that take one; `None` for Ed25519.
    pub digest: Option<Vec<u8>>,
}

/// How a session ended. Its text is for people; front ends with words of their own look at the variant.
#[derive(Debug, thiserror::Error)]
pub enum Outcome {
    /// As asked.
    #[error("disconnected, as asked")]
    Disconnected,
    /// The server refused the credentials, or challenges.
    #[error("{}", refusal(.0))]
    AuthFailed(AuthFailed),
    /// New credentials are needed: the token has expired, or there is none, and the password is not
    /// kept (`auth-nocache`) or used up.
    #[error("user name and password are needed again")]
    NeedCredentials,
    /// The proxy wants credentials.
    #[error("the proxy wants a user name and password")]
    NeedProxyCredentials,
    /// TLS ended it for good.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// `inactive`
    #[error("nothing went through the tunnel (inactive)")]
    Inactive,
    /// `session-timeout`
    #[error("the session's time limit (session-timeout) was reached")]
    SessionTimeout,
    /// `ping-exit`
    #[error("nothing received for the keepalive timeout (ping-exit)")]
    PingExit,
    /// The server sent HALT.
    #[error("{}", with_reason("the server ended the session", reason))]
    Halted {
        /// Its text.
        reason: String,
    },
    /// No remote could be reached within the limits: how the last attempt ended.
    #[error("{0}")]
    Unreachable(#[source] Ending),
    /// Missing privilege or device.
    #[error("{0}")]
    Privilege(#[source] Ending),
    /// The push could not be applied, or anything else that a retry does not help.
    #[error("{0}")]
    Failed(#[source] Ending),
}
