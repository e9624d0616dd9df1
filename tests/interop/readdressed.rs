//! A reconnect that brings another address of the same network, as servers do that do not remember
//! their clients, and one after somebody else has taken the tunnel's configuration apart: what is
//! there afterwards is what a fresh start gives, traffic flows, and nothing of it leaves outside.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use socket2::{Domain, Protocol, Socket, Type};

use crate::client::{CONNECTED, Client, RECONNECTING};
use crate::lab::{Lab, plain};
use crate::server::{Server, ServerConfig, Transport, Version};

const SOON: Duration = Duration::from_secs(30);

/// Behind the server, and in its routes. The last ones are so only with a redirected gateway.
const PROBES: [&str; 4] = ["192.0.2.1", "2001:db8:2::1", "203.0.113.77", "2001:db8:3::77"];

/// How a connection comes to an end.
#[derive(Clone, Copy, Debug)]
enum Break {
    /// Somebody asks for a new one.
    Signal,
    /// The server is killed and started again.
    Restart,
}

/// What somebody else does to the tunnel's configuration.
const DEEDS: [&str; 3] = [
    "ip link set tun0 down; ip link set tun0 up",
    "ip route flush dev tun0; ip -6 route flush dev tun0",
    "ip address flush dev tun0",
];

struct Case {
    redirect: bool,
    persist: bool,
    lab: Lab,
    config: ServerConfig,
}

impl Case {
    fn new(version: Version, transport: Transport, redirect: bool, persist: bool) -> Self {
        let lab = Lab::new();
        lab.client_ns.add_route("default6", Some("2001:db8:1::1"), Some("eth0"));
        for (address, prefix) in [("203.0.113.77", 32), ("2001:db8:3::77", 128)] {
            lab.server_ns.add_address("lo", &format!("{address}/{prefix}"));
        }
        let host = lab.directory().join("host");
        let script = lab.script(
            "give",
            &format!(
                "#!/bin/sh\nexec <'{}' >\"$1\"\nread -r host\n\
                 echo \"ifconfig-push 10.8.0.$host 255.255.255.0\"\n\
                 echo \"ifconfig-ipv6-push fd00:8::$host/64 fd00:8::1\"\ncat\n",
                host.display()
            ),
        );
        let redirected = "push \"redirect-gateway def1 ipv6\"\n";
        let extra = format!(
            "client-connect {script}\npush \"route 192.0.2.0 255.255.255.0\"\n\
             push \"route-ipv6 2001:db8:2::/64\"\n{}",
            if redirect { redirected } else { "" }
        );
        let config = ServerConfig { extra, ..plain(version, transport) };
        Self { redirect, persist, lab, config }
    }

    /// The next connection is 10.8.0.`host`.
    fn give(&self, host: u8) {
        self.give_with(host, "");
    }

    /// The same with these lines of the server for this client.
    fn give_with(&self, host: u8, lines: &str) {
        self.lab.file("host", &format!("{host}\n{lines}"));
    }

    fn start(&self) -> Client {
        let persist = if self.persist { "persist-tun\n" } else { "" };
        let mut client = self.lab.start_client(&self.lab.profile(&self.config, persist), &[]);
        client.wait(CONNECTED, SOON).unwrap();
        client
    }

    fn probes(&self) -> &'static [&'static str] {
        if self.redirect { &PROBES } else { &PROBES[..2] }
    }

    /// Links, addresses, routes and rules, without the numbers and the owners of links.
    fn configuration(&self) -> Vec<String> {
        let text = self.lab.client_ns.sh("ip -o link; ip -o address; \
            ip -4 route show table all; ip -6 route show table all; ip -4 rule; ip -6 rule");
        let strip = |line: &str| {
            let (number, rest) = line.split_once(": ").unwrap_or(("", line));
            let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
            let line = if is_number { rest } else { line };
            // A link of the kernel's says whose it is: each process is another one.
            line.split(" owner ").next().unwrap_or(line).trim_end().to_owned()
        };
        let mut lines: Vec<String> = text.lines().map(strip).collect();
        lines.sort_unstable();
        lines
    }

    /// Fails unless this is the configuration, soon: the kernel finishes some of it later.
    fn expect(&self, expected: &[String], what: &str) {
        let deadline = Instant::now() + SOON;
        let mut present = self.configuration();
        while present != expected {
            assert!(
                Instant::now() < deadline,
                "{what} (redirect {}, persist-tun {}):\n{}",
                self.redirect,
                self.persist,
                difference(expected, &present).join("\n"),
            );
            std::thread::sleep(Duration::from_millis(20));
            present = self.configuration();
        }
    }

    /// What a fresh start with this address configures.
    fn fresh(&self, host: u8, lines: &str) -> Vec<String> {
        self.give_with(host, lines);
        let mut client = self.start();
        let configuration = self.settled();
        assert_eq!(client.stop(Signal::SIGTERM).code, Some(0));
        configuration
    }

    fn settled(&self) -> Vec<String> {
        self.lab.client_ns.settled_snapshot();
        self.configuration()
    }

    /// A connection is lost in this way, and the next one has another address.
    fn readdress(&self, server: Server, how: Break, host: u8, client: &mut Client) -> Server {
        self.give(host);
        let server = match how {
            Break::Signal => {
                client.signal(Signal::SIGUSR1);
                server
            }
            Break::Restart => {
                drop(server);
                client.wait(RECONNECTING, SOON).unwrap();
                self.lab.start_server(&self.config)
            }
        };
        client.wait(CONNECTED, SOON).unwrap_or_else(|e| panic!("{e}\n{}", server.log()));
        server
    }

    fn run(self, ways: &[Break]) {
        let server = self.lab.start_server(&self.config);
        let before = self.settled();
        let hosts = 20..;
        let fresh: Vec<_> =
            hosts.clone().take(ways.len()).map(|host| self.fresh(host, "")).collect();
        self.expect(&before, "left behind");

        self.give(10);
        let mut client = self.start();
        let traffic = Traffic::new(&self.lab, self.probes());
        std::thread::scope(|scope| {
            scope.spawn(|| self.lab.client_ns.run(|| traffic.send()));
            scope.spawn(|| traffic.receive());
            let _stop = StopOnDrop(&traffic);
            traffic.flows();
            let mut server = server;
            for ((how, host), fresh) in ways.iter().copied().zip(hosts).zip(&fresh) {
                traffic.outside.store(0, Ordering::Relaxed);
                server = self.readdress(server, how, host, &mut client);
                self.expect(fresh, &format!("{how:?}"));
                // Without persist-tun an attempt that fails takes the tunnel down.
                if self.persist || matches!(how, Break::Signal) {
                    traffic.all_inside(how);
                }
                traffic.flows();
                self.lab.ping("10.8.0.1").unwrap();
                self.lab.ping("fd00:8::1").unwrap();
            }
            let fresh = self.configuration();
            for deed in DEEDS {
                // The client puts it back by itself, and is interrupted in the middle of that.
                self.lab.client_ns.sh(deed);
                client.signal(Signal::SIGUSR1);
                client.wait(CONNECTED, SOON).unwrap();
                self.expect(&fresh, deed);
                traffic.flows();
                self.lab.ping("10.8.0.1").unwrap();
            }
        });
        assert_eq!(client.stop(Signal::SIGTERM).code, Some(0));
        self.expect(&before, "left behind");
    }
}

/// Lines of `old` that `new` has not (`-`) and the reverse (`+`).
fn difference(old: &[String], new: &[String]) -> Vec<String> {
    let gone = old.iter().filter(|line| !new.contains(line)).map(|line| format!("- {line}"));
    let more = new.iter().filter(|line| !old.contains(line)).map(|line| format!("+ {line}"));
    gone.chain(more).collect()
}

/// Packets to all probes without end, and where they arrive.
struct Traffic {
    probes: &'static [&'static str],
    /// In the server's namespace, for packets from the wire and from anywhere else.
    from_wire: [UdpSocket; 2],
    from_tunnel: [UdpSocket; 2],
    stop: AtomicBool,
    outside: AtomicUsize,
    inside: [AtomicUsize; 2],
}

const PORT: u16 = 9;

impl Traffic {
    fn new(lab: &Lab, probes: &'static [&'static str]) -> Self {
        let sockets = |device: Option<&[u8]>| {
            let bind = |any: IpAddr| -> std::io::Result<UdpSocket> {
                let socket = Socket::new(
                    Domain::for_address(SocketAddr::new(any, PORT)),
                    Type::DGRAM,
                    Some(Protocol::UDP),
                )?;
                if any.is_ipv6() {
                    socket.set_only_v6(true)?;
                }
                socket.set_reuse_address(true)?;
                socket.bind_device(device)?;
                socket.bind(&SocketAddr::new(any, PORT).into())?;
                socket.set_nonblocking(true)?;
                Ok(socket.into())
            };
            [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()]
                .map(|any| bind(any).expect("where the probes arrive"))
        };
        lab.server_ns.run(|| Self {
            probes,
            from_tunnel: sockets(None),
            from_wire: sockets(Some(b"eth0")),
            stop: AtomicBool::new(false),
            outside: AtomicUsize::new(0),
            inside: [AtomicUsize::new(0), AtomicUsize::new(0)],
        })
    }

    fn send(&self) {
        let sockets = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()]
            .map(|any| UdpSocket::bind((any, 0)).expect("a socket for the probes"));
        // An emulated processor has no time for more.
        let emulated = std::env::var_os("OVPN_TEST_DCO").is_some();
        let pause = Duration::from_micros(if emulated { 20_000 } else { 200 });
        while !self.stop.load(Ordering::Relaxed) {
            for probe in self.probes {
                let to: IpAddr = probe.parse().expect("address");
                // Unreachable is a good answer.
                let _ = sockets[usize::from(to.is_ipv6())].send_to(b"?", (to, PORT));
            }
            std::thread::sleep(pause);
        }
    }

    fn receive(&self) {
        let mut buffer = [0; 16];
        while !self.stop.load(Ordering::Relaxed) {
            for family in 0..2 {
                while self.from_wire[family].recv(&mut buffer).is_ok() {
                    self.outside.fetch_add(1, Ordering::Relaxed);
                }
                while self.from_tunnel[family].recv(&mut buffer).is_ok() {
                    self.inside[family].fetch_add(1, Ordering::Relaxed);
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until some more have come through the tunnel, in both families.
    fn flows(&self) {
        let read = || self.inside.each_ref().map(|count| count.load(Ordering::Relaxed));
        let (before, deadline) = (read(), Instant::now() + SOON);
        while read().iter().zip(before).any(|(now, before)| *now < before + 10) {
            assert!(Instant::now() < deadline, "nothing comes through the tunnel: {:?}", read());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn all_inside(&self, how: Break) {
        let outside = self.outside.load(Ordering::Relaxed);
        assert_eq!(outside, 0, "packets that left outside the tunnel, {how:?}");
    }
}

struct StopOnDrop<'a>(&'a Traffic);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

#[test]
fn everything_redirected_with_persist_tun() {
    let ways = [Break::Signal, Break::Restart, Break::Signal];
    Case::new(Version::V26, Transport::Udp4, true, true).run(&ways);
}

#[test]
fn everything_redirected_without_persist_tun() {
    let ways = [Break::Signal, Break::Restart];
    Case::new(Version::V27, Transport::Tcp4, true, false).run(&ways);
}

#[test]
fn some_routes_with_persist_tun() {
    let ways = [Break::Signal, Break::Restart];
    Case::new(Version::V27, Transport::Udp6, false, true).run(&ways);
}

#[test]
fn some_routes_without_persist_tun() {
    let ways = [Break::Restart, Break::Signal];
    Case::new(Version::V26, Transport::Udp4, false, false).run(&ways);
}

/// A reconnect that brings IPv4 alone, and one that brings both families again.
#[test]
fn a_family_that_goes_and_comes_back() {
    const IPV4_ALONE: &str = "push-remove ifconfig-ipv6\npush-remove route-ipv6\n";
    for redirect in [true, false] {
        let case = Case::new(Version::V27, Transport::Udp4, redirect, true);
        let _server = case.lab.start_server(&case.config);
        let before = case.settled();
        let connections = [(20, ""), (21, IPV4_ALONE), (22, "")];
        let fresh = connections.map(|(host, lines)| case.fresh(host, lines));
        assert!(!fresh[1].iter().any(|line| line.contains("fd00:8::")), "{:?}", fresh[1]);
        case.give(10);
        let mut client = case.start();
        for ((host, lines), fresh) in connections.into_iter().zip(&fresh) {
            case.give_with(host, lines);
            client.signal(Signal::SIGUSR1);
            client.wait(CONNECTED, SOON).unwrap();
            case.expect(fresh, lines);
            case.lab.ping("10.8.0.1").unwrap();
        }
        assert_eq!(client.stop(Signal::SIGTERM).code, Some(0));
        case.expect(&before, "left behind");
    }
}
