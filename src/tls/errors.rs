//! What rustls reports, told to people: which side refused what, and what to do about it.

use rustls::{AlertDescription, CertificateError, Error, InconsistentKeys, PeerIncompatible};

use super::session::{TlsError, TlsErrorKind};

/// Maps an error of rustls. Errors of our own verifier and signer pass through unchanged.
pub(super) fn from_rustls(error: &Error) -> TlsError {
    if let Some(own) = own(error) {
        return own;
    }
    match error {
        Error::AlertReceived(alert) => alert_received(*alert),
        Error::PeerIncompatible(reason) => incompatible(reason),
        Error::InvalidCertificate(CertificateError::BadSignature) => TlsError::new(
            TlsErrorKind::CertVerify,
            "the server's handshake signature does not fit its certificate: it does not hold the \
             certificate's private key",
        ),
        Error::InvalidCertificate(reason) => TlsError::new(
            TlsErrorKind::CertVerify,
            format!("the server's certificate is not acceptable: {reason}"),
        ),
        Error::NoCertificatesPresented => TlsError::new(
            TlsErrorKind::CertVerify,
            "the server sent no certificate; check the server's `cert` option",
        ),
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => TlsError::new(
            TlsErrorKind::Config,
            "cert and key do not belong together; use the private key of this certificate",
        ),
        other => TlsError::new(whose(other), format!("TLS: {other}")),
    }
}

/// Whose fault an error is that says nothing of certificates.
const fn whose(error: &Error) -> TlsErrorKind {
    match error {
        Error::FailedToGetRandomBytes
        | Error::FailedToGetCurrentTime
        | Error::EncryptError
        | Error::HandshakeNotComplete => TlsErrorKind::Host,
        _ => TlsErrorKind::Protocol,
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

/// Alerts are what the server thinks of us: say which of our options it concerns.
fn alert_received(alert: AlertDescription) -> TlsError {
    use AlertDescription as A;
    let (name, advice) = match alert {
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
            if alert == A::BadCertificate { "bad_certificate" } else { "certificate_unknown" },
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
             restricted to DHE, CBC or static RSA suites, or we by tls-cipher, tls-groups or \
             tls-cert-profile), or wants a client certificate",
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
        other => {
            return TlsError::new(
                TlsErrorKind::Alert,
                format!("the server sent the TLS alert {other:?}; its log says why"),
            );
        }
    };
    let kind =
        if alert == A::ProtocolVersion { TlsErrorKind::Version } else { TlsErrorKind::Alert };
    TlsError::new(kind, format!("the server sent the TLS alert {name}: {advice}"))
}

fn incompatible(reason: &PeerIncompatible) -> TlsError {
    match reason {
        PeerIncompatible::ServerDoesNotSupportTls12Or13 => TlsError::new(
            TlsErrorKind::Version,
            "the server offers neither TLS 1.2 nor TLS 1.3; it must be upgraded",
        ),
        PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig => TlsError::new(
            TlsErrorKind::Version,
            "the server chose a TLS version outside tls-version-min and tls-version-max; change \
             them or the server's",
        ),
        other => TlsError::new(
            TlsErrorKind::Protocol,
            format!("the server's TLS is not compatible with ours: {other:?}"),
        ),
    }
}
