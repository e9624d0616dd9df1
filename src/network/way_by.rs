//! What a host's whole configuration, as the kernel tells it, makes of a destination. For fuzzing.

use std::net::IpAddr;

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;

use super::fib::{Fib, Selectors, Target};
use super::netlink::{parse_link, parse_route, parse_rule};
use super::types::{Network, Path};

/// The way to `target` on a host whose kernel answers with `messages`: the route's destination, and
/// where it leads.
pub fn way_by(messages: &[u8], target: IpAddr) -> Option<(Network, Path)> {
    let (mut fib, mut links) = (Fib::default(), Vec::new());
    for message in Messages(messages) {
        match message {
            RouteNetlinkMessage::NewRoute(route) => fib.routes.extend(parse_route(&route)),
            RouteNetlinkMessage::NewRule(rule) => fib.rules.push(parse_rule(&rule)),
            RouteNetlinkMessage::NewLink(link) => links.push(parse_link(&link)),
            _ => {}
        }
    }
    fib.routes.retain(|route| route.destination.is_ipv6() == target.is_ipv6());
    let selectors = Selectors::default();
    let route = fib.resolve(Target::Address(target), selectors, |_| false)?;
    let name = |index| links.iter().find(|link| link.index == index).map(|link| link.name.clone());
    Some((route.destination, route.path(selectors, name)?))
}

/// The messages of a datagram, up to the first that cannot be read.
struct Messages<'a>(&'a [u8]);

impl Iterator for Messages<'_> {
    type Item = RouteNetlinkMessage;

    fn next(&mut self) -> Option<Self::Item> {
        let message = NetlinkMessage::deserialize(self.0).ok()?;
        let len = (message.header.length as usize).next_multiple_of(4);
        self.0 = self.0.get(len.max(4)..).unwrap_or_default();
        match message.payload {
            NetlinkPayload::InnerMessage(message) => Some(message),
            _ => None,
        }
    }
}
