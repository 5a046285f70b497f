//! `pack.toml`.

use std::path::{Component, Path, PathBuf};

use candle_core::DType;
use serde::{Deserialize, Serialize};

use super::{MANIFEST, PackError, Source};

/// A pack's manifest.
#[derive(Debug, Clone, Deserialize, Serialize, PartialEq)]
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
    /// Type of its weights on the device, where the pack wants another than the device's usual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<WeightType>,
}

/// Type of a network's weights.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum WeightType {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// 16-bit floats with the exponents of 32-bit ones.
    Bf16,
}

impl From<WeightType> for DType {
    fn from(dtype: WeightType) -> Self {
        match dtype {
            WeightType::F32 => Self::F32,
            WeightType::F16 => Self::F16,
            WeightType::Bf16 => Self::BF16,
        }
    }
}

/// Which type each role's weights get.
#[derive(Debug, Clone, Copy)]
pub struct WeightTypes {
    /// What the user wants, whatever the pack says.
    pub forced: Option<DType>,
    /// What suits the device where nobody says anything.
    pub usual: DType,
}

impl WeightTypes {
    /// The type of a role's weights: the user's word, else the pack's, else the device's.
    pub fn of(&self, entry: &RoleEntry) -> DType {
        self.forced.or(entry.dtype.map(DType::from)).unwrap_or(self.usual)
    }
}

impl From<DType> for WeightTypes {
    fn from(dtype: DType) -> Self {
        Self { forced: Some(dtype), usual: dtype }
    }
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
    /// Size in bytes; where it is not known yet, the first pull writes it down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// SHA-256 in lower-case hexadecimal; where it is not known yet, as for the size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Where `riveg pack pull` finds it; without, it lies in the manifest's directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// What to do where it is missing, for files that nobody can fetch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl FileEntry {
    /// Whether `other`, where nothing is left open, is this file from the same place.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.path == other.path
            && self.source == other.source
            && (self.bytes.is_none() || self.bytes == other.bytes)
            && (self.sha256.is_none() || self.sha256 == other.sha256)
    }
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
        if let Some(path) = paths.chain(files).find(|path| !stays_inside(path)) {
            return Err(format!("`{}` leaves the pack", path.display()));
        }
        if !is_folder_name(&self.name) {
            return Err(format!("`{}` is no name (letters, digits, `-`, `_`)", self.name));
        }
        self.files.iter().filter_map(|file| file.source.as_ref()).try_for_each(Source::check)
    }

    /// The roles that networks fill, in the order of the pipeline.
    pub fn roles(&self) -> [(&'static str, &RoleEntry); 4] {
        [
            ("tagger", &self.tagger),
            ("entailer", &self.entailer),
            ("grounder", &self.grounder),
            ("segmenter", &self.segmenter),
        ]
    }

    /// Whether some of the files have to be pulled before the pack can be loaded.
    pub fn has_sources(&self) -> bool {
        self.files.iter().any(|file| file.source.is_some())
    }

    /// Whether `pulled`, whose sizes and hashes are all written down, is this pack: nothing but
    /// what this manifest leaves open may differ.
    pub(super) fn is_same(&self, pulled: &Self) -> bool {
        let files = self.files.len() == pulled.files.len()
            && self.files.iter().zip(&pulled.files).all(|(ours, theirs)| ours.is_same(theirs));
        files
            && Self { files: Vec::new(), ..self.clone() }
                == Self { files: Vec::new(), ..pulled.clone() }
    }
}

/// A name that is one folder everywhere: pulled packs lie in a folder of their name.
fn is_folder_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    !name.is_empty() && name.chars().all(plain)
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
    fn the_users_type_goes_before_the_packs() {
        let with = GOOD.replace("path = \"sam\" }", "path = \"sam\", dtype = \"bf16\" }");
        let segmenter = read(&with).unwrap().segmenter;
        let tagger = read(&with).unwrap().tagger;
        let types = |forced| WeightTypes { forced, usual: DType::F32 };
        assert_eq!(types(None).of(&segmenter), DType::BF16);
        assert_eq!(types(None).of(&tagger), DType::F32);
        assert_eq!(types(Some(DType::F16)).of(&segmenter), DType::F16);
        assert!(read(&with.replace("bf16", "int4")).is_err());
    }

    #[test]
    fn refuses_names_that_are_no_folder() {
        for name in ["", "..", "a/b", "a b"] {
            assert!(read(&GOOD.replace("\"tiny\"", &format!("{name:?}"))).is_err(), "{name}");
        }
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
