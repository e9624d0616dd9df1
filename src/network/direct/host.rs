//! Reading the host's network, and undoing single changes to it.

use std::io;

use super::super::dns::HostResolver;
use super::super::error::NetworkError;
use super::super::fib::{Fib, FibRoute, RouteKind, Selectors};
use super::super::journal::Undo;
use super::super::netlink::{Link, Netlink, PROTOCOL};
use super::super::plan::{PlannedRoute, RouteTarget};
use super::super::types::RouteQuery;

/// Whether a route in the kernel is the one that was made for a planned one.
pub(super) fn matches(route: &FibRoute, planned: &PlannedRoute, tunnel: Option<u32>) -> bool {
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
pub(super) struct Host {
    pub(super) links: Vec<Link>,
    v4: Fib,
    v6: Fib,
}

impl Host {
    pub(super) async fn read(netlink: &Netlink) -> Result<Self, NetworkError> {
        let fail = |e| NetworkError::netlink("read the host's links and routes", e);
        Ok(Self {
            links: netlink.links().await.map_err(fail)?,
            v4: netlink.fib(false).await.map_err(fail)?,
            v6: netlink.fib(true).await.map_err(fail)?,
        })
    }

    pub(super) fn fib(&self, ipv6: bool) -> &Fib {
        if ipv6 { &self.v6 } else { &self.v4 }
    }

    pub(super) fn name(&self, index: u32) -> Option<String> {
        self.links.iter().find(|link| link.index == index).map(|link| link.name.clone())
    }

    pub(super) fn selectors<'a>(&'a self, query: &RouteQuery) -> Selectors<'a> {
        let device = query.bind_dev.as_ref().and_then(|name| {
            let link = self.links.iter().find(|link| link.name == *name)?;
            Some((link.name.as_str(), link.index))
        });
        Selectors { mark: query.mark.unwrap_or(0), device }
    }
}

/// What changes the host.
#[derive(Debug)]
pub(in crate::network) struct HostAccess {
    pub(super) netlink: Netlink,
    pub(super) resolver: HostResolver,
}

impl HostAccess {
    /// Opens netlink in the network namespace of the calling thread. Inside a tokio runtime.
    pub(in crate::network) fn open(resolver: HostResolver) -> Result<Self, NetworkError> {
        let netlink = Netlink::open().map_err(|e| NetworkError::netlink("open netlink", e))?;
        Ok(Self { netlink, resolver })
    }

    /// Undoes one change. What is gone already is no error: a link takes its addresses and routes
    /// with it, and people clean up by hand.
    pub(in crate::network) async fn revert(&self, undo: &Undo) -> Result<(), NetworkError> {
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
                // By now the number may be another link's.
                let result = match self.find_link(name, *index).await {
                    Ok(Some(link)) if link.kind == *kind => self.netlink.delete_link(*index).await,
                    other => other.map(|_| ()),
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

    pub(super) async fn find_link(&self, name: &str, index: u32) -> io::Result<Option<Link>> {
        let links = self.netlink.links().await?;
        Ok(links.into_iter().find(|link| link.index == index && link.name == name))
    }
}
