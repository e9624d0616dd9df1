//! `pkcs12`: key, certificate and CA certificates in one file (RFC 7292), with today's encryption
//! (AES) or that of older tools (RC2, Triple-DES).

use p12_keystore::{Pkcs12Archive, error::Error};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use zeroize::Zeroizing;

use super::error::KeyError;
use super::{check_match, demand, supported};
use crate::secret::Secret;

/// What a file holds.
pub(super) struct Bundle {
    pub(super) key: Zeroizing<PrivateKeyDer<'static>>,
    /// The certificate of `key`.
    pub(super) leaf: CertificateDer<'static>,
    /// All other certificates.
    pub(super) others: Vec<CertificateDer<'static>>,
}

/// The identifier of scrypt (RFC 7914, 7) in DER.
const SCRYPT: &[u8] = &[0x06, 0x09, 0x2b, 0x06, 0x01, 0x04, 0x01, 0xda, 0x47, 0x04, 0x0b];

/// Opens a file. Without passphrase, the empty one is tried.
pub(super) fn open(der: &[u8], passphrase: Option<&Secret<String>>) -> Result<Bundle, KeyError> {
    // No tool writes it, and the parser panics on parameters of scrypt that make no sense.
    if der.windows(SCRYPT.len()).any(|part| part == SCRYPT) {
        return Err(KeyError::Scrypt);
    }
    let text = passphrase.map_or("", |passphrase| passphrase.expose().as_str());
    let archive = Pkcs12Archive::from_pkcs12(der, text).map_err(|error| match error {
        Error::MacError(_) | Error::UnpadError | Error::Pkcs5Error(_) => match demand(passphrase) {
            Ok(_) => KeyError::WrongPassphrase { option: "pkcs12" },
            Err(needed) => needed,
        },
        other => KeyError::Unreadable(other),
    })?;
    let mut certificates: Vec<_> =
        archive.certs.iter().map(|bag| CertificateDer::from(bag.cert.as_der().to_vec())).collect();
    for bag in &archive.keys {
        let key = PrivateKeyDer::Pkcs8(bag.key.as_der().to_vec().into());
        let key = Zeroizing::new(key);
        let Some(signing) = supported(&key) else { continue };
        let fits = |der: &CertificateDer<'static>| {
            check_match(std::slice::from_ref(der), signing.as_ref()).is_ok()
        };
        if let Some(position) = certificates.iter().position(fits) {
            let leaf = certificates.remove(position);
            return Ok(Bundle { key, leaf, others: certificates });
        }
    }
    Err(KeyError::NotInBundle)
}
