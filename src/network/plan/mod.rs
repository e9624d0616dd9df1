//! The plan: everything the tunnel wants of the host's network, as one comparable value.

mod build;
#[cfg(test)]
mod build_tests;
mod diff;

use std::cmp::Ordering;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub use self::build::PlanInput;
pub(super) use self::diff::disturbs;
pub use self::diff::{Step, diff};
use super::dns::DnsPlan;
use super::types::{Network, Path};

/// The kernel switches IPv6 off on an interface with a smaller MTU, bytes (RFC 8200, 5).
pub(crate) const IPV6_MIN_MTU: u16 = 1280;

/// What to configure. Equal plans need no change; made by [`NetworkPlan::build`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NetworkPlan {
    /// In the order in which they are applied; no two with a key in common.
    items: Vec<Item>,
    /// What was left out or done differently than the options say, and why: for the log.
    notes: Vec<String>,
}

impl NetworkPlan {
    /// The parts, in the order in which they are applied.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// What was left out or done differently than the options say, and why.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The routes, in the order in which they are applied.
    pub fn routes(&self) -> impl Iterator<Item = &PlannedRoute> {
        self.items.iter().filter_map(|item| match item {
            Item::Route(route) => Some(route),
            _ => None,
        })
    }

    /// The addresses of the tunnel's interface.
    pub fn addresses(&self) -> impl Iterator<Item = &TunnelAddress> {
        self.items.iter().filter_map(|item| match item {
            Item::Address(address) => Some(address),
            _ => None,
        })
    }

    /// The tunnel's DNS, if it has any.
    pub fn dns(&self) -> Option<&DnsPlan> {
        self.items.iter().find_map(|item| match item {
            Item::Dns(dns) => Some(dns),
            _ => None,
        })
    }
}

/// One line for each part.
impl fmt::Display for NetworkPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, item) in self.items.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            item.fmt(f)?;
        }
        Ok(())
    }
}

/// One part of a plan: what one step does or undoes. The order is the order of application, and the
/// reverse order that of undoing.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Item {
    /// Settings of the interface.
    Link(LinkSettings),
    /// An address of the interface.
    Address(TunnelAddress),
    /// A route.
    Route(PlannedRoute),
    /// DNS.
    Dns(DnsPlan),
}

impl Item {
    /// What it takes up: two items with a key in common cannot be there together.
    fn keys(&self) -> impl Iterator<Item = ItemKey> {
        let (first, second) = match self {
            Self::Link(_) => (ItemKey::Link, None),
            Self::Address(address) => {
                (ItemKey::Address(address.address), address.route().map(ItemKey::Route))
            }
            Self::Route(route) => (ItemKey::Route(route.key()), None),
            Self::Dns(_) => (ItemKey::Dns, None),
        };
        std::iter::once(first).chain(second)
    }
}

#[derive(PartialEq, Eq, Hash)]
enum ItemKey {
    Link,
    Address(IpAddr),
    Route(RouteKey),
    Dns,
}

/// What tells the routes of a table apart: destination, and metric as the kernel counts it.
pub(super) type RouteKey = (Network, u32);

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(link) => link.fmt(f),
            Self::Address(address) => address.fmt(f),
            Self::Route(route) => route.fmt(f),
            Self::Dns(dns) => dns.fmt(f),
        }
    }
}

/// Settings of the tunnel's interface. It is set up, and makes no IPv6 link-local address.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct LinkSettings {
    /// MTU in bytes.
    pub mtu: u16,
    /// Transmit queue in packets; `None`: as the kernel made it.
    pub tx_queue_len: Option<u32>,
}

impl fmt::Display for LinkSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "link up mtu {}", self.mtu)?;
        match self.tx_queue_len {
            Some(length) => write!(f, " txqueuelen {length}"),
            None => Ok(()),
        }
    }
}

/// An address of the tunnel's interface.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct TunnelAddress {
    /// The address.
    pub address: IpAddr,
    /// Prefix length of the tunnel's network; 32 with `peer`.
    pub prefix: u8,
    /// The other end, for topology net30 and p2p.
    pub peer: Option<IpAddr>,
}

impl fmt::Display for TunnelAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "address {}/{}", self.address, self.prefix)?;
        if let Some(peer) = self.peer {
            write!(f, " peer {peer}")?;
        }
        Ok(())
    }
}

impl TunnelAddress {
    /// The network that the kernel takes for being on the link, and makes a route to.
    pub(super) fn network(&self) -> Option<Network> {
        Network::new(self.peer.unwrap_or(self.address), self.prefix)
    }

    /// That route, if it makes one (`fib_add_ifaddr` of `net/ipv4/fib_frontend.c`). An address of the
    /// same network makes the same one; in IPv4 it would be a secondary one, which the kernel deletes
    /// with the first.
    pub(super) fn route(&self) -> Option<RouteKey> {
        /// `IP6_RT_PRIO_ADDRCONF` of `net/ip6_route.h`.
        const IPV6_METRIC: u32 = 256;
        let network = self.network()?;
        match network.address() {
            IpAddr::V6(_) => Some((network, IPV6_METRIC)),
            IpAddr::V4(first) if first.octets()[0] == 0 => None,
            IpAddr::V4(_) => (network != Network::host(self.address)).then_some((network, 0)),
        }
    }
}

/// A route. In order, routes to single hosts around the tunnel come first, so that the server never
/// becomes unreachable; those to networks around the tunnel come last, so that what a more specific
/// route leads into the tunnel never goes there.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PlannedRoute {
    /// Where it leads.
    pub target: RouteTarget,
    /// What it leads to.
    pub destination: Network,
    /// Metric; `None`: the kernel's own.
    pub metric: Option<u32>,
    /// Source address of the host's own packets.
    pub source: Option<IpAddr>,
}

impl PlannedRoute {
    /// What no other route of the table has.
    pub(super) fn key(&self) -> RouteKey {
        (self.destination, self.kernel_metric())
    }

    /// The metric as the kernel counts it.
    pub(super) fn kernel_metric(&self) -> u32 {
        /// `IP6_RT_PRIO_USER` of `net/ip6_route.h`, also for 0.
        const IPV6_METRIC: u32 = 1024;
        match self.metric {
            None | Some(0) if self.destination.is_ipv6() => IPV6_METRIC,
            metric => metric.unwrap_or(0),
        }
    }

    fn rank(&self) -> u8 {
        match self.target {
            RouteTarget::Outside(_) | RouteTarget::Gateway(_) => {
                if self.destination.halves().is_none() { 0 } else { 2 }
            }
            RouteTarget::Unreachable | RouteTarget::Tunnel => 1,
        }
    }

    /// Whether it keeps packets from leaving outside the tunnel.
    pub(super) fn is_inside(&self) -> bool {
        matches!(self.target, RouteTarget::Tunnel | RouteTarget::Unreachable)
    }
}

impl Ord for PlannedRoute {
    fn cmp(&self, other: &Self) -> Ordering {
        let order = |route: &Self| (route.destination, route.metric, route.source);
        (self.rank(), &self.target)
            .cmp(&(other.rank(), &other.target))
            .then_with(|| order(self).cmp(&order(other)))
    }
}

impl PartialOrd for PlannedRoute {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for PlannedRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "route {} ", self.destination)?;
        match &self.target {
            RouteTarget::Outside(path) => path.fmt(f)?,
            RouteTarget::Gateway(gateway) => write!(f, "via {gateway}")?,
            RouteTarget::Unreachable => f.write_str("unreachable")?,
            RouteTarget::Tunnel => f.write_str("tunnel")?,
        }
        if let Some(metric) = self.metric {
            write!(f, " metric {metric}")?;
        }
        if let Some(source) = self.source {
            write!(f, " src {source}")?;
        }
        Ok(())
    }
}

/// Where a route leads.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum RouteTarget {
    /// Around the tunnel, the way the host would have gone without it.
    Outside(Path),
    /// To a gateway that is not in the tunnel. Who applies the plan finds its device, without the
    /// tunnel's own routes.
    Gateway(IpAddr),
    /// Nowhere: senders get "unreachable".
    Unreachable,
    /// Into the tunnel.
    Tunnel,
}
