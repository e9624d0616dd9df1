//! Nothing stays behind, however the client ends.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::client::{CONNECTED, program};
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

/// The directory of the backend belongs to the backend's user: `ovpn-client cleanup`, as root, undoes
/// what is noted there as well, without being told of it.
#[test]
fn what_a_killed_backend_has_left_is_undone_with_its_users_rights() {
    let lab = Lab::new();
    let config = ServerConfig {
        extra: "push \"route 203.0.113.0 255.255.255.0 net_gateway\"\n".to_owned(),
        ..plain(Version::V27, Transport::Udp4)
    };
    let _server = lab.start_server(&config);
    let before = lab.client_ns.snapshot();
    // Alone, as the backend is.
    let mut client = lab.start_client(&lab.profile(&config, ""), &["--sandbox", "off"]);
    client.wait(CONNECTED, Duration::from_secs(15)).unwrap();
    let pid = client.id();
    client.stop(Signal::SIGKILL);
    let directory = lab.directory().join("run");
    // The journal, and the socket that it answered at, which a backend has not.
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 2);
    lab.client_ns.sh(&format!("rm '{}'/*.sock", directory.display()));
    let ovpn_client = |command: &str| {
        let place = "mount -t tmpfs -o mode=755 none /run && mkdir /run/ovpn-client-backend && \
                     mount --bind \"$0\" /run/ovpn-client-backend && exec \"$@\"";
        let mut unshare = lab.client_ns.command("unshare");
        unshare.args(["--mount", "sh", "-c", place]).arg(&directory).arg(program());
        let output = unshare.args([command, "--output", "json"]).output().unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {output:?}"));
        (output.status.code(), report)
    };
    lab.client_ns.sh(&format!("chown -R 65534:65534 '{}'", directory.display()));

    let (_, doctor) = ovpn_client("doctor");
    let left = &doctor["leftovers"];
    assert_eq!(left["processes"][0]["pid"], pid, "{left}");
    assert!(left["errors"].is_null() && left["refused"][0].is_null(), "{left}");
    let (status, cleanup) = ovpn_client("cleanup");
    assert_eq!(status, Some(0), "{cleanup}");
    assert_eq!(cleanup["processes"][0]["pid"], pid, "{cleanup}");
    before.assert_same(&lab.client_ns.snapshot());
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);

    // A file that its user cannot have made is no more trusted than before.
    std::fs::write(directory.join("1-0-0.journal"), "{}\n").unwrap();
    std::os::unix::fs::chown(directory.join("1-0-0.journal"), Some(1000), None).unwrap();
    let (status, cleanup) = ovpn_client("cleanup");
    assert_eq!(status, Some(1), "{cleanup}");
    assert!(cleanup["refused"][0]["why"].as_str().is_some(), "{cleanup}");
}
