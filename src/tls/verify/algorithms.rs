//! Signature algorithms of each `tls-cert-profile`.
//!
//! OpenSSL's security levels, as far as the crypto library can follow:
//!
//! | profile | RSA keys | hashes | curves |
//! |---|---|---|---|
//! | `insecure` | 1024 and more | SHA-1 (RSA only) and SHA-2 | P-256, P-384, P-521, Ed25519 |
//! | `legacy` | 1024 and more | SHA-2 | the same |
//! | `preferred` | 2048 and more | SHA-2 | the same |
//! | `suiteb` | none | SHA-256, SHA-384 | P-256, P-384 |
//!
//! RSA keys below 2048 bits work with PKCS#1 signatures over SHA-1, SHA-256 and SHA-512 only (no
//! PSS): CAs may have them, but a server with such a key needs TLS 1.2 and `insecure`, which
//! asks for PKCS#1 first.

use aws_lc_rs::signature;
use rustls::SignatureScheme as Scheme;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{
    AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, alg_id,
};
use webpki::aws_lc_rs as algs;

use crate::profile::CertProfile;

type Algorithm = &'static dyn SignatureVerificationAlgorithm;

/// The algorithms that `profile` allows in certificates, revocation lists and handshakes.
pub(super) fn allowed(profile: CertProfile) -> &'static WebPkiSupportedAlgorithms {
    match profile {
        CertProfile::Insecure => &INSECURE,
        CertProfile::Legacy => &LEGACY,
        CertProfile::Preferred => &PREFERRED,
        CertProfile::SuiteB => &SUITE_B,
    }
}

/// The algorithms of one TLS signature scheme, none if it is not allowed.
pub(super) fn for_scheme(
    allowed: &WebPkiSupportedAlgorithms,
    scheme: Scheme,
) -> &'static [Algorithm] {
    let entry = allowed.mapping.iter().find(|(candidate, _)| *candidate == scheme);
    entry.map_or(&[], |(_, algorithms)| *algorithms)
}

/// The smallest RSA key that `profile` allows, in bits.
pub(super) fn minimum_rsa_bits(profile: CertProfile) -> Option<usize> {
    match profile {
        CertProfile::Insecure | CertProfile::Legacy => Some(1024),
        CertProfile::Preferred => Some(2048),
        CertProfile::SuiteB => None,
    }
}

/// PKCS#1 verification with RSA keys from 1024 bits, which webpki does not offer.
#[derive(Debug)]
struct SmallRsa {
    signature: AlgorithmIdentifier,
    verification: &'static signature::RsaParameters,
}

impl SignatureVerificationAlgorithm for SmallRsa {
    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::RSA_ENCRYPTION
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
        signature::UnparsedPublicKey::new(self.verification, public_key)
            .verify(message, signature)
            .map_err(|_| InvalidSignature)
    }
}

/// `sha1WithRSAEncryption` with NULL parameters (RFC 3279, 2.2.1), as DER without the SEQUENCE.
const RSA_PKCS1_SHA1: AlgorithmIdentifier = AlgorithmIdentifier::from_slice(&[
    0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x05, 0x05, 0x00,
]);

static SMALL_SHA1: Algorithm = &SmallRsa {
    signature: RSA_PKCS1_SHA1,
    verification: &signature::RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY,
};
static SMALL_SHA256: Algorithm = &SmallRsa {
    signature: alg_id::RSA_PKCS1_SHA256,
    verification: &signature::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY,
};
static SMALL_SHA512: Algorithm = &SmallRsa {
    signature: alg_id::RSA_PKCS1_SHA512,
    verification: &signature::RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY,
};

/// Everything but RSA PKCS#1, which depends on the profile.
macro_rules! all {
    ($($rsa:expr),*) => {
        &[
            algs::ECDSA_P256_SHA256,
            algs::ECDSA_P256_SHA384,
            algs::ECDSA_P256_SHA512,
            algs::ECDSA_P384_SHA256,
            algs::ECDSA_P384_SHA384,
            algs::ECDSA_P384_SHA512,
            algs::ECDSA_P521_SHA256,
            algs::ECDSA_P521_SHA384,
            algs::ECDSA_P521_SHA512,
            algs::ED25519,
            algs::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
            algs::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
            algs::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
            algs::RSA_PKCS1_2048_8192_SHA384,
            algs::RSA_PKCS1_2048_8192_SHA256_ABSENT_PARAMS,
            algs::RSA_PKCS1_2048_8192_SHA384_ABSENT_PARAMS,
            algs::RSA_PKCS1_2048_8192_SHA512_ABSENT_PARAMS,
            $($rsa),*
        ]
    };
}

macro_rules! mapping {
    ($($first:expr),*; $($last:expr),*) => {
        &[
            (Scheme::ECDSA_NISTP256_SHA256, ECDSA_SHA256),
            (Scheme::ECDSA_NISTP384_SHA384, ECDSA_SHA384),
            (Scheme::ECDSA_NISTP521_SHA512, ECDSA_SHA512),
            (Scheme::ED25519, &[algs::ED25519]),
            $($first,)*
            (Scheme::RSA_PSS_SHA256, &[algs::RSA_PSS_2048_8192_SHA256_LEGACY_KEY]),
            (Scheme::RSA_PSS_SHA384, &[algs::RSA_PSS_2048_8192_SHA384_LEGACY_KEY]),
            (Scheme::RSA_PSS_SHA512, &[algs::RSA_PSS_2048_8192_SHA512_LEGACY_KEY]),
            (Scheme::RSA_PKCS1_SHA384, &[algs::RSA_PKCS1_2048_8192_SHA384]),
            $($last),*
        ]
    };
}

// TLS 1.3 uses the first entry (the curve belongs to the scheme), TLS 1.2 tries them all.
const ECDSA_SHA256: &[Algorithm] =
    &[algs::ECDSA_P256_SHA256, algs::ECDSA_P384_SHA256, algs::ECDSA_P521_SHA256];
const ECDSA_SHA384: &[Algorithm] =
    &[algs::ECDSA_P384_SHA384, algs::ECDSA_P256_SHA384, algs::ECDSA_P521_SHA384];
const ECDSA_SHA512: &[Algorithm] =
    &[algs::ECDSA_P521_SHA512, algs::ECDSA_P384_SHA512, algs::ECDSA_P256_SHA512];

static INSECURE: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: all![SMALL_SHA1, SMALL_SHA256, SMALL_SHA512],
    mapping: mapping!(
        (Scheme::RSA_PKCS1_SHA256, &[SMALL_SHA256]), (Scheme::RSA_PKCS1_SHA512, &[SMALL_SHA512]);
    ),
};

static LEGACY: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: all![SMALL_SHA256, SMALL_SHA512],
    mapping: mapping!(
        ; (Scheme::RSA_PKCS1_SHA256, &[SMALL_SHA256]), (Scheme::RSA_PKCS1_SHA512, &[SMALL_SHA512])
    ),
};

static PREFERRED: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: all![algs::RSA_PKCS1_2048_8192_SHA256, algs::RSA_PKCS1_2048_8192_SHA512],
    mapping: mapping!(
        ; (Scheme::RSA_PKCS1_SHA256, &[algs::RSA_PKCS1_2048_8192_SHA256]),
        (Scheme::RSA_PKCS1_SHA512, &[algs::RSA_PKCS1_2048_8192_SHA512])
    ),
};

static SUITE_B: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[algs::ECDSA_P256_SHA256, algs::ECDSA_P384_SHA384, algs::ECDSA_P256_SHA384],
    mapping: &[
        (Scheme::ECDSA_NISTP256_SHA256, &[algs::ECDSA_P256_SHA256]),
        (Scheme::ECDSA_NISTP384_SHA384, &[algs::ECDSA_P384_SHA384, algs::ECDSA_P256_SHA384]),
    ],
};
