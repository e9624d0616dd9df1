//! OpenVPN packets on a TCP stream: each behind a 16-bit big-endian length that does not count
//! itself.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};

use socket2::SockRef;
use tokio::net::TcpStream;

use super::MAX_PACKET;

const LENGTH: usize = 2;
/// Bytes that may wait to be written before the next packet is refused.
const UNSENT: usize = 64 * 1024;

/// A stream cut into packets. Reads exactly one packet's bytes at a time, never further, so that
/// the stream can be handed over between two packets.
#[derive(Debug)]
pub(super) struct TcpPackets {
    stream: TcpStream,
    /// The packet being read, length included.
    partial: Vec<u8>,
    unsent: Vec<u8>,
    /// Bytes at its front that are the rest of a packet, where packets are written one by one.
    torn: usize,
    one_packet_per_read: bool,
}

impl TcpPackets {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            partial: Vec::new(),
            unsent: Vec::new(),
            torn: 0,
            one_packet_per_read: false,
        }
    }

    /// The in-tree kernel module returns one whole packet from each read and discards what does not
    /// fit the buffer.
    pub(super) fn set_one_packet_per_read(&mut self, yes: bool) {
        self.one_packet_per_read = yes;
    }

    /// The next packet; meanwhile writes what waits. With `or_room` it also returns, with nothing,
    /// once [`Self::has_room`]. Cancel safe.
    pub(super) async fn recv(&mut self, packet: &mut Vec<u8>, or_room: bool) -> io::Result<()> {
        loop {
            if let Some(len) = self.expected()?
                && self.partial.len() == len
            {
                packet.extend_from_slice(self.partial.get(LENGTH..).unwrap_or_default());
                self.partial.clear();
                return Ok(());
            }
            tokio::select! {
                ready = self.stream.readable() => ready?,
                ready = self.stream.writable(), if self.has_unsent() => {
                    ready?;
                    self.write_some()?;
                    if or_room && self.has_room() {
                        return Ok(());
                    }
                    continue;
                }
            }
            let wanted = if self.one_packet_per_read {
                MAX_PACKET + LENGTH
            } else {
                self.expected()?.unwrap_or(LENGTH) - self.partial.len()
            };
            let have = self.partial.len();
            self.partial.resize(have + wanted, 0);
            let read = self.stream.try_read(self.partial.get_mut(have..).unwrap_or_default());
            self.partial.truncate(have + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Length of the packet being read, its length field included, once known.
    fn expected(&self) -> io::Result<Option<usize>> {
        let Some(length) = self.partial.first_chunk::<LENGTH>() else { return Ok(None) };
        match u16::from_be_bytes(*length) {
            0 => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the server sent a packet of length 0: not an OpenVPN server, or out of step",
            )),
            length => Ok(Some(LENGTH + usize::from(length))),
        }
    }

    /// Whether another packet is taken.
    pub(super) fn has_room(&self) -> bool {
        self.unsent.len() < UNSENT
    }

    /// Writes a packet, or keeps it until it can be written; `WouldBlock` without
    /// [`Self::has_room`].
    pub(super) fn send(&mut self, packet: &[u8]) -> io::Result<()> {
        if !self.has_room() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let length = u16::try_from(packet.len())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "packet over 64 KiB"))?;
        self.unsent.extend_from_slice(&length.to_be_bytes());
        self.unsent.extend_from_slice(packet);
        self.write_some()
    }

    pub(super) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    pub(super) async fn flush(&mut self) -> io::Result<()> {
        while self.has_unsent() {
            self.stream.writable().await?;
            self.write_some()?;
        }
        Ok(())
    }

    fn write_some(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            let end = self.end();
            match self.stream.try_write(self.unsent.get(..end).unwrap_or_default()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.unsent.drain(..written);
                    self.torn = if self.one_packet_per_read { end - written } else { 0 };
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Where a write ends: kernel offload accepts whole packets only. A stream that it does not have
    /// takes a part of one as well.
    fn end(&self) -> usize {
        match self.unsent.first_chunk::<LENGTH>() {
            _ if self.torn > 0 => self.torn,
            Some(length) if self.one_packet_per_read => {
                LENGTH + usize::from(u16::from_be_bytes(*length))
            }
            _ => self.unsent.len(),
        }
    }

    /// The stream without the runtime's attention. What was read in part or not yet written is
    /// lost: take the residue and flush before.
    pub(super) fn into_std(self) -> io::Result<std::net::TcpStream> {
        self.stream.into_std()
    }

    pub(super) fn at_boundary(&self) -> bool {
        self.partial.is_empty()
    }

    /// Asks the kernel: the runtime learns later what has arrived. A broken stream has something
    /// to read, too.
    pub(super) fn has_unread(&self) -> bool {
        let peeked = SockRef::from(&self.stream).peek(&mut [MaybeUninit::uninit()]);
        !matches!(peeked, Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }

    pub(super) fn take_residue(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.partial)
    }
}

impl AsFd for TcpPackets {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpPackets, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        (TcpPackets::new(client), server)
    }

    #[tokio::test]
    async fn packets_split_and_joined_anyhow_arrive_whole() {
        let (mut packets, mut server) = pair().await;
        tokio::spawn(async move {
            for byte in b"\0\x03abc\0\x01d" {
                server.write_all(&[*byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
            server.write_all(b"\0\x02ef\0\x02gh").await.unwrap();
        });
        let mut packet = Vec::new();
        for expected in [&b"abc"[..], b"d", b"ef", b"gh"] {
            packet.clear();
            packets.recv(&mut packet, false).await.unwrap();
            assert_eq!(packet, expected);
            assert!(packets.at_boundary());
        }
        packet.clear();
        assert_eq!(
            packets.recv(&mut packet, false).await.unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
    }

    #[tokio::test]
    async fn never_reads_past_the_packet() {
        let (mut packets, mut server) = pair().await;
        server.write_all(b"\0\x01a\0\x05bc").await.unwrap();
        let mut packet = Vec::new();
        assert!(packets.has_unread());
        packets.recv(&mut packet, false).await.unwrap();
        assert!(packets.at_boundary() && packets.has_unread());
        let mut rest = [0; 16];
        packets.stream.readable().await.unwrap();
        let n = packets.stream.try_read(&mut rest).unwrap();
        assert_eq!(&rest[..n], b"\0\x05bc");
        assert!(!packets.has_unread());
        drop(server);
        packets.stream.readable().await.unwrap();
        assert!(packets.has_unread(), "the end wants to be read");
    }

    #[tokio::test]
    async fn a_partial_packet_is_the_residue() {
        let (mut packets, mut server) = pair().await;
        server.write_all(b"\0\x05bc").await.unwrap();
        let mut packet = Vec::new();
        let early = tokio::time::timeout(
            std::time::Duration::from_millis(50),
            packets.recv(&mut packet, false),
        );
        assert!(early.await.is_err());
        assert!(!packets.at_boundary());
        assert_eq!(packets.take_residue(), b"\0\x05bc");
    }

    #[tokio::test]
    async fn length_zero_is_an_error() {
        let (mut packets, mut server) = pair().await;
        server.write_all(b"\0\0").await.unwrap();
        let error = packets.recv(&mut Vec::new(), false).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
