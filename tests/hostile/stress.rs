//! Many connections, each with another push: none leaves anything behind, neither on the host nor in
//! the process.
//!
//! `OVPN_STRESS_CONNECTS=1000` makes them as many.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::client::CONNECTED;
use crate::host::{Host, SERVER};
use crate::server::{Peer, Scenario};

/// Of each test.
const CONNECTS: u32 = 12;
/// After these a process has all that it ever keeps.
const FIRST: u32 = 4;
/// Another connection, on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);
/// What looks at the host from time to time has a descriptor while it does.
const A_MOMENT: Duration = Duration::from_secs(5);
/// Memory of an allocator that has not settled yet, in KiB.
const SLACK: u64 = 4096;

fn connects() -> u32 {
    let wanted = std::env::var("OVPN_STRESS_CONNECTS").ok();
    wanted.map_or(CONNECTS, |count| count.parse().expect("a number"))
}

/// A push reply with some of everything that configures a host.
fn push(rng: &mut StdRng) -> String {
    let mut options = vec!["PUSH_REPLY".to_owned()];
    let (subnet, host) = (rng.random_range(0..4), rng.random_range(2..250));
    match rng.random_range(0..3) {
        0 => options.push(format!("topology net30,ifconfig 10.66.{subnet}.6 10.66.{subnet}.5")),
        1 => options.push(format!("topology p2p,ifconfig 10.66.{subnet}.{host} 10.67.0.1")),
        _ => options.push(format!(
            "topology subnet,route-gateway 10.66.{subnet}.1,ifconfig 10.66.{subnet}.{host} \
             255.255.255.0"
        )),
    }
    if rng.random() {
        options.push(format!("ifconfig-ipv6 fd66::{host}/64 fd66::1"));
    }
    for _ in 0..rng.random_range(0..12) {
        let (network, metric) = (rng.random_range(70..90), rng.random_range(0..3));
        options.push(match rng.random_range(0..4) {
            0 => format!("route 10.{network}.0.0 255.255.0.0 vpn_gateway {metric}"),
            1 => format!("route 10.{network}.0.0 255.255.0.0 net_gateway"),
            2 => format!("route-ipv6 fd{network}::/32"),
            _ => format!("route 10.{network}.0.0 255.255.0.0"),
        });
    }
    for (option, one_in) in [
        ("redirect-gateway def1", 3),
        ("redirect-gateway def1 ipv6 block-local", 4),
        ("block-ipv6", 4),
        ("tun-mtu 1380", 4),
        ("dhcp-option DNS 10.66.0.1", 2),
        ("dns server 1 address 10.66.0.1 10.66.0.2,dns search-domains a.example b.example", 3),
        ("dhcp-option DOMAIN c.example", 3),
    ] {
        if rng.random_range(0..one_in) == 0 {
            options.push(option.to_owned());
        }
    }
    options.push(
        "ping 10,ping-restart 120,peer-id 0,cipher AES-256-GCM,\
         protocol-flags cc-exit tls-ekm dyn-tls-crypt"
            .to_owned(),
    );
    options.join(",")
}

/// Pushes something else to each client, or to the same one each time.
fn changing(seed: u64) -> Scenario {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut last = None;
    Scenario::new("").received(move |peer: &mut Peer, _| {
        if last != Some(peer.server.session_id()) {
            last = Some(peer.server.session_id());
            peer.server.config.push = vec![push(&mut rng)];
        }
    })
}

/// [`crate::host::Run::end`] compares the host.
#[test]
fn processes_leave_nothing() {
    let host = Host::new();
    let _server = host.serve(SERVER, changing(1));
    for _ in 0..connects() {
        let mut run = host.start("");
        run.connected();
        run.end(Signal::SIGTERM);
    }
}

#[test]
fn connections_of_one_process_leave_nothing() {
    let host = Host::new();
    let _server = host.serve(SERVER, changing(2));
    let mut run = host.start("persist-tun\n");
    run.connected();
    let mut first = None;
    for number in 1..connects() {
        run.client.signal(Signal::SIGUSR1);
        run.client.wait(CONNECTED, LIMIT).unwrap_or_else(|e| panic!("{e}"));
        let mut now = Held::of(run.client.id());
        let first = *if number < FIRST { first.insert(now) } else { first.get_or_insert(now) };
        let since = Instant::now();
        while now.descriptors > first.descriptors || now.memory > first.memory + SLACK {
            assert!(since.elapsed() < A_MOMENT, "connection {number}: {now:?}, at first {first:?}");
            std::thread::sleep(Duration::from_millis(20));
            now = Held::of(run.client.id());
        }
    }
    run.end(Signal::SIGTERM);
}

/// What a process holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    descriptors: usize,
    /// Private memory, in KiB.
    memory: u64,
}

impl Held {
    fn of(process: u32) -> Self {
        let descriptors = fs::read_dir(format!("/proc/{process}/fd")).expect("process").count();
        let status = fs::read_to_string(format!("/proc/{process}/status")).expect("process");
        let memory = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let memory = memory.and_then(|line| line.split_whitespace().next()?.parse().ok());
        Self { descriptors, memory: memory.expect("RssAnon") }
    }
}
