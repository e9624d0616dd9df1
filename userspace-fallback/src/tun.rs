//! The TUN device.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ovpn_dco::{Error, Interface};

use crate::offload::virtio;
use crate::sys::tun::{self, NAME_MAX, Offload};

/// Which kernel features to use on the device. All on by default; what the kernel lacks is left
/// out silently, because it costs only speed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TunOptions {
    /// A virtio header in front of every packet: unfinished checksums and super-packets. Without
    /// it one packet is read and written at a time.
    pub vnet_header: bool,
    /// TCP super-packets (needs `vnet_header`).
    pub tcp: bool,
    /// UDP super-packets (needs `tcp`, and Linux 6.2).
    pub udp: bool,
}

impl Default for TunOptions {
    fn default() -> Self {
        Self { vnet_header: true, tcp: true, udp: true }
    }
}

/// A TUN device that this process reads and writes. Dropping it removes the interface, unless it
/// was made persistent by whoever made it.
#[derive(Debug)]
pub struct TunDevice {
    file: File,
    interface: Interface,
    vnet_header: bool,
    offload: Offload,
}

const CLONE_DEVICE: &str = "/dev/net/tun";
const PRIVILEGE: &str = "CAP_NET_ADMIN";

impl TunDevice {
    /// Creates a device in the calling thread's network namespace. `name`: `tun` takes the first
    /// free `tunN`; anything else is the exact name.
    ///
    /// # Errors
    /// Names what is missing: the device node, a privilege, a free name.
    pub fn create(name: &str, options: TunOptions) -> Result<Self, Error> {
        Self::create_with(
            || File::options().read(true).write(true).open(CLONE_DEVICE),
            name,
            options,
        )
    }

    /// [`Self::create`] where the device node `/dev/net/tun` is opened by somebody else, who has the
    /// right to.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn create_with(
        open: impl FnOnce() -> io::Result<File>,
        name: &str,
        options: TunOptions,
    ) -> Result<Self, Error> {
        check_name(name)?;
        let file = open().map_err(not_opened)?;
        let pattern = if name == "tun" { "tun%d" } else { name };
        // Every kernel since 2.6.27 has IFF_VNET_HDR, but a sandbox may pretend to be a kernel.
        let attached = match tun::attach(file.as_fd(), pattern, options.vnet_header) {
            Err(error) if options.vnet_header && error.raw_os_error() == Some(libc::EINVAL) => {
                tun::attach(file.as_fd(), pattern, false)
            }
            result => result,
        };
        attached.map_err(|source| not_created(source, name, tun::index(name).is_ok()))?;
        Self::from_file(file, options)
    }

    /// Takes a device that someone else made, for instance OpenVPN 3 Linux's netcfg service. Works
    /// with and without a virtio header; must be TUN (layer 3) without packet information.
    pub fn from_fd(fd: OwnedFd, options: TunOptions) -> Result<Self, Error> {
        Self::from_file(File::from(fd), options)
    }

    fn from_file(file: File, options: TunOptions) -> Result<Self, Error> {
        let io = |operation| move |source| Error::io(operation, source);
        let attached = tun::attached(file.as_fd()).map_err(io("reading the TUN device's flags"))?;
        if attached.flags & libc::IFF_TUN == 0 || attached.flags & libc::IFF_NO_PI == 0 {
            let what = format!("interface {}: other than TUN without packet info", attached.name);
            return Err(Error::Unsupported { what, by: "userspace" });
        }
        let vnet_header = attached.flags & libc::IFF_VNET_HDR != 0;
        let mut offload = Offload::None;
        if vnet_header {
            // Every device starts with this length; only one that was made by someone else may
            // have another, and then it must be possible to change it.
            if let Err(source) = tun::set_vnet_header_len(file.as_fd())
                && tun::vnet_header_len(file.as_fd()).is_ok_and(|len| len != virtio::LEN)
            {
                return Err(io("setting the TUN device's header length")(source));
            }
            offload = probe_offload(file.as_fd(), options);
        }
        tun::set_nonblocking(file.as_fd()).map_err(io("making the TUN device non-blocking"))?;
        let index = tun::index(&attached.name).map_err(io("looking up the TUN interface"))?;
        let interface = Interface { name: attached.name, index };
        Ok(Self { file, interface, vnet_header, offload })
    }

    /// Name and index.
    #[must_use]
    pub fn interface(&self) -> &Interface {
        &self.interface
    }

    /// Whether every packet has a virtio header in front.
    #[must_use]
    pub fn has_vnet_header(&self) -> bool {
        self.vnet_header
    }

    /// Whether the device takes TCP super-packets.
    #[must_use]
    pub fn takes_tcp(&self) -> bool {
        matches!(self.offload, Offload::Tcp | Offload::TcpAndUdp)
    }

    /// Whether the device takes UDP super-packets.
    #[must_use]
    pub fn takes_udp(&self) -> bool {
        self.offload == Offload::TcpAndUdp
    }

    /// Reads one packet or super-packet, with its header where the device has one.
    #[inline]
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buffer)
    }

    /// Writes one packet or super-packet.
    #[inline]
    pub(crate) fn write(&self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        (&self.file).write_vectored(pieces).map(|_| ())
    }

    /// Bytes in front of every packet.
    pub(crate) fn header_len(&self) -> usize {
        if self.vnet_header { virtio::LEN } else { 0 }
    }
}

fn check_name(name: &str) -> Result<(), Error> {
    if name.is_empty() || name.len() > NAME_MAX || name.contains(['/', '%', '\0']) {
        let what = format!("interface name {name:?} (1 to {NAME_MAX} bytes, no / or %)");
        return Err(Error::Malformed { what });
    }
    Ok(())
}

impl AsFd for TunDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The most that both the options and the kernel allow.
fn probe_offload(fd: BorrowedFd<'_>, options: TunOptions) -> Offload {
    let wanted: &[Offload] = match options {
        TunOptions { tcp: true, udp: true, .. } => {
            &[Offload::TcpAndUdp, Offload::Tcp, Offload::Checksum]
        }
        TunOptions { tcp: true, .. } => &[Offload::Tcp, Offload::Checksum],
        _ => &[Offload::None],
    };
    let granted = wanted.iter().find(|offload| tun::set_offload(fd, **offload).is_ok());
    granted.copied().unwrap_or(Offload::None)
}

/// A missing device is like a missing privilege: whoever runs this process has to grant it.
fn not_opened(source: io::Error) -> Error {
    let operation = "the TUN interface";
    match source.raw_os_error() {
        Some(libc::ENOENT) => Error::NotPermitted {
            operation,
            needs: "/dev/net/tun, which is missing (modprobe tun; in a container --device /dev/net/tun)",
        },
        // The node is there, but nothing is behind it.
        Some(libc::ENODEV | libc::ENXIO) => {
            Error::NotPermitted { operation, needs: "the kernel module tun (modprobe tun)" }
        }
        // The capability does not come into it before the device is open.
        Some(libc::EACCES) => Error::NotPermitted {
            operation,
            needs: "read and write access to /dev/net/tun (chmod 666 /dev/net/tun)",
        },
        Some(libc::EPERM) => Error::NotPermitted {
            operation,
            needs: "the device /dev/net/tun, which this container may not use (--device /dev/net/tun)",
        },
        _ => Error::io("opening /dev/net/tun", source),
    }
}

/// `exists`: there is an interface of that name already.
fn not_created(source: io::Error, name: &str, exists: bool) -> Error {
    const OPERATION: &str = "creating the TUN interface";
    let errno = source.raw_os_error().unwrap_or_default();
    let message = match errno {
        libc::EPERM | libc::EACCES => {
            return Error::NotPermitted { operation: OPERATION, needs: PRIVILEGE };
        }
        libc::EINVAL if exists => {
            format!(
                "{name} exists and is none: choose another dev, or delete it (ip link delete {name})"
            )
        }
        libc::EBUSY => format!("{name} is in use by another program: choose another dev"),
        _ => return Error::io(OPERATION, source),
    };
    Error::Kernel { operation: OPERATION, errno, message: Some(message) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_device_is_told_as_what_is_needed() {
        for (errno, words) in [
            (
                libc::ENOENT,
                "the TUN interface needs /dev/net/tun, which is missing (modprobe tun; in a container \
                 --device /dev/net/tun)",
            ),
            (libc::ENODEV, "the TUN interface needs the kernel module tun (modprobe tun)"),
            (libc::ENXIO, "the TUN interface needs the kernel module tun (modprobe tun)"),
            (
                libc::EACCES,
                "the TUN interface needs read and write access to /dev/net/tun \
                 (chmod 666 /dev/net/tun)",
            ),
            (
                libc::EPERM,
                "the TUN interface needs the device /dev/net/tun, which this container may not use \
                 (--device /dev/net/tun)",
            ),
        ] {
            let error = not_opened(io::Error::from_raw_os_error(errno));
            assert!(matches!(error, Error::NotPermitted { .. }), "{error:?}");
            assert_eq!(error.to_string(), words);
        }
        assert!(matches!(not_opened(io::Error::from_raw_os_error(libc::EMFILE)), Error::Io { .. }));
    }

    #[test]
    fn a_name_that_is_taken_is_told() {
        let told = |errno, exists| {
            not_created(io::Error::from_raw_os_error(errno), "office", exists).to_string()
        };
        assert!(told(libc::EINVAL, true).contains("office exists and is none"));
        assert!(!told(libc::EINVAL, false).contains("office"));
        assert!(told(libc::EBUSY, true).contains("office is in use by another program"));
        assert!(told(libc::EPERM, false).contains("CAP_NET_ADMIN"));
    }
}
