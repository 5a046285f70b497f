//! Are the files the ones that the manifest names?

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

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
        }
    }
}

/// One file and how it compares.
#[derive(Debug, Clone)]
pub struct FileReport {
    /// The manifest's entry.
    pub entry: FileEntry,
    /// What was found.
    pub state: FileState,
}

/// Compares every file of the pack with the manifest, sizes first.
///
/// # Errors
/// When a file exists but cannot be read.
pub fn verify(directory: &Path, manifest: &Manifest) -> Result<Vec<FileReport>, PackError> {
    manifest
        .files
        .iter()
        .map(|entry| Ok(FileReport { entry: entry.clone(), state: compare(directory, entry)? }))
        .collect()
}

fn compare(directory: &Path, entry: &FileEntry) -> Result<FileState, PackError> {
    let path = directory.join(&entry.path);
    let found = match std::fs::metadata(&path) {
        Ok(metadata) => metadata.len(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(FileState::Missing),
        Err(source) => return Err(PackError::File { path, source }),
    };
    if found != entry.bytes {
        return Ok(FileState::WrongSize { found, expected: entry.bytes });
    }
    let hash = hash_file(&path)?;
    Ok(if hash == entry.sha256 { FileState::Good } else { FileState::WrongHash { found: hash } })
}

/// Rewrites the `files` table of the manifest in `directory` from the files that lie there, and
/// returns it. Comments in the manifest above the table stay.
///
/// # Errors
/// When the manifest or a file cannot be read, or the manifest cannot be written.
pub fn lock(directory: &Path) -> Result<Vec<FileEntry>, PackError> {
    let manifest = Manifest::read(directory)?;
    let roles = [&manifest.tagger, &manifest.entailer, &manifest.grounder, &manifest.segmenter];
    let mut folders: Vec<_> = roles.iter().map(|role| role.path.clone()).collect();
    folders.sort();
    folders.dedup();
    let mut files = Vec::new();
    for folder in folders {
        for name in file_names(&directory.join(&folder))? {
            let path = directory.join(&folder).join(&name);
            let bytes = std::fs::metadata(&path)
                .map_err(|source| PackError::File { path: path.clone(), source })?
                .len();
            let entry = format!("{}/{name}", folder.display());
            files.push(FileEntry { path: entry, bytes, sha256: hash_file(&path)? });
        }
    }
    write_files(&directory.join(MANIFEST), &files)?;
    Ok(files)
}

fn file_names(folder: &Path) -> Result<Vec<String>, PackError> {
    let failed = |source| PackError::File { path: folder.to_owned(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn write_files(path: &Path, files: &[FileEntry]) -> Result<(), PackError> {
    let failed = |source| PackError::File { path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let head = text.split("[[files]]").next().unwrap_or_default().trim_end();
    let mut out = format!("{head}\n");
    for FileEntry { path, bytes, sha256 } in files {
        out += &format!("\n[[files]]\npath = \"{path}\"\nbytes = {bytes}\nsha256 = \"{sha256}\"\n");
    }
    std::fs::write(path, out).map_err(failed)
}

/// SHA-256 of a file in lower-case hexadecimal.
///
/// # Errors
/// When the file cannot be read.
pub fn hash_file(path: &Path) -> Result<String, PackError> {
    let failed = |source| PackError::File { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(failed)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = file.read(&mut buffer).map_err(failed)?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST_TEXT: &str = r#"# kept
name = "tiny"
version = "1"
licence = "Apache-2.0"
entailment_threshold = 0.5
tagger = { architecture = "t", path = "a" }
expander = { architecture = "type" }
entailer = { architecture = "d", path = "b" }
grounder = { architecture = "d", path = "b" }
segmenter = { architecture = "s", path = "a" }
"#;

    fn pack() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(MANIFEST), MANIFEST_TEXT).unwrap();
        for (folder, name, content) in [("a", "x.bin", "abc"), ("b", "y.bin", "")] {
            std::fs::create_dir(directory.path().join(folder)).unwrap();
            std::fs::write(directory.path().join(folder).join(name), content).unwrap();
        }
        directory
    }

    #[test]
    fn lock_then_verify() {
        let pack = pack();
        let files = lock(pack.path()).unwrap();
        // SHA-256 of "abc" is FIPS 180-2's own example.
        assert_eq!(
            files[0].sha256,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(lock(pack.path()).unwrap(), files, "locking twice changes nothing");
        let text = std::fs::read_to_string(pack.path().join(MANIFEST)).unwrap();
        assert!(text.starts_with("# kept"));
        let manifest = Manifest::read(pack.path()).unwrap();
        let reports = verify(pack.path(), &manifest).unwrap();
        assert!(reports.iter().all(|r| r.state == FileState::Good));
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
