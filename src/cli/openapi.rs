//! `riveg openapi`: print the OpenAPI document that the server serves.

use clap::Args;

use super::output::say;
use crate::http::openapi;

/// Prints the OpenAPI document.
#[derive(Args)]
pub struct OpenapiArgs {
    /// The document in OpenAPI 3.0.3, for generators that do not read 3.1.
    #[arg(long)]
    v3_0: bool,
}

/// Prints the document as indented JSON.
///
/// # Errors
/// When standard output cannot be written.
pub fn run(args: &OpenapiArgs) -> anyhow::Result<()> {
    let document = if args.v3_0 { openapi::document_3_0() } else { openapi::document_3_1() };
    say!("{}", serde_json::to_string_pretty(&document)?)
}
