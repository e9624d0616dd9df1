//! What `push-peer-info` tells the server about this host.

use std::fs;

use aws_lc_rs::digest;

/// The operating system, from `/etc/os-release` (os-release(5)): the CPE name where there is one.
pub(super) fn platform_version() -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    os_name(&text)
}

/// `IV_HWADDR`: not a hardware address but an identifier made of the machine id, as OpenVPN 3
/// Linux makes it: it tells hosts apart and says nothing about them. Lower-case hex.
pub(super) fn machine_identifier() -> Option<String> {
    let id = fs::read_to_string("/etc/machine-id").ok()?;
    let id = id.trim();
    (!id.is_empty()).then(|| identifier(id))
}

fn identifier(machine_id: &str) -> String {
    let text = format!("OpenVPN 3{machine_id}Linux");
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn os_name(os_release: &str) -> Option<String> {
    let value = |key: &str| {
        os_release.lines().find_map(|line| {
            let value = line.strip_prefix(key)?.strip_prefix('=')?;
            Some(value.trim_matches(['"', '\'']).to_owned())
        })
    };
    value("CPE_NAME").or_else(|| value("PRETTY_NAME")).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_systems() {
        let debian = "PRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\nID=debian\n";
        assert_eq!(os_name(debian).as_deref(), Some("Debian GNU/Linux 13 (trixie)"));
        let fedora = "PRETTY_NAME=\"Fedora\"\nCPE_NAME='cpe:/o:fedoraproject:fedora:44'\n";
        assert_eq!(os_name(fedora).as_deref(), Some("cpe:/o:fedoraproject:fedora:44"));
        assert_eq!(os_name("ID=x\n"), None);
    }

    /// `printf 'OpenVPN 3%sLinux' 0123456789abcdef0123456789abcdef | sha256sum`
    #[test]
    fn identifier_is_a_hash() {
        assert_eq!(
            identifier("0123456789abcdef0123456789abcdef"),
            "ea8e1d91a828af98191e7402f1dff3c50ff36ba746f2a208dca68665940b013e"
        );
    }
}
