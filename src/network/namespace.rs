//! Named network namespaces, as `ip netns` makes them.

use std::fs::File;
use std::io;
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
