//! What OpenVPN's options demand of the server's own certificate.

use aws_lc_rs::digest;

use super::certificate::{ANY_USAGE, CLIENT_AUTH, Certificate, SERVER_AUTH};
use super::chain::allows_server;
use super::error::{Objection, PolicyError, WrongPurpose};
use super::hex;
use crate::profile::{CertUsage, TlsOptions, VerifyHash, X509Name};
use crate::tls::name;

/// Names of extended key usages as `remote-cert-eku` knows them, long and short.
const USAGE_NAMES: [(&str, &str, &str); 9] = [
    (SERVER_AUTH, "TLS Web Server Authentication", "serverAuth"),
    (CLIENT_AUTH, "TLS Web Client Authentication", "clientAuth"),
    ("1.3.6.1.5.5.7.3.3", "Code Signing", "codeSigning"),
    ("1.3.6.1.5.5.7.3.4", "E-mail Protection", "emailProtection"),
    ("1.3.6.1.5.5.7.3.5", "IPSec End System", "ipsecEndSystem"),
    ("1.3.6.1.5.5.7.3.8", "Time Stamping", "timeStamping"),
    ("1.3.6.1.5.5.7.3.9", "OCSP Signing", "OCSPSigning"),
    ("1.3.6.1.5.5.7.3.17", "ipsec Internet Key Exchange", "ipsecIKE"),
    (ANY_USAGE, "Any Extended Key Usage", "anyExtendedKeyUsage"),
];

/// Bits of key usage and Netscape type.
const DIGITAL_SIGNATURE_OR_KEY_EXCHANGE: u8 = 0x80 | 0x20 | 0x08;
const NETSCAPE_SERVER: u8 = 0x40;
const NETSCAPE_CLIENT: u8 = 0x80;

/// The rules of one profile.
pub(super) struct Rules {
    remote_cert_tls: Option<CertUsage>,
    remote_cert_ku: Option<Vec<u8>>,
    /// As written, and as an object identifier.
    remote_cert_eku: Option<(String, String)>,
    ns_cert_type: Option<CertUsage>,
    name: Option<X509Name>,
    fingerprints: Vec<[u8; 32]>,
    hash: Option<VerifyHash>,
}

impl Rules {
    /// Takes the rules out of `options`.
    pub(super) fn new(options: &TlsOptions) -> Result<Self, PolicyError> {
        let remote_cert_eku = match &options.remote_cert_eku {
            Some(wanted) => Some((wanted.clone(), usage_oid(wanted)?)),
            None => None,
        };
        Ok(Self {
            remote_cert_tls: options.remote_cert_tls,
            remote_cert_ku: options.remote_cert_ku.clone(),
            remote_cert_eku,
            ns_cert_type: options.ns_cert_type,
            name: options.verify_x509_name.clone(),
            fingerprints: options.peer_fingerprints.clone(),
            hash: options.verify_hash.clone(),
        })
    }

    /// OpenSSL's server purpose, which goes with a chain to a CA.
    pub(super) fn check_purpose(leaf: &Certificate) -> Result<(), Objection> {
        Ok(purpose(leaf)?)
    }

    /// Checks everything else; `chain` starts with the leaf.
    pub(super) fn check(&self, leaf: &Certificate, chain: &[Certificate]) -> Result<(), Objection> {
        self.check_hash(leaf, chain)?;
        self.check_fingerprint(leaf)?;
        self.check_ns_cert_type(leaf)?;
        self.check_key_usage(leaf)?;
        self.check_extended_key_usage(leaf)?;
        self.check_name(leaf)
    }

    fn check_hash(&self, leaf: &Certificate, chain: &[Certificate]) -> Result<(), Objection> {
        let Some(expected) = &self.hash else { return Ok(()) };
        // A self-signed certificate is its own issuer.
        let issuer = chain.get(1).unwrap_or(leaf);
        let (algorithm, expected) = match expected {
            VerifyHash::Sha256(hash) => (&digest::SHA256, &hash[..]),
            VerifyHash::Sha1(hash) => (&digest::SHA1_FOR_LEGACY_USE_ONLY, &hash[..]),
        };
        let actual = digest::digest(algorithm, &issuer.der);
        if actual.as_ref() == expected {
            return Ok(());
        }
        Err(Objection::Hash { issuer: issuer.subject.clone(), fingerprint: hex(actual.as_ref()) })
    }

    fn check_fingerprint(&self, leaf: &Certificate) -> Result<(), Objection> {
        let actual = leaf.fingerprint();
        if self.fingerprints.is_empty() || self.fingerprints.contains(&actual) {
            return Ok(());
        }
        Err(Objection::Fingerprint(hex(&actual)))
    }

    fn check_ns_cert_type(&self, leaf: &Certificate) -> Result<(), Objection> {
        let bit = match self.ns_cert_type {
            None => return Ok(()),
            Some(CertUsage::Server) => NETSCAPE_SERVER,
            Some(CertUsage::Client) => NETSCAPE_CLIENT,
        };
        let by_bit = leaf.netscape_type.is_some_and(|bits| bits & bit != 0);
        let by_purpose = match self.ns_cert_type {
            Some(CertUsage::Client) => client_purpose(leaf),
            _ => purpose(leaf).is_ok(),
        };
        if by_bit || by_purpose {
            return Ok(());
        }
        Err(Objection::NetscapeType)
    }

    fn check_key_usage(&self, leaf: &Certificate) -> Result<(), Objection> {
        if let (Some(usage), None) = (self.remote_cert_tls, leaf.key_usage) {
            return Err(Objection::NoTlsKeyUsage(usage));
        }
        let Some(masks) = &self.remote_cert_ku else { return Ok(()) };
        let Some(usage) = leaf.key_usage else { return Err(Objection::NoKeyUsage) };
        if masks.is_empty() || masks.iter().any(|mask| usage & mask == *mask) {
            return Ok(());
        }
        let wanted: Vec<_> = masks.iter().map(|mask| format!("{mask:02x}")).collect();
        Err(Objection::KeyUsage { usage, wanted: wanted.join(", ") })
    }

    fn check_extended_key_usage(&self, leaf: &Certificate) -> Result<(), Objection> {
        let has = |oid: &str| {
            leaf.extended_key_usage.as_ref().is_some_and(|all| all.iter().any(|one| one == oid))
        };
        if let Some(usage) = self.remote_cert_tls {
            let oid = match usage {
                CertUsage::Server => SERVER_AUTH,
                CertUsage::Client => CLIENT_AUTH,
            };
            if !has(oid) {
                return Err(Objection::NoTlsUsage(usage));
            }
        }
        match &self.remote_cert_eku {
            Some((written, oid)) if !has(oid) => Err(Objection::NoUsage(written.clone())),
            _ => Ok(()),
        }
    }

    fn check_name(&self, leaf: &Certificate) -> Result<(), Objection> {
        let common_name = leaf.common_name.as_deref().map(name::remapped);
        let (matches, wanted) = match &self.name {
            None => return Ok(()),
            Some(X509Name::Subject(wanted)) => (
                name::remapped(&leaf.subject) == *wanted,
                format!("the subject must be \"{wanted}\""),
            ),
            Some(X509Name::Name(wanted)) => (
                common_name.as_deref() == Some(wanted),
                format!("the common name must be \"{wanted}\""),
            ),
            Some(X509Name::NamePrefix(wanted)) => (
                common_name.is_some_and(|name| name.starts_with(wanted.as_str())),
                format!("the common name must start with \"{wanted}\""),
            ),
        };
        if matches {
            return Ok(());
        }
        Err(Objection::Name(wanted))
    }
}

/// OpenSSL's `check_purpose_ssl_server`.
fn purpose(leaf: &Certificate) -> Result<(), WrongPurpose> {
    if leaf.extended_key_usage.as_deref().is_some_and(|usages| !allows_server(usages)) {
        return Err(WrongPurpose::ExtendedKeyUsage);
    }
    if leaf.netscape_type.is_some_and(|bits| bits & NETSCAPE_SERVER == 0) {
        return Err(WrongPurpose::NetscapeType);
    }
    if leaf.key_usage.is_some_and(|usage| usage & DIGITAL_SIGNATURE_OR_KEY_EXCHANGE == 0) {
        return Err(WrongPurpose::KeyUsage);
    }
    Ok(())
}

/// OpenSSL's `check_purpose_ssl_client`.
fn client_purpose(leaf: &Certificate) -> bool {
    let usages = leaf.extended_key_usage.as_ref();
    usages.is_none_or(|all| all.iter().any(|one| one == CLIENT_AUTH || one == ANY_USAGE))
        && leaf.netscape_type.is_none_or(|bits| bits & NETSCAPE_CLIENT != 0)
        && leaf.key_usage.is_none_or(|usage| usage & (0x80 | 0x08) != 0)
}

fn usage_oid(wanted: &str) -> Result<String, PolicyError> {
    let dotted = wanted.contains('.')
        && wanted
            .split('.')
            .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
    if dotted {
        return Ok(wanted.to_owned());
    }
    let known = USAGE_NAMES.iter().find(|(_, long, short)| [*long, *short].contains(&wanted));
    known.map(|(oid, ..)| (*oid).to_owned()).ok_or_else(|| PolicyError::Usage(wanted.to_owned()))
}
