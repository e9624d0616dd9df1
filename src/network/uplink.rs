//! The device that leads to an address.

use std::net::IpAddr;

use nix::net::if_::if_indextoname;

use super::netlink::Netlink;

/// Over which device the kernel sends to `address` now; `None`: over none, or nobody can tell.
/// Needs no privilege. Inside a tokio runtime.
pub async fn device_towards(address: IpAddr) -> Option<String> {
    let netlink = Netlink::open().ok()?;
    let route = netlink.route_to(address.to_canonical(), None, None).await.ok()??;
    let name = if_indextoname(route.hops.first()?.index).ok()?;
    name.into_string().ok()
}
