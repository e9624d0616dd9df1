//! What a tunnel is called on this host.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// Longest name, in bytes: with its ending it is the name of a file.
const LONGEST: usize = 64;

/// 1 to 64 of the ASCII letters and digits, `-`, `_`, `.` and `@`, and none of the marks in front.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(in crate::cli) struct TunnelName(String);

/// It is no name.
#[derive(Debug, thiserror::Error)]
#[error(
    "a tunnel's name has 1 to {LONGEST} of the letters a to z, digits, '-', '_', '.' and '@', and \
     begins with a letter or a digit"
)]
pub(in crate::cli) struct NotAName;

impl TunnelName {
    /// The name of its file without the ending, as far as that can be one.
    pub(in crate::cli) fn of_profile(path: &Path) -> Self {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let plain = |c: char| if is_plain(c) { c } else { '_' };
        let name: String = stem.chars().map(plain).take(LONGEST).collect();
        let name = name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
        name.parse().unwrap_or_else(|_| Self("tunnel".to_owned()))
    }

    pub(in crate::cli) fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@')
}

impl FromStr for TunnelName {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        let is_name = begins && text.len() <= LONGEST && text.chars().all(is_plain);
        if is_name { Ok(Self(text.to_owned())) } else { Err(NotAName) }
    }
}

impl fmt::Display for TunnelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_has_a_name_whatever_its_file_is_called() {
        let name = |path: &str| TunnelName::of_profile(Path::new(path)).0;
        assert_eq!(name("/etc/ovpn-client/site-1.example.ovpn"), "site-1.example");
        assert_eq!(name("../my vpn (é).ovpn"), "my_vpn____");
        assert_eq!(name(".ovpn"), "ovpn");
        assert_eq!(name("---"), "tunnel");
        assert_eq!(name("/dev/fd/3"), "3");
        assert_eq!(name(&"x".repeat(200)).len(), LONGEST);
    }

    #[test]
    fn no_name_leads_out_of_the_directory() {
        for name in ["", ".", "..", "../x", "a/b", "-x", ".x", "a b", "a\n", "é", &"x".repeat(65)]
        {
            assert!(name.parse::<TunnelName>().is_err(), "{name:?}");
        }
    }
}
