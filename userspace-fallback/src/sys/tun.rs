//! The ioctls of `/dev/net/tun` (`include/uapi/linux/if_tun.h`).

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::offload::virtio;

const TUNSETOFFLOAD: libc::Ioctl = 0x4004_54d0;

/// What the device may hand over instead of ordinary packets, and take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Offload {
    /// Nothing.
    None,
    /// Unfinished checksums.
    Checksum,
    /// And TCP super-packets.
    Tcp,
    /// And UDP super-packets (Linux 6.2).
    TcpAndUdp,
}

/// Name and flags of the interface that a descriptor belongs to.
pub(crate) struct Attached {
    pub(crate) name: String,
    pub(crate) flags: libc::c_int,
}

/// Longest interface name.
pub(crate) const NAME_MAX: usize = libc::IFNAMSIZ - 1;

/// An interface request; `None` when the name is too long or has a NUL.
fn request(name: &str) -> Option<libc::ifreq> {
    if name.len() > NAME_MAX || name.contains('\0') {
        return None;
    }
    // SAFETY: all-zero bytes are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed() as libc::c_char;
    }
    Some(request)
}

fn name_of(request: &libc::ifreq) -> String {
    // SAFETY: `c_char` and `u8` have one layout; the array is borrowed as it is.
    let bytes: &[u8; libc::IFNAMSIZ] = unsafe { &*std::ptr::from_ref(&request.ifr_name).cast() };
    CStr::from_bytes_until_nul(bytes).map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Creates an interface and attaches the descriptor to it. `name` may be a pattern with `%d`.
/// Returns the kernel's name for it.
pub(crate) fn attach(fd: BorrowedFd<'_>, name: &str, vnet_header: bool) -> io::Result<String> {
    let mut request = request(name).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    let mut flags = libc::IFF_TUN | libc::IFF_NO_PI;
    if vnet_header {
        flags |= libc::IFF_VNET_HDR;
    }
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which lives across the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(name_of(&request)) }
}

/// Which interface the descriptor is attached to.
pub(crate) fn attached(fd: BorrowedFd<'_>) -> io::Result<Attached> {
    let mut request = request("").ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: TUNGETIFF writes one `ifreq`, which lives across the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF, &raw mut request) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has written the flags.
    let flags = libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags }) & 0xffff;
    Ok(Attached { name: name_of(&request), flags })
}

/// Sets the length of the header in front of every packet to [`virtio::LEN`].
pub(crate) fn set_vnet_header_len(fd: BorrowedFd<'_>) -> io::Result<()> {
    let len = virtio::LEN as libc::c_int;
    // SAFETY: TUNSETVNETHDRSZ reads one `int`, which lives across the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The length of the header in front of every packet.
pub(crate) fn vnet_header_len(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut len: libc::c_int = 0;
    // SAFETY: TUNGETVNETHDRSZ writes one `int`, which lives across the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETVNETHDRSZ, &raw mut len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(usize::try_from(len).unwrap_or(0)) }
}

/// Tells the kernel what it may hand over. The setting belongs to the device and outlives the
/// descriptor, so set it even when it is [`Offload::None`].
pub(crate) fn set_offload(fd: BorrowedFd<'_>, offload: Offload) -> io::Result<()> {
    const CSUM: libc::c_ulong = 0x01;
    const TSO4: libc::c_ulong = 0x02;
    const TSO6: libc::c_ulong = 0x04;
    const USO4: libc::c_ulong = 0x20;
    const USO6: libc::c_ulong = 0x40;
    let features = match offload {
        Offload::None => 0,
        Offload::Checksum => CSUM,
        Offload::Tcp => CSUM | TSO4 | TSO6,
        Offload::TcpAndUdp => CSUM | TSO4 | TSO6 | USO4 | USO6,
    };
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETOFFLOAD, features) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes reads and writes return instead of waiting.
pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointers.
    let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: no pointers.
    let result = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The kernel index of an interface in the calling thread's network namespace.
pub(crate) fn index(name: &str) -> io::Result<u32> {
    let name =
        std::ffi::CString::new(name).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: the string ends in NUL and lives across the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}
