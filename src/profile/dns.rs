//! `dns` and `dhcp-option`, from a profile or pushed.

use std::collections::HashSet;
use std::hash::Hash;
use std::net::IpAddr;

use super::domain::DomainName;
use super::limits::{MAX_DNS_ADDRESSES, MAX_DOMAINS, MAX_SERVER_ADDRESSES};
use super::network::Origin;
use super::options::{DnsOptions, DnsSec, DnsServer, DnsTransport};
use super::values::{number, one_of};
use super::verdict::{Done, Outcome, Problem};

/// Applies `dns ...`. A server may use priorities from 0, and what it may not say of domains leaves
/// the option out instead of ending the connection.
pub(super) fn dns(options: &mut DnsOptions, args: &[String], origin: Origin) -> Outcome {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["search-domains", domains @ ..] if !domains.is_empty() => {
            match names(domains.iter().copied(), options.search_domains.len()) {
                Ok(domains) => options.search_domains.extend(domains),
                Err(problem) => return left_out("search-domains", problem, origin),
            }
        }
        ["server", priority, setting, values @ ..] if !values.is_empty() => {
            let lowest = if origin == Origin::Push { 0 } else { i8::MIN };
            let priority = number(priority, lowest, i8::MAX)?;
            let (addresses, domains) = counts(options);
            // Set on a copy: a command that fails half-way must not leave a server behind.
            let mut server = options.servers.get(&priority).cloned().unwrap_or_default();
            let domain = match (*setting, values) {
                ("resolve-domains", values) => names(values.iter().copied(), domains)
                    .map(|domains| server.resolve_domains.extend(domains)),
                ("sni", [name]) => name_of(name).map(|name| server.sni = Some(name)),
                _ => set(&mut server, setting, values, addresses).map(Ok)?,
            };
            if let Err(problem) = domain {
                // For all names, or without its name, it would not be the server that was meant.
                options.refused.insert(priority);
                return left_out(&format!("server {priority}, {setting}"), problem, origin);
            }
            options.servers.insert(priority, server);
        }
        _ => {
            return Err(Problem::with_hint(
                "not understood",
                "write 'dns search-domains NAME...' or 'dns server N address|resolve-domains|\
                 dnssec|transport|sni VALUE...'",
            ));
        }
    }
    Ok(Done::Taken)
}

/// Of all servers: addresses and domains.
fn counts(options: &DnsOptions) -> (usize, usize) {
    options.servers.values().fold((0, 0), |(addresses, domains), server| {
        (addresses + server.addresses.len(), domains + server.resolve_domains.len())
    })
}

fn left_out(what: &str, problem: Problem, origin: Origin) -> Outcome {
    let problem = Problem { reason: format!("{what}: {}", problem.reason), ..problem };
    match origin {
        Origin::Profile => Err(problem),
        Origin::Push => Ok(Done::Warned(problem.reason)),
    }
}

/// All of them, or the reason against one. `present`: how many there are already.
fn names<'a>(
    words: impl Iterator<Item = &'a str>,
    present: usize,
) -> Result<Vec<DomainName>, Problem> {
    let mut names = Vec::new();
    for word in words {
        if present + names.len() == MAX_DOMAINS {
            return Err(too_many(MAX_DOMAINS, "domains"));
        }
        names.push(name_of(word)?);
    }
    Ok(names)
}

fn name_of(word: &str) -> Result<DomainName, Problem> {
    word.parse().map_err(|error: super::domain::InvalidDomain| Problem::new(error.to_string()))
}

fn too_many(limit: usize, what: &str) -> Problem {
    Problem::new(format!("more than {limit} {what}"))
}

fn set(
    server: &mut DnsServer,
    setting: &str,
    values: &[&str],
    present: usize,
) -> Result<(), Problem> {
    match (setting, values) {
        ("address", addresses) => {
            if addresses.len() > MAX_SERVER_ADDRESSES {
                return Err(Problem::new(format!(
                    "{} addresses given, {MAX_SERVER_ADDRESSES} are allowed",
                    addresses.len()
                )));
            }
            if present + addresses.len() > MAX_DNS_ADDRESSES {
                return Err(too_many(MAX_DNS_ADDRESSES, "addresses of DNS servers"));
            }
            for text in addresses {
                server.addresses.push(address(text)?);
            }
        }
        ("dnssec", [value]) => {
            server.dnssec = Some(match *value {
                "yes" => DnsSec::Yes,
                "optional" => DnsSec::Optional,
                "no" => DnsSec::No,
                other => return Err(one_of(other, "yes, optional, no")),
            });
        }
        ("transport", [value]) => {
            server.transport = Some(match *value {
                "plain" => DnsTransport::Plain,
                "DoH" => DnsTransport::DoH,
                "DoT" => DnsTransport::DoT,
                other => return Err(one_of(other, "plain, DoH, DoT")),
            });
        }
        ("dnssec" | "transport" | "sni", _) => {
            return Err(Problem::new(format!("'{setting}' takes one value")));
        }
        (other, _) => {
            return Err(one_of(other, "address, resolve-domains, dnssec, transport, sni"));
        }
    }
    Ok(())
}

/// `ADDRESS`, `ADDRESS:PORT` (IPv4), `[ADDRESS]` or `[ADDRESS]:PORT`; port 0 where none is given.
fn address(text: &str) -> Result<(IpAddr, u16), Problem> {
    let bad = || Problem::new(format!("'{text}' is not an address or [address]:port"));
    if let Ok(address) = text.parse() {
        return Ok((address, 0));
    }
    let (address, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or_else(bad)?;
            if port.is_empty() {
                return address.parse().map(|a| (a, 0)).map_err(|_| bad());
            }
            (address, port.strip_prefix(':').ok_or_else(bad)?)
        }
        None => text.split_once(':').ok_or_else(bad)?,
    };
    let port = port.parse().ok().filter(|&p: &u16| p > 0).ok_or_else(bad)?;
    Ok((address.parse().map_err(|_| bad())?, port))
}

/// Drops servers with a setting that was refused; the others need at least one address. To be asked
/// once all `dns` options are in.
pub(super) fn check(options: &mut DnsOptions) -> Result<(), Problem> {
    let refused = std::mem::take(&mut options.refused);
    options.servers.retain(|priority, _| !refused.contains(priority));
    match options.servers.iter().find(|(_, server)| server.addresses.is_empty()) {
        Some((priority, _)) => Err(Problem::with_hint(
            format!("dns server {priority} has no address"),
            format!("add 'dns server {priority} address ...'"),
        )),
        None => Ok(()),
    }
}

/// Applies `dhcp-option ...`.
pub(super) fn dhcp_option(options: &mut DnsOptions, args: &[String], origin: Origin) -> Outcome {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["DNS" | "DNS6", server] => {
            let server = server
                .parse()
                .map_err(|_| Problem::new(format!("'{server}' is not an IP address")))?;
            if options.dhcp_servers.len() == MAX_DNS_ADDRESSES {
                return Err(too_many(MAX_DNS_ADDRESSES, "DNS servers"));
            }
            options.dhcp_servers.push(server);
        }
        [kind @ ("DOMAIN" | "DOMAIN-SEARCH"), domains @ ..] if !domains.is_empty() => {
            let domains = domains.iter().flat_map(|domain| domain.split_whitespace());
            match names(domains, options.dhcp_domains.len()) {
                Ok(domains) => options.dhcp_domains.extend(domains),
                Err(problem) => return left_out(kind, problem, origin),
            }
        }
        [kind @ "ADAPTER_DOMAIN_SUFFIX", domain] => match name_of(domain) {
            Ok(domain) => options.adapter_domain_suffix = Some(domain),
            Err(problem) => return left_out(kind, problem, origin),
        },
        [kind @ ("WINS" | "NTP" | "NBDD" | "NBS" | "NBT" | "DISABLE-NBT"), ..] => {
            return Ok(Done::Ignored(format!("{kind} is for Windows clients")));
        }
        [kind, ..] if kind.starts_with("PROXY_") => {
            return Ok(Done::Warned(format!("{kind}: HTTP proxies of the desktop are not set")));
        }
        ["DOMAIN-ROUTE", ..] => {
            let reason =
                "DOMAIN-ROUTE is for a script; 'dns server N resolve-domains' says the same";
            return Ok(Done::Warned(reason.to_owned()));
        }
        [kind, ..] => {
            return Ok(Done::Warned(format!("'{kind}' is not a known dhcp-option")));
        }
        [] => return Err(Problem::new("a type and a value are needed")),
    }
    Ok(Done::Taken)
}

/// Puts the adapter's suffix in front of the search list, and drops what is there twice and what
/// `dns server` overrides.
pub(super) fn settle(options: &mut DnsOptions) {
    if let Some(suffix) = options.adapter_domain_suffix.take() {
        options.dhcp_domains.insert(0, suffix);
    }
    deduplicate(&mut options.dhcp_domains);
    deduplicate(&mut options.dhcp_servers);
    if !options.servers.is_empty() {
        options.dhcp_servers.clear();
        options.dhcp_domains.clear();
    }
}

/// Keeps the first of each.
fn deduplicate<T: Clone + Eq + Hash>(list: &mut Vec<T>) {
    let mut seen = HashSet::new();
    list.retain(|item| seen.insert(item.clone()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    fn apply(options: &mut DnsOptions, line: &str) -> Outcome {
        dns(options, &words(line), Origin::Profile)
    }

    // Known vectors of the protocol reference, 16.16.

    #[test]
    fn servers_by_priority() {
        let mut o = DnsOptions::default();
        apply(&mut o, "server 1 address 1.1.1.1").unwrap();
        apply(&mut o, "server 1 address [1::1]:5353").unwrap();
        apply(&mut o, "server -2 address [2.2.2.2]:5353").unwrap();
        assert_eq!(
            o.servers[&1].addresses,
            [("1.1.1.1".parse().unwrap(), 0), ("1::1".parse().unwrap(), 5353)]
        );
        assert_eq!(o.servers[&-2].addresses, [("2.2.2.2".parse().unwrap(), 5353)]);
        assert!(dns(&mut o, &words("server -2 address 2.2.2.2"), Origin::Push).is_err());
        assert!(apply(&mut o, "server -129 address 2.2.2.2").is_err());
    }

    #[test]
    fn addresses() {
        for good in [
            "192.168.0.1",
            "192.168.0.1:53",
            "[2001:db8:1234::1]",
            "[2001:db8:1234::1]:53",
            "2001:db8:1234::1",
        ] {
            assert!(address(good).is_ok(), "{good}");
        }
        for bad in [
            "192.168.0",
            "192.168.200.1::1234",
            "192.168.200.1:77701",
            "[2001:db8:1234::1]:65547",
            "[2001:db8::1",
            "",
        ] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn limits_and_bad_values() {
        let mut o = DnsOptions::default();
        assert!(apply(&mut o, &format!("server 0 address{}", " 1.1.1.1".repeat(8))).is_ok());
        assert!(apply(&mut o, &format!("server 1 address{}", " 1.1.1.1".repeat(9))).is_err());
        assert!(apply(&mut o, "server 0 dnssec foo").is_err());
        assert!(apply(&mut o, "server 0 transport avian-carrier").is_err());
        assert!(apply(&mut o, "server 0").is_err());
        assert!(apply(&mut o, "search-domains").is_err());
        assert!(check(&mut o).is_ok());
        apply(&mut o, "server 3 sni a.example").unwrap();
        assert!(check(&mut o).unwrap_err().reason.contains("dns server 3 has no address"));
    }

    #[test]
    fn search_list_order() {
        let mut o = DnsOptions::default();
        for line in [
            "DOMAIN a.example",
            "ADAPTER_DOMAIN_SUFFIX first.example",
            "DOMAIN-SEARCH b.example",
            "ADAPTER_DOMAIN_SUFFIX last.example",
            "DNS 10.0.0.1",
            "DNS6 fd00::1",
        ] {
            assert_eq!(
                dhcp_option(&mut o, &words(line), Origin::Profile),
                Ok(Done::Taken),
                "{line}"
            );
        }
        let mut plain = o.clone();
        settle(&mut plain);
        assert_eq!(plain.dhcp_domains, ["last.example", "a.example", "b.example"]);
        assert_eq!(plain.dhcp_servers.len(), 2);
        apply(&mut o, "server 1 address 1.1.1.1").unwrap();
        settle(&mut o);
        assert!(o.dhcp_servers.is_empty() && o.dhcp_domains.is_empty());
    }
}
