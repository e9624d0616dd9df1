//! How much of a key is used up, judged from the kernel's counters.
//!
//! Neither module applies the AES-GCM usage limit, and both send until the 32-bit packet id is at
//! its end and then nothing more. The counters are per peer, not per key, so each key's share is
//! what was counted since it became the one that encrypts. Pure.

use crate::error::Error;
use crate::format::Cipher;
use crate::slots::Slots;
use crate::types::{KeyId, KeySlot, PeerStats};

/// Packets per key after which to renegotiate. A good 250 million before the end: minutes even at
/// a million packets per second.
const PACKETS: u64 = 0xf000_0000;
/// AES-GCM blocks plus packets after which to renegotiate: 7/8 of the limit of 2^36, the share
/// that OpenVPN uses.
const GCM_BLOCKS: u64 = (1 << 36) / 8 * 7;

/// What is kept of a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    cipher: Cipher,
    /// The counters when it began to encrypt.
    start: Traffic,
    told: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Traffic {
    rx_packets: u64,
    rx_bytes: u64,
    tx_packets: u64,
    tx_bytes: u64,
}

impl From<PeerStats> for Traffic {
    fn from(stats: PeerStats) -> Self {
        Self {
            rx_packets: stats.link_rx_packets,
            rx_bytes: stats.link_rx_bytes,
            tx_packets: stats.link_tx_packets,
            tx_bytes: stats.link_tx_bytes,
        }
    }
}

/// The keys that were given to the kernel, and how much it has used of them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KeyUsage {
    keys: Slots<Key>,
}

impl KeyUsage {
    /// Which keys there are.
    pub(super) const fn keys(&self) -> &Slots<Key> {
        &self.keys
    }

    /// A key was installed.
    pub(super) fn installed(&mut self, id: KeyId, cipher: Cipher, now: PeerStats) {
        self.keys.install(id, Key { cipher, start: now.into(), told: false });
    }

    /// A key began to encrypt that had only decrypted.
    pub(super) fn promoted(&mut self, id: KeyId, now: PeerStats) -> Result<(), Error> {
        self.keys.promote(id)?;
        if let Some((_, key)) = self.keys.sending_mut() {
            key.start = now.into();
            key.told = false;
        }
        Ok(())
    }

    /// A key is to be deleted: from where.
    pub(super) fn retired(&mut self, id: KeyId) -> Option<KeySlot> {
        self.keys.retire(id)
    }

    /// Whether the kernel's word that this key is used up is about the one that encrypts, and
    /// news.
    pub(super) fn exhausted(&mut self, id: KeyId) -> bool {
        match self.keys.sending_mut() {
            Some((sending, key)) if sending == id => !std::mem::replace(&mut key.told, true),
            _ => false,
        }
    }

    /// The key that encrypts, once, when it is time for another one.
    pub(super) fn check(&mut self, now: PeerStats) -> Option<KeyId> {
        let (id, key) = self.keys.sending_mut()?;
        let now = Traffic::from(now);
        let sent = now.tx_packets.saturating_sub(key.start.tx_packets);
        // Both directions have a key of their own and so a limit of their own. What was received
        // includes forged packets: an attacker can only make us renegotiate.
        let blocks = |bytes: u64, packets: u64| (bytes / 16).saturating_add(packets);
        let sent_blocks = blocks(now.tx_bytes.saturating_sub(key.start.tx_bytes), sent);
        let received_blocks = blocks(
            now.rx_bytes.saturating_sub(key.start.rx_bytes),
            now.rx_packets.saturating_sub(key.start.rx_packets),
        );
        let used_up = sent >= PACKETS
            || key.cipher.has_usage_limit() && sent_blocks.max(received_blocks) >= GCM_BLOCKS;
        (used_up && !std::mem::replace(&mut key.told, true)).then_some(id)
    }
}

/// Extends the packet counters of `ovpn-dco-v2`, which have 32 bits and wrap. Asked for often
/// enough (a wrap takes an hour at a million packets per second), none is missed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Unwrap {
    last: PeerStats,
}

impl Unwrap {
    /// The true counts, given what the kernel said before and says now.
    pub(super) fn extend(&mut self, raw: PeerStats) -> PeerStats {
        let one = |last: u64, raw: u64| {
            let step = (raw as u32).wrapping_sub(last as u32);
            last + u64::from(step)
        };
        self.last = PeerStats {
            vpn_rx_packets: one(self.last.vpn_rx_packets, raw.vpn_rx_packets),
            vpn_tx_packets: one(self.last.vpn_tx_packets, raw.vpn_tx_packets),
            link_rx_packets: one(self.last.link_rx_packets, raw.link_rx_packets),
            link_tx_packets: one(self.last.link_tx_packets, raw.link_tx_packets),
            ..raw
        };
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(packets: u64, bytes: u64) -> PeerStats {
        PeerStats { link_tx_packets: packets, link_tx_bytes: bytes, ..PeerStats::default() }
    }

    fn received(packets: u64, bytes: u64) -> PeerStats {
        PeerStats { link_rx_packets: packets, link_rx_bytes: bytes, ..PeerStats::default() }
    }

    const ONE: KeyId = KeyId::FIRST.next();

    #[test]
    fn limits() {
        let gcm = Cipher::Aes256Gcm;
        let chacha = Cipher::ChaCha20Poly1305;
        let terabyte = 1 << 40;
        for (cipher, stats, expected) in [
            (gcm, sent(PACKETS - 1, 0), None),
            (gcm, sent(PACKETS, 0), Some(KeyId::FIRST)),
            (chacha, sent(PACKETS, 0), Some(KeyId::FIRST)),
            // 0.9 TB in 64-byte packets or in large ones
            (gcm, sent(1 << 30, terabyte / 10 * 8), None),
            (gcm, sent(1 << 30, terabyte / 10 * 9), Some(KeyId::FIRST)),
            (chacha, sent(1 << 30, terabyte / 10 * 9), None),
            (gcm, received(1 << 30, terabyte / 10 * 9), Some(KeyId::FIRST)),
            // The packet id only counts what we send.
            (gcm, received(PACKETS, 0), None),
        ] {
            let mut usage = KeyUsage::default();
            usage.installed(KeyId::FIRST, cipher, PeerStats::default());
            assert_eq!(usage.check(stats), expected, "{cipher} {stats:?}");
            assert_eq!(usage.check(stats), None, "told once");
        }
    }

    #[test]
    fn a_promotion_starts_a_new_count() {
        let mut usage = KeyUsage::default();
        usage.installed(KeyId::FIRST, Cipher::Aes128Gcm, PeerStats::default());
        usage.installed(ONE, Cipher::Aes128Gcm, sent(10, 10));
        usage.promoted(ONE, sent(1000, 1000)).unwrap();
        assert_eq!(usage.check(sent(PACKETS + 999, 1000)), None);
        assert_eq!(usage.check(sent(PACKETS + 1000, 1000)), Some(ONE));
        assert_eq!(usage.retired(ONE), Some(KeySlot::Primary));
        assert_eq!(usage.check(sent(u64::MAX, u64::MAX)), None, "no key encrypts");
    }

    #[test]
    fn the_kernels_own_word_counts_once() {
        let mut usage = KeyUsage::default();
        assert!(!usage.exhausted(KeyId::FIRST));
        usage.installed(ONE, Cipher::Aes128Gcm, PeerStats::default());
        assert!(!usage.exhausted(KeyId::FIRST), "an older key");
        assert!(usage.exhausted(ONE));
        assert!(!usage.exhausted(ONE));
        assert_eq!(usage.check(sent(u64::MAX, 0)), None, "told already");
    }

    #[test]
    fn wrapping_counters() {
        let mut unwrap = Unwrap::default();
        let max = u64::from(u32::MAX);
        for (raw, expected) in [(5, 5), (max, max), (3, max + 4), (3, max + 4), (2, 2 * max + 4)] {
            let stats = unwrap.extend(sent(raw, 7));
            assert_eq!((stats.link_tx_packets, stats.link_tx_bytes), (expected, 7));
        }
    }
}
