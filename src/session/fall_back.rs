//! A data path that fails under a connection: userspace takes over from the kernel.

use std::time::Instant;

use ovpn_dco::{DataChannel, KeyConfig};

use super::bring_up::{Failure, Unmade};
use super::connected::{Connected, Stage};
use super::ending::{DataPathError, Ending, Loss};
use super::link::Link;
use super::over::{End, Over};
use super::shared::Shared;
use super::tunnel::Tunnel;
use crate::counters::Counter;
use crate::profile::{Protocol, SessionOptions};

/// A data path that is no good any more.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) why: DataPathError,
    /// One that it has never had.
    pub(super) key: Option<Box<KeyConfig>>,
}

impl Connected {
    /// The data path is gone. Userspace takes over from the kernel: with the key that no data path
    /// had, or with a new one, because packet ids of the old ones would repeat. In any case the old
    /// tunnel goes.
    pub(super) async fn fall_back(self, shared: &mut Shared, broken: Broken) -> Result<Self, Over> {
        let Self { mut link, tunnel, options, pushed, stage, inactivity, ends_at, path_due } = self;
        let mut tunnel = match shared.take_over(&mut link, &options, tunnel, broken.why).await {
            Ok(tunnel) => tunnel,
            Err(Unmade { failure, left }) => {
                let connected = stage == Stage::Working;
                return Err(shared.part(link, End::Ending(failure.into()), connected, left).await);
            }
        };
        let installed = match broken.key {
            Some(key) => tunnel.channel().install(*key).await,
            None => {
                link.control.renegotiate(Instant::now());
                Ok(())
            }
        };
        let mut taken =
            Self { link, tunnel, options, pushed, stage, inactivity, ends_at, path_due };
        if let Err(not_installed) = installed {
            let ending = Ending::from(Failure::from(not_installed.error));
            return Err(taken.over(shared, ending.into()).await);
        }
        match stage {
            Stage::Configured => taken.announce_first(shared).await,
            Stage::Working => taken.announce(shared),
        }
        Ok(taken)
    }
}

impl Shared {
    /// A tunnel in userspace in place of one that is broken.
    async fn take_over(
        &mut self,
        link: &mut Link,
        options: &SessionOptions,
        mut broken: Tunnel,
        why: DataPathError,
    ) -> Result<Tunnel, Unmade> {
        if !broken.plane().is_kernel() {
            self.statistics.add_all(&broken.del_peer().await);
            self.release(broken).await;
            return Err(Loss::DataPath(why).into());
        }
        self.kernel_failed(link, Some(broken), &why).await;
        // The kernel may have left a TCP stream in the middle of a packet, in either direction, and
        // nothing tells: only a new connection is sure to be in step.
        if link.transport.protocol() != Protocol::Udp {
            return self.settle(Err(Loss::DataPath(why).into())).await;
        }
        let decision = self.decide(&link.remote, Some(options));
        let made = self.with_userspace(link, options, None, decision).await;
        self.settle(made).await
    }

    /// The kernel refused or lost the data channel: it is not asked again soon.
    pub(super) async fn kernel_failed(
        &mut self,
        link: &mut Link,
        broken: Option<Tunnel>,
        why: &DataPathError,
    ) {
        tracing::warn!("kernel offload failed: {why}; going on in userspace");
        self.statistics.count(Counter::TunError);
        self.offload.failed(why.to_string(), Instant::now());
        if let Some(mut broken) = broken {
            self.statistics.add_all(&broken.del_peer().await);
            self.replace(broken).await;
        }
        if let Err(error) = link.transport.detach() {
            // The next receive fails, and the session reconnects.
            tracing::warn!("taking the transport socket back: {error}");
        }
    }
}
