//! The folder of pulled packs.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use super::PullObserver;
use crate::pack::files::failed;
use crate::pack::{MANIFEST, Manifest, PackError};

/// Held while a process pulls.
const LOCK: &str = ".pull.lock";

/// The folder of pulled packs.
#[derive(Debug, Clone)]
pub struct Cache(PathBuf);

impl Cache {
    /// A cache at `directory`, or at the user's own: `$XDG_CACHE_HOME/riveg`, `~/.cache/riveg`.
    /// `None` where neither says where that is.
    pub fn open(directory: Option<&Path>) -> Option<Self> {
        let absolute = |name: &str| {
            std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
        };
        let of_user = || {
            let base = absolute("XDG_CACHE_HOME");
            base.or_else(|| Some(absolute("HOME")?.join(".cache"))).map(|base| base.join("riveg"))
        };
        directory.map(Path::to_owned).or_else(of_user).map(Self)
    }

    /// Where the pack of that name lies once it was pulled.
    pub(super) fn folder(&self, name: &str) -> PathBuf {
        self.0.join("packs").join(name)
    }

    /// The folder to read the pack in `directory` from: itself, or, where its files have to be
    /// pulled, the cache's.
    ///
    /// # Errors
    /// When they were not pulled, or the manifest changed since.
    pub fn resolve(&self, directory: &Path) -> Result<PathBuf, PackError> {
        let manifest = Manifest::read(directory)?;
        let pulled = self.folder(&manifest.name);
        if !manifest.has_sources() || pulled == directory {
            return Ok(directory.to_owned());
        }
        let not_pulled = |why| PackError::NotPulled { name: manifest.name.clone(), why };
        if !pulled.join(MANIFEST).is_file() {
            return Err(not_pulled("are not here"));
        }
        match manifest.is_same(&Manifest::read(&pulled)?) {
            true => Ok(pulled),
            false => Err(not_pulled("are those of another version")),
        }
    }
}

/// Waits until no other process pulls to `target`; the lock lasts as long as the file is open.
pub(super) fn lock(target: &Path, observer: &dyn PullObserver) -> Result<File, PackError> {
    let path = target.join(LOCK);
    let open = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = open.map_err(|source| failed(&path, source))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => observer.waiting(),
        Err(TryLockError::Error(source)) => return Err(failed(&path, source)),
    }
    file.lock().map_err(|source| failed(&path, source))?;
    Ok(file)
}
