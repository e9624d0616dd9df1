//! The words both data planes speak: peers, key slots, ciphers, keys, statistics.
//!
//! Nothing here knows a kernel constant; [`crate::kernel`] maps these types to each API's numbers.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use zeroize::Zeroize;

use crate::format::Cipher;

/// The 24-bit number that names a peer in DATA_V2 packets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PeerId(u32);

impl PeerId {
    /// The value that means "no peer-id" on the wire (0xFFFFFF).
    pub const UNDEFINED: Self = Self(0x00ff_ffff);

    /// `None` when `id` needs more than 24 bits.
    pub const fn new(id: u32) -> Option<Self> {
        if id <= Self::UNDEFINED.0 { Some(Self(id)) } else { None }
    }

    /// The number, below 2^24.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The 3-bit key id in the first byte of every packet. The first key of a connection is 0; each
/// soft reset takes the next one, and after 7 comes 1 (0 is never used again).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct KeyId(u8);

impl KeyId {
    /// The id of the first key of every connection.
    pub const FIRST: Self = Self(0);

    /// `None` when `id` is above 7.
    pub const fn new(id: u8) -> Option<Self> {
        if id <= 7 { Some(Self(id)) } else { None }
    }

    /// The key id in the low three bits of a packet's first byte.
    pub const fn from_first_byte(byte: u8) -> Self {
        Self(byte & 7)
    }

    /// The number, at most 7.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// The id the next soft reset uses.
    pub const fn next(self) -> Self {
        if self.0 >= 7 { Self(1) } else { Self(self.0 + 1) }
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A peer's two key slots, as the kernel has them. The primary key encrypts; both decrypt, chosen by
/// key id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum KeySlot {
    /// Encrypts and decrypts.
    Primary,
    /// Decrypts only, until the slots are swapped.
    Secondary,
}

/// Key material of one direction: cipher key, and what the cipher's format has beside it.
///
/// Wiped on drop; has no usable `Debug` output. The key is in one place, however often the value
/// moves, and there are no copies: see [`KeyConfig`].
#[derive(Zeroize, zeroize::ZeroizeOnDrop)]
pub struct DirectionKey {
    cipher_key: Box<[u8]>,
    second_key: Box<[u8]>,
}

impl DirectionKey {
    /// Takes the first [`Cipher::key_len`] bytes of `cipher_key`, and of `second_key` what
    /// [`crate::DataFormat::second_key_len`] says; `None` when one is shorter.
    pub fn new(cipher: Cipher, cipher_key: &[u8], second_key: impl AsRef<[u8]>) -> Option<Self> {
        let cipher_key = cipher_key.get(..cipher.key_len())?.into();
        let second_key = second_key.as_ref().get(..cipher.format().second_key_len())?.into();
        Some(Self { cipher_key, second_key })
    }

    /// The cipher key: 16, 24 or 32 bytes.
    pub fn cipher_key(&self) -> &[u8] {
        &self.cipher_key
    }

    /// With an AEAD cipher the end of every nonce, behind the packet id (8 bytes); else the key of the
    /// HMAC, as long as its digest.
    pub fn second_key(&self) -> &[u8] {
        &self.second_key
    }
}

impl fmt::Debug for DirectionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DirectionKey(..)")
    }
}

/// One data channel key: its id, cipher and both directions.
///
/// A key's packet ids start at 1 wherever it is installed, and a GCM nonce is the packet id and a
/// constant: a key that starts twice gives away what it sealed and how to forge (NIST SP 800-38D,
/// section 8). So there is one of each, and whoever installs it gives it away:
/// [`crate::NotInstalled`] has it again only where no data path can have sealed with it.
///
/// The ways in which a key could start twice, and what keeps each from happening:
///
/// - *Another data path takes over.* It gets new keys by a soft reset, or by a new connection;
///   the old key only if the kernel itself refused it.
/// - *An installation that fails halfway* (the kernel has the key, its answer got lost, or what
///   was to be done afterwards failed) counts as done: the key is not given back.
/// - *Requests sent again.* No request to the kernel is: only system calls that a signal
///   interrupted before anything was sent.
/// - *A reconnect, a restarted process.* Keys live in memory only, and every connection derives
///   its own from a TLS handshake of its own.
/// - *The same key exchange derived twice* (a second PUSH_REPLY, a repeated soft reset). Each
///   yields its key once; the control channel takes a push reply only while it waits for one.
/// - *Promoted keys.* A key moves with its counter, there and back.
/// - *A key that is not there* when it is to be promoted: nothing takes its place but what a soft reset
///   yields.
/// - *A replaced peer.* Its keys go with it, and the new one has none until it is given some.
/// - *A counter at its end.* The last packet id is never used, and nothing is sent afterwards.
#[derive(Debug)]
pub struct KeyConfig {
    /// The key id that packets of this key carry.
    pub key_id: KeyId,
    /// The negotiated cipher.
    pub cipher: Cipher,
    /// Encrypts what we send.
    pub encrypt: DirectionKey,
    /// Decrypts what we receive.
    pub decrypt: DirectionKey,
}

/// In-band keepalive. Seconds; 0 switches that half off.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Keepalive {
    /// Send a ping when no data packet was sent for this long.
    pub interval: u32,
    /// Delete the peer ([`crate::PeerDeletedReason::Expired`]) when nothing authenticated was
    /// received for this long.
    pub timeout: u32,
}

/// Compression framing: how a packet is marked inside the encrypted payload. Nothing is ever sent
/// compressed; what the peer compresses is read where that was agreed. Names and bytes: OpenVPN
/// protocol, `comp-lzo` and `compress`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Framing {
    /// The packet as it is.
    #[default]
    None,
    /// `comp-lzo no`: one byte 0xFA in front.
    LzoStub,
    /// `compress stub`: first byte moved to the end, 0xFB in its place.
    Swap,
    /// `compress stub-v2`: raw, or `50 00` in front when the packet starts with 0x50.
    StubV2,
    /// `comp-lzo`, `compress lzo`: as [`Self::LzoStub`]; the peer may send LZO1X behind 0x66.
    Lzo,
    /// `compress lz4`: as [`Self::Swap`]; the peer may send an LZ4 block with 0x69 in the place of
    /// its first byte.
    Lz4,
    /// `compress lz4-v2`: as [`Self::StubV2`]; the peer may send an LZ4 block behind `50 01`.
    Lz4V2,
}

impl Framing {
    /// Every framing.
    pub const ALL: [Self; 7] =
        [Self::None, Self::LzoStub, Self::Swap, Self::StubV2, Self::Lzo, Self::Lz4, Self::Lz4V2];

    /// Bytes that it adds to an IP packet.
    pub const fn overhead(self) -> usize {
        match self {
            Self::LzoStub | Self::Swap | Self::Lzo | Self::Lz4 => 1,
            Self::None | Self::StubV2 | Self::Lz4V2 => 0,
        }
    }

    /// The same, and nothing comes compressed: how packets are sent.
    #[must_use]
    pub const fn stub(self) -> Self {
        match self {
            Self::Lzo => Self::LzoStub,
            Self::Lz4 => Self::Swap,
            Self::Lz4V2 => Self::StubV2,
            Self::None | Self::LzoStub | Self::Swap | Self::StubV2 => self,
        }
    }

    /// Whether the peer may compress what it sends.
    #[must_use]
    pub fn compresses(self) -> bool {
        self.stub() != self
    }
}

/// The connected transport socket a peer is reached through.
#[derive(Debug)]
pub enum TransportSocket {
    /// A bound UDP socket, connected to `remote` (see the float attack on `ovpn-dco-v2`).
    Udp(OwnedFd),
    /// An established TCP connection, read up to a packet boundary, with everything written. The
    /// kernel channel makes it non-blocking, for all its descriptors: with `ovpn-dco-v2` a receive
    /// that waits leaves the socket locked for good. Keep it so, and poll.
    Tcp(OwnedFd),
}

/// All that a new peer needs, whatever moves its packets. What user space can do beyond that is given
/// where it is made.
#[derive(Debug)]
pub struct PeerConfig {
    /// The pushed peer-id. `None`: none was pushed, DATA_V1 packets (userspace only).
    pub id: Option<PeerId>,
    /// A duplicate of the transport socket's descriptor; the caller keeps its own.
    pub socket: TransportSocket,
    /// The server's address as the handshake used it.
    pub remote: SocketAddr,
    /// A particular source address to send from, where one is wanted.
    pub local: Option<IpAddr>,
    /// In-band keepalive.
    pub keepalive: Keepalive,
}

/// Traffic counters of one peer since it was created.
///
/// `vpn_*` counts inner IP packets, `link_*` encrypted packets from the opcode byte on, without
/// UDP/IP headers and without the TCP length. Control packets are in neither.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[expect(missing_docs, reason = "the names say it: direction as seen from this host")]
pub struct PeerStats {
    pub vpn_rx_bytes: u64,
    pub vpn_tx_bytes: u64,
    pub vpn_rx_packets: u64,
    pub vpn_tx_packets: u64,
    pub link_rx_bytes: u64,
    pub link_tx_bytes: u64,
    pub link_rx_packets: u64,
    pub link_tx_packets: u64,
}
