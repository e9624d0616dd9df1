//! `crl-verify`: as OpenVPN, a revoked certificate anywhere in the path is refused, an issuer
//! without a list is passed over, and a list that is out of date or badly signed is an error.

use std::collections::HashSet;

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::UnixTime;
use x509_parser::der_parser::asn1_rs::{Any, Tag};
use x509_parser::prelude::{ASN1Time, CertificateRevocationList, FromDer};

use super::certificate::{Certificate, Signed};
use super::defect::Defect;
use super::error::{Objection, PolicyError};
use crate::tls::pem;

/// Extensions that do not narrow what a list covers: CRL number, authority key identifier,
/// issuer's alternative name.
const HARMLESS: [&str; 3] = ["2.5.29.20", "2.5.29.35", "2.5.29.18"];

/// How deep the parts of a list are in each other, at most: times are at depth 5.
const MAX_DEPTH: usize = 16;

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
    /// Reads PEM text. What is passed over is told in `warnings`.
    pub(super) fn parse(text: &str, warnings: &mut Vec<String>) -> Result<Self, PolicyError> {
        let mut lists = Vec::new();
        for (der, number) in pem::crls(text)?.iter().zip(1..) {
            let list = RevocationList::parse(der).or_else(|why| {
                let mended = with_time_zones(der).ok_or_else(|| why.clone())?;
                let list = RevocationList::parse(&mended).map_err(|_| why)?;
                warnings.push(format!(
                    "crl-verify: revocation list {number} has dates without a time zone (RFC 5280, \
                     5.1.2, wants a 'Z' at their end); they are taken for UTC"
                ));
                // What was signed is the list as it came.
                Ok(RevocationList { signed: Signed::parse(der).ok_or(Defect::Signature)?, ..list })
            });
            lists.push(list.map_err(|source| PolicyError::List { number, source })?);
        }
        Ok(Self(lists))
    }

    /// Checks `chain`, leaf first, each signed by the next, the last by itself.
    pub(super) fn check(
        &self,
        chain: &[Certificate],
        allowed: &WebPkiSupportedAlgorithms,
        now: UnixTime,
    ) -> Result<(), Objection> {
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
                    return Err(revoked(chain, position));
                }
            }
            if let (false, Some(source)) = (current, stale) {
                return Err(Objection::List { issuer: issuer.subject.clone(), source });
            }
        }
        Ok(())
    }
}

/// That the certificate at this place of a chain is revoked.
pub(super) fn revoked(chain: &[Certificate], position: usize) -> Objection {
    match chain.get(position) {
        Some(issuer) if position > 0 => Objection::RevokedIssuer(issuer.subject.clone()),
        _ => Objection::Revoked,
    }
}

/// The same DER with a `Z` behind each time that lacks it. `None`: there is none such, or this is no
/// DER.
fn with_time_zones(der: &[u8]) -> Option<Vec<u8>> {
    let mut mended = false;
    let whole = mend_times(der, MAX_DEPTH, &mut mended)?;
    mended.then_some(whole)
}

fn mend_times(mut der: &[u8], depth: usize, mended: &mut bool) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(der.len());
    while !der.is_empty() {
        let (rest, element) = Any::from_der(der).ok()?;
        let whole = der.get(..der.len() - rest.len())?;
        der = rest;
        let is_time = matches!(element.header.tag(), Tag::UtcTime | Tag::GeneralizedTime);
        let content = if element.header.is_constructed() {
            mend_times(element.data, depth.checked_sub(1)?, mended)?
        } else if is_time && element.data.iter().all(u8::is_ascii_digit) {
            *mended = true;
            [element.data, b"Z"].concat()
        } else {
            out.extend_from_slice(whole);
            continue;
        };
        let tag = *whole.first()?;
        if tag & 0x1f == 0x1f {
            // Its tag goes on in the next byte: nothing in a list does.
            return None;
        }
        out.push(tag);
        push_length(&mut out, content.len());
        out.extend_from_slice(&content);
    }
    Some(out)
}

/// X.690, 8.1.3
fn push_length(out: &mut Vec<u8>, length: usize) {
    let bytes = length.to_be_bytes();
    let bytes: Vec<u8> = bytes.into_iter().skip_while(|byte| *byte == 0).collect();
    match bytes.as_slice() {
        [] => out.push(0),
        [short] if *short < 0x80 => out.push(*short),
        long => {
            out.push(0x80 | long.len() as u8);
            out.extend_from_slice(long);
        }
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
