//! The network changes under a tunnel, on a real kernel: whatever happens in whatever order, what is
//! configured at the end is what a fresh start gives there.
//!
//! `OVPN_SEQUENCES` is the number of sequences.

#![expect(clippy::unwrap_used, reason = "tests end by panicking")]

use std::time::{Duration, Instant};

use ovpn_client::network::dns::{DnsScope, HostResolver};
use ovpn_client::network::{
    DirectNetwork, Kept, NetworkPlan, NetworkWatch, PlanInput, RemotePath, RouteQuery, Way,
};
use ovpn_client::profile::{
    NetworkOptions, Protocol, RedirectGateway, Route, RouteDestination, RouteGateway, Topology,
};
use ovpn_dco::Interface;
use ovpn_test_support::netns::{NetNs, Snapshot, Tun};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestRunner};
use tempfile::TempDir;
use tokio::time::timeout;

const TUNNEL: &str = "tun7";
const SERVER: &str = "203.0.113.5";
/// Longer than the watch waits for more.
const QUIET: Duration = Duration::from_millis(400);

/// A host with two ways out and a tunnel.
struct Host {
    ns: NetNs,
    _tuns: [Tun; 3],
    directory: TempDir,
    interface: Interface,
}

impl Host {
    fn new() -> Self {
        let ns = NetNs::new("nww");
        let tuns = ["up0", "up1", TUNNEL].map(|name| ns.add_tun(name));
        ns.link_down(TUNNEL);
        for line in START {
            ns.sh(line);
        }
        ns.settled_snapshot();
        let interface =
            Interface { name: TUNNEL.to_owned(), index: ns.link_index(TUNNEL).unwrap() };
        Self { ns, _tuns: tuns, directory: TempDir::new().unwrap(), interface }
    }

    async fn open(&self) -> DirectNetwork {
        let directory = self.directory.path().join("run");
        let resolver = HostResolver {
            bus: Some(format!("unix:path={}/no-bus", self.directory.path().display())),
            program_directories: Vec::new(),
            resolv_conf: self.directory.path().join("resolv.conf"),
            namespaces: self.directory.path().to_owned(),
        };
        DirectNetwork::open_with(&directory, resolver).await.unwrap()
    }

    async fn plan(network: &DirectNetwork, options: &NetworkOptions) -> Option<NetworkPlan> {
        let query = RouteQuery { remote: SERVER.parse().unwrap(), mark: None, bind_dev: None };
        let gateways = network.lookup(&query).await.unwrap();
        let plan = NetworkPlan::build(&PlanInput {
            options,
            tun_mtu: 1500,
            tx_queue_len: None,
            remote: query.remote,
            // With one route more than the other.
            protocol: Protocol::Tcp,
            gateways: &gateways,
            dns_scope: DnsScope::Global,
        });
        (gateways.remote != RemotePath::Unreachable).then(|| plan.unwrap())
    }

    /// Does what a session does, until nothing more happens.
    async fn keep(
        &self,
        watch: &mut NetworkWatch,
        network: &mut DirectNetwork,
        options: &NetworkOptions,
    ) -> Vec<Kept> {
        let mut all = Vec::new();
        while timeout(QUIET, watch.changed(Some(self.interface.index))).await.is_ok() {
            let start = Instant::now();
            let plan = Self::plan(network, options).await;
            let way = plan.as_ref().map_or(Way::Gone, Way::AsBefore);
            match network.keep(way, Instant::now()).await {
                Ok(kept) => all.extend(kept),
                Err(_) => watch.look_again(Duration::from_millis(100)),
            }
            watch.looked(start.elapsed());
        }
        all
    }

    fn expect(&self, expected: &Snapshot, what: &str) -> Result<(), TestCaseError> {
        let deadline = Instant::now() + Duration::from_secs(3);
        loop {
            let present = self.ns.snapshot();
            if present == *expected {
                return Ok(());
            }
            if Instant::now() > deadline {
                let difference = expected.difference(&present).join("\n");
                return Err(TestCaseError::fail(format!("{what}:\n{difference}")));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn run(&self, options: &NetworkOptions, events: &[&str]) -> Result<(), TestCaseError> {
        self.ns.block_on(async || {
            let mut network = self.open().await;
            let mut watch = NetworkWatch::open().unwrap();
            let plan = Self::plan(&network, options).await.unwrap();
            network.apply(&self.interface, &plan).await.unwrap();
            for event in events {
                // Some find nothing to do.
                self.ns.succeeds(event);
                if event.is_empty() {
                    self.keep(&mut watch, &mut network, options).await;
                }
            }
            for line in START {
                self.ns.sh(line);
            }
            self.keep(&mut watch, &mut network, options).await;
            let after = self.ns.snapshot();
            network.undo().await.unwrap();

            let mut fresh = self.open().await;
            let plan = Self::plan(&fresh, options).await.unwrap();
            fresh.apply(&self.interface, &plan).await.unwrap();
            let matched = self.expect(&after, "a fresh start differs (- sequence, + fresh)");
            fresh.undo().await.unwrap();
            matched
        })
    }
}

/// Makes the host's own network what it is at the beginning.
const START: [&str; 4] = [
    "ip link set up0 up; ip address replace 192.0.2.10/24 dev up0; \
     ip -6 address replace 2001:db8::10/64 dev up0 nodad",
    "ip link set up1 up; ip address replace 198.51.100.10/24 dev up1",
    "ip route replace default via 192.0.2.1 dev up0",
    "ip -6 route replace default via 2001:db8::1 dev up0",
];

fn event() -> impl Strategy<Value = &'static str> {
    select(vec![
        // The session has time to look.
        "",
        "",
        "",
        "",
        "ip link set tun7 down; ip link set tun7 up",
        "ip link set tun7 down",
        "ip address flush dev tun7",
        "ip route flush dev tun7; ip -6 route flush dev tun7",
        "ip route flush proto 79; ip -6 route flush proto 79",
        "ip link set tun7 mtu 1300 txqueuelen 77",
        "ip route replace default via 198.51.100.1 dev up1",
        "ip route replace default via 192.0.2.1 dev up0",
        "ip route delete default",
        "ip -6 route delete default",
        "ip link set up0 down",
        "ip link set up0 up",
        "ip link set up1 down",
        "ip link set up1 up",
        "ip address flush dev up0; ip address add 192.0.2.77/24 dev up0",
        "ip address delete 192.0.2.77/24 dev up0",
        "ip route add 203.0.113.0/24 via 198.51.100.1 dev up1",
        "ip route delete 203.0.113.0/24",
        "ip rule add to 203.0.113.0/24 lookup 100 priority 90; \
         ip route add default via 198.51.100.1 dev up1 table 100",
        "ip rule delete priority 90",
    ])
}

fn options() -> impl Strategy<Value = NetworkOptions> {
    let route = |destination: &str, prefix, gateway| Route {
        destination: RouteDestination::Net(destination.parse().unwrap()),
        prefix,
        gateway,
        metric: None,
    };
    let routes = vec![
        route("10.20.0.0", 16, RouteGateway::Vpn),
        route("203.0.113.0", 24, RouteGateway::Vpn),
        route("fd20::", 16, RouteGateway::Vpn),
        route("10.30.0.0", 16, RouteGateway::Net),
    ];
    (any::<(bool, bool, bool)>(), proptest::sample::subsequence(routes, 0..=4)).prop_map(
        |((redirect, ipv6, point_to_point), routes)| NetworkOptions {
            topology: Some(if point_to_point { Topology::Net30 } else { Topology::Subnet }),
            ifconfig: Some(if point_to_point {
                ([10, 8, 0, 6].into(), [10, 8, 0, 5].into())
            } else {
                ([10, 8, 0, 2].into(), [255, 255, 255, 0].into())
            }),
            ifconfig_ipv6: ipv6.then(|| ("fd00:8::2".parse().unwrap(), 64, None)),
            routes,
            redirect: redirect.then(|| RedirectGateway {
                ipv4: true,
                ipv6,
                def1: true,
                ..RedirectGateway::default()
            }),
            ..NetworkOptions::default()
        },
    )
}

#[test]
fn any_sequence_ends_as_a_fresh_start() {
    let cases = std::env::var("OVPN_SEQUENCES").map_or(12, |n| n.parse().unwrap());
    let config = Config {
        cases,
        rng_seed: RngSeed::Fixed(13),
        failure_persistence: None,
        max_shrink_iters: 60,
        ..Config::default()
    };
    let events = proptest::collection::vec(event(), 1..10);
    let result = TestRunner::new(config)
        .run(&(options(), events), |(options, events)| Host::new().run(&options, &events));
    if let Err(error) = result {
        panic!("{error}");
    }
}

fn some_options() -> NetworkOptions {
    NetworkOptions {
        topology: Some(Topology::Subnet),
        ifconfig: Some(([10, 8, 0, 2].into(), [255, 255, 255, 0].into())),
        redirect: Some(RedirectGateway { ipv4: true, def1: true, ..RedirectGateway::default() }),
        ..NetworkOptions::default()
    }
}

/// Runs `body` with a tunnel that is configured and watched.
fn with_tunnel(
    options: &NetworkOptions,
    body: impl AsyncFnOnce(&Host, &mut NetworkWatch, &mut DirectNetwork) + Send,
) {
    let host = Host::new();
    host.ns.block_on(async || {
        let mut network = host.open().await;
        let mut watch = NetworkWatch::open().unwrap();
        let plan = Host::plan(&network, options).await.unwrap();
        network.apply(&host.interface, &plan).await.unwrap();
        host.keep(&mut watch, &mut network, options).await;
        body(&host, &mut watch, &mut network).await;
        network.undo().await.unwrap();
        drop(network);
        assert!(std::fs::read_dir(host.directory.path().join("run")).unwrap().next().is_none());
    });
}

/// Somebody who takes a route away as often as it is put back is let be; the rest stays.
#[test]
fn no_fight() {
    let options = some_options();
    with_tunnel(&options, async |host, watch, network| {
        let mut put_back = 0;
        for _ in 0..20 {
            host.ns.succeeds("ip route delete 0.0.0.0/1 dev tun7");
            let kept = host.keep(watch, network, &options).await;
            put_back += kept.iter().map(|kept| kept.steps.len()).sum::<usize>();
        }
        assert!((3..8).contains(&put_back), "{put_back}");
        assert!(!host.ns.succeeds("ip route show 0.0.0.0/1 | grep tun7"));
        host.ns.sh("ip route show 128.0.0.0/1 | grep tun7");
        host.ns.sh("ip route delete 128.0.0.0/1 dev tun7");
        host.keep(watch, network, &options).await;
        host.ns.sh("ip route show 128.0.0.0/1 | grep tun7");
    });
}

/// A link that is renamed is the same one: what it has is kept, and undone in the end.
#[test]
fn another_name() {
    let options = some_options();
    with_tunnel(&options, async |host, watch, network| {
        host.ns.sh("ip link set tun7 down; ip link set tun7 name office; ip link set office up");
        host.keep(watch, network, &options).await;
        host.ns.sh("ip route show 0.0.0.0/1 | grep office");
        network.undo().await.unwrap();
        let left = host.ns.sh("ip -o address show dev office; ip route show dev office");
        assert_eq!(left, "", "undone under its new name");
    });
}

/// A link that has gone to another namespace is told from one that was deleted.
#[test]
fn elsewhere() {
    let options = some_options();
    let other = NetNs::new("nww");
    with_tunnel(&options, async |host, watch, network| {
        host.ns.sh(&format!("ip link set tun7 netns {}", other.name()));
        let news = timeout(QUIET, watch.changed(Some(host.interface.index))).await.unwrap();
        assert!(news.moved.contains(&host.interface.index), "{news:?}");
        assert_eq!(network.keep(Way::Gone, Instant::now()).await.unwrap(), None);
    });
}

/// More than the kernel keeps for us: nothing is missed all the same.
#[test]
fn an_overrun() {
    let options = some_options();
    with_tunnel(&options, async |host, watch, network| {
        host.ns.sh("ip link set up1 up");
        let lines: String = (0..30_000)
            .map(|n| format!("route add 10.{}.{}.0/24 dev up1\n", 100 + n / 250, n % 250))
            .collect();
        let file = host.directory.path().join("routes");
        std::fs::write(&file, lines).unwrap();
        host.ns.sh(&format!("ip -batch {}", file.display()));
        host.ns.sh("ip route delete 0.0.0.0/1 dev tun7");
        host.keep(watch, network, &options).await;
        host.ns.sh("ip route show 0.0.0.0/1 | grep tun7");
    });
}
