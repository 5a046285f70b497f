//! From the wire to the pipeline: parse, don't validate. After this every value is legal.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::Deserializer;
use serde::de::{DeserializeOwned, IgnoredAny, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::limits::Limits;
use super::problem::{Code, Problem};
use super::types::{
    EntityInput, ImageInput, ImageSize, MaskFormat, SegmentBoxesRequest, SmnerOptions,
    SmnerRequest, TaskName, TypeName,
};
use crate::models::{CharSpan, EntityType};
use crate::pipeline::{GivenEntity, Options, Task};
use crate::vision::BoundingBox;

/// A post whose every value is legal, its picture not decoded yet.
#[derive(Debug)]
pub struct ParsedPost {
    /// The caller's own id.
    pub id: Option<String>,
    /// The text.
    pub text: Arc<str>,
    /// The picture's file.
    pub image: Option<Bytes>,
    /// What the caller set.
    pub options: Options,
    /// How masks are to be written.
    pub mask_format: MaskFormat,
    /// How long the answer may take.
    pub timeout: Duration,
}

/// Boxes whose every value is legal, their picture not decoded yet.
#[derive(Debug)]
pub struct ParsedBoxes {
    /// The picture's file.
    pub image: Bytes,
    /// The boxes, finite and with positive area.
    pub boxes: Vec<SentBox>,
    /// How masks are to be written.
    pub mask_format: MaskFormat,
}

/// A box that a client sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SentBox {
    /// Its numbers as sent, to be echoed.
    pub sent: [f64; 4],
    /// What the networks read.
    pub bbox: BoundingBox,
}

/// Reads a value from JSON text.
///
/// # Errors
/// `malformed_request` where it is not JSON, `invalid_input` where it is JSON of another form; both
/// name the place, neither repeats what was sent.
pub fn json<T: DeserializeOwned>(text: &[u8]) -> Result<T, Problem> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(told)?;
    reader.end().map_err(|_| Problem::new(Code::MalformedRequest, "text after the JSON value"))?;
    Ok(value)
}

/// The items of a JSON array, each still as its text: at most `limit` are kept, and further ones
/// are only counted, so that a body of many tiny items takes up no more memory than itself.
///
/// # Errors
/// `invalid_input` where it is no array, or has too many items.
pub fn items(name: &str, array: &RawValue, limit: usize) -> Result<Vec<Box<RawValue>>, Problem> {
    let mut reader = serde_json::Deserializer::from_str(array.get());
    let found = reader.deserialize_seq(FirstItems { limit }).map_err(|error| {
        tracing::debug!(%error, "items that could not be read");
        Problem::invalid(format!("`{name}`: a value of the wrong type"))
    })?;
    match found {
        (items, 0) => Ok(items),
        (items, more) => {
            let count = items.len() + more;
            let detail = format!("{count} {name}, and at most {limit} are allowed");
            Err(Problem::invalid(detail))
        }
    }
}

/// Reads the first items of a sequence, and counts the others.
struct FirstItems {
    limit: usize,
}

impl<'de> Visitor<'de> for FirstItems {
    type Value = (Vec<Box<RawValue>>, usize);

    fn expecting(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        formatter.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while items.len() < self.limit {
            match sequence.next_element()? {
                Some(item) => items.push(item),
                None => return Ok((items, 0)),
            }
        }
        let mut more = 0;
        while sequence.next_element::<IgnoredAny>()?.is_some() {
            more += 1;
        }
        Ok((items, more))
    }
}

fn told(error: serde_path_to_error::Error<serde_json::Error>) -> Problem {
    tracing::debug!(%error, "JSON that could not be read");
    let path = Some(error.path().to_string()).filter(|path| path != "." && is_plain(path));
    let inner = error.inner();
    if matches!(inner.classify(), Category::Syntax | Category::Eof | Category::Io) {
        let (line, column) = (inner.line(), inner.column());
        let detail = format!("not JSON: see line {line}, column {column}");
        return Problem::new(Code::MalformedRequest, detail);
    }
    let message = inner.to_string();
    let what = ["unknown field", "missing field", "duplicate field", "unknown variant"]
        .into_iter()
        .find(|kind| message.starts_with(kind));
    let field = message.split('`').nth(1).filter(|field| is_plain(field));
    let place = path.map_or("the request".to_owned(), |path| format!("`{path}`"));
    match (what, field) {
        (Some("unknown variant"), _) => Problem::invalid(format!("{place}: not one of its values")),
        (Some(kind), Some(field)) => Problem::invalid(format!("{place}: {kind} `{field}`")),
        (Some(kind), None) => Problem::invalid(format!("{place}: {kind}")),
        (None, _) => Problem::invalid(format!("{place}: a value of the wrong type")),
    }
}

/// Whether a field's name or path may be repeated: short, and of harmless letters.
fn is_plain(path: &str) -> bool {
    path.len() <= 80 && path.chars().all(|c| c.is_ascii_alphanumeric() || "_.[]".contains(c))
}

/// Checks a post that came as JSON.
///
/// # Errors
/// `invalid_input`, `url_input_disabled` or `payload_too_large`.
pub fn post(request: SmnerRequest, limits: &Limits) -> Result<ParsedPost, Problem> {
    let image = request.image.map(|image| image_file(image, limits)).transpose()?;
    post_of_parts(
        PostParts { id: request.id, text: request.text, image, options: request.options },
        limits,
    )
}

/// The parts of a post, however they came.
pub struct PostParts {
    /// The caller's own id.
    pub id: Option<String>,
    /// The text.
    pub text: String,
    /// The picture's file.
    pub image: Option<Bytes>,
    /// What the caller set.
    pub options: Option<SmnerOptions>,
}

/// Checks the parts of a post.
///
/// # Errors
/// `invalid_input`.
pub fn post_of_parts(parts: PostParts, limits: &Limits) -> Result<ParsedPost, Problem> {
    let PostParts { id, text, image, options } = parts;
    let longest = limits.max_id_bytes;
    if id.as_ref().is_some_and(|id| id.is_empty() || id.len() > longest) {
        return Err(Problem::invalid(format!("`id` must have 1 to {longest} bytes")));
    }
    let chars = check_text("text", &text, limits)?;
    if text.trim().is_empty() {
        return Err(Problem::invalid("`text` is empty"));
    }
    let sent = options.unwrap_or_default();
    let mask_format = sent.mask_format.unwrap_or_default();
    let timeout = limits.timeout(sent.timeout_ms);
    if sent.timeout_ms == Some(0) {
        return Err(Problem::invalid("`options.timeout_ms` must be at least 1"));
    }
    let options = post_options(sent, chars, limits)?;
    if image.is_none() && options.task != Task::Mner {
        return Err(Problem::invalid("`image` is missing; only the task `mner` needs none"));
    }
    Ok(ParsedPost { id, text: text.into(), image, options, mask_format, timeout })
}

fn post_options(sent: SmnerOptions, chars: usize, limits: &Limits) -> Result<Options, Problem> {
    let task = match sent.task {
        Some(TaskName::Mner) => Task::Mner,
        Some(TaskName::Gmner) => Task::Gmner,
        Some(TaskName::Smner) | None => Task::Smner,
    };
    let checked = |name: &str, words: Option<String>| {
        words.map(|words| check_text(name, &words, limits).map(|_| words.into())).transpose()
    };
    Ok(Options {
        task,
        entailment_threshold: sent
            .entailment_threshold
            .map(|value| probability("entailment_threshold", value))
            .transpose()?,
        min_mask_score: probability("min_mask_score", sent.min_mask_score.unwrap_or(0.0))?,
        entities: sent.entities.map(|given| given_entities(given, chars, limits)).transpose()?,
        knowledge: checked("options.knowledge", sent.knowledge)?,
        image_description: checked("options.image_description", sent.image_description)?,
    })
}

/// The number of code points, where they are few enough.
fn check_text(name: &str, text: &str, limits: &Limits) -> Result<usize, Problem> {
    let (chars, limit) = (text.chars().count(), limits.max_text_chars);
    if chars > limit {
        let detail = format!("`{name}` has {chars} code points, and at most {limit} are allowed");
        return Err(Problem::invalid(detail));
    }
    Ok(chars)
}

fn probability(name: &str, value: f32) -> Result<f32, Problem> {
    if (0.0..=1.0).contains(&value) {
        return Ok(value);
    }
    Err(Problem::invalid(format!("`options.{name}` must be between 0 and 1")))
}

fn given_entities(
    given: Vec<EntityInput>,
    chars: usize,
    limits: &Limits,
) -> Result<Vec<GivenEntity>, Problem> {
    let limit = limits.max_entities;
    if given.len() > limit {
        let detail = format!("{} entities, and at most {limit} are allowed", given.len());
        return Err(Problem::invalid(detail));
    }
    let mut entities = Vec::with_capacity(given.len());
    for (index, entity) in given.into_iter().enumerate() {
        let EntityInput { start, end, kind, expression } = entity;
        if start >= end || end > chars {
            let detail = format!("`options.entities[{index}]` does not lie inside the text");
            return Err(Problem::invalid(detail));
        }
        if let Some(words) = &expression {
            check_text(&format!("options.entities[{index}].expression"), words, limits)?;
        }
        let expression = expression.map(Into::into);
        entities.push(GivenEntity { span: CharSpan { start, end }, kind: kind.into(), expression });
    }
    entities.sort_by_key(|entity| entity.span);
    if entities.windows(2).any(|pair| pair[1].span.start < pair[0].span.end) {
        return Err(Problem::invalid("`options.entities` overlap"));
    }
    Ok(entities)
}

impl From<TypeName> for EntityType {
    fn from(name: TypeName) -> Self {
        match name {
            TypeName::Per => Self::Per,
            TypeName::Loc => Self::Loc,
            TypeName::Org => Self::Org,
            TypeName::Misc => Self::Misc,
        }
    }
}

/// Checks boxes that came as JSON.
///
/// # Errors
/// `invalid_input`, `url_input_disabled` or `payload_too_large`.
pub fn boxes(request: SegmentBoxesRequest, limits: &Limits) -> Result<ParsedBoxes, Problem> {
    let image = image_file(request.image, limits)?;
    let mask_format = request.options.unwrap_or_default().mask_format.unwrap_or_default();
    let boxes = legal_boxes(&request.boxes, limits)?;
    Ok(ParsedBoxes { image, boxes, mask_format })
}

/// Boxes, where all of them are legal. Whether they lie inside the picture is checked once its
/// size is known.
///
/// # Errors
/// `invalid_input`.
pub fn legal_boxes(boxes: &[Vec<f64>], limits: &Limits) -> Result<Vec<SentBox>, Problem> {
    let limit = limits.max_boxes;
    if boxes.len() > limit {
        let detail = format!("{} boxes, and at most {limit} are allowed", boxes.len());
        return Err(Problem::invalid(detail));
    }
    let legal = |(index, sent): (usize, &Vec<f64>)| {
        let Ok(sent) = <[f64; 4]>::try_from(&sent[..]) else {
            return Err(Problem::invalid(format!("`boxes[{index}]` must have four numbers")));
        };
        let [x1, y1, x2, y2] = sent.map(|edge| edge as f32);
        let bbox = BoundingBox::new(x1, y1, x2, y2);
        bbox.is_valid().then_some(SentBox { sent, bbox }).ok_or_else(|| {
            Problem::invalid(format!("`boxes[{index}]` must have x1 < x2 and y1 < y2"))
        })
    };
    boxes.iter().enumerate().map(legal).collect()
}

/// The parts of the boxes that lie inside the picture.
///
/// # Errors
/// `invalid_input` where a box lies outside.
pub fn inside(boxes: &[SentBox], image: ImageSize) -> Result<Vec<BoundingBox>, Problem> {
    let clip = |(index, SentBox { bbox, .. }): (usize, &SentBox)| {
        bbox.clip(image.width, image.height)
            .ok_or_else(|| Problem::invalid(format!("`boxes[{index}]` lies outside the picture")))
    };
    boxes.iter().enumerate().map(clip).collect()
}

/// The file of a picture.
fn image_file(image: ImageInput, limits: &Limits) -> Result<Bytes, Problem> {
    match image {
        ImageInput::Url { .. } => Err(Problem::new(
            Code::UrlInputDisabled,
            "send the picture itself: pictures by URL are switched off",
        )),
        ImageInput::Base64 { data } => base64_file(&data, limits),
    }
}

/// The file of a picture in base64, or in a `data:` URL.
///
/// # Errors
/// `invalid_input` or `payload_too_large`.
pub fn base64_file(data: &str, limits: &Limits) -> Result<Bytes, Problem> {
    let encoded = match data.strip_prefix("data:") {
        Some(url) => match url.split_once(";base64,") {
            Some((_media_type, encoded)) => encoded,
            None => return Err(Problem::invalid("`image.data`: a data URL must be in base64")),
        },
        None => data,
    };
    let limit = limits.max_body_bytes;
    if encoded.len() / 4 * 3 > limit.saturating_add(3) {
        let detail = format!("the picture has more than {limit} bytes");
        return Err(Problem::new(Code::PayloadTooLarge, detail));
    }
    let file = BASE64.decode(encoded);
    let file = file.map_err(|_| Problem::invalid("`image.data` is not base64"))?;
    Ok(file.into())
}
