//! Nothing stays behind, however the client ends.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::client::CONNECTED;
use crate::lab::{Lab, plain};
use crate::server::{ServerConfig, Transport, Version};

/// Addresses, routes, a redirected gateway with its host route, in both families.
fn busy(version: Version, transport: Transport) -> ServerConfig {
    ServerConfig {
        extra: "push \"redirect-gateway def1 ipv6\"\npush \"route 192.0.2.0 255.255.255.0\"\n\
                push \"route-ipv6 2001:db8:2::/64\"\n"
            .to_owned(),
        ..plain(version, transport)
    }
}

#[test]
fn after_signals() {
    for (signal, transport) in [
        (Signal::SIGTERM, Transport::Udp4),
        (Signal::SIGINT, Transport::Tcp4),
        (Signal::SIGTERM, Transport::Udp6),
    ] {
        let lab = Lab::new();
        let config = busy(Version::V27, transport);
        let _server = lab.start_server(&config);
        let before = lab.client_ns.snapshot();
        let mut client = lab.start_client(&lab.profile(&config, ""), &[]);
        client.wait(CONNECTED, Duration::from_secs(15)).unwrap();
        lab.ping("192.0.2.1").unwrap();
        lab.ping("2001:db8:2::1").unwrap();
        assert!(!before.difference(&lab.client_ns.snapshot()).is_empty());
        let ending = client.stop(signal);
        assert_eq!(ending.code, Some(0), "{}", ending.transcript);
        assert!(ending.took < Duration::from_secs(1), "{signal}: {:?}", ending.took);
        before.assert_same(&lab.client_ns.snapshot());
    }
}

/// Killed without a chance to clean up; the next start finds the journal and puts things right.
#[test]
fn after_kill_and_a_new_start() {
    let lab = Lab::new();
    let config = busy(Version::V27, Transport::Udp4);
    let _server = lab.start_server(&config);
    let before = lab.client_ns.snapshot();
    let profile = lab.profile(&config, "");
    let mut client = lab.start_client(&profile, &[]);
    client.wait(CONNECTED, Duration::from_secs(15)).unwrap();
    let ending = client.stop(Signal::SIGKILL);
    assert_eq!(ending.code, None);

    let mut client = lab.start_client(&profile, &[]);
    client.wait(CONNECTED, Duration::from_secs(15)).unwrap();
    lab.ping("192.0.2.1").unwrap();
    assert_eq!(client.stop(Signal::SIGTERM).code, Some(0));
    before.assert_same(&lab.client_ns.snapshot());
}

/// A signal in the middle of connecting ends it just as cleanly.
#[test]
fn while_connecting() {
    let lab = Lab::new();
    let config = busy(Version::V27, Transport::Udp4);
    let before = lab.client_ns.snapshot();
    // No server: it stays connecting.
    let mut client = lab.start_client(&lab.profile(&config, ""), &[]);
    client.wait((2, 6), Duration::from_secs(5)).unwrap();
    let ending = client.stop(Signal::SIGTERM);
    assert_eq!(ending.code, Some(0), "{}", ending.transcript);
    assert!(ending.took < Duration::from_secs(1), "{:?}", ending.took);
    before.assert_same(&lab.client_ns.snapshot());
}
