//! One peer: from inner packet to encrypted packet and back. No I/O.

use std::ops::Range;
use std::time::Instant;

use ovpn_dco::{
    DataFormat, DataHeader, Error, Framing, KeyConfig, KeyId, PeerId, PeerStats, Slots,
    is_data_packet,
};

use crate::crypto::{OpenError, Opener, Sealer};
use crate::framing::{self, Framed, UnknownFraming};
use crate::inflate::Algorithm;
use crate::message::Payload;
use crate::mss::{self, MssClamp};
use crate::stats::Faults;

pub use crate::crypto::NotSealed;

/// A data channel peer: keys, framing, counters.
pub struct Peer {
    id: Option<PeerId>,
    framing: Framing,
    mss: Option<MssClamp>,
    keys: Slots<Key>,
    stats: PeerStats,
    faults: Faults,
}

struct Key {
    format: DataFormat,
    sealer: Sealer,
    opener: Opener,
    /// Its end was told already.
    reported: bool,
}

/// Where in a sealed packet the inner packet is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Envelope {
    /// Bytes in front.
    pub front: usize,
    prefix: &'static [u8],
    /// Of the framing.
    suffix: usize,
    format: DataFormat,
}

impl Envelope {
    /// Length of a sealed packet.
    #[inline]
    #[must_use]
    pub fn sealed_len(&self, inner: usize) -> usize {
        self.front + inner + self.suffix + self.format.back(self.body_len(inner))
    }

    /// Where in its sealed packet an inner packet of this length is.
    #[inline]
    #[must_use]
    pub fn inner(&self, inner: usize) -> Range<usize> {
        self.front..self.front + inner
    }

    /// Length of what is encrypted.
    #[inline]
    fn body_len(&self, inner: usize) -> usize {
        self.prefix.len() + inner + self.suffix
    }
}

/// What a received packet was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Opened {
    /// An inner packet, at this place.
    Packet(Range<usize>),
    /// The same, compressed. Decompressed, it goes through [`Peer::admit`].
    Compressed(Algorithm, Range<usize>),
    /// Not for the data channel.
    Control,
    /// Authentic, and consumed.
    Consumed,
    /// The peer exits.
    Exit,
    /// Sealed with a key that is not here (yet).
    UnknownKey,
    /// To be ignored: a replay, or under a key at its end.
    Ignored,
    /// Too short, or not authentic.
    Forged,
}

impl Peer {
    /// A peer without keys.
    #[must_use]
    pub fn new(id: Option<PeerId>, framing: Framing, mss: Option<MssClamp>) -> Self {
        let (stats, faults) = (PeerStats::default(), Faults::default());
        Self { id, framing, mss, keys: Slots::default(), stats, faults }
    }

    /// Adds a key, which seals if no other does; its packet ids start at 1.
    pub fn install(&mut self, key: KeyConfig) -> Result<(), Error> {
        let id = key.key_id;
        let key = Key {
            format: key.cipher.format(),
            sealer: Sealer::new(key.cipher, &key.encrypt)?,
            opener: Opener::new(key.cipher, &key.decrypt)?,
            reported: false,
        };
        self.keys.install(id, key);
        Ok(())
    }

    /// Seals with this key from now on; the one before goes on opening. [`Error::NoSuchKey`].
    pub fn promote(&mut self, key: KeyId) -> Result<(), Error> {
        self.keys.promote(key)
    }

    /// Begins the next epoch of the key that seals, as at the end of the last one; see
    /// [`DataFormat::Epoch`]. [`NotSealed::NoKey`]: there is no key with epochs.
    #[cfg(feature = "internals")]
    pub fn begin_epoch(&mut self) -> Result<(), NotSealed> {
        let (_, key) = self.keys.sending_mut().ok_or(NotSealed::NoKey)?;
        key.sealer.begin_epoch()
    }

    /// Deletes a key, if it is there.
    pub fn retire(&mut self, key: KeyId) {
        self.keys.retire(key);
    }

    /// The keys that are there.
    #[must_use]
    pub fn keys(&self) -> Slots<()> {
        self.keys.ids()
    }

    /// A key that has come near its end since the last call.
    pub fn take_worn_out(&mut self) -> Option<KeyId> {
        self.keys.iter_mut().find_map(|(id, key)| {
            let worn_out = key.sealer.wears_out() || key.opener.wears_out();
            (worn_out && !std::mem::replace(&mut key.reported, worn_out)).then_some(id)
        })
    }

    /// Whether packets can be sent.
    #[must_use]
    pub fn can_send(&self) -> bool {
        self.keys.sending().is_some()
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> PeerStats {
        self.stats
    }

    /// What came to nothing; of recursion it knows nothing.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.faults
    }

    /// How an inner packet with this first byte is wrapped.
    #[inline]
    #[must_use]
    pub fn envelope(&self, first_byte: u8) -> Envelope {
        let prefix = framing::prefix(self.framing, first_byte);
        let header = self.id.map_or(DataHeader::V1_LEN, |_| DataHeader::V2_LEN);
        // Without a key nothing is sealed, in any format.
        let format = self.keys.sending_ref().map_or(DataFormat::Aead, |(_, key)| key.format);
        Envelope {
            front: header + format.front() + prefix.len(),
            prefix,
            suffix: framing::suffix(self.framing),
            format,
        }
    }

    /// Another clamp, from the next packet on.
    pub fn set_mss(&mut self, mss: Option<MssClamp>) {
        self.mss = mss;
    }

    /// Seals a packet in place: `packet` is as long and has the inner packet of `len` bytes where
    /// `envelope` says. MSS clamping included. An inner IP packet counts as such; see
    /// [`Peer::seal_message`].
    #[inline]
    pub fn seal(
        &mut self,
        envelope: Envelope,
        packet: &mut [u8],
        len: usize,
    ) -> Result<(), NotSealed> {
        if let Some(limits) = self.mss {
            let inner = packet.get_mut(envelope.inner(len)).ok_or(NotSealed::NoRoom)?;
            mss::clamp(limits, inner);
        }
        self.seal_message(envelope, packet, len)?;
        self.stats.vpn_tx_bytes += len as u64;
        self.stats.vpn_tx_packets += 1;
        Ok(())
    }

    /// Seals something that is no IP packet: a ping, an OCC message.
    #[inline]
    pub fn seal_message(
        &mut self,
        envelope: Envelope,
        packet: &mut [u8],
        len: usize,
    ) -> Result<(), NotSealed> {
        let (id, key) = self.keys.sending_mut().ok_or(NotSealed::NoKey)?;
        let sealed = packet.len();
        let header = DataHeader::new(self.id, id);
        let (place, rest) = packet.split_at_mut_checked(header.size()).ok_or(NotSealed::NoRoom)?;
        header.write(place);
        let (front, body_len) = (key.format.front(), envelope.body_len(len));
        let body = rest.get_mut(front..front + body_len).ok_or(NotSealed::NoRoom)?;
        framing::encode(self.framing, envelope.prefix, body);
        key.sealer.seal(header, rest, body_len)?;
        self.stats.link_tx_bytes += sealed as u64;
        self.stats.link_tx_packets += 1;
        Ok(())
    }

    /// Opens a packet in place.
    #[inline]
    pub fn open(&mut self, packet: &mut [u8], now: Instant) -> Opened {
        let Some(&first) = packet.first() else { return Opened::Forged };
        if !is_data_packet(first) {
            return Opened::Control;
        }
        let len = packet.len();
        self.stats.link_rx_bytes += len as u64;
        self.stats.link_rx_packets += 1;
        let Some((header, sealed)) = DataHeader::split(packet) else { return self.forged() };
        if sealed.len() <= DataFormat::LEAST_OVERHEAD {
            return self.forged();
        }
        let Some(key) = self.keys.get_mut(header.key_id()) else { return Opened::UnknownKey };
        let front = header.size() + key.format.front();
        let opened = key.opener.open(header, sealed, now);
        key.sealer.follow(&key.opener);
        let body = match opened {
            Ok(body) => body,
            Err(OpenError::Forged) => return self.forged(),
            Err(OpenError::Replay(_)) => {
                self.faults.replay_errors += 1;
                return Opened::Ignored;
            }
            Err(OpenError::WornOut) => return Opened::Ignored,
        };
        match framing::decode(self.framing, body) {
            Ok(Framed::Plain(inner)) => match self.admit(&mut body[inner.clone()]) {
                Some(instead) => instead,
                None => Opened::Packet(front + inner.start..front + inner.end),
            },
            Ok(Framed::Compressed(algorithm, inner)) => {
                Opened::Compressed(algorithm, front + inner.start..front + inner.end)
            }
            Err(UnknownFraming) => {
                self.refuse();
                Opened::Consumed
            }
        }
    }

    /// Looks at what was in a packet, plain or decompressed. `None`: an inner packet, which is
    /// counted, and whose MSS is clamped. Otherwise what it was instead.
    #[inline]
    pub fn admit(&mut self, inner: &mut [u8]) -> Option<Opened> {
        match Payload::of(inner) {
            Payload::Packet if inner.is_empty() => return Some(Opened::Consumed),
            Payload::Packet => {}
            Payload::Ping | Payload::OtherOcc => return Some(Opened::Consumed),
            Payload::Exit => return Some(Opened::Exit),
        }
        if let Some(limits) = self.mss {
            mss::clamp(limits, inner);
        }
        self.stats.vpn_rx_bytes += inner.len() as u64;
        self.stats.vpn_rx_packets += 1;
        None
    }

    /// Counts a packet that could not be decompressed.
    pub fn refuse(&mut self) {
        self.faults.compress_errors += 1;
    }

    /// Opens a packet that was [`Opened::UnknownKey`] when it came, and was counted then.
    pub fn open_early(&mut self, packet: &mut [u8], now: Instant) -> Opened {
        let counted = (self.stats.link_rx_bytes, self.stats.link_rx_packets);
        let opened = self.open(packet, now);
        (self.stats.link_rx_bytes, self.stats.link_rx_packets) = counted;
        opened
    }

    fn forged(&mut self) -> Opened {
        self.faults.decrypt_errors += 1;
        Opened::Forged
    }
}

#[cfg(test)]
mod tests {
    use ovpn_dco::{Cipher, DirectionKey};

    use super::*;
    use crate::message;

    fn key(id: u8, mirrored: bool) -> KeyConfig {
        let cipher = Cipher::Aes256Gcm;
        let direction = |n: u8| DirectionKey::new(cipher, &[n + id; 32], [n; 8]).unwrap();
        let (encrypt, decrypt) = if mirrored { (100, 1) } else { (1, 100) };
        KeyConfig {
            key_id: KeyId::new(id).unwrap(),
            cipher,
            encrypt: direction(encrypt),
            decrypt: direction(decrypt),
        }
    }

    fn peers(id: Option<u32>, framing: Framing) -> [Peer; 2] {
        [false, true].map(|mirrored| {
            let mut peer = Peer::new(id.and_then(PeerId::new), framing, None);
            peer.install(key(0, mirrored)).unwrap();
            peer
        })
    }

    fn seal(peer: &mut Peer, inner: &[u8]) -> Result<Vec<u8>, NotSealed> {
        let envelope = peer.envelope(inner[0]);
        let mut packet = vec![0; envelope.sealed_len(inner.len())];
        packet[envelope.inner(inner.len())].copy_from_slice(inner);
        peer.seal(envelope, &mut packet, inner.len())?;
        Ok(packet)
    }

    fn opened(peer: &mut Peer, packet: &[u8]) -> Result<Vec<u8>, Opened> {
        let mut packet = packet.to_vec();
        match peer.open(&mut packet, Instant::now()) {
            Opened::Packet(range) => Ok(packet[range].to_vec()),
            other => Err(other),
        }
    }

    /// OpenVPN's key bytes, peer-id 23, packet id 1.
    #[test]
    fn known_ping_packets() {
        for (cipher, expected) in [
            (
                Cipher::Aes256Gcm,
                "4800001700000001803d23064775217c09dd76c294137af75c12e7a4c3d0fcb096c3e94d877cadf4",
            ),
            (
                Cipher::ChaCha20Poly1305,
                "4800001700000001bc0ec3dbd3b7a19f70a410a542e1a89860edea9fa90a354e37ad246716c4bb52",
            ),
        ] {
            let text = b"abcdefgh01234567ABCDEFGHjkuchenl";
            let bytes: Vec<u8> = (0..=255u8).map(|i| text[usize::from(i) % 32] ^ i).collect();
            let direction = || DirectionKey::new(cipher, &bytes[..32], &bytes[64..72]).unwrap();
            let config = KeyConfig {
                key_id: KeyId::FIRST,
                cipher,
                encrypt: direction(),
                decrypt: direction(),
            };
            let mut peer = Peer::new(PeerId::new(23), Framing::None, None);
            peer.install(config).unwrap();
            let packet = seal(&mut peer, &message::PING).unwrap();
            assert_eq!(hex::encode(&packet), expected);
            assert_eq!(opened(&mut peer, &packet), Err(Opened::Consumed));
        }
    }

    #[test]
    fn every_framing_and_header() {
        for framing in [Framing::None, Framing::LzoStub, Framing::Swap, Framing::StubV2] {
            for id in [None, Some(0), Some(0xff_ffff)] {
                let [mut a, mut b] = peers(id, framing);
                let header = id.map_or(DataHeader::V1_LEN, |_| DataHeader::V2_LEN);
                let added = header + DataFormat::Aead.front() + framing.overhead();
                for inner in [&b"\x45"[..], b"\x50abc", &[0x60; 1400]] {
                    let packet = seal(&mut a, inner).unwrap();
                    // An IP packet never begins like this.
                    let escape = if framing == Framing::StubV2 && inner[0] == 0x50 { 2 } else { 0 };
                    assert_eq!(packet.len(), inner.len() + added + escape);
                    match id {
                        None => assert_eq!(packet[0], 0x30),
                        Some(id) => assert_eq!(packet[..4], (0x4800_0000 | id).to_be_bytes()),
                    }
                    assert_eq!(opened(&mut b, &packet).unwrap(), inner);
                    assert_eq!(opened(&mut b, &packet), Err(Opened::Ignored));
                }
                let ping = seal(&mut a, &message::PING).unwrap();
                assert_eq!(opened(&mut b, &ping), Err(Opened::Consumed));
                let exit = seal(&mut a, &message::EXIT).unwrap();
                assert_eq!(opened(&mut b, &exit), Err(Opened::Exit));
                assert_eq!(b.faults().replay_errors, 3);
            }
        }
    }

    /// A server may answer DATA_V1 with DATA_V2 and the other way round, with any peer-id.
    #[test]
    fn either_header_is_opened() {
        let [mut a, _] = peers(None, Framing::None);
        let [_, mut b] = peers(Some(5), Framing::None);
        let packet = seal(&mut a, b"E1").unwrap();
        assert_eq!(opened(&mut b, &packet).unwrap(), b"E1");
        let [mut a, _] = peers(Some(77), Framing::None);
        let [_, mut b] = peers(None, Framing::None);
        let packet = seal(&mut a, b"E2").unwrap();
        assert_eq!(opened(&mut b, &packet).unwrap(), b"E2");
    }

    #[test]
    fn slots() {
        let [mut a, mut b] = peers(Some(1), Framing::None);
        let [zero, one] = [0, 1].map(|n| KeyId::new(n).unwrap());
        a.install(key(1, false)).unwrap();
        b.install(key(1, true)).unwrap();
        let old = seal(&mut a, b"E-old").unwrap();
        a.promote(one).unwrap();
        let new = seal(&mut a, b"E-new").unwrap();
        assert_eq!((old[0], new[0]), (0x48, 0x49));
        // B seals with the old one still, and opens both.
        assert_eq!(opened(&mut b, &new).unwrap(), b"E-new");
        assert_eq!(opened(&mut b, &old).unwrap(), b"E-old");
        b.retire(one);
        let newer = seal(&mut a, b"E").unwrap();
        assert_eq!(opened(&mut b, &newer), Err(Opened::UnknownKey));
        a.retire(one);
        a.retire(one);
        assert!(!a.can_send());
        assert_eq!(a.keys().opening(), Some(zero));
        assert_eq!(seal(&mut a, b"E"), Err(NotSealed::NoKey));
    }

    #[test]
    fn counters() {
        let [mut a, mut b] = peers(Some(1), Framing::None);
        let mut packet = seal(&mut a, &[0x45; 100]).unwrap();
        opened(&mut b, &packet).unwrap();
        packet[30] ^= 1;
        packet[7] = 9;
        assert_eq!(opened(&mut b, &packet), Err(Opened::Forged));
        opened(&mut b, &seal(&mut a, &message::PING).unwrap()).unwrap_err();
        assert_eq!(opened(&mut b, &[0x38; 50]), Err(Opened::Control));
        for short in [&[0x48][..], &[0x48, 0, 0], &[0x30; 21], &[0x48; 24], &[]] {
            assert_eq!(opened(&mut b, short), Err(Opened::Forged), "{short:?}");
        }
        let sent = a.stats();
        // Sealed as a packet, the ping counts as one.
        assert_eq!((sent.vpn_tx_packets, sent.vpn_tx_bytes), (2, 116));
        assert_eq!((sent.link_tx_packets, sent.link_tx_bytes), (2, 124 + 40));
        let received = b.stats();
        assert_eq!((received.vpn_rx_packets, received.vpn_rx_bytes), (1, 100));
        assert_eq!((received.link_rx_packets, received.link_rx_bytes), (7, 2 * 124 + 40 + 49));
        let refused = b.faults();
        assert_eq!((refused.decrypt_errors, refused.replay_errors), (5, 0));
    }

    #[test]
    fn a_worn_out_key_is_told_once() {
        let [mut a, _] = peers(Some(1), Framing::None);
        assert_eq!(a.take_worn_out(), None);
        a.keys.sending_mut().unwrap().1.sealer.skip_to(0xfeff_ffff);
        seal(&mut a, b"E").unwrap();
        assert_eq!(a.take_worn_out(), Some(KeyId::FIRST));
        assert_eq!(a.take_worn_out(), None);
        a.keys.sending_mut().unwrap().1.sealer.skip_to(u32::MAX - 1);
        assert_eq!(seal(&mut a, b"E"), Err(NotSealed::Exhausted));
        a.install(key(0, false)).unwrap();
        assert_eq!(seal(&mut a, b"E").unwrap()[4..8], [0, 0, 0, 1]);
    }
}
