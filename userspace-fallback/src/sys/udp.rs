//! UDP with segmentation offloads: one system call, many datagrams.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Most datagrams in one call of [`send_many`] and [`Slab::receive`].
pub(crate) const BATCH: usize = 64;

/// Room for control messages: ours, and what the socket's owner may have switched on (packet
/// information, timestamps).
const CONTROL: usize = 128;

#[repr(C, align(8))]
struct Control([u8; CONTROL]);

/// Sends `data` as datagrams of `segment` bytes each, the last one maybe shorter.
pub(crate) fn send_segments(socket: BorrowedFd<'_>, data: &[u8], segment: u16) -> io::Result<()> {
    let mut iov = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    let mut control = Control([0; CONTROL]);
    // SAFETY: all-zero bytes are a valid `msghdr`.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    // SAFETY: `CMSG_SPACE` and `CMSG_LEN` only compute. The buffer is larger than the space for
    // one `u16`, so that the first header and its data lie inside; data may be unaligned. All that
    // `message` points to lives across the call, and the kernel only reads it.
    let sent = unsafe {
        message.msg_controllen = libc::CMSG_SPACE(size_of::<u16>() as u32) as _;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_UDP;
        (*header).cmsg_type = libc::UDP_SEGMENT;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<u16>() as u32) as _;
        libc::CMSG_DATA(header).cast::<u16>().write_unaligned(segment);
        libc::sendmsg(
            socket.as_raw_fd(),
            &raw const message,
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sends up to [`BATCH`] datagrams and tells how many the kernel took: at least one, or the first
/// one's error.
pub(crate) fn send_many<'a>(
    socket: BorrowedFd<'_>,
    datagrams: impl Iterator<Item = &'a [u8]>,
) -> io::Result<usize> {
    // SAFETY: all-zero bytes are valid for both.
    let (mut iovs, mut messages): ([libc::iovec; BATCH], [libc::mmsghdr; BATCH]) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    let mut count = 0;
    for ((iov, message), datagram) in iovs.iter_mut().zip(&mut messages).zip(datagrams) {
        iov.iov_base = datagram.as_ptr().cast_mut().cast();
        iov.iov_len = datagram.len();
        message.msg_hdr.msg_iov = &raw mut *iov;
        message.msg_hdr.msg_iovlen = 1;
        count += 1;
    }
    // SAFETY: `count` messages were filled in; what they point to lives across the call, and the
    // kernel only reads it, but for the lengths in `messages`.
    let sent = unsafe {
        libc::sendmmsg(
            socket.as_raw_fd(),
            messages.as_mut_ptr(),
            count,
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// What one message brought.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message {
    /// Where it begins in the slab.
    pub(crate) start: usize,
    pub(crate) len: usize,
    /// Length of each datagram in it but the last.
    pub(crate) stride: usize,
}

/// A buffer for [`BATCH`] messages of the largest size, received with one call. Only what arrives
/// touches memory: single datagrams cost a page or two each.
pub(crate) struct Slab {
    bytes: Box<[u8]>,
    /// These two and `controls` are what the kernel is told; their pointers go to the boxes of this
    /// same struct, which never move or shrink.
    messages: Box<[libc::mmsghdr]>,
    _iovs: Box<[libc::iovec]>,
    _controls: Box<[Control]>,
}

// SAFETY: the raw pointers in `messages` and `iovs` go to heap memory that the struct itself owns,
// so they stay valid on any thread, and only `&mut self` methods use them.
unsafe impl Send for Slab {}

impl Slab {
    /// Largest message: a full group of merged datagrams.
    const MESSAGE: usize = 65_536;
    /// Message starts are spread over cache sets: with a power of two all would share a few.
    const SPACING: usize = Self::MESSAGE + 33 * 64;

    pub(crate) fn new() -> Self {
        let mut bytes = vec![0u8; Self::SPACING * BATCH].into_boxed_slice();
        let mut controls: Box<[Control]> = (0..BATCH).map(|_| Control([0; CONTROL])).collect();
        let mut iovs: Box<[libc::iovec]> = bytes
            .chunks_exact_mut(Self::SPACING)
            .map(|chunk| libc::iovec {
                iov_base: chunk.as_mut_ptr().cast(),
                iov_len: Self::MESSAGE,
            })
            .collect();
        let messages = iovs
            .iter_mut()
            .zip(&mut controls)
            .map(|(iov, control)| {
                // SAFETY: all-zero bytes are a valid `mmsghdr`.
                let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
                message.msg_hdr.msg_iov = &raw mut *iov;
                message.msg_hdr.msg_iovlen = 1;
                message.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
                message
            })
            .collect();
        Self { bytes, messages, _iovs: iovs, _controls: controls }
    }

    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Receives what is there, without waiting: up to `max` messages, at least one, or an error.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>, max: usize) -> io::Result<usize> {
        let max = max.min(BATCH);
        for message in &mut self.messages[..max] {
            message.msg_hdr.msg_controllen = CONTROL as _;
            message.msg_hdr.msg_flags = 0;
        }
        // SAFETY: `max` is at most the number of messages; every pointer in them goes to memory
        // that `self` owns and holds exclusively, with the lengths given.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.messages.as_mut_ptr(),
                max as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }

    /// The message with this number of the last [`Slab::receive`]; `None` when the kernel had to
    /// cut it, so that its datagrams cannot be told apart.
    pub(crate) fn message(&self, index: usize) -> Option<Message> {
        let message = &self.messages[index];
        let cut = libc::MSG_TRUNC | libc::MSG_CTRUNC;
        if message.msg_hdr.msg_flags & cut != 0 {
            return None;
        }
        let len = (message.msg_len as usize).min(Self::MESSAGE);
        let stride = gro_size(&message.msg_hdr).unwrap_or(len).max(1);
        Some(Message { start: index * Self::SPACING, len, stride })
    }
}

/// The size of the merged datagrams, where they are merged.
fn gro_size(message: &libc::msghdr) -> Option<usize> {
    // SAFETY: the kernel has filled the control buffer and set its length; the macros stay inside.
    // The data of `UDP_GRO` is an `int`, maybe unaligned.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_UDP && (*header).cmsg_type == libc::UDP_GRO {
                let size = libc::CMSG_DATA(header).cast::<libc::c_int>().read_unaligned();
                return usize::try_from(size).ok();
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    None
}
