//! What the service is told. Pure; comparable, so that a reconnect with the same push keeps the
//! device.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};

use crate::network::error::PlanError;
use crate::network::types::{Network, netmask_prefix};
use crate::profile::{
    DnsScope, DnsSec, DnsTransport, NetworkOptions, RouteDestination, RouteGateway, Topology,
};

/// One device's configuration, in the service's words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NetcfgPlan {
    pub(super) addresses: Vec<NetcfgAddress>,
    pub(super) networks: Vec<NetcfgNetworkEntry>,
    pub(super) redirect_ipv4: bool,
    pub(super) redirect_ipv6: bool,
    pub(super) dns: Option<NetcfgDns>,
    pub(super) dns_scope: DnsScope,
    pub(super) remote: IpAddr,
    pub(super) mtu: u16,
    pub(super) tx_queue_len: Option<u16>,
    notes: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct NetcfgAddress {
    pub(super) address: IpAddr,
    pub(super) prefix: u8,
    pub(super) gateway: Option<IpAddr>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct NetcfgNetworkEntry {
    pub(super) network: Network,
    /// −1: the service's default.
    pub(super) metric: i32,
    /// By way of the host's own gateway.
    pub(super) exclude: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct NetcfgDns {
    pub(super) servers: Vec<String>,
    pub(super) domains: Vec<String>,
    pub(super) dnssec: Option<DnsSec>,
    pub(super) transport: Option<DnsTransport>,
    /// Domains of servers: asked for those only.
    pub(super) split: bool,
}

impl NetcfgPlan {
    /// Translates the options. `remote`: the address the transport socket sends to.
    ///
    /// # Errors
    /// When the tunnel would have no address, or one cannot be understood. What the service cannot
    /// do is left out and noted.
    pub fn build(
        options: &NetworkOptions,
        tun_mtu: u16,
        tx_queue_len: Option<u32>,
        remote: IpAddr,
        dns_scope: DnsScope,
    ) -> Result<Self, PlanError> {
        let mut plan = Self {
            addresses: Vec::new(),
            networks: Vec::new(),
            redirect_ipv4: false,
            redirect_ipv6: false,
            dns: None,
            dns_scope,
            remote: remote.to_canonical(),
            mtu: tun_mtu,
            tx_queue_len: tx_queue_len.map(|length| u16::try_from(length).unwrap_or(u16::MAX)),
            notes: Vec::new(),
        };
        let mut vpn_gateway = options.route_gateway;
        if let Some((local, second)) = options.ifconfig {
            plan.addresses.push(ipv4_address(options, local, second, &mut vpn_gateway)?);
        }
        if let Some((address, prefix, peer)) = options.ifconfig_ipv6 {
            if prefix > 128 {
                return Err(PlanError::Prefix { address, prefix });
            }
            let gateway = options.route_ipv6_gateway.or(peer).map(IpAddr::V6);
            plan.addresses.push(NetcfgAddress { address: address.into(), prefix, gateway });
        }
        if plan.addresses.is_empty() {
            return Err(PlanError::NoAddress);
        }
        plan.add_redirect(options);
        plan.add_routes(options, vpn_gateway);
        plan.add_dns(options);
        Ok(plan)
    }

    /// What was left out, and why.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    fn carries(&self, ipv6: bool) -> bool {
        self.addresses.iter().any(|address| address.address.is_ipv6() == ipv6)
    }

    fn add_redirect(&mut self, options: &NetworkOptions) {
        for (blocked, name) in
            [(options.block_ipv4, "block-ipv4"), (options.block_ipv6, "block-ipv6")]
        {
            if blocked {
                self.notes.push(format!("{name}: the netcfg service cannot do that"));
            }
        }
        let Some(redirect) = options.redirect else { return };
        if redirect.block_local {
            let note = "redirect-gateway block-local: the netcfg service cannot do that";
            self.notes.push(note.to_owned());
        }
        if redirect.private {
            return;
        }
        self.redirect_ipv4 = redirect.ipv4 && self.carries(false);
        self.redirect_ipv6 = redirect.ipv6 && self.carries(true);
    }

    fn add_routes(&mut self, options: &NetworkOptions, vpn_gateway: Option<Ipv4Addr>) {
        let mut seen = HashSet::new();
        for route in &options.routes {
            let address = match route.destination {
                RouteDestination::Net(address) => Some(address),
                RouteDestination::RemoteHost => Some(self.remote),
                RouteDestination::VpnGateway => vpn_gateway.map(IpAddr::V4),
                RouteDestination::NetGateway => None,
            };
            let network = address.and_then(|address| {
                let host = matches!(route.destination, RouteDestination::RemoteHost);
                if host {
                    Some(Network::host(address))
                } else {
                    Network::new(address, route.prefix)
                }
            });
            let Some(network) = network else {
                self.notes.push(format!(
                    "route {:?}/{}: left out, its destination is not known here",
                    route.destination, route.prefix
                ));
                continue;
            };
            let exclude = match route.gateway {
                RouteGateway::Vpn => false,
                RouteGateway::Net => true,
                RouteGateway::Address(gateway) if self.is_inside(gateway, vpn_gateway) => false,
                RouteGateway::Address(_) | RouteGateway::RemoteHost => {
                    self.notes.push(format!(
                        "route {network}: left out, the netcfg service only knows the tunnel and \
                         the host's own gateway"
                    ));
                    continue;
                }
            };
            if !exclude && !self.carries(network.is_ipv6()) {
                self.notes.push(format!(
                    "route {network}: left out, the tunnel has no address of that family"
                ));
                continue;
            }
            if !exclude && network.prefix() == 0 {
                *(if network.is_ipv6() {
                    &mut self.redirect_ipv6
                } else {
                    &mut self.redirect_ipv4
                }) = true;
                continue;
            }
            let metric = route.metric.or(options.route_metric);
            let metric = metric.and_then(|metric| i32::try_from(metric).ok()).unwrap_or(-1);
            let entry = NetcfgNetworkEntry { network, metric, exclude };
            if seen.insert(entry.clone()) {
                self.networks.push(entry);
            }
        }
    }

    fn is_inside(&self, gateway: IpAddr, vpn_gateway: Option<Ipv4Addr>) -> bool {
        vpn_gateway.map(IpAddr::V4) == Some(gateway)
            || matches!(gateway, IpAddr::V6(address) if address.is_unicast_link_local())
            || self.addresses.iter().any(|address| {
                address.gateway == Some(gateway)
                    || Network::new(address.address, address.prefix)
                        .is_some_and(|network| network.contains(gateway))
            })
    }

    /// All servers and domains, as upstream's own client sends them: the service knows one list of
    /// each.
    fn add_dns(&mut self, options: &NetworkOptions) {
        let options = &options.dns;
        let mut dns = NetcfgDns {
            servers: Vec::new(),
            domains: options.search_domains.iter().map(ToString::to_string).collect(),
            dnssec: None,
            transport: None,
            split: false,
        };
        if options.servers.is_empty() {
            dns.servers = options.dhcp_servers.iter().map(ToString::to_string).collect();
            dns.domains.extend(options.dhcp_domains.iter().map(ToString::to_string));
        }
        for (priority, server) in &options.servers {
            for (address, port) in &server.addresses {
                if matches!(port, 0 | 53) {
                    dns.servers.push(address.to_string());
                } else {
                    self.notes.push(format!(
                        "dns server {priority} {address} port {port}: left out, the netcfg service \
                         only knows port 53"
                    ));
                }
            }
            dns.split |= !server.resolve_domains.is_empty();
            dns.domains.extend(server.resolve_domains.iter().map(ToString::to_string));
            dns.dnssec = dns.dnssec.or(server.dnssec);
            dns.transport = dns.transport.or(server.transport);
        }
        deduplicate(&mut dns.servers);
        deduplicate(&mut dns.domains);
        if !dns.servers.is_empty() || !dns.domains.is_empty() {
            self.dns = Some(dns);
        }
    }
}

fn ipv4_address(
    options: &NetworkOptions,
    local: Ipv4Addr,
    second: Ipv4Addr,
    vpn_gateway: &mut Option<Ipv4Addr>,
) -> Result<NetcfgAddress, PlanError> {
    let netmask = netmask_prefix(second);
    let guess =
        if netmask.is_some_and(|prefix| prefix >= 8) { Topology::Subnet } else { Topology::Net30 };
    let prefix = match options.topology.unwrap_or(guess) {
        Topology::Subnet => {
            netmask.ok_or(PlanError::Netmask { address: local, netmask: second })?
        }
        Topology::Net30 | Topology::P2p => {
            *vpn_gateway = vpn_gateway.or(Some(second));
            let pair = Network::new(local.into(), 30);
            if pair.is_some_and(|network| network.contains(second.into())) { 30 } else { 32 }
        }
    };
    Ok(NetcfgAddress { address: local.into(), prefix, gateway: vpn_gateway.map(IpAddr::V4) })
}

fn deduplicate(list: &mut Vec<String>) {
    let mut seen = HashSet::new();
    list.retain(|item| seen.insert(item.clone()));
}
