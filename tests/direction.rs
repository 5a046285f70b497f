//! Imports point downwards only: `cli → {corpus, bench, eval} → http → pipeline → batch → models → {vision, mask}`, with
//! `pack` feeding `models`. Read from the source, so that a shortcut cannot slip in.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Which rooms each room may import from. `telemetry` holds names only and is open to all that
/// report something.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    (
        "cli",
        &[
            "corpus",
            "bench",
            "eval",
            "overlay",
            "http",
            "pipeline",
            "pack",
            "batch",
            "models",
            "mask",
            "vision",
            "telemetry",
        ],
    ),
    ("bench", &["pipeline", "pack", "models", "vision"]),
    ("corpus", &["http", "pipeline", "batch", "vision"]),
    ("eval", &["overlay", "models", "mask", "vision", "telemetry"]),
    ("http", &["pipeline", "batch", "models", "mask", "vision", "telemetry"]),
    ("pipeline", &["batch", "models", "mask", "vision", "telemetry"]),
    ("batch", &["models", "mask", "vision", "telemetry"]),
    ("pack", &["models"]),
    ("models", &["mask", "vision"]),
    ("overlay", &["mask", "vision"]),
    ("mask", &["vision"]),
    ("vision", &[]),
    ("telemetry", &[]),
];

/// Crates that only some rooms may know.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("axum", &["http"]),
    ("hyper", &["http"]),
    ("tower_http", &["http"]),
    ("utoipa", &["http"]),
    ("tokio", &["http", "pipeline", "batch", "cli", "corpus"]),
    ("clap", &["cli"]),
    ("anyhow", &["cli", "corpus"]),
];

fn source_files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            source_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The room that a file belongs to: its folder or file right under `src`.
fn room_of(file: &Path, src: &Path) -> String {
    let relative = file.strip_prefix(src).unwrap();
    let first = relative.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// Code without comments: an intra-doc link is no import.
fn code(file: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// The words that follow `crate::`, alone or as the heads of a `{…}` list.
fn imported_rooms(code: &str) -> BTreeSet<String> {
    let word = |text: &str| -> String {
        text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let mut rooms = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(list) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut item_begins = true;
            for (i, c) in list.char_indices() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => item_begins = true,
                    c if c.is_alphanumeric() && item_begins => {
                        rooms.insert(word(&list[i..]));
                        item_begins = false;
                    }
                    _ => {}
                }
            }
        } else {
            rooms.insert(word(rest));
        }
    }
    rooms
}

fn rooms_and_code() -> Vec<(PathBuf, String, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    source_files(&src, &mut files);
    files
        .into_iter()
        .map(|file| (file.clone(), room_of(&file, &src), code(&file)))
        .filter(|(_, room, _)| room != "lib" && room != "main")
        .collect()
}

#[test]
fn imports_point_downwards() {
    let mut upward = Vec::new();
    for (file, room, code) in rooms_and_code() {
        let (_, allowed) = MAY_IMPORT
            .iter()
            .find(|(name, _)| *name == room)
            .unwrap_or_else(|| panic!("{room} is a new room: give it a place in MAY_IMPORT"));
        for target in imported_rooms(&code) {
            let is_room = MAY_IMPORT.iter().any(|(name, _)| *name == target);
            if is_room && target != room && !allowed.contains(&target.as_str()) {
                upward.push(format!("{} imports crate::{target}", file.display()));
            }
        }
    }
    assert!(upward.is_empty(), "upward imports:\n{}", upward.join("\n"));
}

#[test]
fn libraries_stay_in_their_rooms() {
    let mut strays = Vec::new();
    for (file, room, code) in rooms_and_code() {
        for (library, rooms) in ONLY_IN {
            let used = code.match_indices(&format!("{library}::")).any(|(at, _)| {
                !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
            });
            if used && !rooms.contains(&room.as_str()) {
                strays.push(format!("{} uses {library}", file.display()));
            }
        }
    }
    assert!(strays.is_empty(), "libraries out of their rooms:\n{}", strays.join("\n"));
}

#[test]
fn the_reader_sees_lists_and_paths() {
    let code = "use crate::{http, models::{sam, ofa}, vision};\nlet x = crate::batch::Cost(1);";
    let expected = ["batch", "http", "models", "vision"].map(str::to_owned);
    assert_eq!(imported_rooms(code), expected.into());
}
