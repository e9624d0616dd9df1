//! Named network namespaces, as `ip netns` makes them.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};
use serde::{Deserialize, Serialize};

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
    File::open(&path).and_then(enter).map_err(|source| NetworkError::Namespace {
        name: name.to_owned(),
        path,
        source,
    })
}

/// Identity of a network namespace: its file in nsfs. The kernel gives the number of one that has
/// gone to another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(super) struct NamespaceId {
    pub(super) device: u64,
    pub(super) inode: u64,
}

impl NamespaceId {
    /// The calling thread's.
    pub(super) fn current() -> io::Result<Self> {
        Ok(Self::of(&fs::metadata("/proc/thread-self/ns/net")?))
    }

    fn of(metadata: &fs::Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }

    /// Opens it, if it still exists: by a name under which it is mounted anywhere (as `ip netns` and
    /// container engines do), or by a process in it. Takes root to see them all.
    pub(super) fn find(self) -> Option<File> {
        // Fields: id, parent, device, root, mount point, ...; see proc_pid_mountinfo(5).
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
        let mounted = mounts.lines().filter_map(|line| {
            let mut fields = line.split(' ').skip(3);
            let root = fields.next()?;
            root.starts_with("net:[").then(|| fields.next().map(PathBuf::from))?
        });
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let of_processes = processes.map(|entry| entry.path().join("ns/net"));
        mounted.chain(of_processes).find_map(|path| {
            let file = File::open(path).ok()?;
            (Self::of(&file.metadata().ok()?) == self).then_some(file)
        })
    }
}

/// Moves the calling thread into a network namespace.
pub(super) fn enter(namespace: File) -> io::Result<()> {
    setns(namespace, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
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
    let own = NamespaceId::current().ok()?;
    fs::read_dir("/run/netns").ok()?.flatten().find_map(|entry| {
        // `DirEntry::metadata` would be that of the mount point below.
        let metadata = fs::metadata(entry.path()).ok()?;
        (NamespaceId::of(&metadata) == own).then(|| entry.file_name())
    })
}
