//! Plans of many pushes, as text.

use std::net::IpAddr;

use super::{NetworkPlan, PlanInput, diff};
use crate::network::{Gateways, Network, Path, PlanError, RemotePath};
use crate::profile::{
    DnsScope, NetworkOptions, Protocol, RedirectGateway, Route, RouteDestination, RouteGateway,
    Topology,
};

const SERVER: &str = "203.0.113.5";

fn path(gateway: Option<&str>) -> Path {
    Path {
        gateway: gateway.map(|gateway| gateway.parse().unwrap()),
        device: "eth0".to_owned(),
        index: 2,
        onlink: false,
        source: None,
        mtu: None,
    }
}

/// A host at home: 192.168.1.0/24 behind 192.168.1.1, no IPv6 default route.
fn home() -> Gateways {
    Gateways {
        remote: RemotePath::Via(path(Some("192.168.1.1"))),
        default_v4: Some(path(Some("192.168.1.1"))),
        default_v6: None,
        local_networks: vec![Network::new("192.168.1.0".parse().unwrap(), 24).unwrap()],
        ipv6: true,
    }
}

fn subnet() -> NetworkOptions {
    NetworkOptions {
        topology: Some(Topology::Subnet),
        ifconfig: Some(("10.8.0.2".parse().unwrap(), "255.255.255.0".parse().unwrap())),
        route_gateway: Some("10.8.0.1".parse().unwrap()),
        ..NetworkOptions::default()
    }
}

fn dual() -> NetworkOptions {
    NetworkOptions {
        ifconfig_ipv6: Some(("fd00::2".parse().unwrap(), 64, Some("fd00::1".parse().unwrap()))),
        ..subnet()
    }
}

fn redirect() -> RedirectGateway {
    RedirectGateway { ipv4: true, def1: true, ..RedirectGateway::default() }
}

fn route(destination: &str, gateway: RouteGateway) -> Route {
    let (address, prefix) = destination.split_once('/').unwrap();
    Route {
        destination: RouteDestination::Net(address.parse().unwrap()),
        prefix: prefix.parse().unwrap(),
        gateway,
        metric: None,
    }
}

fn address(text: &str) -> RouteGateway {
    RouteGateway::Address(text.parse().unwrap())
}

fn build(options: &NetworkOptions, gateways: &Gateways) -> NetworkPlan {
    build_for(options, gateways, SERVER)
}

fn build_for(options: &NetworkOptions, gateways: &Gateways, remote: &str) -> NetworkPlan {
    NetworkPlan::build(&PlanInput {
        options,
        tun_mtu: 1500,
        tx_queue_len: None,
        remote: remote.parse().unwrap(),
        protocol: Protocol::Udp,
        gateways,
        dns_scope: DnsScope::Global,
    })
    .unwrap()
}

fn lines(plan: &NetworkPlan) -> Vec<String> {
    plan.to_string().lines().map(str::to_owned).collect()
}

fn routes(plan: &NetworkPlan) -> Vec<String> {
    plan.routes().map(|route| route.to_string()).collect()
}

fn notes(plan: &NetworkPlan) -> String {
    plan.notes().join("\n")
}

/// An address makes a route, too: a tunnel whose network is the server's own must not swallow it.
#[test]
fn a_server_inside_the_tunnels_network_gets_a_host_route() {
    let mut options = subnet();
    options.ifconfig = Some(([203, 0, 113, 9].into(), [255, 255, 255, 0].into()));
    let plan = build(&options, &home());
    assert_eq!(routes(&plan), ["route 203.0.113.5/32 via 192.168.1.1 dev eth0"]);
}

#[test]
fn everything_in_the_order_of_application() {
    let mut options = dual();
    options.redirect = Some(RedirectGateway { ipv6: true, ..redirect() });
    options.routes =
        vec![route("10.20.0.0/16", RouteGateway::Vpn), route("172.16.9.0/24", RouteGateway::Net)];
    options.route_metric = Some(50);
    options.dns.dhcp_servers = vec!["10.8.0.1".parse().unwrap()];
    let plan = build(&options, &home());
    assert_eq!(
        lines(&plan),
        [
            "link up mtu 1500",
            "address 10.8.0.2/24",
            "address fd00::2/64",
            "route 203.0.113.5/32 via 192.168.1.1 dev eth0",
            "route 0.0.0.0/1 tunnel",
            "route 10.20.0.0/16 tunnel metric 50",
            "route 128.0.0.0/1 tunnel",
            "route ::/3 tunnel",
            "route 2000::/4 tunnel",
            "route 3000::/4 tunnel",
            "route fc00::/7 tunnel",
            "route 172.16.9.0/24 via 192.168.1.1 dev eth0 metric 50",
            "dns 10.8.0.1",
        ]
    );
    assert_eq!(notes(&plan), "");
    // Whatever the order of the push, the plan is the same.
    options.routes.reverse();
    assert_eq!(build(&options, &home()), plan);
    assert_eq!(diff(plan.items(), build(&options, &home()).items()), []);
}

#[test]
fn topologies() {
    let mut options = subnet();
    options.ifconfig = Some(("10.8.0.6".parse().unwrap(), "10.8.0.5".parse().unwrap()));
    for topology in [None, Some(Topology::Net30), Some(Topology::P2p)] {
        options.topology = topology;
        assert_eq!(lines(&build(&options, &home()))[1], "address 10.8.0.6/32 peer 10.8.0.5");
    }
    options.topology = Some(Topology::Subnet);
    let gateways = home();
    let input = PlanInput {
        options: &options,
        tun_mtu: 1500,
        tx_queue_len: None,
        remote: SERVER.parse().unwrap(),
        protocol: Protocol::Udp,
        gateways: &gateways,
        dns_scope: DnsScope::Global,
    };
    assert!(matches!(NetworkPlan::build(&input), Err(PlanError::Netmask { .. })));
    // A netmask without a topology can only be topology subnet.
    let options = NetworkOptions { topology: None, ..subnet() };
    assert_eq!(lines(&build(&options, &home()))[1], "address 10.8.0.2/24");
    let none = NetworkOptions::default();
    let input = PlanInput { options: &none, ..input };
    assert_eq!(NetworkPlan::build(&input), Err(PlanError::NoAddress));
}

#[test]
fn keywords_and_gateways() {
    let keyword = |destination, gateway| Route { destination, prefix: 32, gateway, metric: None };
    let mut options = dual();
    options.routes = vec![
        keyword(RouteDestination::VpnGateway, RouteGateway::Vpn),
        keyword(RouteDestination::NetGateway, RouteGateway::Vpn),
        keyword(RouteDestination::RemoteHost, RouteGateway::Net),
        route("10.1.0.0/16", address("10.8.0.1")),
        route("10.2.0.0/16", address("10.8.0.77")),
        route("10.3.0.0/16", address("192.168.1.7")),
        route("2001:db8:1::/48", address("fd00::1")),
        route("2001:db8:2::/48", address("fe80::1")),
        route("2001:db8:3::/48", RouteGateway::Net),
        route("2001:db8:4::/48", address("10.8.0.1")),
        route("10.4.0.0/16", RouteGateway::RemoteHost),
    ];
    let plan = build(&options, &home());
    assert_eq!(
        routes(&plan),
        [
            "route 203.0.113.5/32 via 192.168.1.1 dev eth0",
            "route 10.1.0.0/16 tunnel",
            "route 10.2.0.0/16 tunnel",
            "route 10.8.0.1/32 tunnel",
            "route 192.168.1.1/32 tunnel",
            "route 2001:db8:1::/48 tunnel",
            "route 2001:db8:2::/48 tunnel",
            "route 10.3.0.0/16 via 192.168.1.7",
        ]
    );
    for left_out in ["2001:db8:3::/48", "2001:db8:4::/48", "10.4.0.0/16"] {
        assert!(notes(&plan).contains(left_out), "{left_out}");
    }
    // On the same network the server can be a gateway.
    let near = Gateways { remote: RemotePath::Via(path(None)), ..home() };
    let plan = build_for(&options, &near, "192.168.1.9");
    assert!(routes(&plan).contains(&"route 10.4.0.0/16 via 192.168.1.9 dev eth0".to_owned()));
    // Without a default route there is no net_gateway.
    let none = Gateways { default_v4: None, ..home() };
    assert!(notes(&build(&options, &none)).contains("net_gateway"));
}

#[test]
fn the_server_is_kept_out_of_every_covering_route() {
    let mut options = subnet();
    options.routes = vec![route("203.0.113.0/24", RouteGateway::Vpn)];
    let around = "route 203.0.113.5/32 via 192.168.1.1 dev eth0".to_owned();
    assert!(routes(&build(&options, &home())).contains(&around));
    // A route for the server alone would cut the tunnel off.
    options.routes = vec![route("203.0.113.5/32", RouteGateway::Vpn)];
    let plan = build(&options, &home());
    assert_eq!(routes(&plan), [""; 0]);
    assert!(notes(&plan).contains("into the tunnel"));
    // Nothing covers it: no route.
    options.routes = vec![route("10.20.0.0/16", RouteGateway::Vpn)];
    assert_eq!(routes(&build(&options, &home())), ["route 10.20.0.0/16 tunnel"]);
    // The server is this host, or nowhere.
    options.redirect = Some(redirect());
    for remote in [RemotePath::Local, RemotePath::Unreachable] {
        let plan = build(&options, &Gateways { remote, ..home() });
        assert!(!plan.to_string().contains(SERVER));
    }
    // A server reached over the other family needs nothing in this one.
    let plan = build_for(&options, &home(), "2001:db8::5");
    assert!(!plan.to_string().contains("2001:db8::5"));
    let mapped = build_for(&options, &home(), "::ffff:203.0.113.5");
    assert!(routes(&mapped).contains(&around));
}

/// The device of the host route may go, and the route with it: then a stream goes nowhere.
#[test]
fn a_stream_is_never_led_into_the_tunnel() {
    let stream = |options: &NetworkOptions, gateways: &Gateways, remote: &str| {
        let plan = NetworkPlan::build(&PlanInput {
            options,
            tun_mtu: 1500,
            tx_queue_len: None,
            remote: remote.parse().unwrap(),
            protocol: Protocol::Tcp,
            gateways,
            dns_scope: DnsScope::Global,
        });
        routes(&plan.unwrap())
    };
    let (around, barrier) = (
        "route 203.0.113.5/32 via 192.168.1.1 dev eth0".to_owned(),
        "route 203.0.113.5/32 unreachable metric 4294967294".to_owned(),
    );
    let mut options = dual();
    options.redirect = Some(redirect());
    // Between the way around the tunnel and what leads into it: so they are made, and go in reverse.
    let (first, second) = ("route 0.0.0.0/1 tunnel".to_owned(), "route 128.0.0.0/1 tunnel".into());
    let everything = [around.clone(), barrier.clone(), first, second];
    assert_eq!(stream(&options, &home(), SERVER), everything);
    assert_eq!(stream(&options, &home(), "::ffff:203.0.113.5"), everything);
    // One pushed with its metric is no other way.
    options.routes =
        vec![Route { metric: Some(4_294_967_294), ..route("203.0.113.5/32", RouteGateway::Net) }];
    assert_eq!(stream(&options, &home(), SERVER), everything);
    options.routes.clear();
    // No way is known at this moment, or it is within the host.
    for remote in [RemotePath::Local, RemotePath::Unreachable] {
        let present = stream(&options, &Gateways { remote, ..home() }, SERVER);
        assert_eq!(present, everything[1..]);
    }
    let local = Gateways { remote: RemotePath::Local, ..home() };
    assert_eq!(stream(&options, &local, "127.0.0.1"), everything[2..]);
    // The route of the local network is none beside it.
    options.redirect = Some(RedirectGateway { local: true, ..redirect() });
    let near = Gateways { remote: RemotePath::Via(path(None)), ..home() };
    let present = stream(&options, &near, "192.168.1.9");
    assert_eq!(
        present[..2],
        ["route 192.168.1.9/32 dev eth0", "route 192.168.1.9/32 unreachable metric 4294967294"]
    );
    // The other family, and where nothing covers the server.
    let six = stream(&options, &home(), "2001:db8::5");
    assert!(six.iter().all(|route| !route.contains("unreachable")), "{six:?}");
    options.redirect = Some(RedirectGateway { ipv6: true, ..redirect() });
    let six = stream(&options, &home(), "2001:db8::5");
    assert!(six.contains(&"route 2001:db8::5/128 unreachable metric 4294967294".to_owned()));
    options.redirect = None;
    options.routes = vec![route("10.20.0.0/16", RouteGateway::Vpn)];
    assert_eq!(stream(&options, &home(), SERVER), ["route 10.20.0.0/16 tunnel"]);
}

#[test]
fn a_pushed_default_route_is_the_internet() {
    let mut options = dual();
    options.routes = vec![route("0.0.0.0/0", RouteGateway::Vpn), route("::/0", RouteGateway::Vpn)];
    let redirected = NetworkOptions {
        redirect: Some(RedirectGateway { ipv6: true, ..redirect() }),
        routes: Vec::new(),
        ..options.clone()
    };
    assert_eq!(build(&options, &home()), build(&redirected, &home()));
    options.route_metric = Some(5);
    assert!(routes(&build(&options, &home())).contains(&"route 0.0.0.0/0 tunnel metric 5".into()));
}

#[test]
fn families_the_tunnel_cannot_carry() {
    let mut options = subnet();
    options.redirect = Some(RedirectGateway { ipv6: true, ..redirect() });
    options.routes = vec![route("2001:db8:1::/48", RouteGateway::Vpn)];
    let plan = build(&options, &home());
    assert!(routes(&plan).contains(&"route 2000::/4 unreachable".to_owned()));
    assert!(notes(&plan).contains("IPv6"));
    assert!(!plan.to_string().contains("2001:db8:1::"));

    // IPv6 switched off on the host, or an MTU too small for it.
    let off = Gateways { ipv6: false, ..home() };
    let plan = build(&dual(), &off);
    assert_eq!(lines(&plan), ["link up mtu 1500", "address 10.8.0.2/24"]);
    assert!(notes(&plan).contains("disable_ipv6"));
    let (options, gateways) = (dual(), home());
    let small = NetworkPlan::build(&PlanInput {
        options: &options,
        tun_mtu: 1200,
        tx_queue_len: Some(500),
        remote: SERVER.parse().unwrap(),
        protocol: Protocol::Udp,
        gateways: &gateways,
        dns_scope: DnsScope::Global,
    })
    .unwrap();
    assert_eq!(lines(&small), ["link up mtu 1200 txqueuelen 500", "address 10.8.0.2/24"]);
    assert!(notes(&small).contains("1280"));

    let blocked = build(&NetworkOptions { block_ipv6: true, block_ipv4: true, ..dual() }, &home());
    assert!(routes(&blocked).contains(&"route 128.0.0.0/1 unreachable".to_owned()));
    assert!(routes(&blocked).contains(&"route fc00::/7 unreachable".to_owned()));
    assert!(!blocked.to_string().contains("tunnel"));
}

#[test]
fn a_thousand_random_pushes_keep_the_invariants() {
    use proptest::prelude::*;

    let any_route = (any::<[u8; 4]>(), 0_u8..=32, 0_u8..5, proptest::option::of(0_u32..3));
    let any_push = (
        proptest::collection::vec(any_route, 0..12),
        proptest::option::of(any::<[bool; 6]>()),
        any::<[bool; 3]>(),
    );
    proptest!(ProptestConfig::with_cases(1000), |((list, flags, other) in any_push)| {
        let mut options = if other[0] { dual() } else { subnet() };
        options.block_ipv6 = other[1];
        options.redirect = flags.map(|f| RedirectGateway {
            private: f[0],
            ipv4: f[1],
            ipv6: f[2],
            local: f[3],
            autolocal: f[4],
            block_local: f[5],
            ..RedirectGateway::default()
        });
        options.routes = list
            .into_iter()
            .map(|(octets, prefix, gateway, metric)| Route {
                destination: RouteDestination::Net(IpAddr::from(octets)),
                prefix,
                gateway: match gateway {
                    0 | 1 => RouteGateway::Vpn,
                    2 => RouteGateway::Net,
                    3 => RouteGateway::RemoteHost,
                    _ => address("10.8.0.1"),
                },
                metric,
            })
            .collect();
        let gateways = home();
        let plan = build(&options, &gateways);
        // Sorted, nothing twice, and equal input makes equal plans.
        prop_assert!(plan.items().is_sorted());
        prop_assert!(plan.items().windows(2).all(|pair| pair[0] != pair[1]));
        prop_assert_eq!(&plan, &build(&options, &gateways));
        // The most specific route to the server is never one into the tunnel.
        let server: IpAddr = SERVER.parse().unwrap();
        let best = plan
            .routes()
            .filter(|route| route.destination.contains(server))
            .max_by_key(|route| route.destination.prefix());
        if let Some(best) = best {
            prop_assert!(best.to_string().contains("eth0"), "{}", best);
        }
        // From any plan to any other and back.
        let empty = NetworkPlan::default();
        prop_assert_eq!(diff(empty.items(), plan.items()).len(), plan.items().len());
        prop_assert_eq!(diff(plan.items(), empty.items()).len(), plan.items().len());
        if other[2] {
            prop_assert_eq!(diff(plan.items(), plan.items()).len(), 0);
        }
    });
}
