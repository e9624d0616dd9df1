//! What the process may do, and giving up what it does not need.

mod caller;
mod memory;
mod system_calls;
mod unprivileged;

use caps::{CapSet, Capability, CapsHashSet};

pub use caller::{Caller, act_for_owner, files_of_caller};
pub use memory::{WipingAllocator, forbid_dumps};
pub use system_calls::Calls;
pub use unprivileged::{Needs, become_unprivileged};

/// All that a tunnel needs: devices, addresses, routes, marks (`NET_ADMIN`), `bind-dev` on old
/// kernels (`NET_RAW`), and `lport` below 1024 (`NET_BIND_SERVICE`).
const KEPT: [Capability; 3] =
    [Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW, Capability::CAP_NET_BIND_SERVICE];

/// True if this process may make devices, addresses and routes itself.
pub fn can_configure_network() -> bool {
    caps::has_cap(None, CapSet::Effective, Capability::CAP_NET_ADMIN).unwrap_or(false)
}

/// Why privileges could not be given up.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// Capabilities.
    #[error("capabilities cannot be dropped: {0}")]
    Capabilities(#[from] caps::errors::CapsError),
    /// `PR_SET_NO_NEW_PRIVS`
    #[error("no-new-privileges cannot be set: {0}")]
    NoNewPrivileges(#[from] nix::Error),
    /// Core dumps.
    #[error("core dumps cannot be forbidden: {0}")]
    Dumps(#[source] nix::Error),
    /// The user that root's rights are given up for.
    #[error("this process stays root's, it cannot become user {user}: {source}")]
    User {
        /// Its name.
        user: String,
        /// Why not.
        source: nix::Error,
    },
    /// The system call filter.
    #[error("the system call filter cannot be set: {0}")]
    Filter(String),
}

/// Keeps the capabilities a tunnel needs, forbids to gain any, and closes all system calls but these.
/// For the calling thread and those it starts: call it before others exist.
///
/// # Errors
///
/// Nothing after a failed step has been done; the process can go on.
pub fn restrict(calls: Calls) -> Result<(), PrivilegeError> {
    keep(&KEPT)?;
    forbid_dumps()?;
    system_calls::close(calls)
}

/// Keeps these capabilities, as far as they are there, and never gets others.
fn keep(capabilities: &[Capability]) -> Result<(), PrivilegeError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    let kept: CapsHashSet =
        capabilities.iter().copied().filter(|cap| permitted.contains(cap)).collect();
    if permitted.contains(&Capability::CAP_SETPCAP) {
        for cap in caps::read(None, CapSet::Bounding)?.difference(&kept) {
            caps::drop(None, CapSet::Bounding, *cap)?;
        }
    }
    caps::clear(None, CapSet::Ambient)?;
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restricted_thread_keeps_the_network_and_loses_the_rest() {
        // Capabilities, no-new-privileges and filters are per thread: try it on one of its own.
        std::thread::spawn(|| {
            let before = caps::read(None, CapSet::Permitted).unwrap();
            restrict(Calls::Programs).unwrap();
            let after = caps::read(None, CapSet::Permitted).unwrap();
            assert!(after.is_subset(&before));
            assert!(after.iter().all(|cap| KEPT.contains(cap)), "{after:?}");
            assert_eq!(
                can_configure_network(),
                before.contains(&Capability::CAP_NET_ADMIN),
                "{after:?}"
            );
            assert!(nix::sys::prctl::get_no_new_privs().unwrap());
            let refused = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET);
            assert_eq!(refused, Err(nix::Error::ENOSYS));
            // What a session does still works.
            std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            std::thread::spawn(|| ()).join().unwrap();
            assert!(std::process::Command::new("/bin/true").status().unwrap().success());
        })
        .join()
        .unwrap();
    }
}
