//! One peer: from inner packet to encrypted packet and back. No I/O.

use std::ops::Range;
use std::time::Instant;

use ovpn_dco::{
    Error, Framing, KeyConfig, KeyId, KeySlot, MssClamp, PeerId, PeerStats, is_data_packet,
};

use crate::crypto::{Associated, Exhausted, OpenError, Opener, PACKET_ID, Sealer, TAG};
use crate::framing;
use crate::message::Payload;
use crate::mss;

const DATA_V1: u8 = 6 << 3;
const DATA_V2: u8 = 9 << 3;
/// Packet id and tag, between header and ciphertext.
const SEAL: usize = PACKET_ID + TAG;
/// Most bytes that a sealed packet has in front of and behind the inner packet together.
pub const MAX_OVERHEAD: usize = 4 + SEAL + 2;

/// A data channel peer: keys, framing, counters.
pub struct Peer {
    header: DataHeader,
    framing: Framing,
    mss: Option<MssClamp>,
    primary: Option<Key>,
    secondary: Option<Key>,
    stats: PeerStats,
}

struct Key {
    id: KeyId,
    sealer: Sealer,
    opener: Opener,
    /// Its end was told already.
    reported: bool,
}

/// The header of packets we send.
#[derive(Clone, Copy, Debug)]
enum DataHeader {
    V1,
    V2(PeerId),
}

/// Where in a sealed packet the inner packet is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Envelope {
    /// Bytes in front.
    pub front: usize,
    /// Bytes behind.
    pub back: usize,
    prefix: &'static [u8],
}

impl Envelope {
    /// Length of a sealed packet.
    #[must_use]
    pub fn sealed_len(&self, inner: usize) -> usize {
        self.front + inner + self.back
    }

    /// Where in a sealed packet of this length the inner packet is.
    #[must_use]
    pub fn inner(&self, sealed: usize) -> Range<usize> {
        self.front..sealed - self.back
    }
}

/// Why a packet was not sealed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotSealed {
    /// There is no primary key.
    NoKey,
    /// The primary key must not be used any more.
    Exhausted,
}

impl From<Exhausted> for NotSealed {
    fn from(_: Exhausted) -> Self {
        Self::Exhausted
    }
}

/// What a received packet was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Opened {
    /// An inner packet, at this place.
    Packet(Range<usize>),
    /// Not for the data channel.
    Control,
    /// Authentic, and consumed.
    Consumed,
    /// The peer exits.
    Exit,
    /// To be ignored: unknown key, replay, unknown framing.
    Ignored,
    /// Too short, or not authentic.
    Forged,
}

impl Peer {
    /// A peer without keys.
    #[must_use]
    pub fn new(id: Option<PeerId>, framing: Framing, mss: Option<MssClamp>) -> Self {
        Self {
            header: id.map_or(DataHeader::V1, DataHeader::V2),
            framing,
            mss,
            primary: None,
            secondary: None,
            stats: PeerStats::default(),
        }
    }

    fn slot(&mut self, slot: KeySlot) -> &mut Option<Key> {
        match slot {
            KeySlot::Primary => &mut self.primary,
            KeySlot::Secondary => &mut self.secondary,
        }
    }

    /// Puts a key into a slot.
    pub fn set_key(&mut self, slot: KeySlot, key: &KeyConfig) -> Result<(), Error> {
        let key = Key {
            id: key.key_id,
            sealer: Sealer::new(key.cipher, &key.encrypt)?,
            opener: Opener::new(key.cipher, &key.decrypt)?,
            reported: false,
        };
        *self.slot(slot) = Some(key);
        Ok(())
    }

    /// Empties a slot.
    pub fn delete_key(&mut self, slot: KeySlot) {
        *self.slot(slot) = None;
    }

    /// Exchanges the slots.
    pub fn swap_keys(&mut self) {
        std::mem::swap(&mut self.primary, &mut self.secondary);
    }

    /// A key that has come near its end since the last call.
    pub fn take_worn_out(&mut self) -> Option<KeyId> {
        [&mut self.primary, &mut self.secondary].into_iter().flatten().find_map(|key| {
            let worn_out = key.sealer.wears_out() || key.opener.wears_out();
            (worn_out && !std::mem::replace(&mut key.reported, worn_out)).then_some(key.id)
        })
    }

    /// Whether packets can be sent.
    #[must_use]
    pub fn can_send(&self) -> bool {
        self.primary.is_some()
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> PeerStats {
        self.stats
    }

    /// How an inner packet with this first byte is wrapped.
    #[inline]
    #[must_use]
    pub fn envelope(&self, first_byte: u8) -> Envelope {
        let prefix = framing::prefix(self.framing, first_byte);
        let header = match self.header {
            DataHeader::V1 => 1,
            DataHeader::V2(_) => 4,
        };
        Envelope {
            front: header + SEAL + prefix.len(),
            back: framing::suffix(self.framing),
            prefix,
        }
    }

    /// Seals a packet in place: `packet` has the inner packet where `envelope` says. MSS clamping
    /// included. An inner IP packet counts as such; see [`Peer::seal_message`].
    #[inline]
    pub fn seal(&mut self, envelope: Envelope, packet: &mut [u8]) -> Result<(), NotSealed> {
        let inner = envelope.inner(packet.len());
        if let Some(limits) = self.mss {
            mss::clamp(limits, &mut packet[inner.clone()]);
        }
        self.seal_message(envelope, packet)?;
        self.stats.vpn_tx_bytes += inner.len() as u64;
        self.stats.vpn_tx_packets += 1;
        Ok(())
    }

    /// Seals something that is no IP packet: a ping, an OCC message.
    #[inline]
    pub fn seal_message(&mut self, envelope: Envelope, packet: &mut [u8]) -> Result<(), NotSealed> {
        let key = self.primary.as_mut().ok_or(NotSealed::NoKey)?;
        let len = packet.len();
        let (header, rest) = packet.split_at_mut(envelope.front - SEAL - envelope.prefix.len());
        let (seal, body) = rest.split_first_chunk_mut::<SEAL>().ok_or(NotSealed::NoKey)?;
        let associated = match self.header {
            DataHeader::V1 => {
                header.copy_from_slice(&[DATA_V1 | key.id.get()]);
                Associated::V1
            }
            DataHeader::V2(id) => {
                let mut word = id.get().to_be_bytes();
                word[0] = DATA_V2 | key.id.get();
                header.copy_from_slice(&word);
                Associated::V2(word)
            }
        };
        framing::encode(self.framing, envelope.prefix, body);
        key.sealer.seal(associated, seal, body)?;
        self.stats.link_tx_bytes += len as u64;
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
        let (associated, header) = if first & 0xf8 == DATA_V1 {
            (Associated::V1, 1)
        } else {
            match packet.first_chunk() {
                Some(word) => (Associated::V2(*word), 4),
                None => return self.forged(),
            }
        };
        let Some((seal, body)) = packet[header..].split_first_chunk_mut::<SEAL>() else {
            return self.forged();
        };
        if body.is_empty() {
            return self.forged();
        }
        let id = KeyId::from_first_byte(first);
        let key =
            [&mut self.primary, &mut self.secondary].into_iter().flatten().find(|key| key.id == id);
        let Some(key) = key else { return Opened::Ignored };
        match key.opener.open(associated, seal, body, now) {
            Ok(()) => {}
            Err(OpenError::Forged) => return self.forged(),
            Err(OpenError::Replay(_)) => {
                self.stats.replay_errors += 1;
                return Opened::Ignored;
            }
            Err(OpenError::WornOut) => return Opened::Ignored,
        }
        let Ok(inner) = framing::decode(self.framing, body) else {
            return Opened::Consumed;
        };
        let inner_packet = &mut body[inner.clone()];
        match Payload::of(inner_packet) {
            Payload::Packet if inner.is_empty() => return Opened::Consumed,
            Payload::Packet => {}
            Payload::Ping | Payload::OtherOcc => return Opened::Consumed,
            Payload::Exit => return Opened::Exit,
        }
        if let Some(limits) = self.mss {
            mss::clamp(limits, inner_packet);
        }
        self.stats.vpn_rx_bytes += inner.len() as u64;
        self.stats.vpn_rx_packets += 1;
        let offset = header + SEAL;
        Opened::Packet(offset + inner.start..offset + inner.end)
    }

    fn forged(&mut self) -> Opened {
        self.stats.decrypt_errors += 1;
        Opened::Forged
    }
}
