//! Signatures with the keys that aws-lc refuses.

use std::fmt;
use std::sync::Arc;

use ::rsa::PrivateKey;
use ::rsa::pkcs1::{DecodeRsaPrivateKey, RsaPssParamsOwned};
use ::rsa::pkcs8::{AssociatedOid, EncodePublicKey, PrivateKeyInfoRef};
use ::rsa::sha2::{Sha256, Sha384, Sha512};
use ::rsa::traits::PublicKeyParts;
use pkcs8::der::Decode;
use rand::rngs::SysRng;
use rustls::pki_types::{PrivateKeyDer, SubjectPublicKeyInfoDer};
use rustls::sign::{Signer, SigningKey};
use rustls::{SignatureAlgorithm as Family, SignatureScheme as Scheme};

use super::{
    PSS_KEY_SHA256, PSS_KEY_SHA384, PSS_KEY_SHA512, RSA_ENCRYPTION, RSASSA_PSS, STRONG_BITS,
};

/// No key that can be used is longer; what it costs to read one grows with its length.
const MAX_DER: usize = 8 * 1024;

type Sign = fn(&PrivateKey, &[u8]) -> ::rsa::Result<Vec<u8>>;

/// What the server must offer, what the signature is then called, and how it is made.
type Way = (Scheme, Scheme, Sign);

/// In order of preference: 1024 bits are too few for PSS with SHA-512.
static ORDINARY: [Way; 5] = [
    (Scheme::RSA_PSS_SHA256, Scheme::RSA_PSS_SHA256, pss_sha256),
    (Scheme::RSA_PSS_SHA384, Scheme::RSA_PSS_SHA384, pss_sha384),
    (Scheme::RSA_PKCS1_SHA256, Scheme::RSA_PKCS1_SHA256, |key, message| {
        key.pkcs1v15_sign_with_rng::<Sha256, _>(&mut SysRng, message)
    }),
    (Scheme::RSA_PKCS1_SHA384, Scheme::RSA_PKCS1_SHA384, |key, message| {
        key.pkcs1v15_sign_with_rng::<Sha384, _>(&mut SysRng, message)
    }),
    (Scheme::RSA_PKCS1_SHA512, Scheme::RSA_PKCS1_SHA512, |key, message| {
        key.pkcs1v15_sign_with_rng::<Sha512, _>(&mut SysRng, message)
    }),
];

/// rustls does not show what a server offers for these keys. Who takes PSS signatures of one kind
/// of key takes those of the other.
static PSS: [Way; 3] = [
    (Scheme::RSA_PSS_SHA256, PSS_KEY_SHA256, pss_sha256),
    (Scheme::RSA_PSS_SHA384, PSS_KEY_SHA384, pss_sha384),
    (Scheme::RSA_PSS_SHA512, PSS_KEY_SHA512, pss_sha512),
];

fn pss_sha256(key: &PrivateKey, message: &[u8]) -> ::rsa::Result<Vec<u8>> {
    key.pss_sign_with_rng::<Sha256, _>(&mut SysRng, message)
}

fn pss_sha384(key: &PrivateKey, message: &[u8]) -> ::rsa::Result<Vec<u8>> {
    key.pss_sign_with_rng::<Sha384, _>(&mut SysRng, message)
}

fn pss_sha512(key: &PrivateKey, message: &[u8]) -> ::rsa::Result<Vec<u8>> {
    key.pss_sign_with_rng::<Sha512, _>(&mut SysRng, message)
}

/// The key, if it is an ordinary RSA key of 1024 to 2047 bits, or one for RSA-PSS.
pub(in crate::tls) fn signing_key(der: &PrivateKeyDer<'_>) -> Option<Arc<dyn SigningKey>> {
    if der.secret_der().len() > MAX_DER {
        return None;
    }
    let (pkcs1, ways) = match der {
        PrivateKeyDer::Pkcs1(key) => (key.secret_pkcs1_der(), &ORDINARY[..]),
        PrivateKeyDer::Pkcs8(key) => {
            let info = PrivateKeyInfoRef::from_der(key.secret_pkcs8_der()).ok()?;
            (info.private_key.as_bytes(), ways(&info)?)
        }
        _ => return None,
    };
    let key = PrivateKey::from_pkcs1_der(pkcs1).ok()?;
    let bits = key.n().bit_width_vartime() as usize;
    let is_ordinary = ways.len() == ORDINARY.len();
    if bits < 1024 || is_ordinary && bits >= STRONG_BITS {
        return None;
    }
    Some(Arc::new(RsaKey { key: Arc::new(key), ways }))
}

/// How a key of PKCS#8 may be used. A key for RSA-PSS may be bound to one hash.
fn ways(info: &PrivateKeyInfoRef<'_>) -> Option<&'static [Way]> {
    match info.algorithm.oid.to_string().as_str() {
        RSA_ENCRYPTION => Some(&ORDINARY),
        RSASSA_PSS => {
            let Some(parameters) = info.algorithm.parameters else { return Some(&PSS) };
            let hash = parameters.decode_as::<RsaPssParamsOwned>().ok()?.hash.oid;
            let position = [Sha256::OID, Sha384::OID, Sha512::OID].iter().position(|h| *h == hash);
            PSS.get(position?..=position?)
        }
        _ => None,
    }
}

struct RsaKey {
    key: Arc<PrivateKey>,
    ways: &'static [Way],
}

impl fmt::Debug for RsaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RsaKey")
    }
}

impl SigningKey for RsaKey {
    fn choose_scheme(&self, offered: &[Scheme]) -> Option<Box<dyn Signer>> {
        let (_, scheme, sign) = self.ways.iter().find(|way| offered.contains(&way.0))?;
        Some(Box::new(RsaSigner { key: Arc::clone(&self.key), scheme: *scheme, sign: *sign }))
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        let der = self.key.to_public_key().to_public_key_der().ok()?;
        Some(der.into_vec().into())
    }

    fn algorithm(&self) -> Family {
        Family::RSA
    }
}

struct RsaSigner {
    key: Arc<PrivateKey>,
    scheme: Scheme,
    sign: Sign,
}

impl fmt::Debug for RsaSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RsaSigner").field(&self.scheme).finish()
    }
}

impl Signer for RsaSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        (self.sign)(&self.key, message).map_err(|error| {
            rustls::Error::General(format!("the private key does not sign: {error}"))
        })
    }

    fn scheme(&self) -> Scheme {
        self.scheme
    }
}
