//! Whoever had this program run as root, and acting with no more than their rights.

use std::ffi::CString;
use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use caps::{CapSet, Capability};
use nix::unistd::{Gid, Uid, User, getgrouplist};

use crate::profile::{Opener, OwnRights};

/// A user who became root for this program: through sudo, run0, doas or pkexec.
///
/// Files that a profile names are opened with this user's rights, since the profile may have been
/// written by anybody: root's files must not get to a server by it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Caller {
    uid: Uid,
    gid: Gid,
    /// Supplementary groups; `gid` among them or not.
    groups: Vec<Gid>,
    name: Option<String>,
}

impl Caller {
    /// The caller, if this process is root's and another user's doing. Tells by what sudo and its
    /// kind leave in the environment, so whoever is root can also say otherwise (`env -u SUDO_UID`).
    ///
    /// # Errors
    ///
    /// The environment names a user who cannot be found.
    pub fn of_this_process() -> io::Result<Option<Self>> {
        if !Uid::effective().is_root() {
            return Ok(None);
        }
        Self::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(get: impl Fn(&str) -> Option<String>) -> io::Result<Option<Self>> {
        let unknown = |what: &str| io::Error::other(format!("{what} names an unknown user"));
        for variable in ["SUDO_UID", "PKEXEC_UID"] {
            let Some(text) = get(variable) else { continue };
            let uid = Uid::from_raw(text.parse().map_err(|_| unknown(variable))?);
            // A container may have users that its passwd does not know.
            let gid = get("SUDO_GID").and_then(|gid| gid.parse().ok()).map(Gid::from_raw);
            return match (User::from_uid(uid)?, gid) {
                (Some(user), _) => Self::from_user(user).map(Self::unless_root),
                (None, Some(gid)) => {
                    let groups = vec![gid];
                    Ok(Self { uid, gid, groups, name: None }.unless_root())
                }
                (None, None) => Err(unknown(variable)),
            };
        }
        let Some(name) = get("DOAS_USER") else { return Ok(None) };
        let user = User::from_name(&name)?.ok_or_else(|| unknown("DOAS_USER"))?;
        Self::from_user(user).map(Self::unless_root)
    }

    fn from_user(user: User) -> io::Result<Self> {
        let name = CString::new(user.name.as_str())?;
        let groups = getgrouplist(&name, user.gid)?;
        Ok(Self { uid: user.uid, gid: user.gid, groups, name: Some(user.name) })
    }

    fn unless_root(self) -> Option<Self> {
        (!self.uid.is_root()).then_some(self)
    }

    /// The user.
    pub fn uid(&self) -> Uid {
        self.uid
    }

    /// Does `work` on a thread that has given up all of root's rights for this user's, and waits
    /// for it. The rights of other threads, and those of the process, stay as they are.
    ///
    /// # Errors
    ///
    /// If the thread cannot be made, or cannot take the user's rights: `work` has not run then.
    pub fn act<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        self.act_keeping(&[], work)
    }

    fn act_keeping<T: Send>(
        &self,
        kept: &[Capability],
        work: impl FnOnce() -> T + Send,
    ) -> io::Result<T> {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().spawn_scoped(scope, || {
                self.become_this_user(kept)?;
                Ok(work())
            })?;
            thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
        })
    }

    /// For the calling thread alone, and for good.
    fn become_this_user(&self, kept: &[Capability]) -> io::Result<()> {
        if !kept.is_empty() {
            caps::securebits::set_keepcaps(true).map_err(io::Error::other)?;
        }
        let groups: Vec<_> = self.groups.iter().map(|gid| gid.as_raw()).collect();
        let (uid, gid) = (self.uid.as_raw(), self.gid.as_raw());
        // The C library's functions of these names change every thread; the calls themselves do not.
        // SAFETY: `groups` is a list of as many group numbers as it says, which is all the kernel
        // reads; the other two take numbers only.
        unsafe {
            check(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()))?;
            check(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
            check(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
        }
        // A process may have asked to keep them over that (securebits).
        for set in [CapSet::Ambient, CapSet::Inheritable] {
            caps::clear(None, set).map_err(io::Error::other)?;
        }
        let kept = kept.iter().copied().collect();
        for set in [CapSet::Effective, CapSet::Permitted] {
            caps::set(None, set, &kept).map_err(io::Error::other)?;
        }
        Ok(())
    }
}

/// Does `work` on a thread that has given up all of root's rights but those over the network
/// (`NET_ADMIN`) for those of the user to whom a file belongs, and waits for it.
///
/// # Errors
///
/// As [`Caller::act`].
pub fn act_for_owner<T: Send>(file: &Metadata, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let (uid, gid) = (Uid::from_raw(file.uid()), Gid::from_raw(file.gid()));
    let owner = Caller { uid, gid, groups: Vec::new(), name: None };
    owner.act_keeping(&[Capability::CAP_NET_ADMIN], work)
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => f.write_str(name),
            None => write!(f, "user {}", self.uid),
        }
    }
}

/// How to open the files of a profile: with the rights of whoever had this program run as root, or
/// else with its own.
///
/// # Errors
///
/// As [`Caller::of_this_process`].
pub fn files_of_caller(profile: &Path) -> io::Result<Arc<dyn Opener>> {
    let Some(caller) = Caller::of_this_process()? else { return Ok(Arc::new(FilesOfThisProcess)) };
    let whole = profile.canonicalize().ok().filter(|path| only_root_writes(path));
    let roots = whole.and_then(|path| path.parent().map(Path::to_owned));
    Ok(Arc::new(FilesOfCaller { caller, roots }))
}

/// Opens with this process's rights. Those of root are not to every file in a unit that takes them away,
/// which nobody expects who reads that root may not read something.
#[derive(Debug)]
struct FilesOfThisProcess;

impl Opener for FilesOfThisProcess {
    fn open(&self, path: &Path) -> io::Result<File> {
        let opened = OwnRights.open(path);
        let all = caps::has_cap(None, CapSet::Effective, Capability::CAP_DAC_OVERRIDE);
        match opened {
            Err(error)
                if error.kind() == ErrorKind::PermissionDenied
                    && Uid::effective().is_root()
                    && matches!(all, Ok(false)) =>
            {
                let reason = "this root may only read what is root's own: change the file's owner, and \
                              have it outside of /home, /root and /run/user if this is a unit \
                              (CapabilityBoundingSet=, ProtectHome=)";
                Err(io::Error::new(ErrorKind::PermissionDenied, reason))
            }
            opened => opened,
        }
    }
}

/// Opens with the caller's rights. The exception is a profile that nobody but root can have written:
/// what lies in its directory, and is root's as well, is opened with root's.
#[derive(Debug)]
struct FilesOfCaller {
    caller: Caller,
    /// The directory of root's own profile, without symbolic links.
    roots: Option<PathBuf>,
}

impl Opener for FilesOfCaller {
    fn open(&self, path: &Path) -> io::Result<File> {
        let opened = self.caller.act(|| File::open(path))?;
        if !matches!(&opened, Err(error) if error.kind() == ErrorKind::PermissionDenied) {
            return opened;
        }
        let whole = path.canonicalize()?;
        let beside = self.roots.as_ref().is_some_and(|roots| whole.starts_with(roots));
        if beside && only_root_writes(&whole) {
            return File::open(&whole);
        }
        let reason = format!("{}, who had root run this program, may not read it", self.caller);
        Err(io::Error::new(ErrorKind::PermissionDenied, reason))
    }
}

/// Whether root alone decides what is at `path`, which has no symbolic links: it and every directory
/// above are root's, and not writable by others.
fn only_root_writes(path: &Path) -> bool {
    path.ancestors().all(|path| {
        path.symlink_metadata().is_ok_and(|found| found.uid() == 0 && found.mode() & 0o022 == 0)
    })
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use caps::CapsHashSet;

    use super::*;

    fn caller(variables: &[(&str, &str)]) -> io::Result<Option<Caller>> {
        let get = |name: &str| {
            variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
        };
        Caller::from_variables(get)
    }

    #[test]
    fn callers_are_known_by_what_they_called() {
        let nobody = User::from_name("nobody").unwrap().unwrap();
        let uid = nobody.uid.to_string();
        let name = |variables: &[(&str, &str)]| caller(variables).unwrap().unwrap().to_string();
        assert_eq!(name(&[("SUDO_UID", &uid), ("SUDO_GID", "7")]), "nobody");
        assert_eq!(name(&[("PKEXEC_UID", &uid)]), "nobody");
        assert_eq!(name(&[("DOAS_USER", "nobody")]), "nobody");
        assert_eq!(name(&[("SUDO_UID", "3141592"), ("SUDO_GID", "7")]), "user 3141592");
        assert_eq!(caller(&[("SUDO_UID", "0"), ("SUDO_GID", "0")]).unwrap(), None);
        assert_eq!(caller(&[]).unwrap(), None);
        for unknown in [("SUDO_UID", "3141592"), ("SUDO_UID", "joe"), ("DOAS_USER", "no such user")]
        {
            assert!(caller(&[unknown]).is_err(), "{unknown:?}");
        }
    }

    #[test]
    fn one_thread_acts_for_the_caller_and_the_others_stay_root() {
        if !Uid::effective().is_root() {
            return;
        }
        let caller = caller(&[("SUDO_UID", "3141592"), ("SUDO_GID", "65")]).unwrap().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let (root, group) = (directory.path().join("root"), directory.path().join("group"));
        for (path, gid) in [(&root, 0), (&group, 65)] {
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::write(path, "x").unwrap();
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o040)).unwrap();
            std::os::unix::fs::chown(path, Some(0), Some(gid)).unwrap();
        }
        std::fs::set_permissions(
            directory.path(),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )
        .unwrap();
        let read = |path: &Path| caller.act(|| std::fs::read(path)).unwrap();
        // Root's group is not kept either.
        assert_eq!(read(&root).unwrap_err().kind(), ErrorKind::PermissionDenied);
        assert_eq!(read(&group).unwrap(), b"x");
        let capable = || caps::read(None, CapSet::Permitted).unwrap();
        assert_eq!(caller.act(capable).unwrap(), CapsHashSet::new());
        let owner = std::fs::metadata(&group).unwrap();
        let for_owner = act_for_owner(&owner, || (Uid::effective().as_raw(), capable()));
        // Root's, this one.
        assert_eq!(for_owner.unwrap(), (0, [Capability::CAP_NET_ADMIN].into()));
        std::os::unix::fs::chown(&group, Some(3_141_592), None).unwrap();
        let owner = std::fs::metadata(&group).unwrap();
        let for_owner = act_for_owner(&owner, || (Uid::effective().as_raw(), capable()));
        assert_eq!(for_owner.unwrap(), (3_141_592, [Capability::CAP_NET_ADMIN].into()));
        assert!(Uid::effective().is_root());
        assert_eq!(std::fs::read(&root).unwrap(), b"x");
    }
}
