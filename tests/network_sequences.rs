//! Random sequences of plans on a real kernel: what is configured at their end is what a fresh start
//! with the last plan gives, and what belongs into the tunnel never leaves outside in between.
//!
//! `OVPN_SEQUENCES` is the number of sequences for each way of the kernel to treat secondary
//! addresses; `OVPN_TEST_LINK_KIND` another kind of link than TUN (`ovpn`).

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests end by panicking")]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use ovpn_client::network::dns::{DnsScope, HostResolver};
use ovpn_client::network::{DirectNetwork, NetworkPlan, PlanInput, RouteQuery};
use ovpn_client::profile::{
    DnsOptions, NetworkOptions, Protocol, RedirectGateway, Route, RouteDestination, RouteGateway,
    Topology,
};
use ovpn_dco::Interface;
use ovpn_test_support::netns::{NetNs, Snapshot, Tun};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestRunner};
use tempfile::TempDir;

const TUNNEL: &str = "tun7";
const UPLINK: &str = "up0";

/// Destinations that are sent to all the time.
const PROBES: [&str; 9] = [
    "8.8.8.8",
    "192.0.2.77",
    "10.8.0.77",
    "10.9.0.77",
    "10.20.0.7",
    "2606:4700::1",
    "fd00:8::77",
    "fd20::1",
    "2001:db8:5::1",
];

/// One connection: what it is given, and what happened to its configuration before the next one.
#[derive(Clone, Debug)]
struct Connection {
    options: NetworkOptions,
    protocol: Protocol,
    mtu: u16,
    tx_queue_len: Option<u32>,
    server: &'static str,
    /// A shell line of somebody else, once it is configured.
    deed: &'static str,
}

/// Networks that are equal, overlap and differ, in every form in which an address is pushed.
fn address_v4() -> impl Strategy<Value = Option<(Topology, &'static str, &'static str)>> {
    use Topology::{Net30, P2p, Subnet};
    select(vec![
        None,
        Some((Subnet, "10.8.0.2", "255.255.255.0")),
        Some((Subnet, "10.8.0.2", "255.255.255.0")),
        Some((Subnet, "10.8.0.3", "255.255.255.0")),
        Some((Subnet, "10.8.0.3", "255.255.255.0")),
        Some((Subnet, "10.8.0.2", "255.255.0.0")),
        Some((Subnet, "10.8.1.9", "255.255.0.0")),
        Some((Subnet, "10.9.0.2", "255.255.255.0")),
        Some((Subnet, "10.8.0.5", "255.255.255.255")),
        Some((Subnet, "10.8.0.5", "0.0.0.0")),
        Some((Net30, "10.8.0.6", "10.8.0.5")),
        Some((Net30, "10.8.0.10", "10.8.0.9")),
        Some((P2p, "10.8.0.10", "10.8.0.5")),
        Some((P2p, "10.9.0.2", "10.8.0.1")),
    ])
}

fn address_v6() -> impl Strategy<Value = Option<(&'static str, u8)>> {
    select(vec![
        None,
        Some(("fd00:8::2", 64)),
        Some(("fd00:8::3", 64)),
        Some(("fd00:8::2", 112)),
        Some(("fd00:9::2", 64)),
        Some(("fd00:8::2", 128)),
        Some(("fe80::8:2", 64)),
    ])
}

fn route() -> impl Strategy<Value = Route> {
    let destinations = vec![
        ("10.20.0.0", 16),
        ("10.20.0.0", 24),
        ("10.8.0.0", 24),
        ("10.8.0.0", 16),
        ("10.8.0.5", 32),
        ("10.9.0.0", 24),
        ("0.0.0.0", 0),
        ("0.0.0.0", 1),
        ("198.51.100.0", 24),
        ("192.0.2.0", 24),
        ("203.0.113.5", 32),
        ("fd20::", 16),
        ("fd00:8::", 64),
        ("fd00:8::", 112),
        ("2001:db8:5::", 48),
        ("2000::", 4),
        ("::", 0),
    ];
    let via = |address: &str| RouteGateway::Address(address.parse().unwrap());
    let gateways = vec![
        RouteGateway::Vpn,
        RouteGateway::Vpn,
        RouteGateway::Vpn,
        RouteGateway::Net,
        RouteGateway::RemoteHost,
        via("10.8.0.1"),
        via("10.20.0.7"),
        via("192.0.2.99"),
        via("fd00:8::1"),
        via("2001:db8::99"),
    ];
    let metrics = vec![None, None, None, Some(0), Some(5), Some(256), Some(1024)];
    (select(destinations), select(gateways), select(metrics)).prop_map(
        |((destination, prefix), gateway, metric)| Route {
            destination: RouteDestination::Net(destination.parse().unwrap()),
            prefix,
            gateway,
            metric,
        },
    )
}

fn redirect() -> impl Strategy<Value = Option<RedirectGateway>> {
    let flags = any::<(bool, bool, bool, bool, bool)>();
    proptest::option::weighted(
        0.6,
        flags.prop_map(|(ipv4, ipv6, private, autolocal, block_local)| RedirectGateway {
            ipv4,
            ipv6,
            private: private && autolocal,
            autolocal,
            block_local: block_local && ipv4,
            def1: true,
            ..RedirectGateway::default()
        }),
    )
}

fn dns() -> impl Strategy<Value = DnsOptions> {
    select(vec![None, Some("10.8.0.1"), Some("10.9.0.1")]).prop_map(|server| DnsOptions {
        dhcp_servers: server.map(|server| server.parse().unwrap()).into_iter().collect(),
        dhcp_domains: server.map(|_| "corp.example".parse().unwrap()).into_iter().collect(),
        ..DnsOptions::default()
    })
}

fn options() -> impl Strategy<Value = NetworkOptions> {
    let blocked = proptest::bool::weighted(0.1);
    let routes = proptest::collection::vec(route(), 0..6);
    let metric = proptest::option::weighted(0.2, select(vec![0_u32, 5, 1024]));
    (address_v4(), address_v6(), routes, redirect(), dns(), (blocked, blocked), metric)
        .prop_filter("an address", |(v4, v6, ..)| v4.is_some() || v6.is_some())
        .prop_map(|(v4, v6, routes, redirect, dns, (block_ipv4, block_ipv6), route_metric)| {
            NetworkOptions {
                topology: v4.map(|(topology, ..)| topology),
                ifconfig: v4.map(|(_, a, b)| (a.parse().unwrap(), b.parse().unwrap())),
                ifconfig_ipv6: v6.map(|(a, prefix)| (a.parse().unwrap(), prefix, None)),
                routes,
                redirect,
                dns,
                block_ipv4,
                block_ipv6,
                route_metric,
                ..NetworkOptions::default()
            }
        })
}

fn connection() -> impl Strategy<Value = Connection> {
    let mtu = select(vec![1500_u16, 1500, 1400, 1280, 1200]);
    let tx_queue_len = select(vec![None, Some(500_u32), Some(1000)]);
    let server =
        select(vec!["203.0.113.5", "203.0.113.5", "203.0.113.6", "192.0.2.7", "2001:db8:f::1"]);
    let deed = select(vec![
        "",
        "",
        "",
        "ip link set tun7 down; ip link set tun7 up",
        "ip address flush dev tun7",
        "ip route flush proto 79; ip -6 route flush proto 79",
        "ip route flush dev tun7; ip -6 route flush dev tun7",
        "ip route flush dev tun7 proto kernel; ip -6 route flush dev tun7 proto kernel",
        "ip link set tun7 mtu 1300 txqueuelen 77",
        "ip link set tun7 down",
    ]);
    let protocol = select(vec![Protocol::Udp, Protocol::Tcp]);
    (options(), protocol, mtu, tx_queue_len, server, deed).prop_map(
        |(options, protocol, mtu, tx_queue_len, server, deed)| Connection {
            options,
            protocol,
            mtu,
            tx_queue_len,
            server,
            deed,
        },
    )
}

/// A host with one way out, whose packets are caught, and a tunnel.
struct Host {
    ns: NetNs,
    uplink: Tun,
    _tun: Option<Tun>,
    directory: TempDir,
    resolver: HostResolver,
    interface: Interface,
}

impl Host {
    fn new(promote_secondaries: &str) -> Self {
        let ns = NetNs::new("nws");
        for which in ["all", "default"] {
            ns.sysctl(&format!("net/ipv4/conf/{which}/promote_secondaries"), promote_secondaries);
        }
        let uplink = ns.add_tun(UPLINK);
        fcntl(uplink.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        ns.add_address(UPLINK, "192.0.2.10/24");
        ns.add_address(UPLINK, "2001:db8::10/64");
        ns.add_route("default", Some("192.0.2.1"), None);
        ns.add_route("default6", Some("2001:db8::1"), None);
        let tun = match std::env::var("OVPN_TEST_LINK_KIND") {
            Ok(kind) => {
                ns.sh(&format!("ip link add {TUNNEL} type {kind}"));
                None
            }
            Err(_) => Some(ns.add_tun(TUNNEL)),
        };
        ns.link_down(TUNNEL);
        ns.sysctl(&format!("net/ipv4/conf/{TUNNEL}/promote_secondaries"), promote_secondaries);
        ns.settled_snapshot();
        let directory = TempDir::new().unwrap();
        let own = directory.path().join(ns.name());
        std::fs::create_dir(&own).unwrap();
        std::fs::write(own.join("resolv.conf"), "nameserver 192.0.2.53\n").unwrap();
        let resolver = HostResolver {
            bus: Some(format!("unix:path={}/no-bus", directory.path().display())),
            program_directories: Vec::new(),
            resolv_conf: directory.path().join("resolv.conf"),
            namespaces: directory.path().to_owned(),
        };
        let interface =
            Interface { name: TUNNEL.to_owned(), index: ns.link_index(TUNNEL).unwrap() };
        Self { ns, uplink, _tun: tun, directory, resolver, interface }
    }

    /// The kernel's part, and the servers in `resolv.conf`.
    fn configuration(&self) -> (Snapshot, Vec<String>) {
        let path = self.directory.path().join(self.ns.name()).join("resolv.conf");
        let text = std::fs::read_to_string(path).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned);
        (self.ns.snapshot(), lines.collect())
    }

    /// Fails unless the configuration becomes this: the kernel finishes some of it later.
    fn expect(&self, expected: &(Snapshot, Vec<String>), what: &str) -> Result<(), TestCaseError> {
        let deadline = Instant::now() + Duration::from_secs(3);
        loop {
            let present = self.configuration();
            if present == *expected {
                return Ok(());
            }
            if Instant::now() > deadline {
                let mut difference = expected.0.difference(&present.0);
                difference.push(format!("DNS {:?}, expected {:?}", present.1, expected.1));
                return Err(TestCaseError::fail(format!("{what}:\n{}", difference.join("\n"))));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    async fn open(&self) -> DirectNetwork {
        let directory = self.directory.path().join("run");
        DirectNetwork::open_with(&directory, self.resolver.clone()).await.unwrap()
    }

    /// What a session does for a connection. An error: it could not be configured.
    async fn connect(&self, network: &mut DirectNetwork, to: &Connection) -> Result<(), String> {
        let query = RouteQuery { remote: to.server.parse().unwrap(), mark: None, bind_dev: None };
        network.protect(&query).await.unwrap();
        let gateways = network.lookup(&query).await.unwrap();
        let plan = NetworkPlan::build(&PlanInput {
            options: &to.options,
            tun_mtu: to.mtu,
            tx_queue_len: to.tx_queue_len,
            remote: query.remote,
            protocol: to.protocol,
            gateways: &gateways,
            dns_scope: DnsScope::Global,
        });
        let plan = plan.map_err(|e| e.to_string())?;
        network.apply(&self.interface, &plan).await.map(drop).map_err(|e| e.to_string())
    }

    /// Which probes have no way outside at present.
    fn kept_inside(&self) -> BTreeSet<IpAddr> {
        let tunnel = self.interface.index;
        self.ns.netlink(async |handle| {
            let mut inside = BTreeSet::new();
            for probe in PROBES.map(|probe| probe.parse::<IpAddr>().unwrap()) {
                let prefix = if probe.is_ipv4() { 32 } else { 128 };
                let message = rtnetlink::RouteMessageBuilder::<IpAddr>::new()
                    .destination_prefix(probe, prefix)
                    .unwrap()
                    .build();
                let mut message = message;
                message.header.table = 0;
                message.header.protocol = 0.into();
                message.header.kind = 0.into();
                let answer: Result<Vec<_>, _> =
                    handle.route().get(message).execute().try_collect().await;
                let outside = answer.is_ok_and(|routes| {
                    use netlink_packet_route::route::RouteAttribute::Oif;
                    !routes.iter().any(|r| r.attributes.contains(&Oif(tunnel)))
                });
                if !outside {
                    inside.insert(probe);
                }
            }
            inside
        })
    }

    fn run(&self, sequence: &[Connection]) -> Result<(), TestCaseError> {
        let untouched = self.configuration();
        let traffic = Traffic::default();
        let last = sequence.last().unwrap();
        let after = std::thread::scope(|scope| {
            scope.spawn(|| self.ns.run(|| traffic.send()));
            scope.spawn(|| traffic.catch(&self.uplink));
            let stop = StopOnDrop(&traffic);
            let after = self.ns.block_on(async || {
                let mut network = self.open().await;
                let mut result = Ok(());
                for (position, connection) in sequence.iter().enumerate() {
                    let before = self.kept_inside();
                    traffic.restart();
                    result = self.connect(&mut network, connection).await;
                    let kept: BTreeSet<_> =
                        before.intersection(&self.kept_inside()).copied().collect();
                    let left: Vec<_> = traffic.caught().intersection(&kept).copied().collect();
                    if !left.is_empty() && result.is_ok() {
                        return Err(TestCaseError::fail(format!(
                            "outside while connection {position} was configured: {left:?}"
                        )));
                    }
                    if position + 1 < sequence.len() && result.is_ok() {
                        // Some deeds find nothing to do.
                        self.ns.succeeds(connection.deed);
                    }
                }
                let after = self.configuration();
                network.undo().await.unwrap();
                Ok((result, after))
            })?;
            drop(stop);
            Ok::<_, TestCaseError>(after)
        })?;
        self.expect(&untouched, "left behind")?;
        let (result, after) = after;

        let fresh = self.ns.block_on(async || {
            let mut network = self.open().await;
            let fresh = self.connect(&mut network, last).await;
            let matched = self.expect(&after, "a fresh start differs (- sequence, + fresh)");
            network.undo().await.unwrap();
            matched.map(|()| fresh)
        })?;
        prop_assert_eq!(result, fresh);
        self.expect(&untouched, "left behind by the fresh start")?;
        prop_assert!(
            std::fs::read_dir(self.directory.path().join("run")).unwrap().next().is_none()
        );
        Ok(())
    }
}

/// Packets to all probes, without end, and what of them comes out at the uplink.
#[derive(Default)]
struct Traffic {
    stop: AtomicBool,
    /// Rounds sent.
    sent: AtomicUsize,
    /// How often the uplink was found empty.
    empty: AtomicUsize,
    caught: Mutex<BTreeMap<IpAddr, usize>>,
}

struct StopOnDrop<'a>(&'a Traffic);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

impl Traffic {
    fn send(&self) {
        let v4 = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let v6 = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
        let probes = PROBES.map(|probe| probe.parse::<IpAddr>().unwrap());
        while !self.stop.load(Ordering::Relaxed) {
            for probe in probes {
                let socket = if probe.is_ipv4() { &v4 } else { &v6 };
                // Unreachable is a good answer.
                let _ = socket.send_to(b"?", (probe, 9));
            }
            self.sent.fetch_add(1, Ordering::Release);
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    fn catch(&self, uplink: &Tun) {
        let mut buffer = [0; 2048];
        while !self.stop.load(Ordering::Relaxed) {
            let Ok(length) = uplink.recv(&mut buffer) else {
                self.empty.fetch_add(1, Ordering::Release);
                std::thread::sleep(Duration::from_micros(50));
                continue;
            };
            let address = |from: usize, to: usize| buffer[..length].get(from..to);
            let destination = match buffer[0] >> 4 {
                4 => address(16, 20).map(|a| IpAddr::from(<[u8; 4]>::try_from(a).unwrap())),
                _ => address(24, 40).map(|a| IpAddr::from(<[u8; 16]>::try_from(a).unwrap())),
            };
            if let Some(destination) = destination {
                *self.caught.lock().unwrap().entry(destination).or_default() += 1;
            }
        }
    }

    /// Waits until everything that was sent before is caught.
    fn settle(&self) {
        for counter in [&self.sent, &self.empty] {
            let start = counter.load(Ordering::Acquire);
            while counter.load(Ordering::Acquire) < start + 2 {
                std::thread::yield_now();
            }
        }
    }

    fn restart(&self) {
        self.settle();
        self.caught.lock().unwrap().clear();
    }

    fn caught(&self) -> BTreeSet<IpAddr> {
        self.settle();
        self.caught.lock().unwrap().keys().copied().collect()
    }
}

fn sequences(promote_secondaries: &str, seed: u64) {
    let cases = std::env::var("OVPN_SEQUENCES").map_or(40, |n| n.parse().unwrap());
    let config = Config {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    };
    let sequence = proptest::collection::vec(connection(), 2..=5);
    let unspoilt = RefCell::new(None);
    let result = TestRunner::new(config).run(&sequence, |sequence| {
        let host = unspoilt.take().unwrap_or_else(|| Host::new(promote_secondaries));
        host.run(&sequence)?;
        unspoilt.replace(Some(host));
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

#[test]
fn the_last_plan_decides() {
    sequences("0", 11);
}

#[test]
fn the_last_plan_decides_where_secondary_addresses_are_promoted() {
    sequences("1", 12);
}
