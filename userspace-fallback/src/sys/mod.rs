//! The data path's system calls: through nix, and where it does not wrap them the way they are
//! needed, directly. All `unsafe` of this crate is in this module, behind functions that are safe to
//! call with anything.
#![expect(unsafe_code, reason = "system calls")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use nix::sys::eventfd::{self, EfdFlags};
use nix::sys::prctl;
use nix::sys::signal::SigSet;
use nix::sys::socket::{self, MsgFlags};

pub(crate) mod tun;
pub(crate) mod udp;

/// What [`poll`] waits for and what it found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Interest {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
}

/// What [`poll`] found on one descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Ready {
    /// Reading will not block, perhaps because it fails.
    pub(crate) readable: bool,
    pub(crate) writable: bool,
}

/// Waits until a descriptor is ready or the time is over (`None`: without end). A signal ends the
/// wait early. A `None` descriptor is skipped.
pub(crate) fn poll<const N: usize>(
    wanted: [(Option<BorrowedFd<'_>>, Interest); N],
    timeout: Option<Duration>,
) -> io::Result<[Ready; N]> {
    let mut descriptors = wanted.map(|(fd, interest)| {
        let mut events = 0;
        if interest.readable {
            events |= libc::POLLIN;
        }
        if interest.writable {
            events |= libc::POLLOUT;
        }
        // The kernel skips negative descriptors. Errors are reported even when nothing is wanted,
        // so that a broken descriptor that nobody wants to read would be reported for ever.
        let fd = match fd {
            Some(fd) if events != 0 => fd.as_raw_fd(),
            _ => -1,
        };
        libc::pollfd { fd, events, revents: 0 }
    });
    let timeout = timeout.map(|timeout| libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(timeout.subsec_nanos() as i32),
    });
    let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the array lives across the call and its length is passed; the timeout is null or
    // points to a value that lives across the call; a null signal mask is allowed.
    let count = unsafe {
        libc::ppoll(descriptors.as_mut_ptr(), N as libc::nfds_t, timeout, std::ptr::null())
    };
    if count < 0 {
        let error = io::Error::last_os_error();
        if error.kind() == io::ErrorKind::Interrupted {
            return Ok([Ready::default(); N]);
        }
        return Err(error);
    }
    let failed = libc::POLLERR | libc::POLLHUP | libc::POLLNVAL;
    Ok(descriptors.map(|d| Ready {
        readable: d.revents & (libc::POLLIN | failed) != 0,
        writable: d.revents & (libc::POLLOUT | failed) != 0,
    }))
}

/// A counter that [`poll`] can wait for.
#[derive(Debug)]
pub(crate) struct EventFd(eventfd::EventFd);

impl EventFd {
    pub(crate) fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self(eventfd::EventFd::from_flags(flags)?))
    }

    /// Makes it readable. Cannot fail: the counter would have to be at 2^64 - 2.
    pub(crate) fn signal(&self) {
        let _ = self.0.write(1);
    }

    /// Makes it not readable.
    pub(crate) fn reset(&self) {
        let _ = self.0.read();
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Reads what a stream socket has, without waiting, whatever mode the descriptor is in.
pub(crate) fn recv(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(socket::recv(socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT)?)
}

/// Sends as much as a socket takes, without waiting and without SIGPIPE.
pub(crate) fn send(socket: BorrowedFd<'_>, buffer: &[u8]) -> io::Result<usize> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    Ok(socket::send(socket.as_raw_fd(), buffer, flags)?)
}

/// Sets a socket option that is an `int`.
pub(crate) fn set_option(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the value lives across the call and its size is passed.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(&value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Reads a socket option that is an `int`.
pub(crate) fn option(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut len = size_of_val(&value) as libc::socklen_t;
    // SAFETY: value and length live across the call; the length is that of the value.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_mut(&mut value).cast(),
            &raw mut len,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// Lets short sleeps of this thread end on time instead of up to 50 µs late.
pub(crate) fn precise_sleeps() {
    let _ = prctl::set_timerslack(1);
}

/// Keeps signals away from this thread: they are for the threads that handle them.
pub(crate) fn block_signals() {
    let _ = SigSet::all().thread_block();
}

/// Makes a socket's buffers at least this large, as far as the kernel lets us: beyond its limits
/// with `CAP_NET_ADMIN`, up to them without.
pub(crate) fn enlarge_buffers(socket: BorrowedFd<'_>, receive: usize, send: usize) {
    for (name, force, wanted) in [
        (libc::SO_RCVBUF, libc::SO_RCVBUFFORCE, receive),
        (libc::SO_SNDBUF, libc::SO_SNDBUFFORCE, send),
    ] {
        let wanted = libc::c_int::try_from(wanted).unwrap_or(libc::c_int::MAX);
        // The kernel doubles what is set, for its own bookkeeping, and tells the double.
        let large_enough =
            option(socket, libc::SOL_SOCKET, name).is_ok_and(|now| now / 2 >= wanted);
        if !large_enough && set_option(socket, libc::SOL_SOCKET, force, wanted).is_err() {
            // A small buffer costs packets under bursts, nothing else.
            let _ = set_option(socket, libc::SOL_SOCKET, name, wanted);
        }
    }
}

/// The MTU of the path that a connected socket uses, as far as the kernel knows it.
pub(crate) fn path_mtu(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mtu = option(socket, libc::IPPROTO_IP, libc::IP_MTU)
        .or_else(|_| option(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU))?;
    usize::try_from(mtu).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}
