//! Applies plans to the host over rtnetlink and its resolver, and takes them back.

mod change;
mod host;

use std::collections::BTreeSet;
use std::path::Path as FsPath;

use ovpn_dco::Interface;
use tracing::{debug, info, warn};

pub(super) use self::host::HostAccess;
use self::host::{Host, matches};
use super::clean_up;
use super::dns::HostResolver;
use super::error::NetworkError;
use super::fib::{FibRoute, RouteKind, Target};
use super::journal::{EntryId, Journal, Undo};
use super::netlink::ipv6_enabled;
use super::plan::{Item, NetworkPlan, PlannedRoute, RouteTarget, Step, diff};
use super::types::{Gateways, Network, RemotePath, RouteQuery};

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
    /// The link of [`Self::adopt_link`].
    link: Option<EntryId>,
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
        let host = HostAccess::open(resolver)?;
        let (journal, leftovers) = Journal::open(runtime_dir)?;
        clean_up::log(&clean_up::undo_all(&host, leftovers).await?);
        match host.resolver.restore_after_reboot() {
            Ok(true) => info!("restored resolv.conf as it was before the last boot"),
            Ok(false) => {}
            Err(reason) => debug!("resolv.conf: {reason}"),
        }
        Ok(Self { host, journal, interface: None, entries: Vec::new(), link: None })
    }

    /// Undoes what this process has done by way of values of this type whose owners hang. The last
    /// thing before the process ends: they must not come back to life.
    ///
    /// # Errors
    /// When there is no journal or netlink cannot be opened. What cannot be undone is logged, and
    /// kept for the next start.
    pub async fn undo_abandoned(runtime_dir: &FsPath) -> Result<(), NetworkError> {
        let own = Journal::of_this_process(runtime_dir)?;
        if own.iter().all(|leftover| leftover.undo.is_empty()) {
            return Ok(());
        }
        let host = HostAccess::open(HostResolver::default())?;
        clean_up::log(&clean_up::undo_all(&host, own).await?);
        Ok(())
    }

    /// Notes a link that was just made and outlives this process (kernel data channel). If the
    /// process dies it is deleted at the next start.
    ///
    /// # Errors
    /// When the link is not there or the journal cannot be written.
    pub async fn adopt_link(&mut self, interface: &Interface) -> Result<(), NetworkError> {
        self.forget_link()?;
        let fail = |e| NetworkError::netlink(format!("look at {}", interface.name), e);
        let link = self.host.find_link(&interface.name, interface.index).await.map_err(fail)?;
        let link = link.ok_or_else(|| fail(std::io::Error::from_raw_os_error(libc::ENODEV)))?;
        let undo = Undo::DeleteLink { name: link.name, kind: link.kind, index: interface.index };
        self.link = Some(self.journal.record(undo)?);
        Ok(())
    }

    /// Whether an interface is still there, under its name.
    ///
    /// # Errors
    /// When netlink fails.
    pub async fn has_link(&self, interface: &Interface) -> Result<bool, NetworkError> {
        let found = self.host.find_link(&interface.name, interface.index).await;
        found
            .map(|link| link.is_some())
            .map_err(|e| NetworkError::netlink(format!("look at {}", interface.name), e))
    }

    /// The adopted link was deleted again by its owner.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn forget_link(&mut self) -> Result<(), NetworkError> {
        match self.link.take() {
            Some(id) => self.journal.done(id),
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
