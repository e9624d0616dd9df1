//! The transport: a UDP socket or TCP connection to one server address, optionally through a
//! proxy. It moves whole packets and never looks inside them.
//!
//! While a data channel has a peer, control packets come and go through the [`ControlPort`] it
//! returned; [`Transport::attach`] and [`Transport::detach`] switch between the two.

mod proxy;
mod socket;
mod source;
mod tcp;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use ovpn_dco::{ControlPort, TransportSocket};
use socket2::SockRef;
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::mpsc::{self, error::TrySendError};

pub use proxy::ProxyError;
pub use socket::{Protect, SocketOptions};

use crate::fault::Fault;
use crate::profile::{Protocol, Proxy};
use crate::secret::Credentials;
use socket::Dial;
use tcp::TcpPackets;

/// Largest packet either transport can carry.
const MAX_PACKET: usize = 65_535;

/// How long the runtime may take to notice what has arrived.
const ARRIVED: Duration = Duration::from_millis(20);

/// Why no transport could be set up.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// A system call failed.
    #[error("{operation} {address}: {source}")]
    Io {
        /// What was tried, e.g. `connect to`.
        operation: &'static str,
        /// With which address.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// The proxy refused.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// The network service could not keep the socket out of the tunnel.
    #[error("cannot protect the socket to {address}: {reason}")]
    Protect {
        /// With which address.
        address: String,
        /// Why not.
        reason: String,
        /// No use in trying again.
        lasting: bool,
    },
}

impl TransportError {
    /// Whose fault it is. Where the network lies between, the other end's.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::ConnectionRefused
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::TimedOut => Fault::Peer,
                _ => Fault::Host,
            },
            Self::Proxy(ProxyError::NeedCredentials { .. } | ProxyError::BadCredentials { .. }) => {
                Fault::Misuse
            }
            Self::Proxy(_) => Fault::Peer,
            Self::Protect { .. } => Fault::Host,
        }
    }
}

/// Packets to and from one server.
#[derive(Debug)]
pub struct Transport {
    io: Io,
    protocol: Protocol,
    port: Option<Attached>,
    remote: SocketAddr,
    options: SocketOptions,
    send_errors: u64,
    /// Why the first packet over UDP that did not reach the server did not: the host's own reason, or
    /// what ICMP says, which anybody on the way can forge.
    trouble: Option<io::Error>,
    /// [`Self::has_room`] has said no.
    full: bool,
}

#[derive(Debug)]
enum Io {
    Udp {
        socket: UdpSocket,
        buffer: Box<[u8]>,
    },
    Tcp(TcpPackets),
    /// Not watched: a data channel reads and writes the socket, and the runtime would wake up for
    /// each of its packets. `None`: the runtime refused it on the way there or back.
    Unwatched(Option<Socket>),
}

#[derive(Debug)]
enum Socket {
    Udp(std::net::UdpSocket),
    Tcp(std::net::TcpStream),
}

impl Io {
    fn udp(socket: UdpSocket) -> Self {
        Self::Udp { socket, buffer: vec![0; MAX_PACKET].into() }
    }

    fn unwatched(self) -> io::Result<Self> {
        let socket = match self {
            Self::Udp { socket, .. } => Some(Socket::Udp(socket.into_std()?)),
            Self::Tcp(tcp) => Some(Socket::Tcp(tcp.into_std()?)),
            Self::Unwatched(socket) => socket,
        };
        Ok(Self::Unwatched(socket))
    }

    fn watched(self) -> io::Result<Self> {
        Ok(match self {
            Self::Unwatched(Some(Socket::Udp(socket))) => Self::udp(UdpSocket::from_std(socket)?),
            Self::Unwatched(Some(Socket::Tcp(stream))) => {
                Self::Tcp(TcpPackets::new(TcpStream::from_std(stream)?))
            }
            other => other,
        })
    }
}

fn unusable() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the transport socket is not in use here")
}

/// The way of control packets while a data channel reads the socket.
#[derive(Debug)]
enum Attached {
    Socket,
    Channel { incoming: mpsc::Receiver<Vec<u8>>, outgoing: mpsc::Sender<Vec<u8>> },
}

impl Transport {
    fn new(io: Io, protocol: Protocol, remote: SocketAddr, options: &SocketOptions) -> Self {
        let options = options.clone();
        Self {
            io,
            protocol,
            port: None,
            remote,
            options,
            send_errors: 0,
            trouble: None,
            full: false,
        }
    }

    /// A UDP socket connected to `remote`. Connecting filters packets from elsewhere, which also
    /// keeps forged packets from moving the peer in kernels that float before authentication.
    pub async fn udp(
        remote: SocketAddr,
        options: &SocketOptions,
        protect: &impl Protect,
    ) -> Result<Self, TransportError> {
        let socket = socket::udp(remote, options)?;
        protect.protect(&socket, remote).await?;
        socket.connect(&remote.into()).map_err(|e| socket::failed("connect to", remote, e))?;
        let socket = UdpSocket::from_std(socket.into())
            .map_err(|e| socket::failed("use the socket to", remote, e))?;
        // Until the runtime knows that it can send, it refuses to, and the first packet would only
        // go out with its retransmission.
        socket.writable().await.map_err(|e| socket::failed("send to", remote, e))?;
        Ok(Self::new(Io::udp(socket), Protocol::Udp, remote, options))
    }

    /// A TCP connection to `remote`.
    pub async fn tcp(
        remote: SocketAddr,
        options: &SocketOptions,
        protect: &impl Protect,
    ) -> Result<Self, TransportError> {
        let stream = Dial { remote, options, protect }.tcp().await?;
        Ok(Self::new(Io::Tcp(TcpPackets::new(stream)), Protocol::Tcp, remote, options))
    }

    /// A TCP connection to `host:port` through `proxy`, which is at `address`. `credentials` given
    /// by the user win over the profile's.
    pub async fn tcp_via_proxy(
        address: SocketAddr,
        proxy: &Proxy,
        credentials: Option<&Credentials>,
        host: &str,
        port: u16,
        options: &SocketOptions,
        protect: &impl Protect,
    ) -> Result<Self, TransportError> {
        let credentials = credentials.or(proxy.credentials.as_ref());
        let request = proxy::Request { host, port, credentials };
        let dial = Dial { remote: address, options, protect };
        let stream = proxy::open(proxy, request, &dial).await?;
        Ok(Self::new(Io::Tcp(TcpPackets::new(stream)), Protocol::Tcp, address, options))
    }

    /// UDP or TCP.
    pub const fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The address packets go to (the proxy's, with a proxy).
    pub const fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// Where packets come from.
    ///
    /// # Errors
    /// As the system call for it.
    pub fn source(&self) -> io::Result<IpAddr> {
        source::local(SockRef::from(&self.descriptor()?))
    }

    /// Where packets would come from if the transport were opened now. Sends nothing.
    ///
    /// # Errors
    /// Nothing leads to the remote address, or a profile's `local` is no address of this host now.
    pub fn source_now(&self) -> io::Result<IpAddr> {
        source::now(self.remote, &self.options)
    }

    /// The same, with the largest packet that the way to the remote address takes in one piece now, as
    /// the kernel knows it: bytes, IP header included.
    ///
    /// # Errors
    /// As [`Self::source_now`].
    pub fn path_now(&self) -> io::Result<(IpAddr, u16)> {
        source::path(self.remote, &self.options)
    }

    /// Has packets come from [`Self::source_now`]. UDP only. Whoever shares the socket shares that.
    ///
    /// # Errors
    /// Nothing leads to the remote address.
    pub fn choose_source_again(&self) -> io::Result<()> {
        source::choose_again(self.descriptor()?, self.remote)
    }

    /// The next control packet (any packet while nothing is attached), without TCP length, into
    /// `packet`. An empty one: nothing was received, but there is room again that
    /// [`Self::has_room`] did not find. Cancel safe. An error is the end of the transport; UDP has
    /// none that is.
    pub async fn recv(&mut self, packet: &mut Vec<u8>) -> io::Result<()> {
        packet.clear();
        match (&mut self.port, &mut self.io) {
            (Some(Attached::Channel { incoming, outgoing }), _) => tokio::select! {
                received = incoming.recv() => match received {
                    Some(received) => *packet = received,
                    // The data channel tells why by an event of its own.
                    None => std::future::pending().await,
                },
                Ok(_) = outgoing.reserve(), if self.full => self.full = false,
            },
            (_, Io::Udp { socket, buffer }) => loop {
                match socket.recv(buffer).await {
                    Ok(len) => {
                        packet.extend_from_slice(buffer.get(..len).unwrap_or_default());
                        return Ok(());
                    }
                    // ICMP errors of earlier sends: the server may not be there yet.
                    Err(error) => note(&mut self.trouble, self.remote, error),
                }
            },
            (_, Io::Tcp(tcp)) => tcp.recv(packet, self.full).await?,
            (_, Io::Unwatched(_)) => return Err(unusable()),
        }
        Ok(())
    }

    /// A packet that had arrived before the transport broke, into `packet`; false: there is none.
    pub async fn recv_arrived(&mut self, packet: &mut Vec<u8>) -> bool {
        if let Some(Attached::Channel { incoming, .. }) = &mut self.port {
            return match incoming.try_recv() {
                Ok(received) => {
                    *packet = received;
                    true
                }
                Err(_) => false,
            };
        }
        // The runtime may not have noticed yet.
        let received = tokio::time::timeout(ARRIVED, self.recv(packet)).await;
        matches!(received, Ok(Ok(())))
    }

    /// Whether [`Self::send`] takes another packet. A server that reads nothing fills a stream and
    /// every queue before it, so what is to be sent then waits where it is made, and nothing waits
    /// for the server. UDP always has room: what there is no room for is lost.
    pub fn has_room(&mut self) -> bool {
        let room = match (&self.port, &self.io) {
            _ if self.protocol == Protocol::Udp => true,
            // One that is closed has an error to tell.
            (Some(Attached::Channel { outgoing, .. }), _) => {
                outgoing.capacity() > 0 || outgoing.is_closed()
            }
            (_, Io::Tcp(tcp)) => tcp.has_room(),
            (_, Io::Udp { .. } | Io::Unwatched(_)) => true,
        };
        self.full = !room;
        room
    }

    /// Sends one packet, without waiting. UDP drops what cannot be sent now (the control channel
    /// retransmits); TCP keeps it for [`Self::recv`] and [`Self::flush`], and drops it only without
    /// [`Self::has_room`].
    pub fn send(&mut self, packet: &[u8]) -> io::Result<()> {
        let sent = match (&mut self.port, &mut self.io) {
            (Some(Attached::Channel { outgoing, .. }), _) => {
                outgoing.try_send(packet.to_vec()).map_err(|error| match error {
                    TrySendError::Full(_) => io::ErrorKind::WouldBlock.into(),
                    TrySendError::Closed(_) => io::ErrorKind::BrokenPipe.into(),
                })
            }
            (_, Io::Unwatched(_)) => return Err(unusable()),
            (_, Io::Udp { socket, .. }) => socket.try_send(packet).map(drop),
            (_, Io::Tcp(tcp)) => tcp.send(packet),
        };
        let Err(error) = sent else { return Ok(()) };
        self.send_errors += 1;
        match self.protocol {
            Protocol::Tcp if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            Protocol::Tcp | Protocol::Udp => {
                note(&mut self.trouble, self.remote, error);
                Ok(())
            }
        }
    }

    /// Why the first packet did not reach the server, over UDP.
    pub const fn take_trouble(&mut self) -> Option<io::Error> {
        self.trouble.take()
    }

    /// How many packets could not be sent.
    pub const fn send_errors(&self) -> u64 {
        self.send_errors
    }

    /// Writes what TCP could not take at once; [`Self::recv`] does too. Cancel safe.
    pub async fn flush(&mut self) -> io::Result<()> {
        match &mut self.io {
            Io::Tcp(tcp) => tcp.flush().await,
            Io::Udp { .. } | Io::Unwatched(_) => Ok(()),
        }
    }

    /// Whether the stream stands between two packets (always, on UDP): the only place where a
    /// kernel data channel may take it over.
    pub fn at_packet_boundary(&self) -> bool {
        match &self.io {
            Io::Tcp(tcp) => tcp.at_boundary(),
            Io::Udp { .. } | Io::Unwatched(_) => true,
        }
    }

    /// Whether a stream holds bytes (or its end) that nobody has read yet. Does not wait.
    pub fn has_unread(&self) -> bool {
        match &self.io {
            Io::Tcp(tcp) => tcp.has_unread(),
            Io::Udp { .. } | Io::Unwatched(_) => false,
        }
    }

    /// Bytes of a packet read only in part, length included; the stream is at a boundary after.
    pub fn take_residue(&mut self) -> Vec<u8> {
        match &mut self.io {
            Io::Tcp(tcp) => tcp.take_residue(),
            Io::Udp { .. } | Io::Unwatched(_) => Vec::new(),
        }
    }

    fn descriptor(&self) -> io::Result<BorrowedFd<'_>> {
        Ok(match &self.io {
            Io::Udp { socket, .. } => socket.as_fd(),
            Io::Tcp(tcp) => tcp.as_fd(),
            Io::Unwatched(Some(Socket::Udp(socket))) => socket.as_fd(),
            Io::Unwatched(Some(Socket::Tcp(stream))) => stream.as_fd(),
            Io::Unwatched(None) => return Err(unusable()),
        })
    }

    /// A duplicate of the socket for a data channel.
    pub fn share(&self) -> io::Result<TransportSocket> {
        let socket = self.descriptor()?.try_clone_to_owned()?;
        Ok(match self.protocol {
            Protocol::Udp => TransportSocket::Udp(socket),
            Protocol::Tcp => TransportSocket::Tcp(socket),
        })
    }

    /// Control packets take the data channel's way from now on.
    pub fn attach(&mut self, port: ControlPort) -> io::Result<()> {
        self.port = Some(match port {
            ControlPort::Socket { tcp_packets } => {
                if let Io::Tcp(tcp) = &mut self.io {
                    tcp.set_one_packet_per_read(tcp_packets);
                }
                Attached::Socket
            }
            ControlPort::Channel { incoming, outgoing } => {
                self.io = std::mem::replace(&mut self.io, Io::Unwatched(None)).unwatched()?;
                Attached::Channel { incoming, outgoing }
            }
        });
        Ok(())
    }

    /// Back to the socket itself (after the data channel's peer was deleted).
    pub fn detach(&mut self) -> io::Result<()> {
        self.port = None;
        self.io = std::mem::replace(&mut self.io, Io::Unwatched(None)).watched()?;
        if let Io::Tcp(tcp) = &mut self.io {
            tcp.set_one_packet_per_read(false);
        }
        Ok(())
    }
}

/// What becomes of a packet that is sent again anyway: the first one is told of.
fn note(trouble: &mut Option<io::Error>, remote: SocketAddr, error: io::Error) {
    // No room is no reason.
    if trouble.is_some() || error.kind() == io::ErrorKind::WouldBlock {
        tracing::debug!("{remote}: {error}");
    } else {
        tracing::warn!("a packet did not reach {remote}: {error}; it is sent again");
        *trouble = Some(error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A socket that a data channel has had works as before.
    #[tokio::test]
    async fn a_socket_comes_back() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let remote = server.local_addr().unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(remote).await.unwrap();
        let local = socket.local_addr().unwrap();
        let mut transport =
            Transport::new(Io::udp(socket), Protocol::Udp, remote, &SocketOptions::default());
        let (to_caller, incoming) = mpsc::channel(1);
        let (outgoing, mut from_caller) = mpsc::channel(1);
        transport.attach(ControlPort::Channel { incoming, outgoing }).unwrap();
        assert!(matches!(transport.io, Io::Unwatched(Some(_))));
        assert!(transport.share().is_ok());
        transport.send(b"up").unwrap();
        assert_eq!(from_caller.recv().await.unwrap(), b"up");
        to_caller.send(b"down".to_vec()).await.unwrap();
        let mut packet = Vec::new();
        transport.recv(&mut packet).await.unwrap();
        assert_eq!(packet, b"down");

        transport.detach().unwrap();
        server.send_to(b"again", local).await.unwrap();
        transport.recv(&mut packet).await.unwrap();
        assert_eq!(packet, b"again");
    }

    struct Unprotected;

    impl Protect for Unprotected {
        async fn protect(&self, _: &socket2::Socket, _: SocketAddr) -> Result<(), TransportError> {
            Ok(())
        }
    }

    /// Its port stays, and strangers are not heard afterwards either.
    #[tokio::test]
    async fn a_source_that_is_chosen_again() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let server = UdpSocket::bind(any).await.unwrap();
            let stranger = UdpSocket::bind(any).await.unwrap();
            let remote = server.local_addr().unwrap();
            let options = SocketOptions::default();
            let mut transport = Transport::udp(remote, &options, &Unprotected).await.unwrap();
            let (mut packet, mut buffer) = (Vec::new(), [0; 16]);
            transport.send(b"first").unwrap();
            let (_, before) = server.recv_from(&mut buffer).await.unwrap();
            assert_eq!(transport.source().unwrap(), transport.source_now().unwrap());
            transport.choose_source_again().unwrap();
            transport.send(b"second").unwrap();
            let (_, after) = server.recv_from(&mut buffer).await.unwrap();
            assert_eq!(before, after);
            stranger.send_to(b"forged", after).await.unwrap();
            server.send_to(b"genuine", after).await.unwrap();
            transport.recv(&mut packet).await.unwrap();
            assert_eq!(packet, b"genuine");
        }
    }

    async fn tcp() -> (Transport, TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let remote = listener.local_addr().unwrap();
        let stream = TcpStream::connect(remote).await.unwrap();
        let (io, options) = (Io::Tcp(TcpPackets::new(stream)), SocketOptions::default());
        (Transport::new(io, Protocol::Tcp, remote, &options), listener.accept().await.unwrap().0)
    }

    /// Sends numbered packets until there is no room; how many.
    fn fill(transport: &mut Transport) -> u32 {
        let mut sent = 0u32;
        while transport.has_room() {
            let number = sent.to_be_bytes();
            transport.send(&[&number[..], &[0; 5000]].concat()).unwrap();
            sent += 1;
            assert!(sent < 20_000, "100 MB wait to be sent");
        }
        sent
    }

    /// Nothing waits for a server that does not read; nothing is lost, and once it reads things go
    /// on.
    #[tokio::test]
    async fn a_stream_that_nobody_reads() {
        use tokio::io::AsyncReadExt;
        let (mut transport, mut server) = tcp().await;
        let sent = fill(&mut transport);
        let mut packet = Vec::new();
        let quiet = tokio::time::timeout(Duration::from_millis(50), transport.recv(&mut packet));
        assert!(quiet.await.is_err(), "no room");
        let reader = tokio::spawn(async move {
            for number in 0..=sent {
                let mut packet = [0; 5006];
                server.read_exact(&mut packet).await.unwrap();
                assert_eq!(packet[..6], [&[0x13, 0x8c], &number.to_be_bytes()[..]].concat());
            }
        });
        transport.recv(&mut packet).await.unwrap();
        assert!(packet.is_empty() && transport.has_room());
        transport.send(&[&sent.to_be_bytes()[..], &[0; 5000]].concat()).unwrap();
        transport.flush().await.unwrap();
        reader.await.unwrap();
        assert_eq!(transport.send_errors(), 0);
    }

    #[tokio::test]
    async fn a_busy_data_channel_of_a_stream() {
        let (mut transport, _server) = tcp().await;
        let (to_caller, incoming) = mpsc::channel(1);
        let (outgoing, mut from_caller) = mpsc::channel(2);
        transport.attach(ControlPort::Channel { incoming, outgoing }).unwrap();
        assert_eq!(fill(&mut transport), 2);
        to_caller.send(b"down".to_vec()).await.unwrap();
        let mut packet = Vec::new();
        transport.recv(&mut packet).await.unwrap();
        assert_eq!(packet, b"down", "full in one direction only");
        let quiet = tokio::time::timeout(Duration::from_millis(50), transport.recv(&mut packet));
        assert!(quiet.await.is_err(), "no room");
        from_caller.recv().await.unwrap();
        transport.recv(&mut packet).await.unwrap();
        assert!(packet.is_empty());
        assert_eq!(fill(&mut transport), 1);
        drop(from_caller);
        assert!(transport.has_room(), "for an error");
        let error = transport.send(b"lost").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn packets_that_cannot_be_sent_are_counted() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let remote = server.local_addr().unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(remote).await.unwrap();
        socket.writable().await.unwrap();
        let mut transport =
            Transport::new(Io::udp(socket), Protocol::Udp, remote, &SocketOptions::default());
        transport.send(b"fits").unwrap();
        assert_eq!(transport.send_errors(), 0);
        // No IP packet can hold it.
        transport.send(&[0; MAX_PACKET]).unwrap();
        assert_eq!(transport.send_errors(), 1);

        let (_to_caller, incoming) = mpsc::channel(1);
        let (outgoing, _from_caller) = mpsc::channel(1);
        transport.attach(ControlPort::Channel { incoming, outgoing }).unwrap();
        transport.send(b"taken").unwrap();
        transport.send(b"too many").unwrap();
        assert_eq!(transport.send_errors(), 2);
    }
}
