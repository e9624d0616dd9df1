//! Replay ids of wrapped packets: an ever growing counter and the time it was started.
//!
//! Rules: OpenVPN 2 `packet_id.c`, OpenVPN 3 `crypto/packet_id_control.hpp`.

use std::time::{Duration, Instant};

use ovpn_dco::replay::{Refused, Window};

/// Bytes on the wire: counter and unix time, 32 bits each.
pub(super) const REPLAY_ID_LEN: usize = 8;

/// The replay id of one packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplayId {
    /// Starts at 1, grows with each packet.
    pub counter: u32,
    /// Unix time when the counter started.
    pub time: u32,
}

impl ReplayId {
    /// The bytes.
    pub fn encode(self) -> [u8; REPLAY_ID_LEN] {
        (u64::from(self.counter) << 32 | u64::from(self.time)).to_be_bytes()
    }

    /// Reads the bytes.
    pub fn decode(bytes: [u8; REPLAY_ID_LEN]) -> Self {
        let word = u64::from_be_bytes(bytes);
        Self { counter: (word >> 32) as u32, time: word as u32 }
    }
}

/// Numbers outgoing packets.
#[derive(Debug)]
pub struct ReplaySender {
    counter: u32,
    time: Option<u32>,
}

impl ReplaySender {
    /// `counter` is incremented before use: 0 for everything but tls-crypt-v2's first hello.
    pub const fn new(counter: u32) -> Self {
        Self { counter, time: None }
    }

    /// The next id. `None` when the counter is used up and the clock has not moved since it
    /// started, so that no fresh id exists.
    pub fn next(&mut self, unix_time: u32) -> Option<ReplayId> {
        let time = *self.time.get_or_insert(unix_time);
        if let Some(counter) = self.counter.checked_add(1) {
            self.counter = counter;
            return Some(ReplayId { counter, time });
        }
        if unix_time <= time {
            return None;
        }
        self.time = Some(unix_time);
        self.counter = 1;
        Some(ReplayId { counter: 1, time: unix_time })
    }
}

/// Why a replay id is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReplayError {
    /// The counter.
    #[error(transparent)]
    Counter(#[from] Refused),
    /// The sender's time went back.
    #[error("the sender's replay time went back")]
    TimeBacktrack,
}

/// Which packets of a peer have been seen.
#[derive(Debug)]
pub struct ReplayWindow {
    /// The counters of `time`.
    counters: Window,
    /// `None` before the first packet.
    time: Option<u32>,
}

impl ReplayWindow {
    /// Remembers `size` ids; those that a newer one overtook are refused once nothing came for
    /// `expiry`.
    pub fn new(size: usize, expiry: Duration) -> Self {
        Self { counters: Window::new(size as u64, expiry), time: None }
    }

    /// Accepts an authentic packet's id, once.
    pub fn accept(&mut self, id: ReplayId, now: Instant) -> Result<(), ReplayError> {
        match self.time {
            Some(time) if id.time < time => return Err(ReplayError::TimeBacktrack),
            Some(time) if id.time == time => {}
            _ if id.counter == 0 => return Err(Refused::Invalid.into()),
            _ => {
                self.time = Some(id.time);
                self.counters.clear();
            }
        }
        let counter = u64::from(id.counter);
        self.counters.check(counter, now)?;
        self.counters.accept(counter, now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::ReplayError::TimeBacktrack;
    use super::*;

    const BACKTRACK: ReplayError = ReplayError::Counter(Refused::Backtrack);
    const EXPIRED: ReplayError = ReplayError::Counter(Refused::Expired);
    const INVALID: ReplayError = ReplayError::Counter(Refused::Invalid);
    const REPLAY: ReplayError = ReplayError::Counter(Refused::Replay);

    struct Clocked {
        window: ReplayWindow,
        start: Instant,
    }

    impl Clocked {
        fn new() -> Self {
            Self { window: ReplayWindow::new(64, Duration::from_secs(5)), start: Instant::now() }
        }

        fn check(&mut self, at: u64, time: u32, counter: u32, expected: Result<(), ReplayError>) {
            let now = self.start + Duration::from_secs(at);
            let result = self.window.accept(ReplayId { counter, time }, now);
            assert_eq!(result, expected, "at {at}: {time} {counter:x}");
        }
    }

    /// OpenVPN 3 `test_pktid_control.cpp`.
    #[test]
    fn upstream_window() {
        let mut w = Clocked::new();
        for (at, counter, expected) in [
            (0, 0, Err(INVALID)),
            (1, 1, Ok(())),
            (1, 1, Err(REPLAY)),
            (2, 2, Ok(())),
            (3, 4, Ok(())),
            (4, 1, Err(REPLAY)),
            (5, 3, Ok(())),
            (6, 8, Ok(())),
            (10, 5, Ok(())),
            (15, 7, Err(EXPIRED)),
            (20, 127, Ok(())),
            (20, 127, Err(REPLAY)),
            (21, 128, Ok(())),
            (22, 64, Err(BACKTRACK)),
            (23, 65, Ok(())),
            (24, 66, Ok(())),
            (30, 0, Err(INVALID)),
            (33, 3, Err(BACKTRACK)),
            (40, 0xffff_fffe, Ok(())),
            (41, 0xffff_ffff, Ok(())),
        ] {
            w.check(at, 0, counter, expected);
        }
        for (at, time, counter, expected) in [
            (41, 10, 0, Err(INVALID)),
            (41, 10, 2, Ok(())),
            (41, 10, 1, Ok(())),
            (41, 9, 3, Err(TimeBacktrack)),
            (41, 0, 3, Err(TimeBacktrack)),
            (41, 10, 0xffff_fffe, Ok(())),
            (41, 10, 0xffff_ffff, Ok(())),
            (41, 10, 0, Err(INVALID)),
            (42, 11, 1, Ok(())),
            (42, 11, 2, Ok(())),
            (42, 11, 3, Ok(())),
            (42, 11, 3, Err(REPLAY)),
            (42, 11, 10, Ok(())),
            (42, 11, 9, Ok(())),
            (42, 11, 1, Err(REPLAY)),
            (42, 11, 8, Ok(())),
            (42, 11, 4, Ok(())),
            (47, 11, 5, Err(EXPIRED)),
        ] {
            w.check(at, time, counter, expected);
        }
    }

    /// OpenVPN 2 `test_packet_id.c`.
    #[test]
    fn sender_wraps_only_when_the_clock_moved() {
        let mut sender = ReplaySender::new(0);
        let first = sender.next(7).unwrap();
        assert_eq!(hex::encode(first.encode()), "0000000100000007");
        assert_eq!(sender.next(9).unwrap(), ReplayId { counter: 2, time: 7 });

        let mut sender = ReplaySender { counter: u32::MAX, time: Some(7) };
        assert_eq!(sender.next(7), None);
        assert_eq!(sender.next(8), Some(ReplayId { counter: 1, time: 8 }));
    }

    #[test]
    fn any_first_packet_sets_the_base() {
        let mut w = Clocked::new();
        w.check(0, 5, 0x0f00_0001, Ok(()));
        w.check(0, 5, 0x0f00_0001, Err(REPLAY));
        w.check(0, 5, 1, Err(BACKTRACK));
    }
}
