//! The network is watched: rtnetlink's multicast groups for links, addresses, routes and rules of
//! both families, in the network namespace of the thread that opens the watch.
//!
//! What the kernel tells only says that, and how urgently, somebody has to look: what is to be done
//! follows from what the network is by then ([`super::DirectNetwork::keep`], `respond.rs`). So it does
//! not matter in which order things happened, or whether the kernel's queue has overflowed.

mod facts;
mod outside;
mod respond;
mod rest;

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use rtnetlink::MulticastGroup;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use tokio::time::{Instant, sleep_until};

use self::facts::Fact;
pub use self::outside::Outside;
pub use self::respond::{Outlook, Response, Roaming, respond};
use self::rest::Rest;
use super::error::NetworkError;
use super::netlink::Netlink;

const GROUPS: [MulticastGroup; 7] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
];

/// No datagram of the kernel is longer (`NLMSG_GOODSIZE` is a page).
const BUFFER: usize = 64 * 1024;
/// What may wait to be read. Beyond it everything is looked at again.
const QUEUE: libc::c_int = 1 << 20;
/// A change usually comes in parts: so long after the last one it is complete.
const SETTLED: Duration = Duration::from_millis(30);
/// A network that never rests is looked at all the same.
const PATIENCE: Duration = Duration::from_millis(200);

/// What has happened since the last look.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct News {
    /// Indexes of links that went to another network namespace.
    pub moved: BTreeSet<u32>,
}

/// Tells when to look at the network again.
pub struct NetworkWatch {
    /// `None`: it has failed; nothing will be told.
    socket: Option<TokioSocket>,
    buffer: Vec<u8>,
    netlink: Netlink,
    news: News,
    due: Option<Due>,
    rest: Rest,
}

/// When to tell the news.
#[derive(Clone, Copy, Debug)]
struct Due {
    at: Instant,
    /// It is put off by more news, but not beyond.
    limit: Instant,
    /// It is not put off.
    urgent: bool,
    /// The tunnel may be cut off until then.
    pressing: bool,
}

impl NetworkWatch {
    /// Watches the network namespace of the calling thread. Inside a tokio runtime. Needs no
    /// privilege.
    ///
    /// # Errors
    /// When there is no netlink socket to be had.
    pub fn open() -> Result<Self, NetworkError> {
        let fail = |e| NetworkError::netlink("watch the network", e);
        Ok(Self {
            socket: Some(open().map_err(fail)?),
            buffer: Vec::with_capacity(BUFFER),
            netlink: Netlink::open().map_err(fail)?,
            news: News::default(),
            due: None,
            rest: Rest::new(Instant::now()),
        })
    }

    /// Waits until something has changed and is worth a look. Cancel safe: what was read is told by
    /// the next call. `tunnel`: index of the tunnel's interface, whose own changes are told at once.
    pub async fn changed(&mut self, tunnel: Option<u32>) -> News {
        loop {
            let Rest { until, pressing_until, .. } = self.rest;
            let rested = |due: &Due| if due.pressing { pressing_until } else { until };
            let tell = self.due.map(|due| due.at.max(rested(&due)));
            tokio::select! {
                biased;
                facts = next(&mut self.socket, &mut self.buffer) => self.note(&facts, tunnel),
                () = sleep_until(tell.unwrap_or(until)), if tell.is_some() => {
                    self.due = None;
                    return std::mem::take(&mut self.news);
                }
            }
        }
    }

    /// Tells news after this time, whether there are any or not.
    pub fn look_again(&mut self, after: Duration) {
        let at = Instant::now() + after;
        let sooner = self.due.filter(|due| due.at <= at);
        self.due = Some(sooner.unwrap_or(Due { at, limit: at, urgent: true, pressing: true }));
    }

    /// A look took so long: the next one has time.
    pub fn looked(&mut self, took: Duration) {
        self.rest.looked(took, Instant::now());
    }

    /// Reads what there is outside a tunnel's interface.
    ///
    /// # Errors
    /// When netlink fails.
    pub async fn outside(&self, tunnel: Option<u32>) -> Result<Outside, NetworkError> {
        let fail = |e| NetworkError::netlink("read the host's links and routes", e);
        Outside::read(&self.netlink, tunnel).await.map_err(fail)
    }

    fn note(&mut self, facts: &[Fact], tunnel: Option<u32>) {
        let now = Instant::now();
        for fact in facts {
            if let Fact::LinkMoved(index) = fact {
                self.news.moved.insert(*index);
            }
            let none = Due { at: now, limit: now + PATIENCE, urgent: false, pressing: false };
            let due = self.due.unwrap_or(none);
            let urgent = due.urgent || fact.is_about(tunnel);
            let put_off = (now + SETTLED).min(due.limit);
            let at = if urgent { now.min(due.limit) } else { put_off };
            let pressing = due.pressing || fact.is_pressing();
            self.due = Some(Due { at, urgent, pressing, ..due });
        }
    }
}

fn open() -> io::Result<TokioSocket> {
    let mut open = TokioSocket::new(NETLINK_ROUTE)?;
    let socket = open.socket_mut();
    // The kernel clamps it; less only means looking again more often.
    let _ = socket.set_rx_buf_sz(QUEUE);
    socket.bind(&SocketAddr::new(0, 0))?;
    for group in GROUPS {
        socket.add_membership(group as u32)?;
    }
    Ok(open)
}

/// What the next datagram says. Cancel safe.
async fn next(socket: &mut Option<TokioSocket>, buffer: &mut Vec<u8>) -> Vec<Fact> {
    loop {
        let Some(open) = socket.as_ref() else { return std::future::pending().await };
        buffer.clear();
        match open.recv(buffer).await {
            Ok(()) => {
                let facts = facts::read(buffer);
                if !facts.is_empty() {
                    return facts;
                }
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOBUFS) => return vec![Fact::Overrun],
                Some(libc::EINTR) => {}
                _ => {
                    tracing::warn!("changes of the network are not noticed any more: {error}");
                    *socket = None;
                }
            },
        }
    }
}
