//! What the data paths count, under the names by which it is told.

use ovpn_dco::PeerStats;

use crate::counters::{Counter, Counters};

/// Of a peer, kernel or user space.
pub(super) fn of_peer(peer: &PeerStats) -> Counters {
    [
        (Counter::BytesIn, peer.link_rx_bytes),
        (Counter::BytesOut, peer.link_tx_bytes),
        (Counter::PacketsIn, peer.link_rx_packets),
        (Counter::PacketsOut, peer.link_tx_packets),
        (Counter::TunBytesIn, peer.vpn_tx_bytes),
        (Counter::TunBytesOut, peer.vpn_rx_bytes),
        (Counter::TunPacketsIn, peer.vpn_tx_packets),
        (Counter::TunPacketsOut, peer.vpn_rx_packets),
    ]
    .into_iter()
    .collect()
}

/// Of the user space worker, whatever peers it has had. What the contract counts of each is left out.
pub(super) fn of_worker(worker: &ovpn_userspace::Counters) -> Counters {
    [
        (Counter::TunReads, worker.tun_reads),
        (Counter::TunWrites, worker.tun_writes),
        (Counter::LinkSends, worker.sends),
        (Counter::LinkReceives, worker.receives),
        (Counter::AcknowledgementsSuperseded, worker.acknowledgements_superseded),
        (Counter::TunDiscarded, worker.tun_discarded),
        (Counter::TunMalformed, worker.tun_malformed),
        (Counter::TunRefused, worker.tun_refused),
        (Counter::TunOffloadRefused, worker.tun_offload_refused),
        (Counter::GsoRefused, worker.gso_refused),
        (Counter::SendRefused, worker.send_refused),
        (Counter::SendBlocked, worker.send_blocked),
        (Counter::ReceiveCut, worker.receive_cut),
        (Counter::ControlDropped, worker.control_dropped),
        (Counter::NetworkSendError, worker.send_dropped),
        (Counter::DecryptError, worker.faults.decrypt_errors),
        (Counter::ReplayError, worker.faults.replay_errors),
        (Counter::CompressError, worker.faults.compress_errors),
        (Counter::RecursiveRouting, worker.faults.recursive_packets),
    ]
    .into_iter()
    .collect()
}
