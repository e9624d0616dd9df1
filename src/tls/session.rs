//! The seam between the control channel and the TLS library.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use crate::fault::Fault;

/// One TLS client session, without I/O: ciphertext in, ciphertext out.
///
/// No method blocks. With an external private key ([`crate::tls::TlsConfig::with_signer`]) the
/// handshake goes on by itself once the signature has come: after the call of the
/// [`crate::tls::Waker`], take the ciphertext and look at [`TlsSession::is_handshaking`] again.
pub trait TlsSession: Send {
    /// Feeds ciphertext from the server (any split) and processes it. After an error,
    /// [`TlsSession::take_ciphertext`] may still hold an alert to send.
    fn read_ciphertext(&mut self, ciphertext: &[u8]) -> Result<(), TlsError>;

    /// Appends everything that waits to be sent. Empty if nothing does.
    fn take_ciphertext(&mut self, out: &mut Vec<u8>) -> Result<(), TlsError>;

    /// Queues plaintext as exactly one TLS record.
    fn write_plaintext(&mut self, plaintext: &[u8]) -> Result<(), TlsError>;

    /// Appends received plaintext.
    fn read_plaintext(&mut self, out: &mut Vec<u8>) -> Result<(), TlsError>;

    /// True until the handshake is complete.
    fn is_handshaking(&self) -> bool;

    /// RFC 5705 exporter without context.
    fn export(&self, label: &str, out: &mut [u8]) -> Result<(), TlsError>;

    /// What was negotiated, e.g. `TLSv1.3, TLS_AES_256_GCM_SHA384, X25519MLKEM768`.
    fn description(&self) -> String;

    /// The same as values; `None` as long as the handshake is not complete.
    fn parameters(&self) -> Option<TlsParameters> {
        None
    }

    /// The server's certificate, once verified.
    fn peer_certificate(&self) -> Option<PeerCertificate>;
}

/// What a handshake agreed on, by the names registered with IANA.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct TlsParameters {
    /// `TLSv1.3` or `TLSv1.2`.
    pub version: &'static str,
    /// e.g. `TLS_AES_256_GCM_SHA384`
    pub cipher_suite: String,
    /// e.g. `X25519MLKEM768`
    pub key_exchange: String,
}

impl fmt::Display for TlsParameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, cipher_suite, key_exchange } = self;
        write!(f, "{version}, {cipher_suite}, {key_exchange}")
    }
}

/// Makes a new session for each key (the first and every renegotiation).
pub trait TlsFactory: Send + Sync {
    /// A fresh client session with a complete handshake ahead.
    fn start(&self) -> Result<Box<dyn TlsSession>, TlsError>;
}

/// Who the server is; locked after the first handshake.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerCertificate {
    /// `C=US, O=x, CN=y`
    pub subject: String,
    /// SHA-256 of the leaf.
    pub fingerprint: [u8; 32],
    /// Common name.
    pub common_name: Option<String>,
}

/// Why TLS failed. The text names the rule or the alert and what to do about it.
#[derive(Clone, Debug)]
pub struct TlsError {
    /// What kind of failure, for status codes.
    pub kind: TlsErrorKind,
    reason: Arc<dyn Error + Send + Sync>,
}

/// Why something of TLS failed: each part has an enum of its own, with the text and what to do
/// beside each other.
pub(super) trait Reason: Error + Send + Sync + 'static {
    /// What kind of failure it is.
    fn kind(&self) -> TlsErrorKind;
}

/// Failure kinds that the D-Bus status distinguishes (`dbus-contract` 3.3, OpenVPN 3 error names).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TlsErrorKind {
    /// The profile's TLS material or options are unusable.
    Config,
    /// The private key needs a passphrase that was not given.
    PassphraseNeeded,
    /// The passphrase is wrong (`PEM_PASSWORD_FAIL`).
    WrongPassphrase,
    /// The server's certificate broke a rule (`CERT_VERIFY_FAIL`).
    CertVerify,
    /// Version too low on one side (`TLS_VERSION_MIN`, alert `protocol_version`).
    Version,
    /// The server sent a fatal alert.
    Alert,
    /// The server broke TLS, in the handshake or in a record.
    Protocol,
    /// This machine or program: randomness, clock, threads, a call at the wrong time.
    Host,
    /// An external signature was refused or failed (`EPKI_SIGN_ERROR`).
    ExternalSign,
}

impl TlsError {
    /// Whose fault it is. A certificate that breaks a rule is the server's, whoever wrote the rule.
    pub const fn fault(&self) -> Fault {
        match self.kind {
            TlsErrorKind::Config
            | TlsErrorKind::PassphraseNeeded
            | TlsErrorKind::WrongPassphrase
            | TlsErrorKind::ExternalSign => Fault::Misuse,
            TlsErrorKind::CertVerify
            | TlsErrorKind::Version
            | TlsErrorKind::Alert
            | TlsErrorKind::Protocol => Fault::Peer,
            TlsErrorKind::Host => Fault::Host,
        }
    }

    /// An error of this kind, for this reason: another error, which is kept, or a text.
    pub fn new(kind: TlsErrorKind, reason: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { kind, reason: reason.into().into() }
    }
}

impl<R: Reason> From<R> for TlsError {
    fn from(reason: R) -> Self {
        Self { kind: reason.kind(), reason: Arc::new(reason) }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

impl Error for TlsError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.reason.source()
    }
}

/// The same to those who are told.
impl PartialEq for TlsError {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind && self.to_string() == other.to_string()
    }
}

impl Eq for TlsError {}
