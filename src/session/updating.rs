//! A server changes what it has pushed while the connection goes on (PUSH_UPDATE): only the plan's
//! difference reaches the host; keys, peer and socket stay.

use super::connected::{Connected, Stage};
use super::ending::Ending;
use super::network::Network;
use super::shared::Shared;
use crate::control::PushedOptions;
use crate::profile::loggable;

impl Connected {
    /// An update that cannot be followed ends the connection, for a new one to be in step with the
    /// server again.
    pub(super) async fn update(
        &mut self,
        shared: &mut Shared,
        update: &PushedOptions,
    ) -> Result<(), Ending> {
        if let Network::Netcfg(_) = shared.network {
            tracing::warn!("the server updates what it pushed, which was not offered; ignored");
            return Ok(());
        }
        for item in update.iter() {
            tracing::info!("push update: {}", loggable(item.trim()));
        }
        let updated =
            self.pushed.update(&shared.config.options, update).map_err(Ending::PushUpdate)?;
        for ignored in &updated.ignored {
            tracing::info!("push update ignored: {ignored}");
        }
        let session = updated.session;
        for ignored in session.ignored.iter().filter(|known| !self.options.ignored.contains(known))
        {
            tracing::info!("pushed option ignored: {ignored}");
        }
        let same =
            self.options.network == session.network && self.options.tun_mtu == session.tun_mtu;
        self.options.ignored = session.ignored;
        if same {
            return Ok(());
        }
        // Nothing else can have changed.
        self.options.network = session.network;
        self.options.tun_mtu = session.tun_mtu;
        self.resize(shared).await?;
        if self.stage == Stage::Working {
            self.announce(shared);
        }
        Ok(())
    }
}
