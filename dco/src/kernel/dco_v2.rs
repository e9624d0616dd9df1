//! Family `ovpn-dco-v2`: the out-of-tree module for kernels before 6.16.
//!
//! Pure: commands to bytes, bytes to answers. Layout from `include/uapi/linux/ovpn_dco.h`. Every
//! command has a nest and attribute numbers of its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::AsRawFd;

use super::attr::{Attr, Request, parse};
use super::message::{
    Command, NewPeer, Notification, PeerEvent, PeerInfo, SetPeer, cipher_number,
    reason_from_number, slot_number, unmap, unmap_ip,
};
use super::ovpn::{check_id, direction};
use super::uapi::dco_v2::{
    self as nr, del_key, del_peer, get_peer, new_key, new_peer, set_peer, swap_keys, top,
};
use crate::error::Error;
use crate::types::{Keepalive, KeyConfig, KeySlot, PeerId, PeerStats};

const NAME: &str = "ovpn-dco-v2";

/// Encodes a command for the link with this index.
///
/// # Errors
///
/// [`Error::Unsupported`] for what only the in-tree module has: key queries, another remote for an
/// existing peer, a different id to send.
pub fn encode(command: &Command<'_>, ifindex: u32) -> Result<Request, Error> {
    let (operation, number, body) = match *command {
        Command::NewPeer(new) => ("NEW_PEER", nr::NEW_PEER, Some(encode_new_peer(new)?)),
        Command::SetPeer(set) => ("SET_PEER", nr::SET_PEER, Some(encode_set_peer(set)?)),
        Command::GetPeer(id) => (
            "GET_PEER",
            nr::GET_PEER,
            Some(Attr::nest(top::GET_PEER, vec![Attr::u32(get_peer::PEER_ID, id.get())])),
        ),
        Command::DumpPeers => ("GET_PEER", nr::GET_PEER, None),
        Command::DelPeer(id) => (
            "DEL_PEER",
            nr::DEL_PEER,
            Some(Attr::nest(top::DEL_PEER, vec![Attr::u32(del_peer::PEER_ID, id.get())])),
        ),
        Command::NewKey { peer, slot, key } => {
            ("NEW_KEY", nr::NEW_KEY, Some(encode_new_key(peer, slot, key)))
        }
        Command::GetKey { .. } => return Err(unsupported("asking for an installed key")),
        Command::SwapKeys(peer) => (
            "SWAP_KEYS",
            nr::SWAP_KEYS,
            Some(Attr::nest(top::SWAP_KEYS, vec![Attr::u32(swap_keys::PEER_ID, peer.get())])),
        ),
        Command::DelKey { peer, slot } => (
            "DEL_KEY",
            nr::DEL_KEY,
            Some(Attr::nest(
                top::DEL_KEY,
                vec![
                    Attr::u32(del_key::PEER_ID, peer.get()),
                    Attr::u8(del_key::KEY_SLOT, slot_number(slot)),
                ],
            )),
        ),
    };
    let dump = body.is_none();
    let mut attrs = vec![Attr::u32(top::IFINDEX, ifindex)];
    attrs.extend(body);
    Request::new(operation, number, dump, &attrs)
}

fn unsupported(what: &str) -> Error {
    Error::Unsupported { what: what.to_owned(), by: NAME }
}

fn encode_new_peer(new: &NewPeer<'_>) -> Result<Attr<'static>, Error> {
    if new.tx_id.is_some_and(|tx| tx != new.id) {
        return Err(unsupported("a peer-id to send other than the one to receive"));
    }
    let mut attrs = vec![
        Attr::u32(new_peer::PEER_ID, new.id.get()),
        // A descriptor is never negative.
        Attr::u32(new_peer::SOCKET, new.socket.as_raw_fd() as u32),
    ];
    attrs.extend(new.remote.map(|r| Attr::bytes(new_peer::SOCKADDR_REMOTE, &sockaddr(unmap(r)))));
    attrs.extend(new.vpn_ipv4.map(|ip| Attr::bytes(new_peer::IPV4, &ip.octets())));
    attrs.extend(new.vpn_ipv6.map(|ip| Attr::bytes(new_peer::IPV6, &ip.octets())));
    attrs.extend(new.local.map(|ip| match unmap_ip(ip) {
        IpAddr::V4(ip) => Attr::bytes(new_peer::LOCAL_IP, &ip.octets()),
        IpAddr::V6(ip) => Attr::bytes(new_peer::LOCAL_IP, &ip.octets()),
    }));
    Ok(Attr::nest(top::NEW_PEER, attrs))
}

fn encode_set_peer(set: &SetPeer) -> Result<Attr<'static>, Error> {
    if set.remote.is_some() {
        return Err(unsupported("another remote address for an existing peer"));
    }
    let mut attrs = vec![Attr::u32(set_peer::PEER_ID, set.id.get())];
    if let Some(Keepalive { interval, timeout }) = set.keepalive {
        attrs.push(Attr::u32(set_peer::KEEPALIVE_INTERVAL, interval));
        attrs.push(Attr::u32(set_peer::KEEPALIVE_TIMEOUT, timeout));
    }
    Ok(Attr::nest(top::SET_PEER, attrs))
}

fn encode_new_key(peer: PeerId, slot: KeySlot, key: &KeyConfig) -> Attr<'_> {
    Attr::nest(
        top::NEW_KEY,
        vec![
            Attr::u32(new_key::PEER_ID, peer.get()),
            Attr::u8(new_key::KEY_SLOT, slot_number(slot)),
            Attr::u8(new_key::KEY_ID, key.key_id.get()),
            Attr::u16(new_key::CIPHER_ALG, cipher_number(key.cipher).into()),
            direction(new_key::ENCRYPT_KEY, &key.encrypt),
            direction(new_key::DECRYPT_KEY, &key.decrypt),
        ],
    )
}

/// `struct sockaddr_in` or `struct sockaddr_in6`; no other size is accepted.
fn sockaddr(address: SocketAddr) -> Vec<u8> {
    let family = match address {
        SocketAddr::V4(_) => libc::AF_INET,
        SocketAddr::V6(_) => libc::AF_INET6,
    } as u16;
    let mut bytes = [family.to_ne_bytes(), address.port().to_be_bytes()].concat();
    match address {
        SocketAddr::V4(v4) => {
            bytes.extend(v4.ip().octets());
            bytes.extend([0; 8]);
        }
        SocketAddr::V6(v6) => {
            bytes.extend([0; 4]);
            bytes.extend(v6.ip().octets());
            bytes.extend(v6.scope_id().to_ne_bytes());
        }
    }
    bytes
}

fn decode_sockaddr(bytes: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(*bytes.first_chunk()?);
    let port = u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?);
    match i32::from(family) {
        libc::AF_INET if bytes.len() == 16 => {
            let ip: [u8; 4] = *bytes.get(4..)?.first_chunk()?;
            Some(SocketAddr::from((ip, port)))
        }
        libc::AF_INET6 if bytes.len() == 28 => {
            let ip: [u8; 16] = *bytes.get(8..)?.first_chunk()?;
            let scope = u32::from_ne_bytes(*bytes.get(24..)?.first_chunk()?);
            Some(SocketAddr::V6(SocketAddrV6::new(ip.into(), port, 0, scope)))
        }
        _ => None,
    }
}

fn decode_ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(*bytes.first_chunk::<4>()?).into()),
        16 => Some(Ipv6Addr::from(*bytes.first_chunk::<16>()?).into()),
        _ => None,
    }
}

/// Decodes an answer to `GET_PEER`.
///
/// # Errors
///
/// [`Error::Malformed`], naming the attribute.
pub fn decode_peer(bytes: &[u8]) -> Result<PeerInfo, Error> {
    let (_, attrs) = parse("GET_PEER answer", bytes)?;
    let attrs = attrs.need("GET_PEER", attrs.nest(top::GET_PEER, "GET_PEER")?)?;
    let bytes64 = |kind, name| Ok::<_, Error>(attrs.u64(kind, name)?.unwrap_or(0));
    let packets = |kind, name| Ok::<_, Error>(attrs.u32(kind, name)?.unwrap_or(0).into());
    let remote = match attrs.get(get_peer::SOCKADDR_REMOTE) {
        Some(bytes) => Some(attrs.need("SOCKADDR_REMOTE", decode_sockaddr(bytes))?),
        None => None,
    };
    let local = match attrs.get(get_peer::LOCAL_IP) {
        Some(bytes) => Some(attrs.need("LOCAL_IP", decode_ip(bytes))?),
        None => None,
    };
    Ok(PeerInfo {
        id: check_id(attrs.need("PEER_ID", attrs.u32(get_peer::PEER_ID, "PEER_ID")?)?)?,
        tx_id: None,
        remote,
        local,
        local_port: attrs.be16(get_peer::LOCAL_PORT, "LOCAL_PORT")?,
        vpn_ipv4: attrs.ipv4(get_peer::IPV4, "IPV4")?,
        vpn_ipv6: attrs.ipv6(get_peer::IPV6, "IPV6")?,
        keepalive: Keepalive {
            interval: attrs.u32(get_peer::KEEPALIVE_INTERVAL, "KEEPALIVE_INTERVAL")?.unwrap_or(0),
            timeout: attrs.u32(get_peer::KEEPALIVE_TIMEOUT, "KEEPALIVE_TIMEOUT")?.unwrap_or(0),
        },
        socket_netnsid: None,
        stats: PeerStats {
            vpn_rx_bytes: bytes64(get_peer::VPN_RX_BYTES, "VPN_RX_BYTES")?,
            vpn_tx_bytes: bytes64(get_peer::VPN_TX_BYTES, "VPN_TX_BYTES")?,
            vpn_rx_packets: packets(get_peer::VPN_RX_PACKETS, "VPN_RX_PACKETS")?,
            vpn_tx_packets: packets(get_peer::VPN_TX_PACKETS, "VPN_TX_PACKETS")?,
            link_rx_bytes: bytes64(get_peer::LINK_RX_BYTES, "LINK_RX_BYTES")?,
            link_tx_bytes: bytes64(get_peer::LINK_TX_BYTES, "LINK_TX_BYTES")?,
            link_rx_packets: packets(get_peer::LINK_RX_PACKETS, "LINK_RX_PACKETS")?,
            link_tx_packets: packets(get_peer::LINK_TX_PACKETS, "LINK_TX_PACKETS")?,
        },
    })
}

/// Decodes a message of the multicast group; `None` for one this crate does not know.
///
/// # Errors
///
/// [`Error::Malformed`], naming the attribute.
pub fn decode_notification(bytes: &[u8]) -> Result<Option<Notification>, Error> {
    let (command, attrs) = parse("notification", bytes)?;
    if command != nr::DEL_PEER {
        return Ok(None);
    }
    let ifindex = attrs.need("IFINDEX", attrs.u32(top::IFINDEX, "IFINDEX")?)?;
    let attrs = attrs.need("DEL_PEER", attrs.nest(top::DEL_PEER, "DEL_PEER")?)?;
    let reason = attrs.need("REASON", attrs.u8(del_peer::REASON, "REASON")?)?;
    Ok(Some(Notification {
        ifindex,
        peer: check_id(attrs.need("PEER_ID", attrs.u32(del_peer::PEER_ID, "PEER_ID")?)?)?,
        event: PeerEvent::Deleted(reason_from_number(reason.into())?),
    }))
}

#[cfg(test)]
#[path = "dco_v2_tests.rs"]
mod tests;
