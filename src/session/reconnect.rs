//! What follows the end of an attempt: try again (where, when), or give up (why). Pure.

use std::time::Duration;

use super::ending::{Consequence, Ending};
use super::event::Outcome;
use super::remotes::Advance;
use crate::control::{AuthFailed, ControlError};
use crate::profile::{AuthRetry, PushError, Retry};
use crate::tls::{TlsError, TlsErrorKind};
use crate::transport::{ProxyError, TransportError};

/// `auth-retry nointeract` waits this long.
const AUTH_RETRY_DELAY: Duration = Duration::from_secs(10);
/// Rounds over all remotes before the pause starts to double.
const PATIENT_ROUNDS: u32 = 5;

/// What to know about the session to decide.
#[derive(Clone, Copy, Debug)]
pub(super) struct Situation {
    /// This attempt reached a working tunnel.
    pub(super) connected: bool,
    /// Some attempt of this session did.
    pub(super) ever_connected: bool,
    /// What was sent last, for whichever key, was an auth-token.
    pub(super) token_sent: bool,
    /// The user's own credentials are still there and may be sent again.
    pub(super) can_repeat_login: bool,
    /// Override `auth-fail-retry`.
    pub(super) auth_fail_retry: bool,
    /// Full rounds without success before this one.
    pub(super) rounds: u32,
    /// Every address of every remote has had its turn in this round.
    pub(super) round_complete: bool,
    /// Only somebody with the profile's key can take part in the handshake.
    pub(super) wrapped: bool,
}

impl Situation {
    /// Whether to give up because of something that is not authenticated: the other servers shall
    /// have been tried, and where anybody on the way can write it, one such answer is none. A site
    /// that worked yesterday shall come back when its server's mistake is mended.
    fn believes(self, retry: &Retry) -> bool {
        let last = retry.rounds.is_some_and(|limit| self.rounds + 1 >= limit);
        !self.ever_connected && self.round_complete && (self.wrapped || self.rounds > 0 || last)
    }

    /// The same address again. What ends a working connection is no unsuccessful attempt.
    const fn stay(self) -> Advance {
        if self.connected { Advance::Again } else { Advance::Stay }
    }
}

/// What to do next.
#[derive(Debug)]
pub(super) enum Decision {
    /// Another attempt.
    Retry {
        advance: Advance,
        delay: Duration,
        /// Forget the token first.
        drop_token: bool,
        reason: Ending,
    },
    /// The session is over.
    End(Outcome),
}

pub(super) fn decide(ending: Ending, situation: Situation, retry: &Retry) -> Decision {
    let pause = delay(retry, situation.rounds);
    let again = |advance, delay, reason| Decision::Retry {
        // After a working connection the same server comes first.
        advance: if situation.connected { Advance::Again } else { advance },
        delay,
        drop_token: false,
        reason,
    };
    match ending {
        Ending::Transport(TransportError::Proxy(error)) => {
            proxy(error, situation, retry, pause, again)
        }
        Ending::Transport(TransportError::Protect { lasting: true, .. }) => {
            Decision::End(Outcome::Privilege(ending))
        }
        Ending::Control(ControlError::Tls(error)) => tls(error, situation, retry, pause, again),
        // Another attempt would end the same way.
        Ending::Control(ControlError::Misuse(_)) => Decision::End(Outcome::Failed(ending)),
        Ending::AuthFailed(failed) => auth_failed(failed, situation, retry, pause),
        Ending::ServerRestart(_, flags) => Decision::Retry {
            advance: if flags.next_remote { Advance::Remote } else { situation.stay() },
            delay: pause,
            // `[P]` or not, as OpenVPN 2: a server that has forgotten it refuses it, and a password
            // with a one-time code in it would be refused for good.
            drop_token: false,
            reason: ending,
        },
        Ending::Halted(reason) => Decision::End(Outcome::Halted { reason }),
        Ending::PingTimeout { exit: true } => Decision::End(Outcome::PingExit),
        Ending::Inactive => Decision::End(Outcome::Inactive),
        Ending::SessionTimeout => Decision::End(Outcome::SessionTimeout),
        Ending::Push(PushError::Rejected { .. })
        | Ending::Resolve { .. }
        | Ending::NoAddress(_) => again(Advance::Remote, pause, ending),
        Ending::PushUpdate(_) => again(Advance::Stay, pause, ending),
        Ending::Push(_) => Decision::End(Outcome::Failed(ending)),
        Ending::SetUp(ref error) => match error.consequence() {
            Consequence::Privilege => Decision::End(Outcome::Privilege(ending)),
            Consequence::Later => again(Advance::Stay, pause, ending),
            Consequence::Unusable => Decision::End(Outcome::Failed(ending)),
        },
        Ending::PingTimeout { exit: false } => again(Advance::Stay, Duration::ZERO, ending),
        Ending::ServerExit => again(Advance::Stay, pause, ending),
        Ending::NetworkChanged(_) => again(Advance::Again, Duration::ZERO, ending),
        // The wait for it was a part of the pause.
        Ending::NoAnswer { after, .. } => {
            again(Advance::Address, pause.saturating_sub(after), ending)
        }
        Ending::Transport(_)
        | Ending::Control(_)
        | Ending::Lost(_)
        | Ending::Silence { .. }
        | Ending::TokenRefused(_)
        | Ending::Disorder(_) => again(Advance::Address, pause, ending),
    }
}

/// OpenVPN 2's schedule: `connect-retry`'s first value, doubled for each further round after five,
/// up to its second.
fn delay(retry: &Retry, rounds: u32) -> Duration {
    let doublings = rounds.saturating_sub(PATIENT_ROUNDS - 1).min(15);
    retry.initial.saturating_mul(1 << doublings).min(retry.max.max(retry.initial))
}

fn proxy(
    error: ProxyError,
    situation: Situation,
    retry: &Retry,
    pause: Duration,
    again: impl Fn(Advance, Duration, Ending) -> Decision,
) -> Decision {
    match error {
        ProxyError::NeedCredentials { .. } | ProxyError::BadCredentials { .. } => {
            Decision::End(Outcome::NeedProxyCredentials)
        }
        error if error.is_transient() || !situation.believes(retry) => {
            again(Advance::Address, pause, TransportError::from(error).into())
        }
        error => Decision::End(Outcome::Failed(TransportError::from(error).into())),
    }
}

fn tls(
    error: TlsError,
    situation: Situation,
    retry: &Retry,
    pause: Duration,
    again: impl Fn(Advance, Duration, Ending) -> Decision,
) -> Decision {
    let ends = match error.kind {
        TlsErrorKind::Config
        | TlsErrorKind::PassphraseNeeded
        | TlsErrorKind::WrongPassphrase
        | TlsErrorKind::ExternalSign => true,
        TlsErrorKind::CertVerify | TlsErrorKind::Version | TlsErrorKind::Alert => {
            situation.believes(retry)
        }
        TlsErrorKind::Protocol | TlsErrorKind::Host => false,
    };
    if ends {
        Decision::End(Outcome::Tls(error))
    } else {
        again(Advance::Address, pause, ControlError::from(error).into())
    }
}

fn auth_failed(
    failed: AuthFailed,
    situation: Situation,
    retry: &Retry,
    pause: Duration,
) -> Decision {
    match failed {
        AuthFailed::Temporary { backoff, advance, .. } => Decision::Retry {
            advance: match advance {
                Some(crate::control::Advance::Remote) => Advance::Remote,
                Some(crate::control::Advance::Address) => Advance::Address,
                Some(crate::control::Advance::No) | None => situation.stay(),
            },
            delay: pause.max(backoff.unwrap_or_default().min(retry.max)),
            drop_token: false,
            reason: Ending::AuthFailed(failed),
        },
        failed if situation.token_sent => {
            if situation.can_repeat_login {
                Decision::Retry {
                    // The login has not been tried yet.
                    advance: Advance::Again,
                    delay: Duration::ZERO,
                    drop_token: true,
                    reason: Ending::TokenRefused(failed),
                }
            } else if let AuthFailed::Challenge { .. } = failed {
                Decision::End(Outcome::AuthFailed(failed))
            } else {
                Decision::End(Outcome::NeedCredentials)
            }
        }
        AuthFailed::Permanent { .. }
            if situation.can_repeat_login
                && (retry.auth_retry == AuthRetry::NoInteract || situation.auth_fail_retry) =>
        {
            Decision::Retry {
                advance: situation.stay(),
                delay: pause.max(AUTH_RETRY_DELAY),
                drop_token: false,
                reason: Ending::AuthFailed(failed),
            }
        }
        failed => Decision::End(Outcome::AuthFailed(failed)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{ApiMisuse, RestartFlags};
    use crate::network::NetcfgError;
    use crate::session::ending::{Loss, SetUpError};

    fn retry() -> Retry {
        Retry {
            initial: Duration::from_secs(1),
            max: Duration::from_secs(300),
            rounds: None,
            server_poll_timeout: Duration::from_secs(10),
            auth_retry: AuthRetry::None,
        }
    }

    fn first_attempt() -> Situation {
        Situation {
            connected: false,
            ever_connected: false,
            token_sent: false,
            can_repeat_login: true,
            auth_fail_retry: false,
            rounds: 0,
            round_complete: true,
            wrapped: true,
        }
    }

    fn refused() -> Ending {
        Ending::AuthFailed(AuthFailed::Permanent { reason: "no".to_owned() })
    }

    fn tls_error(kind: TlsErrorKind) -> Ending {
        Ending::Control(ControlError::Tls(TlsError::new(kind, "x")))
    }

    fn retried(decision: &Decision) -> (Advance, Duration, bool) {
        match decision {
            Decision::Retry { advance, delay, drop_token, .. } => (*advance, *delay, *drop_token),
            Decision::End(outcome) => panic!("ends with {outcome:?}"),
        }
    }

    #[test]
    fn pauses_double_after_five_rounds_up_to_the_maximum() {
        let seconds = |rounds| delay(&retry(), rounds).as_secs();
        assert_eq!([0, 1, 4, 5, 6, 12, 13, 99].map(seconds), [1, 1, 1, 2, 4, 256, 300, 300]);
    }

    #[test]
    fn a_network_that_nobody_can_configure_ends_it() {
        let unprotected = |lasting| {
            let (address, reason) = ("192.0.2.1".to_owned(), "no service".to_owned());
            Ending::Transport(TransportError::Protect { address, reason, lasting })
        };
        let connected = Situation { connected: true, ever_connected: true, ..first_attempt() };
        for situation in [first_attempt(), connected] {
            let Decision::End(Outcome::Privilege(ending)) =
                decide(unprotected(true), situation, &retry())
            else {
                panic!("goes on");
            };
            assert!(ending.to_string().contains("no service"), "{ending}");
            let later = retried(&decide(unprotected(false), situation, &retry()));
            assert_eq!(later.1, Duration::from_secs(1));
        }
        let unavailable = |startable| {
            SetUpError::from(NetcfgError::Unavailable { reason: "x".to_owned(), startable })
        };
        let later = decide(unavailable(true).into(), first_attempt(), &retry());
        assert_eq!(retried(&later), (Advance::Stay, Duration::from_secs(1), false));
        let never = decide(unavailable(false).into(), first_attempt(), &retry());
        assert!(matches!(never, Decision::End(Outcome::Privilege(_))), "{never:?}");
    }

    #[test]
    fn what_no_attempt_can_mend_ends_it() {
        let misuse = Ending::Control(ApiMisuse::Nul("the password").into());
        let Decision::End(Outcome::Failed(ending)) = decide(misuse, first_attempt(), &retry())
        else {
            panic!("goes on");
        };
        assert_eq!(ending.to_string(), "the password contains a NUL character");
    }

    #[test]
    fn a_silent_server_makes_room_for_the_next_at_once() {
        let silent = || Ending::NoAnswer { after: Duration::from_secs(10), source: None };
        let decision = decide(silent(), first_attempt(), &retry());
        assert_eq!(retried(&decision), (Advance::Address, Duration::ZERO, false));
        // Later it is left alone for as long as one that refuses.
        let situation = Situation { rounds: 9, ..first_attempt() };
        let refusal = Ending::Transport(TransportError::Io {
            operation: "connect to",
            address: String::new(),
            source: std::io::ErrorKind::ConnectionRefused.into(),
        });
        let refused = retried(&decide(refusal, situation, &retry())).1;
        let decision = decide(silent(), situation, &retry());
        assert_eq!(retried(&decision).1, refused.saturating_sub(Duration::from_secs(10)));
        assert!(refused > Duration::from_secs(10), "{refused:?}");
    }

    #[test]
    fn after_a_working_connection_the_same_server_comes_first() {
        let situation = Situation { connected: true, ever_connected: true, ..first_attempt() };
        let decision = decide(Loss::Stalled.into(), situation, &retry());
        assert_eq!(retried(&decision).0, Advance::Again);
        let restart = || Ending::ServerRestart(String::new(), RestartFlags::default());
        assert_eq!(retried(&decide(restart(), situation, &retry())).0, Advance::Again);
        assert_eq!(retried(&decide(restart(), first_attempt(), &retry())).0, Advance::Stay);
    }

    #[test]
    fn the_pause_grows_for_a_server_that_keeps_refusing() {
        let stubborn = Retry { auth_retry: AuthRetry::NoInteract, ..retry() };
        let later = || {
            Ending::AuthFailed(AuthFailed::Temporary {
                backoff: None,
                advance: None,
                message: String::new(),
            })
        };
        for (rounds, temporary, permanent) in [(0, 1, 10), (9, 32, 32), (40, 300, 300)] {
            let situation = Situation { rounds, ..first_attempt() };
            let pause = |ending| retried(&decide(ending, situation, &stubborn)).1.as_secs();
            assert_eq!((pause(later()), pause(refused())), (temporary, permanent));
        }
    }

    #[test]
    fn refused_credentials_end_unless_told_otherwise() {
        assert!(matches!(
            decide(refused(), first_attempt(), &retry()),
            Decision::End(Outcome::AuthFailed(_))
        ));
        let stubborn = Retry { auth_retry: AuthRetry::NoInteract, ..retry() };
        let decision = decide(refused(), first_attempt(), &stubborn);
        assert_eq!(retried(&decision), (Advance::Stay, AUTH_RETRY_DELAY, false));
        let one_time = Situation { can_repeat_login: false, ..first_attempt() };
        assert!(matches!(decide(refused(), one_time, &stubborn), Decision::End(_)));
    }

    #[test]
    fn an_expired_token_gives_way_to_the_login() {
        let situation = Situation { token_sent: true, ..first_attempt() };
        let decision = decide(refused(), situation, &retry());
        assert_eq!(retried(&decision), (Advance::Again, Duration::ZERO, true));
        let forgotten = Situation { can_repeat_login: false, ..situation };
        assert!(matches!(
            decide(refused(), forgotten, &retry()),
            Decision::End(Outcome::NeedCredentials)
        ));
    }

    #[test]
    fn temporary_failures_follow_the_servers_flags() {
        let failed = Ending::AuthFailed(AuthFailed::Temporary {
            backoff: Some(Duration::from_secs(42)),
            advance: Some(crate::control::Advance::Remote),
            message: "later".to_owned(),
        });
        let decision = decide(failed, first_attempt(), &retry());
        assert_eq!(retried(&decision), (Advance::Remote, Duration::from_secs(42), false));
    }

    #[test]
    fn certificates_end_a_first_attempt_only() {
        assert!(matches!(
            decide(tls_error(TlsErrorKind::CertVerify), first_attempt(), &retry()),
            Decision::End(Outcome::Tls(TlsError { kind: TlsErrorKind::CertVerify, .. }))
        ));
        let later = Situation { ever_connected: true, ..first_attempt() };
        retried(&decide(tls_error(TlsErrorKind::CertVerify), later, &retry()));
        assert!(matches!(
            decide(tls_error(TlsErrorKind::WrongPassphrase), later, &retry()),
            Decision::End(_)
        ));
    }

    /// What anybody on the way can forge costs an attempt, not the session.
    #[test]
    fn what_is_not_authenticated_is_believed_once_it_is_everywhere() {
        let proxy = || {
            let error = ProxyError::Malformed { proxy: "proxy", reason: String::new() };
            Ending::Transport(TransportError::Proxy(error))
        };
        let kinds = [TlsErrorKind::CertVerify, TlsErrorKind::Version, TlsErrorKind::Alert];
        let (for_ever, once) = (retry(), Retry { rounds: Some(1), ..retry() });
        for round_complete in [false, true] {
            for wrapped in [false, true] {
                for rounds in [0, 1] {
                    let situation =
                        Situation { round_complete, wrapped, rounds, ..first_attempt() };
                    let ends = |ending, retry| {
                        matches!(decide(ending, situation, retry), Decision::End(_))
                    };
                    let believed = round_complete && (wrapped || rounds > 0);
                    for kind in kinds {
                        assert_eq!(ends(tls_error(kind), &for_ever), believed, "{situation:?}");
                        // There is no other attempt to wait for.
                        assert_eq!(ends(tls_error(kind), &once), round_complete, "{situation:?}");
                    }
                    assert_eq!(ends(proxy(), &for_ever), believed, "{situation:?}");
                }
            }
        }
    }

    #[test]
    fn a_restart_keeps_the_token() {
        for (flags, advance) in [
            (RestartFlags { preserve: false, next_remote: false }, Advance::Stay),
            (RestartFlags { preserve: true, next_remote: true }, Advance::Remote),
        ] {
            let decision =
                decide(Ending::ServerRestart(String::new(), flags), first_attempt(), &retry());
            assert_eq!((retried(&decision).2, retried(&decision).0), (false, advance));
        }
    }
}
