//! The Open Inference Protocol on the wire. Field names are the protocol's.

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

/// Whether the server lives.
#[derive(Debug, Serialize, ToSchema)]
pub struct ServerLive {
    /// Always true: whoever is not alive does not answer.
    pub live: bool,
}

/// Whether the server answers requests for inference.
#[derive(Debug, Serialize, ToSchema)]
pub struct ServerReady {
    /// Always true: a server that is not ready answers 503.
    pub ready: bool,
}

/// What the server is.
#[derive(Debug, Serialize, ToSchema)]
pub struct ServerMetadata {
    /// Its name.
    #[schema(example = "riveg")]
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// Extensions of the protocol that it knows: none.
    pub extensions: Vec<&'static str>,
}

/// What a model reads and writes.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelMetadata {
    /// The pack's name.
    #[schema(example = "nano")]
    pub name: String,
    /// The versions that are loaded.
    pub versions: Vec<String>,
    /// What runs it.
    #[schema(example = "riveg")]
    pub platform: &'static str,
    /// The tensors that it needs.
    pub inputs: Vec<TensorMetadata>,
    /// The tensors that it makes.
    pub outputs: Vec<TensorMetadata>,
}

/// The form of a tensor.
#[derive(Debug, Serialize, ToSchema)]
pub struct TensorMetadata {
    /// Its name.
    #[schema(example = "text")]
    pub name: &'static str,
    /// Its type: `BYTES`.
    #[schema(example = "BYTES")]
    pub datatype: &'static str,
    /// Its sides; -1 stands for any number of posts.
    pub shape: Vec<i64>,
}

/// Whether a model answers requests.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelReady {
    /// The pack's name.
    pub name: String,
    /// Always true: a model that is not ready answers 503.
    pub ready: bool,
}

/// Posts as tensors.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InferRequest {
    /// An id of the caller's own, echoed.
    #[schema(nullable = false)]
    pub id: Option<String>,
    /// Read over.
    #[serde(default, rename = "parameters")]
    #[schema(value_type = Option<Object>, nullable = false)]
    pub _parameters: Option<IgnoredAny>,
    /// `text`, `image` (each a file in base64), and optionally `options` (each a `SmnerOptions` as
    /// JSON), all with one element per post. The image may be left out where every post's task is
    /// `mner`.
    pub inputs: Vec<InferInput>,
    /// What is to be answered; only `result` can be.
    #[schema(nullable = false)]
    pub outputs: Option<Vec<RequestedOutput>>,
}

/// One tensor that is sent.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InferInput {
    /// `text`, `image` or `options`.
    #[schema(example = "text")]
    pub name: String,
    /// Its sides.
    #[schema(example = json!([1]))]
    pub shape: Vec<u64>,
    /// `BYTES`.
    #[schema(example = "BYTES")]
    pub datatype: String,
    /// Read over.
    #[serde(default, rename = "parameters")]
    #[schema(value_type = Option<Object>, nullable = false)]
    pub _parameters: Option<IgnoredAny>,
    /// Its elements, row by row, nested or not.
    #[schema(value_type = Vec<String>)]
    pub data: Box<RawValue>,
}

/// One tensor that is asked for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RequestedOutput {
    /// `result`.
    #[schema(example = "result")]
    pub name: String,
    /// Read over.
    #[serde(default, rename = "parameters")]
    #[schema(value_type = Option<Object>, nullable = false)]
    pub _parameters: Option<IgnoredAny>,
}

/// Answers as a tensor.
#[derive(Debug, Serialize, ToSchema)]
pub struct InferResponse {
    /// The pack's name.
    pub model_name: String,
    /// The pack's version.
    pub model_version: String,
    /// The caller's id, or the request's.
    pub id: String,
    /// `result` alone.
    pub outputs: Vec<InferOutput>,
}

/// One tensor that is answered.
#[derive(Debug, Serialize, ToSchema)]
pub struct InferOutput {
    /// `result`.
    pub name: &'static str,
    /// The number of posts.
    pub shape: Vec<usize>,
    /// `BYTES`.
    pub datatype: &'static str,
    /// One answer per post, in order: a `SmnerResponse` as JSON.
    pub data: Vec<String>,
}
