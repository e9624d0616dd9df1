//! Names of the domain name system, as options hold them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::limits::{MAX_DOMAIN, MAX_LABEL};
use crate::text::is_visible;

/// A domain name that may be handed on: programs, some of them shell scripts, write it to files and
/// evaluate it (CVE-2025-10680).
///
/// Letters, digits, `-` and `_` between single dots, no `-` in front; beyond ASCII whatever can be
/// seen (IDNA). In lower case, without dots around it; a lone `.` is the root, every name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DomainName(String);

/// A text that is no [`DomainName`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("'{0}' is not a domain name (letters, digits, '-' and '_' between dots)")]
pub struct InvalidDomain(String);

impl DomainName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DomainName {
    type Err = InvalidDomain;

    fn from_str(text: &str) -> Result<Self, InvalidDomain> {
        let name = text.trim_matches('.');
        let label = |label: &str| {
            (1..=MAX_LABEL).contains(&label.len())
                && label.chars().all(|c| match c {
                    '-' | '_' => true,
                    c if c.is_ascii() => c.is_ascii_alphanumeric(),
                    c => is_visible(c),
                })
        };
        if name.is_empty() && !text.is_empty() {
            return Ok(Self(".".to_owned()));
        }
        if name.len() <= MAX_DOMAIN && !name.starts_with('-') && name.split('.').all(label) {
            return Ok(Self(name.to_ascii_lowercase()));
        }
        Err(InvalidDomain(text.to_owned()))
    }
}

impl TryFrom<String> for DomainName {
    type Error = InvalidDomain;

    fn try_from(text: String) -> Result<Self, InvalidDomain> {
        text.parse()
    }
}

impl From<DomainName> for String {
    fn from(name: DomainName) -> Self {
        name.0
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl PartialEq<&str> for DomainName {
    fn eq(&self, other: &&str) -> bool {
        self.0 == *other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (text, name) in [
            ("corp.example", "corp.example"),
            ("Corp.Example.", "corp.example"),
            (".corp.example", "corp.example"),
            ("_tcp.corp", "_tcp.corp"),
            ("a-b.1", "a-b.1"),
            ("bücher.example", "bücher.example"),
            ("उदाहरण.परीक्षा", "उदाहरण.परीक्षा"),
            (".", "."),
        ] {
            assert_eq!(text.parse::<DomainName>().unwrap(), name);
        }
    }

    #[test]
    fn what_is_no_name() {
        let long = "a".repeat(64);
        for bad in [
            "",
            "$(id>/run/pwned)",
            "`id`",
            "a;b",
            "a b",
            "a\nb",
            "a'b",
            "a\"b",
            "a\\b",
            "-a",
            "a..b",
            "*.a",
            "~a",
            "a/b",
            "a:b",
            "a\u{a0}b",
            "a\u{202e}b",
            "a\u{200b}b",
            "a\u{fffd}",
            "a\u{85}",
            &long,
        ] {
            assert!(bad.parse::<DomainName>().is_err(), "{bad:?}");
        }
        assert!(["a"; 127].join(".").parse::<DomainName>().is_ok());
        assert!(["a"; 128].join(".").parse::<DomainName>().is_err());
    }
}
