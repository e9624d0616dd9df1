//! The data plane in use: kernel or userspace, chosen at run time.

use ovpn_dco::kernel::{Api, KernelDataChannel};
use ovpn_dco::{ControlPort, DataChannel, Either, Error, Framing, PeerConfig};
use ovpn_userspace::{Extras, MssClamp, UserspaceDataChannel};

use super::data_counters;
use crate::counters::Counters;
use crate::data_path::DataPath;

#[cfg(not(test))]
type Kernel = KernelDataChannel;
/// What drives it is tested with a fake in its place.
#[cfg(test)]
type Kernel = Either<KernelDataChannel, ovpn_dco::recording::RecordingDataChannel>;

/// Either implementation of the data channel.
pub(super) type Channel = Either<Kernel, UserspaceDataChannel>;

/// A data channel, and which one it is.
#[derive(Debug)]
pub(super) struct DataPlane {
    channel: Channel,
    /// Of the kernel's.
    api: Option<Api>,
}

impl DataPlane {
    pub(super) fn kernel(channel: KernelDataChannel) -> Self {
        let api = Some(channel.api());
        #[cfg(test)]
        let channel = Either::First(channel);
        Self { channel: Either::First(channel), api }
    }

    pub(super) const fn userspace(channel: UserspaceDataChannel) -> Self {
        Self { channel: Either::Second(channel), api: None }
    }

    /// In place of the kernel's.
    #[cfg(test)]
    pub(super) const fn recording(channel: ovpn_dco::recording::RecordingDataChannel) -> Self {
        Self { channel: Either::First(Either::Second(channel)), api: Some(Api::Ovpn) }
    }

    pub(super) const fn channel(&mut self) -> &mut Channel {
        &mut self.channel
    }

    pub(super) fn into_channel(self) -> Channel {
        self.channel
    }

    /// Which of the two.
    pub(super) fn path(&self) -> DataPath {
        self.api.map_or(DataPath::Userspace, DataPath::Kernel)
    }

    pub(super) const fn is_kernel(&self) -> bool {
        self.api.is_some()
    }

    /// Which kernel interface it uses, if any.
    pub(super) const fn api(&self) -> Option<Api> {
        self.api
    }

    /// [`DataChannel::new_peer`] with all that was agreed. [`Error::Unsupported`] where the kernel
    /// would send or read something else than that; the size of segments it limits in its own way, and
    /// recursion as well.
    pub(super) async fn new_peer(
        &mut self,
        peer: PeerConfig,
        extras: Extras,
    ) -> Result<ControlPort, Error> {
        let kernel = match &mut self.channel {
            Either::First(kernel) => kernel,
            Either::Second(userspace) => return userspace.new_peer_with(peer, extras).await,
        };
        let beyond = if extras.framing != Framing::None {
            "compression framing"
        } else if !extras.read_ahead.is_empty() {
            "TCP data read ahead of the hand-over"
        } else {
            return kernel.new_peer(peer).await;
        };
        let by = self.api.map_or("the kernel", Api::name);
        Err(Error::Unsupported { what: beyond.to_owned(), by })
    }

    /// Has TCP of the present peer announce no larger segments from now on. The kernel's interface does
    /// that by its MTU.
    pub(super) async fn set_mss(&self, mss: Option<MssClamp>) -> Result<(), Error> {
        match &self.channel {
            Either::First(_) => Ok(()),
            Either::Second(userspace) => userspace.set_mss(mss).await,
        }
    }

    /// What its own work counts, beside its peers.
    pub(super) fn counters(&self) -> Counters {
        match &self.channel {
            Either::First(_) => Counters::default(),
            Either::Second(userspace) => data_counters::of_worker(&userspace.counters()),
        }
    }
}

#[cfg(test)]
mod tests {
    use ovpn_dco::recording::{Call, RecordingDataChannel};

    use super::*;
    use crate::session::tests::peer;

    /// A kernel that took the peer all the same would send what the server cannot read, or lose what
    /// it has said.
    #[tokio::test]
    async fn what_the_kernel_cannot_do_is_not_asked_of_it() {
        let (channel, recorder) = RecordingDataChannel::new("lo", true);
        let mut plane = DataPlane::recording(channel);
        for extras in [
            Extras { framing: Framing::Swap, ..Extras::default() },
            Extras { read_ahead: vec![0], ..Extras::default() },
        ] {
            let error = plane.new_peer(peer(), extras).await.unwrap_err();
            assert!(matches!(error, Error::Unsupported { by: "ovpn", .. }), "{error}");
        }
        assert_eq!(recorder.calls(), []);
        let extras = Extras { allow_recursive_routing: true, ..Extras::default() };
        plane.new_peer(peer(), extras).await.unwrap();
        assert!(matches!(recorder.calls()[..], [Call::NewPeer { .. }]));
    }
}
