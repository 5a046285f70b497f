//! The files that lie in a pack.

use std::collections::BTreeSet;
use std::io::{Error, ErrorKind};
use std::path::{Component, Path};

use super::{MANIFEST, Manifest, PackError};
use crate::models::hash_file;

/// Every file that a role could read: those in the roles' folders, links followed, as sorted paths
/// relative to the pack with forward slashes. Hidden files, Markdown and the manifest are left out:
/// no network is read from them.
///
/// # Errors
/// When a folder cannot be read, a link leads nowhere, or a name is not UTF-8.
pub(super) fn role_files(directory: &Path, manifest: &Manifest) -> Result<Vec<String>, PackError> {
    let roles = [&manifest.tagger, &manifest.entailer, &manifest.grounder, &manifest.segmenter];
    let folders =
        roles.iter().map(|role| slashed(&role.path)).collect::<Result<BTreeSet<_>, _>>()?;
    let mut files = Vec::new();
    for folder in folders {
        for name in readable(&directory.join(&folder))? {
            match folder.as_str() {
                "" if name == MANIFEST => {}
                "" => files.push(name),
                folder => files.push(format!("{folder}/{name}")),
            }
        }
    }
    files.sort();
    Ok(files)
}

/// SHA-256 of a file of the pack in lower-case hexadecimal.
pub(super) fn hash_of(path: &Path) -> Result<String, PackError> {
    hash_file(path).map_err(|source| failed(path, source))
}

pub(super) fn failed(path: &Path, source: Error) -> PackError {
    PackError::File { path: path.to_owned(), source }
}

/// A path inside the pack without its `.` parts; empty for the pack itself.
fn slashed(path: &Path) -> Result<String, PackError> {
    let names = path.components().filter(|c| matches!(c, Component::Normal(_)));
    let names = names.map(|name| name.as_os_str().to_str().ok_or_else(|| not_utf8(path)));
    Ok(names.collect::<Result<Vec<_>, _>>()?.join("/"))
}

fn readable(folder: &Path) -> Result<Vec<String>, PackError> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|source| failed(folder, source))? {
        let path = entry.map_err(|source| failed(folder, source))?.path();
        let name =
            path.file_name().and_then(|name| name.to_str()).ok_or_else(|| not_utf8(&path))?;
        if name.starts_with('.') || name.ends_with(".md") {
            continue;
        }
        // Of what a link leads to, unlike the entry's own type.
        if std::fs::metadata(&path).map_err(|source| failed(&path, source))?.is_file() {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

fn not_utf8(path: &Path) -> PackError {
    failed(path, Error::new(ErrorKind::InvalidData, "the name is not UTF-8"))
}
