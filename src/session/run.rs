//! The session's life: attempt after attempt, with pauses, until it ends.

use std::sync::Arc;
use std::time::Duration;

use ovpn_dco::kernel::Report;
use tokio::sync::mpsc;

use super::commands::{Command, Commands, Wish};
use super::event::{Outcome, SessionEvent, SessionState};
use super::login::Login;
use super::network::Network;
use super::posture::Posture;
use super::reconnect::{Decision, Ending, Situation, decide};
use super::remotes::{Advance, Remotes};
use super::resolve::Outside;
use super::signing::Signing;
use super::tunnel::Tunnel;
use super::{NetworkMode, SessionConfig};
use crate::control::ControlError;
use crate::counters::{Counter, Counters};
use crate::profile::{KeySource, WrapOptions};
use crate::tls::TlsConfig;

/// How an attempt ended.
#[derive(Debug)]
pub(super) enum End {
    /// Somebody asked.
    Wish(Wish),
    /// By itself.
    Ending(Ending),
}

impl From<Wish> for End {
    fn from(wish: Wish) -> Self {
        Self::Wish(wish)
    }
}

impl From<Ending> for End {
    fn from(ending: Ending) -> Self {
        Self::Ending(ending)
    }
}

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
    ever_connected: bool,
}

pub(super) async fn run(
    config: SessionConfig,
    receiver: mpsc::Receiver<Command>,
    events: mpsc::UnboundedSender<SessionEvent>,
) {
    let outcome = match Session::new(config, receiver, events.clone()).await {
        Ok(mut session) => {
            let outcome = session.run().await;
            session.drop_tunnel().await;
            session.network.close().await;
            outcome
        }
        Err(outcome) => outcome,
    };
    // Nobody listening is no reason to do anything else: everything is undone.
    let _ = events.send(SessionEvent::Ended(outcome));
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

    async fn run(&mut self) -> Outcome {
        loop {
            self.connected = false;
            if self.login.for_connection().is_none() {
                return Outcome::NeedCredentials;
            }
            let token_used = self.login.has_token();
            let end = self.attempt().await;
            self.ever_connected |= self.connected;
            let followed = match end {
                End::Wish(wish) => self.follow(wish).await,
                End::Ending(ending) => self.recover(ending, token_used).await,
            };
            if let Err(outcome) = followed {
                return outcome;
            }
        }
    }

    /// Does what somebody asked for. `Ok`: another attempt follows.
    async fn follow(&mut self, wish: Wish) -> Result<(), Outcome> {
        match wish {
            Wish::Disconnect => return Err(Outcome::Disconnected),
            Wish::Restart | Wish::Resume => {
                self.statistics.count(Counter::Reconnects);
                self.enter(SessionState::Reconnecting { reason: "restart requested".to_owned() });
            }
            Wish::Pause => {
                self.statistics.count(Counter::Pauses);
                if !self.config.options.device.persist {
                    self.drop_tunnel().await;
                }
                self.enter(SessionState::Paused);
                loop {
                    match self.commands.wish(&self.statistics).await {
                        Wish::Pause => {}
                        Wish::Resume | Wish::Restart => break,
                        Wish::Disconnect => return Err(Outcome::Disconnected),
                    }
                }
                self.statistics.count(Counter::Reconnects);
            }
        }
        Ok(())
    }

    /// After an attempt that ended by itself. `Ok`: another attempt follows.
    async fn recover(&mut self, ending: Ending, token_used: bool) -> Result<(), Outcome> {
        self.count(&ending);
        let doubt = match &ending {
            Ending::Control(ControlError::HandshakeTimeout(_) | ControlError::NoPushReply(_)) => {
                self.tls.certificate_doubt()
            }
            _ => None,
        };
        let situation = Situation {
            connected: self.connected,
            ever_connected: self.ever_connected,
            token_used,
            can_repeat_login: self.login.can_repeat(),
            auth_fail_retry: self.config.auth_fail_retry,
            rounds: self.remotes.rounds(),
            round_complete: self.remotes.completes_round(),
            wrapped: !matches!(self.config.options.wrap, WrapOptions::None),
        };
        let options = Arc::clone(&self.config.options);
        let retry = &options.retry;
        let (advance, delay, reason) = match decide(ending, situation, retry) {
            Decision::End(outcome) => return Err(outcome),
            Decision::Retry { advance, delay, drop_token, reason } => {
                if drop_token {
                    self.login.drop_token();
                }
                let reason = match doubt {
                    Some(doubt) => format!("{doubt}; the server fell silent: {reason}"),
                    None => reason,
                };
                (advance, delay, reason)
            }
        };
        if self.connected {
            self.statistics.count(Counter::Reconnects);
            tracing::warn!("connection lost: {reason}");
            self.enter(SessionState::Reconnecting { reason: reason.clone() });
        } else {
            tracing::warn!("connection attempt failed: {reason}");
            // Routes into a tunnel that does not come back would keep name resolution, and every
            // other server, out of reach.
            if !self.config.options.device.persist {
                self.drop_tunnel().await;
            }
        }
        self.remotes.advance(advance);
        // `connect-retry-max` limits attempts that fail, not connections that end.
        if advance != Advance::Again
            && !self.connected
            && retry.rounds.is_some_and(|limit| self.remotes.rounds() >= limit)
        {
            return Err(Outcome::Unreachable { message: reason });
        }
        if delay > Duration::ZERO {
            tracing::info!("next attempt in {} s", delay.as_secs());
        }
        match self.commands.or_wish(&self.statistics, tokio::time::sleep(delay)).await {
            Ok(()) => Ok(()),
            Err(wish) => self.follow(wish).await,
        }
    }

    fn count(&mut self, ending: &Ending) {
        use crate::transport::TransportError;
        let counter = match ending {
            Ending::Resolve(_) => Counter::ResolveError,
            Ending::Transport(TransportError::Proxy(_)) => Counter::ProxyError,
            Ending::Transport(TransportError::Protect { .. }) => Counter::SocketProtectError,
            Ending::Transport(TransportError::Io { .. }) => Counter::TransportError,
            Ending::NoAnswer(_) => Counter::ConnectionTimeout,
            Ending::Control(ControlError::HandshakeTimeout(_)) => Counter::HandshakeTimeout,
            Ending::Control(ControlError::Tls(error)) => match error.kind {
                crate::tls::TlsErrorKind::CertVerify => Counter::CertVerifyFail,
                crate::tls::TlsErrorKind::Version => Counter::TlsVersionMin,
                crate::tls::TlsErrorKind::Alert => Counter::TlsAlert,
                _ => Counter::SslError,
            },
            Ending::Control(ControlError::KeyExpired(_)) => Counter::PrimaryExpire,
            Ending::Control(_) => Counter::ControlChannelError,
            Ending::AuthFailed(_) => Counter::AuthFailed,
            Ending::ServerRestart(..) | Ending::ServerExit => Counter::ClientRestart,
            Ending::Halted(_) => Counter::ClientHalt,
            Ending::PingTimeout { .. } => Counter::KeepaliveTimeout,
            Ending::Lost(_) => Counter::NetworkEof,
            Ending::Inactive => Counter::InactiveTimeout,
            Ending::SessionTimeout => return,
            Ending::PushRejected(_)
            | Ending::Network(_)
            | Ending::Unusable(_)
            | Ending::Privilege(_) => Counter::TunSetupFailed,
        };
        self.statistics.count(counter);
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
