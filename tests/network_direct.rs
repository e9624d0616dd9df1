//! Plans applied to real namespaces: what they make, that they undo it exactly, and that the server
//! stays reachable in every gateway case.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests end by panicking")]

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use ovpn_client::network::dns::DnsScope;
use ovpn_client::network::{
    DirectNetwork, Gateways, NetworkError, NetworkPlan, PlanInput, RemotePath, RouteQuery, Way,
};
use ovpn_client::profile::{
    NetworkOptions, Protocol, RedirectGateway, Route, RouteDestination, RouteGateway, Topology,
};
use ovpn_dco::Interface;
use ovpn_test_support::netns::{NetNs, Tun, connect};
use tempfile::TempDir;

const TUNNEL: &str = "tun7";

/// The client's namespace with a tunnel device, and a runtime directory.
struct Client {
    ns: NetNs,
    tun: Tun,
    runtime: TempDir,
}

impl Client {
    fn new() -> Self {
        Self::from(NetNs::new("nwd"))
    }

    fn from(ns: NetNs) -> Self {
        let tun = ns.add_tun(TUNNEL);
        ns.sh(&format!("ip link set {TUNNEL} down"));
        Self { ns, tun, runtime: TempDir::new().unwrap() }
    }

    fn interface(&self) -> Interface {
        Interface { name: TUNNEL.to_owned(), index: self.ns.link_index(TUNNEL).unwrap() }
    }

    /// Applies, lets `check` look, undoes, and compares with before.
    fn with_tunnel(&self, remote: &str, options: &NetworkOptions, check: impl FnOnce() + Send) {
        let before = self.ns.settled_snapshot();
        let interface = self.interface();
        self.ns.block_on(async || {
            let mut network = DirectNetwork::open(self.runtime.path()).await.unwrap();
            let gateways = network.lookup(&query(remote)).await.unwrap();
            let plan = plan(options, remote, &gateways);
            let applied = network.apply(&interface, &plan).await.unwrap();
            assert_eq!(applied.steps.len(), plan.items().len(), "{plan}");
            check();
            network.undo().await.unwrap();
        });
        before.assert_same(&self.ns.snapshot());
        assert!(journals(self.runtime.path()).is_empty());
    }
}

fn journals(directory: &Path) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn query(remote: &str) -> RouteQuery {
    RouteQuery { remote: remote.parse().unwrap(), mark: None, bind_dev: None }
}

fn plan(options: &NetworkOptions, remote: &str, gateways: &Gateways) -> NetworkPlan {
    plan_over(Protocol::Udp, options, remote, gateways)
}

fn plan_over(
    protocol: Protocol,
    options: &NetworkOptions,
    remote: &str,
    gateways: &Gateways,
) -> NetworkPlan {
    NetworkPlan::build(&PlanInput {
        options,
        tun_mtu: 1420,
        tx_queue_len: Some(1000),
        remote: remote.parse().unwrap(),
        protocol,
        gateways,
        dns_scope: DnsScope::Global,
    })
    .unwrap()
}

/// Topology subnet, both families.
fn dual_stack() -> NetworkOptions {
    NetworkOptions {
        topology: Some(Topology::Subnet),
        ifconfig: Some(("10.8.0.2".parse().unwrap(), "255.255.255.0".parse().unwrap())),
        ifconfig_ipv6: Some(("fd00:8::2".parse().unwrap(), 64, None)),
        route_gateway: Some("10.8.0.1".parse().unwrap()),
        ..NetworkOptions::default()
    }
}

fn redirect() -> RedirectGateway {
    RedirectGateway { ipv4: true, ipv6: true, def1: true, ..RedirectGateway::default() }
}

fn route(destination: &str, gateway: RouteGateway, metric: Option<u32>) -> Route {
    let (address, prefix) = destination.split_once('/').unwrap();
    Route {
        destination: RouteDestination::Net(address.parse().unwrap()),
        prefix: prefix.parse().unwrap(),
        gateway,
        metric,
    }
}

/// `ip route get`: the words after the address.
fn way(ns: &NetNs, address: &str) -> String {
    let output = ns.command("ip").args(["route", "get", address]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr);
    text.lines().next().unwrap_or_default().to_owned()
}

/// A datagram from `client` to `address` in `server`, and back.
fn reaches(client: &NetNs, server: &NetNs, address: &str) -> bool {
    // Any port: a child process of another test may hold a copy of the last one's socket until it
    // executes its program.
    let address = SocketAddr::new(address.parse().unwrap(), 0);
    let listener = server.run(|| UdpSocket::bind(address)).unwrap();
    let address = listener.local_addr().unwrap();
    let any: SocketAddr =
        if address.is_ipv4() { "0.0.0.0:0".parse().unwrap() } else { "[::]:0".parse().unwrap() };
    let sender = client.run(|| UdpSocket::bind(any)).unwrap();
    for socket in [&listener, &sender] {
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    }
    let mut buffer = [0; 8];
    sender.send_to(b"hello", address).is_ok()
        && listener.recv_from(&mut buffer).is_ok_and(|(n, from)| {
            listener.send_to(&buffer[..n], from).is_ok() && sender.recv_from(&mut buffer).is_ok()
        })
}

#[test]
fn subnet_topology_with_every_kind_of_route() {
    let client = Client::new();
    client.ns.add_bridge("br0");
    client.ns.add_address("br0", "192.0.2.10/24");
    client.ns.add_route("default", Some("192.0.2.1"), None);
    let mut options = dual_stack();
    options.route_metric = Some(77);
    options.routes = vec![
        route("10.20.0.0/16", RouteGateway::Vpn, None),
        route("10.30.0.0/16", RouteGateway::Address("10.8.0.1".parse().unwrap()), Some(5)),
        route("198.51.100.0/24", RouteGateway::Net, None),
        route("198.18.0.0/15", RouteGateway::Address("192.0.2.99".parse().unwrap()), Some(9)),
        route("2001:db8:5::/48", RouteGateway::Vpn, None),
        Route {
            destination: RouteDestination::VpnGateway,
            prefix: 32,
            gateway: RouteGateway::Net,
            metric: Some(1),
        },
        Route {
            destination: RouteDestination::RemoteHost,
            prefix: 32,
            gateway: RouteGateway::Net,
            metric: Some(2),
        },
    ];
    client.with_tunnel("203.0.113.5", &options, || {
        let routes = client.ns.sh("ip route; ip -6 route");
        for expected in [
            "10.8.0.0/24 dev tun7 proto kernel scope link src 10.8.0.2",
            "10.20.0.0/16 dev tun7 proto 79 scope link metric 77",
            "10.30.0.0/16 dev tun7 proto 79 scope link metric 5",
            "198.51.100.0/24 via 192.0.2.1 dev br0 proto 79 metric 77",
            "198.18.0.0/15 via 192.0.2.99 dev br0 proto 79 metric 9",
            "2001:db8:5::/48 dev tun7 proto 79 metric 77",
            "10.8.0.1 via 192.0.2.1 dev br0 proto 79 metric 1",
            "203.0.113.5 via 192.0.2.1 dev br0 proto 79 metric 2",
            "fd00:8::/64 dev tun7 proto kernel metric 256",
        ] {
            assert!(routes.contains(expected), "{expected}\nnot in\n{routes}");
        }
        let link = client.ns.sh("ip address show tun7");
        for expected in ["mtu 1420", "qlen 1000", "LOWER_UP", "inet 10.8.0.2/24", "fd00:8::2/64"] {
            assert!(link.contains(expected), "{expected}\nnot in\n{link}");
        }
        assert!(!link.contains("fe80"), "{link}");
    });
}

#[test]
fn net30_topology() {
    let client = Client::new();
    let options = NetworkOptions {
        ifconfig: Some(("10.8.0.6".parse().unwrap(), "10.8.0.5".parse().unwrap())),
        routes: vec![route("10.8.0.1/32", RouteGateway::Vpn, None)],
        ..NetworkOptions::default()
    };
    let before = client.ns.settled_snapshot();
    let interface = client.interface();
    client.ns.block_on(async || {
        let mut network = DirectNetwork::open(client.runtime.path()).await.unwrap();
        let gateways = network.lookup(&query("203.0.113.5")).await.unwrap();
        assert_eq!(gateways.remote, RemotePath::Unreachable);
        let plan = NetworkPlan::build(&PlanInput {
            options: &options,
            tun_mtu: 1500,
            tx_queue_len: None,
            remote: "203.0.113.5".parse().unwrap(),
            protocol: Protocol::Udp,
            gateways: &gateways,
            dns_scope: DnsScope::Global,
        })
        .unwrap();
        network.apply(&interface, &plan).await.unwrap();
        let shown = client.ns.sh("ip address show tun7; ip route");
        for expected in [
            "inet 10.8.0.6 peer 10.8.0.5/32",
            "10.8.0.5 dev tun7 proto kernel scope link src 10.8.0.6",
            "10.8.0.1 dev tun7 proto 79 scope link",
        ] {
            assert!(shown.contains(expected), "{expected}\nnot in\n{shown}");
        }
        network.undo().await.unwrap();
    });
    before.assert_same(&client.ns.snapshot());
}

/// Every way a host can reach its server, with the default route going into the tunnel.
#[test]
fn redirected_traffic_enters_the_tunnel_and_the_server_stays_reachable() {
    struct Case {
        name: &'static str,
        server: &'static str,
        /// Shell lines for the client (device `eth0`) and for the router (`eth0` to the client).
        client: &'static str,
        router: &'static str,
        /// What `ip route get SERVER` says with the tunnel up.
        expected: &'static str,
    }
    let cases = [
        Case {
            name: "default route through a gateway",
            server: "203.0.113.1",
            client: "ip address add 192.0.2.10/24 dev eth0; ip route add default via 192.0.2.1",
            router: "ip address add 192.0.2.1/24 dev eth0; ip address add 203.0.113.1/32 dev lo",
            expected: "via 192.0.2.1 dev eth0",
        },
        Case {
            name: "server on the local network, no default route",
            server: "192.0.2.1",
            client: "ip address add 192.0.2.10/24 dev eth0",
            router: "ip address add 192.0.2.1/24 dev eth0",
            expected: "192.0.2.1 dev eth0",
        },
        Case {
            name: "server is the gateway",
            server: "192.0.2.1",
            client: "ip address add 192.0.2.10/24 dev eth0; ip route add default via 192.0.2.1",
            router: "ip address add 192.0.2.1/24 dev eth0",
            expected: "192.0.2.1 dev eth0",
        },
        Case {
            name: "default route with a device only",
            server: "203.0.113.1",
            client: "ip address add 192.0.2.10/24 dev eth0; ip route add default dev eth0",
            router: "ip address add 192.0.2.1/24 dev eth0; ip address add 203.0.113.1/32 dev eth0",
            expected: "203.0.113.1 dev eth0",
        },
        Case {
            name: "gateway on the device without an address that says so",
            server: "203.0.113.1",
            client: "ip address add 198.51.100.7/32 dev eth0; \
                     ip route add default via 169.254.1.1 dev eth0 onlink src 198.51.100.7",
            router: "ip address add 169.254.1.1/32 dev eth0; ip route add 198.51.100.7 dev eth0; \
                     ip address add 203.0.113.1/32 dev lo",
            expected: "via 169.254.1.1 dev eth0",
        },
        Case {
            name: "server is such a gateway",
            server: "169.254.1.1",
            client: "ip address add 198.51.100.7/32 dev eth0; \
                     ip route add default via 169.254.1.1 dev eth0 onlink src 198.51.100.7",
            router: "ip address add 169.254.1.1/32 dev eth0; ip route add 198.51.100.7 dev eth0",
            expected: "via 169.254.1.1 dev eth0",
        },
        Case {
            name: "gateway reached by a host route of its own",
            server: "203.0.113.1",
            client: "ip address add 198.51.100.7/32 dev eth0; ip route add 192.0.2.1 dev eth0; \
                     ip route add default via 192.0.2.1",
            router: "ip address add 192.0.2.1/32 dev eth0; ip route add 198.51.100.7 dev eth0; \
                     ip address add 203.0.113.1/32 dev lo",
            expected: "via 192.0.2.1 dev eth0",
        },
        Case {
            name: "two default routes, the better metric wins",
            server: "203.0.113.1",
            client: "ip address add 192.0.2.10/24 dev eth0; \
                     ip route add default via 192.0.2.99 metric 600; \
                     ip route add default via 192.0.2.1 metric 100",
            router: "ip address add 192.0.2.1/24 dev eth0; ip address add 203.0.113.1/32 dev lo",
            expected: "via 192.0.2.1 dev eth0",
        },
        Case {
            name: "default route with two next hops",
            server: "203.0.113.1",
            client: "ip address add 192.0.2.10/24 dev eth0; \
                     ip route add default nexthop via 192.0.2.1 nexthop via 192.0.2.2",
            router: "ip address add 192.0.2.1/24 dev eth0; ip address add 192.0.2.2/24 dev eth0; \
                     ip address add 203.0.113.1/32 dev lo",
            expected: "via 192.0.2.1 dev eth0",
        },
        Case {
            name: "default route in a table of its own",
            server: "203.0.113.1",
            client: "ip address add 192.0.2.10/24 dev eth0; \
                     ip route add default via 192.0.2.1 table 200; ip rule add table 200 pref 40000",
            router: "ip address add 192.0.2.1/24 dev eth0; ip address add 203.0.113.1/32 dev lo",
            expected: "via 192.0.2.1 dev eth0",
        },
        Case {
            name: "IPv6 through a link-local gateway",
            server: "2001:db8:f::1",
            client: "ip address add 2001:db8::10/64 dev eth0 nodad; \
                     ip route add default via fe80::1 dev eth0",
            router: "ip address add fe80::1/64 dev eth0 nodad; \
                     ip address add 2001:db8::1/64 dev eth0 nodad; \
                     ip address add 2001:db8:f::1/128 dev lo",
            expected: "via fe80::1 dev eth0",
        },
        Case {
            name: "IPv6 through a global gateway",
            server: "2001:db8:f::1",
            client: "ip address add 2001:db8::10/64 dev eth0 nodad; \
                     ip route add default via 2001:db8::1",
            router: "ip address add 2001:db8::1/64 dev eth0 nodad; \
                     ip address add 2001:db8:f::1/128 dev lo",
            expected: "via 2001:db8::1 dev eth0",
        },
        Case {
            name: "IPv6 server on the local network",
            server: "2001:db8::1",
            client: "ip address add 2001:db8::10/64 dev eth0 nodad",
            router: "ip address add 2001:db8::1/64 dev eth0 nodad",
            expected: "2001:db8::1 from :: dev eth0",
        },
        Case {
            name: "IPv4 through an IPv6 gateway",
            server: "203.0.113.1",
            client: "ip address add 198.51.100.7/32 dev eth0; \
                     ip -4 route add default via inet6 fe80::1 dev eth0",
            router: "ip address add fe80::1/64 dev eth0 nodad; ip route add 198.51.100.7 dev eth0; \
                     ip address add 203.0.113.1/32 dev lo",
            expected: "via inet6 fe80::1 dev eth0",
        },
    ];
    for case in cases {
        let router = NetNs::new("nwd");
        let client = Client::new();
        connect(&client.ns, "eth0", &router, "eth0");
        router.sh(case.router);
        client.ns.sh(case.client);
        // Link-local addresses settle first: they are part of the snapshot.
        settle(&client.ns);
        assert!(reaches(&client.ns, &router, case.server), "{}: not even without", case.name);
        let options = NetworkOptions { redirect: Some(redirect()), ..dual_stack() };
        client.with_tunnel(case.server, &options, || {
            let server = way(&client.ns, case.server);
            assert!(server.contains(case.expected), "{}: {server}", case.name);
            assert!(reaches(&client.ns, &router, case.server), "{}: {server}", case.name);
            for address in ["8.8.8.8", "192.168.77.1", "2606:4700::1", "fd77::1"] {
                let way = way(&client.ns, address);
                assert!(way.contains("dev tun7"), "{}: {way}", case.name);
            }
        });
    }
}

/// Waits until no address is tentative any more.
fn settle(ns: &NetNs) {
    for _ in 0..300 {
        let up = ns.sh("ip -6 address show dev eth0 scope link");
        if up.contains("fe80") && ns.sh("ip -6 address show tentative").is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("addresses stay tentative:\n{}", ns.sh("ip -6 address"));
}

#[test]
fn a_server_in_the_same_namespace_needs_no_route() {
    let client = Client::new();
    client.ns.add_address("lo", "203.0.113.1/32");
    let options = NetworkOptions { redirect: Some(redirect()), ..dual_stack() };
    client.with_tunnel("203.0.113.1", &options, || {
        assert!(way(&client.ns, "203.0.113.1").starts_with("local"));
        assert!(way(&client.ns, "203.0.113.2").contains("dev tun7"));
    });
}

#[test]
fn flags_of_redirect_gateway() {
    let client = Client::new();
    client.ns.add_bridge("br0");
    client.ns.add_address("br0", "192.0.2.10/24");
    client.ns.add_route("default", Some("192.0.2.1"), None);
    let with = |edit: fn(&mut RedirectGateway)| {
        let mut redirect = redirect();
        edit(&mut redirect);
        NetworkOptions { redirect: Some(redirect), ..dual_stack() }
    };

    client.with_tunnel("203.0.113.5", &with(|r| r.def1 = false), || {
        assert!(way(&client.ns, "8.8.8.8").contains("dev tun7"));
        assert!(way(&client.ns, "203.0.113.5").contains("via 192.0.2.1 dev br0"));
    });
    client.with_tunnel("203.0.113.5", &with(|r| r.ipv4 = false), || {
        assert!(way(&client.ns, "8.8.8.8").contains("dev br0"));
        assert!(way(&client.ns, "2606:4700::1").contains("dev tun7"));
    });
    client.with_tunnel("203.0.113.5", &with(|r| r.ipv6 = false), || {
        assert!(client.ns.sh("ip -6 route show proto 79").is_empty());
    });
    client.with_tunnel("203.0.113.5", &with(|r| r.private = true), || {
        assert!(way(&client.ns, "8.8.8.8").contains("dev br0"));
    });
    // The server is on the local network: its own route is enough.
    client.with_tunnel("192.0.2.5", &with(|r| r.local = true), || {
        assert!(client.ns.sh("ip route show 192.0.2.5").is_empty());
        assert!(way(&client.ns, "192.0.2.5").contains("dev br0"));
    });
    client.with_tunnel("192.0.2.5", &with(|r| r.autolocal = true), || {
        assert!(client.ns.sh("ip route show 192.0.2.5").is_empty());
    });
    client.with_tunnel("203.0.113.5", &with(|r| r.local = true), || {
        assert!(way(&client.ns, "203.0.113.5").contains("via 192.0.2.1 dev br0"));
    });
    // The local network goes into the tunnel, but for gateway and server.
    client.with_tunnel("192.0.2.5", &with(|r| r.block_local = true), || {
        assert!(way(&client.ns, "192.0.2.77").contains("dev tun7"));
        assert!(way(&client.ns, "192.0.2.200").contains("dev tun7"));
        assert!(way(&client.ns, "192.0.2.1").contains("dev br0"));
        assert!(way(&client.ns, "192.0.2.5").contains("dev br0"));
    });
    client.with_tunnel("203.0.113.5", &with(|r| (r.block_local, r.local) = (true, true)), || {
        assert!(way(&client.ns, "192.0.2.77").contains("dev tun7"));
        assert!(way(&client.ns, "203.0.113.5").contains("via 192.0.2.1 dev br0"));
    });
}

#[test]
fn blocked_families_are_unreachable() {
    let client = Client::new();
    client.ns.add_bridge("br0");
    client.ns.add_address("br0", "2001:db8::10/64");
    client.ns.add_route("default6", Some("2001:db8::1"), None);
    let options = NetworkOptions { block_ipv6: true, ..dual_stack() };
    client.with_tunnel("2001:db8:f::1", &options, || {
        assert!(way(&client.ns, "2606:4700::1").contains("No route to host"));
        // Not the server, and not the local network.
        assert!(way(&client.ns, "2001:db8:f::1").contains("via 2001:db8::1 dev br0"));
        assert!(way(&client.ns, "2001:db8::77").contains("dev br0"));
    });
    // A tunnel without IPv6 that is to take it.
    let options =
        NetworkOptions { ifconfig_ipv6: None, redirect: Some(redirect()), ..dual_stack() };
    client.with_tunnel("2001:db8:f::1", &options, || {
        assert!(way(&client.ns, "2606:4700::1").contains("No route to host"));
        assert!(way(&client.ns, "2001:db8:f::1").contains("via 2001:db8::1 dev br0"));
    });
}

#[test]
fn a_host_without_ipv6_gets_the_ipv4_part() {
    let ns = NetNs::new("nwd");
    ns.sysctl("net/ipv6/conf/all/disable_ipv6", "1");
    ns.sysctl("net/ipv6/conf/default/disable_ipv6", "1");
    let client = Client::from(ns);
    let options = NetworkOptions { redirect: Some(redirect()), ..dual_stack() };
    client.with_tunnel("203.0.113.5", &options, || {
        assert!(way(&client.ns, "8.8.8.8").contains("dev tun7"));
        assert!(client.ns.sh("ip -6 address show dev tun7").is_empty());
    });
}

#[test]
fn ordinary_routes_that_exist_are_left_alone_and_reported() {
    let client = Client::new();
    client.ns.add_bridge("br0");
    client.ns.add_address("br0", "192.0.2.10/24");
    let mut options = dual_stack();
    options.routes = vec![
        route("192.0.2.0/24", RouteGateway::Vpn, None),
        route("198.18.0.0/15", RouteGateway::Address("172.31.0.1".parse().unwrap()), None),
        route("198.51.100.0/24", RouteGateway::Net, None),
    ];
    let before = client.ns.settled_snapshot();
    let interface = client.interface();
    client.ns.block_on(async || {
        let mut network = DirectNetwork::open(client.runtime.path()).await.unwrap();
        let gateways = network.lookup(&query("192.0.2.1")).await.unwrap();
        let plan = plan(&options, "192.0.2.1", &gateways);
        let applied = network.apply(&interface, &plan).await.unwrap();
        let warnings = applied.warnings.join("\n");
        assert_eq!(applied.warnings.len(), 3, "{warnings}");
        for expected in ["192.0.2.0/24", "198.18.0.0/15 via 172.31.0.1", "198.51.100.0/24"] {
            assert!(warnings.contains(expected), "{expected} in {warnings}");
        }
        network.undo().await.unwrap();
    });
    before.assert_same(&client.ns.snapshot());
}

#[test]
fn a_failure_half_way_leaves_nothing() {
    let client = Client::new();
    client.ns.add_bridge("br0");
    client.ns.add_address("br0", "192.0.2.10/24");
    client.ns.add_route("default", Some("192.0.2.1"), None);
    // Another VPN has the upper half of the Internet.
    client.ns.add_route("128.0.0.0/1", Some("192.0.2.9"), None);
    let options = NetworkOptions { redirect: Some(redirect()), ..dual_stack() };
    let before = client.ns.settled_snapshot();
    let interface = client.interface();
    client.ns.block_on(async || {
        let mut network = DirectNetwork::open(client.runtime.path()).await.unwrap();
        let gateways = network.lookup(&query("203.0.113.5")).await.unwrap();
        let plan = plan(&options, "203.0.113.5", &gateways);
        let error = network.apply(&interface, &plan).await.unwrap_err();
        assert!(matches!(error, NetworkError::RouteTaken { .. }), "{error}");
        assert!(error.to_string().contains("128.0.0.0/1"), "{error}");
    });
    before.assert_same(&client.ns.snapshot());
    assert!(journals(client.runtime.path()).is_empty());

    // A device that is not there.
    client.ns.block_on(async || {
        let mut network = DirectNetwork::open(client.runtime.path()).await.unwrap();
        let gateways = network.lookup(&query("203.0.113.5")).await.unwrap();
        let plan = plan(&dual_stack(), "203.0.113.5", &gateways);
        let gone = Interface { name: "tun9".to_owned(), index: 9999 };
        let error = network.apply(&gone, &plan).await.unwrap_err().to_string();
        assert!(error.contains("tun9"), "{error}");
    });
    before.assert_same(&client.ns.snapshot());
}

#[test]
fn without_the_privilege_the_error_says_so() {
    let client = Client::new();
    let interface = client.interface();
    client.ns.run(|| {
        caps::drop(None, caps::CapSet::Effective, caps::Capability::CAP_NET_ADMIN).unwrap();
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(
            async {
                let mut network = DirectNetwork::open(client.runtime.path()).await.unwrap();
                let gateways = network.lookup(&query("203.0.113.5")).await.unwrap();
                let plan = plan(&dual_stack(), "203.0.113.5", &gateways);
                let error = network.apply(&interface, &plan).await.unwrap_err().to_string();
                assert!(error.contains("CAP_NET_ADMIN"), "{error}");
            },
        );
    });
}

#[test]
fn it_works_with_nothing_but_the_kept_privileges() {
    let client = Client::new();
    client.ns.add_bridge("br0");
    client.ns.add_address("br0", "192.0.2.10/24");
    client.ns.add_route("default", Some("192.0.2.1"), None);
    let before = client.ns.settled_snapshot();
    let interface = client.interface();
    let options = NetworkOptions { redirect: Some(redirect()), ..dual_stack() };
    client.ns.run(|| {
        ovpn_client::privileges::restrict(ovpn_client::privileges::Calls::Programs).unwrap();
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(
            async {
                let mut network = DirectNetwork::open(client.runtime.path()).await.unwrap();
                let gateways = network.lookup(&query("203.0.113.5")).await.unwrap();
                let plan = plan(&options, "203.0.113.5", &gateways);
                let applied = network.apply(&interface, &plan).await.unwrap();
                assert_eq!(applied.steps.len(), plan.items().len());
                network.protect(&query("203.0.113.6")).await.unwrap();
                network.undo().await.unwrap();
            },
        );
    });
    before.assert_same(&client.ns.snapshot());
}

/// Counts what the kernel announces about links, addresses and routes while `body` runs.
async fn notifications(body: impl Future<Output = ()>) -> usize {
    use rtnetlink::MulticastGroup as Group;
    let groups =
        [Group::Link, Group::Ipv4Ifaddr, Group::Ipv4Route, Group::Ipv6Ifaddr, Group::Ipv6Route];
    let (connection, _handle, mut messages) = rtnetlink::new_multicast_connection(&groups).unwrap();
    let driver = tokio::spawn(connection);
    body.await;
    let mut count = 0;
    while tokio::time::timeout(Duration::from_millis(200), messages.next()).await.is_ok() {
        count += 1;
    }
    driver.abort();
    count
}

#[test]
fn the_same_push_after_a_reconnect_changes_nothing() {
    let router = NetNs::new("nwd");
    let client = Client::new();
    connect(&client.ns, "eth0", &router, "eth0");
    client.ns.add_address("eth0", "192.0.2.10/24");
    client.ns.add_route("default", Some("192.0.2.1"), None);
    settle(&client.ns);
    let mut options = NetworkOptions { redirect: Some(redirect()), ..dual_stack() };
    options.routes = vec![
        route("10.20.0.0/16", RouteGateway::Vpn, None),
        route("198.51.100.0/24", RouteGateway::Net, None),
    ];
    let before = client.ns.settled_snapshot();
    let interface = client.interface();
    let query = query("203.0.113.5");
    client.ns.block_on(async || {
        let mut network = DirectNetwork::open(client.runtime.path()).await.unwrap();
        let first = network.lookup(&query).await.unwrap();
        let before = plan(&options, "203.0.113.5", &first);
        let changes = notifications(async {
            network.apply(&interface, &before).await.unwrap();
        });
        assert!(changes.await > 5, "the counter counts");

        let count = notifications(async {
            network.protect(&query).await.unwrap();
            let second = network.lookup(&query).await.unwrap();
            assert_eq!(second, first);
            let again = plan(&options, "203.0.113.5", &second);
            assert_eq!(again, before);
            let applied = network.apply(&interface, &again).await.unwrap();
            assert_eq!(applied.steps, []);
        });
        assert_eq!(count.await, 0);

        // One route more is one change.
        options.routes.push(route("10.21.0.0/16", RouteGateway::Vpn, None));
        let more = plan(&options, "203.0.113.5", &first);
        assert_eq!(network.apply(&interface, &more).await.unwrap().steps.len(), 1);
        network.undo().await.unwrap();
    });
    before.assert_same(&client.ns.snapshot());
}

#[test]
fn another_server_is_reached_around_the_standing_tunnel() {
    let router = NetNs::new("nwd");
    let client = Client::new();
    connect(&client.ns, "eth0", &router, "eth0");
    router.sh("ip address add 192.0.2.1/24 dev eth0; ip address add 203.0.113.1/32 dev lo; \
               ip address add 203.0.113.2/32 dev lo; ip address add 203.0.113.3/32 dev lo");
    client.ns.add_address("eth0", "192.0.2.10/24");
    client.ns.add_route("default", Some("192.0.2.1"), None);
    settle(&client.ns);
    let options = NetworkOptions { redirect: Some(redirect()), ..dual_stack() };
    let before = client.ns.settled_snapshot();
    let interface = client.interface();
    client.ns.block_on(async || {
        let mut network = DirectNetwork::open(client.runtime.path()).await.unwrap();
        let gateways = network.lookup(&query("203.0.113.1")).await.unwrap();
        let first = plan(&options, "203.0.113.1", &gateways);
        network.apply(&interface, &first).await.unwrap();
        assert!(!reaches(&client.ns, &router, "203.0.113.2"));
        network.protect(&query("203.0.113.2")).await.unwrap();
        assert!(reaches(&client.ns, &router, "203.0.113.2"));
        // No answer there; the next one.
        network.protect(&query("203.0.113.3")).await.unwrap();
        assert!(reaches(&client.ns, &router, "203.0.113.3"));
        assert!(client.ns.sh("ip route show 203.0.113.2").is_empty());
        let gateways = network.lookup(&query("203.0.113.3")).await.unwrap();
        let second = plan(&options, "203.0.113.3", &gateways);
        let steps = network.apply(&interface, &second).await.unwrap().steps;
        assert_eq!(steps.len(), 1, "only the first server's route goes: {steps:?}");
        assert!(client.ns.sh("ip route show 203.0.113.1").is_empty());
        network.undo().await.unwrap();
    });
    before.assert_same(&client.ns.snapshot());
}

#[test]
fn a_new_gateway_is_used_after_the_network_changed() {
    let router = NetNs::new("nwd");
    let client = Client::new();
    connect(&client.ns, "eth0", &router, "eth0");
    connect(&client.ns, "wlan0", &router, "wlan0");
    router.sh("ip address add 192.0.2.1/24 dev eth0; ip address add 198.51.100.1/24 dev wlan0; \
               ip address add 203.0.113.1/32 dev lo");
    client.ns.add_address("eth0", "192.0.2.10/24");
    client.ns.add_route("default", Some("192.0.2.1"), None);
    settle(&client.ns);
    let options = NetworkOptions { redirect: Some(redirect()), ..dual_stack() };
    let interface = client.interface();
    let query = query("203.0.113.1");
    client.ns.block_on(async || {
        let mut network = DirectNetwork::open(client.runtime.path()).await.unwrap();
        let gateways = network.lookup(&query).await.unwrap();
        network.apply(&interface, &plan(&options, "203.0.113.1", &gateways)).await.unwrap();

        // The cable is pulled (the kernel takes the host route with it), the radio comes up.
        client.ns.link_down("eth0");
        client.ns.add_address("wlan0", "198.51.100.10/24");
        client.ns.add_route("default", Some("198.51.100.1"), None);
        network.protect(&query).await.unwrap();
        assert!(reaches(&client.ns, &router, "203.0.113.1"));
        let gateways = network.lookup(&query).await.unwrap();
        let steps =
            network.apply(&interface, &plan(&options, "203.0.113.1", &gateways)).await.unwrap();
        assert_eq!(steps.steps, []);

        // A better way appears while the old one still works.
        client.ns.link_up("eth0");
        client.ns.sh("ip route del default; ip route add default via 192.0.2.1");
        network.protect(&query).await.unwrap();
        assert!(way(&client.ns, "203.0.113.1").contains("via 192.0.2.1 dev eth0"));
        network.undo().await.unwrap();
        assert!(client.ns.sh("ip route show proto 79; ip -6 route show proto 79").is_empty());
    });
}

/// The way to the server goes with its device, and the tunnel would have the next best: a stream goes
/// nowhere then, and around the tunnel again as soon as something else leads there.
#[test]
fn a_stream_without_a_way_leads_nowhere() {
    let router = NetNs::new("nwd");
    let client = Client::new();
    connect(&client.ns, "eth0", &router, "eth0");
    connect(&client.ns, "wlan0", &router, "wlan0");
    router.sh("ip address add 192.0.2.1/24 dev eth0; ip address add 198.51.100.1/24 dev wlan0; \
               ip address add 2001:db8::1/64 dev eth0 nodad; \
               ip address add 2001:db8:1::1/64 dev wlan0 nodad; \
               ip address add 203.0.113.1/32 dev lo; ip address add 2001:db8:f::1/128 dev lo; \
               ip address add 203.0.113.2/32 dev lo");
    client.ns.sh("ip address add 192.0.2.10/24 dev eth0; \
                  ip address add 2001:db8::10/64 dev eth0 nodad; \
                  ip address add 198.51.100.10/24 dev wlan0; \
                  ip address add 2001:db8:1::10/64 dev wlan0 nodad; ip link set wlan0 down; \
                  ip route add default via 192.0.2.1; ip route add default via 2001:db8::1");
    settle(&client.ns);
    let options = NetworkOptions { redirect: Some(redirect()), ..dual_stack() };
    let interface = client.interface();
    let barriers =
        || client.ns.sh("ip route show type unreachable; ip -6 route show type unreachable");
    for server in ["203.0.113.1", "2001:db8:f::1"] {
        let query = query(server);
        client.ns.block_on(async || {
            let mut network = DirectNetwork::open(client.runtime.path()).await.unwrap();
            let plan_now = async |network: &DirectNetwork| {
                let gateways = network.lookup(&query).await.unwrap();
                plan_over(Protocol::Tcp, &options, server, &gateways)
            };
            let plan = plan_now(&network).await;
            network.apply(&interface, &plan).await.unwrap();
            assert!(reaches(&client.ns, &router, server));

            client.ns.link_down("eth0");
            let without = way(&client.ns, server);
            assert!(without.contains("No route to host"), "{without}");
            let inside = if server.contains(':') { "2606:4700::1" } else { "8.8.8.8" };
            assert!(way(&client.ns, inside).contains("dev tun7"));
            let gateways = network.lookup(&query).await.unwrap();
            assert_eq!(gateways.remote, RemotePath::Unreachable, "nor by way of the barrier");
            network.keep(Way::Gone, Instant::now()).await.unwrap();
            network.protect(&query).await.unwrap();
            let without = way(&client.ns, server);
            assert!(without.contains("No route to host"), "{without}");
            // Somebody tidies up.
            client.ns.sh("ip route flush type unreachable; ip -6 route flush type unreachable");
            network.keep(Way::Gone, Instant::now()).await.unwrap();
            assert!(barriers().contains(server), "{}", barriers());

            // IPv6 addresses go with their link.
            client.ns.sh("ip link set wlan0 up; \
                          ip -6 address replace 2001:db8:1::10/64 dev wlan0 nodad; \
                          ip route add default via 198.51.100.1; \
                          ip route add default via 2001:db8:1::1");
            let plan = plan_now(&network).await;
            network.keep(Way::New(&plan), Instant::now()).await.unwrap();
            let around = way(&client.ns, server);
            assert!(around.contains("dev wlan0"), "{around}");
            assert!(reaches(&client.ns, &router, server));

            // Another server: its barrier, and no other.
            if server == "203.0.113.1" {
                let next = "203.0.113.2";
                let gateways =
                    network.lookup(&RouteQuery { remote: next.parse().unwrap(), ..query }).await;
                let plan = plan_over(Protocol::Tcp, &options, next, &gateways.unwrap());
                network.apply(&interface, &plan).await.unwrap();
                assert!(reaches(&client.ns, &router, next));
                assert!(
                    barriers().contains(next) && !barriers().contains(server),
                    "{}",
                    barriers()
                );
            }
            network.undo().await.unwrap();
        });
        assert!(client.ns.sh("ip route show proto 79; ip -6 route show proto 79").is_empty());
        assert!(journals(client.runtime.path()).is_empty());
        client.ns.sh("ip link set wlan0 down; ip link set eth0 up; \
                      ip -6 address replace 2001:db8::10/64 dev eth0 nodad; \
                      ip route replace default via 192.0.2.1; \
                      ip -6 route replace default via 2001:db8::1");
    }
}

#[test]
fn a_mark_and_a_bound_device_choose_the_way() {
    let client = Client::new();
    client.ns.add_bridge("br0");
    client.ns.add_bridge("br1");
    client.ns.add_address("br0", "192.0.2.10/24");
    client.ns.add_address("br1", "198.51.100.10/24");
    client.ns.sh("ip route add default via 192.0.2.1; \
                  ip route add default via 198.51.100.1 metric 50; \
                  ip route add default via 198.51.100.9 table 77; ip rule add fwmark 7 table 77");
    let options = NetworkOptions { redirect: Some(redirect()), ..dual_stack() };
    let interface = client.interface();
    client.ns.block_on(async || {
        let mut network = DirectNetwork::open(client.runtime.path()).await.unwrap();
        let plain = query("203.0.113.1");
        let marked = RouteQuery { mark: Some(7), ..plain.clone() };
        let bound = RouteQuery { bind_dev: Some("br1".to_owned()), ..plain.clone() };
        let via = |gateways: &Gateways| match &gateways.remote {
            RemotePath::Via(path) => path.gateway.unwrap().to_string(),
            other => panic!("{other:?}"),
        };
        // Without the tunnel the kernel answers, with it the copy of its tables: the same.
        for _ in 0..2 {
            for (query, expected) in
                [(&plain, "192.0.2.1"), (&marked, "198.51.100.9"), (&bound, "198.51.100.1")]
            {
                let gateways = network.lookup(query).await.unwrap();
                assert_eq!(via(&gateways), expected);
            }
            let gateways = network.lookup(&plain).await.unwrap();
            network.apply(&interface, &plan(&options, "203.0.113.1", &gateways)).await.unwrap();
        }
        network.undo().await.unwrap();
    });
}

#[test]
fn the_device_of_a_new_connection_replaces_the_old_one() {
    let client = Client::new();
    client.ns.add_bridge("br0");
    client.ns.add_address("br0", "192.0.2.10/24");
    client.ns.add_route("default", Some("192.0.2.1"), None);
    let options = NetworkOptions { redirect: Some(redirect()), ..dual_stack() };
    let first = client.interface();
    let Client { ns, tun, runtime } = client;
    let mut tun = Some(tun);
    ns.block_on(async || {
        let mut network = DirectNetwork::open(runtime.path()).await.unwrap();
        let gateways = network.lookup(&query("203.0.113.1")).await.unwrap();
        let plan = plan(&options, "203.0.113.1", &gateways);
        network.apply(&first, &plan).await.unwrap();
        drop(tun.take());
        let _new = ns.add_tun("tun8");
        let second = Interface { name: "tun8".to_owned(), index: ns.link_index("tun8").unwrap() };
        network.apply(&second, &plan).await.unwrap();
        assert!(way(&ns, "8.8.8.8").contains("dev tun8"));
        assert!(way(&ns, "203.0.113.1").contains("dev br0"));
        network.undo().await.unwrap();
        assert!(ns.sh("ip route show proto 79; ip -6 route show proto 79").is_empty());
    });
}

#[test]
fn what_a_killed_process_left_is_undone_at_the_next_start() {
    let client = Client::new();
    client.ns.add_bridge("br0");
    client.ns.add_address("br0", "192.0.2.10/24");
    client.ns.add_route("default", Some("192.0.2.1"), None);
    let before = client.ns.settled_snapshot();

    let mut child = client
        .ns
        .command(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "process_to_be_killed", "--nocapture"])
        .env("RUNTIME_DIR", client.runtime.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let ready = client.runtime.path().join("ready");
    for _ in 0..1000 {
        if ready.exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(ready.exists(), "the child has not applied its plan");
    std::fs::remove_file(ready).unwrap();
    assert!(way(&client.ns, "8.8.8.8").contains("dev tun7"));
    assert!(client.ns.link_index("nwdlink").is_some());

    // As long as it lives nobody touches its changes.
    let open = || {
        client.ns.block_on(async || {
            drop(DirectNetwork::open(client.runtime.path()).await.unwrap());
        });
    };
    open();
    assert!(way(&client.ns, "8.8.8.8").contains("dev tun7"));

    child.kill().unwrap();
    child.wait().unwrap();
    assert!(way(&client.ns, "8.8.8.8").contains("dev tun7"));
    // Not in another namespace either.
    let elsewhere = NetNs::new("nwd");
    elsewhere.block_on(async || {
        drop(DirectNetwork::open(client.runtime.path()).await.unwrap());
    });
    assert!(way(&client.ns, "8.8.8.8").contains("dev tun7"));

    open();
    before.assert_same(&client.ns.snapshot());
    assert!(journals(client.runtime.path()).is_empty());
}

#[test]
#[ignore = "runs as a child of what_a_killed_process_left_is_undone_at_the_next_start"]
fn process_to_be_killed() {
    let runtime = std::env::var("RUNTIME_DIR").unwrap();
    let body = async {
        let mut network = DirectNetwork::open(Path::new(&runtime)).await.unwrap();
        // A link that outlives its process, as the kernel data channel makes them.
        let made = std::process::Command::new("ip")
            .args(["link", "add", "name", "nwdlink", "type", "bridge"])
            .status();
        assert!(made.unwrap().success());
        let link = Interface { name: "nwdlink".to_owned(), index: index_of("nwdlink") };
        network.adopt_link(&link).await.unwrap();
        let gateways = network.lookup(&query("203.0.113.1")).await.unwrap();
        let options = NetworkOptions { redirect: Some(redirect()), ..dual_stack() };
        let interface = Interface { name: TUNNEL.to_owned(), index: index_of(TUNNEL) };
        network.apply(&interface, &plan(&options, "203.0.113.1", &gateways)).await.unwrap();
        std::fs::write(Path::new(&runtime).join("ready"), "").unwrap();
        std::future::pending::<()>().await;
    };
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(body);
}

fn index_of(name: &str) -> u32 {
    let path = format!("/sys/class/net/{name}/ifindex");
    // sysfs shows the namespace of its mount; netlink that of the caller.
    let output = std::process::Command::new("ip").args(["-o", "link", "show", name]).output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    text.split(':').next().unwrap().parse().unwrap_or_else(|e| panic!("{path}: {text}: {e}"))
}

#[test]
fn a_named_namespace_can_be_entered() {
    let ns = NetNs::new("nwd");
    ns.add_bridge("br0");
    let host = NetNs::new("nwd");
    host.run(|| {
        ovpn_client::network::enter_netns(ns.name()).unwrap();
        assert!(index_of("br0") > 0);
        let missing = ovpn_client::network::enter_netns("nwd-not-there").unwrap_err().to_string();
        assert!(
            missing.contains("nwd-not-there") && missing.contains("ip netns list"),
            "{missing}"
        );
        for bad in ["", "../etc", "."] {
            ovpn_client::network::enter_netns(bad).unwrap_err();
        }
        let address: IpAddr = "127.0.0.1".parse().unwrap();
        assert!(address.is_loopback());
    });
}

/// The kernel makes the second address of a network secondary, deletes it with the first
/// (`promote_secondaries` 0), and drops every route of a device without addresses.
#[test]
fn another_address_of_the_same_network_keeps_the_routes() {
    let client = Client::new();
    client.ns.add_bridge("br0");
    client.ns.add_address("br0", "192.0.2.10/24");
    client.ns.add_route("default", Some("192.0.2.1"), None);
    let interface = client.interface();
    let mut options = NetworkOptions { redirect: Some(redirect()), ..dual_stack() };
    let before = client.ns.settled_snapshot();
    client.ns.block_on(async || {
        let mut network = DirectNetwork::open(client.runtime.path()).await.unwrap();
        for last in [2, 3, 4] {
            options.ifconfig = Some(([10, 8, 0, last].into(), [255, 255, 255, 0].into()));
            let gateways = network.lookup(&query("203.0.113.5")).await.unwrap();
            let plan = plan(&options, "203.0.113.5", &gateways);
            network.apply(&interface, &plan).await.unwrap();
            let addresses = client.ns.sh("ip -4 -o address show dev tun7");
            assert_eq!(addresses.lines().count(), 1, "{addresses}");
            assert!(addresses.contains(&format!("10.8.0.{last}/24")), "{addresses}");
            assert!(way(&client.ns, "8.8.8.8").contains("dev tun7"));
            assert!(way(&client.ns, "203.0.113.5").contains("dev br0"));
            // Nothing of what stood in meanwhile.
            assert!(!client.ns.sh("ip route").contains("unreachable"));
        }
        network.undo().await.unwrap();
    });
    before.assert_same(&client.ns.snapshot());
}

/// The kernel says "unreachable" of a server whose family is blocked, because of our own route.
#[test]
fn another_server_is_reached_although_its_family_is_blocked() {
    let client = Client::new();
    client.ns.add_bridge("br0");
    client.ns.add_address("br0", "2001:db8::10/64");
    client.ns.add_route("default6", Some("2001:db8::1"), None);
    let interface = client.interface();
    let options = NetworkOptions { block_ipv6: true, ..dual_stack() };
    client.ns.block_on(async || {
        let mut network = DirectNetwork::open(client.runtime.path()).await.unwrap();
        let gateways = network.lookup(&query("2001:db8:f::1")).await.unwrap();
        network.apply(&interface, &plan(&options, "2001:db8:f::1", &gateways)).await.unwrap();
        assert!(way(&client.ns, "2001:db8:f::2").contains("No route to host"));
        network.protect(&query("2001:db8:f::2")).await.unwrap();
        assert!(way(&client.ns, "2001:db8:f::2").contains("via 2001:db8::1 dev br0"));
        // Somebody removes the server's route: it comes back.
        client.ns.sh("ip -6 route del 2001:db8:f::2");
        network.protect(&query("2001:db8:f::2")).await.unwrap();
        assert!(way(&client.ns, "2001:db8:f::2").contains("via 2001:db8::1 dev br0"));
        network.undo().await.unwrap();
        assert!(client.ns.sh("ip -6 route show proto 79").is_empty());
    });
}

/// As many as a push can bring: set, changed and undone without a step for each pair of them.
#[test]
fn twenty_thousand_routes() {
    let client = Client::new();
    client.ns.add_bridge("br0");
    client.ns.add_address("br0", "192.0.2.10/24");
    client.ns.add_route("default", Some("192.0.2.1"), None);
    let interface = client.interface();
    let mut options = dual_stack();
    options.routes = (0..20_000_u32)
        .map(|n| Route {
            destination: RouteDestination::Net(IpAddr::V4((0x1400_0000 + (n << 8)).into())),
            prefix: 24,
            gateway: RouteGateway::Vpn,
            metric: None,
        })
        .collect();
    let before = client.ns.settled_snapshot();
    client.ns.block_on(async || {
        let mut network = DirectNetwork::open(client.runtime.path()).await.unwrap();
        for last in [2, 3] {
            options.ifconfig = Some(([10, 8, 0, last].into(), [255, 255, 255, 0].into()));
            let gateways = network.lookup(&query("203.0.113.5")).await.unwrap();
            let plan = plan(&options, "203.0.113.5", &gateways);
            network.apply(&interface, &plan).await.unwrap();
            let routes = client.ns.sh("ip route show proto 79 | wc -l");
            assert_eq!(routes.trim(), "20000");
        }
        network.undo().await.unwrap();
    });
    before.assert_same(&client.ns.snapshot());
}
