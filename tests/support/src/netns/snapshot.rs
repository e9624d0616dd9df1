//! The whole configuration of a namespace, comparable.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use futures_util::TryStreamExt;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags};
use netlink_packet_route::link::LinkAttribute;
use netlink_packet_route::route::{RouteAttribute, RouteMessage};
use rtnetlink::{Handle, IpVersion};

use super::NetNs;

/// All links, addresses, routes (every table, both families) and rules, one line each, without
/// counters and ages.
#[derive(Clone, PartialEq, Eq)]
pub struct Snapshot(BTreeSet<String>);

impl Snapshot {
    /// Lines of `self` that `other` has not (`-`) and the reverse (`+`).
    pub fn difference(&self, other: &Self) -> Vec<String> {
        let gone = self.0.difference(&other.0).map(|line| format!("- {line}"));
        let new = other.0.difference(&self.0).map(|line| format!("+ {line}"));
        gone.chain(new).collect()
    }

    /// Panics with the difference unless both are the same.
    pub fn assert_same(&self, after: &Self) {
        let difference = self.difference(after);
        assert!(difference.is_empty(), "configuration changed:\n{}", difference.join("\n"));
    }

    /// The lines that contain `text`.
    pub fn lines_with(&self, text: &str) -> Vec<&str> {
        self.0.iter().map(String::as_str).filter(|line| line.contains(text)).collect()
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(&self.0).finish()
    }
}

impl NetNs {
    /// The configuration once it has stopped changing by itself: the kernel finishes new IPv6
    /// addresses in the background.
    pub fn settled_snapshot(&self) -> Snapshot {
        let mut last = self.snapshot();
        for _ in 0..100 {
            std::thread::sleep(Duration::from_millis(100));
            let next = self.snapshot();
            if next == last {
                return next;
            }
            last = next;
        }
        panic!("the configuration of {} keeps changing: {last:?}", self.name());
    }

    /// The present configuration.
    pub fn snapshot(&self) -> Snapshot {
        self.netlink(|handle| async move {
            let mut lines = BTreeSet::new();
            links(&handle, &mut lines).await;
            addresses(&handle, &mut lines).await;
            for version in [IpVersion::V4, IpVersion::V6] {
                routes(&handle, version.clone(), &mut lines).await;
                rules(&handle, version, &mut lines).await;
            }
            Snapshot(lines)
        })
    }
}

async fn links(handle: &Handle, lines: &mut BTreeSet<String>) {
    let links: Vec<_> = handle.link().get().execute().try_collect().await.expect("links");
    for link in links {
        let kept: Vec<_> = link
            .attributes
            .iter()
            .filter(|a| {
                matches!(
                    a,
                    LinkAttribute::IfName(_)
                        | LinkAttribute::Mtu(_)
                        | LinkAttribute::TxQueueLen(_)
                        | LinkAttribute::Address(_)
                        | LinkAttribute::Controller(_)
                )
            })
            .collect();
        lines.insert(format!("link {} {:?} {kept:?}", link.header.index, link.header.flags));
    }
}

async fn addresses(handle: &Handle, lines: &mut BTreeSet<String>) {
    let addresses: Vec<_> =
        handle.address().get().execute().try_collect().await.expect("addresses");
    for address in addresses {
        // The flags are twice in the message and change by themselves (duplicate detection).
        let mut header = address.header;
        header.flags = AddressHeaderFlags::empty();
        let kept: Vec<_> = address
            .attributes
            .iter()
            .filter(|a| !matches!(a, AddressAttribute::CacheInfo(_) | AddressAttribute::Flags(_)))
            .collect();
        lines.insert(format!("address {header:?} {kept:?}"));
    }
}

async fn routes(handle: &Handle, version: IpVersion, lines: &mut BTreeSet<String>) {
    let mut all = RouteMessage::default();
    all.header.address_family = family(&version);
    let routes: Vec<_> = handle.route().get(all).execute().try_collect().await.expect("routes");
    for route in routes {
        let kept: Vec<_> = route
            .attributes
            .iter()
            .filter(|a| !matches!(a, RouteAttribute::CacheInfo(_)))
            .collect();
        lines.insert(format!("route {:?} {kept:?}", route.header));
    }
}

async fn rules(handle: &Handle, version: IpVersion, lines: &mut BTreeSet<String>) {
    let rules: Vec<_> = handle.rule().get(version).execute().try_collect().await.expect("rules");
    for rule in rules {
        lines.insert(format!("rule {:?} {:?}", rule.header, rule.attributes));
    }
}

fn family(version: &IpVersion) -> AddressFamily {
    match version {
        IpVersion::V4 => AddressFamily::Inet,
        IpVersion::V6 => AddressFamily::Inet6,
    }
}
