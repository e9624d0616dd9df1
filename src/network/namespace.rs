//! Named network namespaces, as `ip netns` makes them.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sched::{CloneFlags, setns};

use super::error::NetworkError;

/// Moves the calling thread into the network namespace `/run/netns/NAME`. Threads started later
/// inherit it: call it before the runtime starts.
///
/// # Errors
/// When there is no such namespace, the file is something else, or CAP_SYS_ADMIN is missing.
pub fn enter_netns(name: &str) -> Result<(), NetworkError> {
    if name.is_empty() || name.contains('/') || name == "." || name == ".." {
        return Err(NetworkError::NamespaceName(name.to_owned()));
    }
    let path = Path::new("/run/netns").join(name);
    File::open(&path)
        .and_then(|file| setns(file, CloneFlags::CLONE_NEWNET).map_err(io::Error::from))
        .map_err(|source| NetworkError::Namespace { name: name.to_owned(), path, source })
}

/// Whether a process is in the network namespace of the calling thread. `None`: no such process,
/// or hidden.
///
/// Compares files that procfs has once per network namespace, because looking at `/proc/PID/ns`
/// itself takes privileges over the process.
pub(super) fn shares_netns(pid: u32) -> Option<bool> {
    let own = fs::metadata("/proc/thread-self/net/dev").ok()?;
    let other = fs::metadata(format!("/proc/{pid}/net/dev")).ok()?;
    Some((own.dev(), own.ino()) == (other.dev(), other.ino()))
}

/// The name of the calling thread's network namespace under `/run/netns`.
pub(super) fn netns_name() -> Option<std::ffi::OsString> {
    let own = fs::metadata("/proc/thread-self/ns/net").ok()?;
    fs::read_dir("/run/netns").ok()?.flatten().find_map(|entry| {
        // `DirEntry::metadata` would be that of the mount point below.
        let metadata = fs::metadata(entry.path()).ok()?;
        (metadata.dev() == own.dev() && metadata.ino() == own.ino()).then(|| entry.file_name())
    })
}
