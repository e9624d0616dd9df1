//! What lives as long as a session: every state is handed it.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use super::commands::{Command, Commands, Wish};
use super::ending::SetUpError;
use super::event::{Outcome, SessionEvent, SessionState};
use super::events::Teller;
use super::extension::{Extensions, Step};
use super::link::Link;
use super::login::Login;
use super::network::Network;
use super::offload::{self, Offload};
use super::remotes::Remotes;
use super::resolve::Outside;
use super::roaming::Roaming;
use super::signing::Signing;
use super::tunnel::Tunnel;
use super::{NetworkMode, SessionConfig};
use crate::counters::Counters;
use crate::profile::KeySource;
use crate::tls::{TlsConfig, TlsParameters};

/// What lives as long as the session.
pub(super) struct Shared {
    pub(super) config: SessionConfig,
    pub(super) commands: Commands,
    teller: Teller,
    pub(super) remotes: Remotes,
    pub(super) outside: Outside,
    pub(super) tls: Arc<TlsConfig>,
    pub(super) extensions: Extensions,
    pub(super) network: Network,
    pub(super) roaming: Roaming,
    pub(super) offload: Offload,
    /// Counters of everything before the present connection.
    pub(super) statistics: Counters,
    pub(super) login: Login,
    /// Of the newest handshake.
    pub(super) tls_parameters: Option<TlsParameters>,
    /// Some connection reached a working tunnel.
    pub(super) ever_connected: bool,
}

impl Shared {
    pub(super) async fn new(
        mut config: SessionConfig,
        receiver: mpsc::Receiver<Command>,
        teller: Teller,
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
        let tls = tls.map_err(Outcome::Tls)?;
        for warning in tls.warnings() {
            tracing::warn!("{warning}");
        }
        let kernel =
            offload::probe().await.map_err(|e| Outcome::Failed(SetUpError::from(e).into()))?;
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
            teller,
            tls: Arc::new(tls),
            extensions: Extensions::new(&config, signing.map(|signing| Box::new(signing) as _)),
            network,
            roaming: Roaming::open(),
            offload: Offload::new(kernel, Instant::now()),
            statistics: Counters::default(),
            login: Login::new(
                std::mem::take(&mut config.credentials),
                config.one_time_password,
                config.options.auth.nocache,
            ),
            tls_parameters: None,
            ever_connected: false,
            config,
        })
    }

    pub(super) fn tell(&self, event: SessionEvent) {
        self.teller.tell(event);
    }

    pub(super) fn enter(&self, state: SessionState) {
        self.tell(SessionEvent::State(state));
    }

    /// A command to a session that has a connection. What is asked for is given back where the answer
    /// depends on the state.
    pub(super) fn obey(
        &mut self,
        link: &mut Link,
        command: Command,
    ) -> Result<Option<oneshot::Sender<Counters>>, Wish> {
        match self.extensions.command(command) {
            None | Some(Command::Wish(Wish::Resume)) => {}
            Some(Command::Wish(wish)) => return Err(wish),
            Some(Command::Respond(response)) => {
                link.control.respond(response.expose(), Instant::now());
            }
            Some(Command::LogIn { credentials, one_time }) => {
                self.login.renew(credentials, one_time);
                link.log_in(&mut self.login);
            }
            Some(Command::Sign { id, .. }) => {
                tracing::warn!("signature {id} came too late: nothing waits for it");
            }
            Some(Command::Statistics(reply)) => return Ok(Some(reply)),
            Some(Command::Ping(reply)) => drop(reply.send(())),
        }
        Ok(None)
    }

    /// Does what an extension wants.
    pub(super) fn perform(&self, link: &mut Link, step: Step) {
        match step {
            Step::Tell(event) => self.tell(*event),
            Step::Control(act) => act(&mut link.control),
        }
    }

    /// The counters of the whole session, with those of what is there now.
    pub(super) async fn counters(
        &mut self,
        link: Option<Counters>,
        tunnel: Option<&mut Tunnel>,
    ) -> Counters {
        let mut now = self.statistics.clone();
        if let Some(link) = link {
            now.add_all(&link);
        }
        if let Some(tunnel) = tunnel {
            now.add_all(&tunnel.counters().await);
        }
        now
    }

    /// Removes the device for another one that follows at once; if none does, [`Self::undo_unused`] is
    /// next.
    pub(super) async fn replace(&mut self, tunnel: Tunnel) {
        let replace = Box::pin(self.network.replace(tunnel));
        self.commands.while_busy(&self.statistics, replace).await;
    }

    /// Undoes what a device has left that was to be replaced and was not.
    pub(super) async fn undo_unused(&mut self) {
        let undo = Box::pin(self.network.undo());
        self.commands.while_busy(&self.statistics, undo).await;
    }

    /// Removes the device and all network configuration.
    pub(super) async fn release(&mut self, tunnel: Tunnel) {
        let release = Box::pin(self.network.release(tunnel));
        self.commands.while_busy(&self.statistics, release).await;
    }
}
