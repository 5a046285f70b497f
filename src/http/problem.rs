//! Errors on the wire: `application/problem+json` (RFC 9457) from one closed table.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::pipeline::PipelineError;
use crate::vision::DecodeError;

/// The media type of every error.
pub const PROBLEM_JSON: &str = "application/problem+json";

// `$name` is a `tt`: utoipa does not look into the group that a `literal` comes wrapped in, and
// would write the variants' Rust names into the document.
macro_rules! codes {
    ($( $(#[doc = $doc:literal])+ $variant:ident = $name:tt, $status:literal, $title:literal; )*) => {
        /// Everything that can go wrong, as clients see it. Closed: a code, its status and its
        /// metric label stand in one table.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, ToSchema)]
        pub enum Code {
            $( $(#[doc = $doc])+ #[serde(rename = $name)] $variant, )*
        }

        impl Code {
            /// All codes, in the order of the table.
            pub const ALL: &[Self] = &[$( Self::$variant, )*];

            /// The code on the wire and in metrics.
            pub fn name(self) -> &'static str {
                match self { $( Self::$variant => $name, )* }
            }

            /// The HTTP status.
            pub fn status(self) -> StatusCode {
                let status = match self { $( Self::$variant => $status, )* };
                StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
            }

            /// A few words, the same for every occurrence.
            pub fn title(self) -> &'static str {
                match self { $( Self::$variant => $title, )* }
            }
        }
    };
}

codes! {
    /// The body is not JSON or not multipart.
    MalformedRequest = "malformed_request", 400, "The request cannot be parsed";
    /// A key is missing or wrong.
    Unauthorized = "unauthorized", 401, "Not authorized";
    /// There is no such route.
    NotFound = "not_found", 404, "There is nothing here";
    /// The route knows other methods.
    MethodNotAllowed = "method_not_allowed", 405, "The method is not allowed here";
    /// The body came too slowly.
    RequestTimeout = "request_timeout", 408, "The request came too slowly";
    /// Too many bytes or pixels.
    PayloadTooLarge = "payload_too_large", 413, "The request is too large";
    /// The body's or the picture's format is not one that is understood.
    UnsupportedMediaType = "unsupported_media_type", 415, "The format is not supported";
    /// A value is not legal.
    InvalidInput = "invalid_input", 422, "A value is not legal";
    /// Pictures by URL are switched off.
    UrlInputDisabled = "url_input_disabled", 422, "Pictures by URL are switched off";
    /// Too much work is in flight.
    Overloaded = "overloaded", 429, "Too much work is in flight";
    /// A fault of ours.
    Internal = "internal", 500, "Something failed inside the server";
    /// Loading, draining, or the device is lost.
    Unavailable = "unavailable", 503, "The server is not ready";
    /// The deadline passed before the answer was there.
    DeadlineExceeded = "deadline_exceeded", 504, "The deadline passed";
}

impl Code {
    /// The code for an error that some library answered with by itself.
    fn of_status(status: StatusCode) -> Self {
        let same = Self::ALL.iter().find(|code| code.status() == status);
        match same {
            Some(code) => *code,
            None if status.is_client_error() => Self::MalformedRequest,
            None => Self::Internal,
        }
    }
}

/// An error on its way to the client. As a response it has no body yet: the outermost layer knows
/// the request id and writes it (see [`Problem::into_body`]).
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    /// What kind of error.
    pub code: Code,
    /// What is wrong this time, in words of our own.
    pub detail: String,
    /// When a new attempt makes sense.
    pub retry_after: Option<Duration>,
}

/// How long to wait where nothing is known: loading and draining take seconds.
const UNAVAILABLE_RETRY: Duration = Duration::from_secs(5);

impl Problem {
    /// A problem of this kind.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let retry_after = (code == Code::Unavailable).then_some(UNAVAILABLE_RETRY);
        Self { code, detail: detail.into(), retry_after }
    }

    /// A value that is not legal.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(Code::InvalidInput, detail)
    }

    /// The problem that a response is: its own, or one made from its status where a library
    /// answered by itself. `None` for anything that is no error.
    pub fn of_response(response: &Response) -> Option<Self> {
        let status = response.status();
        if !status.is_client_error() && !status.is_server_error() {
            return None;
        }
        if let Some(problem) = response.extensions().get::<Self>() {
            return Some(problem.clone());
        }
        let code = Code::of_status(status);
        Some(Self::new(code, code.title()))
    }

    /// What the client reads.
    pub fn into_body(self, request_id: &str) -> ProblemBody {
        ProblemBody {
            kind: format!("urn:riveg:problem:{}", self.code.name()),
            title: self.code.title().to_owned(),
            status: self.code.status().as_u16(),
            detail: self.detail,
            instance: request_id.to_owned(),
            code: self.code,
            retry_after_ms: self.retry_after.map(|wait| wait.as_millis() as u64),
            error: None,
        }
    }

    /// The value of `Retry-After`, in whole seconds, rounded up.
    pub fn retry_after_header(&self) -> Option<HeaderValue> {
        let wait = self.retry_after?;
        Some(HeaderValue::from(wait.as_millis().div_ceil(1000).max(1) as u64))
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.code.status().into_response();
        if let Some(seconds) = self.retry_after_header() {
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// An error as clients read it (RFC 9457).
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ProblemBody {
    /// A URI for the kind of error.
    #[serde(rename = "type")]
    #[schema(example = "urn:riveg:problem:invalid_input")]
    kind: String,
    /// A few words, the same for every occurrence of the kind.
    title: String,
    /// The HTTP status.
    status: u16,
    /// What is wrong this time.
    detail: String,
    /// The request's id.
    instance: String,
    /// The kind of error, for programs.
    code: Code,
    /// After how many milliseconds a new attempt makes sense.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    /// What is wrong this time, on the routes of the Open Inference Protocol only: its clients look
    /// for it here.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl ProblemBody {
    /// The same as clients of the Open Inference Protocol read it.
    pub fn with_error(self) -> Self {
        Self { error: Some(self.detail.clone()), ..self }
    }
}

impl From<PipelineError> for Problem {
    fn from(error: PipelineError) -> Self {
        let detail = error.to_string();
        match error {
            PipelineError::Overloaded { retry_after } => {
                let problem = Self::new(Code::Overloaded, detail);
                Self { retry_after: Some(retry_after), ..problem }
            }
            PipelineError::DeadlineExceeded => Self::new(Code::DeadlineExceeded, detail),
            PipelineError::TooManyEntities { .. } => Self::invalid(detail),
            PipelineError::Unavailable { .. } => Self::new(Code::Unavailable, detail),
            PipelineError::Internal => Self::new(Code::Internal, Code::Internal.title()),
        }
    }
}

impl From<DecodeError> for Problem {
    fn from(error: DecodeError) -> Self {
        // The sizes and limits in these texts are ours; a decoder's own words stay in the log.
        let code = match &error {
            DecodeError::TooManyBytes { .. }
            | DecodeError::SideTooLong { .. }
            | DecodeError::TooManyPixels { .. } => Code::PayloadTooLarge,
            DecodeError::UnsupportedFormat => Code::UnsupportedMediaType,
            DecodeError::Undecodable(reason) => {
                tracing::info!(%reason, "undecodable picture");
                return Self::invalid("the picture is damaged or cut off");
            }
        };
        Self::new(code, format!("picture: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_the_contracts() {
        let table: Vec<_> = Code::ALL.iter().map(|c| (c.name(), c.status().as_u16())).collect();
        let contract = [
            ("malformed_request", 400),
            ("unauthorized", 401),
            ("not_found", 404),
            ("method_not_allowed", 405),
            ("request_timeout", 408),
            ("payload_too_large", 413),
            ("unsupported_media_type", 415),
            ("invalid_input", 422),
            ("url_input_disabled", 422),
            ("overloaded", 429),
            ("internal", 500),
            ("unavailable", 503),
            ("deadline_exceeded", 504),
        ];
        assert_eq!(table, contract);
        for code in Code::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.name());
        }
    }

    #[test]
    fn a_librarys_answer_becomes_a_problem() {
        let problem = |status: StatusCode| Problem::of_response(&status.into_response());
        assert_eq!(problem(StatusCode::OK), None);
        assert_eq!(problem(StatusCode::NOT_FOUND).unwrap().code, Code::NotFound);
        assert_eq!(problem(StatusCode::IM_A_TEAPOT).unwrap().code, Code::MalformedRequest);
        assert_eq!(problem(StatusCode::BAD_GATEWAY).unwrap().code, Code::Internal);
    }

    #[test]
    fn retry_after_is_whole_seconds_rounded_up() {
        let retry_after = Duration::from_millis(1001);
        let problem = Problem::from(PipelineError::Overloaded { retry_after });
        assert_eq!(problem.retry_after_header().unwrap(), "2");
        assert_eq!(serde_json::to_value(problem.into_body("x")).unwrap()["retry_after_ms"], 1001);
    }

    #[test]
    fn a_decoders_words_do_not_leak() {
        let problem = Problem::from(DecodeError::Undecodable("0x7ffe at zune".into()));
        assert_eq!(problem.code, Code::InvalidInput);
        assert!(!problem.detail.contains("zune"));
    }
}
