//! Renegotiation, bad links, and servers that go away.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::client::{CONNECTED, RECONNECTING};
use crate::lab::{Lab, plain};
use crate::netns::Impairment;
use crate::server::{ServerConfig, Transport, Version};

/// New keys every few seconds while echoes fly: none may be lost. 500 a second for 16 s.
fn renegotiation(version: Version, transport: Transport, server: &str, client: &str) {
    let lab = Lab::new();
    let mut extra = server.to_owned();
    if matches!(transport, Transport::Tcp4 | Transport::Tcp6) {
        // Or the server's kernel keeps the very last answer until ours acknowledges the one before
        // (Nagle's algorithm, 40 ms), and ping has gone by then: it waits for twice the longest
        // round trip only.
        extra += "socket-flags TCP_NODELAY\n";
    }
    let config = ServerConfig { extra, ..plain(version, transport) };
    let server = lab.start_server(&config);
    let mut running = lab.start_client(&lab.profile(&config, client), &[]);
    running.wait(CONNECTED, Duration::from_secs(15)).unwrap();
    // Addresses and neighbours settle; the first packets are another test's subject.
    lab.ping("10.8.0.1").unwrap();
    if let Err(error) = lab.ping_with("-n -q -i 0.002 -c 8000 -W 3 10.8.0.1") {
        // Its statistics tell which side threw the packet away.
        running.signal(Signal::SIGUSR2);
        std::thread::sleep(Duration::from_millis(200));
        let ending = running.stop(Signal::SIGTERM);
        let server: Vec<String> =
            server.log().lines().filter(|line| !line.contains("   ")).map(str::to_owned).collect();
        panic!("{version:?} {transport:?}: {error}\n{}\n{}", ending.transcript, server.join("\n"));
    }
    // Each negotiation says once what it has agreed on; the first is not a renegotiation.
    let keys = server.log_count("Control Channel: TLS");
    assert!(keys >= 4, "only {keys} negotiations:\n{}", server.log());
    assert!(
        !running.statuses.iter().any(|(code, _)| *code == RECONNECTING),
        "it reconnected: {:?}",
        running.statuses
    );
}

#[test]
fn server_renegotiates_under_flood_udp_2_6() {
    renegotiation(Version::V26, Transport::Udp4, "reneg-sec 4\n", "reneg-sec 0\n");
}

#[test]
fn server_renegotiates_under_flood_udp_2_7() {
    renegotiation(Version::V27, Transport::Udp4, "reneg-sec 4\n", "reneg-sec 0\n");
}

#[test]
fn client_renegotiates_under_flood_udp_2_6() {
    renegotiation(Version::V26, Transport::Udp6, "reneg-sec 0\n", "reneg-sec 4\n");
}

#[test]
fn client_renegotiates_under_flood_tcp_2_7() {
    renegotiation(Version::V27, Transport::Tcp4, "reneg-sec 0\n", "reneg-sec 4\n");
}

#[test]
fn both_renegotiate_under_flood_tcp_2_6() {
    renegotiation(Version::V26, Transport::Tcp4, "reneg-sec 5\n", "reneg-sec 4\n");
}

/// Data in both directions over a bad wire, with new keys meanwhile; the same connection at its end.
fn bad_wire(version: Version, transport: Transport, cipher: &'static str, impairment: Impairment) {
    let lab = Lab::with_impairment(impairment);
    let config = ServerConfig {
        extra: "keepalive 2 20\nreneg-sec 6\n".to_owned(),
        cipher,
        ..plain(version, transport)
    };
    let server = lab.start_server(&config);
    let mut client = lab.start_client(&lab.profile(&config, ""), &[]);
    let failed = |error: String| -> ! {
        panic!("{version:?} {transport:?} {cipher}: {error}\n{}", server.log())
    };
    client.wait(CONNECTED, Duration::from_secs(30)).unwrap_or_else(|e| failed(e));
    for address in ["10.8.0.1", "fd00:8::1"] {
        lab.transfer(address, 300_000).unwrap_or_else(|e| failed(e));
    }
    assert!(!client.statuses.iter().any(|(code, _)| *code == RECONNECTING));
}

#[test]
fn five_percent_loss_and_fifty_milliseconds() {
    let impairment = Impairment {
        loss: 0.05,
        delay: Duration::from_millis(50),
        seed: 20_26,
        ..Impairment::default()
    };
    for (version, transport) in [
        (Version::V26, Transport::Udp4),
        (Version::V27, Transport::Udp6),
        (Version::V27, Transport::Tcp4),
    ] {
        bad_wire(version, transport, "AES-256-GCM", impairment);
    }
}

/// Packets that overtake each other, come twice or not at all.
#[test]
fn reordered_and_doubled() {
    let impairment = Impairment {
        loss: 0.01,
        delay: Duration::from_millis(5),
        reorder: 0.1,
        duplicate: 0.05,
        seed: 20_27,
    };
    for (version, transport, cipher) in [
        (Version::V26, Transport::Udp4, "AES-128-GCM"),
        (Version::V27, Transport::Udp4, "CHACHA20-POLY1305"),
        (Version::V27, Transport::Udp6, "AES-192-GCM"),
        (Version::V26, Transport::Tcp6, "AES-256-GCM"),
    ] {
        bad_wire(version, transport, cipher, impairment);
    }
}

/// Data and new keys for a long time: memory and descriptors stay what they were. Twenty seconds;
/// `OVPN_SOAK_SECONDS` makes it longer.
#[test]
fn soak() {
    let seconds = std::env::var("OVPN_SOAK_SECONDS").map_or(20, |s| s.parse().expect("seconds"));
    let lab = Lab::new();
    let extra = "keepalive 2 20\nreneg-sec 3\n".to_owned();
    let config = ServerConfig { extra, ..plain(Version::V27, Transport::Udp4) };
    let server = lab.start_server(&config);
    let mut client = lab.start_client(&lab.profile(&config, ""), &[]);
    client.wait(CONNECTED, Duration::from_secs(15)).unwrap();
    let process = client.id();
    let usage = || {
        let descriptors = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().count();
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        (descriptors, line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap())
    };
    let start = Instant::now();
    let mut moved = 0;
    let mut early = None;
    while start.elapsed() < Duration::from_secs(seconds) {
        for address in ["10.8.0.1", "fd00:8::1"] {
            lab.transfer(address, 1_000_000).unwrap_or_else(|e| panic!("{e}\n{}", server.log()));
            moved += 2;
        }
        // Two renegotiations: every buffer has been in use by then.
        if start.elapsed() > Duration::from_secs(8) && early.is_none() {
            early = Some(usage());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let (early, late) = (early.expect("long enough"), usage());
    let keys = server.log_count("Control Channel: TLS");
    println!("{moved} MB, {keys} keys; descriptors and KiB resident {early:?}, then {late:?}");
    assert!(keys as u64 >= seconds / 6, "only {keys} negotiations:\n{}", server.log());
    assert_eq!(early.0, late.0, "descriptors");
    assert!(late.1 < early.1 + 1024, "{} KiB, then {} KiB", early.1, late.1);
    assert!(!client.statuses.iter().any(|(code, _)| *code == RECONNECTING));
}

/// The server is killed and comes back: so does the tunnel, without a new process.
#[test]
fn server_killed_and_started_again() {
    for (version, transport) in [
        (Version::V26, Transport::Udp4),
        (Version::V27, Transport::Udp4),
        (Version::V27, Transport::Tcp4),
    ] {
        let lab = Lab::new();
        let config = plain(version, transport);
        let server = lab.start_server(&config);
        let mut client = lab.start_client(&lab.profile(&config, ""), &[]);
        client.wait(CONNECTED, Duration::from_secs(15)).unwrap();
        lab.ping("10.8.0.1").unwrap();
        server.signal(Signal::SIGKILL);
        drop(server);
        // The server pushed "ping-restart 5"; a closed TCP connection is noticed at once.
        client.wait(RECONNECTING, Duration::from_secs(10)).unwrap();
        let again = lab.start_server(&config);
        client
            .wait(CONNECTED, Duration::from_secs(20))
            .unwrap_or_else(|e| panic!("{version:?} {transport:?}: {e}\n{}", again.log()));
        lab.ping("10.8.0.1").unwrap();
    }
}

/// A server that ends says so; the client need not wait for silence.
#[test]
fn server_ends_with_a_notice() {
    let lab = Lab::new();
    let config = ServerConfig {
        extra: "explicit-exit-notify 1\nkeepalive 20 120\n".to_owned(),
        ..plain(Version::V27, Transport::Udp4)
    };
    let server = lab.start_server(&config);
    let mut client = lab.start_client(&lab.profile(&config, ""), &[]);
    client.wait(CONNECTED, Duration::from_secs(15)).unwrap();
    let start = Instant::now();
    server.signal(Signal::SIGTERM);
    client.wait(RECONNECTING, Duration::from_secs(5)).unwrap();
    assert!(start.elapsed() < Duration::from_secs(5));
}

/// The server hears of a client that ends.
#[test]
fn client_says_goodbye() {
    for (transport, notice) in [(Transport::Udp4, "SIGTERM"), (Transport::Tcp4, "SIG")] {
        let lab = Lab::new();
        let config = ServerConfig {
            extra: "keepalive 20 120\n".to_owned(),
            ..plain(Version::V27, transport)
        };
        let server = lab.start_server(&config);
        let profile = lab.profile(&config, "explicit-exit-notify 1\n");
        let mut client = lab.start_client(&profile, &[]);
        client.wait(CONNECTED, Duration::from_secs(15)).unwrap();
        assert_eq!(client.stop(Signal::SIGTERM).code, Some(0));
        server.wait_log(notice, Duration::from_secs(8));
    }
}

/// SIGUSR1 connects again; the push is the same, so nothing of the network changes.
#[test]
fn restart_on_signal_changes_nothing() {
    let lab = Lab::new();
    let config = ServerConfig {
        extra: "push \"route 192.0.2.0 255.255.255.0\"\n".to_owned(),
        ..plain(Version::V27, Transport::Udp4)
    };
    let _server = lab.start_server(&config);
    let mut client = lab.start_client(&lab.profile(&config, "persist-tun\n"), &[]);
    client.wait(CONNECTED, Duration::from_secs(15)).unwrap();
    let before = lab.client_ns.snapshot();
    client.signal(Signal::SIGUSR1);
    client.wait(CONNECTED, Duration::from_secs(15)).unwrap();
    before.assert_same(&lab.client_ns.snapshot());
    lab.ping("192.0.2.1").unwrap();
}

/// `auth-nocache` forgets what somebody typed. A certificate and a password in the profile are not
/// typed: connecting again and new keys go on without anybody.
#[test]
fn nothing_to_forget_with_auth_nocache() {
    let lab = Lab::new();
    let script = lab.script(
        "verify",
        "#!/bin/sh\n[ \"$username\" = ada ] && [ \"$password\" = 'right one' ]\n",
    );
    let password = format!("script-security 3\nauth-user-pass-verify {script} via-env\n");
    let login = "<auth-user-pass>\nada\nright one\n</auth-user-pass>\n";
    for (server, client) in [("", ""), (password.as_str(), login)] {
        for pushed in ["", "push auth-nocache\n"] {
            let config = ServerConfig {
                extra: format!("{server}{pushed}keepalive 1 10\n"),
                ..plain(Version::V27, Transport::Udp4)
            };
            let server = lab.start_server(&config);
            let profile = lab.profile(&config, &format!("{client}auth-nocache\nreneg-sec 4\n"));
            let mut client = lab.start_client(&profile, &[]);
            client.wait(CONNECTED, Duration::from_secs(15)).unwrap();
            client.signal(Signal::SIGUSR1);
            client
                .wait(CONNECTED, Duration::from_secs(15))
                .unwrap_or_else(|e| panic!("{e}\n{}", server.log()));
            let before = client.statuses.len();
            lab.ping_with("-n -q -i 0.05 -c 120 -W 2 10.8.0.1")
                .unwrap_or_else(|e| panic!("{e}\n{}", server.log()));
            let keys = server.log_count("Control Channel: TLS");
            assert!(keys >= 3, "only {keys} negotiations:\n{}", server.log());
            let ending = client.stop(Signal::SIGTERM);
            assert_eq!(ending.code, Some(0), "{}", ending.transcript);
            let again = ending.statuses[before..].iter().any(|(code, _)| *code == RECONNECTING);
            assert!(!again, "{}", ending.transcript);
        }
    }
}
