//! The data format: what stands where in a data packet, and how long each part is.
//!
//! Whoever counts a packet's bytes asks here: the user space data path, the clamp of the MSS, the
//! options string. Pure.

use std::fmt;

use crate::types::{KeyId, PeerId};

/// The opcodes of data packets, in the upper five bits of the first byte.
const DATA_V1: u8 = 6;
const DATA_V2: u8 = 9;

/// Whether a packet's first byte marks it as a data packet (DATA_V1 or DATA_V2): not for the
/// control channel.
#[inline]
pub const fn is_data_packet(first_byte: u8) -> bool {
    matches!(first_byte >> 3, DATA_V1 | DATA_V2)
}

/// A data packet's header, as it is on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DataHeader {
    /// Opcode and key id.
    V1([u8; Self::V1_LEN]),
    /// The same and a peer-id.
    V2([u8; Self::V2_LEN]),
}

impl DataHeader {
    /// Bytes of a DATA_V1 header.
    pub const V1_LEN: usize = 1;
    /// Bytes of a DATA_V2 header.
    pub const V2_LEN: usize = 4;

    /// The header of packets under `key`: DATA_V2 if the server gave us a peer-id.
    #[inline]
    pub const fn new(peer: Option<PeerId>, key: KeyId) -> Self {
        match peer {
            None => Self::V1([DATA_V1 << 3 | key.get()]),
            Some(peer) => {
                let [_, high, middle, low] = peer.get().to_be_bytes();
                Self::V2([DATA_V2 << 3 | key.get(), high, middle, low])
            }
        }
    }

    /// Takes the header off a data packet; `None` if the packet is shorter.
    #[inline]
    pub fn split(packet: &mut [u8]) -> Option<(Self, &mut [u8])> {
        if packet.first()? >> 3 == DATA_V1 {
            let (header, rest) = packet.split_first_chunk_mut()?;
            Some((Self::V1(*header), rest))
        } else {
            let (header, rest) = packet.split_first_chunk_mut()?;
            Some((Self::V2(*header), rest))
        }
    }

    /// Bytes.
    #[inline]
    pub const fn size(self) -> usize {
        match self {
            Self::V1(_) => Self::V1_LEN,
            Self::V2(_) => Self::V2_LEN,
        }
    }

    /// Writes it; `place` has its [`size`](Self::size).
    #[inline]
    pub fn write(self, place: &mut [u8]) {
        match self {
            Self::V1(bytes) => place.copy_from_slice(&bytes),
            Self::V2(bytes) => place.copy_from_slice(&bytes),
        }
    }

    /// Which key the packet is sealed with.
    #[inline]
    pub const fn key_id(self) -> KeyId {
        let (Self::V1([first]) | Self::V2([first, ..])) = self;
        KeyId::from_first_byte(first)
    }
}

/// How what is behind the header is sealed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DataFormat {
    /// Packet id, tag, ciphertext. The nonce is packet id and nonce tail; the packet id is
    /// authenticated, and with it the header of DATA_V2. Lengths: [`aead`].
    Aead,
    /// HMAC, IV, ciphertext of packet id and body, padded to whole blocks (PKCS#7). The HMAC is over
    /// IV and ciphertext, not over the header. Lengths: [`cbc`].
    Cbc(Digest),
    /// Packet id, ciphertext, tag. The packet id is the epoch, which tells the key, and a counter; it is
    /// authenticated with the header, which is one of DATA_V2. Lengths: [`epoch`].
    Epoch,
}

/// The parts of [`DataFormat::Aead`], bytes.
pub mod aead {
    /// The packet id, of both wire and nonce.
    pub const PACKET_ID: usize = 4;
    /// The authentication tag, of every cipher.
    pub const TAG: usize = 16;
    /// The nonce.
    pub const NONCE: usize = 12;
    /// The part of the nonce that never changes, from the key exchange.
    pub const NONCE_TAIL: usize = NONCE - PACKET_ID;
}

/// The parts of [`DataFormat::Cbc`] beside the HMAC, bytes.
pub mod cbc {
    /// The packet id, encrypted in front of the body.
    pub const PACKET_ID: usize = 4;
    /// The IV, another one at random for each packet.
    pub const IV: usize = BLOCK;
    /// A block of AES.
    pub const BLOCK: usize = 16;
}

/// The parts of [`DataFormat::Epoch`], bytes.
pub mod epoch {
    /// The epoch, from 1 on.
    pub const EPOCH: usize = 2;
    /// Epoch and counter (48 bits, from 1 on in each epoch).
    pub const PACKET_ID: usize = EPOCH + 6;
    /// The authentication tag.
    pub const TAG: usize = super::aead::TAG;
    /// The secret that yields an epoch's key and the next epoch's secret.
    pub const SECRET: usize = 32;
}

impl DataFormat {
    /// What the format that adds least adds.
    pub const LEAST_OVERHEAD: usize = Self::Aead.front();

    /// Bytes between header and sealed body.
    #[inline]
    pub const fn front(self) -> usize {
        match self {
            Self::Aead => aead::PACKET_ID + aead::TAG,
            Self::Cbc(digest) => digest.len() + cbc::IV + cbc::PACKET_ID,
            Self::Epoch => epoch::PACKET_ID,
        }
    }

    /// Bytes behind a sealed body of this many.
    #[inline]
    pub const fn back(self, body: usize) -> usize {
        match self {
            Self::Aead => 0,
            Self::Cbc(_) => cbc::BLOCK - (cbc::PACKET_ID + body) % cbc::BLOCK,
            Self::Epoch => epoch::TAG,
        }
    }

    /// The most bytes that a body may have for the whole behind the header to have at most `room`.
    pub const fn largest_body(self, room: usize) -> Option<usize> {
        let sealed = match self {
            Self::Aead => room,
            Self::Cbc(digest) => {
                let Some(ciphertext) = room.checked_sub(digest.len() + cbc::IV) else {
                    return None;
                };
                // One byte of padding at least.
                let Some(padded) = (ciphertext / cbc::BLOCK * cbc::BLOCK).checked_sub(1) else {
                    return None;
                };
                digest.len() + cbc::IV + padded
            }
            Self::Epoch => {
                let Some(untagged) = room.checked_sub(epoch::TAG) else { return None };
                untagged
            }
        };
        sealed.checked_sub(self.front())
    }

    /// Bytes of the key material beside the cipher's key: nonce tail or HMAC key. Epochs have nothing
    /// but their secret.
    pub const fn second_key_len(self) -> usize {
        match self {
            Self::Aead => aead::NONCE_TAIL,
            Self::Cbc(digest) => digest.len(),
            Self::Epoch => 0,
        }
    }
}

/// A hash function, as `auth` names it: for the HMAC of CBC ciphers, and of `tls-auth`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Digest {
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

#[expect(clippy::len_without_is_empty, reason = "a digest is never empty")]
impl Digest {
    /// Every digest.
    pub const ALL: [Self; 5] = [Self::Sha1, Self::Sha224, Self::Sha256, Self::Sha384, Self::Sha512];

    /// OpenVPN's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "SHA1",
            Self::Sha224 => "SHA224",
            Self::Sha256 => "SHA256",
            Self::Sha384 => "SHA384",
            Self::Sha512 => "SHA512",
        }
    }

    /// Output length in bytes.
    #[inline]
    pub const fn len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha224 => 28,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }
}

/// The data channel ciphers: the four AEAD ones that the kernel and the field's servers share, the same
/// with epoch keys of newer servers, and AES-CBC of older ones, each with the digest of its HMAC.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Cipher {
    /// `AES-128-GCM`
    Aes128Gcm,
    /// `AES-192-GCM`
    Aes192Gcm,
    /// `AES-256-GCM`
    Aes256Gcm,
    /// `CHACHA20-POLY1305`
    ChaCha20Poly1305,
    /// `AES-128-GCM`, with epoch keys
    Aes128GcmEpoch,
    /// `AES-192-GCM`, with epoch keys
    Aes192GcmEpoch,
    /// `AES-256-GCM`, with epoch keys
    Aes256GcmEpoch,
    /// `CHACHA20-POLY1305`, with epoch keys
    ChaCha20Poly1305Epoch,
    /// `AES-128-CBC`
    Aes128Cbc(Digest),
    /// `AES-192-CBC`
    Aes192Cbc(Digest),
    /// `AES-256-CBC`
    Aes256Cbc(Digest),
}

impl Cipher {
    /// Every cipher of [`DataFormat::Aead`].
    pub const AEAD: [Self; 4] =
        [Self::Aes128Gcm, Self::Aes192Gcm, Self::Aes256Gcm, Self::ChaCha20Poly1305];
    /// Every cipher of [`DataFormat::Cbc`], with the digest that is OpenVPN's default.
    pub const CBC: [Self; 3] = [
        Self::Aes128Cbc(Digest::Sha1),
        Self::Aes192Cbc(Digest::Sha1),
        Self::Aes256Cbc(Digest::Sha1),
    ];

    /// The name OpenVPN uses in options and peer info; it says nothing of epoch keys.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes128Gcm | Self::Aes128GcmEpoch => "AES-128-GCM",
            Self::Aes192Gcm | Self::Aes192GcmEpoch => "AES-192-GCM",
            Self::Aes256Gcm | Self::Aes256GcmEpoch => "AES-256-GCM",
            Self::ChaCha20Poly1305 | Self::ChaCha20Poly1305Epoch => "CHACHA20-POLY1305",
            Self::Aes128Cbc(_) => "AES-128-CBC",
            Self::Aes192Cbc(_) => "AES-192-CBC",
            Self::Aes256Cbc(_) => "AES-256-CBC",
        }
    }

    /// Looks a cipher up by OpenVPN name (any case) or OpenSSL alias (`id-aes256-GCM`, `AES256`). One
    /// of CBC has OpenVPN's default digest then; see [`Self::with_digest`].
    pub fn from_name(name: &str) -> Option<Self> {
        let name = name.to_ascii_uppercase();
        match name.as_str() {
            "ID-AES128-GCM" => Some(Self::Aes128Gcm),
            "ID-AES192-GCM" => Some(Self::Aes192Gcm),
            "ID-AES256-GCM" => Some(Self::Aes256Gcm),
            "AES128" => Some(Self::Aes128Cbc(Digest::Sha1)),
            "AES192" => Some(Self::Aes192Cbc(Digest::Sha1)),
            "AES256" => Some(Self::Aes256Cbc(Digest::Sha1)),
            _ => Self::AEAD.into_iter().chain(Self::CBC).find(|c| c.name() == name),
        }
    }

    /// The same cipher with this digest, if it has one.
    #[must_use]
    pub const fn with_digest(self, digest: Digest) -> Self {
        match self {
            Self::Aes128Cbc(_) => Self::Aes128Cbc(digest),
            Self::Aes192Cbc(_) => Self::Aes192Cbc(digest),
            Self::Aes256Cbc(_) => Self::Aes256Cbc(digest),
            _ => self,
        }
    }

    /// The same cipher with epoch keys; `None` if it cannot have them.
    pub const fn with_epochs(self) -> Option<Self> {
        match self {
            Self::Aes128Gcm | Self::Aes128GcmEpoch => Some(Self::Aes128GcmEpoch),
            Self::Aes192Gcm | Self::Aes192GcmEpoch => Some(Self::Aes192GcmEpoch),
            Self::Aes256Gcm | Self::Aes256GcmEpoch => Some(Self::Aes256GcmEpoch),
            Self::ChaCha20Poly1305 | Self::ChaCha20Poly1305Epoch => {
                Some(Self::ChaCha20Poly1305Epoch)
            }
            Self::Aes128Cbc(_) | Self::Aes192Cbc(_) | Self::Aes256Cbc(_) => None,
        }
    }

    /// Length of the key that is negotiated, in bytes: 16, 24 or 32 of the cipher's key, or 32 of the
    /// first epoch's secret.
    pub const fn key_len(self) -> usize {
        match self.format() {
            DataFormat::Epoch => epoch::SECRET,
            DataFormat::Aead | DataFormat::Cbc(_) => self.own_key_len(),
        }
    }

    /// Length of the key that the cipher itself takes, in bytes: 16, 24 or 32.
    pub const fn own_key_len(self) -> usize {
        match self {
            Self::Aes128Gcm | Self::Aes128GcmEpoch | Self::Aes128Cbc(_) => 16,
            Self::Aes192Gcm | Self::Aes192GcmEpoch | Self::Aes192Cbc(_) => 24,
            Self::Aes256Gcm
            | Self::Aes256GcmEpoch
            | Self::Aes256Cbc(_)
            | Self::ChaCha20Poly1305
            | Self::ChaCha20Poly1305Epoch => 32,
        }
    }

    /// How packets are sealed with it.
    #[inline]
    pub const fn format(self) -> DataFormat {
        match self {
            Self::Aes128Gcm | Self::Aes192Gcm | Self::Aes256Gcm | Self::ChaCha20Poly1305 => {
                DataFormat::Aead
            }
            Self::Aes128GcmEpoch
            | Self::Aes192GcmEpoch
            | Self::Aes256GcmEpoch
            | Self::ChaCha20Poly1305Epoch => DataFormat::Epoch,
            Self::Aes128Cbc(digest) | Self::Aes192Cbc(digest) | Self::Aes256Cbc(digest) => {
                DataFormat::Cbc(digest)
            }
        }
    }

    /// Whether a packet is encrypted and authenticated in one, with one key: what the kernel can do.
    pub const fn is_aead(self) -> bool {
        matches!(self.format(), DataFormat::Aead)
    }

    /// Whether the AES-GCM usage limit (blocks plus packets below 2^36) applies.
    pub const fn has_usage_limit(self) -> bool {
        matches!(
            self,
            Self::Aes128Gcm
                | Self::Aes192Gcm
                | Self::Aes256Gcm
                | Self::Aes128GcmEpoch
                | Self::Aes192GcmEpoch
                | Self::Aes256GcmEpoch
        )
    }
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let epochs = if self.format() == DataFormat::Epoch { " with epoch keys" } else { "" };
        write!(f, "{}{epochs}", self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The largest body fits, and one byte more does not.
    #[test]
    fn room_for_a_body() {
        let others = [DataFormat::Aead, DataFormat::Epoch];
        for format in Digest::ALL.map(DataFormat::Cbc).into_iter().chain(others) {
            let whole = |body| format.front() + body + format.back(body);
            for room in 0..400 {
                match format.largest_body(room) {
                    Some(body) => {
                        assert!(whole(body) <= room && room < whole(body + 1), "{format:?} {room}");
                    }
                    None => assert!(room < whole(0), "{format:?} {room}"),
                }
            }
        }
    }

    #[test]
    fn names_and_digests() {
        for cipher in Cipher::AEAD.into_iter().chain(Cipher::CBC) {
            assert_eq!(Cipher::from_name(&cipher.name().to_lowercase()), Some(cipher));
            assert_eq!(cipher.is_aead(), cipher.with_digest(Digest::Sha512) == cipher);
            match cipher.with_epochs() {
                Some(epochs) => {
                    assert_eq!((epochs.name(), epochs.key_len()), (cipher.name(), epoch::SECRET));
                    assert_eq!(epochs.own_key_len(), cipher.key_len());
                    assert!(cipher.is_aead() && !epochs.is_aead());
                }
                None => assert!(!cipher.is_aead()),
            }
        }
        let cipher = Cipher::from_name("aes256").unwrap().with_digest(Digest::Sha384);
        assert_eq!(cipher, Cipher::Aes256Cbc(Digest::Sha384));
        assert_eq!((cipher.format().front(), cipher.format().second_key_len()), (68, 48));
        assert_eq!(Cipher::from_name("BF-CBC"), None);
    }

    #[test]
    fn headers() {
        let key = KeyId::new(5).unwrap();
        for (peer, wire) in [
            (None, &[0x35][..]),
            (PeerId::new(0x01_0203), &[0x4d, 1, 2, 3]),
            (Some(PeerId::UNDEFINED), &[0x4d, 0xff, 0xff, 0xff]),
        ] {
            let header = DataHeader::new(peer, key);
            assert_eq!((header.size(), header.key_id()), (wire.len(), key));
            let mut packet = vec![0; header.size()];
            header.write(&mut packet);
            assert_eq!(packet, wire);
            for (len, _) in wire.iter().enumerate() {
                assert_eq!(DataHeader::split(&mut packet.clone()[..len]), None);
            }
            packet.push(7);
            assert_eq!(DataHeader::split(&mut packet), Some((header, &mut [7][..])));
            assert!(is_data_packet(wire[0]));
        }
        assert!((0..=u8::MAX).filter(|byte| is_data_packet(*byte)).count() == 16);
    }
}
