//! PEM text: certificates, revocation lists, and whatever else a block is labelled.

use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::session::{Reason, TlsErrorKind};
use crate::profile::pem_damage;

/// Labels under which certificates are found.
const CERTIFICATE: [&str; 3] = ["CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE"];

/// What is wrong with the PEM text of an option.
#[derive(Debug, thiserror::Error)]
pub(super) enum PemError {
    #[error("{option}: the PEM text is damaged ({})", pem_damage(.source))]
    Damaged { option: String, source: pem::PemError },
    #[error("{option}: the PEM text is damaged (block {block} has no \"-----END\" line)")]
    Unended { option: String, block: usize },
    #[error(
        "{option}: certificate {number} cannot be read ({source}); replace it by a valid X.509 \
         certificate"
    )]
    Unreadable {
        option: String,
        number: usize,
        source: x509_parser::nom::Err<x509_parser::error::X509Error>,
    },
    #[error(
        "{option}: no certificate found; it must hold at least one PEM block \
         \"-----BEGIN CERTIFICATE-----\""
    )]
    NoCertificate { option: String },
    #[error(
        "crl-verify: no revocation list found; it must hold at least one PEM block \
         \"-----BEGIN X509 CRL-----\""
    )]
    NoRevocationList,
}

impl Reason for PemError {
    fn kind(&self) -> TlsErrorKind {
        TlsErrorKind::Config
    }
}

/// One block: label, decoded bytes, and the two headers of RFC 1421 that OpenSSL writes.
pub(super) struct Section {
    pub(super) label: String,
    pub(super) der: Zeroizing<Vec<u8>>,
    /// `Proc-Type`, e.g. `4,ENCRYPTED`.
    pub(super) proc_type: Option<String>,
    /// `DEK-Info`, e.g. `AES-256-CBC,<IV in hexadecimal>`.
    pub(super) dek_info: Option<String>,
}

/// All certificates of `text`, the value of the option `option`; at least one.
pub(super) fn certificates(
    option: &str,
    text: &str,
) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let mut found = Vec::new();
    for section in sections(option, text)? {
        if !CERTIFICATE.contains(&section.label.as_str()) {
            continue;
        }
        // `TRUSTED CERTIFICATE` carries OpenSSL's own trust settings after the certificate.
        let (trailing, _) =
            x509_parser::parse_x509_certificate(&section.der).map_err(|source| {
                PemError::Unreadable { option: option.to_owned(), number: found.len() + 1, source }
            })?;
        let length = section.der.len() - trailing.len();
        found.push(CertificateDer::from(section.der[..length].to_vec()));
    }
    if found.is_empty() {
        return Err(PemError::NoCertificate { option: option.to_owned() });
    }
    Ok(found)
}

/// Certificates as PEM text.
pub(super) fn text(certificates: &[CertificateDer<'_>]) -> String {
    certificates
        .iter()
        .map(|der| pem::encode(&pem::Pem::new("CERTIFICATE", der.to_vec())))
        .collect()
}

/// All revocation lists of `text`; at least one. The DER is not looked at.
pub(super) fn crls(text: &str) -> Result<Vec<Vec<u8>>, PemError> {
    let found: Vec<_> = sections("crl-verify", text)?
        .into_iter()
        .filter(|section| section.label == "X509 CRL")
        .map(|section| section.der.to_vec())
        .collect();
    if found.is_empty() {
        return Err(PemError::NoRevocationList);
    }
    Ok(found)
}

/// All blocks of `text`, in order.
pub(super) fn sections(option: &str, text: &str) -> Result<Vec<Section>, PemError> {
    let tidy = tidy(text);
    let parsed = pem::parse_many(tidy.as_bytes())
        .map_err(|source| PemError::Damaged { option: option.to_owned(), source })?;
    // The parser stops at a block without end: what follows must not vanish silently.
    if parsed.len() != tidy.matches("-----BEGIN ").count() {
        return Err(PemError::Unended { option: option.to_owned(), block: parsed.len() + 1 });
    }
    Ok(parsed
        .into_iter()
        .map(|pem| Section {
            label: pem.tag().to_owned(),
            proc_type: pem.headers().get("Proc-Type").map(str::to_owned),
            dek_info: pem.headers().get("DEK-Info").map(str::to_owned),
            der: Zeroizing::new(pem.into_contents()),
        })
        .collect())
}

/// Removes what profiles add to PEM: indentation, carriage returns and blank lines. The parser
/// takes a blank line for the end of the headers, so only the one after a header stays.
fn tidy(text: &str) -> Zeroizing<String> {
    let mut tidy = Zeroizing::new(String::with_capacity(text.len() + 1));
    let mut after_header = false;
    for line in text.lines().map(str::trim) {
        if !line.is_empty() || after_header {
            tidy.push_str(line);
            tidy.push('\n');
        }
        after_header = line.contains(':');
    }
    tidy
}
