//! Verification of RSA signatures: by aws-lc where it can, and where it cannot by the `rsa` crate.

use std::fmt;
use std::ops::RangeInclusive;

use ::rsa::pkcs1::RsaPublicKeyRef;
use ::rsa::pkcs8::AssociatedOid;
use ::rsa::sha2::digest::{Digest, FixedOutputReset};
use ::rsa::sha2::{Sha256, Sha384, Sha512};
use ::rsa::{BoxedUint, Pkcs1v15Sign, Pss, PublicKey};
use pkcs8::der::Decode;
use rustls::pki_types::{
    AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, alg_id,
};
use sha1::Sha1;

use super::modulus_bits;

/// What aws-lc verifies with.
const USUAL_BITS: RangeInclusive<usize> = 2048..=8192;
/// OpenSSL's limit.
const MAX_BITS: usize = 16_384;

/// The hash of a signature.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::tls) enum Hash {
    /// With PKCS#1 only.
    Sha1,
    Sha256,
    Sha384,
    Sha512,
}

/// How a hash becomes a number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::tls) enum Padding {
    Pkcs1,
    /// MGF1 with the same hash, and a salt of so many bytes.
    Pss(u16),
}

/// What a key says that it is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::tls) enum Key {
    /// `rsaEncryption`
    Any,
    /// `id-RSASSA-PSS`
    Pss,
    /// The same with a hash, and a salt of at least so many bytes.
    PssOnly(Hash, u16),
}

impl Key {
    /// Whether PSS signatures with a salt of this length may be its.
    pub(in crate::tls) const fn allows(self, salt: u16) -> bool {
        match self {
            Self::Any | Self::Pss => true,
            Self::PssOnly(_, least) => salt >= least,
        }
    }
}

/// One signature algorithm with one kind of key. Lives as long as the program: there are as many
/// as a table of constants would have.
pub(in crate::tls) struct RsaVerification {
    key: AlgorithmIdentifier,
    signature: AlgorithmIdentifier,
    hash: Hash,
    padding: Padding,
    /// The same by aws-lc.
    usual: Option<&'static dyn SignatureVerificationAlgorithm>,
    bits: RangeInclusive<usize>,
}

impl RsaVerification {
    /// Of keys of at least `minimum` bits, by aws-lc (`usual`) where it can.
    pub(in crate::tls) fn leaked(
        key: Key,
        hash: Hash,
        padding: Padding,
        usual: Option<&'static dyn SignatureVerificationAlgorithm>,
        minimum: usize,
    ) -> &'static dyn SignatureVerificationAlgorithm {
        let key = match key {
            Key::Any => alg_id::RSA_ENCRYPTION,
            Key::Pss => AlgorithmIdentifier::from_slice(&PSS_OID),
            Key::PssOnly(hash, salt) => pss_identifier(hash, salt),
        };
        let signature = match (padding, hash) {
            (Padding::Pss(salt), _) => pss_identifier(hash, salt),
            (Padding::Pkcs1, Hash::Sha1) => RSA_PKCS1_SHA1,
            (Padding::Pkcs1, Hash::Sha256) => alg_id::RSA_PKCS1_SHA256,
            (Padding::Pkcs1, Hash::Sha384) => alg_id::RSA_PKCS1_SHA384,
            (Padding::Pkcs1, Hash::Sha512) => alg_id::RSA_PKCS1_SHA512,
        };
        Box::leak(Box::new(Self { key, signature, hash, padding, usual, bits: minimum..=MAX_BITS }))
    }

    fn verify<D>(&self, key: &PublicKey, message: &[u8], signature: &[u8]) -> ::rsa::Result<()>
    where
        D: Digest + AssociatedOid + FixedOutputReset,
    {
        let hash = D::digest(message);
        match self.padding {
            Padding::Pkcs1 => key.verify(Pkcs1v15Sign::new::<D>(), &hash, signature),
            Padding::Pss(salt) => {
                key.verify(Pss::<D>::new_with_salt(usize::from(salt)), &hash, signature)
            }
        }
    }
}

impl SignatureVerificationAlgorithm for RsaVerification {
    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.key
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.signature
    }

    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let key = RsaPublicKeyRef::from_der(public_key).map_err(|_| InvalidSignature)?;
        let (n, e) = (key.modulus.as_bytes(), key.public_exponent.as_bytes());
        if let Some(usual) = self.usual
            && USUAL_BITS.contains(&modulus_bits(n))
        {
            return usual.verify_signature(public_key, message, signature);
        }
        let number = |bytes: &[u8]| BoxedUint::from_be_slice(bytes, 8 * bytes.len() as u32);
        let key = match (modulus_bits(n) <= MAX_BITS).then(|| (number(n), number(e))) {
            Some((Ok(n), Ok(e))) => PublicKey::new_with_size_limits(n, e, self.bits.clone()),
            _ => return Err(InvalidSignature),
        };
        let verified = key.and_then(|key| match self.hash {
            Hash::Sha1 => self.verify::<Sha1>(&key, message, signature),
            Hash::Sha256 => self.verify::<Sha256>(&key, message, signature),
            Hash::Sha384 => self.verify::<Sha384>(&key, message, signature),
            Hash::Sha512 => self.verify::<Sha512>(&key, message, signature),
        });
        verified.map_err(|_| InvalidSignature)
    }
}

impl fmt::Debug for RsaVerification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RsaVerification").field(&self.hash).field(&self.padding).finish()
    }
}

/// `sha1WithRSAEncryption` with NULL parameters (RFC 3279, 2.2.1), as DER without the SEQUENCE.
const RSA_PKCS1_SHA1: AlgorithmIdentifier = AlgorithmIdentifier::from_slice(&[
    0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x05, 0x05, 0x00,
]);

/// `id-RSASSA-PSS`
const PSS_OID: [u8; 11] = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a];
/// `id-mgf1`
const MGF1_OID: [u8; 11] = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x08];

/// `id-RSASSA-PSS` with `RSASSA-PSS-params` (RFC 8017, A.2.3), the latter as every tool writes them:
/// MGF1 with the same hash, and a salt of 20 bytes left out.
fn pss_identifier(hash: Hash, salt: u16) -> AlgorithmIdentifier {
    let last = match hash {
        Hash::Sha1 => 0,
        Hash::Sha256 => 1,
        Hash::Sha384 => 2,
        Hash::Sha512 => 3,
    };
    let oid = [0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, last];
    let hash = element(0x30, &[&oid, &[0x05, 0x00]]);
    let generator = element(0x30, &[&MGF1_OID, &hash]);
    let bytes = salt.to_be_bytes();
    let number = if salt < 0x80 { &bytes[1..] } else { &bytes[..] };
    let salt = match salt {
        20 => Vec::new(),
        // A leading byte above 0x7f would make it negative.
        _ => element(0xa2, &[&element(0x02, &[number])]),
    };
    let parameters =
        element(0x30, &[&element(0xa0, &[&hash]), &element(0xa1, &[&generator]), &salt]);
    AlgorithmIdentifier::from_slice([&PSS_OID[..], &parameters].concat().leak())
}

/// Tag, length below 128, content.
fn element(tag: u8, content: &[&[u8]]) -> Vec<u8> {
    let content = content.concat();
    let mut element = vec![tag, content.len() as u8];
    element.extend(content);
    element
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_those_of_the_registry() {
        let of = |hash, salt| pss_identifier(hash, salt).as_ref().to_vec();
        assert_eq!(of(Hash::Sha256, 32), alg_id::RSA_PSS_SHA256.as_ref());
        assert_eq!(of(Hash::Sha384, 48), alg_id::RSA_PSS_SHA384.as_ref());
        assert_eq!(of(Hash::Sha512, 64), alg_id::RSA_PSS_SHA512.as_ref());
    }
}
