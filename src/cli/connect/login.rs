//! `--auth-user-pass FILE`: read whenever it is asked for, so that it need not stay in memory.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::profile::DirFiles;
use crate::secret::{Credentials, Secret};

/// Largest file, in bytes: two lines of the length that servers take.
const MAX_SIZE: usize = 4096;

/// The file, open: later there is no right left to open it.
pub(super) struct LoginFile {
    path: PathBuf,
    content: Content,
}

/// What is wrong with such a file.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoginError {
    /// It cannot be opened or read.
    #[error("{}: {error}", .path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        error: io::Error,
    },
    /// There are no two lines.
    #[error(
        "{}: the user name is expected in the first line and the password in the second",
        .path.display()
    )]
    Malformed { path: PathBuf },
}

enum Content {
    File(File),
    /// Of a pipe, which can be read only once.
    Read(Secret<Vec<u8>>),
}

impl LoginFile {
    /// Opens a file with the rights that the profile's own files are opened with.
    ///
    /// # Errors
    /// When it cannot be read, or is no login.
    pub(super) fn open(path: &Path, files: &DirFiles) -> Result<Self, LoginError> {
        let opened = files.open(path).and_then(|file| {
            if file.metadata()?.is_file() {
                return Ok(Content::File(file));
            }
            let mut content = Secret::new(Vec::with_capacity(MAX_SIZE));
            file.take(MAX_SIZE as u64).read_to_end(content.expose_mut())?;
            Ok(Content::Read(content))
        });
        let content =
            opened.map_err(|error| LoginError::Unreadable { path: path.to_owned(), error })?;
        let file = Self { path: path.to_owned(), content };
        file.read()?;
        Ok(file)
    }

    /// User name and password.
    ///
    /// # Errors
    /// When it cannot be read, or is no login any more.
    pub(super) fn read(&self) -> Result<Credentials, LoginError> {
        let path = || self.path.clone();
        match &self.content {
            Content::Read(content) => credentials(content.expose()),
            Content::File(file) => {
                let mut content = Secret::new(vec![0; MAX_SIZE]);
                let length = read_at(file, content.expose_mut())
                    .map_err(|error| LoginError::Unreadable { path: path(), error })?;
                credentials(content.expose().get(..length).unwrap_or_default())
            }
        }
        .ok_or_else(|| LoginError::Malformed { path: path() })
    }
}

/// From the file's start, as much as there is and fits.
fn read_at(file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while let Some(rest) = buffer.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, length as u64)? {
            0 => break,
            more => length += more,
        }
    }
    Ok(length)
}

fn credentials(content: &[u8]) -> Option<Credentials> {
    let mut lines = std::str::from_utf8(content).ok()?.lines();
    let mut line = || lines.next().filter(|line| !line.is_empty());
    let (username, password) = (line()?, line()?);
    Some(Credentials { username: username.to_owned(), password: password.into() })
}
