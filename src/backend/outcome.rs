//! Why a session ended, in the words of the status.

use crate::control::AuthFailed;
use crate::session::Outcome;
use crate::tls::{TlsError, TlsErrorKind};

/// What the end of a session means for the machine.
#[derive(Debug)]
pub(super) enum Verdict {
    /// (2,11): ask again.
    AuthFailed(String),
    /// (2,4): a `CRV1` challenge.
    Challenge {
        echo: bool,
        response_required: bool,
        state_id: String,
        username: String,
        text: String,
    },
    /// (2,4): credentials are no longer there.
    NeedCredentials,
    /// (2,4): the proxy wants credentials.
    NeedProxyCredentials,
    /// (2,4): the private key turned out to be encrypted.
    NeedPassphrase,
    /// (2,16): no traffic.
    Inactive,
    /// (2,10) then (2,9): the server ended it.
    Halted(String),
    /// The passphrase did not open the private key.
    WrongPassphrase(String),
    /// (2,10) with a reason.
    Failed(String),
}

/// Markers in braces are OpenVPN 3's names for the error; front ends search for them.
pub(super) fn verdict(outcome: Outcome) -> Verdict {
    match outcome {
        Outcome::Disconnected => Verdict::Failed("The connection was closed".to_owned()),
        Outcome::AuthFailed(AuthFailed::Challenge {
            echo,
            response_required,
            state_id,
            username,
            text,
        }) => Verdict::Challenge { echo, response_required, state_id, username, text },
        Outcome::AuthFailed(
            AuthFailed::Permanent { reason } | AuthFailed::Temporary { message: reason, .. },
        ) => Verdict::AuthFailed(with_detail("Authentication failed", &reason)),
        Outcome::NeedCredentials => Verdict::NeedCredentials,
        Outcome::NeedProxyCredentials => Verdict::NeedProxyCredentials,
        Outcome::Tls(error) => tls_failed(&error),
        Outcome::Inactive => Verdict::Inactive,
        Outcome::SessionTimeout => {
            Verdict::Failed("The session's time limit (session-timeout) was reached".to_owned())
        }
        Outcome::PingExit => {
            Verdict::Failed("The server does not answer any more (ping-exit)".to_owned())
        }
        Outcome::Halted { reason } => {
            Verdict::Halted(with_detail("Client disconnected by server", &reason))
        }
        Outcome::Privilege(ending) => {
            Verdict::Failed(marked(ending.to_string(), "{TUN_SETUP_FAILED}"))
        }
        Outcome::Unreachable(ending) | Outcome::Failed(ending) => {
            Verdict::Failed(ending.to_string())
        }
    }
}

fn tls_failed(error: &TlsError) -> Verdict {
    let text = error.to_string();
    Verdict::Failed(match error.kind {
        TlsErrorKind::PassphraseNeeded => return Verdict::NeedPassphrase,
        TlsErrorKind::WrongPassphrase => {
            return Verdict::WrongPassphrase(marked(text, "{PEM_PASSWORD_FAIL}"));
        }
        TlsErrorKind::CertVerify => with_detail("Certificate verification failed", &text),
        TlsErrorKind::Version => with_detail("TLS version too low", &text),
        TlsErrorKind::Config => format!("ssl_context_error: {text}"),
        TlsErrorKind::ExternalSign => marked(text, "{EPKI_SIGN_ERROR}"),
        TlsErrorKind::Alert | TlsErrorKind::Protocol | TlsErrorKind::Host => {
            with_detail("TLS error during connection setup", &text)
        }
    })
}

fn marked(message: String, marker: &str) -> String {
    if message.contains(marker) { message } else { format!("{message} {marker}") }
}

fn with_detail(text: &str, detail: &str) -> String {
    if detail.is_empty() { text.to_owned() } else { format!("{text}: {detail}") }
}
