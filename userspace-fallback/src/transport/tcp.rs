//! TCP: each packet has its length in front; one read brings many packets, one write sends many.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ovpn_dco::{Error, PeerDeletedReason};

use super::{Gone, Packet, Received};
use crate::options::Options;
use crate::stats::Counters;
use crate::sys;

/// Bytes of the length in front of each packet.
const LENGTH: usize = 2;
/// Bytes that one read can bring. Holds at least one packet of the largest size.
const READ_BUFFER: usize = 192 * 1024;
/// Bytes in line for one write; a packet of the largest size fits behind a full batch.
const WRITE_BATCH: usize = 64 * 1024;
const WRITE_BUFFER: usize = WRITE_BATCH + LENGTH + u16::MAX as usize;
/// The socket counts as writable only while less than this is unsent, which keeps latency under
/// load low whatever the size of the send buffer.
const NOT_SENT_LOW_WATER: libc::c_int = 128 * 1024;

pub(crate) struct Tcp {
    socket: OwnedFd,
    write: Box<[u8]>,
    /// Bytes in line, how many of them were sent, packets among them.
    len: usize,
    sent: usize,
    queued: u64,
    read: Box<[u8]>,
    /// Received bytes, and how many of them belong to packets already handed over.
    filled: usize,
    parsed: usize,
    packets: Vec<Packet>,
}

impl Tcp {
    pub(crate) fn new(socket: OwnedFd, residue: &[u8], _options: &Options) -> Result<Self, Error> {
        let kind = sys::option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_TYPE)
            .map_err(|e| Error::io("examining the transport socket", e))?;
        if kind != libc::SOCK_STREAM {
            let what = "transport socket: not TCP".to_owned();
            return Err(Error::Malformed { what });
        }
        let mut read = vec![0; READ_BUFFER].into_boxed_slice();
        let Some(start) = read.get_mut(..residue.len()) else {
            let what = format!("{} bytes of unread TCP data", residue.len());
            return Err(Error::Malformed { what });
        };
        start.copy_from_slice(residue);
        for (name, value) in [(libc::TCP_NODELAY, 1), (libc::TCP_NOTSENT_LOWAT, NOT_SENT_LOW_WATER)]
        {
            // A sandbox may lack it: latency, not correctness.
            if let Err(error) = sys::set_option(socket.as_fd(), libc::IPPROTO_TCP, name, value) {
                tracing::debug!(option = name, %error, "the transport socket lacks a TCP option");
            }
        }
        Ok(Self {
            socket,
            write: vec![0; WRITE_BUFFER].into(),
            len: 0,
            sent: 0,
            queued: 0,
            read,
            filled: residue.len(),
            parsed: 0,
            packets: Vec::new(),
        })
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    #[inline]
    pub(crate) fn reserve(
        &mut self,
        len: usize,
        counters: &mut Counters,
    ) -> Result<Option<&mut [u8]>, Gone> {
        if self.len >= WRITE_BATCH && !self.flush(counters)? {
            return Ok(None);
        }
        let start = self.len + LENGTH;
        Ok(self.write.get_mut(start..start + len))
    }

    #[inline]
    pub(crate) fn commit(&mut self, len: usize) {
        // `reserve` gave out at most 65,535 bytes.
        self.write[self.len..self.len + LENGTH].copy_from_slice(&(len as u16).to_be_bytes());
        self.len += LENGTH + len;
        self.queued += 1;
    }

    pub(crate) fn flush(&mut self, counters: &mut Counters) -> Result<bool, Gone> {
        while self.sent < self.len {
            match sys::send(self.socket.as_fd(), &self.write[self.sent..self.len]) {
                Ok(count) => {
                    counters.sends += 1;
                    self.sent += count;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(broken(&error)),
            }
        }
        counters.sent_packets += self.queued;
        self.len = 0;
        self.sent = 0;
        self.queued = 0;
        Ok(true)
    }

    pub(crate) fn receive(&mut self, counters: &mut Counters) -> Result<Received, Gone> {
        self.packets.clear();
        // Only the beginning of one packet is left over.
        self.read.copy_within(self.parsed..self.filled, 0);
        self.filled -= self.parsed;
        self.parsed = 0;
        let had_residue = self.parse()?;
        let room = self.read.len() - self.filled;
        let received = match sys::recv(self.socket.as_fd(), &mut self.read[self.filled..]) {
            Ok(0) if had_residue => Received::More,
            Ok(0) => return Err(Gone(PeerDeletedReason::TransportDisconnect)),
            Ok(count) => {
                counters.receives += 1;
                counters.received_messages += 1;
                self.filled += count;
                self.parse()?;
                if count < room { Received::Drained } else { Received::More }
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => Received::Drained,
                io::ErrorKind::Interrupted => Received::More,
                _ => return Err(broken(&error)),
            },
        };
        counters.received_packets += self.packets.len() as u64;
        Ok(received)
    }

    /// Finds the complete packets. Whether there was one.
    fn parse(&mut self) -> Result<bool, Gone> {
        let bytes = &self.read[..self.filled];
        let before = self.packets.len();
        while let Some(length) = bytes[self.parsed..].first_chunk::<LENGTH>() {
            let len = usize::from(u16::from_be_bytes(*length));
            if len == 0 {
                return Err(Gone(PeerDeletedReason::TransportError));
            }
            let start = self.parsed + LENGTH;
            if start + len > bytes.len() {
                break;
            }
            self.packets.push(Packet { start, len });
            self.parsed = start + len;
        }
        Ok(self.packets.len() > before)
    }

    pub(crate) fn received(&mut self) -> (&mut [u8], &[Packet]) {
        (&mut self.read, &self.packets)
    }
}

fn broken(error: &io::Error) -> Gone {
    tracing::info!(%error, "the TCP connection broke");
    Gone(match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            PeerDeletedReason::TransportDisconnect
        }
        _ => PeerDeletedReason::TransportError,
    })
}
