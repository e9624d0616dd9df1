//! A proxy between here and a server.

use crate::secret::Credentials;

/// A proxy that a server is reached through. TCP remotes only.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Credentials given in the profile.
    pub credentials: Option<Credentials>,
    /// What is spoken with it.
    pub kind: ProxyKind,
}

/// What is spoken with a proxy.
#[derive(Clone, Debug)]
pub enum ProxyKind {
    /// `http-proxy`: HTTP CONNECT.
    Http(HttpProxy),
    /// `socks-proxy`: SOCKS 5, CONNECT.
    Socks5,
}

impl Proxy {
    /// The directive that names such a proxy.
    pub const fn directive(&self) -> &'static str {
        match self.kind {
            ProxyKind::Http(_) => "http-proxy",
            ProxyKind::Socks5 => "socks-proxy",
        }
    }

    /// Whether the password may be sent readably. SOCKS has no other way.
    pub(in crate::profile) const fn allow_cleartext(&mut self, allowed: bool) {
        match &mut self.kind {
            ProxyKind::Http(http) if allowed => http.auth = ProxyAuth::Any,
            ProxyKind::Http(http) => http.auth = ProxyAuth::NoCleartext,
            ProxyKind::Socks5 => {}
        }
    }
}

/// What the profile says about HTTP requests to a proxy.
#[derive(Clone, Debug)]
pub struct HttpProxy {
    /// Whether the profile names an authentication method (or a file) at all.
    pub auth: ProxyAuth,
    /// `http-proxy-option VERSION`, `1.0` or `1.1`.
    pub version: String,
    /// `http-proxy-option AGENT`
    pub user_agent: Option<String>,
    /// `http-proxy-option CUSTOM-HEADER name [value]`
    pub custom_headers: Vec<(String, Option<String>)>,
}

impl HttpProxy {
    /// Nothing is said but how it may ask for a password.
    pub fn new(auth: ProxyAuth) -> Self {
        Self { auth, version: "1.0".to_owned(), user_agent: None, custom_headers: Vec::new() }
    }
}

/// What a proxy may ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProxyAuth {
    /// Nobody has said. Credentials are asked for if the proxy wants any.
    None,
    /// Any method.
    Any,
    /// Any method that does not send the password readably.
    NoCleartext,
}
