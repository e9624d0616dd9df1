//! Ordered, complete delivery of the messages of one key over a lossy transport.
//!
//! Decides what is sent again and when, what is acknowledged, and in which order messages are
//! delivered. Knows nothing of wrapping or TLS. Role-neutral. Facts: OpenVPN 2 `reliable.c`.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::packet::{AckList, MAX_ACKS, Opcode};

/// Messages in flight.
pub const SEND_WINDOW: u32 = 6;

/// Message ids accepted from the next expected one on.
pub const RECEIVE_WINDOW: u32 = 12;

/// Acknowledgements of this many later messages mean that a message is lost.
const EARLY_RETRANSMIT_ACKS: u32 = 3;

/// The retransmission interval doubles up to this many times the first one: with a handshake
/// window of a minute, waiting longer than a few intervals only makes recovery less likely.
const BACKOFF_LIMIT: u32 = 4;

/// Acknowledgements waiting to be sent, at most. Beyond it the oldest is forgotten: its message
/// comes again.
const MAX_PENDING_ACKS: usize = 32;

/// Both directions of one key's message stream.
#[derive(Debug)]
pub struct Reliability {
    send: SendWindow,
    receive: ReceiveWindow,
    acks: Acks,
}

/// What became of a received message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Received {
    /// New; delivered by [`Reliability::deliver`] when its turn comes.
    Stored,
    /// Known already; acknowledged again.
    Duplicate,
    /// Too far ahead; not acknowledged.
    OutOfWindow,
}

/// A message to transmit now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transmission<'a> {
    /// Opcode it was queued with.
    pub opcode: Opcode,
    /// Its id.
    pub message_id: u32,
    /// Its payload.
    pub payload: &'a [u8],
    /// Sent before.
    pub again: bool,
}

impl Reliability {
    /// `retransmit`: the first interval; `None` on a reliable transport.
    pub const fn new(retransmit: Option<Duration>) -> Self {
        Self {
            send: SendWindow { retransmit, next_id: 0, in_flight: VecDeque::new() },
            receive: ReceiveWindow { next: 0, stored: VecDeque::new() },
            acks: Acks { pending: VecDeque::new(), recent: Vec::new() },
        }
    }

    /// Room for another message.
    pub fn can_queue(&self) -> bool {
        self.send.free() > 0
    }

    /// The id that the next queued message gets.
    pub const fn next_id(&self) -> u32 {
        self.send.next_id
    }

    /// Queues a message; call [`Self::can_queue`] before. Returns false if the window is full.
    pub fn queue(&mut self, opcode: Opcode, payload: Vec<u8>) -> bool {
        self.send.queue(opcode, payload)
    }

    /// Applies received acknowledgements; ids that are not in flight are ignored.
    pub fn acknowledged(&mut self, ids: &[u32]) {
        for id in ids {
            self.send.acknowledged(*id);
        }
    }

    /// Everything queued was acknowledged.
    pub fn all_acknowledged(&self) -> bool {
        self.send.in_flight.is_empty()
    }

    /// Takes in a message.
    pub fn receive(&mut self, message_id: u32, opcode: Opcode, payload: &[u8]) -> Received {
        let result = self.receive.receive(message_id, opcode, payload);
        if result != Received::OutOfWindow {
            self.acks.queue(message_id);
        }
        result
    }

    /// The next message in order, once.
    pub fn deliver(&mut self) -> Option<(Opcode, Vec<u8>)> {
        self.receive.deliver()
    }

    /// Acknowledgements wait to be sent.
    pub fn acks_pending(&self) -> bool {
        !self.acks.pending.is_empty()
    }

    /// New acknowledgements first, repeats of recent ones in the remaining space.
    pub fn take_acks(&mut self, max: usize) -> AckList {
        self.acks.take(max)
    }

    /// Something is due for transmission at `now`.
    pub fn is_due(&self, now: Instant) -> bool {
        self.send.in_flight.iter().any(|m| m.is_due(now))
    }

    /// The first due message, which counts as transmitted.
    pub fn transmit(&mut self, now: Instant) -> Option<Transmission<'_>> {
        self.send.transmit(now)
    }

    /// From now on every message goes out once at most.
    pub fn stop_retransmitting(&mut self) {
        self.send.retransmit = None;
        for message in &mut self.send.in_flight {
            message.next_try = None;
        }
    }

    /// Earliest time at which something becomes due; `None` if nothing does by itself.
    /// Messages that are due already are not counted.
    pub fn deadline(&self) -> Option<Instant> {
        self.send.in_flight.iter().filter_map(|m| m.next_try).min()
    }

    /// Most transmissions of any message in flight. For tests.
    #[cfg(feature = "internals")]
    pub fn transmissions(&self) -> u32 {
        self.send.in_flight.iter().map(|m| m.transmissions).max().unwrap_or(0)
    }
}

#[derive(Debug)]
struct SendWindow {
    retransmit: Option<Duration>,
    next_id: u32,
    /// Unacknowledged messages, oldest first.
    in_flight: VecDeque<Outgoing>,
}

#[derive(Debug)]
struct Outgoing {
    id: u32,
    opcode: Opcode,
    payload: Vec<u8>,
    transmissions: u32,
    /// `None`: at once if never transmitted, else never.
    next_try: Option<Instant>,
    interval: Duration,
    /// Later messages acknowledged since the last transmission.
    overtaken: u32,
}

impl Outgoing {
    fn is_due(&self, now: Instant) -> bool {
        self.transmissions == 0
            || self.next_try.is_some_and(|at| at <= now || self.overtaken >= EARLY_RETRANSMIT_ACKS)
    }
}

impl SendWindow {
    fn free(&self) -> u32 {
        let used = self.in_flight.front().map_or(0, |oldest| self.next_id.wrapping_sub(oldest.id));
        SEND_WINDOW.saturating_sub(used)
    }

    fn queue(&mut self, opcode: Opcode, payload: Vec<u8>) -> bool {
        if self.free() == 0 {
            return false;
        }
        self.in_flight.push_back(Outgoing {
            id: self.next_id,
            opcode,
            payload,
            transmissions: 0,
            next_try: None,
            interval: self.retransmit.unwrap_or_default(),
            overtaken: 0,
        });
        self.next_id = self.next_id.wrapping_add(1);
        true
    }

    fn acknowledged(&mut self, id: u32) {
        let Some(index) = self.in_flight.iter().position(|m| m.id == id && m.transmissions > 0)
        else {
            return;
        };
        self.in_flight.remove(index);
        for earlier in self.in_flight.iter_mut().take(index) {
            earlier.overtaken += 1;
        }
    }

    fn transmit(&mut self, now: Instant) -> Option<Transmission<'_>> {
        let retransmit = self.retransmit;
        let message = self.in_flight.iter_mut().find(|m| m.is_due(now))?;
        let again = message.transmissions > 0;
        message.transmissions += 1;
        message.overtaken = 0;
        if let Some(first) = retransmit {
            message.next_try = now.checked_add(message.interval);
            message.interval = (message.interval * 2).min(first * BACKOFF_LIMIT);
        }
        Some(Transmission {
            opcode: message.opcode,
            message_id: message.id,
            payload: &message.payload,
            again,
        })
    }
}

#[derive(Debug)]
struct ReceiveWindow {
    /// Next id to deliver.
    next: u32,
    /// Slot `i` holds message `next + i`; never longer than the window.
    stored: VecDeque<Option<(Opcode, Vec<u8>)>>,
}

impl ReceiveWindow {
    fn receive(&mut self, id: u32, opcode: Opcode, payload: &[u8]) -> Received {
        let ahead = id.wrapping_sub(self.next);
        if ahead >= RECEIVE_WINDOW {
            // Half of the number space counts as the past.
            return if ahead > u32::MAX / 2 { Received::Duplicate } else { Received::OutOfWindow };
        }
        let index = ahead as usize;
        if self.stored.len() <= index {
            self.stored.resize(index + 1, None);
        }
        match self.stored.get_mut(index) {
            Some(slot @ None) => {
                *slot = Some((opcode, payload.to_vec()));
                Received::Stored
            }
            _ => Received::Duplicate,
        }
    }

    fn deliver(&mut self) -> Option<(Opcode, Vec<u8>)> {
        self.stored.front()?.as_ref()?;
        self.next = self.next.wrapping_add(1);
        self.stored.pop_front().flatten()
    }
}

#[derive(Debug)]
struct Acks {
    pending: VecDeque<u32>,
    /// Sent before, the latest first; repeated while there is room, because a lost
    /// acknowledgement costs a whole retransmission interval.
    recent: Vec<u32>,
}

impl Acks {
    fn queue(&mut self, id: u32) {
        if self.pending.contains(&id) {
            return;
        }
        if self.pending.len() == MAX_PENDING_ACKS {
            self.pending.pop_front();
        }
        self.pending.push_back(id);
    }

    fn take(&mut self, max: usize) -> AckList {
        let new: Vec<u32> = self.pending.drain(..max.min(self.pending.len())).collect();
        for id in new.iter().rev() {
            self.recent.retain(|r| r != id);
            self.recent.insert(0, *id);
        }
        self.recent.truncate(MAX_ACKS);
        AckList::from_slice(self.recent.get(..max.min(self.recent.len())).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_secs(2);

    fn sent(r: &mut Reliability, now: Instant) -> Vec<u32> {
        std::iter::from_fn(|| r.transmit(now).map(|t| t.message_id)).collect()
    }

    fn queue(r: &mut Reliability, count: u32) {
        for _ in 0..count {
            assert!(r.queue(Opcode::ControlV1, vec![1]));
        }
    }

    /// OpenVPN 2 `test_packet_id.c`.
    #[test]
    fn recent_acks_in_upstream_order() {
        let mut acks = Acks { pending: VecDeque::new(), recent: Vec::new() };
        for id in [2, 1, 3, 2] {
            acks.queue(id);
        }
        assert_eq!(acks.take(8).as_slice(), [2, 1, 3]);
        for id in 5..=11 {
            acks.queue(id);
        }
        assert_eq!(acks.take(8).as_slice(), [5, 6, 7, 8, 9, 10, 11, 2]);
        assert_eq!(acks.take(4).as_slice(), [5, 6, 7, 8]);
        acks.queue(2);
        assert_eq!(acks.take(4).as_slice(), [2, 5, 6, 7]);
    }

    /// OpenVPN 2 `test_packet_id.c`, scaled to our window of 6.
    #[test]
    fn send_window_counts_from_the_oldest() {
        let mut w =
            SendWindow { retransmit: None, next_id: 0xffff_fffc, in_flight: VecDeque::new() };
        for free in (0..SEND_WINDOW).rev() {
            assert!(w.queue(Opcode::ControlV1, Vec::new()));
            assert_eq!(w.free(), free);
        }
        assert!(!w.queue(Opcode::ControlV1, Vec::new()));
        while w.transmit(Instant::now()).is_some() {}
        w.acknowledged(0xffff_fffd);
        assert_eq!(w.free(), 0, "the oldest is still in flight");
        w.acknowledged(0xffff_fffc);
        assert_eq!(w.free(), 2);
    }

    #[test]
    fn backoff_is_capped() {
        let start = Instant::now();
        let mut r = Reliability::new(Some(STEP));
        queue(&mut r, 1);
        let mut at = start;
        let mut gaps = Vec::new();
        for _ in 0..6 {
            assert_eq!(sent(&mut r, at), [0]);
            let next = r.deadline().unwrap();
            gaps.push((next - at).as_secs());
            at = next;
        }
        assert_eq!(gaps, [2, 4, 8, 8, 8, 8]);
        r.acknowledged(&[0]);
        assert_eq!(r.deadline(), None);
        assert!(r.all_acknowledged());
    }

    #[test]
    fn three_later_acks_retransmit_early() {
        let now = Instant::now();
        let mut r = Reliability::new(Some(STEP));
        queue(&mut r, 5);
        assert_eq!(sent(&mut r, now), [0, 1, 2, 3, 4]);
        r.acknowledged(&[2, 3]);
        assert_eq!(sent(&mut r, now), [0_u32; 0]);
        r.acknowledged(&[4, 4, 4, 77]);
        assert_eq!(sent(&mut r, now), [0, 1]);
        assert_eq!(sent(&mut r, now), [0_u32; 0]);
    }

    #[test]
    fn a_reliable_transport_never_retransmits() {
        let now = Instant::now();
        let mut r = Reliability::new(None);
        queue(&mut r, 5);
        assert_eq!(sent(&mut r, now), [0, 1, 2, 3, 4]);
        r.acknowledged(&[1, 2, 3, 4]);
        assert_eq!(r.deadline(), None);
        assert_eq!(sent(&mut r, now + Duration::from_secs(1000)), [0_u32; 0]);
    }

    #[test]
    fn acks_for_messages_never_sent_do_nothing() {
        let mut r = Reliability::new(Some(STEP));
        queue(&mut r, 1);
        r.acknowledged(&[0, 1, u32::MAX]);
        assert!(!r.all_acknowledged());
    }

    #[test]
    fn delivery_is_ordered_and_bounded() {
        let mut r = Reliability::new(Some(STEP));
        let payload = |id: u32| id.to_be_bytes();
        assert_eq!(r.receive(2, Opcode::ControlV1, &payload(2)), Received::Stored);
        assert_eq!(r.receive(2, Opcode::ControlV1, &payload(9)), Received::Duplicate);
        assert_eq!(r.receive(12, Opcode::ControlV1, &payload(12)), Received::OutOfWindow);
        assert_eq!(r.deliver(), None);
        assert_eq!(r.receive(0, Opcode::SoftResetV1, &payload(0)), Received::Stored);
        assert_eq!(r.deliver(), Some((Opcode::SoftResetV1, payload(0).to_vec())));
        assert_eq!(r.deliver(), None);
        assert_eq!(r.receive(0, Opcode::SoftResetV1, &payload(0)), Received::Duplicate);
        assert_eq!(r.receive(1, Opcode::ControlV1, &payload(1)), Received::Stored);
        assert_eq!(r.deliver(), Some((Opcode::ControlV1, payload(1).to_vec())));
        assert_eq!(r.deliver(), Some((Opcode::ControlV1, payload(2).to_vec())));
        assert_eq!(r.take_acks(8).as_slice(), [2, 0, 1]);
        assert_eq!(r.receive(u32::MAX, Opcode::ControlV1, &[]), Received::Duplicate);
    }

    #[test]
    fn pending_acks_are_bounded() {
        let mut r = Reliability::new(Some(STEP));
        for id in 0..1000 {
            r.receive(id, Opcode::ControlV1, &[]);
            r.deliver();
        }
        let mut count = 0;
        while r.acks_pending() {
            r.take_acks(8);
            count += 1;
        }
        assert_eq!(count, 4);
    }
}
