//! The source address of UDP packets: which one the kernel would choose now, and how large packets may
//! be on that way; and choosing again for a socket that is in use.
//!
//! Connecting a socket gives it the source address of that moment, for good: packets of the server
//! to another address do not reach it, and once the address has gone nothing can be sent. Only
//! disconnecting takes it back, and with it a port that nobody has bound.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::sys::socket::{SockaddrIn, getsockopt, sockopt};
use nix::{getsockopt_impl, sockopt_impl};
use socket2::{SockRef, Socket};

use super::socket::{self, SocketOptions};

/// How many free ports are tried: another program may take one in between.
const TRIES: usize = 8;

/// Binds a socket to a free port that it keeps, whatever becomes of its address.
pub(super) fn bind_free_port(socket: &Socket, remote: SocketAddr) -> io::Result<()> {
    let any = match remote {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let mut tried = 0;
    loop {
        // A port that is asked for by its number is kept, one that the kernel chooses is not.
        let free = std::net::UdpSocket::bind((any, 0))?.local_addr()?.port();
        match socket.bind(&SocketAddr::new(any, free).into()) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tried < TRIES => tried += 1,
            bound => return bound,
        }
    }
}

/// Where a UDP socket with these options would send from, to `remote`, now.
pub(super) fn now(remote: SocketAddr, options: &SocketOptions) -> io::Result<IpAddr> {
    local(SockRef::from(&probe(remote, options)?))
}

/// The same, with the largest packet that the way there takes in one piece, as the kernel knows it: of
/// the route, or what a router on it has said of late (which the kernel believes only about packets of
/// ours). Bytes, IP header included; `u16::MAX` for more than that.
pub(super) fn path(remote: SocketAddr, options: &SocketOptions) -> io::Result<(IpAddr, u16)> {
    // One that is in use knows only what was true when it sent last.
    let probe = probe(remote, options)?;
    let mtu = match remote {
        SocketAddr::V4(_) => getsockopt(&probe, sockopt::IpMtu)?,
        SocketAddr::V6(_) => getsockopt(&probe, Ipv6Mtu)?,
    };
    Ok((local(SockRef::from(&probe))?, u16::try_from(mtu).unwrap_or(u16::MAX)))
}

sockopt_impl!(
    /// What `IP_MTU` is for IPv4.
    Ipv6Mtu,
    GetOnly,
    libc::IPPROTO_IPV6,
    libc::IPV6_MTU,
    libc::c_int
);

/// A socket with these options that is connected now, and sends nothing.
fn probe(remote: SocketAddr, options: &SocketOptions) -> io::Result<Socket> {
    let options = SocketOptions { local_port: None, ..options.clone() };
    let probe = socket::unbound_udp(remote, &options).map_err(io::Error::other)?;
    probe.connect(&remote.into())?;
    Ok(probe)
}

/// The address that a socket sends from.
pub(super) fn local(socket: SockRef<'_>) -> io::Result<IpAddr> {
    let address = socket.local_addr()?.as_socket();
    address.map(|address| address.ip()).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// Has the kernel choose the source address of a connected UDP socket again. Its port and what waits
/// to be read stay. For an instant it takes packets from anybody: everything that is read has to
/// prove itself anyway.
///
/// # Errors
/// Nothing leads to `remote`: then it is not connected any more, and takes packets from anybody.
pub(super) fn choose_again(socket: BorrowedFd<'_>, remote: SocketAddr) -> io::Result<()> {
    let none = SockaddrIn::from(libc::sockaddr_in {
        sin_family: libc::AF_UNSPEC as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: 0 },
        sin_zero: [0; 8],
    });
    nix::sys::socket::connect(socket.as_raw_fd(), &none)?;
    SockRef::from(&socket).connect(&remote.into())
}
