//! Messages between two processes: JSON, one a packet, of limited length, perhaps with a descriptor.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::unix::AsyncFd;

/// Longest message, in bytes. The kernel's usual buffers have room for it.
const LONGEST: usize = 128 * 1024;

/// Both ends of a new line; they wait.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC;
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?)
}

/// Sends a message.
pub(super) fn send(
    socket: impl AsFd,
    message: &impl Serialize,
    passed: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    if text.len() > LONGEST {
        return Err(io::Error::other("more than fits into a message to the helper process"));
    }
    let descriptors = passed.map(|passed| [passed.as_raw_fd()]);
    let control: Vec<_> =
        descriptors.iter().map(|passed| ControlMessage::ScmRights(passed)).collect();
    let socket = socket.as_fd().as_raw_fd();
    sendmsg::<()>(socket, &[IoSlice::new(&text)], &control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// Receives a message, and the descriptor that came along. `None`: nobody is at the other end.
pub(super) fn receive<T: DeserializeOwned>(
    socket: impl AsFd,
) -> io::Result<Option<(T, Option<OwnedFd>)>> {
    let mut text = vec![0; LONGEST];
    let mut control = nix::cmsg_space!([std::os::fd::RawFd; 1]);
    let (length, flags, mut passed) = {
        let mut parts = [IoSliceMut::new(&mut text)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let socket = socket.as_fd().as_raw_fd();
        let received = match recvmsg::<()>(socket, &mut parts, Some(&mut control), flags) {
            Err(nix::Error::ECONNRESET) => return Ok(None),
            received => received?,
        };
        let mut passed = Vec::new();
        for message in received.cmsgs()? {
            if let ControlMessageOwned::ScmRights(descriptors) = message {
                // SAFETY: the kernel has just made them for this process; nobody else has them.
                passed.extend(descriptors.iter().map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) }));
            }
        }
        (received.bytes, received.flags, passed)
    };
    if length == 0 {
        return Ok(None);
    }
    if flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
        return Err(io::Error::other("a message is longer than any may be"));
    }
    let text = text.get(..length).unwrap_or_default();
    Ok(Some((serde_json::from_slice(text)?, passed.pop())))
}

/// An end of a line for tasks: nothing else waits for it.
#[derive(Debug)]
pub(super) struct AsyncLine(AsyncFd<OwnedFd>);

impl AsyncLine {
    /// Inside a runtime.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        // SAFETY: an `OwnedFd` is the same open descriptor as long as it lives.
        Ok(Self(unsafe { AsyncFd::register(socket) }?))
    }

    pub(super) async fn receive<T: DeserializeOwned>(
        &self,
    ) -> io::Result<Option<(T, Option<OwnedFd>)>> {
        loop {
            let mut ready = self.0.readable().await?;
            if let Ok(received) = ready.try_io(|socket| receive(socket.get_ref())) {
                return received;
            }
        }
    }

    pub(super) async fn send(
        &self,
        message: &impl Serialize,
        passed: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        loop {
            let mut ready = self.0.writable().await?;
            if let Ok(sent) = ready.try_io(|socket| send(socket.get_ref(), message, passed)) {
                return sent;
            }
        }
    }
}

impl AsFd for AsyncLine {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}
