//! Who the client is: certificate chain and private key, in every form profiles use.

mod cost;
mod encrypted;
mod error;
mod pkcs12;
mod traditional;

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};
use x509_parser::x509::SubjectPublicKeyInfo;
use zeroize::Zeroizing;

pub(super) use self::error::KeyError;
use super::external::{ExternalIdentity, ExternalSigner};
use super::pem::{self, Section};
use super::rsa;
use crate::profile::{KeySource, OpenedKey, TlsOptions};
use crate::secret::Secret;

/// What the options say about both sides' certificates.
pub(super) struct Identity {
    pub(super) key: ClientKey,
    /// Trusted CA certificates, of `ca` or, without it, of `pkcs12`.
    pub(super) ca: Vec<CertificateDer<'static>>,
    /// Other certificates that may complete a chain.
    pub(super) extra: Vec<CertificateDer<'static>>,
}

impl ClientKey {
    fn leaf(&self) -> Option<X509Certificate<'_>> {
        let leaf = match self {
            Self::None => return None,
            Self::Own(key) => key.cert.first()?,
            Self::External(identity) => identity.leaf()?,
        };
        X509Certificate::from_der(leaf).ok().map(|(_, leaf)| leaf)
    }

    /// That its key is too short to rely on, for the log.
    pub(super) fn weakness(&self) -> Option<String> {
        let bits = rsa::bits(self.leaf()?.public_key()).filter(|bits| *bits < rsa::STRONG_BITS)?;
        Some(format!(
            "cert: the client certificate has an RSA key of {bits} bits, too short to be safe: get \
             one with a key of {} bits or more",
            rsa::STRONG_BITS
        ))
    }

    /// What the server will probably object to, for the log: it does not always say so itself.
    pub(super) fn warning(&self) -> Option<String> {
        let leaf = self.leaf()?;
        let validity = leaf.validity();
        let now = ASN1Time::now();
        if now > validity.not_after {
            Some(format!("cert: the client certificate has expired on {}", validity.not_after))
        } else if now < validity.not_before {
            Some(format!(
                "cert: the client certificate is not valid before {}",
                validity.not_before
            ))
        } else if let Ok(Some(usage)) = leaf.extended_key_usage()
            && !usage.value.client_auth
            && !usage.value.any
        {
            Some(
                "cert: the client certificate is not meant for TLS clients (its extended key usage \
                 lacks clientAuth); get one that is"
                    .to_owned(),
            )
        } else {
            None
        }
    }
}

/// The client certificate and where its key is.
pub(super) enum ClientKey {
    /// The server is not given a client certificate.
    None,
    /// Here.
    Own(Arc<CertifiedKey>),
    /// Elsewhere.
    External(ExternalIdentity),
}

impl Identity {
    /// Reads `ca`, `cert`, `extra-certs`, `key` and `pkcs12`.
    pub(super) fn load(
        options: &TlsOptions,
        passphrase: Option<&Secret<String>>,
        signer: Option<&Arc<dyn ExternalSigner>>,
    ) -> Result<Self, KeyError> {
        let read = |option, text: &Option<String>| match text {
            Some(text) => pem::certificates(option, text),
            None => Ok(Vec::new()),
        };
        let mut ca = read("ca", &options.ca)?;
        let cert = read("cert", &options.cert)?;
        let mut extra = read("extra-certs", &options.extra_certs)?;
        let (mut chain, key) = match &options.key {
            None if cert.is_empty() => return Ok(Self { key: ClientKey::None, ca, extra }),
            None => {
                return Err(KeyError::NoKey);
            }
            Some(KeySource::Pem(_) | KeySource::Opened(_)) if cert.is_empty() => {
                return Err(KeyError::NoCertificate);
            }
            Some(KeySource::Pem(text)) => {
                let key = from_pem(text.expose(), passphrase)?;
                (cert, signing(&key)?)
            }
            Some(KeySource::Opened(key)) => (cert, Arc::clone(&key.0)),
            Some(KeySource::Pkcs12(der)) => {
                let bundle = pkcs12::open(der.expose(), passphrase)?;
                if options.ca.is_none() {
                    ca.clone_from(&bundle.others);
                } else {
                    extra.extend(bundle.others);
                }
                (vec![bundle.leaf], signing(&bundle.key)?)
            }
            Some(KeySource::External) if cert.is_empty() => {
                return Err(KeyError::NoCertificateOfExternal);
            }
            Some(KeySource::External) => {
                let signer = signer.ok_or(KeyError::NoSigner)?;
                let mut chain = cert;
                complete_chain(&mut chain, &ca, &extra);
                let identity = ExternalIdentity::new(chain, Arc::clone(signer))?;
                return Ok(Self { key: ClientKey::External(identity), ca, extra });
            }
        };
        complete_chain(&mut chain, &ca, &extra);
        Ok(Self { key: ClientKey::Own(certified(chain, key)?), ca, extra })
    }
}

/// Whether the profile's private key is encrypted and the profile does not hold its passphrase
/// (`askpass`): the user has to be asked for it.
pub fn key_needs_passphrase(options: &TlsOptions) -> bool {
    if options.key_passphrase.is_some() {
        return false;
    }
    match &options.key {
        Some(KeySource::Pem(text)) => key_section(text.expose())
            .is_ok_and(|section| section.label == ENCRYPTED_PKCS8 || is_encrypted(&section)),
        Some(KeySource::Pkcs12(der)) => pkcs12::open(der.expose(), None)
            .is_err_and(|error| matches!(error, KeyError::PassphraseNeeded)),
        Some(KeySource::Opened(_) | KeySource::External) | None => false,
    }
}

/// Opens the private key where nobody has to be asked for its passphrase. From then on it is in
/// memory only as the TLS library needs it: the text it was read from goes, and so does a passphrase
/// of the profile (`askpass`). Certificates of a PKCS#12 file become those of the options.
///
/// A key that cannot be opened stays as it is: connecting tells why.
pub fn open_key(options: &mut TlsOptions) {
    let passphrase = options.key_passphrase.as_ref();
    let opened = match &options.key {
        Some(KeySource::Pem(text)) => {
            from_pem(text.expose(), passphrase).and_then(|key| signing(&key))
        }
        Some(KeySource::Pkcs12(der)) => pkcs12::open(der.expose(), passphrase).and_then(|bundle| {
            let key = signing(&bundle.key)?;
            let others = pem::text(&bundle.others);
            if options.ca.is_none() {
                options.ca = (!bundle.others.is_empty()).then_some(others);
            } else if !bundle.others.is_empty() {
                options.extra_certs.get_or_insert_default().push_str(&others);
            }
            options.cert = Some(pem::text(&[bundle.leaf]));
            Ok(key)
        }),
        Some(KeySource::Opened(_) | KeySource::External) | None => return,
    };
    if let Ok(key) = opened {
        options.key = Some(KeySource::Opened(OpenedKey(key)));
        options.key_passphrase = None;
    }
}

const ENCRYPTED_PKCS8: &str = "ENCRYPTED PRIVATE KEY";

/// The private key of PEM text.
fn from_pem(
    text: &str,
    passphrase: Option<&Secret<String>>,
) -> Result<Zeroizing<PrivateKeyDer<'static>>, KeyError> {
    let section = key_section(text)?;
    let plain = if section.label == ENCRYPTED_PKCS8 {
        encrypted::decrypt(&section.der, demand(passphrase)?)?
    } else if is_encrypted(&section) {
        traditional::decrypt(&section, demand(passphrase)?)?
    } else {
        section.der
    };
    Ok(Zeroizing::new(match section.label.as_str() {
        "RSA PRIVATE KEY" => PrivateKeyDer::Pkcs1(plain.to_vec().into()),
        "EC PRIVATE KEY" => PrivateKeyDer::Sec1(plain.to_vec().into()),
        _ => PrivateKeyDer::Pkcs8(plain.to_vec().into()),
    }))
}

/// The first block that is a private key.
fn key_section(text: &str) -> Result<Section, KeyError> {
    let section = pem::sections("key", text)?
        .into_iter()
        .find(|section| section.label.ends_with("PRIVATE KEY"))
        .ok_or(KeyError::NotFound)?;
    match section.label.as_str() {
        "PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY" | ENCRYPTED_PKCS8 => Ok(section),
        other => Err(KeyError::Form(name(other).unwrap_or("?").to_owned())),
    }
}

/// `text` if it can be the name of a cipher or a form. Anything may stand there, parts of a key too.
fn name(text: &str) -> Option<&str> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b" -".contains(&byte);
    (!text.is_empty() && text.len() <= 24 && text.bytes().all(fits)).then_some(text)
}

fn is_encrypted(section: &Section) -> bool {
    section.proc_type.as_deref().is_some_and(|value| value.contains("ENCRYPTED"))
}

fn demand(passphrase: Option<&Secret<String>>) -> Result<&str, KeyError> {
    passphrase.map(|passphrase| passphrase.expose().as_str()).ok_or(KeyError::PassphraseNeeded)
}

/// Whether decrypted bytes can be a key at all: one SEQUENCE and nothing else. A wrong passphrase
/// passes the padding check once in 256 times, but not this one too.
fn looks_like_der(plain: &[u8]) -> bool {
    use x509_parser::der_parser::asn1_rs::Sequence;
    Sequence::from_der(plain).is_ok_and(|(rest, _)| rest.is_empty())
}

/// The key as the TLS library signs with it.
fn signing(key: &PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, KeyError> {
    supported(key).ok_or(KeyError::Kind)
}

fn supported(key: &PrivateKeyDer<'static>) -> Option<Arc<dyn SigningKey>> {
    any_supported_type(key).ok().or_else(|| rsa::signing_key(key))
}

/// Checks that key and certificate belong together.
fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: Arc<dyn SigningKey>,
) -> Result<Arc<CertifiedKey>, KeyError> {
    check_match(&chain, key.as_ref())?;
    Ok(Arc::new(CertifiedKey::new(chain, key)))
}

fn check_match(chain: &[CertificateDer<'_>], key: &dyn SigningKey) -> Result<(), KeyError> {
    let (Some(leaf), Some(spki)) = (chain.first(), key.public_key()) else {
        return Err(KeyError::Mismatch);
    };
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(|_| KeyError::Mismatch)?;
    let (_, key) = SubjectPublicKeyInfo::from_der(&spki).map_err(|_| KeyError::Mismatch)?;
    if leaf.public_key().subject_public_key.data == key.subject_public_key.data {
        Ok(())
    } else {
        Err(KeyError::Mismatch)
    }
}

/// Appends the intermediates between the client certificate and its root, as OpenSSL does: those
/// of `extra-certs`, or else those found in `ca`.
fn complete_chain(
    chain: &mut Vec<CertificateDer<'static>>,
    ca: &[CertificateDer<'static>],
    extra: &[CertificateDer<'static>],
) {
    if !extra.is_empty() {
        chain.extend(extra.iter().cloned());
        return;
    }
    loop {
        let names = |der: &CertificateDer<'_>| {
            X509Certificate::from_der(der).ok().map(|(_, certificate)| {
                let subject = certificate.subject().as_raw().to_vec();
                (subject, certificate.issuer().as_raw().to_vec())
            })
        };
        let Some((_, issuer)) = chain.last().and_then(names) else { return };
        let next = ca.iter().find(|candidate| {
            names(candidate).is_some_and(|(subject, its_issuer)| {
                subject == issuer && its_issuer != subject && !chain.contains(candidate)
            })
        });
        match next {
            Some(next) => chain.push(next.clone()),
            None => return,
        }
    }
}
