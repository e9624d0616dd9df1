//! The tunnel: a network interface with its data plane and network configuration. It may outlive a
//! connection, so that the next one with the same push changes nothing.

use ovpn_dco::{
    ControlPort, DataChannel, DataEvent, Error as DataError, KeyConfig, KeyId, KeySlot, PeerConfig,
    PeerStats,
};

use super::keys::{KeySlots, KeyStep};
use super::plane::DataPlane;

/// An interface, what moves its packets, and the keys in use.
#[derive(Debug)]
pub(super) struct Tunnel {
    plane: DataPlane,
    keys: KeySlots,
    has_peer: bool,
    /// Why it is not kernel offload, where it is not.
    pub(super) why_not_kernel: Option<String>,
    /// The netcfg object of the device.
    pub(super) device_path: Option<String>,
    /// The last counters seen, for when the peer is gone before it can be asked.
    last_stats: PeerStats,
}

impl Tunnel {
    pub(super) fn new(plane: DataPlane) -> Self {
        Self {
            plane,
            keys: KeySlots::default(),
            has_peer: false,
            why_not_kernel: None,
            device_path: None,
            last_stats: PeerStats::default(),
        }
    }

    pub(super) fn plane(&self) -> &DataPlane {
        &self.plane
    }

    pub(super) const fn has_peer(&self) -> bool {
        self.has_peer
    }

    pub(super) async fn new_peer(
        &mut self,
        peer: PeerConfig,
        residue: Vec<u8>,
    ) -> Result<ControlPort, DataError> {
        self.keys = KeySlots::default();
        self.last_stats = PeerStats::default();
        let port = self.plane.new_peer(peer, residue).await?;
        self.has_peer = true;
        Ok(port)
    }

    /// Deletes the peer, if there is one, and returns its final counters.
    pub(super) async fn del_peer(&mut self) -> PeerStats {
        let stats = self.stats().await;
        if self.has_peer {
            self.has_peer = false;
            match self.plane.del_peer().await {
                Ok(()) | Err(DataError::NoSuchPeer) => {}
                Err(e) => tracing::debug!("deleting the peer: {e}"),
            }
        }
        self.last_stats = PeerStats::default();
        stats
    }

    /// The peer's counters; the last ones seen if it cannot be asked (any more).
    pub(super) async fn stats(&mut self) -> PeerStats {
        if self.has_peer
            && let Ok(stats) = self.plane.stats().await
        {
            self.last_stats = stats;
        }
        self.last_stats
    }

    pub(super) async fn install_key(&mut self, key: KeyConfig) -> Result<(), DataError> {
        let id = key.key_id;
        match self.keys.add(id) {
            KeyStep::Install(slot) => self.plane.new_key(slot, key).await,
            KeyStep::Swap | KeyStep::Delete(_) | KeyStep::Nothing => Ok(()),
        }
    }

    pub(super) async fn promote_key(&mut self, key: KeyId) -> Result<(), DataError> {
        let step = self.keys.promote(key);
        self.perform(step).await
    }

    pub(super) async fn retire_key(&mut self, key: KeyId) -> Result<(), DataError> {
        let step = self.keys.retire(key);
        self.perform(step).await
    }

    async fn perform(&mut self, step: KeyStep) -> Result<(), DataError> {
        match step {
            KeyStep::Swap => self.plane.swap_keys().await,
            KeyStep::Delete(slot) => self.plane.del_key(slot).await,
            KeyStep::Install(_) | KeyStep::Nothing => Ok(()),
        }
    }

    /// Takes all keys away: the next one installed sends at once.
    pub(super) async fn clear_keys(&mut self) {
        self.keys = KeySlots::default();
        for slot in [KeySlot::Primary, KeySlot::Secondary] {
            if let Err(e) = self.plane.del_key(slot).await {
                tracing::debug!("deleting the {slot:?} key: {e}");
            }
        }
    }

    pub(super) async fn notify_exit(&mut self) -> Result<(), DataError> {
        self.plane.notify_exit().await
    }

    /// The next event of the data plane. Cancel safe.
    pub(super) async fn next_event(&mut self) -> DataEvent {
        let event = self.plane.next_event().await;
        if matches!(event, DataEvent::PeerDeleted(_) | DataEvent::Failed(_)) {
            self.has_peer = false;
        }
        event
    }

    /// Removes the interface.
    pub(super) async fn close(self) {
        if let Err(e) = self.plane.close().await {
            tracing::warn!("removing the interface: {e}");
        }
    }
}
