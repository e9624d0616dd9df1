//! From the server's certificate to a CA of the profile.
//!
//! rustls-webpki builds and checks paths. It is stricter than OpenSSL in places where OpenVPN
//! set-ups depend on OpenSSL, so three cases are decided here: a self-signed server certificate
//! that is itself in `ca`; a server certificate of version 1, or with the CA flag, signed
//! directly by a CA of the profile; and the CA certificate at the end of a path, of which webpki
//! looks at name and key only.
//!
//! Stricter than OpenVPN, on purpose or for want of support: at most six intermediates (OpenVPN:
//! sixteen), names compared byte by byte, no intermediates of version 1.

use std::cell::RefCell;

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeId, KeyPurposeIdIter};

use super::algorithms;
use super::certificate::{ANY_USAGE, Certificate, GATED_CRYPTO, SERVER_AUTH, SignatureError};
use super::error::{Objection, PolicyError};
use crate::profile::CertProfile;

/// The CA certificates of a profile and the intermediates that go with them.
pub(super) struct TrustStore {
    roots: Vec<Certificate>,
    anchors: Vec<TrustAnchor<'static>>,
    intermediates: Vec<CertificateDer<'static>>,
    profile: CertProfile,
}

impl TrustStore {
    /// Sorts `ca` into roots (self-issued) and intermediates. Where there is no root at all, every
    /// certificate of `ca` is trusted as one.
    pub(super) fn new(
        ca: &[CertificateDer<'static>],
        extra: &[CertificateDer<'static>],
        profile: CertProfile,
    ) -> Result<Self, PolicyError> {
        let mut roots = Vec::new();
        let mut others = Vec::new();
        for der in ca {
            let certificate = Certificate::parse(der).map_err(PolicyError::Ca)?;
            if certificate.self_issued() { &mut roots } else { &mut others }.push(certificate);
        }
        if roots.is_empty() {
            std::mem::swap(&mut roots, &mut others);
        }
        let anchors = roots
            .iter()
            .map(|root| {
                webpki::anchor_from_trusted_cert(&CertificateDer::from(root.der.as_slice()))
                    .map(|anchor| anchor.to_owned())
                    .map_err(|source| PolicyError::UnusableCa {
                        subject: root.subject.clone(),
                        source,
                    })
            })
            .collect::<Result<_, _>>()?;
        let intermediates = others
            .into_iter()
            .map(|certificate| CertificateDer::from(certificate.der))
            .chain(extra.iter().cloned())
            .collect();
        Ok(Self { roots, anchors, intermediates, profile })
    }

    /// A verified path from `leaf` to a root, both included.
    pub(super) fn verify(
        &self,
        leaf: &Certificate,
        presented: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Vec<Certificate>, Objection> {
        leaf.check_time(now).map_err(Objection::Validity)?;
        if leaf.self_issued() && self.roots.iter().any(|root| root.der == leaf.der) {
            return Ok(vec![leaf.clone()]);
        }
        if !leaf.version3 || matches!(leaf.basic_constraints, Some((true, _))) {
            return self.verify_direct(leaf, now);
        }
        let presented: Vec<CertificateDer<'_>> =
            presented.iter().chain(&self.intermediates).cloned().collect();
        self.verify_path(leaf, &presented, now)
    }

    /// A leaf that webpki refuses to look at, signed by a root without intermediates.
    fn verify_direct(
        &self,
        leaf: &Certificate,
        now: UnixTime,
    ) -> Result<Vec<Certificate>, Objection> {
        if let Some(oid) = &leaf.unknown_critical {
            return Err(Objection::UnknownCritical(oid.clone()));
        }
        let mut last = self.unknown_issuer(leaf);
        for root in self.roots.iter().filter(|root| root.subject_raw == leaf.issuer_raw) {
            let checked = leaf
                .check_signature(root, self.allowed())
                .map_err(|error| {
                    self.signature_error(Some(root), error, leaf.signature_algorithm())
                })
                .and_then(|()| {
                    if root.name_constraints {
                        return Err(Objection::NameConstraintsUnchecked);
                    }
                    check_root(root, &[], now)
                });
            match checked {
                Ok(()) => return Ok(vec![leaf.clone(), root.clone()]),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn verify_path(
        &self,
        leaf: &Certificate,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Vec<Certificate>, Objection> {
        let der = CertificateDer::from(leaf.der.as_slice());
        let end_entity = EndEntityCert::try_from(&der)
            .map_err(|error| self.path_error(leaf, intermediates, now, &error))?;
        // webpki asks about each complete path; the answer's details stay here.
        let verdict: RefCell<Result<Vec<Certificate>, Option<Objection>>> = RefCell::new(Err(None));
        let judge = |path: &webpki::VerifiedPath<'_>| {
            let judged = self.judge(leaf, path, now);
            let accepted = judged.is_ok();
            *verdict.borrow_mut() = judged.map_err(Some);
            if accepted { Ok(()) } else { Err(webpki::Error::UnknownIssuer) }
        };
        let outcome = end_entity
            .verify_for_usage(
                self.allowed().all,
                &self.anchors,
                intermediates,
                now,
                ServerPurpose,
                None,
                Some(&judge),
            )
            .map(|_| ());
        match (outcome, verdict.into_inner()) {
            (Ok(()), Ok(chain)) => Ok(chain),
            (_, Err(Some(error))) => Err(error),
            (Err(error), _) => Err(self.path_error(leaf, intermediates, now, &error)),
            (Ok(()), Err(None)) => Err(self.unknown_issuer(leaf)),
        }
    }

    /// What webpki leaves out: the CA certificate itself, and key usage of intermediates.
    fn judge(
        &self,
        leaf: &Certificate,
        path: &webpki::VerifiedPath<'_>,
        now: UnixTime,
    ) -> Result<Vec<Certificate>, Objection> {
        let mut intermediates = Vec::new();
        for intermediate in path.intermediate_certificates() {
            let certificate = Certificate::parse(&intermediate.der()).map_err(Objection::Issuer)?;
            if !certificate.may_sign_certificates() {
                return Err(Objection::NotACa(certificate.subject));
            }
            intermediates.push(certificate);
        }
        let anchor = path.anchor();
        // By identity: a renewed CA has the name and key of the one before.
        let position = self.anchors.iter().position(|candidate| std::ptr::eq(candidate, anchor));
        let root = position
            .and_then(|position| self.roots.get(position))
            .ok_or_else(|| self.unknown_issuer(leaf))?;
        check_root(root, &intermediates, now)?;
        let mut chain = vec![leaf.clone()];
        chain.append(&mut intermediates);
        chain.push(root.clone());
        Ok(chain)
    }

    fn allowed(&self) -> &'static WebPkiSupportedAlgorithms {
        algorithms::allowed(self.profile)
    }

    fn unknown_issuer(&self, leaf: &Certificate) -> Objection {
        let known: Vec<_> = self.roots.iter().map(|root| format!("\"{}\"", root.subject)).collect();
        Objection::UnknownIssuer { issuer: leaf.issuer.clone(), known: known.join(", ") }
    }

    fn signature_error(
        &self,
        issuer: Option<&Certificate>,
        error: SignatureError,
        algorithm: &[u8],
    ) -> Objection {
        let small = issuer
            .and_then(|issuer| Some((issuer, issuer.rsa_bits?)))
            .zip(algorithms::minimum_rsa_bits(self.profile))
            .filter(|((_, bits), minimum)| bits < minimum);
        if let Some(((issuer, bits), minimum)) = small {
            return Objection::ShortIssuerKey { issuer: issuer.subject.clone(), bits, minimum };
        }
        match error {
            SignatureError::Algorithm => Objection::Algorithm {
                name: algorithms::name(algorithm),
                known: algorithms::is_known(algorithm),
            },
            SignatureError::OtherKey => Objection::OtherKey(algorithms::name(algorithm)),
            SignatureError::Invalid => Objection::Signature,
        }
    }

    fn path_error(
        &self,
        leaf: &Certificate,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        error: &webpki::Error,
    ) -> Objection {
        use webpki::Error as E;
        let parsed = || intermediates.iter().filter_map(|der| Certificate::parse(der).ok());
        match error {
            E::UnknownIssuer => self.unknown_issuer(leaf),
            E::CertExpired { .. } | E::CertNotValidYet { .. } => {
                match parsed().find_map(|c| c.check_time(now).err().map(|why| (c.subject, why))) {
                    Some((issuer, source)) => Objection::IssuerValidity { issuer, source },
                    None => Objection::SomeIssuersValidity(error.clone()),
                }
            }
            E::InvalidSignatureForPublicKey => {
                let issuers: Vec<_> = parsed().collect();
                let issuer = self.roots.iter().chain(&issuers).find(|issuer| {
                    let signs = |c: &Certificate| c.issuer_raw == issuer.subject_raw;
                    (signs(leaf) || issuers.iter().any(signs))
                        && issuer
                            .rsa_bits
                            .zip(algorithms::minimum_rsa_bits(self.profile))
                            .is_some_and(|(bits, minimum)| bits < minimum)
                });
                self.signature_error(issuer, SignatureError::Invalid, &[])
            }
            E::UnsupportedSignatureAlgorithmContext(context) => {
                let algorithm = &context.signature_algorithm_id;
                self.signature_error(None, SignatureError::Algorithm, algorithm)
            }
            E::UnsupportedSignatureAlgorithmForPublicKeyContext(context) => {
                let algorithm = &context.signature_algorithm_id;
                self.signature_error(None, SignatureError::OtherKey, algorithm)
            }
            E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => Objection::PathPurpose,
            E::EndEntityUsedAsCa => match parsed().find(|c| !c.may_sign_certificates()) {
                Some(issuer) => Objection::NotACa(issuer.subject),
                None => Objection::IssuerWithoutCaFlag,
            },
            E::PathLenConstraintViolated => Objection::PathLength,
            E::MaximumPathDepthExceeded => Objection::Depth,
            E::NameConstraintViolation => Objection::NameConstraints,
            E::UnsupportedCriticalExtension => Objection::PathCritical,
            other => Objection::Path(other.clone()),
        }
    }
}

/// Checks the CA certificate at the end of a path as OpenSSL does.
fn check_root(
    root: &Certificate,
    intermediates: &[Certificate],
    now: UnixTime,
) -> Result<(), Objection> {
    let name = || root.subject.clone();
    root.check_time(now).map_err(|source| Objection::RootValidity { root: name(), source })?;
    if !root.may_sign_certificates() {
        return Err(Objection::NotACa(name()));
    }
    if let Some(extension) = root.unknown_critical.clone() {
        return Err(Objection::RootCritical { root: name(), extension });
    }
    if root.extended_key_usage.as_ref().is_some_and(|usages| !allows_server(usages)) {
        return Err(Objection::RootPurpose(name()));
    }
    let below = intermediates.iter().filter(|intermediate| !intermediate.self_issued()).count();
    if let Some((_, Some(limit))) = root.basic_constraints
        && below > limit as usize
    {
        return Err(Objection::RootPathLength { root: name(), limit });
    }
    Ok(())
}

/// Extended key usages that OpenSSL's server purpose accepts.
pub(super) fn allows_server(usages: &[String]) -> bool {
    usages.iter().any(|usage| {
        usage == SERVER_AUTH || usage == ANY_USAGE || GATED_CRYPTO.contains(&usage.as_str())
    })
}

/// [`allows_server`] for every certificate of a path; none at all is fine.
struct ServerPurpose;

/// The object identifiers of [`allows_server`] in DER. (webpki's decoded form is wrong for
/// numbers above 127.)
const SERVER_USAGES: [KeyPurposeId<'static>; 4] = [
    KeyPurposeId::new(&[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01]),
    KeyPurposeId::new(&[0x55, 0x1d, 0x25, 0x00]),
    KeyPurposeId::new(&[0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x0a, 0x03, 0x03]),
    KeyPurposeId::new(&[0x60, 0x86, 0x48, 0x01, 0x86, 0xf8, 0x42, 0x04, 0x01]),
];

impl ExtendedKeyUsageValidator for ServerPurpose {
    fn validate(&self, usages: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        let mut none = true;
        for usage in usages {
            none = false;
            if SERVER_USAGES.contains(&usage?) {
                return Ok(());
            }
        }
        if none { Ok(()) } else { Err(webpki::Error::EmptyEkuExtension) }
    }
}
