//! What a datagram of the kernel says, as far as it can matter to a tunnel.

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::network::netlink::PROTOCOL;

/// One change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fact {
    /// A link came, went or is another.
    Link(u32),
    /// A link went to another network namespace.
    LinkMoved(u32),
    /// A link has another set of addresses.
    Address(u32),
    /// A route came or went.
    Route,
    /// A default route did.
    DefaultRoute,
    /// A route that was made here went.
    OwnRouteGone,
    /// A policy rule came or went.
    Rule,
    /// There was more than could be read.
    Overrun,
}

impl Fact {
    /// Whether it takes something from the tunnel with this index, maybe: traffic may be leaving
    /// outside.
    pub(super) fn is_about(&self, tunnel: Option<u32>) -> bool {
        match self {
            Self::Link(index) | Self::LinkMoved(index) | Self::Address(index) => {
                Some(*index) == tunnel
            }
            Self::OwnRouteGone | Self::Overrun => true,
            Self::Route | Self::DefaultRoute | Self::Rule => false,
        }
    }

    /// Whether the tunnel may be cut off until somebody looks. Of routes there can be very many that
    /// change without end, in which this says nothing.
    pub(super) const fn is_pressing(&self) -> bool {
        match self {
            Self::Link(_)
            | Self::LinkMoved(_)
            | Self::Address(_)
            | Self::DefaultRoute
            | Self::OwnRouteGone => true,
            Self::Route | Self::Rule | Self::Overrun => false,
        }
    }
}

/// The facts of one datagram. What cannot be read may be anything.
pub(super) fn read(datagram: &[u8]) -> Vec<Fact> {
    let (mut facts, mut rest) = (Vec::new(), datagram);
    while !rest.is_empty() {
        let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest) else {
            facts.push(Fact::Overrun);
            break;
        };
        let length = (message.header.length as usize).next_multiple_of(4).max(4);
        rest = rest.get(length..).unwrap_or_default();
        match message.payload {
            NetlinkPayload::InnerMessage(message) => facts.extend(fact(&message)),
            NetlinkPayload::Overrun(_) => facts.push(Fact::Overrun),
            _ => {}
        }
    }
    facts
}

fn fact(message: &RouteNetlinkMessage) -> Option<Fact> {
    use RouteNetlinkMessage as Message;
    Some(match message {
        // Of bridges, about ports that have messages of their own.
        Message::NewLink(link) | Message::DelLink(link)
            if link.header.interface_family == AddressFamily::Bridge =>
        {
            return None;
        }
        Message::NewLink(link) => Fact::Link(link.header.index),
        Message::DelLink(link) if goes_elsewhere(link) => Fact::LinkMoved(link.header.index),
        Message::DelLink(link) => Fact::Link(link.header.index),
        Message::NewAddress(address) | Message::DelAddress(address) => {
            Fact::Address(address.header.index)
        }
        Message::NewRoute(route) if is_own(route) => return None,
        Message::DelRoute(route) if is_own(route) => Fact::OwnRouteGone,
        Message::NewRoute(route) | Message::DelRoute(route)
            if route.header.destination_prefix_length == 0 =>
        {
            Fact::DefaultRoute
        }
        Message::NewRoute(_) | Message::DelRoute(_) => Fact::Route,
        Message::NewRule(_) | Message::DelRule(_) => Fact::Rule,
        _ => return None,
    })
}

/// `IFLA_NEW_NETNSID` says that it lives on.
fn goes_elsewhere(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| matches!(attribute, LinkAttribute::NewNetnsId(_)))
}

fn is_own(route: &RouteMessage) -> bool {
    u8::from(route.header.protocol) == PROTOCOL
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::address::AddressMessage;
    use netlink_packet_route::route::RouteProtocol;

    use super::*;

    fn datagram(messages: impl IntoIterator<Item = RouteNetlinkMessage>) -> Vec<u8> {
        let mut bytes = Vec::new();
        for message in messages {
            let mut message = NetlinkMessage::from(message);
            message.finalize();
            let start = bytes.len();
            bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
            message.serialize(&mut bytes[start..]);
        }
        bytes
    }

    fn link(index: u32, attributes: Vec<LinkAttribute>) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes = attributes;
        message
    }

    fn route(protocol: u8, prefix: u8) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.destination_prefix_length = prefix;
        message.header.protocol = RouteProtocol::from(protocol);
        message
    }

    #[test]
    fn what_is_told() {
        use RouteNetlinkMessage as Message;
        let mut address = AddressMessage::default();
        address.header.index = 4;
        let messages = [
            Message::NewLink(link(2, Vec::new())),
            Message::DelLink(link(3, Vec::new())),
            Message::DelLink(link(3, vec![LinkAttribute::NewNetnsId(0)])),
            Message::DelAddress(address),
            Message::NewRoute(route(PROTOCOL, 1)),
            Message::DelRoute(route(PROTOCOL, 1)),
            Message::NewRoute(route(4, 24)),
            Message::DelRoute(route(4, 0)),
        ];
        let expected = [
            Fact::Link(2),
            Fact::Link(3),
            Fact::LinkMoved(3),
            Fact::Address(4),
            Fact::OwnRouteGone,
            Fact::Route,
            Fact::DefaultRoute,
        ];
        let mut datagram = datagram(messages);
        assert_eq!(read(&datagram), expected);
        datagram.extend([7; 5]);
        assert_eq!(read(&datagram).last(), Some(&Fact::Overrun), "what cannot be read");
    }

    #[test]
    fn what_is_urgent() {
        assert!(Fact::Link(7).is_about(Some(7)) && !Fact::Link(7).is_about(Some(8)));
        assert!(!Fact::Link(7).is_about(None) && !Fact::Route.is_about(Some(7)));
        assert!(Fact::OwnRouteGone.is_about(None) && Fact::Overrun.is_about(None));
        assert!(Fact::DefaultRoute.is_pressing() && Fact::Address(7).is_pressing());
        assert!(!Fact::Route.is_pressing() && !Fact::Overrun.is_pressing());
    }
}
