//! What can go wrong in a network.

/// The result of anything in [`crate::models`].
pub type Result<T> = std::result::Result<T, ModelError>;

/// What can go wrong while a network is loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A tensor operation failed.
    #[error("tensor operation: {0}")]
    Tensor(#[from] candle_core::Error),
    /// A tokenizer file is unreadable, or encoding failed.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// A configuration or weight file lacks something or contradicts itself.
    #[error("weights: {0}")]
    Weights(String),
    /// A file could not be read.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The network answered with NaN or infinity.
    #[error("{0}: the network's output is not finite")]
    NotFinite(&'static str),
}
