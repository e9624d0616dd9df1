//! What the host's network is without the tunnel, as far as a change of it is worth an answer.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use crate::network::fib::RouteKind;
use crate::network::netlink::{Netlink, PROTOCOL};

/// Addresses and default routes of links that are in use. Two that are equal lead nowhere else.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outside {
    /// Index of the link, and the address.
    addresses: BTreeSet<(u32, IpAddr)>,
    /// Index of the link, the gateway, and the metric.
    defaults: BTreeSet<(u32, Option<IpAddr>, u32)>,
}

impl Outside {
    /// Without the link with the index `tunnel`.
    pub(super) async fn read(netlink: &Netlink, tunnel: Option<u32>) -> io::Result<Self> {
        let running: BTreeSet<u32> = netlink
            .links()
            .await?
            .into_iter()
            .filter(|link| link.running && Some(link.index) != tunnel)
            .map(|link| link.index)
            .collect();
        let addresses = netlink.addresses().await?;
        let mut defaults = BTreeSet::new();
        for ipv6 in [false, true] {
            for route in netlink.fib(ipv6).await?.routes {
                let leads_out = route.kind == RouteKind::Unicast && route.protocol != PROTOCOL;
                if leads_out && route.destination.prefix() == 0 {
                    let hops = route.hops.iter().filter(|hop| running.contains(&hop.index));
                    defaults.extend(hops.map(|hop| (hop.index, hop.gateway, route.metric)));
                }
            }
        }
        let addresses = addresses.into_iter().map(|(index, address)| (index, address.address));
        Ok(Self {
            addresses: addresses.filter(|(index, _)| running.contains(index)).collect(),
            defaults,
        })
    }

    /// Whether an address is one of these links'.
    pub fn has(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|(_, present)| *present == address)
    }

    /// Whether anything can leave the host.
    pub fn leads_out(&self) -> bool {
        self.addresses.iter().any(|(_, address)| !address.is_loopback())
    }
}
