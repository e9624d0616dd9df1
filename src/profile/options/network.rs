//! Addresses, routes and DNS.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::profile::domain::DomainName;

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
    pub search_domains: Vec<DomainName>,
    /// `dhcp-option DNS|DNS6`; ignored when `servers` is not empty.
    pub dhcp_servers: Vec<IpAddr>,
    /// `dhcp-option DOMAIN|DOMAIN-SEARCH`; ignored when `servers` is not empty. In
    /// [`crate::profile::SessionOptions`] the last `ADAPTER_DOMAIN_SUFFIX` stands first.
    pub dhcp_domains: Vec<DomainName>,
    /// `dhcp-option ADAPTER_DOMAIN_SUFFIX`, the last one; moved into `dhcp_domains` once the push
    /// is complete.
    pub adapter_domain_suffix: Option<DomainName>,
    /// Priorities of servers with a setting that was refused, until the push is complete.
    pub refused: BTreeSet<i8>,
}

/// One `dns server`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsServer {
    /// 1..=8 addresses with ports (0: default).
    pub addresses: Vec<(IpAddr, u16)>,
    /// `resolve-domains`: split DNS.
    pub resolve_domains: Vec<DomainName>,
    /// `dnssec`
    pub dnssec: Option<DnsSec>,
    /// `transport`
    pub transport: Option<DnsTransport>,
    /// `sni`
    pub sni: Option<DomainName>,
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
