//! Links, addresses and routes of a namespace, over rtnetlink.

use std::fs::{File, OpenOptions};
use std::future::Future;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use futures_util::TryStreamExt;
use netlink_packet_route::address::{AddressAttribute, AddressFlags};
use netlink_packet_route::link::{InfoData, InfoVeth};
use netlink_packet_route::route::{RouteMessage, RouteType};
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
};

use super::NetNs;

/// Makes a veth pair, one end in each namespace, both up. MTU 1500.
pub fn connect(a: &NetNs, name_a: &str, b: &NetNs, name_b: &str) {
    let peer_namespace = b.fd().as_raw_fd();
    a.netlink(|handle| async move {
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(name_b)
            .setns_by_fd(peer_namespace)
            .build();
        let message = LinkVeth::new(name_a, name_b)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        handle.link().add(message).execute().await
    })
    .unwrap_or_else(|e| panic!("veth {name_a} ({}) to {name_b} ({}): {e}", a.name(), b.name()));
    a.link_up(name_a);
    b.link_up(name_b);
}

impl NetNs {
    /// Runs `body` with a netlink handle inside the namespace.
    pub fn netlink<T, F>(&self, body: impl FnOnce(Handle) -> F + Send) -> T
    where
        T: Send,
        F: Future<Output = T>,
    {
        self.block_on(|| async {
            let (connection, handle, _) = rtnetlink::new_connection().expect("netlink socket");
            tokio::spawn(connection);
            body(handle).await
        })
    }

    /// The index of a link; `None` if there is no such link.
    pub fn link_index(&self, name: &str) -> Option<u32> {
        self.netlink(|handle| async move {
            let mut links = handle.link().get().match_name(name.to_owned()).execute();
            links.try_next().await.ok().flatten().map(|link| link.header.index)
        })
    }

    fn index(&self, name: &str) -> u32 {
        self.link_index(name).unwrap_or_else(|| panic!("no link {name} in {}", self.name()))
    }

    fn change(
        &self,
        name: &str,
        edit: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
    ) {
        let message = edit(LinkUnspec::new_with_index(self.index(name))).build();
        self.netlink(|handle| async move { handle.link().change(message).execute().await })
            .unwrap_or_else(|e| panic!("change link {name} in {}: {e}", self.name()));
    }

    /// Sets a link up.
    pub fn link_up(&self, name: &str) {
        self.change(name, LinkMessageBuilder::up);
    }

    /// Sets a link down.
    pub fn link_down(&self, name: &str) {
        self.change(name, LinkMessageBuilder::down);
    }

    /// Sets the MTU of a link.
    pub fn set_mtu(&self, name: &str, mtu: u32) {
        self.change(name, |link| link.mtu(mtu));
    }

    /// Deletes a link.
    pub fn delete_link(&self, name: &str) {
        let index = self.index(name);
        self.netlink(|handle| async move { handle.link().del(index).execute().await })
            .unwrap_or_else(|e| panic!("delete link {name} in {}: {e}", self.name()));
    }

    /// Makes a bridge without ports, up: a stand-in for any Ethernet device nobody answers on.
    pub fn add_bridge(&self, name: &str) {
        self.netlink(|handle| async move {
            handle.link().add(LinkBridge::new(name).up().build()).execute().await
        })
        .unwrap_or_else(|e| panic!("bridge {name} in {}: {e}", self.name()));
    }

    /// Adds an address (`192.0.2.1/24`, `2001:db8::1/64`), IPv6 without duplicate detection.
    pub fn add_address(&self, link: &str, address: &str) {
        let (ip, prefix) = parse_prefix(address);
        let index = self.index(link);
        self.netlink(|handle| async move {
            let mut request = handle.address().add(index, ip, prefix);
            if ip.is_ipv6() {
                request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            }
            request.execute().await
        })
        .unwrap_or_else(|e| panic!("address {address} on {link} in {}: {e}", self.name()));
    }

    /// Adds a route to `destination` (`default`, `default6` or a network) through a gateway, a
    /// link, or both.
    pub fn add_route(&self, destination: &str, via: Option<&str>, link: Option<&str>) {
        let mut route = route_to(destination);
        if let Some(via) = via {
            route = route.gateway(via.parse().expect("gateway address")).expect("same family");
        }
        if let Some(link) = link {
            route = route.output_interface(self.index(link));
        }
        self.install_route(destination, route.build());
    }

    /// Packets to this prefix go nowhere, unless a longer prefix leads somewhere.
    pub fn add_unreachable_route(&self, destination: &str) {
        let route = route_to(destination).kind(RouteType::Unreachable);
        self.install_route(destination, route.build());
    }

    fn install_route(&self, destination: &str, message: RouteMessage) {
        self.netlink(|handle| async move { handle.route().add(message).execute().await })
            .unwrap_or_else(|e| panic!("route {destination} in {}: {e}", self.name()));
    }

    /// Makes a TUN device (IP packets, no extra header), up. It lives as long as the result.
    pub fn add_tun(&self, name: &str) -> Tun {
        let tun = self.run(|| Tun::open(name, libc::IFF_TUN | libc::IFF_NO_PI));
        self.link_up(name);
        tun
    }

    pub(super) fn add_tap(&self, name: &str) -> Tun {
        let tap = self.run(|| Tun::open(name, libc::IFF_TAP | libc::IFF_NO_PI));
        self.link_up(name);
        tap
    }
}

/// The user side of a TUN or TAP device: one read or write is one packet.
#[derive(Debug)]
pub struct Tun(File);

impl Tun {
    fn open(name: &str, flags: i32) -> Self {
        nix::ioctl_write_ptr_bad!(
            /// `TUNSETIFF` of `linux/if_tun.h`.
            set_interface,
            libc::TUNSETIFF,
            libc::ifreq
        );
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/net/tun")
            .expect("open /dev/net/tun (does the machine have TUN devices?)");
        assert!(name.len() < libc::IFNAMSIZ, "interface name {name} is too long");
        // SAFETY: `ifreq` is plain data; all zeroes is a valid value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        // SAFETY: the descriptor is open and `request` is a valid `ifreq`.
        unsafe { set_interface(file.as_raw_fd(), &request) }
            .unwrap_or_else(|e| panic!("create {name}: {e}"));
        Self(file)
    }

    /// Reads one packet; waits for it unless the descriptor was made non-blocking.
    pub fn recv(&self, buffer: &mut [u8]) -> std::io::Result<usize> {
        (&self.0).read(buffer)
    }

    /// Writes one packet.
    pub fn send(&self, packet: &[u8]) -> std::io::Result<usize> {
        (&self.0).write(packet)
    }

    /// The descriptor itself.
    pub fn into_fd(self) -> OwnedFd {
        self.0.into()
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Tun {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn route_to(destination: &str) -> RouteMessageBuilder<IpAddr> {
    let (ip, prefix) = match destination {
        "default" => parse_prefix("0.0.0.0/0"),
        "default6" => parse_prefix("::/0"),
        other => parse_prefix(other),
    };
    RouteMessageBuilder::<IpAddr>::new().destination_prefix(ip, prefix).expect("valid destination")
}

fn parse_prefix(text: &str) -> (IpAddr, u8) {
    let (ip, prefix) = text.split_once('/').unwrap_or_else(|| panic!("{text}: write ADDRESS/BITS"));
    (ip.parse().expect("address"), prefix.parse().expect("prefix length"))
}
