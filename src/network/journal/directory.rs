//! A directory that nobody else can put anything into: what is found in it is acted on with root's
//! rights.
//!
//! Every directory from `/` on is looked at through its descriptor, so that nothing can be exchanged
//! between the look and the use: it must belong to root or to this user, and nobody else may write
//! to it (but a sticky directory of root's, as `/tmp`, may lie on the way). The directory itself is
//! no link, and neither are its files.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
#[cfg(feature = "cli")]
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{OFlag, openat};
#[cfg(feature = "cli")]
use nix::sys::stat::fchmod;
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};

use crate::network::error::NetworkError;

const WRITABLE_BY_OTHERS: u32 = 0o022;
const GROUP_WRITE: u32 = 0o020;
const STICKY: u32 = 0o1000;

/// An open directory of journals.
#[derive(Debug)]
pub(crate) struct Directory {
    file: File,
    path: PathBuf,
}

#[cfg(feature = "cli")]
impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// What stands in for a file that may not be used: why.
pub(super) type Refused = String;

impl Directory {
    /// Opens it, or makes it (mode 0700) with what is missing on the way.
    pub(crate) fn create(path: &Path) -> Result<Self, NetworkError> {
        match Self::walk(path, true)? {
            Some(directory) => Ok(directory),
            None => Err(failure("create", path, io::ErrorKind::NotFound.into())),
        }
    }

    /// Opens it. `None`: there is none.
    pub(crate) fn open(path: &Path) -> Result<Option<Self>, NetworkError> {
        Self::walk(path, false)
    }

    fn walk(path: &Path, create: bool) -> Result<Option<Self>, NetworkError> {
        let fail = |e| failure("open", path, e);
        let (existing, missing) = resolve(path).map_err(fail)?;
        let mut walked = PathBuf::from("/");
        let mut at = File::open("/").map_err(fail)?;
        check(&at, &walked, true)?;
        let names: Vec<_> = existing
            .components()
            .chain(missing.components())
            .filter(|component| !matches!(component, Component::RootDir))
            .collect();
        let Some(last) = names.len().checked_sub(1) else {
            return Err(fail(io::ErrorKind::InvalidInput.into()));
        };
        for (position, name) in names.into_iter().enumerate() {
            let Component::Normal(name) = name else {
                return Err(fail(io::ErrorKind::NotFound.into()));
            };
            let access = if position == last { OFlag::O_RDONLY } else { OFlag::O_PATH };
            let flags = access | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let open = || openat(&at, name, flags, Mode::empty()).map_err(io::Error::from);
            walked.push(name);
            let opened = match open() {
                Err(e) if e.kind() == io::ErrorKind::NotFound && create => {
                    match mkdirat(&at, name, Mode::S_IRWXU) {
                        // Somebody was quicker.
                        Ok(()) | Err(nix::Error::EEXIST) => open(),
                        Err(e) => return Err(failure("create", &walked, e.into())),
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                other => other,
            };
            at = opened.map_err(|e| failure("open", &walked, e))?.into();
            check(&at, &walked, position < last)?;
        }
        Ok(Some(Self { file: at, path: walked }))
    }

    /// Waits until no other process is at work on this directory. For as long as the result lives.
    pub(crate) fn lock(&self) -> Result<Locked, NetworkError> {
        let locked = self.file.try_clone().and_then(|file| file.lock().map(|()| Locked(file)));
        locked.map_err(|e| failure("lock", &self.path, e))
    }

    /// Everybody may see the names in it (mode 0755); what stands in the files is not for them. Only
    /// where it is this user's.
    #[cfg(feature = "cli")]
    pub(crate) fn let_others_look(&self) -> io::Result<()> {
        let mode = Mode::S_IRWXU | Mode::S_IRGRP | Mode::S_IXGRP | Mode::S_IROTH | Mode::S_IXOTH;
        Ok(fchmod(&self.file, mode)?)
    }

    pub(super) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The names of its files that end in `.extension`.
    pub(crate) fn names(&self, extension: &str) -> Result<Vec<String>, NetworkError> {
        let fail = |e| failure("read", &self.path, e);
        let mut names = Vec::new();
        // By its descriptor: the path may lead elsewhere by now.
        let entries = fs::read_dir(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        for entry in entries.map_err(fail)? {
            let name = entry.map_err(fail)?.file_name();
            if Path::new(&name).extension().is_some_and(|found| found == extension)
                && let Some(name) = name.to_str()
            {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Makes a file (mode 0600) for appending.
    pub(super) fn make(&self, name: &str) -> io::Result<File> {
        let flags = OFlag::O_RDWR | OFlag::O_APPEND | OFlag::O_CREAT | OFlag::O_EXCL;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        Ok(openat(&self.file, name, flags | OFlag::O_CLOEXEC, mode)?.into())
    }

    /// Opens a file. `None`: it has gone. `Err`: it cannot be what a process here has written, or
    /// cannot be read.
    pub(super) fn get(&self, name: &str) -> Result<Option<File>, Refused> {
        let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file: File = match openat(&self.file, name, flags, Mode::empty()) {
            Ok(file) => file.into(),
            Err(nix::Error::ENOENT) => return Ok(None),
            Err(nix::Error::ELOOP) => return Err("it is a symbolic link".to_owned()),
            Err(e) => return Err(io::Error::from(e).to_string()),
        };
        let metadata = file.metadata().map_err(|e| e.to_string())?;
        if !metadata.is_file() {
            return Err("it is no file".to_owned());
        }
        if metadata.nlink() > 1 {
            return Err("it has several names (hard links)".to_owned());
        }
        safe(&metadata, false).map(|()| Some(file))
    }

    /// Removes a file; one that is not there is no error.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        match unlinkat(&self.file, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(nix::Error::ENOENT) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

/// Unlocks by itself: another descriptor of the same open file may live on.
#[derive(Debug)]
pub(crate) struct Locked(File);

impl Drop for Locked {
    fn drop(&mut self) {
        // Closing it does the same, unless a child process has it.
        let _ = self.0.unlock();
    }
}

/// What there is of the directory above, without links, and the names that follow it. The last one
/// always follows, so that it is never a link.
fn resolve(path: &Path) -> io::Result<(PathBuf, PathBuf)> {
    let path = std::path::absolute(path)?;
    let mut existing = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    loop {
        match existing.canonicalize() {
            Ok(real) => {
                let rest = path.strip_prefix(existing).map_err(io::Error::other)?;
                return Ok((real, rest.to_owned()));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                existing = existing.parent().ok_or(e)?;
            }
            Err(e) => return Err(e),
        }
    }
}

fn check(directory: &File, path: &Path, on_the_way: bool) -> Result<(), NetworkError> {
    let metadata = directory.metadata().map_err(|e| failure("look at", path, e))?;
    safe(&metadata, on_the_way)
        .map_err(|reason| NetworkError::UnsafePath { path: path.to_owned(), reason })
}

/// `Err`: who else could have changed it.
fn safe(metadata: &fs::Metadata, on_the_way: bool) -> Result<(), Refused> {
    let (owner, mode) = (metadata.uid(), metadata.mode());
    if owner != 0 && owner != geteuid().as_raw() {
        return Err(format!("belongs to user {owner}"));
    }
    let sticky = on_the_way && mode & STICKY != 0 && owner == 0;
    // Root's own group is root.
    let harmless = if metadata.gid() == 0 { GROUP_WRITE } else { 0 };
    if !sticky && mode & WRITABLE_BY_OTHERS & !harmless != 0 {
        return Err(format!("can be written to by others (mode {:o})", mode & 0o7777));
    }
    Ok(())
}

pub(super) fn failure(operation: &'static str, path: &Path, source: io::Error) -> NetworkError {
    NetworkError::Journal { operation, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn refusal(path: &Path) -> String {
        Directory::create(path).unwrap_err().to_string()
    }

    #[test]
    fn what_is_missing_is_made_for_this_user_alone() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("a/b");
        assert!(Directory::open(&path).unwrap().is_none());
        Directory::create(&path).unwrap();
        for made in [path.as_path(), path.parent().unwrap()] {
            assert_eq!(fs::metadata(made).unwrap().mode() & 0o7777, 0o700);
        }
        assert!(Directory::open(&path).unwrap().is_some());
        let error = refusal(Path::new("/proc/nowhere"));
        assert!(error.contains("/proc/nowhere") && error.contains("--runtime-dir"), "{error}");
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_refused_wherever_it_lies() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("way/run");
        Directory::create(&path).unwrap();
        for unsafe_one in [&path, &top.path().join("way")] {
            for mode in [0o777, 0o722, 0o1777] {
                // On the way a sticky directory of root's will do.
                let allowed = mode == 0o1777 && *unsafe_one != path && geteuid().is_root();
                chmod(unsafe_one, mode);
                if allowed {
                    Directory::create(&path).unwrap();
                } else {
                    let error = refusal(&path);
                    let named = error.contains(unsafe_one.to_str().unwrap());
                    assert!(named && error.contains("written to by others"), "{mode:o}: {error}");
                }
                chmod(unsafe_one, 0o700);
            }
        }
        Directory::create(&path).unwrap();
    }

    /// Giving files away takes root.
    #[test]
    fn what_belongs_to_somebody_else_is_refused() {
        if !geteuid().is_root() {
            return;
        }
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("way/run");
        let directory = Directory::create(&path).unwrap();
        for foreign in [&path, &top.path().join("way")] {
            std::os::unix::fs::chown(foreign, Some(65_534), None).unwrap();
            assert!(refusal(&path).contains("belongs to user 65534"));
            std::os::unix::fs::chown(foreign, Some(0), None).unwrap();
        }
        directory.make("x.journal").unwrap();
        std::os::unix::fs::chown(path.join("x.journal"), Some(65_534), None).unwrap();
        assert!(directory.get("x.journal").unwrap_err().contains("65534"));
    }

    #[test]
    fn links_are_not_followed() {
        let top = tempfile::tempdir().unwrap();
        let (real, link) = (top.path().join("real"), top.path().join("link"));
        let directory = Directory::create(&real).unwrap();
        symlink(&real, &link).unwrap();
        assert!(refusal(&link).contains("link"));
        // On the way it is what it leads to that counts (`/var/run`).
        Directory::create(&link.join("below")).unwrap();

        fs::write(top.path().join("secret"), "x").unwrap();
        symlink("../secret", real.join("a.journal")).unwrap();
        assert!(directory.get("a.journal").unwrap_err().contains("symbolic link"));
        fs::hard_link(top.path().join("secret"), real.join("b.journal")).unwrap();
        assert!(directory.get("b.journal").unwrap_err().contains("hard links"));
        fs::create_dir(real.join("c.journal")).unwrap();
        directory.get("c.journal").unwrap_err();
        directory.make("d.journal").unwrap();
        directory.get("d.journal").unwrap().unwrap();
        chmod(&real.join("d.journal"), 0o602);
        assert!(directory.get("d.journal").unwrap_err().contains("written to"));
        assert!(directory.get("e.journal").unwrap().is_none());
        assert_eq!(directory.names("journal").unwrap().len(), 4);
        directory.remove("a.journal").unwrap();
        assert!(top.path().join("secret").exists());
    }

    #[test]
    fn a_fifo_blocks_nobody() {
        let top = tempfile::tempdir().unwrap();
        let directory = Directory::create(&top.path().join("run")).unwrap();
        let path = top.path().join("run/f.journal");
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        assert!(directory.get("f.journal").unwrap_err().contains("no file"));
    }
}
