//! The directories in which it is noted what is to be undone, and with whose rights that is done.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use crate::dbus;
use crate::network::NetworkError;
use crate::privileges::act_for_owner;

/// Where `connect` notes it, unless told otherwise.
pub(super) const RUNTIME_DIR: &str = "/run/ovpn-client";

/// Everywhere that it is noted, unless `connect` or the backend is told otherwise.
pub(super) fn usual() -> Vec<PathBuf> {
    [RUNTIME_DIR].into_iter().chain(dbus::RUNTIME_DIRS).map(PathBuf::from).collect()
}

/// Does `work` with a directory. The backend runs as a user of its own, who alone can have written
/// what its directory holds: so it is done with that user's rights, and those over the network.
/// `None`: the backend has none there.
///
/// # Errors
/// Those of `work`, in words, or that the directory is the backend's and this process not root's.
pub(super) fn with<T: Send>(
    directory: &Path,
    work: impl FnOnce(&Path) -> Result<T, NetworkError> + Send,
) -> Result<Option<T>, String> {
    let in_words = |error: NetworkError| error.to_string();
    let named = |error: &dyn ToString| format!("{}: {}", directory.display(), error.to_string());
    if !dbus::RUNTIME_DIRS.iter().any(|one| Path::new(one) == directory) {
        return work(directory).map(Some).map_err(in_words);
    }
    let found = match fs::symlink_metadata(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        found => found.map_err(|error| named(&error))?,
    };
    let this_user = geteuid();
    let done = if !found.is_dir() || found.uid() == 0 || found.uid() == this_user.as_raw() {
        work(directory)
    } else if this_user.is_root() {
        act_for_owner(&found, || work(directory)).map_err(|error| named(&error))?
    } else {
        return Err(named(&"it is the backend's: run this as root"));
    };
    done.map(Some).map_err(in_words)
}
