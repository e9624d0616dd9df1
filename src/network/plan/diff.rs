//! From what is applied to what is wanted, step by step.

use std::collections::HashMap;
use std::fmt;

use super::Item;

/// One change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Apply.
    Add(Item),
    /// Undo.
    Remove(Item),
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
/// its route; an old item that is in the way of a new one (same address; same destination and
/// metric) goes just before it. The rest goes last, in reverse order.
pub fn diff(old: &[Item], new: &[Item]) -> Vec<Step> {
    let mut leaving: Vec<&Item> = old.iter().filter(|item| !new.contains(item)).collect();
    let by_key: HashMap<_, _> = leaving.iter().map(|item| (item.key(), *item)).collect();
    let mut steps = Vec::new();
    for item in new.iter().filter(|item| !old.contains(item)) {
        if let Some(in_the_way) = by_key.get(&item.key()) {
            steps.push(Step::Remove((*in_the_way).clone()));
            leaving.retain(|other| other != in_the_way);
        }
        steps.push(Step::Add(item.clone()));
    }
    leaving.sort();
    steps.extend(leaving.into_iter().rev().cloned().map(Step::Remove));
    steps
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
            address("10.8.0.3"),
            route("192.0.2.2/32", outside("10.0.0.1")),
            route("0.0.0.0/1", RouteTarget::Tunnel),
        ];
        assert_eq!(
            text(&diff(&old, &new)),
            [
                "add address 10.8.0.3/24",
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
}
