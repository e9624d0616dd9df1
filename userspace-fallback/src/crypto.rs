//! Sealing and opening packets with one key: AEAD, packet ids, replay window, usage limits.

use std::time::Instant;

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use ovpn_dco::replay::{Refused, Window};
use ovpn_dco::{Cipher, DirectionKey, Error};

/// Length of the packet id on the wire.
pub const PACKET_ID: usize = 4;
/// Length of the authentication tag, for every cipher.
pub const TAG: usize = 16;

/// From this packet id on the key asks to be replaced.
const RENEGOTIATE_AT_ID: u32 = 0xff00_0000;
/// AES-GCM: blocks of 16 bytes plus packets that one key may process
/// (`draft-irtf-cfrg-aead-limits`, as OpenVPN applies it).
const GCM_LIMIT: u64 = (1 << 36) - 1;
/// From here on the key asks to be replaced; the rest is for the time that takes.
const GCM_RENEGOTIATE_AT: u64 = GCM_LIMIT / 8 * 7;
/// Forgeries after which a key asks to be replaced, and after which it opens nothing any more.
const FORGERIES_RENEGOTIATE_AT: u64 = 1 << 35;
const FORGERIES_LIMIT: u64 = 1 << 36;

/// What of the header is authenticated besides the packet id: the four bytes of DATA_V2, or
/// nothing with DATA_V1.
#[derive(Clone, Copy, Debug)]
pub enum Associated {
    /// DATA_V1.
    V1,
    /// DATA_V2: first byte and peer-id.
    V2([u8; 4]),
}

impl Associated {
    #[inline]
    fn with_id(self, id: [u8; PACKET_ID]) -> ([u8; 8], usize) {
        let mut bytes = [0; 8];
        match self {
            Self::V1 => {
                bytes[..4].copy_from_slice(&id);
                (bytes, 4)
            }
            Self::V2(header) => {
                bytes[..4].copy_from_slice(&header);
                bytes[4..].copy_from_slice(&id);
                (bytes, 8)
            }
        }
    }
}

/// Cipher and implicit IV of one direction.
struct Direction {
    key: LessSafeKey,
    nonce_tail: [u8; 8],
    /// Blocks plus packets so far.
    usage: u64,
    limited: bool,
}

impl Direction {
    fn new(cipher: Cipher, key: &DirectionKey) -> Result<Self, Error> {
        let algorithm = match cipher {
            Cipher::Aes128Gcm => &aead::AES_128_GCM,
            Cipher::Aes192Gcm => &aead::AES_192_GCM,
            Cipher::Aes256Gcm => &aead::AES_256_GCM,
            Cipher::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
        };
        let key_material = UnboundKey::new(algorithm, key.cipher_key())
            .map_err(|_| Error::Malformed { what: format!("key for {cipher}") })?;
        Ok(Self {
            key: LessSafeKey::new(key_material),
            nonce_tail: *key.nonce_tail(),
            usage: 0,
            limited: cipher.has_usage_limit(),
        })
    }

    #[inline]
    fn nonce(&self, id: [u8; PACKET_ID]) -> Nonce {
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&id);
        nonce[4..].copy_from_slice(&self.nonce_tail);
        Nonce::assume_unique_for_key(nonce)
    }

    #[inline]
    fn count(&mut self, len: usize) {
        self.usage += (len as u64).div_ceil(16) + 1;
    }

    fn wears_out(&self) -> bool {
        self.limited && self.usage >= GCM_RENEGOTIATE_AT
    }
}

/// No packet may be sealed with this key any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exhausted;

/// Seals packets.
pub struct Sealer {
    direction: Direction,
    /// The id of the last packet; the next one is one higher.
    last_id: u32,
}

impl Sealer {
    /// A key that has sealed nothing yet.
    pub fn new(cipher: Cipher, key: &DirectionKey) -> Result<Self, Error> {
        Ok(Self { direction: Direction::new(cipher, key)?, last_id: 0 })
    }

    /// Seals `body` in place and writes packet id and tag.
    #[inline]
    pub fn seal(
        &mut self,
        associated: Associated,
        id_and_tag: &mut [u8; PACKET_ID + TAG],
        body: &mut [u8],
    ) -> Result<(), Exhausted> {
        let direction = &mut self.direction;
        // The last id is never used, so that a counter at its end cannot wrap.
        if self.last_id >= u32::MAX - 1 || (direction.limited && direction.usage >= GCM_LIMIT) {
            return Err(Exhausted);
        }
        self.last_id += 1;
        let id = self.last_id.to_be_bytes();
        let (aad, aad_len) = associated.with_id(id);
        let tag = direction
            .key
            .seal_in_place_separate_tag(direction.nonce(id), Aad::from(&aad[..aad_len]), body)
            .map_err(|_| Exhausted)?;
        id_and_tag[..PACKET_ID].copy_from_slice(&id);
        id_and_tag[PACKET_ID..].copy_from_slice(tag.as_ref());
        direction.count(body.len());
        Ok(())
    }

    /// Whether it is time for another key.
    #[must_use]
    pub fn wears_out(&self) -> bool {
        self.last_id >= RENEGOTIATE_AT_ID || self.direction.wears_out()
    }

    /// As if this many packets had been sealed.
    #[cfg(test)]
    pub(crate) fn skip_to(&mut self, last_id: u32) {
        self.last_id = last_id;
    }

    /// As if this much had been sealed.
    #[cfg(test)]
    pub(crate) fn set_usage(&mut self, usage: u64) {
        self.direction.usage = usage;
    }
}

/// Why a packet was not opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenError {
    /// Not authentic.
    Forged,
    /// Refused by the replay window.
    Replay(Refused),
    /// The key has seen too many forgeries.
    WornOut,
}

/// Opens packets.
pub struct Opener {
    direction: Direction,
    window: Window,
    forgeries: u64,
}

impl Opener {
    /// A key that has opened nothing yet.
    pub fn new(cipher: Cipher, key: &DirectionKey) -> Result<Self, Error> {
        Ok(Self {
            direction: Direction::new(cipher, key)?,
            window: Window::default(),
            forgeries: 0,
        })
    }

    /// Opens `body` in place. On failure `body` is garbage.
    #[inline]
    pub fn open(
        &mut self,
        associated: Associated,
        id_and_tag: &[u8; PACKET_ID + TAG],
        body: &mut [u8],
        now: Instant,
    ) -> Result<(), OpenError> {
        let (id, tag) = id_and_tag.split_at(PACKET_ID);
        let id = [id[0], id[1], id[2], id[3]];
        let number = u64::from(u32::from_be_bytes(id));
        // A replay is found without decrypting; it only counts when the packet is authentic, but
        // whoever can replay has an authentic packet anyway.
        self.window.check(number, now).map_err(OpenError::Replay)?;
        if self.forgeries >= FORGERIES_LIMIT {
            return Err(OpenError::WornOut);
        }
        let direction = &mut self.direction;
        let (aad, aad_len) = associated.with_id(id);
        let len = body.len();
        let opened = direction
            .key
            .open_in_place_separate_tag(direction.nonce(id), Aad::from(&aad[..aad_len]), tag, body)
            .is_ok();
        direction.count(len);
        if !opened {
            self.forgeries += 1;
            return Err(OpenError::Forged);
        }
        self.window.accept(number, now);
        Ok(())
    }

    /// Whether it is time for another key.
    #[must_use]
    pub fn wears_out(&self) -> bool {
        self.direction.wears_out() || self.forgeries >= FORGERIES_RENEGOTIATE_AT
    }

    /// As if this many forgeries had been refused.
    #[cfg(test)]
    pub(crate) fn set_forgeries(&mut self, forgeries: u64) {
        self.forgeries = forgeries;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key bytes of OpenVPN's own data channel test: `k[i] = key32[i mod 32] XOR i`.
    fn vector_key(cipher: Cipher) -> DirectionKey {
        let text = b"abcdefgh01234567ABCDEFGHjkuchenl";
        let bytes: Vec<u8> = (0..=255u8).map(|i| text[usize::from(i) % 32] ^ i).collect();
        DirectionKey::new(cipher, &bytes[..32], bytes[64..72].try_into().unwrap()).unwrap()
    }

    fn sealed(sealer: &mut Sealer, associated: Associated, body: &[u8]) -> (Vec<u8>, [u8; 20]) {
        let mut body = body.to_vec();
        let mut id_and_tag = [0; 20];
        sealer.seal(associated, &mut id_and_tag, &mut body).unwrap();
        (body, id_and_tag)
    }

    #[test]
    fn known_packet() {
        let cipher = Cipher::Aes256Gcm;
        let mut sealer = Sealer::new(cipher, &vector_key(cipher)).unwrap();
        let text = b"The quick little fox jumps over the bureaucratic hurdles";
        let header = Associated::V2([7, 0, 0, 0x17]);
        let (body, id_and_tag) = sealed(&mut sealer, header, text);
        assert_eq!(hex::encode(id_and_tag), "000000011fdd908f0e9dc25e79d832020d58e73f");
        assert_eq!(
            hex::encode(&body),
            "2262f977d6bb2118fa0ea82e6b1706d949aefcb5efcbbacd5c09a9ab45f4d391\
             d3f68794cb0b82c3d33389b61622b3281598e2ff6d5cc38b"
        );
    }

    #[test]
    fn round_trip_with_every_cipher_and_header() {
        let now = Instant::now();
        for cipher in Cipher::ALL {
            for header in [Associated::V1, Associated::V2([0x48, 1, 2, 3])] {
                let mut sealer = Sealer::new(cipher, &vector_key(cipher)).unwrap();
                let mut opener = Opener::new(cipher, &vector_key(cipher)).unwrap();
                for len in [1, 15, 16, 17, 1400] {
                    let plain: Vec<u8> = (0..len).map(|i| i as u8).collect();
                    let (mut body, id_and_tag) = sealed(&mut sealer, header, &plain);
                    opener.open(header, &id_and_tag, &mut body, now).unwrap();
                    assert_eq!(body, plain);
                }
            }
        }
    }

    #[test]
    fn any_flipped_bit_is_refused() {
        let now = Instant::now();
        let cipher = Cipher::Aes128Gcm;
        let header = Associated::V2([0x48, 0, 0, 1]);
        let (body, id_and_tag) =
            sealed(&mut Sealer::new(cipher, &vector_key(cipher)).unwrap(), header, &[5; 40]);
        let mut opener = Opener::new(cipher, &vector_key(cipher)).unwrap();
        for bit in 0..body.len() * 8 {
            let mut body = body.clone();
            body[bit / 8] ^= 1 << (bit % 8);
            let opened = opener.open(header, &id_and_tag, &mut body, now);
            assert_eq!(opened, Err(OpenError::Forged));
        }
        for bit in 0..id_and_tag.len() * 8 {
            let (mut body, mut id_and_tag) = (body.clone(), id_and_tag);
            id_and_tag[bit / 8] ^= 1 << (bit % 8);
            assert!(opener.open(header, &id_and_tag, &mut body, now).is_err());
        }
        let mut other = body.clone();
        let opened = opener.open(Associated::V2([0x48, 0, 0, 2]), &id_and_tag, &mut other, now);
        assert_eq!(opened, Err(OpenError::Forged));
        // None of the forgeries has marked the id as seen.
        let mut body = body;
        opener.open(header, &id_and_tag, &mut body.clone(), now).unwrap();
        let again = opener.open(header, &id_and_tag, &mut body, now);
        assert_eq!(again, Err(OpenError::Replay(Refused::Replay)));
    }

    #[test]
    fn packet_ids_end() {
        let cipher = Cipher::ChaCha20Poly1305;
        let mut sealer = Sealer::new(cipher, &vector_key(cipher)).unwrap();
        sealer.skip_to(0xff00_0000 - 2);
        sealed(&mut sealer, Associated::V1, &[0]);
        assert!(!sealer.wears_out());
        sealed(&mut sealer, Associated::V1, &[0]);
        assert!(sealer.wears_out());
        sealer.skip_to(0xffff_fffc);
        let (_, first) = sealed(&mut sealer, Associated::V1, &[0]);
        let (_, second) = sealed(&mut sealer, Associated::V1, &[0]);
        assert_eq!(
            (&first[..4], &second[..4]),
            (&[255, 255, 255, 253][..], &[255, 255, 255, 254][..])
        );
        assert_eq!(sealer.seal(Associated::V1, &mut [0; 20], &mut [0]), Err(Exhausted));
    }

    #[test]
    fn gcm_wears_out_by_blocks_and_packets() {
        let cipher = Cipher::Aes256Gcm;
        let mut sealer = Sealer::new(cipher, &vector_key(cipher)).unwrap();
        sealed(&mut sealer, Associated::V1, &[0; 1600]);
        assert_eq!(sealer.direction.usage, 101);
        sealer.set_usage(GCM_RENEGOTIATE_AT - 2);
        assert!(!sealer.wears_out());
        sealed(&mut sealer, Associated::V1, &[0]);
        assert!(sealer.wears_out());
        sealer.set_usage(GCM_LIMIT);
        assert_eq!(sealer.seal(Associated::V1, &mut [0; 20], &mut [0]), Err(Exhausted));

        let cipher = Cipher::ChaCha20Poly1305;
        let mut sealer = Sealer::new(cipher, &vector_key(cipher)).unwrap();
        sealer.set_usage(GCM_LIMIT * 2);
        sealed(&mut sealer, Associated::V1, &[0]);
        assert!(!sealer.wears_out());
    }

    #[test]
    fn forgeries_wear_out() {
        let cipher = Cipher::Aes256Gcm;
        let mut opener = Opener::new(cipher, &vector_key(cipher)).unwrap();
        let mut id_and_tag = [0; 20];
        id_and_tag[3] = 1;
        opener.set_forgeries(FORGERIES_RENEGOTIATE_AT - 1);
        assert!(!opener.wears_out());
        let now = Instant::now();
        let opened = opener.open(Associated::V1, &id_and_tag, &mut [0; 4], now);
        assert_eq!(opened, Err(OpenError::Forged));
        assert!(opener.wears_out());
        opener.set_forgeries(FORGERIES_LIMIT);
        let opened = opener.open(Associated::V1, &id_and_tag, &mut [0; 4], now);
        assert_eq!(opened, Err(OpenError::WornOut));
    }
}
