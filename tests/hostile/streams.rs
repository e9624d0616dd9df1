//! Servers over TCP that close the stream, or read nothing from it.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::client::{AUTH_FAILED, RECONNECTING};
use crate::host::{Host, SERVER};
use crate::server::Scenario;

const TCP: &str = "proto tcp\n";
const A_WHILE: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(10);

/// Every connection lives until its server ends it, and the reason is the server's: nothing that
/// the stream before had left behind, and not that the stream is closed.
#[test]
fn restart_and_close_again_and_again() {
    let host = Host::new();
    let scenario = Scenario::new("route 10.77.0.0 255.255.0.0,").over_tcp().tick(|peer| {
        if peer.once("restart", A_WHILE) {
            peer.say("RESTART,[P]maintenance");
            peer.close = true;
        }
    });
    let (_server, mut run) = host.connected(scenario, &format!("{TCP}persist-tun\n"));
    for _ in 0..4 {
        let connected = Instant::now();
        run.client.wait(RECONNECTING, LONG).unwrap();
        assert!(connected.elapsed() > A_WHILE / 2, "after {:?}", connected.elapsed());
        run.connected();
    }
    let ending = run.end(Signal::SIGTERM);
    let reasons: Vec<_> =
        ending.transcript.lines().filter(|line| line.contains("connection lost")).collect();
    let told = |line: &&str| line.contains("the server restarts: maintenance");
    assert!(reasons.len() >= 4 && reasons.iter().all(told), "{reasons:#?}");
}

/// A refusal counts as one although the server hangs up with it.
#[test]
fn refused_and_closed() {
    for round in 0..3 {
        let host = Host::new();
        let scenario = Scenario::new("").over_tcp().keyed(|peer| {
            peer.say("AUTH_FAILED,not today");
            peer.close = true;
        });
        let _server = host.serve(SERVER, scenario);
        let login = "<auth-user-pass>\nada\nright one\n</auth-user-pass>\n";
        let ending = host.start(&format!("{TCP}{login}")).ends(LONG);
        assert_eq!(ending.code, Some(3), "round {round}: {}", ending.transcript);
        assert!(ending.message(AUTH_FAILED).contains("not today"), "{}", ending.transcript);
    }
}

/// The server reads nothing any more and wants answers all the same: the client answers its user,
/// does not grow, and ends as asked.
#[test]
fn deaf() {
    for push in [true, false] {
        let host = Host::new();
        let mut packet = None;
        let scenario = Scenario::new("route 10.77.0.0 255.255.0.0,").over_tcp();
        let scenario = if push { scenario } else { scenario.without_push() };
        let scenario = scenario
            .reads(move |peer| match push {
                true => peer.since_push().is_none_or(|since| since < A_WHILE),
                false => !peer.is_keyed(),
            })
            .tick(move |peer| {
                if push && peer.since_push().is_none_or(|since| since < 2 * A_WHILE) {
                    return;
                }
                let packet = packet.get_or_insert_with(|| {
                    peer.say("INFO,again and again");
                    peer.server.poll_transmit(Instant::now()).unwrap()
                });
                peer.raw.extend(vec![packet.clone(); 200]);
            });
        // Small buffers are full soon.
        let extra = format!("{TCP}sndbuf 2048\nrcvbuf 2048\n");
        let _server = host.serve(SERVER, scenario);
        let mut run = host.start(&extra);
        if push {
            run.connected();
        } else {
            run.client.listen(Duration::from_secs(1));
        }
        let before = run.usage();
        run.client.listen(Duration::from_secs(3));
        run.client.statistics();
        let grown = run.usage().peak - before.peak;
        assert!(grown < 8 * 1024, "push {push}: {grown} KiB more");
        run.end(Signal::SIGTERM);
    }
}
