//! Loads the models that a pack names: one match arm per architecture and role.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device};

use super::{FileState, Manifest, PackError, RoleEntry, verify};
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

/// Verifies the files of the pack in `directory`, then loads all its models onto `device` as
/// `dtype`.
///
/// # Errors
/// When a file is missing or is not the one that the manifest names, when an architecture is
/// unknown, or when a network cannot be loaded.
pub fn load(
    directory: &Path,
    device: &Device,
    dtype: DType,
    observer: &dyn LoadObserver,
) -> Result<LoadedPack, PackError> {
    let manifest = Manifest::read(directory)?;
    observer.step(1, STEPS, "verifying files");
    refuse_mismatch(directory, &manifest)?;
    let loader = Loader { directory, device, dtype };
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
    Ok(LoadedPack { manifest, tagger, expander, entailer, grounder, segmenter })
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
    dtype: DType,
}

impl Loader<'_> {
    fn tagger(&self, entry: &RoleEntry) -> Result<Arc<dyn Tagger>, PackError> {
        let directory = self.directory.join(&entry.path);
        match entry.architecture.as_str() {
            "transformer-crf" => {
                let tagger = TransformerTagger::load(&directory, self.device, self.dtype);
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
                let dense = DenseGrounding::load(&directory, self.device, self.dtype);
                let dense = Arc::new(dense.map_err(in_role("entailer"))?);
                Ok((dense.clone(), Some(dense)))
            }
            "ofa" => {
                let ofa = OfaEntailer::load(&directory, self.device, self.dtype);
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
                let dense = DenseGrounding::load(&directory, self.device, self.dtype);
                Ok(Arc::new(dense.map_err(in_role("grounder"))?))
            }
            ("ofa", _) => {
                let ofa = OfaGrounder::load(&directory, self.device, self.dtype);
                Ok(Arc::new(ofa.map_err(in_role("grounder"))?))
            }
            _ => Err(unknown("grounder", entry, "dense, ofa")),
        }
    }

    fn segmenter(&self, entry: &RoleEntry) -> Result<Arc<dyn Segmenter>, PackError> {
        let directory = self.directory.join(&entry.path);
        match entry.architecture.as_str() {
            "sam" => {
                let sam = Sam::load(&directory, self.device, self.dtype);
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
