//! `riveg pack` as a process.

use std::path::Path;
use std::process::{Command, Output};

fn riveg(cache: &Path, arguments: &[&str]) -> Output {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    Command::new(env!("CARGO_BIN_EXE_riveg"))
        .args(arguments)
        .env("RIVEG_MODELS_DIR", models)
        .env("RIVEG_CACHE_DIR", cache)
        .env_remove("RIVEG_PACK")
        .output()
        .unwrap()
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_pack_that_was_not_pulled_says_what_to_do() {
    let cache = tempfile::tempdir().unwrap();
    for arguments in
        [&["serve", "--port", "0", "--pack", "public"][..], &["pack", "verify", "public"]]
    {
        let output = riveg(cache.path(), arguments);
        let (_, error) = texts(&output);
        assert!(!output.status.success() && error.contains("riveg pack pull public"), "{error}");
    }
    let (shown, _) = texts(&riveg(cache.path(), &["pack", "inspect", "public"]));
    assert!(shown.contains("dl.fbaipublicfiles.com"), "{shown}");
}

#[test]
fn offline_pulls_name_what_is_missing() {
    let cache = tempfile::tempdir().unwrap();
    let output = riveg(cache.path(), &["pack", "pull", "public", "--offline"]);
    let (_, error) = texts(&output);
    assert!(!output.status.success(), "{error}");
    assert!(error.contains("tagger/config.json") && error.contains("--offline"), "{error}");
    let (_, error) = texts(&riveg(cache.path(), &["pack", "pull", "riveg", "--offline"]));
    assert!(error.contains("AdaSeq"), "{error}");
}

#[test]
fn nano_is_inspected_as_json() {
    let cache = tempfile::tempdir().unwrap();
    let output = riveg(cache.path(), &["pack", "inspect", "nano", "--json"]);
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(shown["manifest"]["name"], "nano");
    assert_eq!(shown["weights"].as_array().unwrap().len(), 3);
    let bytes = |dtype: &str| shown["memory"][dtype]["weights"].as_u64().unwrap();
    assert!(bytes("auto") > bytes("bf16"));
}

/// A pack that needs no pulling works where there is no place for a cache.
#[test]
fn nano_needs_no_cache() {
    let output = Command::new(env!("CARGO_BIN_EXE_riveg"))
        .args(["pack", "verify", concat!(env!("CARGO_MANIFEST_DIR"), "/models/nano")])
        .env_clear()
        .output()
        .unwrap();
    assert!(output.status.success(), "{:?}", texts(&output));
}
