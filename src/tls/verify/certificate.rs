//! One certificate, read once into what the rules look at.

use aws_lc_rs::digest;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{SubjectPublicKeyInfoDer, UnixTime};
use webpki::RawPublicKeyEntity;
use x509_parser::der_parser::asn1_rs::{Any, FromDer};
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{ASN1Time, X509Certificate};

use super::defect::Defect;
use crate::tls::{name, rsa};

/// `id-kp-serverAuth`
pub(super) const SERVER_AUTH: &str = "1.3.6.1.5.5.7.3.1";
/// `id-kp-clientAuth`
pub(super) const CLIENT_AUTH: &str = "1.3.6.1.5.5.7.3.2";
/// `anyExtendedKeyUsage`
pub(super) const ANY_USAGE: &str = "2.5.29.37.0";
/// Server gated crypto of Microsoft and Netscape, which OpenSSL still takes for `serverAuth`.
pub(super) const GATED_CRYPTO: [&str; 2] = ["1.3.6.1.4.1.311.10.3.3", "2.16.840.1.113730.4.1"];

/// Extensions whose meaning is honoured (or, for policies, deliberately without effect, as for
/// OpenVPN): these may be critical.
const KNOWN_EXTENSIONS: [&str; 9] = [
    "2.5.29.14",
    "2.5.29.15",
    "2.5.29.17",
    "2.5.29.19",
    "2.5.29.30",
    "2.5.29.32",
    "2.5.29.35",
    "2.5.29.37",
    "2.16.840.1.113730.1.1",
];

/// A parsed certificate.
#[derive(Clone)]
pub(super) struct Certificate {
    pub(super) der: Vec<u8>,
    pub(super) subject: String,
    pub(super) issuer: String,
    pub(super) common_name: Option<String>,
    pub(super) subject_raw: Vec<u8>,
    pub(super) issuer_raw: Vec<u8>,
    pub(super) serial: Vec<u8>,
    /// The same as a decimal number.
    pub(super) serial_number: String,
    pub(super) not_before: ASN1Time,
    pub(super) not_after: ASN1Time,
    /// Versions 1 and 2 know no extensions.
    pub(super) version3: bool,
    /// First byte of key usage, `digitalSignature` being 0x80.
    pub(super) key_usage: Option<u8>,
    /// Dotted object identifiers.
    pub(super) extended_key_usage: Option<Vec<String>>,
    /// Netscape certificate type, SSL client being 0x80.
    pub(super) netscape_type: Option<u8>,
    /// CA flag and path length.
    pub(super) basic_constraints: Option<(bool, Option<u32>)>,
    pub(super) name_constraints: bool,
    /// A critical extension that nothing here understands.
    pub(super) unknown_critical: Option<String>,
    /// Bits of an RSA key.
    pub(super) rsa_bits: Option<usize>,
    spki: SubjectPublicKeyInfoDer<'static>,
    signed: Signed,
}

/// What a signature covers, and the signature: of a certificate or a revocation list.
#[derive(Clone)]
pub(super) struct Signed {
    message: Vec<u8>,
    algorithm: Vec<u8>,
    signature: Vec<u8>,
}

/// Why a signature is not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SignatureError {
    /// The profile allows no such algorithm.
    Algorithm,
    /// It is not one for this kind of key.
    OtherKey,
    /// Made with another key, or with a key too small for the profile.
    Invalid,
}

impl Certificate {
    /// Reads DER.
    pub(super) fn parse(der: &[u8]) -> Result<Self, Defect> {
        let (rest, x509) = X509Certificate::from_der(der).map_err(Defect::Unreadable)?;
        if !rest.is_empty() {
            return Err(Defect::Trailing);
        }
        let find = |oid: &str| x509.iter_extensions().find(|e| e.oid.to_id_string() == oid);
        x509.extensions_map().map_err(|_| Defect::TwoOfAnExtension)?;

        let key_usage = match find("2.5.29.15").map(|e| e.parsed_extension()) {
            Some(ParsedExtension::KeyUsage(usage)) => Some((usage.flags as u8).reverse_bits()),
            Some(_) => return Err(Defect::Extension("key usage")),
            None => None,
        };
        let extended_key_usage = match find("2.5.29.37").map(|e| e.parsed_extension()) {
            Some(ParsedExtension::ExtendedKeyUsage(usage)) => Some(usages(usage)),
            Some(_) => return Err(Defect::Extension("extended key usage")),
            None => None,
        };
        let basic_constraints = match find("2.5.29.19").map(|e| e.parsed_extension()) {
            Some(ParsedExtension::BasicConstraints(constraints)) => {
                Some((constraints.ca, constraints.path_len_constraint))
            }
            Some(_) => return Err(Defect::Extension("basic constraints")),
            None => None,
        };
        let netscape_type = match find("2.16.840.1.113730.1.1") {
            Some(extension) => {
                let bits = Any::from_der(extension.value).ok().and_then(|(_, any)| {
                    // A BIT STRING: the count of unused bits, then the bits.
                    any.data.get(1).copied()
                });
                Some(bits.ok_or(Defect::Extension("Netscape certificate type"))?)
            }
            None => None,
        };
        let unknown_critical = x509
            .iter_extensions()
            .find(|e| e.critical && !KNOWN_EXTENSIONS.contains(&e.oid.to_id_string().as_str()))
            .map(|e| e.oid.to_id_string());
        let rsa_bits = rsa::bits(x509.public_key());
        Ok(Self {
            der: der.to_vec(),
            subject: name::distinguished_name(x509.subject()),
            issuer: name::distinguished_name(x509.issuer()),
            common_name: name::common_name(x509.subject()),
            subject_raw: x509.subject().as_raw().to_vec(),
            issuer_raw: x509.issuer().as_raw().to_vec(),
            serial: x509.raw_serial().to_vec(),
            serial_number: x509.serial.to_string(),
            not_before: x509.validity().not_before,
            not_after: x509.validity().not_after,
            version3: x509.version() == x509_parser::x509::X509Version::V3,
            key_usage,
            extended_key_usage,
            netscape_type,
            basic_constraints,
            name_constraints: find("2.5.29.30").is_some(),
            unknown_critical,
            rsa_bits,
            spki: SubjectPublicKeyInfoDer::from(x509.public_key().raw.to_vec()),
            signed: Signed::parse(der).ok_or(Defect::Signature)?,
        })
    }

    /// SHA-256 of the DER.
    pub(super) fn fingerprint(&self) -> [u8; 32] {
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(digest::digest(&digest::SHA256, &self.der).as_ref());
        fingerprint
    }

    /// Whether subject and issuer are the same name.
    pub(super) fn self_issued(&self) -> bool {
        self.subject_raw == self.issuer_raw
    }

    /// May sign certificates, by OpenSSL's measure (`check_ca` in crypto/x509/v3_purp.c): the CA
    /// flag where there are basic constraints; without them, key usage `keyCertSign` or a
    /// self-issued certificate of version 1 will do. Key usage, where present, must allow it.
    pub(super) fn may_sign_certificates(&self) -> bool {
        if self.key_usage.is_some_and(|usage| usage & 0x04 == 0) {
            return false;
        }
        match self.basic_constraints {
            Some((ca, _)) => ca,
            None => self.key_usage.is_some() || (!self.version3 && self.self_issued()),
        }
    }

    /// Whether it is valid at `now`.
    pub(super) fn check_time(&self, now: UnixTime) -> Result<(), Defect> {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        if now < self.not_before.timestamp() {
            Err(Defect::TooEarly(self.not_before))
        } else if now > self.not_after.timestamp() {
            Err(Defect::Expired(self.not_after))
        } else {
            Ok(())
        }
    }

    /// Whether `issuer` signed this certificate.
    pub(super) fn check_signature(
        &self,
        issuer: &Self,
        allowed: &WebPkiSupportedAlgorithms,
    ) -> Result<(), SignatureError> {
        issuer.verify(&self.signed, allowed)
    }

    /// Whether this certificate's key made a signature of a certificate or revocation list.
    pub(super) fn verify(
        &self,
        signed: &Signed,
        allowed: &WebPkiSupportedAlgorithms,
    ) -> Result<(), SignatureError> {
        let key =
            RawPublicKeyEntity::try_from(&self.spki).map_err(|_| SignatureError::Algorithm)?;
        let mut result = SignatureError::Algorithm;
        for algorithm in allowed.all {
            if algorithm.signature_alg_id().as_ref() != signed.algorithm {
                continue;
            }
            match key.verify_signature(*algorithm, &signed.message, &signed.signature) {
                Ok(()) => return Ok(()),
                Err(webpki::Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_)) => {
                    result = SignatureError::OtherKey;
                }
                Err(_) => return Err(SignatureError::Invalid),
            }
        }
        Err(result)
    }

    /// The algorithm of its signature, DER without the SEQUENCE.
    pub(super) fn signature_algorithm(&self) -> &[u8] {
        &self.signed.algorithm
    }

    /// The public key.
    pub(super) fn public_key(&self) -> &SubjectPublicKeyInfoDer<'static> {
        &self.spki
    }
}

impl Signed {
    /// Takes `SEQUENCE { message, algorithm, signature BIT STRING }` apart.
    pub(super) fn parse(der: &[u8]) -> Option<Self> {
        let (_, outer) = Any::from_der(der).ok()?;
        let (after_message, _) = Any::from_der(outer.data).ok()?;
        let message = &outer.data[..outer.data.len() - after_message.len()];
        let (after_algorithm, algorithm) = Any::from_der(after_message).ok()?;
        let (_, signature) = Any::from_der(after_algorithm).ok()?;
        // The first byte counts unused bits; signatures have none.
        let (unused, signature) = signature.data.split_first()?;
        (*unused == 0).then(|| Self {
            message: message.to_vec(),
            algorithm: algorithm.data.to_vec(),
            signature: signature.to_vec(),
        })
    }
}

fn usages(usage: &x509_parser::extensions::ExtendedKeyUsage<'_>) -> Vec<String> {
    let named = [
        (usage.any, ANY_USAGE),
        (usage.server_auth, SERVER_AUTH),
        (usage.client_auth, CLIENT_AUTH),
        (usage.code_signing, "1.3.6.1.5.5.7.3.3"),
        (usage.email_protection, "1.3.6.1.5.5.7.3.4"),
        (usage.time_stamping, "1.3.6.1.5.5.7.3.8"),
        (usage.ocsp_signing, "1.3.6.1.5.5.7.3.9"),
    ];
    let mut all: Vec<String> =
        named.iter().filter(|(present, _)| *present).map(|(_, oid)| (*oid).to_owned()).collect();
    all.extend(usage.other.iter().map(x509_parser::der_parser::asn1_rs::Oid::to_id_string));
    all
}
