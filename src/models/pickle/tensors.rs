//! The state dict in a saved object, and where its tensors lie.

use safetensors::Dtype;

use super::Fault;
use super::container::Content;
use super::graph::{MAX_DEPTH, Node, Ref};
use crate::models::located::{Located, Place};

/// Keys under which state dicts usually lie, in the order in which they are looked for: trained
/// weights before their moving averages.
const WRAPPERS: [&str; 9] = [
    "model",
    "state_dict",
    "model_state_dict",
    "module",
    "network",
    "net",
    "params",
    "ema_state_dict",
    "ema",
];
/// What data-parallel training puts before every name.
const PARALLEL: &str = "module.";
/// Calls that wrap the tensor which is their first argument.
const PARAMETERS: [&str; 2] = ["_rebuild_parameter", "_rebuild_parameter_with_state"];
/// Calls that make a tensor of a storage, an offset, a size and strides.
const VIEWS: [&str; 2] = ["_rebuild_tensor", "_rebuild_tensor_v2"];
/// The call that makes a tensor of a subclass: of another call, the class, that call's arguments,
/// and attributes.
const SUBCLASS: (&str, &str) = ("torch._tensor", "_rebuild_from_type_v2");
/// Dimensions of a tensor; more than any layer has.
const MAX_RANK: usize = 16;

/// The tensors of the state dict, below `wrapper`, a usual key, or at the top.
///
/// # Errors
/// There is none.
pub(super) fn of(
    content: &Content,
    wrapper: Option<&str>,
    length: u64,
) -> Result<Vec<(String, Located)>, Fault> {
    let found = find(content, content.root, wrapper, 0);
    let tensors = found.ok_or_else(|| Fault::Unknown(without_tensors(content)))?;
    let parallel = tensors.iter().all(|(name, _)| name.starts_with(PARALLEL));
    let located = tensors.into_iter().map(|(name, tensor)| {
        let name = if parallel { &name[PARALLEL.len()..] } else { &name };
        (name.to_owned(), tensor.located(content, length))
    });
    Ok(located.collect())
}

/// What there is instead of a state dict.
fn without_tensors(content: &Content) -> String {
    let graph = &content.graph;
    let state = graph.attributes(content.root);
    if state.is_some_and(|state| graph.get(state, "_parameters").is_some()) {
        return "it holds a whole pickled module, no state dict".to_owned();
    }
    let items = graph.items(content.root);
    let keys: Vec<&str> = items.iter().filter_map(|(key, _)| graph.text(*key)).take(10).collect();
    match keys.as_slice() {
        [] => "it holds no state dict".to_owned(),
        keys => format!("no state dict under any of its keys ({})", keys.join(", ")),
    }
}

/// The state dict's tensors in the value at `at`.
fn find(
    content: &Content,
    at: Ref,
    wrapper: Option<&str>,
    depth: usize,
) -> Option<Vec<(String, Tensor)>> {
    if depth > 3 {
        return None;
    }
    let wrappers = wrapper.into_iter().chain(WRAPPERS);
    let mut inner = wrappers.filter_map(|key| content.graph.get(at, key));
    if let Some(found) = inner.find_map(|inner| find(content, inner, wrapper, depth + 1)) {
        return Some(found);
    }
    let items = content.graph.items(at);
    let tensors = items.iter().filter_map(|&(name, value)| {
        Some((content.graph.text(name)?.to_owned(), Tensor::read(content, value, 0)?))
    });
    let tensors: Vec<_> = tensors.collect();
    (!tensors.is_empty()).then_some(tensors)
}

/// A tensor as it was pickled.
enum Tensor {
    /// A view of a storage: the storage, its first element, its size, its strides.
    View(Ref, u64, Vec<u64>, Vec<u64>),
    /// One of another kind, and which.
    Other(String),
}

impl Tensor {
    /// The tensor that a value is, if it is one.
    fn read(content: &Content, at: Ref, depth: usize) -> Option<Self> {
        let graph = &content.graph;
        if depth > MAX_DEPTH || !matches!(graph.node(at), Node::Object(_)) {
            return None;
        }
        let (function, arguments) = (graph.class(at)?, graph.arguments(at)?);
        if function != SUBCLASS {
            return Self::made_by(content, function, arguments, depth);
        }
        let made = graph.class(*arguments.first()?)?;
        Self::made_by(content, made, graph.elements(*arguments.get(2)?)?, depth)
    }

    /// What this function of PyTorch's makes of these arguments.
    fn made_by(
        content: &Content,
        (module, name): (&str, &str),
        arguments: &[Ref],
        depth: usize,
    ) -> Option<Self> {
        if module != "torch._utils" || !name.starts_with("_rebuild") {
            return None;
        }
        if PARAMETERS.contains(&name) {
            return Self::read(content, *arguments.first()?, depth + 1);
        }
        let view = VIEWS.contains(&name).then(|| Self::view(content, arguments)).flatten();
        Some(view.unwrap_or_else(|| Self::Other(name.to_owned())))
    }

    fn view(content: &Content, arguments: &[Ref]) -> Option<Self> {
        let graph = &content.graph;
        let Node::Storage(storage) = graph.node(*arguments.first()?) else { return None };
        let offset = graph.count(*arguments.get(1)?)?;
        let numbers = |index: usize| graph.counts(*arguments.get(index)?);
        Some(Self::View(*storage, offset, numbers(2)?, numbers(3)?))
    }

    fn located(&self, content: &Content, length: u64) -> Located {
        match self {
            Self::Other(kind) => Located::unreadable(&[], format!("it was made by {kind}")),
            Self::View(storage, offset, size, strides) => {
                let shape: Vec<usize> = size.iter().map(|&n| n as usize).collect();
                match place(content, (*storage, *offset), (size, strides), length) {
                    Ok((dtype, place)) => Located { dtype, shape, place },
                    Err(why) => Located::unreadable(&shape, why),
                }
            }
        }
    }
}

/// Type and place of a view, once it is certain that it lies inside its storage and is not larger
/// than the file.
fn place(
    content: &Content,
    (storage, offset): (Ref, u64),
    (size, strides): (&[u64], &[u64]),
    length: u64,
) -> Result<(Dtype, Place), String> {
    let outside = "it lies outside of its storage";
    let (dtype, start, bytes) = content.storage(storage)?;
    let width = dtype.bitsize() as u64 / 8;
    if size.len() != strides.len() || size.len() > MAX_RANK {
        return Err("it has no shape that a tensor has".to_owned());
    }
    let elements = size.iter().try_fold(1u64, |product, &n| product.checked_mul(n));
    let elements = elements.filter(|&n| n.checked_mul(width).is_some_and(|n| n <= length));
    let elements = elements.ok_or("it is larger than the file")?;
    let last = size.iter().zip(strides).try_fold(0u64, |last, (&n, &stride)| {
        n.saturating_sub(1).checked_mul(stride)?.checked_add(last)
    });
    let end = last.and_then(|last| last.checked_add(offset)?.checked_add(1)?.checked_mul(width));
    if elements > 0 && end.is_none_or(|end| end > bytes) {
        return Err(outside.to_owned());
    }
    let start = start + if elements > 0 { offset * width } else { 0 };
    let contiguous = is_contiguous(size, strides) || elements == 0;
    let place = match contiguous {
        true => Place::Whole(start),
        false => Place::Strided(start, strides.iter().map(|&n| n as usize).collect()),
    };
    Ok((dtype, place))
}

/// Whether elements follow each other as they lie, the last dimension fastest.
fn is_contiguous(size: &[u64], strides: &[u64]) -> bool {
    let mut expected = 1;
    size.iter().zip(strides).rev().all(|(&n, &stride)| {
        let fits = n == 1 || stride == expected;
        expected *= n;
        fits
    })
}
