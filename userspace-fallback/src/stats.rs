//! Counters that tell whether the fast path is fast, and their publication.

use std::sync::{Mutex, PoisonError};

use ovpn_dco::PeerStats;

/// Packets that came to nothing, by reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Faults {
    /// Failed authentication.
    pub decrypt_errors: u64,
    /// Refused by the replay window.
    pub replay_errors: u64,
    /// Framed or compressed in another way than agreed.
    pub compress_errors: u64,
    /// The transport's own, which came back through the tunnel.
    pub recursive_packets: u64,
}

impl std::ops::AddAssign for Faults {
    fn add_assign(&mut self, more: Self) {
        self.decrypt_errors += more.decrypt_errors;
        self.replay_errors += more.replay_errors;
        self.compress_errors += more.compress_errors;
        self.recursive_packets += more.recursive_packets;
    }
}

/// How the data path works: calls, packets per call, and everything that did not go the usual way.
/// Counts since the channel was created.
///
/// `sent_packets / sends` and `received_packets / receives` near 1 mean that offload is off.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Counters {
    pub tun_reads: u64,
    /// Packets that those reads stood for.
    pub tun_read_packets: u64,
    pub tun_writes: u64,
    /// Packets that those writes stood for.
    pub tun_written_packets: u64,
    /// TCP acknowledgements not written, because a later one of their batch says more.
    pub acknowledgements_superseded: u64,
    pub sends: u64,
    pub sent_packets: u64,
    pub receives: u64,
    /// Messages of those receives; with `UDP_GRO` one message is several datagrams.
    pub received_messages: u64,
    pub received_packets: u64,
    /// Packets from the TUN device dropped because there was no peer or no key.
    pub tun_discarded: u64,
    /// Malformed or oversized packets from the TUN device.
    pub tun_malformed: u64,
    /// Writes that the TUN device refused (it is down, or the packet is none).
    pub tun_refused: u64,
    /// Super-packets that the TUN device refused and that were written one by one.
    pub tun_offload_refused: u64,
    /// `UDP_SEGMENT` sends that were refused and sent again as single datagrams.
    pub gso_refused: u64,
    /// Sends answered with "connection refused", tried again.
    pub send_refused: u64,
    /// Datagrams the socket refused for good.
    pub send_dropped: u64,
    /// Times the socket took nothing and the TUN device had to wait.
    pub send_blocked: u64,
    /// Messages that did not fit the receive buffer.
    pub receive_cut: u64,
    /// Control packets dropped because nobody read them.
    pub control_dropped: u64,
    /// Of all peers.
    pub faults: Faults,
}

/// What the worker tells everybody, once per batch.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Snapshot {
    /// `None` without a peer.
    pub(crate) peer: Option<PeerStats>,
    pub(crate) counters: Counters,
}

/// The last snapshot.
#[derive(Debug, Default)]
pub(crate) struct Published(Mutex<Snapshot>);

impl Published {
    pub(crate) fn set(&self, snapshot: Snapshot) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = snapshot;
    }

    pub(crate) fn get(&self) -> Snapshot {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
