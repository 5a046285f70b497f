//! Files that PyTorch wrote; `training/golden/checkpoints.py` makes them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use candle_nn::var_builder::SimpleBackend;

use crate::models::streamed::StreamedTensors;

const READ: [&str; 9] = [
    "zip.pth",
    "legacy.pth",
    "protocol4.pth",
    "legacy_protocol4.pth",
    "fairseq.pt",
    "fairseq_legacy.pt",
    "objects.pth",
    "parameters.pth",
    "averaged.pth",
];

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/checkpoints").join(name)
}

fn values(tensor: &Tensor) -> (Vec<usize>, Vec<f64>) {
    let flat = tensor.flatten_all().unwrap().to_dtype(DType::F64).unwrap();
    (tensor.dims().to_vec(), flat.to_vec1().unwrap())
}

/// Every tensor of a file, in f64.
fn tensors(path: &Path) -> HashMap<String, (Vec<usize>, Vec<f64>)> {
    let file = StreamedTensors::open(path, None).unwrap();
    let read = |name: &String| {
        let tensor = file.get_unchecked(name, DType::F64, &Device::Cpu).unwrap();
        (name.clone(), values(&tensor))
    };
    file.tensors().keys().map(read).collect()
}

#[test]
fn every_form_of_checkpoint_holds_the_same_tensors() {
    let expected = tensors(&file("expected.safetensors"));
    assert_eq!(expected.len(), 17);
    for name in READ {
        let read = tensors(&file(name));
        assert_eq!(read.len(), expected.len(), "{name}");
        for (tensor, expected) in &expected {
            assert_eq!(&read[tensor], expected, "{name}: {tensor}");
        }
    }
}

#[test]
fn types_are_those_that_were_saved() {
    let expected = StreamedTensors::open(&file("expected.safetensors"), None).unwrap();
    for name in READ {
        let read = StreamedTensors::open(&file(name), None).unwrap();
        for (tensor, expected) in expected.tensors() {
            assert_eq!(read.tensors()[tensor].dtype, expected.dtype, "{name}: {tensor}");
        }
    }
}

#[test]
fn settings_are_read_through_the_objects_that_hold_them() {
    for name in ["fairseq.pt", "fairseq_legacy.pt"] {
        let file = StreamedTensors::open(&file(name), Some("model")).unwrap();
        let settings = file.settings();
        assert_eq!(settings["args"]["arch"], "ofa_tiny", "{settings}");
        assert_eq!(settings["cfg"]["model"]["scale_attn"], true);
        assert_eq!(settings["cfg"]["model"]["dropout"], 0.5);
        assert!(settings["cfg"]["model"]["task"].is_null());
        assert_eq!(settings["cfg"]["task"]["bins"], 1000);
    }
}

#[test]
fn what_is_not_read_says_why_and_what_to_do() {
    for (name, why) in [
        ("refused_module.pth", "a whole pickled module"),
        ("refused_without.pth", "(lr, steps)"),
        ("refused_pickle.pth", "torch.save did not write"),
        ("refused_big_end.pth", "big end"),
        ("refused_compressed.pth", "compressed"),
    ] {
        let error = StreamedTensors::open(&file(name), None).err().unwrap().to_string();
        assert!(error.contains(name) && error.contains(why), "{error}");
        assert!(error.contains("python -c") && error.contains("save_file"), "{error}");
    }
    let some = StreamedTensors::open(&file("complex.pth"), None).unwrap();
    let get = |name| some.get_unchecked(name, DType::F32, &Device::Cpu);
    assert_eq!(values(&get("x").unwrap()).1, [1.0]);
    let error = get("c").unwrap_err().to_string();
    assert!(error.contains("ComplexFloatStorage") && error.contains("python -c"), "{error}");
}

/// The length of a header may look like the beginning of a pickle.
#[test]
fn safetensors_are_told_from_pickles_whatever_their_length() {
    assert!(!super::is_pickled(b"\x80\x02\x00\x00\x00\x00\x00\x00{\"a\":"));
    for pickled in [&b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9"[..], b"PK\x03\x04\0\0\0\0\0"] {
        assert!(super::is_pickled(pickled));
    }
    let tar = [&[0; 257][..], b"ustar"].concat();
    assert!(super::is_pickled(&tar) && !super::is_pickled(&tar[..257]));
}

/// Files that were cut anywhere, or of which a byte is another, are read or refused; nothing worse
/// happens, and no more memory is taken than the file could fill.
#[test]
fn damaged_files_do_no_harm() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["small.pth", "small_legacy.pth"] {
        let whole = std::fs::read(file(name)).unwrap();
        let path = directory.path().join(name);
        let check = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let Ok(opened) = StreamedTensors::open(&path, None) else { return false };
            for (tensor, located) in opened.tensors() {
                let bytes = located.elements().saturating_mul(8);
                assert!(bytes <= 8 * whole.len(), "{name}: {tensor} of {bytes} bytes");
                let _ = opened.get_unchecked(tensor, DType::F64, &Device::Cpu);
            }
            true
        };
        assert!(check(&whole));
        for length in 0..whole.len() {
            assert!(!check(&whole[..length]), "{name}: cut at {length}");
        }
        for at in 0..whole.len() {
            let mut other = whole.clone();
            other[at] ^= [0xff, 0x01, 0x80][at % 3];
            check(&other);
        }
    }
}
