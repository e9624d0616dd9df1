//! Packets that came before their key. A server may use a new key from the moment it has sent its
//! part of the key exchange, so the first packets arrive right behind the control packet from which
//! the key still has to be made.

use std::ops::Range;
use std::time::{Duration, Instant};

/// Limits: what a fast link brings while a key is being made.
const PACKETS: usize = 1024;
const BYTES: usize = 2 * 1024 * 1024;
/// A key that has not come by then will not come: the packets are of one long gone, or of nobody.
const PATIENCE: Duration = Duration::from_secs(2);

/// Sealed packets, one behind the other, and where each is.
#[derive(Debug, Default)]
pub(crate) struct Early {
    slab: Vec<u8>,
    packets: Vec<Range<usize>>,
    since: Option<Instant>,
}

impl Early {
    /// Keeps a packet, unless there are too many already.
    pub(crate) fn push(&mut self, packet: &[u8], now: Instant) {
        if self.since.is_some_and(|since| now.duration_since(since) > PATIENCE) {
            *self = Self::default();
        }
        if self.packets.len() < PACKETS && self.slab.len() + packet.len() <= BYTES {
            let start = self.slab.len();
            self.slab.extend_from_slice(packet);
            self.packets.push(start..self.slab.len());
            self.since.get_or_insert(now);
        }
    }

    /// Hands over what is kept.
    pub(crate) fn take(&mut self, now: Instant) -> (Vec<u8>, Vec<Range<usize>>) {
        let Self { slab, packets, since } = std::mem::take(self);
        if since.is_some_and(|since| now.duration_since(since) > PATIENCE) {
            return (Vec::new(), Vec::new());
        }
        (slab, packets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_packets_apart_and_in_order() {
        let (mut early, now) = (Early::default(), Instant::now());
        early.push(b"one", now);
        early.push(b"three", now);
        let (slab, packets) = early.take(now);
        let texts: Vec<_> = packets.into_iter().map(|place| &slab[place]).collect();
        assert_eq!(texts, [&b"one"[..], b"three"]);
        assert!(early.take(now).1.is_empty());
    }

    #[test]
    fn is_bounded() {
        let (mut early, now) = (Early::default(), Instant::now());
        for _ in 0..PACKETS + 5 {
            early.push(b"x", now);
        }
        assert_eq!(early.take(now).1.len(), PACKETS);
        for _ in 0..5 {
            early.push(&vec![0; BYTES / 2], now);
        }
        assert_eq!(early.take(now).1.len(), 2);
    }

    #[test]
    fn forgets() {
        let (mut early, now) = (Early::default(), Instant::now());
        let later = now + PATIENCE + Duration::from_millis(1);
        early.push(b"old", now);
        early.push(b"new", later);
        let (bytes, packets) = early.take(later);
        assert_eq!(bytes, b"new");
        assert!(matches!(packets.as_slice(), [range] if *range == (0..3)));
        early.push(b"old", now);
        assert!(early.take(later).1.is_empty());
    }
}
