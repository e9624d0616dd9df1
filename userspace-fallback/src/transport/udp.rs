//! UDP: batches of equal datagrams out, merged datagrams in.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use ovpn_dco::Error;

use super::{Gone, Packet, Received};
use crate::options::Options;
use crate::stats::Counters;
use crate::sys;
use crate::sys::udp::{Slab, send_many, send_segments};

/// Most bytes in one send. The whole packet with all headers has to stay below 65,536 bytes: the
/// stack cuts anything larger before the device sees it, and nothing downstream is batched.
const BUDGET: usize = 65_000;
/// Most datagrams in one send (`UDP_MAX_SEGMENTS`; newer kernels allow 128).
const MAX_SEGMENTS: usize = 64;
/// Largest datagram that fits IPv4.
pub(super) const MAX_DATAGRAM: usize = 65_507;
/// Messages per receive while they are merged datagrams, which bounds how long the other
/// direction waits; single datagrams come in larger batches.
const MERGED_BATCH: usize = 8;
/// Above this average a message counts as merged datagrams.
const MERGED_LEN: usize = 16_384;
/// How long a segment size that the path refused is not tried again.
const RETRY_AFTER: Duration = Duration::from_secs(30);
/// `SO_RCVBUF`: what arrives at 10 Gbit/s while we do something else for some milliseconds.
const RECEIVE_BUFFER: usize = 8 << 20;
/// `SO_SNDBUF`: more would only add latency.
const SEND_BUFFER: usize = 2 << 20;

pub(crate) struct Udp {
    socket: OwnedFd,
    send: SendQueue,
    slab: Slab,
    packets: Vec<Packet>,
    batch: usize,
    gro: bool,
}

/// Datagrams in line to be sent with one call: equal lengths, the last maybe shorter.
struct SendQueue {
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

impl Udp {
    pub(crate) fn new(socket: OwnedFd, options: &Options) -> Result<Self, Error> {
        let kind = sys::option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_TYPE)
            .map_err(|e| Error::io("examining the transport socket", e))?;
        if kind != libc::SOCK_DGRAM {
            let what = "transport socket: not UDP".to_owned();
            return Err(Error::Malformed { what });
        }
        sys::enlarge_buffers(socket.as_fd(), RECEIVE_BUFFER, SEND_BUFFER);
        let gro = options.gro && set_gro(socket.as_fd(), true).is_ok();
        // Zero changes nothing; older kernels than 4.18 do not know the option.
        let gso = options.gso
            && sys::set_option(socket.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok();
        Ok(Self {
            socket,
            send: SendQueue {
                buffer: vec![0; BUDGET.max(MAX_DATAGRAM)].into(),
                len: 0,
                sent: 0,
                segment: 0,
                count: 0,
                closed: false,
                gso: if gso { Gso::On } else { Gso::Off },
            },
            slab: Slab::new(),
            packets: Vec::new(),
            batch: sys::udp::BATCH,
            gro,
        })
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    #[inline]
    pub(crate) fn reserve(&mut self, len: usize, counters: &mut Counters) -> Option<&mut [u8]> {
        if !self.send.has_room(len) && !self.flush(counters) {
            return None;
        }
        let start = self.send.len;
        // Longer than any datagram: there will never be room.
        self.send.buffer.get_mut(start..start + len)
    }

    #[inline]
    pub(crate) fn commit(&mut self, len: usize) {
        let queue = &mut self.send;
        if queue.count == 0 {
            queue.segment = len;
        }
        queue.len += len;
        queue.count += 1;
        queue.closed = len < queue.segment;
    }

    pub(crate) fn flush(&mut self, counters: &mut Counters) -> bool {
        while self.send.sent < self.send.len {
            if !self.send.send_some(self.socket.as_fd(), counters) {
                return false;
            }
        }
        self.send.reset();
        true
    }

    pub(crate) fn receive(&mut self, counters: &mut Counters) -> Result<Received, Gone> {
        self.packets.clear();
        // Otherwise nothing was there, or a signal, or an ICMP error that an earlier send caused (the
        // server may be restarting). Reading the error has cleared it; whatever else there is, the
        // next poll tells.
        let Ok(count) = self.slab.receive(self.socket.as_fd(), self.batch) else {
            return Ok(Received::Drained);
        };
        let mut bytes = 0;
        for index in 0..count {
            let Some(message) = self.slab.message(index) else {
                counters.receive_cut += 1;
                continue;
            };
            bytes += message.len;
            let end = message.start + message.len;
            let mut start = message.start;
            while start < end {
                let len = message.stride.min(end - start);
                self.packets.push(Packet { start, len });
                start += len;
            }
        }
        counters.receives += 1;
        counters.received_messages += count as u64;
        counters.received_packets += self.packets.len() as u64;
        let drained = count < self.batch;
        self.batch = if bytes >= count * MERGED_LEN { MERGED_BATCH } else { sys::udp::BATCH };
        Ok(if drained { Received::Drained } else { Received::More })
    }

    pub(crate) fn received(&mut self) -> (&mut [u8], &[Packet]) {
        (self.slab.bytes(), &self.packets)
    }
}

impl Drop for Udp {
    fn drop(&mut self) {
        if self.gro {
            // The caller goes on with its own descriptor of this socket and expects datagrams.
            let _ = set_gro(self.socket.as_fd(), false);
        }
    }
}

fn set_gro(socket: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    sys::set_option(socket, libc::SOL_UDP, libc::UDP_GRO, on.into())
}

impl SendQueue {
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
    fn send_some(&mut self, socket: BorrowedFd<'_>, counters: &mut Counters) -> bool {
        let use_gso = self.len - self.sent > self.segment && self.gso_allows();
        let rest = &self.buffer[self.sent..self.len];
        let result = if use_gso {
            // Bounded by the budget, so it fits.
            send_segments(socket, rest, self.segment as u16).map(|()| rest.len())
        } else {
            send_many(socket, rest.chunks(self.segment))
                .map(|count| (count * self.segment).min(rest.len()))
        };
        match result {
            Ok(len) => {
                counters.sends += 1;
                counters.sent_packets += len.div_ceil(self.segment) as u64;
                self.sent += len;
            }
            Err(error) => return self.failed(&error, use_gso, socket, counters),
        }
        true
    }

    fn gso_allows(&mut self) -> bool {
        match self.gso {
            Gso::Off => false,
            Gso::On => true,
            Gso::UpTo(_, since) if since.elapsed() >= RETRY_AFTER => {
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
        socket: BorrowedFd<'_>,
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
                self.gso = self.learn(code, socket);
            }
            _ => {
                counters.send_dropped += 1;
                self.sent = (self.sent + self.segment).min(self.len);
            }
        }
        true
    }

    /// Too large for the path, or a device without offload?
    fn learn(&self, code: i32, socket: BorrowedFd<'_>) -> Gso {
        const IPV6_AND_UDP: usize = 48;
        let mtu = sys::path_mtu(socket).unwrap_or(0);
        let too_large = code != libc::EIO && self.segment + IPV6_AND_UDP > mtu;
        if too_large {
            tracing::debug!(segment = self.segment, mtu, "datagrams do not fit the path's MTU");
            Gso::UpTo(self.segment - 1, Instant::now())
        } else {
            tracing::info!(code, "UDP segmentation offload is refused; going on without");
            Gso::Off
        }
    }
}
