//! OpenVPN's certificate rules as a rustls verifier. No host name is ever compared.

mod algorithms;
mod certificate;
mod chain;
mod crl;
mod defect;
mod error;
mod rules;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, SignatureVerificationAlgorithm, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use webpki::RawPublicKeyEntity;

use self::certificate::Certificate;
use self::chain::TrustStore;
use self::crl::RevocationLists;
#[cfg(test)]
pub(super) use self::defect::Defect;
use self::error::{Objection, PolicyError, Refusal};
use self::rules::Rules;
use super::errors::certificate_error;
use super::rsa;
use super::session::PeerCertificate;
use crate::profile::{CertProfile, TlsOptions};

/// Verifies servers for one connection: after the first complete handshake the certificate chain
/// may not change any more.
pub(super) struct ServerVerifier {
    policy: Arc<Policy>,
    chain: Mutex<Chain>,
}

/// What the profile demands.
struct Policy {
    /// `None`: `peer-fingerprint` without CA.
    store: Option<TrustStore>,
    crls: Option<RevocationLists>,
    revoked_serials: BTreeSet<String>,
    rules: Rules,
    profile: CertProfile,
}

/// Fingerprints of a verified path, leaf first.
type Path = Vec<[u8; 32]>;

#[derive(Default)]
struct Chain {
    /// Verified, handshake not finished.
    seen: Path,
    /// Of the first finished handshake.
    locked: Option<Path>,
}

impl ServerVerifier {
    /// Reads the certificate options. `ca` is what the profile trusts (from `ca` or `pkcs12`). What is
    /// passed over is told in `warnings`.
    pub(super) fn new(
        options: &TlsOptions,
        ca: &[CertificateDer<'static>],
        extra: &[CertificateDer<'static>],
        warnings: &mut Vec<String>,
    ) -> Result<Self, PolicyError> {
        if ca.is_empty() && options.peer_fingerprints.is_empty() {
            return Err(PolicyError::NoTrust);
        }
        if ca.is_empty() && options.verify_hash.is_some() {
            return Err(PolicyError::HashWithoutCa);
        }
        if ca.is_empty() && options.crl.is_some() {
            return Err(PolicyError::ListWithoutCa);
        }
        let store = match ca {
            [] => None,
            ca => Some(TrustStore::new(ca, extra, options.cert_profile)?),
        };
        let policy = Policy {
            store,
            crls: match &options.crl {
                Some(text) => Some(RevocationLists::parse(text, warnings)?),
                None => None,
            },
            revoked_serials: options.revoked_serials.clone(),
            rules: Rules::new(options)?,
            profile: options.cert_profile,
        };
        Ok(Self { policy: Arc::new(policy), chain: Mutex::default() })
    }

    /// The same policy for a new connection: nothing is locked.
    pub(super) fn unlocked(&self) -> Self {
        Self { policy: Arc::clone(&self.policy), chain: Mutex::default() }
    }

    /// Called when a handshake is complete: locks the chain, describes the leaf.
    pub(super) fn established(
        &self,
        leaf: &CertificateDer<'_>,
    ) -> Result<PeerCertificate, Refusal> {
        let leaf = parse_leaf(leaf)?;
        let fingerprint = leaf.fingerprint();
        let mut chain = self.chain.lock().unwrap_or_else(PoisonError::into_inner);
        if chain.locked.is_none() && chain.seen.first() == Some(&fingerprint) {
            chain.locked = Some(chain.seen.clone());
            if let Some(bits) = leaf.rsa_bits.filter(|bits| *bits < rsa::STRONG_BITS) {
                tracing::warn!(
                    "the server's certificate \"{}\" has an RSA key of {bits} bits, too short to be \
                     safe: the server needs one with a key of {} bits or more",
                    leaf.subject,
                    rsa::STRONG_BITS
                );
            }
        }
        Ok(PeerCertificate { subject: leaf.subject, fingerprint, common_name: leaf.common_name })
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        presented: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Refusal> {
        let leaf = parse_leaf(leaf)?;
        self.judge(&leaf, presented, now).map_err(|objection| Refusal::new(&leaf, objection))
    }

    fn judge(
        &self,
        leaf: &Certificate,
        presented: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Objection> {
        let chain = match &self.policy.store {
            Some(store) => {
                let chain = store.verify(leaf, presented, now)?;
                Rules::check_purpose(leaf)?;
                chain
            }
            None => vec![leaf.clone()],
        };
        self.policy.rules.check(leaf, &chain)?;
        if let Some(crls) = &self.policy.crls {
            crls.check(&chain, self.allowed(), now)?;
        }
        let serials = &self.policy.revoked_serials;
        if let Some(position) = chain.iter().position(|c| serials.contains(&c.serial_number)) {
            return Err(crl::revoked(&chain, position));
        }
        let path: Path = chain.iter().map(Certificate::fingerprint).collect();
        let mut chain = self.chain.lock().unwrap_or_else(PoisonError::into_inner);
        if chain.locked.as_ref().is_some_and(|locked| *locked != path) {
            return Err(Objection::Changed);
        }
        chain.seen = path;
        Ok(())
    }

    fn allowed(&self) -> &'static WebPkiSupportedAlgorithms {
        algorithms::allowed(self.policy.profile)
    }

    /// Verifies a handshake signature. TLS 1.3 binds the curve to the scheme, TLS 1.2 does not.
    fn verify_handshake(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
        any_curve: bool,
    ) -> Result<HandshakeSignatureValid, Refusal> {
        let leaf = parse_leaf(leaf)?;
        let algorithms = algorithms::for_scheme(self.allowed(), signed.scheme);
        let first_only = !any_curve && leaf.rsa_bits.is_none();
        let algorithms = if first_only { algorithms.get(..1).unwrap_or(&[]) } else { algorithms };
        let key = RawPublicKeyEntity::try_from(leaf.public_key())
            .map_err(|error| Refusal::new(&leaf, Objection::PublicKey(error)))?;
        let verified = algorithms
            .iter()
            .any(|algorithm| key.verify_signature(*algorithm, message, signed.signature()).is_ok());
        if verified {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let demanded = algorithms::minimum_rsa_bits(self.policy.profile);
        let objection = match (leaf.rsa_bits, demanded) {
            (Some(bits), Some(minimum)) if bits < minimum => Objection::ShortKey { bits, minimum },
            _ => Objection::HandshakeSignature,
        };
        Err(Refusal::new(&leaf, objection))
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(end_entity, intermediates, now)
            .map(|()| ServerCertVerified::assertion())
            .map_err(|refusal| certificate_error(refusal.into()))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_handshake(message, cert, dss, true)
            .map_err(|refusal| certificate_error(refusal.into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // RFC 8446, 4.2.3: PKCS#1 signatures are for certificates only.
        use SignatureScheme as S;
        if matches!(dss.scheme, S::RSA_PKCS1_SHA256 | S::RSA_PKCS1_SHA384 | S::RSA_PKCS1_SHA512) {
            return Err(rustls::PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
        }
        self.verify_handshake(message, cert, dss, false)
            .map_err(|refusal| certificate_error(refusal.into()))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.allowed().mapping.iter().map(|(scheme, _)| *scheme).collect()
    }
}

impl fmt::Debug for ServerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerVerifier").finish_non_exhaustive()
    }
}

/// Algorithms that verify a handshake signature of `scheme`, for any profile.
pub(super) fn handshake_algorithms(
    scheme: SignatureScheme,
) -> &'static [&'static dyn SignatureVerificationAlgorithm] {
    algorithms::for_scheme(algorithms::allowed(CertProfile::Insecure), scheme)
}

fn parse_leaf(der: &CertificateDer<'_>) -> Result<Certificate, Refusal> {
    Certificate::parse(der).map_err(Refusal::Unreadable)
}

/// `AA:BB:..`
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, CertificateRevocationListParams, KeyPair};

    use super::*;

    /// A self-signed certificate and a list of its key, as DER.
    fn samples() -> (Vec<u8>, Vec<u8>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(1));
        params.key_usages = vec![rcgen::KeyUsagePurpose::CrlSign];
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.self_signed(&key).unwrap().der().to_vec();
        let list = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2020, 1, 1),
            next_update: rcgen::date_time_ymd(2999, 1, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: vec![rcgen::RevokedCertParams {
                serial_number: 7.into(),
                revocation_time: rcgen::date_time_ymd(2021, 1, 1),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&rcgen::Issuer::new(params, key)).unwrap().der().to_vec();
        (certificate, list)
    }

    #[test]
    fn damaged_der_is_an_error_or_a_certificate_never_a_panic() {
        let (certificate, list) = samples();
        assert!(Certificate::parse(&certificate).is_ok());
        let read = |list: &[u8]| {
            let text = ::pem::encode(&::pem::Pem::new("X509 CRL", list));
            RevocationLists::parse(&text, &mut Vec::new())
        };
        assert!(read(&list).is_ok());
        for length in 0..certificate.len() {
            assert!(Certificate::parse(&certificate[..length]).is_err());
        }
        for length in 0..list.len() {
            assert!(read(&list[..length]).is_err());
        }
        proptest!(|(position in 0_usize..4096, value in any::<u8>())| {
            let mut damaged = certificate.clone();
            let at = position % damaged.len();
            damaged[at] = value;
            let _ = Certificate::parse(&damaged);
            let mut damaged = list.clone();
            let at = position % damaged.len();
            damaged[at] = value;
            let _ = read(&damaged);
        });
    }
}
