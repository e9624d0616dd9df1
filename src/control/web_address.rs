//! The address of a page that the user is asked to open.

use std::fmt;
use std::str::FromStr;

/// Longest address. Those of single sign-on are long, and no browser takes much more.
const MAX_LEN: usize = 8192;

/// An absolute address of the web, fit to be printed and to be given to a program that opens it.
///
/// `http` or `https`, a host without a user name in front (which could pass for the host), printable
/// ASCII without what RFC 3986 (2) leaves out and shells or terminals take for their own: everything
/// else is to be percent-encoded, host names in Punycode.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WebAddress(String);

/// A text that is no [`WebAddress`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not an address of the web (http or https)")]
pub struct NoWebAddress;

impl WebAddress {
    /// The address.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for WebAddress {
    type Err = NoWebAddress;

    fn from_str(text: &str) -> Result<Self, NoWebAddress> {
        let (scheme, rest) = text.split_once("://").ok_or(NoWebAddress)?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let authority = rest.get(..end).ok_or(NoWebAddress)?;
        let web = ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
        let plain = |b: u8| b.is_ascii_graphic() && !b"\"<>\\`".contains(&b);
        if web && text.len() <= MAX_LEN && text.bytes().all(plain) && is_authority(authority) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NoWebAddress)
        }
    }
}

/// `HOST` or `HOST:PORT`.
fn is_authority(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(Some((host, rest))) if host.parse::<std::net::Ipv6Addr>().is_ok() => match rest {
            "" => ("v6", None),
            rest => ("v6", rest.strip_prefix(':').or(Some(""))),
        },
        Some(_) => return false,
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let in_host = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    !host.is_empty()
        && !host.starts_with('-')
        && host.bytes().all(in_host)
        && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

impl fmt::Display for WebAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_web() {
        for good in [
            "https://a",
            "HTTPS://sso.example:8443/?b",
            "http://192.0.2.1/x#y",
            "https://[2001:db8::1]:443/",
            "https://sso.example/auth?state=a%20b&x='(1)'~;,@{}|^$",
        ] {
            assert_eq!(good.parse::<WebAddress>().unwrap().as_str(), good);
        }
    }

    #[test]
    fn everything_else() {
        for bad in [
            "",
            "--version",
            "--version; file:///root/x.desktop",
            "file:///root/x.desktop",
            "javascript:alert(1)",
            "smb://attacker.example/share",
            "x-scheme://a",
            " https://a",
            "-https://a",
            "https:a",
            "https:///a",
            "https://a b",
            "https://a/\u{202e}b",
            "https://a/\nb",
            "https://a/`id`",
            "https://a/\"",
            "https://bank.example@attacker.example/",
            "https://a:b@c/",
            "https://a:0/",
            "https://a:99999/",
            "https://a:/",
            "https://[::1/",
            "https://[x]/",
            "https://[::1]x/",
            "https://-a/",
            "https://bücher.example/",
        ] {
            assert!(bad.parse::<WebAddress>().is_err(), "{bad:?}");
        }
        assert!(format!("https://a/{}", "x".repeat(MAX_LEN)).parse::<WebAddress>().is_err());
    }
}
