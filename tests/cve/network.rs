//! What goes past the tunnel.

use std::net::IpAddr;

use ovpn_client::network::{
    Gateways, Network, NetworkPlan, Path, PlanInput, PlannedRoute, RemotePath, RouteTarget,
};
use ovpn_client::profile::{DnsScope, Protocol};

use crate::pushed;

/// LocalNet (TunnelCrack): who runs the local network chooses its addresses, and what is "local" goes
/// past the tunnel. With `block-local` it does not.
#[test]
fn cve_2023_36672_local_network() {
    // A hotspot that claims somebody else's addresses.
    let claimed = network("203.0.113.0", 24);
    let victim = "203.0.113.77".parse().unwrap();
    let blocked = plan("redirect-gateway def1 block-local", claimed);
    assert_eq!(way(&blocked, victim).target, RouteTarget::Tunnel);
    // More specific than what the host has for its own network.
    assert!(way(&blocked, victim).destination.prefix() > claimed.prefix());
    // The gateway itself is still needed.
    let gateway = "203.0.113.1".parse().unwrap();
    assert!(matches!(way(&blocked, gateway).target, RouteTarget::Outside(_)));
}

/// ServerIP (TunnelCrack): whoever answers for the server's name chooses an address that then goes
/// past the tunnel. It is one address, and it is that of the connection.
#[test]
fn cve_2023_35838_server_address() {
    let plan = plan("redirect-gateway def1,route 0.0.0.0 0.0.0.0", network("203.0.113.0", 24));
    let outside: Vec<&PlannedRoute> =
        plan.routes().filter(|route| matches!(route.target, RouteTarget::Outside(_))).collect();
    assert_eq!(outside.len(), 1, "{plan}");
    assert_eq!(outside[0].destination, network("192.0.2.1", 32));
}

/// TunnelVision: routes from DHCP (option 121) are more specific than the tunnel's. This client does
/// not see them; what it can do about it is to leave no address of its own routes uncovered, so that
/// rules and namespaces (see SECURITY.md) have one thing to say: nothing goes out by the uplink.
#[test]
fn cve_2024_3661_every_address_has_its_way() {
    let plan = plan("redirect-gateway def1 ipv6", network("203.0.113.0", 24));
    for address in ["8.8.8.8", "127.255.0.1", "128.0.0.1", "255.255.255.254"] {
        assert_eq!(way(&plan, address.parse().unwrap()).target, RouteTarget::Tunnel);
    }
    // The tunnel has no IPv6: nothing of it goes out beside the tunnel either.
    for address in ["2001:db8::1", "2a00::1", "fd00::1"] {
        assert_eq!(way(&plan, address.parse().unwrap()).target, RouteTarget::Unreachable);
    }
}

fn network(address: &str, prefix: u8) -> Network {
    Network::new(address.parse().unwrap(), prefix).unwrap()
}

/// On a host in this network whose server is 192.0.2.1.
fn plan(options: &str, local: Network) -> NetworkPlan {
    let session = pushed(options).unwrap();
    let path = Path {
        gateway: Some("203.0.113.1".parse().unwrap()),
        device: "wlan0".to_owned(),
        index: 2,
        onlink: false,
        source: None,
        mtu: None,
    };
    let gateways = Gateways {
        remote: RemotePath::Via(path.clone()),
        default_v4: Some(path),
        default_v6: None,
        local_networks: vec![local],
        ipv6: true,
    };
    NetworkPlan::build(&PlanInput {
        options: &session.network,
        tun_mtu: session.tun_mtu,
        tx_queue_len: None,
        remote: "192.0.2.1".parse().unwrap(),
        protocol: Protocol::Udp,
        gateways: &gateways,
        dns_scope: DnsScope::Global,
    })
    .unwrap()
}

/// The planned route that a packet takes.
fn way(plan: &NetworkPlan, to: IpAddr) -> &PlannedRoute {
    plan.routes()
        .filter(|route| route.destination.contains(to))
        .max_by_key(|route| route.destination.prefix())
        .unwrap_or_else(|| panic!("no way to {to}:\n{plan}"))
}
