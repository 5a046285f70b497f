//! What is asked: one JSON object per line of a file.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::http::types::SmnerOptions;

/// A post to be answered.
#[derive(Debug, Clone)]
pub struct Post {
    /// Its text.
    pub text: String,
    /// Its picture's file.
    pub image: Option<PathBuf>,
    /// The route's `options`; null where there are none.
    pub options: Value,
}

/// Boxes of a picture to be turned into masks.
#[derive(Debug, Clone)]
pub struct Boxes {
    /// The picture's file.
    pub image: PathBuf,
    /// Boxes `x1 y1 x2 y2` in its pixels.
    pub boxes: Vec<Vec<f64>>,
}

/// Something to do, and what it is known by.
#[derive(Debug, Clone)]
pub struct Job<T> {
    /// Its id in the journal.
    pub id: String,
    /// What to do, or why it cannot be done.
    pub task: Result<T, String>,
}

#[derive(Deserialize)]
struct Line {
    id: Option<String>,
    text: String,
    image: Option<PathBuf>,
    #[serde(default)]
    options: Value,
}

/// The jobs of a corpus file: `{"id"?, "text", "image"?, "options"?}` per line, further fields
/// ignored. Pictures' paths are relative to `folder`. A line without an id is known by its number,
/// counted from 1; blank lines are no jobs. A line that is not of this form is a job that fails.
pub fn jobs(corpus: &str, folder: &Path) -> Vec<Job<Post>> {
    let lines = corpus.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines.map(|(index, line)| job(line, index + 1, folder)).collect()
}

fn job(line: &str, number: usize, folder: &Path) -> Job<Post> {
    match serde_json::from_str::<Line>(line) {
        Ok(line) => Job {
            id: line.id.unwrap_or_else(|| number.to_string()),
            task: check_options(&line.options).map(|()| Post {
                text: line.text,
                image: line.image.map(|image| folder.join(image)),
                options: line.options,
            }),
        },
        Err(error) => Job { id: number.to_string(), task: Err(format!("line {number}: {error}")) },
    }
}

fn check_options(options: &Value) -> Result<(), String> {
    Option::<SmnerOptions>::deserialize(options).map(|_| ()).map_err(|e| format!("options: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_lines_are_jobs_that_fail() {
        let corpus = concat!(
            r#"{"id": "a", "text": "x", "image": "p.jpg", "gold": {}}"#,
            "\n\nnonsense\n",
            r#"{"text": "y", "options": {"task": "mner"}}"#,
            "\n",
            r#"{"id": "c", "text": "y", "options": {"tusk": 1}}"#
        );
        let found = jobs(corpus, Path::new("/posts"));
        let ids: Vec<&str> = found.iter().map(|job| job.id.as_str()).collect();
        assert_eq!(ids, ["a", "3", "4", "c"]);
        let first = found[0].task.as_ref().unwrap();
        assert_eq!(first.image.as_deref(), Some(Path::new("/posts/p.jpg")));
        assert!(found[1].task.as_ref().unwrap_err().contains("line 3"));
        assert_eq!(found[2].task.as_ref().unwrap().options["task"], "mner");
        assert!(found[3].task.as_ref().unwrap_err().contains("tusk"));
    }
}
