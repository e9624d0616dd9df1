//! Sealing and opening against a slow and obvious version: the crypto library called directly, with
//! nonce, associated data and layout as OpenVPN describes them.
#![allow(clippy::unwrap_used, reason = "tests end by panicking")]

use std::time::Instant;

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use ovpn_dco::{Cipher, DataHeader, DirectionKey, Framing, KeyConfig, KeyId, PeerId};
use ovpn_userspace::crypto::{Opener, Sealer};
use ovpn_userspace::peer::{Opened, Peer};
use proptest::collection::vec;
use proptest::prelude::*;

const PACKET_ID: usize = 4;
const TAG: usize = 16;
/// Largest inner packet that fits a datagram: 65,507 bytes less header, packet id and tag.
const LARGEST: usize = 65_507 - 4 - PACKET_ID - TAG;

/// One direction's keys, and the header they are used with.
#[derive(Clone, Debug)]
struct Secret {
    cipher: Cipher,
    cipher_key: [u8; 32],
    nonce_tail: [u8; 8],
    key_id: u8,
    /// DATA_V2, or DATA_V1 without one.
    peer_id: Option<u32>,
}

impl Secret {
    /// The header: opcode and key-id in one byte, then the peer-id of DATA_V2.
    fn header(&self) -> Vec<u8> {
        match self.peer_id {
            None => vec![(6 << 3) | self.key_id],
            Some(id) => {
                let [_, high, middle, low] = id.to_be_bytes();
                vec![(9 << 3) | self.key_id, high, middle, low]
            }
        }
    }

    /// What is authenticated: the packet id, behind the whole header of DATA_V2.
    fn associated(&self, id: u32) -> Vec<u8> {
        let header = if self.peer_id.is_some() { self.header() } else { Vec::new() };
        [header, id.to_be_bytes().to_vec()].concat()
    }

    /// Packet id and tag, then the ciphertext.
    fn seal_plainly(&self, id: u32, plain: &[u8]) -> ([u8; PACKET_ID + TAG], Vec<u8>) {
        let (algorithm, key_len) = match self.cipher {
            Cipher::Aes128Gcm => (&aead::AES_128_GCM, 16),
            Cipher::Aes192Gcm => (&aead::AES_192_GCM, 24),
            Cipher::Aes256Gcm => (&aead::AES_256_GCM, 32),
            Cipher::ChaCha20Poly1305 => (&aead::CHACHA20_POLY1305, 32),
        };
        let key = UnboundKey::new(algorithm, &self.cipher_key[..key_len]).unwrap();
        let nonce = [&id.to_be_bytes()[..], &self.nonce_tail].concat();
        let mut body = plain.to_vec();
        LessSafeKey::new(key)
            .seal_in_place_append_tag(
                Nonce::try_assume_unique_for_key(&nonce).unwrap(),
                Aad::from(self.associated(id)),
                &mut body,
            )
            .unwrap();
        let tag = body.split_off(plain.len());
        ([id.to_be_bytes().to_vec(), tag].concat().try_into().unwrap(), body)
    }

    /// A whole packet.
    fn packet(&self, id: u32, plain: &[u8]) -> Vec<u8> {
        let (id_and_tag, body) = self.seal_plainly(id, plain);
        [&self.header()[..], &id_and_tag, &body].concat()
    }

    fn direction(&self) -> DirectionKey {
        DirectionKey::new(self.cipher, &self.cipher_key, self.nonce_tail).unwrap()
    }

    /// A peer that sends and receives with this secret.
    fn peer(&self) -> Peer {
        let mut peer = Peer::new(self.peer_id.and_then(PeerId::new), Framing::None, None);
        let config = KeyConfig {
            key_id: KeyId::new(self.key_id).unwrap(),
            cipher: self.cipher,
            encrypt: self.direction(),
            decrypt: self.direction(),
        };
        peer.install(config).unwrap();
        peer
    }
}

fn secret() -> impl Strategy<Value = Secret> {
    let peer_id = prop::option::weighted(0.75, 0u32..1 << 24);
    (prop::sample::select(&Cipher::ALL[..]), any::<([u8; 32], [u8; 8])>(), 0u8..8, peer_id)
        .prop_map(|(cipher, (cipher_key, nonce_tail), key_id, peer_id)| Secret {
            cipher,
            cipher_key,
            nonce_tail,
            key_id,
            peer_id,
        })
}

/// Small ones and those around the blocks of the ciphers, usual ones, and the largest.
fn len() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 1usize..70, 3 => 1usize..1500, 1 => 1usize..=LARGEST, 1 => Just(LARGEST)]
}

/// An IPv4 packet by its first nibble, and nothing else in particular.
fn inner(len: usize, seed: u8) -> Vec<u8> {
    let mut inner: Vec<u8> =
        (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8 ^ seed).collect();
    inner[0] = 0x45;
    inner
}

fn sealed(peer: &mut Peer, inner: &[u8]) -> Vec<u8> {
    let envelope = peer.envelope(inner[0]);
    let mut packet = vec![0; envelope.sealed_len(inner.len())];
    let place = envelope.inner(packet.len());
    packet[place].copy_from_slice(inner);
    peer.seal(envelope, &mut packet).unwrap();
    packet
}

/// The inner packet, where there is one.
fn opened(peer: &mut Peer, packet: &[u8]) -> Result<Vec<u8>, Opened> {
    let mut packet = packet.to_vec();
    match peer.open(&mut packet, Instant::now()) {
        Opened::Packet(place) => Ok(packet[place].to_vec()),
        other => Err(other),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Packets of a peer, one after the other, are those built plainly with ids from 1 on.
    #[test]
    fn seals_like_the_obvious_version(
        secret in secret(), lens in vec(len(), 1..6), seed: u8,
    ) {
        let mut peer = secret.peer();
        for (len, id) in lens.into_iter().zip(1..) {
            let inner = inner(len, seed);
            prop_assert!(sealed(&mut peer, &inner) == secret.packet(id, &inner), "{} bytes", len);
        }
    }

    /// Packets built plainly, with any ids, are opened to what went in, once each.
    #[test]
    fn opens_what_the_obvious_version_seals(
        secret in secret(), mut packets in vec((len(), 1u32..), 1..6), seed: u8,
    ) {
        let mut peer = secret.peer();
        // In rising order, so that the replay window has no say.
        packets.sort_by_key(|(_, id)| *id);
        packets.dedup_by_key(|(_, id)| *id);
        for (len, id) in packets {
            let inner = inner(len, seed);
            let packet = secret.packet(id, &inner);
            let got = opened(&mut peer, &packet);
            prop_assert!(got.as_ref() == Ok(&inner), "{} bytes, id {}", len, id);
            prop_assert_eq!(opened(&mut peer, &packet), Err(Opened::Ignored));
        }
    }

    /// Whatever byte is changed, and however: nothing comes out, and the packet itself is opened
    /// afterwards.
    #[test]
    fn any_tampered_byte_is_refused(
        secret in secret(), len in 1usize..80, id in 1u32.., change in 1u8.., seed: u8,
    ) {
        let mut peer = secret.peer();
        let inner = inner(len, seed);
        let packet = secret.packet(id, &inner);
        let header = secret.header().len();
        let ids = header..header + PACKET_ID;
        for at in 0..packet.len() {
            let mut tampered = packet.clone();
            tampered[at] ^= change;
            let got = opened(&mut peer, &tampered);
            // Another opcode or key-id is not for this key to judge; id 0 is never sent.
            let refused = match got {
                Err(Opened::Forged) => true,
                Err(Opened::Control | Opened::UnknownKey) => at == 0,
                Err(Opened::Ignored) => at == 0 || ids.contains(&at),
                _ => false,
            };
            prop_assert!(refused, "byte {} of {}: {:?}", at, packet.len(), got);
        }
        for end in 0..packet.len() {
            let cut = opened(&mut peer, &packet[..end]);
            prop_assert_eq!(cut, Err(Opened::Forged), "cut to {} bytes", end);
        }
        let longer = opened(&mut peer, &[&packet[..], &[0]].concat());
        prop_assert_eq!(longer, Err(Opened::Forged));
        prop_assert_eq!(opened(&mut peer, &packet), Ok(inner));
    }

    /// Without a body there is only a tag to check. A peer has nothing to do with such a packet.
    #[test]
    fn nothing_is_sealed_like_anything_else(secret in secret()) {
        let header = match *secret.header() {
            [a, b, c, d] => DataHeader::V2([a, b, c, d]),
            _ => DataHeader::V1([0]),
        };
        let (expected, _) = secret.seal_plainly(1, &[]);
        let mut packet = [0; PACKET_ID + TAG];
        let mut sealer = Sealer::new(secret.cipher, &secret.direction()).unwrap();
        sealer.seal(header, &mut packet).unwrap();
        prop_assert_eq!(packet, expected);

        let mut opener = Opener::new(secret.cipher, &secret.direction()).unwrap();
        for at in 0..expected.len() {
            let mut tampered = expected;
            tampered[at] ^= 1;
            prop_assert!(opener.open(header, &mut tampered, Instant::now()).is_err());
        }
        prop_assert!(opener.open(header, &mut packet, Instant::now()).is_ok());
        prop_assert_eq!(opened(&mut secret.peer(), &secret.packet(1, &[])), Err(Opened::Forged));
    }
}
