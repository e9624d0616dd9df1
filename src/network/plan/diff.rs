//! From what is applied to what is wanted, step by step.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use super::{IPV6_MIN_MTU, Item, LinkSettings};

/// One change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Apply.
    Add(Item),
    /// Undo.
    Remove(Item),
}

impl Step {
    /// What is applied or undone.
    pub fn item(&self) -> &Item {
        match self {
            Self::Add(item) | Self::Remove(item) => item,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Add(item) => write!(f, "add {item}"),
            Self::Remove(item) => write!(f, "remove {item}"),
        }
    }
}

/// The steps that lead from the items of one plan to those of another.
///
/// What is new comes first, in order of application, so that traffic never finds a moment without
/// its route; an old item that is in the way of a new one goes just before it: a route of the same
/// destination and metric, an address of the same network. The rest goes last, in reverse order.
/// The settings of an interface are changed, not removed and made again.
///
/// The kernel drops routes with the last address that goes. Whoever takes the steps looks for what
/// is gone then and asks again.
pub fn diff(old: &[Item], new: &[Item]) -> Vec<Step> {
    let (before, after): (BTreeSet<_>, BTreeSet<_>) = (old.iter().collect(), new.iter().collect());
    let mut leaving: BTreeSet<&Item> = before.difference(&after).copied().collect();
    let takes: HashMap<_, _> =
        leaving.iter().flat_map(|item| item.keys().map(move |key| (key, *item))).collect();
    let mut steps = Vec::new();
    for item in after.difference(&before) {
        for in_the_way in item.keys().filter_map(|key| takes.get(&key)) {
            if leaving.remove(in_the_way) && !matches!(item, Item::Link(_)) {
                steps.push(Step::Remove((*in_the_way).clone()));
            }
        }
        steps.push(Step::Add((*item).clone()));
    }
    steps.extend(leaving.into_iter().rev().cloned().map(Step::Remove));
    steps
}

/// Whether steps can leave packets that belong into the tunnel without their route for a moment:
/// something goes, or the interface changes, before all that is new is there. What goes last does
/// not: the new plan has no place for it. `link`: the settings that are in place.
///
/// Another MTU alone takes nothing away, unless IPv6 ends or begins with it.
pub(in crate::network) fn disturbs(link: Option<&LinkSettings>, steps: &[Step]) -> bool {
    let last_add = steps.iter().rposition(|step| matches!(step, Step::Add(_))).unwrap_or(0);
    steps.iter().enumerate().any(|(position, step)| match step {
        Step::Add(Item::Link(new)) => link.is_none_or(|old| old.mtu.min(new.mtu) < IPV6_MIN_MTU),
        Step::Add(_) => false,
        Step::Remove(Item::Link(_)) => position < last_add,
        Step::Remove(Item::Route(route)) => position < last_add && route.is_inside(),
        Step::Remove(item) => position < last_add && matches!(item, Item::Address(_)),
    })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::super::{PlannedRoute, RouteTarget, TunnelAddress};
    use super::*;
    use crate::network::{Network, Path};

    fn route(destination: &str, target: RouteTarget) -> Item {
        let (address, prefix) = destination.split_once('/').unwrap();
        Item::Route(PlannedRoute {
            target,
            destination: Network::new(address.parse().unwrap(), prefix.parse().unwrap()).unwrap(),
            metric: None,
            source: None,
        })
    }

    fn outside(gateway: &str) -> RouteTarget {
        RouteTarget::Outside(Path {
            gateway: Some(gateway.parse().unwrap()),
            device: "eth0".to_owned(),
            index: 2,
            onlink: false,
            source: None,
            mtu: None,
        })
    }

    fn address(address: &str) -> Item {
        let address: IpAddr = address.parse().unwrap();
        Item::Address(TunnelAddress { address, prefix: 24, peer: None })
    }

    fn text(steps: &[Step]) -> Vec<String> {
        steps.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_same_plan_needs_no_step() {
        let items = [address("10.8.0.2"), route("10.0.0.0/8", RouteTarget::Tunnel)];
        assert_eq!(diff(&items, &items), []);
    }

    #[test]
    fn new_ones_come_first_and_old_ones_leave_in_reverse_order() {
        let old = [
            address("10.8.0.2"),
            route("192.0.2.1/32", outside("10.0.0.1")),
            route("0.0.0.0/1", RouteTarget::Tunnel),
        ];
        let new = [
            address("10.9.0.3"),
            route("192.0.2.2/32", outside("10.0.0.1")),
            route("0.0.0.0/1", RouteTarget::Tunnel),
        ];
        assert_eq!(
            text(&diff(&old, &new)),
            [
                "add address 10.9.0.3/24",
                "add route 192.0.2.2/32 via 10.0.0.1 dev eth0",
                "remove route 192.0.2.1/32 via 10.0.0.1 dev eth0",
                "remove address 10.8.0.2/24",
            ]
        );
        assert_eq!(
            text(&diff(&old, &[])),
            [
                "remove route 0.0.0.0/1 tunnel",
                "remove route 192.0.2.1/32 via 10.0.0.1 dev eth0",
                "remove address 10.8.0.2/24",
            ]
        );
    }

    #[test]
    fn what_is_in_the_way_goes_just_before() {
        let old = [route("192.0.2.1/32", outside("10.0.0.1"))];
        let new = [address("10.8.0.2"), route("192.0.2.1/32", outside("10.0.0.9"))];
        assert_eq!(
            text(&diff(&old, &new)),
            [
                "add address 10.8.0.2/24",
                "remove route 192.0.2.1/32 via 10.0.0.1 dev eth0",
                "add route 192.0.2.1/32 via 10.0.0.9 dev eth0",
            ]
        );
    }

    #[test]
    fn an_address_of_the_same_network_is_in_the_way() {
        let old = [address("10.8.0.2"), route("0.0.0.0/1", RouteTarget::Tunnel)];
        let new = [address("10.8.0.3"), route("0.0.0.0/1", RouteTarget::Tunnel)];
        let steps = diff(&old, &new);
        assert_eq!(text(&steps), ["remove address 10.8.0.2/24", "add address 10.8.0.3/24"]);
        assert!(disturbs(None, &steps));
    }

    #[test]
    fn the_route_that_an_address_makes_is_in_its_way() {
        let address = address("10.8.0.2");
        let made = route("10.8.0.0/24", RouteTarget::Tunnel);
        let to_address = diff(std::slice::from_ref(&made), std::slice::from_ref(&address));
        assert_eq!(
            text(&to_address),
            ["remove route 10.8.0.0/24 tunnel", "add address 10.8.0.2/24"]
        );
        let to_route = diff(std::slice::from_ref(&address), std::slice::from_ref(&made));
        assert_eq!(text(&to_route), ["remove address 10.8.0.2/24", "add route 10.8.0.0/24 tunnel"]);
    }

    #[test]
    fn metrics_are_compared_as_the_kernel_counts_them() {
        let with_metric = |metric| {
            let Item::Route(route) = route("fd20::/16", RouteTarget::Tunnel) else { panic!() };
            [Item::Route(PlannedRoute { metric, ..route })]
        };
        let steps = diff(&with_metric(None), &with_metric(Some(1024)));
        assert_eq!(
            text(&steps),
            ["remove route fd20::/16 tunnel", "add route fd20::/16 tunnel metric 1024"]
        );
        assert!(disturbs(None, &steps));
        let steps = diff(&with_metric(Some(5)), &with_metric(Some(6)));
        assert_eq!(
            text(&steps),
            ["add route fd20::/16 tunnel metric 6", "remove route fd20::/16 tunnel metric 5"]
        );
        assert!(!disturbs(None, &steps));
    }

    #[test]
    fn the_settings_of_an_interface_are_changed_in_place() {
        let link = |mtu| [Item::Link(LinkSettings { mtu, tx_queue_len: None })];
        assert_eq!(text(&diff(&link(1500), &link(1400))), ["add link up mtu 1400"]);
        assert_eq!(text(&diff(&link(1500), &[])), ["remove link up mtu 1500"]);
        for (from, to, disturbing) in [
            (None, 1500, true),
            (Some(1500), 1400, false),
            (Some(1500), 1200, true),
            (Some(1200), 1280, true),
        ] {
            let old = from.map(|mtu| LinkSettings { mtu, tx_queue_len: None });
            let before: Vec<Item> = old.clone().map(Item::Link).into_iter().collect();
            assert_eq!(
                disturbs(old.as_ref(), &diff(&before, &link(to))),
                disturbing,
                "{from:?} {to}"
            );
        }
        // Somebody has set it down.
        let old = LinkSettings { mtu: 1500, tx_queue_len: None };
        let again = [Step::Remove(Item::Link(old.clone())), Step::Add(Item::Link(old.clone()))];
        assert!(disturbs(Some(&old), &again));
    }

    /// Quadratic steps would take minutes.
    #[test]
    fn a_hundred_thousand_routes_are_compared() {
        let routes = |from: u32| -> Vec<Item> {
            (from..from + 100_000)
                .map(|n| {
                    route(&format!("{}/32", std::net::Ipv4Addr::from(n << 4)), RouteTarget::Tunnel)
                })
                .collect()
        };
        assert_eq!(diff(&routes(0), &routes(50_000)).len(), 100_000);
    }
}
