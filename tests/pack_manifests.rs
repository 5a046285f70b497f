//! The manifests in the repository: they can be read, say where every file comes from, and the
//! configurations beside them are those of the published networks.

use std::path::{Path, PathBuf};

use riveg::models::ofa::ModelConfig;
use riveg::models::sam;
use riveg::models::tagger;
use riveg::pack::{Manifest, Source};

fn pack(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name)
}

/// What has no source lies beside the manifest, or its absence is explained.
#[test]
fn every_file_is_here_or_can_be_had() {
    for name in ["nano", "public", "riveg"] {
        let directory = pack(name);
        let manifest = Manifest::read(&directory).unwrap();
        assert_eq!(manifest.name, name);
        for file in &manifest.files {
            let here = directory.join(&file.path).is_file();
            assert!(
                here != (file.source.is_some() || file.note.is_some()),
                "{name}: {}",
                file.path
            );
        }
    }
}

#[test]
fn the_public_pack_needs_nothing_of_ones_own() {
    let manifest = Manifest::read(&pack("public")).unwrap();
    assert!(manifest.files.iter().all(|file| file.note.is_none()));
    let local = |source: &Source| matches!(source, Source::Local(_));
    assert!(!manifest.files.iter().filter_map(|file| file.source.as_ref()).any(local));
}

/// A role finds its weights under one of the names that its loader looks for.
#[test]
fn every_role_has_weights() {
    for name in ["nano", "public", "riveg"] {
        let manifest = Manifest::read(&pack(name)).unwrap();
        let Manifest { tagger, entailer, grounder, segmenter, .. } = &manifest;
        for (role, entry) in [tagger, entailer, grounder, segmenter].into_iter().enumerate() {
            let names: &[&str] = match role {
                0 => &["model.safetensors", "pytorch_model.bin"],
                1 | 2 => &["model.safetensors", "model.pt"],
                _ => &["model.safetensors", "model.pth"],
            };
            let listed = |file: &&str| {
                let path = entry.path.join(file);
                manifest.files.iter().any(|listed| Path::new(&listed.path) == path)
            };
            assert_eq!(names.iter().filter(|file| listed(file)).count(), 1, "{name} {role}");
        }
    }
}

#[test]
fn configurations_are_the_published_ones() {
    for name in ["public", "riveg"] {
        for (role, side) in [("entailer", 480), ("grounder", 512)] {
            let text = std::fs::read(pack(name).join(role).join("config.json")).unwrap();
            let config: ModelConfig = serde_json::from_slice(&text).unwrap();
            config.validate().unwrap();
            assert_eq!((config.image_size, config.network().d_model), (side, 1024));
        }
    }
    let read = |name: &str| sam::Config::read(&pack(name).join("segmenter/config.json")).unwrap();
    assert_eq!(read("public"), sam::Config::vit_b());
    assert_eq!(read("riveg"), sam::Config::vit_h());
    let tagger = tagger::Config::read(&pack("riveg").join("tagger")).unwrap();
    assert_eq!((tagger.labels.len(), tagger.encoder.num_hidden_layers), (17, 24));
}
