//! What the kernel needs to load a module by itself: why one that is installed is not loaded.

use std::fs;
use std::path::Path;

use serde::Serialize;

/// Where `modprobe` reads what it is not to do (modprobe.d(5)).
const CONFIGURATION: [&str; 5] = [
    "/etc/modprobe.d",
    "/run/modprobe.d",
    "/usr/local/lib/modprobe.d",
    "/usr/lib/modprobe.d",
    "/lib/modprobe.d",
];

/// How modules are loaded here.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Loading {
    /// Program that loads modules on demand; empty if that is switched off.
    module_loader: String,
    /// No module can be loaded until the next start.
    modules_locked: bool,
    /// Only modules with a signature that the kernel trusts are loaded.
    modules_signed: bool,
    /// The administrator does not want one of the two to be loaded on demand.
    module_blacklisted: bool,
}

impl Loading {
    pub(super) fn of_this_machine() -> Self {
        let read = |path| super::read(path);
        Self {
            module_loader: read("/proc/sys/kernel/modprobe"),
            modules_locked: read("/proc/sys/kernel/modules_disabled") == "1",
            modules_signed: read("/sys/module/module/parameters/sig_enforce") == "Y"
                || is_locked_down(&read("/sys/kernel/security/lockdown")),
            module_blacklisted: CONFIGURATION
                .iter()
                .any(|directory| blacklists(directory.as_ref())),
        }
    }

    pub(super) fn describe(&self) -> &str {
        match (self.modules_locked, self.modules_signed, self.module_loader.as_str()) {
            (true, ..) => "locked (kernel.modules_disabled)",
            (false, _, "") => "none (kernel.modprobe is empty)",
            (false, true, _) => "takes signed modules only (Secure Boot, or module.sig_enforce)",
            (false, false, loader) => loader,
        }
    }

    /// What helps where a module is installed and was not loaded.
    pub(super) fn advice(&self) -> &'static str {
        if self.modules_locked {
            "have the module loaded before kernel.modules_disabled is set (its name in a file in \
             /etc/modules-load.d), and restart the machine"
        } else if self.module_blacklisted {
            "take the module's name (ovpn, ovpn-dco-v2) out of the blacklist in /etc/modprobe.d"
        } else if self.modules_signed {
            "this kernel takes only modules with a signature that it trusts: for one built by DKMS \
             enrol its key (mokutil --import /var/lib/dkms/mok.pub, and restart), or switch Secure \
             Boot off; modprobe ovpn, or ovpn-dco-v2, says whether that is it"
        } else {
            "load the module (modprobe ovpn, or ovpn-dco-v2) and see what the kernel log says"
        }
    }
}

/// Of `none [integrity] confidentiality`: either of the latter two wants signatures.
fn is_locked_down(levels: &str) -> bool {
    levels.contains("[integrity]") || levels.contains("[confidentiality]")
}

fn blacklists(directory: &Path) -> bool {
    let files = fs::read_dir(directory).into_iter().flatten().flatten();
    files
        .map(|file| file.path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "conf"))
        .any(|path| super::read_file(&path.to_string_lossy()).lines().any(is_blacklist_of_ours))
}

fn is_blacklist_of_ours(line: &str) -> bool {
    let mut words = line.split_whitespace();
    words.next() == Some("blacklist")
        && words
            .next()
            .is_some_and(|name| matches!(&*name.replace('-', "_"), "ovpn" | "ovpn_dco_v2"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_remedy() {
        let free = Loading { module_loader: "/sbin/modprobe".to_owned(), ..Loading::default() };
        assert_eq!(free.describe(), "/sbin/modprobe");
        assert!(free.advice().contains("kernel log"));
        let signed = Loading { modules_signed: true, ..free.clone() };
        assert!(signed.describe().contains("signed") && signed.advice().contains("mokutil"));
        let unwanted = Loading { module_blacklisted: true, ..signed.clone() };
        assert!(unwanted.advice().contains("blacklist"));
        let locked = Loading { modules_locked: true, ..unwanted };
        assert!(locked.describe().contains("modules_disabled"));
        assert!(locked.advice().contains("modules-load.d"));
        assert!(Loading::default().describe().contains("kernel.modprobe"));
    }

    #[test]
    fn signatures_are_wanted_with_lockdown() {
        assert!(!is_locked_down("[none] integrity confidentiality"));
        assert!(is_locked_down("none [integrity] confidentiality"));
        assert!(is_locked_down("none integrity [confidentiality]"));
        assert!(!is_locked_down(""));
    }

    #[test]
    fn blacklists_are_found() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        write("a.conf", "# blacklist ovpn\nblacklist ovpn_other\noptions ovpn x=1\n");
        write("b.bak", "blacklist ovpn\n");
        assert!(!blacklists(directory.path()));
        write("c.conf", "  blacklist  ovpn-dco-v2 # not now\n");
        assert!(blacklists(directory.path()));
        assert!(!blacklists(Path::new("/nowhere")));
    }
}
