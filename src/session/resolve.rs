//! The server's addresses. While a tunnel is kept from a lost connection, the host's resolver may be
//! behind that tunnel, which leads nowhere: then the name servers from before the tunnel are asked,
//! by a socket that is bound to the device that led to them. Nothing else leaves that way.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use rand::RngExt;
use socket2::{Domain, Socket, Type};
use tokio::net::UdpSocket;

use super::ending::ResolveError;
use super::name_query::{Kind, Query};
use crate::network::device_towards;
use crate::profile::Family;

/// Longest that the host's resolver may take.
const LIMIT: Duration = Duration::from_secs(30);
/// The same where there are other ways to go on.
const SHORT_LIMIT: Duration = Duration::from_secs(5);
/// Longest that one name server may take.
const SERVER_LIMIT: Duration = Duration::from_millis(1500);
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// What systemd-resolved asks, where `resolv.conf` names only itself.
const RESOLVED_CONF: &str = "/run/systemd/resolve/resolv.conf";
/// Name servers that are asked (and that a C library looks at), at most.
const MAX_SERVERS: usize = 3;
const PORT: u16 = 53;

/// Name servers from before the tunnel.
#[derive(Debug, Default)]
pub(super) struct Outside {
    servers: Vec<Server>,
    mark: Option<u32>,
}

#[derive(Debug)]
struct Server {
    address: IpAddr,
    /// `None`: the host itself, or nothing led there.
    device: Option<String>,
}

/// A name to look up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name<'a> {
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) family: Family,
}

impl Outside {
    /// What the host resolves with now: while there is no tunnel.
    pub(super) async fn remember(mark: Option<u32>) -> Self {
        let mut servers = Vec::new();
        for address in configured_servers().await {
            let device = if address.is_loopback() { None } else { device_towards(address).await };
            servers.push(Server { address, device });
        }
        Self { servers, mark }
    }

    async fn look_up(&self, name: Name<'_>) -> Option<Vec<SocketAddr>> {
        // Where there is nothing to look up, the resolver library knows it.
        if name.host.parse::<IpAddr>().is_ok() {
            return None;
        }
        for server in &self.servers {
            let asked = tokio::time::timeout(SERVER_LIMIT, self.ask(server, name)).await;
            match asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(found) if !found.is_empty() => {
                    return Some(found.into_iter().map(|ip| (ip, name.port).into()).collect());
                }
                Ok(_) => {
                    tracing::debug!("name server {}: {} has no address", server.address, name.host)
                }
                Err(error) => tracing::debug!("name server {}: {error}", server.address),
            }
        }
        None
    }

    /// Asks for all addresses of the wanted families at once.
    async fn ask(&self, server: &Server, name: Name<'_>) -> io::Result<Vec<IpAddr>> {
        let kinds = match name.family {
            Family::Any => &[Kind::A, Kind::Aaaa][..],
            Family::V4 => &[Kind::A],
            Family::V6 => &[Kind::Aaaa],
        };
        let socket = self.connect(server)?;
        let mut queries = Vec::new();
        for kind in kinds {
            let query = Query::new(name.host, *kind, rand::rng().random())
                .ok_or_else(|| io::Error::other("not a name that DNS can hold"))?;
            socket.send(query.message()).await?;
            queries.push((query, None));
        }
        let mut answer = [0; 4096];
        while queries.iter().any(|(_, addresses)| addresses.is_none()) {
            let len = socket.recv(&mut answer).await?;
            let answer = answer.get(..len).unwrap_or_default();
            for (query, addresses) in queries.iter_mut().filter(|(_, a)| a.is_none()) {
                *addresses = query.read(answer);
            }
        }
        Ok(queries.into_iter().filter_map(|(_, addresses)| addresses).flatten().collect())
    }

    fn connect(&self, server: &Server) -> io::Result<UdpSocket> {
        let remote = SocketAddr::new(server.address, PORT);
        let socket = Socket::new(Domain::for_address(remote), Type::DGRAM, None)?;
        socket.set_nonblocking(true)?;
        if let Some(mark) = self.mark {
            socket.set_mark(mark)?;
        }
        if let Some(device) = &server.device {
            socket.bind_device(Some(device.as_bytes()))?;
        }
        socket.connect(&remote.into())?;
        UdpSocket::from_std(socket.into())
    }
}

/// The addresses of `name`, in the order in which to try them. `behind`: what to ask past the tunnel
/// that is kept, if one is; `hurry`: there are older addresses to try instead.
pub(super) async fn look_up(
    name: Name<'_>,
    behind: Option<&Outside>,
    hurry: bool,
) -> Result<Vec<SocketAddr>, ResolveError> {
    if let Some(outside) = behind
        && let Some(found) = outside.look_up(name).await
    {
        return Ok(found);
    }
    let limit = if hurry && behind.is_some() { SHORT_LIMIT } else { LIMIT };
    let found = tokio::time::timeout(limit, tokio::net::lookup_host((name.host, name.port)))
        .await
        .map_err(|_| ResolveError::NoAnswer)??;
    let mut addresses = Vec::new();
    for address in found {
        let wanted = match name.family {
            Family::Any => true,
            Family::V4 => address.is_ipv4(),
            Family::V6 => address.is_ipv6(),
        };
        if wanted && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err(ResolveError::Family(name.family));
    }
    Ok(addresses)
}

async fn configured_servers() -> Vec<IpAddr> {
    const RESOLVED: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53));
    let read =
        async |path| name_servers(&tokio::fs::read_to_string(path).await.unwrap_or_default());
    let mut servers = read(RESOLV_CONF).await;
    if servers == [RESOLVED] {
        let upstream = read(RESOLVED_CONF).await;
        if !upstream.is_empty() {
            servers = upstream;
        }
    }
    servers.truncate(MAX_SERVERS);
    servers
}

/// The name servers of a `resolv.conf`. Link-local ones are left out: they need a scope.
fn name_servers(text: &str) -> Vec<IpAddr> {
    let link_local = |ip: &IpAddr| matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next())?
        })
        .filter_map(|word| word.parse().ok())
        .filter(|ip| !link_local(ip) && *ip != IpAddr::from(Ipv6Addr::UNSPECIFIED))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_of_a_file() {
        let text = "# nameserver 192.0.2.9\nsearch a.example\n nameserver\t192.0.2.1 \n\
                    nameserver fe80::1%eth0\nnameserver fe80::1\nnameserver 2001:db8::1\n\
                    nameserver\nnameservers 192.0.2.8\n";
        let expected: [IpAddr; 2] = ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse().unwrap());
        assert_eq!(name_servers(text), expected);
    }
}
