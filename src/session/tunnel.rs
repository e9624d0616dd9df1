//! The tunnel: a network interface with its data plane and network configuration. It may outlive a
//! connection, so that the next one with the same push changes nothing.

use std::time::Duration;

use nix::net::if_::if_indextoname;
use ovpn_dco::{
    ControlPort, DataChannel, DataEvent, Error as DataError, Interface, KeyId, PeerConfig,
    PeerStats, Slots,
};
use ovpn_userspace::Extras;

use super::data_counters;
use super::plane::{Channel, DataPlane};
use crate::counters::Counters;
use crate::data_path::Reason;

/// How often the counters are looked at: a peer that dies takes along what was counted since.
const LOOK: Duration = Duration::from_secs(10);

/// An interface, and what moves its packets.
#[derive(Debug)]
pub(super) struct Tunnel {
    plane: DataPlane,
    /// As it is called now.
    interface: Interface,
    has_peer: bool,
    /// The data plane has ended: another one must take its place.
    failed: bool,
    clock: tokio::time::Interval,
    /// Why it is not kernel offload, where it is not.
    pub(super) why_not_kernel: Vec<Reason>,
    /// The netcfg object of the device.
    pub(super) device_path: Option<String>,
    /// The last counters seen, for when the peer is gone before it can be asked.
    last_stats: PeerStats,
    /// What the data plane itself had counted when the last peer was deleted.
    told: Counters,
}

impl Tunnel {
    /// On a tokio runtime.
    pub(super) fn new(mut plane: DataPlane) -> Self {
        let mut clock = tokio::time::interval(LOOK);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        Self {
            interface: plane.channel().interface().clone(),
            plane,
            has_peer: false,
            failed: false,
            clock,
            why_not_kernel: Vec::new(),
            device_path: None,
            last_stats: PeerStats::default(),
            told: Counters::default(),
        }
    }

    pub(super) fn plane(&self) -> &DataPlane {
        &self.plane
    }

    /// What it asks nothing of itself for. Peers come and go with [`Self::new_peer`] and
    /// [`Self::del_peer`] only, events are [`Self::next_event`]'s.
    pub(super) const fn channel(&mut self) -> &mut Channel {
        self.plane.channel()
    }

    pub(super) const fn interface(&self) -> &Interface {
        &self.interface
    }

    /// Asks the kernel what the interface is called now. True: it has another name.
    pub(super) fn learn_name(&mut self) -> bool {
        let Some(name) =
            if_indextoname(self.interface.index).ok().and_then(|n| n.into_string().ok())
        else {
            return false;
        };
        let renamed = name != self.interface.name;
        self.interface.name = name;
        renamed
    }

    #[cfg(test)]
    pub(super) const fn has_peer(&self) -> bool {
        self.has_peer
    }

    /// Nothing more is to be expected of it.
    pub(super) const fn has_failed(&self) -> bool {
        self.failed
    }

    pub(super) async fn new_peer(
        &mut self,
        peer: PeerConfig,
        extras: Extras,
    ) -> Result<ControlPort, DataError> {
        self.last_stats = PeerStats::default();
        let port = self.plane.new_peer(peer, extras).await?;
        self.has_peer = true;
        Ok(port)
    }

    /// Deletes the peer, whether there seems to be one or not, and returns what has been counted
    /// since the one before was deleted: the newest figures seen, where the data plane knows no
    /// better.
    pub(super) async fn del_peer(&mut self) -> Counters {
        self.has_peer = false;
        let seen = std::mem::take(&mut self.last_stats);
        let stats = match self.plane.channel().del_peer().await {
            Ok(stats) => stats,
            Err(DataError::NoSuchPeer) => seen,
            Err(e) => {
                tracing::debug!("deleting the peer: {e}");
                seen
            }
        };
        let counters = self.with_work(&stats);
        self.told = self.plane.counters();
        counters
    }

    /// What has been counted since the peer before was deleted.
    pub(super) async fn counters(&mut self) -> Counters {
        self.look().await;
        self.with_work(&self.last_stats)
    }

    fn with_work(&self, stats: &PeerStats) -> Counters {
        let mut counters = data_counters::of_peer(stats);
        counters.add_all(&self.plane.counters().since(&self.told));
        counters
    }

    /// Asks for the peer's counters; those seen last stay if it cannot be asked (any more).
    async fn look(&mut self) {
        if self.has_peer
            && let Ok(stats) = self.plane.channel().stats().await
        {
            self.last_stats = stats;
        }
    }

    /// Whether there is a key to send with.
    pub(super) async fn can_send(&mut self) -> bool {
        self.has_peer && self.keys().await.sending().is_some()
    }

    async fn keys(&mut self) -> Slots<()> {
        self.plane.channel().keys().await.unwrap_or_default()
    }

    /// [`DataError::NoSuchKey`] if the key is not there although others are.
    pub(super) async fn promote_key(&mut self, key: KeyId) -> Result<(), DataError> {
        match self.plane.channel().promote(key).await {
            // A new peer: the key was the old one's, and another is on its way.
            Err(DataError::NoSuchKey(_)) if self.keys().await == Slots::default() => Ok(()),
            promoted => promoted,
        }
    }

    /// The next event of the data plane. Cancel safe.
    pub(super) async fn next_event(&mut self) -> DataEvent {
        loop {
            tokio::select! {
                biased;
                event = self.plane.channel().next_event() => {
                    self.failed |= matches!(event, DataEvent::Failed(_));
                    if self.failed || matches!(event, DataEvent::PeerDeleted(_)) {
                        self.has_peer = false;
                    }
                    return event;
                }
                _ = self.clock.tick() => {
                    self.look().await;
                }
            }
        }
    }

    /// Removes the interface.
    pub(super) async fn close(self) {
        if let Err(e) = self.plane.into_channel().close().await {
            tracing::warn!("removing the interface: {e}");
        }
    }
}

#[cfg(test)]
mod tests {
    use ovpn_dco::PeerDeletedReason;
    use ovpn_dco::recording::RecordingDataChannel;

    use super::*;
    use crate::session::tests::{key, peer};

    /// What a peer that dies by itself had moved is not lost with it.
    #[tokio::test]
    async fn the_newest_figures_outlive_the_peer() {
        let (channel, recorder) = RecordingDataChannel::new("lo", false);
        let mut tunnel = Tunnel::new(DataPlane::recording(channel));
        tunnel.new_peer(peer(), Extras::default()).await.unwrap();
        let stats = PeerStats { vpn_rx_bytes: 7, ..PeerStats::default() };
        recorder.set_stats(stats);
        let quiet = tokio::time::timeout(Duration::from_millis(50), tunnel.next_event()).await;
        assert!(quiet.is_err(), "{quiet:?}");
        recorder.tell(DataEvent::PeerDeleted(PeerDeletedReason::Expired));
        tunnel.next_event().await;
        assert!(!tunnel.has_peer() && !tunnel.has_failed());
        assert_eq!(tunnel.del_peer().await, data_counters::of_peer(&stats));
        assert_eq!(tunnel.del_peer().await, Counters::default(), "counted once");
    }

    #[tokio::test]
    async fn a_key_that_is_not_there_is_reported() {
        let (channel, recorder) = RecordingDataChannel::new("lo", false);
        let mut tunnel = Tunnel::new(DataPlane::recording(channel));
        tunnel.new_peer(peer(), Extras::default()).await.unwrap();
        assert!(tunnel.promote_key(key(1).key_id).await.is_ok(), "it went with its peer");
        tunnel.channel().install(key(0)).await.unwrap();
        let error = tunnel.promote_key(key(1).key_id).await.unwrap_err();
        assert!(matches!(error, DataError::NoSuchKey(id) if id == key(1).key_id), "{error}");
        assert_eq!(recorder.keys(), [Some(key(0).key_id), None], "the key in use stays in use");
        assert!(tunnel.can_send().await);
    }
}
