//! Sealing and opening against a slow and obvious version: the crypto library called directly, with
//! nonce, associated data and layout as OpenVPN describes them.
#![allow(clippy::unwrap_used, reason = "tests end by panicking")]

use std::time::Instant;

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, DecryptionContext, EncryptingKey, PaddedBlockDecryptingKey,
    UnboundCipherKey,
};
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;
use ovpn_dco::{
    Cipher, DataFormat, DataHeader, Digest, DirectionKey, Framing, KeyConfig, KeyId, PeerId,
};
use ovpn_userspace::crypto::{Opener, Sealer};
use ovpn_userspace::peer::{Opened, Peer};
use proptest::collection::vec;
use proptest::prelude::*;

const PACKET_ID: usize = 4;
const TAG: usize = 16;
/// Largest inner packet that fits a datagram with every cipher: 65,507 bytes less header, HMAC, IV,
/// packet id and padding.
const LARGEST: usize = 65_507 - 4 - 64 - 16 - PACKET_ID - 16;

/// One direction's keys, and the header they are used with.
#[derive(Clone, Debug)]
struct Secret {
    cipher: Cipher,
    cipher_key: [u8; 32],
    second_key: [u8; 64],
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
            _ => unreachable!("of other formats"),
        };
        let key = UnboundKey::new(algorithm, &self.cipher_key[..key_len]).unwrap();
        let nonce = [&id.to_be_bytes()[..], &self.second_key[..8]].concat();
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
        let (front, body) = match self.cipher.format() {
            DataFormat::Aead => {
                let (front, body) = self.seal_plainly(id, plain);
                (front.to_vec(), body)
            }
            DataFormat::Cbc(digest) => self.seal_cbc_plainly(digest, [0x5a; 16], id, plain),
            DataFormat::Epoch => unreachable!("has tests of its own, with packet ids of its own"),
        };
        [self.header(), front, body].concat()
    }

    /// HMAC and IV, then the ciphertext of packet id, body and padding: block after block, each XORed
    /// onto the one before.
    fn seal_cbc_plainly(
        &self,
        digest: Digest,
        iv: [u8; 16],
        id: u32,
        plain: &[u8],
    ) -> (Vec<u8>, Vec<u8>) {
        let (algorithm, key_len) = match self.cipher.name() {
            "AES-128-CBC" => (&AES_128, 16),
            "AES-192-CBC" => (&AES_192, 24),
            _ => (&AES_256, 32),
        };
        let key = UnboundCipherKey::new(algorithm, &self.cipher_key[..key_len]).unwrap();
        let key = EncryptingKey::ecb(key).unwrap();
        let mut text = [&id.to_be_bytes()[..], plain].concat();
        let padding = 16 - text.len() % 16;
        text.extend(vec![padding as u8; padding]);
        let mut before = iv;
        for block in text.as_chunks_mut::<16>().0 {
            block.iter_mut().zip(before).for_each(|(byte, chained)| *byte ^= chained);
            key.encrypt(block).unwrap();
            before = *block;
        }
        ([self.tag(digest, &[&iv[..], &text].concat()), iv.to_vec()].concat(), text)
    }

    fn tag(&self, digest: Digest, sealed: &[u8]) -> Vec<u8> {
        let (algorithm, len) = match digest {
            Digest::Sha1 => (hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, 20),
            Digest::Sha224 => (hmac::HMAC_SHA224, 28),
            Digest::Sha256 => (hmac::HMAC_SHA256, 32),
            Digest::Sha384 => (hmac::HMAC_SHA384, 48),
            Digest::Sha512 => (hmac::HMAC_SHA512, 64),
        };
        let mac = hmac::Key::new(algorithm, &self.second_key[..len]);
        hmac::sign(&mac, sealed).as_ref().to_vec()
    }

    /// A whole packet of CBC with any ciphertext.
    fn authenticated(&self, digest: Digest, text: &[u8]) -> Vec<u8> {
        let sealed = [&[0x5a; 16], text].concat();
        [self.header(), self.tag(digest, &sealed), sealed].concat()
    }

    /// The packet again with the IV that `sealed` has: nobody can foresee it.
    fn packet_like(&self, sealed: &[u8], id: u32, plain: &[u8]) -> Vec<u8> {
        let DataFormat::Cbc(digest) = self.cipher.format() else { return self.packet(id, plain) };
        let at = self.header().len() + digest.len();
        let iv = sealed[at..at + 16].try_into().unwrap();
        let (front, body) = self.seal_cbc_plainly(digest, iv, id, plain);
        [self.header(), front, body].concat()
    }

    fn direction(&self) -> DirectionKey {
        DirectionKey::new(self.cipher, &self.cipher_key, self.second_key).unwrap()
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
    let digest = prop::sample::select(&Digest::ALL[..]);
    let cbc = (prop::sample::select(&Cipher::CBC[..]), digest);
    secret_of(prop_oneof![
        prop::sample::select(&Cipher::AEAD[..]),
        cbc.prop_map(|(cipher, digest)| cipher.with_digest(digest)),
    ])
}

fn aead_secret() -> impl Strategy<Value = Secret> {
    secret_of(prop::sample::select(&Cipher::AEAD[..]))
}

fn secret_of(cipher: impl Strategy<Value = Cipher>) -> impl Strategy<Value = Secret> {
    let peer_id = prop::option::weighted(0.75, 0u32..1 << 24);
    (cipher, any::<([u8; 32], [u8; 32])>(), 0u8..8, peer_id).prop_map(
        |(cipher, (cipher_key, half), key_id, peer_id)| Secret {
            cipher,
            cipher_key,
            second_key: [half, half.map(|byte| byte ^ 0x55)].concat().try_into().unwrap(),
            key_id,
            peer_id,
        },
    )
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
    let place = envelope.inner(inner.len());
    packet[place].copy_from_slice(inner);
    peer.seal(envelope, &mut packet, inner.len()).unwrap();
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
            let packet = sealed(&mut peer, &inner);
            prop_assert!(packet == secret.packet_like(&packet, id, &inner), "{} bytes", len);
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
        // With CBC the id is inside, and the peer-id of DATA_V2 is not authenticated.
        let header = secret.header().len();
        let (ids, open) = match secret.cipher.format() {
            DataFormat::Aead => (header..header + PACKET_ID, 0..0),
            DataFormat::Cbc(_) => (0..0, 1..header),
            DataFormat::Epoch => unreachable!("has tests of its own"),
        };
        for at in (0..packet.len()).filter(|at| !open.contains(at)) {
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
    fn nothing_is_sealed_like_anything_else(secret in aead_secret()) {
        let header = match *secret.header() {
            [a, b, c, d] => DataHeader::V2([a, b, c, d]),
            _ => DataHeader::V1([0]),
        };
        let (expected, _) = secret.seal_plainly(1, &[]);
        let mut packet = [0; PACKET_ID + TAG];
        let mut sealer = Sealer::new(secret.cipher, &secret.direction()).unwrap();
        sealer.seal(header, &mut packet, 0).unwrap();
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

    /// Whoever has the keys can authenticate anything: wrong padding, half blocks, nothing at all. None
    /// of it is a packet, and none of it keeps the next one out.
    #[test]
    fn what_is_authentic_and_wrong_inside_is_refused(
        secret in secret(), text in vec(any::<u8>(), 0..80), whole: bool,
    ) {
        let DataFormat::Cbc(digest) = secret.cipher.format() else { return Ok(()) };
        let mut text = text;
        if whole {
            text.truncate(text.len() / 16 * 16);
        }
        let (algorithm, key_len) = match secret.cipher.name() {
            "AES-128-CBC" => (&AES_128, 16),
            "AES-192-CBC" => (&AES_192, 24),
            _ => (&AES_256, 32),
        };
        let packet = secret.authenticated(digest, &text);
        let key = UnboundCipherKey::new(algorithm, &secret.cipher_key[..key_len]).unwrap();
        let context = DecryptionContext::Iv128(FixedLength::from([0x5a; 16]));
        let plain = PaddedBlockDecryptingKey::cbc_pkcs7(key).unwrap();
        let plain = plain.decrypt(&mut text, context).ok().map(|plain| plain.to_vec());
        let mut peer = secret.peer();
        match (opened(&mut peer, &packet), plain) {
            (Ok(inner), Some(plain)) => prop_assert_eq!(inner, &plain[PACKET_ID..]),
            (Err(Opened::Forged), plain) => prop_assert!(plain.is_none_or(|plain| plain.len() < 4)),
            // Id 0, or nothing behind the id.
            (Err(Opened::Ignored | Opened::Consumed), Some(_)) => {}
            (other, plain) => prop_assert!(false, "{:?} of {:?}", other, plain),
        }
        let good = inner(20, 1);
        prop_assert_eq!(opened(&mut secret.peer(), &secret.packet(1, &good)), Ok(good));
    }
}
