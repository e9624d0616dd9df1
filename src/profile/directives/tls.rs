//! TLS: certificates, keys, and the rules a server certificate must keep.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Call, Entry};
use crate::profile::draft::Draft;
use crate::profile::keyfile::{fingerprint, fingerprints};
use crate::profile::options::{
    CertProfile, CertUsage, KeySource, TlsVersion, VerifyHash, X509Name,
};
use crate::profile::values::{one_of, pem_damage};
use crate::profile::verdict::{Done, Outcome, Problem};
use crate::secret::Secret;

/// Longest list of suites or groups (OpenVPN 3).
const MAX_LIST: usize = 256;

pub(super) const TABLE: &[Entry] = &[
    Entry::apply("ca", 1, 1, |d, c| {
        d.options.tls.ca = Some(pem_text(c, "CERTIFICATE")?);
        Ok(Done::Taken)
    }),
    Entry::apply("cert", 1, 1, |d, c| {
        d.options.tls.cert = Some(pem_text(c, "CERTIFICATE")?);
        Ok(Done::Taken)
    }),
    Entry::apply("extra-certs", 1, 1, |d, c| {
        d.options.tls.extra_certs = Some(pem_text(c, "CERTIFICATE")?);
        Ok(Done::Taken)
    }),
    Entry::apply("key", 1, 1, key),
    Entry::apply("pkcs12", 1, 1, pkcs12),
    Entry::apply("askpass", 0, 1, askpass),
    Entry::apply("crl-verify", 1, 2, crl_verify),
    Entry::apply("tls-version-min", 1, 2, |d, c| {
        let version = match c.word(0)? {
            "or-highest" => TlsVersion::V1_3,
            text => tls_version(text)?,
        };
        d.options.tls.version_min = version;
        Ok(match version {
            TlsVersion::V1_0 | TlsVersion::V1_1 => {
                Done::Noted("TLS 1.2 is the lowest version in use".to_owned())
            }
            _ => Done::Taken,
        })
    }),
    Entry::apply("tls-version-max", 1, 1, |d, c| {
        d.options.tls.version_max = match tls_version(c.word(0)?)? {
            TlsVersion::V1_0 | TlsVersion::V1_1 => {
                return Err(Problem::with_hint(
                    "TLS 1.2 is the lowest version that is supported",
                    "remove the line, and let the server accept TLS 1.2 or 1.3",
                ));
            }
            version => version,
        };
        Ok(Done::Taken)
    }),
    Entry::apply("tls-cert-profile", 1, 1, |d, c| {
        d.options.tls.cert_profile = cert_profile(c.word(0)?)?;
        Ok(Done::Taken)
    }),
    Entry::apply("tls-cipher", 1, 1, |d, c| {
        d.options.tls.ciphers = Some(list(c)?);
        Ok(Done::Taken)
    }),
    Entry::apply("tls-ciphersuites", 1, 1, |d, c| {
        d.options.tls.ciphersuites = Some(list(c)?);
        Ok(Done::Taken)
    }),
    Entry::apply("tls-groups", 1, 1, |d, c| {
        d.options.tls.groups = Some(list(c)?);
        Ok(Done::Taken)
    }),
    Entry::apply("remote-cert-tls", 1, 1, |d, c| {
        d.options.tls.remote_cert_tls = Some(usage(c.word(0)?)?);
        Ok(Done::Taken)
    }),
    Entry::apply("ns-cert-type", 1, 1, |d, c| {
        d.options.tls.ns_cert_type = Some(usage(c.word(0)?)?);
        Ok(Done::Noted("deprecated: use 'remote-cert-tls server'".to_owned()))
    }),
    Entry::apply("remote-cert-ku", 0, 15, |d, c| {
        d.options.tls.remote_cert_ku =
            Some(c.args.iter().map(|mask| key_usage(mask)).collect::<Result<_, _>>()?);
        Ok(Done::Taken)
    }),
    Entry::apply("remote-cert-eku", 1, 1, |d, c| {
        d.options.tls.remote_cert_eku = Some(c.word(0)?.to_owned());
        Ok(Done::Taken)
    }),
    Entry::apply("verify-x509-name", 1, 2, verify_x509_name),
    Entry::apply("peer-fingerprint", 1, 1, |d, c| {
        match c.inline {
            Some(block) => d.options.tls.peer_fingerprints.extend(fingerprints::<32>(block)?),
            None => d.options.tls.peer_fingerprints.push(fingerprint(c.word(0)?)?),
        }
        Ok(Done::Taken)
    }),
    Entry::apply("verify-hash", 1, 2, verify_hash),
    Entry::apply("sni", 1, 1, |d, c| {
        d.options.tls.sni = Some(c.word(0)?.to_owned());
        Ok(Done::Taken)
    }),
];

/// Lists, or a directory with a file for each revoked certificate, named by its serial number in
/// decimal; what is in the files does not matter (OpenVPN 2, manual).
fn crl_verify(draft: &mut Draft, call: &Call<'_>) -> Outcome {
    let tls = &mut draft.options.tls;
    match call.get(1) {
        None => {
            (tls.crl, tls.revoked_serials) = (Some(crl_text(call)?), BTreeSet::new());
            Ok(Done::Taken)
        }
        Some("dir") => {
            let path = call.word(0)?;
            let names = call.files.names(path).map_err(|why| {
                Problem::with_hint(
                    format!("cannot read the directory '{path}': {why}"),
                    "put the directory next to the profile, or use a list: 'crl-verify FILE'",
                )
            })?;
            let is_serial = |name: &String| name.bytes().all(|b| b.is_ascii_digit());
            (tls.crl, tls.revoked_serials) = (None, names.into_iter().filter(is_serial).collect());
            Ok(Done::Noted("the directory is read once, when the profile is".to_owned()))
        }
        Some(other) => Err(one_of(other, "dir")),
    }
}

/// PEM text of revocation lists, which may be one list in DER.
fn crl_text(call: &Call<'_>) -> Result<String, Problem> {
    const TAG: &str = "X509 CRL";
    /// `SEQUENCE`, with which no text begins.
    const DER: u8 = 0x30;
    let bytes = call.bytes()?;
    match bytes.expose().as_slice() {
        der @ [DER, second, ..] if !second.is_ascii_graphic() => {
            Ok(pem::encode(&pem::Pem::new(TAG, der)))
        }
        _ => pem_text(call, TAG),
    }
}

/// The PEM text of a file or block that must hold at least one `tag`.
fn pem_text(call: &Call<'_>, tag: &str) -> Result<String, Problem> {
    let text = call.text()?;
    let found = pem::parse_many(text.expose().as_str())
        .map_err(|e| Problem::new(format!("the PEM text is damaged: {}", pem_damage(&e))))?;
    let wanted = |block: &pem::Pem| match tag {
        "CERTIFICATE" => {
            matches!(block.tag(), "CERTIFICATE" | "X509 CERTIFICATE" | "TRUSTED CERTIFICATE")
        }
        _ => block.tag() == tag,
    };
    if found.iter().any(wanted) {
        return Ok(text.expose().clone());
    }
    let hint = match found.first() {
        Some(other) => format!("it holds '-----BEGIN {}-----'", other.tag()),
        None => format!("the content of '{}' must be in PEM form", call.name),
    };
    Err(Problem::with_hint(format!("no '-----BEGIN {tag}-----' was found"), hint))
}

fn key(draft: &mut Draft, call: &Call<'_>) -> Outcome {
    let text = call.text()?;
    let begins = |line: &str| line.starts_with("-----BEGIN ") && line.contains("PRIVATE KEY-----");
    if !text.expose().lines().any(|line| begins(line.trim())) {
        return Err(Problem::with_hint(
            "no private key ('-----BEGIN ... PRIVATE KEY-----') was found",
            "the content of 'key' must be in PEM form; for a .p12 file use 'pkcs12'",
        ));
    }
    draft.options.tls.key = Some(KeySource::Pem(text));
    Ok(Done::Taken)
}

fn pkcs12(draft: &mut Draft, call: &Call<'_>) -> Outcome {
    let bytes = match call.inline {
        Some(block) => {
            let packed: Secret<String> =
                Secret::new(block.chars().filter(|c| !c.is_whitespace()).collect());
            Secret::new(STANDARD.decode(packed.expose()).map_err(|_| {
                Problem::with_hint(
                    "the block is not base64",
                    "write the .p12 file with 'base64 FILE' between <pkcs12> and </pkcs12>",
                )
            })?)
        }
        None => call.bytes()?,
    };
    if bytes.expose().first() != Some(&0x30) {
        return Err(Problem::new("not a PKCS#12 file"));
    }
    draft.pkcs12 = Some(bytes);
    Ok(Done::Taken)
}

fn askpass(draft: &mut Draft, call: &Call<'_>) -> Outcome {
    if call.inline.is_none() && call.args.is_empty() {
        return Ok(Done::Noted("the passphrase is asked for when it is needed".to_owned()));
    }
    let text = call.text()?;
    let passphrase = text.expose().lines().next().unwrap_or_default();
    draft.options.tls.key_passphrase = Some(passphrase.into());
    Ok(Done::Taken)
}

/// `1.0` to `1.3`
pub(in crate::profile) fn tls_version(text: &str) -> Result<TlsVersion, Problem> {
    Ok(match text {
        "1.0" => TlsVersion::V1_0,
        "1.1" => TlsVersion::V1_1,
        "1.2" => TlsVersion::V1_2,
        "1.3" => TlsVersion::V1_3,
        other => return Err(one_of(other, "1.0, 1.1, 1.2, 1.3")),
    })
}

/// `legacy`, `preferred`, `suiteb` or `insecure`
pub(in crate::profile) fn cert_profile(text: &str) -> Result<CertProfile, Problem> {
    Ok(match text {
        "insecure" => CertProfile::Insecure,
        "legacy" => CertProfile::Legacy,
        "preferred" => CertProfile::Preferred,
        "suiteb" => CertProfile::SuiteB,
        other => return Err(one_of(other, "legacy, preferred, suiteb, insecure")),
    })
}

fn list(call: &Call<'_>) -> Result<Vec<String>, Problem> {
    let text = call.word(0)?;
    if text.len() > MAX_LIST {
        return Err(Problem::new(format!(
            "the list is {} characters long, {MAX_LIST} are allowed",
            text.len()
        )));
    }
    let names: Vec<String> =
        text.split(':').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    if names.is_empty() { Err(Problem::new("the list is empty")) } else { Ok(names) }
}

fn usage(text: &str) -> Result<CertUsage, Problem> {
    match text {
        "server" => Ok(CertUsage::Server),
        "client" => Ok(CertUsage::Client),
        other => Err(one_of(other, "server, client")),
    }
}

/// A hex mask of the first key usage byte.
fn key_usage(text: &str) -> Result<u8, Problem> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    u8::from_str_radix(digits, 16).map_err(|_| {
        Problem::with_hint(
            format!("'{text}' is not a key usage mask"),
            "masks are one byte in hex, for example a0 or 88",
        )
    })
}

fn verify_x509_name(draft: &mut Draft, call: &Call<'_>) -> Outcome {
    let name = call.word(0)?.to_owned();
    if name.is_empty() {
        return Err(Problem::new("the name is empty"));
    }
    draft.options.tls.verify_x509_name = Some(match call.get(1) {
        None | Some("subject") => X509Name::Subject(name),
        Some("name") => X509Name::Name(name),
        Some("name-prefix") => X509Name::NamePrefix(name),
        Some(other) => return Err(one_of(other, "subject, name, name-prefix")),
    });
    Ok(Done::Taken)
}

/// The algorithm follows from the length; a word that says otherwise is an error.
fn verify_hash(draft: &mut Draft, call: &Call<'_>) -> Outcome {
    let hash = match call.inline {
        Some(block) => match fingerprints::<32>(block)?.as_slice() {
            [hash] => VerifyHash::Sha256(*hash),
            _ => return Err(Problem::new("exactly one fingerprint is supported")),
        },
        None => {
            let text = call.word(0)?;
            let algorithm = call.get(1).map(str::to_ascii_uppercase);
            match algorithm.as_deref() {
                Some("SHA1") => VerifyHash::Sha1(fingerprint(text)?),
                Some("SHA256") => VerifyHash::Sha256(fingerprint(text)?),
                None => fingerprint(text)
                    .map(VerifyHash::Sha256)
                    .or_else(|e| fingerprint(text).map(VerifyHash::Sha1).map_err(|_| e))?,
                Some(other) => return Err(one_of(other, "SHA256, SHA1")),
            }
        }
    };
    draft.options.tls.verify_hash = Some(hash);
    Ok(Done::Noted("deprecated: use peer-fingerprint or a CA of the server's own".to_owned()))
}
