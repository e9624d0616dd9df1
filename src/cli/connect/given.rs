//! Answers that are given before anything is asked: in files, on standard input, or as credentials of
//! the service manager. Files are read whenever it is asked for what they say, so that it need not stay
//! in memory, and so that a code that is good for one login can be followed by the next.

use std::env;
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::profile::DirFiles;
use crate::secret::Secret;
use crate::text::decoded;

/// Largest file, in bytes: lines of the length that servers take.
const MAX_SIZE: usize = 4096;

/// What stands for standard input where a file is named.
pub(super) const INPUT: &str = "-";

/// Directory of the credentials, see systemd.exec(5).
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// Everything that is given.
#[derive(Debug, Default)]
pub(super) struct Given {
    login: Option<SecretFile>,
    passphrase: Option<SecretFile>,
    code: Option<SecretFile>,
    /// The last one that was given to a server.
    used: Option<Secret<String>>,
}

/// Where it is given, as on the command line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places<'a> {
    pub(super) login: Option<&'a Path>,
    pub(super) passphrase: Option<&'a Path>,
    pub(super) code: Option<&'a Path>,
}

/// What is wrong with what is given.
#[derive(Debug, thiserror::Error)]
pub(super) enum GivenError {
    /// It cannot be opened or read.
    #[error("{origin}: {error}")]
    Unreadable {
        origin: Origin,
        #[source]
        error: io::Error,
    },
    /// Nothing is in the first line of a login.
    #[error("{origin}: the user name is expected in the first line and the password in the second")]
    NoLogin { origin: Origin },
    /// Nothing is in the first line of something else.
    #[error("{origin}: {what} is expected in the first line")]
    Empty { origin: Origin, what: &'static str },
    /// It was given to a server before.
    #[error(
        "{origin}: this code has been used, and it is good for one login: put the next one there and \
         connect again"
    )]
    Used { origin: Origin },
}

/// Where something is given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Origin {
    File(PathBuf),
    Input,
    /// By its name.
    Credential(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Input => f.write_str("standard input"),
            Self::Credential(name) => {
                write!(
                    f,
                    "the credential {name} (of LoadCredential= or SetCredential= in the unit)"
                )
            }
        }
    }
}

impl Given {
    /// Opens everything, with the rights that the profile's own files are opened with. What the command
    /// line does not name is looked for among the credentials.
    ///
    /// # Errors
    /// When it cannot be read, or is not what it should be.
    pub(super) fn open(places: Places<'_>, files: &DirFiles) -> Result<Self, GivenError> {
        let directory = env::var_os(CREDENTIALS).map(PathBuf::from);
        let find = |place: Option<&Path>, name: &'static str| match place {
            Some(path) => SecretFile::open(path, files).map(Some),
            None => match &directory {
                Some(directory) => SecretFile::credential(directory, name, files),
                None => Ok(None),
            },
        };
        let given = Self {
            login: find(places.login, "login")?,
            passphrase: find(places.passphrase, "passphrase")?,
            code: find(places.code, "otp")?,
            used: None,
        };
        // What is wrong with it is said now, and not when somebody asks for it.
        given.login.as_ref().map(SecretFile::login).transpose()?;
        given.passphrase()?;
        given.code.as_ref().map(SecretFile::code).transpose()?;
        Ok(given)
    }

    /// Whether there is a user name.
    pub(super) fn has_login(&self) -> bool {
        self.login.is_some()
    }

    /// The answer to the question of this name, if it is given.
    ///
    /// # Errors
    /// When it cannot be read any more, or has been used.
    pub(super) fn answer(&mut self, question: &str) -> Result<Option<Secret<String>>, GivenError> {
        let login = || self.login.as_ref().map(SecretFile::login).transpose();
        match question {
            "username" => Ok(login()?.map(|login| login.username.into())),
            "password" => Ok(login()?.and_then(|login| login.password)),
            "pk_passphrase" => self.passphrase(),
            "static_challenge" | "dynamic_challenge" => self.next_code(),
            _ => Ok(None),
        }
    }

    fn passphrase(&self) -> Result<Option<Secret<String>>, GivenError> {
        self.passphrase.as_ref().map(|file| file.first_line("the passphrase")).transpose()
    }

    fn next_code(&mut self) -> Result<Option<Secret<String>>, GivenError> {
        let (code, file) = match (&self.code, &self.login) {
            (Some(file), _) => (Some(file.code()?), file),
            (None, Some(file)) => (file.login()?.code, file),
            (None, None) => return Ok(None),
        };
        if code.is_some() && code == self.used {
            return Err(GivenError::Used { origin: file.origin.clone() });
        }
        self.used.clone_from(&code);
        Ok(code)
    }
}

/// What a login says.
struct Login {
    username: String,
    /// If there is a second line; otherwise it is asked for.
    password: Option<Secret<String>>,
    /// The answer to a challenge, if there is a third line.
    code: Option<Secret<String>>,
}

/// A file with a secret, open: later there is no right left to open it.
#[derive(Debug)]
struct SecretFile {
    origin: Origin,
    content: Content,
}

#[derive(Debug)]
enum Content {
    File(File),
    /// Of a pipe, which can be read only once.
    Read(Secret<Vec<u8>>),
}

impl SecretFile {
    fn open(path: &Path, files: &DirFiles) -> Result<Self, GivenError> {
        if path == Path::new(INPUT) {
            return Self::of(Origin::Input, input());
        }
        Self::of(Origin::File(path.to_owned()), files.open(path))
    }

    fn credential(
        directory: &Path,
        name: &'static str,
        files: &DirFiles,
    ) -> Result<Option<Self>, GivenError> {
        match files.open(&directory.join(name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            opened => Self::of(Origin::Credential(name), opened).map(Some),
        }
    }

    fn of(origin: Origin, opened: io::Result<File>) -> Result<Self, GivenError> {
        let opened = opened.and_then(|file| {
            if file.metadata()?.is_file() {
                return Ok(Content::File(file));
            }
            let mut content = Secret::new(Vec::with_capacity(MAX_SIZE));
            file.take(MAX_SIZE as u64).read_to_end(content.expose_mut())?;
            Ok(Content::Read(content))
        });
        match opened {
            Ok(content) => Ok(Self { origin, content }),
            Err(error) => Err(GivenError::Unreadable { origin, error }),
        }
    }

    /// Its text; empty if that is none.
    fn read(&self) -> Result<Secret<String>, GivenError> {
        match &self.content {
            Content::Read(content) => Ok(text(content.expose())),
            Content::File(file) => {
                let mut content = Secret::new(vec![0; MAX_SIZE]);
                let length = read_at(file, content.expose_mut()).map_err(|error| {
                    GivenError::Unreadable { origin: self.origin.clone(), error }
                })?;
                Ok(text(content.expose().get(..length).unwrap_or_default()))
            }
        }
    }

    fn login(&self) -> Result<Login, GivenError> {
        login(&self.read()?).ok_or_else(|| GivenError::NoLogin { origin: self.origin.clone() })
    }

    fn code(&self) -> Result<Secret<String>, GivenError> {
        self.first_line("the code")
    }

    fn first_line(&self, what: &'static str) -> Result<Secret<String>, GivenError> {
        let line = self.read()?.expose().lines().next().unwrap_or_default().into();
        if line == Secret::default() {
            return Err(GivenError::Empty { origin: self.origin.clone(), what });
        }
        Ok(line)
    }
}

/// Standard input.
pub(super) fn input() -> io::Result<File> {
    io::stdin().as_fd().try_clone_to_owned().map(File::from)
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

fn text(content: &[u8]) -> Secret<String> {
    if content.contains(&0) {
        return Secret::default();
    }
    let (text, _) = decoded(content);
    text.expose().trim_start_matches('\u{feff}').into()
}

fn login(text: &Secret<String>) -> Option<Login> {
    let mut lines = text.expose().lines();
    let username = lines.next().filter(|line| !line.is_empty())?.to_owned();
    let mut next = || lines.next().filter(|line| !line.is_empty()).map(Secret::from);
    Some(Login { username, password: next(), code: next() })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use super::*;
    use crate::profile::OwnRights;

    #[test]
    fn later_lines_of_a_login_may_be_missing() {
        let read = |content: &[u8]| {
            let Login { username, password, code } = login(&text(content))?;
            let line = |line: Option<Secret<String>>| {
                line.map_or_else(String::new, |line| line.expose().clone())
            };
            Some(format!("{username}/{}/{}", line(password), line(code)))
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(read(b"joe\nsecret\n123\nmore\n"), some("joe/secret/123"));
        assert_eq!(read(b"\xef\xbb\xbfjoe\r\nsecret"), some("joe/secret/"));
        assert_eq!(read(b"jos\xe9\nm\xfcller\n"), some("jos\u{e9}/m\u{fc}ller/"));
        assert_eq!(read(b"joe\n\n123\n"), some("joe//123"));
        for one in [&b"joe"[..], b"joe\n", b"joe\n\n"] {
            assert_eq!(read(one), some("joe//"));
        }
        for none in [&b""[..], b"\nsecret\n", b"j\0o\0e\0"] {
            assert_eq!(read(none), None);
        }
    }

    #[test]
    fn a_code_is_given_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("otp");
        let write = |code: &str| fs::write(&path, code).unwrap();
        let files = DirFiles::new(directory.path().to_owned(), Arc::new(OwnRights));
        write("\n");
        let places = Places { login: None, passphrase: None, code: Some(&path) };
        let empty = Given::open(places, &files).unwrap_err().to_string();
        assert!(empty.ends_with("otp: the code is expected in the first line"), "{empty}");
        write("111\n");
        let mut given = Given::open(places, &files).unwrap();
        let mut ask = || given.answer("static_challenge");
        assert_eq!(ask().unwrap(), Some("111".into()));
        let used = ask().unwrap_err().to_string();
        assert!(used.contains("has been used"), "{used}");
        write("222\n");
        assert_eq!(ask().unwrap(), Some("222".into()));
        assert_eq!(given.answer("username").unwrap(), None);
    }
}
