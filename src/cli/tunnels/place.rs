//! Where the sockets of running tunnels are: in the runtime directory, `NAME.sock`.
//!
//! Whoever makes, judges or removes a socket holds the directory's lock meanwhile. One that nobody
//! listens to any more is a dead process's.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::fcntl::AT_FDCWD;
use nix::unistd::{FchownatFlags, Gid, Uid, fchownat};
use socket2::{Domain, SockAddr, Socket, Type};

use super::name::TunnelName;
use crate::network::{NetworkError, RuntimeDirectory};

const EXTENSION: &str = "sock";
/// Clients that wait to be let in.
const BACKLOG: i32 = 16;

/// Who may ask a tunnel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::cli) struct Access {
    /// Besides root.
    pub(in crate::cli) owner: Uid,
    /// Everybody in it, too.
    pub(in crate::cli) group: Option<Gid>,
}

/// Why a tunnel has no socket.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum PlaceError {
    /// One with this name answers.
    #[error(
        "a tunnel named {name} is running already: end it ('ovpn-client disconnect {name}'), or give \
         this one another name (--name)"
    )]
    InUse { name: TunnelName },
    #[error(transparent)]
    Directory(#[from] NetworkError),
    #[error("{}: {error}", .path.display())]
    Socket {
        path: PathBuf,
        #[source]
        error: io::Error,
    },
}

/// A directory with sockets.
pub(in crate::cli) struct Place {
    directory: RuntimeDirectory,
    path: PathBuf,
}

/// What there is behind a socket's name.
pub(in crate::cli) enum Found {
    Listening(UnixStream),
    /// It listens, and has no time, or this user may not ask it.
    Unanswered(io::Error),
    /// Its process is dead.
    Stale,
    Nothing,
}

/// A socket that listens.
#[derive(Debug)]
pub(in crate::cli) struct Bound {
    pub(in crate::cli) listener: UnixListener,
    /// Of the file, to tell it from a later one of this name.
    pub(in crate::cli) inode: u64,
}

impl Place {
    /// Makes the directory if there is none.
    pub(in crate::cli) fn create(path: &Path) -> Result<Self, PlaceError> {
        let directory = RuntimeDirectory::create(path)?;
        // Names of tunnels are no secret, and whoever may ask one has to find it. Where this fails
        // the directory is somebody else's, who has decided otherwise.
        let _ = directory.let_others_look();
        Ok(Self { directory, path: path.to_owned() })
    }

    /// `None`: there is no such directory.
    pub(in crate::cli) fn open(path: &Path) -> Result<Option<Self>, PlaceError> {
        let found = RuntimeDirectory::open(path)?;
        Ok(found.map(|directory| Self { directory, path: path.to_owned() }))
    }

    /// Makes a socket, in the place of a dead process's.
    pub(in crate::cli) fn bind(
        &self,
        name: &TunnelName,
        access: Access,
    ) -> Result<Bound, PlaceError> {
        let _locked = self.directory.lock()?;
        let fail = |error| PlaceError::Socket { path: self.path.join(file(name)), error };
        match self.find(name) {
            Found::Listening(_) | Found::Unanswered(_) => {
                return Err(PlaceError::InUse { name: name.clone() });
            }
            Found::Stale => self.directory.remove(&file(name)).map_err(fail)?,
            Found::Nothing => {}
        }
        self.make(name, access).map_err(fail)
    }

    fn make(&self, name: &TunnelName, access: Access) -> io::Result<Bound> {
        let path = self.by_descriptor(name);
        let socket = Socket::new(Domain::UNIX, Type::STREAM.cloexec().nonblocking(), None)?;
        socket.bind(&SockAddr::unix(&path)?)?;
        // Before it listens nobody gets in.
        let mode = if access.group.is_some() { 0o660 } else { 0o600 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        let owner = Some(access.owner).filter(|owner| *owner != Uid::effective());
        if owner.is_some() || access.group.is_some() {
            fchownat(AT_FDCWD, &path, owner, access.group, FchownatFlags::AT_SYMLINK_NOFOLLOW)?;
        }
        socket.listen(BACKLOG)?;
        Ok(Bound { inode: fs::symlink_metadata(&path)?.ino(), listener: socket.into() })
    }

    /// Removes the socket that has this inode, and no other.
    pub(in crate::cli) fn remove(&self, name: &TunnelName, inode: u64) -> Result<(), PlaceError> {
        let _locked = self.directory.lock()?;
        let found = fs::symlink_metadata(self.by_descriptor(name));
        if found.is_ok_and(|metadata| metadata.ino() == inode) {
            let fail = |error| PlaceError::Socket { path: self.path.join(file(name)), error };
            self.directory.remove(&file(name)).map_err(fail)?;
        }
        Ok(())
    }

    /// Removes what dead processes have left, and gives their names.
    pub(in crate::cli) fn remove_stale(&self) -> Result<Vec<TunnelName>, PlaceError> {
        let _locked = self.directory.lock()?;
        let mut names = self.names()?;
        names.retain(|name| matches!(self.find(name), Found::Stale));
        for name in &names {
            let fail = |error| PlaceError::Socket { path: self.path.join(file(name)), error };
            self.directory.remove(&file(name)).map_err(fail)?;
        }
        Ok(names)
    }

    /// Of running tunnels, and of dead ones.
    pub(in crate::cli) fn names(&self) -> Result<Vec<TunnelName>, PlaceError> {
        let files = self.directory.names(EXTENSION)?;
        let name = |file: &String| file.strip_suffix(&format!(".{EXTENSION}"))?.parse().ok();
        Ok(files.iter().filter_map(name).collect())
    }

    /// Asks to be let in, and does not wait for it.
    pub(in crate::cli) fn find(&self, name: &TunnelName) -> Found {
        let path = self.by_descriptor(name);
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.file_type().is_socket() => {}
            Ok(_) => return Found::Unanswered(io::Error::other("it is no socket")),
            Err(error) if error.kind() == ErrorKind::NotFound => return Found::Nothing,
            Err(error) => return Found::Unanswered(error),
        }
        let connect = || {
            let socket = Socket::new(Domain::UNIX, Type::STREAM.cloexec().nonblocking(), None)?;
            socket.connect(&SockAddr::unix(&path)?)?;
            Ok::<_, io::Error>(UnixStream::from(socket))
        };
        match connect() {
            Ok(stream) => Found::Listening(stream),
            Err(error) => match error.kind() {
                ErrorKind::ConnectionRefused => Found::Stale,
                ErrorKind::NotFound => Found::Nothing,
                _ => Found::Unanswered(error),
            },
        }
    }

    /// A path of any length is one that fits a socket's address; and it stays in this directory.
    fn by_descriptor(&self, name: &TunnelName) -> PathBuf {
        let directory = self.directory.as_fd().as_raw_fd();
        PathBuf::from(format!("/proc/self/fd/{directory}/{}", file(name)))
    }
}

fn file(name: &TunnelName) -> String {
    format!("{name}.{EXTENSION}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only_me() -> Access {
        Access { owner: Uid::effective(), group: None }
    }

    #[test]
    fn a_name_is_one_tunnels_until_it_is_dead() {
        let directory = tempfile::tempdir().unwrap();
        // Longer than the address of a socket may be.
        let path = directory.path().join("x".repeat(120));
        let place = Place::create(&path).unwrap();
        let name: TunnelName = "site".parse().unwrap();
        let first = place.bind(&name, only_me()).unwrap();
        let mode = |file: &str| fs::metadata(path.join(file)).unwrap().mode() & 0o777;
        assert_eq!((mode(""), mode("site.sock")), (0o755, 0o600));
        assert!(matches!(place.find(&name), Found::Listening(_)));
        let again = place.bind(&name, only_me()).unwrap_err();
        assert!(again.to_string().contains("--name"), "{again}");
        assert!(place.remove_stale().unwrap().is_empty());

        drop(first.listener);
        assert!(matches!(place.find(&name), Found::Stale));
        let second = place.bind(&name, only_me()).unwrap();
        // What is left of the first one does not take the second one's away.
        place
            .remove(&name, first.inode.wrapping_add(u64::from(first.inode == second.inode)))
            .unwrap();
        assert!(matches!(place.find(&name), Found::Listening(_)));
        place.remove(&name, second.inode).unwrap();
        assert!(matches!(place.find(&name), Found::Nothing));
    }

    #[test]
    fn what_dead_processes_have_left_is_removed_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::create(directory.path()).unwrap();
        let names = ["dead", "living"].map(|name| name.parse::<TunnelName>().unwrap());
        let [dead, living] = names.each_ref().map(|name| place.bind(name, only_me()).unwrap());
        drop(dead);
        fs::write(directory.path().join("file.sock"), "").unwrap();
        assert_eq!(place.remove_stale().unwrap(), names[..1]);
        assert_eq!(place.names().unwrap().len(), 2);
        drop(living);
    }

    #[test]
    fn one_whose_queue_is_full_is_alive() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::create(directory.path()).unwrap();
        let name: TunnelName = "busy".parse().unwrap();
        let bound = place.bind(&name, only_me()).unwrap();
        let mut waiting = Vec::new();
        let error = loop {
            match place.find(&name) {
                Found::Listening(stream) => waiting.push(stream),
                Found::Unanswered(error) => break error,
                Found::Stale | Found::Nothing => panic!("it is there"),
            }
            assert!(waiting.len() < 1000);
        };
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        assert!(matches!(place.bind(&name, only_me()), Err(PlaceError::InUse { .. })));
        drop(bound);
    }
}
