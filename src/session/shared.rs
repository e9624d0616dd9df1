//! What lives as long as a session.

use std::sync::Arc;

use ovpn_dco::kernel::Report;
use tokio::sync::mpsc;

use super::commands::{Command, Commands};
use super::event::{Outcome, SessionEvent, SessionState};
use super::login::Login;
use super::network::Network;
use super::posture::Posture;
use super::remotes::Remotes;
use super::resolve::Outside;
use super::signing::Signing;
use super::tunnel::Tunnel;
use super::{NetworkMode, SessionConfig};
use crate::counters::Counters;
use crate::profile::KeySource;
use crate::tls::TlsConfig;

/// What lives as long as the session.
pub(super) struct Session {
    pub(super) config: SessionConfig,
    pub(super) commands: Commands,
    events: mpsc::UnboundedSender<SessionEvent>,
    pub(super) remotes: Remotes,
    pub(super) outside: Outside,
    pub(super) tls: Arc<TlsConfig>,
    /// With an external private key only.
    pub(super) signing: Option<Signing>,
    /// With an enterprise profile only.
    pub(super) posture: Option<Posture>,
    pub(super) network: Network,
    /// Kept from a lost connection for the next one.
    pub(super) tunnel: Option<Tunnel>,
    /// What the machine offers for kernel offload.
    pub(super) kernel: Report,
    /// Why kernel offload is not asked for again.
    pub(super) kernel_failure: Option<String>,
    /// Counters of everything before the present attempt.
    pub(super) statistics: Counters,
    pub(super) login: Login,
    /// The present attempt reached a working tunnel.
    pub(super) connected: bool,
    pub(super) ever_connected: bool,
}

impl Session {
    pub(super) async fn new(
        mut config: SessionConfig,
        receiver: mpsc::Receiver<Command>,
        events: mpsc::UnboundedSender<SessionEvent>,
    ) -> Result<Self, Outcome> {
        let signing =
            matches!(config.options.tls.key, Some(KeySource::External)).then(Signing::new);
        let tls = match &signing {
            Some(signing) => {
                TlsConfig::with_signer(&config.options.tls, signing.signer(), signing.waker())
            }
            // It has done its work then.
            None => TlsConfig::new(&config.options.tls, config.key_passphrase.take().as_ref()),
        };
        let tls = tls.map_err(|e| Outcome::Tls { kind: e.kind, message: e.message })?;
        for warning in tls.warnings() {
            tracing::warn!("{warning}");
        }
        // Asking may load a module: not on this thread.
        let kernel = tokio::task::spawn_blocking(ovpn_dco::kernel::probe)
            .await
            .map_err(|e| Outcome::Failed { message: e.to_string() })?;
        let network = match &config.network {
            NetworkMode::Direct => Network::direct(&config.runtime_dir, None).await?,
            NetworkMode::DirectWith(service) => {
                Network::direct(&config.runtime_dir, Some(service.clone())).await?
            }
            NetworkMode::Netcfg(netcfg) => Network::netcfg(netcfg.clone()),
        };
        Ok(Self {
            remotes: Remotes::new(&config.options, &mut rand::rng()),
            outside: Outside::default(),
            commands: Commands::new(receiver),
            events,
            tls: Arc::new(tls),
            signing,
            posture: Posture::new(&config),
            network,
            tunnel: None,
            kernel,
            kernel_failure: None,
            statistics: Counters::default(),
            login: Login::new(
                std::mem::take(&mut config.credentials),
                config.one_time_password,
                config.options.auth.nocache,
            ),
            connected: false,
            ever_connected: false,
            config,
        })
    }

    pub(super) fn tell(&self, event: SessionEvent) {
        let _ = self.events.send(event);
    }

    pub(super) fn enter(&self, state: SessionState) {
        self.tell(SessionEvent::State(state));
    }

    /// Removes the device for another one that follows at once; if none does, [`Self::undo_unused`] is
    /// next.
    pub(super) async fn replace_tunnel(&mut self) {
        if let Some(tunnel) = self.tunnel.take() {
            let replace = self.network.replace(tunnel);
            self.commands.while_busy(&self.statistics, replace).await;
        }
    }

    /// Undoes what a device has left that was to be replaced and was not.
    pub(super) async fn undo_unused(&mut self) {
        if self.tunnel.is_none() {
            self.commands.while_busy(&self.statistics, self.network.undo()).await;
        }
    }

    /// Removes the device and all network configuration.
    pub(super) async fn drop_tunnel(&mut self) {
        if let Some(tunnel) = self.tunnel.take() {
            let release = self.network.release(tunnel);
            self.commands.while_busy(&self.statistics, release).await;
        }
    }
}
