//! Addresses, routes and DNS: the options that mean the same in a profile and in a push.

use std::net::{IpAddr, Ipv4Addr};

use super::dns;
use super::limits::MAX_ROUTES;
use super::options::{
    NetworkOptions, RedirectGateway, Route, RouteDestination, RouteGateway, Topology,
};
use super::values::{host, ipv4, ipv6, ipv6_prefix, number, one_of, prefix_of};
use super::verdict::{Done, Outcome, Problem};

/// Where an option comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Origin {
    /// The profile's own text.
    Profile,
    /// The server.
    Push,
}

/// Applies one network option; `None` if `name` is none.
pub(super) fn apply(
    network: &mut NetworkOptions,
    name: &str,
    args: &[String],
    origin: Origin,
) -> Option<Outcome> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    Some(match name {
        "topology" => topology(network, &words),
        "ifconfig" => ifconfig(network, &words),
        "ifconfig-ipv6" => ifconfig_ipv6(network, &words),
        "route-gateway" => route_gateway(network, &words),
        "route-ipv6-gateway" => first(&words).and_then(ipv6).map(|address| {
            network.route_ipv6_gateway = Some(address);
            Done::Taken
        }),
        "route-metric" => first(&words).and_then(metric).map(|metric| {
            network.route_metric = Some(metric);
            Done::Taken
        }),
        "route" if origin == Origin::Profile && words.first().is_some_and(|net| is_name(net)) => {
            Ok(Done::Warned(
                "routes to host names are not supported: traffic to this one takes the way it would \
                 without the line; write the address"
                    .to_owned(),
            ))
        }
        "route" => route(&words).and_then(|route| add_route(network, route)),
        "route-ipv6" => route_ipv6(&words).and_then(|route| add_route(network, route)),
        "redirect-gateway" => redirect(network, &words, false),
        "redirect-private" => redirect(network, &words, true),
        "block-ipv6" => {
            network.block_ipv6 = true;
            Ok(Done::Taken)
        }
        "block-ipv4" => {
            network.block_ipv4 = true;
            Ok(Done::Taken)
        }
        "dhcp-option" => dns::dhcp_option(&mut network.dns, args, origin),
        "dns" => dns::dns(&mut network.dns, args, origin),
        _ => return None,
    })
}

fn first<'a>(words: &[&'a str]) -> Result<&'a str, Problem> {
    words.first().copied().ok_or_else(|| Problem::new("a value is missing"))
}

fn metric(text: &str) -> Result<u32, Problem> {
    number(text, 0, u32::MAX)
}

fn topology(network: &mut NetworkOptions, words: &[&str]) -> Outcome {
    network.topology = Some(match first(words)? {
        "subnet" => Topology::Subnet,
        "net30" => Topology::Net30,
        "p2p" => Topology::P2p,
        other => return Err(one_of(other, "subnet, net30, p2p")),
    });
    Ok(Done::Taken)
}

fn ifconfig(network: &mut NetworkOptions, words: &[&str]) -> Outcome {
    let [local, remote] = words else {
        return Err(Problem::new("an address and a netmask or peer address are needed"));
    };
    network.ifconfig = Some((ipv4(local)?, ipv4(remote)?));
    Ok(Done::Taken)
}

fn ifconfig_ipv6(network: &mut NetworkOptions, words: &[&str]) -> Outcome {
    let (local, remote) = match words {
        [local] => (local, None),
        [local, remote] => (local, Some(ipv6(remote)?)),
        _ => return Err(Problem::new("an address/bits and a peer address are needed")),
    };
    let (address, bits) = ipv6_prefix(local)?;
    if bits == 0 {
        return Err(Problem::new(format!("'{local}' covers every address")));
    }
    network.ifconfig_ipv6 = Some((address, bits, remote));
    Ok(Done::Taken)
}

fn route_gateway(network: &mut NetworkOptions, words: &[&str]) -> Outcome {
    match first(words)? {
        "dhcp" => Ok(Done::Ignored("there is no DHCP in a layer 3 tunnel".to_owned())),
        address => {
            network.route_gateway = Some(ipv4(address)?);
            Ok(Done::Taken)
        }
    }
}

/// What looks like the name of a host, and is not a mistyped address.
fn is_name(text: &str) -> bool {
    const KEYWORDS: [&str; 3] = ["remote_host", "vpn_gateway", "net_gateway"];
    host(text).is_ok()
        && !KEYWORDS.contains(&text)
        && !text.contains(':')
        && !text.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

/// `route NET [MASK [GATEWAY [METRIC]]]`, and `NET/BITS` as people write it
fn route(words: &[&str]) -> Result<Route, Problem> {
    let written = first(words)?;
    let (net, bits) = match written.split_once('/') {
        Some((net, bits)) => (net, Some(bits)),
        None => (written, None),
    };
    let destination = match net {
        "remote_host" => RouteDestination::RemoteHost,
        "vpn_gateway" => RouteDestination::VpnGateway,
        "net_gateway" => RouteDestination::NetGateway,
        text => RouteDestination::Net(IpAddr::V4(text.parse().map_err(|_| {
            Problem::with_hint(
                format!("'{text}' is not an IPv4 network"),
                "routes to host names are not supported, write the address",
            )
        })?)),
    };
    let prefix = match words.get(1) {
        None | Some(&"default") => bits.map_or(Ok(32), |bits| number(bits, 0, 32))?,
        Some(_) if bits.is_some() => {
            return Err(Problem::new(format!("'{written}' has a prefix length and a netmask")));
        }
        Some(text) => prefix_of(ipv4(text)?)
            .ok_or_else(|| Problem::new(format!("'{text}' is not a netmask")))?,
    };
    Ok(Route {
        destination: masked(destination, prefix),
        prefix,
        gateway: gateway(words.get(2).copied(), |text| ipv4(text).map(IpAddr::V4))?,
        metric: route_metric(words.get(3).copied())?,
    })
}

/// `route-ipv6 NET/BITS [GATEWAY [METRIC]]`
fn route_ipv6(words: &[&str]) -> Result<Route, Problem> {
    let (net, prefix) = ipv6_prefix(first(words)?)?;
    Ok(Route {
        destination: masked(RouteDestination::Net(IpAddr::V6(net)), prefix),
        prefix,
        gateway: gateway(words.get(1).copied(), |text| ipv6(text).map(IpAddr::V6))?,
        metric: route_metric(words.get(2).copied())?,
    })
}

fn add_route(network: &mut NetworkOptions, route: Route) -> Outcome {
    if is_full(network) {
        return Err(Problem::new(format!("more than {MAX_ROUTES} routes")));
    }
    network.routes.push(route);
    Ok(Done::Taken)
}

/// Whether no other route can be taken.
pub(super) fn is_full(network: &NetworkOptions) -> bool {
    network.routes.len() >= MAX_ROUTES
}

fn route_metric(word: Option<&str>) -> Result<Option<u32>, Problem> {
    word.filter(|&w| w != "default").map(metric).transpose()
}

fn gateway(
    word: Option<&str>,
    parse: impl Fn(&str) -> Result<IpAddr, Problem>,
) -> Result<RouteGateway, Problem> {
    Ok(match word {
        None | Some("default" | "vpn_gateway") => RouteGateway::Vpn,
        Some("net_gateway" | "net_gateway_ipv6") => RouteGateway::Net,
        Some("remote_host" | "remote_host_ipv6") => RouteGateway::RemoteHost,
        Some(text) => RouteGateway::Address(parse(text)?),
    })
}

/// The network with its host bits cleared: the kernel takes no others.
fn masked(destination: RouteDestination, prefix: u8) -> RouteDestination {
    let RouteDestination::Net(net) = destination else { return destination };
    let bits = u32::from(prefix);
    RouteDestination::Net(match net {
        IpAddr::V4(net) => {
            let mask = u32::MAX.checked_shl(32 - bits.min(32)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(net.to_bits() & mask))
        }
        IpAddr::V6(net) => {
            let mask = u128::MAX.checked_shl(128 - bits.min(128)).unwrap_or(0);
            IpAddr::V6((net.to_bits() & mask).into())
        }
    })
}

/// `redirect-gateway` and `redirect-private`: flags of all of them add up, and one
/// `redirect-gateway` makes the whole not private.
fn redirect(network: &mut NetworkOptions, words: &[&str], private: bool) -> Outcome {
    let mut redirect = network.redirect.unwrap_or_else(|| RedirectGateway {
        private,
        ipv4: true,
        ..RedirectGateway::default()
    });
    redirect.private &= private;
    let mut unknown = Vec::new();
    for &flag in words {
        match flag {
            "ipv4" => redirect.ipv4 = true,
            "!ipv4" => redirect.ipv4 = false,
            "ipv6" => redirect.ipv6 = true,
            "!ipv6" => redirect.ipv6 = false,
            "def1" => redirect.def1 = true,
            "local" => redirect.local = true,
            "autolocal" => redirect.autolocal = true,
            "bypass-dhcp" => redirect.bypass_dhcp = true,
            "bypass-dns" => redirect.bypass_dns = true,
            "block-local" => redirect.block_local = true,
            other => unknown.push(other),
        }
    }
    network.redirect = Some(redirect);
    if unknown.is_empty() {
        return Ok(Done::Taken);
    }
    // Without the rest, traffic would go outside of the tunnel for want of a detail.
    Ok(Done::Warned(format!(
        "only the unknown flag '{}' (flags are def1, local, autolocal, bypass-dhcp, bypass-dns, \
         block-local, ipv4, !ipv4, ipv6, !ipv6); the rest counts",
        unknown.join("', '")
    )))
}

/// A netmask for the second word of `ifconfig`, where the topology says that it is one.
pub(super) fn check_topology(network: &NetworkOptions) -> Result<(), Problem> {
    if let (Some(Topology::Subnet), Some((_, mask))) = (network.topology, network.ifconfig)
        && prefix_of(mask).is_none()
    {
        return Err(Problem::new(format!("ifconfig: '{mask}' is not a netmask (topology subnet)")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply_line(network: &mut NetworkOptions, line: &str) -> Outcome {
        let mut words = line.split(' ').map(str::to_owned);
        let name = words.next().unwrap();
        apply(network, &name, &words.collect::<Vec<_>>(), Origin::Profile).unwrap()
    }

    fn one(line: &str) -> NetworkOptions {
        let mut network = NetworkOptions::default();
        assert_eq!(apply_line(&mut network, line), Ok(Done::Taken), "{line}");
        network
    }

    fn net(text: &str) -> RouteDestination {
        RouteDestination::Net(text.parse().unwrap())
    }

    #[test]
    fn routes() {
        let r = &one("route 10.1.2.3 255.255.0.0 net_gateway 7").routes[0];
        assert_eq!((r.destination.clone(), r.prefix), (net("10.1.0.0"), 16));
        assert_eq!((r.gateway, r.metric), (RouteGateway::Net, Some(7)));
        let r = &one("route 10.1.2.3").routes[0];
        assert_eq!((r.prefix, r.gateway, r.metric), (32, RouteGateway::Vpn, None));
        let r = &one("route 0.0.0.0 0.0.0.0 10.8.0.1 default").routes[0];
        assert_eq!(r.gateway, RouteGateway::Address("10.8.0.1".parse().unwrap()));
        assert_eq!((r.destination.clone(), r.prefix, r.metric), (net("0.0.0.0"), 0, None));
        assert_eq!(one("route vpn_gateway").routes[0].destination, RouteDestination::VpnGateway);
        let r = &one("route-ipv6 2001:db8::1/32 default 5").routes[0];
        assert_eq!((r.destination.clone(), r.prefix, r.metric), (net("2001:db8::"), 32, Some(5)));
        assert_eq!(one("route-ipv6 ::/0").routes[0].prefix, 0);
        let mut n = NetworkOptions::default();
        for bad in [
            "route 10.0.0.0 255.0.255.0",
            "route 10.0.0.0/8 255.0.0.0",
            "route 10.0.0.0/33",
            "route 10.0.0.300",
            "route 10.0.0.0 255.0.0.0 gw",
            "route 10.0.0.0 255.0.0.0 default -1",
            "route-ipv6 10.0.0.0/8",
            "route-ipv6 2001:db8::/129",
            "route",
        ] {
            assert!(apply_line(&mut n, bad).is_err(), "{bad}");
        }
        assert!(matches!(apply_line(&mut n, "route host.example"), Ok(Done::Warned(_))));
        assert_eq!(n, NetworkOptions::default());
    }

    #[test]
    fn redirect_flags_add_up() {
        let mut n = one("redirect-private ipv6");
        assert!(n.redirect.unwrap().private);
        apply_line(&mut n, "redirect-gateway def1 bypass-dhcp !ipv4").unwrap();
        let r = n.redirect.unwrap();
        assert!(!r.private && r.ipv6 && r.def1 && r.bypass_dhcp && !r.ipv4);
        apply_line(&mut n, "redirect-private local").unwrap();
        assert!(!n.redirect.unwrap().private);
    }

    #[test]
    fn an_unknown_flag_does_not_keep_traffic_outside_of_the_tunnel() {
        let mut n = NetworkOptions::default();
        let done = apply_line(&mut n, "redirect-gateway def1 deff1 ipv6 other");
        assert!(matches!(done, Ok(Done::Warned(why)) if why.contains("flag 'deff1', 'other'")));
        let r = n.redirect.unwrap();
        assert!(!r.private && r.def1 && r.ipv4 && r.ipv6);
    }

    #[test]
    fn addresses() {
        let mut n = one("ifconfig 10.8.0.2 255.255.255.0");
        apply_line(&mut n, "ifconfig-ipv6 fd00::2/64 fd00::1").unwrap();
        assert_eq!(
            n.ifconfig_ipv6,
            Some(("fd00::2".parse().unwrap(), 64, Some("fd00::1".parse().unwrap())))
        );
        n.topology = Some(Topology::Subnet);
        assert!(check_topology(&n).is_ok());
        apply_line(&mut n, "ifconfig 10.8.0.2 10.8.0.1").unwrap();
        assert!(check_topology(&n).is_err());
        assert!(apply_line(&mut n, "ifconfig 10.8.0.2").is_err());
        assert!(apply_line(&mut n, "topology star").is_err());
        assert_eq!(
            apply_line(&mut n, "route-gateway dhcp").unwrap(),
            Done::Ignored("there is no DHCP in a layer 3 tunnel".to_owned())
        );
    }
}
