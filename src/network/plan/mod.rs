//! The plan: everything the tunnel wants of the host's network, as one comparable value.

mod build;
#[cfg(test)]
mod build_tests;
mod diff;

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub use self::build::PlanInput;
pub use self::diff::{Step, diff};
use super::dns::DnsPlan;
use super::types::{Network, Path};

/// What to configure. Equal plans need no change; made by [`NetworkPlan::build`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NetworkPlan {
    /// In the order in which they are applied; no two with the same key.
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

/// One part of a plan: what one step does or undoes. The order is the order of application: routes
/// around the tunnel come before routes into it, so that the server never becomes unreachable.
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
    /// What cannot be there twice.
    fn key(&self) -> ItemKey {
        match self {
            Self::Link(_) => ItemKey::Link,
            Self::Address(address) => ItemKey::Address(address.address),
            Self::Route(route) => ItemKey::Route(route.destination, route.metric),
            Self::Dns(_) => ItemKey::Dns,
        }
    }
}

#[derive(PartialEq, Eq, Hash)]
enum ItemKey {
    Link,
    Address(IpAddr),
    Route(Network, Option<u32>),
    Dns,
}

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

/// A route. Fields in the order that sorts plans.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
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
    /// To a gateway that is not in the tunnel; the kernel finds the device.
    Gateway(IpAddr),
    /// Nowhere: senders get "unreachable".
    Unreachable,
    /// Into the tunnel.
    Tunnel,
}
