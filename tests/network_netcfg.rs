//! The netcfg client against a stand-in for the service that records every call byte for byte.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests end by panicking")]

use std::fs::File;
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ovpn_client::network::{NetcfgConfig, NetcfgError, NetcfgNetwork, NetcfgPlan};
use ovpn_client::profile::{
    DnsOptions, DnsScope, DnsSec, DnsServer, NetworkOptions, NoFiles, Profile, RedirectGateway,
    Route, RouteDestination, RouteGateway, Topology,
};
use ovpn_client::secret::Credentials;
use ovpn_client::session::{
    Command, Events, NetworkMode, Outcome, Running, SessionConfig, SessionEvent, SessionState,
};
use ovpn_test_support::bus::{Answer, Bus, Service};
use tokio::sync::mpsc::Sender;
use zbus::{Message, OwnedVariant, Variant};

const SERVICE: &str = "net.openvpn.v3.netcfg";
const DEVICE: &str = "/net/openvpn/v3/netcfg/4711_token";

/// How the stand-in differs from a healthy service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Manner {
    /// Version 27: routes with metric.
    V27,
    /// Version 24.1: routes without metric, no resolver.
    V24,
    /// A development version that has no metric.
    Development,
    /// `Establish` succeeds without a descriptor.
    NoDevice,
    /// `AddIPAddress` fails.
    Refuses,
    /// Its device has a name that no device can have.
    Misnames,
    /// `ProtectSocket` says no.
    Unprotected,
    /// Started anew: no device is there.
    Forgetful,
}

fn answer(manner: Manner, call: &Message) -> Answer {
    let header = call.header();
    let body = call.body();
    let signature = header.signature().to_string_no_parens();
    if manner == Manner::Forgetful && header.path().unwrap().as_str() == DEVICE {
        let text = "No such object".to_owned();
        return Answer::Error("org.freedesktop.DBus.Error.UnknownMethod", text);
    }
    let metric = !matches!(manner, Manner::V24 | Manner::Development);
    match header.member().unwrap().as_str() {
        "ProtectSocket" => Answer::value(call, &(manner != Manner::Unprotected,)),
        "CreateVirtualInterface" => {
            Answer::value(call, &(zbus::ObjectPath::try_from(DEVICE).unwrap(),))
        }
        "Get" => {
            let (_, property): (&str, &str) = body.deserialize().unwrap();
            let value = match property {
                "version" => match manner {
                    Manner::V24 => "v24.1",
                    Manner::Development => "git:master:0123456789abcdef",
                    _ => "v27.1",
                },
                "device_name" if manner == Manner::Misnames => {
                    return Answer::value(call, &(Variant::from("tun".repeat(1000)),));
                }
                "device_name" => "tun3",
                other => panic!("property {other}"),
            };
            Answer::value(call, &(Variant::from(value),))
        }
        "Set" => {
            let (_, property, _): (&str, &str, OwnedVariant) = body.deserialize().unwrap();
            if property == "dns_scope" && manner == Manner::V24 {
                let text = "No DNS resolver configured".to_owned();
                return Answer::Error("org.freedesktop.DBus.Error.Failed", text);
            }
            Answer::Done
        }
        "AddNetworks" if (signature == "a(suibb)") != metric => Answer::Error(
            "org.freedesktop.DBus.Error.InvalidArgs",
            format!("Type of message, “({signature})”, does not match expected type"),
        ),
        "AddIPAddress" if manner == Manner::Refuses => Answer::Error(
            "org.gtk.GDBus.UnmappedGError.Quark._net_2eopenvpn_2ev3_2enetcfg_2eerror.Code36",
            "GDBus.Error:net.openvpn.v3.netcfg.error: Invalid IP address".to_owned(),
        ),
        "Establish" if manner == Manner::NoDevice => Answer::Done,
        "Establish" => Answer::Descriptors(vec![OwnedFd::from(File::open("/dev/null").unwrap())]),
        _ => Answer::Done,
    }
}

/// One call in words: object, member, signature, arguments.
fn describe(call: &Message) -> String {
    let header = call.header();
    let body = call.body();
    let object = header.path().unwrap().as_str().rsplit('/').next().unwrap().to_owned();
    let signature = header.signature().to_string_no_parens();
    let member = header.member().unwrap().to_string();
    if header.interface().unwrap() == "org.freedesktop.DBus.Properties" {
        return if member == "Get" {
            let (interface, property): (String, String) = body.deserialize().unwrap();
            assert_eq!(interface, SERVICE);
            format!("{object} get {property}")
        } else {
            let (interface, property, value): (String, String, OwnedVariant) =
                body.deserialize().unwrap();
            assert_eq!(interface, SERVICE);
            let value = match Variant::from(value) {
                Variant::U32(number) => format!("u {number}"),
                Variant::U16(number) => format!("q {number}"),
                Variant::Bool(flag) => format!("b {flag}"),
                Variant::Str(text) => format!("s {text}"),
                other => panic!("{other:?}"),
            };
            format!("{object} set {property} {value}")
        };
    }
    assert_eq!(header.interface().unwrap(), SERVICE);
    let arguments = match signature.as_str() {
        "" => String::new(),
        "s" => body.deserialize::<String>().unwrap(),
        "as" => format!("{:?}", body.deserialize::<Vec<String>>().unwrap()),
        "sb" => format!("{:?}", body.deserialize::<(String, bool)>().unwrap()),
        "susb" => format!("{:?}", body.deserialize::<(String, u32, String, bool)>().unwrap()),
        "sbo" => {
            let (remote, ipv6, path): (String, bool, zbus::OwnedObjectPath) =
                body.deserialize().unwrap();
            format!("{remote} {ipv6} {path}")
        }
        "a(suibb)" => {
            type Entry = (String, u32, i32, bool, bool);
            format!("{:?}", body.deserialize::<Vec<Entry>>().unwrap())
        }
        "a(subb)" => {
            format!("{:?}", body.deserialize::<Vec<(String, u32, bool, bool)>>().unwrap())
        }
        other => panic!("signature {other}"),
    };
    format!("{object} {member} {signature} {arguments}").trim().to_owned()
}

/// How many descriptors a message has, and the inode of the first.
type Attached = (usize, Option<u64>);
type Lines = Arc<Mutex<Vec<String>>>;

struct Fixture {
    _service: Service,
    network: NetcfgNetwork,
    lines: Lines,
    /// Of each call.
    descriptors: Arc<Mutex<Vec<Attached>>>,
}

impl Fixture {
    async fn new(bus: &Bus, manner: Manner, without_socket: bool) -> Self {
        let lines = Lines::default();
        let descriptors: Arc<Mutex<Vec<_>>> = Arc::default();
        let (log, counts) = (lines.clone(), descriptors.clone());
        let service = bus
            .serve(SERVICE, move |call| {
                log.lock().unwrap().push(describe(call));
                let fds = call.data().fds();
                assert_eq!(call.header().unix_fds().unwrap_or(0) as usize, fds.len());
                let inode = fds.first().map(|fd| {
                    let owned = fd.as_fd().try_clone_to_owned().unwrap();
                    File::from(owned).metadata().unwrap().ino()
                });
                counts.lock().unwrap().push((fds.len(), inode));
                answer(manner, call)
            })
            .await;
        let network = NetcfgNetwork::new(NetcfgConfig {
            connection: bus.connect().await,
            token: "token".to_owned(),
            without_socket,
        });
        Self { _service: service, network, lines, descriptors }
    }

    fn take(&self) -> Vec<String> {
        self.descriptors.lock().unwrap().clear();
        std::mem::take(&mut self.lines.lock().unwrap())
    }
}

fn route(destination: &str, prefix: u8, gateway: RouteGateway, metric: Option<u32>) -> Route {
    let destination = RouteDestination::Net(destination.parse().unwrap());
    Route { destination, prefix, gateway, metric }
}

fn options() -> NetworkOptions {
    let server = DnsServer {
        addresses: vec![("10.8.0.1".parse().unwrap(), 0), ("10.8.0.2".parse().unwrap(), 5353)],
        resolve_domains: vec!["corp.example".parse().unwrap()],
        dnssec: Some(DnsSec::Optional),
        ..DnsServer::default()
    };
    NetworkOptions {
        topology: Some(Topology::Subnet),
        ifconfig: Some(("10.8.0.6".parse().unwrap(), "255.255.255.0".parse().unwrap())),
        ifconfig_ipv6: Some(("fd00:8::6".parse().unwrap(), 64, Some("fd00:8::1".parse().unwrap()))),
        route_gateway: Some("10.8.0.1".parse().unwrap()),
        routes: vec![
            route("10.20.0.0", 16, RouteGateway::Vpn, Some(7)),
            route("10.21.0.0", 16, RouteGateway::Address("10.8.0.1".parse().unwrap()), None),
            route("198.51.100.0", 24, RouteGateway::Net, None),
            route("2001:db8::", 32, RouteGateway::Vpn, None),
            route("10.22.0.0", 16, RouteGateway::Address("192.168.1.9".parse().unwrap()), None),
        ],
        redirect: Some(RedirectGateway { ipv4: true, def1: true, ..RedirectGateway::default() }),
        dns: DnsOptions {
            servers: [(0, server)].into(),
            search_domains: vec!["office.example".parse().unwrap()],
            ..DnsOptions::default()
        },
        ..NetworkOptions::default()
    }
}

fn plan(options: &NetworkOptions) -> NetcfgPlan {
    let remote = "203.0.113.5".parse().unwrap();
    NetcfgPlan::build(options, 1400, None, remote, DnsScope::Global).unwrap()
}

fn with_bus(test: impl AsyncFnOnce(&Bus)) {
    let bus = Bus::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(test(&bus));
}

#[test]
fn calls_come_in_the_recorded_order() {
    with_bus(async |bus| {
        let mut f = Fixture::new(bus, Manner::V27, false).await;
        let plan = plan(&options());
        assert!(!f.network.is_established(&plan));
        let established = f.network.establish(&plan).await.unwrap();
        assert_eq!(established.device_path, DEVICE);
        assert_eq!(established.device_name, "tun3");
        let opened = File::from(established.tun).metadata().unwrap();
        assert_eq!(opened.rdev(), std::fs::metadata("/dev/null").unwrap().rdev());
        let warnings = established.warnings.join("\n");
        for expected in ["10.22.0.0/16", "port 5353"] {
            assert!(warnings.contains(expected), "{warnings}");
        }
        assert_eq!(
            f.take(),
            [
                "netcfg CreateVirtualInterface s token",
                "4711_token set dns_scope s global",
                "4711_token AddIPAddress susb (\"10.8.0.6\", 24, \"10.8.0.1\", false)",
                "4711_token AddIPAddress susb (\"fd00:8::6\", 64, \"fd00:8::1\", true)",
                "4711_token set reroute_ipv4 b true",
                "4711_token AddDNSSearch as [\"office.example\", \"corp.example\"]",
                "4711_token AddDNS as [\"10.8.0.1\"]",
                "4711_token SetDNSSEC s optional",
                "4711_token set dns_scope s tunnel",
                "4711_token SetRemoteAddress sb (\"203.0.113.5\", false)",
                "4711_token set layer u 3",
                "4711_token set mtu q 1400",
                "netcfg get version",
                "4711_token AddNetworks a(suibb) [(\"10.20.0.0\", 16, 7, false, false), \
                 (\"10.21.0.0\", 16, -1, false, false), (\"198.51.100.0\", 24, -1, false, true), \
                 (\"2001:db8::\", 32, -1, true, false)]",
                "4711_token Establish",
                "4711_token get device_name",
            ]
        );
        assert!(f.network.is_established(&plan));
        assert_eq!(f.network.device_path(), Some(DEVICE));

        // Other options: the old device goes first.
        let mut other = options();
        other.routes.clear();
        let other = self::plan(&other);
        assert!(!f.network.is_established(&other));
        f.network.establish(&other).await.unwrap();
        let calls = f.take();
        assert_eq!(calls[0], "4711_token Destroy");
        assert_eq!(calls[1], "netcfg CreateVirtualInterface s token");
        assert!(calls.contains(&"4711_token AddNetworks a(suibb) []".to_owned()), "{calls:?}");

        f.network.disable().await.unwrap();
        assert!(!f.network.is_established(&other));
        f.network.destroy().await.unwrap();
        f.network.destroy().await.unwrap();
        f.network.cleanup().await.unwrap();
        assert_eq!(f.take(), ["4711_token Disable", "4711_token Destroy", "netcfg Cleanup"]);
    });
}

#[test]
fn versions_differ_in_the_routes() {
    with_bus(async |bus| {
        let without = "4711_token AddNetworks a(subb) [(\"10.20.0.0\", 16, false, false), \
                       (\"10.21.0.0\", 16, false, false), (\"198.51.100.0\", 24, false, true), \
                       (\"2001:db8::\", 32, true, false)]";
        for (manner, attempts) in [(Manner::V24, 1), (Manner::Development, 2)] {
            let mut f = Fixture::new(bus, manner, false).await;
            let established = f.network.establish(&plan(&options())).await.unwrap();
            drop(established);
            let calls: Vec<_> =
                f.take().into_iter().filter(|call| call.contains("AddNetworks")).collect();
            assert_eq!(calls.len(), attempts, "{calls:?}");
            assert_eq!(calls.last().unwrap(), without);
        }
    });
}

#[test]
fn the_socket_is_attached_without_being_in_the_signature() {
    with_bus(async |bus| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let inode =
            std::fs::metadata(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap().ino();
        let mut f = Fixture::new(bus, Manner::V27, false).await;
        f.network.protect(socket.as_fd(), "203.0.113.5".parse().unwrap()).await.unwrap();
        assert_eq!(*f.descriptors.lock().unwrap(), [(1, Some(inode))]);
        assert_eq!(f.take(), ["netcfg ProtectSocket sbo 203.0.113.5 false /"]);

        // With a device its path is given, and a mapped address is what it really is.
        drop(f.network.establish(&plan(&options())).await.unwrap());
        f.take();
        f.network.protect(socket.as_fd(), "2001:db8::1".parse().unwrap()).await.unwrap();
        f.network.protect(socket.as_fd(), "::ffff:192.0.2.1".parse().unwrap()).await.unwrap();
        assert_eq!(
            f.take(),
            [
                format!("netcfg ProtectSocket sbo 2001:db8::1 true {DEVICE}"),
                format!("netcfg ProtectSocket sbo 192.0.2.1 false {DEVICE}"),
            ]
        );
    });
    with_bus(async |bus| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let f = Fixture::new(bus, Manner::V27, true).await;
        f.network.protect(socket.as_fd(), "203.0.113.5".parse().unwrap()).await.unwrap();
        assert_eq!(*f.descriptors.lock().unwrap(), [(0, None)]);
    });
    with_bus(async |bus| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let f = Fixture::new(bus, Manner::Unprotected, false).await;
        let error = f.network.protect(socket.as_fd(), "203.0.113.5".parse().unwrap()).await;
        assert!(matches!(error, Err(NetcfgError::NotProtected { .. })), "{error:?}");
    });
}

#[test]
fn a_failure_leaves_no_device() {
    with_bus(async |bus| {
        let mut f = Fixture::new(bus, Manner::NoDevice, false).await;
        let error = f.network.establish(&plan(&options())).await.unwrap_err();
        assert!(matches!(error, NetcfgError::NoDevice), "{error}");
        assert_eq!(f.take().last().unwrap(), "4711_token Destroy");
        assert_eq!(f.network.device_path(), None);
    });
    with_bus(async |bus| {
        let mut f = Fixture::new(bus, Manner::Refuses, false).await;
        let error = f.network.establish(&plan(&options())).await.unwrap_err();
        let text = "the network configuration service refuses AddIPAddress: Invalid IP address";
        assert_eq!(error.to_string(), text);
        assert_eq!(f.take().last().unwrap(), "4711_token Destroy");
    });
    with_bus(async |bus| {
        let mut f = Fixture::new(bus, Manner::Misnames, false).await;
        let error = f.network.establish(&plan(&options())).await.unwrap_err().to_string();
        assert!(
            error.starts_with("device_name of the network configuration service: not the name")
        );
        assert!(error.len() < 200, "{error}");
        assert_eq!(f.take().last().unwrap(), "4711_token Destroy");
    });
}

#[test]
fn a_service_that_was_started_anew_has_lost_the_device() {
    with_bus(async |bus| {
        let mut f = Fixture::new(bus, Manner::V27, false).await;
        let plan = plan(&options());
        drop(f.network.establish(&plan).await.unwrap());
        f.network.recheck().await;
        assert!(f.network.is_established(&plan));
        let Fixture { _service: first, mut network, .. } = f;
        drop(first);
        let second = Fixture::new(bus, Manner::Forgetful, false).await;
        network.recheck().await;
        assert!(!network.is_established(&plan));
        assert_eq!(network.device_path(), None);
        assert_eq!(second.take(), ["4711_token get device_name"]);
    });
}

/// It would stay, and hold the way to the server when the host moves to another network.
#[test]
fn the_route_of_a_service_that_has_gone_is_taken_back_by_the_next() {
    with_bus(async |bus| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let f = Fixture::new(bus, Manner::V27, false).await;
        f.network.protect(socket.as_fd(), "203.0.113.5".parse().unwrap()).await.unwrap();
        let Fixture { _service: first, mut network, .. } = f;
        drop(first);
        let second = Fixture::new(bus, Manner::V27, false).await;
        network.cleanup().await.unwrap();
        let protect = "netcfg ProtectSocket sbo 203.0.113.5 false /";
        assert_eq!(second.take(), ["netcfg Cleanup", protect, "netcfg Cleanup"]);
        network.cleanup().await.unwrap();
        assert_eq!(second.take(), ["netcfg Cleanup"]);

        // Nothing more of a service that knows what it has made.
        network.protect(socket.as_fd(), "203.0.113.5".parse().unwrap()).await.unwrap();
        network.cleanup().await.unwrap();
        assert_eq!(second.take(), [protect, "netcfg Cleanup"]);
    });
}

/// A session that waits for a server nobody hears from.
async fn session(bus: &Bus) -> (Sender<Command>, Events, UdpSocket) {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let text = format!(
        "client\ndev tun\nremote 127.0.0.1 {}\nauth-user-pass\npeer-fingerprint {}\n\
         connect-retry 1 1\nserver-poll-timeout 1\n",
        server.local_addr().unwrap().port(),
        ["00"; 32].join(":"),
    );
    let netcfg = NetcfgConfig {
        connection: bus.connect().await,
        token: "token".to_owned(),
        without_socket: false,
    };
    let config = SessionConfig {
        options: Arc::new(Profile::parse(&text, "test", &NoFiles).unwrap().options),
        credentials: Credentials::default(),
        one_time_password: false,
        key_passphrase: None,
        proxy_credentials: None,
        dco: false,
        network: NetworkMode::Netcfg(netcfg),
        runtime_dir: "/nowhere".into(),
        auth_fail_retry: false,
        dns_scope: DnsScope::Global,
        gui_version: String::new(),
        sso: String::new(),
        posture: None,
    };
    let Running { commands, events } = Running::start(config);
    (commands, events, server)
}

/// Waits for the next attempt, or for the end, which it returns.
async fn attempt(events: &mut Events) -> Option<Outcome> {
    let next = async {
        loop {
            match events.recv().await.unwrap() {
                SessionEvent::State(SessionState::Waiting { .. }) => return None,
                SessionEvent::Ended(outcome) => return Some(outcome),
                _ => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), next).await.unwrap()
}

fn healthy(call: &Message) -> Answer {
    answer(Manner::V27, call)
}

#[test]
fn a_session_ends_when_the_service_has_gone_for_good() {
    with_bus(async |bus| {
        let service = bus.serve(SERVICE, healthy).await;
        let (_handle, mut events, _server) = session(bus).await;
        for _ in 0..2 {
            assert!(attempt(&mut events).await.is_none());
        }
        drop(service);
        let mut outcome = None;
        // The attempt under way, and the one that finds out.
        for _ in 0..3 {
            outcome = outcome.or(attempt(&mut events).await);
            if outcome.is_some() {
                break;
            }
        }
        let Some(Outcome::Privilege(ending)) = outcome else { panic!("{outcome:?}") };
        let message = ending.to_string();
        assert!(message.contains(SERVICE) && message.contains("not available"), "{message}");
    });
}

#[test]
fn a_session_waits_for_a_service_that_can_be_started() {
    with_bus(async |bus| {
        bus.activate(SERVICE, "/bin/false");
        let (_handle, mut events, _server) = session(bus).await;
        for _ in 0..3 {
            assert!(attempt(&mut events).await.is_none());
        }
        let service = bus.serve(SERVICE, healthy).await;
        while !service.take_lines().iter().any(|call| call.starts_with("ProtectSocket")) {
            assert!(attempt(&mut events).await.is_none());
        }
    });
}

#[test]
fn an_absent_service_is_named() {
    with_bus(async |bus| {
        let mut network = NetcfgNetwork::new(NetcfgConfig {
            connection: bus.connect().await,
            token: "token".to_owned(),
            without_socket: false,
        });
        let error = network.establish(&plan(&options())).await.unwrap_err();
        assert!(matches!(error, NetcfgError::Unavailable { .. }), "{error:?}");
        assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
        // Nothing is there to be cleaned up.
        network.cleanup().await.unwrap();
    });
}

#[test]
fn plans_translate_the_options() {
    let build = |options: &NetworkOptions| {
        NetcfgPlan::build(options, 1500, None, "203.0.113.5".parse().unwrap(), DnsScope::Global)
    };
    // No address, no tunnel.
    build(&NetworkOptions::default()).unwrap_err();
    with_bus(async |bus| {
        let mut f = Fixture::new(bus, Manner::V27, false).await;
        let options = NetworkOptions {
            ifconfig: Some(("10.8.0.6".parse().unwrap(), "10.8.0.5".parse().unwrap())),
            routes: vec![
                route("0.0.0.0", 0, RouteGateway::Vpn, None),
                Route {
                    destination: RouteDestination::RemoteHost,
                    prefix: 32,
                    gateway: RouteGateway::Net,
                    metric: None,
                },
                route("2001:db8::", 32, RouteGateway::Vpn, None),
            ],
            dns: DnsOptions {
                dhcp_servers: vec!["10.8.0.1".parse().unwrap(), "10.8.0.1".parse().unwrap()],
                dhcp_domains: vec!["corp.example".parse().unwrap()],
                ..DnsOptions::default()
            },
            ..NetworkOptions::default()
        };
        let established = f.network.establish(&build(&options).unwrap()).await.unwrap();
        assert_eq!(established.warnings.len(), 1, "{:?}", established.warnings);
        let calls = f.take();
        for expected in [
            "4711_token AddIPAddress susb (\"10.8.0.6\", 30, \"10.8.0.5\", false)",
            "4711_token set reroute_ipv4 b true",
            "4711_token AddDNSSearch as [\"corp.example\"]",
            "4711_token AddDNS as [\"10.8.0.1\"]",
            "4711_token AddNetworks a(suibb) [(\"203.0.113.5\", 32, -1, false, true)]",
        ] {
            assert!(calls.contains(&expected.to_owned()), "{expected} in {calls:#?}");
        }
    });
}
