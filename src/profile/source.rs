//! Where the files come from that a profile names.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::lexer::MAX_PROFILE_SIZE;
use crate::secret::Secret;
use crate::text::decoded;

/// Largest file that a profile may refer to, in bytes.
const MAX_FILE_SIZE: u64 = 1 << 20;
/// Most files of a directory that a profile may refer to.
const MAX_NAMES: usize = 1 << 16;

/// Reads files that a profile refers to by name.
pub trait FileSource {
    /// The whole file.
    ///
    /// # Errors
    /// Why it cannot be had; the text follows the file's name in a message.
    fn read(&self, path: &str) -> io::Result<Secret<Vec<u8>>>;

    /// The names of everything in a directory.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn names(&self, path: &str) -> io::Result<Vec<String>>;
}

/// For profiles that must hold everything themselves (from a configuration manager).
#[derive(Clone, Copy, Debug)]
pub struct NoFiles;

impl FileSource for NoFiles {
    fn read(&self, _path: &str) -> io::Result<Secret<Vec<u8>>> {
        Err(io::Error::new(
            ErrorKind::Unsupported,
            "files are not read for this profile, it must hold its content inline",
        ))
    }

    fn names(&self, path: &str) -> io::Result<Vec<String>> {
        self.read(path).map(|_| Vec::new())
    }
}

/// Opens files for a profile, with whatever rights it has.
pub trait Opener: fmt::Debug + Send + Sync {
    /// Opens a file to read it.
    ///
    /// # Errors
    /// As opening a file.
    fn open(&self, path: &Path) -> io::Result<File>;
}

/// With the rights of this process.
#[derive(Clone, Copy, Debug)]
pub struct OwnRights;

impl Opener for OwnRights {
    fn open(&self, path: &Path) -> io::Result<File> {
        File::open(path)
    }
}

/// Files relative to a directory, usually the profile's own.
#[derive(Clone, Debug)]
pub struct DirFiles {
    directory: PathBuf,
    opener: Arc<dyn Opener>,
}

impl FileSource for DirFiles {
    fn read(&self, path: &str) -> io::Result<Secret<Vec<u8>>> {
        read_limited(self.open(&self.locate(path))?, MAX_FILE_SIZE)
    }

    fn names(&self, path: &str) -> io::Result<Vec<String>> {
        names(&self.open(&self.locate(path))?)
    }
}

impl DirFiles {
    /// Files of `directory`.
    pub fn new(directory: PathBuf, opener: Arc<dyn Opener>) -> Self {
        Self { directory, opener }
    }

    /// The place of a file that the profile names.
    pub fn locate(&self, path: &str) -> PathBuf {
        self.directory.join(path)
    }

    /// Opens any file with the rights that those of the profile are opened with.
    ///
    /// # Errors
    /// As opening a file.
    pub fn open(&self, path: &Path) -> io::Result<File> {
        self.opener.open(path)
    }
}

/// Names that are no text are left out. The directory is the one that was opened, whatever has become
/// of its path.
fn names(directory: &File) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/self/fd/{}", directory.as_raw_fd()))? {
        if names.len() == MAX_NAMES {
            let reason = format!("the directory holds more than {MAX_NAMES} files");
            return Err(io::Error::new(ErrorKind::FileTooLarge, reason));
        }
        names.extend(entry?.file_name().into_string());
    }
    Ok(names)
}

fn read_limited(file: File, limit: u64) -> io::Result<Secret<Vec<u8>>> {
    // Grown buffers would leave copies of keys behind.
    let expected = file.metadata().map_or(0, |m| m.len().min(limit));
    let mut content = Vec::with_capacity(expected as usize + 1);
    file.take(limit + 1).read_to_end(&mut content)?;
    let content = Secret::new(content);
    if content.expose().len() as u64 > limit {
        return Err(io::Error::new(ErrorKind::FileTooLarge, format!("larger than {limit} bytes")));
    }
    Ok(content)
}

/// A profile in a file, ready for [`crate::profile::Profile::parse`].
#[derive(Clone, Debug)]
pub struct ProfileFile {
    /// Its text; lines that are not UTF-8 are read as Latin-1, as old profiles are written.
    pub text: Secret<String>,
    /// File name without directory, for messages.
    pub name: String,
    /// Files it refers to: relative to its own directory.
    pub files: DirFiles,
}

impl ProfileFile {
    /// Reads a profile. It and the files it names are opened with the rights of this process.
    ///
    /// # Errors
    /// As opening and reading a file; larger than any profile may be; UTF-16.
    pub fn read(path: &Path) -> io::Result<Self> {
        Self::read_with(path, Arc::new(OwnRights))
    }

    /// The same, opened by `opener`.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_with(path: &Path, opener: Arc<dyn Opener>) -> io::Result<Self> {
        let file = opener.open(path)?;
        Self::read_opened(file, path, opener)
    }

    /// The same of a file that is open; its path says what it is called and where the files are that it
    /// names.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_opened(file: File, path: &Path, opener: Arc<dyn Opener>) -> io::Result<Self> {
        let directory = path.parent().unwrap_or_else(|| Path::new("")).to_owned();
        let files = DirFiles::new(directory, opener);
        let bytes = read_limited(file, MAX_PROFILE_SIZE as u64)?;
        // A byte order mark tells what would otherwise be a binary file.
        if let [0xff, 0xfe, ..] | [0xfe, 0xff, ..] = bytes.expose()[..] {
            let text = "this is UTF-16 text, and profiles are UTF-8; convert it with \
                        'iconv -f UTF-16 -t UTF-8 OLD >NEW'";
            return Err(io::Error::new(ErrorKind::InvalidData, text));
        }
        let (text, _) = decoded(bytes.expose());
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Ok(Self { text, name, files })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_relative_to_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.crt"), "x").unwrap();
        let files = DirFiles::new(dir.path().to_owned(), Arc::new(OwnRights));
        assert_eq!(files.read("ca.crt").unwrap().expose(), b"x");
        assert!(files.read("none").unwrap_err().kind() == ErrorKind::NotFound);
        assert!(NoFiles.read("ca.crt").is_err());
        assert_eq!(files.names(".").unwrap(), ["ca.crt"]);
        assert!(files.names("none").unwrap_err().kind() == ErrorKind::NotFound);
        assert!(files.names("ca.crt").unwrap_err().kind() == ErrorKind::NotADirectory);
        assert!(NoFiles.names(".").unwrap_err().to_string().contains("inline"));
    }

    #[test]
    fn huge_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("big"), vec![0; (1 << 20) + 1]).unwrap();
        assert!(
            DirFiles::new(dir.path().to_owned(), Arc::new(OwnRights))
                .read("big")
                .unwrap_err()
                .to_string()
                .contains("larger")
        );
    }
}
