//! How large packets are follows the way to the server: nothing leaves in two pieces that could leave
//! in one.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use socket2::{Domain, Protocol, Socket, Type};

use crate::client::{CONNECTED, Client};
use crate::lab::{Lab, plain};
use crate::server::{Server, Transport, Version};

const SOON: Duration = Duration::from_secs(20);

/// The kernel's link is as `mssfix` wants packets.
fn offloaded() -> bool {
    std::env::var_os("OVPN_TEST_DCO").is_some()
}

/// Of header, packet id and tag; 4 are of the epoch keys that a server of 2.7 has, and no kernel.
const fn overhead(offloaded: bool) -> u32 {
    if offloaded { 24 } else { 28 }
}

/// What a wire of 1500 bytes gives.
fn usual() -> u32 {
    if offloaded() { 1440 } else { 1500 }
}

fn connected(lab: &Lab, transport: Transport, extra: &str) -> (Server, Client) {
    let config = plain(Version::V27, transport);
    let server = lab.start_server(&config);
    let mut client = lab.start_client(&lab.profile(&config, extra), &[]);
    client.wait(CONNECTED, SOON).unwrap_or_else(|e| panic!("{e}\n{}", server.log()));
    (server, client)
}

fn mtu(lab: &Lab) -> u32 {
    let link: serde_json::Value =
        serde_json::from_str(&lab.client_ns.sh("ip -j link show tun0")).unwrap();
    link[0]["mtu"].as_u64().unwrap() as u32
}

fn expect(lab: &Lab, client: &mut Client, expected: u32, why: &str) {
    let since = Instant::now();
    while mtu(lab) != expected {
        if since.elapsed() > SOON {
            client.listen(Duration::from_millis(100));
            panic!("{why}: {} and not {expected}\n{}", mtu(lab), client.transcript());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Packets that the client's machine, or the server's, has cut into pieces.
fn fragmented(lab: &Lab) -> u64 {
    let count = |ns: &crate::netns::NetNs| -> u64 {
        let text = ns.sh("cat /proc/net/snmp /proc/net/snmp6");
        let ipv4: Vec<_> = text.lines().filter(|line| line.starts_with("Ip: ")).collect();
        let column = ipv4[0].split(' ').position(|name| name == "FragCreates").unwrap();
        let ipv6 = text.lines().find_map(|line| line.strip_prefix("Ip6FragCreates")).unwrap();
        let parse = |text: &str| text.trim().parse::<u64>().unwrap();
        parse(ipv4[1].split(' ').nth(column).unwrap()) + parse(ipv6)
    };
    count(&lab.client_ns) + count(&lab.server_ns)
}

/// Before the connection, and while it lasts: LTE, PPPoE, as usual, less than IPv6 in the tunnel can
/// live with.
#[test]
fn the_uplink_changes() {
    for (transport, header) in [(Transport::Udp4, 20 + 8), (Transport::Udp6, 40 + 8)] {
        let lab = Lab::new();
        let wire = |mtu: u32| {
            for ns in [&lab.client_ns, &lab.server_ns] {
                ns.sh(&format!("ip link set eth0 mtu {mtu}"));
            }
        };
        wire(1400);
        let (server, mut client) = connected(&lab, transport, "");
        let fits = |mtu: u32| mtu - header - overhead(offloaded());
        assert_eq!(mtu(&lab), fits(1400), "{}", client.transcript());
        let usual = if offloaded() { fits(1492) } else { 1500 };
        for (outer, inner) in [
            (1400, fits(1400)),
            (1492, fits(1492)),
            (1500, usual),
            (1300, 1280),
            (1400, fits(1400)),
        ] {
            wire(outer);
            expect(&lab, &mut client, inner, &format!("{transport:?}, {outer}"));
            let before = fragmented(&lab);
            lab.transfer("10.8.0.1", 1_000_000).unwrap();
            if fits(outer) == inner {
                let full = inner - 28;
                lab.ping_with(&format!("-n -q -c 20 -i 0.02 -s {full} -W 2 10.8.0.1")).unwrap();
            }
            // A link that has to take 1280 bytes has the kernel send as many.
            if fits(outer) >= inner || !offloaded() {
                assert_eq!(fragmented(&lab), before, "{transport:?}, {outer}");
            }
        }
        assert_eq!(server.log_count("Peer Connection Initiated"), 1, "{}", server.log());
        let ending = client.stop(Signal::SIGTERM);
        assert_eq!(ending.code, Some(0), "{}", ending.transcript);
    }
}

/// The profile wants nothing looked after.
#[test]
fn switched_off() {
    let lab = Lab::new();
    lab.client_ns.sh("ip link set eth0 mtu 1400");
    let (_server, mut client) = connected(&lab, Transport::Udp4, "mssfix 0\n");
    assert_eq!(mtu(&lab), 1500, "{}", client.transcript());
    assert_eq!(client.stop(Signal::SIGTERM).code, Some(0));
}

/// A router on the way, where the wire itself takes more; and somebody who says that it takes next to
/// nothing.
#[test]
fn a_router_says_so() {
    let lab = Lab::new();
    let (_server, mut client) = connected(&lab, Transport::Udp4, "");
    expect(&lab, &mut client, usual(), "at first");
    let port = client_port(&lab);
    packet_too_big(&lab, port, 1400);
    expect(&lab, &mut client, 1400 - 28 - overhead(offloaded()), "a router");
    packet_too_big(&lab, port, 68);
    expect(&lab, &mut client, 1280, "not less than IPv6 takes");
    lab.transfer("10.8.0.1", 1_000_000).unwrap();
    // The kernel forgets what it was told after ten minutes, or so.
    lab.client_ns.sh("ip route flush cache");
    expect(&lab, &mut client, usual(), "forgotten");
    assert_eq!(client.stop(Signal::SIGTERM).code, Some(0));
}

/// The one that the client talks to port 1194 from.
fn client_port(lab: &Lab) -> u16 {
    let sockets = lab.client_ns.sh("cat /proc/net/udp");
    let mut words = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let socket = words.find(|words| words.get(2).is_some_and(|remote| remote.ends_with(":04AA")));
    u16::from_str_radix(socket.unwrap()[1].split_once(':').unwrap().1, 16).unwrap()
}

/// From the server's machine: a packet from that port to the server was larger than `mtu` (ICMP type
/// 3, code 4; RFC 1191).
fn packet_too_big(lab: &Lab, port: u16, mtu: u16) {
    let client = Ipv4Addr::new(198, 51, 100, 2);
    let server = Ipv4Addr::new(198, 51, 100, 1);
    let mut message = vec![3, 4, 0, 0, 0, 0];
    message.extend(mtu.to_be_bytes());
    message.extend([0x45, 0, 0x05, 0xdc, 0, 1, 0x40, 0, 64, 17, 0, 0]);
    message.extend(client.octets());
    message.extend(server.octets());
    message.extend(port.to_be_bytes());
    message.extend([0x04, 0xaa, 0x05, 0xc8, 0, 0]);
    let words = message.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    message[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    lab.server_ns.run(|| {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).unwrap();
        let to = SocketAddr::from((client, 0));
        assert_eq!(socket.send_to(&message, &to.into()).unwrap(), message.len());
    });
}
