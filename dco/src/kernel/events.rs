//! What the kernel tells by itself about one link.
//!
//! Two sockets: the family's multicast group, and link deletions, because removing the module
//! deletes its links without a word in the group. Requests go elsewhere, so that an event can
//! never be taken for an answer.

use std::collections::VecDeque;
use std::io;
use std::task::{Context, Poll, ready};

use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::LinkHeader;
use netlink_sys::protocols::{NETLINK_GENERIC, NETLINK_ROUTE};
use netlink_sys::{AsyncSocket, TokioSocket};
use nix::sys::socket::{setsockopt, sockopt};

use super::envelope::{Content, messages};
use super::family::Family;
use super::message::{Notification, PeerEvent};
use crate::error::Error;
use crate::types::PeerId;

/// As much as OpenVPN takes: smaller queues were overrun on busy machines.
const QUEUE: usize = 1 << 20;
/// Larger than any event.
const BUFFER: usize = 32 * 1024;

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Event {
    /// From the group, about our link.
    Peer(PeerId, PeerEvent),
    /// Our link is deleted, or was moved to another network namespace.
    LinkGone,
    /// Events were lost: ask for the state.
    Overrun,
    /// The sockets do not work any more.
    Broken(String),
}

/// See the module.
pub(super) struct Events {
    family: Family,
    group: TokioSocket,
    links: TokioSocket,
    ifindex: u32,
    buffer: Vec<u8>,
    pending: VecDeque<Event>,
}

impl Events {
    /// Subscribes, in the calling thread's network namespace. To be called before the link is
    /// created, so that nothing is missed; [`Self::watch`] then says which it is.
    pub(super) fn open(family: Family) -> Result<Self, Error> {
        let subscribe = |protocol, group| -> io::Result<_> {
            let mut socket = TokioSocket::new(protocol)?;
            let inner = socket.socket_mut();
            inner.bind_auto()?;
            // Beyond the limit for everybody where we may, up to it where not.
            setsockopt(inner, sockopt::RcvBufForce, &QUEUE)
                .or_else(|_| setsockopt(inner, sockopt::RcvBuf, &QUEUE))?;
            // By number: a group id above 32 does not fit the address's bit mask.
            inner.add_membership(group)?;
            Ok(socket)
        };
        let open = |protocol, group| {
            subscribe(protocol, group).map_err(|e| Error::io("subscribing to kernel events", e))
        };
        let group = open(NETLINK_GENERIC, family.peers_group)?;
        let links = open(NETLINK_ROUTE, libc::RTNLGRP_LINK)?;
        let buffer = Vec::with_capacity(BUFFER);
        Ok(Self { family, group, links, ifindex: 0, buffer, pending: VecDeque::new() })
    }

    pub(super) fn watch(&mut self, ifindex: u32) {
        self.ifindex = ifindex;
    }

    /// The next event. Cancel safe.
    pub(super) async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return event;
            }
            std::future::poll_fn(|cx| self.poll_read(cx)).await;
        }
    }

    /// Waits until the deletion of a peer is told (or nothing more can be), and leaves it and
    /// everything before it to [`Self::next`]. Cancel safe.
    pub(super) async fn wait_for_deletion(&mut self, peer: PeerId) {
        let decides = |event: &Event| match event {
            Event::Peer(id, PeerEvent::Deleted(_)) => *id == peer,
            Event::Peer(..) => false,
            Event::LinkGone | Event::Overrun | Event::Broken(_) => true,
        };
        while !self.pending.iter().any(decides) {
            std::future::poll_fn(|cx| self.poll_read(cx)).await;
        }
    }

    /// Takes in what has been told so far, and forgets what of it is about peers.
    pub(super) fn forget_peers(&mut self) {
        // Past the runtime, which learns later what has arrived.
        loop {
            self.buffer.clear();
            match self.group.socket_ref().recv_from(&mut self.buffer, libc::MSG_DONTWAIT) {
                Ok((_, from)) if from.port_number() == 0 => self.group_datagram(),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // Whatever else it is, the next read finds it again, or finds out what it meant.
                Err(_) => break,
            }
        }
        self.pending.retain(|event| !matches!(event, Event::Peer(..)));
    }

    /// Reads from whichever socket has something.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // The group first: it says why a peer went, and a deleted link does not.
        if let Poll::Ready(result) = poll_datagram(&self.group, &mut self.buffer, cx) {
            match result {
                Ok(()) => self.group_datagram(),
                Err(e) => self.pending.push_back(broken(&e)),
            }
            return Poll::Ready(());
        }
        match ready!(poll_datagram(&self.links, &mut self.buffer, cx)) {
            Ok(()) => self.link_datagram(),
            Err(e) => self.pending.push_back(broken(&e)),
        }
        Poll::Ready(())
    }

    /// One read can hold several events.
    fn group_datagram(&mut self) {
        for message in messages(&self.buffer) {
            let notification = message.and_then(|message| match message.content()? {
                Content::Message(bytes) if message.kind == self.family.id => {
                    self.family.api.decode_notification(bytes)
                }
                _ => Ok(None),
            });
            match notification {
                Ok(Some(Notification { ifindex, peer, event })) if ifindex == self.ifindex => {
                    self.pending.push_back(Event::Peer(peer, event));
                }
                Ok(_) => {}
                Err(error) => {
                    // Something happened that we do not understand: look at the state itself.
                    tracing::warn!(%error, "event from the kernel");
                    self.pending.push_back(Event::Overrun);
                }
            }
        }
    }

    fn link_datagram(&mut self) {
        for message in messages(&self.buffer).flatten() {
            let Ok(Content::Message(bytes)) = message.content() else { continue };
            if message.kind == libc::RTM_DELLINK && deleted_link(bytes) == Some(self.ifindex) {
                self.pending.push_back(Event::LinkGone);
            }
        }
    }
}

fn broken(error: &io::Error) -> Event {
    match error.raw_os_error() {
        Some(libc::ENOBUFS) => Event::Overrun,
        _ => Event::Broken(format!("reading kernel events: {error}")),
    }
}

/// The index in an `RTM_DELLINK` that is about the link itself; a bridge also tells its ports'
/// departure with this type.
fn deleted_link(bytes: &[u8]) -> Option<u32> {
    let header = LinkHeader::parse(bytes).ok()?;
    (header.interface_family == AddressFamily::Unspec).then_some(header.index)
}

/// Reads one datagram that the kernel sent.
fn poll_datagram(
    socket: &TokioSocket,
    buffer: &mut Vec<u8>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    loop {
        buffer.clear();
        match ready!(socket.poll_recv_from(cx, buffer)) {
            Ok(from) if from.port_number() == 0 => return Poll::Ready(Ok(())),
            // Another process wrote to us.
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Poll::Ready(Err(e)),
        }
    }
}

#[cfg(any(test, feature = "internals"))]
pub(super) fn decode_anything(bytes: &[u8]) {
    let _ = deleted_link(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::family::Api;
    use crate::kernel::test_data::unhex;

    fn events() -> Events {
        // Any group of the control family will do: nothing is read from the sockets here.
        let family = Family { api: Api::Ovpn, id: 28, version: 1, peers_group: 16 };
        let mut events = Events::open(family).unwrap();
        events.watch(3);
        events
    }

    #[tokio::test]
    async fn several_events_in_one_datagram() {
        let mut events = events();
        let header = |len: u8| format!("{len:02x}000000 1c000000 00000000 00000000");
        let deleted = |ifindex: u8, reason: u8| {
            format!(
                "{} 05010000 08000100 {ifindex:02x}000000
                 14000280 08000f00 {reason:02x}000000 08000100 05000000",
                header(48)
            )
        };
        // ours, another link's, a malformed one, another family's
        let other_family = deleted(3, 2).replacen("1c00", "1d00", 1);
        events.buffer =
            unhex(&[deleted(3, 2), deleted(4, 2), deleted(3, 9), other_family].concat());
        events.group_datagram();
        let gone = PeerEvent::Deleted(crate::PeerDeletedReason::Expired);
        assert_eq!(events.pending, [Event::Peer(PeerId::new(5).unwrap(), gone), Event::Overrun]);
    }

    #[tokio::test]
    async fn what_is_about_earlier_peers_is_forgotten() {
        let mut events = events();
        let peer = PeerEvent::KeyExhausted(crate::KeyId::FIRST);
        let peer = Event::Peer(PeerId::new(5).unwrap(), peer);
        events.pending.extend([peer.clone(), Event::LinkGone, peer, Event::Overrun]);
        events.forget_peers();
        assert_eq!(events.pending, [Event::LinkGone, Event::Overrun]);
    }

    #[tokio::test]
    async fn link_deletions() {
        let mut events = events();
        let message = |kind: u8, family: u8, index: u8| {
            format!(
                "20000000 {kind:02x}000000 00000000 00000000
                 {family:02x}000000 {index:02x}000000 00000000 00000000"
            )
        };
        // another link, a new link, a bridge port, ours
        let all = [message(17, 0, 4), message(16, 0, 3), message(17, 7, 3), message(17, 0, 3)];
        events.buffer = unhex(&all.concat());
        events.link_datagram();
        assert_eq!(events.pending, [Event::LinkGone]);
    }
}
