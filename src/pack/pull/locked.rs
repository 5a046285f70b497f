//! The lock file: what each source delivered when it was first asked.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Fetched, PullError};
use crate::pack::PackError;

/// Hidden, so that no list of a pack's files ever names it.
const FILE: &str = ".pack.lock.toml";

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Content {
    #[serde(default)]
    files: Vec<Entry>,
}

#[derive(Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct Entry {
    path: String,
    source: String,
    bytes: u64,
    sha256: String,
}

/// An opened lock file.
pub(super) struct Locked {
    path: PathBuf,
    content: Content,
}

impl Locked {
    /// The lock file in a pack's folder of the cache; empty where there is none yet.
    pub(super) fn read(folder: &Path) -> Result<Self, PackError> {
        let path = folder.join(FILE);
        let content = match fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text).map_err(|e| PackError::Pull {
                path: FILE.to_owned(),
                source: PullError::LockFile { path: path.clone(), message: e.to_string() },
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Content::default(),
            Err(source) => return Err(PackError::File { path, source }),
        };
        Ok(Self { path, content })
    }

    /// What a source delivered for a file.
    pub(super) fn find(&self, path: &str, source: &str) -> Option<Fetched> {
        let entry = self.content.files.iter().find(|f| f.path == path && f.source == source)?;
        Some(Fetched { bytes: entry.bytes, sha256: entry.sha256.clone() })
    }

    /// Writes down what a source delivered. The file is replaced at one stroke.
    pub(super) fn insert(
        &mut self,
        path: &str,
        source: &str,
        (bytes, sha256): (u64, &str),
    ) -> Result<(), PullError> {
        let [path, source, sha256] = [path, source, sha256].map(str::to_owned);
        let entry = Entry { path, source, bytes, sha256 };
        if self.content.files.contains(&entry) {
            return Ok(());
        }
        let is_other = |f: &Entry| f.path != entry.path || f.source != entry.source;
        self.content.files.retain(is_other);
        self.content.files.push(entry);
        let text = toml::to_string(&self.content).map_err(|error| PullError::LockFile {
            path: self.path.clone(),
            message: error.to_string(),
        })?;
        let draft = self.path.with_extension("new");
        let write = || {
            let mut file = fs::File::create(&draft)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&draft, &self.path)
        };
        write().map_err(PullError::write)
    }
}
