//! Versions, cipher suites and key exchange groups: OpenVPN's option values turned into what
//! rustls offers. A name rustls cannot do is skipped with a warning; an empty result is an error.

use rustls::crypto::SupportedKxGroup;
use rustls::crypto::aws_lc_rs::{cipher_suite as suite, kx_group};
use rustls::{SupportedCipherSuite, SupportedProtocolVersion, version};

use super::p521::Secp521r1;
use super::session::{Reason, TlsErrorKind};
use crate::profile::{TlsOptions, TlsVersion};

/// Why the options leave nothing to offer.
#[derive(Debug, thiserror::Error)]
pub(super) enum OfferError {
    #[error(
        "tls-version-max is below 1.2: this client supports TLS 1.2 and 1.3 only; remove \
         tls-version-max or raise it to 1.2"
    )]
    MaximumTooLow,
    #[error(
        "tls-version-min is above tls-version-max: no TLS version is left; correct one of them"
    )]
    MinimumAboveMaximum,
    #[error("tls-cipher leaves no TLS 1.2 cipher suite; supported are {}", tls12_names())]
    NoTls12Suite,
    #[error(
        "tls-ciphersuites names no supported TLS 1.3 cipher suite; supported are {}",
        tls13_names()
    )]
    NoTls13Suite,
    #[error("tls-groups names no supported group; supported are {}", group_names())]
    NoGroup,
}

impl Reason for OfferError {
    fn kind(&self) -> TlsErrorKind {
        TlsErrorKind::Config
    }
}

/// What a client offers in its hello.
pub(super) struct Offer {
    pub(super) versions: Vec<&'static SupportedProtocolVersion>,
    pub(super) suites: Vec<SupportedCipherSuite>,
    pub(super) groups: Vec<&'static dyn SupportedKxGroup>,
}

/// A TLS 1.2 suite under its two names, with the words of OpenSSL's cipher strings it answers to.
struct Tls12Suite {
    suite: SupportedCipherSuite,
    iana: &'static str,
    openssl: &'static str,
    words: &'static [&'static str],
}

/// In order of preference.
static TLS12: [Tls12Suite; 6] = [
    Tls12Suite {
        suite: suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        iana: "TLS-ECDHE-ECDSA-WITH-AES-256-GCM-SHA384",
        openssl: "ECDHE-ECDSA-AES256-GCM-SHA384",
        words: &["AECDSA", "ECDSA", "AESGCM", "AES", "AES256", "FIPS", "SUITEB128", "SUITEB192"],
    },
    Tls12Suite {
        suite: suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        iana: "TLS-ECDHE-ECDSA-WITH-AES-128-GCM-SHA256",
        openssl: "ECDHE-ECDSA-AES128-GCM-SHA256",
        words: &["AECDSA", "ECDSA", "AESGCM", "AES", "AES128", "FIPS", "SUITEB128"],
    },
    Tls12Suite {
        suite: suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        iana: "TLS-ECDHE-ECDSA-WITH-CHACHA20-POLY1305-SHA256",
        openssl: "ECDHE-ECDSA-CHACHA20-POLY1305",
        words: &["AECDSA", "ECDSA", "CHACHA20"],
    },
    Tls12Suite {
        suite: suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        iana: "TLS-ECDHE-RSA-WITH-AES-256-GCM-SHA384",
        openssl: "ECDHE-RSA-AES256-GCM-SHA384",
        words: &["ARSA", "AESGCM", "AES", "AES256", "FIPS"],
    },
    Tls12Suite {
        suite: suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        iana: "TLS-ECDHE-RSA-WITH-AES-128-GCM-SHA256",
        openssl: "ECDHE-RSA-AES128-GCM-SHA256",
        words: &["ARSA", "AESGCM", "AES", "AES128", "FIPS"],
    },
    Tls12Suite {
        suite: suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        iana: "TLS-ECDHE-RSA-WITH-CHACHA20-POLY1305-SHA256",
        openssl: "ECDHE-RSA-CHACHA20-POLY1305",
        words: &["ARSA", "CHACHA20"],
    },
];

/// Words of OpenSSL's cipher strings that every suite above answers to.
const TLS12_COMMON: [&str; 7] = ["DEFAULT", "ALL", "HIGH", "ECDHE", "EECDH", "KECDHE", "KEECDH"];

/// TLS 1.3 suites, in order of preference.
static TLS13: [(SupportedCipherSuite, &str); 3] = [
    (suite::TLS13_AES_256_GCM_SHA384, "TLS-AES-256-GCM-SHA384"),
    (suite::TLS13_AES_128_GCM_SHA256, "TLS-AES-128-GCM-SHA256"),
    (suite::TLS13_CHACHA20_POLY1305_SHA256, "TLS-CHACHA20-POLY1305-SHA256"),
];

/// How many of [`GROUPS`] are offered by default.
const DEFAULT_GROUPS: usize = 5;

/// Groups with every name OpenSSL or IANA gives them; the first is what errors show.
static GROUPS: [(&dyn SupportedKxGroup, &[&str]); 8] = [
    (kx_group::X25519MLKEM768, &["X25519MLKEM768"]),
    (kx_group::X25519, &["X25519"]),
    (kx_group::SECP256R1, &["secp256r1", "prime256v1", "P-256"]),
    (kx_group::SECP384R1, &["secp384r1", "P-384"]),
    (&Secp521r1, &["secp521r1", "P-521"]),
    (kx_group::SECP256R1MLKEM768, &["SecP256r1MLKEM768"]),
    (kx_group::MLKEM768, &["MLKEM768"]),
    (kx_group::MLKEM1024, &["MLKEM1024"]),
];

impl Offer {
    /// Reads `tls-version-min/max`, `tls-cipher`, `tls-ciphersuites` and `tls-groups`.
    pub(super) fn new(
        options: &TlsOptions,
        warnings: &mut Vec<String>,
    ) -> Result<Self, OfferError> {
        let (mut tls12, tls13) = versions(options.version_min, options.version_max)?;
        let mut suites = Vec::new();
        if tls13 {
            suites.extend(match &options.ciphersuites {
                Some(names) => select_tls13(names, warnings)?,
                None => TLS13.iter().map(|(suite, _)| *suite).collect(),
            });
        }
        if tls12 {
            let selected = match &options.ciphers {
                Some(names) => select_tls12(names, warnings),
                None => TLS12.iter().map(|entry| entry.suite).collect(),
            };
            if selected.is_empty() {
                if !tls13 {
                    return Err(OfferError::NoTls12Suite);
                }
                warnings.push(format!(
                    "tls-cipher leaves no TLS 1.2 cipher suite (supported are {}): only TLS 1.3 is \
                     offered",
                    tls12_names()
                ));
                tls12 = false;
            }
            suites.extend(selected);
        }
        let groups = match &options.groups {
            Some(names) => select_groups(names, warnings)?,
            None => GROUPS.iter().take(DEFAULT_GROUPS).map(|(group, _)| *group).collect(),
        };
        let mut versions = Vec::new();
        if tls13 {
            versions.push(&version::TLS13);
        }
        if tls12 {
            versions.push(&version::TLS12);
        }
        Ok(Self { versions, suites, groups })
    }
}

/// Whether TLS 1.2 and TLS 1.3 are allowed. A minimum below 1.2 means 1.2: rustls has nothing
/// older.
fn versions(min: TlsVersion, max: TlsVersion) -> Result<(bool, bool), OfferError> {
    if max < TlsVersion::V1_2 {
        return Err(OfferError::MaximumTooLow);
    }
    if min > max {
        return Err(OfferError::MinimumAboveMaximum);
    }
    Ok((min <= TlsVersion::V1_2, max >= TlsVersion::V1_3))
}

fn select_tls13(
    names: &[String],
    warnings: &mut Vec<String>,
) -> Result<Vec<SupportedCipherSuite>, OfferError> {
    let mut selected = Vec::new();
    for name in names {
        match TLS13.iter().find(|(_, iana)| *iana == normalise(name)) {
            Some((suite, _)) if !selected.contains(suite) => selected.push(*suite),
            Some(_) => {}
            None => warnings.push(format!("tls-ciphersuites: {name} is not supported, skipped")),
        }
    }
    if selected.is_empty() {
        return Err(OfferError::NoTls13Suite);
    }
    Ok(selected)
}

/// Evaluates a cipher list: suite names in IANA or OpenSSL spelling, OpenSSL's group words, `+`
/// between words (both must apply), and the operators `!` (never), `-` (remove) and `+` (to the
/// end). See openssl-ciphers(1).
fn select_tls12(names: &[String], warnings: &mut Vec<String>) -> Vec<SupportedCipherSuite> {
    let mut selected: Vec<&Tls12Suite> = Vec::new();
    let mut banned: Vec<&Tls12Suite> = Vec::new();
    let is = |a: &Tls12Suite, b: &Tls12Suite| a.iana == b.iana;
    for name in names {
        let (operator, body) = match name.chars().next() {
            Some(operator @ ('!' | '-' | '+')) => (Some(operator), &name[1..]),
            _ => (None, name.as_str()),
        };
        if let Some(command) = body.strip_prefix('@') {
            if !command.eq_ignore_ascii_case("STRENGTH") {
                warnings
                    .push(format!("tls-cipher: @{command} has no effect; see tls-cert-profile"));
            }
            continue;
        }
        let matches: Vec<&Tls12Suite> = TLS12.iter().filter(|entry| entry.answers(body)).collect();
        match operator {
            None => {
                if matches.is_empty() {
                    warnings.push(format!("tls-cipher: {name} is not supported, skipped"));
                }
                for entry in matches {
                    if !selected.iter().chain(&banned).any(|other| is(other, entry)) {
                        selected.push(entry);
                    }
                }
            }
            Some('+') => {
                let (moved, kept): (Vec<_>, Vec<_>) = selected
                    .into_iter()
                    .partition(|entry| matches.iter().any(|other| is(other, entry)));
                selected = kept;
                selected.extend(moved);
            }
            Some(operator) => {
                selected.retain(|entry| !matches.iter().any(|other| is(other, entry)));
                if operator == '!' {
                    banned.extend(matches);
                }
            }
        }
    }
    selected.into_iter().map(|entry| entry.suite).collect()
}

impl Tls12Suite {
    fn answers(&self, expression: &str) -> bool {
        let name = normalise(expression);
        if name == self.iana || name == self.openssl {
            return true;
        }
        name.split('+').all(|word| TLS12_COMMON.contains(&word) || self.words.contains(&word))
    }
}

fn select_groups(
    names: &[String],
    warnings: &mut Vec<String>,
) -> Result<Vec<&'static dyn SupportedKxGroup>, OfferError> {
    let mut selected: Vec<&'static dyn SupportedKxGroup> = Vec::new();
    for name in names {
        // `?` (optional) and `*` (send a key share) of OpenSSL 3.5 do not change the choice.
        let plain = name.trim_start_matches(['?', '*']);
        let found = GROUPS
            .iter()
            .find(|(_, known)| known.iter().any(|known| known.eq_ignore_ascii_case(plain)));
        match found {
            Some((group, _)) if !selected.iter().any(|other| other.name() == group.name()) => {
                selected.push(*group);
            }
            Some(_) => {}
            None => warnings.push(format!("tls-groups: {name} is not supported, skipped")),
        }
    }
    if selected.is_empty() {
        return Err(OfferError::NoGroup);
    }
    Ok(selected)
}

fn tls13_names() -> String {
    TLS13.iter().map(|(_, iana)| iana.replace('-', "_")).collect::<Vec<_>>().join(", ")
}

fn group_names() -> String {
    GROUPS.iter().map(|(_, known)| known[0]).collect::<Vec<_>>().join(", ")
}

fn tls12_names() -> String {
    TLS12.iter().map(|entry| entry.iana).collect::<Vec<_>>().join(", ")
}

fn normalise(name: &str) -> String {
    name.to_ascii_uppercase().replace('_', "-")
}
