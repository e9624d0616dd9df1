//! UDP: batches of equal datagrams out, merged datagrams in.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ovpn_dco::Error;

use super::send_queue::SendQueue;
use super::{Gone, Packet, Received};
use crate::options::Options;
use crate::stats::Counters;
use crate::sys;
use crate::sys::udp::Slab;

/// Messages per receive while they are merged datagrams, which bounds how long the other
/// direction waits; single datagrams come in larger batches.
const MERGED_BATCH: usize = 8;
/// Above this average a message counts as merged datagrams.
const MERGED_LEN: usize = 16_384;
/// `SO_RCVBUF`: what arrives at 10 Gbit/s while we do something else for some milliseconds.
const RECEIVE_BUFFER: usize = 8 << 20;
/// `SO_SNDBUF`: more would only add latency.
const SEND_BUFFER: usize = 2 << 20;

pub(crate) struct Udp {
    socket: OwnedFd,
    queue: SendQueue,
    slab: Slab,
    packets: Vec<Packet>,
    batch: usize,
    gro: bool,
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
            queue: SendQueue::new(gso),
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
        self.queue.reserve(len, &self.socket.as_fd(), counters)
    }

    #[inline]
    pub(crate) fn commit(&mut self, len: usize) {
        self.queue.commit(len);
    }

    pub(crate) fn flush(&mut self, counters: &mut Counters) -> bool {
        self.queue.flush(&self.socket.as_fd(), counters)
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
