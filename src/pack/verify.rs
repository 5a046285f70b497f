//! Are the files the ones that the manifest names?

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};

use super::files::{hash_of, role_files};
use super::{FileEntry, MANIFEST, Manifest, PackError};

/// How a file compares with its entry in the manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileState {
    /// Size and hash agree.
    Good,
    /// There is no such file.
    Missing,
    /// The size differs.
    WrongSize {
        /// Bytes that the file has.
        found: u64,
        /// Bytes that the manifest names.
        expected: u64,
    },
    /// The content differs.
    WrongHash {
        /// SHA-256 of the file.
        found: String,
    },
    /// The manifest does not know its hash.
    Open,
    /// A role could read it, and the manifest does not name it.
    Unlisted,
}

impl fmt::Display for FileState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Good => write!(f, "good"),
            Self::Missing => write!(f, "missing"),
            Self::WrongSize { found, expected } if *found < 1024 => write!(
                f,
                "has {found} bytes where the manifest says {expected} (a Git LFS pointer?)"
            ),
            Self::WrongSize { found, expected } => {
                write!(f, "has {found} bytes where the manifest says {expected}")
            }
            Self::WrongHash { found } => write!(f, "has another content (SHA-256 {found})"),
            Self::Open => {
                write!(f, "is listed without size or SHA-256 (`riveg pack lock` writes them)")
            }
            Self::Unlisted => {
                write!(f, "is not in the manifest (`riveg pack lock` lists what is there)")
            }
        }
    }
}

/// One file and how it compares.
#[derive(Debug, Clone)]
pub struct FileReport {
    /// Path relative to the pack, with forward slashes.
    pub path: String,
    /// What was found.
    pub state: FileState,
}

/// Compares every file of the pack with the manifest, sizes first; then reports the files that the
/// manifest does not name although a role could read them.
///
/// # Errors
/// When a file exists but cannot be read, or the manifest names no files at all.
pub fn verify(directory: &Path, manifest: &Manifest) -> Result<Vec<FileReport>, PackError> {
    if manifest.files.is_empty() {
        let message = "names no files, so none can be verified (`riveg pack lock` lists them)";
        let path = directory.join(MANIFEST);
        return Err(PackError::Manifest { path, message: message.to_owned() });
    }
    let listed = manifest.files.iter().map(|entry| {
        Ok(FileReport { path: entry.path.clone(), state: compare(directory, entry)? })
    });
    // Compared as paths: `./sam/x` is `sam/x`.
    let known: HashSet<PathBuf> = manifest.files.iter().map(|f| directory.join(&f.path)).collect();
    let there = role_files(directory, manifest)?.into_iter();
    let unlisted = there.filter(|path| !known.contains(&directory.join(path)));
    listed.chain(unlisted.map(|path| Ok(FileReport { path, state: FileState::Unlisted }))).collect()
}

fn compare(directory: &Path, entry: &FileEntry) -> Result<FileState, PackError> {
    let path = directory.join(&entry.path);
    let found = match std::fs::metadata(&path) {
        Ok(metadata) => metadata.len(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(FileState::Missing),
        Err(source) => return Err(PackError::File { path, source }),
    };
    let (Some(bytes), Some(sha256)) = (entry.bytes, &entry.sha256) else {
        return Ok(FileState::Open);
    };
    if found != bytes {
        return Ok(FileState::WrongSize { found, expected: bytes });
    }
    let hash = hash_of(&path)?;
    Ok(if hash == *sha256 { FileState::Good } else { FileState::WrongHash { found: hash } })
}

#[cfg(test)]
mod tests {
    use super::super::lock::lock;
    use super::super::lock::tests::{MANIFEST_TEXT, pack};
    use super::*;

    fn states(pack: &Path) -> Vec<(String, FileState)> {
        let manifest = Manifest::read(pack).unwrap();
        let reports = verify(pack, &manifest).unwrap().into_iter();
        reports.map(|report| (report.path, report.state)).collect()
    }

    #[test]
    fn what_is_locked_is_good() {
        let pack = pack();
        lock(pack.path()).unwrap();
        let good = |path: &str| (path.to_owned(), FileState::Good);
        assert_eq!(states(pack.path()), [good("a/x.bin"), good("b/y.bin")]);
    }

    #[test]
    fn a_file_that_a_role_could_read_must_be_listed() {
        let pack = pack();
        lock(pack.path()).unwrap();
        std::fs::write(pack.path().join("README.md"), "outside of the roles").unwrap();
        std::fs::write(pack.path().join("a/README.md"), "no role reads it").unwrap();
        std::fs::write(pack.path().join("a/.hidden"), "nor this").unwrap();
        assert!(states(pack.path()).iter().all(|(_, state)| *state == FileState::Good));
        std::fs::write(pack.path().join("a/model.safetensors"), "planted").unwrap();
        assert_eq!(states(pack.path())[2], ("a/model.safetensors".into(), FileState::Unlisted));
        assert!(FileState::Unlisted.to_string().contains("riveg pack lock"));
    }

    #[cfg(unix)]
    #[test]
    fn a_link_must_be_listed_too() {
        let pack = pack();
        lock(pack.path()).unwrap();
        let link = pack.path().join("b/model.safetensors");
        std::os::unix::fs::symlink(pack.path().join("a/x.bin"), link).unwrap();
        assert_eq!(states(pack.path())[2], ("b/model.safetensors".into(), FileState::Unlisted));
    }

    #[test]
    fn a_manifest_that_lists_nothing_verifies_nothing() {
        for text in [MANIFEST_TEXT.to_owned(), format!("files = []\n{MANIFEST_TEXT}")] {
            let pack = pack();
            std::fs::write(pack.path().join(MANIFEST), text).unwrap();
            let manifest = Manifest::read(pack.path()).unwrap();
            let error = verify(pack.path(), &manifest).unwrap_err();
            assert!(error.to_string().contains("riveg pack lock"), "{error}");
        }
    }

    #[test]
    fn every_kind_of_difference_is_told() {
        let pack = pack();
        lock(pack.path()).unwrap();
        let manifest = Manifest::read(pack.path()).unwrap();
        let first = pack.path().join("a/x.bin");
        let state = || verify(pack.path(), &manifest).unwrap()[0].state.clone();
        std::fs::write(&first, "abd").unwrap();
        assert!(matches!(state(), FileState::WrongHash { .. }));
        std::fs::write(&first, "abcd").unwrap();
        assert_eq!(state(), FileState::WrongSize { found: 4, expected: 3 });
        std::fs::remove_file(&first).unwrap();
        assert_eq!(state(), FileState::Missing);
    }
}
