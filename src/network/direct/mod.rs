//! Applies plans to the host over rtnetlink and its resolver, and takes them back.

mod apply;
mod change;
mod fights;
mod guard;
mod held;
mod host;
mod keep;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::Path as FsPath;
use std::sync::Arc;

use ovpn_dco::Interface;
use tracing::{debug, warn};

pub use self::apply::Applied;
use self::fights::Fights;
use self::held::{Entries, Entry, Held, OwnRoutes, Presence, Reading};
use self::host::Host;
pub(super) use self::host::HostAccess;
pub use self::keep::{Kept, Way};
use super::clean_up::{self, Undone};
use super::dns::HostResolver;
use super::error::NetworkError;
use super::fib::{FibRoute, RouteKind, Target};
use super::helper::{self, Notes};
use super::journal::{EntryId, Journal, Owner, Undo};
use super::netcfg::NetcfgConfig;
use super::netlink::{LinkState, ipv6_enabled};
use super::plan::{Item, PlannedRoute, RouteTarget};
use super::types::{Gateways, Network, RemotePath, RouteQuery};

/// Opens the device node that TUN devices are made with.
///
/// # Errors
/// As opening a file.
pub async fn open_tun() -> io::Result<File> {
    match helper::of_this_process() {
        Some(helper) => helper.open_tun().await,
        None => File::options().read(true).write(true).open("/dev/net/tun"),
    }
}

/// The host's network, as far as one session has changed it.
///
/// Every change is journalled before it is made. Dropping without [`Self::undo`] leaves the
/// changes (and the journal) for the next start to clean up.
#[derive(Debug)]
pub struct DirectNetwork {
    host: HostAccess,
    journal: Notes,
    /// Where the tunnel's entries are.
    interface: Option<Interface>,
    entries: Entries,
    /// What the last plan says, with the ways that the host had then.
    wanted: Vec<Item>,
    fights: Fights,
    /// How the interface's settings were before.
    before: Option<(EntryId, LinkState)>,
    /// Routes that stand in while others change.
    guards: BTreeMap<PlannedRoute, EntryId>,
    /// The link of [`Self::adopt_link`].
    link: Option<EntryId>,
}

impl DirectNetwork {
    /// Opens netlink in the network namespace of the calling thread, starts the journal in
    /// `runtime_dir` and undoes what dead processes have left there. Inside a tokio runtime.
    ///
    /// # Errors
    /// When the journal cannot be kept or netlink cannot be opened. A leftover that cannot be
    /// undone is logged, kept, and no error.
    pub async fn open(runtime_dir: &FsPath) -> Result<Self, NetworkError> {
        let Some(helper) = helper::of_this_process() else {
            return Self::open_with(runtime_dir, HostResolver::default()).await;
        };
        let desk = helper.desk()?;
        let host = HostAccess::through(Arc::clone(&desk))?;
        Ok(Self::new(host, desk.open().await?))
    }

    /// [`Self::open`] in this process, with a resolver that is somewhere else than usual.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_with(
        runtime_dir: &FsPath,
        resolver: HostResolver,
    ) -> Result<Self, NetworkError> {
        let (host, journal) = helper::open_here(runtime_dir, Owner::this(), resolver).await?;
        Ok(Self::new(host, Notes::Here(journal)))
    }

    fn new(host: HostAccess, journal: Notes) -> Self {
        Self {
            host,
            journal,
            interface: None,
            entries: Entries::new(),
            wanted: Vec::new(),
            fights: Fights::default(),
            before: None,
            guards: BTreeMap::new(),
            link: None,
        }
    }

    /// Has the netcfg service set the tunnel's DNS where this process cannot.
    #[must_use]
    pub fn with_dns_service(mut self, service: NetcfgConfig) -> Self {
        self.host.resolver.set_service(service);
        self
    }

    /// Undoes what this process has done by way of values of this type whose owners hang. The last
    /// thing before the process ends: they must not come back to life.
    ///
    /// # Errors
    /// When the journals cannot be read or netlink cannot be opened. What cannot be undone is in the
    /// result, and kept for the next start.
    pub async fn undo_abandoned(runtime_dir: &FsPath) -> Result<Vec<Undone>, NetworkError> {
        if let Some(helper) = helper::of_this_process() {
            let desk = helper.desk()?;
            return Ok(desk.undo_abandoned()?);
        }
        let own = Journal::of(runtime_dir, Owner::this())?;
        if own.iter().all(|leftover| leftover.undo.is_empty()) {
            return Ok(Vec::new());
        }
        let host = HostAccess::open(HostResolver::default())?;
        clean_up::undo_all(&host, own).await
    }

    /// Notes a link that was just made and outlives this process (kernel data channel). If the
    /// process dies it is deleted at the next start.
    ///
    /// # Errors
    /// When the link is not there or the journal cannot be written.
    pub async fn adopt_link(&mut self, interface: &Interface) -> Result<(), NetworkError> {
        self.forget_link().await?;
        let fail = |e| NetworkError::netlink(format!("look at {}", interface.name), e);
        let link = self.host.find_link(&interface.name, interface.index).await.map_err(fail)?;
        let link = link.ok_or_else(|| fail(io::Error::from_raw_os_error(libc::ENODEV)))?;
        let undo = Undo::DeleteLink { name: link.name, kind: link.kind, index: interface.index };
        self.link = Some(self.journal.record(undo).await?);
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
    pub async fn forget_link(&mut self) -> Result<(), NetworkError> {
        match self.link.take() {
            Some(id) => self.journal.done(id).await,
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
        let own = self.own_routes();
        let default = |ipv6| {
            let route = host.fib(ipv6).resolve(Target::Default, selectors, |r| own.contains(r))?;
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
            .filter(|(index, _)| devices.contains(index))
            .filter_map(|(_, address)| Network::new(address.address, address.prefix))
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
        let to_others = |item: &Item, entry: &Entry| {
            entry.provisional && matches!(item, Item::Route(r) if r.destination != destination)
        };
        self.remove_where(to_others).await?;
        let present = self.kernel_route(query, &host).await?;
        if present.as_ref().is_some_and(|route| !self.own_routes().contains(route)) {
            return Ok(());
        }
        // Into the tunnel, or nowhere; that may be because of a route made here as well.
        let RemotePath::Via(path) = self.remote_path(query, &host).await? else { return Ok(()) };
        let route = PlannedRoute {
            target: RouteTarget::Outside(path),
            destination,
            metric: None,
            source: None,
        };
        let item = Item::Route(route.clone());
        if self.entries.contains_key(&item) {
            return Ok(());
        }
        let other_ways = |item: &Item, _: &Entry| {
            matches!(item, Item::Route(r)
                if r.destination == destination && matches!(r.target, RouteTarget::Outside(_)))
        };
        self.remove_where(other_ways).await?;
        let tunnel = self.interface.as_ref().map_or(0, |interface| interface.index);
        let key = route.key();
        if present.is_some_and(|route| (route.destination, route.metric) == key) {
            // Somebody has led the server into the tunnel, and would be in the way.
            let deleted = self.host.netlink.delete_route_to_link(key, tunnel).await;
            debug!("{} into the tunnel, deleted: {deleted:?}", route.destination);
        }
        self.add_routes(vec![route], tunnel).await?;
        if let Some(entry) = self.entries.get_mut(&item) {
            entry.provisional = true;
        }
        Ok(())
    }

    /// What the last plan says, in the order in which it was applied; nothing once it is undone.
    pub fn planned(&self) -> &[Item] {
        &self.wanted
    }

    /// Takes everything back, latest first.
    ///
    /// # Errors
    /// The first failure; the rest is undone all the same. What could not be undone stays in the
    /// journal for the next start.
    pub async fn undo(&mut self) -> Result<(), NetworkError> {
        self.wanted.clear();
        let result = self.remove_where(|_, _| true).await;
        let before = self.before.take().map(|(id, _)| id);
        let guards = std::mem::take(&mut self.guards).into_values();
        let rest = self.revert(before.into_iter().chain(guards).collect()).await;
        self.interface = None;
        result.and(rest)
    }

    /// Removes entries, latest first, and goes on after failures.
    async fn remove_where(
        &mut self,
        selected: impl Fn(&Item, &Entry) -> bool,
    ) -> Result<(), NetworkError> {
        let found = self.entries.iter().rev().filter(|(item, entry)| selected(item, entry));
        let items: Vec<Item> = found.map(|(item, _)| item.clone()).collect();
        self.remove(&items).await
    }

    /// Removes entries in this order, and goes on after failures.
    async fn remove(&mut self, items: &[Item]) -> Result<(), NetworkError> {
        let mut undo = Vec::new();
        for item in items {
            match self.entries.remove(item).map(|entry| entry.held) {
                Some(Held::Ours(id)) => undo.push(id),
                Some(Held::Set { .. }) => undo.extend(self.before.take().map(|(id, _)| id)),
                Some(Held::Foreign | Held::Refused(_)) | None => {}
            }
        }
        self.revert(undo).await
    }

    /// Undoes changes by their journal entries, in this order, and goes on after failures.
    async fn revert(&mut self, ids: Vec<EntryId>) -> Result<(), NetworkError> {
        let undo: Vec<Undo> = ids.iter().filter_map(|id| self.journal.get(*id)).cloned().collect();
        let (mut done, mut first) = (Vec::new(), None);
        for (id, result) in ids.into_iter().zip(self.host.revert_all(&undo).await) {
            match result {
                Ok(()) => done.push(id),
                Err(error) if first.is_none() => first = Some(error),
                Err(error) => warn!("{error}"),
            }
        }
        let noted = self.journal.done_all(&done).await;
        first.map_or(noted, Err)
    }

    /// Forgets entries that the kernel does not have any more as they were made (a device went down,
    /// or somebody removed them), so that they are made again. Gives those of which only a part has
    /// gone, and which have to be taken back first.
    async fn forget_vanished(&mut self) -> Result<Vec<Item>, NetworkError> {
        if self.entries.is_empty() {
            return Ok(Vec::new());
        }
        let tunnel = self.interface.as_ref().map(|interface| interface.index);
        let reading = Reading::new(&self.host.netlink, tunnel).await?;
        let (mut gone, mut damaged) = (Vec::new(), Vec::new());
        self.entries.retain(|item, entry| match reading.look_for(item, &entry.held) {
            Presence::Whole => true,
            Presence::Damaged => {
                debug!("{item} has lost its route");
                damaged.push(item.clone());
                true
            }
            Presence::Gone => {
                debug!("{item} has disappeared");
                if let Held::Ours(id) = entry.held {
                    gone.push(id);
                }
                false
            }
        });
        self.journal.done_all(&gone).await?;
        Ok(damaged)
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
        let own = self.own_routes();
        let route = match &present {
            Some(route) if !own.contains(route) => Some(route),
            None if self.entries.is_empty() && self.guards.is_empty() => None,
            _ => host
                .fib(remote.is_ipv6())
                .resolve(Target::Address(remote), selectors, |route| own.contains(route)),
        };
        Ok(match route {
            Some(route) if route.kind == RouteKind::Local => RemotePath::Local,
            Some(route) => route
                .path(selectors, |index| host.name(index))
                .map_or(RemotePath::Unreachable, RemotePath::Via),
            None => RemotePath::Unreachable,
        })
    }

    fn own_routes(&self) -> OwnRoutes<'_> {
        let made = self.entries.iter().filter_map(|(item, entry)| match item {
            Item::Route(route) if entry.held.is_ours() => Some(route),
            _ => None,
        });
        let tunnel = self.interface.as_ref().map(|interface| interface.index);
        OwnRoutes::new(tunnel, made.chain(self.guards.keys()))
    }
}
