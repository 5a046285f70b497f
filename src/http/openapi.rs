//! The OpenAPI documents, made from the code.

use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{IntoResponses, OpenApi, ToSchema};

use super::downconvert;
use super::events::{EntailedEvent, GroundedEvent, RecognizedEvent, SegmentedEvent};
use super::problem::{Code, PROBLEM_JSON, ProblemBody};
use super::router;

/// The document's head.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "riveg",
        description = "Segmented Multimodal Named Entity Recognition: the named entities of a \
                       post's text, their types, and for each that the picture shows, its box \
                       and its pixel mask.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    components(schemas(
        ProblemBody, Code, RecognizedEvent, EntailedEvent, GroundedEvent, SegmentedEvent
    )),
    tags(
        (name = "recognition", description = "Entities, boxes, masks"),
        (name = "operations", description = "Health, information, metrics"),
        (
            name = "open inference protocol",
            description = "The same as KServe and its clients speak it"
        )
    )
)]
pub struct ApiHead;

/// Every error of the closed table, as every operation may answer it.
pub struct Problems;

impl IntoResponses for Problems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let mut by_status: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for code in Code::ALL {
            by_status.entry(code.status().as_str().to_owned()).or_default().push(code.name());
        }
        let problem =
            ContentBuilder::new().schema(Some(Ref::from_schema_name(ProblemBody::name()))).build();
        let response = |names: Vec<&str>| {
            ResponseBuilder::new()
                .description(names.join(", "))
                .content(PROBLEM_JSON, problem.clone())
                .build()
        };
        by_status.into_iter().map(|(status, names)| (status, response(names).into())).collect()
    }
}

/// A post as a form. Parts of JSON are text with a type of their own.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes a form that is read part by part")]
pub struct SmnerForm {
    /// The picture: JPEG, PNG, WebP or GIF; may be left out only where the options' task is `mner`.
    #[schema(value_type = Option<String>, format = Binary, nullable = false)]
    image: Option<Vec<u8>>,
    /// The text.
    text: String,
    /// An id of the caller's own.
    #[schema(nullable = false)]
    id: Option<String>,
    /// What may be set: a `SmnerOptions` as JSON.
    #[schema(value_type = Option<String>, content_media_type = "application/json", nullable = false)]
    options: Option<super::types::SmnerOptions>,
}

/// Boxes as a form.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes a form that is read part by part")]
pub struct SegmentForm {
    /// The picture: JPEG, PNG, WebP or GIF.
    #[schema(value_type = String, format = Binary)]
    image: Vec<u8>,
    /// The boxes as JSON, each `[x1, y1, x2, y2]` in pixels of the upright picture.
    #[schema(
        value_type = String, content_media_type = "application/json",
        example = "[[10, 20, 110, 220]]"
    )]
    boxes: Vec<Vec<f64>>,
    /// What may be set: a `SegmentOptions` as JSON.
    #[schema(value_type = Option<String>, content_media_type = "application/json", nullable = false)]
    options: Option<super::types::SegmentOptions>,
}

/// The document in OpenAPI 3.1.
pub fn document_3_1() -> Value {
    serde_json::to_value(router::api().into_openapi()).unwrap_or_default()
}

/// The document in OpenAPI 3.0.3, for generators that do not read 3.1.
pub fn document_3_0() -> Value {
    downconvert::to_3_0(&document_3_1())
}
