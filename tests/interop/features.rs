//! What servers push and profiles ask for, with real servers.

use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::client::{CONNECTED, Client, dco};
use crate::lab::{Lab, plain};
use crate::netns::NetNs;
use crate::server::{ServerConfig, Transport, Version};

/// Connects with these lines on either side.
fn connected(lab: &Lab, version: Version, server: &str, client: &str, check: impl Fn(&Lab)) {
    let config = ServerConfig { extra: server.to_owned(), ..plain(version, Transport::Udp4) };
    let server = lab.start_server(&config);
    let before = lab.client_ns.snapshot();
    let mut running = lab.start_client(&lab.profile(&config, client), &[]);
    running
        .wait(CONNECTED, Duration::from_secs(15))
        .unwrap_or_else(|e| panic!("{version:?}: {e}\n{}", server.log()));
    check(lab);
    assert_eq!(running.stop(Signal::SIGTERM).code, Some(0));
    before.assert_same(&lab.client_ns.snapshot());
}

#[test]
fn redirected_gateway_carries_everything_but_the_tunnel_itself() {
    let lab = Lab::new();
    connected(&lab, Version::V26, "push \"redirect-gateway def1 ipv6\"\n", "", |lab| {
        lab.ping("192.0.2.1").unwrap();
        let route = lab.client_ns.sh("ip route get 192.0.2.1");
        assert!(!route.contains("eth0"), "{route}");
        let route = lab.client_ns.sh("ip route get 198.51.100.1");
        assert!(route.contains("eth0"), "{route}");
        let route = lab.client_ns.sh("ip -6 route get 2001:db8:2::1");
        assert!(!route.contains("eth0"), "{route}");
    });
}

/// More than one PUSH_REPLY message holds.
#[test]
fn three_hundred_routes_in_a_continued_push() {
    let lab = Lab::new();
    for version in Version::ALL {
        let mut server = String::new();
        for n in 0..300 {
            server += &format!("push \"route 203.0.{}.{} 255.255.255.255\"\n", n / 250, n % 250);
        }
        connected(&lab, version, &server, "", |lab| {
            let routes = lab.client_ns.sh("ip route | grep -c ^203.0.");
            assert_eq!(routes.trim(), "300");
        });
    }
}

#[test]
fn routes_not_pulled_and_pushes_filtered() {
    let lab = Lab::new();
    let server =
        "push \"route 192.0.2.0 255.255.255.0\"\npush \"route 203.0.113.0 255.255.255.0\"\n";
    connected(&lab, Version::V27, server, "route-nopull\nroute 203.0.113.7\n", |lab| {
        let routes = lab.client_ns.sh("ip route");
        assert!(!routes.contains("192.0.2.0/24") && !routes.contains("203.0.113.0/24"), "{routes}");
        assert!(routes.contains("203.0.113.7"), "{routes}");
    });
    connected(&lab, Version::V27, server, "pull-filter ignore \"route 203\"\n", |lab| {
        let routes = lab.client_ns.sh("ip route");
        assert!(routes.contains("192.0.2.0/24") && !routes.contains("203.0.113.0/24"), "{routes}");
    });
}

#[test]
fn net30_topology() {
    let lab = Lab::new();
    connected(&lab, Version::V26, "topology net30\n", "", |lab| lab.ping("10.8.0.1").unwrap());
}

#[test]
fn compression_framings_of_old_servers() {
    let lab = Lab::new();
    for framing in ["compress stub-v2", "compress stub", "comp-lzo no"] {
        // The server decides and pushes it, as old ones do.
        let server = format!("{framing}\npush \"{framing}\"\n");
        connected(&lab, Version::V26, &server, "", |lab| {
            lab.ping("10.8.0.1").unwrap();
            lab.transfer("10.8.0.1", 100_000).unwrap();
        });
    }
}

/// Zeros, which every compression makes small. A server of 2.7 compresses nothing it sends.
#[test]
fn what_old_servers_compress_is_read() {
    let lab = Lab::new();
    for (server, client) in [
        ("comp-lzo yes\n", "comp-lzo\n"),
        ("compress lzo\n", "compress lzo\n"),
        ("compress lz4\n", "compress lz4\n"),
        ("compress lz4-v2\n", "compress lz4-v2\n"),
        ("comp-lzo yes\npush \"comp-lzo yes\"\n", "allow-compression asym\n"),
        ("compress lz4\npush \"compress lz4\"\n", "allow-compression asym\n"),
        ("compress lz4-v2\npush \"compress lz4-v2\"\n", "allow-compression yes\n"),
    ] {
        let server = format!("{server}allow-compression yes\n");
        connected(&lab, Version::V26, &server, client, |lab| {
            lab.ping_with("-n -c 5 -i 0.2 -s 1000 -p 00 10.8.0.1").unwrap();
            lab.ping("10.8.0.1").unwrap();
            lab.transfer("10.8.0.1", 1_000_000).unwrap();
        });
    }
}

#[test]
fn what_cannot_be_decompressed_is_told_once() {
    let lab = Lab::new();
    let extra = "comp-lzo yes\nallow-compression yes\n".to_owned();
    let config = ServerConfig { extra, ..plain(Version::V26, Transport::Udp4) };
    let _server = lab.start_server(&config);
    let mut running = lab.start_client(&lab.profile(&config, "comp-lzo no\n"), &[]);
    running.wait(CONNECTED, Duration::from_secs(15)).unwrap();
    lab.ping("10.8.0.1").unwrap();
    lab.ping_with("-n -c 5 -i 0.2 -s 1000 -p 00 10.8.0.1").unwrap_err();
    let end = running.stop(Signal::SIGTERM);
    assert_eq!(end.code, Some(0));
    let told = end.transcript.matches("compressed or framed in another way").count();
    assert_eq!(told, 1, "{}", end.transcript);
}

#[test]
fn mtu_from_the_server() {
    let lab = Lab::new();
    connected(&lab, Version::V27, "tun-mtu 1400\npush \"tun-mtu 1400\"\n", "", |lab| {
        assert_eq!(lab.client_ns.sh("ip -o link | grep -c 'mtu 1400'").trim(), "1");
        lab.ping_with("-n -c 2 -i 0.2 -s 1372 -M do 10.8.0.1").unwrap();
    });
}

/// The first server is dead, the second lives.
#[test]
fn next_remote() {
    let lab = Lab::new();
    let client = "remote 198.51.100.77 1194 udp4\nremote 198.51.100.1 1194 udp4\n\
                  server-poll-timeout 2\n";
    let config = plain(Version::V27, Transport::Udp4);
    let _server = lab.start_server(&config);
    let own = format!("remote {} 1194 udp4\n", config.transport.address());
    let profile = lab.profile(&config, client).replacen(&own, "", 1);
    let mut running = lab.start_client(&profile, &[]);
    running.wait(CONNECTED, Duration::from_secs(20)).unwrap();
    lab.ping("10.8.0.1").unwrap();
}

/// Started elsewhere, told where to live.
#[test]
fn in_a_namespace_by_name() {
    let lab = Lab::new();
    let elsewhere = NetNs::new("interop");
    let config = plain(Version::V27, Transport::Udp4);
    let _server = lab.start_server(&config);
    let (outside, inside) = (elsewhere.snapshot(), lab.client_ns.snapshot());
    let profile = lab.profile(&config, "");
    let arguments = ["--netns", lab.client_ns.name()];
    let mut running = Client::start(&elsewhere, lab.directory(), &profile, &arguments);
    running.wait(CONNECTED, Duration::from_secs(15)).unwrap();
    lab.ping("10.8.0.1").unwrap();
    outside.assert_same(&elsewhere.snapshot());
    assert_eq!(running.stop(Signal::SIGTERM).code, Some(0));
    inside.assert_same(&lab.client_ns.snapshot());
}

/// The password is used once; the token of the server does the rest.
#[test]
fn token_instead_of_the_password() {
    for version in Version::ALL {
        let lab = Lab::new();
        let asked = lab.directory().join("asked");
        let script = lab.script(
            "verify",
            &format!(
                "#!/bin/sh\necho \"$username\" >> {}\n[ \"$password\" = once ]\n",
                asked.display()
            ),
        );
        let config = ServerConfig {
            extra: format!(
                "script-security 3\nauth-user-pass-verify {script} via-env\nauth-gen-token 600 120\n\
                 reneg-sec 3\n"
            ),
            ..plain(version, Transport::Udp4)
        };
        let server = lab.start_server(&config);
        let login = lab.file("login", "ada\nonce\n");
        let profile = lab.profile(&config, "auth-user-pass\n");
        let mut running = lab.start_client(&profile, &["--auth-user-pass", &login]);
        running.wait(CONNECTED, Duration::from_secs(15)).unwrap();
        lab.ping_with("-n -q -i 0.05 -c 160 -W 2 10.8.0.1")
            .unwrap_or_else(|e| panic!("{version:?}: {e}\n{}", server.log()));
        let times = std::fs::read_to_string(&asked).expect("the script ran").lines().count();
        assert_eq!(times, 1, "the server asked its script again:\n{}", server.log());
    }
}

/// A control channel that only speaks TLS 1.2.
#[test]
fn tls_1_2() {
    let lab = Lab::new();
    connected(&lab, Version::V26, "tls-version-max 1.2\n", "", |lab| lab.ping("10.8.0.1").unwrap());
}

#[test]
fn fingerprint_instead_of_a_ca() {
    use x509_parser::pem::parse_x509_pem;
    let lab = Lab::new();
    let config = plain(Version::V27, Transport::Udp4);
    let _server = lab.start_server(&config);
    let (_, pem) = parse_x509_pem(lab.server_identity.certificate.as_bytes()).expect("PEM");
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &pem.contents);
    let hex: Vec<String> = digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
    let profile = lab.profile(&config, &format!("peer-fingerprint {}\n", hex.join(":")));
    let start = profile.find("<ca>").expect("has a CA");
    let end = profile.find("</ca>\n").expect("has a CA") + "</ca>\n".len();
    let profile = format!("{}{}", &profile[..start], &profile[end..]);
    let mut running = lab.start_client(&profile, &[]);
    running.wait(CONNECTED, Duration::from_secs(15)).unwrap();
    lab.ping("10.8.0.1").unwrap();
}

/// What a peer learns of `mssfix`: without offload from the SYN, with it from the link's MTU.
#[test]
fn mss() {
    // Of IP, TCP and the tunnel. Epoch keys, which the kernel does not have, add 4.
    let newer = if dco() == "off" { 68 } else { 64 };
    for (version, overhead) in [(Version::V26, 64), (Version::V27, newer)] {
        mss_is(version, 1400 - overhead);
    }
}

fn mss_is(version: Version, expected: u32) {
    let lab = Lab::new();
    connected(&lab, version, "", "mssfix 1400\n", |lab| {
        let listener = lab.server_ns.run(|| TcpListener::bind("10.8.0.1:0").unwrap());
        let address = listener.local_addr().unwrap();
        let near = lab.client_ns.run(|| TcpStream::connect(address).unwrap());
        let (far, _) = listener.accept().unwrap();
        for stream in [near, far] {
            // The kernel takes off its 12 for time stamps as well.
            let mss = socket2::SockRef::from(&stream).tcp_mss().unwrap();
            assert_eq!(mss, expected - 12, "{version:?}");
        }
        lab.transfer("10.8.0.1", 1_000_000).unwrap();
    });
}

/// Counters agree with those of the device, and a reconnect takes nothing away.
#[test]
fn counters_across_a_reconnect() {
    let lab = Lab::new();
    let config = plain(Version::V27, Transport::Udp4);
    let _server = lab.start_server(&config);
    let mut running = lab.start_client(&lab.profile(&config, ""), &[]);
    running.wait(CONNECTED, Duration::from_secs(15)).unwrap();
    let count = |from: &serde_json::Value, name: &str| from[name].as_u64().unwrap_or_default();
    let device = || {
        let text = lab.client_ns.sh("ip -j -s link show tun0");
        let link: serde_json::Value = serde_json::from_str(&text).unwrap();
        ["tx", "rx"].map(|direction| count(&link[0]["stats64"][direction], "packets"))
    };
    // Packets of the device and of the client, in and out, and all of the client's counters.
    let read = |running: &mut Client| loop {
        let before = device();
        std::thread::sleep(Duration::from_millis(50));
        let all = running.statistics();
        // The kernel sends something of its own now and then.
        if device() == before {
            let own = ["TUN_PACKETS_IN", "TUN_PACKETS_OUT"].map(|name| count(&all, name));
            return (before, own, all);
        }
    };
    // The link of ovpn-dco-v2 does not count what it sends, and its peer counts keepalive pings. The
    // link of ovpn counts pings that leave, one a second, and its peer does not.
    let api = std::env::var("DCO_API").unwrap_or_default();
    let (first, peer_pings, link_pings) = match &*api {
        "ovpn-dco-v2" => (1, 2, 0),
        "ovpn" => (0, 0, 2),
        _ => (0, 0, 0),
    };
    for connection in 0..3 {
        let (device_before, own_before, _) = read(&mut running);
        lab.ping_with("-n -q -c 50 -i 0.01 -s 1000 -W 2 10.8.0.1").unwrap();
        let (device, own, counters) = read(&mut running);
        for n in first..2 {
            let (device, own) = (device[n] - device_before[n], own[n] - own_before[n]);
            assert!(
                (device - link_pings..=device + peer_pings).contains(&own),
                "connection {connection}, direction {n}: {device}, {own}: {counters}\n{}",
                lab.client_ns.sh("ip -d address show dev tun0; cat /proc/net/dev_snmp6/tun0")
            );
            assert!(own >= 50, "{own}");
        }
        running.signal(Signal::SIGUSR1);
        running.wait(CONNECTED, Duration::from_secs(15)).unwrap();
        let later = running.statistics();
        for (name, value) in counters.as_object().unwrap() {
            assert!(later[name].as_u64() >= value.as_u64(), "{name}: {counters}, then {later}");
        }
    }
}

/// What the network refuses to take is counted, by the data path in user space at least: kernels do
/// not tell.
#[test]
fn refused_packets_are_counted() {
    let lab = Lab::new();
    let config = plain(Version::V27, Transport::Udp4);
    let _server = lab.start_server(&config);
    let mut running = lab.start_client(&lab.profile(&config, ""), &["--dco", "off"]);
    running.wait(CONNECTED, Duration::from_secs(15)).unwrap();
    // Refused, and taken from the device.
    let count = |running: &mut Client| {
        let all = running.statistics();
        ["NETWORK_SEND_ERROR", "TUN_PACKETS_IN"].map(|name| all[name].as_u64().unwrap_or_default())
    };
    let [none, taken_before] = count(&mut running);
    assert_eq!(none, 0);
    lab.client_ns.sh("ip route add unreachable 198.51.100.1");
    lab.ping_with("-n -q -c 5 -i 0.01 -W 1 10.8.0.1").unwrap_err();
    let [refused, taken] = count(&mut running);
    lab.client_ns.sh("ip route del unreachable 198.51.100.1");
    lab.ping("10.8.0.1").unwrap();
    // The kernel may have had something to say of its own, and keepalive adds one at most.
    assert!((5..=taken - taken_before + 1).contains(&refused), "{refused} of {taken}");
}

/// SIGUSR2 prints the counters and changes nothing else.
#[test]
fn counters_on_signal() {
    let lab = Lab::new();
    let config = plain(Version::V27, Transport::Udp4);
    let _server = lab.start_server(&config);
    let mut running = lab.start_client(&lab.profile(&config, ""), &[]);
    running.wait(CONNECTED, Duration::from_secs(15)).unwrap();
    let count = |counters: &serde_json::Value, name: &str| {
        counters[name].as_i64().unwrap_or_else(|| panic!("no {name} in {counters}"))
    };
    let before = running.statistics();
    lab.ping("10.8.0.1").unwrap();
    let after = running.statistics();
    for name in ["BYTES_IN", "BYTES_OUT", "PACKETS_IN", "PACKETS_OUT"] {
        assert!(count(&before, name) > 0, "{name} in {before}");
        assert!(count(&after, name) > count(&before, name), "{name}: {before}, then {after}");
    }
    let before = running.statuses.len();
    let ending = running.stop(Signal::SIGTERM);
    assert_eq!(ending.code, Some(0));
    assert!(ending.statuses[before..].iter().all(|(code, _)| *code != CONNECTED));
}
