//! Epoch keys: a secret yields the key of its epoch and the secret of the next, so that no key seals or
//! opens more than its cipher bears, and nobody needs to negotiate for that. Layout:
//! [`ovpn_dco::format::epoch`]; rules: OpenVPN's wire protocol, "epoch data keys".

use std::collections::VecDeque;
use std::time::Instant;

use aws_lc_rs::aead::{Aad, Algorithm, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf;
use ovpn_dco::format::aead::NONCE;
use ovpn_dco::format::epoch::{EPOCH, PACKET_ID, SECRET, TAG};
use ovpn_dco::replay::Refused;
use ovpn_dco::{Cipher, DataHeader, DirectionKey};
use zeroize::Zeroizing;

use super::{
    FORGERIES_RENEGOTIATE_AT, GCM_LIMIT, NotSealed, OpenError, Seen, algorithm, blocks_and_packet,
};

/// Keys ahead of the current one that are ready. A peer goes one epoch on at a time, after more packets
/// than can all be lost.
const AHEAD: usize = 4;
/// From this epoch on the negotiated key asks to be replaced.
const RENEGOTIATE_AT: u16 = 0xf000;
/// The last epoch that every peer follows: OpenVPN 3 keeps 16 keys ahead, none of them behind the last
/// number.
const LAST: u16 = u16::MAX - 16 - 1;
const LAST_COUNTER: u64 = (1 << 48) - 1;

type PacketId = [u8; PACKET_ID];
type Secret = Zeroizing<[u8; SECRET]>;

/// HKDF-Expand-Label of TLS 1.3 (RFC 8446, section 7.1) with a prefix of its own and without context.
fn expand(secret: &[u8; SECRET], label: &[u8], out: &mut [u8]) -> Result<(), Unspecified> {
    struct Length(usize);
    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    const PREFIX: &[u8] = b"ovpn ";
    let length = u16::try_from(out.len()).map_err(|_| Unspecified)?.to_be_bytes();
    let label_len = u8::try_from(PREFIX.len() + label.len()).map_err(|_| Unspecified)?;
    let info = [&length, &[label_len][..], PREFIX, label, &[0]];
    let prk = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, secret);
    prk.expand(&info, Length(out.len()))?.fill(out)
}

/// An epoch's secret.
struct Schedule {
    cipher: Cipher,
    algorithm: &'static Algorithm,
    epoch: u16,
    secret: Secret,
}

impl Schedule {
    /// At the first epoch.
    fn new(cipher: Cipher, key: &DirectionKey) -> Result<Self, Unspecified> {
        let secret = key.cipher_key().try_into().map(Zeroizing::new).map_err(|_| Unspecified)?;
        let algorithm = algorithm(cipher).ok_or(Unspecified)?;
        Ok(Self { cipher, algorithm, epoch: 1, secret })
    }

    fn key(&self) -> Result<EpochKey, Unspecified> {
        let mut key = Zeroizing::new([0; SECRET]);
        let key = key.get_mut(..self.cipher.own_key_len()).ok_or(Unspecified)?;
        expand(&self.secret, b"data_key", key)?;
        let mut iv = [0; NONCE];
        expand(&self.secret, b"data_iv", &mut iv)?;
        let key = LessSafeKey::new(UnboundKey::new(self.algorithm, key)?);
        let limited = self.cipher.has_usage_limit();
        Ok(EpochKey { epoch: self.epoch, key, iv, limited, usage: 0 })
    }

    /// Goes on to the next epoch.
    fn advance(&mut self) -> Result<(), Unspecified> {
        self.epoch = self.epoch.checked_add(1).ok_or(Unspecified)?;
        let mut next = Secret::default();
        expand(&self.secret, b"datakey upd", &mut next[..])?;
        self.secret = next;
        Ok(())
    }
}

/// The key of one epoch and direction.
struct EpochKey {
    epoch: u16,
    key: LessSafeKey,
    iv: [u8; NONCE],
    limited: bool,
    /// Blocks plus packets so far.
    usage: u64,
}

impl EpochKey {
    #[inline]
    fn nonce(&self, id: PacketId) -> Nonce {
        let mut nonce = self.iv;
        for (byte, id) in nonce.iter_mut().zip(id) {
            *byte ^= id;
        }
        Nonce::assume_unique_for_key(nonce)
    }

    fn is_used_up(&self) -> bool {
        self.limited && self.usage >= GCM_LIMIT
    }
}

/// What is authenticated besides the body: header and packet id. Only DATA_V2 has this format.
#[inline]
fn associated(
    header: DataHeader,
    id: PacketId,
) -> Result<[u8; DataHeader::V2_LEN + PACKET_ID], Unspecified> {
    let DataHeader::V2(header) = header else { return Err(Unspecified) };
    let mut bytes = [0; DataHeader::V2_LEN + PACKET_ID];
    bytes[..DataHeader::V2_LEN].copy_from_slice(&header);
    bytes[DataHeader::V2_LEN..].copy_from_slice(&id);
    Ok(bytes)
}

/// Seals, with the key of one epoch after the other.
pub(super) struct Sealing {
    schedule: Schedule,
    key: EpochKey,
    /// Of the last packet; the next one is one higher.
    counter: u64,
}

impl Sealing {
    pub(super) fn new(cipher: Cipher, key: &DirectionKey) -> Result<Self, Unspecified> {
        let schedule = Schedule::new(cipher, key)?;
        let key = schedule.key()?;
        Ok(Self { schedule, key, counter: 0 })
    }

    /// `packet` is what is behind the header, and as long as the format says of this body.
    #[inline]
    pub(super) fn seal(
        &mut self,
        header: DataHeader,
        packet: &mut [u8],
        body: usize,
    ) -> Result<(), NotSealed> {
        if self.counter >= LAST_COUNTER || self.key.is_used_up() {
            self.advance()?;
        }
        self.counter += 1;
        let mut id = self.counter.to_be_bytes();
        id[..EPOCH].copy_from_slice(&self.key.epoch.to_be_bytes());
        let (place, rest) = packet.split_first_chunk_mut().ok_or(NotSealed::NoRoom)?;
        let (text, end) = rest.split_at_mut_checked(body).ok_or(NotSealed::NoRoom)?;
        let aad = associated(header, id).map_err(|_| NotSealed::NoRoom)?;
        let tag = self
            .key
            .key
            .seal_in_place_separate_tag(self.key.nonce(id), Aad::from(aad), text)
            .map_err(|_| NotSealed::Exhausted)?;
        *place = id;
        end.copy_from_slice(tag.as_ref());
        self.key.usage += blocks_and_packet(body);
        Ok(())
    }

    /// Goes on to the next epoch.
    #[cold]
    pub(super) fn advance(&mut self) -> Result<(), NotSealed> {
        if self.key.epoch >= LAST {
            return Err(NotSealed::Exhausted);
        }
        self.schedule.advance().map_err(|_| NotSealed::Exhausted)?;
        self.key = self.schedule.key().map_err(|_| NotSealed::Exhausted)?;
        self.counter = 0;
        Ok(())
    }

    /// After a packet was opened, or not: the peer's epoch is ours, too, and where the key that opens has
    /// done enough, a new epoch of ours has the peer begin one.
    #[inline]
    pub(super) fn follow(&mut self, opening: &Opening) {
        let current = &opening.current;
        while self.key.epoch < current.key.epoch
            || self.key.epoch == current.key.epoch && current.has_done_enough()
        {
            if self.advance().is_err() {
                return;
            }
        }
    }

    /// Whether it is time for another negotiated key.
    pub(super) fn wears_out(&self) -> bool {
        self.key.epoch >= RENEGOTIATE_AT
    }

    /// As if this much had been sealed in this epoch.
    #[cfg(test)]
    pub(super) fn set_used(&mut self, usage: u64, counter: u64) {
        (self.key.usage, self.counter) = (usage, counter);
    }
}

/// A key that has opened packets, and which.
struct Receiving {
    key: EpochKey,
    seen: Seen,
}

impl Receiving {
    fn new(key: EpochKey) -> Self {
        Self { key, seen: Seen::default() }
    }

    fn has_done_enough(&self) -> bool {
        self.key.is_used_up() || self.seen.forgeries >= FORGERIES_RENEGOTIATE_AT
    }
}

/// Opens, with the keys of the epochs around the peer's.
pub(super) struct Opening {
    /// At the last epoch whose key is ready.
    schedule: Schedule,
    /// The one before the current one, for packets that were overtaken.
    retiring: Option<Receiving>,
    current: Receiving,
    /// Those ahead, each of the next epoch.
    ahead: VecDeque<EpochKey>,
}

impl Opening {
    pub(super) fn new(cipher: Cipher, key: &DirectionKey) -> Result<Self, Unspecified> {
        let schedule = Schedule::new(cipher, key)?;
        let current = Receiving::new(schedule.key()?);
        let ahead = VecDeque::with_capacity(AHEAD);
        let mut opening = Self { schedule, retiring: None, current, ahead };
        opening.prepare();
        Ok(opening)
    }

    /// Makes the keys ahead that are missing. At the last epochs there are none.
    fn prepare(&mut self) {
        while self.ahead.len() < AHEAD && self.schedule.advance().is_ok() {
            match self.schedule.key() {
                Ok(key) => self.ahead.push_back(key),
                Err(Unspecified) => return,
            }
        }
    }

    /// Opens in place what is behind the header.
    #[inline]
    pub(super) fn open<'a>(
        &mut self,
        header: DataHeader,
        packet: &'a mut [u8],
        now: Instant,
    ) -> Result<&'a mut [u8], OpenError> {
        let (id, text) = packet.split_first_chunk_mut().ok_or(OpenError::Forged)?;
        let id: PacketId = *id;
        let aad = associated(header, id).map_err(|_| OpenError::Forged)?;
        if text.len() < TAG {
            return Err(OpenError::Forged);
        }
        let epoch = u16::from_be_bytes([id[0], id[1]]);
        let counter = u64::from_be_bytes(id) & LAST_COUNTER;
        let Some(ahead) = epoch.checked_sub(self.current.key.epoch) else {
            let retiring = self.retiring.as_mut().filter(|retiring| retiring.key.epoch == epoch);
            // Of an epoch long gone; there is none of number 0.
            let retiring = retiring.ok_or(OpenError::Replay(Refused::Backtrack))?;
            return open_with(&mut retiring.key, &mut retiring.seen, id, counter, &aad, text, now);
        };
        let Some(ahead) = ahead.checked_sub(1) else {
            let Receiving { key, seen } = &mut self.current;
            return open_with(key, seen, id, counter, &aad, text, now);
        };
        let ahead = usize::from(ahead);
        let key = self.ahead.get_mut(ahead).ok_or(OpenError::Forged)?;
        let mut seen = Seen::default();
        let opened = open_with(key, &mut seen, id, counter, &aad, text, now)?;
        self.go_on(ahead, seen);
        Ok(opened)
    }

    /// The peer has begun the epoch of a key ahead; nothing of those in between will come.
    #[cold]
    fn go_on(&mut self, ahead: usize, seen: Seen) {
        self.ahead.drain(..ahead);
        if let Some(key) = self.ahead.pop_front() {
            let current = Receiving { key, seen };
            self.retiring = Some(std::mem::replace(&mut self.current, current));
        }
        self.prepare();
    }

    #[cfg(test)]
    pub(super) fn set_used(&mut self, usage: u64, forgeries: u64) {
        (self.current.key.usage, self.current.seen.forgeries) = (usage, forgeries);
    }
}

#[inline]
fn open_with<'a>(
    key: &mut EpochKey,
    seen: &mut Seen,
    id: PacketId,
    counter: u64,
    aad: &[u8],
    text: &'a mut [u8],
    now: Instant,
) -> Result<&'a mut [u8], OpenError> {
    seen.check(counter, now)?;
    key.usage += blocks_and_packet(text.len() - TAG);
    match key.key.open_in_place(key.nonce(id), Aad::from(aad), text) {
        Ok(body) => {
            seen.window.accept(counter, now);
            Ok(body)
        }
        Err(Unspecified) => {
            seen.forgeries += 1;
            Err(OpenError::Forged)
        }
    }
}

#[cfg(test)]
mod tests;
