//! The session's life: attempt after attempt, with pauses, until it ends.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::SessionConfig;
use super::commands::{Command, Wish};
use super::event::{Outcome, SessionEvent, SessionState};
use super::reconnect::{Decision, Ending, Situation, decide};
use super::remotes::Advance;
use super::shared::Session;
use crate::control::ControlError;
use crate::counters::Counter;
use crate::profile::WrapOptions;

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
}
