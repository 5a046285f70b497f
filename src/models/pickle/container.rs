//! The two containers: where the pickle of the object is, and where each storage begins.

use std::collections::HashMap;
use std::io::{BufRead, Read, Seek, SeekFrom};

use safetensors::Dtype;
use zip::{CompressionMethod, ZipArchive};

use super::graph::{Graph, Node, Ref};
use super::{Fault, machine};

/// The pickle's name inside a zip archive, below a folder of any name.
const PICKLE: &str = "data.pkl";

/// What a file holds: the object that was saved, and the bytes that it refers to.
pub(super) struct Content {
    pub(super) graph: Graph,
    pub(super) root: Ref,
    /// Where each storage begins in the file, and its bytes.
    pub(super) storages: HashMap<String, (u64, u64)>,
}

/// What a pickle says of a storage.
pub(super) struct Storage {
    pub(super) key: String,
    /// Type of its elements, where they are of one that is read here.
    pub(super) dtype: Result<Dtype, String>,
    /// Bytes of an element.
    width: u64,
    elements: u64,
    /// Elements of the storage under that key which come before this one; of the older container.
    pub(super) offset: u64,
}

impl Storage {
    /// Reads the tuple that identifies it: `("storage", type, key, device, elements)`, in the older
    /// container with `(key, offset, elements)` where it is a part of another.
    pub(super) fn read(graph: &Graph, id: Ref) -> Option<Self> {
        let parts = graph.elements(id)?;
        let (dtype, width) = element(graph.class(*parts.get(1)?)?);
        let view = parts.get(5).and_then(|&view| graph.elements(view));
        let offset = match view {
            Some(view) => graph.count(*view.get(1)?)?,
            None => 0,
        };
        Some(Self {
            key: graph.text(*parts.get(2)?)?.to_owned(),
            dtype,
            width,
            elements: graph.count(*parts.get(4)?)?,
            offset,
        })
    }
}

/// Type and bytes of the elements of a storage of this class.
fn element((_, class): (&str, &str)) -> (Result<Dtype, String>, u64) {
    let dtype = match class {
        "FloatStorage" => Dtype::F32,
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::BF16,
        "DoubleStorage" => Dtype::F64,
        "LongStorage" => Dtype::I64,
        "IntStorage" => Dtype::I32,
        "ShortStorage" => Dtype::I16,
        "ByteStorage" => Dtype::U8,
        "BoolStorage" => Dtype::BOOL,
        _ => {
            let width = match class {
                "ComplexDoubleStorage" => 16,
                "ComplexFloatStorage" => 8,
                "QInt32Storage" => 4,
                _ => 1,
            };
            return (Err(format!("its elements are of {class}")), width);
        }
    };
    (Ok(dtype), dtype.bitsize() as u64 / 8)
}

/// Opens the container that `torch.save` writes since 1.6.
pub(super) fn zip<R: BufRead + Seek>(file: R, length: u64) -> Result<Content, Fault> {
    let damaged = |_| Fault::Damaged("the zip archive does not end as it should");
    let mut archive = ZipArchive::new(file).map_err(damaged)?;
    let (mut pickle, mut storages) = (None, HashMap::new());
    for index in 0..archive.len() {
        let entry = archive.by_index(index);
        let entry = entry.map_err(|_| Fault::Damaged("an entry of the zip archive"))?;
        let name = entry.name().map_err(|_| Fault::Damaged("a name in the zip archive"))?;
        // Everything lies below one folder, which has any name.
        let Some((_, name)) = name.split_once('/') else { continue };
        let name = name.to_owned();
        let (start, bytes) = (entry.data_start().unwrap_or(length), entry.size());
        if entry.compression() != CompressionMethod::Stored || entry.encrypted() {
            return Err(Fault::Unknown("it is a zip archive with compressed entries".to_owned()));
        }
        if start.checked_add(bytes).is_none_or(|end| end > length) {
            return Err(Fault::Damaged("an entry of the zip archive ends behind the file"));
        }
        match name.strip_prefix("data/") {
            Some(key) => drop(storages.insert(key.to_owned(), (start, bytes))),
            None if name == PICKLE => pickle = Some((start, bytes)),
            None if name == "constants.pkl" => {
                return Err(Fault::Unknown(
                    "it is a TorchScript program, no state dict".to_owned(),
                ));
            }
            None if name == "byteorder" => refuse_big_end(entry)?,
            None => {}
        }
    }
    let (start, bytes) = pickle.ok_or_else(|| {
        Fault::Unknown("it is a zip archive that torch.save did not write".into())
    })?;
    let mut file = archive.into_inner();
    file.seek(SeekFrom::Start(start))?;
    let mut graph = Graph::default();
    let root = machine::run(&mut file.take(bytes), &mut graph)?;
    Ok(Content { graph, root, storages })
}

fn refuse_big_end(entry: impl Read) -> Result<(), Fault> {
    let mut order = String::new();
    entry.take(16).read_to_string(&mut order)?;
    match order.as_str() {
        "little" => Ok(()),
        _ => Err(big_end()),
    }
}

fn big_end() -> Fault {
    Fault::Unknown("its numbers have the big end first".to_owned())
}

/// Opens the container of before 1.6: a number, a version, the machine's properties, the object, the
/// keys of the storages, and the storages one after the other, each behind its number of elements.
pub(super) fn legacy<R: BufRead + Seek>(mut file: R, length: u64) -> Result<Content, Fault> {
    let mut graph = Graph::default();
    // The number that brought us here, and the version.
    machine::run(&mut file, &mut graph)?;
    machine::run(&mut file, &mut graph)?;
    let machine = machine::run(&mut file, &mut graph)?;
    let little = graph.get(machine, "little_endian");
    if little.is_some_and(|little| matches!(graph.node(little), Node::Bool(false))) {
        return Err(big_end());
    }
    let root = machine::run(&mut file, &mut graph)?;
    let keys = machine::run(&mut file, &mut graph)?;
    let keys = graph.elements(keys).unwrap_or_default();
    let widths = widths(&graph);
    let mut storages = HashMap::new();
    for &key in keys {
        let key = graph.text(key).ok_or(Fault::Damaged("a storage without a name"))?;
        let mut elements = [0; 8];
        let early = |_| Fault::Damaged("it ends before its last storage");
        file.read_exact(&mut elements).map_err(early)?;
        let start = file.stream_position()?;
        let width = widths.get(key).ok_or(Fault::Damaged("a storage that nobody refers to"))?;
        let end = u64::from_le_bytes(elements).checked_mul(*width);
        let end = end.and_then(|bytes| bytes.checked_add(start)).filter(|&end| end <= length);
        let end = end.ok_or(Fault::Damaged("it ends before its last storage"))?;
        storages.insert(key.to_owned(), (start, end - start));
        file.seek(SeekFrom::Start(end))?;
    }
    Ok(Content { graph, root, storages })
}

/// Bytes of an element of each storage that the object refers to.
fn widths(graph: &Graph) -> HashMap<String, u64> {
    let ids = graph.nodes().iter().filter_map(|node| match node {
        Node::Storage(id) => Some(*id),
        _ => None,
    });
    let storages = ids.filter_map(|id| Storage::read(graph, id));
    storages.map(|storage| (storage.key, storage.width)).collect()
}

impl Content {
    /// A storage's type and where it lies: its first byte and its bytes.
    pub(super) fn storage(&self, id: Ref) -> Result<(Dtype, u64, u64), String> {
        let storage = Storage::read(&self.graph, id);
        let storage = storage.ok_or("its storage is of a form that is not known")?;
        let dtype = storage.dtype?;
        let (start, bytes) = *self.storages.get(&storage.key).ok_or("its storage is missing")?;
        let before = storage.offset.checked_mul(storage.width).filter(|&before| before <= bytes);
        let before = before.ok_or("it lies outside of its storage")?;
        let announced = storage.elements.checked_mul(storage.width);
        let bytes = announced.map_or(bytes - before, |announced| announced.min(bytes - before));
        Ok((dtype, start + before, bytes))
    }
}
