//! Two pushes, one after the other, on their way to the host: what both plans say keeps the server
//! outside and the redirected Internet inside, the steps between them lead from the one to the other
//! one by one, and nothing in them can end a line or a word.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ovpn_client::network::{
    Gateways, Item, NetcfgPlan, Network, NetworkPlan, Path, PlanInput, PlannedRoute, RemotePath,
    RouteTarget, Step, diff,
};
use ovpn_client::profile::{
    DnsScope, NetworkOptions, NoFiles, Options, Profile, Protocol, SessionOptions, split_push,
};

/// More routes than this make checking slow, not wrong.
const MAX_ROUTES: usize = 2000;

/// Input: what the host is like (one byte), then the bodies of two push replies with a NUL between.
pub fn run(data: &[u8]) {
    let Some((&host, rest)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(rest);
    let (first, second) = text.split_once('\0').unwrap_or((&text, &text));
    let profile = profile();
    let mut plans = Vec::new();
    for push in [first, second] {
        let raw = split_push(push);
        let Ok(session) = SessionOptions::from_push(&profile, &raw, "") else { return };
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            plans.extend(plan(host, &session.network, session.tun_mtu, protocol));
        }
        netcfg(host, &session.network, session.tun_mtu);
    }
    let items: Vec<&[Item]> = plans.iter().map(NetworkPlan::items).collect();
    let nothing = &[][..];
    for (from, to) in items.iter().zip(items.iter().skip(1)) {
        leads(from, to);
        leads(to, from);
    }
    if let Some(first) = items.first() {
        assert_eq!(diff(first, first), [], "nothing to do");
        leads(nothing, first);
        leads(first, nothing);
    }
}

fn plan(
    host: u8,
    options: &NetworkOptions,
    tun_mtu: u16,
    protocol: Protocol,
) -> Option<NetworkPlan> {
    let (gateways, remote) = (gateways(host), remote(host));
    let input = PlanInput {
        options,
        tun_mtu,
        tx_queue_len: None,
        remote,
        protocol,
        gateways: &gateways,
        dns_scope: DnsScope::Global,
    };
    let plan = NetworkPlan::build(&input).ok()?;
    assert_eq!(NetworkPlan::build(&input).as_ref(), Ok(&plan));
    assert!(plan.addresses().count() <= 2);
    assert!(plan.items().is_sorted(), "the order of application");
    for item in plan.items() {
        assert!(!item.to_string().contains(char::is_control), "{item}");
    }
    if let Some(dns) = plan.dns() {
        let mut names = dns.search_domains.iter().chain(&dns.route_domains);
        assert!(names.all(|name| name.as_str().parse().as_ref() == Ok(name)));
    }
    let routes: Vec<&PlannedRoute> = plan.routes().collect();
    if routes.len() > MAX_ROUTES {
        return Some(plan);
    }
    // The tunnel's own packets stay outside, whatever was pushed. The host has a route to each local
    // network, too.
    let local = |way: &PlannedRoute| {
        let networks = gateways.local_networks.iter();
        let longer = networks.filter(|network| network.prefix() > way.destination.prefix());
        longer.into_iter().any(|network| network.contains(remote.to_canonical()))
    };
    if let RemotePath::Via(path) = &gateways.remote
        && let Some(way) = way(&routes, remote.to_canonical())
        && !(path.gateway.is_none() && local(way))
    {
        assert!(
            matches!(way.target, RouteTarget::Outside(_) | RouteTarget::Gateway(_)),
            "to the server by {way}"
        );
    }
    // Nor does a stream go in when every device but the tunnel has gone.
    if protocol == Protocol::Tcp {
        let left = plan.routes().filter(|route| {
            matches!(route.target, RouteTarget::Tunnel | RouteTarget::Unreachable)
                && route.destination.contains(remote.to_canonical())
        });
        let way = left.max_by_key(|route| route.destination.prefix());
        assert!(
            way.is_none_or(|way| way.target == RouteTarget::Unreachable),
            "to the server: {plan}"
        );
    }
    // Whatever is not excepted goes into the tunnel, or nowhere.
    if let Some(redirect) = options.redirect.filter(|redirect| !redirect.private) {
        for (wanted, target) in [(redirect.ipv4, "198.51.100.77"), (redirect.ipv6, "2a00::77")] {
            let target = target.parse().expect("an address");
            let excepted = options.routes.iter().any(|route| route.prefix > 0)
                || routes.iter().any(|r| r.metric.is_some());
            if wanted && !excepted {
                let way = way(&routes, target).expect("a route");
                assert!(
                    matches!(way.target, RouteTarget::Tunnel | RouteTarget::Unreachable)
                        || target == remote.to_canonical(),
                    "redirected, but {way}"
                );
            }
        }
    }
    Some(plan)
}

/// What the service is told can be told.
fn netcfg(host: u8, options: &NetworkOptions, tun_mtu: u16) {
    let build = || NetcfgPlan::build(options, tun_mtu, None, remote(host), DnsScope::Global);
    if let Ok(plan) = build() {
        assert!(build().is_ok_and(|again| again == plan));
        assert!(plan.notes().iter().all(|note| !note.contains(char::is_control)));
    }
}

/// Taking the steps one by one, nothing is added over what is there, nothing is taken away that is
/// not there, and the end is the new plan.
fn leads(old: &[Item], new: &[Item]) {
    let mut present: BTreeMap<String, &Item> = old.iter().map(|item| (key(item), item)).collect();
    assert_eq!(present.len(), old.len(), "something twice");
    let steps = diff(old, new);
    for step in &steps {
        match step {
            Step::Add(item) => {
                assert_eq!(present.insert(key(item), item), None, "{step} over another");
            }
            Step::Remove(item) => {
                assert_eq!(present.remove(&key(item)), Some(item), "{step} without it");
            }
        }
    }
    let mut end: Vec<&Item> = present.into_values().collect();
    end.sort();
    assert!(end.iter().copied().eq(new), "{end:?}");
}

/// What the kernel has only once.
fn key(item: &Item) -> String {
    match item {
        Item::Link(_) => "link".to_owned(),
        Item::Dns(_) => "dns".to_owned(),
        Item::Address(address) => format!("address {}", address.address),
        Item::Route(route) => format!("route {} {:?}", route.destination, route.metric),
    }
}

/// The route that a packet takes, of those without a metric.
fn way<'a>(routes: &[&'a PlannedRoute], to: IpAddr) -> Option<&'a PlannedRoute> {
    routes
        .iter()
        .copied()
        .filter(|route| route.metric.is_none() && route.destination.contains(to))
        .max_by_key(|route| route.destination.prefix())
}

fn remote(host: u8) -> IpAddr {
    let address = match host & 3 {
        0 => "192.0.2.1",
        1 => "2001:db8::1",
        2 => "10.0.0.9",
        _ => "::ffff:192.0.2.1",
    };
    address.parse().expect("an address")
}

fn gateways(host: u8) -> Gateways {
    let path = |gateway: &str| Path {
        gateway: Some(gateway.parse().expect("an address")),
        device: "eth0".to_owned(),
        index: 2,
        onlink: host & 4 != 0,
        source: None,
        mtu: None,
    };
    let (v4, v6) = (path("10.0.0.1"), path("fe80::1"));
    let way = if remote(host).to_canonical().is_ipv6() { &v6 } else { &v4 };
    let network = |address: &str, prefix| {
        Network::new(address.parse().expect("an address"), prefix).expect("short enough")
    };
    Gateways {
        remote: match host >> 3 & 3 {
            0 => RemotePath::Local,
            1 => RemotePath::Unreachable,
            2 => RemotePath::Via(Path { gateway: None, ..way.clone() }),
            _ => RemotePath::Via(way.clone()),
        },
        default_v4: Some(v4).filter(|_| host & 0x20 == 0),
        default_v6: Some(v6).filter(|_| host & 0x40 == 0),
        local_networks: vec![network("10.0.0.0", 24), network("2001:db8::", 64)],
        ipv6: host & 0x80 == 0,
    }
}

fn profile() -> Options {
    let fingerprint = ["00"; 32].join(":");
    let text = format!("client\nremote a\nauth-user-pass\npeer-fingerprint {fingerprint}\n");
    Profile::parse(&text, "fuzz.ovpn", &NoFiles).expect("complete").options
}
