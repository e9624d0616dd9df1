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

use std::sync::LazyLock;

use rustls::SignatureScheme as Scheme;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::SignatureVerificationAlgorithm;
use webpki::aws_lc_rs as algs;
use x509_parser::der_parser::asn1_rs::{FromDer, Oid};

use crate::profile::CertProfile;
use crate::tls::rsa::{
    Hash, Key, PSS_KEY_SHA256, PSS_KEY_SHA384, PSS_KEY_SHA512, Padding, RsaVerification,
};

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

/// The name of an algorithm (DER without the SEQUENCE), as OpenSSL shows it.
pub(super) fn name(identifier: &[u8]) -> String {
    let Ok((_, oid)) = Oid::from_der(identifier) else { return "?".to_owned() };
    let dotted = oid.to_id_string();
    let known = NAMES.iter().find(|(known, _)| *known == dotted);
    known.map_or(dotted, |(_, name)| (*name).to_owned())
}

/// Whether some profile allows the algorithm.
pub(super) fn is_known(identifier: &[u8]) -> bool {
    INSECURE.all.iter().any(|algorithm| algorithm.signature_alg_id().as_ref() == identifier)
}

const NAMES: [(&str, &str); 18] = [
    ("1.2.840.113549.1.1.2", "md2WithRSAEncryption"),
    ("1.2.840.113549.1.1.4", "md5WithRSAEncryption"),
    ("1.2.840.113549.1.1.5", SHA1_RSA),
    ("1.2.840.113549.1.1.10", "RSASSA-PSS with such a hash, mask or salt"),
    ("1.2.840.113549.1.1.11", "sha256WithRSAEncryption"),
    ("1.2.840.113549.1.1.12", "sha384WithRSAEncryption"),
    ("1.2.840.113549.1.1.13", "sha512WithRSAEncryption"),
    ("1.2.840.113549.1.1.14", "sha224WithRSAEncryption"),
    ("1.2.840.10045.4.1", "ecdsa-with-SHA1"),
    ("1.2.840.10045.4.3.1", "ecdsa-with-SHA224"),
    ("1.2.840.10045.4.3.2", "ecdsa-with-SHA256"),
    ("1.2.840.10045.4.3.3", "ecdsa-with-SHA384"),
    ("1.2.840.10045.4.3.4", "ecdsa-with-SHA512"),
    ("1.2.840.10040.4.3", "dsaWithSHA1"),
    ("2.16.840.1.101.3.4.3.2", "dsa_with_SHA256"),
    ("1.3.101.112", "ED25519"),
    ("1.3.101.113", "ED448"),
    ("1.2.156.10197.1.501", "SM2-with-SM3"),
];

/// What only `insecure` allows.
pub(super) const SHA1_RSA: &str = "sha1WithRSAEncryption";

/// The smallest RSA key that `profile` allows, in bits.
pub(super) fn minimum_rsa_bits(profile: CertProfile) -> Option<usize> {
    match profile {
        CertProfile::Insecure | CertProfile::Legacy => Some(1024),
        CertProfile::Preferred => Some(2048),
        CertProfile::SuiteB => None,
    }
}

// TLS 1.3 uses the first entry (the curve belongs to the scheme), TLS 1.2 tries them all.
const ECDSA_SHA256: &[Algorithm] =
    &[algs::ECDSA_P256_SHA256, algs::ECDSA_P384_SHA256, algs::ECDSA_P521_SHA256];
const ECDSA_SHA384: &[Algorithm] =
    &[algs::ECDSA_P384_SHA384, algs::ECDSA_P256_SHA384, algs::ECDSA_P521_SHA384];
const ECDSA_SHA512: &[Algorithm] =
    &[algs::ECDSA_P521_SHA512, algs::ECDSA_P384_SHA512, algs::ECDSA_P256_SHA512];

const ED25519: &[Algorithm] = &[algs::ED25519];

/// Schemes and algorithms of one hash with RSA.
struct Rsa {
    hash: Hash,
    /// Of TLS: PKCS#1, PSS with an ordinary key, PSS with a key for PSS only.
    schemes: [Scheme; 3],
    /// Of aws-lc: PKCS#1, the same without parameters, PSS with a salt as long as the hash.
    usual: [Algorithm; 3],
    /// Bytes of the hash.
    length: u16,
}

static RSA: [Rsa; 3] = [
    Rsa {
        hash: Hash::Sha256,
        schemes: [Scheme::RSA_PKCS1_SHA256, Scheme::RSA_PSS_SHA256, PSS_KEY_SHA256],
        usual: [
            algs::RSA_PKCS1_2048_8192_SHA256,
            algs::RSA_PKCS1_2048_8192_SHA256_ABSENT_PARAMS,
            algs::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
        ],
        length: 32,
    },
    Rsa {
        hash: Hash::Sha384,
        schemes: [Scheme::RSA_PKCS1_SHA384, Scheme::RSA_PSS_SHA384, PSS_KEY_SHA384],
        usual: [
            algs::RSA_PKCS1_2048_8192_SHA384,
            algs::RSA_PKCS1_2048_8192_SHA384_ABSENT_PARAMS,
            algs::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
        ],
        length: 48,
    },
    Rsa {
        hash: Hash::Sha512,
        schemes: [Scheme::RSA_PKCS1_SHA512, Scheme::RSA_PSS_SHA512, PSS_KEY_SHA512],
        usual: [
            algs::RSA_PKCS1_2048_8192_SHA512,
            algs::RSA_PKCS1_2048_8192_SHA512_ABSENT_PARAMS,
            algs::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
        ],
        length: 64,
    },
];

/// Bits of the RSA keys whose longest possible salt is looked for: tools that do not say otherwise
/// take it. Salts of the length of a hash, and none, are known for keys of every length.
const LONG_SALTS: [u16; 6] = [1024, 2048, 3072, 4096, 8192, 16_384];

fn with_rsa(minimum: usize, sha1: bool) -> WebPkiSupportedAlgorithms {
    let mut all: Vec<Algorithm> = vec![
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
    ];
    let mut mapping: Vec<(Scheme, &'static [Algorithm])> = vec![
        (Scheme::ECDSA_NISTP256_SHA256, ECDSA_SHA256),
        (Scheme::ECDSA_NISTP384_SHA384, ECDSA_SHA384),
        (Scheme::ECDSA_NISTP521_SHA512, ECDSA_SHA512),
        (Scheme::ED25519, ED25519),
    ];
    let mut last = Vec::new();
    for Rsa { hash, schemes, usual, length } in &RSA {
        let new =
            |key, padding, usual| RsaVerification::leaked(key, *hash, padding, usual, minimum);
        let keys = [Key::Pss, Key::PssOnly(*hash, *length), Key::PssOnly(*hash, 20)];
        let pkcs1 = new(Key::Any, Padding::Pkcs1, Some(usual[0]));
        let pss = |key| new(key, Padding::Pss(*length), Some(usual[2]));
        let ordinary = pss(Key::Any);
        let of_pss_keys = keys.map(pss).to_vec().leak();
        all.extend([pkcs1, usual[1], ordinary]);
        all.extend_from_slice(of_pss_keys);
        let longest = LONG_SALTS.map(|bits| bits / 8 - length - 2);
        for salt in [0, 20, 32, 48, 64].iter().chain(&longest).filter(|salt| *salt != length) {
            let pss = |key| new(key, Padding::Pss(*salt), None);
            all.push(pss(Key::Any));
            all.extend(keys.iter().filter(|key| key.allows(*salt)).map(|key| pss(*key)));
        }
        mapping.push((schemes[1], vec![ordinary].leak()));
        mapping.push((schemes[2], of_pss_keys));
        last.push((schemes[0], &*vec![pkcs1].leak()));
    }
    if sha1 {
        all.push(RsaVerification::leaked(Key::Any, Hash::Sha1, Padding::Pkcs1, None, minimum));
    }
    mapping.extend(last);
    WebPkiSupportedAlgorithms { all: all.leak(), mapping: mapping.leak() }
}

static INSECURE: LazyLock<WebPkiSupportedAlgorithms> = LazyLock::new(|| with_rsa(1024, true));
static LEGACY: LazyLock<WebPkiSupportedAlgorithms> = LazyLock::new(|| with_rsa(1024, false));
static PREFERRED: LazyLock<WebPkiSupportedAlgorithms> = LazyLock::new(|| with_rsa(2048, false));

static SUITE_B: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[algs::ECDSA_P256_SHA256, algs::ECDSA_P384_SHA384, algs::ECDSA_P256_SHA384],
    mapping: &[
        (Scheme::ECDSA_NISTP256_SHA256, &[algs::ECDSA_P256_SHA256]),
        (Scheme::ECDSA_NISTP384_SHA384, &[algs::ECDSA_P384_SHA384, algs::ECDSA_P256_SHA384]),
    ],
};
