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

impl DataFormat {
    /// What the format that adds least adds.
    pub const LEAST_OVERHEAD: usize = Self::Aead.overhead();

    /// Bytes between header and sealed body.
    #[inline]
    pub const fn front(self) -> usize {
        match self {
            Self::Aead => aead::PACKET_ID + aead::TAG,
        }
    }

    /// Bytes behind the sealed body.
    #[inline]
    pub const fn back(self) -> usize {
        match self {
            Self::Aead => 0,
        }
    }

    /// Bytes around the sealed body, without the header.
    #[inline]
    pub const fn overhead(self) -> usize {
        self.front() + self.back()
    }
}

/// The data channel ciphers: the four AEAD ones that the kernel and the field's servers share.
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
}

impl Cipher {
    /// Every supported cipher.
    pub const ALL: [Self; 4] =
        [Self::Aes128Gcm, Self::Aes192Gcm, Self::Aes256Gcm, Self::ChaCha20Poly1305];

    /// The name OpenVPN uses in options and peer info.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes128Gcm => "AES-128-GCM",
            Self::Aes192Gcm => "AES-192-GCM",
            Self::Aes256Gcm => "AES-256-GCM",
            Self::ChaCha20Poly1305 => "CHACHA20-POLY1305",
        }
    }

    /// Looks a cipher up by OpenVPN name (any case) or OpenSSL alias (`id-aes256-GCM`).
    pub fn from_name(name: &str) -> Option<Self> {
        let name = name.to_ascii_uppercase();
        match name.as_str() {
            "ID-AES128-GCM" => Some(Self::Aes128Gcm),
            "ID-AES192-GCM" => Some(Self::Aes192Gcm),
            "ID-AES256-GCM" => Some(Self::Aes256Gcm),
            _ => Self::ALL.into_iter().find(|c| c.name() == name),
        }
    }

    /// Length of the cipher key in bytes: 16, 24 or 32.
    pub const fn key_len(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes192Gcm => 24,
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => 32,
        }
    }

    /// How packets are sealed with it.
    #[inline]
    pub const fn format(self) -> DataFormat {
        match self {
            Self::Aes128Gcm | Self::Aes192Gcm | Self::Aes256Gcm | Self::ChaCha20Poly1305 => {
                DataFormat::Aead
            }
        }
    }

    /// Whether the AES-GCM usage limit (blocks plus packets below 2^36) applies.
    pub const fn has_usage_limit(self) -> bool {
        !matches!(self, Self::ChaCha20Poly1305)
    }
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
