//! What people have reported of clients of this kind, tried here. Each names where.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::client::RECONNECTING;
use crate::host::{Host, Run, SERVER};
use crate::server::Scenario;

const LIMIT: Duration = Duration::from_secs(20);
const LOGIN: &str = "<auth-user-pass>\nada\nright one\n</auth-user-pass>\n";
const TOKEN: &str = "SESS_ID_AT_TOKENTOKEN";

/// Waits until `lines` of output have been shown, at most; how much of a processor that took.
fn idle(run: &mut Run<'_>, duration: Duration) -> (usize, Duration) {
    let (lines, time) = (run.client.count(""), run.usage().time);
    run.client.listen(duration);
    (run.client.count("") - lines, run.usage().time - time)
}

/// A server that restarts says nothing about its tokens, mostly, and they may still be good. OpenVPN
/// issue #1099: OpenVPN 2.7.8 begins with the token then, whatever the flags; a user who has logged in
/// on a web page would have to do so again.
#[test]
fn a_token_outlives_a_restart() {
    for restart in ["RESTART", "RESTART,[N]:maintenance", "RESTART,[P]", "RESTART,[P]:maintenance"]
    {
        let host = Host::new();
        let scenario = Scenario::new(&format!("auth-token {TOKEN},")).tick(move |peer| {
            if peer.number == 0 && peer.once("restart", Duration::from_millis(300)) {
                peer.say(restart);
            }
        });
        let (server, mut run) = host.connected(scenario, LOGIN);
        run.client.wait(RECONNECTING, LIMIT).unwrap();
        run.connected();
        run.end(Signal::SIGTERM);
        let passwords: Vec<_> = server.logins().into_iter().map(|login| login.password).collect();
        assert_eq!(passwords, ["right one", TOKEN], "{restart}");
    }
}

/// The network goes while the tunnel is in use: neither the log nor a processor is filled with it.
/// OpenVPN for Android issue #765, OpenVPN issue #190.
#[test]
fn a_network_that_is_gone_is_no_flood() {
    let host = Host::new();
    let (_server, mut run) = host.connected(Scenario::new(""), "verb 4\n");
    let traffic = host.client_ns.run(|| UdpSocket::bind("10.66.0.2:0").unwrap());
    host.client_ns.sh("ip link set eth0 down");
    let sending = std::thread::spawn(move || {
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end {
            // Packets are lost, as on any link.
            let _ = traffic.send_to(&[0; 1000], "10.66.0.1:9");
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let (lines, time) = idle(&mut run, Duration::from_secs(5));
    sending.join().unwrap();
    assert!(lines < 50, "{lines} lines:\n{}", run.client.transcript());
    assert!(time < Duration::from_secs(2), "{time:?} of a processor");
    host.restore_uplink();
    run.end(Signal::SIGTERM);
}

/// An uplink that comes again, with IPv6 this time, does not lead past a tunnel that blocks it.
/// Rafficer/linux-cli-community issue #59.
#[test]
fn ipv6_that_comes_later_stays_blocked() {
    let host = Host::new();
    let ns = &host.client_ns;
    let push = Scenario::new("redirect-gateway def1,block-ipv6,");
    let (_server, run) = host.connected(push, "");
    let leads = || ns.succeeds("ip -6 route get 2001:db8:ffff::1");
    ns.sysctl("net/ipv6/conf/eth0/disable_ipv6", "0");
    for metric in [1, 4096] {
        ns.sh("ip link set eth0 down; ip link set eth0 up; ip -6 addr add 2001:db8::2/64 dev eth0");
        ns.sh(&format!("ip -6 route add default via 2001:db8::1 dev eth0 metric {metric}"));
        assert!(!leads(), "{}", ns.sh("ip -6 route get 2001:db8:ffff::1"));
    }
    ns.sh("ip -6 route add 2001:db8:ffff::1 via 2001:db8::1 dev eth0");
    assert!(leads(), "the test can tell");
    ns.sysctl("net/ipv6/conf/eth0/disable_ipv6", "1");
    ns.sh("ip link set eth0 down");
    host.restore_uplink();
    run.end(Signal::SIGTERM);
}

/// Routes with metrics go with the connection, and come with the next one. OpenVPN issue #315. A
/// metric for all of them counts wherever in the push it stands. OpenVPN issue #574.
#[test]
fn routes_with_metrics_come_and_go() {
    const ROUTES: &str =
        "route 10.101.24.0 255.255.255.0 vpn_gateway 1000,route 10.102.0.0 255.255.0.0,";
    for push in [format!("{ROUTES}route-metric 10,"), format!("route-metric 10,{ROUTES}")] {
        for extra in ["", "persist-tun\n"] {
            let host = Host::new();
            let scenario = Scenario::new(&push).tick(|peer| {
                if peer.number == 0 && peer.once("restart", Duration::from_millis(300)) {
                    peer.say("RESTART");
                }
            });
            let (_server, mut run) = host.connected(scenario, extra);
            let shown = |network: &str| host.client_ns.sh(&format!("ip route show {network}"));
            let check = || {
                assert!(shown("10.101.24.0/24").contains("metric 1000"), "{push}");
                assert!(shown("10.102.0.0/16").contains("metric 10 "), "{push}");
            };
            check();
            run.client.wait(RECONNECTING, LIMIT).unwrap();
            run.connected();
            check();
            let ending = run.end(Signal::SIGTERM);
            assert!(!ending.transcript.contains("left out"), "{}", ending.transcript);
        }
    }
}

/// The default route is as it was, with its metric and whose it is. openfortivpn issue #252.
#[test]
fn the_default_route_stays_who_it_was() {
    for redirect in ["redirect-gateway,", "redirect-gateway def1,"] {
        let host = Host::new();
        host.client_ns.sh(
            "ip route del default; \
             ip route add default via 198.51.100.1 dev eth0 proto dhcp src 198.51.100.2 metric 100",
        );
        let before = host.client_ns.sh("ip route show default");
        let (_server, run) = host.connected(Scenario::new(redirect), "");
        assert!(host.client_ns.sh("ip route get 203.0.113.7").contains("tun"), "{redirect}");
        run.end(Signal::SIGTERM);
        assert_eq!(host.client_ns.sh("ip route show default"), before);
    }
}

/// No pause between attempts is no busy loop, and a restart still works. OpenVPN issue #194.
#[test]
fn attempts_without_a_pause_are_no_busy_loop() {
    let host = Host::new();
    // Nobody listens there yet: each packet is refused.
    let mut run = host.start("connect-retry 0 0\nverb 4\n");
    let (lines, time) = idle(&mut run, Duration::from_secs(4));
    assert!(lines < 200, "{lines} lines:\n{}", run.client.transcript());
    assert!(time < Duration::from_secs(1), "{time:?} of a processor");
    let _server = host.serve(SERVER, Scenario::new(""));
    run.connected();
    run.client.signal(Signal::SIGUSR1);
    run.connected();
    run.end(Signal::SIGTERM);
}
