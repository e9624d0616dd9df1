//! Private keys that never come near this process: somebody else signs (a smart card behind the
//! user-input queue, say), perhaps much later.

use std::fmt;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest;
use pkcs8::der::asn1::UintRef;
use pkcs8::der::{Encode, Tag, asn1::AnyRef};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::CertificateDer;
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{SignatureAlgorithm as Family, SignatureScheme as Scheme};
use webpki::RawPublicKeyEntity;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::errors::other_error;
use super::key::KeyError;
use super::session::{Reason, TlsErrorKind};
use super::verify::handshake_algorithms;

/// Asks for signatures. Called on a thread of the TLS session's own.
pub trait ExternalSigner: Send + Sync {
    /// Passes `request` on and returns; `reply` may be used at any time, from any thread.
    /// Dropping it refuses.
    fn sign(&self, request: SignRequest, reply: SignReply);
}

/// Tells the driver of a session that it has something new: collect its output and see whether
/// the handshake is complete. Called from another thread; must not block.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

/// What is to be signed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignRequest {
    /// How. The signature is over `message` itself: hashing is part of the algorithm.
    pub algorithm: SignAlgorithm,
    /// The whole message, for PKCS#11 mechanisms that hash (`CKM_SHA256_RSA_PKCS`, ...).
    pub message: Vec<u8>,
}

impl SignRequest {
    /// The hash of the message, for PKCS#11 mechanisms that do not (`CKM_ECDSA`,
    /// `CKM_RSA_PKCS_PSS`). `None` for Ed25519, which signs the message.
    pub fn digest(&self) -> Option<Vec<u8>> {
        let hash = match self.algorithm {
            SignAlgorithm::RsaPkcs1Sha256
            | SignAlgorithm::RsaPssSha256
            | SignAlgorithm::EcdsaP256Sha256 => &digest::SHA256,
            SignAlgorithm::RsaPkcs1Sha384
            | SignAlgorithm::RsaPssSha384
            | SignAlgorithm::EcdsaP384Sha384 => &digest::SHA384,
            SignAlgorithm::RsaPkcs1Sha512
            | SignAlgorithm::RsaPssSha512
            | SignAlgorithm::EcdsaP521Sha512 => &digest::SHA512,
            SignAlgorithm::Ed25519 => return None,
        };
        Some(digest::digest(hash, &self.message).as_ref().to_vec())
    }
}

/// Signature algorithms that a request may name. RSA-PSS has a salt as long as the hash, and MGF1
/// with the same hash (RFC 8446, 4.2.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum SignAlgorithm {
    RsaPkcs1Sha256,
    RsaPkcs1Sha384,
    RsaPkcs1Sha512,
    RsaPssSha256,
    RsaPssSha384,
    RsaPssSha512,
    EcdsaP256Sha256,
    EcdsaP384Sha384,
    EcdsaP521Sha512,
    Ed25519,
}

impl SignAlgorithm {
    /// E.g. `RSA-PSS-SHA256`.
    pub const fn name(self) -> &'static str {
        self.entry().1
    }

    /// Scheme, name, and for ECDSA the length of `r` and `s` in bytes.
    const fn entry(self) -> (Scheme, &'static str, Option<usize>) {
        match self {
            Self::RsaPkcs1Sha256 => (Scheme::RSA_PKCS1_SHA256, "RSA-PKCS1-SHA256", None),
            Self::RsaPkcs1Sha384 => (Scheme::RSA_PKCS1_SHA384, "RSA-PKCS1-SHA384", None),
            Self::RsaPkcs1Sha512 => (Scheme::RSA_PKCS1_SHA512, "RSA-PKCS1-SHA512", None),
            Self::RsaPssSha256 => (Scheme::RSA_PSS_SHA256, "RSA-PSS-SHA256", None),
            Self::RsaPssSha384 => (Scheme::RSA_PSS_SHA384, "RSA-PSS-SHA384", None),
            Self::RsaPssSha512 => (Scheme::RSA_PSS_SHA512, "RSA-PSS-SHA512", None),
            Self::EcdsaP256Sha256 => (Scheme::ECDSA_NISTP256_SHA256, "ECDSA-P256-SHA256", Some(32)),
            Self::EcdsaP384Sha384 => (Scheme::ECDSA_NISTP384_SHA384, "ECDSA-P384-SHA384", Some(48)),
            Self::EcdsaP521Sha512 => (Scheme::ECDSA_NISTP521_SHA512, "ECDSA-P521-SHA512", Some(66)),
            Self::Ed25519 => (Scheme::ED25519, "Ed25519", None),
        }
    }
}

impl fmt::Display for SignAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The way back for a signature.
#[derive(Debug)]
pub struct SignReply(Option<Sender<Answer>>);

type Answer = Result<Vec<u8>, Unsigned>;

/// Why there is no signature.
#[derive(Debug, thiserror::Error)]
enum Unsigned {
    /// In the words of whoever was asked.
    #[error("{0}")]
    Refused(String),
    #[error("the request was dropped")]
    Dropped,
    #[error("the connection was given up")]
    GivenUp,
    #[error("nobody is left to answer")]
    NobodyLeft,
    #[error(
        "the signature does not fit the certificate; is it the right key, and does the signature \
         cover the whole message?"
    )]
    Misfit,
}

/// Why a handshake could not be signed.
#[derive(Debug, thiserror::Error)]
#[error("the external key did not sign ({algorithm}): {source}")]
struct SignError {
    algorithm: SignAlgorithm,
    source: Unsigned,
}

impl Reason for SignError {
    fn kind(&self) -> TlsErrorKind {
        TlsErrorKind::ExternalSign
    }
}

impl SignReply {
    /// Gives the signature. ECDSA: DER, or `r || s` as PKCS#11 has it.
    pub fn answer(mut self, signature: Vec<u8>) {
        self.send(Ok(signature));
    }

    /// There will be none; `reason` is for people.
    pub fn refuse(mut self, reason: &str) {
        self.send(Err(Unsigned::Refused(reason.to_owned())));
    }

    fn send(&mut self, answer: Answer) {
        if let Some(sender) = self.0.take() {
            // Nobody listens any more when the connection is gone: nothing to do then.
            let _ = sender.send(answer);
        }
    }
}

impl Drop for SignReply {
    fn drop(&mut self) {
        self.send(Err(Unsigned::Dropped));
    }
}

/// Ends the waiting for a signature when its session goes away.
#[derive(Debug)]
pub(super) struct Cancel(Sender<Answer>);

impl Drop for Cancel {
    fn drop(&mut self) {
        let _ = self.0.send(Err(Unsigned::GivenUp));
    }
}

/// A certificate chain whose key is elsewhere.
pub(super) struct ExternalIdentity {
    chain: Vec<CertificateDer<'static>>,
    family: Family,
    /// In order of preference.
    algorithms: &'static [SignAlgorithm],
    signer: Arc<dyn ExternalSigner>,
}

/// PKCS#1 first: TLS 1.3 never offers it, and with TLS 1.2 every token can do it.
const RSA: [SignAlgorithm; 6] = [
    SignAlgorithm::RsaPkcs1Sha256,
    SignAlgorithm::RsaPkcs1Sha384,
    SignAlgorithm::RsaPkcs1Sha512,
    SignAlgorithm::RsaPssSha256,
    SignAlgorithm::RsaPssSha384,
    SignAlgorithm::RsaPssSha512,
];

impl ExternalIdentity {
    /// Learns from the certificate what its key can sign.
    pub(super) fn new(
        chain: Vec<CertificateDer<'static>>,
        signer: Arc<dyn ExternalSigner>,
    ) -> Result<Self, KeyError> {
        let leaf = chain.first().ok_or(KeyError::CertificateKind)?;
        let (_, leaf) = X509Certificate::from_der(leaf).map_err(|_| KeyError::CertificateKind)?;
        let algorithm = &leaf.public_key().algorithm;
        let curve = algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok());
        let curve = curve.map(|oid| oid.to_id_string());
        let (family, algorithms): (_, &'static [SignAlgorithm]) =
            match (algorithm.algorithm.to_id_string().as_str(), curve.as_deref()) {
                ("1.2.840.113549.1.1.1", _) => (Family::RSA, &RSA),
                ("1.2.840.10045.2.1", Some("1.2.840.10045.3.1.7")) => {
                    (Family::ECDSA, &[SignAlgorithm::EcdsaP256Sha256])
                }
                ("1.2.840.10045.2.1", Some("1.3.132.0.34")) => {
                    (Family::ECDSA, &[SignAlgorithm::EcdsaP384Sha384])
                }
                ("1.2.840.10045.2.1", Some("1.3.132.0.35")) => {
                    (Family::ECDSA, &[SignAlgorithm::EcdsaP521Sha512])
                }
                ("1.3.101.112", _) => (Family::ED25519, &[SignAlgorithm::Ed25519]),
                _ => return Err(KeyError::CertificateKind),
            };
        Ok(Self { chain, family, algorithms, signer })
    }

    /// The certificate itself.
    pub(super) fn leaf(&self) -> Option<&CertificateDer<'static>> {
        self.chain.first()
    }

    /// A resolver for one session, and what ends its waiting.
    pub(super) fn resolver(self: &Arc<Self>) -> (Arc<dyn ResolvesClientCert>, Cancel) {
        let (sender, answers) = channel();
        let cancel = Cancel(sender.clone());
        let line = Arc::new(Line { sender, answers: Mutex::new(answers) });
        let key = Arc::new(ExternalKey { identity: Arc::clone(self), line });
        let certified = CertifiedKey::new(self.chain.clone(), key);
        (Arc::new(rustls::sign::SingleCertAndKey::from(certified)), cancel)
    }
}

/// One session's way to the signer and back.
#[derive(Debug)]
struct Line {
    sender: Sender<Answer>,
    answers: Mutex<Receiver<Answer>>,
}

struct ExternalKey {
    identity: Arc<ExternalIdentity>,
    line: Arc<Line>,
}

impl fmt::Debug for ExternalKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExternalKey")
    }
}

impl SigningKey for ExternalKey {
    fn choose_scheme(&self, offered: &[Scheme]) -> Option<Box<dyn Signer>> {
        let fits = |algorithm: &&SignAlgorithm| offered.contains(&algorithm.entry().0);
        let algorithm = *self.identity.algorithms.iter().find(fits)?;
        Some(Box::new(PendingSigner {
            identity: Arc::clone(&self.identity),
            line: Arc::clone(&self.line),
            algorithm,
        }))
    }

    fn algorithm(&self) -> Family {
        self.identity.family
    }
}

/// Blocks until the signature is there: the session runs it on a thread of its own.
struct PendingSigner {
    identity: Arc<ExternalIdentity>,
    line: Arc<Line>,
    algorithm: SignAlgorithm,
}

impl fmt::Debug for PendingSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PendingSigner").field(&self.algorithm).finish()
    }
}

impl Signer for PendingSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let request = SignRequest { algorithm: self.algorithm, message: message.to_vec() };
        self.identity.signer.sign(request, SignReply(Some(self.line.sender.clone())));
        let answers = self.line.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = answers.recv().unwrap_or(Err(Unsigned::NobodyLeft));
        answer
            .and_then(|signature| self.checked(message, signature).ok_or(Unsigned::Misfit))
            .map_err(|source| other_error(SignError { algorithm: self.algorithm, source }.into()))
    }

    fn scheme(&self) -> Scheme {
        self.algorithm.entry().0
    }
}

impl PendingSigner {
    /// The signature in TLS form, if it is good: a server's refusal would not say why.
    fn checked(&self, message: &[u8], signature: Vec<u8>) -> Option<Vec<u8>> {
        if self.fits(message, &signature) {
            return Some(signature);
        }
        let length = self.algorithm.entry().2?;
        let (r, s) = signature.split_at_checked(length).filter(|(_, s)| s.len() == length)?;
        let signature = ecdsa_der(r, s).ok()?;
        self.fits(message, &signature).then_some(signature)
    }

    fn fits(&self, message: &[u8], signature: &[u8]) -> bool {
        let Some(leaf) = self.identity.chain.first() else { return false };
        let Ok((_, leaf)) = X509Certificate::from_der(leaf) else { return false };
        let spki = leaf.public_key().raw.into();
        let Ok(key) = RawPublicKeyEntity::try_from(&spki) else { return false };
        handshake_algorithms(self.algorithm.entry().0)
            .iter()
            .any(|algorithm| key.verify_signature(*algorithm, message, signature).is_ok())
    }
}

/// `Ecdsa-Sig-Value ::= SEQUENCE { r INTEGER, s INTEGER }` (RFC 3279, 2.2.3)
fn ecdsa_der(r: &[u8], s: &[u8]) -> pkcs8::der::Result<Vec<u8>> {
    let mut body = UintRef::new(r)?.to_der()?;
    UintRef::new(s)?.encode_to_vec(&mut body)?;
    AnyRef::new(Tag::Sequence, &body)?.to_der()
}
