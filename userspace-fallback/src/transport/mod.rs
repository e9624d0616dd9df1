//! The transport: batches of packets to and from the server.
//!
//! Packets are written where they will be sent from (`Transport::reserve`, seal in place,
//! `Transport::commit`) and opened where they were received (`Transport::received`).

mod send_queue;
mod tcp;
mod udp;

use std::os::fd::BorrowedFd;

use ovpn_dco::{Error, PeerDeletedReason, TransportSocket};

use self::tcp::Tcp;
use self::udp::Udp;
use crate::options::Options;
use crate::stats::Counters;

/// The place of a packet in the receive buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet {
    pub(crate) start: usize,
    pub(crate) len: usize,
}

/// The connection is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Gone(pub(crate) PeerDeletedReason);

/// What one receive did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Received {
    /// There was something, and there may be more.
    More,
    /// Now, or from the start, there was nothing more.
    Drained,
}

/// A UDP or TCP connection.
pub(crate) enum Transport {
    Udp(Udp),
    Tcp(Tcp),
}

impl Transport {
    pub(crate) fn new(
        socket: TransportSocket,
        residue: &[u8],
        options: &Options,
    ) -> Result<Self, Error> {
        match socket {
            TransportSocket::Udp(socket) => Udp::new(socket, options).map(Self::Udp),
            TransportSocket::Tcp(socket) => Tcp::new(socket, residue, options).map(Self::Tcp),
        }
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        match self {
            Self::Udp(udp) => udp.socket(),
            Self::Tcp(tcp) => tcp.socket(),
        }
    }

    /// Length of the largest packet that can be sent.
    pub(crate) fn max_packet(&self) -> usize {
        match self {
            Self::Udp(_) => send_queue::MAX_DATAGRAM,
            Self::Tcp(_) => usize::from(u16::MAX),
        }
    }

    /// Whether a packet that fails authentication means that the connection is broken.
    pub(crate) fn is_reliable(&self) -> bool {
        matches!(self, Self::Tcp(_))
    }

    /// Room for one packet of `len` bytes, at most [`Transport::max_packet`]. `None`: the socket takes nothing now; try again when it
    /// is writable. Sends what is in the way, so what was returned earlier must be committed.
    #[inline]
    pub(crate) fn reserve(
        &mut self,
        len: usize,
        counters: &mut Counters,
    ) -> Result<Option<&mut [u8]>, Gone> {
        match self {
            Self::Udp(udp) => Ok(udp.reserve(len, counters)),
            Self::Tcp(tcp) => tcp.reserve(len, counters),
        }
    }

    /// Puts the packet of `len` bytes that was written to the last [`Transport::reserve`]d place
    /// in line.
    #[inline]
    pub(crate) fn commit(&mut self, len: usize) {
        match self {
            Self::Udp(udp) => udp.commit(len),
            Self::Tcp(tcp) => tcp.commit(len),
        }
    }

    /// Sends what is in line. `false`: the socket does not take all of it now.
    pub(crate) fn flush(&mut self, counters: &mut Counters) -> Result<bool, Gone> {
        match self {
            Self::Udp(udp) => Ok(udp.flush(counters)),
            Self::Tcp(tcp) => tcp.flush(counters),
        }
    }

    /// Receives a batch; the packets of the batch before are gone.
    pub(crate) fn receive(&mut self, counters: &mut Counters) -> Result<Received, Gone> {
        match self {
            Self::Udp(udp) => udp.receive(counters),
            Self::Tcp(tcp) => tcp.receive(counters),
        }
    }

    /// The receive buffer and the packets of the last batch in it.
    pub(crate) fn received(&mut self) -> (&mut [u8], &[Packet]) {
        match self {
            Self::Udp(udp) => udp.received(),
            Self::Tcp(tcp) => tcp.received(),
        }
    }
}

/// A TCP stream being cut into packets. For fuzzing.
#[cfg(feature = "internals")]
pub struct Stream(Transport);

#[cfg(feature = "internals")]
impl Stream {
    /// `residue`: what has been read of the stream already.
    ///
    /// # Errors
    /// When `socket` is no stream, or the residue is too long.
    pub fn new(socket: std::os::fd::OwnedFd, residue: &[u8]) -> Result<Self, Error> {
        Transport::new(TransportSocket::Tcp(socket), residue, &Options::default()).map(Self)
    }

    /// The packets that one read completes.
    ///
    /// # Errors
    /// When the stream is over, or is none of OpenVPN's.
    pub fn receive(&mut self) -> Result<Vec<Vec<u8>>, PeerDeletedReason> {
        self.0.receive(&mut Counters::default()).map_err(|Gone(reason)| reason)?;
        let (buffer, packets) = self.0.received();
        Ok(packets.iter().map(|p| buffer[p.start..p.start + p.len].to_vec()).collect())
    }
}
