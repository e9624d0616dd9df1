//! Family `ovpn`: Linux 6.16 and newer, and builds of the same code for older kernels.
//!
//! Pure: commands to bytes, bytes to answers. Layout from `include/uapi/linux/ovpn.h`.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::AsRawFd;

use super::attr::{Attr, Attrs, Request, parse};
use super::message::{
    Algorithm, Command, KeyInfo, NewPeer, Notification, PeerEvent, PeerInfo, SetPeer,
    cipher_number, reason_from_number, slot_from_number, slot_number, unmap, unmap_ip,
};
use super::uapi::ovpn::{self as nr, keyconf, peer};
use super::uapi::{self, keydir};
use crate::error::Error;
use crate::types::{DirectionKey, Keepalive, KeyConfig, KeyId, KeySlot, PeerId, PeerStats};

/// Encodes a command for the link with this index.
///
/// # Errors
///
/// [`Error::Malformed`] for combinations that have no encoding (a local address without, or of
/// another family than, the remote).
pub fn encode(command: &Command<'_>, ifindex: u32) -> Result<Request, Error> {
    let (operation, number, body) = match *command {
        Command::NewPeer(new) => ("PEER_NEW", nr::PEER_NEW, Some(new_peer(new)?)),
        Command::SetPeer(set) => ("PEER_SET", nr::PEER_SET, Some(set_peer(set))),
        Command::GetPeer(id) => ("PEER_GET", nr::PEER_GET, Some(peer_id(id))),
        // A dump with a PEER nest is refused, even with an empty one.
        Command::DumpPeers => ("PEER_GET", nr::PEER_GET, None),
        Command::DelPeer(id) => ("PEER_DEL", nr::PEER_DEL, Some(peer_id(id))),
        Command::NewKey { peer, slot, key } => {
            ("KEY_NEW", nr::KEY_NEW, Some(new_key(peer, slot, key)))
        }
        Command::GetKey { peer, slot } => ("KEY_GET", nr::KEY_GET, Some(key_slot(peer, slot))),
        Command::SwapKeys(peer) => (
            "KEY_SWAP",
            nr::KEY_SWAP,
            Some(Attr::nest(nr::KEYCONF, vec![Attr::u32(keyconf::PEER_ID, peer.get())])),
        ),
        Command::DelKey { peer, slot } => ("KEY_DEL", nr::KEY_DEL, Some(key_slot(peer, slot))),
    };
    let dump = body.is_none();
    let mut attrs = vec![Attr::u32(nr::IFINDEX, ifindex)];
    attrs.extend(body);
    Request::new(operation, number, dump, &attrs)
}

fn peer_id(id: PeerId) -> Attr<'static> {
    Attr::nest(nr::PEER, vec![Attr::u32(peer::ID, id.get())])
}

fn key_slot(id: PeerId, slot: KeySlot) -> Attr<'static> {
    let slot = u32::from(slot_number(slot));
    Attr::nest(
        nr::KEYCONF,
        vec![Attr::u32(keyconf::PEER_ID, id.get()), Attr::u32(keyconf::SLOT, slot)],
    )
}

fn new_peer(new: &NewPeer<'_>) -> Result<Attr<'static>, Error> {
    let mut attrs = vec![
        Attr::u32(peer::ID, new.id.get()),
        // A descriptor is never negative.
        Attr::u32(peer::SOCKET, new.socket.as_raw_fd() as u32),
    ];
    attrs.extend(new.remote.into_iter().flat_map(remote));
    if let Some(local) = new.local {
        attrs.push(self::local(local, new.remote)?);
    }
    attrs.extend(new.vpn_ipv4.map(|ip| Attr::bytes(peer::VPN_IPV4, &ip.octets())));
    attrs.extend(new.vpn_ipv6.map(|ip| Attr::bytes(peer::VPN_IPV6, &ip.octets())));
    attrs.extend(new.tx_id.map(|id| Attr::u32(peer::TX_ID, id.get())));
    Ok(Attr::nest(nr::PEER, attrs))
}

fn set_peer(set: &SetPeer) -> Attr<'static> {
    let mut attrs = vec![Attr::u32(peer::ID, set.id.get())];
    attrs.extend(set.remote.into_iter().flat_map(remote));
    if let Some(keepalive) = set.keepalive {
        let Keepalive { interval, timeout } = kernel_keepalive(keepalive);
        attrs.push(Attr::u32(peer::KEEPALIVE_INTERVAL, interval));
        attrs.push(Attr::u32(peer::KEEPALIVE_TIMEOUT, timeout));
    }
    Attr::nest(nr::PEER, attrs)
}

/// The module runs neither timer when one value is 0, and refuses more than a day: a half that is
/// switched off becomes a day.
fn kernel_keepalive(keepalive: Keepalive) -> Keepalive {
    if keepalive == Keepalive::default() {
        return keepalive;
    }
    let half = |seconds| match seconds {
        0 => uapi::KEEPALIVE_MAX,
        some => some.min(uapi::KEEPALIVE_MAX),
    };
    Keepalive { interval: half(keepalive.interval), timeout: half(keepalive.timeout) }
}

fn remote(remote: SocketAddr) -> Vec<Attr<'static>> {
    let remote = unmap(remote);
    let port = Attr::bytes(peer::REMOTE_PORT, &remote.port().to_be_bytes());
    match remote {
        SocketAddr::V4(v4) => vec![Attr::bytes(peer::REMOTE_IPV4, &v4.ip().octets()), port],
        SocketAddr::V6(v6) => {
            let mut attrs = vec![Attr::bytes(peer::REMOTE_IPV6, &v6.ip().octets())];
            if v6.scope_id() != 0 {
                attrs.push(Attr::u32(peer::REMOTE_IPV6_SCOPE_ID, v6.scope_id()));
            }
            attrs.push(port);
            attrs
        }
    }
}

fn local(local: IpAddr, remote: Option<SocketAddr>) -> Result<Attr<'static>, Error> {
    match (unmap_ip(local), remote.map(unmap)) {
        (IpAddr::V4(ip), Some(SocketAddr::V4(_))) => {
            Ok(Attr::bytes(peer::LOCAL_IPV4, &ip.octets()))
        }
        (IpAddr::V6(ip), Some(SocketAddr::V6(_))) => {
            Ok(Attr::bytes(peer::LOCAL_IPV6, &ip.octets()))
        }
        (local, remote) => Err(Error::Malformed {
            what: match remote {
                Some(remote) => format!("local address {local} for the remote {remote}"),
                None => format!("local address {local} without a remote address"),
            },
        }),
    }
}

fn new_key(peer: PeerId, slot: KeySlot, key: &KeyConfig) -> Attr<'_> {
    Attr::nest(
        nr::KEYCONF,
        vec![
            Attr::u32(keyconf::PEER_ID, peer.get()),
            Attr::u32(keyconf::SLOT, slot_number(slot).into()),
            Attr::u32(keyconf::KEY_ID, key.key_id.get().into()),
            Attr::u32(keyconf::CIPHER_ALG, cipher_number(key.cipher).into()),
            direction(keyconf::ENCRYPT_DIR, &key.encrypt),
            direction(keyconf::DECRYPT_DIR, &key.decrypt),
        ],
    )
}

/// One direction's key, the same in both interfaces.
pub(super) fn direction(kind: u16, key: &DirectionKey) -> Attr<'_> {
    Attr::nest(
        kind,
        vec![
            Attr::secret(keydir::CIPHER_KEY, key.cipher_key()),
            Attr::secret(keydir::NONCE_TAIL, key.second_key()),
        ],
    )
}

/// Decodes an answer to `PEER_GET`.
///
/// # Errors
///
/// [`Error::Malformed`], naming the attribute.
pub fn decode_peer(bytes: &[u8]) -> Result<PeerInfo, Error> {
    let (_, attrs) = parse("PEER_GET answer", bytes)?;
    let attrs = attrs.need("PEER", attrs.nest(nr::PEER, "PEER")?)?;
    let count = |kind, name| Ok::<_, Error>(attrs.uint(kind, name)?.unwrap_or(0));
    let local = match attrs.ipv4(peer::LOCAL_IPV4, "LOCAL_IPV4")? {
        Some(ip) => Some(IpAddr::V4(ip)),
        None => attrs.ipv6(peer::LOCAL_IPV6, "LOCAL_IPV6")?.map(IpAddr::V6),
    };
    Ok(PeerInfo {
        id: decode_id(&attrs, peer::ID, "ID")?,
        tx_id: match attrs.u32(peer::TX_ID, "TX_ID")? {
            Some(id) => Some(check_id(id)?),
            None => None,
        },
        remote: decode_remote(&attrs)?,
        local,
        local_port: attrs.be16(peer::LOCAL_PORT, "LOCAL_PORT")?,
        vpn_ipv4: attrs.ipv4(peer::VPN_IPV4, "VPN_IPV4")?,
        vpn_ipv6: attrs.ipv6(peer::VPN_IPV6, "VPN_IPV6")?,
        keepalive: Keepalive {
            interval: attrs.u32(peer::KEEPALIVE_INTERVAL, "KEEPALIVE_INTERVAL")?.unwrap_or(0),
            timeout: attrs.u32(peer::KEEPALIVE_TIMEOUT, "KEEPALIVE_TIMEOUT")?.unwrap_or(0),
        },
        socket_netnsid: attrs.i32(peer::SOCKET_NETNSID, "SOCKET_NETNSID")?,
        stats: PeerStats {
            vpn_rx_bytes: count(peer::VPN_RX_BYTES, "VPN_RX_BYTES")?,
            vpn_tx_bytes: count(peer::VPN_TX_BYTES, "VPN_TX_BYTES")?,
            vpn_rx_packets: count(peer::VPN_RX_PACKETS, "VPN_RX_PACKETS")?,
            vpn_tx_packets: count(peer::VPN_TX_PACKETS, "VPN_TX_PACKETS")?,
            link_rx_bytes: count(peer::LINK_RX_BYTES, "LINK_RX_BYTES")?,
            link_tx_bytes: count(peer::LINK_TX_BYTES, "LINK_TX_BYTES")?,
            link_rx_packets: count(peer::LINK_RX_PACKETS, "LINK_RX_PACKETS")?,
            link_tx_packets: count(peer::LINK_TX_PACKETS, "LINK_TX_PACKETS")?,
        },
    })
}

/// Decodes an answer to `KEY_GET`.
///
/// # Errors
///
/// [`Error::Malformed`], naming the attribute.
pub fn decode_key(bytes: &[u8]) -> Result<KeyInfo, Error> {
    let (_, attrs) = parse("KEY_GET answer", bytes)?;
    let attrs = attrs.need("KEYCONF", attrs.nest(nr::KEYCONF, "KEYCONF")?)?;
    let slot = attrs.u32(keyconf::SLOT, "SLOT")?.and_then(slot_from_number);
    let key_id = attrs.u32(keyconf::KEY_ID, "KEY_ID")?;
    let key_id = key_id.and_then(|id| KeyId::new(u8::try_from(id).ok()?));
    let algorithm = attrs.u32(keyconf::CIPHER_ALG, "CIPHER_ALG")?.and_then(Algorithm::from_number);
    Ok(KeyInfo {
        peer: decode_id(&attrs, keyconf::PEER_ID, "PEER_ID")?,
        slot: attrs.need("SLOT", slot)?,
        key_id: attrs.need("KEY_ID", key_id)?,
        algorithm: attrs.need("CIPHER_ALG", algorithm)?,
    })
}

/// Decodes a message of the multicast group; `None` for one this crate does not know.
///
/// # Errors
///
/// [`Error::Malformed`], naming the attribute.
pub fn decode_notification(bytes: &[u8]) -> Result<Option<Notification>, Error> {
    let (command, attrs) = parse("notification", bytes)?;
    if ![nr::PEER_DEL_NTF, nr::PEER_FLOAT_NTF, nr::KEY_SWAP_NTF].contains(&command) {
        return Ok(None);
    }
    let ifindex = attrs.need("IFINDEX", attrs.u32(nr::IFINDEX, "IFINDEX")?)?;
    if command == nr::KEY_SWAP_NTF {
        let conf = attrs.need("KEYCONF", attrs.nest(nr::KEYCONF, "KEYCONF")?)?;
        // Two bytes here, four everywhere else.
        let key_id = match conf.get(keyconf::KEY_ID).map(<[u8]>::len) {
            Some(2) => conf.u16(keyconf::KEY_ID, "KEY_ID")?.map(u32::from),
            _ => conf.u32(keyconf::KEY_ID, "KEY_ID")?,
        };
        let key_id = key_id.and_then(|id| KeyId::new(u8::try_from(id).ok()?));
        return Ok(Some(Notification {
            ifindex,
            peer: decode_id(&conf, keyconf::PEER_ID, "PEER_ID")?,
            event: PeerEvent::KeyExhausted(conf.need("KEY_ID", key_id)?),
        }));
    }
    let attrs = attrs.need("PEER", attrs.nest(nr::PEER, "PEER")?)?;
    let event = if command == nr::PEER_DEL_NTF {
        let reason = attrs.need("DEL_REASON", attrs.u32(peer::DEL_REASON, "DEL_REASON")?)?;
        PeerEvent::Deleted(reason_from_number(reason)?)
    } else {
        PeerEvent::Floated(attrs.need("REMOTE_IPV4", decode_remote(&attrs)?)?)
    };
    Ok(Some(Notification { ifindex, peer: decode_id(&attrs, peer::ID, "ID")?, event }))
}

fn decode_remote(attrs: &Attrs) -> Result<Option<SocketAddr>, Error> {
    let Some(port) = attrs.be16(peer::REMOTE_PORT, "REMOTE_PORT")? else { return Ok(None) };
    if let Some(ip) = attrs.ipv4(peer::REMOTE_IPV4, "REMOTE_IPV4")? {
        return Ok(Some(SocketAddr::from((ip, port))));
    }
    let scope = attrs.u32(peer::REMOTE_IPV6_SCOPE_ID, "REMOTE_IPV6_SCOPE_ID")?.unwrap_or(0);
    let ip = attrs.ipv6(peer::REMOTE_IPV6, "REMOTE_IPV6")?;
    Ok(ip.map(|ip| SocketAddr::V6(SocketAddrV6::new(ip, port, 0, scope))))
}

fn decode_id(attrs: &Attrs, kind: u16, name: &'static str) -> Result<PeerId, Error> {
    check_id(attrs.need(name, attrs.u32(kind, name)?)?)
}

pub(super) fn check_id(id: u32) -> Result<PeerId, Error> {
    PeerId::new(id).ok_or_else(|| Error::Malformed { what: format!("peer id {id}") })
}

#[cfg(test)]
#[path = "ovpn_tests.rs"]
mod tests;
