//! From options and surroundings to the plan. Pure.
//!
//! Rules (OpenVPN manual, `route`, `redirect-gateway`, `block-ipv6`; protocol reference 8.2), and
//! where this goes further:
//!
//! - The host's default route is never touched: with and without `def1` the redirected Internet is
//!   two halves (IPv4) or four networks (IPv6) that are more specific than any default route. A
//!   DHCP client that renews its route, or a crash, cannot undo the redirection or the host's own.
//! - A host route keeps the server reachable whenever *any* planned route covers its address, not
//!   only with `redirect-gateway`.
//! - Where the transport is TCP, packets to the server go nowhere rather than into the tunnel when that
//!   host route goes away with its device.
//! - A family that is redirected but that the tunnel cannot carry is made unreachable, so nothing
//!   leaks around the tunnel.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    IPV6_MIN_MTU, Item, LinkSettings, NetworkPlan, PlannedRoute, RouteTarget, TunnelAddress,
};
use crate::network::dns::{DnsPlan, DnsScope};
use crate::network::error::PlanError;
use crate::network::types::{Gateways, Network, Path, RemotePath, netmask_prefix};
use crate::profile::{NetworkOptions, Protocol, RouteDestination, RouteGateway, Topology};

/// Of the route that keeps a TCP transport out of the tunnel: the last of its destination, but for
/// what guards a change of the plan.
const BARRIER_METRIC: u32 = u32::MAX - 1;

/// All that a plan is made of.
#[derive(Clone, Copy, Debug)]
pub struct PlanInput<'a> {
    /// Profile and push, merged.
    pub options: &'a NetworkOptions,
    /// Interface MTU after negotiation.
    pub tun_mtu: u16,
    /// `txqueuelen`; `None`: leave the kernel's.
    pub tx_queue_len: Option<u32>,
    /// The address the transport socket sends to.
    pub remote: IpAddr,
    /// What it sends there.
    pub protocol: Protocol,
    /// The host's own routes.
    pub gateways: &'a Gateways,
    /// Profile override `dns-scope`.
    pub dns_scope: DnsScope,
}

impl NetworkPlan {
    /// Decides everything: which addresses, which routes, which DNS.
    ///
    /// # Errors
    /// When the tunnel would have no address, or an address cannot be understood. Routes that
    /// cannot be made are left out and noted instead.
    pub fn build(input: &PlanInput<'_>) -> Result<Self, PlanError> {
        let mut builder = Builder::new(input)?;
        builder.add_block();
        builder.add_redirect();
        builder.add_block_local();
        builder.add_routes();
        builder.add_host_route();
        Ok(builder.finish())
    }
}

/// What the tunnel does for a family's packets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Carries {
    /// Takes them.
    Yes,
    /// They are to be refused (`block-ipv4`, `block-ipv6`).
    Blocked,
    /// It has no address of that family, or the host has none of that family at all.
    No,
}

impl Carries {
    fn target(self) -> RouteTarget {
        match self {
            Self::Yes => RouteTarget::Tunnel,
            Self::Blocked | Self::No => RouteTarget::Unreachable,
        }
    }
}

struct Builder<'a> {
    input: &'a PlanInput<'a>,
    remote: IpAddr,
    addresses: Vec<TunnelAddress>,
    /// Other ends and networks inside the tunnel: a gateway in one of them means "the tunnel".
    inside: Vec<Network>,
    vpn_gateway_v4: Option<Ipv4Addr>,
    v4: Carries,
    v6: Carries,
    routes: Vec<PlannedRoute>,
    notes: Vec<String>,
}

impl<'a> Builder<'a> {
    fn new(input: &'a PlanInput<'a>) -> Result<Self, PlanError> {
        let options = input.options;
        let mut builder = Self {
            input,
            remote: input.remote.to_canonical(),
            addresses: Vec::new(),
            inside: Vec::new(),
            vpn_gateway_v4: options.route_gateway,
            v4: Carries::No,
            v6: Carries::No,
            routes: Vec::new(),
            notes: Vec::new(),
        };
        if let Some((local, second)) = options.ifconfig {
            builder.add_ipv4(local, second)?;
        }
        if let Some((address, prefix, peer)) = options.ifconfig_ipv6 {
            builder.add_ipv6(address, prefix, peer)?;
        }
        if options.ifconfig.is_none() && options.ifconfig_ipv6.is_none() {
            return Err(PlanError::NoAddress);
        }
        if options.block_ipv4 {
            builder.v4 = Carries::Blocked;
        }
        if options.block_ipv6 {
            builder.v6 = Carries::Blocked;
        }
        Ok(builder)
    }

    fn add_ipv4(&mut self, local: Ipv4Addr, second: Ipv4Addr) -> Result<(), PlanError> {
        // Servers of topology subnet that do not say so exist; no peer address is a netmask.
        let looks_like_netmask = netmask_prefix(second).is_some_and(|prefix| prefix >= 8);
        let topology = self.input.options.topology.unwrap_or(if looks_like_netmask {
            Topology::Subnet
        } else {
            Topology::Net30
        });
        let (prefix, peer) = match topology {
            Topology::Subnet => {
                let prefix = netmask_prefix(second)
                    .ok_or(PlanError::Netmask { address: local, netmask: second })?;
                (prefix, None)
            }
            Topology::Net30 | Topology::P2p => {
                self.vpn_gateway_v4 = self.vpn_gateway_v4.or(Some(second));
                // Both ends the same: there is no other.
                (32, (second != local).then(|| second.into()))
            }
        };
        self.add_address(local.into(), prefix, peer);
        self.v4 = Carries::Yes;
        Ok(())
    }

    fn add_ipv6(
        &mut self,
        address: Ipv6Addr,
        prefix: u8,
        peer: Option<Ipv6Addr>,
    ) -> Result<(), PlanError> {
        if prefix > 128 {
            return Err(PlanError::Prefix { address, prefix });
        }
        if !self.input.gateways.ipv6 {
            self.notes.push(format!(
                "ifconfig-ipv6 {address}/{prefix}: left out, IPv6 is disabled on this host \
                 (net.ipv6.conf.default.disable_ipv6)"
            ));
        } else if self.input.tun_mtu < IPV6_MIN_MTU {
            self.notes.push(format!(
                "ifconfig-ipv6 {address}/{prefix}: left out, IPv6 needs an MTU of at least \
                 {IPV6_MIN_MTU} and the tunnel has {}",
                self.input.tun_mtu
            ));
        } else {
            self.inside.extend(peer.map(|peer| Network::host(peer.into())));
            self.add_address(address.into(), prefix, None);
            self.v6 = Carries::Yes;
        }
        Ok(())
    }

    fn add_address(&mut self, address: IpAddr, prefix: u8, peer: Option<IpAddr>) {
        self.addresses.push(TunnelAddress { address, prefix, peer });
        self.inside.extend(Network::new(peer.unwrap_or(address), prefix));
    }

    fn carries(&self, ipv6: bool) -> Carries {
        if ipv6 { self.v6 } else { self.v4 }
    }

    fn add(&mut self, destination: Network, target: RouteTarget, metric: Option<u32>) {
        let target = match target {
            // A source address only makes sense for packets of the same family.
            RouteTarget::Outside(mut path) => {
                path.source = path.source.filter(|s| s.is_ipv6() == destination.is_ipv6());
                RouteTarget::Outside(path)
            }
            target => target,
        };
        self.routes.push(PlannedRoute { target, destination, metric, source: None });
    }

    /// `block-ipv4`, `block-ipv6`: the Internet of that family is unreachable.
    fn add_block(&mut self) {
        for ipv6 in [false, true] {
            if self.carries(ipv6) == Carries::Blocked {
                for network in internet(ipv6) {
                    self.add(network, RouteTarget::Unreachable, None);
                }
            }
        }
    }

    /// `redirect-gateway`
    fn add_redirect(&mut self) {
        let Some(redirect) = self.input.options.redirect else { return };
        if redirect.private {
            return;
        }
        for (ipv6, wanted) in [(false, redirect.ipv4), (true, redirect.ipv6)] {
            if !wanted {
                continue;
            }
            let carries = self.carries(ipv6);
            if carries == Carries::No {
                let family = if ipv6 { "IPv6" } else { "IPv4" };
                self.notes.push(format!(
                    "redirect-gateway: the tunnel carries no {family}, so {family} destinations \
                     outside the local network become unreachable"
                ));
            }
            for network in internet(ipv6) {
                self.add(network, carries.target(), None);
            }
        }
    }

    /// `block-local`: the local network goes into the tunnel, but for its gateway.
    fn add_block_local(&mut self) {
        let Some(redirect) = self.input.options.redirect else { return };
        if !redirect.block_local {
            return;
        }
        for network in self.input.gateways.local_networks.clone() {
            let wanted = if network.is_ipv6() { redirect.ipv6 } else { redirect.ipv4 };
            let (Some(halves), true) = (network.halves(), wanted) else { continue };
            for half in halves {
                self.add(half, self.carries(network.is_ipv6()).target(), None);
            }
            for path in self.outside_paths() {
                if let Some(gateway) = path.gateway.filter(|gateway| network.contains(*gateway)) {
                    let direct = Path { gateway: None, onlink: false, ..path };
                    self.add(Network::host(gateway), RouteTarget::Outside(direct), None);
                }
            }
        }
    }

    /// The ways around the tunnel that are in use.
    fn outside_paths(&self) -> Vec<Path> {
        let gateways = self.input.gateways;
        let remote = match &gateways.remote {
            RemotePath::Via(path) => Some(path),
            RemotePath::Local | RemotePath::Unreachable => None,
        };
        let mut paths: Vec<Path> =
            [remote, gateways.default_v4.as_ref(), gateways.default_v6.as_ref()]
                .into_iter()
                .flatten()
                .cloned()
                .collect();
        paths.dedup();
        paths
    }

    /// `route`, `route-ipv6`
    fn add_routes(&mut self) {
        for route in &self.input.options.routes {
            let Some(destination) = self.destination(&route.destination, route.prefix) else {
                continue;
            };
            let Some(target) = self.target(destination, route.gateway) else { continue };
            let metric = route.metric.or(self.input.options.route_metric);
            if destination.prefix() == 0
                && metric.unwrap_or(0) == 0
                && !matches!(target, RouteTarget::Outside(_))
            {
                // A second default route would compete with the host's own.
                for network in internet(destination.is_ipv6()) {
                    self.add(network, target.clone(), None);
                }
            } else {
                self.add(destination, target, metric);
            }
        }
    }

    fn destination(&mut self, destination: &RouteDestination, prefix: u8) -> Option<Network> {
        let (address, keyword) = match destination {
            RouteDestination::Net(address) => return self.network(*address, prefix),
            RouteDestination::RemoteHost => (Some(self.remote), "remote_host"),
            RouteDestination::VpnGateway => (self.vpn_gateway_v4.map(IpAddr::V4), "vpn_gateway"),
            RouteDestination::NetGateway => {
                (self.input.gateways.default_v4.as_ref().and_then(|p| p.gateway), "net_gateway")
            }
        };
        let Some(address) = address else {
            self.notes.push(format!("route {keyword}: left out, there is no {keyword}"));
            return None;
        };
        // The prefix was written for IPv4; a keyword can turn out to be IPv6.
        let prefix = if address.is_ipv6() { 128 } else { prefix };
        self.network(address, prefix)
    }

    fn network(&mut self, address: IpAddr, prefix: u8) -> Option<Network> {
        let network = Network::new(address, prefix);
        if network.is_none() {
            self.notes.push(format!("route {address}/{prefix}: left out, bad prefix length"));
        }
        network
    }

    fn target(&mut self, destination: Network, gateway: RouteGateway) -> Option<RouteTarget> {
        let reason = match gateway {
            RouteGateway::Vpn => return self.tunnel(destination),
            RouteGateway::Net => {
                let gateways = self.input.gateways;
                let default =
                    if destination.is_ipv6() { &gateways.default_v6 } else { &gateways.default_v4 };
                match default {
                    Some(path) => return Some(RouteTarget::Outside(path.clone())),
                    None => "there is no default route (net_gateway)",
                }
            }
            RouteGateway::RemoteHost => match &self.input.gateways.remote {
                RemotePath::Via(path)
                    if path.gateway.is_none() && self.remote.is_ipv6() == destination.is_ipv6() =>
                {
                    let path = Path { gateway: Some(self.remote), ..path.clone() };
                    return Some(RouteTarget::Outside(path));
                }
                _ => "the server (remote_host) is not on a local network and cannot be a gateway",
            },
            RouteGateway::Address(address) if address.is_ipv6() != destination.is_ipv6() => {
                "gateway and destination are of different families"
            }
            RouteGateway::Address(address) => {
                let link_local = matches!(address, IpAddr::V6(a) if a.is_unicast_link_local());
                if link_local || self.is_inside(address) {
                    return self.tunnel(destination);
                }
                return Some(RouteTarget::Gateway(address));
            }
        };
        self.notes.push(format!("route {destination}: left out, {reason}"));
        None
    }

    /// The tunnel has two ends only: any gateway inside it means the other end.
    fn is_inside(&self, gateway: IpAddr) -> bool {
        let options = self.input.options;
        self.vpn_gateway_v4.map(IpAddr::V4) == Some(gateway)
            || options.route_ipv6_gateway.map(IpAddr::V6) == Some(gateway)
            || self.inside.iter().any(|network| network.contains(gateway))
    }

    fn tunnel(&mut self, destination: Network) -> Option<RouteTarget> {
        let carries = self.carries(destination.is_ipv6());
        if carries == Carries::No {
            let family = if destination.is_ipv6() { "IPv6" } else { "IPv4" };
            self.notes
                .push(format!("route {destination}: left out, the tunnel carries no {family}"));
            return None;
        }
        Some(carries.target())
    }

    /// The way to the server stays outside the tunnel.
    fn add_host_route(&mut self) {
        let to_server = Network::host(self.remote);
        // A pushed route into the tunnel for just the server would cut the tunnel off.
        let before = self.routes.len();
        self.routes.retain(|route| !(route.is_inside() && route.destination == to_server));
        let refused = before != self.routes.len();
        if refused {
            self.notes.push(format!(
                "route {to_server}: left out, it would send the tunnel's own packets into the tunnel"
            ));
        }
        // An address makes a route, too.
        let on_link = self.addresses.iter().filter_map(TunnelAddress::network);
        let inside = self.routes.iter().filter(|r| r.is_inside()).map(|route| route.destination);
        let covering: Vec<Network> =
            on_link.chain(inside).filter(|network| network.contains(self.remote)).collect();
        if covering.is_empty() {
            return;
        }
        self.bar(to_server);
        let path = match &self.input.gateways.remote {
            RemotePath::Local => return,
            RemotePath::Via(path) => path.clone(),
            RemotePath::Unreachable => {
                self.notes.push(format!(
                    "no route to the server {} is known, so none is kept outside the tunnel",
                    self.remote
                ));
                return;
            }
        };
        // The local network's own route is none beside a barrier.
        if self.input.protocol == Protocol::Udp && self.stays_local(&path, &covering) {
            return;
        }
        // First, so that it wins over a pushed one of the same key.
        let target = RouteTarget::Outside(path);
        let route = PlannedRoute { target, destination: to_server, metric: None, source: None };
        self.routes.insert(0, route);
    }

    /// A device that goes takes the host route with it, and what covers the server leads into the tunnel
    /// then. The kernel's `ovpn` sends segments of its TCP socket with that socket locked; one that comes
    /// back by way of the tunnel waits for the lock for ever, on a processor of its own, and the whole
    /// machine with it. This route has no device, so it stays.
    fn bar(&mut self, to_server: Network) {
        if self.input.protocol == Protocol::Tcp && !to_server.address().is_loopback() {
            self.routes.insert(
                0,
                PlannedRoute {
                    target: RouteTarget::Unreachable,
                    destination: to_server,
                    metric: Some(BARRIER_METRIC),
                    source: None,
                },
            );
        }
    }

    /// `local`, `autolocal`: the server is on the local network, whose own route is enough.
    fn stays_local(&mut self, path: &Path, covering: &[Network]) -> bool {
        let Some(redirect) = self.input.options.redirect else { return false };
        if !redirect.local && !redirect.autolocal {
            return false;
        }
        let network = self
            .input
            .gateways
            .local_networks
            .iter()
            .filter(|network| network.contains(self.remote))
            .map(Network::prefix)
            .max();
        let local = path.gateway.is_none()
            && network.is_some_and(|prefix| covering.iter().all(|c| c.prefix() < prefix));
        if redirect.local && !local {
            self.notes.push(format!(
                "redirect-gateway local: {} is not reached directly over the local network, so it \
                 gets a host route all the same",
                self.remote
            ));
        }
        local
    }

    fn finish(mut self) -> NetworkPlan {
        let link = LinkSettings { mtu: self.input.tun_mtu, tx_queue_len: self.input.tx_queue_len };
        let dns = DnsPlan::build(&self.input.options.dns, self.input.dns_scope, &mut self.notes);
        let mut items = vec![Item::Link(link)];
        items.extend(self.addresses.into_iter().map(Item::Address));
        items.extend(self.routes.into_iter().map(Item::Route));
        items.extend(dns.map(Item::Dns));
        // The same route twice is common, or one that an address makes anyway: the first wins.
        let mut seen = HashSet::new();
        items.retain(|item| {
            let keys: Vec<_> = item.keys().collect();
            let new = keys.iter().all(|key| !seen.contains(key));
            seen.extend(keys);
            new
        });
        items.sort();
        NetworkPlan { items, notes: self.notes }
    }
}

/// Everything but what every host needs for itself: the networks that `redirect-gateway` takes.
fn internet(ipv6: bool) -> Vec<Network> {
    let v4 = [(Ipv4Addr::UNSPECIFIED, 1), (Ipv4Addr::new(128, 0, 0, 0), 1)];
    // Not link-local (fe80::/10) and not multicast (ff00::/8).
    let v6 = [
        (Ipv6Addr::UNSPECIFIED, 3),
        (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 4),
        (Ipv6Addr::new(0x3000, 0, 0, 0, 0, 0, 0, 0), 4),
        (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7),
    ];
    if ipv6 {
        v6.into_iter().filter_map(|(a, prefix)| Network::new(a.into(), prefix)).collect()
    } else {
        v4.into_iter().filter_map(|(a, prefix)| Network::new(a.into(), prefix)).collect()
    }
}
