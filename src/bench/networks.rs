//! The networks that are measured.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use candle_core::{DType, Device};

use crate::models::ofa::{ImageTrunk, OfaEntailer, OfaGrounder};
use crate::models::sam::Sam;
use crate::models::tagger::TransformerTagger;
use crate::models::{Entailer, Grounder, Result, Segmenter, Tagger};
use crate::pack::{LoadedPack, WeightTypes};

/// A part of the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Tagging texts.
    Tag,
    /// Visual entailment, one question to each of several pictures.
    Entail,
    /// Visual grounding, likewise.
    Ground,
    /// OFA's image trunk alone, which entailment and grounding contain.
    Trunk,
    /// The segmenter's image encoder.
    Encode,
    /// The segmenter's decoder, several boxes in one picture.
    Segment,
    /// One post through all stages, one after the other.
    Whole,
}

impl Stage {
    /// All of them, in the order in which they are told.
    pub const ALL: [Self; 7] = [
        Self::Tag,
        Self::Entail,
        Self::Ground,
        Self::Trunk,
        Self::Encode,
        Self::Segment,
        Self::Whole,
    ];

    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tag => "tag",
            Self::Entail => "entail",
            Self::Ground => "ground",
            Self::Trunk => "trunk",
            Self::Encode => "encode",
            Self::Segment => "segment",
            Self::Whole => "whole",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Stage {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let names = || Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|stage| stage.name() == name);
        found.ok_or_else(|| format!("unknown stage `{name}`: use {}", names()))
    }
}

/// Networks by role; what is not there is not measured.
#[derive(Default)]
pub struct Networks {
    /// Finds the entities.
    pub tagger: Option<Arc<dyn Tagger>>,
    /// Decides whether the picture shows an entity.
    pub entailer: Option<Arc<dyn Entailer>>,
    /// Finds its box.
    pub grounder: Option<Arc<dyn Grounder>>,
    /// Turns the box into a mask.
    pub segmenter: Option<Arc<dyn Segmenter>>,
    /// The entailer's trunk once more, where it has one to be measured alone.
    pub trunk: Option<Arc<ImageTrunk>>,
}

impl Networks {
    /// Those of a pack that lies in `directory`.
    ///
    /// # Errors
    /// The trunk cannot be loaded once more.
    pub fn of_pack(
        pack: &LoadedPack,
        directory: &Path,
        (device, types): (&Device, WeightTypes),
    ) -> Result<Self> {
        let entry = &pack.manifest.entailer;
        let trunk = (entry.architecture == "ofa").then(|| {
            let folder = directory.join(&entry.path);
            ImageTrunk::load(&folder, device, types.of(entry)).map(Arc::new)
        });
        Ok(Self {
            tagger: Some(pack.tagger.clone()),
            entailer: Some(pack.entailer.clone()),
            grounder: Some(pack.grounder.clone()),
            segmenter: Some(pack.segmenter.clone()),
            trunk: trunk.transpose()?,
        })
    }

    /// Those that [`super::write`] wrote below `directory` and that `stages` need.
    ///
    /// # Errors
    /// A network cannot be loaded.
    pub fn random(
        directory: &Path,
        stages: &[Stage],
        (device, dtype): (&Device, DType),
    ) -> Result<Self> {
        let folder = |name: &str, needed: &[Stage]| {
            let wanted = stages.iter().any(|stage| needed.contains(stage));
            let folder = directory.join(name);
            (wanted && folder.is_dir()).then_some(folder)
        };
        let mut networks = Self::default();
        if let Some(folder) = folder("tagger", &[Stage::Tag, Stage::Whole]) {
            networks.tagger = Some(Arc::new(TransformerTagger::load(&folder, device, dtype)?));
        }
        if let Some(folder) = folder("ofa-entail", &[Stage::Entail, Stage::Whole]) {
            networks.entailer = Some(Arc::new(OfaEntailer::load(&folder, device, dtype)?));
        }
        if let Some(folder) = folder("ofa-entail", &[Stage::Trunk]) {
            networks.trunk = Some(Arc::new(ImageTrunk::load(&folder, device, dtype)?));
        }
        if let Some(folder) = folder("ofa-ground", &[Stage::Ground, Stage::Whole]) {
            networks.grounder = Some(Arc::new(OfaGrounder::load(&folder, device, dtype)?));
        }
        if let Some(folder) = folder("sam", &[Stage::Encode, Stage::Segment, Stage::Whole]) {
            networks.segmenter = Some(Arc::new(Sam::load(&folder, device, dtype)?));
        }
        Ok(networks)
    }
}
