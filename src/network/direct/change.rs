//! Making changes: journalled first, then made; what the kernel answers decides what it means.

use std::io;

use ovpn_dco::Interface;
use tracing::debug;

use super::super::dns::{DnsError, DnsPlan, DnsUndo};
use super::super::error::NetworkError;
use super::super::journal::{EntryId, Undo};
use super::super::plan::{
    IPV6_MIN_MTU, Item, LinkSettings, PlannedRoute, RouteTarget, TunnelAddress,
};
use super::super::types::Path;
use super::DirectNetwork;
use super::held::{Entry, Held};

/// `IN6_ADDR_GEN_MODE_NONE` of `linux/if_link.h`: no link-local address.
const NO_ADDRESS_GENERATION: u8 = 1;

impl DirectNetwork {
    /// Makes a part of a plan. Parts that the tunnel works without become warnings.
    pub(super) async fn add(
        &mut self,
        item: &Item,
        interface: &Interface,
        warnings: &mut Vec<String>,
    ) -> Result<(), NetworkError> {
        let held = match item {
            Item::Link(settings) => {
                let held = self.set_link(settings, interface).await?;
                // The earlier ones are changed, not undone.
                self.entries.retain(|other, _| !matches!(other, Item::Link(_)));
                held
            }
            Item::Address(address) => self.add_address(address, interface).await?,
            Item::Route(route) => {
                return self.add_routes(vec![route.clone()], interface.index).await;
            }
            Item::Dns(plan) => self.add_dns(plan, interface, warnings).await?,
        };
        self.entries.insert(item.clone(), Entry { held, provisional: false });
        Ok(())
    }

    /// Changes the settings of the interface. What they were is noted the first time only.
    async fn set_link(
        &mut self,
        settings: &LinkSettings,
        interface: &Interface,
    ) -> Result<Held, NetworkError> {
        let index = interface.index;
        let fail = |e| NetworkError::netlink(format!("set {} {settings}", interface.name), e);
        let gone = || fail(io::Error::from_raw_os_error(libc::ENODEV));
        let link = self.host.netlink.link(index).await.map_err(fail)?.ok_or_else(gone)?;
        let netlink = &self.host.netlink;
        let queue = match &self.before {
            Some((_, before)) => {
                let ipv6 = link.state.address_generation;
                let without = ipv6.is_none() && link.state.mtu >= IPV6_MIN_MTU.into();
                if link.state.up && ipv6 != Some(NO_ADDRESS_GENERATION) && !without {
                    // IPv6 has begun anew since, or is about to (it ends below its smallest MTU),
                    // with a link-local address.
                    netlink.set_up(index, false).await.map_err(fail)?;
                }
                before.tx_queue_len
            }
            None => {
                let state = link.state;
                let undo = Undo::RestoreLink { name: link.name, index, state: state.clone() };
                let queue = state.tx_queue_len;
                self.before = Some((self.journal.record(undo).await?, state));
                queue
            }
        };
        let queue = settings.tx_queue_len.unwrap_or(queue);
        netlink.set_link(index, settings.mtu.into(), queue).await.map_err(fail)?;
        let link = netlink.link(index).await.map_err(fail)?.ok_or_else(gone)?;
        let mut generation = link.state.address_generation;
        if generation.is_some_and(|mode| mode != NO_ADDRESS_GENERATION) {
            // Keeps the host's router solicitations and multicast reports out of the tunnel; it
            // works without.
            match netlink.set_address_generation(index, NO_ADDRESS_GENERATION).await {
                Ok(()) => generation = Some(NO_ADDRESS_GENERATION),
                Err(error) => debug!("{}: addr_gen_mode none: {error}", interface.name),
            }
        }
        netlink.set_up(index, true).await.map_err(fail)?;
        Ok(Held::Set { address_generation: generation })
    }

    async fn add_address(
        &mut self,
        address: &TunnelAddress,
        interface: &Interface,
    ) -> Result<Held, NetworkError> {
        let undo = Undo::DeleteAddress {
            name: interface.name.clone(),
            index: interface.index,
            address: address.clone(),
        };
        let id = self.journal.record(undo).await?;
        match self.host.netlink.add_address(interface.index, address).await {
            Ok(()) => Ok(Held::Ours(id)),
            Err(error) => {
                self.journal.done(id).await?;
                // A persistent device keeps its addresses.
                if error.raw_os_error() == Some(libc::EEXIST) {
                    return Ok(Held::Foreign);
                }
                Err(NetworkError::netlink(format!("add {address} to {}", interface.name), error))
            }
        }
    }

    /// Makes routes, in this order. After an error some of the later ones are made all the same.
    pub(super) async fn add_routes(
        &mut self,
        routes: Vec<PlannedRoute>,
        tunnel: u32,
    ) -> Result<(), NetworkError> {
        let undo = routes.iter().map(|route| Undo::DeleteRoute { tunnel, route: route.clone() });
        let ids = self.journal.record_all(undo).await?;
        let answers = self.host.netlink.add_routes(&routes, tunnel).await;
        let mut not_made = Vec::new();
        let mut first = None;
        for ((route, id), answer) in routes.into_iter().zip(ids).zip(answers) {
            let held = match answer {
                Ok(()) => Ok(Held::Ours(id)),
                Err(error) => self.add_refused_route(&route, id, tunnel, error).await,
            };
            if !matches!(held, Ok(Held::Ours(_))) {
                not_made.push(id);
            }
            match held {
                Ok(held) => {
                    self.entries.insert(Item::Route(route), Entry { held, provisional: false });
                }
                Err(error) => first = first.or(Some(error)),
            }
        }
        self.journal.done_all(&not_made).await?;
        first.map_or(Ok(()), Err)
    }

    /// What it means that the kernel refuses a route.
    async fn add_refused_route(
        &self,
        route: &PlannedRoute,
        id: EntryId,
        tunnel: u32,
        mut error: io::Error,
    ) -> Result<Held, NetworkError> {
        if let RouteTarget::Outside(path) = &route.target
            && path.gateway.is_some()
            && matches!(error.raw_os_error(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH))
        {
            // The host uses this gateway on this device, whatever made the kernel believe it then.
            let path = Path { onlink: true, ..path.clone() };
            let route = PlannedRoute { target: RouteTarget::Outside(path), ..route.clone() };
            match self.host.netlink.add_routes([&route], tunnel).await.pop() {
                Some(Err(again)) => error = again,
                _ => return Ok(Held::Ours(id)),
            }
        }
        match error.raw_os_error() {
            Some(libc::EEXIST) => match &route.target {
                RouteTarget::Outside(_) => Ok(Held::Foreign),
                // Without its halves of the Internet a redirecting tunnel leaks.
                _ if route.is_inside() && route.destination.prefix() < 8 => {
                    Err(NetworkError::RouteTaken { operation: format!("add {route}") })
                }
                _ => Ok(Held::Refused(format!(
                    "add {route}: left out, the host has another route to {} already",
                    route.destination
                ))),
            },
            // A host without IPv6 needs nothing to make it unreachable.
            Some(libc::EACCES | libc::EAFNOSUPPORT | libc::EOPNOTSUPP)
                if route.target == RouteTarget::Unreachable && route.destination.is_ipv6() =>
            {
                Ok(Held::Foreign)
            }
            _ => Err(NetworkError::netlink(format!("add {route}"), error)),
        }
    }

    /// The tunnel works without DNS: what fails is a warning.
    async fn add_dns(
        &mut self,
        plan: &DnsPlan,
        interface: &Interface,
        warnings: &mut Vec<String>,
    ) -> Result<Held, NetworkError> {
        let unused = |error: &DnsError| format!("the tunnel's DNS is not used: {error}");
        let mut way = self.host.resolver.prepare(plan, interface, warnings).await;
        loop {
            let prepared = match way {
                Ok(prepared) => prepared,
                Err(error) => return Ok(Held::Refused(unused(&error))),
            };
            let (undo, backend) = (prepared.undo.clone(), prepared.backend());
            let id = self.journal.record(Undo::Dns(undo.clone())).await?;
            let applied = self.host.resolver.apply(prepared, plan, interface, warnings).await;
            let Err(error) = applied else {
                debug!("DNS set through {backend}");
                return Ok(Held::Ours(id));
            };
            // A part of it may be in place.
            if let Err(second) = self.host.resolver.revert(&undo).await {
                warnings.push(unused(&error));
                warnings.push(second.to_string());
                return Ok(Held::Ours(id));
            }
            self.journal.done(id).await?;
            way = match undo {
                DnsUndo::Netcfg { .. } => Err(error),
                _ => self.host.resolver.prepare_service(error).await,
            };
        }
    }
}
