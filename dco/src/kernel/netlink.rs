//! One netlink socket for requests. Synchronous: the kernel does the work inside `send` and the
//! answer waits when that returns, so there is nothing to await, and two requests never overlap.

use std::io;
use std::time::Duration;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer};
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

use super::envelope::{Content, Refusal, messages};
use crate::error::Error;

/// Larger than any answer; the kernel sends lists in pieces of at most 32 KiB.
const BUFFER: usize = 64 * 1024;

/// An answer that has not come by then does not come.
const PATIENCE: Duration = Duration::from_secs(10);

/// See the module.
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// How a request ended, other than well.
pub(super) enum Failure {
    /// The kernel said no.
    Refused(Refusal),
    /// The request or the answer did not get through.
    Broken(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Broken(error)
    }
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace, where it stays.
    pub(super) fn open(protocol: isize) -> Result<Self, Error> {
        let open = || {
            let mut socket = Socket::new(protocol)?;
            socket.bind_auto()?;
            socket.set_ext_ack(true)?;
            // Refusals must not repeat requests: those may hold keys.
            socket.set_cap_ack(true)?;
            let patience = TimeVal::new(PATIENCE.as_secs() as i64, 0);
            setsockopt(&socket, sockopt::ReceiveTimeout, &patience)?;
            Ok(socket)
        };
        let socket = open().map_err(|e| Error::io("opening a netlink socket", e))?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(BUFFER) })
    }

    /// Sends a request, whose first 16 bytes are free for the netlink header, and hands every
    /// answer to `answer` until the request is done.
    pub(super) fn transact(
        &mut self,
        operation: &'static str,
        request: &mut [u8],
        kind: u16,
        flags: u16,
        mut answer: impl FnMut(u16, &[u8]) -> Result<(), Error>,
    ) -> Result<(), Failure> {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        let len = request.len() as u32;
        let mut header = NetlinkBuffer::new(&mut *request);
        header.set_length(len);
        header.set_message_type(kind);
        // Anything but these is refused as ambiguous. A list ends by itself, without an ack.
        let ack = if flags & NLM_F_DUMP == NLM_F_DUMP { 0 } else { NLM_F_ACK };
        header.set_flags(NLM_F_REQUEST | ack | flags);
        header.set_sequence_number(self.sequence);
        header.set_port_number(0);
        let kernel = SocketAddr::new(0, 0);
        retry(|| self.socket.send_to(request, &kernel, 0)).map_err(|e| Error::io(operation, e))?;

        let mut broken = None;
        loop {
            self.receive().map_err(|e| Error::io(operation, e))?;
            for message in messages(&self.buffer) {
                let message = message?;
                // What is left of a request that was given up.
                if message.sequence != self.sequence {
                    continue;
                }
                match message.content()? {
                    Content::Message(payload) => {
                        // Read the request to its end, or its rest would answer the next one.
                        if broken.is_none() {
                            broken = answer(message.kind, payload).err();
                        }
                    }
                    Content::Refused(refusal) => return Err(Failure::Refused(refusal)),
                    Content::Done => return broken.map_or(Ok(()), |e| Err(e.into())),
                }
            }
        }
    }

    fn receive(&mut self) -> io::Result<()> {
        loop {
            self.buffer.clear();
            let (_, from) = retry(|| self.socket.recv_from(&mut self.buffer, 0))?;
            if from.port_number() == 0 {
                return Ok(());
            }
        }
    }
}

/// Repeats what a signal interrupted.
fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
