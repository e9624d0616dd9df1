//! What the tunnel wants of the host's resolver. Pure.

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::profile::{DnsOptions, DnsScope, DnsSec, DnsTransport, DomainName};

/// One name server.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct NameServer {
    /// Address.
    pub address: IpAddr,
    /// Port; 0: the default of the transport.
    pub port: u16,
    /// Server name for DNS over TLS.
    pub sni: Option<DomainName>,
}

/// What the tunnel wants of the host's resolver.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct DnsPlan {
    /// Servers in order of preference; may be empty when only search domains were pushed.
    pub servers: Vec<NameServer>,
    /// Appended to single-label names, in this order; their names are asked of `servers`, too.
    pub search_domains: Vec<DomainName>,
    /// Their names are asked of `servers`, and they are not appended to anything.
    pub route_domains: Vec<DomainName>,
    /// Global: every name is asked of `servers`. Tunnel: only those of the domains above.
    pub scope: DnsScope,
    /// DNSSEC; `None`: the resolver's own setting.
    pub dnssec: Option<DnsSec>,
    /// DNS over TLS; false: the resolver's own setting.
    pub over_tls: bool,
}

impl DnsPlan {
    /// Combines the `dns` options (or, without any `dns server`, the `dhcp-option` ones). `None`
    /// when nothing is wanted. Notes say what was left out.
    ///
    /// All servers of one transport are used together, in order of priority. When every one of them
    /// has `resolve-domains`, only names of those domains are asked of them (split DNS).
    pub(in crate::network) fn build(
        options: &DnsOptions,
        scope: DnsScope,
        notes: &mut Vec<String>,
    ) -> Option<Self> {
        let mut plan = Self {
            servers: Vec::new(),
            search_domains: Vec::new(),
            route_domains: Vec::new(),
            scope,
            dnssec: None,
            over_tls: false,
        };
        if options.servers.is_empty() {
            for &address in &options.dhcp_servers {
                plan.add_server(NameServer { address, port: 0, sni: None });
            }
            plan.search_domains.extend_from_slice(&options.dhcp_domains);
        } else {
            plan.add_profiles(options, notes);
        }
        let mut known = HashSet::new();
        plan.search_domains.splice(0..0, options.search_domains.iter().cloned());
        // A search domain's names are asked of the servers anyway.
        plan.search_domains.retain(|domain| known.insert(domain.clone()));
        plan.route_domains.retain(|domain| known.insert(domain.clone()));
        (!plan.servers.is_empty() || !plan.search_domains.is_empty()).then_some(plan)
    }

    /// Servers of the new form, with per-server settings.
    fn add_profiles(&mut self, options: &DnsOptions, notes: &mut Vec<String>) {
        let mut transport = None;
        let mut split = true;
        for (priority, server) in &options.servers {
            let wanted = server.transport.unwrap_or(DnsTransport::Plain);
            if wanted == DnsTransport::DoH {
                notes.push(format!(
                    "dns server {priority}: left out, DNS over HTTPS is not supported by the \
                     host's resolvers"
                ));
                continue;
            }
            if *transport.get_or_insert(wanted) != wanted {
                notes.push(format!(
                    "dns server {priority}: left out, one interface cannot mix DNS over TLS and \
                     plain DNS"
                ));
                continue;
            }
            if server.dnssec.is_some() && self.dnssec.is_some() && server.dnssec != self.dnssec {
                notes.push(format!(
                    "dns server {priority}: its dnssec setting differs from a preferred server's \
                     and is ignored"
                ));
            }
            self.dnssec = self.dnssec.or(server.dnssec);
            for &(address, port) in &server.addresses {
                self.add_server(NameServer { address, port, sni: server.sni.clone() });
            }
            split &= !server.resolve_domains.is_empty();
            self.route_domains.extend_from_slice(&server.resolve_domains);
        }
        self.over_tls = transport == Some(DnsTransport::DoT);
        if split && !self.route_domains.is_empty() {
            self.scope = DnsScope::Tunnel;
        }
    }

    fn add_server(&mut self, server: NameServer) {
        if !self.servers.contains(&server) {
            self.servers.push(server);
        }
    }
}

impl fmt::Display for DnsPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("dns")?;
        for server in &self.servers {
            write!(f, " {}", server.address)?;
            if server.port != 0 {
                write!(f, " port {}", server.port)?;
            }
            if let Some(sni) = &server.sni {
                write!(f, " name {sni}")?;
            }
        }
        for domain in &self.search_domains {
            write!(f, " search {domain}")?;
        }
        for domain in &self.route_domains {
            write!(f, " for {domain}")?;
        }
        if self.scope == DnsScope::Tunnel {
            f.write_str(" scope tunnel")?;
        }
        if let Some(dnssec) = self.dnssec {
            let dnssec = match dnssec {
                DnsSec::Yes => "yes",
                DnsSec::Optional => "optional",
                DnsSec::No => "no",
            };
            write!(f, " dnssec {dnssec}")?;
        }
        if self.over_tls {
            f.write_str(" over tls")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::DnsServer;

    fn server(address: &str, domains: &[&str]) -> DnsServer {
        DnsServer {
            addresses: vec![(address.parse().unwrap(), 0)],
            resolve_domains: domains.iter().map(|d| d.parse().unwrap()).collect(),
            ..DnsServer::default()
        }
    }

    fn build(options: &DnsOptions) -> (Option<String>, Vec<String>) {
        let mut notes = Vec::new();
        let plan = DnsPlan::build(options, DnsScope::Global, &mut notes);
        (plan.map(|plan| plan.to_string()), notes)
    }

    #[test]
    fn nothing_wanted_is_no_plan() {
        assert_eq!(build(&DnsOptions::default()), (None, vec![]));
    }

    #[test]
    fn old_form() {
        let options = DnsOptions {
            dhcp_servers: vec!["10.8.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            dhcp_domains: vec!["corp.example".parse().unwrap(), "Corp.Example.".parse().unwrap()],
            ..DnsOptions::default()
        };
        let expected = "dns 10.8.0.1 fd00::1 search corp.example";
        assert_eq!(build(&options), (Some(expected.to_owned()), vec![]));
    }

    #[test]
    fn new_form_wins_and_keeps_the_priority() {
        let options = DnsOptions {
            servers: [(1, server("10.0.0.2", &[])), (-1, server("10.0.0.1", &["a.example"]))]
                .into(),
            search_domains: vec!["corp.example".parse().unwrap()],
            dhcp_servers: vec!["192.0.2.1".parse().unwrap()],
            dhcp_domains: vec!["old.example".parse().unwrap()],
            ..DnsOptions::default()
        };
        let expected = "dns 10.0.0.1 10.0.0.2 search corp.example for a.example";
        assert_eq!(build(&options), (Some(expected.to_owned()), vec![]));
    }

    #[test]
    fn domains_on_every_server_make_split_dns() {
        let options = DnsOptions {
            servers: [(0, server("10.0.0.1", &["a.example"])), (1, server("10.0.0.2", &["."]))]
                .into(),
            ..DnsOptions::default()
        };
        let expected = "dns 10.0.0.1 10.0.0.2 for a.example for . scope tunnel";
        assert_eq!(build(&options), (Some(expected.to_owned()), vec![]));
    }

    #[test]
    fn transports_are_not_mixed() {
        let mut tls = server("10.0.0.1", &[]);
        tls.transport = Some(DnsTransport::DoT);
        tls.sni = Some("dns.example".parse().unwrap());
        tls.dnssec = Some(DnsSec::Yes);
        let mut https = server("10.0.0.2", &[]);
        https.transport = Some(DnsTransport::DoH);
        let options = DnsOptions {
            servers: [(0, https), (1, tls), (2, server("10.0.0.3", &[]))].into(),
            ..DnsOptions::default()
        };
        let (plan, notes) = build(&options);
        assert_eq!(plan.unwrap(), "dns 10.0.0.1 name dns.example dnssec yes over tls");
        assert_eq!(notes.len(), 2, "{notes:?}");
    }
}
