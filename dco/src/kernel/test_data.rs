//! What the encoding tests of both interfaces share.

use std::os::fd::BorrowedFd;

use proptest::prelude::*;

use super::message::NewPeer;
use crate::format::Cipher;
use crate::types::{DirectionKey, KeyConfig, KeyId, PeerId};

pub(super) fn peer_5() -> PeerId {
    PeerId::new(5).unwrap()
}

pub(super) fn new_peer_5(socket: BorrowedFd<'_>) -> NewPeer<'_> {
    NewPeer {
        id: peer_5(),
        socket,
        remote: Some("192.0.2.1:1194".parse().unwrap()),
        local: None,
        vpn_ipv4: None,
        vpn_ipv6: None,
        tx_id: None,
    }
}

/// AES-256-GCM, key id 0: 00..1f with tail a0..a7 out, 40..5f with b0..b7 in.
pub(super) fn key() -> KeyConfig {
    let direction = |first: u8, tail: u8| {
        let key: Vec<u8> = (first..first + 32).collect();
        let tail: Vec<u8> = (tail..tail + 8).collect();
        DirectionKey::new(Cipher::Aes256Gcm, &key, tail).unwrap()
    };
    KeyConfig {
        key_id: KeyId::FIRST,
        cipher: Cipher::Aes256Gcm,
        encrypt: direction(0, 0xa0),
        decrypt: direction(0x40, 0xb0),
    }
}

pub(super) fn unspaced(hex: &str) -> String {
    hex.split_whitespace().collect()
}

pub(super) fn unhex(text: &str) -> Vec<u8> {
    hex::decode(unspaced(text)).unwrap()
}

/// A message whose attributes `inner` are in one nest.
pub(super) fn nested(command: u8, kind: u8, inner: &str) -> Vec<u8> {
    let inner = unhex(inner);
    let mut bytes = vec![command, 1, 0, 0];
    bytes.extend((inner.len() as u16 + 4).to_ne_bytes());
    bytes.extend((u16::from(kind) | 0x8000).to_ne_bytes());
    bytes.extend(inner);
    bytes
}

/// Random bytes, and random attributes that look right from outside.
pub(super) fn messages() -> impl Strategy<Value = Vec<u8>> {
    let attribute = (0u16..30, any::<bool>(), prop::collection::vec(any::<u8>(), 0..24));
    let tree = prop::collection::vec(attribute, 0..8).prop_map(|attributes| {
        let mut bytes = Vec::new();
        for (kind, nested, payload) in attributes {
            let kind = kind | if nested { 0x8000 } else { 0 };
            bytes.extend((payload.len() as u16 + 4).to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(&payload);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    });
    let message = (0u8..12, 0u16..12, tree).prop_map(|(command, outer, tree)| {
        let mut bytes = vec![command, 1, 0, 0, 8, 0, 1, 0, 3, 0, 0, 0];
        bytes.extend((tree.len() as u16 + 4).to_ne_bytes());
        bytes.extend((outer | 0x8000).to_ne_bytes());
        bytes.extend(tree);
        bytes
    });
    prop_oneof![prop::collection::vec(any::<u8>(), 0..200), message]
}
