//! Sockets with the profile's options set before they are connected.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

use super::{TransportError, source};

/// What the profile says about local sockets.
#[derive(Clone, Debug, Default)]
pub struct SocketOptions {
    /// `local`
    pub local: Option<IpAddr>,
    /// `lport`
    pub local_port: Option<u16>,
    /// `mark`
    pub mark: Option<u32>,
    /// `bind-dev`
    pub bind_dev: Option<String>,
    /// `sndbuf`, bytes.
    pub sndbuf: Option<usize>,
    /// `rcvbuf`, bytes.
    pub rcvbuf: Option<usize>,
}

/// Keeps a socket's traffic out of the tunnel before it is used.
pub trait Protect {
    /// Called with the unconnected socket and the address it will be connected to.
    fn protect(
        &self,
        socket: &Socket,
        remote: SocketAddr,
    ) -> impl Future<Output = Result<(), TransportError>> + Send;
}

pub(super) fn failed(
    operation: &'static str,
    address: impl ToString,
    source: io::Error,
) -> TransportError {
    TransportError::Io { operation, address: address.to_string(), source }
}

/// Bound to a port that it keeps.
pub(super) fn udp(remote: SocketAddr, options: &SocketOptions) -> Result<Socket, TransportError> {
    let socket = unbound_udp(remote, options)?;
    if options.local.is_none() && options.local_port.is_none() {
        source::bind_free_port(&socket, remote).map_err(|e| failed("bind to", "a free port", e))?;
    }
    Ok(socket)
}

/// Bound where the options say so.
pub(super) fn unbound_udp(
    remote: SocketAddr,
    options: &SocketOptions,
) -> Result<Socket, TransportError> {
    let socket = Socket::new(Domain::for_address(remote), Type::DGRAM, None)
        .map_err(|e| failed("open a UDP socket for", remote, e))?;
    prepare(&socket, remote, options)?;
    Ok(socket)
}

/// How a TCP connection is made, as often as it takes.
pub(super) struct Dial<'a, P> {
    pub(super) remote: SocketAddr,
    pub(super) options: &'a SocketOptions,
    pub(super) protect: &'a P,
}

impl<P: Protect> Dial<'_, P> {
    pub(super) async fn tcp(&self) -> Result<TcpStream, TransportError> {
        let remote = self.remote;
        let socket = Socket::new(Domain::for_address(remote), Type::STREAM, None)
            .map_err(|e| failed("open a TCP socket for", remote, e))?;
        prepare(&socket, remote, self.options)?;
        socket.set_tcp_nodelay(true).map_err(|e| failed("set TCP_NODELAY for", remote, e))?;
        self.protect.protect(&socket, remote).await?;
        TcpSocket::from_std_stream(socket.into())
            .connect(remote)
            .await
            .map_err(|e| failed("connect to", remote, e))
    }
}

fn prepare(
    socket: &Socket,
    remote: SocketAddr,
    options: &SocketOptions,
) -> Result<(), TransportError> {
    socket.set_nonblocking(true).map_err(|e| failed("prepare the socket for", remote, e))?;
    // The kernel clamps both to its limits; a smaller buffer is no reason to fail.
    if let Some(bytes) = options.sndbuf {
        let _ = socket.set_send_buffer_size(bytes);
    }
    if let Some(bytes) = options.rcvbuf {
        let _ = socket.set_recv_buffer_size(bytes);
    }
    if let Some(mark) = options.mark {
        socket.set_mark(mark).map_err(|e| failed("set the mark on the socket to", remote, e))?;
    }
    if let Some(device) = &options.bind_dev {
        socket
            .bind_device(Some(device.as_bytes()))
            .map_err(|e| failed("bind to the bind-dev device for", remote, e))?;
    }
    if options.local.is_some() || options.local_port.is_some() {
        let any = match remote {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let local = SocketAddr::new(options.local.unwrap_or(any), options.local_port.unwrap_or(0));
        socket.set_reuse_address(true).map_err(|e| failed("prepare the socket for", remote, e))?;
        socket.bind(&local.into()).map_err(|e| failed("bind to", local, e))?;
    }
    Ok(())
}
