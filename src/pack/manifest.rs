//! `pack.toml`.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{MANIFEST, PackError};

/// A pack's manifest.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Short name, e.g. `nano`.
    pub name: String,
    /// Version, shown in every answer.
    pub version: String,
    /// Licence of the weights.
    pub licence: String,
    /// An entity is groundable when its entailment probability is at least this.
    pub entailment_threshold: f32,
    /// Finds the entities.
    pub tagger: RoleEntry,
    /// Writes the expansions.
    pub expander: ExpanderEntry,
    /// Decides whether the picture shows an entity.
    pub entailer: RoleEntry,
    /// Finds its box.
    pub grounder: RoleEntry,
    /// Turns the box into a mask.
    pub segmenter: RoleEntry,
    /// Every file that belongs to the pack.
    #[serde(default)]
    pub files: Vec<FileEntry>,
}

/// Which architecture fills a role, and from where.
#[derive(Debug, Clone, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct RoleEntry {
    /// Architecture, e.g. `sam`.
    pub architecture: String,
    /// Directory with its files, relative to the pack.
    pub path: PathBuf,
}

/// Which architecture writes expansions.
#[derive(Debug, Clone, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct ExpanderEntry {
    /// Architecture, e.g. `type`.
    pub architecture: String,
}

/// One file of a pack.
#[derive(Debug, Clone, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Path relative to the pack, with forward slashes.
    pub path: String,
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256 in lower-case hexadecimal.
    pub sha256: String,
}

impl Manifest {
    /// Reads and checks the manifest of the pack in `directory`.
    ///
    /// # Errors
    /// When the file is missing, is not valid TOML of this form, has a threshold outside `0..=1`,
    /// or names a path that leaves the pack.
    pub fn read(directory: &Path) -> Result<Self, PackError> {
        Self::read_file(&directory.join(MANIFEST))
    }

    /// As [`Manifest::read`], of a manifest under any name.
    pub(super) fn read_file(path: &Path) -> Result<Self, PackError> {
        let wrong = |message| PackError::Manifest { path: path.to_owned(), message };
        let text = std::fs::read_to_string(path)
            .map_err(|source| PackError::File { path: path.to_owned(), source })?;
        let manifest: Self = toml::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        manifest.check().map_err(wrong)?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), String> {
        if !(0.0..=1.0).contains(&self.entailment_threshold) {
            return Err("entailment_threshold must be between 0 and 1".to_owned());
        }
        let roles = [&self.tagger, &self.entailer, &self.grounder, &self.segmenter];
        let paths = roles.iter().map(|role| role.path.as_path());
        let files = self.files.iter().map(|file| Path::new(&file.path));
        match paths.chain(files).find(|path| !stays_inside(path)) {
            Some(path) => Err(format!("`{}` leaves the pack", path.display())),
            None => Ok(()),
        }
    }
}

fn stays_inside(path: &Path) -> bool {
    path.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        name = "tiny"
        version = "1"
        licence = "Apache-2.0"
        entailment_threshold = 0.5
        tagger = { architecture = "transformer-crf", path = "tagger" }
        expander = { architecture = "type" }
        entailer = { architecture = "dense", path = "dense" }
        grounder = { architecture = "dense", path = "dense" }
        segmenter = { architecture = "sam", path = "sam" }
    "#;

    fn read(text: &str) -> Result<Manifest, PackError> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(MANIFEST), text).unwrap();
        Manifest::read(directory.path())
    }

    #[test]
    fn reads_what_it_should() {
        let manifest = read(GOOD).unwrap();
        assert_eq!(manifest.name, "tiny");
        assert_eq!(manifest.segmenter.architecture, "sam");
    }

    #[test]
    fn refuses_paths_that_leave_the_pack() {
        for path in ["../sam", "/etc", "a/../../b"] {
            let text = GOOD.replace("\"sam\" }", &format!("{path:?} }}"));
            assert!(matches!(read(&text), Err(PackError::Manifest { .. })), "{path}");
        }
    }

    #[test]
    fn refuses_unknown_fields_and_bad_thresholds() {
        assert!(read(&format!("colour = 1\n{GOOD}")).is_err());
        assert!(read(&GOOD.replace("0.5", "1.5")).is_err());
        assert!(read(&GOOD.replace("0.5", "nan")).is_err());
    }
}
