//! Making single changes: journalled first, then made; what the kernel answers decides what it
//! means.

use std::io;

use ovpn_dco::Interface;
use tracing::debug;

use super::super::dns::DnsPlan;
use super::super::error::NetworkError;
use super::super::journal::{EntryId, Undo};
use super::super::plan::{Item, LinkSettings, PlannedRoute, RouteTarget, TunnelAddress};
use super::super::types::Path;
use super::{DirectNetwork, Entry};

/// `IN6_ADDR_GEN_MODE_NONE` of `linux/if_link.h`: no link-local address.
const NO_ADDRESS_GENERATION: u8 = 1;

enum Outcome {
    Made(EntryId),
    WasThere,
    LeftOut(String),
}

impl DirectNetwork {
    /// Makes a part of a plan. Parts that the tunnel works without become warnings.
    pub(super) async fn add(
        &mut self,
        item: &Item,
        interface: &Interface,
        warnings: &mut Vec<String>,
    ) -> Result<(), NetworkError> {
        let undo = match item {
            Item::Link(settings) => Some(self.add_link_settings(settings, interface).await?),
            Item::Address(address) => self.add_address(address, interface).await?,
            Item::Route(route) => match self.add_route(route, interface.index).await? {
                Outcome::Made(id) => Some(id),
                Outcome::WasThere => None,
                Outcome::LeftOut(warning) => {
                    warnings.push(warning);
                    None
                }
            },
            Item::Dns(plan) => self.add_dns(plan, interface, warnings).await?,
        };
        self.entries.push(Entry { item: item.clone(), undo, provisional: false });
        Ok(())
    }

    async fn add_link_settings(
        &mut self,
        settings: &LinkSettings,
        interface: &Interface,
    ) -> Result<EntryId, NetworkError> {
        let fail = |e| NetworkError::netlink(format!("set {} {settings}", interface.name), e);
        let links = self.host.netlink.links().await.map_err(fail)?;
        let link = links
            .into_iter()
            .find(|link| link.index == interface.index)
            .ok_or_else(|| fail(io::Error::from_raw_os_error(libc::ENODEV)))?;
        let generates = link.state.address_generation;
        let id = self.journal.record(Undo::RestoreLink {
            name: link.name,
            index: interface.index,
            state: link.state,
        })?;
        if generates.is_some_and(|mode| mode != NO_ADDRESS_GENERATION) {
            // Keeps the host's router solicitations and multicast reports out of the tunnel; it
            // works without.
            let set = self
                .host
                .netlink
                .set_address_generation(interface.index, NO_ADDRESS_GENERATION)
                .await;
            if let Err(error) = set {
                debug!("{}: addr_gen_mode none: {error}", interface.name);
            }
        }
        let mtu = settings.mtu.into();
        let set =
            self.host.netlink.set_link(interface.index, mtu, settings.tx_queue_len, true).await;
        self.keep(id, set.map_err(fail))
    }

    async fn add_address(
        &mut self,
        address: &TunnelAddress,
        interface: &Interface,
    ) -> Result<Option<EntryId>, NetworkError> {
        let id = self.journal.record(Undo::DeleteAddress {
            name: interface.name.clone(),
            index: interface.index,
            address: address.clone(),
        })?;
        match self.host.netlink.add_address(interface.index, address).await {
            // A persistent device keeps its addresses.
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {
                self.journal.done(id).map(|()| None)
            }
            result => {
                let operation = format!("add {address} to {}", interface.name);
                let result = result.map_err(|e| NetworkError::netlink(operation, e));
                self.keep(id, result).map(Some)
            }
        }
    }

    async fn add_route(
        &mut self,
        route: &PlannedRoute,
        tunnel: u32,
    ) -> Result<Outcome, NetworkError> {
        let id = self.journal.record(Undo::DeleteRoute { tunnel, route: route.clone() })?;
        let mut result = self.host.netlink.add_route(route, tunnel).await;
        if let (Err(error), RouteTarget::Outside(path)) = (&result, &route.target)
            && path.gateway.is_some()
            && matches!(error.raw_os_error(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH))
        {
            // The host uses this gateway on this device, whatever made the kernel believe it then.
            let path = Path { onlink: true, ..path.clone() };
            let route = PlannedRoute { target: RouteTarget::Outside(path), ..route.clone() };
            result = self.host.netlink.add_route(&route, tunnel).await;
        }
        let Err(error) = result else { return Ok(Outcome::Made(id)) };
        self.journal.done(id)?;
        let operation = || format!("add {route}");
        let to_tunnel = matches!(route.target, RouteTarget::Tunnel | RouteTarget::Unreachable);
        match error.raw_os_error() {
            Some(libc::EEXIST) => match &route.target {
                RouteTarget::Outside(_) => Ok(Outcome::WasThere),
                // Without its halves of the Internet a redirecting tunnel leaks.
                _ if to_tunnel && route.destination.prefix() < 8 => {
                    Err(NetworkError::RouteTaken { operation: operation() })
                }
                _ => Ok(Outcome::LeftOut(format!(
                    "{}: left out, the host has another route to {} already",
                    operation(),
                    route.destination
                ))),
            },
            // A host without IPv6 needs nothing to make it unreachable.
            Some(libc::EACCES | libc::EAFNOSUPPORT | libc::EOPNOTSUPP)
                if route.target == RouteTarget::Unreachable && route.destination.is_ipv6() =>
            {
                Ok(Outcome::WasThere)
            }
            _ if matches!(route.target, RouteTarget::Gateway(_)) => {
                Ok(Outcome::LeftOut(format!("cannot {}: {error}", operation())))
            }
            _ => Err(NetworkError::netlink(operation(), error)),
        }
    }

    /// The tunnel works without DNS: what fails is a warning.
    async fn add_dns(
        &mut self,
        plan: &DnsPlan,
        interface: &Interface,
        warnings: &mut Vec<String>,
    ) -> Result<Option<EntryId>, NetworkError> {
        let prepared = match self.host.resolver.prepare(plan, interface, warnings).await {
            Ok(prepared) => prepared,
            Err(reason) => {
                warnings.push(format!("the tunnel's DNS is not used: {reason}"));
                return Ok(None);
            }
        };
        let id = self.journal.record(Undo::Dns(prepared.undo.clone()))?;
        let Err(reason) = self.host.resolver.apply(&prepared, plan, interface).await else {
            debug!("DNS set through {}", prepared.backend());
            return Ok(Some(id));
        };
        warnings.push(format!("the tunnel's DNS is not used: {reason}"));
        // A part of it may be in place.
        match self.host.resolver.revert(&prepared.undo).await {
            Ok(()) => self.journal.done(id).map(|()| None),
            Err(reason) => {
                warnings.push(reason);
                Ok(Some(id))
            }
        }
    }

    /// Keeps the journal entry of a change that was made, drops that of one that was not.
    fn keep(
        &mut self,
        id: EntryId,
        result: Result<(), NetworkError>,
    ) -> Result<EntryId, NetworkError> {
        match result {
            Ok(()) => Ok(id),
            Err(error) => {
                self.journal.done(id)?;
                Err(error)
            }
        }
    }
}
