//! Addresses and paths: the words that plan, lookup and netlink share.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// An IP network: address with zero host bits, and prefix length.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Clears the host bits of `address`. `None` when `prefix` is longer than the address.
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        let address = match address {
            IpAddr::V4(a) if prefix <= 32 => {
                IpAddr::V4(Ipv4Addr::from_bits(a.to_bits() & mask32(prefix)))
            }
            IpAddr::V6(a) if prefix <= 128 => {
                IpAddr::V6(Ipv6Addr::from_bits(a.to_bits() & mask128(prefix)))
            }
            _ => return None,
        };
        Some(Self { address, prefix })
    }

    /// The network of one address.
    pub const fn host(address: IpAddr) -> Self {
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        Self { address, prefix }
    }

    /// The first address.
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// Prefix length, 0..=32 or 0..=128.
    pub const fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether this is an IPv6 network.
    pub const fn is_ipv6(&self) -> bool {
        self.address.is_ipv6()
    }

    /// Whether `address` is in this network.
    pub fn contains(&self, address: IpAddr) -> bool {
        Self::new(address, self.prefix).is_some_and(|n| n.address == self.address)
    }

    /// The two halves; `None` for the network of one address.
    pub fn halves(&self) -> Option<[Self; 2]> {
        let prefix = self.prefix + 1;
        let upper = match self.address {
            IpAddr::V4(a) if prefix <= 32 => {
                IpAddr::V4(Ipv4Addr::from_bits(a.to_bits() | 1 << (32 - prefix)))
            }
            IpAddr::V6(a) if prefix <= 128 => {
                IpAddr::V6(Ipv6Addr::from_bits(a.to_bits() | 1 << (128 - prefix)))
            }
            _ => return None,
        };
        Some([Self { address: self.address, prefix }, Self { address: upper, prefix }])
    }
}

const fn mask32(prefix: u8) -> u32 {
    if prefix == 0 { 0 } else { u32::MAX << (32 - prefix) }
}

const fn mask128(prefix: u8) -> u128 {
    if prefix == 0 { 0 } else { u128::MAX << (128 - prefix) }
}

/// The prefix length of a netmask; `None` when its ones are not all in front.
pub(super) fn netmask_prefix(mask: Ipv4Addr) -> Option<u8> {
    let prefix = mask.to_bits().leading_ones() as u8;
    (mask.to_bits() == mask32(prefix)).then_some(prefix)
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How packets leave the host outside the tunnel.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Path {
    /// The next hop; `None`: the destination is on the device's own link.
    pub gateway: Option<IpAddr>,
    /// Kernel name of the device.
    pub device: String,
    /// Kernel index of the device.
    pub index: u32,
    /// The gateway is reachable on the device although no address of the device says so
    /// (`onlink` in `ip route`).
    pub onlink: bool,
    /// Source address, where the host's route prescribes one.
    pub source: Option<IpAddr>,
    /// MTU, where the host's route prescribes one.
    pub mtu: Option<u32>,
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(gateway) = self.gateway {
            write!(f, "via {gateway} ")?;
        }
        write!(f, "dev {}", self.device)?;
        if self.onlink {
            f.write_str(" onlink")?;
        }
        if let Some(source) = self.source {
            write!(f, " src {source}")?;
        }
        if let Some(mtu) = self.mtu {
            write!(f, " mtu {mtu}")?;
        }
        Ok(())
    }
}

/// How the host reaches the server without the tunnel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RemotePath {
    /// The server's address is one of this host's (or of this namespace).
    Local,
    /// Over the network.
    Via(Path),
    /// Not at all.
    Unreachable,
}

/// What a plan needs to know about the host. See [`super::DirectNetwork::lookup`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gateways {
    /// The way to the server.
    pub remote: RemotePath,
    /// The IPv4 default route (`net_gateway`), if there is one.
    pub default_v4: Option<Path>,
    /// The IPv6 default route, if there is one.
    pub default_v6: Option<Path>,
    /// Networks directly on the devices of the paths above (`block-local`), without link-local
    /// ones.
    pub local_networks: Vec<Network>,
    /// Whether new interfaces get IPv6 (`net.ipv6.conf.default.disable_ipv6` is 0).
    pub ipv6: bool,
}

/// Which way to look up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RouteQuery {
    /// The address the transport socket sends to: the server's, or the proxy's.
    pub remote: IpAddr,
    /// `SO_MARK` of the transport socket.
    pub mark: Option<u32>,
    /// Name of the device the transport socket is bound to.
    pub bind_dev: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        let (address, prefix) = text.split_once('/').unwrap();
        Network::new(address.parse().unwrap(), prefix.parse().unwrap()).unwrap()
    }

    #[test]
    fn networks_mask_contain_and_split() {
        assert_eq!(network("10.1.2.3/8").to_string(), "10.0.0.0/8");
        assert_eq!(network("2001:db8::1/32").to_string(), "2001:db8::/32");
        assert!(network("0.0.0.0/0").contains("255.255.255.255".parse().unwrap()));
        assert!(!network("0.0.0.0/0").contains("::1".parse().unwrap()));
        assert!(network("10.8.0.0/24").contains("10.8.0.255".parse().unwrap()));
        assert!(!network("10.8.0.0/24").contains("10.8.1.0".parse().unwrap()));
        assert_eq!(
            network("0.0.0.0/0").halves().unwrap(),
            [network("0.0.0.0/1"), network("128.0.0.0/1")]
        );
        assert_eq!(
            network("fd00::/64").halves().unwrap(),
            [network("fd00::/65"), network("fd00:0:0:0:8000::/65")]
        );
        assert_eq!(network("10.0.0.1/32").halves(), None);
        assert_eq!(Network::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 33), None);
    }

    #[test]
    fn netmasks() {
        assert_eq!(netmask_prefix(Ipv4Addr::new(255, 255, 255, 0)), Some(24));
        assert_eq!(netmask_prefix(Ipv4Addr::UNSPECIFIED), Some(0));
        assert_eq!(netmask_prefix(Ipv4Addr::BROADCAST), Some(32));
        assert_eq!(netmask_prefix(Ipv4Addr::new(255, 0, 255, 0)), None);
        assert_eq!(netmask_prefix(Ipv4Addr::new(10, 8, 0, 1)), None);
    }
}
