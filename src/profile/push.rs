//! Options that the server pushes, applied to the profile's own.

use std::time::Duration;

use ovpn_dco::{Cipher, Framing};

use super::options::{Inactive, NetworkOptions, PingTimeout};
use crate::secret::Secret;

/// What a connection runs with: the profile and one complete push reply, combined.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// Pushed `peer-id`; `None`: DATA_V1.
    pub peer_id: Option<ovpn_dco::PeerId>,
    /// The negotiated data cipher.
    pub cipher: Cipher,
    /// Compression framing in use.
    pub framing: Framing,
    /// Data keys from the TLS exporter instead of the PRF (`tls-ekm`).
    pub tls_ekm: bool,
    /// `dyn-tls-crypt`
    pub dynamic_tls_crypt: bool,
    /// `cc-exit`: exit notification as control message.
    pub cc_exit: bool,
    /// Profile's network options with the pushed ones applied and merged.
    pub network: NetworkOptions,
    /// Interface MTU after negotiation.
    pub tun_mtu: u16,
    /// `ping`
    pub ping: Option<Duration>,
    /// `ping-restart`/`ping-exit`
    pub ping_timeout: Option<PingTimeout>,
    /// `inactive`
    pub inactive: Option<Inactive>,
    /// `session-timeout`
    pub session_timeout: Option<Duration>,
    /// `explicit-exit-notify`, pushed or configured.
    pub explicit_exit_notify: u32,
    /// `auth-token`
    pub auth_token: Option<Secret<String>>,
    /// `auth-token-user`, decoded.
    pub auth_token_user: Option<String>,
    /// `reneg-sec` pushed; `Some(None)`: never.
    pub reneg: Option<Option<Duration>>,
    /// `echo` lines, for the front end.
    pub echo: Vec<String>,
    /// Options that were ignored, each with the reason, for the log.
    pub ignored: Vec<String>,
}
