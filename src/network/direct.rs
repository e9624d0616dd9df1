//! Applies plans to the host over rtnetlink and its resolver, and takes them back.

use std::collections::BTreeSet;
use std::io;
use std::path::Path as FsPath;

use ovpn_dco::Interface;
use tracing::{debug, info, warn};

use super::dns::{DnsPlan, HostResolver};
use super::error::NetworkError;
use super::fib::{Fib, FibRoute, RouteKind, Selectors, Target};
use super::journal::{EntryId, Journal, Undo};
use super::netlink::{Link, Netlink, PROTOCOL, ipv6_enabled};
use super::plan::{
    Item, LinkSettings, NetworkPlan, PlannedRoute, RouteTarget, Step, TunnelAddress, diff,
};
use super::types::{Gateways, Network, Path, RemotePath, RouteQuery};

/// `IN6_ADDR_GEN_MODE_NONE` of `linux/if_link.h`: no link-local address.
const NO_ADDRESS_GENERATION: u8 = 1;

/// The host's network, as far as one session has changed it.
///
/// Every change is journalled before it is made. Dropping without [`Self::undo`] leaves the
/// changes (and the journal) for the next start to clean up.
#[derive(Debug)]
pub struct DirectNetwork {
    host: HostAccess,
    journal: Journal,
    /// Where the tunnel's entries are.
    interface: Option<Interface>,
    /// In the order in which they were applied.
    entries: Vec<Entry>,
    /// The link that was announced with [`Self::expect_link`].
    link: Option<(String, String, EntryId)>,
}

#[derive(Debug)]
struct Entry {
    item: Item,
    /// `None`: it was there before, so it is not ours to remove.
    undo: Option<EntryId>,
    /// Made by [`DirectNetwork::protect`], and in no plan yet.
    provisional: bool,
}

/// What [`DirectNetwork::apply`] did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Applied {
    /// The changes made, in order. Empty when everything was in place.
    pub steps: Vec<Step>,
    /// What could not be done although the tunnel works without it, and why.
    pub warnings: Vec<String>,
}

impl DirectNetwork {
    /// Opens netlink in the network namespace of the calling thread, starts the journal in
    /// `runtime_dir` and undoes what dead processes have left there. Inside a tokio runtime.
    ///
    /// # Errors
    /// When the journal cannot be kept or netlink cannot be opened. A leftover that cannot be
    /// undone is logged, kept, and no error.
    pub async fn open(runtime_dir: &FsPath) -> Result<Self, NetworkError> {
        Self::open_with(runtime_dir, HostResolver::default()).await
    }

    /// [`Self::open`] with a resolver that is somewhere else than usual.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_with(
        runtime_dir: &FsPath,
        resolver: HostResolver,
    ) -> Result<Self, NetworkError> {
        let netlink = Netlink::open().map_err(|e| NetworkError::netlink("open netlink", e))?;
        let host = HostAccess { netlink, resolver };
        let (journal, leftovers) = Journal::open(runtime_dir)?;
        for leftover in leftovers {
            let pid = leftover.pid();
            let mut failed = false;
            for undo in &leftover.undo {
                if let Err(error) = host.revert(undo).await {
                    warn!("cleaning up after process {pid}: {error}");
                    failed = true;
                }
            }
            if !leftover.undo.is_empty() && !failed {
                info!("undid {} changes that process {pid} had left", leftover.undo.len());
            }
            if !failed {
                leftover.finish()?;
            }
        }
        match host.resolver.restore_after_reboot() {
            Ok(true) => info!("restored resolv.conf as it was before the last boot"),
            Ok(false) => {}
            Err(reason) => debug!("resolv.conf: {reason}"),
        }
        Ok(Self { host, journal, interface: None, entries: Vec::new(), link: None })
    }

    /// Announces a link that is about to be made and would outlive this process (kernel data
    /// channel). If the process dies it is deleted at the next start.
    ///
    /// # Errors
    /// When the journal cannot be written: then do not make the link.
    pub fn expect_link(&mut self, name: &str, kind: &str) -> Result<(), NetworkError> {
        self.forget_link()?;
        let undo = Undo::DeleteLink { name: name.to_owned(), kind: kind.to_owned(), index: None };
        let id = self.journal.record(undo)?;
        self.link = Some((name.to_owned(), kind.to_owned(), id));
        Ok(())
    }

    /// The announced link exists: only the one with this index is deleted later.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn link_created(&mut self, interface: &Interface) -> Result<(), NetworkError> {
        let Some((name, kind, old)) = self.link.take() else { return Ok(()) };
        let undo = Undo::DeleteLink {
            name: interface.name.clone(),
            kind: kind.clone(),
            index: Some(interface.index),
        };
        let id = self.journal.record(undo)?;
        self.link = Some((name, kind, id));
        self.journal.done(old)
    }

    /// The announced link was deleted again, or never made.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn forget_link(&mut self) -> Result<(), NetworkError> {
        match self.link.take() {
            Some((_, _, id)) => self.journal.done(id),
            None => Ok(()),
        }
    }

    /// How the host reaches the server, and everything else, without the tunnel. Right also while
    /// the tunnel's routes are in place: those are looked through.
    ///
    /// # Errors
    /// When netlink fails.
    pub async fn lookup(&self, query: &RouteQuery) -> Result<Gateways, NetworkError> {
        let host = Host::read(&self.host.netlink).await?;
        let remote = self.remote_path(query, &host).await?;
        let selectors = host.selectors(query);
        let default = |ipv6| {
            let route = host.fib(ipv6).resolve(Target::Default, selectors, |r| self.owns(r))?;
            route.path(selectors, |index| host.name(index))
        };
        let (default_v4, default_v6) = (default(false), default(true));
        let via = match &remote {
            RemotePath::Via(path) => Some(path),
            RemotePath::Local | RemotePath::Unreachable => None,
        };
        let devices: BTreeSet<u32> = [via, default_v4.as_ref(), default_v6.as_ref()]
            .into_iter()
            .flatten()
            .map(|path| path.index)
            .collect();
        let addresses = self.host.netlink.addresses().await;
        let local_networks: BTreeSet<Network> = addresses
            .map_err(|e| NetworkError::netlink("list addresses", e))?
            .into_iter()
            .filter(|(index, _, _)| devices.contains(index))
            .filter_map(|(_, address, prefix)| Network::new(address, prefix))
            .collect();
        Ok(Gateways {
            remote,
            default_v4,
            default_v6,
            local_networks: local_networks.into_iter().collect(),
            ipv6: ipv6_enabled(),
        })
    }

    /// Makes sure that packets to a server do not go into the tunnel that is still configured from
    /// the last connection. Before every connection attempt; without a tunnel it does nothing.
    ///
    /// # Errors
    /// When netlink or the journal fails.
    pub async fn protect(&mut self, query: &RouteQuery) -> Result<(), NetworkError> {
        if self.entries.is_empty() {
            return Ok(());
        }
        self.forget_vanished().await?;
        let host = Host::read(&self.host.netlink).await?;
        let destination = Network::host(query.remote.to_canonical());
        self.remove_where(|entry| {
            entry.provisional
                && matches!(&entry.item, Item::Route(r) if r.destination != destination)
        })
        .await?;
        let present = self.kernel_route(query, &host).await?;
        if present.is_none_or(|route| !self.owns(&route)) {
            return Ok(());
        }
        let RemotePath::Via(path) = self.remote_path(query, &host).await? else { return Ok(()) };
        let route = Item::Route(PlannedRoute {
            target: RouteTarget::Outside(path),
            destination,
            metric: None,
            source: None,
            mss: None,
        });
        if self.entries.iter().any(|entry| entry.item == route) {
            return Ok(());
        }
        self.remove_where(|entry| {
            matches!(&entry.item, Item::Route(r)
                if r.destination == destination && matches!(r.target, RouteTarget::Outside(_)))
        })
        .await?;
        let tunnel = self.interface.as_ref().map_or(0, |interface| interface.index);
        let mut warnings = Vec::new();
        self.add(&route, &Interface { name: String::new(), index: tunnel }, &mut warnings).await?;
        if let Some(entry) = self.entries.last_mut() {
            entry.provisional = true;
        }
        Ok(())
    }

    /// Changes the host from what is applied to what is planned. The same plan again changes
    /// nothing (but brings back what the kernel has dropped since).
    ///
    /// # Errors
    /// The first step that fails and that the tunnel needs. Everything is undone then.
    pub async fn apply(
        &mut self,
        interface: &Interface,
        plan: &NetworkPlan,
    ) -> Result<Applied, NetworkError> {
        match self.try_apply(interface, plan).await {
            Ok(applied) => Ok(applied),
            Err(error) => {
                if let Err(second) = self.undo().await {
                    warn!("undoing after a failure: {second}");
                }
                Err(error)
            }
        }
    }

    async fn try_apply(
        &mut self,
        interface: &Interface,
        plan: &NetworkPlan,
    ) -> Result<Applied, NetworkError> {
        if self.interface.as_ref().is_some_and(|old| old != interface) {
            self.remove_where(|entry| entry.is_on_tunnel()).await?;
        }
        self.interface = Some(interface.clone());
        self.forget_vanished().await?;
        let present: Vec<Item> = self.entries.iter().map(|entry| entry.item.clone()).collect();
        let mut applied = Applied { steps: Vec::new(), warnings: plan.notes().to_vec() };
        for step in diff(&present, plan.items()) {
            debug!("{step}");
            match &step {
                Step::Add(item) => self.add(item, interface, &mut applied.warnings).await?,
                Step::Remove(item) => self.remove_where(|entry| entry.item == *item).await?,
            }
            applied.steps.push(step);
        }
        for entry in &mut self.entries {
            entry.provisional = false;
        }
        Ok(applied)
    }

    /// Takes everything back, latest first.
    ///
    /// # Errors
    /// The first failure; the rest is undone all the same. What could not be undone stays in the
    /// journal for the next start.
    pub async fn undo(&mut self) -> Result<(), NetworkError> {
        let result = self.remove_where(|_| true).await;
        self.interface = None;
        result
    }

    /// Removes entries, latest first, and goes on after failures.
    async fn remove_where(
        &mut self,
        selected: impl Fn(&Entry) -> bool,
    ) -> Result<(), NetworkError> {
        let mut result = Ok(());
        for position in (0..self.entries.len()).rev() {
            if !selected(&self.entries[position]) {
                continue;
            }
            let entry = self.entries.remove(position);
            let Some(id) = entry.undo else { continue };
            let undone = match self.journal.get(id) {
                Some(undo) => self.host.revert(undo).await,
                None => Ok(()),
            };
            let noted = match undone {
                Ok(()) => self.journal.done(id),
                Err(error) => Err(error),
            };
            if let Err(error) = noted {
                if result.is_ok() {
                    result = Err(error);
                } else {
                    warn!("{error}");
                }
            }
        }
        result
    }

    async fn add(
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

    /// Forgets entries that the kernel has dropped by itself (with a device that went down or away),
    /// so that they are made again.
    async fn forget_vanished(&mut self) -> Result<(), NetworkError> {
        if self.entries.is_empty() {
            return Ok(());
        }
        let host = Host::read(&self.host.netlink).await?;
        let addresses = self.host.netlink.addresses().await;
        let addresses = addresses.map_err(|e| NetworkError::netlink("list addresses", e))?;
        let tunnel = self.interface.as_ref().map(|interface| interface.index);
        let vanished = |entry: &Entry| match &entry.item {
            Item::Link(_) => {
                !host.links.iter().any(|link| Some(link.index) == tunnel && link.state.up)
            }
            Item::Address(a) => {
                !addresses.iter().any(|(index, ip, _)| Some(*index) == tunnel && *ip == a.address)
            }
            Item::Route(planned) => {
                let fib = host.fib(planned.destination.is_ipv6());
                entry.undo.is_some() && !fib.routes.iter().any(|r| matches(r, planned, tunnel))
            }
            Item::Dns(_) => false,
        };
        for position in (0..self.entries.len()).rev() {
            if vanished(&self.entries[position]) {
                let entry = self.entries.remove(position);
                debug!("{} has disappeared", entry.item);
                if let Some(id) = entry.undo {
                    self.journal.done(id)?;
                }
            }
        }
        Ok(())
    }

    async fn kernel_route(
        &self,
        query: &RouteQuery,
        host: &Host,
    ) -> Result<Option<FibRoute>, NetworkError> {
        let device = host.selectors(query).device.map(|(_, index)| index);
        let remote = query.remote.to_canonical();
        self.host
            .netlink
            .route_to(remote, query.mark, device)
            .await
            .map_err(|e| NetworkError::netlink(format!("look up the route to {remote}"), e))
    }

    /// The kernel's own answer, unless the tunnel's routes stand in its way.
    async fn remote_path(
        &self,
        query: &RouteQuery,
        host: &Host,
    ) -> Result<RemotePath, NetworkError> {
        let selectors = host.selectors(query);
        let remote = query.remote.to_canonical();
        let present = self.kernel_route(query, host).await?;
        let route = match &present {
            Some(route) if !self.owns(route) => Some(route),
            None if self.entries.is_empty() => None,
            _ => host
                .fib(remote.is_ipv6())
                .resolve(Target::Address(remote), selectors, |route| self.owns(route)),
        };
        Ok(match route {
            Some(route) if route.kind == RouteKind::Local => RemotePath::Local,
            Some(route) => route
                .path(selectors, |index| host.name(index))
                .map_or(RemotePath::Unreachable, RemotePath::Via),
            None => RemotePath::Unreachable,
        })
    }

    /// Whether a route of the host is there because of this session.
    fn owns(&self, route: &FibRoute) -> bool {
        let tunnel = self.interface.as_ref().map(|interface| interface.index);
        let into_tunnel =
            tunnel.is_some_and(|index| route.hops.iter().any(|hop| hop.index == index));
        into_tunnel
            || self.entries.iter().any(|entry| match &entry.item {
                Item::Route(planned) => entry.undo.is_some() && matches(route, planned, tunnel),
                _ => false,
            })
    }
}

impl Entry {
    /// Whether it goes away with the tunnel's interface.
    fn is_on_tunnel(&self) -> bool {
        match &self.item {
            Item::Link(_) | Item::Address(_) | Item::Dns(_) => true,
            Item::Route(route) => route.target == RouteTarget::Tunnel,
        }
    }
}

enum Outcome {
    Made(EntryId),
    WasThere,
    LeftOut(String),
}

/// Whether a route in the kernel is the one that was made for a planned one.
fn matches(route: &FibRoute, planned: &PlannedRoute, tunnel: Option<u32>) -> bool {
    if route.protocol != PROTOCOL || route.destination != planned.destination {
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

/// A reading of the host's links and routes.
struct Host {
    links: Vec<Link>,
    v4: Fib,
    v6: Fib,
}

impl Host {
    async fn read(netlink: &Netlink) -> Result<Self, NetworkError> {
        let fail = |e| NetworkError::netlink("read the host's links and routes", e);
        Ok(Self {
            links: netlink.links().await.map_err(fail)?,
            v4: netlink.fib(false).await.map_err(fail)?,
            v6: netlink.fib(true).await.map_err(fail)?,
        })
    }

    fn fib(&self, ipv6: bool) -> &Fib {
        if ipv6 { &self.v6 } else { &self.v4 }
    }

    fn name(&self, index: u32) -> Option<String> {
        self.links.iter().find(|link| link.index == index).map(|link| link.name.clone())
    }

    fn selectors<'a>(&'a self, query: &RouteQuery) -> Selectors<'a> {
        let device = query.bind_dev.as_ref().and_then(|name| {
            let link = self.links.iter().find(|link| link.name == *name)?;
            Some((link.name.as_str(), link.index))
        });
        Selectors { mark: query.mark.unwrap_or(0), device }
    }
}

/// What changes the host.
#[derive(Debug)]
struct HostAccess {
    netlink: Netlink,
    resolver: HostResolver,
}

impl HostAccess {
    /// Undoes one change. What is gone already is no error: a link takes its addresses and routes
    /// with it, and people clean up by hand.
    async fn revert(&self, undo: &Undo) -> Result<(), NetworkError> {
        let (operation, result) = match undo {
            Undo::DeleteRoute { tunnel, route } => {
                (format!("delete {route}"), self.netlink.delete_route(route, *tunnel).await)
            }
            Undo::DeleteAddress { name, index, address } => {
                let result = match self.find_link(name, *index).await {
                    Ok(Some(_)) => self.netlink.delete_address(*index, address).await,
                    other => other.map(|_| ()),
                };
                (format!("delete {address} from {name}"), result)
            }
            Undo::RestoreLink { name, index, state } => {
                let result = match self.find_link(name, *index).await {
                    Ok(Some(_)) => {
                        let length = Some(state.tx_queue_len);
                        let set = self.netlink.set_link(*index, state.mtu, length, state.up).await;
                        match state.address_generation {
                            Some(mode) => {
                                set.and(self.netlink.set_address_generation(*index, mode).await)
                            }
                            None => set,
                        }
                    }
                    other => other.map(|_| ()),
                };
                (format!("restore the settings of {name}"), result)
            }
            Undo::Dns(undo) => {
                return self.resolver.revert(undo).await.map_err(NetworkError::Dns);
            }
            Undo::DeleteLink { name, kind, index } => {
                let result = match self.netlink.links().await {
                    Ok(links) => {
                        let ours = links.into_iter().find(|link| {
                            link.name == *name
                                && link.kind == *kind
                                && index.is_none_or(|index| index == link.index)
                        });
                        match ours {
                            Some(link) => self.netlink.delete_link(link.index).await,
                            None => Ok(()),
                        }
                    }
                    Err(error) => Err(error),
                };
                (format!("delete {name}"), result)
            }
        };
        match result {
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(
                        libc::ESRCH
                            | libc::ENOENT
                            | libc::ENODEV
                            | libc::ENXIO
                            | libc::EADDRNOTAVAIL
                    )
                ) =>
            {
                Ok(())
            }
            result => result.map_err(|e| NetworkError::netlink(operation, e)),
        }
    }

    async fn find_link(&self, name: &str, index: u32) -> io::Result<Option<Link>> {
        let links = self.netlink.links().await?;
        Ok(links.into_iter().find(|link| link.index == index && link.name == name))
    }
}
