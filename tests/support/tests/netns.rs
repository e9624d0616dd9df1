//! The namespace harness itself: what it builds works, and nothing stays.

#![expect(clippy::unwrap_used, reason = "tests end by panicking")]

use std::time::{Duration, Instant};

use ovpn_test_support::netns::{Impairment, NetNs, connect, connect_impaired};

fn pair() -> (NetNs, NetNs) {
    (NetNs::new("nwh"), NetNs::new("nwh"))
}

#[test]
fn a_veth_pair_carries_both_families_and_routes() {
    let (a, b) = pair();
    connect(&a, "eth0", &b, "eth1");
    a.add_address("eth0", "192.0.2.1/24");
    b.add_address("eth1", "192.0.2.2/24");
    a.add_address("eth0", "2001:db8::1/64");
    b.add_address("eth1", "2001:db8::2/64");
    b.add_address("lo", "198.51.100.1/32");
    a.add_route("198.51.100.0/24", Some("192.0.2.2"), Some("eth0"));
    a.run(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect("198.51.100.1:9").unwrap();
        assert_eq!(socket.local_addr().unwrap().ip().to_string(), "192.0.2.1");
    });
    for to in ["192.0.2.2", "198.51.100.1", "2001:db8::2"] {
        assert!(echoes(&a, &b, to), "{to}");
    }
}

#[test]
fn a_namespace_is_gone_after_a_panic_too() {
    let mut path = None;
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let ns = NetNs::new("nwh");
        path = Some(ns.path());
        ns.run(|| panic!("on purpose"));
    }));
    assert!(result.is_err());
    assert!(!path.unwrap().exists());
}

#[test]
fn the_snapshot_sees_every_kind_of_change() {
    let ns = NetNs::new("nwh");
    ns.add_bridge("br0");
    let before = ns.settled_snapshot();
    ns.add_address("br0", "192.0.2.1/24");
    ns.set_mtu("br0", 1400);
    ns.add_route("203.0.113.0/24", Some("192.0.2.9"), None);
    ns.sh("ip rule add fwmark 7 table 77");
    let after = ns.snapshot();
    let difference = before.difference(&after).join("\n");
    for word in ["+ link", "+ address", "+ route", "+ rule"] {
        assert!(difference.contains(word), "{word} in {difference}");
    }
    ns.sh("ip rule del fwmark 7 table 77; ip address del 192.0.2.1/24 dev br0; ip link set br0 mtu 1500");
    before.assert_same(&ns.settled_snapshot());
}

#[test]
fn an_impaired_link_delays_and_loses() {
    let (a, b) = pair();
    let impairment = Impairment {
        loss: 0.2,
        delay: Duration::from_millis(20),
        seed: 1,
        ..Impairment::default()
    };
    let _link = connect_impaired(&a, "eth0", &b, "eth0", impairment);
    a.add_address("eth0", "192.0.2.1/24");
    b.add_address("eth0", "192.0.2.2/24");
    let (received, fastest) = b.run(|| {
        let server = std::net::UdpSocket::bind("192.0.2.2:7").unwrap();
        server.set_read_timeout(Some(Duration::from_millis(1500))).unwrap();
        let start = Instant::now();
        std::thread::scope(|scope| {
            let a = &a;
            let sender = scope.spawn(move || {
                a.run(|| {
                    let client = std::net::UdpSocket::bind("192.0.2.1:0").unwrap();
                    for n in 0..500_u32 {
                        let sent = start.elapsed().as_micros() as u64;
                        let mut packet = sent.to_be_bytes().to_vec();
                        packet.extend(n.to_be_bytes());
                        client.send_to(&packet, "192.0.2.2:7").unwrap();
                        std::thread::sleep(Duration::from_millis(2));
                    }
                });
            });
            let mut received = 0;
            let mut fastest = Duration::MAX;
            let mut buffer = [0; 64];
            while let Ok((12, _)) = server.recv_from(&mut buffer) {
                let sent = u64::from_be_bytes(buffer[..8].try_into().unwrap());
                received += 1;
                fastest = fastest.min(start.elapsed() - Duration::from_micros(sent));
            }
            sender.join().unwrap();
            (received, fastest)
        })
    });
    assert!((300..=460).contains(&received), "20 % of 500 lost leaves about 400, not {received}");
    assert!(fastest >= Duration::from_millis(20), "a packet took {fastest:?}");
}

/// Sends a datagram from `a` to an address of `b` and waits for its echo.
fn echoes(a: &NetNs, b: &NetNs, to: &str) -> bool {
    let to = std::net::SocketAddr::new(to.parse().unwrap(), 7);
    let server = b.run(|| std::net::UdpSocket::bind(to).unwrap());
    let client = a.run(|| {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        std::net::UdpSocket::bind(any).unwrap()
    });
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    }
    client.send_to(b"echo", to).unwrap();
    let mut buffer = [0; 16];
    let (length, from) = server.recv_from(&mut buffer).unwrap();
    server.send_to(&buffer[..length], from).unwrap();
    client.recv_from(&mut buffer).is_ok_and(|(n, from)| &buffer[..n] == b"echo" && from == to)
}
