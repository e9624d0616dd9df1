//! What a profile says, complete and valid: no directive is left to interpret.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ovpn_dco::{Cipher, Framing};

use crate::secret::{Credentials, Secret};

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
    /// `push-peer-info`: send hardware address, TLS library and platform version too.
    pub push_peer_info: bool,
    /// `verb`, where given (0..=11).
    pub verb: Option<u8>,
    /// `FRIENDLY_NAME`, or the name part of `PROFILE`, from `setenv` or Access Server meta
    /// directives.
    pub friendly_name: Option<String>,
    /// `echo` and other directives a front end may want: name to arguments.
    pub extras: BTreeMap<String, Vec<String>>,
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
    /// HTTP proxy to go through (TCP remotes only).
    pub http_proxy: Option<HttpProxy>,
    /// `explicit-exit-notify` (UDP only): how many times, 0 = off.
    pub explicit_exit_notify: u32,
    /// `local ADDRESS`
    pub local: Option<IpAddr>,
    /// `lport`, or `port` together with `bind`; `None`: any.
    pub local_port: Option<u16>,
    /// `float`: accept authenticated packets from other addresses.
    pub float: bool,
}

/// `http-proxy`
#[derive(Clone, Debug)]
pub struct HttpProxy {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Credentials given in the profile.
    pub credentials: Option<Credentials>,
    /// Whether the profile names an authentication method (or a file) at all.
    pub auth: ProxyAuth,
    /// `http-proxy-option VERSION`, `1.0` or `1.1`.
    pub version: String,
    /// `http-proxy-option AGENT`
    pub user_agent: Option<String>,
    /// `http-proxy-option CUSTOM-HEADER name [value]`
    pub custom_headers: Vec<(String, Option<String>)>,
}

/// What a proxy may ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProxyAuth {
    /// No authentication.
    None,
    /// Any method.
    Any,
    /// Any method that does not send the password readably.
    NoCleartext,
}

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
    /// `resolv-retry`: `None` = infinite.
    pub resolve: Option<Duration>,
    /// `auth-retry`
    pub auth_retry: AuthRetry,
}

/// `auth-retry`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AuthRetry {
    /// Stop.
    None,
    /// Try again with the same credentials.
    NoInteract,
    /// Ask again.
    Interact,
}

/// Control channel timers and sizes.
#[derive(Clone, Debug)]
pub struct ControlOptions {
    /// `tls-timeout`: first retransmission interval.
    pub retransmit: Duration,
    /// `hand-window`
    pub hand_window: Duration,
    /// `tran-window`
    pub tran_window: Duration,
    /// `reneg-sec`; `None` = never.
    pub reneg: Option<Duration>,
    /// `reneg-bytes`
    pub reneg_bytes: Option<u64>,
    /// `reneg-pkts`
    pub reneg_packets: Option<u64>,
    /// `max-packet-size`: control datagrams, IP header included (154..=2048).
    pub max_packet_size: usize,
    /// `replay-window n t`: ids and seconds (control channel; also userspace data).
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

/// TLS and certificate verification, as OpenVPN defines it.
#[derive(Clone, Debug)]
pub struct TlsOptions {
    /// `ca`: PEM text. `None` only with `peer_fingerprints`, or with a PKCS#12 `key` that brings the
    /// CA.
    pub ca: Option<String>,
    /// `cert`: PEM text of the client certificate (chain).
    pub cert: Option<String>,
    /// `extra-certs`: PEM text.
    pub extra_certs: Option<String>,
    /// Client key.
    pub key: Option<KeySource>,
    /// `askpass FILE`: passphrase of the private key.
    pub key_passphrase: Option<Secret<String>>,
    /// `crl-verify`: PEM text.
    pub crl: Option<String>,
    /// `tls-version-min` (default 1.2).
    pub version_min: TlsVersion,
    /// `tls-version-max`
    pub version_max: TlsVersion,
    /// `tls-cert-profile`
    pub cert_profile: CertProfile,
    /// `tls-cipher`: names as written, for TLS 1.2.
    pub ciphers: Option<Vec<String>>,
    /// `tls-ciphersuites`: names as written, for TLS 1.3.
    pub ciphersuites: Option<Vec<String>>,
    /// `tls-groups`: names as written.
    pub groups: Option<Vec<String>>,
    /// `remote-cert-tls`
    pub remote_cert_tls: Option<CertUsage>,
    /// `remote-cert-ku`: masks of the first key usage byte. `Some([])`: key usage must be present.
    pub remote_cert_ku: Option<Vec<u8>>,
    /// `remote-cert-eku`: dotted OID or long name.
    pub remote_cert_eku: Option<String>,
    /// `ns-cert-type server`
    pub ns_cert_type: Option<CertUsage>,
    /// `verify-x509-name`
    pub verify_x509_name: Option<X509Name>,
    /// `peer-fingerprint`: SHA-256 of the leaf.
    pub peer_fingerprints: Vec<[u8; 32]>,
    /// `verify-hash`: SHA-256 or SHA-1 of the certificate that issued the leaf.
    pub verify_hash: Option<VerifyHash>,
    /// `sni`: server name indication to send.
    pub sni: Option<String>,
}

/// Where the private key is.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// `key`: PEM text.
    Pem(Secret<String>),
    /// `pkcs12`: DER.
    Pkcs12(Secret<Vec<u8>>),
    /// External PKI: signatures are asked for through the user-input queue.
    External,
}

/// TLS protocol version.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum TlsVersion {
    V1_0,
    V1_1,
    V1_2,
    V1_3,
}

/// `tls-cert-profile`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "names of the directive")]
pub enum CertProfile {
    Insecure,
    Legacy,
    Preferred,
    SuiteB,
}

/// Which side's certificate a check wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CertUsage {
    /// TLS server.
    Server,
    /// TLS client.
    Client,
}

/// `verify-x509-name NAME [TYPE]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum X509Name {
    /// Whole subject DN, `C=US, O=x, CN=y`.
    Subject(String),
    /// Common name.
    Name(String),
    /// Start of the common name.
    NamePrefix(String),
}

/// `verify-hash`
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum VerifyHash {
    /// 32 bytes.
    Sha256([u8; 32]),
    /// 20 bytes.
    Sha1([u8; 20]),
}

/// Control channel wrapping of a profile. A `<connection>` block's own wrapping is not supported
/// (refused by the parser with a reason).
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

/// HMAC digests of `auth`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Digest {
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

#[expect(clippy::len_without_is_empty, reason = "a digest is never empty")]
impl Digest {
    /// OpenVPN's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "SHA1",
            Self::Sha224 => "SHA224",
            Self::Sha256 => "SHA256",
            Self::Sha384 => "SHA384",
            Self::Sha512 => "SHA512",
        }
    }

    /// Output length in bytes.
    pub const fn len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha224 => 28,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }
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
    /// `auth-nocache`
    pub nocache: bool,
    /// The session needs no credentials: none are asked for in the profile, the profile holds both,
    /// or Access Server marked it (`AUTOLOGIN`).
    pub autologin: bool,
    /// User name that the front end must not change (`USERNAME` meta directive or setenv).
    pub locked_username: Option<String>,
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

/// `allow-compression`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AllowCompression {
    /// Refuse a push of real compression.
    No,
    /// Decompress only (not supported: refused like `No`, with a warning).
    Asym,
    /// Same.
    Yes,
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

/// Addresses, routes, DNS: what the profile says, or what a push says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkOptions {
    /// `topology`
    pub topology: Option<Topology>,
    /// `ifconfig LOCAL NETMASK|PEER`
    pub ifconfig: Option<(Ipv4Addr, Ipv4Addr)>,
    /// `ifconfig-ipv6 ADDRESS/BITS [REMOTE]`
    pub ifconfig_ipv6: Option<(Ipv6Addr, u8, Option<Ipv6Addr>)>,
    /// `route-gateway`
    pub route_gateway: Option<Ipv4Addr>,
    /// `route-ipv6-gateway`
    pub route_ipv6_gateway: Option<Ipv6Addr>,
    /// `route-metric`
    pub route_metric: Option<u32>,
    /// `route` and `route-ipv6`, in order.
    pub routes: Vec<Route>,
    /// `redirect-gateway` / `redirect-private`
    pub redirect: Option<RedirectGateway>,
    /// `block-ipv6`
    pub block_ipv6: bool,
    /// `block-ipv4`
    pub block_ipv4: bool,
    /// DNS.
    pub dns: DnsOptions,
    /// `tun-mtu` of a push.
    pub tun_mtu: Option<u16>,
}

/// `topology`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "names of the directive")]
pub enum Topology {
    Subnet,
    Net30,
    P2p,
}

/// One `route` or `route-ipv6`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    /// Destination network (host bits zero), or a keyword/host name to resolve when applied.
    pub destination: RouteDestination,
    /// Prefix length.
    pub prefix: u8,
    /// Where to.
    pub gateway: RouteGateway,
    /// Metric.
    pub metric: Option<u32>,
}

/// Where a route leads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RouteDestination {
    /// A network.
    Net(IpAddr),
    /// `remote_host`: the server's own address.
    RemoteHost,
    /// `vpn_gateway`
    VpnGateway,
    /// `net_gateway`
    NetGateway,
}

/// Through what a route leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RouteGateway {
    /// Into the tunnel (`vpn_gateway`, `default`, or nothing).
    Vpn,
    /// The gateway the host had before (`net_gateway`).
    Net,
    /// The server's address (`remote_host`).
    RemoteHost,
    /// An address.
    Address(IpAddr),
}

/// `redirect-gateway` (or `redirect-private`: everything but the default routes).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RedirectGateway {
    /// `redirect-private`
    pub private: bool,
    /// Redirect IPv4 (not `!ipv4`).
    pub ipv4: bool,
    /// `ipv6`
    pub ipv6: bool,
    /// `def1`: two half routes instead of replacing the default route.
    pub def1: bool,
    /// `local`: the server is on the local network, no host route.
    pub local: bool,
    /// `autolocal`: as `local` if it is.
    pub autolocal: bool,
    /// `bypass-dhcp`
    pub bypass_dhcp: bool,
    /// `bypass-dns`
    pub bypass_dns: bool,
    /// `block-local`: no access to the local network.
    pub block_local: bool,
}

/// DNS, in the new (`dns`) and the old (`dhcp-option`) form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsOptions {
    /// `dns server N ...`, by priority (-128..=127).
    pub servers: BTreeMap<i8, DnsServer>,
    /// `dns search-domains`
    pub search_domains: Vec<String>,
    /// `dhcp-option DNS|DNS6`; ignored when `servers` is not empty.
    pub dhcp_servers: Vec<IpAddr>,
    /// `dhcp-option DOMAIN|DOMAIN-SEARCH`; ignored when `servers` is not empty. In
    /// [`crate::profile::SessionOptions`] the last `ADAPTER_DOMAIN_SUFFIX` stands first.
    pub dhcp_domains: Vec<String>,
    /// `dhcp-option ADAPTER_DOMAIN_SUFFIX`, the last one; moved into `dhcp_domains` once the push
    /// is complete.
    pub adapter_domain_suffix: Option<String>,
}

/// One `dns server`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsServer {
    /// 1..=8 addresses with ports (0: default).
    pub addresses: Vec<(IpAddr, u16)>,
    /// `resolve-domains`: split DNS.
    pub resolve_domains: Vec<String>,
    /// `dnssec`
    pub dnssec: Option<DnsSec>,
    /// `transport`
    pub transport: Option<DnsTransport>,
    /// `sni`
    pub sni: Option<String>,
}

/// `dnssec`
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize, serde::Deserialize,
)]
#[expect(missing_docs, reason = "names of the directive")]
pub enum DnsSec {
    Yes,
    Optional,
    No,
}

/// `transport`
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize, serde::Deserialize,
)]
#[expect(missing_docs, reason = "names of the directive")]
pub enum DnsTransport {
    Plain,
    DoH,
    DoT,
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
