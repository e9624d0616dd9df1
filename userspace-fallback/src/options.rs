//! What of the fast path to use, and what a peer can have in software only.

use ovpn_dco::Framing;

use crate::mss::MssClamp;

/// What a peer can have here beyond what every data channel gives it. The default is what those do.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Extras {
    /// Compression framing.
    pub framing: Framing,
    /// MSS clamping. With the kernel the interface's MTU does that.
    pub mss: Option<MssClamp>,
    /// Packets that are on their way to [`ovpn_dco::PeerConfig::remote`] themselves (address, protocol
    /// and port) go into the tunnel like others. Otherwise they are dropped: a route to the server
    /// that is gone would send each packet round and round. With the kernel its limit on nested
    /// transmissions ends it.
    pub allow_recursive_routing: bool,
    /// TCP bytes that have been read from the stream, and not used yet.
    pub read_ahead: Vec<u8>,
}

/// Kernel features of the transport socket and of the coalescing in front of the TUN device. All
/// on by default; each is probed, and its absence costs only speed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Send many datagrams with one call (`UDP_SEGMENT`, Linux 4.18).
    pub gso: bool,
    /// Receive many merged datagrams with one call (`UDP_GRO`, Linux 5.0).
    pub gro: bool,
    /// Merge TCP packets before they are written to a TUN device that takes super-packets.
    pub coalesce_tcp: bool,
    /// Merge UDP packets likewise (Linux 6.2). Kernels before 6.8.5 drop merged UDP that is then
    /// forwarded into VXLAN or Geneve.
    pub coalesce_udp: bool,
    /// Let a TCP acknowledgement take the place of earlier ones of the same batch that say less.
    pub supersede_acknowledgements: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            gso: true,
            gro: true,
            coalesce_tcp: true,
            coalesce_udp: true,
            supersede_acknowledgements: true,
        }
    }
}

impl Options {
    /// Nothing but single packets: the semantic reference, and what a kernel without any of the
    /// features gives.
    pub const PLAIN: Self = Self {
        gso: false,
        gro: false,
        coalesce_tcp: false,
        coalesce_udp: false,
        supersede_acknowledgements: false,
    };
}
