//! What goes into the control channel and what comes out.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use ovpn_dco::{Cipher, KeyConfig, KeyId};

use zeroize::Zeroizing;

use super::app_control::AppMessage;
use super::error::ControlError;
use super::web_address::WebAddress;
use crate::profile::{AppControl, ControlOptions, WrapOptions, loggable};
use crate::tls::{TlsFactory, TlsParameters};

/// What a control channel needs for one connection attempt.
pub struct ControlConfig {
    /// UDP or TCP (decides retransmission and exit notification).
    pub transport: TransportKind,
    /// The server's address is IPv6 (packet sizing).
    pub ipv6: bool,
    /// Timers and sizes.
    pub options: ControlOptions,
    /// Wrapping.
    pub wrap: WrapOptions,
    /// Makes TLS sessions.
    pub tls: Arc<dyn TlsFactory>,
    /// OCC options string.
    pub occ: String,
    /// Peer info, lines with `\n`.
    pub peer_info: String,
    /// Unix time in seconds at the `now` of construction, for replay ids.
    pub unix_time: u64,
    /// Seed of the session id and the key exchange randoms: from the system's generator.
    pub seed: [u8; 32],
}

/// Transport as far as the control channel cares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransportKind {
    /// May lose, duplicate and reorder.
    Udp,
    /// Does not; no retransmission.
    Tcp,
}

/// What the push reply decided, given back to the control channel so that it can derive data keys.
#[derive(Clone, Debug)]
pub struct NegotiatedParameters {
    /// Data cipher.
    pub cipher: Cipher,
    /// Data keys from the TLS exporter.
    pub tls_ekm: bool,
    /// Wrap renegotiations with a key of their own.
    pub dynamic_tls_crypt: bool,
    /// `EXIT` may be sent as control message.
    pub cc_exit: bool,
    /// `custom-control`: replaces what `INFO,ACC:` may have said before.
    pub app_control: Option<AppControl>,
    /// `reneg-sec` in force; `None` = never.
    pub reneg: Option<Duration>,
}

/// Facts, in protocol words.
#[derive(Debug)]
pub enum Event {
    /// The first authentic packet of the server arrived.
    ServerContacted,
    /// A TLS handshake completed.
    TlsEstablished {
        /// Of which key.
        key_id: KeyId,
        /// e.g. `TLSv1.3, TLS_AES_256_GCM_SHA384, X25519MLKEM768, peer CN=server`
        description: String,
        /// The same as values; not every TLS of a test has them.
        parameters: Option<TlsParameters>,
    },
    /// The first PUSH_REQUEST went out.
    ConfigRequested,
    /// The complete push reply (continuations joined): raw options in order, `push-continuation`
    /// removed. Answer with [`super::ControlChannel::accept_push`].
    Pushed {
        /// Raw options.
        options: PushedOptions,
        /// The server's OCC string (for its cipher).
        server_occ: String,
    },
    /// A key exchange needs user name and password, or a token, and waits for
    /// [`super::ControlChannel::log_in`], for a session by certificate alone with empty ones. The old
    /// key, if there is one, stays in use meanwhile.
    LoginNeeded,
    /// A later PUSH_REPLY. Only a new auth-token in it means anything.
    PushedLater {
        /// Raw options.
        options: PushedOptions,
    },
    /// The complete PUSH_UPDATE (continuations joined): what the server changes of what it pushed, see
    /// [`crate::profile::PushedState::update`].
    PushUpdated {
        /// Raw items.
        update: PushedOptions,
    },
    /// Data keys of a new key id: install (first: primary; later: secondary).
    Keys(KeyConfig),
    /// Send with this key from now on: swap slots.
    PromoteKey(KeyId),
    /// The other slot's key is no longer needed: delete it.
    RetireKey(KeyId),
    /// `INFO`/`INFO_PRE` text that is not a pending-authentication message.
    Info(String),
    /// The server wants something from the user before it goes on.
    PendingAuth(PendingAuth),
    /// AUTH_PENDING: waiting is extended by this much.
    AuthPending {
        /// Seconds the server gives.
        timeout: Option<Duration>,
    },
    /// A message of an application that the server agreed to.
    AppControl(AppMessage),
    /// `RESTART`
    Restart {
        /// Text behind it.
        reason: String,
        /// `[P]`, `[N]`
        flags: RestartFlags,
    },
    /// `HALT`
    Halt {
        /// Text behind it.
        reason: String,
    },
    /// `AUTH_FAILED`
    AuthFailed(AuthFailed),
    /// The server sent `EXIT`.
    ServerExit,
    /// A renegotiation failed but an older key still works; another try follows by itself.
    RenegotiationFailed(ControlError),
    /// The attempt is over. Nothing else follows.
    Closed(ControlError),
}

/// Raw options of a push reply. They may hold an auth-token: wiped on drop, and shown without it.
#[derive(Clone, PartialEq, Eq)]
pub struct PushedOptions(Zeroizing<Vec<String>>);

impl PushedOptions {
    /// Takes the options.
    pub(crate) const fn new(options: Zeroizing<Vec<String>>) -> Self {
        Self(options)
    }
}

impl Deref for PushedOptions {
    type Target = [String];

    fn deref(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Debug for PushedOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|option| loggable(option))).finish()
    }
}

/// Flags of RESTART (and HALT).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RestartFlags {
    /// `P`: keep cached credentials and token. Without it OpenVPN 2 keeps the token, too, and OpenVPN 3
    /// does not.
    pub preserve: bool,
    /// `N`: go to the next remote.
    pub next_remote: bool,
}

/// What `AUTH_FAILED` says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AuthFailed {
    /// These credentials will not do.
    Permanent {
        /// The server's text, may be empty.
        reason: String,
    },
    /// `TEMP`: try again later, with the same credentials.
    Temporary {
        /// `backoff N`
        backoff: Option<Duration>,
        /// `advance no|addr|remote`
        advance: Option<Advance>,
        /// Text.
        message: String,
    },
    /// `CRV1`: a dynamic challenge.
    Challenge {
        /// Flag `E`.
        echo: bool,
        /// Flag `R`.
        response_required: bool,
        /// Opaque.
        state_id: String,
        /// Decoded user name.
        username: String,
        /// Text to show.
        text: String,
    },
}

/// `advance` flag of a temporary authentication failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Advance {
    /// Same address.
    No,
    /// Next address of the same remote.
    Address,
    /// Next remote.
    Remote,
}

/// What the server wants from the user while the connection waits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PendingAuth {
    /// `WEB_AUTH` or `OPEN_URL`
    OpenUrl {
        /// Where to.
        url: WebAddress,
        /// `hidden`, `external`, `proxy=...`
        flags: Vec<String>,
    },
    /// `CR_TEXT`
    Challenge {
        /// Flag `E`.
        echo: bool,
        /// Flag `R`.
        response_required: bool,
        /// Text to show.
        text: String,
    },
    /// A pending-authentication message that cannot be parsed.
    Malformed(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_not_shown() {
        let options = ["route 1.2.3.4", "auth-token SESS_ID", "auth-token-user Y3Ix"];
        let options = options.map(str::to_owned).to_vec();
        let shown = format!("{:?}", PushedOptions::new(Zeroizing::new(options)));
        assert_eq!(shown, r#"["route 1.2.3.4", "auth-token ...", "auth-token ..."]"#);
    }
}
