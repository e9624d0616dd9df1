//! RSA as aws-lc does not do it: keys below 2048 and above 8192 bits, keys for RSA-PSS only
//! (`id-RSASSA-PSS`), and PSS signatures whose salt is not as long as the hash.

mod sign;
mod verify;

use pkcs8::der::Decode;
use rustls::SignatureScheme as Scheme;
use x509_parser::x509::SubjectPublicKeyInfo;

pub(super) use sign::signing_key;
pub(super) use verify::{Hash, Key, Padding, RsaVerification};

/// `rsaEncryption`
pub(super) const RSA_ENCRYPTION: &str = "1.2.840.113549.1.1.1";
/// `id-RSASSA-PSS`
pub(super) const RSASSA_PSS: &str = "1.2.840.113549.1.1.10";

/// `rsa_pss_pss_sha256` and its like (RFC 8446, 4.2.3), which rustls has no names for.
pub(super) const PSS_KEY_SHA256: Scheme = Scheme::Unknown(0x0809);
pub(super) const PSS_KEY_SHA384: Scheme = Scheme::Unknown(0x080a);
pub(super) const PSS_KEY_SHA512: Scheme = Scheme::Unknown(0x080b);

/// Below this an RSA key counts as weak (NIST SP 800-131A: disallowed since 2014).
pub(super) const STRONG_BITS: usize = 2048;

/// Bits of an RSA key of either kind; `None` for another key.
pub(super) fn bits(key: &SubjectPublicKeyInfo<'_>) -> Option<usize> {
    let kind = key.algorithm.algorithm.to_id_string();
    if ![RSA_ENCRYPTION, RSASSA_PSS].contains(&kind.as_str()) {
        return None;
    }
    let key = ::rsa::pkcs1::RsaPublicKeyRef::from_der(&key.subject_public_key.data).ok()?;
    Some(modulus_bits(key.modulus.as_bytes()))
}

/// Of a number without leading zero bytes.
fn modulus_bits(modulus: &[u8]) -> usize {
    let zeros = modulus.first().map_or(0, |first| first.leading_zeros() as usize);
    modulus.len() * 8 - zeros
}
