//! What is configured, as far as this session did it, and whether the kernel still has it.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::super::error::NetworkError;
use super::super::fib::{FibRoute, RouteKind};
use super::super::journal::EntryId;
use super::super::netlink::{LinkState, MAIN_TABLE, Netlink, PROTOCOL};
use super::super::plan::{Item, LinkSettings, PlannedRoute, RouteKey, RouteTarget, TunnelAddress};
use super::host::Host;

/// Parts of plans that were applied, in the order in which plans are applied.
pub(super) type Entries = BTreeMap<Item, Entry>;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub(super) held: Held,
    /// Made by [`super::DirectNetwork::protect`], and in no plan yet.
    pub(super) provisional: bool,
}

/// Whose a part is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Held {
    /// Made here, and undone by way of the journal.
    Ours(EntryId),
    /// Settings of the interface: what they were before is noted for the interface as a whole.
    Set {
        /// See [`LinkState::address_generation`].
        address_generation: Option<u8>,
    },
    /// It was there before, so it is not ours to remove.
    Foreign,
    /// It could not be made, and the tunnel works without it: why.
    Refused(String),
}

impl Held {
    /// Whether it is in place because of this session.
    pub(super) const fn is_ours(&self) -> bool {
        matches!(self, Self::Ours(_) | Self::Set { .. })
    }
}

/// Whether it goes away with the tunnel's interface.
pub(super) fn is_on_tunnel(item: &Item) -> bool {
    match item {
        Item::Link(_) | Item::Address(_) | Item::Dns(_) => true,
        Item::Route(route) => route.target == RouteTarget::Tunnel,
    }
}

/// The routes of this session, to tell them from the host's own.
pub(super) struct OwnRoutes<'a> {
    tunnel: Option<u32>,
    routes: HashMap<RouteKey, &'a PlannedRoute>,
}

impl<'a> OwnRoutes<'a> {
    pub(super) fn new(tunnel: Option<u32>, routes: impl Iterator<Item = &'a PlannedRoute>) -> Self {
        Self { tunnel, routes: routes.map(|route| (route.key(), route)).collect() }
    }

    /// Whether a route of the host is there because of this session.
    pub(super) fn contains(&self, route: &FibRoute) -> bool {
        let into_tunnel = self.tunnel.is_some_and(|t| route.hops.iter().any(|hop| hop.index == t));
        into_tunnel
            || self
                .routes
                .get(&(route.destination, route.metric))
                .is_some_and(|planned| matches(route, planned, self.tunnel))
    }
}

/// Whether a route in the kernel is the one that was made for a planned one.
fn matches(route: &FibRoute, planned: &PlannedRoute, tunnel: Option<u32>) -> bool {
    if route.protocol != PROTOCOL || (route.destination, route.metric) != planned.key() {
        return false;
    }
    match &planned.target {
        RouteTarget::Outside(path) => {
            route.hops.iter().any(|hop| hop.index == path.index && hop.gateway == path.gateway)
        }
        RouteTarget::Gateway(gateway) => route.hops.iter().any(|hop| hop.gateway == Some(*gateway)),
        RouteTarget::Unreachable => route.kind == RouteKind::Refuse,
        RouteTarget::Tunnel => route.hops.iter().any(|hop| Some(hop.index) == tunnel),
    }
}

/// What the kernel has of what a tunnel needs.
pub(super) struct Reading {
    tunnel: Option<u32>,
    /// Of the tunnel's interface, if it is there.
    link: Option<LinkState>,
    addresses: Vec<TunnelAddress>,
    /// Routes that lead to the tunnel's interface, whoever made them and wherever.
    on_link: HashSet<RouteKey>,
    routes: HashMap<RouteKey, FibRoute>,
}

/// What has become of a part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Presence {
    /// It is as it was made.
    Whole,
    /// A part of it has gone: it has to go and be made again.
    Damaged,
    /// It has gone.
    Gone,
}

impl Reading {
    /// Reads links, addresses and routes. `tunnel`: the tunnel's interface.
    pub(super) async fn new(netlink: &Netlink, tunnel: Option<u32>) -> Result<Self, NetworkError> {
        let host = Host::read(netlink).await?;
        let fail = |e| NetworkError::netlink("list addresses", e);
        let addresses = match tunnel {
            Some(tunnel) => netlink.addresses_of(tunnel).await.map_err(fail)?,
            None => Vec::new(),
        };
        let link = host.links.iter().find(|link| Some(link.index) == tunnel);
        let link = link.map(|link| link.state.clone());
        let (mut on_link, mut routes) = (HashSet::new(), HashMap::new());
        for route in host.into_routes() {
            let key = (route.destination, route.metric);
            if route.hops.iter().any(|hop| Some(hop.index) == tunnel) {
                on_link.insert(key);
            }
            if route.protocol == PROTOCOL && route.table == MAIN_TABLE {
                routes.insert(key, route);
            }
        }
        Ok(Self { tunnel, link, addresses, on_link, routes })
    }

    /// Whether a part is in place as it was made. DNS is not the kernel's.
    pub(super) fn look_for(&self, item: &Item, held: &Held) -> Presence {
        match item {
            // A link that is down has no routes.
            Item::Address(address)
                if held.is_ours()
                    && self.addresses.contains(address)
                    && self.link.as_ref().is_some_and(|link| link.up)
                    && address.route().is_some_and(|route| !self.on_link.contains(&route)) =>
            {
                Presence::Damaged
            }
            item if self.has(item, held) => Presence::Whole,
            _ => Presence::Gone,
        }
    }

    fn has(&self, item: &Item, held: &Held) -> bool {
        match item {
            Item::Link(LinkSettings { mtu, tx_queue_len }) => {
                let Some(state) = &self.link else { return false };
                state.up
                    && state.mtu == u32::from(*mtu)
                    && tx_queue_len.is_none_or(|wanted| wanted == state.tx_queue_len)
                    && *held == Held::Set { address_generation: state.address_generation }
            }
            Item::Address(address) => self.addresses.contains(address),
            Item::Route(planned) => {
                !held.is_ours()
                    || self
                        .routes
                        .get(&planned.key())
                        .is_some_and(|route| matches(route, planned, self.tunnel))
            }
            Item::Dns(_) => true,
        }
    }
}
