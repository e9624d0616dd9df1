//! Sealing and opening packets with one key: AEAD, packet ids, replay window, usage limits.

use std::time::Instant;

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use ovpn_dco::format::aead::{NONCE, NONCE_TAIL, PACKET_ID};
use ovpn_dco::replay::{Refused, Window};
use ovpn_dco::{Cipher, DataFormat, DataHeader, DirectionKey, Error};

/// What is in front of the body.
const SEAL: usize = DataFormat::Aead.front();

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

/// What is authenticated besides the body: the packet id, behind the header of DATA_V2.
#[inline]
fn associated(header: DataHeader, id: [u8; PACKET_ID]) -> ([u8; 8], usize) {
    let mut bytes = [0; 8];
    match header {
        DataHeader::V1(_) => {
            bytes[..4].copy_from_slice(&id);
            (bytes, 4)
        }
        DataHeader::V2(header) => {
            bytes[..4].copy_from_slice(&header);
            bytes[4..].copy_from_slice(&id);
            (bytes, 8)
        }
    }
}

/// Cipher and implicit IV of one direction.
struct Direction {
    key: LessSafeKey,
    nonce_tail: [u8; NONCE_TAIL],
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
        let mut nonce = [0; NONCE];
        nonce[..PACKET_ID].copy_from_slice(&id);
        nonce[PACKET_ID..].copy_from_slice(&self.nonce_tail);
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

/// Why a packet was not sealed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotSealed {
    /// There is no key to seal with.
    NoKey,
    /// The key must not be used any more.
    Exhausted,
    /// There is no room for what the format adds.
    NoRoom,
}

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

    /// Seals in place what is behind the header: the body, with room around it for what the
    /// cipher's format adds.
    #[inline]
    pub fn seal(&mut self, header: DataHeader, packet: &mut [u8]) -> Result<(), NotSealed> {
        let (seal, body) = packet.split_first_chunk_mut::<SEAL>().ok_or(NotSealed::NoRoom)?;
        let direction = &mut self.direction;
        // The last id is never used, so that a counter at its end cannot wrap.
        if self.last_id >= u32::MAX - 1 || (direction.limited && direction.usage >= GCM_LIMIT) {
            return Err(NotSealed::Exhausted);
        }
        self.last_id += 1;
        let id = self.last_id.to_be_bytes();
        let (aad, aad_len) = associated(header, id);
        let tag = direction
            .key
            .seal_in_place_separate_tag(direction.nonce(id), Aad::from(&aad[..aad_len]), body)
            .map_err(|_| NotSealed::Exhausted)?;
        seal[..PACKET_ID].copy_from_slice(&id);
        seal[PACKET_ID..].copy_from_slice(tag.as_ref());
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

    /// Opens in place what is behind the header, and gives the body, which is where the cipher's
    /// format says. On failure the packet is garbage.
    #[inline]
    pub fn open<'a>(
        &mut self,
        header: DataHeader,
        packet: &'a mut [u8],
        now: Instant,
    ) -> Result<&'a mut [u8], OpenError> {
        let (seal, body) = packet.split_first_chunk_mut::<SEAL>().ok_or(OpenError::Forged)?;
        let (id, tag) = seal.split_at(PACKET_ID);
        let id = [id[0], id[1], id[2], id[3]];
        let number = u64::from(u32::from_be_bytes(id));
        // A replay is found without decrypting; it only counts when the packet is authentic, but
        // whoever can replay has an authentic packet anyway.
        self.window.check(number, now).map_err(OpenError::Replay)?;
        if self.forgeries >= FORGERIES_LIMIT {
            return Err(OpenError::WornOut);
        }
        let direction = &mut self.direction;
        let (aad, aad_len) = associated(header, id);
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
        Ok(body)
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

    const V1: DataHeader = DataHeader::V1([0x30]);

    /// Behind the header.
    fn sealed(sealer: &mut Sealer, header: DataHeader, body: &[u8]) -> Vec<u8> {
        let mut packet = [&[0; SEAL], body].concat();
        sealer.seal(header, &mut packet).unwrap();
        packet
    }

    #[test]
    fn known_packet() {
        let cipher = Cipher::Aes256Gcm;
        let mut sealer = Sealer::new(cipher, &vector_key(cipher)).unwrap();
        let text = b"The quick little fox jumps over the bureaucratic hurdles";
        let header = DataHeader::V2([7, 0, 0, 0x17]);
        let packet = sealed(&mut sealer, header, text);
        assert_eq!(
            hex::encode(&packet),
            "000000011fdd908f0e9dc25e79d832020d58e73f\
             2262f977d6bb2118fa0ea82e6b1706d949aefcb5efcbbacd5c09a9ab45f4d391\
             d3f68794cb0b82c3d33389b61622b3281598e2ff6d5cc38b"
        );
    }

    #[test]
    fn round_trip_with_every_cipher_and_header() {
        let now = Instant::now();
        for cipher in Cipher::ALL {
            for header in [V1, DataHeader::V2([0x48, 1, 2, 3])] {
                let mut sealer = Sealer::new(cipher, &vector_key(cipher)).unwrap();
                let mut opener = Opener::new(cipher, &vector_key(cipher)).unwrap();
                for len in [1, 15, 16, 17, 1400] {
                    let plain: Vec<u8> = (0..len).map(|i| i as u8).collect();
                    let mut packet = sealed(&mut sealer, header, &plain);
                    assert_eq!(opener.open(header, &mut packet, now).unwrap(), plain);
                }
            }
        }
    }

    #[test]
    fn any_flipped_bit_is_refused() {
        let now = Instant::now();
        let cipher = Cipher::Aes128Gcm;
        let header = DataHeader::V2([0x48, 0, 0, 1]);
        let packet =
            sealed(&mut Sealer::new(cipher, &vector_key(cipher)).unwrap(), header, &[5; 40]);
        let mut opener = Opener::new(cipher, &vector_key(cipher)).unwrap();
        for bit in 0..packet.len() * 8 {
            let mut packet = packet.clone();
            packet[bit / 8] ^= 1 << (bit % 8);
            let refused = opener.open(header, &mut packet, now).unwrap_err();
            assert!(refused == OpenError::Forged || bit < 8 * PACKET_ID, "bit {bit}: {refused:?}");
        }
        let other = DataHeader::V2([0x48, 0, 0, 2]);
        assert_eq!(opener.open(other, &mut packet.clone(), now), Err(OpenError::Forged));
        for short in 0..SEAL {
            let mut packet = packet.clone();
            let refused = opener.open(header, &mut packet[..short], now).unwrap_err();
            assert_eq!(refused, OpenError::Forged);
        }
        // None of the forgeries has marked the id as seen.
        opener.open(header, &mut packet.clone(), now).unwrap();
        let again = opener.open(header, &mut packet.clone(), now).unwrap_err();
        assert_eq!(again, OpenError::Replay(Refused::Replay));
    }

    #[test]
    fn packet_ids_end() {
        let cipher = Cipher::ChaCha20Poly1305;
        let mut sealer = Sealer::new(cipher, &vector_key(cipher)).unwrap();
        sealer.skip_to(0xff00_0000 - 2);
        sealed(&mut sealer, V1, &[0]);
        assert!(!sealer.wears_out());
        sealed(&mut sealer, V1, &[0]);
        assert!(sealer.wears_out());
        sealer.skip_to(0xffff_fffc);
        let first = sealed(&mut sealer, V1, &[0]);
        let second = sealed(&mut sealer, V1, &[0]);
        assert_eq!(
            (&first[..4], &second[..4]),
            (&[255, 255, 255, 253][..], &[255, 255, 255, 254][..])
        );
        assert_eq!(sealer.seal(V1, &mut [0; 21]), Err(NotSealed::Exhausted));
    }

    #[test]
    fn gcm_wears_out_by_blocks_and_packets() {
        let cipher = Cipher::Aes256Gcm;
        let mut sealer = Sealer::new(cipher, &vector_key(cipher)).unwrap();
        sealed(&mut sealer, V1, &[0; 1600]);
        assert_eq!(sealer.direction.usage, 101);
        sealer.set_usage(GCM_RENEGOTIATE_AT - 2);
        assert!(!sealer.wears_out());
        sealed(&mut sealer, V1, &[0]);
        assert!(sealer.wears_out());
        sealer.set_usage(GCM_LIMIT);
        assert_eq!(sealer.seal(V1, &mut [0; 21]), Err(NotSealed::Exhausted));

        let cipher = Cipher::ChaCha20Poly1305;
        let mut sealer = Sealer::new(cipher, &vector_key(cipher)).unwrap();
        sealer.set_usage(GCM_LIMIT * 2);
        sealed(&mut sealer, V1, &[0]);
        assert!(!sealer.wears_out());
    }

    #[test]
    fn forgeries_wear_out() {
        let cipher = Cipher::Aes256Gcm;
        let mut opener = Opener::new(cipher, &vector_key(cipher)).unwrap();
        let mut packet = [0; 24];
        packet[3] = 1;
        opener.set_forgeries(FORGERIES_RENEGOTIATE_AT - 1);
        assert!(!opener.wears_out());
        let now = Instant::now();
        let opened = opener.open(V1, &mut packet, now);
        assert_eq!(opened, Err(OpenError::Forged));
        assert!(opener.wears_out());
        opener.set_forgeries(FORGERIES_LIMIT);
        let opened = opener.open(V1, &mut packet, now);
        assert_eq!(opened, Err(OpenError::WornOut));
    }
}
