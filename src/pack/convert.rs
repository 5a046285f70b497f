//! Writes networks as safetensors files with all that belongs to them, and tells by name what of the
//! old file was read.

use std::fs;
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

use super::files::{failed, hash_of};
use super::lock::write_manifest;
use super::{FileEntry, MANIFEST, Manifest, PackError, RoleEntry};
use crate::models::dense::{self, DenseGrounding};
use crate::models::ofa::{ModelConfig, OfaEntailer, OfaGrounder};
use crate::models::sam::Sam;
use crate::models::tagger::TransformerTagger;
use crate::models::{ModelError, TensorNames, WeightUse, WrittenAs, is_weights};

/// The name of the weight files that are written; every architecture looks for it first.
const WEIGHTS: &str = "model.safetensors";
/// The files that say what OFA's network is; they become one.
const OFA_CONFIGURATION: [&str; 2] = ["config.json", "configuration.json"];

/// A role that a network fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Finds the entities.
    Tagger,
    /// Decides whether the picture shows an entity.
    Entailer,
    /// Finds its box.
    Grounder,
    /// Turns the box into a mask.
    Segmenter,
}

impl Role {
    /// All of them, in the order of the pipeline.
    pub const ALL: [Self; 4] = [Self::Tagger, Self::Entailer, Self::Grounder, Self::Segmenter];

    /// Its name in manifests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tagger => "tagger",
            Self::Entailer => "entailer",
            Self::Grounder => "grounder",
            Self::Segmenter => "segmenter",
        }
    }

    fn entry(self, manifest: &Manifest) -> &RoleEntry {
        match self {
            Self::Tagger => &manifest.tagger,
            Self::Entailer => &manifest.entailer,
            Self::Grounder => &manifest.grounder,
            Self::Segmenter => &manifest.segmenter,
        }
    }
}

/// A network that was converted.
#[derive(Debug)]
pub struct Converted {
    /// The role that it was loaded for.
    pub role: Role,
    /// The weight file that was read.
    pub from: PathBuf,
    /// The weight file that was written.
    pub to: PathBuf,
    /// What the old file's tensors are to the network.
    pub names: TensorNames,
}

/// Told how far a conversion is.
pub trait ConvertObserver {
    /// The network of `role` is looked at.
    fn network(&self, role: Role);
    /// Tensor `index` of `count` was written.
    fn tensor(&self, index: usize, count: usize);
}

/// Converts all networks of the pack in `source` to a pack in `target`, whose weights are written as
/// `form` says, and lists its files with their hashes in its manifest.
///
/// # Errors
/// `target` holds something already, a network cannot be loaded, or a file cannot be read or written.
pub fn convert_pack(
    source: &Path,
    target: &Path,
    form: WrittenAs,
    observer: &dyn ConvertObserver,
) -> Result<Vec<Converted>, PackError> {
    let manifest = Manifest::read(source)?;
    refuse_full(target)?;
    let mut converted: Vec<Converted> = Vec::new();
    let mut folders: Vec<PathBuf> = Vec::new();
    for role in Role::ALL {
        let entry = role.entry(&manifest);
        let folder = target.join(&entry.path);
        if folders.contains(&folder) {
            continue;
        }
        let network = Network { role, architecture: &entry.architecture, form };
        converted.push(network.convert(&source.join(&entry.path), &folder, observer)?);
        folders.push(folder);
    }
    write_manifest(&source.join(MANIFEST), target, &listed(target, &manifest)?)?;
    Ok(converted)
}

/// Converts the one network in the folder `source`, which fills `role`, to the folder `target`.
///
/// # Errors
/// As [`convert_pack`].
pub fn convert_folder(
    source: &Path,
    target: &Path,
    (role, form): (Role, WrittenAs),
    observer: &dyn ConvertObserver,
) -> Result<Converted, PackError> {
    refuse_full(target)?;
    let network = Network { role, architecture: architecture_of(source, role), form };
    network.convert(source, target, observer)
}

/// The architecture of the network in a folder without a manifest.
fn architecture_of(folder: &Path, role: Role) -> &'static str {
    let dense = || {
        let config = fs::read(folder.join("config.json")).ok()?;
        serde_json::from_slice::<dense::Config>(&config).ok()
    };
    match role {
        Role::Tagger => "transformer-crf",
        Role::Segmenter => "sam",
        Role::Entailer | Role::Grounder if dense().is_some() => "dense",
        Role::Entailer | Role::Grounder => "ofa",
    }
}

/// Every file that was written, with its hash.
fn listed(target: &Path, manifest: &Manifest) -> Result<Vec<FileEntry>, PackError> {
    let entry = |path: String| {
        let file = target.join(&path);
        let bytes = fs::metadata(&file).map_err(|source| failed(&file, source))?.len();
        let sha256 = Some(hash_of(&file)?);
        Ok(FileEntry { path, bytes: Some(bytes), sha256, source: None, note: None })
    };
    super::files::role_files(target, manifest)?.into_iter().map(entry).collect()
}

/// What is there is never overwritten.
fn refuse_full(target: &Path) -> Result<(), PackError> {
    let is_empty = match fs::read_dir(target) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == ErrorKind::NotFound => true,
        Err(source) => return Err(failed(target, source)),
    };
    match is_empty {
        true => Ok(()),
        false => Err(failed(target, Error::new(ErrorKind::AlreadyExists, "is not empty"))),
    }
}

/// A network that is converted.
struct Network<'a> {
    role: Role,
    architecture: &'a str,
    form: WrittenAs,
}

impl Network<'_> {
    fn convert(
        &self,
        source: &Path,
        target: &Path,
        observer: &dyn ConvertObserver,
    ) -> Result<Converted, PackError> {
        observer.network(self.role);
        let (read, config) = self.weight_use(source)?;
        fs::create_dir_all(target).map_err(|error| failed(target, error))?;
        self.copy_others(source, target, config.is_some())?;
        if let Some(config) = &config {
            let path = target.join(OFA_CONFIGURATION[0]);
            let text = serde_json::to_string_pretty(config).map_err(Error::from);
            let written = text.and_then(|text| fs::write(&path, text + "\n"));
            written.map_err(|error| failed(&path, error))?;
        }
        let to = target.join(WEIGHTS);
        let progress = |index, count| observer.tensor(index, count);
        let names = read.names();
        let written = read.write(&to, self.form, &progress);
        self.check(target, &written.map_err(|error| self.in_role(error))?)?;
        Ok(Converted { role: self.role, from: read.path().to_owned(), to, names })
    }

    /// What the network in `folder` reads of its weight file, found out by loading it; of OFA also
    /// what it is.
    fn weight_use(&self, folder: &Path) -> Result<(WeightUse, Option<ModelConfig>), PackError> {
        let plain = |read: Result<WeightUse, ModelError>| read.map(|read| (read, None));
        let ofa = |read: Result<(WeightUse, ModelConfig), ModelError>| {
            read.map(|(read, config)| (read, Some(config)))
        };
        let read = match (self.role, self.architecture) {
            (Role::Tagger, "transformer-crf") => plain(TransformerTagger::weight_use(folder)),
            (Role::Entailer, "ofa") => ofa(OfaEntailer::weight_use(folder)),
            (Role::Grounder, "ofa") => ofa(OfaGrounder::weight_use(folder)),
            (Role::Entailer | Role::Grounder, "dense") => plain(DenseGrounding::weight_use(folder)),
            (Role::Segmenter, "sam") => plain(Sam::weight_use(folder)),
            (role, architecture) => {
                return Err(PackError::UnknownArchitecture {
                    role: role.name(),
                    architecture: architecture.to_owned(),
                    known: "transformer-crf, ofa, dense, sam, each in its roles",
                });
            }
        };
        read.map_err(|error| self.in_role(error))
    }

    /// Copies everything but weights, hidden files and what is written anew.
    fn copy_others(&self, source: &Path, target: &Path, is_ofa: bool) -> Result<(), PackError> {
        for entry in fs::read_dir(source).map_err(|error| failed(source, error))? {
            let path = entry.map_err(|error| failed(source, error))?.path();
            let Some(name) = path.file_name() else { continue };
            let text = name.to_string_lossy();
            let anew = text == MANIFEST || is_ofa && OFA_CONFIGURATION.contains(&&*text);
            if !path.is_file() || is_weights(&path) || text.starts_with('.') || anew {
                continue;
            }
            fs::copy(&path, target.join(name)).map_err(|error| failed(&path, error))?;
        }
        Ok(())
    }

    /// Loads what was written: all of it has to be read, and nothing else.
    fn check(&self, target: &Path, written: &[String]) -> Result<(), PackError> {
        let names = self.weight_use(target)?.0.names();
        if names.read == written && names.buffers.is_empty() && names.unused.is_empty() {
            return Ok(());
        }
        let differs = |name: &&String| !names.read.contains(*name);
        let missing: Vec<&str> = written.iter().filter(differs).map(String::as_str).collect();
        let message = format!(
            "{}: what was written is read otherwise than what it was made of (not read: {})",
            target.display(),
            missing.join(", ")
        );
        Err(self.in_role(ModelError::Weights(message)))
    }

    fn in_role(&self, source: ModelError) -> PackError {
        PackError::Model { role: self.role.name(), source }
    }
}
