//! `crl-verify`: as OpenVPN, a revoked certificate anywhere in the path is refused, an issuer
//! without a list is passed over, and a list that is out of date or badly signed is an error.

use std::collections::HashSet;

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::UnixTime;
use x509_parser::prelude::{ASN1Time, CertificateRevocationList, FromDer};

use super::certificate::{Certificate, Signed};
use super::defect::Defect;
use crate::tls::pem;
use crate::tls::session::{TlsError, TlsErrorKind};

/// Extensions that do not narrow what a list covers: CRL number, authority key identifier,
/// issuer's alternative name.
const HARMLESS: [&str; 3] = ["2.5.29.20", "2.5.29.35", "2.5.29.18"];

/// All lists of a profile.
pub(super) struct RevocationLists(Vec<RevocationList>);

struct RevocationList {
    issuer: Vec<u8>,
    this_update: ASN1Time,
    next_update: Option<ASN1Time>,
    serials: HashSet<Vec<u8>>,
    unknown_critical: Option<String>,
    signed: Signed,
}

impl RevocationLists {
    /// Reads PEM text.
    pub(super) fn parse(text: &str) -> Result<Self, TlsError> {
        let lists: Result<_, _> = pem::crls(text)?
            .iter()
            .enumerate()
            .map(|(position, der)| {
                RevocationList::parse(der).map_err(|why| {
                    TlsError::new(
                        TlsErrorKind::Config,
                        format!(
                            "crl-verify: revocation list {} {why}; get a new one from the CA",
                            position + 1
                        ),
                    )
                })
            })
            .collect();
        lists.map(Self)
    }

    /// Checks `chain`, leaf first, each signed by the next, the last by itself.
    pub(super) fn check(
        &self,
        chain: &[Certificate],
        allowed: &WebPkiSupportedAlgorithms,
        now: UnixTime,
    ) -> Result<(), TlsError> {
        let Some(leaf) = chain.first() else { return Ok(()) };
        for (position, certificate) in chain.iter().enumerate() {
            let issuer = chain.get(position + 1).unwrap_or(certificate);
            if issuer.subject_raw != certificate.issuer_raw {
                // The end of a path that stops at an intermediate: nobody's list applies.
                continue;
            }
            let lists: Vec<_> =
                self.0.iter().filter(|list| list.issuer == certificate.issuer_raw).collect();
            let mut current = lists.is_empty();
            let mut stale = None;
            for list in lists {
                match list.usable(issuer, allowed, now) {
                    Ok(()) => current = true,
                    Err(why) => {
                        stale = Some(why);
                        continue;
                    }
                }
                if list.serials.contains(&certificate.serial) {
                    return Err(super::refused_by(
                        "crl-verify",
                        leaf,
                        if position == 0 {
                            "is revoked; the server needs a new certificate".to_owned()
                        } else {
                            format!(
                                "was issued under \"{}\", which is revoked",
                                certificate.subject
                            )
                        },
                    ));
                }
            }
            if let (false, Some(why)) = (current, stale) {
                return Err(super::refused_by(
                    "crl-verify",
                    leaf,
                    format!(
                        "cannot be checked: the revocation list of \"{}\" {why}; get a new one from \
                     the CA",
                        issuer.subject
                    ),
                ));
            }
        }
        Ok(())
    }
}

impl RevocationList {
    fn parse(der: &[u8]) -> Result<Self, Defect> {
        let (_, list) = CertificateRevocationList::from_der(der).map_err(Defect::Unreadable)?;
        let unknown_critical = list
            .extensions()
            .iter()
            .find(|e| e.critical && !HARMLESS.contains(&e.oid.to_id_string().as_str()))
            .map(|e| e.oid.to_id_string());
        Ok(Self {
            issuer: list.issuer().as_raw().to_vec(),
            this_update: list.last_update(),
            next_update: list.next_update(),
            serials: list.iter_revoked_certificates().map(|r| r.raw_serial().to_vec()).collect(),
            unknown_critical,
            signed: Signed::parse(der).ok_or(Defect::Signature)?,
        })
    }

    fn usable(
        &self,
        issuer: &Certificate,
        allowed: &WebPkiSupportedAlgorithms,
        now: UnixTime,
    ) -> Result<(), Defect> {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        if issuer.verify(&self.signed, allowed).is_err() {
            return Err(Defect::OtherSigner);
        }
        if issuer.key_usage.is_some_and(|usage| usage & 0x02 == 0) {
            return Err(Defect::SignerMayNot);
        }
        if let Some(oid) = &self.unknown_critical {
            return Err(Defect::UnknownCritical(oid.clone()));
        }
        if now < self.this_update.timestamp() {
            return Err(Defect::TooEarly(self.this_update));
        }
        match self.next_update {
            Some(next) if now > next.timestamp() => Err(Defect::Expired(next)),
            _ => Ok(()),
        }
    }
}
