//! The end of a connection, or of the attempt at one, and what follows it.

use std::sync::Arc;
use std::time::Duration;

use super::commands::Wish;
use super::ending::Ending;
use super::event::{Outcome, SessionState};
use super::life::{Ended, Opening, Paused, State, Waiting};
use super::link::Link;
use super::reconnect::{Decision, Situation, decide};
use super::remotes::Advance;
use super::shared::Shared;
use super::tunnel::Tunnel;
use crate::control::{AuthFailed, ControlError};
use crate::counters::Counter;
use crate::profile::WrapOptions;
use crate::transport::{ProxyError, TransportError};

/// How a connection ended.
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

impl<T: Into<Ending>> From<T> for End {
    fn from(ending: T) -> Self {
        Self::Ending(ending.into())
    }
}

/// A connection that is over, or never came to be. The transport is closed.
#[derive(Debug)]
pub(super) struct Over {
    pub(super) end: End,
    /// It reached a working tunnel.
    pub(super) connected: bool,
    /// The tunnel that it leaves, without a peer.
    pub(super) kept: Option<Tunnel>,
}

impl Shared {
    /// Ends a connection. `connected`: it reached a working tunnel.
    pub(super) async fn part(
        &mut self,
        mut link: Link,
        end: End,
        connected: bool,
        mut kept: Option<Tunnel>,
    ) -> Over {
        let end = match end {
            End::Ending(Ending::Lost(why)) => {
                link.last_words(self).await.unwrap_or_else(|| link.explain(why)).into()
            }
            end => end,
        };
        if let Some(tunnel) = &mut kept {
            self.statistics.add_all(&tunnel.del_peer().await);
        }
        self.statistics.add_all(&link.counters());
        self.extensions.connection_over();
        Over { end, connected, kept }
    }
}

impl Over {
    /// The state that follows.
    pub(super) async fn next(self, shared: &mut Shared) -> State {
        shared.ever_connected |= self.connected;
        match self.end {
            End::Wish(wish) => follow(shared, wish, self.kept).await,
            End::Ending(ending) => recover(shared, ending, self.connected, self.kept).await,
        }
    }
}

/// Does what somebody asked for while nothing is connected (any more).
pub(super) async fn follow(shared: &mut Shared, wish: Wish, kept: Option<Tunnel>) -> State {
    match wish {
        Wish::Disconnect => State::Ended(Ended { outcome: Outcome::Disconnected, kept }),
        Wish::Restart | Wish::Resume => {
            shared.statistics.count(Counter::Reconnects);
            shared.enter(SessionState::Reconnecting { reason: "restart requested".to_owned() });
            State::Opening(Opening { kept })
        }
        Wish::Pause => {
            shared.statistics.count(Counter::Pauses);
            let kept = keep_if_persistent(shared, kept).await;
            shared.enter(SessionState::Paused);
            State::Paused(Paused { kept })
        }
    }
}

/// What servers of OpenVPN 2.5 and newer say in AUTH_FAILED.
const NO_SHARED_CIPHER: &str = "Data channel cipher negotiation failed";

/// After a connection that ended by itself.
async fn recover(
    shared: &mut Shared,
    ending: Ending,
    connected: bool,
    mut kept: Option<Tunnel>,
) -> State {
    if let Some(counter) = counter(&ending) {
        shared.statistics.count(counter);
    }
    let doubt = match &ending {
        Ending::Control(ControlError::HandshakeTimeout(_) | ControlError::NoPushReply(_)) => {
            shared.tls.certificate_doubt()
        }
        _ => None,
    };
    tracing::debug!("at fault: {}", ending.fault());
    if let Ending::Transport(TransportError::Proxy(error @ ProxyError::BadCredentials { .. })) =
        &ending
    {
        // Whoever is asked again has a right to know why.
        tracing::warn!("{error}");
    }
    let options = &shared.config.options;
    if let Ending::AuthFailed(AuthFailed::Permanent { reason }) = &ending
        && reason.contains(NO_SHARED_CIPHER)
    {
        // It stands where the refusal of a login does, and does not say what can be done.
        let offered: Vec<_> = options.data.ciphers.iter().map(|cipher| cipher.name()).collect();
        tracing::warn!(
            "the server takes none of the data ciphers that were offered ({}): add its own to \
             data-ciphers, or enable one of these on the server",
            offered.join(":")
        );
    }
    let wrap = shared.remotes.current().map_or(&options.wrap, |remote| options.wrap_for(remote));
    let situation = Situation {
        connected,
        ever_connected: shared.ever_connected,
        token_sent: shared.login.token_sent(),
        can_repeat_login: shared.login.can_repeat(),
        auth_fail_retry: shared.config.auth_fail_retry,
        rounds: shared.remotes.rounds(),
        round_complete: shared.remotes.completes_round(),
        wrapped: !matches!(wrap, WrapOptions::None),
    };
    let options = Arc::clone(&shared.config.options);
    let retry = &options.retry;
    let (advance, delay, reason) = match decide(ending, situation, retry) {
        Decision::End(outcome) => {
            if matches!(outcome, Outcome::NeedCredentials) {
                tracing::warn!(
                    "the server takes the session token no longer, and the password is not kept \
                     (auth-nocache, or good for one login)"
                );
            }
            return State::Ended(Ended { outcome, kept });
        }
        Decision::Retry { advance, delay, drop_token, reason } => {
            if drop_token {
                shared.login.drop_token();
            }
            let reason = match doubt {
                Some(doubt) => {
                    Ending::Silence { doubt: doubt.to_owned(), source: Box::new(reason) }
                }
                None => reason,
            };
            (advance, delay, reason)
        }
    };
    if connected {
        shared.statistics.count(Counter::Reconnects);
        tracing::warn!("connection lost: {reason}");
        shared.enter(SessionState::Reconnecting { reason: reason.to_string() });
    } else {
        tracing::warn!("connection attempt failed: {reason}");
        // Routes into a tunnel that does not come back would keep name resolution, and every other
        // server, out of reach.
        kept = keep_if_persistent(shared, kept).await;
    }
    shared.remotes.advance(advance);
    // `connect-retry-max` limits attempts that fail, not connections that end.
    if advance != Advance::Again
        && !connected
        && retry.rounds.is_some_and(|limit| shared.remotes.rounds() >= limit)
    {
        return State::Ended(Ended { outcome: Outcome::Unreachable(reason), kept });
    }
    if delay > Duration::ZERO {
        tracing::info!("next attempt in {} s", delay.as_secs());
    }
    State::Waiting(Waiting { delay, kept })
}

/// `persist-tun`
async fn keep_if_persistent(shared: &mut Shared, kept: Option<Tunnel>) -> Option<Tunnel> {
    if shared.config.options.device.persist {
        return kept;
    }
    if let Some(tunnel) = kept {
        shared.release(tunnel).await;
    }
    None
}

fn counter(ending: &Ending) -> Option<Counter> {
    use crate::tls::TlsErrorKind;
    Some(match ending {
        Ending::Resolve { .. } | Ending::NoAddress(_) => Counter::ResolveError,
        Ending::Transport(TransportError::Proxy(_)) => Counter::ProxyError,
        Ending::Transport(TransportError::Protect { .. }) => Counter::SocketProtectError,
        Ending::Transport(TransportError::Io { .. }) => Counter::TransportError,
        Ending::NoAnswer { .. } => Counter::ConnectionTimeout,
        Ending::Silence { source, .. } => return counter(source),
        Ending::Control(ControlError::HandshakeTimeout(_) | ControlError::HelloUnanswered(_)) => {
            Counter::HandshakeTimeout
        }
        Ending::Control(ControlError::Tls(error)) => match error.kind {
            TlsErrorKind::CertVerify => Counter::CertVerifyFail,
            TlsErrorKind::Version => Counter::TlsVersionMin,
            TlsErrorKind::Alert => Counter::TlsAlert,
            _ => Counter::SslError,
        },
        Ending::Control(ControlError::KeyExpired(_)) => Counter::PrimaryExpire,
        Ending::Control(_) | Ending::Disorder(_) => Counter::ControlChannelError,
        Ending::AuthFailed(_) | Ending::TokenRefused(_) => Counter::AuthFailed,
        Ending::ServerRestart(..) | Ending::ServerExit => Counter::ClientRestart,
        Ending::Halted(_) => Counter::ClientHalt,
        Ending::PingTimeout { .. } => Counter::KeepaliveTimeout,
        Ending::Lost(_) => Counter::NetworkEof,
        Ending::Inactive => Counter::InactiveTimeout,
        Ending::SessionTimeout | Ending::NetworkChanged(_) => return None,
        Ending::Push(_) | Ending::PushUpdate(_) | Ending::SetUp(_) => Counter::TunSetupFailed,
    })
}
