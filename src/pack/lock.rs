//! Writes the list of a pack's files into its manifest.

use std::fs;
use std::io::Write;
use std::path::Path;

use toml_edit::{ArrayOfTables, DocumentMut, InlineTable, Item, Table, value};

use super::files::{failed, hash_of, role_files};
use super::{FileEntry, HubSource, LocalSource, MANIFEST, Manifest, PackError, Source, UrlSource};

/// The new manifest until it was read back; hidden, so that no list ever names it.
const DRAFT: &str = ".pack.toml.new";

/// Rewrites the `files` tables of the manifest in `directory` from the files that lie there, and
/// returns them. Everything else in the manifest stays, comments included. The manifest is replaced
/// at one stroke, and only by one that reads back as it should.
///
/// # Errors
/// When the manifest or a file cannot be read, or the manifest cannot be written.
pub fn lock(directory: &Path) -> Result<Vec<FileEntry>, PackError> {
    let manifest = Manifest::read(directory)?;
    let entry = |path: String| {
        let file = directory.join(&path);
        let bytes = fs::metadata(&file).map_err(|source| failed(&file, source))?.len();
        let known = manifest.files.iter().find(|file| file.path == path);
        let source = known.and_then(|file| file.source.clone());
        let note = known.and_then(|file| file.note.clone());
        let sha256 = Some(hash_of(&file)?);
        Ok(FileEntry { path, bytes: Some(bytes), sha256, source, note })
    };
    let paths = role_files(directory, &manifest)?.into_iter();
    let files = paths.map(entry).collect::<Result<Vec<_>, PackError>>()?;
    write_manifest(&directory.join(MANIFEST), directory, &files)?;
    Ok(files)
}

/// Writes the manifest at `model` with these files in place of those that it lists to `directory`.
pub(super) fn write_manifest(
    model: &Path,
    directory: &Path,
    files: &[FileEntry],
) -> Result<(), PackError> {
    let text = fs::read_to_string(model).map_err(|source| failed(model, source))?;
    let text = with_files(model, &text, files)?;
    let (path, draft) = (directory.join(MANIFEST), directory.join(DRAFT));
    let replaced = write_draft(model, &draft, &text)
        .and_then(|()| read_back(&draft, files))
        .and_then(|()| fs::rename(&draft, &path).map_err(|source| failed(&path, source)));
    if replaced.is_err() {
        // What went wrong is told; a draft that cannot be removed either adds nothing to it.
        let _ = fs::remove_file(&draft);
    }
    replaced
}

/// The manifest's text with these files in place of those that it listed.
fn with_files(path: &Path, text: &str, files: &[FileEntry]) -> Result<String, PackError> {
    let wrong = |message: String| PackError::Manifest { path: path.to_owned(), message };
    let mut document: DocumentMut =
        text.parse().map_err(|e: toml_edit::TomlError| wrong(e.to_string()))?;
    let mut tables = ArrayOfTables::new();
    for file in files {
        tables.push(table_of(file).map_err(&wrong)?);
    }
    // A comment above the list belongs to its first table.
    let old = document.remove("files");
    let old = old.as_ref().and_then(Item::as_array_of_tables).and_then(|tables| tables.get(0));
    if let (Some(old), Some(new)) = (old, tables.get_mut(0)) {
        *new.decor_mut() = old.decor().clone();
    }
    document.insert("files", Item::ArrayOfTables(tables));
    Ok(document.to_string())
}

fn table_of(file: &FileEntry) -> Result<Table, String> {
    let mut table = Table::new();
    table.insert("path", value(&file.path));
    if let Some(bytes) = file.bytes {
        let bytes = i64::try_from(bytes).map_err(|_| format!("{} is too large", file.path))?;
        table.insert("bytes", value(bytes));
    }
    if let Some(sha256) = &file.sha256 {
        table.insert("sha256", value(sha256));
    }
    if let Some(source) = &file.source {
        table.insert("source", value(inline(source)?));
    }
    if let Some(note) = &file.note {
        table.insert("note", value(note));
    }
    Ok(table)
}

/// One line for where a file comes from.
fn inline(source: &Source) -> Result<InlineTable, String> {
    let entries = match source {
        Source::Hub(HubSource { hub, revision, file }) => {
            vec![("hub", hub.as_str()), ("revision", revision), ("file", file)]
        }
        Source::Url(UrlSource { url }) => vec![("url", url.as_str())],
        Source::Local(LocalSource { path }) => {
            let text = path.to_str().ok_or_else(|| format!("{} is not UTF-8", path.display()))?;
            vec![("path", text)]
        }
    };
    Ok(entries.into_iter().collect())
}

fn write_draft(path: &Path, draft: &Path, text: &str) -> Result<(), PackError> {
    let write = || {
        let mut file = fs::File::create(draft)?;
        file.set_permissions(fs::metadata(path)?.permissions())?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|source| failed(draft, source))
}

fn read_back(draft: &Path, files: &[FileEntry]) -> Result<(), PackError> {
    if Manifest::read_file(draft)?.files == files {
        return Ok(());
    }
    let message = "does not read back as it was written".to_owned();
    Err(PackError::Manifest { path: draft.to_owned(), message })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) const MANIFEST_TEXT: &str = r#"# kept; a comment may say [[files]]
name = "tiny"
version = "1"
licence = "Apache-2.0"
entailment_threshold = 0.5
tagger = { architecture = "t", path = "a" }
expander = { architecture = "type" }
entailer = { architecture = "d", path = "b" }
grounder = { architecture = "d", path = "./b" }
segmenter = { architecture = "s", path = "a" }
"#;

    /// SHA-256 of "abc": FIPS 180-2's own example.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    pub(in super::super) fn pack() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(MANIFEST), MANIFEST_TEXT).unwrap();
        for (folder, name, content) in [("a", "x.bin", "abc"), ("b", "y.bin", "")] {
            fs::create_dir(directory.path().join(folder)).unwrap();
            fs::write(directory.path().join(folder).join(name), content).unwrap();
        }
        directory
    }

    fn text(pack: &Path) -> String {
        fs::read_to_string(pack.join(MANIFEST)).unwrap()
    }

    fn paths(files: &[FileEntry]) -> Vec<&str> {
        files.iter().map(|file| file.path.as_str()).collect()
    }

    #[test]
    fn every_file_is_listed_and_the_rest_stays() {
        let pack = pack();
        let files = lock(pack.path()).unwrap();
        assert_eq!(paths(&files), ["a/x.bin", "b/y.bin"]);
        assert_eq!((files[0].bytes, files[0].sha256.as_deref()), (Some(3), Some(ABC)));
        let once = text(pack.path());
        assert!(once.starts_with(MANIFEST_TEXT), "{once}");
        assert_eq!(lock(pack.path()).unwrap(), files);
        assert_eq!(text(pack.path()), once, "locking twice changes nothing");
        assert!(!pack.path().join(DRAFT).exists());
    }

    #[test]
    fn the_repositorys_own_manifest_is_written_as_it_is() {
        let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/models/nano/pack.toml"));
        let text = fs::read_to_string(path).unwrap();
        let files = Manifest::read_file(path).unwrap().files;
        assert_eq!(with_files(path, &text, &files).unwrap(), text);
    }

    #[test]
    fn comments_and_later_tables_survive() {
        let pack = pack();
        let manifest = MANIFEST_TEXT.replace("expander = { architecture = \"type\" }\n", "")
            + "# above\n[[files]] # beside\npath = \"old\"\nbytes = 1\nsha256 = \"0\"\n\n# the last\n[expander]\narchitecture = \"type\"\n";
        fs::write(pack.path().join(MANIFEST), manifest).unwrap();
        assert_eq!(lock(pack.path()).unwrap().len(), 2);
        let text = text(pack.path());
        for kept in ["may say [[files]]", "# above", "# beside", "# the last\n[expander]"] {
            assert!(text.contains(kept), "{kept}: {text}");
        }
        assert!(!text.contains("\"old\""), "{text}");
    }

    #[test]
    fn a_role_may_lie_in_the_packs_own_folder() {
        for root in ["", ".", "./"] {
            let pack = pack();
            let manifest = MANIFEST_TEXT.replace("path = \"a\"", &format!("path = {root:?}"));
            fs::write(pack.path().join(MANIFEST), manifest).unwrap();
            fs::write(pack.path().join("model.bin"), "abc").unwrap();
            assert_eq!(paths(&lock(pack.path()).unwrap()), ["b/y.bin", "model.bin"], "{root:?}");
            Manifest::read(pack.path()).unwrap();
        }
    }

    #[cfg(unix)]
    #[test]
    fn names_may_hold_anything_and_links_are_followed() {
        let pack = pack();
        let odd = "a \"quoted\" \\ name\n.bin";
        fs::write(pack.path().join("b").join(odd), "abc").unwrap();
        let blob = pack.path().join("blob");
        fs::write(&blob, "abc").unwrap();
        std::os::unix::fs::symlink(&blob, pack.path().join("a/model.safetensors")).unwrap();
        let files = lock(pack.path()).unwrap();
        let odd = format!("b/{odd}");
        assert_eq!(paths(&files), ["a/model.safetensors", "a/x.bin", odd.as_str(), "b/y.bin"]);
        assert_eq!((files[0].bytes, files[0].sha256.as_deref()), (Some(3), Some(ABC)));
        assert_eq!(Manifest::read(pack.path()).unwrap().files, files);
        std::os::unix::fs::symlink("nowhere", pack.path().join("a/broken")).unwrap();
        let before = text(pack.path());
        assert!(lock(pack.path()).unwrap_err().to_string().contains("a/broken"));
        assert_eq!(text(pack.path()), before);
    }

    #[test]
    fn a_manifest_that_would_not_read_back_is_not_written() {
        let pack = pack();
        lock(pack.path()).unwrap();
        let mut files = Manifest::read(pack.path()).unwrap().files;
        let draft = pack.path().join(MANIFEST);
        assert!(read_back(&draft, &files).is_ok());
        files[0].bytes = Some(1);
        assert!(read_back(&draft, &files).is_err());
    }
}
