//! What is wrong with a certificate or a revocation list by itself. Each text goes on from the name
//! of the thing.

use x509_parser::prelude::{ASN1Time, X509Error};

/// Why it cannot be used.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub(in crate::tls) enum Defect {
    /// It is not what it says.
    #[error("cannot be read ({0})")]
    Unreadable(#[source] x509_parser::nom::Err<X509Error>),
    /// More follows.
    #[error("has data after its end")]
    Trailing,
    /// What it says is ambiguous.
    #[error("has an extension twice")]
    TwoOfAnExtension,
    /// This extension cannot be read.
    #[error("has a damaged {0} extension")]
    Extension(&'static str),
    /// Its signature is none.
    #[error("has a damaged signature")]
    Signature,
    /// This extension must be understood, and is not.
    #[error("has the unsupported critical extension {0}")]
    UnknownCritical(String),
    /// Somebody else signed it.
    #[error("is not signed by that CA")]
    OtherSigner,
    /// Its signer may not sign such a thing.
    #[error("is signed by a CA whose key usage lacks cRLSign")]
    SignerMayNot,
    /// It is for later.
    #[error("is not valid before {0}")]
    TooEarly(ASN1Time),
    /// It is over.
    #[error("has expired on {0}")]
    Expired(ASN1Time),
}
