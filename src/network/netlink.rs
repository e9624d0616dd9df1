//! The rtnetlink operations this module needs, one at a time, and their answers as own types.

use std::fs;
use std::io;
use std::net::IpAddr;

use futures_util::{StreamExt, TryStreamExt, stream};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoKind, LinkAttribute, LinkFlags, LinkInfo,
    LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHop,
    RouteNextHopFlags, RouteProtocol, RouteScope, RouteType, RouteVia,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use rtnetlink::{Handle, IpVersion, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};
use tokio::task::JoinHandle;

use super::fib::{Fib, FibRoute, FibRule, Hop, RouteKind, RuleKind};
use super::plan::{PlannedRoute, RouteKey, RouteTarget, TunnelAddress};
use super::types::Network;

/// The routing protocol number (`RTPROT_*`) of every route made here: tells them from the host's
/// own, so that undoing can never take one of those. Not assigned to anyone in
/// `include/uapi/linux/rtnetlink.h` or iproute2's `rt_protos`.
pub(super) const PROTOCOL: u8 = 79;

pub(super) const MAIN_TABLE: u32 = 254;

/// How many changes are sent before the first is answered. The answers wait in the socket's buffer,
/// which by default holds some hundred.
const UNDERWAY: usize = 64;

/// A netlink socket in the namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Netlink {
    handle: Handle,
    driver: JoinHandle<()>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// The settings of a link that a plan changes.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct LinkState {
    pub up: bool,
    pub mtu: u32,
    pub tx_queue_len: u32,
    /// `IN6_ADDR_GEN_MODE_*`; `None`: the link has no IPv6.
    pub address_generation: Option<u8>,
}

/// A link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Link {
    pub index: u32,
    pub name: String,
    /// `ovpn`, `tun`, `veth`, ...; empty for hardware.
    pub kind: String,
    pub state: LinkState,
    /// It has a carrier.
    pub running: bool,
}

impl Netlink {
    /// Opens a socket. Must be called inside a tokio runtime.
    pub(super) fn open() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok(Self { handle, driver: tokio::spawn(connection) })
    }

    /// All links.
    pub(super) async fn links(&self) -> io::Result<Vec<Link>> {
        let messages: Vec<LinkMessage> =
            self.handle.link().get().execute().try_collect().await.map_err(to_io)?;
        Ok(messages.iter().map(parse_link).collect())
    }

    /// The link of a number; `None`: there is none.
    pub(super) async fn link(&self, index: u32) -> io::Result<Option<Link>> {
        let answer = self.handle.link().get().match_index(index).execute().try_next().await;
        match answer.map_err(to_io) {
            Ok(message) => Ok(message.as_ref().map(parse_link)),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets MTU and queue length.
    pub(super) async fn set_link(&self, index: u32, mtu: u32, tx_queue_len: u32) -> io::Result<()> {
        let message = LinkUnspec::new_with_index(index).mtu(mtu).txqueuelen(tx_queue_len);
        self.change_link(message).await
    }

    /// Sets a link up or down.
    pub(super) async fn set_up(&self, index: u32, up: bool) -> io::Result<()> {
        let message = LinkUnspec::new_with_index(index);
        self.change_link(if up { message.up() } else { message.down() }).await
    }

    /// Chooses how the link gets its IPv6 link-local address (`addr_gen_mode`).
    pub(super) async fn set_address_generation(&self, index: u32, mode: u8) -> io::Result<()> {
        let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::from(mode));
        let attribute = LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])]);
        self.change_link(LinkUnspec::new_with_index(index).append_extra_attribute(attribute)).await
    }

    async fn change_link(&self, message: LinkMessageBuilder<LinkUnspec>) -> io::Result<()> {
        self.handle.link().change(message.build()).execute().await.map_err(to_io)
    }

    /// Deletes a link.
    pub(super) async fn delete_link(&self, index: u32) -> io::Result<()> {
        self.handle.link().del(index).execute().await.map_err(to_io)
    }

    /// Adds an address to a link.
    pub(super) async fn add_address(&self, index: u32, address: &TunnelAddress) -> io::Result<()> {
        let mut request = self.handle.address().add(index, address.address, address.prefix);
        *request.message_mut() = address_message(index, address);
        request.execute().await.map_err(to_io)
    }

    /// Deletes an address from a link.
    pub(super) async fn delete_address(
        &self,
        index: u32,
        address: &TunnelAddress,
    ) -> io::Result<()> {
        let message = address_message(index, address);
        self.handle.address().del(message).execute().await.map_err(to_io)
    }

    /// All addresses, each with the index of its link. Without link-local ones.
    pub(super) async fn addresses(&self) -> io::Result<Vec<(u32, TunnelAddress)>> {
        let not_local = |message: &AddressMessage| message.header.scope != AddressScope::Link;
        self.addresses_where(not_local).await
    }

    /// All addresses of a link.
    pub(super) async fn addresses_of(&self, link: u32) -> io::Result<Vec<TunnelAddress>> {
        let found = self.addresses_where(|message| message.header.index == link).await?;
        Ok(found.into_iter().map(|(_, address)| address).collect())
    }

    async fn addresses_where(
        &self,
        wanted: impl Fn(&AddressMessage) -> bool,
    ) -> io::Result<Vec<(u32, TunnelAddress)>> {
        let messages: Vec<AddressMessage> =
            self.handle.address().get().execute().try_collect().await.map_err(to_io)?;
        Ok(messages
            .iter()
            .filter(|message| wanted(message))
            .filter_map(|message| Some((message.header.index, parse_address(message)?)))
            .collect())
    }

    /// Adds routes, in this order. `tunnel`: index of the tunnel's interface. One answer for each.
    pub(super) async fn add_routes(
        &self,
        routes: impl IntoIterator<Item = &PlannedRoute>,
        tunnel: u32,
    ) -> Vec<io::Result<()>> {
        let mut requests = Vec::new();
        for route in routes {
            let request = route_message(route, tunnel).map(|m| self.handle.route().add(m));
            requests.push(async move { request?.execute().await.map_err(to_io) });
        }
        stream::iter(requests).buffered(UNDERWAY).collect().await
    }

    /// Deletes routes made by [`Self::add_routes`] for an interface of that index, and only such
    /// ones. One answer for each.
    pub(super) async fn delete_routes(
        &self,
        routes: impl IntoIterator<Item = (&PlannedRoute, u32)>,
    ) -> Vec<io::Result<()>> {
        let mut requests = Vec::new();
        for (route, tunnel) in routes {
            let request = route_message(route, tunnel).map(|m| self.handle.route().del(m));
            requests.push(async move { request?.execute().await.map_err(to_io) });
        }
        stream::iter(requests).buffered(UNDERWAY).collect().await
    }

    /// Deletes a route of the main table that leads to a link, whoever made it.
    pub(super) async fn delete_route_to_link(
        &self,
        (destination, metric): RouteKey,
        link: u32,
    ) -> io::Result<()> {
        let mut message = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(destination.address(), destination.prefix())
            .map_err(io::Error::other)?
            .output_interface(link)
            .priority(metric)
            .build();
        // Any.
        message.header.protocol = RouteProtocol::Unspec;
        message.header.scope = RouteScope::NoWhere;
        self.handle.route().del(message).execute().await.map_err(to_io)
    }

    /// The entry the kernel would use for a packet; `None`: it has none.
    pub(super) async fn route_to(
        &self,
        address: IpAddr,
        mark: Option<u32>,
        device: Option<u32>,
    ) -> io::Result<Option<FibRoute>> {
        let mut builder = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(address, if address.is_ipv4() { 32 } else { 128 })
            .map_err(io::Error::other)?;
        if let Some(mark) = mark {
            builder = builder.mark(mark);
        }
        if let Some(device) = device {
            builder = builder.output_interface(device);
        }
        let mut message = builder.build();
        // Some fields are for new routes only; strict kernels refuse them in a question.
        message.header.table = 0;
        message.header.protocol = RouteProtocol::Unspec;
        message.header.kind = RouteType::Unspec;
        message.header.flags = RouteFlags::LookupTable | RouteFlags::FibMatch;
        let answer = self.handle.route().get(message).execute().try_collect::<Vec<_>>().await;
        match answer.map_err(to_io) {
            Ok(routes) => Ok(routes.first().and_then(parse_route)),
            Err(error) => match error.raw_os_error() {
                // What unreachable, prohibit and blackhole routes, and their absence, answer.
                Some(
                    libc::ENETUNREACH
                    | libc::EHOSTUNREACH
                    | libc::EACCES
                    | libc::EINVAL
                    | libc::ESRCH
                    | libc::ENODEV
                    | libc::EAFNOSUPPORT,
                ) => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// Rules and routes of a family. Empty for a family that the kernel does not have.
    pub(super) async fn fib(&self, ipv6: bool) -> io::Result<Fib> {
        let version = || if ipv6 { IpVersion::V6 } else { IpVersion::V4 };
        let mut all = RouteMessage::default();
        all.header.address_family = if ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
        let routes = self.handle.route().get(all).execute().try_collect::<Vec<_>>().await;
        let routes = present(routes.map_err(to_io))?;
        let rules = self.handle.rule().get(version()).execute().try_collect::<Vec<_>>().await;
        let mut rules: Vec<FibRule> =
            present(rules.map_err(to_io))?.iter().map(parse_rule).collect();
        if rules.is_empty() {
            // A kernel without policy routing: local, then main.
            rules = [255, MAIN_TABLE].map(FibRule::plain).to_vec();
        }
        Ok(Fib { rules, routes: routes.iter().filter_map(parse_route).collect() })
    }
}

/// An empty list for a family that the kernel does not have.
fn present<T>(answer: io::Result<Vec<T>>) -> io::Result<Vec<T>> {
    match answer {
        Err(error)
            if matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP)) =>
        {
            Ok(Vec::new())
        }
        other => other,
    }
}

/// Whether new interfaces of this namespace get IPv6.
pub(super) fn ipv6_enabled() -> bool {
    let enabled = |which: &str| {
        fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6"))
            .is_ok_and(|value| value.trim() == "0")
    };
    enabled("default") && enabled("all")
}

fn to_io(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    }
}

pub(super) fn parse_link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        kind: String::new(),
        state: LinkState {
            up: message.header.flags.contains(LinkFlags::Up),
            mtu: 0,
            tx_queue_len: 0,
            address_generation: None,
        },
        running: message.header.flags.contains(LinkFlags::Running),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.state.mtu = *mtu,
            LinkAttribute::TxQueueLen(length) => link.state.tx_queue_len = *length,
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Kind(kind) = info {
                        link.kind = kind_name(kind);
                    }
                }
            }
            LinkAttribute::AfSpecUnspec(families) => {
                link.state.address_generation = families.iter().find_map(|family| match family {
                    AfSpecUnspec::Inet6(values) => values.iter().find_map(|value| match value {
                        AfSpecInet6::AddrGenMode(mode) => Some(u8::from(mode)),
                        _ => None,
                    }),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    link
}

fn kind_name(kind: &InfoKind) -> String {
    kind.to_string()
}

fn parse_address(message: &AddressMessage) -> Option<TunnelAddress> {
    let (mut local, mut address) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => address = Some(*ip),
            _ => {}
        }
    }
    let own = local.or(address)?;
    let peer = address.filter(|address| *address != own);
    Some(TunnelAddress { address: own, prefix: message.header.prefix_len, peer })
}

fn address_message(index: u32, address: &TunnelAddress) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = address.prefix;
    message.header.family =
        if address.address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.attributes = vec![
        AddressAttribute::Local(address.address),
        AddressAttribute::Address(address.peer.unwrap_or(address.address)),
    ];
    let mut flags = AddressFlags::empty();
    if address.address.is_ipv6() {
        // Nobody else can have it: the tunnel has one other end.
        flags |= AddressFlags::Nodad;
    }
    if !flags.is_empty() {
        message.attributes.push(AddressAttribute::Flags(flags));
    }
    message
}

fn route_message(route: &PlannedRoute, tunnel: u32) -> io::Result<RouteMessage> {
    let mut builder = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(route.destination.address(), route.destination.prefix())
        .map_err(io::Error::other)?
        .protocol(RouteProtocol::from(PROTOCOL));
    let mut metrics = Vec::new();
    let mut source = route.source;
    match &route.target {
        RouteTarget::Tunnel => builder = builder.output_interface(tunnel).scope(RouteScope::Link),
        RouteTarget::Unreachable => builder = builder.kind(RouteType::Unreachable),
        RouteTarget::Gateway(gateway) => {
            builder = builder.gateway(*gateway).map_err(io::Error::other)?;
        }
        RouteTarget::Outside(path) => {
            builder = builder.output_interface(path.index);
            match path.gateway {
                Some(gateway) => builder = builder.gateway(gateway).map_err(io::Error::other)?,
                None => builder = builder.scope(RouteScope::Link),
            }
            if path.onlink {
                builder = builder.onlink();
            }
            source = source.or(path.source);
            metrics.extend(path.mtu.map(RouteMetric::Mtu));
        }
    }
    if let Some(source) = source {
        builder = builder.pref_source(source).map_err(io::Error::other)?;
    }
    // Without one the kernel would delete a route of any metric.
    builder = builder.priority(route.kernel_metric());
    let mut message = builder.build();
    if route.destination.is_ipv6() {
        // IPv6 knows no scopes of routes.
        message.header.scope = RouteScope::Universe;
    }
    if !metrics.is_empty() {
        message.attributes.push(RouteAttribute::Metrics(metrics));
    }
    Ok(message)
}

pub(super) fn parse_route(message: &RouteMessage) -> Option<FibRoute> {
    let ipv6 = match message.header.address_family {
        AddressFamily::Inet => false,
        AddressFamily::Inet6 => true,
        _ => return None,
    };
    // Cached entries (redirects, path MTUs) are no configuration.
    if message.header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let any: IpAddr = if ipv6 { IpAddr::V6([0; 16].into()) } else { IpAddr::V4([0; 4].into()) };
    let mut route = FibRoute {
        destination: Network::new(any, 0)?,
        table: message.header.table.into(),
        metric: 0,
        kind: match message.header.kind {
            RouteType::Unicast => RouteKind::Unicast,
            RouteType::Local => RouteKind::Local,
            RouteType::Throw => RouteKind::Throw,
            RouteType::Unreachable | RouteType::Prohibit | RouteType::BlackHole => {
                RouteKind::Refuse
            }
            _ => RouteKind::Other,
        },
        protocol: message.header.protocol.into(),
        hops: Vec::new(),
        source: None,
        mtu: None,
    };
    let flags = message.header.flags;
    let mut hop = Hop {
        gateway: None,
        index: 0,
        onlink: flags.contains(RouteFlags::Onlink),
        dead: flags.contains(RouteFlags::Dead),
    };
    let mut destination = any;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip_address(address)?,
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::PrefSource(address) => route.source = ip_address(address),
            RouteAttribute::Oif(index) => hop.index = *index,
            RouteAttribute::Gateway(address) => hop.gateway = ip_address(address),
            RouteAttribute::Via(via) => hop.gateway = via_address(via),
            RouteAttribute::MultiPath(hops) => {
                route.hops = hops.iter().map(parse_hop).collect();
            }
            RouteAttribute::Metrics(metrics) => {
                route.mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    if hop.index != 0 && route.hops.is_empty() {
        route.hops.push(hop);
    }
    route.destination = Network::new(destination, message.header.destination_prefix_length)?;
    Some(route)
}

fn parse_hop(hop: &RouteNextHop) -> Hop {
    let gateway = hop.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => ip_address(address),
        RouteAttribute::Via(via) => via_address(via),
        _ => None,
    });
    Hop {
        gateway,
        index: hop.interface_index,
        onlink: hop.flags.contains(RouteNextHopFlags::Onlink),
        dead: hop.flags.contains(RouteNextHopFlags::Dead),
    }
}

fn ip_address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn via_address(via: &RouteVia) -> Option<IpAddr> {
    match via {
        RouteVia::Inet(address) => Some((*address).into()),
        RouteVia::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

pub(super) fn parse_rule(message: &RuleMessage) -> FibRule {
    let mut table = u32::from(message.header.table);
    let mut goto = None;
    let mut mark = None;
    let mut mask = None;
    let mut rule = FibRule::plain(0);
    rule.invert = message.header.flags.contains(RuleFlags::Invert);
    rule.unknown_selector = message.header.src_len != 0 || message.header.tos != 0;
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Table(number) => table = *number,
            RuleAttribute::Goto(priority) => goto = Some(*priority),
            RuleAttribute::FwMark(value) => mark = Some(*value),
            RuleAttribute::FwMask(value) => mask = Some(*value),
            RuleAttribute::Destination(address) => {
                rule.destination = Network::new(*address, message.header.dst_len);
            }
            RuleAttribute::Oifname(name) => rule.out_device = Some(name.clone()),
            RuleAttribute::SuppressPrefixLen(length) => {
                // All ones: nothing is suppressed.
                rule.suppress_prefix = u8::try_from(*length).ok();
            }
            RuleAttribute::Iifname(_)
            | RuleAttribute::L3MDev(true)
            | RuleAttribute::UidRange(_)
            | RuleAttribute::IpProtocol(_)
            | RuleAttribute::SourcePortRange(_)
            | RuleAttribute::DestinationPortRange(_) => rule.unknown_selector = true,
            _ => {}
        }
    }
    rule.mark = mark.map(|mark| (mark, mask.unwrap_or(u32::MAX)));
    rule.action = match message.header.action {
        RuleAction::ToTable => RuleKind::Table(table),
        RuleAction::Goto => goto.map_or(RuleKind::Nothing, RuleKind::Goto),
        RuleAction::Blackhole | RuleAction::Unreachable | RuleAction::Prohibit => RuleKind::Refuse,
        _ => RuleKind::Nothing,
    };
    rule
}

impl FibRule {
    fn plain(table: u32) -> Self {
        Self {
            priority: 0,
            action: RuleKind::Table(table),
            invert: false,
            destination: None,
            mark: None,
            out_device: None,
            suppress_prefix: None,
            unknown_selector: false,
        }
    }
}
