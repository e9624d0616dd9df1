//! Values of options: numbers with limits, durations, addresses, netmasks.

use std::fmt::Display;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::time::Duration;

use super::verdict::Problem;
use crate::text::is_visible;

/// Longest ping and similar interval (OpenVPN 2): one day, in seconds.
pub(super) const MAX_INTERVAL: u64 = 86_400;
/// Longest of all other durations: a week, in seconds (OpenVPN 3).
pub(super) const MAX_DURATION: u64 = 604_800;

/// A decimal number within limits.
pub(super) fn number<T>(text: &str, min: T, max: T) -> Result<T, Problem>
where
    T: FromStr + PartialOrd + Display + Copy,
{
    match text.parse::<T>() {
        Ok(n) if n >= min && n <= max => Ok(n),
        _ => Err(Problem::new(format!("'{text}' is not a number from {min} to {max}"))),
    }
}

/// Whole seconds, at most `max`.
pub(super) fn seconds(text: &str, max: u64) -> Result<Duration, Problem> {
    number(text, 0, max).map(Duration::from_secs)
}

/// Whole seconds where 0 means "never", and so does more than fits.
pub(super) fn seconds_or_never(text: &str) -> Result<Option<Duration>, Problem> {
    let n = number(text, 0, u64::from(u32::MAX))?;
    Ok((n > 0).then(|| Duration::from_secs(n)))
}

/// A port, 1..=65535, or the name (IANA) of a service that an OpenVPN server is found at.
pub(super) fn port(text: &str) -> Result<u16, Problem> {
    const NAMES: [(&str, u16); 4] =
        [("openvpn", 1194), ("https", 443), ("domain", 53), ("http", 80)];
    if let Some((_, port)) = NAMES.iter().find(|(name, _)| *name == text) {
        return Ok(*port);
    }
    number(text, 1, u16::MAX).map_err(|_| {
        let reason = format!("'{text}' is not a port (1-65535)");
        match text.bytes().all(|b| b.is_ascii_digit()) {
            true => Problem::new(reason),
            false => Problem::with_hint(reason, "write the service's number"),
        }
    })
}

/// An IPv4 address.
pub(super) fn ipv4(text: &str) -> Result<Ipv4Addr, Problem> {
    text.parse().map_err(|_| Problem::new(format!("'{text}' is not an IPv4 address")))
}

/// An IPv6 address.
pub(super) fn ipv6(text: &str) -> Result<Ipv6Addr, Problem> {
    text.parse().map_err(|_| Problem::new(format!("'{text}' is not an IPv6 address")))
}

/// `ADDRESS/BITS`; without `/BITS` all 128.
pub(super) fn ipv6_prefix(text: &str) -> Result<(Ipv6Addr, u8), Problem> {
    match text.split_once('/') {
        Some((address, bits)) => Ok((ipv6(address)?, number(bits, 0, 128)?)),
        None => Ok((ipv6(text)?, 128)),
    }
}

/// The prefix length of a contiguous netmask.
pub(super) fn prefix_of(mask: Ipv4Addr) -> Option<u8> {
    let bits = mask.to_bits();
    let ones = bits.leading_ones();
    (bits.checked_shl(ones).unwrap_or(0) == 0).then_some(ones as u8)
}

/// A host name or address as it may stand in a profile: printable ASCII without blanks, or a name
/// in another script, as far as it can be seen.
pub(super) fn host(text: &str) -> Result<String, Problem> {
    let text = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    let fine = !text.is_empty()
        && text.len() <= 256
        && !text.chars().any(|c| c == ' ' || !is_visible(c) || matches!(c, '/' | ','));
    if fine { Ok(text.to_owned()) } else { Err(Problem::new("not a host name or address")) }
}

/// Words of a closed list for error messages: `a`, `b` or `c`.
pub(super) fn one_of(text: &str, allowed: &str) -> Problem {
    Problem::new(format!("'{text}' is not one of {allowed}"))
}

/// What is wrong with PEM text, without quoting it: a damaged block of a private key has parts of the
/// key where a label should be.
pub(crate) fn pem_damage(error: &pem::PemError) -> &'static str {
    use pem::PemError;
    match error {
        PemError::MismatchedTags(..) => "a BEGIN and its END line have different labels",
        PemError::MalformedFraming => "a BEGIN or END line is cut off",
        PemError::MissingBeginTag => "a BEGIN line has no label",
        PemError::MissingEndTag => "a BEGIN line has no END line",
        PemError::MissingData => "a block is empty",
        PemError::InvalidData(_) => "a block is not base64",
        PemError::InvalidHeader(_) => "a block has a header without a value",
        PemError::NotUtf8(_) => "a block is not text",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_limits() {
        assert_eq!(number("7", 1, 9).unwrap(), 7);
        assert!(number("10", 1, 9).is_err());
        assert!(number("-1", 0u8, 9).is_err());
        assert!(number("", 0u8, 9).is_err());
        assert_eq!(seconds_or_never("0").unwrap(), None);
    }

    #[test]
    fn netmasks() {
        assert_eq!(prefix_of(Ipv4Addr::new(255, 255, 255, 0)), Some(24));
        assert_eq!(prefix_of(Ipv4Addr::new(0, 0, 0, 0)), Some(0));
        assert_eq!(prefix_of(Ipv4Addr::new(255, 255, 255, 255)), Some(32));
        assert_eq!(prefix_of(Ipv4Addr::new(255, 0, 255, 0)), None);
    }

    #[test]
    fn hosts() {
        assert_eq!(host("[2001:db8::1]").unwrap(), "2001:db8::1");
        assert!(host("").is_err());
        assert!(host("bücher.example").is_ok());
        for bad in ["a b", "a\u{a0}b", "a\u{202e}b", "a\u{200b}b", "a\nb"] {
            assert!(host(bad).is_err(), "{bad:?}");
        }
    }
}
