//! Where a pack lies.

use std::path::{Path, PathBuf};

use super::{MANIFEST, PackError};

/// Finds the directory of a pack: `name` itself when it is a directory with a manifest, else
/// `name` below `models_dir`, `./models`, the package's own `models` under `cargo run`, a
/// `models` folder beside the executable, or `/usr/share/riveg/models`.
///
/// # Errors
/// [`PackError::NotFound`] with the directories that were looked at.
pub fn locate(name: &str, models_dir: Option<&Path>) -> Result<PathBuf, PackError> {
    let mut candidates = vec![PathBuf::from(name)];
    if !name.contains(['/', '\\']) {
        candidates.extend(model_directories(models_dir).map(|directory| directory.join(name)));
    }
    match candidates.iter().find(|directory| directory.join(MANIFEST).is_file()) {
        Some(directory) => Ok(directory.clone()),
        None => Err(PackError::NotFound { name: name.to_owned(), searched: candidates }),
    }
}

fn model_directories(given: Option<&Path>) -> impl Iterator<Item = PathBuf> {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").map(|dir| Path::new(&dir).join("models"));
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("models")));
    [
        given.map(Path::to_owned),
        Some(PathBuf::from("models")),
        package,
        beside,
        Some(PathBuf::from("/usr/share/riveg/models")),
    ]
    .into_iter()
    .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_by_directory_and_by_name() {
        let models = tempfile::tempdir().unwrap();
        let pack = models.path().join("mine");
        std::fs::create_dir(&pack).unwrap();
        std::fs::write(pack.join(MANIFEST), "").unwrap();
        assert_eq!(locate("mine", Some(models.path())).unwrap(), pack);
        assert_eq!(locate(pack.to_str().unwrap(), None).unwrap(), pack);
    }

    #[test]
    fn says_where_it_looked() {
        let models = tempfile::tempdir().unwrap();
        let error = locate("absent", Some(models.path())).unwrap_err();
        assert!(error.to_string().contains(&models.path().join("absent").display().to_string()));
    }
}
