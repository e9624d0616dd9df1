//! Routing decisions over a copy of the kernel's rules and tables. Pure.
//!
//! The kernel itself answers "which way to X?", and is asked first. But once the tunnel's routes
//! are in place its answer is the tunnel, and the question is "which way without them?". That is
//! decided here: rules in order of priority, longest prefix, lowest metric, minus ignored routes.

use std::net::IpAddr;

use super::types::{Network, Path};

/// One entry of a routing table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct FibRoute {
    pub destination: Network,
    pub table: u32,
    pub metric: u32,
    pub kind: RouteKind,
    /// `RTPROT_*`
    pub protocol: u8,
    /// Next hops, in the kernel's order. Empty for routes that lead nowhere.
    pub hops: Vec<Hop>,
    pub source: Option<IpAddr>,
    pub mtu: Option<u32>,
}

/// What a route does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RouteKind {
    /// Sends.
    Unicast,
    /// Delivers to this host.
    Local,
    /// Goes on with the next rule.
    Throw,
    /// Refuses, in one of several ways.
    Refuse,
    /// Broadcast, multicast, anycast and others: no server is behind them.
    Other,
}

/// One next hop.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Hop {
    pub gateway: Option<IpAddr>,
    pub index: u32,
    pub onlink: bool,
    /// Its device is down, or has no carrier where that counts (`ignore_routes_with_linkdown`).
    pub dead: bool,
}

/// One policy rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct FibRule {
    pub priority: u32,
    pub action: RuleKind,
    pub invert: bool,
    pub destination: Option<Network>,
    pub mark: Option<(u32, u32)>,
    pub out_device: Option<String>,
    pub suppress_prefix: Option<u8>,
    /// It selects by something that is unknown here (source address, input device, user, ports).
    pub unknown_selector: bool,
}

/// What a rule does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RuleKind {
    Table(u32),
    Goto(u32),
    Nothing,
    Refuse,
}

/// Rules and routes of one family.
#[derive(Clone, Debug, Default)]
pub(super) struct Fib {
    pub rules: Vec<FibRule>,
    pub routes: Vec<FibRoute>,
}

/// What is looked up.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    Address(IpAddr),
    /// The default route: what a destination takes that no more specific route knows.
    Default,
}

/// Selectors of a lookup.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Selectors<'a> {
    pub mark: u32,
    /// Only routes over this device (name, index).
    pub device: Option<(&'a str, u32)>,
}

impl Fib {
    /// The same without the routes that `ignore` names.
    pub(super) fn without(&self, ignore: impl Fn(&FibRoute) -> bool) -> Self {
        let routes = self.routes.iter().filter(|route| !ignore(route)).cloned().collect();
        Self { rules: self.rules.clone(), routes }
    }

    /// The route that a packet takes when the routes that `ignore` names are not there.
    pub(super) fn resolve(
        &self,
        target: Target,
        selectors: Selectors<'_>,
        ignore: impl Fn(&FibRoute) -> bool,
    ) -> Option<&FibRoute> {
        let mut rules: Vec<&FibRule> = self.rules.iter().collect();
        rules.sort_by_key(|rule| rule.priority);
        let mut skip_to = 0;
        for rule in rules {
            if rule.priority < skip_to || !rule.matches(target, selectors) {
                continue;
            }
            match rule.action {
                RuleKind::Nothing => {}
                RuleKind::Refuse => return None,
                RuleKind::Goto(priority) => skip_to = priority,
                RuleKind::Table(table) => {
                    let found = self.in_table(table, target, selectors, &ignore);
                    let Some(route) = found else { continue };
                    let suppressed =
                        rule.suppress_prefix.is_some_and(|p| route.destination.prefix() <= p);
                    if suppressed || route.kind == RouteKind::Throw {
                        continue;
                    }
                    return matches!(route.kind, RouteKind::Unicast | RouteKind::Local)
                        .then_some(route);
                }
            }
        }
        None
    }

    fn in_table(
        &self,
        table: u32,
        target: Target,
        selectors: Selectors<'_>,
        ignore: impl Fn(&FibRoute) -> bool,
    ) -> Option<&FibRoute> {
        self.routes
            .iter()
            .filter(|route| route.table == table)
            .filter(|route| match target {
                Target::Address(address) => route.destination.contains(address),
                Target::Default => route.destination.prefix() == 0,
            })
            .filter(|route| route.kind != RouteKind::Unicast || route.hop(selectors).is_some())
            .filter(|route| !ignore(route))
            .min_by_key(|route| (u8::MAX - route.destination.prefix(), route.metric))
    }
}

impl FibRoute {
    /// The first next hop that is alive and fits the selectors.
    pub(super) fn hop(&self, selectors: Selectors<'_>) -> Option<&Hop> {
        self.hops
            .iter()
            .filter(|hop| !hop.dead)
            .find(|hop| selectors.device.is_none_or(|(_, index)| hop.index == index))
    }

    /// The route as a path. `name` gives the name of a device.
    pub(super) fn path(
        &self,
        selectors: Selectors<'_>,
        name: impl Fn(u32) -> Option<String>,
    ) -> Option<Path> {
        let hop = self.hop(selectors)?;
        Some(Path {
            gateway: hop.gateway,
            device: name(hop.index)?,
            index: hop.index,
            onlink: hop.onlink,
            source: self.source,
            mtu: self.mtu,
        })
    }
}

impl FibRule {
    fn matches(&self, target: Target, selectors: Selectors<'_>) -> bool {
        if self.unknown_selector {
            return false;
        }
        let destination = match (self.destination, target) {
            (None, _) => true,
            (Some(network), Target::Address(address)) => network.contains(address),
            (Some(_), Target::Default) => false,
        };
        let mark = self.mark.is_none_or(|(mark, mask)| selectors.mark & mask == mark);
        let device = self
            .out_device
            .as_deref()
            .is_none_or(|name| selectors.device.is_some_and(|(bound, _)| bound == name));
        (destination && mark && device) != self.invert
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIN: u32 = 254;

    fn network(text: &str) -> Network {
        let (address, prefix) = text.split_once('/').unwrap();
        Network::new(address.parse().unwrap(), prefix.parse().unwrap()).unwrap()
    }

    fn route(destination: &str, table: u32, metric: u32, index: u32) -> FibRoute {
        FibRoute {
            destination: network(destination),
            table,
            metric,
            kind: RouteKind::Unicast,
            protocol: 4,
            hops: vec![Hop { gateway: None, index, onlink: false, dead: false }],
            source: None,
            mtu: None,
        }
    }

    fn rule(priority: u32, table: u32) -> FibRule {
        FibRule {
            priority,
            action: RuleKind::Table(table),
            invert: false,
            destination: None,
            mark: None,
            out_device: None,
            suppress_prefix: None,
            unknown_selector: false,
        }
    }

    /// The index of the device the answer leads to.
    fn ask(fib: &Fib, address: &str, mark: u32) -> Option<u32> {
        let selectors = Selectors { mark, device: None };
        let target = Target::Address(address.parse().unwrap());
        fib.resolve(target, selectors, |route| route.hops.iter().any(|hop| hop.index == 99))
            .and_then(|route| route.hops.first())
            .map(|hop| hop.index)
    }

    #[test]
    fn longest_prefix_then_metric_and_never_the_ignored() {
        let fib = Fib {
            rules: vec![rule(32766, MAIN)],
            routes: vec![
                route("0.0.0.0/0", MAIN, 600, 3),
                route("0.0.0.0/0", MAIN, 100, 2),
                route("0.0.0.0/1", MAIN, 0, 99),
                route("10.0.0.0/8", MAIN, 0, 4),
            ],
        };
        assert_eq!(ask(&fib, "8.8.8.8", 0), Some(2));
        assert_eq!(ask(&fib, "10.1.1.1", 0), Some(4));
        let bound = Selectors { mark: 0, device: Some(("wlan0", 3)) };
        let target = Target::Address("8.8.8.8".parse().unwrap());
        assert_eq!(fib.resolve(target, bound, |_| false).unwrap().metric, 600);
        let default = fib.resolve(Target::Default, Selectors::default(), |_| false).unwrap();
        assert_eq!(default.metric, 100);
    }

    #[test]
    fn rules_select_by_mark_prefix_and_inversion() {
        let mut marked = rule(100, 7);
        marked.mark = Some((0x1, 0xff));
        let mut suppress = rule(200, MAIN);
        suppress.suppress_prefix = Some(0);
        let mut inverted = rule(300, 8);
        inverted.mark = Some((0x2, u32::MAX));
        inverted.invert = true;
        let mut unknown = rule(50, 9);
        unknown.unknown_selector = true;
        let fib = Fib {
            rules: vec![rule(32766, MAIN), inverted, suppress, marked, unknown],
            routes: vec![
                route("0.0.0.0/0", MAIN, 0, 1),
                route("10.0.0.0/8", MAIN, 0, 2),
                route("0.0.0.0/0", 7, 0, 3),
                route("0.0.0.0/0", 8, 0, 4),
                route("0.0.0.0/0", 9, 0, 5),
            ],
        };
        assert_eq!(ask(&fib, "8.8.8.8", 1), Some(3));
        assert_eq!(ask(&fib, "8.8.8.8", 2), Some(1));
        assert_eq!(ask(&fib, "8.8.8.8", 0), Some(4));
        assert_eq!(ask(&fib, "10.8.8.8", 0), Some(2));
    }

    #[test]
    fn throw_goes_on_and_refusal_ends() {
        let mut throw = route("8.0.0.0/8", 7, 0, 0);
        throw.kind = RouteKind::Throw;
        throw.hops.clear();
        let mut refuse = route("9.0.0.0/8", 7, 0, 0);
        refuse.kind = RouteKind::Refuse;
        refuse.hops.clear();
        let mut goto = rule(20, 0);
        goto.action = RuleKind::Goto(32766);
        let fib = Fib {
            rules: vec![rule(10, 7), goto, rule(30, 8), rule(32766, MAIN)],
            routes: vec![
                throw,
                refuse,
                route("0.0.0.0/0", MAIN, 0, 1),
                route("0.0.0.0/0", 8, 0, 2),
            ],
        };
        assert_eq!(ask(&fib, "8.8.8.8", 0), Some(1));
        assert_eq!(ask(&fib, "9.9.9.9", 0), None);
    }
}
