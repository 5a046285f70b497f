//! Data sets, each in the form in which it is published.

mod coco;
mod conll;
mod gmner;
mod jsonl;
mod labelme;
mod outline;
mod riveg;

use std::path::{Path, PathBuf};

use super::gold::GoldPost;

pub use coco::{CocoQuestions, coco};
pub use conll::{ConllOptions, Sentence, conll, sentences};
pub use gmner::{GmnerPaths, gmner};
pub use jsonl::jsonl;
pub use labelme::labelme;
pub use riveg::{riveg_gold, riveg_predictions};

/// Why a data set cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{path}: {what}")]
    Content {
        /// The file, with the line where it has lines.
        path: String,
        /// What is wrong.
        what: String,
    },
}

pub(super) type Result<T> = std::result::Result<T, ReadError>;

/// A whole text file.
fn text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path)
        .map_err(|source| ReadError::File { path: path.to_owned(), source })
}

fn wrong(path: impl AsRef<Path>, what: impl ToString) -> ReadError {
    let path = path.as_ref().display().to_string();
    ReadError::Content { path, what: what.to_string() }
}

fn wrong_line(path: &Path, line: usize, what: impl ToString) -> ReadError {
    let path = format!("{}:{line}", path.display());
    ReadError::Content { path, what: what.to_string() }
}

/// Endings under which a post's picture is looked for.
const PICTURES: [&str; 5] = ["jpg", "jpeg", "png", "webp", "gif"];

/// Sets the picture of every post that `folder` has one for, named after the post.
fn find_images(posts: &mut [GoldPost], folder: Option<&Path>) {
    let Some(folder) = folder else { return };
    for post in posts {
        let files = PICTURES.iter().map(|ending| folder.join(format!("{}.{ending}", post.id)));
        post.image = files.into_iter().find(|file| file.is_file());
    }
}
