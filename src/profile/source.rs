//! Where the files come from that a profile names.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use crate::secret::Secret;

/// Largest file that a profile may refer to, in bytes.
const MAX_FILE_SIZE: u64 = 1 << 20;

/// Reads files that a profile refers to by name.
pub trait FileSource {
    /// The whole file, or why it cannot be had (the text follows the file's name in a message).
    fn read(&self, path: &str) -> Result<Secret<Vec<u8>>, String>;
}

/// For profiles that must hold everything themselves (from a configuration manager).
#[derive(Clone, Copy, Debug)]
pub struct NoFiles;

impl FileSource for NoFiles {
    fn read(&self, _path: &str) -> Result<Secret<Vec<u8>>, String> {
        Err("files are not read for this profile, it must hold its content inline".to_owned())
    }
}

/// Files relative to a directory, usually the profile's own.
#[derive(Clone, Debug)]
pub struct DirFiles(pub PathBuf);

impl FileSource for DirFiles {
    fn read(&self, path: &str) -> Result<Secret<Vec<u8>>, String> {
        let file = File::open(self.0.join(path)).map_err(|e| e.to_string())?;
        let mut content = Vec::new();
        file.take(MAX_FILE_SIZE + 1).read_to_end(&mut content).map_err(|e| e.to_string())?;
        let content = Secret::new(content);
        if content.expose().len() as u64 > MAX_FILE_SIZE {
            return Err(format!("larger than {MAX_FILE_SIZE} bytes"));
        }
        Ok(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_relative_to_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.crt"), "x").unwrap();
        let files = DirFiles(dir.path().to_owned());
        assert_eq!(files.read("ca.crt").unwrap().expose(), b"x");
        assert!(files.read("none").unwrap_err().contains("No such file"));
        assert!(NoFiles.read("ca.crt").is_err());
    }

    #[test]
    fn huge_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("big"), vec![0; (1 << 20) + 1]).unwrap();
        assert!(DirFiles(dir.path().to_owned()).read("big").unwrap_err().contains("larger"));
    }
}
