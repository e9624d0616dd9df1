//! The route to the server leads into the tunnel: packets to it are dropped there, after everything
//! that a connection can go through, until a new connection has put the route back.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::client::{CONNECTED, Client, RECONNECTING};
use crate::lab::{Lab, plain};
use crate::server::{Server, ServerConfig, Transport, Version};

const SOON: Duration = Duration::from_secs(30);
const ELSEWHERE: &str = "198.51.100.3";

/// A tunnel made anew for another server, because the first does not come back.
#[test]
fn packets_to_a_server_found_elsewhere_do_not_go_round() {
    let lab = Lab::new();
    lab.server_ns.add_address("eth0", &format!("{ELSEWHERE}/24"));
    let config = plain(Version::V26, Transport::Udp4);
    let server = lab.start_server(&config);
    let second = format!("remote {ELSEWHERE} 1194 udp4\nserver-poll-timeout 3\n");
    let mut client = lab.start_client(&lab.profile(&config, &second), &["--dco", "off"]);
    client.wait(CONNECTED, SOON).unwrap();
    drop(server);
    client.wait(RECONNECTING, SOON).unwrap();
    // The last `local` counts, in 2.6.
    let moved = ServerConfig { extra: format!("local {ELSEWHERE}\n"), ..config };
    let server = lab.start_server(&moved);
    client.wait(CONNECTED, SOON).unwrap_or_else(|e| panic!("{e}\n{}", server.log()));
    lab.ping("10.8.0.1").unwrap();

    led_into_the_tunnel(&lab, &server, &mut client, ELSEWHERE);
}

/// A tunnel that stays while the connection is made anew.
#[test]
fn a_server_led_into_a_persistent_tunnel_is_reached_again() {
    let lab = Lab::new();
    let config = plain(Version::V27, Transport::Udp4);
    let server = lab.start_server(&config);
    let profile = lab.profile(&config, "persist-tun\n");
    let mut client = lab.start_client(&profile, &["--dco", "off"]);
    client.wait(CONNECTED, SOON).unwrap();
    led_into_the_tunnel(&lab, &server, &mut client, config.transport.address());
}

/// Somebody makes such a route. No loop, and the next connection is one.
fn led_into_the_tunnel(lab: &Lab, server: &Server, client: &mut Client, address: &str) {
    let counters = client.statistics();
    assert_eq!(counters["RECURSIVE_ROUTING"].as_u64().unwrap_or_default(), 0, "{counters}");
    lab.client_ns.sh(&format!("ip route replace {address} dev tun0"));
    lab.client_ns.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for _ in 0..20 {
            socket.send_to(b"round and round", "10.8.0.1:9").unwrap();
        }
    });
    let deadline = Instant::now() + SOON;
    loop {
        let counters = client.statistics();
        let count = |name: &str| counters[name].as_u64().unwrap_or_default();
        // Each that went in comes back once, as do keepalives and the like.
        assert!(count("RECURSIVE_ROUTING") < 1000 && count("PACKETS_OUT") < 1000, "{counters}");
        if count("RECURSIVE_ROUTING") >= 20 {
            break;
        }
        assert!(Instant::now() < deadline, "{counters}");
    }
    client.signal(Signal::SIGUSR1);
    client.wait(CONNECTED, SOON).unwrap_or_else(|e| panic!("{e}\n{}", server.log()));
    lab.ping("10.8.0.1").unwrap();
}
