//! One direction of a simulated network. Everything it does follows from its seed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// What one direction does to packets. A rate of `n` means one packet in `n`; 0 means none.
#[derive(Clone, Debug)]
pub struct Conditions {
    /// Every packet's way.
    pub latency: Duration,
    /// Delay several other packets' worth.
    pub reorder: u32,
    /// Lose.
    pub drop: u32,
    /// Overwrite one byte.
    pub corrupt: u32,
    /// Deliver twice.
    pub duplicate: u32,
    /// Lose longer packets.
    pub mtu: usize,
    /// Lose everything between these times since the start.
    pub blackouts: Vec<(Duration, Duration)>,
    /// A corrupted datagram fails its UDP checksum: it is lost. The only protection of packets
    /// without wrapping.
    pub checksum: bool,
}

impl Conditions {
    /// Nothing happens to packets.
    pub fn perfect() -> Self {
        Self {
            latency: Duration::from_millis(20),
            reorder: 0,
            drop: 0,
            corrupt: 0,
            duplicate: 0,
            mtu: usize::MAX,
            blackouts: Vec::new(),
            checksum: false,
        }
    }

    /// The rates of OpenVPN 3 Core's own stress test, and duplicates.
    pub fn stress() -> Self {
        Self { reorder: 8, drop: 16, corrupt: 32, duplicate: 32, ..Self::perfect() }
    }
}

/// Packets on their way, in order of arrival.
pub struct Link {
    /// What happens to packets from now on.
    pub conditions: Conditions,
    rng: StdRng,
    start: Instant,
    sequence: u64,
    flying: BinaryHeap<Reverse<(Instant, u64, Vec<u8>)>>,
    /// Packets that were not delivered as they were sent.
    pub harmed: u64,
}

impl Link {
    /// An empty link. Blackouts count from `start`.
    pub fn new(conditions: Conditions, seed: u64, start: Instant) -> Self {
        let rng = StdRng::seed_from_u64(seed);
        Self { conditions, rng, start, sequence: 0, flying: BinaryHeap::new(), harmed: 0 }
    }

    /// Puts a packet on its way.
    pub fn send(&mut self, mut packet: Vec<u8>, now: Instant) {
        let c = self.conditions.clone();
        let elapsed = now - self.start;
        let dark = c.blackouts.iter().any(|(from, to)| (*from..*to).contains(&elapsed));
        if dark || packet.len() > c.mtu || self.hits(c.drop) {
            self.harmed += 1;
            return;
        }
        if self.hits(c.corrupt) {
            self.harmed += 1;
            if c.checksum {
                return;
            }
            let index = self.rng.random_range(0..packet.len());
            packet[index] ^= self.rng.random_range(1..=255);
        }
        let copies = if self.hits(c.duplicate) { 2 } else { 1 };
        for _ in 0..copies {
            let late = if self.hits(c.reorder) {
                c.latency * self.rng.random_range(1..5)
            } else {
                Duration::ZERO
            };
            self.sequence += 1;
            self.flying.push(Reverse((now + c.latency + late, self.sequence, packet.clone())));
        }
    }

    /// When the next packet arrives.
    pub fn next_arrival(&self) -> Option<Instant> {
        self.flying.peek().map(|Reverse((at, ..))| *at)
    }

    /// The next packet, if it has arrived.
    pub fn receive(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.next_arrival()? > now {
            return None;
        }
        self.flying.pop().map(|Reverse((_, _, packet))| packet)
    }

    fn hits(&mut self, rate: u32) -> bool {
        rate > 0 && self.rng.random_range(0..rate) == 0
    }
}
