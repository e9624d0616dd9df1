//! What a profile says, complete and valid: no directive is left to interpret.

mod network;
mod proxy;
mod tls;

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

pub use ovpn_dco::Digest;
use ovpn_dco::{Cipher, Framing};

use super::ciphers;
use super::compression::AllowCompression;
use crate::secret::Secret;

pub use network::*;
pub use proxy::*;
pub use tls::*;

/// A parsed profile. Built by [`crate::profile::Profile::parse`] only.
#[derive(Clone, Debug)]
pub struct Options {
    /// Servers in the order of the profile; at least one.
    pub remotes: Vec<Remote>,
    /// Shuffle the remotes once.
    pub remote_random: bool,
    /// Prepend a random label to host names.
    pub remote_random_hostname: bool,
    /// Reconnect timing and limits.
    pub retry: Retry,
    /// Control channel timers and sizes.
    pub control: ControlOptions,
    /// TLS and certificates.
    pub tls: TlsOptions,
    /// Control channel wrapping.
    pub wrap: WrapOptions,
    /// Where user name and password come from.
    pub auth: AuthOptions,
    /// Data channel.
    pub data: DataOptions,
    /// Device and local sockets.
    pub device: DeviceOptions,
    /// Addresses, routes and DNS of the profile itself.
    pub network: NetworkOptions,
    /// What of a push is accepted.
    pub pull: PullOptions,
    /// `setenv UV_x`, `setenv IV_x` and friends for the peer info, in the order of the profile.
    pub peer_info: Vec<(String, String)>,
    /// Override `enterprise-profile`: which device posture checks the server may ask for. The name of
    /// a profile of the device posture service.
    pub enterprise_profile: Option<String>,
    /// `push-peer-info`: send hardware address, TLS library and platform version too.
    pub push_peer_info: bool,
    /// `verb`, where given (0..=11).
    pub verb: Option<u8>,
    /// `FRIENDLY_NAME`, or the name part of `PROFILE`, from `setenv` or Access Server meta
    /// directives.
    pub friendly_name: Option<String>,
}

/// Transport protocol of a remote.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// One datagram, one packet.
    Udp,
    /// Each packet behind a 16-bit length.
    Tcp,
}

impl Protocol {
    /// As profiles write it: `udp`, `tcp`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

/// As people do: `UDP`, `TCP`.
impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
        })
    }
}

/// Address family wish of a remote.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// Whatever the name resolves to.
    Any,
    /// `udp4`, `tcp4`
    V4,
    /// `udp6`, `tcp6`
    V6,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "IPv4 or IPv6",
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// One server to try.
#[derive(Clone, Debug)]
pub struct Remote {
    /// Host name or address literal.
    pub host: String,
    /// Port, 1..=65535.
    pub port: u16,
    /// Transport.
    pub protocol: Protocol,
    /// Address family.
    pub family: Family,
    /// Proxy to go through (TCP remotes only).
    pub proxy: Option<Proxy>,
    /// `explicit-exit-notify` (UDP only): how many times; 0 = not configured.
    pub explicit_exit_notify: u32,
    /// `local ADDRESS`
    pub local: Option<IpAddr>,
    /// `lport`, or `port` together with `bind`; `None`: any.
    pub local_port: Option<u16>,
    /// The wrapping of its `<connection>` block, in place of [`Options::wrap`].
    pub wrap: Option<WrapOptions>,
}

impl Options {
    /// The wrapping that this of its remotes expects.
    pub fn wrap_for<'a>(&'a self, remote: &'a Remote) -> &'a WrapOptions {
        remote.wrap.as_ref().unwrap_or(&self.wrap)
    }
}

/// A disconnect does not wait for more.
pub const MAX_EXIT_NOTICES: u32 = 3;

/// Reconnecting.
#[derive(Clone, Debug)]
pub struct Retry {
    /// `connect-retry n`: pause before an attempt.
    pub initial: Duration,
    /// `connect-retry n max`
    pub max: Duration,
    /// `connect-retry-max`: rounds over all remotes, `None` = for ever.
    pub rounds: Option<u32>,
    /// `server-poll-timeout` / `connect-timeout`: no answer from a server.
    pub server_poll_timeout: Duration,
    /// `auth-retry`
    pub auth_retry: AuthRetry,
}

/// `auth-retry`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AuthRetry {
    /// Stop; the front end may ask again.
    None,
    /// Try again with the same credentials.
    NoInteract,
}

/// Control channel timers and sizes.
#[derive(Clone, Debug)]
pub struct ControlOptions {
    /// `tls-timeout`, `tls-timeout-ms`: first retransmission interval.
    pub retransmit: Duration,
    /// `hand-window`
    pub hand_window: Duration,
    /// `tran-window`
    pub tran_window: Duration,
    /// `reneg-sec`; `None` = never.
    pub reneg: Option<Duration>,
    /// `max-packet-size`, `mssfix-ctrl`: control datagrams, IP header included (154..=2048).
    pub max_packet_size: usize,
    /// `replay-window n t`: ids and seconds, for control packets.
    pub replay_window: (u32, Duration),
    /// `ping`
    pub ping: Option<Duration>,
    /// `ping-restart`/`ping-exit`
    pub ping_timeout: Option<PingTimeout>,
    /// `inactive SECONDS [BYTES]`
    pub inactive: Option<Inactive>,
    /// `session-timeout`
    pub session_timeout: Option<Duration>,
}

/// What to do after the server has been silent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PingTimeout {
    /// How long.
    pub after: Duration,
    /// `ping-exit` instead of `ping-restart`.
    pub exit: bool,
}

/// `inactive`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inactive {
    /// Period.
    pub after: Duration,
    /// Fewer tunnel bytes than this in a period count as none.
    pub bytes: u64,
}

/// Control channel wrapping, of a profile or of one of its `<connection>` blocks.
#[derive(Clone, Debug)]
pub enum WrapOptions {
    /// Nothing.
    None,
    /// `tls-auth`
    TlsAuth {
        /// 256 bytes (128 where the file has one key and no direction is set).
        key: StaticKey,
        /// `key-direction`; `None` = one key for both directions.
        direction: Option<KeyDirection>,
        /// `auth` digest.
        digest: Digest,
    },
    /// `tls-crypt`
    TlsCrypt {
        /// 256 bytes.
        key: StaticKey,
    },
    /// `tls-crypt-v2`
    TlsCryptV2 {
        /// The client key Kc, 256 bytes.
        key: StaticKey,
        /// The wrapped key, at most 1024 bytes, opaque.
        wrapped: Vec<u8>,
    },
}

/// An OpenVPN static key: 256 bytes (cipher A, HMAC A, cipher B, HMAC B, 64 each).
pub type StaticKey = Secret<Vec<u8>>;

/// `key-direction`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyDirection {
    /// 0: send with key 0.
    Normal,
    /// 1: send with key 1. What clients use.
    Inverse,
}

/// User name and password.
#[derive(Clone, Debug, Default)]
pub struct AuthOptions {
    /// `auth-user-pass` is present: the server wants them.
    pub user_pass: bool,
    /// What the profile (or its file) holds already.
    pub username: Option<String>,
    /// What the profile (or its file) holds already.
    pub password: Option<Secret<String>>,
    /// `static-challenge`
    pub static_challenge: Option<StaticChallenge>,
    /// `auth-nocache`: forget what the user typed once it is sent. False where the profile holds
    /// user name and password ([`Self::is_complete`]): they would be read again, and nobody types.
    pub nocache: bool,
    /// The session needs no credentials: none are asked for in the profile, the profile holds both,
    /// or Access Server marked it (`AUTOLOGIN`).
    pub autologin: bool,
    /// User name that the front end must not change (`USERNAME` meta directive or setenv).
    pub locked_username: Option<String>,
}

impl AuthOptions {
    /// The profile (or its file) holds both user name and password.
    pub const fn is_complete(&self) -> bool {
        self.username.is_some() && self.password.is_some()
    }
}

/// `static-challenge "text" echo [format]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StaticChallenge {
    /// Text to show.
    pub text: String,
    /// Show the response as it is typed.
    pub echo: bool,
    /// `concat` instead of `scrv1`.
    pub concat: bool,
}

/// Data channel.
#[derive(Clone, Debug)]
pub struct DataOptions {
    /// `data-ciphers`, in order.
    pub ciphers: Vec<Cipher>,
    /// `data-ciphers-fallback`
    pub fallback: Option<Cipher>,
    /// `cipher`: only defines the OCC string; the name as written, normalised.
    pub occ_cipher: Option<String>,
    /// `auth`: OCC string and tls-auth digest.
    pub digest: Digest,
    /// The same for CBC ciphers; `None` where `auth` names one that is not known here, and none of
    /// these can be used.
    pub cbc_digest: Option<Digest>,
    /// Compression framing of `comp-lzo`/`compress`; `None`: not configured (not even a stub).
    pub framing: Option<Framing>,
    /// `allow-compression`
    pub allow_compression: AllowCompression,
    /// `tun-mtu`
    pub tun_mtu: u16,
    /// `tun-mtu-max`
    pub tun_mtu_max: u16,
    /// `mssfix`
    pub mssfix: MssFix,
    /// `disable-dco`
    pub disable_dco: bool,
    /// Why the profile cannot use kernel offload, directive by directive (empty: it can).
    pub dco_incompatible: Vec<String>,
}

/// `mssfix`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MssFix {
    /// `mssfix 1492 mtu` when the MTU is 1500, `tun-mtu fixed` otherwise.
    Default,
    /// `mssfix 0`
    Off,
    /// Largest encapsulated packet without outer headers.
    Payload(u16),
    /// Largest outer IP packet.
    Mtu(u16),
    /// Largest inner IP packet.
    Fixed(u16),
}

/// Device and local sockets.
#[derive(Clone, Debug)]
pub struct DeviceOptions {
    /// `dev`: `tun` means "pick tunN"; anything else is the name.
    pub name: String,
    /// `persist-tun`
    pub persist: bool,
    /// `allow-recursive-routing`
    pub allow_recursive_routing: bool,
    /// `txqueuelen`
    pub tx_queue_len: Option<u32>,
    /// `sndbuf`
    pub sndbuf: Option<usize>,
    /// `rcvbuf`
    pub rcvbuf: Option<usize>,
    /// `mark`
    pub mark: Option<u32>,
    /// `bind-dev`
    pub bind_dev: Option<String>,
}

/// What of a push is accepted.
#[derive(Clone, Debug, Default)]
pub struct PullOptions {
    /// `route-nopull`
    pub route_nopull: bool,
    /// `pull-filter`, first match wins.
    pub filters: Vec<PullFilter>,
    /// `route-noexec`: routes are left to somebody else.
    pub route_noexec: bool,
    /// Override `ipv6`: what happens to IPv6 when the server pushes no IPv6 address.
    pub unpushed_ipv6: UnpushedFamily,
    /// Override `dns-fallback-google`: public resolvers where the default route goes through the
    /// tunnel and the server pushes none.
    pub dns_fallback: bool,
    /// Override `dns-setup-disabled`: no DNS settings at all.
    pub dns_disabled: bool,
}

/// What happens to an address family that the server pushes no address for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum UnpushedFamily {
    /// It goes outside of the tunnel, as far as routes say so.
    #[default]
    Allow,
    /// It is blocked.
    Block,
}

/// `pull-filter ACTION TEXT`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PullFilter {
    /// What to do.
    pub action: PullFilterAction,
    /// Start of the option, tokenised: all tokens but the last match exactly, the last is a prefix.
    pub text: String,
}

/// `pull-filter`'s first argument.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "names of the directive")]
pub enum PullFilterAction {
    Accept,
    Ignore,
    Reject,
}

/// What holds when a profile says nothing. Numbers: protocol defaults of OpenVPN 2 and 3; where
/// they differ, OpenVPN 3's.
impl Default for Options {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            remotes: Vec::new(),
            remote_random: false,
            remote_random_hostname: false,
            retry: Retry {
                initial: seconds(1),
                max: seconds(300),
                rounds: None,
                server_poll_timeout: seconds(10),
                auth_retry: AuthRetry::None,
            },
            control: ControlOptions {
                retransmit: seconds(1),
                hand_window: seconds(60),
                tran_window: seconds(3600),
                reneg: Some(seconds(3600)),
                max_packet_size: 1250,
                replay_window: (64, seconds(15)),
                ping: None,
                ping_timeout: None,
                inactive: None,
                session_timeout: None,
            },
            tls: TlsOptions::default(),
            wrap: WrapOptions::None,
            auth: AuthOptions::default(),
            data: DataOptions {
                ciphers: ciphers::DEFAULT.to_vec(),
                fallback: None,
                occ_cipher: None,
                digest: Digest::Sha1,
                cbc_digest: Some(Digest::Sha1),
                framing: None,
                allow_compression: AllowCompression::default(),
                tun_mtu: 1500,
                tun_mtu_max: 1600,
                mssfix: MssFix::Default,
                disable_dco: false,
                dco_incompatible: Vec::new(),
            },
            device: DeviceOptions {
                name: "tun".to_owned(),
                persist: false,
                allow_recursive_routing: false,
                tx_queue_len: None,
                sndbuf: None,
                rcvbuf: None,
                mark: None,
                bind_dev: None,
            },
            network: NetworkOptions::default(),
            pull: PullOptions::default(),
            peer_info: Vec::new(),
            enterprise_profile: None,
            push_peer_info: false,
            verb: None,
            friendly_name: None,
        }
    }
}
