//! Sealing and opening packets with one negotiated key: AEAD, packet ids, replay window, usage limits.
//! CBC with an HMAC is in [`cbc`], AEAD with epoch keys in [`epoch`].

mod cbc;
mod epoch;

use std::time::Instant;

use aws_lc_rs::aead::{self, Aad, Algorithm, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use ovpn_dco::format::aead::{NONCE, NONCE_TAIL, PACKET_ID};
use ovpn_dco::replay::{Refused, Window};
use ovpn_dco::{Cipher, DataFormat, DataHeader, Digest, DirectionKey, Error};

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

/// AEAD: cipher and implicit IV of one direction.
struct Direction {
    key: LessSafeKey,
    nonce_tail: [u8; NONCE_TAIL],
    /// Blocks plus packets so far.
    usage: u64,
    limited: bool,
}

impl Direction {
    fn new(
        algorithm: &'static Algorithm,
        limited: bool,
        key: &DirectionKey,
    ) -> Result<Self, Unspecified> {
        let nonce_tail = key.second_key().try_into().map_err(|_| Unspecified)?;
        let key = LessSafeKey::new(UnboundKey::new(algorithm, key.cipher_key())?);
        Ok(Self { key, nonce_tail, usage: 0, limited })
    }

    #[inline]
    fn nonce(&self, id: [u8; PACKET_ID]) -> Nonce {
        let mut nonce = [0; NONCE];
        nonce[..PACKET_ID].copy_from_slice(&id);
        nonce[PACKET_ID..].copy_from_slice(&self.nonce_tail);
        Nonce::assume_unique_for_key(nonce)
    }

    fn wears_out(&self) -> bool {
        self.limited && self.usage >= GCM_RENEGOTIATE_AT
    }

    #[inline]
    fn seal(
        &mut self,
        header: DataHeader,
        id: [u8; PACKET_ID],
        packet: &mut [u8],
    ) -> Result<(), Unspecified> {
        let (seal, body) = packet.split_first_chunk_mut::<SEAL>().ok_or(Unspecified)?;
        let (aad, aad_len) = associated(header, id);
        let tag = self.key.seal_in_place_separate_tag(
            self.nonce(id),
            Aad::from(&aad[..aad_len]),
            body,
        )?;
        seal[..PACKET_ID].copy_from_slice(&id);
        seal[PACKET_ID..].copy_from_slice(tag.as_ref());
        self.usage += blocks_and_packet(body.len());
        Ok(())
    }
}

/// What a packet with this body counts for [`GCM_LIMIT`].
#[inline]
const fn blocks_and_packet(body: usize) -> u64 {
    (body as u64).div_ceil(16) + 1
}

/// `None`: not AEAD.
const fn algorithm(cipher: Cipher) -> Option<&'static Algorithm> {
    match cipher {
        Cipher::Aes128Gcm | Cipher::Aes128GcmEpoch => Some(&aead::AES_128_GCM),
        Cipher::Aes192Gcm | Cipher::Aes192GcmEpoch => Some(&aead::AES_192_GCM),
        Cipher::Aes256Gcm | Cipher::Aes256GcmEpoch => Some(&aead::AES_256_GCM),
        Cipher::ChaCha20Poly1305 | Cipher::ChaCha20Poly1305Epoch => Some(&aead::CHACHA20_POLY1305),
        Cipher::Aes128Cbc(_) | Cipher::Aes192Cbc(_) | Cipher::Aes256Cbc(_) => None,
    }
}

/// A key in one direction, by format: `C` is what it is with CBC, `E` with epochs.
enum Keyed<C, E> {
    Aead(Direction),
    Cbc(C),
    Epoch(E),
}

impl<C, E> Keyed<C, E> {
    fn new(
        cipher: Cipher,
        key: &DirectionKey,
        cbc: impl FnOnce(Digest, &DirectionKey) -> Result<C, Unspecified>,
        epoch: impl FnOnce(Cipher, &DirectionKey) -> Result<E, Unspecified>,
    ) -> Result<Self, Error> {
        match cipher.format() {
            DataFormat::Aead => algorithm(cipher)
                .ok_or(Unspecified)
                .and_then(|algorithm| Direction::new(algorithm, cipher.has_usage_limit(), key))
                .map(Self::Aead),
            DataFormat::Cbc(digest) => cbc(digest, key).map(Self::Cbc),
            DataFormat::Epoch => epoch(cipher, key).map(Self::Epoch),
        }
        .map_err(|_| Error::Malformed { what: format!("key for {cipher}") })
    }

    /// Blocks of AES-CBC are not counted, as OpenVPN does not: a key ends with its packet ids, and with
    /// the time of `reneg-sec`. Those of an epoch end the epoch.
    fn wears_out(&self) -> bool {
        matches!(self, Self::Aead(direction) if direction.wears_out())
    }
}

/// Why a packet was not sealed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotSealed {
    /// There is no key to seal with.
    NoKey,
    /// The key must not be used any more.
    Exhausted,
    /// The packet is not as long as the format makes it.
    NoRoom,
}

/// The last id is never used, so that a counter at its end cannot wrap.
#[inline]
fn next_id(last: &mut u32) -> Result<[u8; PACKET_ID], NotSealed> {
    if *last >= u32::MAX - 1 {
        return Err(NotSealed::Exhausted);
    }
    *last += 1;
    Ok(last.to_be_bytes())
}

/// Seals packets.
pub struct Sealer {
    key: Keyed<cbc::Sealing, epoch::Sealing>,
    format: DataFormat,
    /// The id of the last packet; the next one is one higher.
    last_id: u32,
}

impl Sealer {
    /// A key that has sealed nothing yet.
    pub fn new(cipher: Cipher, key: &DirectionKey) -> Result<Self, Error> {
        let format = cipher.format();
        let key = Keyed::new(cipher, key, cbc::Sealing::new, epoch::Sealing::new)?;
        Ok(Self { key, format, last_id: 0 })
    }

    /// Seals in place what is behind the header: a body of this many bytes, with room around it for
    /// what the cipher's format adds, and no more.
    #[inline]
    pub fn seal(
        &mut self,
        header: DataHeader,
        packet: &mut [u8],
        body: usize,
    ) -> Result<(), NotSealed> {
        if packet.len() != self.format.front() + body + self.format.back(body) {
            return Err(NotSealed::NoRoom);
        }
        match &mut self.key {
            Keyed::Aead(direction) => {
                if direction.limited && direction.usage >= GCM_LIMIT {
                    return Err(NotSealed::Exhausted);
                }
                let id = next_id(&mut self.last_id)?;
                direction.seal(header, id, packet).map_err(|_| NotSealed::Exhausted)
            }
            Keyed::Cbc(key) => {
                let id = next_id(&mut self.last_id)?;
                key.seal(id, packet, body).map_err(|_| NotSealed::Exhausted)
            }
            Keyed::Epoch(key) => key.seal(header, packet, body),
        }
    }

    /// Begins another epoch where `opener`'s key says so; of other formats nothing.
    #[inline]
    pub fn follow(&mut self, opener: &Opener) {
        if let (Keyed::Epoch(sealing), Keyed::Epoch(opening)) = (&mut self.key, &opener.key) {
            sealing.follow(opening);
        }
    }

    /// Begins the next epoch, as at the end of the last one. [`NotSealed::NoKey`]: there are none in this
    /// format; [`NotSealed::Exhausted`]: that was the last one.
    #[cfg(feature = "internals")]
    pub fn begin_epoch(&mut self) -> Result<(), NotSealed> {
        match &mut self.key {
            Keyed::Epoch(sealing) => sealing.advance(),
            Keyed::Aead(_) | Keyed::Cbc(_) => Err(NotSealed::NoKey),
        }
    }

    /// Whether it is time for another key.
    #[must_use]
    pub fn wears_out(&self) -> bool {
        match &self.key {
            Keyed::Epoch(key) => key.wears_out(),
            Keyed::Aead(_) | Keyed::Cbc(_) => {
                self.last_id >= RENEGOTIATE_AT_ID || self.key.wears_out()
            }
        }
    }

    /// As if this many packets had been sealed.
    #[cfg(test)]
    pub(crate) fn skip_to(&mut self, last_id: u32) {
        self.last_id = last_id;
    }

    /// As if this much had been sealed.
    #[cfg(test)]
    pub(crate) fn set_usage(&mut self, usage: u64) {
        *self.usage() = usage;
    }

    #[cfg(test)]
    fn usage(&mut self) -> &mut u64 {
        match &mut self.key {
            Keyed::Aead(direction) => &mut direction.usage,
            Keyed::Cbc(_) | Keyed::Epoch(_) => panic!("blocks are not counted here"),
        }
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

/// What has come under a key.
#[derive(Default)]
struct Seen {
    window: Window,
    forgeries: u64,
}

impl Seen {
    /// Whether a packet with this id is to be opened. A replay is found without decrypting; it only counts
    /// when the packet is authentic, but whoever can replay has an authentic packet anyway.
    #[inline]
    fn check(&self, id: u64, now: Instant) -> Result<(), OpenError> {
        self.window.check(id, now).map_err(OpenError::Replay)?;
        if self.forgeries >= FORGERIES_LIMIT { Err(OpenError::WornOut) } else { Ok(()) }
    }
}

/// Opens packets.
pub struct Opener {
    key: Keyed<cbc::Opening, epoch::Opening>,
    /// Each epoch has its own.
    seen: Seen,
}

impl Opener {
    /// A key that has opened nothing yet.
    pub fn new(cipher: Cipher, key: &DirectionKey) -> Result<Self, Error> {
        let key = Keyed::new(cipher, key, cbc::Opening::new, epoch::Opening::new)?;
        Ok(Self { key, seen: Seen::default() })
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
        let seen = &mut self.seen;
        match &mut self.key {
            Keyed::Aead(direction) => open_aead(direction, seen, header, packet, now),
            Keyed::Cbc(key) => open_cbc(key, seen, packet, now),
            Keyed::Epoch(key) => key.open(header, packet, now),
        }
    }

    /// Whether it is time for another key.
    #[must_use]
    pub fn wears_out(&self) -> bool {
        self.key.wears_out() || self.seen.forgeries >= FORGERIES_RENEGOTIATE_AT
    }

    /// As if this many forgeries had been refused.
    #[cfg(test)]
    pub(crate) fn set_forgeries(&mut self, forgeries: u64) {
        self.seen.forgeries = forgeries;
    }
}

#[inline]
fn open_aead<'a>(
    direction: &mut Direction,
    seen: &mut Seen,
    header: DataHeader,
    packet: &'a mut [u8],
    now: Instant,
) -> Result<&'a mut [u8], OpenError> {
    let (seal, body) = packet.split_first_chunk_mut::<SEAL>().ok_or(OpenError::Forged)?;
    let (id, tag) = seal.split_at(PACKET_ID);
    let id = [id[0], id[1], id[2], id[3]];
    let number = u64::from(u32::from_be_bytes(id));
    seen.check(number, now)?;
    let (aad, aad_len) = associated(header, id);
    direction.usage += blocks_and_packet(body.len());
    let opened = direction
        .key
        .open_in_place_separate_tag(direction.nonce(id), Aad::from(&aad[..aad_len]), tag, body)
        .is_ok();
    if !opened {
        seen.forgeries += 1;
        return Err(OpenError::Forged);
    }
    seen.window.accept(number, now);
    Ok(body)
}

/// The packet id is inside of the ciphertext here, so that a replay is found only afterwards.
fn open_cbc<'a>(
    key: &cbc::Opening,
    seen: &mut Seen,
    packet: &'a mut [u8],
    now: Instant,
) -> Result<&'a mut [u8], OpenError> {
    if seen.forgeries >= FORGERIES_LIMIT {
        return Err(OpenError::WornOut);
    }
    let Ok((id, body)) = key.open(packet) else {
        seen.forgeries += 1;
        return Err(OpenError::Forged);
    };
    let number = u64::from(u32::from_be_bytes(id));
    seen.check(number, now)?;
    seen.window.accept(number, now);
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key bytes of OpenVPN's own data channel test: `k[i] = key32[i mod 32] XOR i`.
    fn vector_key(cipher: Cipher) -> DirectionKey {
        let text = b"abcdefgh01234567ABCDEFGHjkuchenl";
        let bytes: Vec<u8> = (0..=255u8).map(|i| text[usize::from(i) % 32] ^ i).collect();
        DirectionKey::new(cipher, &bytes[..32], &bytes[64..128]).unwrap()
    }

    const V1: DataHeader = DataHeader::V1([0x30]);

    /// Behind the header.
    fn sealed(sealer: &mut Sealer, header: DataHeader, body: &[u8]) -> Vec<u8> {
        let mut packet =
            [&vec![0; sealer.format.front()], body, &vec![0; sealer.format.back(body.len())]]
                .concat();
        sealer.seal(header, &mut packet, body.len()).unwrap();
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
        for cipher in Cipher::AEAD.into_iter().chain(Cipher::CBC) {
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

    /// The key bytes of OpenVPN's test, its ping, packet id 1. The same with OpenSSL's command line:
    /// `openssl enc -aes-256-cbc -K … -iv …`, then `openssl dgst -sha1 -mac HMAC` over IV and result.
    #[test]
    fn known_cbc_packets() {
        let text = "66893347fd928ed7fd20ad22c5bf4f7a45cd61d1413f89c32485facad889d01f";
        for (digest, tag) in [
            (Digest::Sha1, "0e61f732d3268e06ac14c9e7a7477ce4225e1e40"),
            (Digest::Sha256, "bb1f2816a1b45a9f2c1fc0690ffcc5e1fdaa856cf71bd6d1edd81746f41fc194"),
        ] {
            let cipher = Cipher::Aes256Cbc(digest);
            let mut sealer = Sealer::new(cipher, &vector_key(cipher)).unwrap();
            let iv = std::array::from_fn(|at| at as u8);
            match &mut sealer.key {
                Keyed::Cbc(key) => key.set_next_iv(iv),
                Keyed::Aead(_) | Keyed::Epoch(_) => unreachable!(),
            }
            let mut packet = sealed(&mut sealer, V1, &crate::message::PING);
            let expected = format!("{tag}{}{text}", hex::encode(iv));
            assert_eq!(hex::encode(&packet), expected);
            let mut opener = Opener::new(cipher, &vector_key(cipher)).unwrap();
            let body = opener.open(V1, &mut packet, Instant::now()).unwrap();
            assert_eq!(body, crate::message::PING);
        }
    }

    /// Pings of OpenVPN servers 2.6.14 and 2.7.8, as they were on the wire behind the header, with the
    /// keys that they log with `--verb 9`.
    #[test]
    fn cbc_packets_of_real_servers() {
        for (cipher, cipher_key, mac_key, packet) in [
            (
                Cipher::Aes256Cbc(Digest::Sha256),
                "521e5fdf00350101baeea461ddcf9b8f5b82232f0be07a2ae2c87985c739ecb0",
                "d7d68fcca8be16993c6eafd63bb5b19b16bf4cd595c0bf9f989a9714defa2d74",
                "8fe2e96454976c383ee87d51ee8223d410389e3c3b1fa720676cc78af14bae1b\
                 e7d55e43365c31088936c60524eef06a11d271dc2608a9529f69820110bbf913\
                 4b88072f91c5a8f540b05368de1252ee",
            ),
            (
                Cipher::Aes128Cbc(Digest::Sha1),
                "83235bc89479e0973c43a94e3638adf0",
                "911be4a0fe5e54c3f35acd66ddc43393ff6217df",
                "8deb78668743d477b440db4f0631fe51e8dc8dd4621152fea8f24d3f6d3ddb7b\
                 79b996d06c6bc24f58fd8a02586415774cbde40991314e670fbdaaf632c23a01\
                 23d315a2",
            ),
        ] {
            let [cipher_key, mac_key, mut packet] =
                [cipher_key, mac_key, packet].map(|text| hex::decode(text).unwrap());
            let key = DirectionKey::new(cipher, &cipher_key, &mac_key).unwrap();
            let mut sealer = Sealer::new(cipher, &key).unwrap();
            let Keyed::Cbc(sealing) = &mut sealer.key else { unreachable!() };
            let digest = mac_key.len();
            sealing.set_next_iv(packet[digest..digest + 16].try_into().unwrap());
            assert_eq!(sealed(&mut sealer, V1, &crate::message::PING), packet);
            let mut opener = Opener::new(cipher, &key).unwrap();
            let body = opener.open(V1, &mut packet, Instant::now()).unwrap();
            assert_eq!(body, crate::message::PING);
        }
    }

    /// Decrypting first would tell by time or error how the padding is wrong.
    #[test]
    fn nothing_of_a_forged_cbc_packet_is_decrypted() {
        let cipher = Cipher::Aes256Cbc(Digest::Sha256);
        let mut sealer = Sealer::new(cipher, &vector_key(cipher)).unwrap();
        let mut opener = Opener::new(cipher, &vector_key(cipher)).unwrap();
        let packet = sealed(&mut sealer, V1, &[5; 40]);
        for bit in 0..packet.len() * 8 {
            let mut forged = packet.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            let given = forged.clone();
            assert_eq!(opener.open(V1, &mut forged, Instant::now()), Err(OpenError::Forged));
            assert_eq!(forged, given, "bit {bit}");
        }
    }

    /// Two IVs alike would show which packets begin alike.
    #[test]
    fn every_packet_has_another_iv() {
        let cipher = Cipher::Aes128Cbc(Digest::Sha1);
        let mut sealer = Sealer::new(cipher, &vector_key(cipher)).unwrap();
        let ivs: std::collections::HashSet<_> =
            (0..200).map(|_| sealed(&mut sealer, V1, &[0])[20..36].to_vec()).collect();
        assert_eq!(ivs.len(), 200);
    }

    #[test]
    fn cbc_ends_with_its_ids_and_not_before() {
        let now = Instant::now();
        let cipher = Cipher::Aes256Cbc(Digest::Sha512);
        let mut sealer = Sealer::new(cipher, &vector_key(cipher)).unwrap();
        let mut opener = Opener::new(cipher, &vector_key(cipher)).unwrap();
        let mut packet = sealed(&mut sealer, V1, &[7; 3]);
        assert_eq!(opener.open(V1, &mut packet.clone(), now).unwrap(), [7; 3]);
        let again = opener.open(V1, &mut packet, now).unwrap_err();
        assert_eq!(again, OpenError::Replay(Refused::Replay));
        assert!(!sealer.wears_out() && !opener.wears_out());
        sealer.skip_to(RENEGOTIATE_AT_ID);
        assert!(sealer.wears_out());
        sealer.skip_to(u32::MAX - 1);
        let mut room = vec![0; sealer.format.front() + 1 + sealer.format.back(1)];
        assert_eq!(sealer.seal(V1, &mut room, 1), Err(NotSealed::Exhausted));
        assert_eq!(sealer.seal(V1, &mut room, 13), Err(NotSealed::NoRoom));
        opener.set_forgeries(FORGERIES_LIMIT);
        assert_eq!(opener.open(V1, &mut room, now), Err(OpenError::WornOut));
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
        assert_eq!(sealer.seal(V1, &mut [0; 21], 1), Err(NotSealed::Exhausted));
    }

    #[test]
    fn gcm_wears_out_by_blocks_and_packets() {
        let cipher = Cipher::Aes256Gcm;
        let mut sealer = Sealer::new(cipher, &vector_key(cipher)).unwrap();
        sealed(&mut sealer, V1, &[0; 1600]);
        assert_eq!(*sealer.usage(), 101);
        sealer.set_usage(GCM_RENEGOTIATE_AT - 2);
        assert!(!sealer.wears_out());
        sealed(&mut sealer, V1, &[0]);
        assert!(sealer.wears_out());
        sealer.set_usage(GCM_LIMIT);
        assert_eq!(sealer.seal(V1, &mut [0; 21], 1), Err(NotSealed::Exhausted));

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
