//! A connection to somebody who asks a tunnel: bytes for zbus, and no more of them than a question
//! takes.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use zbus::connection::socket::{ReadHalf, Socket, Split, WriteHalf};
use zbus::export::async_trait::async_trait;
use zbus::fdo::ConnectionCredentials;

/// Longest message, in bytes.
const LONGEST: usize = 64 * 1024;

/// One whose other end is this user's.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) stream: UnixStream,
    pub(super) uid: u32,
}

impl Socket for Wire {
    type ReadHalf = Reader;
    type WriteHalf = Writer;

    fn split(self) -> Split<Reader, Writer> {
        let (read, write) = self.stream.into_split();
        Split::new(Reader { half: read, uid: self.uid }, Writer(write))
    }
}

#[derive(Debug)]
pub(super) struct Reader {
    half: OwnedReadHalf,
    uid: u32,
}

#[async_trait]
impl ReadHalf for Reader {
    /// zbus asks for the rest of a message at once: how much that is says how long it is.
    async fn recvmsg(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        if buffer.len() > LONGEST {
            return Err(io::Error::other("a message longer than any question"));
        }
        Ok((self.half.read(buffer).await?, Vec::new()))
    }

    async fn peer_credentials(&mut self) -> io::Result<ConnectionCredentials> {
        Ok(ConnectionCredentials::default().set_unix_user_id(self.uid))
    }
}

#[derive(Debug)]
pub(super) struct Writer(OwnedWriteHalf);

#[async_trait]
impl WriteHalf for Writer {
    async fn sendmsg(&mut self, buffer: &[u8], _: &[BorrowedFd<'_>]) -> io::Result<usize> {
        self.0.write(buffer).await
    }

    async fn close(&mut self) -> io::Result<()> {
        self.0.shutdown().await
    }
}
