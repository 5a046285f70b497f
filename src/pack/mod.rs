//! Packs: a directory with a `pack.toml` that says which architecture fills each role, from which
//! files, each with its size and SHA-256.

mod convert;
mod files;
mod inspect;
mod load;
mod locate;
mod lock;
mod manifest;
mod plan;
mod pull;
mod source;
mod verify;

pub use crate::models::is_weights;
pub use convert::{ConvertObserver, Converted, Role, convert_folder, convert_pack};
pub use inspect::{TensorSummary, WeightSummary, inspect_weights};
pub use load::{LoadObserver, LoadedPack, load};
pub use locate::locate;
pub use lock::lock;
pub use manifest::{ExpanderEntry, FileEntry, Manifest, RoleEntry, WeightType, WeightTypes};
pub use plan::{MemoryPlan, RolePlan, plan};
pub use pull::{Cache, PullError, PullObserver, PullOptions, Token, pull};
pub use source::{HubSource, LocalSource, Source, UrlSource};
pub use verify::{FileReport, FileState, verify};

use std::path::PathBuf;

use crate::models::ModelError;

/// The name of the manifest inside a pack's directory.
pub const MANIFEST: &str = "pack.toml";

/// What can go wrong with a pack.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// No directory of that name.
    #[error("no pack `{name}`: looked for pack.toml in {}", display_paths(.searched))]
    NotFound {
        /// What was asked for.
        name: String,
        /// The directories that were looked at.
        searched: Vec<PathBuf>,
    },
    /// A file could not be read.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The manifest is not what it should be.
    #[error("{path}: {message}")]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A file is not the one that the manifest names.
    #[error("{path}: {state}")]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// How it differs.
        state: FileState,
    },
    /// A pack whose files were not pulled, or whose manifest changed since.
    #[error("the files of pack `{name}` {why}: run `riveg pack pull {name}` first")]
    NotPulled {
        /// The pack.
        name: String,
        /// E.g. `are not here`.
        why: &'static str,
    },
    /// A file could not be pulled.
    #[error("{path}: {source}")]
    Pull {
        /// The file, relative to the pack.
        path: String,
        /// Why.
        source: PullError,
    },
    /// A role names an architecture that this build does not know for it.
    #[error("{role}: unknown architecture `{architecture}` (known: {known})")]
    UnknownArchitecture {
        /// The role.
        role: &'static str,
        /// What the manifest says.
        architecture: String,
        /// What would do.
        known: &'static str,
    },
    /// A weight file cannot be read.
    #[error(transparent)]
    Weights(ModelError),
    /// A network could not be loaded.
    #[error("{role}: {source}")]
    Model {
        /// The role.
        role: &'static str,
        /// Why.
        source: ModelError,
    },
}

fn display_paths(paths: &[PathBuf]) -> String {
    paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
}
