//! Reading the host's network, and undoing single changes to it.

use std::io;
use std::sync::Arc;

use super::super::dns::{HostResolver, Resolver};
use super::super::error::NetworkError;
use super::super::fib::{Fib, FibRoute, Selectors};
use super::super::helper::Desk;
use super::super::journal::Undo;
use super::super::netlink::{Link, LinkState, Netlink};
use super::super::types::RouteQuery;

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

    pub(super) fn into_routes(self) -> impl Iterator<Item = FibRoute> {
        self.v4.routes.into_iter().chain(self.v6.routes)
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
    pub(in crate::network) resolver: Resolver,
}

impl HostAccess {
    /// Opens netlink in the network namespace of the calling thread. Inside a tokio runtime.
    pub(in crate::network) fn open(resolver: HostResolver) -> Result<Self, NetworkError> {
        Self::with(Resolver::new(resolver))
    }

    /// The same where the helper process changes the resolver.
    pub(in crate::network) fn through(desk: Arc<Desk>) -> Result<Self, NetworkError> {
        Self::with(Resolver::through(desk))
    }

    fn with(resolver: Resolver) -> Result<Self, NetworkError> {
        let netlink = Netlink::open().map_err(|e| NetworkError::netlink("open netlink", e))?;
        Ok(Self { netlink, resolver })
    }

    /// Undoes changes, in this order, those of DNS beside the others: whatever they wait for keeps
    /// nothing else from being undone. One result for each. What is gone already is no error: a link
    /// takes its addresses and routes with it, and people clean up by hand.
    pub(in crate::network) async fn revert_all(
        &self,
        undo: &[Undo],
    ) -> Vec<Result<(), NetworkError>> {
        let (dns, others): (Vec<_>, Vec<_>) =
            undo.iter().partition(|undo| matches!(undo, Undo::Dns(_)));
        let (dns, others) = tokio::join!(self.revert_in_order(&dns), self.revert_in_order(&others));
        let (mut dns, mut others) = (dns.into_iter(), others.into_iter());
        let results = undo.iter().map(|undo| match undo {
            Undo::Dns(_) => dns.next(),
            _ => others.next(),
        });
        results.flatten().collect()
    }

    async fn revert_in_order(&self, undo: &[&Undo]) -> Vec<Result<(), NetworkError>> {
        let mut results = Vec::with_capacity(undo.len());
        for run in undo.chunk_by(|a, b| a.as_route().is_some() && b.as_route().is_some()) {
            match run {
                [Undo::DeleteRoute { .. }, ..] => {
                    let routes: Vec<_> = run.iter().filter_map(|undo| undo.as_route()).collect();
                    let answers = self.netlink.delete_routes(routes.iter().copied()).await;
                    results.extend(
                        answers.into_iter().zip(routes).map(|(answer, (route, _))| {
                            undone(answer, || format!("delete {route}"))
                        }),
                    );
                }
                other => {
                    for undo in other {
                        results.push(self.revert(undo).await);
                    }
                }
            }
        }
        results
    }

    async fn revert(&self, undo: &Undo) -> Result<(), NetworkError> {
        let (operation, result) = match undo {
            Undo::DeleteRoute { tunnel, route } => {
                let answer = self.netlink.delete_routes([(route, *tunnel)]).await.pop();
                (format!("delete {route}"), answer.unwrap_or(Ok(())))
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
                    Ok(Some(_)) => self.restore_link(*index, state).await,
                    other => other.map(|_| ()),
                };
                (format!("restore the settings of {name}"), result)
            }
            Undo::Dns(undo) => {
                return Ok(self.resolver.revert(undo).await?);
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
        undone(result, || operation)
    }

    async fn restore_link(&self, index: u32, state: &LinkState) -> io::Result<()> {
        self.netlink.set_link(index, state.mtu, state.tx_queue_len).await?;
        self.netlink.set_up(index, state.up).await?;
        match state.address_generation {
            Some(mode) => self.netlink.set_address_generation(index, mode).await,
            None => Ok(()),
        }
    }

    pub(super) async fn find_link(&self, name: &str, index: u32) -> io::Result<Option<Link>> {
        let link = self.netlink.link(index).await?;
        Ok(link.filter(|link| link.name == name))
    }
}

/// What is gone already is undone.
fn undone(answer: io::Result<()>, operation: impl FnOnce() -> String) -> Result<(), NetworkError> {
    const GONE: [i32; 5] =
        [libc::ESRCH, libc::ENOENT, libc::ENODEV, libc::ENXIO, libc::EADDRNOTAVAIL];
    match answer {
        Err(error) if error.raw_os_error().is_some_and(|code| GONE.contains(&code)) => Ok(()),
        answer => answer.map_err(|e| NetworkError::netlink(operation(), e)),
    }
}
