//! PyTorch's pickled checkpoints: where each tensor of the state dict lies in the file, and the
//! plain settings that lie beside it. Nothing of a file is executed: a pickle's instructions build a
//! graph of plain values here, in which classes and calls are only names.
//!
//! Read are the zip containers that `torch.save` writes since 1.6 and the older streams of pickles,
//! in pickle protocols 2 to 5; subclasses of dict and other objects next to the state dict;
//! parameters, views and shared storages. After `torch/serialization.py`, `torch/_utils.py` and
//! Python's `pickletools`. What is not read is answered with [`Fault`], which says why.
//!
//! Candle has a reader too: for zip containers, protocol 2, whole or transposed storages and files
//! without subclasses of dict.

mod container;
mod graph;
mod machine;
mod settings;
mod tensors;

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use serde_json::Value;

use super::located::Located;

/// The first bytes of a zip archive.
const ZIP: [u8; 4] = *b"PK\x03\x04";
/// The number that the first pickle of an older file is, ten bytes long.
const LEGACY: [u8; 12] = *b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
/// Bytes in which it stands, behind the protocol and the length of a frame.
const LEGACY_WITHIN: usize = 24;
/// The opcode with which pickles begin.
const PROTOCOL: u8 = 0x80;
/// Where the oldest of PyTorch's files, which are tar archives, say so.
const TAR_MARK: (usize, &[u8]) = (257, b"ustar");

/// Why a checkpoint is not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The file cannot be read.
    #[error(transparent)]
    Read(#[from] std::io::Error),
    /// It is not what `torch.save` writes, or not any more.
    #[error("the file is damaged: {0}")]
    Damaged(&'static str),
    /// It is a form of checkpoint that is not read here.
    #[error("{0}")]
    Unknown(String),
}

/// What a checkpoint holds.
pub(super) struct Pickled {
    /// The tensors of the state dict, by name.
    pub(super) tensors: Vec<(String, Located)>,
    /// `cfg` and `args`, where fairseq keeps a network's flags, as JSON; `Null` without.
    pub(super) settings: Value,
}

/// Whether a file that begins so is one of PyTorch's, whatever its name says.
pub(super) fn is_pickled(start: &[u8]) -> bool {
    // A safetensors header is JSON behind its length, which may be any number.
    if start.get(8) == Some(&b'{') && start[4..8] == [0; 4] {
        return false;
    }
    let (at, mark) = TAR_MARK;
    let tar = start.get(at..).is_some_and(|rest| rest.starts_with(mark));
    start.starts_with(&ZIP) || start.first() == Some(&PROTOCOL) || tar
}

/// Reads what the file holds. Its state dict may lie under the key `wrapper`, or under one of those
/// that are usual.
///
/// # Errors
/// It is not read here, and why.
pub(super) fn read(file: &mut File, wrapper: Option<&str>) -> Result<Pickled, Fault> {
    let length = file.metadata()?.len();
    let mut start = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    (&mut *file).take(LEGACY_WITHIN as u64).read_to_end(&mut start)?;
    file.seek(SeekFrom::Start(0))?;
    let content = if start.starts_with(&ZIP) {
        container::zip(BufReader::new(file), length)?
    } else if start.windows(LEGACY.len()).any(|number| number == LEGACY) {
        container::legacy(BufReader::new(file), length)?
    } else if start.first() == Some(&PROTOCOL) {
        return Err(Fault::Unknown("it is a pickle that torch.save did not write".to_owned()));
    } else {
        return Err(Fault::Unknown("it is a tar archive, as PyTorch wrote before 0.4".to_owned()));
    };
    let tensors = tensors::of(&content, wrapper, length)?;
    Ok(Pickled { tensors, settings: settings::of(&content) })
}

/// What to do with a checkpoint that is not read here.
pub(super) fn remedy(path: &Path) -> String {
    format!(
        "where you trust the file, PyTorch writes what is read: python -c \"import sys, torch, \
         safetensors.torch as s; d = torch.load(sys.argv[1], map_location='cpu', \
         weights_only=False); d = d.state_dict() if hasattr(d, 'state_dict') else d; d = \
         d.get('model', d.get('state_dict', d)); s.save_file({{k: v.detach().clone().contiguous() \
         for k, v in d.items() if torch.is_tensor(v)}}, sys.argv[2])\" '{}' model.safetensors",
        path.display()
    )
}

#[cfg(test)]
mod tests;
