//! The client's network changes under a connection: traffic goes on over the same session. How long
//! it stands still is printed, not judged: a busy machine says nothing about it.

#![allow(clippy::print_stdout, reason = "figures for whoever reads them")]

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::client::{CONNECTED, Client, RECONNECTING};
use crate::lab::{Lab, plain};
use crate::netns::connect;
use crate::probe::Probe;
use crate::server::{Server, ServerConfig, Transport, Version};

const SOON: Duration = Duration::from_secs(20);
/// Behind both wires.
const SERVER: &str = "203.0.113.99";
/// Far below the keepalive timeout.
const RESUMES: Duration = Duration::from_secs(8);

/// A client with two wires to its server: eth0 (198.51.100.0/24) and eth1 (100.64.0.0/24).
struct Roaming {
    lab: Lab,
    config: ServerConfig,
}

impl Roaming {
    fn new(version: Version, transport: Transport, extra: &str) -> Self {
        let lab = Lab::new();
        connect(&lab.client_ns, "eth1", &lab.server_ns, "eth1");
        lab.client_ns.add_address("eth1", "100.64.0.2/24");
        lab.server_ns.add_address("eth1", "100.64.0.1/24");
        lab.server_ns.add_address("eth1", "100.65.0.1/24");
        lab.server_ns.add_address("lo", &format!("{SERVER}/32"));
        let extra = format!(
            "local {SERVER}\nkeepalive 10 60\npush \"redirect-gateway def1\"\n\
             push \"route 192.0.2.0 255.255.255.0\"\n{extra}"
        );
        Self { lab, config: ServerConfig { extra, ..plain(version, transport) } }
    }

    fn start(&self, profile: &str) -> (Server, Client) {
        let server = self.lab.start_server(&self.config);
        let text = self.lab.profile(&self.config, profile);
        let text = text.replace("remote 198.51.100.1 ", &format!("remote {SERVER} "));
        let mut client = self.lab.start_client(&text, &[]);
        client.wait(CONNECTED, SOON).unwrap_or_else(|e| panic!("{e}\n{}", server.log()));
        (server, client)
    }

    fn client_does(&self, line: &str) {
        self.lab.client_ns.sh(line);
    }
}

const REPLACED: &str = "the address is replaced";
const MOVED: &str = "the default route moves";
const DOWN: &str = "a link goes down, another serves";
const BACK: &str = "the other comes back";

/// `ovpn-dco-v2` keeps the source address as long as it is one of the host's, be it of a link that is down:
/// a new connection is made then.
fn breaks(what: &str) -> bool {
    let api = std::env::var("DCO_API").unwrap_or_default();
    api == "ovpn-dco-v2" && [MOVED, DOWN, BACK].contains(&what)
}

/// Every kind of change, with what it begins from.
const CHANGES: [(&str, &str); 6] = [
    (
        REPLACED,
        "ip address delete 198.51.100.2/24 dev eth0; ip address add 198.51.100.77/24 dev eth0; \
         ip route replace default via 198.51.100.1 dev eth0",
    ),
    (MOVED, "ip route replace default via 100.64.0.1 dev eth1"),
    (DOWN, "ip link set eth1 down; ip route replace default via 198.51.100.1 dev eth0"),
    (
        BACK,
        "ip link set eth1 up; ip link set eth0 down; \
         ip route replace default via 100.64.0.1 dev eth1",
    ),
    (
        "another prefix",
        "ip address flush dev eth1; ip address add 100.65.0.2/24 dev eth1; \
         ip route replace default via 100.65.0.1 dev eth1",
    ),
    (
        "as it was",
        "ip address flush dev eth0; ip link set eth0 up; ip address add 198.51.100.2/24 dev eth0; \
         ip route replace default via 198.51.100.1 dev eth0; \
         ip address flush dev eth1; ip address add 100.64.0.2/24 dev eth1",
    ),
];

fn roams(version: Version, rounds: usize) {
    let roaming = Roaming::new(version, Transport::Udp4, "");
    let (server, mut client) = roaming.start("reneg-sec 10\n");
    let probe = Probe::new(&roaming.lab, &["eth0", "eth1"]);
    let mut gaps = Vec::new();
    let mut connections = 1;
    probe.run(|| {
        probe.recovers(Instant::now(), SOON).unwrap();
        for round in 0..rounds {
            for (what, line) in CHANGES {
                probe.outside();
                let since = Instant::now();
                roaming.client_does(line);
                let gap = probe.recovers(since, RESUMES).unwrap_or_else(|e| {
                    client.listen(Duration::from_millis(100));
                    let host = roaming.lab.client_ns.sh("ip address; ip route");
                    panic!("{what}, round {round}: {e}\n{}\n{host}", client.transcript())
                });
                assert_eq!(probe.outside(), 0, "left outside: {what}, round {round}");
                gaps.push(gap);
                connections += usize::from(breaks(what));
            }
        }
        client.listen(Duration::from_millis(100));
        // Keys are still renewed, and carry the data.
        let handshakes = "Control Channel: TLS";
        let before = server.log_count(handshakes);
        server.wait_count(handshakes, before + 1, SOON);
        probe.recovers(Instant::now(), RESUMES).unwrap();
    });
    gaps.sort_unstable();
    let (median, worst) = (gaps[gaps.len() / 2], gaps[gaps.len() - 1]);
    println!(
        "FIGURE {version:?}: {} changes, resumed after {median:?} (median), {worst:?} (worst)",
        gaps.len()
    );
    client.listen(Duration::from_millis(100));
    let again = client.statuses.iter().filter(|(code, _)| *code == RECONNECTING).count();
    assert_eq!(again + 1, connections, "{:?}\n{}", client.statuses, client.transcript());
    assert_eq!(server.log_count("Peer Connection Initiated"), connections, "{}", server.log());
    let ending = client.stop(Signal::SIGTERM);
    assert_eq!(ending.code, Some(0), "{}", ending.transcript);
}

#[test]
fn a_connection_outlives_its_addresses_26() {
    roams(Version::V26, 4);
}

#[test]
fn a_connection_outlives_its_addresses_27() {
    roams(Version::V27, 1);
}

/// A stream has its addresses for good, and so has a server that gives no peer-id: a new connection
/// takes over at once.
#[test]
fn a_connection_that_cannot_move() {
    let roaming = Roaming::new(Version::V27, Transport::Tcp4, "");
    let (_server, mut client) = roaming.start("");
    let probe = Probe::new(&roaming.lab, &["eth0", "eth1"]);
    probe.run(|| {
        probe.recovers(Instant::now(), SOON).unwrap();
        let since = Instant::now();
        roaming
            .client_does("ip link set eth0 down; ip route replace default via 100.64.0.1 dev eth1");
        client.wait(RECONNECTING, RESUMES).unwrap();
        client.wait(CONNECTED, RESUMES).unwrap();
        let gap = probe.recovers(since, RESUMES).unwrap();
        println!("a new connection over TCP: {gap:?}");
    });
    assert_eq!(client.stop(Signal::SIGTERM).code, Some(0));
}

/// What the plan put there comes back, whoever took it away and however.
#[test]
fn what_was_taken_away_comes_back() {
    let roaming = Roaming::new(Version::V27, Transport::Udp4, "");
    let (server, mut client) = roaming.start("");
    let configuration = || {
        let text = roaming
            .lab
            .client_ns
            .sh("ip -o address show dev tun0; ip route show proto 79; ip -6 route show dev tun0; \
             ip route show dev tun0");
        let mut lines: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
        lines.sort_unstable();
        lines
    };
    roaming.lab.client_ns.settled_snapshot();
    let before = configuration();
    assert!(before.iter().any(|line| line.contains("fd00:8::")), "{before:#?}");
    for deed in [
        "ip link set tun0 down; ip link set tun0 up",
        "ip link set tun0 down",
        "ip address flush dev tun0",
        "ip route flush dev tun0; ip -6 route flush dev tun0",
        "ip route flush proto 79",
        "ip link set tun0 mtu 1300",
        "ip link set eth0 down; ip link set eth0 up; \
         ip route replace default via 198.51.100.1 dev eth0",
    ] {
        // Sooner it might be taken for a fight.
        std::thread::sleep(Duration::from_millis(3100));
        let since = Instant::now();
        roaming.client_does(deed);
        while configuration() != before {
            assert!(
                since.elapsed() < RESUMES,
                "{deed}:\n{:#?}\nbefore: {before:#?}\n{}",
                configuration(),
                client.stop(Signal::SIGTERM).transcript
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        println!("{deed}: {:?}", since.elapsed());
        roaming.lab.ping("192.0.2.1").unwrap();
    }
    assert_eq!(server.log_count("Peer Connection Initiated"), 1);
    assert_eq!(client.stop(Signal::SIGTERM).code, Some(0));
}

/// An interface that somebody renames is the same one.
#[test]
fn a_renamed_interface() {
    let roaming = Roaming::new(Version::V27, Transport::Udp4, "");
    let (server, mut client) = roaming.start("persist-tun\n");
    roaming.client_does("ip link set tun0 down; ip link set tun0 name office");
    client.wait(CONNECTED, RESUMES).unwrap();
    assert!(client.transcript().contains("on office/"), "{}", client.transcript());
    roaming.lab.ping("192.0.2.1").unwrap();
    assert_eq!(server.log_count("Peer Connection Initiated"), 1);
    client.signal(Signal::SIGUSR1);
    client.wait(CONNECTED, SOON).unwrap();
    roaming.client_does("ip link show office; ! ip link show tun0");
    roaming.lab.ping("192.0.2.1").unwrap();
    assert_eq!(client.stop(Signal::SIGTERM).code, Some(0));
}

/// The uplink is gone for so long that the connection is, too: with its return all is well again,
/// whatever the pause between attempts was at.
#[test]
fn an_uplink_that_comes_back() {
    let roaming = Roaming::new(Version::V27, Transport::Udp4, "keepalive 1 4\n");
    let (_server, mut client) = roaming.start("connect-retry 100 300\nserver-poll-timeout 3\n");
    roaming.client_does("ip link set eth0 down");
    client.wait(RECONNECTING, SOON).unwrap();
    client.listen(Duration::from_secs(10));
    let since = Instant::now();
    roaming.client_does("ip link set eth0 up; ip route replace default via 198.51.100.1 dev eth0");
    client.wait(CONNECTED, RESUMES).unwrap();
    roaming.lab.ping("192.0.2.1").unwrap();
    println!("connected {:?} after the uplink's return", since.elapsed());
    assert_eq!(client.stop(Signal::SIGTERM).code, Some(0));
}

/// A process that was stopped for so long that the server has forgotten it (as while the machine
/// sleeps) looks after the server at once, whatever its own keepalive timeout.
#[test]
fn a_process_that_was_stopped() {
    let roaming = Roaming::new(Version::V26, Transport::Udp4, "keepalive 1 5\n");
    let (server, mut client) =
        roaming.start("pull-filter ignore \"ping-restart\"\nping-restart 300\n");
    client.signal(Signal::SIGSTOP);
    server.wait_log("Inactivity timeout", SOON);
    std::thread::sleep(Duration::from_secs(8));
    client.signal(Signal::SIGCONT);
    let since = Instant::now();
    client.wait(RECONNECTING, RESUMES).unwrap();
    client.wait(CONNECTED, RESUMES).unwrap();
    roaming.lab.ping("192.0.2.1").unwrap();
    println!("connected {:?} after it went on", since.elapsed());
    assert_eq!(client.stop(Signal::SIGTERM).code, Some(0));
}
