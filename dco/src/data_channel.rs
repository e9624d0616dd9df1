//! The data channel contract: the operations that the kernel offers, and every implementation
//! keeps.
//!
//! Semantics that hold for all implementations (one contract test suite checks them):
//!
//! - One peer at a time. [`DataChannel::new_peer`] on an occupied channel replaces the peer.
//! - At most two keys, by one rule ([`crate::Slots`]): one encrypts, both decrypt, chosen by key id.
//!   Without one that encrypts nothing is sent.
//! - [`DataChannel::install`] with an id that is there replaces that key; packet ids start at 1 again.
//! - [`DataChannel::promote`] loses no packet in flight.
//! - Retiring a key that is not there succeeds.
//! - Pings are consumed, never delivered.
//! - Commands for a peer that does not exist fail with [`crate::Error::NoSuchPeer`].
//! - A peer that disappears by itself is told by exactly one [`DataEvent::PeerDeleted`]; deleting
//!   or replacing it yourself tells nothing.
//! - Events are about the present peer. Once it is deleted or replaced, nothing more is told of it,
//!   even if it happened before: implementations number their peers ([`crate::Generation`]) or
//!   empty their queue in between.
//! - Control packets that came before the transport broke are there to be read when that is told.

use std::fmt;
use std::future::Future;

use crate::error::{Error, NotInstalled};
use crate::slots::Slots;
use crate::types::{KeyConfig, KeyId, PeerConfig, PeerStats};

/// Why a peer disappeared. Numbers and names as in `include/uapi/linux/ovpn.h`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PeerDeletedReason {
    /// The interface went away, or something else replaced the peer.
    Teardown,
    /// Another process deleted it.
    Userspace,
    /// Nothing authenticated was received for the keepalive timeout.
    Expired,
    /// The TCP stream broke or carried nonsense.
    TransportError,
    /// The transport socket was closed.
    TransportDisconnect,
}

impl fmt::Display for PeerDeletedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Teardown => "teardown",
            Self::Userspace => "userspace",
            Self::Expired => "expired",
            Self::TransportError => "transport error",
            Self::TransportDisconnect => "transport disconnected",
        })
    }
}

/// What a data channel tells by itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DataEvent {
    /// The peer is gone, with its keys.
    PeerDeleted(PeerDeletedReason),
    /// The key is near (or at) the end of its packet ids or usage limit: renegotiate now.
    KeyExhausted(KeyId),
    /// The server is reached at another address now.
    Floated(std::net::SocketAddr),
    /// The server said in-band that it exits (OCC EXIT; userspace only).
    PeerExit,
    /// The data path itself is gone (module removed, device deleted, worker dead): only another
    /// data channel can go on.
    Failed(String),
}

/// How the control channel reaches the server while a peer exists.
///
/// With the kernel the socket stays readable and writable for control packets, so the caller goes
/// on using its own. In userspace one reader owns the socket: it hands every control packet over,
/// and on TCP it is also the only writer.
#[derive(Debug)]
pub enum ControlPort {
    /// Go on with your own descriptor. `tcp_packets`: on TCP, one `recv` gives exactly one packet
    /// (length prefix included) instead of a byte stream.
    Socket {
        /// See the variant.
        tcp_packets: bool,
    },
    /// Packets without TCP length prefix, both ways.
    Channel {
        /// Control packets received. Bounded; a full queue drops (the control channel
        /// retransmits). Closed when the worker ends.
        incoming: tokio::sync::mpsc::Receiver<Vec<u8>>,
        /// Control packets to send.
        outgoing: tokio::sync::mpsc::Sender<Vec<u8>>,
    },
}

/// A data channel bound to one network interface.
pub trait DataChannel: Send {
    /// Name and index of the network interface that carries the tunnel's packets.
    fn interface(&self) -> &Interface;

    /// Starts (or replaces) the peer. A TCP stream stands between two packets.
    fn new_peer(
        &mut self,
        peer: PeerConfig,
    ) -> impl Future<Output = Result<ControlPort, Error>> + Send;

    /// Adds a key. It encrypts at once if no other does; otherwise it only decrypts until it is
    /// promoted, in place of one that was never promoted or no longer encrypts. Whoever does not get
    /// it back must never install it again, anywhere.
    fn install(&mut self, key: KeyConfig) -> impl Future<Output = Result<(), NotInstalled>> + Send;

    /// Encrypts with this key from now on; the one before goes on decrypting.
    /// [`Error::NoSuchKey`] if it is not there, as far as the implementation can tell: then the one
    /// before goes on encrypting.
    fn promote(&mut self, key: KeyId) -> impl Future<Output = Result<(), Error>> + Send;

    /// Deletes a key.
    fn retire(&mut self, key: KeyId) -> impl Future<Output = Result<(), Error>> + Send;

    /// The keys that are there.
    fn keys(&mut self) -> impl Future<Output = Result<Slots<()>, Error>> + Send;

    /// The peer's counters.
    fn stats(&mut self) -> impl Future<Output = Result<PeerStats, Error>> + Send;

    /// Sends the in-band exit notification (OCC EXIT), where the implementation can.
    /// [`Error::Unsupported`] otherwise.
    fn notify_exit(&mut self) -> impl Future<Output = Result<(), Error>> + Send;

    /// The way to the server is another one now; on UDP the transport socket's source address may be,
    /// too. Packets go that way, and come from that address, from now on. True: one that the server
    /// can authenticate went at once, if there is a key, so that it knows. False: the next one will
    /// tell it.
    ///
    /// [`Error::Unsupported`] where packets would go on coming from the address before.
    fn announce(&mut self) -> impl Future<Output = Result<bool, Error>> + Send;

    /// Deletes the peer and its keys, and tells what it has counted in the end. When it returns the
    /// transport socket is the caller's alone.
    ///
    /// A peer that has disappeared by itself is [`Error::NoSuchPeer`]; where the implementation
    /// still knows its counters it tells them instead, once.
    fn del_peer(&mut self) -> impl Future<Output = Result<PeerStats, Error>> + Send;

    /// The next event. Cancel safe.
    fn next_event(&mut self) -> impl Future<Output = DataEvent> + Send;

    /// Deletes the peer and removes the network interface, if this channel created it.
    fn close(self) -> impl Future<Output = Result<(), Error>> + Send
    where
        Self: Sized;
}

/// One of two data channels, chosen at run time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Either<A, B> {
    /// The one.
    First(A),
    /// The other.
    Second(B),
}

impl<A: DataChannel, B: DataChannel> DataChannel for Either<A, B> {
    fn interface(&self) -> &Interface {
        match self {
            Self::First(channel) => channel.interface(),
            Self::Second(channel) => channel.interface(),
        }
    }

    async fn new_peer(&mut self, peer: PeerConfig) -> Result<ControlPort, Error> {
        match self {
            Self::First(channel) => channel.new_peer(peer).await,
            Self::Second(channel) => channel.new_peer(peer).await,
        }
    }

    async fn install(&mut self, key: KeyConfig) -> Result<(), NotInstalled> {
        match self {
            Self::First(channel) => channel.install(key).await,
            Self::Second(channel) => channel.install(key).await,
        }
    }

    async fn promote(&mut self, key: KeyId) -> Result<(), Error> {
        match self {
            Self::First(channel) => channel.promote(key).await,
            Self::Second(channel) => channel.promote(key).await,
        }
    }

    async fn retire(&mut self, key: KeyId) -> Result<(), Error> {
        match self {
            Self::First(channel) => channel.retire(key).await,
            Self::Second(channel) => channel.retire(key).await,
        }
    }

    async fn keys(&mut self) -> Result<Slots<()>, Error> {
        match self {
            Self::First(channel) => channel.keys().await,
            Self::Second(channel) => channel.keys().await,
        }
    }

    async fn stats(&mut self) -> Result<PeerStats, Error> {
        match self {
            Self::First(channel) => channel.stats().await,
            Self::Second(channel) => channel.stats().await,
        }
    }

    async fn notify_exit(&mut self) -> Result<(), Error> {
        match self {
            Self::First(channel) => channel.notify_exit().await,
            Self::Second(channel) => channel.notify_exit().await,
        }
    }

    async fn announce(&mut self) -> Result<bool, Error> {
        match self {
            Self::First(channel) => channel.announce().await,
            Self::Second(channel) => channel.announce().await,
        }
    }

    async fn del_peer(&mut self) -> Result<PeerStats, Error> {
        match self {
            Self::First(channel) => channel.del_peer().await,
            Self::Second(channel) => channel.del_peer().await,
        }
    }

    async fn next_event(&mut self) -> DataEvent {
        match self {
            Self::First(channel) => channel.next_event().await,
            Self::Second(channel) => channel.next_event().await,
        }
    }

    async fn close(self) -> Result<(), Error> {
        match self {
            Self::First(channel) => channel.close().await,
            Self::Second(channel) => channel.close().await,
        }
    }
}

/// A network interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interface {
    /// Kernel name, at most 15 bytes.
    pub name: String,
    /// Kernel index.
    pub index: u32,
}
