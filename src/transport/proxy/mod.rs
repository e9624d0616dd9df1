//! Proxies on the way to a server: what each protocol needs is a file of its own here, and a
//! [`ProxyKind`].

mod http;
mod socks5;

use std::io;
use std::time::Duration;

use tokio::net::TcpStream;

use super::TransportError;
use super::socket::{Dial, Protect};
use crate::profile::{Proxy, ProxyKind};
use crate::secret::Credentials;

/// How long a proxy may take for one answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where a proxy is to connect to, and what to tell it about us.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    /// Name or address of the server.
    pub(super) host: &'a str,
    pub(super) port: u16,
    /// Of the user, or else of the profile.
    pub(super) credentials: Option<&'a Credentials>,
}

/// A stream to the server that `request` names, through the proxy that `dial` leads to.
pub(super) async fn open(
    proxy: &Proxy,
    request: Request<'_>,
    dial: &Dial<'_, impl Protect>,
) -> Result<TcpStream, TransportError> {
    match &proxy.kind {
        ProxyKind::Http(http) => http::open(http, request, dial).await,
        ProxyKind::Socks5 => socks5::open(request, dial).await,
    }
}

/// Why a proxy did not let us through. `proxy` is its kind, in words.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// It wants credentials and there are none.
    #[error("the {proxy} wants a user name and password")]
    NeedCredentials {
        /// Which kind of proxy.
        proxy: &'static str,
    },
    /// It does not accept the credentials.
    #[error("the {proxy} did not accept the user name and password")]
    BadCredentials {
        /// Which kind of proxy.
        proxy: &'static str,
    },
    /// It offers no method that may be used.
    #[error("the {proxy} offers no usable authentication method ({offered}); {hint}")]
    NoMethod {
        /// Which kind of proxy.
        proxy: &'static str,
        /// What it offers.
        offered: String,
        /// What to do.
        hint: &'static str,
    },
    /// It refused for another reason.
    #[error("the {proxy} refused to connect to {target}: {reason}")]
    Refused {
        /// Which kind of proxy.
        proxy: &'static str,
        /// `host:port`
        target: String,
        /// Its own words: text or a number of its protocol.
        reason: String,
        /// Whether trying again later may help.
        transient: bool,
    },
    /// Its answer is not of its protocol, or too long.
    #[error("the {proxy}'s answer cannot be understood: {reason}")]
    Malformed {
        /// Which kind of proxy.
        proxy: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The connection to it broke or stalled.
    #[error("connection to the {proxy}: {source}")]
    Io {
        /// Which kind of proxy.
        proxy: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl ProxyError {
    /// Whether trying again later may help (bad gateway, overload, broken connection).
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Io { .. } => true,
            Self::Refused { transient, .. } => *transient,
            _ => false,
        }
    }
}
