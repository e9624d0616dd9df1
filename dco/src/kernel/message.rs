//! What is said to and heard from a module, in words both interfaces share.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::BorrowedFd;

use super::uapi;
use crate::data_channel::PeerDeletedReason;
use crate::error::Error;
use crate::format::Cipher;
use crate::types::{Keepalive, KeyConfig, KeyId, KeySlot, PeerId, PeerStats};

/// A peer to create.
#[derive(Clone, Copy, Debug)]
pub struct NewPeer<'a> {
    /// Matched in received DATA_V2 packets, and sent unless `tx_id` differs.
    pub id: PeerId,
    /// The transport socket: UDP and bound, or TCP and established. Looked up in the descriptor
    /// table of the sending task.
    pub socket: BorrowedFd<'a>,
    /// Where to send. UDP only: the in-tree module refuses it for TCP.
    pub remote: Option<SocketAddr>,
    /// Source address to send from; learned from received packets if not given.
    pub local: Option<IpAddr>,
    /// The peer's tunnel address, for links in multi-peer mode.
    pub vpn_ipv4: Option<Ipv4Addr>,
    /// The peer's tunnel address, for links in multi-peer mode.
    pub vpn_ipv6: Option<Ipv6Addr>,
    /// The id to put into sent packets, where the peer knows itself by another number. In-tree
    /// module since 7.1 (see [`super::Features`]).
    pub tx_id: Option<PeerId>,
}

/// What of a peer to change.
#[derive(Clone, Copy, Debug)]
pub struct SetPeer {
    /// Which.
    pub id: PeerId,
    /// Another remote address (in-tree module only).
    pub remote: Option<SocketAddr>,
    /// Another keepalive. Restarts both timers.
    pub keepalive: Option<Keepalive>,
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub enum Command<'a> {
    /// In point-to-point mode this replaces the peer there is.
    NewPeer(&'a NewPeer<'a>),
    /// See [`SetPeer`].
    SetPeer(&'a SetPeer),
    /// Answered by [`PeerInfo`].
    GetPeer(PeerId),
    /// Answered by one [`PeerInfo`] per peer. `ovpn-dco-v2` lists nothing in point-to-point mode.
    DumpPeers,
    /// Deletes a peer and its keys.
    DelPeer(PeerId),
    /// Replaces what is in the slot.
    NewKey {
        /// Whose.
        peer: PeerId,
        /// Where.
        slot: KeySlot,
        /// What.
        key: &'a KeyConfig,
    },
    /// Answered by [`KeyInfo`]. In-tree module only.
    GetKey {
        /// Whose.
        peer: PeerId,
        /// Which.
        slot: KeySlot,
    },
    /// Exchanges the slots. Succeeds with an empty secondary slot, after which nothing is sent.
    SwapKeys(PeerId),
    /// Empties a slot.
    DelKey {
        /// Whose.
        peer: PeerId,
        /// Which.
        slot: KeySlot,
    },
}

/// A peer as the kernel describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerInfo {
    /// Its id.
    pub id: PeerId,
    /// The id in packets sent to it, where the module tells.
    pub tx_id: Option<PeerId>,
    /// Where packets are sent; `None` on TCP.
    pub remote: Option<SocketAddr>,
    /// The source address; unspecified until the first packet was authenticated, `None` on TCP.
    pub local: Option<IpAddr>,
    /// The transport socket's port.
    pub local_port: Option<u16>,
    /// Tunnel address (multi-peer mode).
    pub vpn_ipv4: Option<Ipv4Addr>,
    /// Tunnel address (multi-peer mode).
    pub vpn_ipv6: Option<Ipv6Addr>,
    /// In force.
    pub keepalive: Keepalive,
    /// Id of the network namespace that the transport socket is in, where that is not the link's.
    pub socket_netnsid: Option<i32>,
    /// Counters. `ovpn-dco-v2` counts packets with 32 bits, which wrap.
    pub stats: PeerStats,
}

/// The algorithm of an installed key. The kernel does not tell the key length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Algorithm {
    /// AES-GCM with any key length.
    AesGcm,
    /// ChaCha20-Poly1305.
    ChaCha20Poly1305,
}

/// An installed key as the kernel describes it: never its material.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyInfo {
    /// Whose.
    pub peer: PeerId,
    /// Where.
    pub slot: KeySlot,
    /// Its id.
    pub key_id: KeyId,
    /// Its algorithm.
    pub algorithm: Algorithm,
}

/// What a module tells the members of its multicast group. The group carries the events of every
/// link of the namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Notification {
    /// The link it is about.
    pub ifindex: u32,
    /// The peer it is about.
    pub peer: PeerId,
    /// What happened.
    pub event: PeerEvent,
}

/// See [`Notification`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PeerEvent {
    /// The peer is gone.
    Deleted(PeerDeletedReason),
    /// It sends from another address (in-tree module since 7.1).
    Floated(SocketAddr),
    /// The key is used up and gone (in-tree module).
    KeyExhausted(KeyId),
}

impl Algorithm {
    pub(super) fn from_number(number: u32) -> Option<Self> {
        match u8::try_from(number) {
            Ok(uapi::CIPHER_AES_GCM) => Some(Self::AesGcm),
            Ok(uapi::CIPHER_CHACHA20_POLY1305) => Some(Self::ChaCha20Poly1305),
            _ => None,
        }
    }
}

/// CBC ciphers have none: [`super::Device::new_key`] refuses them before, as a module would refuse this.
pub(super) fn cipher_number(cipher: Cipher) -> u8 {
    match cipher {
        Cipher::Aes128Gcm | Cipher::Aes192Gcm | Cipher::Aes256Gcm => uapi::CIPHER_AES_GCM,
        Cipher::ChaCha20Poly1305 => uapi::CIPHER_CHACHA20_POLY1305,
        _ => uapi::CIPHER_NONE,
    }
}

pub(super) fn slot_number(slot: KeySlot) -> u8 {
    match slot {
        KeySlot::Primary => uapi::SLOT_PRIMARY,
        KeySlot::Secondary => uapi::SLOT_SECONDARY,
    }
}

pub(super) fn slot_from_number(number: u32) -> Option<KeySlot> {
    match u8::try_from(number) {
        Ok(uapi::SLOT_PRIMARY) => Some(KeySlot::Primary),
        Ok(uapi::SLOT_SECONDARY) => Some(KeySlot::Secondary),
        _ => None,
    }
}

/// Deletion reasons have the same numbers in both interfaces.
pub(super) fn reason_from_number(number: u32) -> Result<PeerDeletedReason, Error> {
    Ok(match number {
        0 => PeerDeletedReason::Teardown,
        1 => PeerDeletedReason::Userspace,
        2 => PeerDeletedReason::Expired,
        3 => PeerDeletedReason::TransportError,
        4 => PeerDeletedReason::TransportDisconnect,
        other => return Err(Error::Malformed { what: format!("peer deletion reason {other}") }),
    })
}

/// The modules treat an IPv4-mapped IPv6 address as IPv4; say so at once, so that what comes back
/// compares equal to what was sent.
pub(super) fn unmap(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::from((v4, v6.port())),
            None => address,
        },
        SocketAddr::V4(_) => address,
    }
}

/// See [`unmap`].
pub(super) fn unmap_ip(address: IpAddr) -> IpAddr {
    address.to_canonical()
}
