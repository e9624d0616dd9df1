//! The replay window: ids in any order, with pauses, against everything accepted so far.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use ovpn_dco::replay::{EXPIRY, Refused, Window};

/// Input: the window's size in words of 64 ids; then for each packet what to do (one byte) and how
/// far its id is from the highest (three bytes, signed).
pub fn run(data: &[u8]) {
    let Some((&words, packets)) = data.split_first() else {
        return;
    };
    let size = 64 * (u64::from(words) + 1);
    let mut window = Window::new(size, EXPIRY);
    let mut accepted = HashSet::new();
    let (mut highest, mut expired) = (0u64, 0u64);
    let (mut now, mut last) = (Instant::now(), None);
    for &[what, a, b, c] in packets.as_chunks::<4>().0 {
        now += match what & 7 {
            0 => EXPIRY,
            1 => EXPIRY - Duration::from_millis(1),
            2 => Duration::from_millis(1),
            _ => Duration::ZERO,
        };
        if last.is_some_and(|last| now - last >= EXPIRY) {
            expired = highest;
        }
        let id = highest.saturating_add_signed(i64::from(i32::from_be_bytes([a, b, c, 0]) >> 8));
        let expected = match id {
            0 => Err(Refused::Invalid),
            _ if id > highest => Ok(()),
            _ if highest - id >= size => Err(Refused::Backtrack),
            _ if id <= expired => Err(Refused::Expired),
            _ if accepted.contains(&id) => Err(Refused::Replay),
            _ => Ok(()),
        };
        assert_eq!(window.check(id, now), expected, "id {id}, highest {highest}");
        // Not every packet proves authentic.
        if expected.is_ok() && what & 8 == 0 {
            window.accept(id, now);
            assert!(window.check(id, now).is_err(), "id {id} twice");
            accepted.insert(id);
            highest = highest.max(id);
            last = Some(now);
        }
    }
}
