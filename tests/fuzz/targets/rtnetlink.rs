//! What the kernel says about links, routes and rules: whatever it is, it can be read, a route that
//! is found leads to what it was asked for, and reading it again finds the same.

use std::net::IpAddr;

use ovpn_client::network::{Network, way_by};

/// Addresses that are asked for.
const TARGETS: [&str; 4] = ["192.0.2.1", "10.8.0.1", "2001:db8::1", "fe80::1"];

/// Input: netlink messages.
pub fn run(data: &[u8]) {
    for target in TARGETS {
        let target: IpAddr = target.parse().expect("an address");
        let way = way_by(data, target);
        assert_eq!(way, way_by(data, target));
        let Some((destination, path)) = way else { continue };
        assert!(destination.contains(target));
        assert_eq!(Network::new(destination.address(), destination.prefix()), Some(destination));
        assert!(path.index != 0 && !path.to_string().is_empty());
        assert!(path.device.len() < 1024);
    }
}
