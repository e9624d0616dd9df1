//! What rustls reports, told to people: which side refused what, and what to do about it.

use std::error::Error as StdError;
use std::fmt;

use rustls::{
    AlertDescription, CertificateError, Error, InconsistentKeys, PeerIncompatible, PeerMisbehaved,
};

use super::session::{Reason, TlsError, TlsErrorKind};

/// Maps an error of rustls. Errors of our own verifier and signer pass through unchanged.
pub(super) fn from_rustls(error: Error) -> TlsError {
    own(&error).unwrap_or_else(|| Reported(error).into())
}

/// What rustls reports.
#[derive(Debug)]
struct Reported(Error);

impl StdError for Reported {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.0)
    }
}

impl fmt::Display for Reported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use InconsistentKeys::KeyMismatch;
        use PeerIncompatible as I;
        match &self.0 {
            Error::AlertReceived(alert) => match advice(*alert) {
                Some((name, advice)) => {
                    write!(f, "the server sent the TLS alert {name}: {advice}")
                }
                None => write!(f, "the server sent the TLS alert {alert:?}; its log says why"),
            },
            Error::PeerIncompatible(I::ServerDoesNotSupportTls12Or13) => {
                f.write_str("the server offers neither TLS 1.2 nor TLS 1.3; it must be upgraded")
            }
            Error::PeerIncompatible(I::ServerTlsVersionIsDisabledByOurConfig) => f.write_str(
                "the server chose a TLS version outside tls-version-min and tls-version-max; \
                 change them or the server's",
            ),
            Error::PeerIncompatible(reason) => {
                write!(f, "the server's TLS is not compatible with ours: {reason:?}")
            }
            Error::InvalidCertificate(CertificateError::BadSignature) => f.write_str(
                "the server's handshake signature does not fit its certificate: it does not hold \
                 the certificate's private key",
            ),
            Error::InvalidCertificate(reason) => {
                write!(f, "the server's certificate is not acceptable: {reason}")
            }
            Error::NoCertificatesPresented => {
                f.write_str("the server sent no certificate; check the server's `cert` option")
            }
            Error::InconsistentKeys(KeyMismatch) => f.write_str(
                "cert and key do not belong together; use the private key of this certificate",
            ),
            Error::PeerMisbehaved(PeerMisbehaved::SignedKxWithWrongAlgorithm) => f.write_str(
                "the server's signature does not fit the cipher suite of TLS 1.2; with an RSA-PSS \
                 key the server needs TLS 1.3 (tls-version-max), or an ordinary RSA key instead",
            ),
            other => write!(f, "TLS: {other}"),
        }
    }
}

impl Reason for Reported {
    fn kind(&self) -> TlsErrorKind {
        use PeerIncompatible as I;
        match &self.0 {
            Error::AlertReceived(AlertDescription::ProtocolVersion)
            | Error::PeerIncompatible(
                I::ServerDoesNotSupportTls12Or13 | I::ServerTlsVersionIsDisabledByOurConfig,
            ) => TlsErrorKind::Version,
            Error::AlertReceived(_) => TlsErrorKind::Alert,
            Error::InvalidCertificate(_) | Error::NoCertificatesPresented => {
                TlsErrorKind::CertVerify
            }
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => TlsErrorKind::Config,
            Error::FailedToGetRandomBytes
            | Error::FailedToGetCurrentTime
            | Error::EncryptError
            | Error::HandshakeNotComplete => TlsErrorKind::Host,
            _ => TlsErrorKind::Protocol,
        }
    }
}

/// The [`TlsError`] that our code gave to rustls, if `error` carries one.
fn own(error: &Error) -> Option<TlsError> {
    let (Error::InvalidCertificate(CertificateError::Other(other)) | Error::Other(other)) = error
    else {
        return None;
    };
    other.0.downcast_ref::<TlsError>().cloned()
}

/// Wraps an error of our verifier so that [`from_rustls`] finds it again.
pub(super) fn certificate_error(error: TlsError) -> Error {
    let other = rustls::OtherError(std::sync::Arc::new(error));
    Error::InvalidCertificate(CertificateError::Other(other))
}

/// Wraps an error of our signer so that [`from_rustls`] finds it again.
pub(super) fn other_error(error: TlsError) -> Error {
    Error::Other(rustls::OtherError(std::sync::Arc::new(error)))
}

/// Alerts are what the server thinks of us: its registered name, and which of our options it
/// concerns.
const fn advice(alert: AlertDescription) -> Option<(&'static str, &'static str)> {
    use AlertDescription as A;
    Some(match alert {
        A::CertificateExpired => {
            ("certificate_expired", "the client certificate (cert) has expired; renew it")
        }
        A::CertificateRevoked => {
            ("certificate_revoked", "the client certificate (cert) is revoked; get a new one")
        }
        A::UnknownCA => (
            "unknown_ca",
            "the server does not trust the issuer of the client certificate (cert); use one issued \
             by the server's CA, and put intermediates into extra-certs",
        ),
        A::BadCertificate | A::CertificateUnknown => (
            if matches!(alert, A::BadCertificate) {
                "bad_certificate"
            } else {
                "certificate_unknown"
            },
            "the server refused the client certificate (cert); the server's log says why",
        ),
        A::UnsupportedCertificate => (
            "unsupported_certificate",
            "the client certificate (cert) is not meant for TLS clients, or its key type is not \
             supported by the server",
        ),
        A::CertificateRequired => (
            "certificate_required",
            "the server wants a client certificate; the profile needs cert and key (or pkcs12)",
        ),
        A::AccessDenied => {
            ("access_denied", "the server denies access to this client certificate (cert)")
        }
        A::HandshakeFailure => (
            "handshake_failure",
            "the server shares no cipher suite, group or signature algorithm with us (it may be \
             restricted to DHE, CBC or static RSA suites, or have an RSA-PSS key without TLS 1.3, \
             or we be restricted by tls-cipher, tls-groups or tls-cert-profile), or wants a client \
             certificate",
        ),
        A::InsufficientSecurity => (
            "insufficient_security",
            "the server demands stronger algorithms than tls-cipher and tls-groups offer",
        ),
        A::ProtocolVersion => (
            "protocol_version",
            "the server does not accept the TLS versions offered (1.2 and 1.3 at most); check \
             tls-version-min and tls-version-max on both sides",
        ),
        A::DecryptError => (
            "decrypt_error",
            "the server could not verify our handshake signature; check that cert and key belong \
             together",
        ),
        A::UnrecognisedName => ("unrecognized_name", "the server does not know the name of sni"),
        A::CloseNotify => ("close_notify", "the server closed the TLS session; its log says why"),
        A::InternalError => ("internal_error", "the server failed; its log says why"),
        _ => return None,
    })
}
