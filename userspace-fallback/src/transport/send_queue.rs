//! Datagrams on their way out: gathered into batches that one call can send, sent in whatever way
//! the kernel, the device and the path allow.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use crate::stats::Counters;
use crate::sys;
use crate::sys::udp::{send_many, send_segments};

/// Most bytes in one send. The whole packet with all headers has to stay below 65,536 bytes: the
/// stack cuts anything larger before the device sees it, and nothing downstream is batched.
const BUDGET: usize = 65_000;
/// Most datagrams in one send (`UDP_MAX_SEGMENTS`; newer kernels allow 128).
const MAX_SEGMENTS: usize = 64;
/// Largest datagram that fits IPv4.
pub(super) const MAX_DATAGRAM: usize = 65_507;
/// How long a segment size that the path refused is not tried again.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// Where datagrams go: a connected UDP socket, or a test's imitation.
pub(super) trait Outlet {
    /// Sends datagrams of `segment` bytes each, the last maybe shorter; all or nothing.
    fn send_segments(&self, data: &[u8], segment: u16) -> io::Result<()>;

    /// Sends datagrams one by one, and tells how many: at least one, or why not the first.
    fn send_many(&self, data: &[u8], segment: usize) -> io::Result<usize>;

    /// The path's MTU, 0 when it is not known.
    fn path_mtu(&self) -> usize;

    /// The time.
    fn now(&self) -> Instant;
}

impl Outlet for BorrowedFd<'_> {
    fn send_segments(&self, data: &[u8], segment: u16) -> io::Result<()> {
        send_segments(*self, data, segment)
    }

    fn send_many(&self, data: &[u8], segment: usize) -> io::Result<usize> {
        send_many(*self, data.chunks(segment))
    }

    fn path_mtu(&self) -> usize {
        sys::path_mtu(*self).unwrap_or(0)
    }

    fn now(&self) -> Instant {
        Instant::now()
    }
}

/// Datagrams in line to be sent with one call: equal lengths, the last maybe shorter.
pub(super) struct SendQueue {
    buffer: Box<[u8]>,
    /// Bytes in line, and how many of them were sent.
    len: usize,
    sent: usize,
    /// Length of each datagram but the last.
    segment: usize,
    count: usize,
    /// A shorter one was the last.
    closed: bool,
    gso: Gso,
}

/// Whether and how segmentation offload can be used on this socket.
#[derive(Clone, Copy, Debug)]
enum Gso {
    Off,
    /// Segments up to this many bytes; the limit was learnt at that time.
    UpTo(usize, Instant),
    On,
}

impl SendQueue {
    pub(super) fn new(gso: bool) -> Self {
        Self {
            buffer: vec![0; BUDGET.max(MAX_DATAGRAM)].into(),
            len: 0,
            sent: 0,
            segment: 0,
            count: 0,
            closed: false,
            gso: if gso { Gso::On } else { Gso::Off },
        }
    }

    /// Room for a datagram of `len` bytes, at most [`MAX_DATAGRAM`]; sends what is in the way.
    /// `None`: the socket takes nothing now.
    #[inline]
    pub(super) fn reserve(
        &mut self,
        len: usize,
        outlet: &impl Outlet,
        counters: &mut Counters,
    ) -> Option<&mut [u8]> {
        if !self.has_room(len) && !self.flush(outlet, counters) {
            return None;
        }
        self.buffer.get_mut(self.len..self.len + len)
    }

    /// Puts the datagram that was written to the last reserved place in line.
    #[inline]
    pub(super) fn commit(&mut self, len: usize) {
        if self.count == 0 {
            self.segment = len;
        }
        self.len += len;
        self.count += 1;
        self.closed = len < self.segment;
    }

    /// Sends everything in line. `false`: the socket takes nothing now.
    pub(super) fn flush(&mut self, outlet: &impl Outlet, counters: &mut Counters) -> bool {
        while self.sent < self.len {
            if !self.send_some(outlet, counters) {
                return false;
            }
        }
        self.reset();
        true
    }

    #[inline]
    fn has_room(&self, len: usize) -> bool {
        if self.count == 0 {
            return true;
        }
        !self.closed
            && len <= self.segment
            && self.sent == 0
            && self.count < MAX_SEGMENTS
            && self.len + len <= BUDGET
    }

    fn reset(&mut self) {
        self.len = 0;
        self.sent = 0;
        self.count = 0;
        self.closed = false;
    }

    /// Sends as much as one call can. `false`: the socket takes nothing now.
    fn send_some(&mut self, outlet: &impl Outlet, counters: &mut Counters) -> bool {
        let use_gso = self.len - self.sent > self.segment && self.gso_allows(outlet);
        let rest = &self.buffer[self.sent..self.len];
        let result = if use_gso {
            // Bounded by the budget, so it fits.
            outlet.send_segments(rest, self.segment as u16).map(|()| rest.len())
        } else {
            outlet.send_many(rest, self.segment).map(|count| (count * self.segment).min(rest.len()))
        };
        match result {
            Ok(len) => {
                counters.sends += 1;
                counters.sent_packets += len.div_ceil(self.segment) as u64;
                self.sent += len;
            }
            Err(error) => return self.failed(&error, use_gso, outlet, counters),
        }
        true
    }

    fn gso_allows(&mut self, outlet: &impl Outlet) -> bool {
        match self.gso {
            Gso::Off => false,
            Gso::On => true,
            Gso::UpTo(_, since) if outlet.now().saturating_duration_since(since) >= RETRY_AFTER => {
                self.gso = Gso::On;
                true
            }
            Gso::UpTo(limit, _) => self.segment <= limit,
        }
    }

    /// What to do about a failed send: try the same again in another way, or drop a datagram as
    /// the network would.
    #[cold]
    fn failed(
        &mut self,
        error: &io::Error,
        used_gso: bool,
        outlet: &impl Outlet,
        counters: &mut Counters,
    ) -> bool {
        match error.raw_os_error() {
            Some(libc::EAGAIN) => return false,
            Some(libc::EINTR) => {}
            // The answer to an earlier datagram, told now; nothing was sent, and the error is
            // cleared by telling it.
            Some(libc::ECONNREFUSED) => counters.send_refused += 1,
            Some(code @ (libc::EIO | libc::EINVAL | libc::EMSGSIZE)) if used_gso => {
                counters.gso_refused += 1;
                self.gso = self.learn(code, outlet);
            }
            _ => {
                counters.send_dropped += 1;
                self.sent = (self.sent + self.segment).min(self.len);
            }
        }
        true
    }

    /// Too large for the path, or a device without offload?
    fn learn(&self, code: i32, outlet: &impl Outlet) -> Gso {
        const IPV6_AND_UDP: usize = 48;
        let mtu = outlet.path_mtu();
        let too_large = code != libc::EIO && self.segment + IPV6_AND_UDP > mtu;
        if too_large {
            tracing::debug!(segment = self.segment, mtu, "datagrams do not fit the path's MTU");
            Gso::UpTo(self.segment - 1, outlet.now())
        } else {
            tracing::info!(code, "UDP segmentation offload is refused; going on without");
            Gso::Off
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use proptest::prelude::*;

    use super::*;

    /// Takes datagrams, and answers each call as a script says.
    #[derive(Default)]
    struct Script {
        /// Answers to come: an errno, or how many datagrams one call of `send_many` takes.
        answers: RefCell<Vec<Result<usize, i32>>>,
        sent: RefCell<Vec<Vec<u8>>>,
        segmented: RefCell<usize>,
        mtu: usize,
        /// How late it is.
        late: Cell<Duration>,
    }

    impl Script {
        fn answer(&self) -> io::Result<usize> {
            let answer = self.answers.borrow_mut().pop().unwrap_or(Ok(usize::MAX));
            answer.map_err(io::Error::from_raw_os_error)
        }
    }

    impl Outlet for Script {
        fn send_segments(&self, data: &[u8], segment: u16) -> io::Result<()> {
            assert!(data.len() <= BUDGET && data.len() > segment.into());
            assert!(data.len().div_ceil(segment.into()) <= MAX_SEGMENTS);
            self.answer()?;
            *self.segmented.borrow_mut() += 1;
            self.sent.borrow_mut().extend(data.chunks(segment.into()).map(<[u8]>::to_vec));
            Ok(())
        }

        fn send_many(&self, data: &[u8], segment: usize) -> io::Result<usize> {
            let count = self.answer()?.clamp(1, data.len().div_ceil(segment)).min(64);
            self.sent.borrow_mut().extend(data.chunks(segment).take(count).map(<[u8]>::to_vec));
            Ok(count)
        }

        fn path_mtu(&self) -> usize {
            self.mtu
        }

        fn now(&self) -> Instant {
            Instant::now() + self.late.get()
        }
    }

    /// Sends datagrams of these lengths; each starts with its number.
    fn send(queue: &mut SendQueue, script: &Script, lengths: &[usize]) -> Counters {
        let mut counters = Counters::default();
        for (number, len) in lengths.iter().enumerate() {
            // Blocked: the worker waits until the socket is writable and tries again.
            let place = loop {
                if queue.reserve(*len, script, &mut counters).is_some() {
                    break queue.reserve(*len, script, &mut counters).unwrap();
                }
            };
            place.fill(0xcc);
            place[..4].copy_from_slice(&(number as u32).to_be_bytes());
            queue.commit(*len);
        }
        while !queue.flush(script, &mut counters) {}
        counters
    }

    fn numbers(script: &Script) -> Vec<u32> {
        let number = |d: &Vec<u8>| u32::from_be_bytes(*d.first_chunk().unwrap());
        script.sent.borrow().iter().map(number).collect()
    }

    fn lengths() -> impl Strategy<Value = Vec<usize>> {
        let len = prop_oneof![8 => Just(1424usize), 2 => Just(76), 2 => 4usize..1500, 1 => 4usize..MAX_DATAGRAM];
        proptest::collection::vec(len, 1..200)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        /// Whatever goes wrong on the way, each datagram is sent once, in order, unchanged.
        #[test]
        fn each_datagram_once_and_in_order(
            lengths in lengths(),
            answers in proptest::collection::vec(prop_oneof![
                Just(Err(libc::EAGAIN)), Just(Err(libc::EINTR)), Just(Err(libc::ECONNREFUSED)),
                (1usize..70).prop_map(Ok), Just(Ok(usize::MAX)),
            ], 0..60),
            refusal in prop_oneof![
                Just(None), Just(Some(libc::EIO)), Just(Some(libc::EINVAL)), Just(Some(libc::EMSGSIZE)),
            ],
            gso: bool,
        ) {
            // A refusal that is not about offload loses its datagram, so it comes only first, when
            // the first call is a segmented one.
            let segmented_first = gso && lengths.len() > 1 && lengths[1] <= lengths[0]
                && lengths[0] + lengths[1] <= BUDGET;
            let refusal = refusal.filter(|_| segmented_first);
            let script = Script { mtu: 1500, ..Script::default() };
            *script.answers.borrow_mut() = answers;
            script.answers.borrow_mut().extend(refusal.map(Err));
            let counters = send(&mut SendQueue::new(gso), &script, &lengths);
            prop_assert_eq!(numbers(&script), (0..lengths.len() as u32).collect::<Vec<_>>());
            let sent: Vec<_> = script.sent.borrow().iter().map(Vec::len).collect();
            prop_assert_eq!(sent, lengths.clone());
            prop_assert_eq!(counters.sent_packets, lengths.len() as u64);
            prop_assert_eq!(counters.gso_refused, u64::from(refusal.is_some()));
            prop_assert_eq!(counters.send_dropped, 0);
        }
    }

    #[test]
    fn batches_are_as_large_as_they_may_be() {
        for (len, count, calls) in
            [(1424, 45, 1), (1424, 46, 2), (76, 64, 1), (76, 65, 2), (1000, 65, 2)]
        {
            let script = Script::default();
            let counters = send(&mut SendQueue::new(true), &script, &vec![len; count]);
            assert_eq!(counters.sends, calls, "{count} of {len} bytes");
        }
    }

    #[test]
    fn only_the_last_may_be_shorter() {
        let script = Script::default();
        let counters = send(&mut SendQueue::new(true), &script, &[100, 100, 50, 100, 150, 100]);
        // 100 100 50 | 100 | 150 100
        assert_eq!((counters.sends, *script.segmented.borrow()), (3, 2));
    }

    #[test]
    fn a_device_without_offload_is_remembered() {
        let script = Script { mtu: 1500, ..Script::default() };
        let mut queue = SendQueue::new(true);
        script.answers.borrow_mut().push(Err(libc::EIO));
        send(&mut queue, &script, &[1424; 10]);
        let counters = send(&mut queue, &script, &[1424; 10]);
        assert_eq!((*script.segmented.borrow(), counters.gso_refused), (0, 0));
        assert_eq!(script.sent.borrow().len(), 20);
    }

    #[test]
    fn a_small_path_mtu_turns_off_only_what_is_too_large() {
        for code in [libc::EMSGSIZE, libc::EINVAL] {
            let script = Script { mtu: 1400, ..Script::default() };
            let mut queue = SendQueue::new(true);
            script.answers.borrow_mut().push(Err(code));
            send(&mut queue, &script, &[1424; 10]);
            send(&mut queue, &script, &[1424; 10]);
            assert_eq!(*script.segmented.borrow(), 0);
            send(&mut queue, &script, &[1300; 10]);
            assert_eq!(*script.segmented.borrow(), 1);
            // Later it is tried again.
            script.late.set(RETRY_AFTER);
            send(&mut queue, &script, &[1424; 10]);
            assert_eq!(*script.segmented.borrow(), 2);
        }
    }

    #[test]
    fn what_the_network_refuses_is_dropped_alone() {
        let script = Script::default();
        *script.answers.borrow_mut() = vec![Err(libc::ENETUNREACH), Ok(2)];
        let counters = send(&mut SendQueue::new(false), &script, &[100; 5]);
        assert_eq!(numbers(&script), [0, 1, 3, 4]);
        assert_eq!(counters.send_dropped, 1);
    }
}
