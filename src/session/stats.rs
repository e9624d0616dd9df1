//! Session statistics under OpenVPN 3's names.

use std::collections::BTreeMap;

use ovpn_dco::PeerStats;

/// Counters of a session. Names as in OpenVPN 3 Core (`BYTES_IN`, `N_RECONNECT`, ...), and
/// `RECURSIVE_ROUTING` for packets to the server that came back through the tunnel; counters that
/// are zero are left out. `TUN_*_IN` counts packets read from the host (towards the server).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics(pub BTreeMap<&'static str, u64>);

impl Statistics {
    /// Adds to one counter.
    pub fn add(&mut self, name: &'static str, amount: u64) {
        if amount > 0 {
            let counter = self.0.entry(name).or_default();
            *counter = counter.saturating_add(amount);
        }
    }

    /// One more of something that happened.
    pub fn count(&mut self, name: &'static str) {
        self.add(name, 1);
    }

    /// A counter's value.
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or_default()
    }

    /// Adds a data channel peer's counters.
    pub(super) fn add_peer(&mut self, peer: &PeerStats) {
        self.add("BYTES_IN", peer.link_rx_bytes);
        self.add("BYTES_OUT", peer.link_tx_bytes);
        self.add("PACKETS_IN", peer.link_rx_packets);
        self.add("PACKETS_OUT", peer.link_tx_packets);
        self.add("TUN_BYTES_IN", peer.vpn_tx_bytes);
        self.add("TUN_BYTES_OUT", peer.vpn_rx_bytes);
        self.add("TUN_PACKETS_IN", peer.vpn_tx_packets);
        self.add("TUN_PACKETS_OUT", peer.vpn_rx_packets);
        self.add("DECRYPT_ERROR", peer.decrypt_errors);
        self.add("REPLAY_ERROR", peer.replay_errors);
        self.add("NETWORK_SEND_ERROR", peer.send_errors);
        self.add("RECURSIVE_ROUTING", peer.recursive_packets);
    }

    /// Adds all of another's counters.
    pub(super) fn add_all(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            self.add(name, *amount);
        }
    }
}
