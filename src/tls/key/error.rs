//! Why the client's certificate and private key cannot be used, and what to do about it.

use super::cost::Cost;
use crate::tls::pem::PemError;
use crate::tls::session::{Reason, TlsErrorKind};

/// What is wrong with `cert`, `key` or `pkcs12`.
#[derive(Debug, thiserror::Error)]
pub(in crate::tls) enum KeyError {
    #[error(transparent)]
    Pem(#[from] PemError),
    #[error("the profile has cert but no key; add the private key")]
    NoKey,
    #[error("the profile has key but no cert; add the certificate")]
    NoCertificate,
    #[error("the private key is external but the profile has no cert; add the certificate")]
    NoCertificateOfExternal,
    #[error("the private key is external and nobody is there to sign with it")]
    NoSigner,
    #[error(
        "cert: the key type of the certificate is not supported; supported are RSA, ECDSA on \
         P-256, P-384 and P-521, and Ed25519"
    )]
    CertificateKind,
    #[error(
        "cert and key do not belong together; use the private key that this certificate was \
         issued for"
    )]
    Mismatch,
    #[error("key: no private key found; it must hold a PEM block \"-----BEGIN PRIVATE KEY-----\"")]
    NotFound,
    #[error(
        "key: a key of the form \"{0}\" is not supported; convert it with `openssl pkcs8 -topk8 \
         -in OLD -out NEW` (RSA, ECDSA or Ed25519)"
    )]
    Form(String),
    #[error(
        "key: the private key cannot be used; supported are RSA and RSA-PSS of 1024 to 8192 bits, \
         ECDSA on P-256, P-384 and P-521, and Ed25519"
    )]
    Kind,
    #[error(
        "key: the private key is encrypted; its passphrase is needed (or askpass FILE in the \
         profile)"
    )]
    PassphraseNeeded,
    /// Upstream's front ends look for the word in braces.
    #[error("{option}: the passphrase of the private key is wrong {{PEM_PASSWORD_FAIL}}")]
    WrongPassphrase { option: &'static str },
    #[error("key: the DEK-Info header of the private key is damaged")]
    DekInfo,
    #[error(
        "key: the private key is encrypted with {0}, which is not supported; convert it with \
         `openssl pkcs8 -topk8 -in OLD -out NEW`"
    )]
    Cipher(String),
    #[error("key: the encrypted private key is damaged ({0})")]
    Damaged(#[from] pkcs8::der::Error),
    #[error(
        "key: the encryption of the private key is not supported ({scheme}); convert it with \
         `openssl pkcs8 -topk8 -v2 aes-256-cbc -in OLD -out NEW`"
    )]
    Scheme { scheme: String, source: Option<pkcs8::pkcs5::Error> },
    #[error(
        "key: the private key is encrypted in a way that is too costly to open, or not possible at \
         all ({0}); convert it with `openssl pkcs8 -topk8 -v2 aes-256-cbc -in OLD -out NEW`"
    )]
    TooCostly(#[from] Cost),
    #[error(
        "pkcs12: the file is encrypted with scrypt, which is not supported; export it again, e.g. \
         with `openssl pkcs12 -export`"
    )]
    Scrypt,
    #[error(
        "pkcs12: the file cannot be read ({0}); export it again, e.g. with `openssl pkcs12 -export`"
    )]
    Unreadable(#[source] p12_keystore::error::Error),
    #[error(
        "pkcs12: no supported private key with its certificate found; supported are RSA and \
         RSA-PSS of 1024 to 8192 bits, ECDSA on P-256, P-384 and P-521, and Ed25519"
    )]
    NotInBundle,
}

impl Reason for KeyError {
    fn kind(&self) -> TlsErrorKind {
        match self {
            Self::PassphraseNeeded => TlsErrorKind::PassphraseNeeded,
            Self::WrongPassphrase { .. } => TlsErrorKind::WrongPassphrase,
            _ => TlsErrorKind::Config,
        }
    }
}
