//! From tensors to posts.

use serde::Deserializer;
use serde::de::{DeserializeSeed, SeqAccess, Visitor};

use super::types::{InferInput, InferRequest};
use super::{BYTES, IMAGE, OPTIONS, RESULT, TEXT};
use crate::http::Limits;
use crate::http::parse::{self, ParsedPost, PostParts};
use crate::http::problem::Problem;

/// The posts of a request.
///
/// # Errors
/// `invalid_input`, `malformed_request` where options are not JSON, `payload_too_large`.
pub fn posts(request: InferRequest, limits: &Limits) -> Result<Vec<ParsedPost>, Problem> {
    let asked = request.outputs.unwrap_or_default();
    if asked.iter().any(|output| output.name != RESULT) {
        return Err(Problem::invalid("`outputs`: there is only `result`"));
    }
    let [text, image, options] = tensors(&request.inputs, limits)?;
    let texts = text.ok_or_else(|| Problem::invalid("`inputs`: the tensor `text` is missing"))?;
    let count = texts.len();
    let mut images = Column::of(IMAGE, image, count)?;
    let mut options = Column::of(OPTIONS, options, count)?;
    let post = |text| {
        let image = images.next().map(|data| parse::base64_file(&data, limits)).transpose()?;
        let options = options.next().map(|text| parse::json(text.as_bytes())).transpose()?;
        parse::post_of_parts(PostParts { id: request.id.clone(), text, image, options }, limits)
    };
    texts.into_iter().map(post).collect()
}

/// The elements of `text`, `image` and `options`, where they were sent.
fn tensors(inputs: &[InferInput], limits: &Limits) -> Result<[Option<Vec<String>>; 3], Problem> {
    let mut found = [None, None, None];
    for input in inputs {
        let place = [TEXT, IMAGE, OPTIONS].iter().position(|name| *name == input.name);
        let place = place.ok_or_else(|| {
            Problem::invalid("`inputs`: the tensors are `text`, `image` and `options`")
        })?;
        let elements = elements(input, limits.max_batch_items)?;
        if found[place].replace(elements).is_some() {
            return Err(Problem::invalid(format!("`inputs`: `{}` comes twice", input.name)));
        }
    }
    Ok(found)
}

/// The elements of one tensor, at most `limit`.
fn elements(input: &InferInput, limit: usize) -> Result<Vec<String>, Problem> {
    let InferInput { name, shape, datatype, data, .. } = input;
    if datatype != BYTES {
        return Err(Problem::invalid(format!("`{name}`: its datatype must be BYTES")));
    }
    let mut found = Elements { kept: Vec::new(), count: 0, limit };
    let mut reader = serde_json::Deserializer::from_str(data.get());
    found.deserialize(&mut reader).map_err(|error| {
        tracing::debug!(%error, "a tensor that could not be read");
        Problem::invalid(format!("`{name}`: its data must be a list of strings"))
    })?;
    if found.count > limit {
        let detail =
            format!("`{name}` has {} elements, and at most {limit} are allowed", found.count);
        return Err(Problem::invalid(detail));
    }
    let shaped = shape.iter().try_fold(1_u64, |product, side| product.checked_mul(*side));
    if shape.is_empty() || shaped != Some(found.count as u64) {
        return Err(Problem::invalid(format!("`{name}`: its shape does not fit its data")));
    }
    Ok(found.kept)
}

/// The elements of a tensor that has one per post, or none at all where it was left out.
struct Column(std::vec::IntoIter<String>);

impl Column {
    fn of(name: &str, elements: Option<Vec<String>>, count: usize) -> Result<Self, Problem> {
        match elements {
            Some(elements) if elements.len() != count => {
                Err(Problem::invalid(format!("`{name}` must have as many elements as `text`")))
            }
            elements => Ok(Self(elements.unwrap_or_default().into_iter())),
        }
    }

    fn next(&mut self) -> Option<String> {
        self.0.next()
    }
}

/// Strings in lists however deep; beyond the limit they are only counted, so that a body of many
/// tiny ones takes up no more memory than itself.
struct Elements {
    kept: Vec<String>,
    count: usize,
    limit: usize,
}

impl<'de> DeserializeSeed<'de> for &mut Elements {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &mut Elements {
    type Value = ();

    fn expecting(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        formatter.write_str("strings")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        self.count += 1;
        if self.count <= self.limit {
            self.kept.push(text.to_owned());
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        while sequence.next_element_seed(&mut *self)?.is_some() {}
        Ok(())
    }
}
