//! From root to a user without any rights but those over the network.

use caps::{CapSet, Capability};
use nix::unistd::{Gid, Uid, User, setgroups, setresgid, setresuid};

use super::{Calls, PrivilegeError, forbid_dumps, keep, system_calls};

/// Whoever installs this program may make a user for it. The other user is there on every system, and
/// owns nothing; not `openvpn`, who may talk to the services of OpenVPN 3 Linux.
const USERS: [&str; 2] = ["ovpn-client", "nobody"];

/// What a connection may need besides `NET_ADMIN`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Needs {
    /// `bind-dev`, on kernels before 5.7 (`NET_RAW`).
    pub device: bool,
    /// `lport` below 1024 (`NET_BIND_SERVICE`).
    pub low_port: bool,
}

/// As [`super::restrict`] for a process that runs no programs; and root's process is not root's any
/// more: it belongs to a user without files or groups, and keeps only the capabilities it needs. For
/// the whole process; call it before other threads exist, and after everything that takes root.
///
/// # Errors
///
/// What could not be given up; the rest was, and the process can go on.
pub fn become_unprivileged(needs: Needs) -> Result<(), PrivilegeError> {
    let mut kept = vec![Capability::CAP_NET_ADMIN];
    kept.extend(needs.device.then_some(Capability::CAP_NET_RAW));
    kept.extend(needs.low_port.then_some(Capability::CAP_NET_BIND_SERVICE));
    let changed = if Uid::effective().is_root() { change_user() } else { Ok(()) };
    keep(&kept)?;
    // The kernel takes it back when the user changes.
    forbid_dumps()?;
    system_calls::close(Calls::Own)?;
    changed
}

/// Keeps what is permitted; what is effective goes, and can be taken again.
fn change_user() -> Result<(), PrivilegeError> {
    let found = USERS.iter().find_map(|name| User::from_name(name).ok().flatten());
    // As every kernel has it for who is nobody else (`/proc/sys/kernel/overflowuid`).
    let (name, uid, gid) = found.map_or_else(
        || ("65534".to_owned(), Uid::from_raw(65_534), Gid::from_raw(65_534)),
        |user| (user.name, user.uid, user.gid),
    );
    caps::securebits::set_keepcaps(true)?;
    let change = || {
        setgroups(&[])?;
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)
    };
    let changed = change().map_err(|source| PrivilegeError::User { user: name, source });
    caps::securebits::set_keepcaps(false)?;
    let permitted = caps::read(None, CapSet::Permitted)?;
    caps::set(None, CapSet::Effective, &permitted)?;
    changed
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork, getgroups};

    use super::*;

    /// In a process of its own: users are the same for all threads.
    #[test]
    fn root_becomes_somebody_without_rights_who_runs_nothing() {
        // SAFETY: the child has one thread, and ends without coming back.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let checked = std::panic::catch_unwind(check);
                // SAFETY: ends the process.
                unsafe { libc::_exit(checked.is_err().into()) };
            }
            ForkResult::Parent { child } => {
                assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
            }
        }
    }

    fn check() {
        assert!(Uid::effective().is_root(), "this test takes root");
        become_unprivileged(Needs { low_port: true, ..Needs::default() }).unwrap();
        assert!(!Uid::current().is_root() && Gid::current().as_raw() != 0);
        assert_eq!(getgroups().unwrap(), []);
        let kept = [Capability::CAP_NET_ADMIN, Capability::CAP_NET_BIND_SERVICE].into();
        assert_eq!(caps::read(None, CapSet::Effective).unwrap(), kept);
        assert!(std::fs::File::open("/etc/shadow").is_err());
        let error = Command::new("/bin/true").status().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSYS));
        assert_eq!(setresuid(0.into(), 0.into(), 0.into()), Err(nix::Error::ENOSYS));
        std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    }
}
