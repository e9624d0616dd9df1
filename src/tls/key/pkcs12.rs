//! `pkcs12`: key, certificate and CA certificates in one file (RFC 7292), with today's encryption
//! (AES) or that of older tools (RC2, Triple-DES).

use p12_keystore::{Pkcs12Archive, error::Error};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use zeroize::Zeroizing;

use super::{check_match, config, demand, wrong_passphrase};
use crate::secret::Secret;
use crate::tls::session::TlsError;

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
pub(super) fn open(der: &[u8], passphrase: Option<&Secret<String>>) -> Result<Bundle, TlsError> {
    // No tool writes it, and the parser panics on parameters of scrypt that make no sense.
    if der.windows(SCRYPT.len()).any(|part| part == SCRYPT) {
        return Err(config(
            "pkcs12: the file is encrypted with scrypt, which is not supported; export it again, \
             e.g. with `openssl pkcs12 -export`",
        ));
    }
    let text = passphrase.map_or("", |passphrase| passphrase.expose().as_str());
    let archive = Pkcs12Archive::from_pkcs12(der, text).map_err(|error| match error {
        Error::MacError(_) | Error::UnpadError | Error::Pkcs5Error(_) => match demand(passphrase) {
            Ok(_) => wrong_passphrase("pkcs12"),
            Err(needed) => needed,
        },
        other => config(format!(
            "pkcs12: the file cannot be read ({other}); export it again, e.g. with `openssl pkcs12 \
             -export`"
        )),
    })?;
    let mut certificates: Vec<_> =
        archive.certs.iter().map(|bag| CertificateDer::from(bag.cert.as_der().to_vec())).collect();
    for bag in &archive.keys {
        let key = PrivateKeyDer::Pkcs8(bag.key.as_der().to_vec().into());
        let key = Zeroizing::new(key);
        let Ok(signing) = any_supported_type(&key) else { continue };
        let fits = |der: &CertificateDer<'static>| {
            check_match(std::slice::from_ref(der), signing.as_ref()).is_ok()
        };
        if let Some(position) = certificates.iter().position(fits) {
            let leaf = certificates.remove(position);
            return Ok(Bundle { key, leaf, others: certificates });
        }
    }
    Err(config(
        "pkcs12: no supported private key with its certificate found; supported are RSA of 2048 to \
         8192 bits, ECDSA on P-256, P-384 and P-521, and Ed25519",
    ))
}
