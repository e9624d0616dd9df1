//! Why a server is refused, and why a profile's rules for servers cannot be applied; with what to do
//! about it.

use super::algorithms::SHA1_RSA;
use super::certificate::{Certificate, SERVER_AUTH};
use super::defect::Defect;
use crate::profile::CertUsage;
use crate::tls::pem::PemError;
use crate::tls::session::{Reason, TlsErrorKind};

/// What is wrong with the options that say which servers are accepted.
#[derive(Debug, thiserror::Error)]
pub(in crate::tls) enum PolicyError {
    #[error(
        "the profile has neither ca nor peer-fingerprint: the server cannot be verified; add one \
         of them"
    )]
    NoTrust,
    #[error("verify-hash needs a ca; use peer-fingerprint instead")]
    HashWithoutCa,
    #[error(
        "crl-verify needs a ca to check the list with, and the profile has peer-fingerprint only; \
         add the ca, or remove crl-verify"
    )]
    ListWithoutCa,
    #[error("ca: a certificate {0}; replace it")]
    Ca(#[source] Defect),
    #[error("ca: certificate \"{subject}\" cannot be used ({source:?}); replace it")]
    UnusableCa { subject: String, source: webpki::Error },
    #[error(transparent)]
    Pem(#[from] PemError),
    #[error("crl-verify: revocation list {number} {source}; get a new one from the CA")]
    List { number: usize, source: Defect },
    #[error(
        "remote-cert-eku: \"{0}\" is not known; write it as an object identifier, e.g. \
         {SERVER_AUTH} for \"TLS Web Server Authentication\""
    )]
    Usage(String),
}

impl Reason for PolicyError {
    fn kind(&self) -> TlsErrorKind {
        TlsErrorKind::Config
    }
}

/// A server's certificate that is not accepted.
#[derive(Debug, thiserror::Error)]
pub(in crate::tls) enum Refusal {
    #[error("the server's certificate {0}")]
    Unreadable(#[source] Defect),
    /// By its subject.
    #[error("{}the server's certificate \"{subject}\" {objection}", .objection.prefix())]
    Certificate {
        subject: String,
        #[source]
        objection: Objection,
    },
}

impl Refusal {
    /// Of `leaf`.
    pub(super) fn new(leaf: &Certificate, objection: Objection) -> Self {
        Self::Certificate { subject: leaf.subject.clone(), objection }
    }
}

impl Reason for Refusal {
    fn kind(&self) -> TlsErrorKind {
        TlsErrorKind::CertVerify
    }
}

/// What there is against a certificate. Each text goes on from its name.
#[derive(Debug, thiserror::Error)]
pub(in crate::tls) enum Objection {
    // Of the certificate by itself.
    #[error("{0}; the server needs a new one, or this machine's clock is wrong")]
    Validity(#[source] Defect),
    #[error("has the unknown critical extension {0}")]
    UnknownCritical(String),
    #[error("has a bad public key ({0})")]
    PublicKey(#[source] webpki::Error),
    #[error("has an RSA key of {bits} bits, {minimum} are demanded; the server needs a larger key")]
    ShortKey { bits: usize, minimum: usize },
    #[error(
        "does not fit the handshake signature: the server does not hold its private key, or \
         tls-cert-profile does not allow the algorithm"
    )]
    HandshakeSignature,
    #[error(
        "is not the one (or not issued the way) this connection started with; connect again if \
         the server's certificate was renewed"
    )]
    Changed,
    #[error("{0}; have it issued again for a server")]
    Purpose(#[from] WrongPurpose),

    // Of its path.
    #[error(
        "was issued by \"{issuer}\" and no path leads from there to a CA of the profile ({known}); \
         use the ca of this server, or add the missing intermediate to ca"
    )]
    UnknownIssuer { issuer: String, known: String },
    #[error(
        "has version 1 or the CA flag and an issuer with name constraints, which cannot be \
         checked; have it issued again as a version 3 certificate without CA flag"
    )]
    NameConstraintsUnchecked,
    #[error("has an issuer that {0}")]
    Issuer(#[source] Defect),
    #[error(
        "was issued by \"{0}\", which is not a CA (basic constraints without CA flag, or key usage \
         without keyCertSign); have the CA certificate issued again"
    )]
    NotACa(String),
    #[error(
        "was signed by \"{issuer}\" with an RSA key of {bits} bits; tls-cert-profile demands \
         {minimum}"
    )]
    ShortIssuerKey { issuer: String, bits: usize, minimum: usize },
    #[error(
        "or one of its issuers has the signature algorithm {name}, which {}; have it issued again \
         with SHA-256", disallowed(.name, *.known)
    )]
    Algorithm {
        name: String,
        /// Some `tls-cert-profile` allows it.
        known: bool,
    },
    #[error(
        "or one of its issuers has the signature algorithm {0}, which does not fit the key of its \
         issuer in ca; use the ca of this server"
    )]
    OtherKey(String),
    #[error(
        "has an issuer of the right name in ca, but its signature was made with another key (or \
         one too small for tls-cert-profile); use the ca of this server"
    )]
    Signature,
    #[error(
        "has the issuer \"{issuer}\", whose certificate {source}; the server needs a new chain, or \
         this machine's clock is wrong"
    )]
    IssuerValidity { issuer: String, source: Defect },
    #[error("has an issuer outside its validity: {0}")]
    SomeIssuersValidity(#[source] webpki::Error),
    #[error(
        "or one of its issuers has an extended key usage that does not allow TLS servers \
         (serverAuth); have it issued again for a server"
    )]
    PathPurpose,
    #[error("was issued by a certificate without CA flag")]
    IssuerWithoutCaFlag,
    #[error("has more intermediates than the path length of one of its CAs allows")]
    PathLength,
    #[error("has more than six intermediate CAs")]
    Depth,
    #[error("has a name that the name constraints of its CA do not allow")]
    NameConstraints,
    #[error("or one of its issuers has an unknown critical extension")]
    PathCritical,
    #[error("or its chain is not acceptable ({0})")]
    Path(#[source] webpki::Error),
    #[error(
        "was issued under the CA \"{root}\" of the profile, whose certificate {source}; the \
         profile needs a new ca, or this machine's clock is wrong"
    )]
    RootValidity { root: String, source: Defect },
    #[error(
        "was issued under the CA \"{root}\", which has the unknown critical extension {extension}"
    )]
    RootCritical { root: String, extension: String },
    #[error("was issued under the CA \"{0}\", whose extended key usage does not allow TLS servers")]
    RootPurpose(String),
    #[error("has more intermediates than the path length {limit} of the CA \"{root}\" allows")]
    RootPathLength { root: String, limit: u32 },

    // Of what the profile demands.
    #[error(
        "was issued by \"{issuer}\" with the fingerprint {fingerprint}; use the hash of the CA you \
         trust"
    )]
    Hash { issuer: String, fingerprint: String },
    #[error("has the fingerprint {0}, which is not listed; add it if this is your server")]
    Fingerprint(String),
    #[error("is not marked for this use; have it issued again, or use remote-cert-tls instead")]
    NetscapeType,
    #[error(
        "has no key usage extension; have it issued again for a {word} (EasyRSA: build-{word}-full)",
        word = word(*.0)
    )]
    NoTlsKeyUsage(CertUsage),
    #[error("has no key usage extension; have it issued again with one")]
    NoKeyUsage,
    #[error("has the key usage {usage:02x}, wanted is one of {wanted}; have it issued again")]
    KeyUsage { usage: u8, wanted: String },
    #[error(
        "lacks the extended key usage of a TLS {word}; have it issued again for a {word} (EasyRSA: \
         build-{word}-full)", word = word(*.0)
    )]
    NoTlsUsage(CertUsage),
    #[error("lacks the extended key usage \"{0}\"; have it issued again with it")]
    NoUsage(String),
    #[error("is another server's: {0}; correct the option if this is your server")]
    Name(String),

    // Of revocation.
    #[error("is revoked; the server needs a new certificate")]
    Revoked,
    #[error("was issued under \"{0}\", which is revoked")]
    RevokedIssuer(String),
    #[error(
        "cannot be checked: the revocation list of \"{issuer}\" {source}; get a new one from the CA"
    )]
    List { issuer: String, source: Defect },
}

/// What a certificate is not for.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(in crate::tls) enum WrongPurpose {
    #[error("has an extended key usage that does not allow TLS servers (serverAuth)")]
    ExtendedKeyUsage,
    #[error("has a Netscape certificate type that does not allow TLS servers")]
    NetscapeType,
    #[error("has a key usage that allows neither signatures nor key exchange")]
    KeyUsage,
}

impl Objection {
    /// The option of the profile that demands it, in front of the rest.
    const fn prefix(&self) -> &'static str {
        match self {
            Self::ShortKey { .. } => "tls-cert-profile: ",
            Self::Changed => "renegotiation: ",
            Self::Hash { .. } => "verify-hash: ",
            Self::Fingerprint(_) => "peer-fingerprint: ",
            Self::NetscapeType => "ns-cert-type: ",
            Self::NoTlsKeyUsage(_) | Self::NoTlsUsage(_) => "remote-cert-tls: ",
            Self::NoKeyUsage | Self::KeyUsage { .. } => "remote-cert-ku: ",
            Self::NoUsage(_) => "remote-cert-eku: ",
            Self::Name(_) => "verify-x509-name: ",
            Self::Revoked | Self::RevokedIssuer(_) | Self::List { .. } => "crl-verify: ",
            _ => "",
        }
    }
}

fn disallowed(algorithm: &str, known: bool) -> &'static str {
    match known {
        true if algorithm == SHA1_RSA => {
            "tls-cert-profile does not allow (SHA-1 needs `tls-cert-profile insecure`)"
        }
        true => "tls-cert-profile does not allow",
        false => "is not supported",
    }
}

const fn word(usage: CertUsage) -> &'static str {
    match usage {
        CertUsage::Server => "server",
        CertUsage::Client => "client",
    }
}
