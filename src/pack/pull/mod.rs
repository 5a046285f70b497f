//! Brings a pack's files to this machine.
//!
//! Files go to a folder of the cache, named after the pack, together with its manifest, in which
//! sizes and hashes are then filled in: from there on it is a pack like any other. The manifest
//! that was asked for stays as it is. What a source once delivered is written to a lock file, and
//! the same source may never deliver anything else.

mod cache;
mod download;
mod error;
mod locked;
mod observer;

pub use cache::Cache;
pub use error::PullError;
pub use observer::PullObserver;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::files::{failed, hash_of, role_files};
use super::lock::write_manifest;
use super::{FileEntry, MANIFEST, Manifest, PackError, Source};
use download::{Downloader, Request};
use locked::Locked;

/// A secret of a hub's user, which no log and no message shows.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// The secret.
    pub fn new(secret: String) -> Self {
        Self(secret)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// How to pull.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// Where pulled packs lie.
    pub cache: Cache,
    /// Address of the hub, e.g. `https://huggingface.co`.
    pub hub_endpoint: String,
    /// Sent to the hub, and to nobody else.
    pub token: Option<Token>,
    /// Whether the network is not to be touched.
    pub offline: bool,
    /// Attempts in a row without a single new byte before a file is given up.
    pub attempts: u32,
    /// Wait before the second attempt; doubled before each further one.
    pub backoff: Duration,
}

/// Brings every file of the pack in `directory` to the cache, and returns the folder there. Files
/// that are there already are not fetched again.
///
/// # Errors
/// When a file cannot be had, or is not the one that the manifest or the lock file names.
pub fn pull(
    directory: &Path,
    options: &PullOptions,
    observer: &dyn PullObserver,
) -> Result<PathBuf, PackError> {
    let manifest = Manifest::read(directory)?;
    let target = options.cache.folder(&manifest.name);
    fs::create_dir_all(&target).map_err(|source| failed(&target, source))?;
    let _alone = cache::lock(&target, observer)?;
    let mut pull = Pull {
        directory,
        target: &target,
        options,
        downloader: Downloader::new(options),
        locked: Locked::read(&target)?,
        observer,
    };
    let mut files = Vec::with_capacity(manifest.files.len());
    for (index, entry) in manifest.files.iter().enumerate() {
        observer.file(index + 1, manifest.files.len(), &entry.path);
        let file = pull.file(entry);
        files.push(file.map_err(|source| PackError::Pull { path: entry.path.clone(), source })?);
    }
    remove_strangers(&target, &manifest)?;
    write_manifest(&directory.join(MANIFEST), &target, &files)?;
    Ok(target)
}

/// What an older version of the pack left in the roles' folders would be read by a role.
fn remove_strangers(target: &Path, manifest: &Manifest) -> Result<(), PackError> {
    for path in role_files(target, manifest)? {
        if manifest.files.iter().all(|file| file.path != path) {
            let path = target.join(path);
            fs::remove_file(&path).map_err(|source| failed(&path, source))?;
        }
    }
    Ok(())
}

struct Pull<'a> {
    directory: &'a Path,
    target: &'a Path,
    options: &'a PullOptions,
    downloader: Downloader,
    locked: Locked,
    observer: &'a dyn PullObserver,
}

impl Pull<'_> {
    /// The entry with size and hash, once its file lies in the target.
    fn file(&mut self, entry: &FileEntry) -> Result<FileEntry, PullError> {
        let source = entry.source.as_ref().map_or_else(|| "pack".to_owned(), ToString::to_string);
        // What lies beside the manifest belongs to whoever wrote that, and may change with it.
        let locked = entry.source.as_ref().and_then(|_| self.locked.find(&entry.path, &source));
        let known = Known::of(entry, locked)?;
        let destination = self.target.join(&entry.path);
        let fetched = match known.is_at(&destination)? {
            Some(fetched) if entry.source.is_some() => fetched,
            _ => self.fetch(entry, &known, &destination)?,
        };
        let Fetched { bytes, sha256 } = fetched;
        self.locked.insert(&entry.path, &source, (bytes, &sha256))?;
        Ok(FileEntry { bytes: Some(bytes), sha256: Some(sha256), ..entry.clone() })
    }

    fn fetch(&self, entry: &FileEntry, known: &Known, to: &Path) -> Result<Fetched, PullError> {
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder).map_err(PullError::write)?;
        }
        let request = |url, token| Request { url, token, known, to };
        match &entry.source {
            None => self.copy(entry, &self.directory.join(&entry.path), known, to),
            Some(Source::Local(source)) => {
                self.copy(entry, &self.directory.join(&source.path), known, to)
            }
            Some(source) if self.options.offline => Err(PullError::Offline(source.to_string())),
            Some(Source::Url(source)) => {
                self.downloader.download(&request(source.url.clone(), None), self.observer)
            }
            Some(Source::Hub(source)) => {
                let url = source.url(&self.options.hub_endpoint);
                let token = self.options.token.as_ref();
                self.downloader.download(&request(url, token), self.observer)
            }
        }
    }

    /// A file of this machine, linked where that is possible: weights are large.
    fn copy(
        &self,
        entry: &FileEntry,
        from: &Path,
        known: &Known,
        to: &Path,
    ) -> Result<Fetched, PullError> {
        if !from.is_file() {
            let note = entry.note.clone().unwrap_or_else(|| "there is no such file".to_owned());
            return Err(PullError::NotThere { path: from.to_owned(), note });
        }
        let part = part_of(to);
        remove_if_there(&part)?;
        let linked = fs::hard_link(from, &part).or_else(|_| fs::copy(from, &part).map(|_| ()));
        linked.map_err(PullError::write)?;
        let bytes = fs::metadata(&part).map_err(PullError::Read)?.len();
        let fetched =
            Fetched { bytes, sha256: crate::models::hash_file(&part).map_err(PullError::Read)? };
        if let Err(error) = known.check(&fetched) {
            remove_if_there(&part)?;
            return Err(error);
        }
        fs::rename(&part, to).map_err(PullError::write)?;
        // Renaming a link onto another of the same file does nothing.
        remove_if_there(&part)?;
        Ok(fetched)
    }
}

/// A file as it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fetched {
    bytes: u64,
    sha256: String,
}

/// What manifest and lock file say of a file.
#[derive(Debug, Default)]
struct Known {
    bytes: Option<u64>,
    sha256: Option<String>,
}

impl Known {
    fn of(entry: &FileEntry, locked: Option<Fetched>) -> Result<Self, PullError> {
        let Some(locked) = locked else {
            return Ok(Self { bytes: entry.bytes, sha256: entry.sha256.clone() });
        };
        // A manifest that contradicts what its own source once delivered is a mistake to be told.
        let stated = Self { bytes: entry.bytes, sha256: entry.sha256.clone() };
        stated.check(&locked)?;
        Ok(Self { bytes: Some(locked.bytes), sha256: Some(locked.sha256) })
    }

    fn check(&self, fetched: &Fetched) -> Result<(), PullError> {
        if let Some(expected) = self.bytes.filter(|expected| *expected != fetched.bytes) {
            return Err(PullError::WrongSize { found: fetched.bytes, expected });
        }
        match &self.sha256 {
            Some(expected) if *expected != fetched.sha256 => Err(PullError::WrongHash {
                found: fetched.sha256.clone(),
                expected: expected.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// The file at `path`, where it is the one that is known. What is not known is not trusted.
    fn is_at(&self, path: &Path) -> Result<Option<Fetched>, PullError> {
        let Some(expected) = &self.sha256 else { return Ok(None) };
        let bytes = match fs::metadata(path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(PullError::Read(error)),
        };
        if self.bytes.is_some_and(|expected| expected != bytes) {
            return Ok(None);
        }
        let sha256 =
            hash_of(path).map_err(|error| PullError::Read(std::io::Error::other(error)))?;
        Ok((sha256 == *expected).then_some(Fetched { bytes, sha256 }))
    }
}

/// Where a file grows until it is whole; hidden, so that no list ever names it.
fn part_of(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.part"))
}

fn remove_if_there(path: &Path) -> Result<(), PullError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(PullError::write(error)),
        _ => Ok(()),
    }
}
