//! Loads the models that a pack names: one match arm per architecture and role.

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;

use super::{FileEntry, FileState, Manifest, PackError, RoleEntry, WeightTypes, verify};
use crate::models::dense::DenseGrounding;
use crate::models::ofa::{OfaEntailer, OfaGrounder};
use crate::models::sam::Sam;
use crate::models::tagger::TransformerTagger;
use crate::models::{Entailer, Expander, Grounder, ModelError, Segmenter, Tagger, TypeExpander};

/// A pack's models, loaded on one device.
pub struct LoadedPack {
    /// The pack's manifest.
    pub manifest: Manifest,
    /// Finds the entities.
    pub tagger: Arc<dyn Tagger>,
    /// Writes the expansions.
    pub expander: Arc<dyn Expander>,
    /// Decides whether the picture shows an entity.
    pub entailer: Arc<dyn Entailer>,
    /// Finds its box.
    pub grounder: Arc<dyn Grounder>,
    /// Turns the box into a mask.
    pub segmenter: Arc<dyn Segmenter>,
}

/// Told about each step of loading, so that a person sees progress.
pub trait LoadObserver {
    /// Step `step` of `steps` begins; `what` names it, e.g. `tagger (transformer-crf)`.
    fn step(&self, step: usize, steps: usize, what: &str);
}

const STEPS: usize = 5;

/// Verifies the files of the pack in `directory`, then loads all its models onto `device`.
///
/// # Errors
/// When a file is missing or is not the one that the manifest names, before or while it is loaded;
/// when an architecture is unknown, or when a network cannot be loaded.
pub fn load(
    directory: &Path,
    device: &Device,
    types: impl Into<WeightTypes>,
    observer: &dyn LoadObserver,
) -> Result<LoadedPack, PackError> {
    let manifest = Manifest::read(directory)?;
    observer.step(1, STEPS, "verifying files");
    refuse_mismatch(directory, &manifest)?;
    let loader = Loader { directory, device, types: types.into() };
    let announce = |step, role: &str, entry: &RoleEntry| {
        observer.step(step, STEPS, &format!("{role} ({})", entry.architecture));
    };
    announce(2, "tagger", &manifest.tagger);
    let tagger = loader.tagger(&manifest.tagger)?;
    let expander = expander(&manifest.expander.architecture)?;
    announce(3, "entailer", &manifest.entailer);
    let (entailer, dense) = loader.entailer(&manifest.entailer)?;
    announce(4, "grounder", &manifest.grounder);
    let shared = dense.filter(|_| manifest.entailer == manifest.grounder);
    let grounder = loader.grounder(&manifest.grounder, shared)?;
    announce(5, "segmenter", &manifest.segmenter);
    let segmenter = loader.segmenter(&manifest.segmenter)?;
    let roles = [
        (&manifest.tagger, tagger.info()),
        (&manifest.entailer, entailer.info()),
        (&manifest.grounder, grounder.info()),
        (&manifest.segmenter, segmenter.info()),
    ];
    for (entry, info) in roles {
        refuse_exchanged(directory, &manifest, entry, &info.sha256)?;
    }
    Ok(LoadedPack { manifest, tagger, expander, entailer, grounder, segmenter })
}

/// A file may have been exchanged between its verification and its loading; what was loaded must be
/// one of the role's listed files too.
fn refuse_exchanged(
    directory: &Path,
    manifest: &Manifest,
    entry: &RoleEntry,
    sha256: &str,
) -> Result<(), PackError> {
    let of_role =
        |file: &&FileEntry| directory.join(&file.path).starts_with(directory.join(&entry.path));
    let mut listed = manifest.files.iter().filter(of_role);
    if listed.any(|file| file.sha256.as_deref() == Some(sha256)) {
        return Ok(());
    }
    let state = FileState::WrongHash { found: sha256.to_owned() };
    Err(PackError::Mismatch { path: directory.join(&entry.path), state })
}

fn refuse_mismatch(directory: &Path, manifest: &Manifest) -> Result<(), PackError> {
    let reports = verify(directory, manifest)?;
    match reports.into_iter().find(|report| report.state != FileState::Good) {
        Some(report) => {
            Err(PackError::Mismatch { path: directory.join(report.path), state: report.state })
        }
        None => Ok(()),
    }
}

/// The network of an entailer that may be the grounder too.
type SharedDense = Option<Arc<DenseGrounding>>;

struct Loader<'a> {
    directory: &'a Path,
    device: &'a Device,
    types: WeightTypes,
}

impl Loader<'_> {
    fn tagger(&self, entry: &RoleEntry) -> Result<Arc<dyn Tagger>, PackError> {
        let directory = self.directory.join(&entry.path);
        match entry.architecture.as_str() {
            "transformer-crf" => {
                let tagger = TransformerTagger::load(&directory, self.device, self.types.of(entry));
                Ok(Arc::new(tagger.map_err(in_role("tagger"))?))
            }
            _ => Err(unknown("tagger", entry, "transformer-crf")),
        }
    }

    /// The entailer and, where it is the dense network, the network itself: the grounder is the same
    /// object when both roles name the same files, by which the pipeline sees that they look at a
    /// picture once.
    fn entailer(&self, entry: &RoleEntry) -> Result<(Arc<dyn Entailer>, SharedDense), PackError> {
        let directory = self.directory.join(&entry.path);
        match entry.architecture.as_str() {
            "dense" => {
                let dense = DenseGrounding::load(&directory, self.device, self.types.of(entry));
                let dense = Arc::new(dense.map_err(in_role("entailer"))?);
                Ok((dense.clone(), Some(dense)))
            }
            "ofa" => {
                let ofa = OfaEntailer::load(&directory, self.device, self.types.of(entry));
                Ok((Arc::new(ofa.map_err(in_role("entailer"))?), None))
            }
            _ => Err(unknown("entailer", entry, "dense, ofa")),
        }
    }

    fn grounder(
        &self,
        entry: &RoleEntry,
        shared: SharedDense,
    ) -> Result<Arc<dyn Grounder>, PackError> {
        let directory = self.directory.join(&entry.path);
        match (entry.architecture.as_str(), shared) {
            ("dense", Some(dense)) => Ok(dense),
            ("dense", None) => {
                let dense = DenseGrounding::load(&directory, self.device, self.types.of(entry));
                Ok(Arc::new(dense.map_err(in_role("grounder"))?))
            }
            ("ofa", _) => {
                let ofa = OfaGrounder::load(&directory, self.device, self.types.of(entry));
                Ok(Arc::new(ofa.map_err(in_role("grounder"))?))
            }
            _ => Err(unknown("grounder", entry, "dense, ofa")),
        }
    }

    fn segmenter(&self, entry: &RoleEntry) -> Result<Arc<dyn Segmenter>, PackError> {
        let directory = self.directory.join(&entry.path);
        match entry.architecture.as_str() {
            "sam" => {
                let sam = Sam::load(&directory, self.device, self.types.of(entry));
                Ok(Arc::new(sam.map_err(in_role("segmenter"))?))
            }
            _ => Err(unknown("segmenter", entry, "sam")),
        }
    }
}

fn expander(architecture: &str) -> Result<Arc<dyn Expander>, PackError> {
    match architecture {
        "type" => Ok(Arc::new(TypeExpander)),
        _ => Err(PackError::UnknownArchitecture {
            role: "expander",
            architecture: architecture.to_owned(),
            known: "type",
        }),
    }
}

fn in_role(role: &'static str) -> impl FnOnce(ModelError) -> PackError {
    move |source| PackError::Model { role, source }
}

fn unknown(role: &'static str, entry: &RoleEntry, known: &'static str) -> PackError {
    PackError::UnknownArchitecture { role, architecture: entry.architecture.clone(), known }
}
