//! The data plane in use: kernel or userspace, chosen at run time.

use ovpn_dco::kernel::{Api, KernelDataChannel};
use ovpn_dco::{
    ControlPort, DataChannel, DataEvent, Error, Interface, KeyConfig, KeyId, NotInstalled,
    PeerConfig, PeerStats, Slots,
};
use ovpn_userspace::UserspaceDataChannel;

use super::data_counters;
use crate::counters::Counters;
use crate::data_path::DataPath;

/// Either implementation of the data channel.
#[derive(Debug)]
pub(super) enum DataPlane {
    Kernel(KernelDataChannel),
    Userspace(UserspaceDataChannel),
    /// In place of the kernel's, for tests of what drives it.
    #[cfg(test)]
    Recording(ovpn_dco::recording::RecordingDataChannel),
}

macro_rules! either {
    ($self:ident, $channel:ident => $call:expr) => {
        match $self {
            Self::Kernel($channel) => $call,
            Self::Userspace($channel) => $call,
            #[cfg(test)]
            Self::Recording($channel) => $call,
        }
    };
}

impl DataPlane {
    /// Which of the two.
    pub(super) fn path(&self) -> DataPath {
        self.api().map_or(DataPath::Userspace, DataPath::Kernel)
    }

    pub(super) fn is_kernel(&self) -> bool {
        self.api().is_some()
    }

    /// What its own work counts, beside its peers.
    pub(super) fn counters(&self) -> Counters {
        match self {
            Self::Userspace(channel) => data_counters::of_worker(&channel.counters()),
            _ => Counters::default(),
        }
    }

    /// Which kernel interface it uses, if any.
    pub(super) fn api(&self) -> Option<Api> {
        match self {
            Self::Kernel(channel) => Some(channel.api()),
            Self::Userspace(_) => None,
            #[cfg(test)]
            Self::Recording(_) => Some(Api::Ovpn),
        }
    }
}

impl DataChannel for DataPlane {
    fn interface(&self) -> &Interface {
        either!(self, channel => channel.interface())
    }

    async fn new_peer(&mut self, peer: PeerConfig, residue: Vec<u8>) -> Result<ControlPort, Error> {
        either!(self, channel => channel.new_peer(peer, residue).await)
    }

    async fn install(&mut self, key: KeyConfig) -> Result<(), NotInstalled> {
        either!(self, channel => channel.install(key).await)
    }

    async fn promote(&mut self, key: KeyId) -> Result<(), Error> {
        either!(self, channel => channel.promote(key).await)
    }

    async fn retire(&mut self, key: KeyId) -> Result<(), Error> {
        either!(self, channel => channel.retire(key).await)
    }

    async fn keys(&mut self) -> Result<Slots<()>, Error> {
        either!(self, channel => channel.keys().await)
    }

    async fn stats(&mut self) -> Result<PeerStats, Error> {
        either!(self, channel => channel.stats().await)
    }

    async fn notify_exit(&mut self) -> Result<(), Error> {
        either!(self, channel => channel.notify_exit().await)
    }

    async fn announce(&mut self) -> Result<bool, Error> {
        either!(self, channel => channel.announce().await)
    }

    async fn del_peer(&mut self) -> Result<PeerStats, Error> {
        either!(self, channel => channel.del_peer().await)
    }

    async fn next_event(&mut self) -> DataEvent {
        either!(self, channel => channel.next_event().await)
    }

    async fn close(self) -> Result<(), Error> {
        either!(self, channel => channel.close().await)
    }
}
